"""The command line: `doorbell`, or `python -m app`. Data goes to stdout, words to stderr."""

import asyncio
import os
import sys
from pathlib import Path

import click

from app import doctor as doctors
from app.cli.act import discard, replay
from app.cli.audit import audit
from app.cli.forget import forget
from app.cli.sources import hook_url, ring, sources
from app.cli.words import USAGE, as_json, end, limit, print_story, reveal, show_rows, with_ledger
from app.explain import Explain

ROOT = Path(__file__).parent.parent.parent


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
    options = {"access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1, "timeout_keep_alive": 75}
    uvicorn.run(create_sandbox(file, token), host=host, port=port, **options)  # type: ignore[arg-type]


# -- sources --

for command in (sources, hook_url, ring):
    main.add_command(command)


# -- what happened --


@main.command()
@limit
@as_json
def deliveries(limit: int, as_json: bool) -> None:
    """What arrived, newest first."""
    show_rows(with_ledger(lambda ledger, settings: Explain(ledger, settings).deliveries(limit)), as_json)


@main.command()
@click.argument("id")
@reveal
def show(id: str, reveal: bool) -> None:
    """One delivery: what it was, what came of it, every attempt."""
    print_story(with_ledger(lambda ledger, settings: Explain(ledger, settings, reveal).delivery(id)))


@main.command()
@click.argument("external_id")
@reveal
def visit(external_id: str, reveal: bool) -> None:
    """One visit: every fact, who said it, what the API last answered."""
    for story in with_ledger(lambda ledger, settings: Explain(ledger, settings, reveal).visit(external_id)):
        print_story(story)


@main.command()
@limit
@as_json
def failures(limit: int, as_json: bool) -> None:
    """What needs an operator, the longest first."""
    show_rows(with_ledger(lambda ledger, settings: Explain(ledger, settings).failures(limit)), as_json)


# -- what to do --

for command in (replay, discard, audit, forget):
    main.add_command(command)


# -- the console --


@main.command("hash-password")
def hash_password() -> None:
    """Read a password from stdin, and write what CONSOLE_PASSWORD_HASH is set to."""
    from app.console.access import hash_password

    asked = click.prompt("Password", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    password = asked.rstrip("\r\n")
    if len(password) < SHORTEST_PASSWORD:
        end(USAGE, f"a password has {SHORTEST_PASSWORD} characters at least")
    click.echo(hash_password(password))


SHORTEST_PASSWORD = 12


# -- is all well --


@main.command()
@click.option("--phase", type=click.Choice(["run", "release"]), default="run", show_default=True)
@as_json
def doctor(phase: str, as_json: bool) -> None:
    """Check settings, Redis, the Visits API, the clock and the worker; each trouble with its fix."""

    async def examine() -> list[doctors.Check]:
        return [check async for check in doctors.examine(os.environ, is_release=phase == "release")]

    checks = asyncio.run(examine())
    show_rows([{"check": c.name, "result": c.result, "detail": c.detail, "fix": c.fix} for c in checks], as_json)
    sys.exit(doctors.status(checks))
