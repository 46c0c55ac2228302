"""Secrets and credentials as lines `NAME=value` of standard input, or from prompts on a terminal: never arguments."""

import sys
from collections.abc import Iterable, Mapping

import click

from app.cli.output import USAGE, exit_with, print_message
from app.webhooks.source import Source

TOKEN = "TOKEN"


def read_values(required: Iterable[str], allowed: Iterable[str] = (), tool: Source | None = None) -> dict[str, str]:
    """Return the values by name. On a terminal, ask for the required ones; without one, read all of standard input."""
    required = list(required)
    if sys.stdin.isatty():
        return {name: ask_for(name, tool) for name in required}
    return parse_lines(sys.stdin.read(), {*required, *allowed})


def ask_for_credentials(tool: Source, stored: Mapping[str, str]) -> dict[str, str]:
    """Ask on the terminal for what a hook needs to call the tool. A token is enough, where a person can create one."""
    names = tool.missing_credentials({})
    if TOKEN not in names and TOKEN in tool.credential_help:
        token = ask_for(TOKEN, tool, "Enter skips to the next ones")
        if token:
            return {TOKEN: token}
    keep = "Enter keeps the stored one"
    answers = {name: ask_for(name, tool, keep if name in stored else "") for name in names}
    return {name: value for name, value in answers.items() if value}


def ask_for(name: str, tool: Source | None = None, without: str = "") -> str:
    """Ask for a value, and say where the tool shows it. without: what happens without a value, if it is not required."""
    title, place = tool.credential_help.get(name, ("", "")) if tool else ("", "")
    if place:
        print_message(f"{title}: {place}")
    prompt = f"{name} ({without})" if without else name
    value: str = click.prompt(prompt, hide_input=True, err=True, default="" if without else None, show_default=False)
    return value.strip()


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
