"""Operations that an operator starts and a worker runs, and visits that need one."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx

from app.operators.actions import Actions, Actor
from app.operators.filter import Filter
from app.operators.operations import OperationKind, OperationRequest, Operations
from tests.support.visit_worker import World, booked

GRACE = Actor("grace", "operator")


async def run_operation(world: World, kind: OperationKind, filter: Filter, **options: Any) -> str:
    """Start an operation as an operator does, let a worker run it, and return its id."""
    request = await request_for(world, kind, filter, **options)
    operation = await Actions(world.ledger, world.context.settings, GRACE).start(request)
    await Operations(world.ledger, world.context.settings).run_next()
    return operation


async def request_for(world: World, kind: OperationKind, filter: Filter, **options: Any) -> OperationRequest:
    """Return the request of an operation that is planned now."""
    planned_at_ms = int((await world.ledger.server_time()).timestamp() * 1000)
    return OperationRequest(
        kind=kind, filter=filter, actor=GRACE.name, expected=1, planned_at_ms=planned_at_ms, **options
    )


def rejecting(*external_ids: str) -> Callable[[httpx.Request], httpx.Response | None]:
    """Answer 422 to the creation of these visits; of all, if none is named."""

    def answer(request: httpx.Request) -> httpx.Response | None:
        external_id = dict(parse_qsl(request.content.decode())).get("external_id", "")
        is_rejected = request.method == "POST" and external_id and external_id in (external_ids or (external_id,))
        return httpx.Response(422, json={"detail": "rejected"}) if is_rejected else None

    return answer


async def park(world: World, *visits: str, parked: int = 0) -> None:
    """Store visits that the API rejects now, and would accept later. parked: how many tasks are parked then."""
    world.transport.before = rejecting()
    await world.accept(*(booked(visit) for visit in visits))
    await world.run()
    assert (parked or len(visits)) == len(await world.ledger.task_ids("parked"))
    world.transport.before = lambda request: None
