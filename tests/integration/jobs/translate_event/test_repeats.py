"""Repeats of an event while it is fetched and afterwards."""

import asyncio

import pytest

from tests.support.tool_api import BOOKED, CANCELLED, MOVED, MOVED_AGAIN, SPECIMENS, Doorstep, says


async def test_a_repeat_that_may_be_another_event_is_fetched_anew(world: Doorstep) -> None:
    for delivery in (BOOKED, MOVED, MOVED_AGAIN):
        world.tool.keep("acuity", delivery)
        answer = await world.ring("acuity", delivery)
        await world.run()

    assert (200, True) == (answer.status_code, answer.json()["repeat"])
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_that_rings_while_the_first_is_being_fetched_is_not_lost(world: Doorstep) -> None:
    """The first look saw the appointment before it moved again; the second ring is the only word of that."""
    world.tool.keep("acuity", MOVED)
    world.tool.open.clear()
    first = await world.ring("acuity", MOVED)
    fetching = asyncio.create_task(world.do(f"event:{first.json()['delivery']}"))
    await world.asked(1)
    world.tool.keep("acuity", MOVED_AGAIN)

    second = await world.ring("acuity", MOVED_AGAIN)
    world.tool.open.set()
    await fetching
    await world.run()

    assert 200 == second.status_code
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_that_rings_while_the_first_waits_costs_no_second_fetch(world: Doorstep) -> None:
    world.tool.keep("acuity", BOOKED)
    world.tool.trouble = [says(503)]
    await world.ring("acuity", BOOKED)
    await world.run()
    world.tool.trouble = []
    await world.ring("acuity", BOOKED)

    early = await world.run()
    await world.later(3_600)
    await world.run()

    assert ([], 2) == (early, len(world.tool.seen))
    assert 1 == len(world.harness.visits())


async def test_a_repeat_with_a_name_of_its_own_is_not_fetched_again(world: Doorstep) -> None:
    delivery = SPECIMENS["square"]["deliveries"][0]
    world.tool.keep("square", delivery)
    await world.ring("square", delivery)
    await world.run()

    again = await world.ring("square", delivery)
    await world.run()

    assert (200, 1) == (again.status_code, len(world.tool.seen))


@pytest.mark.parametrize("backwards", [False, True], ids=["in-order", "the-last-first"])
async def test_whatever_is_fetched_last_stands(world: Doorstep, backwards: bool) -> None:
    rung = [await world.ring("acuity", delivery) for delivery in (BOOKED, MOVED, CANCELLED)]
    order = rung[::-1] if backwards else rung
    world.tool.keep("acuity", CANCELLED)

    for answer in order:
        await world.do(f"event:{answer.json()['delivery']}")
    await world.run()

    assert [] == world.harness.visits()  # It was off before anybody made it.
