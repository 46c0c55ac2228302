"""Acuity's lists have no pages: a list that may be cut off is divided by days."""

from datetime import timedelta

from app.ledger.redis import Redis
from tests.integration.connections.test_listings import TOMORROW, all_visits, listed, visits
from tests.support.vendors import connected_tool


async def test_full_lists_are_divided(redis: Redis) -> None:
    async with connected_tool("acuity", redis) as tool:
        emails = {f"customer-{number}@example.com" for number in range(1, 261)}
        for number, email in enumerate(sorted(emails)):
            # 120 on one day, the others over 20 days
            day = 3 if number < 120 else number % 20
            tool.vendor.calendar.book(TOMORROW + timedelta(days=day), email)

        assert emails == visits("acuity", await listed(tool)).keys()


async def test_a_webhook_that_acuity_does_not_list_is_created_again(redis: Redis) -> None:
    async with connected_tool("acuity", redis) as tool:
        before = await tool.ensure_subscriptions()
        disabled = tool.vendor.subscriptions[before.created[0].id]
        disabled.is_active = False

        again = await tool.ensure_subscriptions()

        assert [before.created[0].events] == [each.events for each in again.created]
        assert set(before.created[1:]) == set(again.adopted)


async def test_no_shows_are_listed_among_the_cancelled_appointments(redis: Redis) -> None:
    async with connected_tool("acuity", redis) as tool:
        missed = tool.vendor.calendar.book(TOMORROW, "missed@example.com")
        tool.vendor.calendar.miss(missed.number)

        [visit] = all_visits("acuity", await listed(tool))
        assert visit.is_cancelled
