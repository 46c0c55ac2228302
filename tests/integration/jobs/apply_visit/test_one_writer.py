"""One writer for each visit."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from jobs.apply_visit import run_visit
from jobs.context import Context
from tests.support.harness import wait_until
from tests.support.visit_worker import ADA, BOB, World, at, booked, change, route_of


def overlaps(journal: Sequence[dict[str, Any]], external_id: str) -> list[tuple[Any, Any]]:
    """Return pairs of calls for one visit of which the second began before the first one ended."""
    calls = [call for call in journal if external_id in (call["id"], call["external_id"])]
    spans = sorted((datetime.fromisoformat(call["at"]), call["took_ms"], call["number"]) for call in calls)
    return [
        (first, second)
        for first, second in itertools.pairwise(spans)
        if second[0] < first[0] + timedelta(milliseconds=first[1] - 2)  # `at` is in whole milliseconds
    ]


async def test_two_workers_never_write_one_visit_at_once(world: World) -> None:
    await world.apply(booked("2"))  # a new Redis grants no lease for two seconds
    world.clear_calls()
    world.harness.inject_faults(slow_share=1, slow_s=0.01, empty_clears=False)
    rng = random.Random(5)

    async def worker() -> None:
        while not sending.done():
            await run_visit(world.context, "main", "standard-1")
            await asyncio.sleep(rng.random() / 100)

    async def tool() -> None:
        for order in range(1, 30):
            fields = {"date_cancelled": at(8) if order % 3 == 0 else None, "contact": (ADA, BOB)[order // 7 % 2]}
            await world.accept(booked("1", order, order % 24, **fields))
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(tool())
    await asyncio.gather(sending, *(worker() for _ in range(8)))
    await world.run()

    journal = world.harness.journal()
    assert len(journal) > 10
    assert [] == overlaps(journal, "standard-1")
    assert {"time_scheduled": "2026-03-14T05:00:00Z", "event_date": "2026-03-14T05:00:00Z"} == world.visit()


async def test_a_second_job_for_a_leased_visit_makes_no_call(world: World, redis: Redis) -> None:
    other_ledger = Ledger(redis, retention_days=30)
    other_worker = Context(world.context.settings, other_ledger, world.context.http)
    world.transport.response_gates = {"POST /visits": asyncio.Event()}
    await world.accept(booked())
    first = asyncio.create_task(run_visit(world.context, "main", "standard-1"))
    await asyncio.to_thread(wait_until, world.harness.visits)
    calls = world.calls()

    second = await run_visit(other_worker, "main", "standard-1")
    calls_of_second = world.calls()[len(calls) :]
    world.transport.response_gates["POST /visits"].set()

    assert ("busy", []) == (second, calls_of_second)
    assert "done" == await first
    assert 1 == len(world.harness.visits())


async def test_a_change_that_arrives_during_a_run_is_applied_by_the_next_run(world: World) -> None:
    create_sent = asyncio.Event()

    async def store_change() -> None:
        await create_sent.wait()
        await world.accept(change(version=2, time_scheduled=at(15)))

    def before_request(request: httpx.Request) -> None:
        if route_of(request) == "POST /visits":
            create_sent.set()

    world.transport.before = before_request
    world.harness.inject_faults(slow_share=1, slow_s=0.05, only=["POST /visits"])
    storing = asyncio.create_task(store_change())
    states = await world.apply(booked())
    await storing

    assert ["done", "done"] == states
    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["event_date"]


async def test_a_run_that_lost_its_lease_stores_nothing(world: World) -> None:
    world.transport.response_gates = {"POST /visits": asyncio.Event()}
    await world.accept(booked())
    first = asyncio.create_task(run_visit(world.context, "main", "standard-1"))
    await asyncio.to_thread(wait_until, world.harness.visits)
    await world.advance_time(60)

    states = await world.run()
    world.transport.response_gates["POST /visits"].set()
    await first

    member = await world.load_task()
    assert ["done"] == states
    assert ("done", 1, 1) == (member.state, len(member.attempts), len(world.harness.visits()))
