"""Discards: what is planned is what is given up, and nothing else."""

import asyncio
from typing import Any

import pytest

from app.cli.options import build_filter
from app.operators.discard import Discard
from app.visits.change import Contact
from tests.integration.operators.test_replay import of, refused
from tests.support.visit_worker import World, booked, change
from tests.support.visit_worker import at as hour


async def plan(world: World, planned_at_ms: float = float("inf"), **words: Any) -> list[tuple[str, str]]:
    """The selected ids with the reason why each would be skipped, if any."""
    discard = Discard(world.ledger, world.context.settings, planned_at_ms)
    return sorted([(step.id, step.skip_reason) async for step in discard.plan(build_filter(words))])


async def carry_out(world: World, planned_at_ms: float = float("inf"), **words: Any) -> list[tuple[str, str]]:
    done: list[tuple[str, str]] = []
    discard = Discard(world.ledger, world.context.settings, planned_at_ms)
    await discard.execute(build_filter(words), lambda step, state: done.append((step.id, state)))
    return sorted(done)


async def test_what_is_planned_is_given_up(world: World) -> None:
    await world.apply(booked("3"))
    await refused(world, "1", "2")
    one, two, three = "standard-1", "standard-2", "standard-3"

    by_id = await plan(world, ids=(one, "nobody", three))

    assert [("nobody", "unknown"), (one, ""), (three, "nothing_to_discard")] == sorted(by_id)
    assert [(one, ""), (two, "")] == await plan(world, state="parked")
    assert [(two, "")] == await plan(world, state="parked", reason="422", visit="2")
    assert [] == await plan(world, state="parked", hook="calendly")
    assert 2 == len(await world.ledger.task_ids("parked"))

    done = await carry_out(world, ids=(one, "nobody", three))

    assert [("nobody", "unknown"), (one, "discarded"), (three, "nothing_to_discard")] == done
    assert [of("2")] == await world.ledger.task_ids("parked")
    assert [(one, "nothing_to_discard")] == await plan(world, ids=(one,))


async def test_of_a_delivery_only_its_own_changes_are_given_up(world: World) -> None:
    await world.apply(booked())
    [first] = await deliveries(world)
    world.harness.inject_faults(error_share=1)
    await world.apply(change(version=2, time_scheduled=hour(12)))
    [second] = set(await deliveries(world)) - {first}

    assert [(first, "nothing_to_discard")] == await plan(world, ids=(first,))
    assert [(second, "")] == await plan(world, ids=(second,))
    assert [(first, "nothing_to_discard"), (second, "discarded")] == await carry_out(world, ids=(first, second))

    assert {f"{second}.0"} == set((await world.load_task()).discarded_changes)


@pytest.mark.parametrize("words", [{"ids": ("standard-1", "standard-2")}, {"state": "parked"}])
async def test_what_came_after_the_plan_is_left_alone(world: World, words: dict[str, Any]) -> None:
    await refused(world, "1", "2")
    await asyncio.sleep(0.01)
    planned_at_ms = (await world.ledger.server_time()).timestamp() * 1000
    await asyncio.sleep(0.01)
    await refused_again(world, "2", "3")

    looked = dict(await plan(world, planned_at_ms, **words))
    done = dict(await carry_out(world, planned_at_ms, **words))

    since = {"standard-2": "changed_since_plan", "standard-3": "changed_since_plan"}
    if "ids" in words:
        del since["standard-3"]
    assert {"standard-1": ""} | since == looked
    assert {"standard-1": "discarded"} | since == done
    assert [of("2"), of("3")] == sorted(await world.ledger.task_ids("parked"))
    assert 2 == len((await world.load_task("2")).changes)


async def test_what_landed_after_a_discard_can_be_given_up_too(world: World) -> None:
    world.harness.inject_faults(error_share=1)
    await world.accept(booked("1"), change("2", 2, previous_visit_id="1", time_scheduled=hour(12)))
    await world.run_task(of("1"))
    await carry_out(world, ids=("standard-1",))
    await world.accept(change("2", 3, time_scheduled=hour(13)))

    assert [("standard-2", "")] == await plan(world, ids=("standard-2",))
    assert [("standard-2", "discarded")] == await carry_out(world, ids=("standard-2",))


async def refused_again(world: World, *visits: str) -> None:
    world.harness.inject_faults(duplicate_external_id="unprocessable")
    for visit_id in visits:
        await world.accept(booked(visit_id, version=2, contact=Contact(id="cont_nobody")))
    await world.run()
    world.harness.clear_faults()


async def test_what_a_worker_has_in_its_hands_is_left_alone(world: World) -> None:
    await world.accept(booked())
    await world.ledger.lease(of("1"), "main")

    assert [("standard-1", "running")] == await plan(world, ids=("standard-1",))
    assert [("standard-1", "running")] == await carry_out(world, ids=("standard-1",))


async def deliveries(world: World) -> list[str]:
    return [id.decode() for id in await world.redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)]
