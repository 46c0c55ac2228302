"""`doorbell drift`."""

from dataclasses import asdict

import click

from app.cli.completion import complete_sources
from app.cli.output import NOTHING_MATCHED, USAGE, examples, exit_with, json_option, print_rows, utc_option
from app.cli.session import actions, run_with_ledger
from app.cli.sources import find_tool
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.explain import Row
from app.settings.model import Settings
from app.telemetry.payload_watch import PayloadChange, payload_changes


@click.command(epilog=examples("drift", "drift calendly --all --json", "drift calendly --acknowledge"))
@click.argument("source", required=False, shell_complete=complete_sources)
@click.option("--all", "show_all", is_flag=True, help="Also list changes that are acknowledged.")
@click.option("--acknowledge", is_flag=True, help="Mark the changes of SOURCE as known, which ends their alert.")
@utc_option
@json_option
def drift(source: str | None, show_all: bool, acknowledge: bool, as_json: bool) -> None:
    """List what tools changed in their payloads, newest first.

    A new field, a new word in a field like `status`, and a missing field that was always there are each reported once, with
    a delivery. The list of a source starts over when its module or its specimens change.
    """
    name = find_tool(source).name if source else ""
    if acknowledge and not name:
        exit_with(USAGE, "name the source whose changes you acknowledge")

    async def load(ledger: Ledger, settings: Settings) -> list[PayloadChange]:
        return await payload_changes(ledger.redis, name, is_open=not show_all)

    async def mark(ledger: Ledger, settings: Settings) -> int:
        return await actions(ledger, settings).acknowledge_payload_changes(name)

    if acknowledge:
        count = run_with_ledger(mark)
        if not count:
            exit_with(NOTHING_MATCHED, "nothing matched")
        click.echo(f"acknowledged: {count}", err=True)
        return
    nothing = (
        "nothing matched" if source or show_all else "no unacknowledged changes: --all also lists acknowledged ones"
    )
    print_rows([_row(change, as_json) for change in run_with_ledger(load)], as_json, nothing)


def _row(change: PayloadChange, as_json: bool) -> Row:
    at = iso_timestamp(change.at)
    if as_json:
        return asdict(change) | {"at": at, "path": change.path.removeprefix(".")}
    return {
        "at": at,
        "source": change.source,
        "event": change.kind,
        "change": change.sentence.replace("`", ""),
        "delivery": change.delivery,
        "acknowledged by": change.acknowledged_by,
    }
