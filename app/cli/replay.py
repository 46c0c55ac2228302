"""What an operator does about what happened: `doorbell replay`, `discard`, `cancel`."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import click

from app.cli.options import build_filter, filter_options, search_option
from app.cli.output import (
    NOTHING_MATCHED,
    PARTLY_FAILED,
    USAGE,
    confirm,
    examples,
    exit_with,
    json_option,
    print_rows,
    print_table,
)
from app.cli.session import record_activity, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.operators.discard import Discard, Planned
from app.operators.filter import INDEXED_STATES, TASK_STATES, Filter
from app.operators.operations import OperationKind, Operations
from app.operators.replay import NoWorkerProgress, PlannedTask, PlanSummary, Replay
from app.operators.selection import Mode
from app.settings.model import Settings

F = TypeVar("F", bound=Callable[..., Any])
#: More rows than this are counted and not shown, unless as JSON.
SHOWN = 20


def plan_first(command: F) -> F:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", "dry_run", is_flag=True, help="Show what would be done, and do nothing.")(command)


@click.command(
    epilog=examples(
        "replay --state parked --reason 422 --since 2h --dry-run",
        "replay standard-A-5 --contact cont_KYdl3lftgZXGRbxqoj --yes",
        "replay --hook calendly --since 7d --retranslate --dry-run",
    )
)
@click.argument("ids", nargs=-1)
@filter_options(TASK_STATES)
@search_option
@click.option("--retranslate", "mode", flag_value="retranslate", help="Translate the stored bodies with today's code.")
@click.option("--reconcile", "mode", flag_value="reconcile", help="Fetch the truth from the tool.")
@click.option("--recheck", is_flag=True, help="Ask the Visits API what stands there, instead of remembering.")
@click.option("--contact", default="", help="Whose visits they are: Review Rover's cont_….")
@plan_first
@json_option
def replay(
    ids: tuple[str, ...],
    mode: Mode | None,
    recheck: bool,
    contact: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **words: str | datetime | None,
) -> None:
    """Requeue deliveries or visits: by their IDs, or all that match a filter. Without --retranslate or --reconcile the
    stored changes are sent again. Newer values still win."""

    def replaying(ledger: Ledger, settings: Settings) -> Replay:
        return Replay(ledger, settings, mode or "retry", recheck=recheck, contact=contact)

    _act("replay", "put back to work", replaying, _meant("replay", ids, words), dry_run, yes, as_json)


@click.command(
    epilog=examples(
        "discard standard-A-2",
        "discard --reason time_unknown --since 7d --dry-run",
        "discard standard-A-2 --yes --json",
    )
)
@click.argument("ids", nargs=-1)
@filter_options(INDEXED_STATES)
@search_option
@plan_first
@json_option
def discard(ids: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, **words: str | datetime | None) -> None:
    """Give up what has not been applied of deliveries or visits: by their IDs, or all that fit a filter, of what is parked
    unless --state says otherwise. What was sent stays as it is in the Visits API."""
    filter = _meant("discard", ids, words)
    if not ids:
        filter = replace(filter, state=filter.state or "parked")
    _act("discard", "given up", partial(Discard, planned=Planned()), filter, dry_run, yes, as_json)


def _meant(do: OperationKind, ids: tuple[str, ...], words: Mapping[str, Any]) -> Filter:
    if empty := [name for name, word in words.items() if word == ""]:
        # A variable that a script did not set must not widen what is meant.
        exit_with(USAGE, f"--{empty[0]} is empty: give it a value, or leave it out")
    filter = build_filter(words, ids=ids)
    if filter.is_empty:
        exit_with(USAGE, f"say what to {do}: IDs, or a filter like --state parked (see --help)")
    if ids and filter != Filter(ids=ids):
        exit_with(USAGE, "give IDs or a filter, not both")
    return filter


def _act(
    do: OperationKind,
    done: str,
    acting: Callable[[Ledger, Settings], Replay | Discard],
    filter: Filter,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """The plan, a yes, and then the same way again. done: what happens to each, in words."""
    skipped = list[PlannedTask]()

    async def plan(ledger: Ledger, settings: Settings) -> PlanSummary:
        tally = PlanSummary(SHOWN)
        async for step in acting(ledger, settings).plan(filter):
            tally.add(step)
            if as_json and dry_run:
                print_rows([asdict(step)], as_json)
            elif as_json and not tally.actionable:
                skipped.append(step)
        return tally

    tally = run_with_ledger(plan)
    if not tally.total:
        exit_with(NOTHING_MATCHED, "nothing matched")
    if not as_json:
        _show_plan(tally, done)
    if skipped and not tally.actionable:
        print_rows([_row(step, step.skip_reason) for step in skipped], as_json)
    if dry_run or not tally.actionable:
        sys.exit(_status(do, tally))
    confirm(f"{tally.actionable} to be {done}: go on?", yes)

    async def carry_out(ledger: Ledger, settings: Settings) -> PlanSummary:
        await record_activity(ledger, f"started a {do} of {tally.actionable}", filter.summary, action=do)
        with _told(tally, as_json) as told:
            return await acting(ledger, settings).execute(filter, told)

    try:
        carried_out = run_with_ledger(carry_out)
    except NoWorkerProgress:
        exit_with(
            PARTLY_FAILED, "no worker takes what was put back; the rest was left alone: start one, and say it again"
        )
    click.echo(f"{done}: {carried_out.actionable}; skipped: {carried_out.skipped.total()}", err=True)
    sys.exit(_status(do, carried_out))


@contextmanager
def _told(tally: PlanSummary, as_json: bool) -> Iterator[Any]:
    """How each step is told while it is done: as a line of JSON, or on a bar, or, where there are few, in a table."""
    rows: list[dict[str, Any]] = []
    with click.progressbar(length=tally.total, file=sys.stderr, hidden=as_json or not sys.stderr.isatty()) as bar:

        def told(step: PlannedTask, state: str) -> None:
            bar.update(1)
            if as_json:
                print_rows([_row(step, state)], as_json)
            elif tally.total <= SHOWN:
                rows.append(_row(step, state))

        try:
            yield told
        finally:
            print_table(rows)


def _row(step: PlannedTask, state: str) -> dict[str, Any]:
    return {"id": step.id, "task_id": step.task_id, "state": state}


def _show_plan(tally: PlanSummary, done: str) -> None:
    """Counts by reason, by call and by why something is skipped; then the first few, with what would be sent."""
    click.echo(f"{tally.total} selected: {tally.actionable} would be {done}, {tally.skipped.total()} skipped")
    for title, counts in (("reason", tally.by_reason), ("call", tally.by_call), ("skipped", tally.skipped)):
        if counts:
            click.echo()
            print_table([{title: name, "count": count} for name, count in counts.most_common()])
    if tally.samples:
        click.echo()
        print_table([row for step in tally.samples for row in _calls_of(step)])
    if tally.actionable > len(tally.samples):
        click.echo(f"… and {tally.actionable - len(tally.samples)} more; --json shows all")
    click.echo()


def _calls_of(step: PlannedTask) -> list[dict[str, str]]:
    calls = [
        {"id": step.id, "call": call.call, "visit": call.visit, "sends": _sent(call.fields)} for call in step.calls
    ]
    return calls or [{"id": step.id, "state": step.state, "reason": step.reason}]


def _sent(fields: Mapping[str, str | None]) -> str:
    return " ".join(f"{name}={value or ''}" for name, value in fields.items())


def _status(do: OperationKind, tally: PlanSummary) -> int:
    """An unknown id does not stop the others, but it is told; and so is what can be given up only a moment later."""
    unknown, busy = tally.skipped["unknown"], tally.skipped["running"] if do == "discard" else 0
    if busy:
        click.echo("what a worker has in its hands cannot be given up; try again in a moment", err=True)
    return NOTHING_MATCHED if unknown == tally.total else PARTLY_FAILED if unknown or busy else 0


@click.command(epilog=examples("cancel d019a3b1c2d0a1b2c3d4e"))
@click.argument("operation")
def cancel(operation: str) -> None:
    """Stop an OPERATION that was started at the console: what was done stays so, the rest is left alone."""

    async def stop(ledger: Ledger, settings: Settings) -> None:
        operations = Operations(ledger, settings)
        try:
            one = await operations.get(operation)
        except NotFound:
            exit_with(NOTHING_MATCHED, f"there is no operation {operation}: see `doorbell operations`")
        if not one.is_open:
            exit_with(NOTHING_MATCHED, f"it is over already: {one.state}")
        await record_activity(ledger, "cancelled an operation", operation)
        await operations.cancel(operation)

    run_with_ledger(stop)
