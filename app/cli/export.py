"""`doorbell export`, which writes rows while it reads them."""

import csv
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, TypeVar

import click

from app.cli.options import build_filter, filter_options, search_option
from app.cli.output import NOTHING_MATCHED, PARTLY_FAILED, Subcommands, confirm, examples, exit_with, print_message
from app.cli.session import actions, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason
from app.ledger.records import BodyUnavailable, NotFound
from app.operators.explain import ALL_FIELDS, Explain, Row
from app.operators.filter import INDEXED_STATES, RESULT_STATES, TASK_STATES, Filter
from app.operators.lists import Lists
from app.operators.selection import TaskSelector
from app.settings.model import Settings

Format = Literal["csv", "ndjson"]
F = TypeVar("F", bound=Callable[..., Any])


def _format_options(command: F) -> F:
    formats = click.Choice(["csv", "ndjson"])
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
        click.option(
            "--show-personal-data",
            "reveal",
            is_flag=True,
            help="Also write personal data, after a confirmation; recorded in the activity log.",
        ),
        click.option("--format", type=formats, default="csv", show_default=True),
    ):
        command = option(command)
    return command


@click.group(
    cls=Subcommands,
    epilog=examples(
        "export deliveries --since 7d > week.csv", "export visits --state parked --format ndjson | jq .visit"
    ),
)
def export() -> None:
    """Write all deliveries or visits of a filter, as CSV or NDJSON."""


@export.command(epilog=examples("export deliveries --hook calendly --since 7d > week.csv"))
@filter_options((*INDEXED_STATES, *RESULT_STATES))
@search_option
@_format_options
def deliveries(format: Format, reveal: bool, yes: bool, **options: str | datetime | None) -> None:
    """Write deliveries, newest first.

    With --show-personal-data also their bodies. A body that was erased or cannot be decrypted stays empty; then the exit
    status is 6.
    """
    filter, unavailable = build_filter(options), Counter[str]()

    async def rows(ledger: Ledger, settings: Settings) -> AsyncIterator[Row]:
        lists = Lists(ledger, settings, Explain(ledger, settings))
        names = ("delivery", "at", "hook", "event", "state", "reason", "visits")
        async for page in lists.iter_pages(filter):
            for row in page.rows:
                row = {name: row.get(name) for name in names}
                if reveal:
                    row["body"] = await _load_body(ledger, row["delivery"], unavailable)
                yield row

    _export("deliveries", filter, rows, format, reveal, yes)
    for reason, count in unavailable.items():
        print_message(f"  {count} without a body: {find_reason(reason).title}")
    if unavailable:
        sys.exit(PARTLY_FAILED)


async def _load_body(ledger: Ledger, id: str, unavailable: Counter[str]) -> str | None:
    """Return the body; None if it cannot be read, and then count the reason, or if the delivery has just expired."""
    try:
        _, raw = await ledger.load_delivery(id)
    except BodyUnavailable as error:
        unavailable[error.reason] += 1
        return None
    except NotFound:
        return None
    return raw.decode("utf-8", "replace")


@export.command(
    epilog=examples("export visits --source square --format ndjson > visits.ndjson", "export visits --search A-1042")
)
@filter_options(TASK_STATES)
@search_option
@_format_options
def visits(format: Format, reveal: bool, yes: bool, **options: str | datetime | None) -> None:
    """Write visits as the stored changes define them.

    With --show-personal-data also their contacts.
    """
    filter = build_filter(options)

    async def rows(ledger: Ledger, settings: Settings) -> AsyncIterator[Row]:
        explain, written = Explain(ledger, settings, ALL_FIELDS if reveal else ()), set[int]()
        async for task_id in TaskSelector(ledger, settings, "retry").iter_visits(filter):
            with suppress(NotFound):
                row = await explain.visit_summary(task_id)
                # A visit with several ids is written once.
                if (digest := hash((row["account"], row["visit"]))) not in written:
                    written.add(digest)
                    yield row

    _export("visits", filter, rows, format, reveal, yes)


def _export(
    kind: Literal["deliveries", "visits"],
    filter: Filter,
    rows: Callable[[Ledger, Settings], AsyncIterator[Row]],
    format: Format,
    reveal: bool,
    yes: bool,
) -> None:
    if reveal:
        confirm("The file will have personal data.", yes, typed="reveal")

    async def write(ledger: Ledger, settings: Settings) -> int:
        if reveal:
            await actions(ledger, settings).export(kind, filter)
        count = 0
        table = csv.writer(sys.stdout)
        async for row in rows(ledger, settings):
            if format == "ndjson":
                sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
            else:
                if not count:
                    table.writerow(row)
                table.writerow(map(_cell, row.values()))
            count += 1
        sys.stdout.flush()
        return count

    count = run_with_ledger(write)
    if not count:
        exit_with(NOTHING_MATCHED, "nothing matched")
    print_message(f"{count} {kind}")


def _cell(value: Any) -> str:
    """Quote values that a spreadsheet would run as a formula."""
    text = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
