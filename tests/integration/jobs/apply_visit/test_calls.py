"""The number of API calls for a visit, and what is logged about them."""

import gc
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from app.visits.change import Contact, VisitChange
from jobs.apply_visit import VisitRun
from tests.support.harness import TOKEN
from tests.support.visit_worker import ADA, BOB, CREATE_CALLS, DOCUMENTED_CONTACT, World, at, booked, change

CACHED_CONTACT_CALLS = ["GET /visits/:id", "POST /visits"]


# Number of calls


async def test_the_first_visit_of_a_new_contact_takes_four_calls(world: World) -> None:
    states = await world.apply(booked())

    assert (["done"], CREATE_CALLS) == (states, world.calls())
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_the_first_visit_of_a_cached_contact_takes_two_calls(world: World) -> None:
    await world.apply(booked("1"))
    world.clear_calls()

    await world.apply(booked("2"))

    assert CACHED_CONTACT_CALLS == world.calls()


async def test_a_contact_id_is_used_without_a_lookup(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT)))

    assert CACHED_CONTACT_CALLS == world.calls()
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize(
    ("fields", "sent"),
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
                "amount_collected": "1.01",  # half a cent is rounded up
            },
            id="everything",
        ),
    ],
)
async def test_an_update_takes_one_call_with_the_changed_fields(
    world: World, fields: dict[str, Any], sent: dict[str, str]
) -> None:
    await world.apply(booked())
    world.clear_calls()

    await world.apply(change(version=2, **fields))

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
async def test_a_repeated_change_takes_no_call(world: World, again: VisitChange) -> None:
    await world.apply(booked())
    world.clear_calls()

    states = await world.apply(again)

    assert (["done"], []) == (states, world.calls())


async def test_many_waiting_changes_of_one_visit_take_one_call(world: World) -> None:
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


async def test_a_visit_of_another_program_is_updated(world: World) -> None:
    visit = {"contact_id": DOCUMENTED_CONTACT, "external_id": "standard-1", "amount_collected": "7.00"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits", data=visit, headers={"authorization": "Bearer t"}
    )

    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT)))

    assert ["GET /visits/:id", "PUT /visits/:id"] == world.calls()
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "7.00",  # no change contains it
    } == world.visit()


async def test_a_change_with_only_a_person_creates_no_visit_and_does_not_wait(world: World) -> None:
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
async def test_equal_values_in_another_format_take_no_call(world: World, spelling: dict[str, Any]) -> None:
    visit = {
        "id": 7,
        "external_id": "standard-1",
        "contact_id": DOCUMENTED_CONTACT,
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "245.00",
    }
    world.transport.after = lambda request: (
        httpx.Response(200, json=visit | spelling) if request.method == "POST" else None
    )
    fields = {"contact": Contact(id=DOCUMENTED_CONTACT), "amount_collected": Decimal(245), "date_cancelled": None}
    await world.apply(booked(**fields))
    world.clear_calls()

    await world.apply(booked(version=2, **fields))

    assert [] == world.calls()


# Logs


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 404, 409, 422, 429, 500], ids=lambda status: f"{status}")
async def test_logs_contain_no_personal_data(world: World, logged: list[Any], status: int) -> None:
    quoted = "ada@example.com Ada Lovelace +15550100001"
    await world.apply(booked("0"))
    world.transport.before = lambda request: httpx.Response(
        status, text=quoted, headers={"location": "/?ada@example.com"}
    )

    await world.apply(booked("1"))
    await world.apply(change("0", version=2, amount_collected=Decimal(77), contact=replace(BOB, last_name="Babbage")))

    output = json.dumps(logged, default=str)
    assert logged
    assert [] == [word for word in ("ada@", "Lovelace", "5550100001", "bob@", "Babbage", TOKEN) if word in output]


# Memory


async def test_a_finished_run_is_freed_without_a_garbage_collection(world: World) -> None:
    gc.collect()  # the runs of other tests
    gc.disable()
    try:
        await world.apply(booked())

        assert not [each for each in gc.get_objects() if type(each) is VisitRun]
    finally:
        gc.enable()
