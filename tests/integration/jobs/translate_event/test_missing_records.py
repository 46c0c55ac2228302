"""Records that are not found, or not found yet."""

import pytest

from tests.support.tool_api import ACUITY, BOOKED, SPECIMENS, ToolWorld, accept_a_minute_ago, respond_with


async def test_an_event_waits_for_a_record_that_is_not_readable_yet(world: ToolWorld) -> None:
    response = await world.receive("acuity", BOOKED)
    await world.run()
    early = await world.load_event(response)
    world.tool.add_records("acuity", BOOKED)
    await world.advance_time(15)
    await world.run()

    assert ("waiting", "record_not_found_yet", 0) == (early.state, early.reason, early.failed_attempts)
    assert ["acuity-123456789"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_record_that_is_missing_after_a_minute_counts_as_deleted(world: ToolWorld) -> None:
    delivery_id = await accept_a_minute_ago(world, "acuity", BOOKED)

    await world.run()

    event = await world.ledger.load_task(f"event:{delivery_id}")
    assert ("done", "ignored: record_gone") == (event.state, event.attempts[-1].outcome)


async def test_an_event_waits_for_a_contact_that_is_not_readable_yet(world: ToolWorld) -> None:
    booked = SPECIMENS["square"]["deliveries"][0]
    response = await world.receive("square", booked)
    await world.run()
    early = await world.load_event(response)
    world.tool.add_records("square", booked)
    await world.advance_time(15)
    await world.run()

    assert ("waiting", "record_not_found_yet", 0) == (early.state, early.reason, early.failed_attempts)
    assert ["square-zkdemobooking1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_a_visit_waits_for_a_contact_that_is_missing_after_a_minute(world: ToolWorld) -> None:
    await accept_a_minute_ago(world, "square", SPECIMENS["square"]["deliveries"][0])

    await world.run()

    visit = await world.ledger.load_task("visit:main/square-zkdemobooking1")
    assert ("waiting", "contact_unknown") == (visit.state, visit.reason)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_cancellation_of_a_deleted_appointment_is_applied(world: ToolWorld, status: int) -> None:
    world.tool.add_records("acuity", BOOKED)
    await world.receive("acuity", BOOKED)
    await world.run()
    world.tool.overrides = [respond_with(status, "no such appointment")]

    await world.receive("acuity", ACUITY["it is cancelled, and gone when we ask"])
    await world.run()

    (visit,) = world.harness.visits()
    assert visit["date_cancelled"]
