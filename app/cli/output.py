"""What the commands have in common: how they end, and how they show things. Quick to import: `doorbell --help` does."""

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import click

BUG, USAGE, CHECK_FAILED, UNREACHABLE, NOTHING_MATCHED, PARTLY_FAILED, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many at most."
)
personal_data_option = click.option(
    "--show-personal-data", "reveal", is_flag=True, help="Show personal data too; it is in the audit log."
)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  doorbell {line}" for line in lines)


class TimeType(click.ParamType[datetime]):
    """`2h`: so long ago; or a time in ISO 8601, which is UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
        if ago := re.fullmatch(r"([0-9]{1,6})([smhdw])", str(value)):
            try:
                return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * units[ago[2]])
            except OverflowError:
                self.fail(f"{value} is longer ago than there are years")
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value} is neither a time like 2026-03-14T09:00:00Z nor so long ago, like 30m, 2h or 7d")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def exit_with(status: int, sentence: str) -> NoReturn:
    click.echo("\n".join(map(printable, sentence.split("\n"))), err=True)
    sys.exit(status)


def confirm(question: str, yes: bool) -> None:
    """Go on only with --yes, or after a yes on a terminal."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        exit_with(USAGE, "nothing was done: to do it, say --yes")
    if not click.confirm(question, err=True):
        exit_with(USAGE, "nothing was done")


def print_json(story: dict[str, Any], as_json: bool = False) -> None:
    click.echo(to_json(story, None if as_json else 2))


def print_rows(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """A list: a table for people, one object a line for programs. Nothing in it: exit status 5."""
    rows = list(rows)
    if as_json:
        for row in rows:
            click.echo(to_json(row))
    else:
        print_table(rows)
    if not rows:
        exit_with(NOTHING_MATCHED, "nothing")


def print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list({name: None for row in rows for name in row})
    lines = [
        [name.upper().replace("_", " ") for name in names],
        *([_cell(row.get(name)) for name in names] for row in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return printable(" ".join(map(str, value))) or "–"
    return "–" if value is None or value == "" else printable(str(value))


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON, in which what a terminal would not print as it is is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


_UNPRINTABLE = re.compile(r"[^\n -~]")


def _escaped(found: re.Match[str]) -> str:
    one = found[0]
    return one if one.isprintable() else json.dumps(one)[1:-1] if ord(one) > 0x7F else f"\\u{ord(one):04x}"


def printable(text: str) -> str:
    """For a terminal: what a sender wrote must neither steer it nor turn the direction of a line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else " " if one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in text)
