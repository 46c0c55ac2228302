"""docs/glossary.md has every word for a state or a reason that code, logs, console and command line show."""

import ast
import re
from pathlib import Path
from typing import get_args

from app.intake.endpoint import UNAVAILABLE_ANSWERS
from app.ledger.connection_states import HEALTH
from app.ledger.reasons import REASONS
from app.ledger.records import TaskState
from app.operators.filter import STATE_TITLES
from jobs.runs import RULES

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs/glossary.md").read_text("utf-8")


def section(heading: str) -> str:
    return GLOSSARY.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def words(heading: str) -> set[str]:
    """Return the words in the first column of the table under a heading."""
    cells = [row.split(" | ")[0] for row in section(heading).splitlines() if row.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([a-z_]+)`", cell)}


def literals(package: str, call: str) -> set[str]:
    """Return the words that are arguments of the calls of a function in a package."""
    calls = [
        node
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == call
    ]
    values = [value for node in calls for value in node.args]
    strings = {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}
    return {word for word in strings if re.fullmatch(r"[a-z_]+", word)}


def test_every_state_of_a_task_is_in_the_glossary() -> None:
    assert words("States of a task") == set(get_args(TaskState))


def test_every_state_of_a_connection_is_in_the_glossary() -> None:
    assert words("States of a connection") == set(HEALTH)


def test_the_console_shows_the_states_in_the_words_of_the_glossary() -> None:
    rows = section("States of a task") + section("States of a delivery")

    assert STATE_TITLES == dict(re.findall(r"^\| `([a-z]+)` \| .* \| ([A-Z][a-z ]+) \|$", rows, re.MULTILINE))


def test_every_reason_of_a_task_is_in_the_glossary_with_its_meaning_and_title() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*) \| (.*) \|$", section("Reasons of a task"), re.MULTILINE)

    assert rows == [(name, reason.meaning, reason.title) for name, reason in REASONS.items()]


def test_every_reason_of_a_run_is_in_the_table() -> None:
    used = {rule.reason.partition(":")[0] for rule in RULES.values()} - {"{}"} | literals("jobs", "NeedsOperator")

    assert {"lock_contention", "token_missing", "hook_not_configured"} <= used
    assert used <= set(REASONS)


def test_every_reason_of_a_rejection_is_in_the_glossary() -> None:
    signatures = {f"signature_{reason}" for reason in literals("app/webhooks/signatures", "SignatureError")}
    used = signatures | literals("app/intake", "HttpRejection")
    used |= literals("app/intake", "_unavailable") | {code for code, _ in UNAVAILABLE_ANSWERS.values()}

    assert used <= words("Reasons of a rejection")
