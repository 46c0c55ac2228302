"""Boulevard: what happens if it refuses the subscription, and which orders count."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ledger.redis import Redis
from app.webhooks.fetching import RecordRequest
from app.webhooks.subscription import ListRequest, Refused
from tests.support.listings import NOW, changes_of, read_page
from tests.support.vendors import connected_tool

APPOINTMENTS = ListRequest(RecordRequest("appointments", "query", {"after": None}), {"business": "urn:blvd:Business:1"})


def node(**fields: Any) -> dict[str, Any]:
    return {"id": "urn:blvd:Appointment:7", "startAt": f"{NOW - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", **fields}


def page(*nodes: dict[str, Any]) -> dict[str, Any]:
    edges = [{"node": each} for each in nodes]
    return {"data": {"appointments": {"edges": edges, "pageInfo": {"hasNextPage": False, "endCursor": None}}}}


async def test_a_refusal_has_the_words_of_boulevard(redis: Redis) -> None:
    async with connected_tool("boulevard", redis) as tool:
        tool.vendor.faults = replace(tool.vendor.faults, forbidden=True)

        with pytest.raises(Refused, match=r"^Boulevard refuses the application: You need access to webhooks\.$"):
            await tool.ensure_subscriptions()


def test_the_order_of_an_appointment_that_began_is_listed_once_it_is_closed() -> None:
    begun = node(state="FINAL", cancelled=False, orderId="urn:blvd:Order:9")
    later = node(state="BOOKED", startAt=f"{NOW + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", orderId="urn:blvd:Order:8")
    _, [request] = read_page("boulevard", APPOINTMENTS, page(begun, later))
    group = {"__typename": "OrderAppointmentLineGroup", "id": "urn:blvd:Appointment:7"}
    order = {"id": "urn:blvd:Order:9", "summary": {"currentTotal": 7500}, "lineGroups": [group]}

    still_open, _ = read_page("boulevard", request, {"data": {"order": {**order, "closedAt": None}}})
    closed, _ = read_page("boulevard", request, {"data": {"order": {**order, "closedAt": "2026-09-21T13:00:00Z"}}})

    assert "order/9" == request.request.path
    assert [] == still_open
    assert [("7", 75)] == [(change.visit_id, change.amount_collected) for change in changes_of(closed)]


def test_a_listed_appointment_is_newer_than_every_earlier_event() -> None:
    results, _ = read_page("boulevard", APPOINTMENTS, page(node(state="FINAL", cancelled=False)))

    [change] = changes_of(results)
    assert int(NOW.timestamp() * 1_000_000) == change.version
    assert datetime(2026, 9, 21, 14, tzinfo=UTC) == change.time_completed
