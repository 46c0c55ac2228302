"""The filter options that several commands share."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from app.cli.completion import complete_hooks, complete_reasons, complete_sources, complete_visits
from app.cli.output import NOTHING_MATCHED, USAGE, TimeType, did_you_mean, exit_with, utc_option
from app.operators.filter import Filter
from app.settings.model import Hook, Settings
from app.webhooks.registry import load_sources

F = TypeVar("F", bound=Callable[..., Any])


since_option = click.option("--since", type=TimeType(), help="Only after this time: 2h, 7d, or a time in ISO 8601.")
until_option = click.option("--until", type=TimeType(), help="Only before this time.")


def refuse_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """End the command: an unset variable of a script must not widen the selection."""
    if value == "":
        raise click.UsageError(f"{param.opts[0]} is empty: give it a value, or leave it out", ctx)
    return value


def _check_source(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    refuse_empty(ctx, param, name)
    if name and name not in load_sources():
        raise click.BadParameter(f"there is no source {name}{did_you_mean(name, load_sources())}", ctx, param)
    return name


def filter_options(states: Sequence[str]) -> Callable[[F], F]:
    options = [
        click.option("--state", type=click.Choice(states), help="Only in this state.") if states else None,
        click.option("--source", help="Only this source.", shell_complete=complete_sources, callback=_check_source),
        click.option("--hook", help="Only this hook.", shell_complete=complete_hooks, callback=refuse_empty),
        click.option(
            "--reason",
            help="Only with this reason, or part of one.",
            shell_complete=complete_reasons,
            callback=refuse_empty,
        ),
        click.option(
            "--visit",
            help="Only this visit, by any of its ids.",
            shell_complete=complete_visits,
            callback=refuse_empty,
        ),
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
    "--search",
    help="Only with this id (Doorbell's, the tool's or a request's), e-mail address or phone number.",
    callback=refuse_empty,
)


def cursor_option(pattern: str) -> Callable[[F], F]:
    """Return the option for a list whose cursors match the pattern. With another cursor it would begin anywhere."""

    def check(ctx: click.Context, param: click.Parameter, cursor: str) -> str:
        if cursor and not re.fullmatch(pattern, cursor):
            raise click.BadParameter("use the cursor that this list printed.", ctx, param)
        return cursor

    return click.option("--cursor", default="", callback=check, help="Continue a list at this cursor.")


def build_filter(options: Mapping[str, Any], **fields: Any) -> Filter:
    """Build a filter from the values of `filter_options` and further fields of the filter."""
    values: dict[str, Any] = {
        name: utc_text(value) if isinstance(value, datetime) else value for name, value in options.items() if value
    }
    return Filter(**values | fields)


def utc_text(moment: datetime | None) -> str:
    """Format a time for a filter, which is stored and shown: in ISO 8601, UTC. None: empty."""
    if moment is None:
        return ""
    with suppress(OverflowError):  # in the years 1 and 9999 some zones have no such time
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def find_hook(settings: Settings, name: str) -> Hook:
    """Return the hook of this name, or the only hook of the source of this name; else exit."""
    if name in settings.active_hooks:
        return settings.active_hooks[name]
    hooks = [hook for hook in settings.active_hooks.values() if hook.source.name == name]
    if len(hooks) > 1:
        exit_with(USAGE, f"{name} has several hooks: choose one of {', '.join(hook.name for hook in hooks)}")
    if not hooks:
        exit_with(
            NOTHING_MATCHED, f"there is no hook {name}, or it has no secret{did_you_mean(name, settings.active_hooks)}"
        )
    return hooks[0]
