"""All commands: exit statuses, help and imports."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from app import __version__
from app.cli import COMMANDS, main
from tests.support.cases import each
from tests.support.harness import Harness
from tests.support.processes import ROOT


@pytest.mark.parametrize(
    ("status", "command", "env"),
    [
        (2, ["failures", "--nonsense"], {}),
        (3, ["failures"], {"RETRY_CAP_S": "soon"}),
        (4, ["failures"], {"REDIS_URL": "redis://127.0.0.1:1/0"}),
        (4, ["ring", "calendly", "1", "--to", "http://127.0.0.1:1/hooks/calendly"], {}),
        (5, ["failures"], {}),
        (5, ["show", "d000"], {}),
        (5, ["visit", "standard-nobody"], {}),
        (5, ["replay", "standard-nobody"], {}),
        (5, ["replay", "--state", "parked", "--yes"], {}),
        (2, ["replay"], {}),
        (2, ["replay", "standard-A-1", "--state", "parked"], {}),
        (2, ["replay", "--state", "broken"], {}),
        (2, ["replay", "--since", "yesterday"], {}),
        (5, ["sources", "nosuch"], {}),
        (0, ["sources"], {}),
        (0, ["sources", "jobber"], {}),
    ],
)
def test_the_exit_status_tells_errors_apart(
    harness: Harness, status: int, command: list[str], env: dict[str, str]
) -> None:
    result = harness.doorbell(*command, **env)

    assert status == result.returncode, result.stderr


@pytest.mark.parametrize(
    ("status", "command", "url"),
    [(0, "sources", ""), (3, "failures", ""), (4, "failures", "redis://127.0.0.1:1/0")],
)
def test_a_process_ends_with_the_status_of_its_command(harness: Harness, status: int, command: str, url: str) -> None:
    result = harness.doorbell_process(command, REDIS_URL=url)

    assert status == result.returncode, result.stderr
    assert (status == 0) == bool(result.stdout)
    assert "Traceback" not in result.stderr


def test_help_imports_no_command() -> None:
    code = """
import sys
from app.cli import main
main(["--help"], standalone_mode=False)
heavy = {"asyncio", "pydantic", "redis", "httpx", "aiohttp", "cryptography", "starlette", "uvicorn", "jinja2"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == result.stderr.strip()
    assert "deliveries" in result.stdout


def test_a_command_imports_only_what_it_needs(harness: Harness) -> None:
    """HTTP clients, the libraries of the worker and most sources would double the time until the command starts."""
    code = """
import atexit, sys
from app.cli import main
atexit.register(lambda: print(*sys.modules))
main(["failures"])
"""
    env = harness.env | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)

    imported = set(result.stdout.split())
    assert 5 == result.returncode, result.stderr
    assert "app.ledger.ledger" in imported
    assert set() == imported & {
        "httpx",
        "redis",
        "arq",
        "jwt",
        "starlette",
        "app.operators.erasure",
        "app.sources.zoom",
    }


@each("name", [name for section in COMMANDS.values() for name in section])
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert 0 == result.exit_code
    assert f"    doorbell {name}" in result.output


def test_version_prints_the_version_of_the_package() -> None:
    result = CliRunner().invoke(main, ["--version"], prog_name="doorbell")

    assert (0, f"doorbell {__version__}\n") == (result.exit_code, result.stdout)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


@each("name", ["export", "hooks", "secrets", "specimen"])
def test_the_help_of_subcommands_is_not_cut(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert "\nCommands:\n" in result.output
    assert "..." not in result.output.partition("\nCommands:\n")[2]
