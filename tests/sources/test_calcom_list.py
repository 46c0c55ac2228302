"""Cal.com's list of bookings: seats, moves, no-shows, and bookings that are over."""

from datetime import UTC, datetime
from typing import Any

from app.visits.change import VisitChange, external_id
from app.visits.merge import DesiredVisit
from app.webhooks.subscription import Window
from tests.sources.test_group_bookings import changes_of as changes_of_webhook
from tests.support.cases import each
from tests.support.listings import NOW, changes_of, list_requests, read_page, visits_of

ACCOUNT = {"status": "success", "data": {"id": 7, "name": "Ada's Salon"}}
WINDOW = Window(NOW, datetime(2026, 10, 21, tzinfo=UTC), datetime(2026, 9, 21, 12, tzinfo=UTC))
COMING, PAST = (
    {"start": "2026-09-22T10:00:00Z", "end": "2026-09-22T11:00:00Z"},
    {
        "start": "2026-09-21T10:00:00Z",
        "end": "2026-09-21T11:00:00Z",
    },
)


def booking(**fields: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "uid": "new",
        "status": "accepted",
        "hosts": [{"id": 7, "email": "owner@example.com"}],
        **COMING,
        "createdAt": "2026-09-20T08:00:00.000Z",
        "updatedAt": "2026-09-20T08:00:00.000Z",
        "attendees": [
            {"name": "Ada Byron", "email": "ada@example.com", "absent": False, "phoneNumber": "+15550100001"}
        ],
        "bookingFieldsResponses": {"email": "ada@example.com"},
        **fields,
    }


def listed(*bookings: dict[str, Any]) -> list[VisitChange]:
    [request, _] = list_requests("calcom", WINDOW, ACCOUNT)
    return changes_of(read_page("calcom", request, page(*bookings))[0])


def page(*bookings: dict[str, Any], has_more: bool = False) -> dict[str, Any]:
    return {"status": "success", "data": list(bookings), "pagination": {"hasNextPage": has_more}}


def visit_of(*bookings: dict[str, Any], webhooks: list[VisitChange] | None = None) -> DesiredVisit:
    visits = visits_of("calcom", [*(webhooks or []), *listed(*bookings)]).values()
    [visit] = [visit for visit in visits if visit.has_date]
    return visit


def test_coming_and_changed_bookings_are_listed_in_the_order_of_their_creation() -> None:
    coming, changed = list_requests("calcom", WINDOW, ACCOUNT)

    # A meeting that began 12 hours ago may have ended since.
    assert "2026-09-21T02:00:00.000Z" == coming.request.params["afterStart"]
    assert "2026-10-21T00:00:00.000Z" == coming.request.params["beforeEnd"]
    assert "2026-09-21T12:00:00.000Z" == changed.request.params["afterUpdatedAt"]
    assert {"asc"} == {request.request.params["sortCreated"] for request in (coming, changed)}


@each(("count", "has_more", "expected"), [(2, True, ["2"]), (2, False, []), (0, True, [])])
def test_the_next_page_begins_after_the_items_of_this_one(count: int, has_more: bool, expected: list[str]) -> None:
    [request, _] = list_requests("calcom", WINDOW, ACCOUNT)

    _, requests = read_page("calcom", request, page(*[booking()] * count, has_more=has_more))

    assert expected == [following.request.params["skip"] for following in requests]


def test_a_booking_that_the_user_made_as_a_customer_elsewhere_is_no_visit() -> None:
    assert [] == listed(booking(hosts=[{"id": 8, "email": "dentist@example.com"}]))


def test_a_booking_that_is_over_is_completed_at_its_end() -> None:
    visit = visit_of(booking(**PAST, updatedAt="2026-09-21T13:00:00.000Z"))

    assert "2026-09-21T11:00:00Z" == visit.fields["time_completed"]
    assert "2026-09-21T10:00:00Z" == visit.fields["time_scheduled"]
    assert "time_completed" not in visit_of(booking()).fields


def test_an_absent_attendee_missed_the_visit_also_if_the_booking_changed_later() -> None:
    attendee = {"name": "Ada Byron", "email": "ada@example.com", "absent": True}

    changed_before = visit_of(booking(**PAST, attendees=[attendee]))
    changed_later = visit_of(booking(**PAST, attendees=[attendee], updatedAt="2026-09-21T13:00:00.000Z"))

    assert [True, True] == [changed_before.is_cancelled, changed_later.is_cancelled]


def test_a_mark_that_was_removed_after_the_list_stays_removed() -> None:
    attendee = {"name": "Ada Byron", "email": "ada@example.com", "absent": True}
    payload = {"bookingUid": "new", "attendees": [{"email": "ada@example.com", "noShow": False}]}
    removed = {"triggerEvent": "BOOKING_NO_SHOW_UPDATED", "createdAt": "2026-09-21T15:00:00Z", "payload": payload}

    visit = visit_of(booking(**PAST, attendees=[attendee]), webhooks=changes_of_webhook("calcom", removed))

    assert not visit.is_cancelled


def test_a_moved_booking_is_the_same_visit_and_the_old_uid_does_not_cancel_it() -> None:
    old = booking(uid="old", status="cancelled", rescheduledToUid="new", **PAST, updatedAt="2026-09-20T09:00:00.500Z")
    new = booking(rescheduledFromUid="old", createdAt="2026-09-20T09:00:00.000Z", updatedAt=None)

    visits = visits_of("calcom", listed(old, new))

    assert [external_id("calcom", "old")] == list(visits)
    [visit] = visits.values()
    assert not visit.is_cancelled
    assert "2026-09-22T10:00:00Z" == visit.fields["time_scheduled"]


def test_an_occurrence_of_a_series_is_cancelled_without_an_operator() -> None:
    assert visit_of(booking(status="cancelled", recurringBookingUid="series")).is_cancelled


def test_a_reason_in_the_form_of_a_booking_that_did_not_move_parks_nothing() -> None:
    answers = {"email": "ada@example.com", "rescheduleReason": "none"}

    assert not visit_of(booking(bookingFieldsResponses=answers)).is_cancelled


def test_a_request_to_move_ends_the_old_booking_and_a_new_request_is_no_visit() -> None:
    booked = {"triggerEvent": "BOOKING_CREATED", "createdAt": "2026-09-19T08:00:00Z"}
    payload = {"uid": "old", "startTime": PAST["start"], "endTime": PAST["end"]}
    payload["attendees"] = [{"name": "Ada", "email": "ada@example.com"}]  # type: ignore[assignment]
    webhooks = changes_of_webhook("calcom", {**booked, "payload": payload})

    assert visit_of(booking(status="pending", rescheduledFromUid="old"), webhooks=webhooks).is_cancelled
    assert [] == listed(booking(status="pending"))


def test_a_rejected_booking_is_cancelled() -> None:
    assert visit_of(booking(status="rejected")).is_cancelled


def test_each_seat_is_a_visit() -> None:
    seats = [
        {"name": name, "email": f"{name}@example.com", "absent": name == "bob", "seatUid": f"seat-{name}"}
        for name in ("ada", "bob")
    ]

    visits = visits_of("calcom", listed(booking(attendees=seats, bookingFieldsResponses=None, **PAST)))

    people = {visit.contact.email: visit for visit in visits.values() if visit.contact.email and visit.has_date}
    assert {"ada@example.com", "bob@example.com"} == people.keys()
    assert "2026-09-21T11:00:00Z" == people["ada@example.com"].fields["time_completed"]
    assert [False, True] == [people["ada@example.com"].is_cancelled, people["bob@example.com"].is_cancelled]


def test_a_booking_without_anyone_left_is_no_visit() -> None:
    assert [] == listed(booking(attendees=[]))


def test_a_booking_that_cannot_be_read_does_not_stop_the_others() -> None:
    [request, _] = list_requests("calcom", WINDOW, ACCOUNT)

    results, _ = read_page("calcom", request, page(booking(start=None), booking()))

    assert ["response.data[0].start: expected text, found nothing", ""] == [result.problem for result in results]
