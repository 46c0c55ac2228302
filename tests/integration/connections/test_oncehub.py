"""OnceHub: what its documents do not say about webhooks, and bookings that are listed in their present state."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.connections.catch_up import new_catch_up, plan
from app.connections.listing import translate_record
from app.ledger.redis import Redis
from app.visits.change import VisitChange
from app.webhooks.fetching import RecordRequest
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.subscription import ApiResponse, Listing, ListRequest, Subscription, SubscriptionState
from tests.support.cases import each
from tests.support.vendors import connected_tool

ONCEHUB = load_sources()["oncehub"]
LISTING, SUBSCRIPTION = ONCEHUB.listing, ONCEHUB.subscription
assert isinstance(LISTING, Listing)
assert isinstance(SUBSCRIPTION, Subscription)
CHANGED_AT = datetime(2026, 9, 21, 14, 13, 19, 753_000, tzinfo=UTC)


def webhook(**fields: Any) -> SubscriptionState:
    assert SUBSCRIPTION.read_list
    default = {"id": "WHK-1", "api_version": "v2", "url": "https://a.example.com/", "events": ["booking.scheduled"]}
    response = ApiResponse({"object": "list", "data": [default | fields], "has_more": False})
    [state] = SUBSCRIPTION.read_list(RecordRequest("webhooks"), response).subscriptions
    return state


def test_a_webhook_of_version_1_is_not_signed_and_gets_replaced() -> None:
    assert not webhook(api_version="v1").is_active
    assert webhook().is_active


@each("state", [{"active": False}, {"enabled": False}, {"disabled": True}, {"status": "disabled"}])
def test_a_field_that_says_disabled_is_obeyed(state: dict[str, Any]) -> None:
    assert not webhook(**state).is_active


def test_the_event_booking_means_all_bookings() -> None:
    assert set(SUBSCRIPTION.events) < webhook(events=["booking"]).events


async def test_a_webhook_gets_a_name_that_no_other_has(redis: Redis) -> None:
    async with connected_tool("oncehub", redis) as tool:
        await tool.ensure_subscriptions()
        [first] = tool.vendor.subscriptions.values()
        first.attributes["name"] = "Doorbell oncehub"
        first.events = ("booking.canceled",)

        await tool.ensure_subscriptions()

        [second] = tool.vendor.subscriptions.values()
        assert second.attributes["name"].startswith("Doorbell oncehub ")
        assert second.attributes["name"] != first.attributes["name"]


def booking(**fields: Any) -> list[VisitChange]:
    """Return the changes of a listed booking."""
    assert LISTING
    item = {**load_specimens("oncehub")["deliveries"][0]["body"]["data"], **fields}
    response = ApiResponse({"object": "list", "data": [item], "has_more": False})
    page = LISTING.read_page(ListRequest(RecordRequest("bookings")), response)
    results = [translate_record(ONCEHUB, record, CHANGED_AT, None) for record in page.records]
    assert [""] * len(results) == [result.problem for result in results]
    return [change for result in results for change in result.changes]


async def test_a_booking_that_both_lists_have_is_counted_once(redis: Redis) -> None:
    async with connected_tool("oncehub", redis) as tool:
        start = datetime.now(UTC)
        tool.vendor.calendar.book(start + timedelta(days=1))

        counts, _ = await plan(tool.context, tool.hook, new_catch_up(tool.hook.name, start, "test", "test"))

        assert 1 == sum(counts.values())


def test_a_request_that_is_not_approved_is_no_visit() -> None:
    assert [] == booking(status="requested")


def test_a_completed_booking_is_newer_than_its_end() -> None:
    """OnceHub may not count the completion as a change of the booking."""
    [change] = booking(status="completed")

    end = datetime(2026, 10, 1, 15, 30, tzinfo=UTC)
    assert (end, end.timestamp() * 1_000_000) == (change.time_completed, change.version)


def test_a_cancelled_booking_that_was_moved_lives_on_in_the_new_booking() -> None:
    [cancelled] = booking(status="canceled")
    [moved] = booking(id="BKNG-NEW", status="scheduled", rescheduled_booking_id="BKNG-DEMO00000001")

    assert ("cancel", CHANGED_AT) == (cancelled.action, cancelled.date_cancelled)
    assert ("BKNG-DEMO00000001", None) == (moved.previous_visit_id, moved.date_cancelled)
