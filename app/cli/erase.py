"""`doorbell erase`."""

import json
import sys

import click

from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    PARTLY_FAILED,
    USAGE,
    confirm,
    examples,
    exit_with,
    json_option,
    print_message,
)
from app.cli.session import actions, run_with_ledger
from app.cli.tables import wrap
from app.ledger.ledger import Ledger
from app.operators import search_index
from app.operators.erasure import (
    LABELS,
    NOT_COVERED,
    PHONE_NOTE,
    Erasure,
    ErasureReport,
    OnProgress,
    plan_all,
    resolve_emails,
)
from app.settings.model import Settings

#: The scans of all keys that a plan makes, for the progress bar.
SCANS = 4


@click.command(epilog=examples("erase ada@example.com --dry-run", "erase - --yes", "erase '+1 555 010 0001' --dry-run"))
@click.argument("person")
@click.option("--dry-run", "dry_run", is_flag=True, help="Only show what would be erased.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
def erase(person: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Erase the personal data of one person from Redis.

    PERSON is an e-mail address, or a phone number that was stored with one; - reads it from standard input. A phone number
    needs SECRET_KEY, and finds the visits in the search index. Ids, times, amounts and a digest of the address are kept, so
    that later events still match the same visits.
    """
    person = (sys.stdin.readline() if person == "-" else person).strip()
    if not (search_index.normalize_email(person) or search_index.normalize_phone(person)):
        exit_with(USAGE, "give an e-mail address or a phone number")
    planned = _plan(person, hidden=as_json or not sys.stderr.isatty())
    if planned.is_empty or dry_run or not as_json:
        _print_report(planned, as_json)
    if planned.is_empty:
        in_index = f"no visit in the search index has this phone number; {PHONE_NOTE}"
        nothing = in_index if search_index.normalize_phone(person) else "nothing is stored about this person"
        if planned.unreadable:
            exit_with(PARTLY_FAILED, _join("nothing was found about this person", planned.unreadable_note))
        exit_with(NOTHING_MATCHED, nothing)
    if dry_run:
        exit_with(PARTLY_FAILED if planned.unreadable else 0, _join("nothing was erased", planned.unreadable_note))
    confirm("Erase this data? This cannot be undone.", yes)
    _erase(person, planned, as_json)


def _plan(person: str, hidden: bool) -> ErasureReport:
    async def plan(ledger: Ledger, settings: Settings) -> ErasureReport:
        length = SCANS * int(await ledger.redis.command("DBSIZE"))
        with click.progressbar(length=length, label="searching", file=sys.stderr, hidden=hidden) as bar:
            return await plan_all(await _erasures(ledger, settings, person, bar.update))

    return run_with_ledger(plan)


def _erase(person: str, planned: ErasureReport, as_json: bool) -> None:
    async def step(ledger: Ledger, settings: Settings) -> ErasureReport:
        return await actions(ledger, settings).erase(await _erasures(ledger, settings, person), planned)

    erased = run_with_ledger(step)
    if as_json:
        _print_report(erased, as_json)
    print_message(f"erased: contacts of {len(erased.visits)} visits, {len(erased.deliveries)} bodies")
    print_message("\n- ".join(("Doorbell cannot erase these; erase them yourself:", *NOT_COVERED)))
    if notes := erased.incomplete_notes:
        exit_with(PARTLY_FAILED, "\n".join((*notes, "run the command again to erase these too")))
    if erased.unreadable:
        exit_with(PARTLY_FAILED, erased.unreadable_note)


async def _erasures(
    ledger: Ledger, settings: Settings, person: str, on_progress: OnProgress = lambda _: None
) -> list[Erasure]:
    if search_index.normalize_phone(person) and not settings.secret_key:
        exit_with(CHECK_FAILED, "a phone number needs SECRET_KEY; give the e-mail address")
    emails = await resolve_emails(ledger, settings, person)
    return [Erasure(ledger, settings, email, on_progress) for email in emails]


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _print_report(report: ErasureReport, as_json: bool) -> None:
    if as_json:
        row = {name: sorted(getattr(report, name)) for name in (*LABELS, "unreadable", "busy", "late")}
        click.echo(json.dumps(row | {"people": len(report.people), "digests": len(report.digests)}))
        return
    for name, count in report.counts.items():
        for line in wrap(f"{name}: {LABELS[name]}", f"{count:>6,}  ", " " * 8):
            click.echo(line)
