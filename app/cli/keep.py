"""`doorbell keep`."""

from secrets import token_hex
from typing import Any

import click

from app.cli.completion import complete_deliveries
from app.cli.output import CHECK_FAILED, UNREACHABLE, examples, exit_with, printable
from app.cli.session import actions, run_with_ledger
from app.ledger.ledger import Ledger
from app.ledger.records import BodyUnavailable, DeliveryInfo
from app.operators.explain import event_name
from app.settings.model import Hook, Settings


@click.command(
    epilog=examples(
        "keep d019a3b1c2d0q4v8k2m6t0a1c3e5", "keep d019a3b1c2d0q4v8k2m6t0a1c3e5 --as 'a guest moves it' --write"
    )
)
@click.argument("delivery", shell_complete=complete_deliveries)
@click.option("--as", "name", help="The name of the specimen [default: its event and date].")
@click.option("--write", is_flag=True, help="Add it to the file of its source instead of printing it.")
def keep(delivery: str, name: str | None, write: bool) -> None:
    """Turn a stored delivery into a specimen of its source, without personal data.

    Names, addresses, phone numbers, ids and free text are replaced, the same value by the same replacement everywhere.
    Records that the event refers to are fetched again and replaced in the same way. The signature is made with the secret of
    the specimens, and `expect` is proposed: what the module translates. Read the result before you publish it.
    """
    from app.cli.specimen_files import CannotComplete, NotTranslatable, SpecimenEntry, SpecimenFile
    from app.cli.specimen_recorder import RecordedSpecimen, as_json

    async def record(ledger: Ledger, settings: Settings) -> tuple[DeliveryInfo, RecordedSpecimen]:
        try:
            meta, body = await ledger.load_delivery(delivery)
        except BodyUnavailable as error:
            exit_with(CHECK_FAILED, f"{delivery} cannot be kept: {error}")
        await actions(ledger, settings).keep_specimen(delivery)
        return meta, await _record(ledger, settings, meta, body, name or "")

    try:
        meta, recorded = run_with_ledger(record)
        file = SpecimenFile(meta.source)
        entry = recorded.entry
        entry["name"] = _free_name(entry["name"], [each["name"] for each in file.content["deliveries"]])
        try:
            for addition in SpecimenEntry(file.tool, file.content, entry).complete():
                click.echo(printable(addition), err=True)
        except NotTranslatable as problem:
            click.echo(printable(f"{problem}; add `expect` when it does"), err=True)
    except CannotComplete as problem:
        exit_with(CHECK_FAILED, f"{delivery} cannot be kept: {problem}")
    for key in (key for key, response in entry.get("records", {}).items() if response is None):
        click.echo(printable(f"the tool does not have the record {key}: it may be deleted"), err=True)
    for text in recorded.exceptions:
        click.echo(
            printable(f"read this text: the translation depends on it, so only names in it are replaced: {text}"),
            err=True,
        )
    if not write:
        click.echo(as_json(entry))
        return
    file.content["deliveries"].append(entry)
    try:
        file.write()
    except OSError as error:
        exit_with(CHECK_FAILED, f"{file.path} cannot be written: {error.strerror}")
    click.echo(f"written to {file.path}", err=True)


async def _record(ledger: Ledger, settings: Settings, meta: DeliveryInfo, body: bytes, name: str) -> Any:
    # Imported late: the help needs neither sources nor an HTTP client.
    from app.cli.specimen_recorder import Recorder
    from app.connections.context import ToolContext
    from app.connections.tool_api import CredentialsMissing, ToolApi
    from app.visits.client import VisitsApiError, http_client
    from app.webhooks.fetching import RecordRequest
    from app.webhooks.registry import load_sources

    hook = settings.active_hooks.get(meta.hook)
    timezone = (hook.settings.timezone if hook else None) or ""
    event = event_name(meta) or "a delivery"
    recorder = Recorder(load_sources()[meta.source], token_hex(8), timezone)
    async with http_client(1) as http:
        context = ToolContext(settings, ledger, http)

        async def find(request: RecordRequest) -> Any:
            api = ToolApi(context, _configured(hook, meta), [])
            try:
                return await api.find(request)
            except VisitsApiError as error:
                exit_with(UNREACHABLE, f"the record cannot be fetched: {error}")
            except CredentialsMissing as missing:
                exit_with(CHECK_FAILED, f"the record cannot be fetched: set {missing}")

        return await recorder.record(
            meta.to_delivery(body), meta.headers, name or f"{event}, {meta.received_at:%Y-%m-%d}", find
        )


def _configured(hook: Hook | None, meta: DeliveryInfo) -> Hook:
    if hook is None:
        exit_with(CHECK_FAILED, f"its record cannot be fetched: the hook {meta.hook} is not configured here")
    return hook


def _free_name(name: str, names: list[str]) -> str:
    """Return the name, with a number if another specimen has it."""
    numbered = (name, *(f"{name} ({number})" for number in range(2, len(names) + 3)))
    return next(free for free in numbered if free not in names)
