"""`doorbell overview`, `workers`, `operations`, `activity` and `settings`."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import datetime

import click

from app.cli.completion import complete_actions, complete_deliveries, complete_operations
from app.cli.options import cursor_option, since_option, until_option, utc_text
from app.cli.output import (
    NOTHING_MATCHED,
    PARTLY_FAILED,
    UNREACHABLE,
    USAGE,
    examples,
    exit_with,
    json_option,
    limit_option,
    print_json,
    print_message,
    print_rows,
    print_table,
    printable,
    sentence_for_people,
    utc_option,
)
from app.cli.session import cell_url, load_settings, open_other_ledger, run_with_ledger
from app.cli.tables import State, style, wrap
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason
from app.ledger.records import NotFound
from app.ledger.redis import RedisAddress
from app.ledger.times import humanize, iso_timestamp
from app.operators.activity_log import Activity, ActivityPage, action_title
from app.operators.cells import CellStatus, load_cells
from app.operators.explain import Explain, Row
from app.operators.filter import ActivityFilter, state_title
from app.operators.operations import Operation, Operations
from app.operators.overview import load_overview
from app.operators.problems import Problem
from app.settings.model import Settings
from app.telemetry.health import CIRCUIT_REASONS, Worker, live_workers


@click.command(
    epilog=examples("overview", "overview --json | jq .states", "overview --cells", "overview --cells east west")
)
@click.argument("cell", nargs=-1)
@click.option("--cells", "is_cells", is_flag=True, help="Show one line for each cell: all in CELLS, or those given.")
@utc_option
@json_option
def overview(cell: tuple[str, ...], is_cells: bool, as_json: bool) -> None:
    """Show the problems and what to do first, then the numbers.

    The numbers are tasks by state, failures by reason, circuits, hooks and workers; with --json also the last 24 hours.
    CELL is a name in CELLS or the REDIS_URL of a cell.
    """
    if is_cells:
        return _print_cells(cell, as_json)
    if cell:
        raise click.UsageError("give --cells to show other cells")
    view = run_with_ledger(load_overview)
    report = view.to_dict()
    if as_json:
        return print_json(report, as_json)
    problems = view.problems()
    if not problems:
        click.echo("\n".join(wrap(printable(report["summary"]))))
    for problem in problems:
        _print_problem(problem)
    for title, rows in _overview_tables(report).items():
        if rows:
            click.echo(f"\n{style(title, bold=True)}")
            print_table(rows)
    return None


def _print_cells(names: tuple[str, ...], as_json: bool) -> None:
    settings = load_settings()
    urls = {name: cell_url(settings, name) for name in names} or settings.cells
    if not urls:
        exit_with(USAGE, "CELLS is not set: give the REDIS_URLs of the cells")

    async def load() -> list[CellStatus]:
        async with AsyncExitStack() as stack:
            ledgers = {
                name if name in settings.cells else str(RedisAddress(url)): await stack.enter_async_context(
                    open_other_ledger(settings, url)
                )
                for name, url in urls.items()
            }
            return await load_cells(ledgers, settings)

    cells = asyncio.run(load())
    print_rows([asdict(cell) if as_json else _cell_row(cell) for cell in cells], as_json)
    if unreachable := [cell.cell for cell in cells if not cell.is_reachable]:
        status = UNREACHABLE if len(unreachable) == len(cells) else PARTLY_FAILED
        exit_with(status, f"not reached: {', '.join(unreachable)}")


def _cell_row(cell: CellStatus) -> Row:
    state = {"good": State("Works", "ok"), "bad": State("Fails", "fail")}.get(
        cell.level, State("Needs attention", "warn")
    )
    row: Row = {"cell": cell.cell, "state": state}
    if cell.is_reachable:
        limit = f" of {cell.memory_limit_bytes / 1e6:,.0f}" if cell.memory_limit_bytes else ""
        row |= {
            "workers": cell.workers,
            "pending": cell.pending,
            "failures": cell.failures,
            "oldest due": humanize(cell.oldest_s) if cell.oldest_s else "",
            "memory": f"{cell.memory_bytes / 1e6:,.0f}{limit} MB",
        }
    return row | {"problem": cell.problem}


#: Why no calls are made for an account.
STOPPED_CALLS = {"paused": "Paused by an operator"} | {
    kind: f"The Visits API {text}" for kind, text in CIRCUIT_REASONS.items()
}


def _print_problem(problem: Problem) -> None:
    click.echo("\n".join(wrap(printable(problem.sentence))))
    click.echo(f"    {style(problem.first_step().command, fg='cyan')}")


def _overview_tables(report: Row) -> dict[str, list[Row]]:
    return {
        "states": [{state_title(state): count for state, count in report["states"].items()}],
        "failures": [{"problem": find_reason(row["reason"]).title, **row} for row in report["failures"]],
        "accounts with stopped calls": [
            {
                "account": row["account"],
                "why": STOPPED_CALLS.get(row["reason"], row["reason"]),
                "since": row["since"],
                "on hold": row["held"],
            }
            for row in report["circuits"]
        ],
        "hooks, with the requests of the last 24 hours": [
            {
                "hook": row["name"],
                "source": row["source"],
                "last delivery": row["last"],
                "accepted": row["accepted"],
                "rejected": row["rejected"],
                "missing settings": row["missing"],
            }
            for row in report["hooks"]
        ],
        "workers": report["workers"],
    }


@click.command(epilog=examples("workers", "workers --json"))
@utc_option
@json_option
def workers(as_json: bool) -> None:
    """List the live workers.

    `doorbell deliveries --state running` shows what they run.
    """

    async def load(ledger: Ledger, settings: Settings) -> list[Worker]:
        return await live_workers(ledger.redis)

    rows = [worker.to_dict() for worker in run_with_ledger(load)]
    print_rows(rows, as_json, "no worker is running: `doorbell worker` starts one")


@click.command(epilog=examples("operations", "operations d019a3b1c2d0a1b2c3d4e", "operations --json"))
@click.argument("operation", required=False, shell_complete=complete_operations)
@limit_option
@utc_option
@json_option
def operations(operation: str | None, limit: int, as_json: bool) -> None:
    """List replays and discards with their results, newest first.

    With OPERATION, the id of one of them, list also its tasks with their outcomes. `doorbell cancel` stops an operation.
    """

    async def load(ledger: Ledger, settings: Settings) -> list[Operation]:
        return await Operations(ledger, settings).newest(limit)

    if operation:
        return _print_operation(operation, limit, as_json)
    rows = [_operation_row(stored, as_json) for stored in run_with_ledger(load)]
    return print_rows(rows, as_json, "no replay or discard yet")


def _print_operation(id: str, limit: int, as_json: bool) -> None:
    from app.cli.replay import outcome_state  # the other commands of this module do not need replays

    async def load(ledger: Ledger, settings: Settings) -> tuple[Operation, list[Row], bool]:
        operations = Operations(ledger, settings)
        try:
            operation = await operations.get(id)
        except NotFound:
            exit_with(NOTHING_MATCHED, f"there is no operation {id}: see `doorbell operations`")
        pages = {outcome: await operations.tasks(id, outcome, limit=limit) for outcome in operation.outcomes}
        tasks = [
            {"outcome": outcome, "id": task_id.display_id}
            for outcome, page in pages.items()
            for task_id in page.task_ids
        ]
        return operation, tasks, len(tasks) > limit or any(page.next_cursor for page in pages.values())

    operation, tasks, has_more = run_with_ledger(load)
    row = _operation_row(operation, as_json)
    print_rows([row | {"tasks": tasks[:limit]} if as_json else row], as_json)
    if tasks and not as_json:
        click.echo()
        print_table([task | {"outcome": outcome_state(task["outcome"])} for task in tasks[:limit]])
    if has_more:
        print_message(f"there are more: use a larger --limit than {limit}")


def _operation_row(operation: Operation, as_json: bool) -> Row:
    row: Row = {
        "operation": operation.id,
        "at": iso_timestamp(operation.created_at_ms),
        "actor": operation.request.actor,
        "kind": operation.request.kind,
        "filter": operation.request.selection,
        "state": operation.state,
    }
    if not as_json:
        status = operation.status
        # A cancelled visit is a success, a cancelled operation is not.
        state = State(status.capitalize(), {"failed again": "failed", "cancelled": ""}.get(status, status))
        return row | {"filter": sentence_for_people(row["filter"]), "state": state, "result": operation.result}
    return row | {
        "expected": operation.request.expected,
        "done": operation.done,
        "skipped": operation.processed - operation.done,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "pending": operation.pending,
    }


@click.command(
    epilog=examples("activity --user ada --since 7d", "activity standard-A-2", "activity --action replay --json")
)
@click.argument("id", required=False, shell_complete=complete_deliveries)
@click.option("--user", default="", help="Only this user, or part of a name.")
@click.option("--action", default="", help="Only this action, or part of one.", shell_complete=complete_actions)
@since_option
@until_option
@limit_option
@cursor_option(r"\d{1,15}-\d{1,15}")
@utc_option
@json_option
def activity(
    id: str | None,
    user: str,
    action: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str,
    as_json: bool,
) -> None:
    """List the actions of operators, newest first.

    ID is a visit or a delivery: only actions that affected it.
    """
    filter = ActivityFilter(
        actor=user,
        action=action,
        id=id or "",
        since=utc_text(since),
        until=utc_text(until),
        cursor=cursor,
    )

    async def load(ledger: Ledger, settings: Settings) -> ActivityPage:
        return await Explain(ledger, settings).find_activities(filter, limit)

    page = run_with_ledger(load)
    nothing = "no activity yet" if filter.is_empty else "nothing matched"
    print_rows([_activity_row(activity, as_json) for activity in page.rows], as_json, nothing)
    if page.next_cursor:
        print_message(f"there are more: use --cursor {page.next_cursor}, or a larger --limit")


def _activity_row(activity: Activity, as_json: bool) -> Row:
    affected = [task_id.display_id for task_id in activity.affected]
    if as_json:
        return asdict(activity) | {"affected": affected}
    names = ("at", "actor", "action", "target", "operation")
    return {name: getattr(activity, name) for name in names} | {"action": action_title(activity.action)}


@click.command(epilog=examples("settings", "settings --json"))
@json_option
def settings(as_json: bool) -> None:
    """Show the settings in effect.

    For a secret, only whether it is set is shown.
    """
    print_rows(load_settings().describe(), as_json)
