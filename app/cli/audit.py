"""`doorbell audit`."""

import sys
from dataclasses import asdict

import click

from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    UNREACHABLE,
    examples,
    exit_with,
    json_option,
    printable,
    to_json,
)
from app.cli.session import run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.operators.drift_audit import AuditProgress, Difference, DriftAudit
from app.settings.model import Settings
from app.visits.client import VisitsApiError, http_client


@click.command(epilog=examples("audit --rate 5", "audit --repair", "audit --resume --json"))
@click.option("--account", help="Only this account of the Visits API [default: all].")
@click.option("--repair", is_flag=True, help="Requeue what differs.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Calls a second [default: VISITS_API_RATE].")
@click.option("--resume", is_flag=True, help="Continue an interrupted audit.")
@json_option
def audit(account: str | None, repair: bool, rate: float | None, resume: bool, as_json: bool) -> None:
    """Compare all visits of an account with the stored changes.

    Differences are visits that are missing, unexpected, different or duplicate."""

    async def compare(ledger: Ledger, settings: Settings) -> tuple[int, int, int]:
        """Return the numbers of differences, of those that can be repaired, and of those that were requeued."""
        accounts = [account] if account else list(settings.tokens)
        if not accounts or not settings.tokens.keys() >= set(accounts):
            exit_with(
                NOTHING_MATCHED, f"there is no account {account} with a token" if account else "no account has a token"
            )
        found = repairable = repaired = 0
        async with http_client(max_connections=2) as http:
            for name in accounts:
                one = DriftAudit(ledger, settings, http, name, rate)
                async for difference in one.differences(resume, _print_progress):
                    found += 1
                    repairable += difference.is_repairable
                    is_repaired = repair and await _requeue(one, difference)
                    repaired += is_repaired
                    _print_difference(difference, is_repaired, as_json)
                _print_summary(name, one.progress)
        return found, repairable, repaired

    try:
        found, repairable, repaired = run_with_ledger(compare)
    except VisitsApiError as trouble:
        exit_with(UNREACHABLE, f"the Visits API failed: {trouble}; `doorbell audit --resume` continues from here")
    if repaired:
        click.echo(f"requeued: {repaired}; run the audit again when they are done", err=True)
    if repairable > repaired:
        click.echo(f"nothing was changed; --repair requeues {repairable}", err=True)
    if found > repairable:
        click.echo(f"left alone: {found - repairable}, which Doorbell does not know", err=True)
    sys.exit(CHECK_FAILED if found > repaired else 0)


async def _requeue(audit: DriftAudit, difference: Difference) -> bool:
    if not difference.is_repairable:
        return False
    try:
        await audit.repair(difference)
    except NotFound:
        return False
    return True


def _print_difference(difference: Difference, is_repaired: bool, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(asdict(difference) | {"repaired": is_repaired}))
        return
    details = [
        f"{name}: {ours or 'nothing'}, in the API {theirs or 'nothing'}"
        for name, (ours, theirs) in difference.fields.items()
    ]
    remote_ids = [f"ids {' and '.join(map(str, difference.remote_ids))}"] if difference.remote_ids else []
    unknown = [] if difference.is_repairable else ["not known to Doorbell"]
    line = "  ".join([f"{difference.kind:<9}", difference.visit, "; ".join(details + remote_ids + unknown)])
    click.echo(printable(line.rstrip()))


def _print_progress(progress: AuditProgress) -> None:
    if sys.stderr.isatty():
        click.echo(
            f"\rpage {progress.page} of {max(progress.pages, progress.page)}\033[K",
            nl=progress.page >= progress.pages,
            err=True,
        )


def _print_summary(account: str, progress: AuditProgress) -> None:
    counts = ", ".join(f"{count} {what}" for what, count in progress.counts.items() if what != "seen")
    click.echo(
        f"{account}: {progress.counts.get('seen', 0)} visits in the API{': ' if counts else ''}{counts}", err=True
    )
