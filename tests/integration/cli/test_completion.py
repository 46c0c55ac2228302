"""What the shell completes, and answers to misspelt names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import rows
from tests.support.harness import Harness
from tests.support.processes import ROOT


def completed(harness: Harness, *words: str) -> list[str]:
    env = {"_DOORBELL_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(["doorbell", *words])}
    result = harness.doorbell(**env, COMP_CWORD=str(len(words)))
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_names_are_completed(harness: Harness) -> None:
    assert ["deliveries", "demo", "discard", "disconnect", "doctor", "drift"] == sorted(completed(harness, "d"))
    assert ["calcom", "calendly"] == completed(harness, "ring", "cal")
    assert ["calendly"] == completed(harness, "failures", "--hook", "cal")
    assert ["an\\ invitee\\ books\\ and\\ pays"] == completed(harness, "ring", "calendly", "an\\ invitee\\ b")
    for shell in ("bash", "zsh", "fish"):
        assert "_DOORBELL_COMPLETE" in harness.doorbell(_DOORBELL_COMPLETE=f"{shell}_source").stdout


def test_ids_and_reasons_are_completed_from_redis(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "A-1", "--json")]

    assert delivery in completed(busy, "show", "")
    assert {"standard-A-1", "standard-A-2"} == set(completed(busy, "visit", "standard-A-"))
    assert ["standard-A-2"] == completed(busy, "replay", "")
    assert ["contact_unknown"] == completed(busy, "failures", "--reason", "")
    assert [] == completed(busy, "cancel", "")
    assert "started\\ discard" in completed(busy, "activity", "--action", "")
    busy.doorbell("discard", "standard-A-2", "--yes")
    [operation] = rows(busy, "operations", "--json")
    assert [operation["operation"]] == completed(busy, "operations", "")
    assert [] == completed(busy, "cancel", "")


def test_nothing_is_completed_without_redis(harness: Harness) -> None:
    harness.env["REDIS_URL"] = "redis://127.0.0.1:1/0"

    assert [] == completed(harness, "show", "")
    assert "time_unknown" in completed(harness, "failures", "--reason", "ti")


def test_bash_inserts_a_name_with_blanks_as_one_word(harness: Harness, tmp_path: Path) -> None:
    program = tmp_path / "doorbell"
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from app.cli import main; main(prog_name=\"doorbell\")' \"$@\"\n"
    )
    program.chmod(0o755)
    script = r"""
    eval "$(_DOORBELL_COMPLETE=bash_source doorbell)"
    COMP_WORDS=(doorbell ring calendly 'an\ inv') COMP_CWORD=3
    _doorbell_completion doorbell
    printf '%s\n' "${COMPREPLY[@]}"
    """
    env = harness.env | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)

    assert [r"an\ invitee\ books\ and\ pays"] == result.stdout.splitlines(), result.stderr


@pytest.mark.parametrize(
    ("command", "question"),
    [
        (["failurs"], "there is no command failurs; did you mean failures?"),
        (["retry"], "there is no command retry; did you mean replay?"),
        (["failures", "--source", "calendy"], "there is no source calendy; did you mean calendly?"),
        (["sources", "calendy"], "there is no source calendy; did you mean calendly?"),
        (["pause", "calendy"], "there is no hook calendy; did you mean calendly?"),
        (["verify", "calendy"], "there is no hook calendy, or it has no secret; did you mean calendly?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_most_similar_one(
    harness: Harness, command: list[str], question: str
) -> None:
    result = harness.doorbell(*command)

    assert result.returncode in (2, 5)
    assert question in result.stderr
