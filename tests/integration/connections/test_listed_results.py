"""What a catch-up would do with listed records of visits that Doorbell does not have."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.connections.catch_up import new_catch_up, plan
from app.ledger.redis import Redis
from tests.support.vendors import ConnectedTool, connected_tool

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


async def counts(tool: ConnectedTool, since: datetime) -> dict[str, int]:
    results, _ = await plan(tool.context, tool.hook, new_catch_up(tool.hook.name, since, "test", "test"))
    return {result: count for result, count in results.items() if count}


async def test_a_payment_that_comes_before_its_visit_is_stored(redis: Redis) -> None:
    async with connected_tool("stripe", redis) as tool:
        tool.vendor.calendar.book(NOW)
        tool.vendor.calendar.pay(1, Decimal(75))

        assert {"changed": 2} == await counts(tool, NOW - HOUR)


async def test_a_missed_visit_is_stored_with_its_no_show(redis: Redis) -> None:
    """The mark of a no-show has no appointment time, and the booking of the same id has."""
    async with connected_tool("calcom", redis) as tool:
        tool.vendor.calendar.book(NOW - HOUR)
        tool.vendor.calendar.miss(1)

        assert {"changed": 3} == await counts(tool, NOW - 2 * HOUR)


async def test_a_visit_of_the_past_is_not_stored(redis: Redis) -> None:
    async with connected_tool("calcom", redis) as tool:
        tool.vendor.calendar.book(NOW - 3 * HOUR)
        tool.vendor.calendar.miss(1)

        assert {"past": 3} == await counts(tool, NOW - HOUR)


@pytest.mark.parametrize("name", ["acuity", "calendly", "savvycal"])
async def test_appointments_of_the_last_days_are_listed_in_case_they_changed(redis: Redis, name: str) -> None:
    """Without a visit, they are left alone; with one, a cancellation or a payment that was missed is stored."""
    async with connected_tool(name, redis) as tool:
        tool.vendor.calendar.book(NOW - timedelta(days=2))

        assert {"past": 1} == await counts(tool, NOW)
