"""Shopmonkey: filters that it may ignore, and appointments that continue under the id of their order."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.connections.catch_up import new_catch_up, plan
from app.ledger.redis import Redis
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.subscription import ApiResponse, Listing, ListRequest, Window
from tests.integration.connections.test_listings import NOW, TOMORROW, all_visits, listed, visits
from tests.support.cases import each
from tests.support.listings import changes_of, read_page
from tests.support.vendors import ConnectedTool, connected_tool

SHOPMONKEY = load_sources()["shopmonkey"]
LISTING = SHOPMONKEY.listing
assert isinstance(LISTING, Listing)


def first_request(changed: bool = False) -> ListRequest:
    assert LISTING
    window = Window(NOW, NOW + timedelta(days=30), NOW if changed else None)
    return LISTING.start(window, Payload(None))[1 if changed else 0]


def rows(*items: Any, has_more: bool = False) -> ApiResponse:
    return ApiResponse({"success": True, "data": list(items), "meta": {"hasMore": has_more}})


def appointment(**columns: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "customerId": "c1",
        "startDate": TOMORROW.isoformat(),
        "updatedDate": NOW.isoformat(),
        **columns,
    }


@each("column", ["startDate", "updatedDate"])
def test_rows_that_nobody_asked_for_stop_the_list(column: str) -> None:
    """Shopmonkey answers with the whole table if it does not know a filter: that may be ten years of appointments."""
    assert LISTING
    old = appointment(**{column: (NOW - timedelta(days=400)).isoformat()})

    with pytest.raises(Untranslatable):
        LISTING.read_page(first_request(changed=column == "updatedDate"), rows(appointment(), old))


def test_customers_that_nobody_asked_for_stop_the_list() -> None:
    assert LISTING
    [request] = LISTING.read_page(first_request(), rows(appointment())).requests

    with pytest.raises(Untranslatable):
        LISTING.read_page(request, rows({"id": "c1"}, {"id": "c2"}))


def test_a_blocked_time_is_no_visit_and_an_appointment_without_its_customer_is_cancelled() -> None:
    blocked = appointment(customerId=None, createdDate=NOW.isoformat())
    moved = appointment(id="a2", customerId=None, createdDate=(NOW - timedelta(days=1)).isoformat())

    results, requests = read_page("shopmonkey", first_request(), {"data": [blocked, moved]})

    assert ([("cancel", "a2")], []) == ([(each.action, each.visit_id) for each in changes_of(results)], requests)


def test_the_next_page_begins_at_the_time_of_the_last_row() -> None:
    """Rows that change meanwhile get to the end of the list, and would shift all others by one."""
    assert LISTING
    last = appointment(id="a2", updatedDate=(NOW + timedelta(minutes=1)).isoformat())

    *_, request = LISTING.read_page(first_request(changed=True), rows(appointment(), last, has_more=True)).requests

    assert last["updatedDate"] in request.request.params["where"]
    assert "0" == request.request.params["skip"]


def test_a_page_of_rows_with_one_time_is_skipped() -> None:
    assert LISTING

    *_, request = LISTING.read_page(first_request(changed=True), rows(appointment(), has_more=True)).requests

    assert "1" == request.request.params["skip"]


async def test_an_appointment_with_an_order_is_one_visit(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        calendar = tool.vendor.calendar
        calendar.book(TOMORROW, "ada@example.com")
        before = await listed(tool)
        calendar.complete(1)
        calendar.pay(1, Decimal(75))

        [visit] = all_visits("shopmonkey", [*before, *await listed(tool)])

        assert ("ada@example.com", "75.00") == (visit.contact.email, visit.fields["amount_collected"])


async def test_the_order_of_a_coming_appointment_is_listed_although_it_did_not_change(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        tool.vendor.calendar.book(TOMORROW, "ada@example.com")
        tool.vendor.calendar.pay(1, Decimal(75))
        connector = tool.connector()
        assert LISTING
        requests = list(LISTING.start(Window(NOW, NOW + timedelta(days=30)), Payload(None)))
        tables = []
        while requests:
            request = requests.pop()
            tables.append(request.request.path)
            requests += LISTING.read_page(request, await connector.call(request.request)).requests

        assert ["appointment", "order", "customer", "customer"] == tables


async def test_appointments_of_other_locations_are_not_caught_up(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        tool.vendor.calendar.book(TOMORROW)

        assert {"changed": 1} == await results(tool, ["location-1"])
        assert {"unchanged": 1} == await results(tool, ["location-2"])


async def results(tool: ConnectedTool, tenants: list[str]) -> dict[str, int]:
    settings = tool.hook.settings.model_copy(update={"tenants": tenants})
    hook = replace(tool.hook, settings=settings)
    counts, _ = await plan(tool.context, hook, new_catch_up(hook.name, NOW, "test", "test", TOMORROW))
    return {result: count for result, count in counts.items() if count}


async def test_a_disabled_webhook_is_enabled_and_keeps_its_secret(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        await tool.ensure_subscriptions(is_secret_new=True)
        before = {id: stored.secret for id, stored in tool.vendor.subscriptions.items()}
        tool.vendor.disable_all()

        await tool.ensure_subscriptions()

        assert before == {id: stored.secret for id, stored in tool.vendor.subscriptions.items() if stored.is_active}


async def test_webhooks_named_after_the_operation_are_adopted(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        triggers = ("AppointmentInsert", "AppointmentUpdate", "AppointmentDelete", "OrderInsert", "OrderUpdate")
        mine = tool.vendor.subscribe(tool.url, triggers, tool.hook.settings.secrets[0])

        subscribed = await tool.ensure_subscriptions()

        assert [mine.id] == [each.id for each in subscribed.adopted]
        assert () == subscribed.created


async def test_every_customer_of_a_page_is_asked_for_in_parts(redis: Redis) -> None:
    async with connected_tool("shopmonkey", redis) as tool:
        emails = {f"customer-{number}@example.com" for number in range(1, 121)}
        for number, email in enumerate(sorted(emails)):
            tool.vendor.calendar.book(TOMORROW + timedelta(minutes=number), email)
        tool.vendor.faults = replace(tool.vendor.faults, page_size=100)

        assert emails == visits("shopmonkey", await listed(tool)).keys()
