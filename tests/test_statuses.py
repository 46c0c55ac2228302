"""Statuses that a tool does not document for its webhooks, and what is decided about each. A visit that may not take
place is held back; what nobody can know is parked."""

import itertools
from typing import Any

import pytest
from test_groups import changes_of, standing

from app.reading import Untranslatable
from app.visits.merge import Said, fold, wanted
from app.visits.words import encode_change

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
        said = [Said.read(f"d{number}", encode_change(change)) for number, change in enumerate(changes)]
        assert "175.00" == wanted(fold(said)).fields["amount_collected"]
