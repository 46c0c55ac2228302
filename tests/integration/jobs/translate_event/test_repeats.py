"""Repeats of an event while it is fetched and afterwards."""

import asyncio

import pytest

from tests.support.tool_api import BOOKED, CANCELLED, MOVED, MOVED_AGAIN, SPECIMENS, ToolWorld, respond_with


async def test_a_repeat_that_may_be_another_event_is_fetched_again(world: ToolWorld) -> None:
    for delivery in (BOOKED, MOVED, MOVED_AGAIN):
        world.tool.add_records("acuity", delivery)
        response = await world.receive("acuity", delivery)
        await world.run()

    assert (200, True) == (response.status_code, response.json()["repeat"])
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_during_the_fetch_is_fetched_again(world: ToolWorld) -> None:
    """The first fetch returned the appointment before its second change, which only the repeat announces."""
    world.tool.add_records("acuity", MOVED)
    world.tool.response_gate.clear()
    first = await world.receive("acuity", MOVED)
    fetching = asyncio.create_task(world.run_task(f"event:{first.json()['delivery']}"))
    await world.wait_for_requests(1)
    world.tool.add_records("acuity", MOVED_AGAIN)

    second = await world.receive("acuity", MOVED_AGAIN)
    world.tool.response_gate.set()
    await fetching
    await world.run()

    assert 200 == second.status_code
    assert ["2026-10-03T13:00:00Z"] == [visit["time_scheduled"] for visit in world.harness.visits()]


async def test_a_repeat_of_a_waiting_event_causes_no_second_fetch(world: ToolWorld) -> None:
    world.tool.add_records("acuity", BOOKED)
    world.tool.overrides = [respond_with(503)]
    await world.receive("acuity", BOOKED)
    await world.run()
    world.tool.overrides = []
    await world.receive("acuity", BOOKED)

    early = await world.run()
    await world.advance_time(3_600)
    await world.run()

    assert ([], 2) == (early, len(world.tool.requests))
    assert 1 == len(world.harness.visits())


async def test_a_repeat_with_an_event_id_is_not_fetched_again(world: ToolWorld) -> None:
    delivery = SPECIMENS["square"]["deliveries"][0]
    world.tool.add_records("square", delivery)
    await world.receive("square", delivery)
    await world.run()

    repeat = await world.receive("square", delivery)
    await world.run()

    assert (200, 1) == (repeat.status_code, len(world.tool.requests))


@pytest.mark.parametrize("backwards", [False, True], ids=["in-order", "reversed"])
async def test_a_record_that_is_cancelled_before_its_events_run_creates_no_visit(
    world: ToolWorld, backwards: bool
) -> None:
    responses = [await world.receive("acuity", delivery) for delivery in (BOOKED, MOVED, CANCELLED)]
    order = responses[::-1] if backwards else responses
    world.tool.add_records("acuity", CANCELLED)

    for response in order:
        await world.run_task(f"event:{response.json()['delivery']}")
    await world.run()

    assert [] == world.harness.visits()
