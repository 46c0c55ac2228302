"""Output on terminals and in pipes: widths, colours, and text of senders."""

import json
import re
import subprocess
import sys

import pytest

from app.cli.output import printable, to_json
from tests.support.command_line import ADA, TIME, rows, run_in_terminal
from tests.support.harness import Harness, wait_until
from tests.support.processes import ROOT


def in_terminal(harness: Harness, width: int, *command: str, **env: str) -> str:
    """Run a command in a terminal of this width. Return what it prints."""
    return run_in_terminal(command, {**harness.env, "TERM": "xterm", "COLUMNS": "", **env}, width)[0]


def test_a_terminal_of_80_columns_gets_lines_that_fit_with_symbols(busy: Harness) -> None:
    busy.post(b"{}", {})
    delivery = rows(busy, "failures", "--json")[0]["delivery"]
    commands = [
        ["deliveries"],
        ["failures"],
        ["sources"],
        ["overview"],
        ["doctor"],
        ["visit", "standard-A-2"],
        ["show", delivery],
    ]

    printed = {command[0]: in_terminal(busy, 80, *command, NO_COLOR="1") for command in commands}

    assert {} == {
        name: long for name, text in printed.items() if (long := [line for line in text.splitlines() if len(line) > 80])
    }
    assert "\x1b" not in "".join(printed.values())
    assert f"✘ {delivery}  Needs attention\n  at: " in printed["deliveries"]
    assert "\n✔ redis " in printed["doctor"]
    assert printed["sources"].startswith("SOURCE ")
    assert re.search(r"\nstandard +standard +.* ago  +[0-9]+ +[0-9]+ +–\n", printed["overview"])
    assert "standard-A-2\n  problem: No e-mail address · reason: contact_unknown\n" in printed["failures"]


def test_states_have_colours_on_a_terminal_only(busy: Harness) -> None:
    assert "\x1b[31m✘\x1b[0m Needs attention" in in_terminal(busy, 160, "deliveries")
    assert "\x1b" not in in_terminal(busy, 160, "deliveries", TERM="dumb")
    assert "✘" not in busy.doorbell("deliveries").stdout


def test_a_closed_pipe_causes_no_error(busy: Harness) -> None:
    for number in range(30):
        busy.send("visit.created", f"C-{number}", contact=ADA, time_scheduled=TIME)
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m app deliveries --json | head -n 1 >/dev/null"],
        cwd=ROOT,
        env=busy.env,
        capture_output=True,
        text=True,
    )

    assert (0, "") == (result.returncode, result.stderr)


#: Control characters that set the title, ring the bell, clear the screen and change the text direction.
CONTROL_CHARACTERS = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\u200f\x9b31m\x7f\U000e0001"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("overview >&-", 0, ""),
        ("deliveries --json >&- 2>&-", 0, ""),
        ("deliveries >/dev/full", 4, "the output cannot be written: No space left on device\n"),
        ("export deliveries >/dev/full", 4, "the output cannot be written: No space left on device\n"),
        ("show $'\\xff'", 2, "an argument is not text in UTF-8\n"),
        ("replay --dry-run $'\\xff'", 2, "an argument is not text in UTF-8\n"),
        ("deliveries --search $'\\xff'", 2, "an argument is not text in UTF-8\n"),
    ],
)
def test_a_shell_can_close_streams_and_pass_any_byte(busy: Harness, arguments: str, status: int, message: str) -> None:
    result = in_shell(busy, arguments)

    assert (status, message) == (result.returncode, result.stderr.decode())


def test_a_terminal_without_utf_8_gets_other_characters(busy: Harness) -> None:
    overview, visit = (in_shell(busy, each, PYTHONIOENCODING="latin-1") for each in ("overview", "show standard-A-2"))

    assert [(0, b""), (0, b"")] == [(result.returncode, result.stderr) for result in (overview, visit)]
    assert visit.stdout.startswith(b"? standard-A-2")


def in_shell(harness: Harness, arguments: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a command as bash does, not in a process of the tests, which has its own streams."""
    command = ["bash", "-c", f"'{sys.executable}' -m app {arguments}"]
    return subprocess.run(command, cwd=ROOT, env={**harness.env, **env}, capture_output=True, timeout=60)


@pytest.mark.parametrize("command", [["deliveries"], ["failures"], ["show"], ["visit"], ["overview"]], ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_text_of_a_sender_does_not_control_the_terminal(service: Harness, command: list[str], form: list[str]) -> None:
    response = service.send(
        f"visit.created{CONTROL_CHARACTERS}",
        f"A{CONTROL_CHARACTERS}",
        contact={"email": "ada@example.com", "last_name": CONTROL_CHARACTERS},
    )
    service.send(
        "visit.created",
        f"B{CONTROL_CHARACTERS}",
        contact={"first_name": CONTROL_CHARACTERS},
        time_scheduled="2026-03-15T16:00:00Z",
    )
    wait_until(lambda: rows(service, "failures", "--json"))
    [failure] = rows(service, "failures", "--json")
    subject = {
        "show": [response.json()["delivery"], "--show-personal-data"],
        "visit": [failure["id"], "--show-personal-data"],
    }

    result = service.doorbell(*command, *subject.get(command[0], []), *form)

    assert result.stdout
    assert [] == [char for char in result.stdout + result.stderr if not char.isprintable() and char != "\n"]


def test_json_escapes_unprintable_characters_and_tables_replace_them() -> None:
    assert {"a": CONTROL_CHARACTERS, "é": "日本"} == json.loads(to_json({"a": CONTROL_CHARACTERS, "é": "日本"}))
    assert "é 日本" in to_json("é 日本")
    assert "a\N{REPLACEMENT CHARACTER}b c é" == printable("a\u202eb\tc\xa0é")


def test_a_pipe_gets_sentences_of_100_columns(busy: Harness) -> None:
    printed = busy.doorbell("sources", "calendly").stdout

    assert [] == [line for line in printed.splitlines() if len(line) > 100 and not line.startswith("     ")]


def test_a_pipe_gets_a_line_for_each_check_with_its_result_as_a_word(busy: Harness) -> None:
    printed = busy.doorbell("doctor").stdout

    assert "\nok   redis " in printed
