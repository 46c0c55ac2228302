"""`doorbell connect`, `connections` and `disconnect`."""

import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from app.cli.completion import complete_hooks, complete_sources
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    UNREACHABLE,
    USAGE,
    confirm,
    did_you_mean,
    examples,
    exit_with,
    json_option,
    print_rows,
    utc_option,
)
from app.cli.session import actions, run_with_ledger
from app.connections.connect import Connected, Connections, ConnectRequest, first_delivery
from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.context import ToolContext
from app.connections.stored_hooks import StoredHooks
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.connections import load_connections
from app.operators.setup_steps import setup_steps
from app.settings.model import Settings
from app.visits.client import http_client
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

T = TypeVar("T")
#: How long `connect` waits for the first delivery.
FIRST_DELIVERY_S = 600
SECRET = "SECRET"


@click.command(
    epilog=examples("connect calendly", "connect square --hook square-east --account east < credentials.txt")
)
@click.argument("source", shell_complete=complete_sources)
@click.option("--hook", default="", metavar="NAME", help="The name of the hook; by default that of the source.")
@click.option("--account", metavar="NAME", help="The Review Rover account of its visits.")
@click.option("--api-url", metavar="URL", help="The URL of the tool's API, if it is not the usual one.")
@click.option("--timezone", metavar="ZONE", help="The time zone of local times, such as America/New_York.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the first delivery.")
def connect(
    source: str, hook: str, account: str | None, api_url: str | None, timezone: str | None, no_wait: bool
) -> None:
    """Connect a tool: store its hook, and subscribe to its webhooks.

    The credentials are asked for, or read as lines NAME=value from standard input; SECRET is the signing secret, if the tool
    chose it. Running it again changes nothing that works. Exit status: 3 the tool refuses, 4 it cannot be reached.
    """
    if source not in load_sources():
        exit_with(USAGE, f"there is no source {source}{did_you_mean(source, load_sources())}")
    options = {"account": account, "api_url": api_url, "timezone": timezone}
    name, started_ms = hook or source, int(time.time() * 1000)
    tool = load_sources()[source]

    async def step(ledger: Ledger, settings: Settings) -> None:
        values = _read_values(tool, settings, name)
        request = ConnectRequest(
            source, name, values, values.pop(SECRET, ""), {key: value for key, value in options.items() if value}
        )
        connected = await _connections(ledger, settings, tool, lambda connections: connections.connect(request))
        _report(connected)
        if not no_wait:
            await _wait_for_delivery(ledger, name, started_ms)

    run_with_ledger(step)


@click.command(epilog=examples("connections", "connections --json"))
@utc_option
@json_option
def connections(as_json: bool) -> None:
    """List the hooks with the state of their connections at the tools."""

    async def load(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        return [
            {
                "hook": each.hook,
                "source": each.source,
                "state": each.state,
                "subscription_id": ", ".join(each.subscription_ids) or None,
                "checked_at": iso_timestamp(each.checked_at_ms or None),
                "detail": each.detail,
            }
            for each in await load_connections(ledger, settings)
        ]

    print_rows(run_with_ledger(load), as_json)


@click.command(epilog=examples("disconnect calendly"))
@click.argument("hook", shell_complete=complete_hooks)
@click.option("--yes", is_flag=True, help="Do not ask.")
def disconnect(hook: str, yes: bool) -> None:
    """Delete the subscriptions of a hook at its tool, and the hook if it is stored.

    Subscriptions of others stay, and so do the visits.
    """

    async def step(ledger: Ledger, settings: Settings) -> list[str]:
        if hook not in settings.hooks:
            exit_with(NOTHING_MATCHED, f"there is no hook {hook}{did_you_mean(hook, settings.hooks)}")
        confirm(f"Disconnect {hook}? Its webhooks will no longer arrive.", yes)
        tool = settings.source_for(hook)
        return await _connections(ledger, settings, tool, lambda connections: connections.disconnect(hook))

    ids = run_with_ledger(step)
    click.echo(f"{hook} is disconnected; deleted subscriptions: {', '.join(ids) or 'none'}", err=True)


async def _connections(
    ledger: Ledger, settings: Settings, tool: LoadedSource, step: Callable[[Connections], Awaitable[T]]
) -> T:
    with tool_errors(tool.definition.title):
        async with http_client(5) as http:
            stored = StoredHooks(ledger.redis, settings)
            await stored.load()
            return await step(Connections(ToolContext(settings, ledger, http), stored, actions(ledger, settings)))


@contextmanager
def tool_errors(title: str) -> Iterator[None]:
    """End the command with a sentence if the tool refuses something, or cannot be reached."""
    try:
        yield
    except REFUSALS as error:
        exit_with(CHECK_FAILED, describe(error, title))
    except OUTAGES as error:
        exit_with(UNREACHABLE, describe(error, title))


def _read_values(tool: LoadedSource, settings: Settings, hook: str) -> dict[str, str]:
    """Return credentials and SECRET, from the lines of standard input, or from prompts on a terminal."""
    if hook in settings.environment_hooks:
        return {}
    names = list(tool.definition.missing_credentials({}))
    if not sys.stdin.isatty():
        return dict(_parse_lines(sys.stdin.read(), {*tool.definition.credential_names, SECRET}))
    stored = settings.hooks[hook].credentials if hook in settings.hooks else {}
    return {name: click.prompt(name, hide_input=True) for name in names if name not in stored}


def _parse_lines(text: str, names: set[str]) -> Iterator[tuple[str, str]]:
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = line.partition("=")
        if not equals or name not in names:
            exit_with(USAGE, f"a line of standard input must be NAME=value; the names are {', '.join(sorted(names))}")
        yield name, value.strip()


def _report(connected: Connected) -> None:
    hook, reconciled = connected.hook, connected.reconciled
    title = hook.source.definition.title
    if reconciled is None:
        reason = connected.refusal or f"{title} has no API for webhooks."
        click.echo(f"{reason} Do these steps there:", err=True)
        for setup_step in setup_steps(hook.source, hook.name, connected.url):
            click.echo(f"{setup_step.number}. {setup_step.text}" if setup_step.number else setup_step.text)
            for command in setup_step.commands:
                click.echo(f"   {command}")
        _report_import(connected)
        return
    account = f" ({connected.account_name})" if connected.account_name else ""
    click.echo(f"{title}{account} is connected as {hook.name}: it sends webhooks to {connected.url}", err=True)
    for action, subscriptions in (
        ("created", reconciled.created),
        ("adopted", reconciled.adopted),
        ("deleted", reconciled.deleted),
    ):
        for subscription in subscriptions:
            click.echo(f"{action} subscription {subscription.id}")
    _report_import(connected)


def _report_import(connected: Connected) -> None:
    if connected.is_importing:
        name = connected.hook.name
        click.echo(f"a worker stores the coming appointments: doorbell catch-up {name} shows its progress", err=True)


async def _wait_for_delivery(ledger: Ledger, hook: str, since_ms: int) -> None:
    click.echo("Waiting for the first delivery; Ctrl-C stops waiting, not the connection.", err=True)
    if delivery := await first_delivery(ledger, hook, since_ms, FIRST_DELIVERY_S):
        click.echo(f"the first delivery arrived, and its signature is valid: doorbell show {delivery}", err=True)
    else:
        click.echo(f"no delivery arrived yet: book an appointment, and see `doorbell listen {hook}`", err=True)
