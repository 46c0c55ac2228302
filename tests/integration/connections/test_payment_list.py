"""Stripe's list of events: payments for visits of other tools, against a fake of its API."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.ledger.redis import Redis
from app.webhooks.subscription import Window
from tests.integration.connections.test_fake_webhooks import Receiver
from tests.support.listings import changes_of, visits_of
from tests.support.vendors import ConnectedTool, connected_tool, listed_changes

NOW = datetime.now(UTC)


@pytest.fixture
async def tool(redis: Redis) -> AsyncIterator[ConnectedTool]:
    async with connected_tool("stripe", redis) as tool:
        yield tool


async def amounts(tool: ConnectedTool, window: Window) -> dict[str, Any]:
    """Return the listed amounts by visit."""
    visits = visits_of("stripe", changes_of(await listed_changes(tool, window)))
    return {id: visit.fields["amount_collected"] for id, visit in visits.items()}


async def test_missed_payments_and_refunds_are_listed(tool: ConnectedTool) -> None:
    calendar = tool.vendor.calendar
    for number in (1, 2):
        calendar.book(NOW)
        calendar.pay(number, Decimal("75.50"))
    calendar.cancel(2)
    tool.vendor.faults = replace(tool.vendor.faults, page_size=2)

    listed = await amounts(tool, Window(NOW, NOW + timedelta(days=30), NOW - timedelta(hours=1)))

    assert {"acuity-1": "75.50", "acuity-2": None} == listed


async def test_a_first_connection_lists_no_payments_of_the_past(tool: ConnectedTool) -> None:
    tool.vendor.calendar.book(NOW)
    tool.vendor.calendar.pay(1, Decimal(75))
    later = datetime.now(UTC) + timedelta(minutes=1)

    assert {} == await amounts(tool, Window(later, later + timedelta(days=30)))


async def test_webhooks_mean_the_same_payments_as_the_list(
    tool: ConnectedTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tool.ensure_subscriptions(is_secret_new=True)
    receiver = Receiver(tool)
    monkeypatch.setattr(tool.vendor, "_post", receiver.receive)
    calendar = tool.vendor.calendar
    for number in (1, 2):
        calendar.book(NOW)
        calendar.pay(number, Decimal("75.50"))
    calendar.cancel(2)
    await receiver.sent_all()

    sent = visits_of("stripe", [change for _, change in receiver.changes])
    window = Window(NOW, NOW + timedelta(days=30), NOW - timedelta(hours=1))

    assert visits_of("stripe", changes_of(await listed_changes(tool, window))) == sent
    assert {"acuity-1", "acuity-2"} == sent.keys()
