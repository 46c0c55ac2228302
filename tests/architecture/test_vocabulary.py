"""Names and texts use the terms of docs/glossary.md. The words here were used before, or hide what they stand for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Participles and pronouns: none says which value it is. A noun does, such as `delivery`, `message` or `reply`.
EMPTY_NAMES = {
    "anew",
    "ask",
    "asked",
    "asks",
    "family",
    "found",
    "gone",
    "got",
    "heard",
    "hears",
    "kept",
    "kin",
    "left",
    "lies",
    "look",
    "meant",
    "mean",
    "mended",
    "rang",
    "rest",
    "said",
    "say",
    "says",
    "seen",
    "stands",
    "still",
    "stood",
    "story",
    "taken",
    "tell",
    "tells",
    "told",
    "what",
    "which",
    "whoever",
}
#: Old terms, by the term that replaced them.
REPLACED_TERMS = {
    "audit-log": "activity log",
    "anew": "again",
    "entrance": "hook",
    "errand": "job",
    "ledger.lua": "scripts/*.lua",
    "mended": "fixed",
    "rang": "request",
    "sealed": "encrypted",
    "tally": "counters",
    "whoever": "anyone who",
}
PYTHON = [path for root in ("app", "jobs", "tests") for path in sorted((ROOT / root).rglob("*.py"))]
TEXTS = [
    *PYTHON,
    *(path for root in ("app", "deploy", "docs") for path in sorted((ROOT / root).rglob("*"))),
    *ROOT.glob("*.md"),
]


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of everything that the code defines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Store()) | ast.Attribute(_, name, ast.Store()):
                yield node.lineno, name
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name) | ast.arg(name):
                yield node.lineno, name


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_a_participle_or_a_pronoun(path: Path) -> None:
    tree = ast.parse(path.read_text())

    assert [] == [f"{line}: {name}" for line, name in names(tree) if name.strip("_").lower() in EMPTY_NAMES]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_uses_a_replaced_term(path: Path) -> None:
    if path.suffix not in {".py", ".lua", ".md", ".html", ".js", ".css", ".yaml", ".json"} or path == Path(__file__):
        return
    old = re.compile(rf"\b({'|'.join(map(re.escape, REPLACED_TERMS))})\b", re.IGNORECASE)

    lines = enumerate(path.read_text().splitlines(), 1)
    assert [] == [f"{number}: {line.strip()}" for number, line in lines if old.search(line)]
