"""`doorbell visits` and `search`."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from app.cli.completion import complete_sources
from app.cli.options import cursor_option
from app.cli.output import (
    NOTHING_MATCHED,
    TimeType,
    examples,
    exit_with,
    json_option,
    limit_option,
    personal_data_option,
    print_message,
    print_rows,
    time_zone,
    utc_option,
    with_currency,
)
from app.cli.session import actions, run_with_ledger
from app.cli.tables import State, task_state
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason
from app.operators.explain import Row
from app.operators.filter import TASK_STATES
from app.operators.visit_lists import WHEN, VisitFilter, VisitLists, period, task_id_of, to_bound
from app.settings.model import Settings


class AmountType(click.ParamType[Decimal]):
    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("NaN")
        return amount if amount.is_finite() else self.fail(f"{value} is not an amount like 120 or 79.50")


@click.command(
    epilog=examples("visits", "visits --when today", "visits --since 2026-12-01 --until 2026-12-24 --cancelled --json")
)
@click.option(
    "--when",
    type=click.Choice(WHEN),
    help="Which days: from today on (the default without --since and --until), one day, past ones (latest first), or all.",
)
@click.option("--since", type=TimeType(), help="Only visits that start at this time or later.")
@click.option("--until", type=TimeType(), help="Only visits that start before this time.")
@click.option("--source", default="", help="Only this source.", shell_complete=complete_sources)
@click.option("--state", type=click.Choice(TASK_STATES), help="Only in this state.")
@click.option("--cancelled/--not-cancelled", default=None, help="Only cancelled visits, or only those that are not.")
@click.option("--min-amount", type=AmountType(), help="Only with at least this amount.")
@click.option("--max-amount", type=AmountType(), help="Only with at most this amount.")
@limit_option
@cursor_option(r"\d{4}-\d\d-\d\dT\d\d:\d\d .+")
@personal_data_option
@utc_option
@json_option
def visits(
    when: str | None,
    since: datetime | None,
    until: datetime | None,
    state: str | None,
    cancelled: bool | None,
    limit: int,
    reveal: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """List visits in the order of their start."""
    filter = period(when or ("any" if since or until else "upcoming"), datetime.now(UTC), time_zone())
    filter = replace(
        filter,
        since=max(filter.since, to_bound(since)) if since else filter.since,
        until=min(filter.until or "~", to_bound(until)) if until else filter.until,
        state=state or "",
        cancelled={None: "", True: "yes", False: "no"}[cancelled],
        **fields,
    )
    rows, next_cursor = run_with_ledger(lambda ledger, settings: _load(ledger, settings, filter, limit, reveal))
    is_default = filter == period("upcoming", datetime.now(UTC), time_zone())
    nothing = "no visits from today on: `doorbell visits --when any` lists all" if is_default else "nothing matched"
    print_rows([row if as_json else _for_people(row) for row in rows], as_json, nothing)
    if next_cursor:
        print_message(f"there may be more: use --cursor '{next_cursor}', or a larger --limit")


@click.command(epilog=examples("search Lovelace", "search ada@example.com", "search acuity-10 --json"))
@click.argument("text")
@utc_option
@json_option
def search(text: str, as_json: bool) -> None:
    """Find visits and deliveries by a name, an id or its beginning, an e-mail address or a phone number.

    Names, addresses and numbers are those of the customers of visits that a worker has processed.
    """
    from app.operators.search import Search

    hits = run_with_ledger(lambda ledger, settings: Search(ledger, settings).find(text))
    if not hits.rows and not as_json:
        exit_with(NOTHING_MATCHED, "\n".join(["nothing matched; searched:", *(f"- {line}" for line in hits.searched)]))
    print_rows([row if as_json else _hit_for_people(row) for row in hits.rows], as_json)


def _hit_for_people(row: Row) -> Row:
    return {
        "at": row["at"],
        "id": row["id"],
        "title": row["title"],
        "state": _state(row, is_cancelled=row.get("cancelled", False)),
        "amount": with_currency(row.get("amount_collected"), row.get("currency")),
    }


async def _load(
    ledger: Ledger, settings: Settings, filter: VisitFilter, limit: int, reveal: bool
) -> tuple[list[Row], str]:
    lists, rows, next_cursor = VisitLists(ledger), list[Row](), ""
    async for page in lists.iter_pages(filter, limit):
        rows, next_cursor = rows + page.rows, page.next_cursor
    if reveal and rows:
        await actions(ledger, settings).reveal_visits(list(map(task_id_of, rows)))
        customers = await lists.customers(rows)
        rows = [row | {"customer": customer} for row, customer in zip(rows, customers, strict=True)]
    return rows, next_cursor


def _for_people(row: Row) -> Row:
    return {
        "start": row["start"],
        **({"customer": row["customer"]} if "customer" in row else {}),
        "visit": row["visit"],
        "in Review Rover": f"#{row['number']}" if row["number"] else None,
        "state": _state(row, is_cancelled=bool(row["date_cancelled"])),
        "problem": find_reason(row["reason"]).title if row["reason"] else None,
        "amount": with_currency(row["amount_collected"], row["currency"]),
    }


def _state(row: Row, *, is_cancelled: bool) -> State:
    state = task_state(row["state"])
    return State(f"{state}, cancelled", state.code) if is_cancelled else state
