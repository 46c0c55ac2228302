"""Stored operations, and workers of another version."""

import asyncio
import itertools
from typing import Any

import orjson
import pytest

from app.ledger.ledger import Ledger
from app.operators.filter import Filter
from app.operators.operations import Operation, OperationRequest, Operations
from tests.support.ledger import accept, change, parked, start_run, visit_task
from tests.support.operations import park, request_for
from tests.support.visit_worker import World


async def start(world: World, in_request: dict[str, Any], in_filter: dict[str, Any]) -> tuple[Operations, str]:
    """Store a discard of all failures, as a later version would, with these further fields."""
    operations = Operations(world.ledger, world.context.settings)
    id = await operations.create(await request_for(world, "discard", Filter(state="parked")))
    key = f"bell:operation:{id}"
    request = orjson.loads(await world.ledger.redis.command("HGET", key, "request"))
    request |= in_request | {"filter": request["filter"] | in_filter}
    await world.ledger.redis.command("HSET", key, "request", orjson.dumps(request))
    return operations, id


async def run(operations: Operations, id: str) -> Operation:
    await operations.run_next()
    return await operations.get(id)


async def test_an_unused_option_of_a_later_version_is_ignored(world: World) -> None:
    await park(world, "1")
    operations, id = await start(world, {"is_urgent": False}, {"postcode": ""})

    ended = await run(operations, id)

    assert ("done", 1) == (ended.state, ended.done)
    assert "discarded" == (await world.ledger.load_task(visit_task("1"))).state


@pytest.mark.parametrize(
    ("in_request", "in_filter"),
    [({"limit": 10}, {}), ({}, {"postcode": "10001"})],
    ids=["an option of the operation", "a field of the filter"],
)
async def test_an_operation_that_only_a_later_version_understands_waits_for_its_workers(
    world: World, in_request: dict[str, Any], in_filter: dict[str, Any]
) -> None:
    await park(world, "1")
    operations, id = await start(world, in_request, in_filter)

    waiting = await run(operations, id)
    await operations.cancel(id)

    assert ("queued", 0) == (waiting.state, waiting.done)
    assert "parked" == (await world.ledger.load_task(visit_task("1"))).state
    assert "cancelled" == (await operations.get(id)).state


async def park_many(ledger: Ledger, count: int) -> None:
    for number in range(count):
        await accept(ledger, change(str(number)))
        await ledger.complete(await start_run(ledger, str(number)), parked())
    await asyncio.sleep(0.01)  # a plan is later


async def wait_for_tasks(operations: Operations, id: str, count: int) -> None:
    for _ in range(2_000):
        if (await operations.get(id)).done >= count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"less than {count} tasks within 10 s")


@pytest.fixture
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.operators.operations.PROGRESS_INTERVAL_S", 0.02)


@pytest.mark.usefixtures("short_interval")
async def test_a_cancelled_operation_counts_all_tasks_that_it_changed(world: World, ledger: Ledger) -> None:
    await park_many(ledger, 150)
    operations = Operations(ledger, world.context.settings)
    id = await operations.create(await request_for(world, "discard", Filter(state="parked"), keeps_results=True))
    running = asyncio.create_task(operations.run_next())
    await wait_for_tasks(operations, id, 1)

    await operations.cancel(id)
    await running

    ended, discarded = await operations.get(id), 150 - len(await ledger.task_ids("parked"))
    assert ("cancelled", discarded) == (ended.state, ended.done)
    assert discarded == len(await operations.take_results(id))


@pytest.mark.parametrize(
    "filter",
    [Filter(ids=tuple(f"standard-{number}" for number in range(4))), Filter(state="parked"), Filter(hook="standard")],
)
@pytest.mark.usefixtures("short_interval")
async def test_the_tasks_of_a_worker_that_died_are_counted_once(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, filter: Filter
) -> None:
    await park_many(ledger, 4)
    operations = Operations(ledger, world.context.settings)
    id = await operations.create(await request_for(world, "discard", filter, keeps_results=True))

    await die_after_two_tasks(operations, id, ledger, monkeypatch)
    ended = await run(operations, id)

    assert ("done", 4, "4 discarded") == (ended.state, ended.done, ended.result)
    assert {(f"standard-{number}", "discarded") for number in range(4)} == {
        (result.id, result.state) for result in await operations.take_results(id)
    }


async def die_after_two_tasks(operations: Operations, id: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a discard in a worker that is killed."""
    discard, calls = ledger.discard, itertools.count(1)

    async def discard_two(*arguments: Any, **options: Any) -> int:
        if next(calls) > 2:
            await asyncio.Event().wait()
        return await discard(*arguments, **options)

    with monkeypatch.context() as until_it_dies:
        until_it_dies.setattr(ledger, "discard", discard_two)
        running = asyncio.create_task(operations.run_next())
        await wait_for_tasks(operations, id, 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.usefixtures("short_interval")
async def test_a_worker_does_not_continue_a_cancelled_operation(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await park_many(ledger, 4)
    operations = Operations(ledger, world.context.settings)
    id = await operations.create(await request_for(world, "discard", Filter(state="parked")))
    await die_after_two_tasks(operations, id, ledger, monkeypatch)

    await operations.cancel(id)
    ended = await run(operations, id)

    assert ("cancelled", 2) == (ended.state, ended.done)
    assert 2 == len(await ledger.task_ids("parked"))
    assert [] == await ledger.redis.command("ZRANGE", "bell:operations:open", 0, -1)


async def test_an_operation_that_ends_while_it_is_cancelled_keeps_its_result(
    world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await park_many(ledger, 1)
    operations = Operations(ledger, world.context.settings)
    id = await operations.create(await request_for(world, "discard", Filter(state="parked")))
    get = operations.get

    async def get_before_it_runs(id: str) -> Operation:
        operation = await get(id)
        monkeypatch.setattr(operations, "get", get)
        await Operations(ledger, world.context.settings).run_next()
        return operation

    monkeypatch.setattr(operations, "get", get_before_it_runs)
    await operations.cancel(id)

    assert ("done", 1) == ((ended := await operations.get(id)).state, ended.done)


def test_an_operation_without_processed_tasks_says_why() -> None:
    request = OperationRequest(kind="discard", filter=Filter(), actor="ada", expected=0, planned_at_ms=0)
    results = {
        "queued": "no task yet",
        "running": "no task yet",
        "done": "no task matched",
        "cancelled": "no task was processed",
        "stalled": "no task was processed",
    }

    assert results == {
        state: Operation(id="d1", request=request, created_at_ms=0, state=state).result for state in results
    }
