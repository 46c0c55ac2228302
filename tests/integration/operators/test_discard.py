"""Discards: plans and their execution."""

import asyncio
from typing import Any

import pytest

from app.cli.options import build_filter
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.operators.discard import Discard
from app.visits.change import Contact
from tests.support.ledger import accept, visit_task
from tests.support.visit_worker import World, booked, change, park_visits
from tests.support.visit_worker import at as hour


async def plan(world: World, planned_at_ms: float = float("inf"), **conditions: Any) -> list[tuple[str, str]]:
    """Return the selected ids with the reason why each would be skipped, if any."""
    discard = Discard(world.ledger, world.context.settings, planned_at_ms)
    return sorted(
        [(planned_task.id, planned_task.skip_reason) async for planned_task in discard.plan(build_filter(conditions))]
    )


async def execute(world: World, planned_at_ms: float = float("inf"), **conditions: Any) -> list[tuple[str, str]]:
    done: list[tuple[str, str]] = []
    discard = Discard(world.ledger, world.context.settings, planned_at_ms)
    await discard.execute(build_filter(conditions), lambda planned_task, state: done.append((planned_task.id, state)))
    return sorted(done)


async def test_a_discard_executes_its_plan(world: World) -> None:
    await world.apply(booked("3"))
    await park_visits(world, "1", "2")
    first, second, third = "standard-1", "standard-2", "standard-3"

    by_id = await plan(world, ids=(first, "nobody", third))

    assert [("nobody", "unknown"), (first, ""), (third, "nothing_to_discard")] == sorted(by_id)
    assert [(first, ""), (second, "")] == await plan(world, state="parked")
    assert [(second, "")] == await plan(world, state="parked", reason="422", visit="2")
    assert [] == await plan(world, state="parked", hook="calendly")
    assert 2 == len(await world.ledger.task_ids("parked"))

    done = await execute(world, ids=(first, "nobody", third))

    assert [("nobody", "unknown"), (first, "discarded"), (third, "nothing_to_discard")] == done
    assert [visit_task("2")] == await world.ledger.task_ids("parked")
    assert [(first, "nothing_to_discard")] == await plan(world, ids=(first,))


async def test_a_discard_of_a_delivery_drops_only_its_changes(world: World) -> None:
    await world.apply(booked())
    [first] = await deliveries(world)
    world.harness.inject_faults(error_share=1)
    await world.apply(change(version=2, time_scheduled=hour(12)))
    [second] = set(await deliveries(world)) - {first}

    assert [(first, "nothing_to_discard")] == await plan(world, ids=(first,))
    assert [(second, "")] == await plan(world, ids=(second,))
    assert [(first, "nothing_to_discard"), (second, "discarded")] == await execute(world, ids=(first, second))

    assert {f"{second}.0"} == set((await world.load_task()).discarded_changes)


@pytest.mark.parametrize("conditions", [{"ids": ("standard-1", "standard-2")}, {"state": "parked"}])
async def test_changes_after_the_plan_are_not_discarded(world: World, conditions: dict[str, Any]) -> None:
    await park_visits(world, "1", "2")
    await asyncio.sleep(0.01)
    planned_at_ms = (await world.ledger.server_time()).timestamp() * 1000
    await asyncio.sleep(0.01)
    await park_again(world, "2", "3")

    planned = dict(await plan(world, planned_at_ms, **conditions))
    done = dict(await execute(world, planned_at_ms, **conditions))

    changed = {"standard-2": "changed_since_plan", "standard-3": "changed_since_plan"}
    if "ids" in conditions:
        del changed["standard-3"]
    assert {"standard-1": ""} | changed == planned
    assert {"standard-1": "discarded"} | changed == done
    assert [visit_task("2"), visit_task("3")] == sorted(await world.ledger.task_ids("parked"))
    assert 2 == len((await world.load_task("2")).changes)


@pytest.mark.parametrize("by", ["a catch-up", "an operator"])
async def test_a_change_without_a_webhook_after_the_plan_is_not_discarded(
    world: World, ledger: Ledger, by: str
) -> None:
    await park_visits(world, "1")
    planned_at_ms = (await world.ledger.server_time()).timestamp() * 1000
    await asyncio.sleep(0.01)
    if by == "a catch-up":
        await accept(ledger, change(version=2, time_scheduled=hour(12)), is_listed=True)
    else:
        await ledger.assign_contact(TaskId(visit_task("1")), change(version=2, contact=Contact(id="cont_1")))

    assert [("standard-1", "changed_since_plan")] == await execute(world, planned_at_ms, ids=("standard-1",))
    assert not (await world.load_task()).discarded_changes


async def test_changes_after_a_discard_can_be_discarded(world: World) -> None:
    world.harness.inject_faults(error_share=1)
    await world.accept(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    await world.run_task(visit_task("1"))
    await execute(world, ids=("standard-1",))
    await world.accept(change("2", 3, time_scheduled=hour(13)))

    assert [("standard-2", "")] == await plan(world, ids=("standard-2",))
    assert [("standard-2", "discarded")] == await execute(world, ids=("standard-2",))


async def park_again(world: World, *visits: str) -> None:
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    for visit_id in visits:
        await world.accept(booked(visit_id, version=2, contact=Contact(id="cont_nobody")))
    await world.run()
    world.harness.clear_faults()


async def test_a_running_task_is_not_discarded(world: World) -> None:
    await world.accept(booked())
    await world.ledger.lease(visit_task("1"), "main")

    assert [("standard-1", "running")] == await plan(world, ids=("standard-1",))
    assert [("standard-1", "running")] == await execute(world, ids=("standard-1",))


async def deliveries(world: World) -> list[str]:
    return [id.decode() for id in await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)]
