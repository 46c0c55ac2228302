"""Mindbody's list of appointments: times of the site, clients, and the statuses that no webhook has."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.visits.change import VisitChange
from app.visits.merge import DesiredVisit
from app.webhooks.payload import Untranslatable
from app.webhooks.subscription import ListRequest, Window
from tests.sources.test_group_bookings import changes_of as changes_of_webhook
from tests.support.cases import each
from tests.support.listings import NOW, changes_of, list_requests, read_page, visits_of

WINDOW = Window(NOW, NOW + timedelta(days=30))
SITE = {"Sites": [{"Id": 12345, "Name": "Studio", "TimeZone": "America/New_York"}]}
ADA = {"Id": "C1", "FirstName": "Ada", "LastName": "Byron", "Email": "ada@example.com", "HomePhone": "+15550100001"}


def appointment(**fields: Any) -> dict[str, Any]:
    """Return an appointment of this morning: it ended at 13:00 UTC, an hour before NOW."""
    times = {"StartDateTime": "2026-09-21T08:00:00", "EndDateTime": "2026-09-21T09:00:00"}
    return {"Id": 121, "Status": "Booked", "ClientId": "C1", **times, **fields}


def page(*appointments: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    return {"PaginationResponse": {"TotalResults": total or len(appointments)}, "Appointments": list(appointments)}


def first_page() -> ListRequest:
    [site] = list_requests("mindbody", WINDOW)
    _, [request] = read_page("mindbody", site, SITE)
    return request


def listed(*appointments: dict[str, Any], clients: Any = (ADA,), at: datetime = NOW) -> list[VisitChange]:
    _, requests = read_page("mindbody", first_page(), page(*appointments), now=at)
    results = [
        result
        for request in requests
        for result in read_page("mindbody", request, {"Clients": list(clients)}, now=at)[0]
    ]
    return changes_of(results)


def visit_of(changes: list[VisitChange]) -> DesiredVisit:
    [visit] = visits_of("mindbody", changes).values()
    return visit


def test_days_of_the_site_are_listed() -> None:
    params = first_page().request.params

    assert ("2026-09-20T00:00:00", "2026-10-21T23:59:59") == (params["request.startDate"], params["request.endDate"])


@each(
    ("local", "utc"), [("2026-07-01T08:00:00", "2026-07-01T12:00:00Z"), ("2026-12-01T08:00:00", "2026-12-01T13:00:00Z")]
)
def test_a_time_without_an_offset_is_one_of_the_site(local: str, utc: str) -> None:
    assert utc == visit_of(listed(appointment(StartDateTime=local))).fields["time_scheduled"]


def test_a_site_without_a_time_zone_cannot_be_listed() -> None:
    [site] = list_requests("mindbody", WINDOW)

    for zone in (None, "Eastern Standard Time"):
        with pytest.raises(Untranslatable, match="TimeZone"):
            read_page("mindbody", site, {"Sites": [{"Id": 1, "TimeZone": zone}]})


def test_the_visit_is_that_of_the_webhooks() -> None:
    data = {"siteId": 12345, "appointmentId": 121, "status": "Scheduled", "startDateTime": "2026-09-21T12:00:00Z"}
    booked = {
        "messageId": "m1",
        "eventId": "appointmentBooking.created",
        "eventInstanceOriginationDateTime": "2026-09-20T12:00:00Z",
        "eventData": data,
    }

    visit = visit_of([*changes_of_webhook("mindbody", booked), *listed(appointment(Status="NoShow"))])

    assert visit.is_cancelled
    assert ("ada@example.com", "+15550100001") == (visit.contact.email, visit.contact.phone)


def updated(status: str, at: datetime) -> list[VisitChange]:
    """Return the changes of a webhook: somebody changed the trainer, or restored the appointment."""
    data = {"siteId": 12345, "appointmentId": 121, "status": status, "startDateTime": "2026-09-21T12:00:00Z"}
    event = {"eventId": "appointmentBooking.updated", "eventInstanceOriginationDateTime": at.isoformat()}
    return changes_of_webhook("mindbody", {"messageId": "m2", "eventData": data, **event})


LATER, NEXT_DAY = NOW + timedelta(hours=1), NOW + timedelta(days=1)


@each("status", ["Scheduled", "Booked", None])
def test_a_webhook_does_not_undo_a_no_show_of_the_list(status: str) -> None:
    assert visit_of([*listed(appointment(Status="NoShow")), *updated(status, LATER)]).is_cancelled


def test_a_webhook_does_not_undo_a_completion_of_the_list() -> None:
    visit = visit_of([*listed(appointment(Status="Completed")), *updated("Scheduled", LATER)])

    assert "2026-09-21T13:00:00Z" == visit.fields["time_completed"]


@each("status", ["NoShow", "Completed", "Cancelled"])
def test_the_list_undoes_every_status(status: str) -> None:
    visit = visit_of([*listed(appointment(Status=status)), *listed(appointment(Status="Booked"), at=NEXT_DAY)])

    assert (False, None) == (visit.is_cancelled, visit.fields["time_completed"])


def test_a_webhook_restores_a_cancelled_appointment() -> None:
    changes = [*listed(appointment(Status="NoShow")), *updated("Cancelled", LATER), *updated("Scheduled", NEXT_DAY)]

    assert not visit_of(changes).is_cancelled


def test_a_completed_appointment_was_completed_at_its_end() -> None:
    visit = visit_of(listed(appointment(Status="Completed")))

    assert "2026-09-21T13:00:00Z" == visit.fields["time_completed"]


def test_an_appointment_that_was_completed_early_has_no_end_in_the_future() -> None:
    visit = visit_of(listed(appointment(Status="Completed", EndDateTime="2026-09-21T12:00:00")))

    assert "2026-09-21T14:00:00Z" == visit.fields["time_completed"]


def test_a_completed_appointment_stays_so_when_it_is_listed_again() -> None:
    first, again = (listed(appointment(Status="Completed"), at=at) for at in (NOW, NOW + timedelta(days=1)))

    assert visit_of(first) == visit_of([*first, *again])


def test_a_list_is_newer_than_a_webhook_before_it_and_older_than_one_after_it() -> None:
    def cancelled(at: str) -> list[VisitChange]:
        ids = {"siteId": 12345, "appointmentId": 121}
        event = {"eventId": "appointmentBooking.cancelled", "eventInstanceOriginationDateTime": at, "eventData": ids}
        return changes_of_webhook("mindbody", {"messageId": "m1", **event})

    records = listed(appointment())

    assert not visit_of([*records, *cancelled("2026-09-21T13:59:59Z")]).is_cancelled
    assert visit_of([*records, *cancelled("2026-09-21T14:00:01Z")]).is_cancelled


def test_clients_are_fetched_twenty_at_a_time_and_once_each() -> None:
    appointments = [appointment(Id=number, ClientId=f"C{number % 25}") for number in range(50)]

    _, requests = read_page("mindbody", first_page(), page(*appointments, total=60))

    *clients, next_page = requests
    assert [20, 5] == [len(request.request.params) for request in clients]
    assert "50" == next_page.request.params["request.offset"]


def test_an_appointment_without_a_client_is_no_visit_and_one_with_an_unknown_client_has_no_contact() -> None:
    assert [] == listed(appointment(ClientId=None))
    assert visit_of(listed(appointment(), clients=())).contact.email is None


def test_the_window_reaches_back_to_the_last_changes() -> None:
    changed_since = datetime(2026, 9, 18, 14, tzinfo=UTC)
    [site] = list_requests("mindbody", Window(NOW, NOW + timedelta(days=1), changed_since))
    _, [request] = read_page("mindbody", site, SITE)

    assert "2026-09-17T00:00:00" == request.request.params["request.startDate"]


def test_an_appointment_that_cannot_be_read_does_not_stop_the_others() -> None:
    odd = [appointment(Id=1, ClientId=["C1"]), appointment(Id=2, StartDateTime="soon"), appointment(Id=3)]

    unreadable, [clients] = read_page("mindbody", first_page(), page(*odd))
    results, _ = read_page("mindbody", clients, {"Clients": [ADA]})

    assert 1 == len(unreadable)
    assert [True, False] == [bool(result.problem) for result in results]
