"""The clock of a worker differs from that of Redis, which all processes share."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from app.connections.catch_up import default_since, start_automatic
from app.ledger.redis import Redis
from tests.integration.connections.test_outages import check, ms, run_catch_up
from tests.support.vendors import connected_tool, stored_tool

#: How far the clock of Redis is ahead.
OFFSETS = [timedelta(minutes=minutes) for minutes in (-40, 40)]


@pytest.fixture(params=OFFSETS, ids=str)
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """Return the difference of the clocks."""
    offset: timedelta = request.param
    monkeypatch.setattr(Redis, "now_ms", lambda _: (time.time() + offset.total_seconds()) * 1000)
    return offset


def is_shared_now(at_ms: float, offset: timedelta) -> bool:
    return abs(at_ms - ms(datetime.now(UTC) + offset)) < 5_000


async def test_the_times_of_a_check_are_by_the_shared_clock(redis: Redis, shared: timedelta) -> None:
    """Another worker compares them with it, to see whether a check is late, and since when webhooks were missed."""
    async with stored_tool("calendly", redis) as tool:
        connected = await tool.states.get("east")
        state = await check(tool)

    assert is_shared_now(connected.connected_at_ms, shared)
    assert is_shared_now(state.checked_at_ms, shared)
    assert is_shared_now(state.healthy_at_ms, shared)


async def test_a_check_on_time_starts_no_catch_up(redis: Redis, shared: timedelta) -> None:
    async with stored_tool("calendly", redis) as tool:
        before = await redis.command("HGET", "bell:catch-up:east", "id")
        for _ in range(2):
            await check(tool)

        assert before == await redis.command("HGET", "bell:catch-up:east", "id")


async def test_a_catch_up_begins_by_the_shared_clock(redis: Redis, shared: timedelta) -> None:
    async with connected_tool("calendly", redis) as tool:
        since = await default_since(tool.context, "calendly")
        catch_up = await start_automatic(tool.context, "calendly", since, "Doorbell", "daily")

    assert is_shared_now(ms(since), shared)
    assert is_shared_now(catch_up.requested_at_ms, shared)


async def test_a_catch_up_ends_by_the_shared_clock(redis: Redis, shared: timedelta) -> None:
    """One that failed starts again an hour later."""
    async with connected_tool("calendly", redis) as tool:
        since = await default_since(tool.context, "calendly")
        await start_automatic(tool.context, "calendly", since, "Doorbell", "daily")
        ended = await run_catch_up(tool)

    assert is_shared_now(ended.ended_at_ms, shared)


async def test_a_listed_value_is_as_old_as_one_that_is_fetched_at_the_same_time(
    redis: Redis, shared: timedelta
) -> None:
    """Otherwise one from a worker whose clock is ahead would win over newer ones that others fetch."""
    async with connected_tool("calendly", redis) as tool:
        account = await tool.connector().account()

    assert is_shared_now(ms(account.requested_at), shared)  # type: ignore[attr-defined]
