"""Stored operations, and workers of another version."""

from typing import Any

import orjson
import pytest

from app.operators.filter import Filter
from app.operators.operations import Operation, OperationRequest, Operations
from tests.support.ledger import visit_task
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
