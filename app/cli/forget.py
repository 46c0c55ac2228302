"""`doorbell forget`."""

import json
import sys

import click

from app.cli.output import NOTHING_MATCHED, PARTLY_FAILED, USAGE, as_json, end, examples, table
from app.cli.session import noted, with_ledger
from app.ledger.ledger import Ledger
from app.operators import search_index
from app.operators.erasure import (
    BY_NUMBER,
    ELSEWHERE,
    TOLD,
    Forget,
    Found,
    Told,
    addresses_of,
    carry_out,
    plan_of,
    told_of,
)
from app.settings.model import Settings

#: Three walks.
WALKS = 3


@click.command(epilog=examples("forget ada@example.com --plan", "forget - --yes", "forget '+1 555 010 0001' --plan"))
@click.argument("whom")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def forget(whom: str, only_plan: bool, yes: bool, as_json: bool) -> None:
    """Remove a person's data from Redis: WHOM is an e-mail address, or a phone number whose visits name one (-: read from
    stdin). Digests and what was decided stay: no later event makes a wrong visit, or a second one."""
    name = (sys.stdin.readline() if whom == "-" else whom).strip()
    if not (search_index.email(name) or search_index.phone(name)):
        end(USAGE, "that is no e-mail address, and no phone number")

    number = BY_NUMBER if search_index.phone(name) else ""

    async def forgets(ledger: Ledger, settings: Settings, told: Told = lambda _: None) -> list[Forget]:
        return [Forget(ledger, settings, one, told) for one in await addresses_of(ledger, settings, name)]

    async def look(ledger: Ledger, settings: Settings) -> Found:
        length = WALKS * int(await ledger.redis.command("DBSIZE"))
        hidden = as_json or not sys.stderr.isatty()
        with click.progressbar(length=length, label="looking", file=sys.stderr, hidden=hidden) as bar:
            return await plan_of(await forgets(ledger, settings, bar.update))

    found = with_ledger(look)
    if only_plan or found.is_nothing:
        _show(found, as_json)
    if found.is_nothing:
        end(NOTHING_MATCHED, "; ".join(filter(None, ("we hold nothing of this person", number, found.unseen))))
    if only_plan:
        end(PARTLY_FAILED if found.sealed else 0, "; ".join(filter(None, ("nothing was removed", found.unseen))))
    if not as_json:
        _show(found, as_json)
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        end(USAGE, "nothing was removed: to do it, say --yes")
    if not yes:
        click.confirm("Remove it? It cannot be brought back", abort=True, err=True)

    async def remove(ledger: Ledger, settings: Settings) -> Found:
        each = await forgets(ledger, settings)
        await noted(ledger, "forgot a person", told_of(each, found))
        return await carry_out(each)

    removed = with_ledger(remove)
    if as_json:
        _show(removed, as_json)
    click.echo(f"removed: {len(removed.visits)} visits' contact, {len(removed.deliveries)} bodies", err=True)
    click.echo("\n- ".join(("What is not ours to remove:", *ELSEWHERE)), err=True)
    if removed.busy:
        end(PARTLY_FAILED, f"in somebody's hands all the time, say it again: {' '.join(sorted(removed.busy))}")
    if removed.sealed:
        end(PARTLY_FAILED, removed.unseen)


def _show(found: Found, as_json: bool) -> None:
    if as_json:
        told = {what: sorted(getattr(found, what)) for what in (*TOLD, "sealed", "busy")}
        click.echo(json.dumps(told | {"people": len(found.people), "digests": len(found.digests)}))
    else:
        table([{"what": what, "count": count, "": TOLD[what]} for what, count in found.counts.items()])
