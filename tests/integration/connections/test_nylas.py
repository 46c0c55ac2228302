"""Nylas has no list of bookings: the events of Scheduler in a calendar have the reference of a booking in their links."""

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ListRequest
from tests.support.cases import each
from tests.support.listings import changes_of, read_page

CONFIGURATION, BOOKING = UUID("fbefbeff-ffff-4fff-bfff-fffbefbeffff"), UUID("10f0ffff-0000-4fff-bfff-ffffffffffff")
REFERENCE = base64.b64encode(CONFIGURATION.bytes + BOOKING.bytes + b"salt")
EVENTS = ListRequest(RecordRequest("v3/grants/grant-1/events"), {"list": "events", "grant": "grant-1"})


def event(**fields: Any) -> dict[str, Any]:
    return {
        "id": "event-1",
        "title": "Consultation",
        "status": "confirmed",
        "description": f"Cancel: https://book.example.com/cancel/{REFERENCE.decode()}",
        "when": {"start_time": 1790866800, "end_time": 1790868600},
        "organizer": {"email": "host@example.com"},
        "participants": [{"email": "host@example.com"}, {"email": "ada@example.com", "name": "Ada Byron"}],
        "metadata": {"source": "scheduler", "key5": str(CONFIGURATION)},
        "updated_at": 1790000000,
        **fields,
    }


@each("reference", [REFERENCE, REFERENCE.replace(b"/", b"%2F"), REFERENCE.replace(b"+", b"-")])
def test_the_booking_is_named_by_the_reference_in_a_link(reference: bytes) -> None:
    link = f'<a href="https://book.example.com/r?ref={reference.decode()}">Move</a>'

    results, _ = read_page("nylas", EVENTS, {"data": [event(description=link)]})

    [change] = changes_of(results)
    assert str(BOOKING) == change.visit_id
    assert datetime(2026, 10, 1, 15, tzinfo=UTC) == change.time_scheduled
    assert change.contact
    assert "ada@example.com" == change.contact.email


def test_an_event_without_a_link_is_unclear() -> None:
    [result], _ = read_page("nylas", EVENTS, {"data": [event(description="")]})

    assert () == result.changes
    assert "booking_id" in result.problem


def test_other_events_and_unconfirmed_ones_are_skipped() -> None:
    others = [event(metadata={}), event(title="[Pending] Consultation"), event(status="tentative")]

    assert ([], []) == read_page("nylas", EVENTS, {"data": others})


def test_an_address_that_was_not_reached_is_a_sentence() -> None:
    declared = load_sources()["nylas"].subscription
    assert declared
    response = Payload({"error": {"type": "invalid_request_error", "message": "Destination not created"}})
    assert "PUBLIC_URL must be reachable" in (declared.refusal(400, response) or "")
