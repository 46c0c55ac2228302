"""docs/glossary.md has every word that code, logs, console and command line show for a state or a reason."""

import ast
import re
from pathlib import Path

from app.ledger.reasons import REASONS

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs/glossary.md").read_text("utf-8")


def words(heading: str) -> set[str]:
    """The words in the first column of the table under a heading."""
    section = GLOSSARY.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([a-z_]+)`", cell)}


def literals(package: str, call: str) -> set[str]:
    """The words that are given to every call of that name in a package."""
    calls = [
        node
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == call
    ]
    values = [value for node in calls for value in (*node.args, *(keyword.value for keyword in node.keywords))]
    strings = {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}
    return {word for word in strings if re.fullmatch(r"[a-z_]+", word)}


def test_every_reason_of_a_task_is_in_the_glossary_with_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", GLOSSARY.partition("## Reasons of a task")[2], re.MULTILINE))

    assert {name: rows[name] for name in words("Reasons of a task")} == REASONS


def test_every_reason_of_a_rejection_is_in_the_glossary() -> None:
    used = literals("app/webhooks/signatures", "SignatureError") | literals("app/intake", "HttpRejection")

    assert used <= words("Reasons of a rejection")
