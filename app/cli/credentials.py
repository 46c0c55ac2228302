"""Secrets and credentials as lines `NAME=value` of standard input, or from prompts on a terminal: never arguments."""

import sys
from collections.abc import Iterable, Mapping

import click

from app.cli.output import USAGE, exit_with


def read_values(required: Iterable[str], allowed: Iterable[str] = ()) -> dict[str, str]:
    """Return the values by name. On a terminal, ask for the required ones; without one, read all of standard input."""
    required = list(required)
    if sys.stdin.isatty():
        return {name: click.prompt(name, hide_input=True, err=True) for name in required}
    return parse_lines(sys.stdin.read(), {*required, *allowed})


def parse_lines(text: str, names: Iterable[str]) -> dict[str, str]:
    """Exit if a line is not NAME=value. No message quotes a line: it may be a secret."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.strip().partition("=")
        if not line.strip():
            continue
        if not equals or name not in names:
            allowed = ", ".join(sorted(names)) or "none"
            exit_with(USAGE, f"line {number} of standard input must be NAME=value; the names are {allowed}")
        values[name] = value.strip()
    return values


def as_fields(values: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a hook among the values. settings: the field of each name."""
    return {settings[name]: value for name, value in values.items() if name in settings}
