"""What runs: `doorbell demo`, `web`, `worker`, `sandbox`; and how to ask whether it is well: `doctor`."""

import os
import sys

import click

from app.cli.output import USAGE, examples, exit_with, json_option, print_rows

SHORTEST_PASSWORD = 12


@click.command(epilog=examples("demo", "demo --once"))
@click.option("--once", is_flag=True, help="Exit after the last step: status 0 if every step passed, else 1.")
def demo(once: bool) -> None:
    """Run the whole system on this machine, with nothing to set up."""
    from app.demo.story import run

    sys.exit(run(once))


@click.command(epilog=examples("web", "web --host 0.0.0.0 --port 8080"))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, envvar="PORT")
def web(host: str, port: int) -> None:
    """The receiver: POST /hooks/{hook}."""
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--host", host, "--port", str(port), *WEB_OPTIONS]
    os.execv(sys.executable, command)


WEB_OPTIONS = (
    "--http=app.intake.http_protocol:HttpProtocol",
    "--no-proxy-headers",
    "--timeout-keep-alive=95",
    "--timeout-graceful-shutdown=20",
    "--no-server-header",
    "--no-access-log",
)


@click.command(epilog=examples("worker"))
def worker() -> None:
    """The worker: from written facts to the Visits API."""
    os.execv(sys.executable, [sys.executable, "-m", "jobs"])


@click.command(epilog=examples("sandbox", "sandbox --port 9000 --file visits.db"))
@click.option("--port", default=9000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--file", default=":memory:", show_default=True, help="Where the visits are kept.")
@click.option("--token", help="The only bearer token that is let in; by default any is.")
def sandbox(port: int, host: str, file: str, token: str | None) -> None:
    """A Visits and Contacts API of our own, for first runs and tests."""
    import uvicorn

    from app.sandbox.api import create_sandbox

    click.echo(
        f"Visits API: http://{host}:{port}/api/v1   faults and journal: http://{host}:{port}/_sandbox/", err=True
    )
    options = {"access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1, "timeout_keep_alive": 75}
    uvicorn.run(create_sandbox(file, token), host=host, port=port, **options)  # type: ignore[arg-type]


@click.command(epilog=examples("doctor", "doctor --json", "doctor --phase release"))
@click.option("--phase", type=click.Choice(["run", "release"]), default="run", show_default=True)
@json_option
def doctor(phase: str, as_json: bool) -> None:
    """Check settings, Redis, the Visits API, the clock and the worker; each trouble with its fix."""
    import asyncio

    from app.operators import doctor as doctors

    async def examine() -> list[doctors.Check]:
        return [check async for check in doctors.examine(os.environ, is_release=phase == "release")]

    checks = asyncio.run(examine())
    print_rows([{"check": c.name, "result": c.result, "detail": c.detail, "fix": c.fix} for c in checks], as_json)
    sys.exit(doctors.exit_status(checks))


@click.command("hash-password", epilog=examples("hash-password < FILE"))
def hash_password() -> None:
    """Read a password from stdin, and write what CONSOLE_PASSWORD_HASH is set to."""
    from app.console.passwords import hash_password

    asked = click.prompt("Password", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    password = asked.rstrip("\r\n")
    if len(password) < SHORTEST_PASSWORD:
        exit_with(USAGE, f"a password has {SHORTEST_PASSWORD} characters at least")
    click.echo(hash_password(password))
