"""SavvyCal: a disabled webhook is replaced, and listed events have no time of their last change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.connections.listing import translate_record
from app.ledger.redis import Redis
from app.visits.change import UNSET, VisitChange
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.subscription import ApiResponse, Window
from tests.integration.connections.test_listings import NOW, listed, visits
from tests.support.cases import each
from tests.support.listings import changes_of, list_requests, read_page, visits_of
from tests.support.vendors import connected_tool

SAVVYCAL = load_sources()["savvycal"]
LISTED_AT = datetime(2026, 11, 29, 12, tzinfo=UTC)


async def test_a_disabled_webhook_is_replaced_before_it_is_deleted(redis: Redis) -> None:
    async with connected_tool("savvycal", redis) as tool:
        first = await tool.ensure_subscriptions()
        tool.vendor.disable_all()

        await tool.ensure_subscriptions()

        [webhook] = tool.vendor.subscriptions.values()
        writes = [method for method, _, _ in tool.vendor.requests if method != "GET"]
        assert ["POST", "POST", "DELETE"] == writes
        assert webhook.id != first.created[0].id
        assert (webhook.secret,) == tool.hook.settings.secrets


async def test_past_pages_in_descending_order_are_read_until_the_window_begins(redis: Redis) -> None:
    async with connected_tool("savvycal", redis) as tool:
        for hours in range(1, 101):
            tool.vendor.calendar.book(NOW - timedelta(hours=hours), f"{hours}@example.com")
        tool.vendor.faults = replace(tool.vendor.faults, page_size=20)

        by_email = visits("savvycal", await listed(tool))

        assert {f"{hours}@example.com" for hours in range(1, 25)} == by_email.keys()
        assert 3 == [path for _, path, _ in tool.vendor.requests].count("/v1/events")


@each("ages", [range(60, 30, -1), range(59, 51, -1), [40, 31, 45]])
def test_past_pages_in_another_order_are_read_to_the_end(ages: Sequence[int]) -> None:
    assert SAVVYCAL.listing
    [_, past] = SAVVYCAL.listing.start(Window(NOW - timedelta(days=30), NOW), Payload(None))
    entries = [{"id": f"event_{age}", "start_at": (NOW - timedelta(days=age)).isoformat()} for age in ages]

    page = SAVVYCAL.listing.read_page(past, ApiResponse({"entries": entries, "metadata": {"after": "cursor"}}))

    assert ([], "cursor") == (page.records, page.requests[0].request.params["after"])


def payload(name: str) -> dict[str, Any]:
    [delivery] = [each for each in load_specimens("savvycal")["deliveries"] if each["name"] == name]
    event: dict[str, Any] = delivery["body"]["payload"]
    return event


def translated(event: Mapping[str, Any], listed_at: datetime = LISTED_AT) -> list[VisitChange]:
    """Return the changes of a listed event."""
    assert SAVVYCAL.listing
    start = datetime.fromisoformat(event["start_at"])
    [request, _] = SAVVYCAL.listing.start(Window(start, start + timedelta(hours=1)), Payload(None))
    response = ApiResponse({"entries": [event], "metadata": {"after": None}}, {}, listed_at)
    [record] = SAVVYCAL.listing.read_page(request, response).records
    changes = translate_record(SAVVYCAL, record, listed_at, None)
    assert not changes.problem
    return list(changes.changes)


def test_an_event_that_waits_for_approval_is_no_visit_yet() -> None:
    event = payload("somebody books")

    assert [] == translated({**event, "state": "awaiting_approval"})
    assert [] == translated({**event, "state": "awaiting_checkout"})
    [change] = translated({**event, "state": "awaiting_approval", "rescheduled_at": "2026-11-20T12:00:00Z"})
    assert "cancel" == change.action


def test_an_approval_that_no_webhook_told_is_newer_than_the_webhooks_before() -> None:
    [change] = translated(payload("somebody books"))

    assert LISTED_AT.timestamp() * 1_000_000 == change.version
    assert change.date_cancelled is None


def test_a_cancelled_event_was_cancelled_when_savvycal_says() -> None:
    event = {**payload("somebody books"), "state": "canceled", "canceled_at": "2026-11-20T12:00:00Z"}

    [change] = translated(event)

    assert ("cancel", datetime(2026, 11, 20, 12, tzinfo=UTC)) == (change.action, change.date_cancelled)


def test_a_listed_group_session_has_a_visit_for_each_attendee_and_restores_nobody() -> None:
    changes = translated(payload("a group session is booked"))

    assert {"ada@example.com", "Bob@Example.com"} == {change.contact.email for change in changes if change.contact}
    assert {UNSET} == {change.date_left for change in changes}


@each("state", ["declined", "checkout_expired"])
def test_an_end_without_a_time_is_the_same_in_each_list(state: str) -> None:
    """The tool does not tell when it was declined: the first webhook or list that shows it counts."""
    booking = {"id": "event_1", "state": state, "start_at": "2026-12-01T15:00:00Z", "attendees": [PERSON]}
    [request, _] = list_requests("savvycal", Window(LISTED_AT, LISTED_AT + timedelta(days=30)))
    changes = list[VisitChange]()
    for day in range(3):
        results, _ = read_page("savvycal", request, {"entries": [booking]}, now=LISTED_AT + timedelta(days=day))
        changes += changes_of(results)

    once, twice, three_times = (visits_of("savvycal", changes[:count]) for count in (1, 2, 3))

    assert once == twice == three_times
    assert ["2026-11-29T12:00:00Z"] == [visit.fields["date_cancelled"] for visit in once.values()]


PERSON = {"email": "ada@example.com", "display_name": "Ada Byron", "is_organizer": False}
