"""Replays and discards: their plans, and the operations that workers run."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from app.console.context import ConsoleContext, actions, context
from app.console.rendering import number, redirect, render
from app.ledger.times import humanize
from app.operators.contacts import InvalidContact, is_contact
from app.operators.discard import Discard
from app.operators.filter import INDEXED_STATES, Filter
from app.operators.operations import OperationKind, OperationRequest
from app.operators.outcomes import PlanCount, plan_counts
from app.operators.replay import PlannedTask, PlanSummary, Replay

#: The operator types the number of tasks to confirm an operation on more than this.
CONFIRM_ABOVE = 25
#: A plan is made for as many tasks as this time allows, and shows the first PREVIEW_STEPS. The page then loads the counts
#: again, with more time.
PREVIEW_STEPS, PREVIEW_TIMEOUT_S, COUNTS_TIMEOUT_S = 50, 0.12, 1.5
MAX_SELECTED_IDS = 200
#: Begins the name of a field; the task of a visit follows.
CONTACT = "contact:"


@dataclass(slots=True)
class Plan:
    """The plan of an operation.

    do: `replay` or `discard`. filter: its `until` is the time of the plan, so that later arrivals are not included.
    contacts: by task, as typed. is_empty: no row is selected and no filter is set. count: see `Lists.count`. steps: the
    first tasks with the calls that a worker would make. summary: of all tasks that were planned in time. is_partial: the
    time was too short for all.
    """

    do: OperationKind
    filter: Filter
    contacts: dict[str, str]
    until: int
    is_empty: bool = False
    count: int = 0
    steps: list[PlannedTask] = field(default_factory=list)
    summary: PlanSummary = field(default_factory=PlanSummary)
    is_partial: bool = False

    @property
    def counts(self) -> list[PlanCount]:
        return plan_counts(self.summary, self.do)

    @property
    def has_effect(self) -> bool:
        """Whether the operation may do anything. A replay may also check Review Rover."""
        return self.do == "replay" or self.is_partial or self.summary.actionable > 0

    @property
    def sendable(self) -> list[str]:
        """The ids of the tasks that would not fail, if others would, and if they are few enough for a selection.

        None if a contact was typed: a link would lose it.
        """
        if self.contacts:
            return []
        ids = [step.task_id.display_id for step in self.steps if not (step.skip_reason or step.obstacle)]
        is_complete = len(self.steps) == self.summary.total and not self.is_partial
        return ids if is_complete and self.summary.obstacles else []

    @property
    def invalid_contacts(self) -> list[str]:
        """The tasks whose contact is neither an e-mail address nor an id."""
        return [task_id for task_id, contact in self.contacts.items() if not is_contact(contact)]

    @property
    def valid_contacts(self) -> dict[str, str]:
        return {task_id: contact for task_id, contact in self.contacts.items() if is_contact(contact)}

    def asks_contact(self, step: PlannedTask) -> bool:
        """Whether the form has a field for the contact of this visit."""
        if self.do == "discard" or not step.task_id.is_visit or step.skip_reason:
            return False
        return step.needs_contact or step.task_id in self.contacts or self.count == 1

    @property
    def needs_confirmation(self) -> bool:
        return self.count > CONFIRM_ABOVE


async def plan(request: Request) -> Response:
    query = request.query_params
    ids = tuple(dict.fromkeys(filter(str.strip, query.getlist("ids"))))[:MAX_SELECTED_IDS]
    timeout_s = COUNTS_TIMEOUT_S if query.get("counts") else PREVIEW_TIMEOUT_S
    return await _plan_page(request, await _plan(context(request), query, ids, _now_ms(), timeout_s))


async def start(request: Request) -> Response:
    console, form = context(request), request.state.form
    until = min(_now_ms(), int(form["until"])) if re.fullmatch(r"[0-9]{1,15}", form.get("until", "")) else _now_ms()
    plan = await _plan(console, form, tuple(form.get("ids", "").split())[:MAX_SELECTED_IDS], until)
    if error := _start_error(plan, form):
        return await _plan_page(request, plan, error)
    operation_request = OperationRequest(
        kind=plan.do,
        filter=plan.filter,
        actor=request.user.name,
        expected=plan.count,
        planned_at_ms=plan.until,
        contacts=plan.contacts,
        recheck=bool(form.get("recheck")),
    )
    return redirect(f"/console/operations/{await actions(request).start(operation_request)}")


def _start_error(plan: Plan, form: Mapping[str, str]) -> str:
    if plan.invalid_contacts:
        return f"{InvalidContact()} Nothing was done."
    if plan.is_empty:
        return "No row is selected. Nothing was done."
    if not plan.count or form.get("expected") != str(plan.count):
        return "The number of matches has changed. Nothing was done; check the plan again."
    if plan.needs_confirmation and form.get("confirm", "").replace(",", "").strip() != str(plan.count):
        return f"Type {number(plan.count)} to confirm. Nothing was done."
    return ""


async def operations(request: Request) -> Response:
    return await render(request, "operations.html", operations=await context(request).operations.newest())


async def operation(request: Request) -> Response:
    operation = await context(request).operations.get(request.path_params["operation"])
    rate = operation.processed / max(0.5, time.time() - operation.created_at_ms / 1000)
    remaining = operation.request.expected - operation.processed
    time_left = humanize(remaining / rate) if operation.is_open and rate and remaining > 0 else ""
    filter = replace(operation.request.filter, until="")
    return await render(request, "operation.html", operation=operation, time_left=time_left, filter=filter)


async def tasks(request: Request) -> Response:
    """List the tasks with one outcome, each with its state now."""
    console, id = context(request), request.path_params["operation"]
    outcome, cursor = (request.query_params.get(name, "").strip()[:200] for name in ("outcome", "cursor"))
    operation, page = await asyncio.gather(console.operations.get(id), console.operations.tasks(id, outcome, cursor))
    rows = await asyncio.gather(*(console.lists.task_row(task_id) for task_id in page.task_ids))
    return await render(
        request,
        "operation_tasks.html",
        operation=operation,
        outcome=outcome,
        tasks=list(zip(page.task_ids, rows, strict=True)),
        cursor=cursor,
        next_cursor=page.next_cursor,
    )


async def cancel(request: Request) -> Response:
    id = request.path_params["operation"]
    await actions(request).cancel(id)
    return redirect(f"/console/operations/{id}")


async def preview(
    planned_tasks: AsyncIterator[PlannedTask], timeout_s: float = PREVIEW_TIMEOUT_S
) -> tuple[list[PlannedTask], PlanSummary, bool]:
    """Return the first tasks, a summary of all that are planned in time, and whether the time was too short."""
    samples, summary = list[PlannedTask](), PlanSummary(max_samples=0)
    try:
        async with asyncio.timeout(timeout_s):
            async for planned in planned_tasks:
                summary.add(planned)
                if len(samples) < PREVIEW_STEPS:
                    samples.append(planned)
    except TimeoutError:
        return samples, summary, True
    return samples, summary, False


def _now_ms() -> int:
    return int(time.time() * 1000)


async def _plan(
    console: ConsoleContext,
    form: Mapping[str, str],
    ids: tuple[str, ...],
    until: int,
    timeout_s: float = PREVIEW_TIMEOUT_S,
) -> Plan:
    do: OperationKind = "discard" if form.get("do") == "discard" else "replay"
    filter = Filter(ids=ids)
    if not ids:
        filter = console.search_tokens.with_search(Filter.from_query(form), form.get("search", ""))
    # A form without a selected row has no filter either, and must not select everything.
    is_empty = filter.is_empty and form.get("all") != "1"
    plan = Plan(do, filter if ids else _resolve_filter(do, filter, until), _contacts(form), until, is_empty)
    if not is_empty:
        plan.count = len(filter.ids) or await console.lists.count(plan.filter)
    if plan.count:
        plan.steps, plan.summary, plan.is_partial = await preview(_steps(console, plan), timeout_s)
    return plan


def _contacts(form: Mapping[str, str]) -> dict[str, str]:
    """Return the fields `contact:<task>` that are not empty."""
    fields = {name.removeprefix(CONTACT): value.strip() for name, value in form.items() if name.startswith(CONTACT)}
    return {task_id: contact for task_id, contact in fields.items() if contact}


def _resolve_filter(do: OperationKind, filter: Filter, until: int) -> Filter:
    """Restrict the filter to deliveries and tasks that existed at `until`, and to failures unless it has another state.

    A replay without a state and a reason also selects deliveries.
    """
    keeps_state = filter.state in INDEXED_STATES or (do == "replay" and not filter.reason)
    moment = datetime.fromtimestamp(until / 1000, UTC).isoformat()
    return replace(filter, cursor="", until=moment, state=filter.state if keeps_state else "parked")


def _steps(console: ConsoleContext, plan: Plan) -> AsyncIterator[PlannedTask]:
    if plan.do == "discard":
        return Discard(console.ledger, console.settings).plan(plan.filter)
    return Replay(console.ledger, console.settings, contacts=plan.valid_contacts).plan(plan.filter)


async def _plan_page(request: Request, plan: Plan, error: str = "") -> Response:
    return await render(request, "plan.html", 409 if error else 200, plan=plan, error=error)
