"""`doorbell erase`."""

import json
import sys

import click

from app.cli.output import NOTHING_MATCHED, PARTLY_FAILED, USAGE, examples, exit_with, json_option, print_table
from app.cli.session import actions, run_with_ledger
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

#: Three walks.
WALKS = 3


@click.command(epilog=examples("erase ada@example.com --dry-run", "erase - --yes", "erase '+1 555 010 0001' --dry-run"))
@click.argument("whom")
@click.option("--dry-run", "dry_run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def erase(whom: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove a person's data from Redis: WHOM is an e-mail address, or a phone number whose visits name one (-: read from
    stdin). Digests and what was decided stay: no later event makes a wrong visit, or a second one."""
    name = (sys.stdin.readline() if whom == "-" else whom).strip()
    if not (search_index.normalize_email(name) or search_index.normalize_phone(name)):
        exit_with(USAGE, "that is no e-mail address, and no phone number")

    number = PHONE_NOTE if search_index.normalize_phone(name) else ""

    async def forgets(ledger: Ledger, settings: Settings, told: OnProgress = lambda _: None) -> list[Erasure]:
        return [Erasure(ledger, settings, one, told) for one in await resolve_emails(ledger, settings, name)]

    async def look(ledger: Ledger, settings: Settings) -> ErasureReport:
        length = WALKS * int(await ledger.redis.command("DBSIZE"))
        hidden = as_json or not sys.stderr.isatty()
        with click.progressbar(length=length, label="looking", file=sys.stderr, hidden=hidden) as bar:
            return await plan_all(await forgets(ledger, settings, bar.update))

    found = run_with_ledger(look)
    if dry_run or found.is_empty:
        _show(found, as_json)
    if found.is_empty:
        exit_with(
            NOTHING_MATCHED, "; ".join(filter(None, ("we hold nothing of this person", number, found.unreadable_note)))
        )
    if dry_run:
        exit_with(
            PARTLY_FAILED if found.unreadable else 0,
            "; ".join(filter(None, ("nothing was removed", found.unreadable_note))),
        )
    if not as_json:
        _show(found, as_json)
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        exit_with(USAGE, "nothing was removed: to do it, say --yes")
    if not yes:
        click.confirm("Remove it? It cannot be brought back", abort=True, err=True)

    async def remove(ledger: Ledger, settings: Settings) -> ErasureReport:
        each = await forgets(ledger, settings)
        return await actions(ledger, settings).erase(each, found)

    removed = run_with_ledger(remove)
    if as_json:
        _show(removed, as_json)
    click.echo(f"removed: {len(removed.visits)} visits' contact, {len(removed.deliveries)} bodies", err=True)
    click.echo("\n- ".join(("What is not ours to remove:", *NOT_COVERED)), err=True)
    if removed.busy:
        exit_with(PARTLY_FAILED, f"in somebody's hands all the time, say it again: {' '.join(sorted(removed.busy))}")
    if removed.unreadable:
        exit_with(PARTLY_FAILED, removed.unreadable_note)


def _show(found: ErasureReport, as_json: bool) -> None:
    if as_json:
        told = {what: sorted(getattr(found, what)) for what in (*LABELS, "unreadable", "busy")}
        click.echo(json.dumps(told | {"people": len(found.people), "digests": len(found.digests)}))
    else:
        print_table([{"what": what, "count": count, "": LABELS[what]} for what, count in found.counts.items()])
