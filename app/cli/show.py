"""`doorbell failures`, `deliveries`, `show`, `visit` and `rejections`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from app.cli.completion import complete_deliveries, complete_hooks, complete_visits
from app.cli.details import print_delivery, print_visit
from app.cli.options import build_filter, cursor_option, filter_options, search_option
from app.cli.output import (
    NOTHING_MATCHED,
    UNREACHABLE,
    TimeType,
    examples,
    exit_with,
    json_option,
    limit_option,
    personal_data_option,
    print_json,
    print_message,
    print_rows,
    utc_option,
)
from app.cli.session import actions, run_with_ledger
from app.cli.tables import task_state
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason
from app.ledger.times import iso_timestamp
from app.operators.explain import ALL_FIELDS, Explain, Row
from app.operators.filter import INDEXED_STATES, RESULT_STATES, Filter
from app.operators.lists import Lists
from app.operators.rejections import RejectionGroup, find_cause, group_by_cause, with_likely_causes
from app.settings.model import Settings
from app.telemetry import rejections as rejection_notes

if TYPE_CHECKING:
    from app.operators.actions import Actions

#: A list stops after this number of pages without a match.
MAX_EMPTY_PAGES = 3
#: A time in ms, and the id of a delivery or task.
LIST_CURSOR = r"\d{1,16}_.+"
#: The fields of deliveries and failures in JSON.
DELIVERY_FIELDS = ("delivery", "at", "hook", "event", "state", "visits", "reason")
FAILURE_FIELDS = (
    "id",
    "kind",
    "reason",
    "detail",
    "since",
    "failed_attempts",
    "attempts",
    "response",
    "source",
    "hook",
    "delivery",
)


@click.command(
    epilog=examples("deliveries --since 2h", "deliveries --search ada@example.com", "deliveries --state parked --json")
)
@filter_options((*INDEXED_STATES, *RESULT_STATES))
@search_option
@limit_option
@cursor_option(LIST_CURSOR)
@json_option
def deliveries(limit: int, cursor: str, as_json: bool, **options: str | datetime | None) -> None:
    """List deliveries, newest first."""
    filter = build_filter(options, cursor=cursor)
    nothing = _nothing(options, "no delivery yet: `doorbell sources NAME` says how to connect a tool")
    _list(filter, limit, as_json, DELIVERY_FIELDS, _delivery_row, nothing)


@click.command(
    epilog=examples("failures", "failures --reason 422 --source calendly", "failures --search '+1 555 010 0001' --json")
)
@filter_options(())
@search_option
@limit_option
@cursor_option(LIST_CURSOR)
@json_option
def failures(limit: int, cursor: str, as_json: bool, **options: str | datetime | None) -> None:
    """List the tasks that need an operator, newest first."""
    filter = build_filter(options, cursor=cursor, state="parked")
    nothing = _nothing(options, "no failures: nothing needs attention")
    _list(filter, limit, as_json, FAILURE_FIELDS, _failure_row, nothing)
    if not as_json:
        print_message("\n`doorbell show ID` shows the fix")


def _nothing(options: Mapping[str, object], sentence: str) -> str:
    """Return what to say about an empty list. sentence: without a filter."""
    return "nothing matched" if any(options.values()) else sentence


def _delivery_row(row: Row) -> Row:
    return {
        **{name: row.get(name) for name in DELIVERY_FIELDS[:4]},
        "state": task_state(row["state"]),
        "problem": find_reason(row["reason"]).title if row.get("reason") else None,
        "visits": row.get("visits"),
    }


def _failure_row(row: Row) -> Row:
    texts = (find_reason(row["reason"]).title, row.get("detail")) if row.get("reason") else ()
    names = ("reason", "since", "attempts", "hook", "delivery")
    return {"id": row["id"], "problem": ": ".join(filter(None, texts)), **{name: row.get(name) for name in names}}


def _list(
    filter: Filter,
    limit: int,
    as_json: bool,
    names: Sequence[str],
    for_people: Callable[[Row], Row],
    nothing: str,
) -> None:
    """Print rows.

    names: the fields in JSON. for_people: returns the columns of a row in a table. nothing: the message without rows.
    """

    async def load(ledger: Ledger, settings: Settings) -> tuple[list[Row], str]:
        lists = Lists(ledger, settings, Explain(ledger, settings))
        rows, next_cursor = list[Row](), ""
        async for page in lists.iter_pages(filter, limit, MAX_EMPTY_PAGES):
            rows, next_cursor = rows + page.rows, page.next_cursor
        return rows, next_cursor

    rows, next_cursor = run_with_ledger(load)
    if next_cursor and not rows:
        exit_with(NOTHING_MATCHED, f"nothing matched so far: use --cursor {next_cursor} to search further back")
    for_json = [{name: row[name] for name in names if name in row} for row in rows]
    print_rows(for_json if as_json else map(for_people, rows), as_json, nothing)
    if next_cursor:
        print_message(f"there may be more: use --cursor {next_cursor}, or a larger --limit")


@click.command(
    epilog=examples(
        "show d019a3b1c2d0q4v8k2m6t0a1c3e5",
        "show standard-A-1",
        "show d019a3b1c2d0q4v8k2m6t0a1c3e5 --show-personal-data",
    )
)
@click.argument("id", shell_complete=complete_deliveries)
@personal_data_option
@utc_option
@json_option
def show(id: str, reveal: bool, as_json: bool) -> None:
    """Show one delivery or visit: what happened, how to fix it, and every attempt.

    ID is the id of a delivery or of a visit, as `doorbell failures` lists it.
    """

    async def load(ledger: Ledger, settings: Settings) -> list[Row]:
        explain = Explain(ledger, settings, ALL_FIELDS if reveal else ())
        is_visit = await explain.is_visit(id)
        if reveal:
            act = actions(ledger, settings)
            await (act.reveal_visit(id) if is_visit else act.reveal_delivery(id))
        return await explain.visit(id) if is_visit else [await explain.delivery(id)]

    for row in run_with_ledger(load):
        if as_json:
            print_json(row, as_json)
        elif "visit" in row:
            print_visit(row)
        else:
            print_delivery(row)


@click.command(
    epilog=examples("visit standard-A-1", "visit standard-A-1 --remote", "visit standard-A-1 --json | jq .facts")
)
@click.argument("external_id", shell_complete=complete_visits)
@click.option("--remote", is_flag=True, help="Also read the visit from the Visits API.")
@personal_data_option
@utc_option
@json_option
def visit(external_id: str, remote: bool, reveal: bool, as_json: bool) -> None:
    """Show one visit: every value with its delivery, and every attempt."""

    async def load(ledger: Ledger, settings: Settings) -> list[Row]:
        explain = Explain(ledger, settings, ALL_FIELDS if reveal else ())
        if reveal:
            await actions(ledger, settings).reveal_visit(external_id)
        rows = await explain.visit(external_id)
        if remote:
            await _add_remote(rows, external_id, actions(ledger, settings))
        return rows

    for row in run_with_ledger(load):
        print_json(row, as_json) if as_json else print_visit(row)


async def _add_remote(rows: list[Row], external_id: str, actions: "Actions") -> None:
    # Imported late: without --remote no HTTP client is needed.
    from app.visits.client import VisitsApiError, http_client

    try:
        async with http_client(1) as http:
            remote_visits = await actions.fetch_remote(external_id, http)
    except VisitsApiError as error:
        exit_with(UNREACHABLE, f"the Visits API did not return the visit: {error}")
    for row, now in zip(rows, remote_visits, strict=True):
        row["remote_now"] = now.visit


@click.command(epilog=examples("rejections", "rejections --hook calendly --since 1h", "rejections --by-cause"))
@click.option("--hook", help="Only this hook.", shell_complete=complete_hooks)
@click.option("--reason", default="", help="Only with this reason, or part of one.")
@click.option("--since", type=TimeType(), help="Only after this time: 2h, 7d, or a time in ISO 8601.")
@click.option("--by-cause", is_flag=True, help="Group by hook and cause, with the total and the last time.")
@limit_option
@utc_option
@json_option
def rejections(
    hook: str | None, reason: str, since: datetime | None, by_cause: bool, limit: int, as_json: bool
) -> None:
    """List rejected requests with their likely cause, or the causes with their counts.

    Only the newest rejections of each hook are stored. Counts are totals.
    """
    hooks, since_ms = [hook] if hook else [], since.timestamp() * 1000 if since else 0
    rows = _causes(hooks, reason, since_ms) if by_cause else _newest_rejections(hooks, reason, since_ms, limit)
    nothing = "nothing matched" if hook or reason or since else "no request was rejected"
    print_rows(rows[:limit] if as_json or by_cause else map(_rejection_row, rows), as_json, nothing)


def _rejection_row(note: Row) -> Row:
    return {
        "at": note["at"],
        "hook": note["hook"],
        "problem": find_cause(note["reason"]).title,
        "reason": note["reason"],
        "what to do": note["cause"],
        "detail": note["detail"],
    }


def _newest_rejections(hooks: list[str], reason: str, since_ms: float, limit: int) -> list[Row]:
    async def load(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        return with_likely_causes(await rejection_notes.newest(ledger.redis, hooks or ["", *settings.hooks]))

    notes = [note for note in run_with_ledger(load) if reason in note["reason"] and note["at"] >= since_ms]
    names = ("at", "hook", "reason", "detail", "cause")
    return [
        {name: (note | {"at": iso_timestamp(note["at"])})[name] for name in names}
        for note in rejection_notes.senders_first(notes, limit)
    ]


def _causes(hooks: list[str], reason: str, since_ms: float) -> list[Row]:
    async def load(ledger: Ledger, settings: Settings) -> list[RejectionGroup]:
        return await group_by_cause(ledger.redis, hooks or ["", *settings.hooks])

    return [
        {
            "hook": group.hook,
            "cause": group.cause.title,
            "reason": group.reason,
            "count": group.count,
            "last": iso_timestamp(group.last),
            "what to do": group.cause.text,
        }
        for group in run_with_ledger(load)
        if reason in group.reason and (group.last or 0) >= since_ms
    ]
