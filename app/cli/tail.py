"""`doorbell tail`."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime

import click

from app.cli.completion import complete_hooks, complete_sources, complete_visits
from app.cli.output import examples, json_option, printable, time_zone, to_json, utc_option
from app.cli.session import follow_stored_hooks, open_ledger, run_with_ledger
from app.cli.tables import style
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.times import iso_timestamp
from app.operators.explain import Explain, Row, event_name
from app.operators.feed import finished_attempts, new_deliveries, new_rejections
from app.operators.lists import Lists
from app.operators.rejections import find_cause
from app.settings.model import Settings


@click.command(epilog=examples("tail", "tail --source calendly", "tail --visit standard-A-1 --json"))
@click.option("--source", default="", help="Only this source.", shell_complete=complete_sources)
@click.option("--hook", default="", help="Only this hook.", shell_complete=complete_hooks)
@click.option("--visit", default="", help="Only this visit (external_id).", shell_complete=complete_visits)
@utc_option
@json_option
def tail(source: str, hook: str, visit: str, as_json: bool) -> None:
    """Follow deliveries, attempts and rejections as they happen.

    → is a delivery, ← an attempt, × a rejection (a few seconds late). Ctrl-C ends the command.
    """

    def matches(row: Row) -> bool:
        return source in ("", row["source"]) and hook in ("", row["hook"]) and (not visit or visit in row["visits"])

    def show(row: Row) -> None:
        if matches(row):
            click.echo(to_json(row) if as_json else _line(row))

    async def watch(ledger: Ledger, settings: Settings) -> None:
        async with open_ledger(settings) as subscriber:
            await asyncio.gather(
                _watch_deliveries(ledger, settings, show),
                _watch_attempts(ledger, settings, subscriber, show),
                _watch_rejections(ledger, settings, show),
                follow_stored_hooks(ledger, settings),
            )

    run_with_ledger(watch)


async def _watch_deliveries(ledger: Ledger, settings: Settings, show: Callable[[Row], None]) -> None:
    async for id in new_deliveries(ledger, lambda: settings.hooks):
        try:
            meta = await ledger.load_delivery_info(id)
        except NotFound:
            continue
        show(
            {
                "kind": "delivery",
                "at": iso_timestamp(meta.received_at_ms, "milliseconds"),
                "source": meta.source,
                "hook": meta.hook,
                "delivery": id,
                "event": event_name(meta),
                "ignored": meta.ignored or None,
                "visits": [task_id.display_id for task_id in meta.task_ids if task_id.is_visit],
            }
        )


async def _watch_attempts(ledger: Ledger, settings: Settings, subscriber: Ledger, show: Callable[[Row], None]) -> None:
    """Show finished attempts. subscriber: a ledger with its own connection, which the subscription blocks."""
    explain = Explain(ledger, settings)
    lists = Lists(ledger, settings, explain)
    async for task_id, attempt in finished_attempts(subscriber.redis):
        row = await lists.task_row(task_id) or {}
        task = {name: row.get(name, "") for name in ("source", "hook", "delivery")} | {"visits": row.get("visits", [])}
        ended_at = iso_timestamp(attempt.started_at_ms + attempt.took_ms, "milliseconds")
        show({"kind": "attempt", **explain.attempt(attempt), "at": ended_at, **task})


async def _watch_rejections(ledger: Ledger, settings: Settings, show: Callable[[Row], None]) -> None:
    async for note in new_rejections(ledger, lambda: ["", *settings.hooks]):
        hook = settings.active_hooks.get(note["hook"])
        source = hook.source.name if hook else ""
        show(
            {
                "kind": "rejection",
                **note,
                "at": iso_timestamp(note["at"], "milliseconds"),
                "source": source,
                "visits": [],
            }
        )


def _line(row: Row) -> str:
    at = datetime.fromisoformat(row["at"]).astimezone(time_zone()).strftime("%H:%M:%S.%f")[:-3]
    sign, colour = _SIGNS[row["kind"]]
    if row["kind"] == "attempt" and row["outcome"].startswith("parked"):
        colour = "red"
    text = "  ".join(filter(None, _parts(row)))
    return f"{style(at, dim=True)} {style(sign, fg=colour)} {printable(text)}"


_SIGNS = {"delivery": ("→", "cyan"), "attempt": ("←", "green"), "rejection": ("×", "red")}


def _parts(row: Row) -> Iterator[str]:
    visits = " ".join(row["visits"])
    if row["kind"] == "delivery":
        yield from (row["hook"], row["event"], row["delivery"], visits)
        yield f"ignored: {row['ignored']}" if row["ignored"] else ""
    elif row["kind"] == "rejection":
        yield from (row["hook"], find_cause(row["reason"]).title, row["detail"], row["cause"])
    else:
        yield from (visits or row["delivery"], row["text"], ", ".join(row["calls"]), f"{row['took_ms']} ms")
        yield row["response"]
