"""`doorbell forget`."""

import json
import sys

import click

from app import find
from app.cli.reach import noted, with_ledger
from app.cli.words import NOTHING_MATCHED, PARTLY_FAILED, USAGE, as_json, end, examples, table
from app.forget import Forget, Found
from app.ledger import Ledger
from app.settings import Settings

TOLD = {
    "visits": "contact and quoted answers removed",
    "deliveries": "body and headers removed",
    "shared": "of these deliveries spoke of others' visits too, which stay as they are",
    "digests": "digests of the address removed",
    "operations": "filters removed",
    "open": "not done yet: they lack what was removed, and will need an operator",
}
#: Three walks.
WALKS = 3


@click.command(epilog=examples("forget ada@example.com --plan", "forget - --yes"))
@click.argument("email")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def forget(email: str, only_plan: bool, yes: bool, as_json: bool) -> None:
    """Remove a person's data from Redis, by EMAIL (-: read from stdin). Digests and what was decided stay: no later event
    makes a wrong visit, or a second one."""
    name = find.email(sys.stdin.readline() if email == "-" else email)
    if not name:
        end(USAGE, "that is no e-mail address")

    async def look(ledger: Ledger, settings: Settings) -> Found:
        length = WALKS * int(await ledger.redis.command("DBSIZE"))
        hidden = as_json or not sys.stderr.isatty()
        with click.progressbar(length=length, label="looking", file=sys.stderr, hidden=hidden) as bar:
            return await Forget(ledger, settings, name, bar.update).plan()

    found = with_ledger(look)
    if only_plan or found.is_nothing:
        _show(found, as_json)
    if found.is_nothing:
        end(NOTHING_MATCHED, "we hold nothing of this person" + _unseen(found))
    if only_plan:
        end(PARTLY_FAILED if found.sealed else 0, "nothing was removed" + _unseen(found))
    if not as_json:
        _show(found, as_json)
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        end(USAGE, "nothing was removed: to do it, say --yes")
    if not yes:
        click.confirm("Remove it? It cannot be brought back", abort=True, err=True)

    async def carry_out(ledger: Ledger, settings: Settings) -> Found:
        one = Forget(ledger, settings, name)
        what = f"{one.digest}: {len(found.visits)} visits, {len(found.deliveries)} deliveries"
        await noted(ledger, "forgot a person", what)
        return await one.carry_out()

    removed = with_ledger(carry_out)
    if as_json:
        _show(removed, as_json)
    click.echo(f"removed: {len(removed.visits)} visits' contact, {len(removed.deliveries)} bodies", err=True)
    click.echo(ELSEWHERE, err=True)
    if removed.busy:
        end(PARTLY_FAILED, f"in somebody's hands all the time, say it again: {' '.join(sorted(removed.busy))}")
    if removed.sealed:
        end(PARTLY_FAILED, _unseen(removed).removeprefix("; "))


ELSEWHERE = """What is not ours to remove:
- the contact and its visits in Review Rover: delete the contact there
- the tool's own record: remove it there too, or the tool may ring with it again
- backups of Redis, and its append-only file until it is rewritten (BGREWRITEAOF)"""


def _unseen(found: Found) -> str:
    if not found.sealed:
        return ""
    return f"; {len(found.sealed)} bodies are sealed under keys that BODY_KEYS lacks: what they say cannot be seen"


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        told = {what: sorted(getattr(found, what)) for what in (*TOLD, "sealed", "busy")}
        click.echo(json.dumps(told | {"digests": len(found.digests)}))
    else:
        counts = {what: len(getattr(found, what)) for what in TOLD}
        table([{"what": what, "count": count, "": TOLD[what]} for what, count in counts.items() if count])
