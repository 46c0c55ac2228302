"""How many API calls a visit costs, and what is logged of them."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from app.visits.change import Contact, VisitChange
from tests.support.harness import TOKEN
from tests.support.visit_worker import ADA, BOB, CREATE_CALLS, DOCUMENTED_CONTACT, World, at, booked, change

AGAIN = ["GET /visits/:id", "POST /visits"]  # of a customer who is known


# -- What it costs --


async def test_the_first_visit_of_a_new_customer_costs_two_calls_on_each_side(world: World) -> None:
    states = await world.apply(booked())

    assert (["done"], CREATE_CALLS) == (states, world.calls())
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_the_first_visit_of_a_known_customer_costs_a_look_and_a_create(world: World) -> None:
    await world.apply(booked("1"))
    world.clear_calls()

    await world.apply(booked("2"))

    assert AGAIN == world.calls()


async def test_a_customer_named_by_review_rovers_id_is_not_looked_for(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT)))

    assert AGAIN == world.calls()
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        pytest.param({"amount_collected": Decimal("245")}, {"amount_collected": "245.00"}, id="paid"),
        pytest.param(
            {"time_scheduled": at(10)},
            {"time_scheduled": "2026-03-14T10:00:00Z", "event_date": "2026-03-14T10:00:00Z"},
            id="moved",
        ),
        pytest.param(
            {"time_completed": at(11)},
            {"time_completed": "2026-03-14T11:00:00Z", "event_date": "2026-03-14T11:00:00Z"},
            id="completed",
        ),
        pytest.param({"date_cancelled": at(8)}, {"date_cancelled": "2026-03-14T08:00:00Z"}, id="cancelled"),
        pytest.param({"no_show": at(10)}, {"date_cancelled": "2026-03-14T10:00:00Z"}, id="missed"),
        pytest.param(
            {"time_completed": at(11), "amount_collected": Decimal("1.005"), "contact": ADA},
            {
                "time_completed": "2026-03-14T11:00:00Z",
                "event_date": "2026-03-14T11:00:00Z",
                "amount_collected": "1.01",  # half a cent counts up
            },
            id="everything",
        ),
    ],
)
async def test_an_update_costs_one_call_with_what_is_new(
    world: World, said: dict[str, Any], sent: dict[str, str]
) -> None:
    await world.apply(booked())
    world.clear_calls()

    await world.apply(change(version=2, **said))

    assert (["PUT /visits/:id"], [sent]) == (world.calls(), world.transport.sent("PUT"))


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(booked(), id="the-same"),
        pytest.param(booked(version=7), id="the-same-later"),
        pytest.param(booked(version=0, hour=5), id="older"),
        pytest.param(change(version=9), id="nothing"),
        pytest.param(change(version=9, date_cancelled=None, time_completed=None), id="what-is-not-there-is-cleared"),
        pytest.param(booked(version=9, contact=replace(ADA, email="ADA@Example.com ")), id="the-address-in-capitals"),
        pytest.param(booked(version=9, contact=replace(ADA, phone="+1")), id="another-number"),
    ],
)
async def test_a_repeat_costs_nothing(world: World, again: VisitChange) -> None:
    await world.apply(booked())
    world.clear_calls()

    states = await world.apply(again)

    assert (["done"], []) == (states, world.calls())


async def test_many_changes_that_wait_for_one_visit_cost_one_call(world: World) -> None:
    await world.apply(booked())
    world.clear_calls()
    for order in range(2, 12):
        await world.accept(change(version=order, amount_collected=Decimal(order)))

    await world.run()

    assert [{"amount_collected": "11.00"}] == world.transport.sent("PUT")
    assert ["PUT /visits/:id"] == world.calls()


async def test_one_delivery_may_change_many_visits(world: World) -> None:
    await world.apply(booked("1"), booked("2"), booked("3"), change("1", 2, amount_collected=Decimal(5)))

    assert ["standard-1", "standard-2", "standard-3"] == sorted(
        visit["external_id"] for visit in world.harness.visits()
    )
    assert "5.00" == (world.visit("1") or {})["amount_collected"]


async def test_a_visit_that_was_made_by_others_is_updated(world: World) -> None:
    visit = {"contact_id": DOCUMENTED_CONTACT, "external_id": "standard-1", "amount_collected": "7.00"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits", data=visit, headers={"authorization": "Bearer t"}
    )

    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT)))

    assert ["GET /visits/:id", "PUT /visits/:id"] == world.calls()
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "7.00",  # nobody spoke of it
    } == world.visit()


async def test_a_mark_of_a_person_alone_makes_no_visit_and_waits_for_nothing(world: World) -> None:
    await world.apply(change(no_show=at(10), contact=ADA, only_for_contact=True))
    assert [] == world.harness.visits()
    assert ("done", []) == ((await world.load_task()).state, await world.ledger.task_ids("waiting"))

    await world.apply(booked(version=0))
    assert [] == world.harness.visits(), "the mark counts once the visit is hers"


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param({"time_scheduled": "2026-03-14T09:00:00.000Z", "event_date": "2026-03-14T09:00:00.000Z"}, id="ms"),
        pytest.param({"time_scheduled": "2026-03-14T09:00:00+00:00"}, id="offset"),
        pytest.param({"time_scheduled": "2026-03-14T04:00:00-05:00"}, id="another-zone"),
        pytest.param({"amount_collected": "245"}, id="no-cents"),
        pytest.param({"amount_collected": "245.0"}, id="one-place"),
        pytest.param({"amount_collected": 245}, id="a-whole-number"),
        pytest.param({"amount_collected": 245.0}, id="a-number"),
        pytest.param({"date_cancelled": None, "time_completed": ""}, id="nothing-spelt-out"),
    ],
)
async def test_what_stands_is_known_in_any_spelling(world: World, spelling: dict[str, Any]) -> None:
    stands = {
        "id": 7,
        "external_id": "standard-1",
        "contact_id": DOCUMENTED_CONTACT,
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "245.00",
    }
    world.transport.after = lambda request: (
        httpx.Response(200, json=stands | spelling) if request.method == "POST" else None
    )
    said = {"contact": Contact(id=DOCUMENTED_CONTACT), "amount_collected": Decimal(245), "date_cancelled": None}
    await world.apply(booked(**said))
    world.clear_calls()

    await world.apply(booked(version=2, **said))

    assert [] == world.calls()


# -- Logs --


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 404, 409, 422, 429, 500], ids=lambda status: f"{status}")
async def test_nobodys_name_is_in_a_log(world: World, logged: list[Any], status: int) -> None:
    quoted = "ada@example.com Ada Lovelace +15550100001"
    await world.apply(booked("0"))
    world.transport.before = lambda request: httpx.Response(
        status, text=quoted, headers={"location": "/?ada@example.com"}
    )

    await world.apply(booked("1"))
    await world.apply(change("0", version=2, amount_collected=Decimal(77), contact=replace(BOB, last_name="Babbage")))

    told = json.dumps(logged, default=str)
    assert logged
    assert [] == [word for word in ("ada@", "Lovelace", "5550100001", "bob@", "Babbage", TOKEN) if word in told]
