"""Exit statuses, options and output of all commands. `doorbell --help` imports this module, so it has few imports."""

import json
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from app.cli.tables import EMPTY, State, format_table, message_lines, terminal_width
from app.ledger.times import humanize, local_time

BUG, USAGE, CHECK_FAILED, UNREACHABLE, NOTHING_MATCHED, PARTLY_FAILED, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

#: The age of a more recent time is shown in a terminal.
RECENT = timedelta(hours=12)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="The maximum number of rows."
)
personal_data_option = click.option(
    "--show-personal-data", "reveal", is_flag=True, help="Also show personal data; recorded in the activity log."
)


def _use_utc(ctx: click.Context, param: click.Parameter, is_utc: bool) -> None:
    ctx.meta[_UTC] = is_utc


_UTC = "app.cli.utc"
#: Eager: options with times are read in this zone.
utc_option = click.option(
    "--utc",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_use_utc,
    help="Show and read times in UTC, not in the zone of this computer.",
)


def time_zone() -> tzinfo | None:
    """Return UTC with --utc, else None, which means the zone of this computer."""
    context = click.get_current_context(silent=True)
    return UTC if context and context.meta.get(_UTC) else None


def examples(*lines: str) -> str:
    """Return the epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  doorbell {line}" for line in lines)


class Subcommands(click.Group):
    """A command with subcommands, whose help shows their whole first lines: click would cut them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            lines = [(name, (command.help or "").partition("\n")[0]) for name, command in sorted(self.commands.items())]
            formatter.write_dl([(name, line.removesuffix(".")) for name, line in lines])


class TimeType(click.ParamType[datetime]):
    """A duration before now (`2h`), or a time in ISO 8601: without an offset, in the zone of this computer."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
        if ago := re.fullmatch(r"([0-9]{1,6})([smhdw])", str(value)):
            try:
                return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * units[ago[2]])
            except OverflowError:
                self.fail(f"{value} is before the year 1")
        try:
            moment = datetime.fromisoformat(str(value))
            if moment.tzinfo:
                return moment
            return moment.replace(tzinfo=time_zone()) if time_zone() else moment.astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value} is neither a time like 2026-03-14T09:00:00Z nor a duration like 30m, 2h or 7d")


def print_message(text: str) -> None:
    """Print sentences to stderr, each on a new line."""
    for sentence in text.split("\n"):
        click.echo("\n".join(message_lines(printable(sentence))), err=True)


def exit_with(status: int, text: str) -> NoReturn:
    print_message(text)
    sys.exit(status)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question with the most similar name, to follow a sentence; empty if none is similar."""
    return next((f"; did you mean {match}?" for match in get_close_matches(name, list(names), 1)), "")


def confirm(question: str, yes: bool, typed: str = "") -> None:
    """Exit unless --yes is given, or an operator confirms on a terminal. typed: what to type, after a warning.

    Without a terminal the status is USAGE; another answer ends the command like Ctrl-C.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        warning = f"{question} " if typed else ""
        exit_with(USAGE, f"{warning}nothing was done: confirm with --yes")
    if typed:
        answer = click.prompt(f"{question} Type {typed} to continue", err=True, default="", show_default=False)
        is_confirmed = answer == typed
    else:
        is_confirmed = click.confirm(question, err=True)
    if not is_confirmed:
        exit_with(INTERRUPTED, "nothing was done")


def print_json(value: dict[str, Any], as_json: bool = False) -> None:
    click.echo(to_json(value, None if as_json else 2))


def print_rows(rows: Iterable[dict[str, Any]], as_json: bool, nothing: str = "nothing matched") -> None:
    """Print a table, or one JSON object per line. Without rows, print the message `nothing` and exit with status 5."""
    rows = list(rows)
    if as_json:
        for row in rows:
            click.echo(to_json(row))
    else:
        print_table(rows)
    if not rows:
        exit_with(NOTHING_MATCHED, nothing)


def print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list({name: None for row in rows for name in row})
    for line in format_table(names, [[_cell(row.get(name)) for name in names] for row in rows], terminal_width()):
        click.echo(line)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return printable(" ".join(map(str, value))) or EMPTY
    if value is None or value == "":
        return EMPTY
    if isinstance(value, State):
        return value
    return printable(for_people(value) if terminal_width() is None else with_age(str(value)))


def with_age(text: str) -> str:
    """Format a time of the last hours with its age, `2:00 PM EST, 5 min ago`, and everything else like `for_people`."""
    if for_people(text) == text:
        return text
    age = datetime.now(UTC) - datetime.fromisoformat(text)
    if not timedelta() <= age < RECENT:
        return for_people(text)
    return f"{for_people(text).rpartition(', ')[2]}, {humanize(age.total_seconds())} ago"


def for_people(value: Any) -> str:
    """Format a value, a time in ISO 8601 in the zone of `time_zone`: `Nov 29, 2:00 PM EST`."""
    text = str(value)
    with suppress(ValueError):  # such as February 30, which an API may quote
        return local_time(datetime.fromisoformat(text), time_zone()) if _TIMESTAMP.fullmatch(text) else text
    return text


def with_currency(amount: str | None, currency: str | None) -> str:
    return f"{amount} {currency}" if amount and currency else amount or ""


def sentence_for_people(text: str) -> str:
    """Format the times in a sentence like `for_people`."""
    return _TIMESTAMP.sub(lambda match: for_people(match[0]), text)


_TIMESTAMP = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{3})?Z")


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in which unprintable characters are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


_UNPRINTABLE = re.compile(r"[^\n -~]")


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def printable(text: str) -> str:
    """Replace control characters: text of a sender must neither control the terminal nor change the text direction."""
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
