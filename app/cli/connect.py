"""`doorbell connect`, `connections` and `disconnect`."""

import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from app.cli.completion import complete_hooks, complete_sources
from app.cli.credentials import ask_for, ask_for_credentials, parse_lines
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
    print_message,
    print_rows,
    utc_option,
)
from app.cli.session import actions, run_with_ledger
from app.cli.sources import print_steps
from app.connections.connect import (
    Connected,
    Connections,
    ConnectRequest,
    can_call,
    check_connectable,
    first_delivery,
    needs_copied_secret,
)
from app.connections.connector import OUTAGES, REFUSALS, describe
from app.connections.context import ToolContext
from app.connections.stored_hooks import StoredHooks
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.setup_steps import setup_steps, with_prompt_names
from app.settings.model import Settings, hook_path
from app.telemetry.connections import load_connections
from app.visits.client import http_client
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource

T = TypeVar("T")
#: How long `connect` waits for the first delivery.
FIRST_DELIVERY_S = 600
SECRET, TENANTS = "SECRET", "TENANTS"


@click.command(
    epilog=examples("connect calendly", "connect square --hook square-east --account east < credentials.txt")
)
@click.argument("source", shell_complete=complete_sources)
@click.option("--hook", default="", metavar="NAME", help="The name of the hook [default: the name of the source].")
@click.option("--account", metavar="NAME", help="The Review Rover account of its visits.")
@click.option("--api-url", metavar="URL", help="The URL of the tool's API, if it is not the default.")
@click.option("--timezone", metavar="ZONE", help="The time zone of local times, such as America/New_York.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the first delivery.")
def connect(
    source: str, hook: str, account: str | None, api_url: str | None, timezone: str | None, no_wait: bool
) -> None:
    """Connect a tool: store its hook, and subscribe to its webhooks.

    Credentials are asked for on a terminal, with the place where the tool shows them, or are read as lines NAME=value from
    standard input. SECRET is the signing secret, if a person copies it from the tool, and TENANTS the account at the tool,
    if all accounts sign alike. Without an API for webhooks, the steps at the tool are printed.

    Running it again changes nothing that works, and repairs what does not. Other settings of the hook:
    `doorbell hooks change`. Exit status: 3 the tool refuses, 4 it cannot be reached.
    """
    if source not in load_sources():
        exit_with(USAGE, f"there is no source {source}{did_you_mean(source, load_sources())}")
    options = {"account": account, "api_url": api_url, "timezone": timezone}
    name, started_ms = hook or source, int(time.time() * 1000)
    tool = load_sources()[source]

    async def step(ledger: Ledger, settings: Settings) -> None:
        check_connectable(settings, source, name)
        is_recipe_first = not tool.subscription and needs_copied_secret(tool)
        if is_recipe_first:
            _print_recipe(tool, name, f"{settings.public_url}{hook_path(name)}")
        values = _read_values(tool, settings, name)
        secret, chosen = values.pop(SECRET, ""), {**options, "tenants": values.pop(TENANTS, None)}
        settings_of_hook = {key: value for key, value in chosen.items() if value}
        request = ConnectRequest(source, name, values, secret, settings_of_hook)
        connected = await _connections(ledger, settings, tool, lambda connections: connections.connect(request))
        _report(connected)
        if connected.subscribed is None and not is_recipe_first:
            _print_recipe(tool, name, connected.url, connected.refusal)
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
                "subscription_id": _ids(each.subscription_ids, as_json),
                "checked_at": iso_timestamp(each.checked_at_ms or None),
                "detail": each.detail,
            }
            for each in await load_connections(ledger.redis, settings)
        ]

    print_rows(run_with_ledger(load), as_json)


def _ids(ids: Sequence[str], as_json: bool) -> str | None:
    """Return all ids for programs, and few for people: some tools have one subscription for each event."""
    if as_json or len(ids) < 2:
        return ", ".join(ids) or None
    return f"{ids[0]}, {len(ids) - 1} more"


@click.command(epilog=examples("disconnect calendly"))
@click.argument("hook", shell_complete=complete_hooks)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def disconnect(hook: str, yes: bool) -> None:
    """Delete the subscriptions of a hook at its tool, and the hook if it is stored.

    Other subscriptions and the visits are kept. If the tool does not answer or rejects the credentials, nothing
    changes: `doorbell hooks remove` removes the hook alone.
    """

    async def step(ledger: Ledger, settings: Settings) -> None:
        if hook not in settings.hooks:
            exit_with(NOTHING_MATCHED, f"there is no hook {hook}{did_you_mean(hook, settings.hooks)}")
        tool, can_delete = settings.source_for(hook), can_call(settings.hook(hook))
        confirm(f"{_consequences(tool, hook)} Disconnect {hook}?", yes)
        ids = await _connections(ledger, settings, tool, lambda connections: connections.disconnect(hook))
        print_message(f"{hook} is disconnected; deleted subscriptions: {', '.join(ids) or 'none'}")
        if not can_delete:
            print_message(
                f"Doorbell cannot delete webhooks of this hook at {tool.definition.title}: delete them there."
            )
        if hook in settings.environment_hooks:
            print_message(f"It is set in the environment, and exists until you remove HOOKS__{hook.upper()}__…")

    run_with_ledger(step)


def _consequences(tool: LoadedSource, hook: str) -> str:
    """Return what a disconnected hook misses, and how it is caught up on."""
    title = tool.definition.title
    afterwards = (
        f"run `doorbell catch-up {hook} --since TIME`" if tool.listing else "what happened meanwhile is not imported"
    )
    return f"{title} will send no more webhooks to {hook}. After you connect it again, {afterwards}."


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
    """End the command with a message if the tool refuses something, or cannot be reached."""
    try:
        yield
    except REFUSALS as error:
        exit_with(CHECK_FAILED, describe(error, title))
    except OUTAGES as error:
        exit_with(UNREACHABLE, describe(error, title))


def _read_values(tool: LoadedSource, settings: Settings, hook: str) -> dict[str, str]:
    """Return credentials and SECRET, from the lines of standard input, or from prompts on a terminal."""
    definition, stored = tool.definition, settings.hooks.get(hook)
    if hook in settings.environment_hooks or (stored and stored.uses_oauth and sys.stdin.isatty()):
        return {}
    if not sys.stdin.isatty():
        names = {*definition.credential_names, SECRET, *([TENANTS] if definition.tenant_of else [])}
        return parse_lines(sys.stdin.read(), names)
    values = dict[str, str]()
    if definition.credential_names:
        print_message(f"{definition.title} needs credentials. What you enter is not shown, and is stored encrypted.")
        values = ask_for_credentials(definition, stored.credentials if stored else {})
    if TENANTS in definition.required_settings and not (stored and stored.tenants):
        print_message(f"{TENANTS}: the ids of your accounts at {definition.title}, whose events are accepted.")
        values[TENANTS] = ask_for(TENANTS)
    credential = tool.subscription.secret_credential if tool.subscription else ""
    if needs_copied_secret(tool) and credential not in {**(stored.credentials if stored else {}), **values}:
        has_secret = bool(stored and stored.secrets)
        print_message(f"Enter the signing secret as soon as {definition.title} shows it: later steps may need it.")
        values[SECRET] = ask_for(SECRET, without="Enter keeps the stored one" if has_secret else "")
    return values


def _print_recipe(tool: LoadedSource, hook: str, url: str, refusal: str = "") -> None:
    reason = refusal or f"{tool.definition.title} has no API for webhooks."
    print_message(f"{reason} Do these steps there:")
    print_steps(with_prompt_names(setup_steps(tool, hook, url), hook, url))


def _report(connected: Connected) -> None:
    hook, subscribed = connected.hook, connected.subscribed
    title = hook.source.definition.title
    if subscribed is None:
        print_message(f"{hook.name} is stored, and accepts the webhooks of {title} at {connected.url}")
        if connected.new_secret:
            print_message(f"{SECRET} in the steps is this new secret, which is stored, and not shown again:")
            click.echo(connected.new_secret)
        elif not needs_copied_secret(hook.source):
            print_message(f"{SECRET} in the steps is stored already.")
        _report_import(connected)
        return
    account = f" ({connected.account_name})" if connected.account_name else ""
    print_message(f"{title}{account} is connected as {hook.name}: it sends webhooks to {connected.url}")
    for action, subscriptions in (
        ("created", subscribed.created),
        ("adopted", subscribed.adopted),
        ("deleted", subscribed.deleted),
    ):
        for subscription in subscriptions:
            click.echo(f"{action} subscription {subscription.id}")
    _report_import(connected)


def _report_import(connected: Connected) -> None:
    if connected.is_importing and (listing := connected.hook.source.listing):
        print_message(
            f"a worker stores {listing.imported}: `doorbell catch-up {connected.hook.name} --dry-run` shows what is missing"
        )
    if connected.advice:
        print_message(connected.advice)


async def _wait_for_delivery(ledger: Ledger, hook: str, since_ms: int) -> None:
    click.echo("Waiting for the first delivery. Ctrl-C ends the wait; the connection is kept.", err=True)
    if delivery := await first_delivery(ledger, hook, since_ms, FIRST_DELIVERY_S):
        click.echo(f"the first delivery arrived, and its signature is valid: doorbell show {delivery}", err=True)
    else:
        click.echo(f"no delivery arrived yet: book an appointment, and see `doorbell listen {hook}`", err=True)
