"""`doorbell listen`."""

from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime

import click

from app.cli.completion import complete_hooks
from app.cli.options import find_hook
from app.cli.output import (
    examples,
    for_people,
    json_option,
    personal_data_option,
    printable,
    sentence_for_people,
    time_zone,
    to_json,
    utc_option,
)
from app.cli.session import actions, open_ledger, run_with_ledger
from app.cli.tables import style, wrap
from app.ledger.ledger import Ledger
from app.operators.arrivals import Arrival, Arrivals
from app.operators.explain import ALL_FIELDS, FIELD_TITLES, Explain
from app.settings.model import Settings

_SIGNS = {"accepted": ("✔", "green"), "rejected": ("✘", "red")}
INDENT = " " * 13


@click.command(epilog=examples("listen calendly", "listen calendly --count 1 --json"))
@click.argument("hook", shell_complete=complete_hooks)
@click.option("--count", type=click.IntRange(1), help="End after this number of requests.")
@personal_data_option
@utc_option
@json_option
def listen(hook: str, count: int | None, reveal: bool, as_json: bool) -> None:
    """Show what arrives at a hook now, and what it means.

    HOOK is a hook, or a source with one hook. Each request is shown as it arrives: accepted or rejected, which secret
    verified it or why the signature is invalid, and what it changes. Requests to unknown URLs are shown too: the URL in the
    tool may be mistyped. Ctrl-C ends the command.
    """

    async def watch(ledger: Ledger, settings: Settings) -> None:
        name = find_hook(settings, hook).name
        if reveal:
            await actions(ledger, settings).reveal_arrivals(name)
        explain = Explain(ledger, settings, ALL_FIELDS if reveal else ())
        click.echo(f"listening at /hooks/{name}; Ctrl-C ends the command", err=True)
        remaining = count
        async with (
            open_ledger(settings) as subscriber,
            aclosing(Arrivals(ledger, settings, name, explain).follow(subscriber.redis)) as arrivals,
        ):
            async for arrival in arrivals:
                click.echo(to_json(arrival.to_dict()) if as_json else "\n".join(_lines(arrival)))
                # A request whose record is not fetched yet is shown again, and counted then.
                remaining = remaining and remaining - (not arrival.is_pending)
                if remaining == 0:
                    return

    run_with_ledger(watch)


def _lines(arrival: Arrival) -> Iterator[str]:
    row = arrival.to_dict()
    at = datetime.fromisoformat(row["at"]).astimezone(time_zone()).strftime("%H:%M:%S.%f")[:-3]
    sign, colour = _SIGNS.get(arrival.outcome, ("·", "yellow"))
    status = str(arrival.status or "")
    head = "  ".join(filter(None, (arrival.hook or "no hook", status, arrival.event, arrival.reason, arrival.delivery)))
    yield f"{style(at, dim=True)} {style(sign, fg=colour)} {printable(head)}"
    for text in (arrival.verdict, *arrival.findings, arrival.note, *_meanings(arrival)):
        if text:
            yield from wrap(printable(sentence_for_people(text)), INDENT)
    if arrival.advice and not arrival.findings:
        yield from wrap(printable(f"likely cause: {arrival.advice}"), INDENT)


def _meanings(arrival: Arrival) -> Iterator[str]:
    for visit in arrival.visits:
        yield visit["meaning"]
        fields = [f"{FIELD_TITLES.get(name, name)}: {_value(value)}" for name, value in visit["fields"].items()]
        yield "; ".join(fields)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else for_people(value)
