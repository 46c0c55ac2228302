"""`doorbell ring`, which sends specimens, and `doorbell specimen`, for authors of sources."""

import asyncio
import os
import sys
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import click

from app.cli.completion import complete_sources, complete_specimens
from app.cli.details import print_delivery
from app.cli.output import (
    CHECK_FAILED,
    NOTHING_MATCHED,
    UNREACHABLE,
    Subcommands,
    examples,
    exit_with,
    print_message,
    print_rows,
    printable,
    utc_option,
)
from app.cli.session import load_settings, load_settings_or_none, run_with_ledger
from app.cli.sources import find_tool
from app.operators.explain import Explain
from app.settings.platform import read_variables
from app.webhooks.registry import load_specimens

if TYPE_CHECKING:
    import httpx

#: `--fresh` without a name.
NEW_NAME = "new"
#: How long `ring --wait` waits for a worker.
WAIT_S = 15.0


@click.command(
    epilog=examples(
        "ring calendly",
        'ring calendly "an invitee books" --fresh --wait',
        "ring calendly 5 --fresh=lee --to https://doorbell.example.com/hooks/east",
    )
)
@click.argument("source", shell_complete=complete_sources)
@click.argument("specimen", required=False, shell_complete=complete_specimens)
@click.option("--to", "url", help="The URL of Doorbell or of a hook [default: http://127.0.0.1:$PORT/hooks/SOURCE].")
@click.option(
    "--fresh",
    is_flag=False,
    flag_value=NEW_NAME,
    metavar="[=NAME]",
    help="Send new ids, and dates around today. The same NAME gives the same ids: one visit, in several specimens.",
)
@click.option("--wait", is_flag=True, help="Wait until a worker is done with the delivery, and show the result.")
@utc_option
def ring(source: str, specimen: str | None, url: str | None, fresh: str | None, wait: bool) -> None:
    """Send a specimen with a valid signature of its hook.

    SPECIMEN is its number or a part of its name; without it, the command lists the specimens.
    """
    from app.webhooks.specimens import UnknownSpecimen, hook_of, send_specimen

    find_tool(source)
    names = [delivery["name"] for delivery in load_specimens(source)["deliveries"]]
    if specimen is None:
        print_rows([{"number": number, "specimen": name} for number, name in enumerate(names, 1)], False)
        return
    if wait:
        load_settings(redis_needed=True)
    url = (url or f"http://127.0.0.1:{os.environ.get('PORT', '8000')}").rstrip("/")
    if url.count("/") == 2:
        url += f"/hooks/{source}"
    name = token_hex(3) if fresh == NEW_NAME else fresh
    try:
        response = send_specimen(url, source, specimen, _variables(hook_of(url, source)), name)
    except UnknownSpecimen as error:
        exit_with(NOTHING_MATCHED, str(error))
    except OSError as error:
        exit_with(UNREACHABLE, f"{url} cannot be reached ({error})")
    click.echo(printable(response.text))
    print_message(f"status {response.status_code}")
    if not response.is_success:
        sys.exit(CHECK_FAILED)
    if name:
        print_message(f"--fresh={name} sends the next specimen of this visit")
    _show_result(response, wait, bool(name))


def _variables(hook: str) -> dict[str, str]:
    """Return the environment, with the secrets of a hook that is stored in Redis."""
    prefix, variables = f"HOOKS__{hook.upper()}", read_variables(os.environ)
    if variables.get(f"{prefix}__SECRETS"):
        return variables
    settings = load_settings_or_none()
    stored = settings.stored_hooks.get(hook) if settings else None
    if stored and stored.secrets:
        return variables | {f"{prefix}__SECRETS": " ".join(stored.secrets), f"{prefix}__AUTH": " ".join(stored.auth)}
    print_message(f"no secret of the hook {hook} is set or stored here: signed with the specimen's own secret")
    return variables


def _show_result(response: "httpx.Response", wait: bool, is_fresh: bool) -> None:
    """Print the result of a delivery, or the command that shows it."""
    is_json = response.headers.get("content-type", "").startswith("application/json")
    answer = response.json() if is_json else {}
    id = answer.get("delivery") if isinstance(answer, dict) else None
    if not id:  # a handshake
        return
    if answer.get("repeat"):
        advice = "another name gives new ids" if is_fresh else "--fresh sends it with new ids"
        print_message(f"it was sent before, and a repeat has no effect: {advice}")
    if wait:
        click.echo()
        print_delivery(run_with_ledger(lambda ledger, settings: _wait_for_result(Explain(ledger, settings), id)))
    else:
        print_message(f"`doorbell show {id}` shows the result")


async def _wait_for_result(explain: Explain, id: str) -> dict[str, Any]:
    """Return the delivery when no worker has anything to do for it, or after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while True:
        delivery = await explain.delivery(id)
        states = {change["state"] for change in delivery["changes"]}
        if not states & {"queued", "running"} or time.monotonic() > deadline:
            return delivery
        await asyncio.sleep(0.1)


# -- for authors of sources --


@click.group(cls=Subcommands, epilog=examples("specimen sign tidybook"))
def specimen() -> None:
    """Complete the specimens of a source, for its author."""


@specimen.command(epilog=examples("specimen sign tidybook --dry-run", "specimen sign tidybook"))
@click.argument("source", shell_complete=complete_sources)
@click.option("--dry-run", is_flag=True, help="Only show what would be added to the file.")
def sign(source: str, dry_run: bool) -> None:
    """Fill in signatures and propose the expected changes in app/sources/SOURCE.json.

    A missing or wrong signature is replaced by that of the module's scheme, if signed_with, the shell command in the file,
    gives the same one. A missing `expect` becomes what the module translates: compare it with the tool's documentation.
    """
    from app.cli.specimen_files import CannotComplete, SpecimenFile

    file = SpecimenFile(find_tool(source).name)
    count = 0
    try:
        for name, additions in file.complete():
            for addition in additions:
                count += 1
                click.echo(printable(f"{name}: {addition}"))
    except CannotComplete as problem:
        exit_with(CHECK_FAILED, f"{problem}; the file was not changed")
    if not count:
        print_message("nothing is missing")
    elif not dry_run:
        file.write()
        print_message(f"written to {file.path}")
