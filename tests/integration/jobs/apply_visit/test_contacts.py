"""The contact of a visit: found, created, changed, missing, or opted out."""

import asyncio
import itertools
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from app.visits.change import Contact
from tests.support.visit_worker import ADA, BOB, DOCUMENTED_CONTACT, World, at, booked, cancelled, change, route_of

# Contacts


async def test_a_new_contact_is_created_with_all_fields(world: World) -> None:
    await world.apply(booked())

    (contact,) = world.contacts("ada@example.com")
    assert ("Ada", "Lovelace", "+15550100001") == (contact["first_name"], contact["last_name"], contact["phone"])
    assert [contact["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_an_existing_contact_is_used_unchanged(world: World) -> None:
    await world.apply(booked(contact=replace(ADA, email="first.contact@example.com")))

    assert ["GET /visits/:id", "GET /contacts", "POST /visits"] == world.calls()
    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]
    assert "first_name" not in world.contacts("first.contact@example.com")[0]


async def test_every_run_uses_the_same_of_several_contacts_with_one_address(world: World) -> None:
    def both(request: httpx.Request) -> httpx.Response | None:
        older = {"id": DOCUMENTED_CONTACT, "created_at": "2025-01-01T00:00:00Z"}
        newer = {"id": "cont_AAAA", "created_at": "2025-01-02T00:00:00Z"}
        pair = [older, newer] if len(world.transport.requests) % 2 else [newer, older]
        return httpx.Response(200, json={"data": pair}) if request.url.path.endswith("/contacts") else None

    world.transport.before = both
    await world.apply(booked("1"), booked("2", contact=BOB))

    assert [DOCUMENTED_CONTACT] * 2 == [visit["contact_id"] for visit in world.harness.visits()]


async def test_a_contact_is_created_once_for_many_visits(world: World) -> None:
    world.harness.inject_faults(slow_share=1, slow_s=0.02)
    for number in range(8):
        await world.accept(booked(str(number)))

    await asyncio.gather(*map(world.run_task, await world.ledger.task_ids("queued")))

    assert 1 == world.calls().count("POST /contacts")
    assert 1 == len(world.contacts("ada@example.com"))
    assert 8 == len(world.harness.visits())


async def test_a_deleted_contact_is_looked_up_again_after_a_replay(world: World) -> None:
    await world.apply(booked("1"))
    world.harness.control("POST", "reset")
    await world.apply(booked("2"))

    assert ("parked", "POST /visits: 422") == ((await world.load_task("2")).state, (await world.load_task("2")).reason)
    await world.ledger.replay("visit:main/standard-2")
    await world.run()

    assert ["standard-2"] == [visit["external_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_contact_is_looked_up_after_a_create_response_without_a_body(world: World, status: int) -> None:
    world.transport.after = lambda request: httpx.Response(status) if route_of(request) == "POST /contacts" else None

    states = await world.apply(booked())

    assert ["done"] == states
    assert 1 == len(world.contacts("ada@example.com"))


async def test_a_run_waits_for_a_created_contact_that_is_not_listed_yet(world: World) -> None:
    lists = itertools.count()

    def lagging(request: httpx.Request) -> httpx.Response | None:
        if route_of(request) == "POST /contacts":
            return httpx.Response(202)
        if route_of(request) == "GET /contacts" and next(lists) < 2:
            return httpx.Response(200, json={"has_more": False, "data": []})
        return None

    world.transport.after = lagging
    first = await world.apply(booked())
    await world.advance_time(3_600)
    await world.run()

    assert ["waiting"] == first
    assert 1 == len(world.harness.visits())
    assert 1 == len(world.contacts("ada@example.com"))


@pytest.mark.parametrize("status", [409, 422])
async def test_a_contact_that_was_created_meanwhile_is_used(world: World, status: int) -> None:
    def create_first(request: httpx.Request) -> httpx.Response | None:
        """Create the contact before the run does."""
        if route_of(request) != "POST /contacts":
            return None
        url, headers = f"{world.harness.env['VISITS_API_URL']}/contacts", {"authorization": "Bearer t"}
        world.harness.http.post(url, data={"email": "ada@example.com"}, headers=headers)
        return httpx.Response(status)

    world.transport.before = create_first
    states = await world.apply(booked())

    assert ["done"] == states
    assert [world.contacts("ada@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


async def test_a_rejected_address_is_parked_with_the_response(world: World) -> None:
    await world.apply(booked(contact=Contact(email="no address")))

    member = await world.load_task()
    assert ("parked", "POST /contacts: 422") == (member.state, member.reason)
    assert "must be an e-mail address" in member.attempts[-1].response_text
    assert "no address" not in member.reason


async def test_another_contact_gets_a_new_visit_with_the_same_id(world: World) -> None:
    await world.apply(booked(amount_collected=Decimal(3)))
    world.clear_calls()

    await world.apply(change(version=2, contact=BOB))

    assert ["GET /contacts", "POST /contacts", "DELETE /visits/:id", "POST /visits"] == world.calls()
    assert [world.contacts("bob@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "3.00",
    } == world.visit()


async def test_another_contact_does_not_inherit_the_name_of_the_first(world: World) -> None:
    await world.apply(booked(), change(version=2, contact=Contact(email="bob@example.com")))

    (bob,) = world.contacts("bob@example.com")
    assert {"first_name", "last_name", "phone"}.isdisjoint(bob)


async def test_another_address_of_the_same_contact_changes_nothing(world: World) -> None:
    await world.apply(booked(contact=Contact(id=DOCUMENTED_CONTACT)))

    await world.apply(change(version=2, contact=Contact(id=DOCUMENTED_CONTACT, email="ada@example.com")))

    assert [DOCUMENTED_CONTACT] == [visit["contact_id"] for visit in world.harness.visits()]
    assert {"DELETE /visits/:id", "POST /contacts"}.isdisjoint(world.calls())


async def test_a_cancelled_visit_moves_to_its_new_contact_when_it_is_booked_again(world: World) -> None:
    await world.apply(booked())
    await world.apply(cancelled(version=2, contact=BOB))

    await world.apply(booked(version=3, contact=BOB, date_cancelled=None))

    assert [world.contacts("bob@example.com")[0]["id"]] == [visit["contact_id"] for visit in world.harness.visits()]


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "at-once"])
async def test_a_cancelled_visit_of_another_contact_does_not_depend_on_batching(world: World, at_once: bool) -> None:
    await world.apply(booked())

    if at_once:
        await world.apply(change(version=2, contact=BOB), cancelled(version=3))
    else:
        await world.apply(change(version=2, contact=BOB))
        await world.apply(cancelled(version=3))

    (visit,) = world.harness.visits()
    assert world.contacts("bob@example.com")[0]["id"] == visit["contact_id"]
    assert "2026-03-14T08:00:00Z" == visit["date_cancelled"]


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "at-once"])
async def test_a_cancelled_visit_stays_if_the_api_does_not_clear_fields(world: World, at_once: bool) -> None:
    world.harness.inject_faults(empty_clears=False)
    await world.apply(booked(amount_collected=Decimal(90)))
    back, off = change(version=2, amount_collected=None), cancelled(version=3)

    for changes in [[back, off]] if at_once else [[back], [off]]:
        await world.apply(*changes)

    (visit,) = world.harness.visits()
    assert "2026-03-14T08:00:00Z" == visit["date_cancelled"]
    assert "amount_collected" not in visit


async def test_a_visit_of_another_program_keeps_its_contact_if_the_api_does_not_clear_fields(world: World) -> None:
    world.harness.inject_faults(empty_clears=False)
    visit = {"contact_id": DOCUMENTED_CONTACT, "external_id": "standard-1", "amount_collected": "7.00"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits", data=visit, headers={"authorization": "Bearer t"}
    )

    await world.apply(change(time_scheduled=at(9), amount_collected=None))

    (made,) = world.harness.visits()
    assert DOCUMENTED_CONTACT == made["contact_id"]
    assert "amount_collected" not in made


async def test_a_visit_of_another_program_is_not_deleted_if_nobody_told_doorbell_its_time(world: World) -> None:
    world.harness.inject_faults(empty_clears=False)
    visit = {"contact_id": DOCUMENTED_CONTACT, "external_id": "standard-1", "event_date": "2026-03-14T09:00:00Z"}
    world.harness.http.post(
        f"{world.harness.env['VISITS_API_URL']}/visits",
        data=visit | {"amount_collected": "7.00"},
        headers={"authorization": "Bearer t"},
    ).raise_for_status()

    states = await world.apply(change(amount_collected=None))

    assert (["waiting"], "time_unknown") == (states, (await world.load_task()).reason)
    [unchanged] = world.harness.visits()
    assert visit == {name: unchanged[name] for name in visit}


# Missing facts


async def test_a_visit_without_an_address_waits_for_one(world: World) -> None:
    states = await world.apply(booked(contact=None))

    member = await world.load_task()
    assert (["waiting"], "contact_unknown") == (states, member.reason)
    assert member.retry_at_ms is not None
    assert 86_390 < member.retry_at_ms / 1000 - time.time() < 86_401
    assert ["done"] == await world.apply(change(version=2, contact=ADA))
    assert 1 == len(world.harness.visits())


async def test_a_name_without_an_address_creates_no_contact(world: World) -> None:
    states = await world.apply(booked(contact=Contact(first_name="Ada", phone="+15550100001", email=" ")))

    assert (["waiting"], []) == (states, world.harness.visits())


async def test_a_visit_without_an_address_is_parked_after_a_day(world: World) -> None:
    await world.apply(booked(contact=None))
    await world.advance_time(86_000)
    await world.apply(change(version=2, amount_collected=Decimal(2)))
    before = (await world.load_task()).state
    await world.advance_time(500)
    await world.run()

    member = await world.load_task()
    assert ("waiting", "parked", "contact_unknown") == (before, member.state, member.reason)


async def test_the_wait_for_an_address_is_a_setting(world: World) -> None:
    world.configure(CONTACT_FOR_S="60")
    await world.apply(booked(contact=None))
    await world.advance_time(61)

    assert ["parked"] == await world.run()


async def test_an_operator_chooses_the_contact(world: World) -> None:
    await world.apply(booked(contact=None))
    await world.advance_time(86_500)
    await world.run()

    await world.ledger.assign_contact(
        "visit:main/standard-1", change(version=2**60, contact=Contact(id=DOCUMENTED_CONTACT))
    )
    await world.ledger.replay("visit:main/standard-1")
    states = await world.run()

    assert ["done"] == states
    assert [(DOCUMENTED_CONTACT, "standard-1")] == [
        (visit["contact_id"], visit["external_id"]) for visit in world.harness.visits()
    ]
    assert ["done"] == await world.apply(change(version=3, time_scheduled=at(15)))
    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["event_date"]


async def test_the_contact_of_an_operator_requeues_the_visit(world: World) -> None:
    await world.apply(booked(contact=None))

    await world.ledger.assign_contact(
        "visit:main/standard-1", change(version=2**60, contact=Contact(id=DOCUMENTED_CONTACT))
    )

    assert ["done"] == await world.run()


EARLIER_FAULTS = {
    "down": {"down": True},
    "401": {"unauthorized": True},
    "429": {"rate_limited_share": 1},
    "reset": {"reset_share": 1},
}


@pytest.mark.parametrize("faults", EARLIER_FAULTS.values(), ids=EARLIER_FAULTS)
async def test_a_missing_address_is_used_at_once_also_after_errors(world: World, faults: dict[str, Any]) -> None:
    world.harness.inject_faults(**faults)
    await world.apply(booked(contact=None))
    world.harness.clear_faults()
    await world.advance_time(60)
    await world.run()
    assert "contact_unknown" == (await world.load_task()).reason

    states = await world.apply(change(version=2, contact=ADA))

    assert ["done"] == states
    assert 1 == len(world.harness.visits())


# Opt-out


async def test_an_opt_out_creates_no_visit(world: World) -> None:
    states = await world.apply(booked(opted_out=True))

    assert (["done"], []) == (states, world.harness.visits())
    assert [] == world.contacts("ada@example.com")


async def test_a_later_opt_out_cancels_the_visit_until_it_is_withdrawn(world: World) -> None:
    await world.apply(booked(opted_out=False))
    await world.apply(change(version=2, opted_out=True))
    off = (world.visit() or {}).get("date_cancelled")

    await world.apply(change(version=3, opted_out=False))

    assert off
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()
