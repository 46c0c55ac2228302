"""Names and texts use the terms of docs/glossary.md. The words here were used before, or hide what they stand for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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
SUFFIXES = {".py", ".lua", ".md", ".html", ".js", ".css", ".yaml", ".json"}
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


def test_no_name_is_a_participle_or_a_pronoun() -> None:
    empty_names = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in PYTHON
        for line, name in names(ast.parse(path.read_text()))
        if name.strip("_").lower() in EMPTY_NAMES
    ]

    assert [] == empty_names


def test_no_text_uses_a_replaced_term() -> None:
    old = re.compile(rf"\b({'|'.join(map(re.escape, REPLACED_TERMS))})\b", re.IGNORECASE)
    uses = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        if path.suffix in SUFFIXES and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if old.search(line)
    ]

    assert [] == uses
