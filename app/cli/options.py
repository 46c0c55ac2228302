"""The filter options that several commands share, and the completion of their values."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from app.cli.output import TimeType, utc_option
from app.cli.session import load_settings_or_none
from app.operators.filter import Filter
from app.webhooks.registry import load_sources, load_specimens

F = TypeVar("F", bound=Callable[..., Any])


def complete_sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    titles = {name: tool.definition.title for name, tool in load_sources().items()}
    return [CompletionItem(name, help=title) for name, title in titles.items() if name.startswith(incomplete)]


def complete_hooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    settings = load_settings_or_none()
    return [name for name in (settings.hooks if settings else ()) if name.startswith(incomplete)]


def complete_specimens(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the specimens of the source, which is the preceding argument."""
    source = str(ctx.params.get("source"))
    deliveries = load_specimens(source)["deliveries"] if source in load_sources() else []
    return [name for delivery in deliveries if (name := delivery["name"]).startswith(incomplete)]


since_option = click.option("--since", type=TimeType(), help="Only after this time: 2h, 7d, or a time in ISO 8601.")
until_option = click.option("--until", type=TimeType(), help="Only before this time.")


def filter_options(states: Sequence[str]) -> Callable[[F], F]:
    options = [
        click.option("--state", type=click.Choice(states), help="Only in this state.") if states else None,
        click.option("--source", help="Only this source.", shell_complete=complete_sources),
        click.option("--hook", help="Only this hook.", shell_complete=complete_hooks),
        click.option("--reason", help="Only with this reason, or part of one."),
        click.option("--visit", help="Only this visit, by any of its ids."),
        since_option,
        until_option,
        utc_option,
    ]

    def add(command: F) -> F:
        for option in reversed(list(filter(None, options))):
            command = option(command)
        return command

    return add


search_option = click.option(
    "--search", help="Only with this id (Doorbell's, the tool's or a request's), e-mail address or phone number."
)
cursor_option = click.option("--cursor", default="", help="Continue a list at this cursor.")


def build_filter(options: Mapping[str, Any], **fields: Any) -> Filter:
    """Build a filter from the values of `filter_options` and further fields of the filter."""
    values: dict[str, Any] = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in options.items() if value
    }
    return Filter(**values | fields)
