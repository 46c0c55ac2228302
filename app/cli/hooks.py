"""`doorbell hooks`, which lists all hooks, and adds, changes and removes stored ones."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click

from app.cli.completion import complete_hooks, complete_sources
from app.cli.credentials import as_fields, read_values
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    USAGE,
    Subcommands,
    confirm,
    did_you_mean,
    examples,
    exit_with,
    json_option,
    print_message,
    print_rows,
)
from app.cli.session import actions, run_with_ledger
from app.connections.context import ToolContext
from app.connections.stored_hooks import StoredHooks
from app.connections.tokens import TokensUnreadable, tokens_of
from app.ledger.ledger import Ledger
from app.operators.actions import Actions
from app.operators.hooks import HookSummary, list_hooks
from app.operators.setup_steps import new_secret
from app.settings.model import Settings
from app.settings.stored import build_hook
from app.visits.client import http_client
from app.webhooks.registry import load_sources
from app.webhooks.source import LoadedSource, Source

SECRET, TOKEN = "SECRET", "VISITS_API_TOKEN"
#: The settings that are secret, by their names in standard input.
SECRET_SETTINGS = {SECRET: "secrets", TOKEN: "visits_api_token"}

name_argument = click.argument("name", shell_complete=complete_hooks)
generate_option = click.option("--generate", is_flag=True, help="Generate the secret, and print it once.")


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.option("--account", metavar="NAME", help="The Review Rover account of its visits."),
        click.option("--timezone", metavar="ZONE", help="The time zone of local times, such as America/New_York."),
        click.option("--tenants", metavar="IDS", help="The tool's accounts that are accepted, separated by spaces."),
        click.option("--api-url", metavar="URL", help="The URL of the tool's API, if it is not the default."),
        click.option("--token-url", metavar="URL", help="The URL that renews tokens, if it is not the default."),
        click.option(
            "--reconcile", metavar="WHEN", help="Whether to look for missed changes each day: daily or never."
        ),
        click.option("--auth", metavar="FORMS", help="signature, bearer, or both."),
        click.option("--tolerance", metavar="SECONDS", help="The maximum age of a signed time."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    cls=Subcommands,
    invoke_without_command=True,
    epilog=examples("hooks", "hooks --json", "hooks add shop --source calendly"),
)
@json_option
@click.pass_context
def hooks(context: click.Context, as_json: bool) -> None:
    """List the hooks, and add, change or remove stored ones.

    Hooks of the environment are set with variables, and take precedence over stored hooks of the same name.
    Stored hooks are encrypted in Redis; all processes apply a change within 5 seconds.
    """
    if context.invoked_subcommand:
        return

    async def load(_: Ledger, settings: Settings) -> list[HookSummary]:
        return list_hooks(settings)

    print_rows([_row(hook, as_json) for hook in run_with_ledger(load)], as_json)


def _row(hook: HookSummary, as_json: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"hook": hook.name, "source": hook.source}
    row |= {"set_in" if as_json else "set in": hook.origin, "account": hook.account}
    row |= {"secrets": hook.secrets, "state": hook.state}
    if as_json:
        more = {"credentials": list(hook.credentials), "missing": list(hook.missing), "detail": hook.detail}
        return row | more
    missing = f"missing: {', '.join(hook.missing)}" if hook.missing else ""
    return row | {"detail": hook.detail or missing}


@hooks.command(epilog=examples("hooks add standard --generate", "hooks add shop --source acuity < credentials.txt"))
@click.argument("name")
@click.option("--source", default="", help="The tool [default: the name].", shell_complete=complete_sources)
@setting_options
@generate_option
def add(name: str, source: str, generate: bool, **options: str | None) -> None:
    """Add a stored hook.

    SECRET, the credentials and VISITS_API_TOKEN are read as lines NAME=value from standard input. On a terminal, SECRET and
    the credentials are asked for.
    """
    tool = _find_source(source or name)
    names = tool.definition.credential_names
    required = [] if generate else [SECRET]
    missing = _missing_credentials(tool, {})
    values = read_values([*required, *missing], [*names, *SECRET_SETTINGS], tool.definition)
    if generate:
        values[SECRET] = _generate(tool.definition)
    fields: dict[str, Any] = {key: value for key, value in options.items() if value} | as_fields(
        values, SECRET_SETTINGS
    )
    credentials = {key: value for key, value in values.items() if key not in SECRET_SETTINGS}

    async def step(stored: StoredHooks, act: Actions) -> list[str]:
        await stored.add(name, build_hook(fields | {"source": source, "credentials": credentials}), act)
        return _missing_credentials(tool, credentials)

    missing = _change(step)
    if generate:
        click.echo(values[SECRET])
    print_message(f"the hook {name} is stored; its URL: `doorbell hook-url {name}`")
    if not values.get(SECRET):
        print_message(f"it has no secret, so it is inactive: `doorbell hooks rotate {name}`")
    if missing:
        print_message(
            f"records cannot be fetched without {', '.join(missing)}: `doorbell hooks change {name} --credentials`"
        )


@hooks.command(epilog=examples("hooks change shop --timezone Europe/Berlin", "hooks change shop --credentials"))
@name_argument
@setting_options
@click.option("--credentials", is_flag=True, help="Also read credentials NAME=value, as `add` does.")
def change(name: str, credentials: bool, **options: str | None) -> None:
    """Change the settings of a stored hook.

    An option or a credential without a value removes it: --timezone ''.
    """
    fields: dict[str, Any] = {key: value or None for key, value in options.items() if value is not None}
    if not fields and not credentials:
        raise click.UsageError("name a setting to change")

    async def step(stored: StoredHooks, act: Actions) -> None:
        values = _read_credentials(stored, name) if credentials else {}
        secret = as_fields(values, {TOKEN: "visits_api_token"})
        changed = {key: value or None for key, value in secret.items()}
        others = {key: value for key, value in values.items() if key != TOKEN}
        await stored.change(name, fields | changed, act, credentials=others)

    _change(step, name)
    print_message(f"the hook {name} is changed")


def _read_credentials(stored: StoredHooks, name: str) -> dict[str, str]:
    hook = stored.get(name)
    tool = _find_source(hook.source or name)
    return read_values(tool.definition.credential_names, [TOKEN], tool.definition)


@hooks.command(epilog=examples("hooks rotate shop", "hooks rotate standard --generate", "hooks rotate shop --finish"))
@name_argument
@generate_option
@click.option("--only-new", is_flag=True, help="Reject the old secrets at once, for example because one leaked.")
@click.option("--finish", is_flag=True, help="Reject the old secrets, because the tool uses the newest one.")
def rotate(name: str, generate: bool, only_new: bool, finish: bool) -> None:
    """Give a stored hook a new secret; the old ones are accepted until --finish.

    The secret is read as a line SECRET=… from standard input, or asked for. If Doorbell subscribed to the webhooks with a
    generated secret, `doorbell connect` replaces the subscription with one that has the new secret.
    """

    async def step(stored: StoredHooks, act: Actions) -> tuple[str, int]:
        hook = stored.get(name)
        if finish:
            await stored.drop_old_secrets(name, act)
            return "", 1
        secret = (
            _generate(_find_source(hook.source or name).definition)
            if generate
            else read_values([SECRET]).get(SECRET, "")
        )
        if not secret:
            exit_with(USAGE, "there is no line SECRET=… in standard input")
        await stored.rotate_secret(name, secret, act, keep_old=not only_new)
        return secret if generate else "", len(stored.get(name).secrets)

    secret, count = _change(step, name)
    if secret:
        click.echo(secret)
    if count == 1:
        print_message(f"{name} accepts only its newest secret")
    else:
        print_message(f"{name} accepts the new secret and the old ones; then: `doorbell hooks rotate {name} --finish`")


@hooks.command(epilog=examples("hooks remove shop"))
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Remove a stored hook with its secrets and credentials.

    Its webhooks are answered 404. Its deliveries and visits are kept.
    """

    async def step(stored: StoredHooks, act: Actions) -> None:
        confirm(f"Remove the hook {name}, with its secrets and credentials?", yes)
        await stored.remove(name, act)

    _change(step, name)
    print_message(f"the hook {name} is removed")


@hooks.command(epilog=examples("hooks encrypt"))
def encrypt() -> None:
    """Encrypt all stored hooks and tokens with the first key of SECRET_KEY, so that older keys can be removed."""

    async def step(stored: StoredHooks, act: Actions) -> list[str]:
        for name in (names := stored.used_names):
            await stored.change(name, {}, act)
        return names

    async def encrypt_tokens(ledger: Ledger, settings: Settings) -> list[str]:
        unreadable = []
        async with http_client(5) as http:
            context = ToolContext(settings, ledger, http)
            for hook in map(settings.hook, settings.hooks):
                if hook.source.definition.token_exchange:
                    try:
                        await tokens_of(context, hook).encrypt()
                    except TokensUnreadable:
                        unreadable.append(hook.name)
        return unreadable

    names = _change(step)
    unreadable = run_with_ledger(encrypt_tokens)
    print_message(f"encrypted with the first key of SECRET_KEY: {', '.join(names) or 'no hook'}")
    if unreadable:
        exit_with(CHECK_FAILED, f"SECRET_KEY lacks the key of the tokens of {', '.join(unreadable)}")


def _change(step: Callable[[StoredHooks, Actions], Awaitable[Any]], name: str = "") -> Any:
    """Run a step. name: the stored hook that it changes, if it must exist."""

    async def run(ledger: Ledger, settings: Settings) -> Any:
        stored = StoredHooks(ledger.redis, settings)
        await stored.load()
        if name and name not in stored.names:
            if name in settings.environment_hooks:
                exit_with(
                    CHECK_FAILED,
                    f"the hook {name} is from the environment: change its variables HOOKS__{name.upper()}__…, and restart",
                )
            exit_with(NOTHING_MATCHED, f"there is no stored hook {name}{did_you_mean(name, stored.names)}")
        return await step(stored, actions(ledger, settings))

    return run_with_ledger(run)


def _missing_credentials(tool: LoadedSource, configured: Mapping[str, str]) -> list[str]:
    """Return the credentials without which records cannot be fetched."""
    return tool.definition.missing_credentials(configured) if tool.fetch else []


def _find_source(name: str) -> LoadedSource:
    if name not in load_sources():
        exit_with(USAGE, f"there is no source {name}{did_you_mean(name, load_sources())}: name it with --source")
    return load_sources()[name]


def _generate(tool: Source) -> str:
    secret = new_secret(tool)
    if secret is None:
        exit_with(CHECK_FAILED, f"{tool.title} generates its secrets itself: copy it from there")
    return secret
