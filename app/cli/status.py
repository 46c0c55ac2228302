"""`doorbell overview`, `workers`, `operations`, `activity` and `settings`."""

from dataclasses import asdict

import click

from app.cli.options import cursor_option
from app.cli.output import examples, json_option, limit_option, print_json, print_rows, print_table, printable
from app.cli.session import load_settings, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.activity_log import Activity, ActivityLog
from app.operators.explain import Row
from app.operators.operations import Operation, Operations
from app.operators.overview import load_overview
from app.settings.model import Settings
from app.telemetry.health import Worker, live_workers


@click.command(epilog=examples("overview", "overview --json | jq .states"))
@json_option
def overview(as_json: bool) -> None:
    """Show whether all is well: one sentence, then the numbers.

    The numbers are tasks by state, failures by reason, circuits, hooks and workers; with --json also the last 24 hours."""

    story = run_with_ledger(load_overview).to_dict()
    if as_json:
        return print_json(story, as_json)
    click.echo(printable(story["summary"]))
    for title in ("states", "failures", "circuits", "hooks", "workers"):
        rows = [story[title]] if title == "states" else story[title]
        if rows:
            click.echo(f"\n{title}")
            print_table(rows)
    return None


@click.command(epilog=examples("workers", "workers --json"))
@json_option
def workers(as_json: bool) -> None:
    """List the live workers.

    `doorbell deliveries --state running` shows what they work on."""

    async def see(ledger: Ledger, settings: Settings) -> list[Worker]:
        return await live_workers(ledger.redis)

    print_rows([worker.to_dict() for worker in run_with_ledger(see)], as_json)


@click.command(epilog=examples("operations", "operations --json"))
@limit_option
@json_option
def operations(limit: int, as_json: bool) -> None:
    """List replays and discards, and their progress, newest first.

    `doorbell cancel` stops one."""

    async def see(ledger: Ledger, settings: Settings) -> list[Operation]:
        return await Operations(ledger, settings).newest(limit)

    print_rows([_row(one) for one in run_with_ledger(see)], as_json)


def _row(one: Operation) -> Row:
    return {
        "operation": one.id,
        "at": iso_timestamp(one.created_at_ms),
        "actor": one.request.actor,
        "kind": one.request.kind,
        "filter": one.request.filter.summary,
        "state": one.state,
        "expected": one.request.expected,
        "done": one.done,
        "skipped": one.processed - one.done,
    }


@click.command(epilog=examples("activity", "activity --limit 1000 --json"))
@limit_option
@cursor_option
@json_option
def activity(limit: int, cursor: str, as_json: bool) -> None:
    """Show what operators did, newest first."""

    async def see(ledger: Ledger, settings: Settings) -> list[Activity]:
        return await ActivityLog(ledger.redis).newest(cursor, limit)

    lines = run_with_ledger(see)
    print_rows([asdict(line) for line in lines], as_json)
    if len(lines) == limit:
        click.echo(f"there may be more: use --cursor {lines[-1].id}, or a larger --limit", err=True)


@click.command(epilog=examples("settings", "settings --json"))
@json_option
def settings(as_json: bool) -> None:
    """Show the settings in effect.

    Secrets are shown as set or not set only."""
    print_rows(load_settings().describe(), as_json)
