"""What tools of field service, salons and practices send beyond the specimens, and what it means."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from app.delivery import Event
from app.reading import Json, Untranslatable
from app.sources import Ignored, load
from app.visits.merge import Said, Wanted, fold, wanted
from app.visits.words import VisitChange, encode_change

FETCHED_AT = datetime(2026, 3, 14, 18, tzinfo=UTC)


def an_event(source: str, body: Any, **more: Any) -> Event:
    return Event(source, Json(body), datetime(2026, 3, 14, 17, 59, tzinfo=UTC), **more)


def with_record(event: Event, record: Any, beside: Mapping[str, Any] | None = None) -> Event:
    get = load()[event.source].fetch(event)[0]  # type: ignore[misc]
    return event.with_record(record, FETCHED_AT, beside, get.path)


def changes(event: Event) -> list[VisitChange]:
    meaning = load()[event.source].translate(event)
    assert not isinstance(meaning, Ignored), meaning
    return meaning


# GoHighLevel --------------------------------------------------------------------------------------------------------


def appointment_of(contact: Mapping[str, Any]) -> Event:
    appointment = {
        "id": "apt_1",
        "contactId": "con_1",
        "appointmentStatus": "confirmed",
        "startTime": "2026-03-14T09:00:00-06:00",
        "dateUpdated": "2026-03-10T15:20:38.000Z",
    }
    body = {"type": "AppointmentCreate", "timestamp": "2026-03-10T15:20:39.000Z", "appointment": appointment}
    return with_record(an_event("gohighlevel", body), {"contact": {"email": "ada@example.com", **contact}})


def by_email(status: str | None) -> dict[str, Any]:
    return {"dndSettings": {"Email": {"status": status, "message": "unsubscribed", "code": ""}}}


@pytest.mark.parametrize(
    ("contact", "is_opted_out"),
    [
        ({"dnd": True}, True),
        ({"dnd": False}, False),
        ({"dnd": False, **by_email("active")}, True),
        ({"dnd": False, **by_email("permanent")}, True),
        ({"dnd": False, **by_email("Permanent")}, True),
        ({"dnd": False, **by_email("inactive")}, False),
        ({"dnd": True, **by_email("inactive")}, True),
        (by_email("active"), True),
        (by_email("inactive"), False),
        ({"dnd": False, "dndSettings": {"Call": {"status": "active"}}}, False),
        ({"dnd": False, "dndSettings": {"SMS": {"status": "permanent"}, "Email": {"status": None}}}, False),
    ],
)
def test_gohighlevel_whoever_unsubscribed_from_email_is_not_asked(
    contact: Mapping[str, Any], is_opted_out: bool
) -> None:
    [change] = changes(appointment_of(contact))

    assert is_opted_out is change.opted_out


def test_gohighlevel_an_email_status_that_nobody_documents_is_for_an_operator() -> None:
    with pytest.raises(Untranslatable, match=r"dndSettings\.Email\.status"):
        changes(appointment_of({"dnd": False, **by_email("snoozed")}))


# Housecall Pro ------------------------------------------------------------------------------------------------------

SENT_AT = {"Api-Timestamp": "1773306061"}  # 2026-03-12T09:01:01Z
BOOKED_AT = "2026-03-10T15:20:38Z"


def a_job(**more: Any) -> dict[str, Any]:
    schedule = {"scheduled_start": "2026-03-14T15:00:00Z", "scheduled_end": "2026-03-14T17:00:00Z"}
    customer = {"first_name": "Ada", "email": "ada@example.com"}
    return {"id": "job_1", "customer": customer, "work_status": "scheduled", "schedule": schedule, **more}


def from_housecall(kind: str, occurred_at: str | None, headers: Mapping[str, str] = SENT_AT, **record: Any) -> Event:
    told = {"event_occurred_at": occurred_at} if occurred_at else {}
    return an_event("housecallpro", {"event": kind, **told, **record}, headers=headers)


def what_stands(*events: Event) -> Wanted:
    return wanted(fold(Said.read(str(n), encode_change(c)) for n, event in enumerate(events) for c in changes(event)))


DISCARDED = from_housecall(
    "job.appointment.appointment_discarded", "2026-03-12T09:01:00Z", appointment={"id": "appt_1", "job_id": "job_1"}
)


def test_housecallpro_an_appointment_that_is_no_more_gives_its_visit_no_time() -> None:
    booked = from_housecall("job.created", BOOKED_AT, job=a_job())

    assert "2026-03-14T15:00:00Z" == what_stands(booked).fields["event_date"]
    for arrived in ([booked, DISCARDED], [DISCARDED, booked]):
        assert {"time_scheduled": None, "event_date": None}.items() <= what_stands(*arrived).fields.items()


def test_housecallpro_a_job_that_is_done_keeps_its_completion_when_an_appointment_is_discarded() -> None:
    times = {"completed_at": "2026-03-11T17:00:00Z"}
    done = from_housecall(
        "job.completed",
        "2026-03-11T17:00:02Z",
        job=a_job(work_status="complete unrated", work_timestamps=times),
    )

    fields = what_stands(done, DISCARDED).fields

    assert (None, "2026-03-11T17:00:00Z") == (fields["time_scheduled"], fields["event_date"])


def test_housecallpro_what_remains_of_a_job_is_said_by_its_next_event() -> None:
    remains = a_job(schedule={"scheduled_start": "2026-03-20T15:00:00Z"})
    moved = from_housecall("job.updated", "2026-03-12T09:01:05Z", job=remains)

    assert "2026-03-20T15:00:00Z" == what_stands(DISCARDED, moved).fields["event_date"]


def test_housecallpro_an_event_that_does_not_say_when_is_ordered_by_the_time_that_was_signed() -> None:
    [sent] = changes(from_housecall("job.updated", None, job=a_job()))
    [occurred] = changes(from_housecall("job.updated", "2026-03-12T09:00:00Z", job=a_job()))

    assert (1773306061_000000, 1773306000_000000) == (sent.order, occurred.order)


@pytest.mark.parametrize("headers", [{}, {"Api-Timestamp": "soon"}, {"Api-Timestamp": "\u0661"}])
def test_housecallpro_an_event_without_any_time_is_for_an_operator(headers: Mapping[str, str]) -> None:
    with pytest.raises(Untranslatable, match="event_occurred_at"):
        changes(from_housecall("job.updated", None, headers, job=a_job()))


def test_housecallpro_a_late_retry_that_does_not_say_when_takes_no_cancellation_back() -> None:
    cancelled = from_housecall("job.canceled", "2026-03-12T09:00:00Z", job=a_job(work_status="pro canceled"))
    retried = from_housecall("job.scheduled", None, job=a_job())

    assert "2026-03-12T09:00:00Z" == what_stands(retried, cancelled).fields["date_cancelled"]
    assert what_stands(retried, cancelled).is_off
