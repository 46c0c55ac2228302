"""How it stands, and who did what: `doorbell overview`, `workers`, `operations`, `activity`, `settings`."""

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
    """Is all well? A sentence; then how much is in which state, what fails and why, each hook, each worker. As JSON also
    the last 24 hours."""

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
    """The workers that gave a sign of life; `doorbell deliveries --state running` tells what they have in hand."""

    async def see(ledger: Ledger, settings: Settings) -> list[Worker]:
        return await live_workers(ledger.redis)

    print_rows([worker.to_dict() for worker in run_with_ledger(see)], as_json)


@click.command(epilog=examples("operations", "operations --json"))
@limit_option
@json_option
def operations(limit: int, as_json: bool) -> None:
    """Replays and discards that somebody started at the console, newest first. `doorbell cancel` stops one."""

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
    """Who did what, at the console and on the command line, newest first."""

    async def see(ledger: Ledger, settings: Settings) -> list[Activity]:
        return await ActivityLog(ledger.redis).newest(cursor, limit)

    lines = run_with_ledger(see)
    print_rows([asdict(line) for line in lines], as_json)
    if len(lines) == limit:
        click.echo(f"there may be more: --cursor {lines[-1].id}, or a larger --limit", err=True)


@click.command(epilog=examples("settings", "settings --json"))
@json_option
def settings(as_json: bool) -> None:
    """What the environment says: every setting, what it is, what it means. Of a secret only whether it is set."""
    print_rows(load_settings().shown(), as_json)
