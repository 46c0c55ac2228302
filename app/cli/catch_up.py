"""`doorbell catch-up`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from app.cli.completion import complete_hooks
from app.cli.connect import tool_errors
from app.cli.output import (
    CHECK_FAILED,
    INTERRUPTED,
    NOTHING_MATCHED,
    UNREACHABLE,
    TimeType,
    confirm,
    did_you_mean,
    examples,
    exit_with,
    utc_option,
    with_age,
)
from app.cli.session import actions, run_with_ledger
from app.connections.catch_up_requests import RESULT_TEXTS, CatchUpPlan, CatchUpRequests
from app.connections.context import ToolContext
from app.ledger.catch_ups import RESULTS, CatchUp
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.settings.model import Settings
from app.visits.client import http_client

T = TypeVar("T")
POLL_S, NO_WORKER_AFTER_S = 0.5, 5.0


@click.command("catch-up", epilog=examples("catch-up calendly", "catch-up calcom --since 2026-11-01 --dry-run"))
@click.argument("hook", shell_complete=complete_hooks)
@click.option("--since", type=TimeType(), help="The earliest start of a new visit; default: the last healthy moment.")
@utc_option
@click.option("--dry-run", is_flag=True, help="List the appointments, and store nothing.")
@click.option("--cancel", is_flag=True, help="Stop the running catch-up.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def catch_up(hook: str, since: datetime | None, dry_run: bool, cancel: bool, yes: bool) -> None:
    """List a tool's appointments, and store the changes that no webhook reported.

    Upcoming appointments and those that changed since the connection was last healthy are stored. Earlier ones need
    --since, since their customers may be asked for a review.
    """
    if cancel and dry_run:
        raise click.UsageError("--cancel and --dry-run cannot be combined")
    if cancel:
        _cancel(hook)
        return
    plan = _run(hook, lambda requests: requests.plan(hook, since))
    _print_plan(plan)
    if dry_run:
        return
    if not plan.counts["changed"]:
        exit_with(NOTHING_MATCHED, "nothing to store")
    if plan.new_past:
        _confirm_past(plan.new_past, yes)
    else:
        confirm(f"Store the changes? {plan.records.capitalize()} with changes: {plan.counts['changed']:,}.", yes)
    try:
        _print_result(_run(hook, lambda requests: _start_and_wait(requests, hook, plan)))
    except KeyboardInterrupt:
        exit_with(INTERRUPTED, f"the catch-up continues: `doorbell catch-up {hook} --cancel` stops it")


def _cancel(hook: str) -> None:
    if not _run(hook, lambda requests: requests.cancel(hook)):
        exit_with(NOTHING_MATCHED, f"no catch-up of {hook} is running")
    click.echo("cancelled", err=True)


def _run(hook: str, step: Callable[[CatchUpRequests], Awaitable[T]]) -> T:
    async def run(ledger: Ledger, settings: Settings) -> T:
        if hook not in settings.hooks:
            exit_with(NOTHING_MATCHED, f"there is no hook {hook}{did_you_mean(hook, settings.hooks)}")
        with tool_errors(settings.source_for(hook).definition.title):
            async with http_client(5) as http:
                context = ToolContext(settings, ledger, http)
                return await step(CatchUpRequests(context, actions(ledger, settings)))

    return run_with_ledger(run)


def _print_plan(plan: CatchUpPlan) -> None:
    since = with_age(iso_timestamp(plan.since.timestamp() * 1000) or "")
    click.echo(f"{plan.records} since {since}: {sum(plan.counts.values()):,}")
    for result in RESULTS:
        if count := plan.counts[result]:
            click.echo(f"  {count:,} {RESULT_TEXTS[result]}")


def _confirm_past(count: int, yes: bool) -> None:
    """Ask for the number: a past visit can start a review request."""
    visits = "1 past visit" if count == 1 else f"{count:,} past visits"
    warning = f"{visits} would be created or changed: their customers may be asked for a review."
    confirm(warning, yes, typed=str(count))


async def _start_and_wait(requests: CatchUpRequests, hook: str, plan: CatchUpPlan) -> CatchUp:
    started = await requests.start(hook, plan.since)
    listed, progress_at = 0, time.monotonic()
    total = sum(plan.counts.values())
    bar: Any
    with click.progressbar(length=total, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        while (current := await requests.get(hook) or started).is_open and current.id == started.id:
            bar.update(current.listed - listed)
            if current.listed != listed or current.problem:
                listed, progress_at = current.listed, time.monotonic()
            elif time.monotonic() - progress_at > NO_WORKER_AFTER_S and not await requests.has_worker():
                exit_with(UNREACHABLE, "no worker is running: start one (`doorbell worker`), and it catches up")
            await asyncio.sleep(POLL_S)
    return current


def _print_result(catch_up: CatchUp) -> None:
    counts = ", ".join(f"{count:,} {result}" for result, count in catch_up.counts.items() if count) or "nothing listed"
    if catch_up.status == "done":
        click.echo(f"done: {counts}")
    else:
        exit_with(CHECK_FAILED, f"{catch_up.status}: {counts}. {catch_up.problem}")
