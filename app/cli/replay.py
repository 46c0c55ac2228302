"""`doorbell replay`, `discard` and `cancel`. A worker runs the operation, and the command shows its progress."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, TypeVar

import click

from app.cli.completion import complete_failures, complete_open_operations
from app.cli.options import build_filter, filter_options, search_option
from app.cli.output import (
    INTERRUPTED,
    NOTHING_MATCHED,
    PARTLY_FAILED,
    UNREACHABLE,
    USAGE,
    confirm,
    examples,
    exit_with,
    for_people,
    json_option,
    print_message,
    print_rows,
    print_table,
)
from app.cli.session import actions, actor, run_with_ledger
from app.cli.tables import State, task_state
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason
from app.ledger.records import NotFound
from app.operators.discard import Discard
from app.operators.explain import field_title
from app.operators.filter import INDEXED_STATES, TASK_STATES, Filter
from app.operators.operations import Operation, OperationKind, OperationRequest, Operations, TaskResult
from app.operators.outcomes import outcome_title, plan_counts, skip_title
from app.operators.replay import WAIT, PlannedTask, PlanSummary, Replay
from app.operators.selection import Mode
from app.settings.model import Settings
from app.telemetry.health import live_workers

F = TypeVar("F", bound=Callable[..., Any])
#: The limit for rows of a table; JSON has all rows.
MAX_ROWS = 20
POLL_INTERVAL_S = 0.2
#: The command ends after this time without progress and without a live worker.
NO_WORKER_AFTER_S = 5.0
#: The command waits for the outcomes of requeued tasks until none came for this time.
OUTCOME_WAIT_S = 3.0
DONE: dict[OperationKind, str] = {"replay": "requeued", "discard": "discarded"}


def plan_options(command: F) -> F:
    command = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)
    return click.option("--dry-run", "dry_run", is_flag=True, help="Only show the plan.")(command)


@click.command(
    epilog=examples(
        "replay --state parked --reason 422 --since 2h --dry-run",
        "replay --contact standard-A-5=ada@example.com --contact standard-A-6=bob@example.com",
        "replay --hook calendly --since 7d --retranslate --dry-run",
    )
)
@click.argument("ids", nargs=-1, shell_complete=complete_failures)
@filter_options(TASK_STATES)
@search_option
@click.option("--retranslate", "mode", flag_value="retranslate", help="Translate the stored bodies again.")
@click.option("--reconcile", "mode", flag_value="reconcile", help="Fetch the current record from the tool.")
@click.option("--recheck", is_flag=True, help="Read the visit from the Visits API first.")
@click.option(
    "--contact",
    "contacts",
    multiple=True,
    metavar="[VISIT=]CONTACT",
    help="Assign a contact, an e-mail address or an id of Review Rover (cont_…), to a visit. Once per visit.",
)
@plan_options
@json_option
def replay(
    ids: tuple[str, ...],
    mode: Mode | None,
    recheck: bool,
    contacts: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **options: str | datetime | None,
) -> None:
    """Requeue deliveries or visits.

    Select them by IDs, by a filter, or by --contact VISIT=CONTACT. Without --retranslate or --reconcile the stored
    changes are applied again. Newer values take precedence. A worker runs the replay; Ctrl-C does not stop it,
    `doorbell cancel` does.
    """
    if mode and (recheck or contacts):
        raise click.UsageError(f"--{'recheck' if recheck else 'contact'} and --{mode} cannot be combined")
    contact_by_visit = _parse_contacts(contacts)
    visits = tuple(filter(None, contact_by_visit))
    has_selection = ids or any(options.values())
    selection = _parse_filter("replay", ids if has_selection else visits, options)
    request = OperationRequest(
        kind="replay",
        filter=selection,
        actor=actor().name,
        expected=0,
        planned_at_ms=0,
        mode=mode or "retry",
        contacts=contact_by_visit,
        recheck=recheck,
        keeps_results=True,
    )
    _plan_and_run(request, dry_run, yes, as_json)


def _parse_contacts(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the contacts by visit; by an empty string, if the visit is not named."""
    from app.operators.contacts import InvalidContact, parse_contact

    pairs = [_VISIT_AND_CONTACT.fullmatch(text) for text in texts]
    contacts = {pair["visit"] or "": pair["contact"] for pair in pairs if pair}
    if len(contacts) < len(texts):
        raise click.BadParameter("each visit has one contact.", param_hint="--contact")
    try:
        for contact in contacts.values():
            parse_contact(contact)
    except InvalidContact as error:
        raise click.BadParameter(str(error), param_hint="--contact") from None
    return contacts


#: An external_id, if there is one, and a contact.
_VISIT_AND_CONTACT = re.compile(r"(?:(?P<visit>[A-Za-z0-9._-]+)=)?(?P<contact>.*)", re.DOTALL)


@click.command(
    epilog=examples(
        "discard standard-A-2",
        "discard --reason time_unknown --since 7d --dry-run",
        "discard standard-A-2 --yes --json",
    )
)
@click.argument("ids", nargs=-1, shell_complete=complete_failures)
@filter_options(INDEXED_STATES)
@search_option
@plan_options
@json_option
def discard(ids: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, **options: str | datetime | None) -> None:
    """Discard changes that have not been applied.

    Select deliveries or visits by IDs, or by a filter; without --state a filter selects only parked ones. Changes that
    were already sent stay in the Visits API. A worker runs the discard; Ctrl-C does not stop it, `doorbell cancel`
    does.
    """
    filter = _parse_filter("discard", ids, options)
    if not ids:
        filter = replace(filter, state=filter.state or "parked")
    request = OperationRequest(
        kind="discard", filter=filter, actor=actor().name, expected=0, planned_at_ms=0, keeps_results=True
    )
    _plan_and_run(request, dry_run, yes, as_json)


@click.command(epilog=examples("cancel d019a3b1c2d0a1b2c3d4e"))
@click.argument("operation", shell_complete=complete_open_operations)
def cancel(operation: str) -> None:
    """Stop a replay or discard.

    OPERATION is its id, from `doorbell operations`. Tasks that it has processed are not reverted.
    """

    async def stop(ledger: Ledger, settings: Settings) -> Operation:
        try:
            if not await actions(ledger, settings).cancel(operation):
                exit_with(NOTHING_MATCHED, f"operation {operation} has ended already: see `doorbell operations`")
            return await Operations(ledger, settings).get(operation)
        except NotFound:
            exit_with(NOTHING_MATCHED, f"there is no operation {operation}: see `doorbell operations`")

    cancelled = run_with_ledger(stop)
    kind, done = cancelled.request.kind, cancelled.done
    print_message(f"the {kind} {operation} is cancelled; a worker that runs it ends its current task first")
    effect = "still run" if kind == "replay" else "stay discarded"
    before = f"{done:,} tasks that were {DONE[kind]} before {effect}; " if done else ""
    print_message(f"{before}the other tasks are not changed")


def _parse_filter(kind: OperationKind, ids: tuple[str, ...], options: Mapping[str, Any]) -> Filter:
    filter = build_filter(options, ids=ids)
    if filter.is_empty:
        exit_with(USAGE, f"select what to {kind}: IDs, or a filter like --state parked (see --help)")
    if ids and filter != Filter(ids=ids):
        exit_with(USAGE, "give IDs or a filter, not both")
    return filter


def _plan_and_run(request: OperationRequest, dry_run: bool, yes: bool, as_json: bool) -> None:
    planned_at_ms, summary, contacts = run_with_ledger(
        lambda ledger, settings: _plan(ledger, settings, request, dry_run, as_json)
    )
    if not summary.total:
        exit_with(NOTHING_MATCHED, "nothing matched")
    if not as_json:
        _print_plan(summary, request.kind)
    if "" in request.contacts and summary.total > 1:
        exit_with(USAGE, f"{summary.total} are selected: name the visit of each contact, --contact VISIT=CONTACT")
    if dry_run or not summary.actionable:
        sys.exit(_exit_status(request.kind, summary.total, summary.skipped))
    confirm(f"{summary.actionable} tasks will be {DONE[request.kind]}. Continue?", yes)
    request = replace(request, expected=summary.total, planned_at_ms=planned_at_ms, contacts=contacts)
    operation = _run(request, as_json)
    _print_outcome(operation)
    if operation.state != "done":
        sys.exit(PARTLY_FAILED)
    status = _exit_status(request.kind, operation.processed, operation.skipped)
    sys.exit(status or (PARTLY_FAILED if operation.failed else 0))


# -- plan --


async def _plan(
    ledger: Ledger, settings: Settings, request: OperationRequest, dry_run: bool, as_json: bool
) -> tuple[int, PlanSummary, dict[str, str]]:
    """Return the time of the plan (ms, by Redis' clock), its summary, and the contacts by task.

    Another visit may match the filter later: it must not get the contact. With --json, print the tasks of a dry run, or
    the skipped tasks if all are skipped.
    """
    planned_at_ms = int((await ledger.server_time()).timestamp() * 1000)
    summary, skipped = PlanSummary(MAX_ROWS), list[PlannedTask]()
    tasks_by_name = {name: set[TaskId]() for name in request.contacts}
    async for planned in _tasks(ledger, settings, request):
        summary.add(planned)
        for name in tasks_by_name.keys() & {planned.id, planned.task_id.external_id, ""}:
            tasks_by_name[name].add(planned.task_id)
        if as_json and dry_run:
            print_rows([asdict(planned)], as_json)
        elif as_json and not summary.actionable:
            skipped.append(planned)
    _check_contacts(tasks_by_name)
    if skipped and not summary.actionable:
        rows = (TaskResult(planned.id, planned.task_id, planned.skip_reason) for planned in skipped)
        print_rows([row._asdict() for row in rows], as_json)
    contacts = {str(each): request.contacts[name] for name, tasks in tasks_by_name.items() for each in tasks}
    return planned_at_ms, summary, contacts


def _check_contacts(tasks_by_name: Mapping[str, set[TaskId]]) -> None:
    """Exit unless each visit that --contact names is selected once."""
    if unmatched := sorted(name for name, tasks in tasks_by_name.items() if name and not tasks):
        exit_with(USAGE, f"--contact names visits that are not selected: {', '.join(unmatched)}")
    if ambiguous := sorted(name for name, tasks in tasks_by_name.items() if name and len(tasks) > 1):
        exit_with(USAGE, f"several accounts have {', '.join(ambiguous)}: select one with --visit and --hook")


def _tasks(ledger: Ledger, settings: Settings, request: OperationRequest) -> AsyncIterator[PlannedTask]:
    if request.kind == "discard":
        return Discard(ledger, settings).plan(request.filter)
    replay = Replay(ledger, settings, request.mode, recheck=request.recheck, contacts=request.contacts)
    return replay.plan(request.filter)


def _print_plan(summary: PlanSummary, kind: OperationKind) -> None:
    """Print counts by outcome and by call, then the first few tasks with their calls."""
    done = DONE[kind]
    click.echo(f"{summary.total} selected: {summary.actionable} would be {done}, {summary.skipped.total()} skipped")
    if kind == "replay" or summary.skipped:
        for count in plan_counts(summary, kind):
            click.echo(f"  {count.number} {count.text}")
    if any(reason == "contact_unknown" for reason, _ in summary.obstacles):
        print_message("`doorbell replay ID --contact EMAIL` assigns a customer's e-mail address to a visit")
    if calls := [(name, count) for name, count in summary.by_call.most_common() if not name.startswith(WAIT)]:
        click.echo()
        print_table([{"call": name, "count": count} for name, count in calls])
    if summary.samples:
        click.echo()
        print_table([row for planned in summary.samples for row in _plan_rows(planned, kind)])
    if summary.actionable > len(summary.samples):
        click.echo(f"… and {summary.actionable - len(summary.samples)} more; --json shows all")
    click.echo()


def _plan_rows(planned: PlannedTask, kind: OperationKind) -> list[dict[str, str]]:
    """Return a row for each call of a task, or one that says why there is none."""
    task = {"id": planned.id, "state": task_state(planned.state), "problem": _reason_title(planned.reason)}
    if kind == "discard":
        return [task]
    if planned.obstacle:
        return [task | {"what would happen": f"fail: {_reason_title(planned.obstacle)}"}]
    if not planned.calls:
        return [task | {"what would happen": "send nothing: Review Rover is up to date"}]
    return [
        task
        | {
            "what would happen": call.call,
            "visit": call.visit if call.visit != planned.id else "",
            "sends": _format_fields(call.fields),
        }
        for call in planned.calls
    ]


def _reason_title(reason: str) -> str:
    return find_reason(reason).title if reason else ""


def _format_fields(fields: Mapping[str, str | None]) -> str:
    return ", ".join(f"{field_title(name)} {for_people(value or 'none')}" for name, value in fields.items())


# -- operation --


def _run(request: OperationRequest, as_json: bool) -> Operation:
    """Start an operation and show its progress until it ends; Ctrl-C and a missing worker do not stop it."""
    id = ""

    async def run(ledger: Ledger, settings: Settings) -> Operation:
        nonlocal id
        id = await actions(ledger, settings).start(request)
        await _wait(ledger, settings, id, results)
        return await _wait_for_outcomes(Operations(ledger, settings), id, results)

    try:
        with _show_results(request.expected, as_json) as results:
            return run_with_ledger(run)
    except KeyboardInterrupt:
        stop = f"`doorbell cancel {id}` stops it" if id else "if it was started"
        exit_with(INTERRUPTED, f"the {request.kind} continues: `doorbell operations` shows it, {stop}")
    except NoLiveWorker:
        exit_with(
            UNREACHABLE,
            f"no worker is running: start one (`doorbell worker`), and it runs the {request.kind}; "
            f"`doorbell cancel {id}` cancels it",
        )


class NoLiveWorker(Exception):
    """The operation makes no progress, and no worker has sent a heartbeat."""


class _Results:
    """The results of the tasks, as they arrive: lines of JSON; otherwise a progress bar, then a table."""

    def __init__(self, bar: Any, as_json: bool) -> None:
        self._bar, self._as_json = bar, as_json
        self._shown: dict[TaskResult, None] = {}
        #: By task, once a run has decided.
        self.outcomes: dict[str, State] = {}

    def add(self, operation: Operation, results: list[TaskResult]) -> None:
        self._bar.update(max(0, operation.processed - self._bar.pos))
        # If a worker dies, the next worker repeats some results.
        fresh = [result for result in results if result not in self._shown]
        self._shown.update(dict.fromkeys(fresh))
        if self._as_json and fresh:
            print_rows([result._asdict() for result in fresh], self._as_json)

    def rows(self) -> list[dict[str, str]]:
        return [
            {"id": result.id, "result": self.outcomes.get(result.task_id) or _result_state(result.state)}
            for result in self._shown
        ]


def outcome_state(outcome: str) -> State:
    """Return the outcome of a task in words. outcome: as in `Operation.outcomes`."""
    return State(outcome_title(outcome), outcome.partition(":")[0])


def _result_state(result: str) -> State:
    """Return the new state of a task, or why it was skipped."""
    if result in ("queued", "running", "discarded"):
        return task_state(result)
    return State(f"Skipped: {skip_title(result)}", "")


async def _wait(ledger: Ledger, settings: Settings, id: str, results: _Results) -> None:
    """Show progress until the operation ends. Raises NoLiveWorker, NotFound."""
    operations, processed, progress_at = Operations(ledger, settings), -1, time.monotonic()
    while True:
        operation = await operations.get(id)
        results.add(operation, await operations.take_results(id))
        if not operation.is_open:
            return
        if operation.processed != processed:
            processed, progress_at = operation.processed, time.monotonic()
        elif time.monotonic() - progress_at > NO_WORKER_AFTER_S and not await live_workers(ledger.redis):
            raise NoLiveWorker
        await asyncio.sleep(POLL_INTERVAL_S)


async def _wait_for_outcomes(operations: Operations, id: str, results: _Results) -> Operation:
    """Wait until the requeued tasks are done, or none was for OUTCOME_WAIT_S: a retry may be an hour away."""
    operation, progress_at = await operations.get(id), time.monotonic()
    while operation.pending and time.monotonic() - progress_at < OUTCOME_WAIT_S:
        await asyncio.sleep(POLL_INTERVAL_S)
        pending, operation = operation.pending, await operations.get(id)
        if operation.pending != pending:
            progress_at = time.monotonic()
    if operation.processed <= MAX_ROWS:
        for outcome in operation.outcomes:
            page = await operations.tasks(id, outcome, limit=MAX_ROWS)
            results.outcomes |= dict.fromkeys(page.task_ids, outcome_state(outcome))
    return operation


@contextmanager
def _show_results(total: int, as_json: bool) -> Iterator[_Results]:
    """Yield the object that shows results. A table is printed at the end if there are at most MAX_ROWS."""
    results = None
    try:
        with click.progressbar(length=total, file=sys.stderr, hidden=as_json or not sys.stderr.isatty()) as bar:
            results = _Results(bar, as_json)
            yield results
    finally:
        # Below the bar, which ends its line when it is closed.
        if results and not as_json and total <= MAX_ROWS:
            print_table(results.rows())


def _print_outcome(operation: Operation) -> None:
    skipped = sum(operation.skipped.values())
    print_message(f"{DONE[operation.request.kind]}: {operation.done}; skipped: {skipped}")
    if operation.outcomes and operation.request.kind == "replay":
        failed = sum(operation.failed.values())
        print_message(f"succeeded: {operation.succeeded}; failed again: {failed}; pending: {operation.pending}")
    for reason, count in operation.failed.items():
        command = f"`doorbell failures --reason '{reason}'`"
        print_message(f"  {count} × {find_reason(reason).title}: {command}")
    if operation.pending:
        print_message(f"`doorbell operations {operation.id}` shows the outcomes of the pending ones")
    if operation.state == "stalled":
        print_message(
            "the workers do not run the requeued tasks; the other tasks were not changed: run the command again"
        )
    if operation.state == "cancelled":
        print_message("an operator cancelled the operation; the other tasks were not changed")


def _exit_status(kind: OperationKind, total: int, skipped: Mapping[str, int]) -> int:
    """Return NOTHING_MATCHED if all ids are unknown; PARTLY_FAILED if some are, or if tasks to discard are running."""
    unknown, running = skipped.get("unknown", 0), skipped.get("running", 0) if kind == "discard" else 0
    if running:
        print_message("running tasks cannot be discarded: try again in a moment")
    return NOTHING_MATCHED if unknown == total else PARTLY_FAILED if unknown or running else 0
