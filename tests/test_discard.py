"""Discards: what is planned is what is given up, and nothing else."""

import asyncio
from typing import Any

from test_apply import World, booked, change, hands, world
from test_apply import at as hour
from test_replay import of, refused

from app.cli.filters import filter_of
from app.discard import Discard
from app.visits.words import Contact

__all__ = ["hands", "world"]


async def plan(world: World, **words: Any) -> list[tuple[str, str]]:
    """What is selected, and why it would be left alone; empty: it would be given up."""
    discard = Discard(world.ledger, world.context.settings)
    return sorted([(step.id, step.skip) async for step in discard.plan(filter_of(words))])


async def carry_out(world: World, only: set[str] | None = None, **words: Any) -> list[tuple[str, str]]:
    done: list[tuple[str, str]] = []
    discard = Discard(world.ledger, world.context.settings)
    await discard.carry_out(filter_of(words), lambda step, state: done.append((step.id, state)), only)
    return sorted(done)


async def test_what_is_planned_is_given_up(world: World) -> None:
    await world.apply(booked("3"))
    await refused(world, "1", "2")
    one, two, three = "standard-1", "standard-2", "standard-3"

    by_id = await plan(world, ids=(one, "nobody", three))

    assert [("nobody", "unknown"), (one, ""), (three, "nothing to give up")] == sorted(by_id)
    assert [(one, ""), (two, "")] == await plan(world, state="parked")
    assert [(two, "")] == await plan(world, state="parked", reason="422", visit="2")
    assert [] == await plan(world, state="parked", hook="calendly")
    assert 2 == len(await world.ledger.works("parked"))

    done = await carry_out(world, ids=(one, "nobody", three))

    assert [("nobody", "unknown"), (one, "discarded"), (three, "nothing to give up")] == done
    assert [of("2")] == await world.ledger.works("parked")
    assert [(one, "nothing to give up")] == await plan(world, ids=(one,))


async def test_of_a_delivery_only_its_own_changes_are_given_up(world: World) -> None:
    await world.apply(booked())
    [first] = await deliveries(world)
    world.rig.misbehave(error_share=1)
    await world.apply(change(order=2, time_scheduled=hour(12)))
    [second] = set(await deliveries(world)) - {first}

    assert [(first, "nothing to give up")] == await plan(world, ids=(first,))
    assert [(second, "")] == await plan(world, ids=(second,))
    assert [(first, "nothing to give up"), (second, "discarded")] == await carry_out(world, ids=(first, second))

    assert {f"{second}.0"} == set((await world.member()).discarded)


async def test_what_failed_after_the_plan_was_made_is_left_alone(world: World) -> None:
    await refused(world, "1")
    planned_at = await world.ledger.now()
    await asyncio.sleep(0.01)
    await refused_again(world, "2")

    assert [("standard-1", "discarded"), ("standard-2", "not in the plan")] == await carry_out(
        world, {of("1")}, state="parked"
    )
    # What the console plans is told by its time: that of the failure, where the change is older.
    await world.redis.command("HSET", f"db:{of('2')}", "since", int(planned_at.timestamp() * 1000) - 60_000)
    assert [("standard-2", "failed since")] == await plan(world, state="parked", until=planned_at)
    assert [("standard-2", "")] == await plan(world, state="parked", until=await world.ledger.now())


async def test_what_landed_after_a_discard_can_be_given_up_too(world: World) -> None:
    world.rig.misbehave(error_share=1)
    await world.land(booked("1"), change("2", 2, continues="1", time_scheduled=hour(12)))
    await world.do(of("1"))
    await carry_out(world, ids=("standard-1",))
    await world.land(change("2", 3, time_scheduled=hour(13)))

    assert [("standard-2", "")] == await plan(world, ids=("standard-2",))
    assert [("standard-2", "discarded")] == await carry_out(world, ids=("standard-2",))


async def refused_again(world: World, visit_id: str) -> None:
    world.rig.misbehave(duplicate_external_id="unprocessable")
    await world.land(booked(visit_id, contact=Contact(id="cont_nobody")))
    await world.run()
    world.rig.behave()


async def test_what_a_worker_has_in_its_hands_is_left_alone(world: World) -> None:
    await world.land(booked())
    await world.ledger.begin(of("1"), "main")

    assert [("standard-1", "running")] == await plan(world, ids=("standard-1",))
    assert [("standard-1", "running")] == await carry_out(world, ids=("standard-1",))


async def deliveries(world: World) -> list[str]:
    return [id.decode() for id in await world.redis.command("ZRANGE", "db:deliveries:standard", 0, -1)]
