"""GoHighLevel: series, blocked slots and deleted appointments in its list, and the location that a person names."""

from datetime import timedelta
from typing import Any

import pytest

from app.ledger.redis import Redis
from app.vendors.gohighlevel import LOCATION, GoHighLevel
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Refused, Window
from tests.integration.connections.test_listings import TOMORROW, listed
from tests.support.cases import each
from tests.support.listings import NOW, changes_of, read_page
from tests.support.vendors import connected_tool

WINDOW = Window(NOW, NOW + timedelta(days=30), NOW, (LOCATION,))
START = "2026-09-25T10:00:00-05:00"


def read_events(*events: dict[str, Any]) -> tuple[Any, Any]:
    """Read a page of the calendar's appointments."""
    listing = load_sources()["gohighlevel"].listing
    assert listing
    [calendars] = listing.start(WINDOW, Payload(None))
    [request] = listing.read_page(calendars, ApiResponse({"calendars": [{"id": "cal1"}]})).requests
    return read_page("gohighlevel", request, {"events": list(events)})


def event(**fields: Any) -> dict[str, Any]:
    return {
        "id": "apt1",
        "contactId": "con1",
        "appointmentStatus": "confirmed",
        "startTime": START,
        "dateUpdated": "2026-09-20T08:00:00Z",
        **fields,
    }


def test_the_list_needs_the_location() -> None:
    listing = load_sources()["gohighlevel"].listing
    assert listing

    with pytest.raises(Refused, match="set TENANTS to its id"):
        list(listing.start(Window(NOW, NOW), Payload(None)))


def test_instances_of_a_series_are_not_listed() -> None:
    assert ([], []) == read_events(event(id="apt1_1790348400000_1800", masterEventId="apt1"))


@each("fields", [{"contactId": ""}, {"contactId": None, "appointmentStatus": None}, {"appointmentStatus": "new"}])
def test_blocked_time_and_a_request_are_no_visit_and_cancel_one_that_they_were(fields: dict[str, Any]) -> None:
    as_added, changed = event(**fields, dateAdded="2026-09-20T08:00:00Z"), event(id="apt2", **fields)

    results, requests = read_events(as_added, changed)

    assert ([("cancel", "apt2")], []) == ([(each.action, each.visit_id) for each in changes_of(results)], requests)


def test_the_contact_of_a_cancelled_appointment_is_not_fetched() -> None:
    results, requests = read_events(event(appointmentStatus="cancelled"))

    [change] = changes_of(results)
    assert ("cancel", "apt1", []) == (change.action, change.visit_id, requests)
    assert "2026-09-20T08:00:00+00:00" == change.date_cancelled.isoformat()  # type: ignore[union-attr]


def test_an_unknown_status_is_a_problem_of_its_appointment_alone() -> None:
    results, requests = read_events(event(appointmentStatus="teleported"), event(id="apt2"))

    assert ["appointment.appointmentStatus" in result.problem for result in results] == [True]
    assert ["contacts/con1"] == [each.request.path for each in requests]


async def test_a_deleted_appointment_is_cancelled(redis: Redis) -> None:
    async with connected_tool("gohighlevel", redis) as tool:
        assert isinstance(tool.vendor, GoHighLevel)
        tool.vendor.calendar.book(TOMORROW, "deleted@example.com")
        tool.vendor.calendar.book(TOMORROW, "stays@example.com")
        earlier = await listed(tool)
        tool.vendor.deleted.add(1)

        results = await listed(tool, earlier)

    actions = {(change.visit_id[-1], change.action) for result in results for change in result.changes}
    assert {("1", "cancel"), ("2", "update")} == actions
