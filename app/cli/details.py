"""One delivery or visit for people: what happened, how to fix it, and the tables with the details. Programs use --json."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from app.cli.output import for_people, print_table, printable, sentence_for_people, with_currency
from app.cli.tables import State, style, symbol, task_state, wrap
from app.ledger.ids import delivery_time_ms
from app.ledger.reasons import find_reason
from app.ledger.times import humanize, iso_timestamp
from app.operators.explain import Row, field_title
from app.webhooks.registry import source_of_visit, source_title

#: The fields of a visit that its first lines show, with their labels.
VISIT_FIELDS = {
    "time_scheduled": "starts",
    "time_completed": "completed",
    "amount_collected": "amount",
    "date_cancelled": "cancelled",
}


def print_visit(row: Row) -> None:
    row = _printable_row(row)
    _print_lines(_visit_lines(row))
    _print_history(row["history"])
    decided = _fields_by_delivery(row["facts"])
    changes = sorted(row["changes"], key=lambda change: delivery_time_ms(change["delivery"]))
    _print_section("Changes, oldest first", [_change_row(change, decided) for change in changes])
    _print_section("Discarded changes", [_change_row(change, {}) for change in row["discarded_changes"]])
    _print_attempts(row["attempts"])
    _print_section("Values", list(_value_rows(row)))


def print_delivery(row: Row) -> None:
    row = _printable_row(row)
    _print_lines(_delivery_lines(row))
    _print_history(row["history"])
    _print_section("Visits", [_task_row(change) for change in row["changes"]])
    _print_attempts(row["attempts"])


def _printable_row(value: Any) -> Any:
    """Replace the control characters in all texts, before colours are added."""
    if isinstance(value, dict):
        return {name: _printable_row(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(_printable_row, value))
    return printable(value) if isinstance(value, str) else value


# -- visit --


def _visit_lines(row: Row) -> Iterator[str]:
    yield f"{symbol(row['state'])} {style(row['visit'], bold=True)}  {source_title(source_of_visit(row['visit']))}"
    yield from wrap(row["summary"], "  ")
    yield from _help(row, row["visit"])
    yield ""
    values = {label: row["facts"].get(name, {}).get("value") for name, label in VISIT_FIELDS.items()}
    values["amount"] = with_currency(values["amount"], row.get("currency"))
    remote = row.get("remote_now", row["remote"]) or {}
    yield from _pairs(
        {
            **{label: value and when(value) for label, value in values.items()},
            "in Review Rover": f"visit {remote['id']}" if remote.get("id") else "no visit",
            "account": row["account"] if row["account"] != "main" else None,
            "other ids": " ".join(row["aliases"]),
            "next attempt": _due(row.get("next_attempt")),
            "erased": when(row.get("erased_at")),
        }
    )


def _change_row(change: Mapping[str, Any], decided: Mapping[str, Sequence[str]]) -> Row:
    values = {name: for_people(value) for name, value in change["fields"].items() if value not in (None, "")}
    fields = decided.get(change["delivery"], ())
    return {
        "arrived": iso_timestamp(delivery_time_ms(change["delivery"])),
        "action": change["action"],
        "values": ", ".join(_unique(f"{_label(name)} {value}" for name, value in values.items())),
        "decides": ", ".join(_unique(map(_label, fields))) or ("nothing: newer values count" if decided else None),
        "delivery": change["delivery"],
    }


def _label(field: str) -> str:
    return VISIT_FIELDS.get(field) or field_title(field.partition(".")[0]).lower()


def _unique(parts: Iterable[str]) -> Iterable[str]:
    """Without repeated parts: each hidden field of a contact looks the same."""
    return dict.fromkeys(parts)


def _fields_by_delivery(facts: Mapping[str, Row]) -> dict[str, list[str]]:
    """Return the fields with a value that each delivery decides."""
    fields: dict[str, list[str]] = {}
    for name, fact in facts.items():
        if fact["value"] is not None:
            fields.setdefault(fact["delivery"], []).append(name)
    return fields


def _value_rows(row: Row) -> Iterator[Row]:
    """Yield the values, and those of the Visits API where they differ."""
    remote = (row["remote_now"] if "remote_now" in row else row["remote"]) or {}
    differing = {
        name: remote[name] for name, fact in row["facts"].items() if remote.get(name, fact["value"]) != fact["value"]
    }
    for name, fact in row["facts"].items():
        theirs = {"in Review Rover": differing.get(name)} if differing else {}
        yield {"field": field_title(name), "value": fact["value"], **theirs, "delivery": fact["delivery"]}


# -- delivery --


def _delivery_lines(row: Row) -> Iterator[str]:
    states = [change["state"] for change in row["changes"]] or ["ignored" if row["ignored"] else ""]
    yield f"{symbol(states[0])} {style(row['delivery'], bold=True)}  {source_title(row['source'])}"
    yield from wrap(row["summary"], "  ")
    for change in row["changes"]:
        if change["state"] == "parked":
            yield from _help(change, change.get("visit") or row["delivery"])
            break
    yield ""
    yield from _pairs(
        {
            "received": when(row["at"]),
            "hook": row["hook"],
            "event": row["event"],
            "request id": row["request_id"],
            "signed with": f"secret {row['matched_secret']}" if row["matched_secret"] else None,
            "body": row["body"],
        }
    )


def _task_row(change: Mapping[str, Any]) -> Row:
    return {
        "visit": change.get("visit"),
        "state": task_state(change["state"]),
        "problem": find_reason(change["reason"]).title if change.get("reason") else None,
        "since": change.get("since"),
        "next_attempt": _due(change.get("next_attempt")),
    }


# -- parts --


def when(timestamp: str | None) -> str | None:
    """Format a time, and how far it is from now; return other values as they are."""
    text = for_people(timestamp) if timestamp else None
    if not timestamp or text == timestamp:
        return timestamp
    seconds = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()
    return f"{text}, {humanize(seconds)} ago" if seconds >= 0 else f"{text}, in {humanize(-seconds)}"


def _due(timestamp: str | None) -> str | None:
    """Format the time of the next attempt, which is now once it has passed."""
    text = when(timestamp)
    return "now" if text and text.endswith(" ago") else text


def _help(row: Mapping[str, Any], id: str) -> Iterator[str]:
    """Yield the cause of a failure, the API's answer, the fix, and the commands."""
    if not row.get("reason"):
        return
    reason = find_reason(row["reason"])
    yield from wrap(reason.cause, "  ")
    if row.get("detail"):
        yield from wrap(f"It says: “{row['detail']}”", "  ")
    for action in reason.actions:
        yield from wrap(f"→ {action}", "  ", "    ")
    for command in reason.commands_for(id):
        if command.split()[1] in ("show", "visit"):
            continue  # it is on the screen already
        yield f"    {style(command, fg='cyan')}"


def _pairs(values: Mapping[str, str | None]) -> Iterator[str]:
    """Yield a line for each value that is not empty, in two columns."""
    filled = {label: value for label, value in values.items() if value}
    width = max(map(len, filled), default=0)
    for label, value in filled.items():
        yield from wrap(value, f"  {label.ljust(width)}  ", " " * (width + 4))


def _print_history(history: Iterable[Row]) -> None:
    lines = [(for_people(line["at"]), " ".join(_history_parts(line))) for line in history]
    width = max((len(at) for at, _ in lines), default=0)
    click.echo(f"\n{style('What happened', bold=True)}")
    for at, text in lines:
        _print_lines(wrap(text, f"{at.ljust(width)}  ", " " * (width + 2)))


def _history_parts(line: Row) -> Iterator[str]:
    if "visit" in line:
        yield f"{line['visit']}:"
    if "actor" in line:
        yield f"{line['actor']}:"
    yield sentence_for_people(line["text"])
    if "counts" in line:
        yield f"({line['counts']})"
    if "repeated" in line:
        yield f"({line['repeated']:,} times, last {for_people(line['last'])})"
    if "superseded_by" in line:
        yield f"(newer: {line['superseded_by']})"
    if "operation" in line:
        yield f"(operation {line['operation']})"


def _print_attempts(attempts: Iterable[Row]) -> None:
    rows = [
        {
            "at": attempt["at"],
            "outcome": State(attempt["text"], attempt["outcome"].partition(":")[0]),
            "took": f"{attempt['took_ms']} ms",
            "calls": ", ".join(attempt["calls"]),
            "response": attempt["response"],
        }
        for attempt in attempts
    ]
    _print_section("Attempts", rows)


def _print_section(title: str, rows: Sequence[Row]) -> None:
    if rows:
        click.echo(f"\n{style(title, bold=True)}")
        print_table(list(rows))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
