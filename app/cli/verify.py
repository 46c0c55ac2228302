"""`doorbell verify`."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import BinaryIO

import click

from app.cli.completion import complete_hooks
from app.cli.options import find_hook
from app.cli.output import (
    CHECK_FAILED,
    USAGE,
    TimeType,
    examples,
    exit_with,
    json_option,
    print_message,
    printable,
    to_json,
    utc_option,
)
from app.cli.session import load_settings
from app.operators.signature_diagnosis import Diagnosis, InvalidHeaders, diagnose, parse_headers
from app.settings.model import Hook
from app.webhooks.delivery import Delivery


@click.command(
    epilog=examples(
        "verify calendly --headers headers.txt < body.json",
        "verify square --header 'X-Square-HmacSha256-Signature: …' --body body.json",
        "verify standard --headers headers.txt --body body.json --at 2026-03-14T09:00:00Z",
    )
)
@click.argument("hook", shell_complete=complete_hooks)
@click.option("--body", type=click.File("rb"), default="-", help="The body, byte for byte [default: standard input].")
@click.option(
    "--headers", type=click.File("rb"), help="A file of `Name: value` lines; the first may be `POST /hooks/… HTTP/1.1`."
)
@click.option("--header", "single_headers", multiple=True, metavar="'NAME: VALUE'", help="One header; repeatable.")
@click.option("--at", type=TimeType(), help="When the request arrived [default: now].")
@utc_option
@json_option
def verify(
    hook: str,
    body: BinaryIO,
    headers: BinaryIO | None,
    single_headers: tuple[str, ...],
    at: datetime | None,
    as_json: bool,
) -> None:
    """Explain why a signature is invalid.

    HOOK is a hook, or a source with one hook. The command tries corrections of the request, one or two at a time. It
    accepts and sends nothing, and shows fingerprints instead of secrets.
    """
    settings = load_settings()
    configured = find_hook(settings, hook)
    if body.isatty():
        print_message("paste the body, and end it with Ctrl-D")
    lines = [*(headers.read().splitlines() if headers else ()), *(header.encode() for header in single_headers)]
    try:
        token, query, parsed = parse_headers(configured, lines)
    except InvalidHeaders as error:
        exit_with(USAGE, str(error))
    now = at.timestamp() if at else time.time()
    arrived_at = datetime.fromtimestamp(now, UTC)
    delivery = Delivery(
        configured.name, configured.source.name, parsed, body.read(), arrived_at, token=token, query=query
    )
    diagnosis = diagnose(settings, configured, delivery, now)
    if as_json:
        click.echo(to_json({"hook": configured.name, **asdict(diagnosis)}))
    else:
        _print_diagnosis(configured, diagnosis)
    sys.exit(0 if diagnosis.is_valid else CHECK_FAILED)


def _print_diagnosis(configured: Hook, diagnosis: Diagnosis) -> None:
    secret = f"secret {diagnosis.secret_number} of {len(configured.settings.secrets)} ({diagnosis.fingerprint})"
    if diagnosis.is_valid:
        click.echo(f"valid: {secret} matches")
        return
    reason, sentence = diagnosis.rejection
    click.echo(printable(f"invalid: signature_{reason}: {sentence}"))
    for finding in diagnosis.findings:
        click.echo(printable(f"{finding.kind}: {finding.summary}"))
    if diagnosis.secret_number:
        print_message(f"the tool signs with {secret}")
