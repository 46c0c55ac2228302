"""Undocumented statuses of tools.

A visit that may not take place is cancelled; an unknown status is parked.
"""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from app.visits.change import VisitChange, encode_change
from app.visits.merge import RecordedChange, desired_visit, merge_changes
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored
from tests.sources.test_group_bookings import changes_of, event_of, review_requests
from tests.support.cases import each

START = "2026-10-01T15:00:00Z"


def appointment(status: str, minute: int) -> Any:
    data = {"siteId": -99, "appointmentId": 1, "status": status, "startDateTime": START, "clientEmail": "a@example.com"}
    happened_at = f"2026-09-21T14:{minute:02d}:00Z"
    return {"eventId": "appointmentBooking.updated", "eventInstanceOriginationDateTime": happened_at, "eventData": data}


@each(
    ("statuses", "is_expected"),
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
def test_a_requested_mindbody_appointment_is_cancelled_and_none_changes_nothing(
    statuses: list[str], is_expected: bool
) -> None:
    changes = [changes_of("mindbody", appointment(status, minute)) for minute, status in enumerate(statuses)]

    for order in (changes, changes[::-1]):
        assert ([("a@example.com", START)] if is_expected else []) == review_requests(
            "mindbody", itertools.chain(*order)
        )


# -- GoHighLevel: appointments that nobody has confirmed --


def highlevel(status: str, minute: int, kind: str = "AppointmentUpdate", contact: str | None = "con1") -> Any:
    appointment = {"id": "apt1", "contactId": contact, "appointmentStatus": status, "startTime": START}
    times = {"dateAdded": "2026-09-21T14:00:00Z", "dateUpdated": f"2026-09-21T14:{minute:02d}:00Z"}
    return {"type": kind, "locationId": "loc1", "timestamp": times["dateUpdated"], "appointment": appointment | times}


def with_contact(body: Any) -> list[VisitChange]:
    """Return the changes of an event whose contact is fetched, if the event requests it."""
    tool, event = load_sources()["gohighlevel"], event_of("gohighlevel", body)
    if tool.fetch and tool.fetch(event):
        event = event.with_record({"contact": {"email": "a@example.com"}}, event.received_at)
    translated = tool.translate(event)
    return [] if isinstance(translated, Ignored) else translated


@each(
    ("bodies", "is_expected"),
    [
        ([highlevel("new", 0, "AppointmentCreate")], False),
        ([highlevel("new", 0, "AppointmentCreate"), highlevel("confirmed", 1)], True),
        ([highlevel("pending", 0, "AppointmentCreate"), highlevel("showed", 1)], True),
        ([highlevel("confirmed", 0, "AppointmentCreate"), highlevel("new", 1)], False),
        ([highlevel("confirmed", 0, "AppointmentCreate"), highlevel("new", 1, "AppointmentCreate")], False),
        ([highlevel("confirmed", 0, "AppointmentCreate"), highlevel("new", 1), highlevel("confirmed", 2)], True),
        ([highlevel("confirmed", 0, contact=None)], False),
        ([highlevel("confirmed", 0), highlevel("confirmed", 1, contact=None)], False),
        ([highlevel("confirmed", 0), highlevel("showed", 1, contact=None), highlevel("showed", 2)], True),
    ],
)
def test_a_gohighlevel_appointment_is_a_visit_once_confirmed_and_while_it_has_a_contact(
    bodies: list[Any], is_expected: bool
) -> None:
    changes = [with_contact(body) for body in bodies]

    for order in itertools.permutations(changes):
        emails = [email for email, _ in review_requests("gohighlevel", itertools.chain(*order))]
        assert (["a@example.com"] if is_expected else []) == emails


# -- Shopmonkey and Jane: time that is not booked --


def shopmonkey(operation: str, minute: int, customer: str | None, *diff: str) -> Any:
    updated_at = f"2026-09-21T14:{minute:02d}:00Z"
    times = {"startDate": START, "createdDate": "2026-09-21T14:00:00Z", "updatedDate": updated_at}
    row = {"id": "apt1", "customerId": customer, "orderId": None, **times}
    return {"operation": operation, "table": "appointment", "data": row, **({"diff": diff} if diff else {})}


def shopmonkey_changes(*bodies: Any) -> list[VisitChange]:
    """Return the changes of events whose customer is fetched, if they request it."""
    tool, changes = load_sources()["shopmonkey"], list[VisitChange]()
    for body in bodies:
        event = event_of("shopmonkey", body)
        if tool.fetch and tool.fetch(event):
            event = event.with_record({"data": {"email": "a@example.com"}}, event.received_at)
        translated = tool.translate(event)
        changes += [] if isinstance(translated, Ignored) else translated
    return changes


def test_blocked_time_of_shopmonkey_is_no_visit() -> None:
    assert [] == shopmonkey_changes(shopmonkey("INSERT", 0, None))
    moved = shopmonkey_changes(shopmonkey("UPDATE", 1, None, "startDate"))
    assert ["cancel"] == [change.action for change in moved]


def test_a_shopmonkey_appointment_whose_customer_is_removed_is_cancelled_until_it_has_one() -> None:
    booked, removed = shopmonkey("INSERT", 0, "cus1"), shopmonkey("UPDATE", 1, None, "customerId")
    again = shopmonkey("UPDATE", 2, "cus1", "customerId")

    assert [] == review_requests("shopmonkey", shopmonkey_changes(booked, removed))
    assert [("a@example.com", START)] == review_requests("shopmonkey", shopmonkey_changes(booked, removed, again))


def jane(topic: str, state: str, fetched_minute: int) -> list[VisitChange] | Ignored:
    body = {"event_topic": f"APPOINTMENT_{topic}", "event_timestamp": "2026-09-21T14:00:00Z"}
    event = event_of("jane", {**body, "appointment_id": "5", "clinic_guid": "clinic1"})
    record, patient = {"id": 5, "start_at": START, "state": state, "patient_id": "p1"}, {"email": "a@example.com"}
    fetched_at = datetime(2026, 9, 21, 14, fetched_minute, tzinfo=UTC)
    return load_sources()["jane"].translate(event.with_record(record, fetched_at, {"patient": patient}))


def test_a_reserved_time_of_jane_is_no_visit_and_cancels_one_that_it_was() -> None:
    booked, reserved = jane("BOOKED", "booked", 1), jane("RESCHEDULED", "reserved", 2)

    assert Ignored("only reserved") == jane("BOOKED", "reserved", 1)
    assert not isinstance(booked, Ignored)
    assert not isinstance(reserved, Ignored)
    assert [] == review_requests("jane", [*booked, *reserved])


# -- Workiz --


def job(**data: Any) -> Any:
    trigger = {"type": "job_updated", "timestamp": "2026-09-21T14:00:00Z"}
    whole = {"uuid": "J1", "date": "2026-10-01 09:00:00", "clientInfo": {"email": "a@example.com"}, **data}
    return {"trigger": trigger, "data": whole}


def invoice(id: str, minute: int, *amounts: int) -> Any:
    trigger = {"type": "invoice_paid", "timestamp": f"2026-09-21T14:{minute:02d}:00Z"}
    return {"trigger": trigger, "data": {"id": id, "uuid": "J1", "payments": [{"amount": paid} for paid in amounts]}}


def test_a_new_workiz_job_has_a_visit() -> None:
    assert [("a@example.com", START)] == review_requests("workiz", changes_of("workiz", job(status="new")))


@each("status", ["Converted", "Lost", "on hold"])
def test_a_workiz_job_with_an_unknown_status_is_parked(status: str) -> None:
    with pytest.raises(Untranslatable, match="a job's status that Workiz has"):
        changes_of("workiz", job(status=status))


def test_workiz_invoices_of_a_job_add_up_and_each_replaces_only_itself() -> None:
    first, second, again = invoice("IV1", 1, 100), invoice("IV2", 2, 50), invoice("IV1", 3, 100, 25)

    for order in itertools.permutations([first, second, again]):
        changes = [change for body in order for change in changes_of("workiz", body)]
        recorded = [RecordedChange.decode(f"d{number}", encode_change(change)) for number, change in enumerate(changes)]
        assert "175.00" == desired_visit(merge_changes(recorded)).fields["amount_collected"]


# -- HubSpot: a meeting whose outcome is RESCHEDULED --


def meeting(outcome: str, outcomes: list[Any], starts: list[Any], **extra_history: Any) -> Any:
    def history(entries: list[Any]) -> list[Any]:
        return [{"value": value, "timestamp": f"2026-09-{day}Z"} for value, day in reversed(entries)]

    return {
        "id": "9001", "createdAt": "2026-09-01T10:00:00.000Z",
        "properties": {"hs_meeting_start_time": starts[-1][0], "hs_meeting_outcome": outcome},
        "propertiesWithHistory": {
            "hs_meeting_outcome": history(outcomes), "hs_meeting_start_time": history(starts), **extra_history,
        },
        "associations": {"contacts": {"results": [{"id": "101"}]}},
    }  # fmt: skip


LATER = "2026-10-08T15:00:00Z"
SCHEDULED, RESCHEDULED = ("SCHEDULED", "01T10:00:00.000"), ("RESCHEDULED", "05T12:00:00.000")


@each(
    ("outcomes", "starts", "expected_at"),
    [
        ([SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000")], None),
        ([SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000"), (LATER, "03T10:00:00.000")], None),
        ([SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000"), (LATER, "05T12:00:00.000")], LATER),
        ([SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000"), (LATER, "05T11:59:58.900")], LATER),
        ([SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000"), (LATER, "06T10:00:00.000")], LATER),
        ([SCHEDULED, RESCHEDULED], [(LATER, "05T12:00:00.000")], LATER),
        ([("RESCHEDULED", "01T10:00:00.000")], [(START, "01T10:00:00.000")], None),
        ([SCHEDULED, RESCHEDULED, ("SCHEDULED", "06T12:00:00.000")], [(START, "01T10:00:00.000")], START),
    ],
)
def test_a_rescheduled_hubspot_meeting_has_a_visit_only_if_its_start_changed(
    outcomes: list[Any], starts: list[Any], expected_at: str | None
) -> None:
    record = meeting(outcomes[-1][0], outcomes, starts)

    assert ([("a@example.com", expected_at)] if expected_at else []) == review_requests("hubspot", of_record(record))


def test_a_rescheduled_hubspot_meeting_without_a_history_of_its_start_is_cancelled() -> None:
    record = meeting("RESCHEDULED", [SCHEDULED, RESCHEDULED], [(START, "01T10:00:00.000")], hs_meeting_start_time=None)

    assert [] == review_requests("hubspot", of_record(record))


def of_record(record: Any) -> list[VisitChange]:
    item = {"subscriptionType": "object.propertyChange", "propertyName": "hs_meeting_outcome", "objectId": 9001}
    event = event_of("hubspot", [{**item, "portalId": 62515, "objectTypeId": "0-47", "occurredAt": 1_789_000_000_000}])
    tool, contact = load_sources()["hubspot"], {"properties": {"email": "a@example.com"}}
    (request,) = tool.fetch(event) if tool.fetch else []
    related = dict.fromkeys(request.follow_up(Payload(record)), contact)
    translated = tool.translate(event.with_record(record, datetime(2026, 9, 21, tzinfo=UTC), related, request.path))
    assert isinstance(translated, list)
    return translated
