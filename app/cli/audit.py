"""`doorbell audit`."""

import sys
from dataclasses import asdict, dataclass

import click

from app.cli.options import refuse_empty
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    PARTLY_FAILED,
    UNREACHABLE,
    examples,
    exit_with,
    json_option,
    print_message,
    printable,
    to_json,
)
from app.cli.session import actions, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.locks import LockContended, exclusive
from app.ledger.records import NotFound
from app.operators.actions import Actions
from app.operators.visit_audit import AccountMoves, AuditProgress, Difference, VisitAudit
from app.settings.model import Settings
from app.visits.client import VisitsApiError, http_client


@dataclass(slots=True)
class _Counts:
    """The numbers of differences, of those that can be repaired, and of those that were requeued; of accounts that move.

    remaining: see AuditProgress.
    """

    differences: int = 0
    repairable: int = 0
    requeued: int = 0
    remaining: int = 0
    moving: int = 0

    @property
    def exit_status(self) -> int:
        if self.remaining:
            return CHECK_FAILED
        return PARTLY_FAILED if self.moving else 0


@click.command(epilog=examples("audit --rate 5", "audit --repair", "audit --resume --json"))
@click.option("--account", help="Only this account of the Visits API [default: all].", callback=refuse_empty)
@click.option("--repair", is_flag=True, help="Requeue visits that differ.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Calls per second [default: VISITS_API_RATE]."
)
@click.option("--resume", is_flag=True, help="Continue an interrupted audit.")
@json_option
def audit(account: str | None, repair: bool, rate: float | None, resume: bool, as_json: bool) -> None:
    """Compare all visits of an account with the stored changes.

    Differences are visits that are missing, unexpected, different or duplicate. Exit status: 3 if there are differences
    that were not requeued; 6 if an account was not compared, because it moves or has moved to another cell.
    """
    counts = _Counts()

    async def compare(ledger: Ledger, settings: Settings) -> None:
        accounts = [account] if account else list(settings.tokens)
        if not accounts or not settings.tokens.keys() >= set(accounts):
            exit_with(
                NOTHING_MATCHED, f"there is no account {account} with a token" if account else "no account has a token"
            )
        async with http_client(max_connections=2) as http:
            for name in accounts:
                visit_audit = VisitAudit(ledger, settings, http, name, rate)
                try:
                    async with exclusive(ledger, visit_audit.lock):
                        async for difference in visit_audit.differences(resume, _print_progress):
                            counts.differences += 1
                            counts.repairable += difference.is_repairable
                            is_repaired = repair and await _requeue(actions(ledger, settings), visit_audit, difference)
                            counts.requeued += is_repaired
                            _print_difference(difference, is_repaired, as_json)
                except LockContended:
                    exit_with(CHECK_FAILED, f"{name}: another audit is running, or was killed less than 30 s ago")
                except AccountMoves:
                    counts.moving += 1
                    print_message(f"{name}: not compared, because it moves or has moved to another cell")
                else:
                    _print_summary(name, visit_audit.progress)
                counts.remaining += visit_audit.progress.remaining

    try:
        run_with_ledger(compare)
    except VisitsApiError as error:
        exit_with(UNREACHABLE, f"the Visits API failed: {error}; `doorbell audit --resume` continues from here")
    if counts.requeued:
        print_message(f"requeued: {counts.requeued}; run the audit again when they are done")
    if counts.repairable > counts.requeued:
        print_message(f"repairable: {counts.repairable}; --repair requeues them")
    if counts.differences > counts.repairable:
        print_message(f"not known to Doorbell, and not changed: {counts.differences - counts.repairable}")
    sys.exit(counts.exit_status)


async def _requeue(actions: Actions, audit: VisitAudit, difference: Difference) -> bool:
    if not difference.is_repairable:
        return False
    try:
        await actions.repair(audit, difference)
    except NotFound:
        return False
    return True


def _print_difference(difference: Difference, is_repaired: bool, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(asdict(difference) | {"repaired": is_repaired}))
        return
    details = [
        f"{name}: expected {ours or 'nothing'}, the API has {theirs or 'nothing'}"
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
    counts = ", ".join(f"{count} {kind}" for kind, count in progress.counts.items() if kind not in ("seen", "requeued"))
    print_message(f"{account}: {progress.counts.get('seen', 0)} visits in the API{': ' if counts else ''}{counts}")
