"""What tools of field service, salons and practices send beyond the specimens, and what it means."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from app.delivery import Event
from app.reading import Json, Untranslatable
from app.sources import Ignored, load
from app.visits.words import VisitChange

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
