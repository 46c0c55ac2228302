"""`doorbell sources`, `hook-url` and `secrets`, which help to connect a tool."""

import sys
from collections.abc import Iterable, Mapping
from textwrap import indent
from typing import Any

import click

from app.cli.completion import complete_hooks, complete_sources
from app.cli.options import find_hook
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    Subcommands,
    did_you_mean,
    examples,
    exit_with,
    json_option,
    print_message,
    print_rows,
    utc_option,
)
from app.cli.session import load_settings, load_settings_or_none, run_with_ledger
from app.cli.tables import style, wrap
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.setup_steps import (
    UNKNOWN_URL,
    SetupStep,
    capabilities,
    new_secret,
    setup_steps,
    terms_of,
    with_prompt_names,
)
from app.settings.model import Settings
from app.telemetry import counters
from app.webhooks.evidence import VERIFIED_BY, Evidence
from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import fingerprint
from app.webhooks.source import LoadedSource


@click.command(epilog=examples("sources", "sources calendly"))
@click.argument("name", required=False, shell_complete=complete_sources)
@json_option
def sources(name: str | None, as_json: bool) -> None:
    """List the supported tools, or show how to connect one.

    NAME is a source from the list, or a hook. SIGNED: whether a signature covers the whole body. VERIFIED BY: the weakest
    evidence for the facts in the module. HOOKS: those that are configured. With --json also what the signature covers, the
    status of the answer while Redis is unavailable, whether the tool then retries, and the seconds within which Doorbell
    answers.
    """
    settings = load_settings_or_none()
    active_hooks = settings.active_hooks.values() if settings else ()
    if name is None:
        rows = [
            {
                "source": tool.name,
                "title": tool.definition.title,
                "evidence": tool.definition.evidence,
                "verified_by": VERIFIED_BY[tool.definition.evidence],
                "signature_covers": tool.definition.signature.coverage,
                "unavailable_status": tool.definition.unavailable_status,
                "retries": tool.definition.retries,
                "answer_within_s": tool.definition.sender_timeout_s,
                "hooks": [hook.path for hook in active_hooks if hook.source.name == tool.name],
            }
            for tool in load_sources().values()
        ]
        return print_rows(rows if as_json else [_row_for_people(row) for row in rows], as_json)
    tool = find_tool(name, settings)
    source = tool.definition
    public_url = (settings and settings.public_url) or UNKNOWN_URL
    click.echo(f"{style(source.title, bold=True)}\n{source.docs}")
    for line in wrap(f"Sends {', '.join(capabilities(tool.name))}. Verified by {VERIFIED_BY[source.evidence]}."):
        click.echo(line)
    url, shell_url = f"{public_url}/hooks/{name}", ""
    if source.signature.needs_secret_key:
        url, shell_url = f"the URL that `doorbell hook-url {name}` prints", f"$(doorbell hook-url {name})"
    steps = setup_steps(tool, name, url, shell_url)
    is_stored = settings is not None and settings.is_stored(name)
    print_steps(with_prompt_names(steps, name, url) if is_stored else steps)
    click.echo()
    for line in wrap(f"{'; '.join(terms_of(source))}."):
        click.echo(line)
    return None


def print_steps(steps: Iterable[SetupStep]) -> None:
    for step in steps:
        number = f"{step.number}. " if step.number else ""
        for line in wrap(number + step.text, subsequent="   " if number else ""):
            click.echo(line)
        for command in step.commands:
            click.echo(indent(f"$ {command}", "   "))


def _row_for_people(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": row["source"],
        "title": row["title"],
        "signed": {"body": "yes", "fields": "in part", "nothing": "no"}[row["signature_covers"]],
        "verified by": VERIFIED_BY_BRIEFLY[row["evidence"]],
        "hooks": [path.rpartition("/")[2] for path in row["hooks"]],
    }


#: VERIFIED_BY in few words.
VERIFIED_BY_BRIEFLY: Mapping[Evidence, str] = {
    "vendor": "vendor's docs",
    "second-hand": "integrators' code",
    "none": "nobody",
}


def find_tool(name: str, settings: Settings | None = None) -> LoadedSource:
    """Return the source of this name, or the source of this hook."""
    hook = settings.active_hooks.get(name) if settings else None
    tool = hook.source if hook else load_sources().get(name)
    if tool is None:
        names = [*load_sources(), *(settings.active_hooks if settings else ())]
        advice = did_you_mean(name, names) or ": `doorbell sources` lists them"
        exit_with(NOTHING_MATCHED, f"there is no source {name}{advice}")
    return tool


@click.command("hook-url", epilog=examples("hook-url gingr"))
@click.argument("hook", shell_complete=complete_hooks)
def hook_url(hook: str) -> None:
    """Print the URL of a hook, to paste into the tool.

    If the tool signs nothing, the URL contains a token.
    """
    settings = load_settings()
    configured = find_hook(settings, hook)
    if not settings.public_url:
        print_message("PUBLIC_URL is not set: put the URL of this Doorbell before the path")
    click.echo(settings.hook_url(configured))


@click.group(
    cls=Subcommands,
    invoke_without_command=True,
    epilog=examples("secrets", "secrets --json", "secrets generate standard"),
)
@utc_option
@json_option
@click.pass_context
def secrets(context: click.Context, as_json: bool) -> None:
    """List the fingerprints of all secrets, and when each last matched.

    After a rotation, remove the old secret once it no longer matches.
    """
    if context.invoked_subcommand:
        return

    async def load(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        keys = settings.secret_key
        return [
            {"hook": name, "secret": number, "fingerprint": digest, "last_matched": iso_timestamp(at_ms)}
            for name, hook in settings.active_hooks.items()
            for number, (digest, at_ms) in enumerate(
                (await counters.secret_last_used(ledger.redis, name, hook.settings.secrets, keys)).items(), 1
            )
        ]

    nothing = "no hook has a secret: `doorbell sources NAME` says how to connect a tool"
    print_rows(run_with_ledger(load), as_json, nothing)


@secrets.command(epilog=examples("secrets generate standard"))
@click.argument("name", shell_complete=complete_sources)
def generate(name: str) -> None:
    """Generate a secret for a tool that does not generate its own.

    NAME is a source, or a hook.
    """
    settings = load_settings_or_none()
    source = find_tool(name, settings).definition
    secret = new_secret(source)
    if secret is None:
        exit_with(CHECK_FAILED, f"{source.title} generates its secrets itself: see `doorbell sources {name}`")
    click.echo(secret)
    is_stored = settings is not None and settings.is_stored(name)
    use = f"run `doorbell hooks rotate {name}`" if is_stored else f"set it as HOOKS__{name.upper()}__SECRETS"
    print_message(f"{use}, then follow `doorbell sources {name}`")


@secrets.command("fingerprint", epilog=examples("secrets fingerprint < secret.txt"))
def print_fingerprint() -> None:
    """Print the fingerprint of a secret that is read from standard input."""
    click.echo(fingerprint(sys.stdin.readline().strip(), load_settings().secret_key))
