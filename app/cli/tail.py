"""`doorbell tail`."""

import asyncio
from collections.abc import Callable

import click

from app.cli.options import complete_hooks, complete_sources
from app.cli.output import examples, json_option, printable, to_json
from app.cli.session import open_ledger, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.times import iso_timestamp
from app.operators.explain import Explain, Row, event_name
from app.operators.feed import finished_attempts, new_deliveries, new_rejections
from app.operators.lists import Lists
from app.settings.model import Settings


@click.command(epilog=examples("tail", "tail --source calendly", "tail --visit standard-A-1 --json"))
@click.option("--source", default="", help="Only of this tool.", shell_complete=complete_sources)
@click.option("--hook", default="", help="Only of this hook.", shell_complete=complete_hooks)
@click.option("--visit", default="", help="Only of this visit (external_id).")
@json_option
def tail(source: str, hook: str, visit: str, as_json: bool) -> None:
    """Follow deliveries, attempts and rejections as they happen.

    → is a delivery, ← an attempt, × a rejection (a few seconds late). Times are UTC. Ctrl-C ends the command."""

    def fits(row: Row) -> bool:
        return source in ("", row["source"]) and hook in ("", row["hook"]) and (not visit or visit in row["visits"])

    def tell(row: Row) -> None:
        if fits(row):
            click.echo(to_json(row) if as_json else printable(_line(row)))

    async def watch(ledger: Ledger, settings: Settings) -> None:
        async with open_ledger(settings) as listening:
            await asyncio.gather(
                _arriving(ledger, settings, tell),
                _attempted(ledger, settings, listening, tell),
                _refused(ledger, settings, tell),
            )

    run_with_ledger(watch)


async def _arriving(ledger: Ledger, settings: Settings, tell: Callable[[Row], None]) -> None:
    async for id in new_deliveries(ledger, settings.hooks):
        try:
            meta = await ledger.load_delivery_info(id)
        except NotFound:
            continue
        tell(
            {
                "kind": "delivery",
                "at": iso_timestamp(meta.received_at_ms, "milliseconds"),
                "source": meta.source,
                "hook": meta.hook,
                "delivery": id,
                "event": event_name(meta),
                "ignored": meta.ignored or None,
                "visits": [work.display_id for work in meta.task_ids if work.is_visit],
            }
        )


async def _attempted(ledger: Ledger, settings: Settings, listening: Ledger, tell: Callable[[Row], None]) -> None:
    explain = Explain(ledger, settings)
    lists = Lists(ledger, settings, explain)
    async for work, attempt in finished_attempts(listening.redis):
        row = await lists.task_row(work) or {}
        about = {name: row.get(name, "") for name in ("source", "hook", "delivery")} | {"visits": row.get("visits", [])}
        ended = {"at": iso_timestamp(attempt.started_at_ms + attempt.took_ms, "milliseconds")}
        tell({"kind": "attempt", **explain.attempt(attempt), **ended, **about})


async def _refused(ledger: Ledger, settings: Settings, tell: Callable[[Row], None]) -> None:
    async for note in new_rejections(ledger, ["", *settings.hooks]):
        hook = settings.active_hooks.get(note["hook"])
        source = hook.source.name if hook else ""
        tell(
            {
                "kind": "rejection",
                **note,
                "at": iso_timestamp(note["at"], "milliseconds"),
                "source": source,
                "visits": [],
            }
        )


def _line(row: Row) -> str:
    at, visits = row["at"][11:-1], " ".join(row["visits"])
    if row["kind"] == "delivery":
        parts = [row["hook"], row["event"], row["delivery"], visits, row["ignored"] and f"ignored: {row['ignored']}"]
        return f"{at} → {'  '.join(filter(None, parts))}"
    if row["kind"] == "rejection":
        return f"{at} × {'  '.join(filter(None, (row['hook'], row['reason'], row['detail'], row['cause'])))}"
    parts = [
        visits or row["delivery"],
        row["outcome"],
        ", ".join(row["calls"]),
        f"{row['took_ms']} ms",
        row["response"],
    ]
    return f"{at} ← {'  '.join(filter(None, parts))}"
