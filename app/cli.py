"""The command line: `doorbell`, or `python -m app`. Data goes to stdout, words to stderr."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from app import doctor as doctors
from app import settings as configuration
from app.connection import Address, Redis, RedisDown
from app.explain import Explain
from app.ledger import Gone, Ledger
from app.ring import Unknown, ring_at
from app.settings import Settings, SettingsError
from app.sources import Source, load, specimens
from app.visits.words import Contact, VisitChange

T = TypeVar("T")
ROOT = Path(__file__).parent.parent

BUG, USAGE, CHECK_FAILED, UNREACHABLE, NOTHING_MATCHED, PARTLY_FAILED = 1, 2, 3, 4, 5, 6

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
limit = click.option("--limit", default=50, show_default=True, help="How many at most.")
reveal = click.option("--reveal", is_flag=True, help="Show personal data too.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Signed webhooks from scheduling tools become the right visits in Review Rover.

    Exit status: 0 done, 1 bug, 2 usage, 3 a check failed, 4 something unreachable, 5 nothing matched, 6 partly failed.
    """
    # The processes that are started from here find the project from any folder.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


# -- processes --


@main.command()
@click.option("--once", is_flag=True, help="End after the last line: 0 if every line was as it should be, else 1.")
def demo(once: bool) -> None:
    """The whole of it on this machine, with nothing to set up: see what it does."""
    from app.demo import run

    sys.exit(run(once))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, envvar="PORT")
def web(host: str, port: int) -> None:
    """The receiver: POST /hooks/{hook}."""
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--host", host, "--port", str(port), *WEB_OPTIONS]
    os.execv(sys.executable, command)


WEB_OPTIONS = (
    "--http=app.protocol:Bounded",
    "--no-proxy-headers",
    "--timeout-keep-alive=95",
    "--timeout-graceful-shutdown=20",
    "--no-server-header",
    "--no-access-log",
)


@main.command()
def worker() -> None:
    """The worker: from written facts to the Visits API."""
    os.execv(sys.executable, [sys.executable, "-m", "arq", "jobs.worker.WorkerSettings"])


@main.command()
@click.option("--port", default=9000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--file", default=":memory:", show_default=True, help="Where the visits are kept.")
@click.option("--token", help="The only bearer token that is let in; by default any is.")
def sandbox(port: int, host: str, file: str, token: str | None) -> None:
    """A Visits and Contacts API of our own, for first runs and tests."""
    import uvicorn

    from app.visits.sandbox import create_sandbox

    click.echo(
        f"Visits API: http://{host}:{port}/api/v1   switches and journal: http://{host}:{port}/_sandbox/", err=True
    )
    options = {"access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1}
    uvicorn.run(create_sandbox(file, token), host=host, port=port, **options)  # type: ignore[arg-type]


# -- sources --


@main.command()
@click.argument("name", required=False)
@as_json
def sources(name: str | None, as_json: bool) -> None:
    """What can ring; with a NAME, how to connect it."""
    hooks = _settings_or_none()
    if name is None:
        rows = [
            {
                "source": tool.name,
                "title": tool.source.title,
                "evidence": tool.source.evidence,
                "proves": tool.source.signature.covers,
                "busy": tool.source.busy,
                "within_s": tool.source.answer_within_s,
                "hooks": []
                if hooks is None
                else [e.path for e in hooks.entrances.values() if e.tool.name == tool.name],
            }
            for tool in load().values()
        ]
        return _show(rows, as_json)
    if name not in load():
        _end(NOTHING_MATCHED, f"there is no source {name}; there are {', '.join(load())}")
    source = load()[name].source
    public_url = (hooks and hooks.public_url) or "https://YOUR-DOORBELL"
    click.echo(f"{source.title}  ({source.docs}; evidence: {source.evidence})")
    url = f"{public_url}/hooks/{name}"
    if source.signature.needs_key:
        url = f"the address that `doorbell hook-url {name}` prints"
    click.echo(source.setup.replace("{url}", url).rstrip())
    click.echo(f"\n{'; '.join(_terms_of(source))}.")
    return None


def _terms_of(source: Source) -> Iterable[str]:
    """How the tool and the door deal with one another, in words."""
    yield PROVES[source.signature.covers]
    yield f"while Redis is away it hears {source.busy} and tries again"
    yield f"it is answered within {source.answer_within_s:g} s"
    needs = [f"HOOKS__<NAME>__{need}" for need in source.needs]
    needs += ["PUBLIC_URL"] * source.signature.needs_url + ["SECRET_KEY"] * source.signature.needs_key
    if needs:
        yield f"it needs {', '.join(needs)} too"
    if source.credential_names:
        yield f"records are fetched with the credentials {', '.join(source.credential_names)}"


PROVES = {
    "body": "The signature proves the whole body",
    "fields": "The signature proves some fields of the body only",
    "nothing": "Nothing proves the body: whoever has the address or the token could make one up",
}


@main.command("hook-url")
@click.argument("hook")
def hook_url(hook: str) -> None:
    """The address of a HOOK, as the tool should have it; with its token, where the tool signs nothing."""
    try:
        settings = configuration.read(redis_needed=False)
    except SettingsError as error:
        _end(CHECK_FAILED, str(error))
    entrance = settings.entrances.get(hook)
    if entrance is None:
        _end(NOTHING_MATCHED, f"there is no hook {hook}, or it has no secret")
    if not settings.public_url:
        click.echo("PUBLIC_URL is not set: put our own address before it", err=True)
    click.echo(settings.address(entrance))


@main.command()
@click.argument("source")
@click.argument("specimen", required=False)
@click.option("--to", "url", help="The hook's address; by default http://127.0.0.1:$PORT/hooks/SOURCE.")
def ring(source: str, specimen: str | None, url: str | None) -> None:
    """Send a really signed SPECIMEN, by its number or a part of its name; without one, list them."""
    if source not in load():
        _end(NOTHING_MATCHED, f"there is no source {source}; there are {', '.join(load())}")
    names = [delivery["name"] for delivery in specimens(source)["deliveries"]]
    if specimen is None:
        return _show([{"number": number, "specimen": name} for number, name in enumerate(names, 1)], False)
    url = url or f"http://127.0.0.1:{os.environ.get('PORT', '8000')}/hooks/{source}"
    try:
        answer = ring_at(url, source, specimen, os.environ)
    except Unknown as error:
        _end(NOTHING_MATCHED, str(error))
    except OSError as error:
        _end(UNREACHABLE, f"{url} cannot be reached ({error})")
    click.echo(answer.text)
    click.echo(f"answered {answer.status_code}", err=True)
    sys.exit(0 if answer.is_success else CHECK_FAILED)


# -- what happened --


@main.command()
@limit
@as_json
def deliveries(limit: int, as_json: bool) -> None:
    """What arrived, newest first."""
    _show(_with_ledger(lambda ledger, settings: Explain(ledger, settings).deliveries(limit)), as_json)


@main.command()
@click.argument("id")
@reveal
def show(id: str, reveal: bool) -> None:
    """One delivery: what it was, what came of it, every attempt."""
    _print(_with_ledger(lambda ledger, settings: Explain(ledger, settings, reveal).delivery(id)))


@main.command()
@click.argument("external_id")
@reveal
def visit(external_id: str, reveal: bool) -> None:
    """One visit: every fact, who said it, what the API last answered."""
    for story in _with_ledger(lambda ledger, settings: Explain(ledger, settings, reveal).visit(external_id)):
        _print(story)


@main.command()
@limit
@as_json
def failures(limit: int, as_json: bool) -> None:
    """What needs an operator, the longest first."""
    _show(_with_ledger(lambda ledger, settings: Explain(ledger, settings).failures(limit)), as_json)


# -- what to do --


@main.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--contact", help="Whose visit it is: Review Rover's cont_….")
@click.option("--fresh", is_flag=True, help="Ask the Visits API what stands there, instead of remembering.")
def replay(ids: tuple[str, ...], contact: str | None, fresh: bool) -> None:
    """Put deliveries or visits back to work, by their IDs. Facts that newer ones decided do not change by it."""

    async def put_back(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        explain, rows = Explain(ledger, settings), []
        for id in ids:
            for work in await explain.works(id):
                if contact and work.startswith("visit:"):
                    await ledger.name_contact(work, _named(contact))
                rows.append({"id": id, "work": work, "state": await ledger.replay(work, fresh)})
        return rows

    _show(_with_ledger(put_back), False)


def _named(contact: str) -> VisitChange:
    """An operator's word counts from now on."""
    import time

    return VisitChange(action="update", visit_id="", order=time.time_ns() // 1000, contact=Contact(id=contact))


@main.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(ids: tuple[str, ...], yes: bool) -> None:
    """Give up what has not been applied of deliveries or visits."""
    if not yes:
        click.confirm(f"Give up the changes of {', '.join(ids)} that have not been applied?", abort=True, err=True)

    async def give_up(ledger: Ledger, settings: Settings) -> list[dict[str, Any]]:
        explain, rows = Explain(ledger, settings), []
        for id in ids:
            works = await explain.works(id)
            delivery = "" if await explain.is_visit(id) else id
            rows += [{"id": id, "work": work, "discarded": await ledger.discard(work, delivery)} for work in works]
        return rows

    rows = _with_ledger(give_up)
    _show(rows, False)
    if any(row["discarded"] < 0 for row in rows):
        _end(PARTLY_FAILED, "what a worker has in its hands cannot be given up; try again in a moment")


# -- is all well --


@main.command()
@click.option("--phase", type=click.Choice(["run", "release"]), default="run", show_default=True)
@as_json
def doctor(phase: str, as_json: bool) -> None:
    """Check settings, Redis, the Visits API, the clock and the worker; each trouble with its fix."""

    async def examine() -> list[doctors.Check]:
        return [check async for check in doctors.examine(os.environ, is_release=phase == "release")]

    checks = asyncio.run(examine())
    _show([{"check": c.name, "result": c.result, "detail": c.detail, "fix": c.fix} for c in checks], as_json)
    sys.exit(doctors.status(checks))


# -- how --


def _settings_or_none() -> Settings | None:
    try:
        return configuration.read(redis_needed=False)
    except SettingsError:
        return None


def _with_ledger(step: Callable[[Ledger, Settings], Awaitable[T]]) -> T:
    """Run a step; its errors become an exit status and a sentence."""

    async def run() -> T:
        settings = configuration.read()
        async with _ledger(settings) as ledger:
            return await step(ledger, settings)

    try:
        return asyncio.run(run())
    except SettingsError as error:
        _end(CHECK_FAILED, str(error))
    except RedisDown as error:
        _end(UNREACHABLE, str(error))
    except Gone as error:
        _end(NOTHING_MATCHED, f"there is no delivery or visit {error}, or no longer")


@asynccontextmanager
async def _ledger(settings: Settings) -> Any:
    redis = Redis(Address.of(settings))
    try:
        yield Ledger(redis, settings.retention_days)
    finally:
        await redis.close()


def _end(status: int, sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(status)


def _print(story: dict[str, Any]) -> None:
    click.echo(json.dumps(story, indent=2, ensure_ascii=False))


def _show(rows: Iterable[dict[str, Any]], as_json: bool) -> None:
    """A list: a table for people, one object a line for programs. Nothing in it: exit status 5."""
    rows = list(rows)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif rows:
        names = list({name: None for row in rows for name in row})
        lines = [
            [name.upper().replace("_", " ") for name in names],
            *([_cell(row.get(name)) for name in names] for row in rows),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
        for line in lines:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not rows:
        _end(NOTHING_MATCHED, "nothing")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "–"
    return "–" if value is None or value == "" else str(value)
