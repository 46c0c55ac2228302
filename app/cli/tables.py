"""Tables that fit the terminal: long sentences are shortened; where that is not enough, each row becomes a card.

A file or a pipe gets whole tables, without symbols and colours. `doorbell --help` imports this module.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

#: In a narrower terminal, a table that does not fit becomes cards at once.
MIN_TABLE_WIDTH = 100
#: Sentences are not shortened below this width. Ids are never shortened: people copy them.
MIN_SENTENCE_WIDTH = 24
#: A value that is missing.
EMPTY = "–"
#: The width of sentences: in a file or a pipe, and in a wider terminal.
MAX_SENTENCE_LINE = 100
_GOOD, _BAD, _WAITING, _NEUTRAL = ("✔", "green"), ("✘", "red"), ("!", "yellow"), ("·", None)
_SYMBOLS = {
    **dict.fromkeys(("ok", "applied", "done", "created", "updated", "cancelled", "deleted", "succeeded"), _GOOD),
    **dict.fromkeys(("fail", "down", "parked", "failed", "stalled"), _BAD),
    **dict.fromkeys(("warn", "waiting", "held", "pending"), _WAITING),
}


class State(str):
    """A state in words. In a terminal its column has symbols, by the code of the state."""

    code: str

    def __new__(cls, text: str, code: str) -> "State":
        state = super().__new__(cls, text)
        state.code = code
        return state


def task_state(states: str) -> State:
    """Return the state of a task or delivery; a delivery with several visits may have several, separated by blanks."""
    from app.operators.filter import state_title  # the help needs no filter

    codes = states.split()
    return State(state_title(states), "parked" if "parked" in codes else codes[0] if codes else "")


def terminal_width() -> int | None:
    """Return the number of columns of the terminal; None if stdout is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def style(text: str, **styles: Any) -> str:
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if is_plain else click.style(text, **styles)


def symbol(state: str) -> str:
    """Return the symbol of a state, in its colour."""
    sign, colour = _SYMBOLS.get(state, _NEUTRAL)
    return style(sign, fg=colour) if colour else sign


def format_table(names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield the lines of a table. width: of the terminal; None for whole cells without symbols."""
    if width is None:
        yield from _table(names, rows, _widths(names, rows))
        return
    table_width = width - 2 * len(_state_columns(rows))
    if _excess(_widths(names, rows), table_width) > 0:
        filled = [index for index in range(len(names)) if any(row[index] != EMPTY for row in rows)]
        names, rows = [names[i] for i in filled], [[row[i] for i in filled] for row in rows]
    states = _state_columns(rows)
    widths = _fit(rows, _widths(names, rows), table_width)
    yield from _table(names, rows, widths, states) if widths else _cards(names, rows, width, states)


def _state_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the column with symbols: a second one would only repeat the first."""
    return sorted({index for row in rows for index, cell in enumerate(row) if isinstance(cell, State)})[:1]


def _widths(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip([_heading(name) for name in names], *rows, strict=True)]


def _excess(widths: Sequence[int], width: int) -> int:
    return sum(widths) + 2 * (len(widths) - 1) - width


def _heading(name: str) -> str:
    return name.upper().replace("_", " ")


def _fit(rows: Sequence[Sequence[str]], widths: list[int], width: int) -> list[int] | None:
    """Return widths of the columns that fit, with shorter sentences; None if the table cannot fit."""
    excess, fitting = _excess(widths, width), list(widths)
    if excess > 0 and width < MIN_TABLE_WIDTH:
        return None
    while excess > 0:
        sentences = [i for i in range(len(widths)) if fitting[i] > MIN_SENTENCE_WIDTH and _has_sentences(rows, i)]
        if not sentences:
            return None
        fitting[max(sentences, key=fitting.__getitem__)] -= 1
        excess -= 1
    return fitting


def _has_sentences(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(row[column].count(" ") > 2 for row in rows)


def _table(
    names: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], states: Sequence[int] = ()
) -> Iterator[str]:
    headings = [_heading(name).ljust(width) for name, width in zip(names, widths, strict=True)]
    for index in states:
        headings[index] += "  "
    yield style("  ".join(headings).rstrip(), dim=True)
    for row in rows:
        cells = [_shorten(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        for index in states:
            cells[index] = f"{_symbol_of(row[index])} {cells[index]}"
        yield "  ".join(cells).rstrip()


def _shorten(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1].rstrip()}…"


def _symbol_of(cell: str) -> str:
    return symbol(cell.code) if isinstance(cell, State) else " "


def _cards(names: Sequence[str], rows: Sequence[Sequence[str]], width: int, states: Sequence[int]) -> Iterator[str]:
    had_fields = False
    for number, row in enumerate(rows):
        title, fields = style(row[0], bold=True), list[str]()
        for index, name in enumerate(names[1:], 1):
            cell = row[index]
            if index in states:
                is_short = len(f"✔ {row[0]}  {cell}") <= width
                title = f"{_symbol_of(cell)} {title}" + (f"  {cell}" if is_short else "")
                fields += [] if is_short else [cell]
            elif cell != EMPTY:
                fields.append(f"{name.replace('_', ' ')}: {cell}")
        if number and (fields or had_fields):
            yield ""
        had_fields = bool(fields)
        yield title
        yield from pack(fields, width, "  ")


def pack(parts: Sequence[str], width: int, indent: str, separator: str = " · ") -> Iterator[str]:
    """Yield lines with as many parts each as fit. A longer part is wrapped."""
    line = ""
    for part in parts:
        if line and len(indent + line + separator + part) > width:
            yield indent + line
            line = part
        else:
            line = line + separator + part if line else part
        if len(indent + line) > width:
            *full, line = textwrap.wrap(line, width - len(indent), break_long_words=False, break_on_hyphens=False)
            yield from (indent + text for text in full)
    if line:
        yield indent + line


def message_lines(text: str) -> list[str]:
    """Return the lines of a message for stderr: those that fit the terminal. A log gets whole sentences."""
    if not sys.stderr.isatty():
        return [text]
    width = min(shutil.get_terminal_size().columns, MAX_SENTENCE_LINE)
    following = "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, width, subsequent_indent=following, break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


def wrap(text: str, indent: str = "", subsequent: str | None = None) -> Iterator[str]:
    """Yield the lines of a paragraph that fit the terminal and are easy to read."""
    following = indent if subsequent is None else subsequent
    yield from textwrap.wrap(
        text,
        min(terminal_width() or MAX_SENTENCE_LINE, MAX_SENTENCE_LINE),
        initial_indent=indent,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )
