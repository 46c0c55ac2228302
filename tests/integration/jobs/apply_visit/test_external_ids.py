"""An external_id that exists already, and visits that were deleted."""

import itertools
from decimal import Decimal
from urllib.parse import parse_qsl

import httpx
import pytest

from app.ledger.ids import TaskId
from app.ledger.records import Lease
from app.visits.change import VisitChange
from tests.support.ledger import accept, attempt
from tests.support.visit_worker import (
    ADA,
    BOB,
    World,
    at,
    booked,
    cancelled,
    change,
    create_in_api,
    external_ids,
    route_of,
)


@pytest.mark.parametrize(
    "policy", [pytest.param("conflict", id="409"), pytest.param("unprocessable", id="422"), "upsert"]
)
async def test_a_visit_that_a_lookup_missed_is_not_duplicated(world: World, policy: str) -> None:
    await world.apply(booked(contact=ADA))
    await world.redis.command("FLUSHDB")
    world.clear_calls()
    lookups = itertools.count()

    def lagging_replica(request: httpx.Request) -> httpx.Response | None:
        """Respond with 404 to the first lookup, as a replica that does not have the visit yet."""
        is_first = route_of(request) == "GET /visits/:id" and next(lookups) == 0
        return httpx.Response(404) if is_first else None

    world.transport.before = lagging_replica
    world.harness.inject_faults(duplicate_external_id=policy)
    states = await world.apply(booked(version=2, hour=15))

    assert (["done"], 1) == (states, len(world.harness.visits()))
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("policy", ["allow", "conflict", "unprocessable", "upsert"])
async def test_every_policy_for_duplicate_ids_is_supported(world: World, policy: str) -> None:
    world.harness.inject_faults(
        duplicate_external_id=policy, commit_then_hang_share=1, hang_s=0.01, only=["POST /visits"], times=1
    )

    await world.apply(booked())
    await world.advance_time(3_600)
    await world.run()
    await world.apply(change(version=2, contact=BOB))
    await world.apply(cancelled(version=3))
    world.harness.inject_faults(empty_clears=False)
    await world.apply(booked(version=4, hour=15, date_cancelled=None, contact=BOB))

    assert 1 == len(world.harness.visits())
    assert {"time_scheduled": "2026-03-14T15:00:00Z", "event_date": "2026-03-14T15:00:00Z"} == world.visit()


@pytest.mark.parametrize("status", [400, 409, 422, 302])
async def test_a_rejected_visit_is_parked_with_the_response(world: World, status: int) -> None:
    quoted = f"no visit for ada@example.com {'x' * 600}"
    world.transport.before = lambda request: (
        httpx.Response(status, text=quoted) if route_of(request) == "POST /visits" else None
    )

    states = await world.apply(booked())

    member = await world.load_task()
    assert (["parked"], f"POST /visits: {status}") == (states, member.reason)
    assert quoted[:500] == member.attempts[-1].response_text
    assert ["POST /visits", status] in member.attempts[-1].calls


async def test_a_parked_visit_runs_again_with_the_next_change(world: World) -> None:
    world.transport.before = lambda request: httpx.Response(422) if route_of(request) == "POST /visits" else None
    await world.apply(booked())
    world.transport.before = lambda request: None

    assert ["done"] == await world.apply(change(version=2, amount_collected=Decimal(1)))
    assert "1.00" == (world.visit() or {})["amount_collected"]


async def translate(world: World, event: TaskId, *changes: VisitChange) -> None:
    lease = await world.ledger.lease(event)
    assert isinstance(lease, Lease)
    await world.ledger.record_changes(lease, "standard", "main", changes, attempt("translated"))


@pytest.mark.parametrize(
    ("is_foreign", "fails_first"),
    [(False, ""), (True, ""), (True, "GET /visits/:id"), (True, "PUT /visits/:id"), (False, "POST /visits")],
)
async def test_a_visit_whose_changes_are_retracted_is_deleted_if_doorbell_created_it(
    world: World, is_foreign: bool, fails_first: str
) -> None:
    """A payment may name the visit of another program, and its delivery may be translated again."""
    if is_foreign:
        create_in_api(world, external_id="standard-1", time_scheduled="2026-03-14T09:00:00Z")
    if fails_first:
        world.harness.inject_faults(error_share=1, error_status=500, only=[fails_first], times=1)
    event = TaskId.event((await accept(world.ledger, event_state="queued")).delivery_id)
    contact = None if is_foreign else ADA
    await translate(world, event, booked(amount_collected=Decimal(5), contact=contact))
    await world.run()
    await world.advance_time(60)
    await world.run()
    before = world.visit()

    await world.ledger.retranslate(event.delivery_id)
    await translate(world, event)
    await world.run()

    assert "5.00" == (before or {})["amount_collected"]
    expected = ("kept", ["standard-1"]) if is_foreign else ("deleted", [])
    assert expected == ((await world.load_task()).attempts[-1].outcome, external_ids(world))


async def test_a_visit_that_another_program_creates_during_the_run_is_kept_after_a_retraction(world: World) -> None:
    def another_program_is_first(request: httpx.Request) -> None:
        if route_of(request) == "POST /visits" and not external_ids(world):
            create_in_api(world, **dict(parse_qsl(request.content.decode())) | {"amount_collected": "1.00"})

    world.harness.inject_faults(duplicate_external_id="conflict")
    world.transport.before = another_program_is_first
    event = TaskId.event((await accept(world.ledger, event_state="queued")).delivery_id)
    await translate(world, event, booked(amount_collected=Decimal(5), contact=ADA))
    await world.run()
    before = world.visit()

    await world.ledger.retranslate(event.delivery_id)
    await translate(world, event)
    await world.run()

    assert "5.00" == (before or {})["amount_collected"]
    assert ("kept", ["standard-1"]) == ((await world.load_task()).attempts[-1].outcome, external_ids(world))


@pytest.mark.parametrize("status", [500, 504])
async def test_a_recreated_visit_is_deleted_after_a_retraction_although_its_create_had_no_answer(
    world: World, status: int
) -> None:
    event = TaskId.event((await accept(world.ledger, event_state="queued")).delivery_id)
    await translate(world, event, booked(contact=ADA))
    await world.run()

    await world.ledger.retranslate(event.delivery_id)
    world.transport.after = lambda request: httpx.Response(status) if route_of(request) == "POST /visits" else None
    await translate(world, event, booked(contact=BOB))
    await world.run()
    world.transport.after = lambda request: None
    recreated = external_ids(world)
    await world.advance_time(60)
    await world.run()

    await world.ledger.retranslate(event.delivery_id)
    await translate(world, event)
    await world.run()

    assert ["standard-1"] == recreated
    assert ("deleted", []) == ((await world.load_task()).attempts[-1].outcome, external_ids(world))


async def test_a_visit_of_another_program_under_a_later_id_is_not_deleted(world: World) -> None:
    create_in_api(world, external_id="standard-2", time_scheduled="2026-03-14T09:00:00Z")
    await world.apply(booked(visit_id="2", contact=None))

    await world.apply(change(visit_id="2", version=2, contact=ADA, previous_visit_id="1"))

    assert ["standard-1", "standard-2"] == external_ids(world)


async def test_a_deleted_visit_that_still_exists_is_deleted_again(world: World) -> None:
    await world.apply(booked(contact=ADA))
    world.harness.inject_faults(duplicate_external_id="conflict")
    deletions = itertools.count()

    def lagging(request: httpx.Request) -> httpx.Response | None:
        """Delete only at the second call."""
        is_first = route_of(request) == "DELETE /visits/:id" and next(deletions) == 0
        return httpx.Response(204) if is_first else None

    world.transport.before = lagging
    first = await world.apply(change(version=2, contact=BOB))
    await world.advance_time(3_600)
    await world.run()

    [visit], [bob] = world.harness.visits(), world.contacts("bob@example.com")
    assert (["waiting"], bob["id"]) == (first, visit["contact_id"])


async def test_a_deleted_visit_is_recreated_by_the_next_change(world: World) -> None:
    await world.apply(booked())
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.delete(url, headers={"authorization": "Bearer t"}).raise_for_status()
    world.clear_calls()

    await world.apply(change(version=2, amount_collected=Decimal(5)))

    assert ["PUT /visits/:id", "POST /visits"] == world.calls()
    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": "5.00",
    } == world.visit()


async def test_a_deleted_visit_is_recreated_by_a_replay_with_recheck(world: World) -> None:
    await world.apply(booked())
    url = f"{world.harness.env['VISITS_API_URL']}/visits/standard-1"
    world.harness.http.delete(url, headers={"authorization": "Bearer t"}).raise_for_status()

    await world.ledger.replay("visit:main/standard-1", recheck=True)
    await world.run()

    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == world.visit()


async def test_a_replay_of_an_applied_visit_changes_nothing(world: World) -> None:
    await world.apply(booked(), change(version=2, time_scheduled=at(15), amount_collected=Decimal(5)))
    before = world.harness.visits()
    world.clear_calls()

    for recheck in (False, True, True):
        await world.ledger.replay("visit:main/standard-1", recheck=recheck)
        await world.run()

    assert before == world.harness.visits()
    assert ["GET /visits/:id"] * 2 == world.calls()
