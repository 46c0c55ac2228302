"""A tool's program truncated a customer's text in the middle of an emoji: JSON then has one half of it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from starlette.responses import JSONResponse

from app.connections.catch_up import new_catch_up, start
from app.ledger.redis import Redis
from tests.integration.connections.test_catch_up import run, visit_count
from tests.support.vendors import subscribed_tool

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fakes escape what UTF-8 cannot encode, as JavaScript does."""
    monkeypatch.setattr(JSONResponse, "render", lambda _, content: json.dumps(content).encode())


@pytest.mark.parametrize("name", ["acuity", "calendly", "square"])
async def test_one_broken_text_does_not_stop_a_catch_up(redis: Redis, name: str) -> None:
    async with subscribed_tool(name, redis) as tool:
        for number, first_name in enumerate(("Ada \ud83d", "Ben")):
            tool.vendor.calendar.book(NOW + timedelta(days=1, hours=number), f"{number}@example.com", first_name)
        await start(tool.context, new_catch_up(name, NOW, "Doorbell", "downtime"))

        catch_up = await run(tool)

        assert ("done", {"changed": 2}, 2) == (catch_up.status, catch_up.counts, await visit_count(tool))
