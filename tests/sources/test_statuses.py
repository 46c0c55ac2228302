"""Statuses that a tool does not document for its webhooks, and what is decided about each. A visit that may not take
place is held back; what nobody can know is parked."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from app.visits.change import VisitChange, encode_change
from app.visits.merge import RecordedChange, desired_visit, merge_changes
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources
from tests.sources.test_group_bookings import changes_of, event_of, standing

START = "2026-10-01T15:00:00Z"


def appointment(status: str, minute: int) -> Any:
    data = {"siteId": -99, "appointmentId": 1, "status": status, "startDateTime": START, "clientEmail": "a@example.com"}
    said_at = f"2026-09-21T14:{minute:02d}:00Z"
    return {"eventId": "appointmentBooking.updated", "eventInstanceOriginationDateTime": said_at, "eventData": data}


@pytest.mark.parametrize(
    ("statuses", "stands"),
    [
        (["Requested"], False),
        (["Requested", "Scheduled"], True),
        (["Scheduled", "Requested"], False),
        (["Requested", "Booked", "Cancelled"], False),
        (["None"], True),
        (["Cancelled", "None"], False),
        (["NoShow", "None"], False),
        (["Scheduled", "None"], True),
    ],
)
def test_a_mindbody_appointment_that_is_requested_is_held_back_and_none_changes_nothing(
    statuses: list[str], stands: bool
) -> None:
    changes = [changes_of("mindbody", appointment(status, minute)) for minute, status in enumerate(statuses)]

    for order in (changes, changes[::-1]):
        assert ([("a@example.com", START)] if stands else []) == standing("mindbody", itertools.chain(*order))


def job(**data: Any) -> Any:
    trigger = {"type": "job_updated", "timestamp": "2026-09-21T14:00:00Z"}
    whole = {"uuid": "J1", "date": "2026-10-01 09:00:00", "clientInfo": {"email": "a@example.com"}, **data}
    return {"trigger": trigger, "data": whole}


def invoice(id: str, minute: int, *amounts: int) -> Any:
    trigger = {"type": "invoice_paid", "timestamp": f"2026-09-21T14:{minute:02d}:00Z"}
    return {"trigger": trigger, "data": {"id": id, "uuid": "J1", "payments": [{"amount": paid} for paid in amounts]}}


def test_a_workiz_job_that_is_new_stands() -> None:
    assert [("a@example.com", START)] == standing("workiz", changes_of("workiz", job(status="new")))


@pytest.mark.parametrize("status", ["Converted", "Lost", "on hold"])
def test_a_workiz_job_with_a_status_that_nobody_knows_is_parked(status: str) -> None:
    with pytest.raises(Untranslatable, match="a job's status that Workiz has"):
        changes_of("workiz", job(status=status))


def test_two_workiz_invoices_of_a_job_add_up_and_each_replaces_itself_only() -> None:
    first, second, again = invoice("IV1", 1, 100), invoice("IV2", 2, 50), invoice("IV1", 3, 100, 25)

    for order in itertools.permutations([first, second, again]):
        changes = [change for body in order for change in changes_of("workiz", body)]
        said = [RecordedChange.decode(f"d{number}", encode_change(change)) for number, change in enumerate(changes)]
        assert "175.00" == desired_visit(merge_changes(said)).fields["amount_collected"]


# -- HubSpot: a meeting whose outcome is RESCHEDULED --


def meeting(outcome: str, outcomes: list[Any], starts: list[Any], **more: Any) -> Any:
    def history(entries: list[Any]) -> list[Any]:
        return [{"value": value, "timestamp": f"2026-09-{day}Z"} for value, day in reversed(entries)]

    return {
        "id": "9001", "createdAt": "2026-09-01T10:00:00.000Z",
        "properties": {"hs_meeting_start_time": starts[-1][0], "hs_meeting_outcome": outcome},
        "propertiesWithHistory": {
            "hs_meeting_outcome": history(outcomes), "hs_meeting_start_time": history(starts), **more,
        },
        "associations": {"contacts": {"results": [{"id": "101"}]}},
    }  # fmt: skip


LATER = "2026-10-08T15:00:00Z"
MADE, ASKED = ("SCHEDULED", "01T10:00:00.000"), ("RESCHEDULED", "05T12:00:00.000")


@pytest.mark.parametrize(
    ("outcomes", "starts", "stands_at"),
    [
        ([MADE, ASKED], [(START, "01T10:00:00.000")], None),
        ([MADE, ASKED], [(START, "01T10:00:00.000"), (LATER, "03T10:00:00.000")], None),
        ([MADE, ASKED], [(START, "01T10:00:00.000"), (LATER, "05T12:00:00.000")], LATER),
        ([MADE, ASKED], [(START, "01T10:00:00.000"), (LATER, "05T11:59:58.900")], LATER),
        ([MADE, ASKED], [(START, "01T10:00:00.000"), (LATER, "06T10:00:00.000")], LATER),
        ([MADE, ASKED], [(LATER, "05T12:00:00.000")], LATER),
        ([("RESCHEDULED", "01T10:00:00.000")], [(START, "01T10:00:00.000")], None),
        ([MADE, ASKED, ("SCHEDULED", "06T12:00:00.000")], [(START, "01T10:00:00.000")], START),
    ],
)
def test_a_hubspot_meeting_that_is_rescheduled_stands_only_where_its_start_was_changed(
    outcomes: list[Any], starts: list[Any], stands_at: str | None
) -> None:
    record = meeting(outcomes[-1][0], outcomes, starts)

    assert ([("a@example.com", stands_at)] if stands_at else []) == standing("hubspot", of_record(record))


def test_without_a_history_of_its_start_a_rescheduled_hubspot_meeting_is_held_back() -> None:
    record = meeting("RESCHEDULED", [MADE, ASKED], [(START, "01T10:00:00.000")], hs_meeting_start_time=None)

    assert [] == standing("hubspot", of_record(record))


def of_record(record: Any) -> list[VisitChange]:
    told = {"subscriptionType": "object.propertyChange", "propertyName": "hs_meeting_outcome", "objectId": 9001}
    event = event_of("hubspot", [{**told, "portalId": 62515, "objectTypeId": "0-47", "occurredAt": 1_789_000_000_000}])
    tool, contact = load_sources()["hubspot"], {"properties": {"email": "a@example.com"}}
    (get,) = tool.fetch(event) if tool.fetch else []
    beside = dict.fromkeys(get.follow_up(Payload(record)), contact)
    meaning = tool.translate(event.with_record(record, datetime(2026, 9, 21, tzinfo=UTC), beside, get.path))
    assert isinstance(meaning, list)
    return meaning
