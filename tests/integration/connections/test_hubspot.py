"""HubSpot: meetings of several contacts, deleted ones, and searches with more results than one may have."""

from datetime import timedelta
from typing import Any

from app.connections.listing import translate_record
from app.webhooks.fetching import RecordRequest
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, ListRequest, Window
from tests.support.listings import NOW, changes_of, list_requests, read_page

HUBSPOT = load_sources()["hubspot"]
START = "2026-09-25T15:00:00Z"


def meeting(*contacts: str) -> dict[str, Any]:
    results = [{"id": contact, "type": "meeting_event_to_contact"} for contact in contacts]
    properties = {"hs_meeting_start_time": START, "hs_meeting_outcome": "SCHEDULED"}
    return {
        "id": "9001",
        "properties": properties,
        "archived": False,
        "associations": {"contacts": {"results": results}},
    }


def test_each_contact_of_a_listed_meeting_has_a_visit() -> None:
    request = ListRequest(RecordRequest("crm/v3/objects/meetings/9001"), {"portal": "62515"}, can_be_missing=True)
    people = [{"id": id, "properties": {"email": f"{id}@example.com"}} for id in ("101", "102")]

    _, [contacts] = read_page("hubspot", request, meeting("101", "102"))
    results, _ = read_page("hubspot", contacts, {"results": people})

    visits = [(change.visit_id, change.contact and change.contact.email) for change in changes_of(results)]
    assert [("62515-9001", "101@example.com"), ("62515-9001.102", "102@example.com")] == visits


def test_contacts_whom_earlier_records_listed_are_cancelled() -> None:
    assert HUBSPOT.listing
    request = ListRequest(RecordRequest("crm/v3/objects/meetings/9001"), {"portal": "62515"})
    [contacts] = HUBSPOT.listing.read_page(request, ApiResponse(meeting("102"), requested_at=NOW)).requests
    people = {"results": [{"id": "102", "properties": {"email": "102@example.com"}}]}
    [record] = HUBSPOT.listing.read_page(contacts, ApiResponse(people, requested_at=NOW)).records

    listed = translate_record(HUBSPOT, record, NOW, None, known_people={"hubspot-62515-9001": ["101", "102"]})

    actions = {(change.visit_id, change.action) for change in listed.changes}
    assert {("62515-9001", "cancel"), ("62515-9001.102", "update")} == actions
    assert ("hubspot-62515-9001", ["102"]) == listed.booking


def test_a_meeting_that_is_missing_was_deleted() -> None:
    assert HUBSPOT.listing
    assert HUBSPOT.listing.check
    visit_ids = ["62515-9001", "62515-9001.102", "62515-9002", "7-9003"]
    [account] = HUBSPOT.listing.check(visit_ids, ApiResponse(None))
    [request] = HUBSPOT.listing.read_page(account, ApiResponse({"portalId": 62515})).requests
    assert request.request.json
    assert [{"id": "9001"}, {"id": "9002"}] == request.request.json["inputs"]
    [missing] = HUBSPOT.listing.read_page(
        request, ApiResponse({"results": [{"id": "9002"}]}, requested_at=NOW)
    ).requests
    [record] = HUBSPOT.listing.read_page(missing, ApiResponse(None, requested_at=NOW)).records
    assert missing.can_be_missing

    listed = translate_record(HUBSPOT, record, NOW, None, known_people={"hubspot-62515-9001": ["101", "102"]})

    cancelled = {(change.visit_id, change.action) for change in listed.changes}
    assert {("62515-9001", "cancel"), ("62515-9001.102", "cancel")} == cancelled
    assert (
        []
        == HUBSPOT.listing.read_page(missing, ApiResponse(meeting()))
        .records[0]
        .record["associations"]["contacts"]["results"]
    )


def test_a_search_continues_after_the_last_result_that_it_may_have() -> None:
    account = list_requests("hubspot", Window(NOW, NOW + timedelta(days=30), NOW))[0]
    _, [by_start, _] = read_page("hubspot", account, {"portalId": 62515})
    results = [{"id": "9001", "properties": {"hs_meeting_start_time": START}}]

    _, [_, following] = read_page("hubspot", by_start, {"results": results, "paging": {"next": {"after": "100"}}})
    _, [_, last] = read_page("hubspot", by_start, {"results": results, "paging": {"next": {"after": "10000"}}})

    assert following.request.json
    assert last.request.json
    assert "100" == following.request.json["after"]
    assert "after" not in last.request.json
    [since, until] = last.request.json["filterGroups"][0]["filters"]
    assert ("GTE", "1790348400000", "LT") == (since["operator"], since["value"], until["operator"])
