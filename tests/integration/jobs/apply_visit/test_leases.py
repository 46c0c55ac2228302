"""One writer for each visit."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx

from jobs.apply_visit import run_visit
from tests.support.harness import wait_until
from tests.support.visit_worker import ADA, BOB, World, at, booked, change, route_of


def overlaps(journal: Sequence[dict[str, Any]], external_id: str) -> list[tuple[Any, Any]]:
    """Pairs of calls on one visit of which the second began before the first was over."""
    mine = [call for call in journal if external_id in (call["id"], call["external_id"])]
    spans = sorted((datetime.fromisoformat(call["at"]), call["took_ms"], call["number"]) for call in mine)
    return [
        (one, other)
        for one, other in itertools.pairwise(spans)
        if other[0] < one[0] + timedelta(milliseconds=one[1] - 2)  # `at` is in whole milliseconds
    ]


async def test_two_workers_never_write_one_visit_at_once(world: World) -> None:
    world.harness.inject_faults(slow_share=1, slow_s=0.01, empty_clears=False)
    dice = random.Random(5)

    async def worker() -> None:
        while not telling.done():
            await run_visit(world.context, "main", "standard-1")
            await asyncio.sleep(dice.random() / 100)

    async def tool() -> None:
        for order in range(1, 30):
            said = {"date_cancelled": at(8) if order % 3 == 0 else None, "contact": (ADA, BOB)[order // 7 % 2]}
            await world.land(booked("1", order, order % 24, **said))
            await asyncio.sleep(0.02)

    telling = asyncio.create_task(tool())
    await asyncio.gather(telling, *(worker() for _ in range(8)))
    await world.run()

    journal = world.harness.journal()
    assert len(journal) > 10
    assert [] == overlaps(journal, "standard-1")
    assert {"time_scheduled": "2026-03-14T05:00:00Z", "event_date": "2026-03-14T05:00:00Z"} == world.visit()


async def test_a_change_that_lands_during_a_run_is_picked_up_by_the_next(world: World) -> None:
    landed = asyncio.Event()

    async def land_when_asked() -> None:
        await landed.wait()
        await world.land(change(order=2, time_scheduled=at(15)))

    def on_the_way(request: httpx.Request) -> None:
        if route_of(request) == "POST /visits":
            landed.set()

    world.wire.before = on_the_way
    world.harness.inject_faults(slow_share=1, slow_s=0.05, only=["POST /visits"])
    landing = asyncio.create_task(land_when_asked())
    states = await world.apply(booked())
    await landing

    assert ["settled", "settled"] == states
    assert "2026-03-14T15:00:00Z" == (world.visit() or {})["event_date"]


async def test_who_lost_the_lease_leaves_no_mark(world: World) -> None:
    world.wire.holds = {"POST /visits": asyncio.Event()}
    await world.land(booked())
    first = asyncio.create_task(run_visit(world.context, "main", "standard-1"))
    await asyncio.to_thread(wait_until, world.harness.visits)
    await world.later(60)

    states = await world.run()
    world.wire.holds["POST /visits"].set()
    await first

    member = await world.member()
    assert ["settled"] == states
    assert ("settled", 1, 1) == (member.state, len(member.attempts), len(world.harness.visits()))
