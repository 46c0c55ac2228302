"""Square's list of bookings: periods of 31 days, earlier bookings that changed, and customers."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.connections.listing import translate_record
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Window
from tests.support.listings import NOW, changes_of, list_requests, read_page, visits_of

HOUR = timedelta(hours=1)
WINDOW = Window(NOW, NOW + timedelta(days=40), NOW - HOUR)


def booking(**fields: Any) -> dict[str, Any]:
    return {
        "id": "b1",
        "version": 1,
        "status": "ACCEPTED",
        "start_at": "2026-09-22T10:00:00Z",
        "created_at": "2026-09-20T08:00:00Z",
        "updated_at": "2026-09-20T08:00:00Z",
        "customer_id": "C1",
        **fields,
    }


def test_a_listed_booking_is_one_of_the_seller_whose_token_lists_it() -> None:
    source, [request, *_] = load_sources()["square"], list_requests("square", WINDOW)
    assert source.listing
    page = source.listing.read_page(request, ApiResponse({"bookings": [booking(status="CANCELLED_BY_SELLER")]}))

    [listed] = [translate_record(source, record, NOW, None, tenants=("M1",)) for record in page.records]

    assert ["b1"] == [change.visit_id for change in listed.changes]


def test_the_window_is_listed_in_periods_of_at_most_31_days_without_a_gap() -> None:
    periods = [
        (request.request.params["start_at_min"], request.request.params["start_at_max"])
        for request in list_requests("square", WINDOW)
    ]

    starts, ends = (
        [datetime.fromisoformat(start) for start, _ in periods],
        [datetime.fromisoformat(end) for _, end in periods],
    )
    assert starts[1:] == ends[:-1]
    assert max(end - start for start, end in zip(starts, ends, strict=True)) <= timedelta(days=31)
    assert (datetime(2026, 8, 21, 13, tzinfo=UTC), WINDOW.until) == (starts[0], ends[-1])


def test_a_first_connection_lists_only_coming_bookings() -> None:
    [request] = list_requests("square", Window(NOW, NOW + timedelta(days=7)))

    assert "2026-09-21T14:00:00Z" == request.request.params["start_at_min"]


def test_the_customers_of_accepted_bookings_are_fetched_together() -> None:
    [request, *_] = list_requests("square", WINDOW)
    page = {"bookings": [booking(), booking(id="b2"), booking(id="b3", status="CANCELLED_BY_SELLER", customer_id="C3")]}

    results, [customers] = read_page("square", request, page)
    ada = {"customer": {"email_address": "ada@example.com"}}
    with_customers, _ = read_page("square", customers, {"responses": {"C1": ada}})

    assert {"customer_ids": ["C1"]} == customers.request.json
    visits = visits_of("square", changes_of([*results, *with_customers]))
    assert ["ada@example.com", "ada@example.com", None] == [
        visits[id].contact.email for id in ("square-b1", "square-b2", "square-b3")
    ]
    assert [False, False, True] == [visits[id].is_cancelled for id in ("square-b1", "square-b2", "square-b3")]


def test_a_deleted_customer_leaves_a_visit_without_a_contact() -> None:
    [request, *_] = list_requests("square", WINDOW)

    _, [customers] = read_page("square", request, {"bookings": [booking()]})
    missing = {"errors": [{"category": "INVALID_REQUEST_ERROR", "code": "NOT_FOUND"}]}
    results, _ = read_page("square", customers, {"responses": {"C1": missing}})

    [visit] = visits_of("square", changes_of(results)).values()
    assert visit.has_date
    assert visit.contact.email is None


def test_earlier_bookings_are_listed_only_if_they_changed() -> None:
    [request, *_] = list_requests("square", WINDOW)
    earlier = {"start_at": "2026-09-10T10:00:00Z", "status": "NO_SHOW"}
    page = [
        booking(id="unchanged", **earlier),
        booking(id="changed", **earlier, updated_at="2026-09-21T13:30:00Z"),
    ]

    results, _ = read_page("square", request, {"bookings": page})

    assert ["changed"] == [result.record.id for result in results]


def test_a_request_that_nobody_accepted_is_no_visit_and_one_that_was_accepted_before_is_cancelled() -> None:
    [request, *_] = list_requests("square", WINDOW)
    page = [booking(id="new", status="PENDING", version=0), booking(id="again", status="PENDING", version=3)]

    results, _ = read_page("square", request, {"bookings": page})

    assert {"square-again": True} == {
        id: visit.is_cancelled for id, visit in visits_of("square", changes_of(results)).items()
    }


def test_a_booking_that_cannot_be_read_does_not_stop_the_others() -> None:
    [request, *_] = list_requests("square", WINDOW)
    page = [booking(start_at=7), booking(id="b2")]

    results, [customers] = read_page("square", request, {"bookings": page})

    assert ["response.bookings[0].start_at: expected a time in ISO 8601, found a number"] == [
        result.problem for result in results
    ]
    assert ["b2"] == [each["id"] for each in customers.context["bookings"]]
