"""Who may import whom: nearly everything that can be subtly wrong does no I/O, and a source is known by its name only.

The pictures below are exact for what is pure: whoever adds an arrow there changes the picture too, and has a reason. The
packages of app lie on levels (LEVELS): a package imports only from levels below its own.
"""

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What of ours each pure module may import.
PURE = {
    "app.visits.change": set(),
    "app.visits.merge": {"app.visits.change"},
    "app.webhooks.payload": set(),
    "app.webhooks.delivery": {"app.webhooks.payload"},
    "app.webhooks.handshakes": {"app.webhooks.delivery"},
    "app.webhooks.signatures.scheme": {"app.webhooks.delivery"},
    "app.webhooks.signatures.hmac": {"app.webhooks.delivery", "app.webhooks.signatures.scheme"},
    "app.webhooks.signatures.token": {"app.webhooks.delivery", "app.webhooks.signatures.scheme"},
    "app.webhooks.signatures.public_key": {"app.webhooks.delivery", "app.webhooks.signatures.scheme"},
    "app.webhooks.signatures.jwt": {
        "app.webhooks.delivery",
        "app.webhooks.signatures.public_key",
        "app.webhooks.signatures.scheme",
    },
    "app.webhooks.signatures.combined": {
        "app.webhooks.delivery",
        "app.webhooks.payload",
        "app.webhooks.signatures.hmac",
        "app.webhooks.signatures.scheme",
    },
    "app.webhooks.fetching": {"app.webhooks.payload"},
    "app.webhooks.source": {
        "app.visits.change",
        "app.webhooks.delivery",
        "app.webhooks.fetching",
        "app.webhooks.handshakes",
        "app.webhooks.payload",
        "app.webhooks.signatures.combined",
        "app.webhooks.signatures.scheme",
    },
    "app.webhooks.registry": {"app.visits.change", "app.webhooks.delivery", "app.webhooks.source"},
    "app.webhooks.translation": {
        "app.visits.change",
        "app.webhooks.delivery",
        "app.webhooks.payload",
        "app.webhooks.source",
    },
    "app.ledger.jobs_contract": set(),
    "jobs.retry": {"app.ledger.reasons", "app.ledger.records", "app.visits.client"},  # words only, see below
}
A_SOURCE = {
    "app.visits.change", "app.webhooks.delivery", "app.webhooks.fetching", "app.webhooks.handshakes", "app.webhooks.payload",
    "app.webhooks.signatures.combined", "app.webhooks.signatures.hmac", "app.webhooks.signatures.jwt",
    "app.webhooks.signatures.public_key", "app.webhooks.signatures.scheme", "app.webhooks.signatures.token",
    "app.webhooks.source",
}  # fmt: skip

#: Libraries that compute and do nothing else: no clock that is read, no chance, no file, no socket, no task.
COMPUTING = {
    "abc", "base64", "binascii", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "hmac", "itertools", "itsdangerous", "json", "jwt.api_jws", "jwt.exceptions",
    "math", "operator", "orjson", "re", "string", "types", "typing",
    "unicodedata", "urllib.parse", "zlib", "zoneinfo",
}  # fmt: skip
#: The one that finds the others, once, at start.
FINDING = {"importlib", "importlib.resources", "pkgutil"}
#: The clock and everything beyond the process, as calls.
IMPURE_CALLS = {
    "open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "globals", "setattr", "delattr",
}  # fmt: skip
IMPURE_METHODS = {"now", "utcnow", "today", "read_text", "read_bytes", "write_text", "import_module", "getenv"}


@dataclass(frozen=True)
class Module:
    """One of ours, as it is written."""

    name: str
    tree: ast.Module
    is_package: bool

    @cached_property
    def imports(self) -> set[tuple[str, str]]:
        """Every import wherever it stands: the module, and the name that is taken from it ("" for all of it)."""
        return set(self._imports())

    def _imports(self) -> Iterator[tuple[str, str]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    inside = f"{base}.{alias.name}"
                    yield (inside, "") if inside in NAMES else (base, alias.name)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")[: len(self.name.split(".")) - node.level + self.is_package]
        return ".".join([*package, *filter(None, [node.module])])

    def ours(self) -> set[str]:
        return {name for name, _ in self.imports if name.split(".")[0] in ("app", "jobs", "tests")}

    def libraries(self) -> set[str]:
        return {name for name, _ in self.imports if not name.startswith("cryptography.")} - self.ours()

    def calls(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                yield f"{node.func.id}, line {node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
                yield f".{node.func.attr}, line {node.lineno}"

    def texts(self) -> set[str]:
        return {str(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Constant)}


def _files() -> dict[str, Path]:
    found = {}
    for path in sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("jobs/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = _files()
NAMES = set(FILES)
MODULES = {
    name: Module(name, ast.parse(path.read_text("utf-8")), path.name == "__init__.py") for name, path in FILES.items()
}
SOURCES = {name for name in NAMES if name.startswith("app.sources.")}
ARROWS = {**PURE, **dict.fromkeys(sorted(SOURCES), A_SOURCE)}


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) >= 7
    assert NAMES >= PURE.keys()
    assert ("app.webhooks.delivery", "Delivery") in MODULES["app.webhooks.signatures.hmac"].imports
    assert "app.webhooks.payload" in MODULES["app.sources.standard"].ours()


#: The packages of app and jobs, from below: each imports only from packages on lower levels.
LEVELS = [
    {"app.visits", "app.sandbox"},
    {"app.webhooks"},
    {"app.sources", "app.settings", "app.ledger"},
    {"app.telemetry"},
    {"app.operators", "app.intake"},
    {"app.console", "jobs"},
    {"app.main", "app.demo"},
    {"app.cli"},
    {"app.__main__"},
]


def test_no_package_imports_from_its_own_level_or_from_above() -> None:
    level = {package: number for number, packages in enumerate(LEVELS) for package in packages}
    wrong = {
        (name, other)
        for name, module in MODULES.items()
        for other in module.ours()
        if (mine := _package(name)) != (theirs := _package(other)) and "app" not in (mine, theirs)
        if level[theirs] >= level[mine]
    }

    assert set() == wrong


def _package(module: str) -> str:
    """`app` has the version only, and everybody may read it."""
    parts = module.split(".")
    return parts[0] if parts[0] == "jobs" else ".".join(parts[:2])


def test_replaying_needs_no_http_endpoint() -> None:
    faces = {"app.intake", "app.console", "app.cli"}

    assert set() == {name for name in NAMES if name.startswith("app.operators") and _packages(name) & faces}


def _packages(name: str) -> set[str]:
    return {_package(other) for other in MODULES[name].ours()}


def test_the_web_side_never_imports_the_jobs() -> None:
    wrong = {name: found for name in NAMES if name.startswith("app") and (found := _of(name, "jobs"))}

    assert {} == wrong


def _of(name: str, package: str) -> set[str]:
    return {other for other in MODULES[name].ours() if other.split(".")[0] == package}


def test_nothing_that_runs_imports_the_tests() -> None:
    assert {} == {name: found for name in NAMES if (found := _of(name, "tests"))}


def test_no_import_goes_in_a_circle_wherever_in_a_module_it_stands() -> None:
    graph = {name: {other for other in module.ours() if other != name} for name, module in MODULES.items()}

    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle

    assert order.index("app.visits.change") < order.index("app.ledger.ledger") < order.index("jobs.worker")


# -- what is pure --


def test_a_pure_module_imports_of_ours_only_what_the_picture_shows() -> None:
    assert {} == {name: more for name, arrows in ARROWS.items() if (more := MODULES[name].ours() - arrows)}


def test_a_pure_module_uses_only_libraries_that_compute() -> None:
    allowed = {name: COMPUTING | (FINDING if name == "app.webhooks.registry" else set()) for name in ARROWS}

    assert {} == {name: more for name in ARROWS if (more := MODULES[name].libraries() - allowed[name])}


def test_a_pure_module_asks_neither_clock_nor_chance_nor_file() -> None:
    assert {} == {
        name: calls for name in ARROWS if name != "app.webhooks.registry" and (calls := list(MODULES[name].calls()))
    }


def test_the_one_that_finds_sources_imports_and_reads_nothing_but_sources() -> None:
    """Each of these reads at start, from the folder that it is in: `load` a module, `specimens` a file beside it."""
    called = sorted(call.partition(",")[0] for call in MODULES["app.webhooks.registry"].calls())

    assert [".import_module", ".import_module", ".read_text"] == called


def test_of_what_does_io_retry_takes_words_only() -> None:
    """Trouble and verdict are values; that they stand beside what raises them is a matter of place."""
    taken = {
        other: {name for found, name in MODULES["jobs.retry"].imports if found == other} for other in PURE["jobs.retry"]
    }

    client = importlib.import_module("app.visits.client")
    assert {"CircuitSignal"} >= taken["app.ledger.records"]
    assert "" not in taken["app.visits.client"]
    assert [] == [name for name in taken["app.visits.client"] if not issubclass(getattr(client, name), Exception)]


def test_to_load_every_source_brings_in_no_network_no_redis_and_no_tasks() -> None:
    """PyJWT itself imports a client for sets of keys, and with it http and ssl: that is subtracted, and we do not use it."""
    look = """
import sys
import jwt
of_pyjwt = set(sys.modules)
import app.visits.merge
from app.webhooks.registry import load_sources
load_sources()
beyond = "asyncio socket ssl select http httpx httpcore aiohttp redis hiredis arq uvicorn starlette subprocess sqlite3"
ours = "app.settings.model app.settings.environment app.ledger.redis app.ledger.ledger app.visits.client"
print(*sorted({*ours.split(), *beyond.split()} & (set(sys.modules) - of_pyjwt)))
"""

    ran = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == ran.stdout.strip()


# -- sources are found, not named --


def test_nothing_imports_a_source_by_its_name() -> None:
    imported = {
        name: found for name, module in MODULES.items() if (found := {one for one, _ in module.imports} & SOURCES)
    }
    written = {name: found for name, module in MODULES.items() if (found := module.texts() & SOURCES)}

    assert {} == imported
    assert {} == written


#: The demo uses some sources by name.
DEMO = {"app.demo.story", "app.demo.system"}


def test_nothing_outside_a_tools_two_files_knows_its_name() -> None:
    tools = {source.rpartition(".")[2] for source in SOURCES}
    knowing = {
        name: found
        for name, module in MODULES.items()
        if name not in DEMO and (found := module.texts() & (tools - {name.rpartition(".")[2]}))
    }

    assert {} == knowing


def test_only_where_sources_and_commands_are_found_is_imported_by_a_text() -> None:
    importing = {
        name for name in NAMES if any("import_module" in call or "__import__" in call for call in MODULES[name].calls())
    }

    assert {"app.cli", "app.webhooks.registry"} == importing


# -- the Visits API --


def test_what_is_about_the_visits_api_knows_nothing_of_us() -> None:
    ours = {name: MODULES[name].ours() for name in NAMES if name.startswith("app.visits")}

    assert {} == {name: found for name, found in ours.items() if not all(one.startswith("app.visits") for one in found)}


def test_the_sandbox_shares_no_code_with_what_is_tested_against_it() -> None:
    inside = {name for name in NAMES if name.startswith("app.sandbox")}
    users = {name for name in NAMES - inside if MODULES[name].ours() & inside}

    assert set() == {one for name in inside for one in MODULES[name].ours()} - inside
    assert users <= {"app.cli.run"}


# -- the test of this test --


@pytest.mark.parametrize(
    ("expected", "source"),
    [
        ({("app.sources.standard", "")}, "import app.sources.standard"),
        ({("app.sources.standard", "SOURCE")}, "from app.sources.standard import SOURCE"),
        ({("app.sources.standard", "")}, "from app.sources import standard"),
        ({("app.sources", "load")}, "def f():\n    from app.sources import load"),
        ({("app.sources.standard", "")}, "if False:\n    from . import standard as s"),
        ({("app.sources.standard", "translate")}, "from .standard import translate"),
        ({("app.main", "create_app")}, "from ..main import create_app"),
        ({("jobs.retry", "decide")}, "try:\n    from jobs.retry import decide\nexcept ImportError: pass"),
    ],
)
def test_an_import_is_seen_in_every_spelling(expected: set[tuple[str, str]], source: str) -> None:
    module = Module("app.sources.other", ast.parse(source), is_package=False)

    assert expected == module.imports
