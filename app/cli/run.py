"""`doorbell demo`, `web`, `worker`, `sandbox`, `vendors`, `doctor` and `hash-password`."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from app.cli.output import CHECK_FAILED, USAGE, examples, exit_with, json_option, print_message, print_rows, printable
from app.cli.tables import symbol, terminal_width, wrap

if TYPE_CHECKING:
    from app.operators.doctor import Check

MIN_PASSWORD_LENGTH = 12


@click.command(epilog=examples("demo", "demo --all", "demo --once"))
@click.option("--once", is_flag=True, help="Exit after the last step: status 0 if every step passed, else 1.")
@click.option(
    "--all", "with_more_sources", is_flag=True, help="Also connect seven familiar tools, by their (fake) APIs."
)
def demo(once: bool, with_more_sources: bool) -> None:
    """Run the whole system on this machine, without any setup."""
    from app.demo.steps import run

    sys.exit(run(once, with_more_sources))


@click.command(epilog=examples("web", "web --host 0.0.0.0 --port 8080"))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, envvar="PORT")
def web(host: str, port: int) -> None:
    """Start the web process, which receives webhooks."""
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


@click.command(epilog=examples("worker", "worker --check"))
@click.option("--check", is_flag=True, help="Start nothing. Exit with status 3 if no worker runs on this machine.")
def worker(check: bool) -> None:
    """Start the worker, which calls the Visits API."""
    if check:
        sys.exit(_check_worker())
    os.execv(sys.executable, [sys.executable, "-m", "jobs"])


def _check_worker() -> int:
    """Return the exit status of `worker --check`. An unreachable Redis is no failure: workers wait for it."""
    import asyncio

    from app.cli.session import load_settings, open_ledger
    from app.ledger.redis import RedisUnavailable
    from app.telemetry.health import host_name, live_workers

    settings = load_settings(redis_needed=True)

    async def is_alive() -> bool:
        async with open_ledger(settings) as ledger:
            return any(worker.host == host_name() for worker in await live_workers(ledger.redis))

    try:
        if asyncio.run(is_alive()):
            return 0
    except RedisUnavailable as error:
        print_message(f"{error}: whether a worker runs is unknown")
        return 0
    print_message("no worker on this machine had a heartbeat in the last 30 s")
    return CHECK_FAILED


@click.command(epilog=examples("sandbox", "sandbox --port 9000 --file visits.db"))
@click.option("--port", default=9000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--file", default=":memory:", show_default=True, help="The SQLite file of the visits.")
@click.option("--token", help="The accepted bearer token [default: any].")
def sandbox(port: int, host: str, file: str, token: str | None) -> None:
    """Start a local Visits API, for first runs and tests."""
    import uvicorn

    from app.sandbox.api import create_sandbox

    click.echo(
        f"Visits API: http://{host}:{port}/api/v1   faults and journal: http://{host}:{port}/_sandbox/", err=True
    )
    options = {"access_log": False, "log_level": "warning", "timeout_graceful_shutdown": 1, "timeout_keep_alive": 75}
    uvicorn.run(create_sandbox(file, token), host=host, port=port, **options)  # type: ignore[arg-type]


@click.command(epilog=examples("vendors", "vendors calendly --port 9100"))
@click.argument("names", nargs=-1, metavar="[TOOL]...")
@click.option("--port", default=9100, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
def vendors(names: Sequence[str], port: int, host: str) -> None:
    """Start fake APIs of the tools, to develop and try connections.

    The head of app/vendors/vendor.py lists the endpoints that control them.
    """
    import uvicorn

    from app.vendors.api import create_vendors, load_vendor, vendor_names

    if unknown := sorted(set(names) - set(vendor_names())):
        exit_with(USAGE, f"there is no fake of {', '.join(unknown)}; there are {', '.join(vendor_names())}")
    tools = [load_vendor(name) for name in names or vendor_names()]
    for tool in tools:
        values = " ".join(f"{name}={value}" for name, value in tool.values_to_enter.items())
        api_url = f"http://{host}:{port}/{tool.name}{tool.api_path}"
        click.echo(f"{tool.name}: --api-url {api_url}   {values}", err=True)
        for name, value in tool.oauth_variables(api_url).items():
            click.echo(f"  {name}={value}", err=True)
    uvicorn.run(create_vendors(tools), host=host, port=port, access_log=False, log_level="warning")


@click.command(epilog=examples("doctor", "doctor --json", "doctor --phase release"))
@click.option("--phase", type=click.Choice(["run", "release"]), default="run", show_default=True)
@json_option
def doctor(phase: str, as_json: bool) -> None:
    """Check settings, Redis, the Visits API, the clock and the worker.

    Every problem is shown with its fix.
    """
    import asyncio

    from app.operators import doctor as checker

    async def examine() -> list[checker.Check]:
        return [check async for check in checker.examine(os.environ, is_release=phase == "release")]

    checks = asyncio.run(examine())
    _print_checks(checks, as_json)
    status = checker.exit_status(checks)
    if not as_json and phase == "release" and not status:
        _print_next_steps()
    if phase == "release" and not status and "HONCHO_PROCESS_NAME" in os.environ:
        signal.pause()  # honcho ends all processes of a Procfile when one ends
    sys.exit(status)


def _print_checks(checks: "Sequence[Check]", as_json: bool) -> None:
    if as_json:
        print_rows([{"check": c.name, "result": c.result, "detail": c.detail, "fix": c.fix} for c in checks], as_json)
        return
    has_symbols = terminal_width() is not None
    width, result_width = max(len(check.name) for check in checks), 1 if has_symbols else 4
    indent = " " * (result_width + width + 3)
    for check in checks:
        # The symbol is added after wrapping, which would count the characters of its colour. A pipe gets whole lines.
        before = f"{' ' * result_width} {check.name.ljust(width)}  "
        first, *more = (
            wrap(printable(check.detail), before, indent) if has_symbols else [before + printable(check.detail)]
        )
        result = symbol(check.result) if has_symbols else check.result.ljust(result_width)
        click.echo(f"{result}{first[result_width:]}")
        if check.fix:
            fix = f"→ {printable(check.fix)}"
            more += wrap(fix, indent, f"{indent}  ") if has_symbols else [indent + fix]
        for line in more:
            click.echo(line)


def _print_next_steps() -> None:
    from app.cli.session import load_settings
    from app.operators.next_steps import next_steps
    from app.settings.platform import find_platform

    print_message("\nNext steps:")
    for number, sentence in enumerate(next_steps(load_settings(), find_platform(os.environ)), 1):
        print_message(f"  {number}. {sentence}")


@click.command("hash-password", epilog=examples("hash-password < FILE", "hash-password ada"))
@click.argument("name", required=False)
def hash_password(name: str | None) -> None:
    """Hash a console password, for CONSOLE_PASSWORD_HASH.

    The password is read from a prompt, or from standard input. With the NAME of a user, the output is one of several
    entries of CONSOLE_PASSWORD_HASH, separated by spaces: each user has a password, and the activity log shows their names.
    """
    from app.settings.model import USER_NAME, hash_password

    if name and not USER_NAME.fullmatch(name):
        exit_with(USAGE, "a name has letters, digits and . _ @ + - only")
    line = click.prompt("Password", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    password = line.rstrip("\r\n")
    if len(password) < MIN_PASSWORD_LENGTH:
        exit_with(USAGE, f"the password is too short: use at least {MIN_PASSWORD_LENGTH} characters")
    click.echo((f"{name}:" if name else "") + hash_password(password))
