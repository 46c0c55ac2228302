"""The outcomes of an operation: what became of the tasks that it requeued or discarded."""

import pytest

from app.ledger.ids import TaskId
from app.ledger.records import Lease
from app.operators.filter import Filter
from app.operators.operations import Operation, Operations
from tests.support.ledger import visit_task
from tests.support.operations import park, rejecting, run_operation
from tests.support.tool_api import BOOKED, ToolWorld
from tests.support.visit_worker import World, booked, change


async def load(world: World, id: str) -> Operation:
    return await Operations(world.ledger, world.context.settings).get(id)


async def tasks(world: World, id: str, outcome: str) -> list[TaskId]:
    return (await Operations(world.ledger, world.context.settings).tasks(id, outcome)).task_ids


async def test_a_replay_counts_what_succeeded_and_what_failed_again_by_reason(world: World) -> None:
    await park(world, "1", "2", "3")
    world.transport.before = rejecting("standard-3")

    id = await run_operation(world, "replay", Filter(state="parked"))

    pending = await load(world, id)
    assert ({"pending": 3}, 3) == (pending.outcomes, pending.done)

    await world.run()

    ended = await load(world, id)
    assert (2, {"POST /visits: 422": 1}, 0) == (ended.succeeded, ended.failed, ended.pending)
    assert [visit_task("3")] == await tasks(world, id, "failed:POST /visits: 422")
    assert {visit_task("1"), visit_task("2")} == set(await tasks(world, id, "succeeded"))
    assert [] == await tasks(world, id, "pending")


async def test_details_of_a_reason_do_not_separate_failures(world: World) -> None:
    world.configure(CONTACT_FOR_S="0.001")
    await world.accept(booked(contact=None))
    await world.run()

    id = await run_operation(world, "replay", Filter(state="parked"))
    await world.run()

    assert {"contact_unknown": 1} == (await load(world, id)).failed


async def test_a_task_that_waits_is_pending(world: World) -> None:
    await park(world, "1")
    world.harness.inject_faults(error_share=1)

    id = await run_operation(world, "replay", Filter(state="parked"))
    await world.run()
    assert {"pending": 1} == (await load(world, id)).outcomes

    world.harness.clear_faults()
    await world.ledger.replay(visit_task("1"))
    await world.run()
    assert {"succeeded": 1} == (await load(world, id)).outcomes


async def test_a_task_counts_for_the_newest_replay(world: World) -> None:
    await park(world, "1")
    world.harness.inject_faults(error_share=1)
    first = await run_operation(world, "replay", Filter(state="parked"))
    await world.run()
    world.harness.clear_faults()

    second = await run_operation(world, "replay", Filter(state="waiting"))
    await world.run()

    assert {"replayed": 1} == (await load(world, first)).outcomes
    assert {"succeeded": 1} == (await load(world, second)).outcomes


async def test_a_discard_has_its_visits_and_ends_a_pending_replay(world: World) -> None:
    await park(world, "1")
    replay = await run_operation(world, "replay", Filter(state="parked"))

    discard = await run_operation(world, "discard", Filter(ids=("standard-1",)))

    assert {"discarded": 1} == (await load(world, replay)).outcomes == (await load(world, discard)).outcomes
    assert [visit_task("1")] == await tasks(world, discard, "discarded")


async def test_an_event_has_the_outcome_of_its_visits(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    delivery = (await tool_world.receive("acuity", BOOKED)).json()["delivery"]
    await tool_world.run()

    id = await run_operation(tool_world, "replay", Filter(ids=(delivery,)), mode="retranslate")
    assert [TaskId.event(delivery)] == await tasks(tool_world, id, "pending")
    await tool_world.run()

    ended = await load(tool_world, id)
    assert (0, ["visit:main/acuity-123456789"]) == (ended.pending, await tasks(tool_world, id, "succeeded"))


async def test_an_event_without_visits_has_an_outcome_of_its_own(tool_world: ToolWorld) -> None:
    tool_world.tool.add_records("acuity", BOOKED)
    delivery = (await tool_world.receive("acuity", BOOKED)).json()["delivery"]
    tool_world.configure(HOOKS__ACUITY__CREDENTIALS__API_KEY="")
    await tool_world.run()

    id = await run_operation(tool_world, "replay", Filter(state="parked"))
    await tool_world.run()

    assert {"credentials_missing": 1} == (await load(tool_world, id)).failed
    assert [TaskId.event(delivery)] == await tasks(tool_world, id, "failed:credentials_missing")


async def test_outcomes_have_pages(world: World) -> None:
    await park(world, "1", "2", "3")
    id = await run_operation(world, "replay", Filter(state="parked"))
    operations = Operations(world.ledger, world.context.settings)

    first = await operations.tasks(id, "pending", limit=2)
    second = await operations.tasks(id, "pending", first.next_cursor, limit=2)

    assert (2, 1, "") == (len(first.task_ids), len(second.task_ids), second.next_cursor)
    assert {visit_task(name) for name in "123"} == {*first.task_ids, *second.task_ids}


async def test_a_visit_that_gets_another_first_id_has_an_outcome(world: World) -> None:
    await park(world, "2")
    id = await run_operation(world, "replay", Filter(ids=("standard-2",)))
    await world.accept(booked("1"), change("2", 2, previous_visit_id="1"))

    await world.run()

    ended = await load(world, id)
    assert ({"succeeded": 1}, [visit_task("2")]) == (ended.outcomes, await tasks(world, id, "succeeded"))


@pytest.mark.parametrize("replayed", ["1", "2"], ids=["first id", "later id"])
async def test_a_visit_that_crashes_workers_fails_again(world: World, replayed: str) -> None:
    await park(world, replayed)
    id = await run_operation(world, "replay", Filter(state="parked"))
    await world.accept(change("2", 2, previous_visit_id="1"))
    for _ in range(5):
        await world.redis.command("ZADD", "bell:state:queued", 0, visit_task("1"))
        lease = await world.ledger.lease(visit_task("1"))
        assert isinstance(lease, Lease)
        await world.redis.command("ZADD", "bell:state:running", 0, visit_task("1"), 0, visit_task("2"))
        await world.ledger.requeue_due()

    ended = await load(world, id)
    assert ({"crashed_repeatedly": 1}, 0) == (ended.failed, ended.pending)


async def test_outcomes_of_an_expired_operation_are_dropped(world: World) -> None:
    await park(world, "1")
    id = await run_operation(world, "replay", Filter(state="parked"))
    await world.redis.command("DEL", f"bell:operation:{id}")

    await world.run()

    assert [] == [key for key in await world.redis.command("KEYS", "bell:operation:*") if b":tasks:" in key]
    assert not await world.redis.command("HEXISTS", f"bell:{visit_task('1')}", "operation")
