"""What a replay or a discard would do, before anybody does it; and the operations that came of it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from starlette.responses import Response

from app.console.rendering import Ask, Desk, Page, number
from app.operators.discard import Discard
from app.operators.explain import humanize
from app.operators.filter import INDEXED_STATES, RESULT_STATES, Filter
from app.operators.lists import Lists
from app.operators.operations import OperationKind, OperationRequest
from app.operators.replay import PlannedTask, Replay

#: More than this at once, and the number is to be typed.
CONFIRM_ABOVE = 25
#: Of very many only the first few are looked at, and only for so long: a page is no place to wait.
PREVIEW_STEPS, PREVIEW_TIMEOUT_S = 20, 0.15
MAX_SELECTED_IDS = 200


@dataclass(slots=True)
class Plan:
    """do: `replay` or `discard`. filter: what is meant, until the plan was made. is_nothing: no row was ticked, and no
    filter was given. count: how much of it there is; of what arrived in a state that is over, at most. steps: the first
    few, as a worker would find them now."""

    do: OperationKind
    filter: Filter
    contact: str
    until: int
    is_empty: bool = False
    count: int = 0
    steps: list[PlannedTask] = field(default_factory=list)

    @property
    def needs_confirmation(self) -> bool:
        return self.count > CONFIRM_ABOVE

    @property
    def is_at_most(self) -> bool:
        return self.filter.state in RESULT_STATES


async def plan(desk: Desk, ask: Ask) -> Response:
    query = ask.request.query_params
    ids = tuple(dict.fromkeys(filter(str.strip, query.getlist("ids"))))[:MAX_SELECTED_IDS]
    return await _show(desk, ask, await _fill(desk, _parse_plan(dict(query), ids, int(time.time() * 1000))))


async def start(desk: Desk, ask: Ask) -> Response:
    assert ask.user
    form = ask.form
    now, given = int(time.time() * 1000), form.get("until", "")
    until = min(now, int(given)) if re.fullmatch(r"[0-9]{1,15}", given) else now
    planned = await _fill(desk, _parse_plan(form, tuple(form.get("ids", "").split())[:MAX_SELECTED_IDS], until))
    if planned.is_empty:
        return await _show(desk, ask, planned, "Nothing was ticked, and nothing was done.")
    if not planned.count or form.get("expected") != str(planned.count):
        return await _show(desk, ask, planned, "Meanwhile the number changed. Nothing was done; look again.")
    if planned.needs_confirmation and form.get("confirm", "").replace(",", "").strip() != str(planned.count):
        return await _show(desk, ask, planned, f"Type {number(planned.count)} to confirm. Nothing was done.")
    order = OperationRequest(
        kind=planned.do,
        filter=planned.filter,
        actor=ask.user.name,
        expected=planned.count,
        planned_at_ms=planned.until,
        contact=planned.contact,
        recheck=bool(form.get("recheck")),
    )
    did = f"started a {planned.do} of {planned.count}"
    await desk.audit_log.record(
        ask.user.name, ask.user.role, did, replace(planned.filter, until="").summary, metric=planned.do
    )
    return desk.go(f"/console/operations/{await desk.operations.create(order)}")


async def operations(desk: Desk, ask: Ask) -> Response:
    return await desk.page(ask, "operations.html", operations=await desk.operations.newest())


async def operation(desk: Desk, ask: Ask) -> Response:
    one = await desk.operations.get(ask.path("operation"))
    rate = one.processed / max(0.5, time.time() - one.created_at_ms / 1000)
    left = (
        humanize((one.request.expected - one.processed) / rate) if rate and one.request.expected > one.processed else ""
    )
    return await desk.page(
        ask,
        "operation.html",
        operation=one,
        left=left if one.is_open else "",
        told=replace(one.request.filter, until="").summary,
    )


async def cancel(desk: Desk, ask: Ask) -> Response:
    assert ask.user
    id = ask.path("operation")
    await desk.operations.get(id)
    await desk.audit_log.record(ask.user.name, ask.user.role, "cancelled an operation", id)
    await desk.operations.cancel(id)
    return desk.go(f"/console/operations/{id}")


async def preview(steps: AsyncIterator[PlannedTask]) -> list[PlannedTask]:
    """The first few, as far as they can be seen at once."""
    found: list[PlannedTask] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(PREVIEW_TIMEOUT_S):
            async for step in steps:
                found.append(step)
                if len(found) >= PREVIEW_STEPS:
                    break
    return found


def _parse_plan(given: dict[str, str], ids: tuple[str, ...], until: int) -> Plan:
    do: OperationKind = "discard" if given.get("do") == "discard" else "replay"
    contact = given.get("contact", "").strip()
    is_id = contact.replace("_", "").isalnum() and contact.isascii() and len(contact) <= 80
    filter = Filter(ids=ids) if ids else Filter.from_query(given)
    # A form without a ticked row has no filter either: that must never mean everything.
    is_nothing = filter.is_empty and given.get("all") != "1"
    return Plan(do, filter if ids else _resolve_filter(do, filter, until), contact if is_id else "", until, is_nothing)


def _resolve_filter(do: OperationKind, filter: Filter, until: int) -> Filter:
    """Of what arrived only a replay can be meant; everything else is about failures, unless it says otherwise."""
    is_clear = filter.state in INDEXED_STATES or (do == "replay" and not filter.reason)
    moment = datetime.fromtimestamp(until / 1000, UTC).isoformat()
    return replace(filter, cursor="", until=moment, state=filter.state if is_clear else "parked")


async def _fill(desk: Desk, planned: Plan) -> Plan:
    if planned.is_empty:
        return planned
    lists, filter = Lists(desk.ledger, desk.settings, desk.explain), planned.filter
    planned.count = len(filter.ids) or await lists.count(filter)
    planned.steps = await preview(_steps(desk, planned)) if planned.count else []
    return planned


def _steps(desk: Desk, planned: Plan) -> AsyncIterator[PlannedTask]:
    if planned.do == "discard":
        return Discard(desk.ledger, desk.settings).plan(planned.filter)
    return Replay(desk.ledger, desk.settings, contact=planned.contact).plan(planned.filter)


async def _show(desk: Desk, ask: Ask, planned: Plan, trouble: str = "") -> Response:
    return await desk.page(ask, "plan.html", 409 if trouble else 200, plan=planned, trouble=trouble)


PAGES = [
    Page("GET", "/console/plan", "viewer", plan),
    Page("GET", "/console/operations", "viewer", operations),
    Page("GET", "/console/operations/{operation}", "viewer", operation),
]
ACTIONS = [
    Page("POST", "/console/operations", "operator", start),
    Page("POST", "/console/operations/{operation}/cancel", "operator", cancel),
]
