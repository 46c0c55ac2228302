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
from app.visits.client import VisitsApiTrouble, http_client


@click.command(epilog=examples("audit --rate 5", "audit --repair", "audit --resume --json"))
@click.option("--account", help="Only this Visits account: main, or a hook's with a token of its own.")
@click.option("--repair", is_flag=True, help="Put what differs back to work.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Calls a second; default VISITS_API_RATE.")
@click.option("--resume", is_flag=True, help="Go on where the last audit was broken off.")
@json_option
def audit(account: str | None, repair: bool, rate: float | None, resume: bool, as_json: bool) -> None:
    """Compare the account's visits, all of them, with what our facts say: missing, extra, different, doubled."""

    async def compare(ledger: Ledger, settings: Settings) -> tuple[int, int, int]:
        """How many differences, how many of them can be repaired, and how many were put to work."""
        accounts = [account] if account else list(settings.tokens)
        if not accounts or not settings.tokens.keys() >= set(accounts):
            exit_with(
                NOTHING_MATCHED, f"there is no account {account} with a token" if account else "no account has a token"
            )
        found = repairable = repaired = 0
        async with http_client(most=2) as http:
            for name in accounts:
                one = DriftAudit(ledger, settings, http, name, rate)
                async for difference in one.differences(resume, _told):
                    found += 1
                    repairable += difference.is_repairable
                    is_repaired = repair and await _repair(one, difference)
                    repaired += is_repaired
                    _show(difference, is_repaired, as_json)
                _sum_up(name, one.progress)
        return found, repairable, repaired

    try:
        found, repairable, repaired = run_with_ledger(compare)
    except VisitsApiTrouble as trouble:
        exit_with(UNREACHABLE, f"broken off: {trouble}; `doorbell audit --resume` goes on from there")
    if repaired:
        click.echo(f"put back to work: {repaired}; audit again when they are done", err=True)
    if repairable > repaired:
        click.echo(f"nothing was changed; --repair puts {repairable} back to work", err=True)
    if found > repairable:
        click.echo(f"left alone: {found - repairable}, of which our facts know nothing", err=True)
    sys.exit(CHECK_FAILED if found > repaired else 0)


async def _repair(audit: DriftAudit, difference: Difference) -> bool:
    if not difference.is_repairable:
        return False
    try:
        await audit.repair(difference)
    except NotFound:
        return False
    return True


def _show(difference: Difference, is_repaired: bool, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(asdict(difference) | {"repaired": is_repaired}))
        return
    details = [
        f"{name}: {ours or 'nothing'}, there {theirs or 'nothing'}"
        for name, (ours, theirs) in difference.fields.items()
    ]
    numbers = [f"numbers {' and '.join(map(str, difference.remote_ids))}"] if difference.remote_ids else []
    unheard = [] if difference.is_repairable else ["we know nothing of it"]
    line = "  ".join([f"{difference.kind:<9}", difference.visit, "; ".join(details + numbers + unheard)])
    click.echo(printable(line.rstrip()))


def _told(where: AuditProgress) -> None:
    if sys.stderr.isatty():
        click.echo(
            f"\rpage {where.page} of {max(where.pages, where.page)}\033[K", nl=where.page >= where.pages, err=True
        )


def _sum_up(account: str, where: AuditProgress) -> None:
    counts = ", ".join(f"{count} {what}" for what, count in where.counts.items() if what != "seen")
    click.echo(f"{account}: {where.counts.get('seen', 0)} visits in the API{': ' if counts else ''}{counts}", err=True)
