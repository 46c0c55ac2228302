"""The rules for imports: packages have levels (LEVELS), pure modules do no I/O (PURE), and no code names a source."""

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

#: The modules of app and jobs that each pure module may import.
PURE = {
    "app.visits.change": set(),
    "app.visits.merge": {"app.visits.change"},
    "app.webhooks.payload": set(),
    "app.webhooks.delivery": {"app.webhooks.payload"},
    "app.webhooks.handshakes": {"app.webhooks.delivery"},
    "app.webhooks.signatures.scheme": {"app.webhooks.delivery"},
    "app.webhooks.signatures.hmac": {"app.webhooks.delivery", "app.webhooks.signatures.scheme"},
    "app.webhooks.signatures.token": {"app.webhooks.delivery", "app.webhooks.signatures.scheme"},
    "app.webhooks.signatures.asymmetric": set(),
    "app.webhooks.signatures.public_key": {
        "app.webhooks.delivery",
        "app.webhooks.signatures.asymmetric",
        "app.webhooks.signatures.scheme",
    },
    "app.webhooks.signatures.json_web_tokens": {
        "app.webhooks.signatures.asymmetric",
        "app.webhooks.signatures.scheme",
    },
    "app.webhooks.signatures.jwt": {
        "app.webhooks.delivery",
        "app.webhooks.signatures.asymmetric",
        "app.webhooks.signatures.json_web_tokens",
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
        "app.webhooks.evidence",
        "app.webhooks.fetching",
        "app.webhooks.handshakes",
        "app.webhooks.payload",
        "app.webhooks.signatures.combined",
        "app.webhooks.signatures.scheme",
        "app.webhooks.subscription",
    },
    "app.webhooks.evidence": set(),
    "app.webhooks.subscription": {"app.webhooks.evidence", "app.webhooks.fetching", "app.webhooks.payload"},
    "app.webhooks.registry": {"app.visits.change", "app.webhooks.delivery", "app.webhooks.source"},
    "app.webhooks.translation": {
        "app.visits.change",
        "app.webhooks.delivery",
        "app.webhooks.payload",
        "app.webhooks.source",
    },
    "jobs.retry": {
        "app.ledger.reasons",
        "app.ledger.records",
        "app.visits.client",
    },  # exceptions and values only, see below
}
SOURCE_IMPORTS = {"app.visits.change", "app.webhooks"}

#: Libraries that only compute: they read no clock, no random source, no file and no socket, and start no task.
PURE_LIBRARIES = {
    "abc", "base64", "binascii", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "hmac", "itertools", "itsdangerous", "json", "jwt.api_jws", "jwt.exceptions",
    "math", "operator", "orjson", "re", "string", "types", "typing",
    "unicodedata", "urllib.parse", "zlib", "zoneinfo",
}  # fmt: skip
#: The registry imports the sources once, at start.
REGISTRY_LIBRARIES = {"importlib", "pathlib", "pkgutil"}
#: Calls that reach beyond the process, or read the clock.
IMPURE_CALLS = {
    "open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "globals", "setattr", "delattr",
}  # fmt: skip
IMPURE_METHODS = {"now", "utcnow", "today", "read_text", "read_bytes", "write_text", "import_module", "getenv"}


@dataclass(frozen=True)
class Module:
    """A module of app or jobs, parsed when a test needs it."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text("utf-8"))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> set[tuple[str, str]]:
        """All imports, also those in functions: the module, and the imported name ("" for the module itself)."""
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
    paths = {}
    for path in sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("jobs/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


FILES = _files()
NAMES = set(FILES)
MODULES = {name: Module(name, path) for name, path in FILES.items()}
SOURCES = {name for name in NAMES if name.startswith("app.sources.")}
ARROWS = {**PURE, **dict.fromkeys(sorted(SOURCES), SOURCE_IMPORTS)}


def test_modules_are_found_and_parsed() -> None:
    assert len(SOURCES) >= 7
    assert NAMES >= PURE.keys()
    assert ("app.webhooks.delivery", "Delivery") in MODULES["app.webhooks.signatures.hmac"].imports
    assert "app.webhooks" in MODULES["app.sources.standard"].ours()


#: The packages of app and jobs, lowest level first. A package imports only from lower levels.
LEVELS = [
    {"app.visits", "app.sandbox", "app.vendors"},
    {"app.webhooks"},
    {"app.sources", "app.settings", "app.ledger"},
    {"app.telemetry"},
    {"app.operators", "app.intake"},
    {"app.connections"},
    {"app.console", "jobs"},
    {"app.web", "app.demo"},
    {"app.main", "app.cli"},
    {"app.__main__"},
]


def test_no_package_imports_from_its_own_level_or_from_above() -> None:
    level = {package: number for number, packages in enumerate(LEVELS) for package in packages}
    wrong = {
        (name, imported)
        for name, module in MODULES.items()
        for imported in module.ours()
        if (source := _package(name)) != (target := _package(imported)) and "app" not in (source, target)
        if level[target] >= level[source]
    }

    assert set() == wrong


def _package(module: str) -> str:
    """Return the package of a module. `app` itself contains only the version, which every package may import."""
    parts = module.split(".")
    return parts[0] if parts[0] == "jobs" else ".".join(parts[:2])


def test_operators_import_neither_intake_nor_console_nor_cli() -> None:
    interfaces = {"app.intake", "app.console", "app.cli"}

    assert set() == {name for name in NAMES if name.startswith("app.operators") and _packages(name) & interfaces}


def _packages(name: str) -> set[str]:
    return {_package(imported) for imported in MODULES[name].ours()}


def test_app_never_imports_jobs() -> None:
    wrong = {name: imports for name in NAMES if name.startswith("app") and (imports := _imports_of(name, "jobs"))}

    assert {} == wrong


def _imports_of(name: str, package: str) -> set[str]:
    return {imported for imported in MODULES[name].ours() if imported.split(".")[0] == package}


def test_app_and_jobs_never_import_tests() -> None:
    assert {} == {name: imports for name in NAMES if (imports := _imports_of(name, "tests"))}


def test_imports_have_no_cycle() -> None:
    graph = {name: module.ours() - {name} for name, module in MODULES.items()}

    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the cycle

    assert order.index("app.visits.change") < order.index("app.ledger.ledger") < order.index("jobs.worker")


# -- pure modules --


def test_pure_modules_import_only_what_is_listed() -> None:
    assert {} == {name: more for name, arrows in ARROWS.items() if (more := MODULES[name].ours() - arrows)}


def test_pure_modules_use_only_pure_libraries() -> None:
    allowed = {
        name: PURE_LIBRARIES | (REGISTRY_LIBRARIES if name == "app.webhooks.registry" else set()) for name in ARROWS
    }

    assert {} == {name: more for name in ARROWS if (more := MODULES[name].libraries() - allowed[name])}


def test_pure_modules_read_neither_clock_nor_file() -> None:
    assert {} == {
        name: calls for name in ARROWS if name != "app.webhooks.registry" and (calls := list(MODULES[name].calls()))
    }


def test_the_registry_imports_and_reads_only_sources() -> None:
    called = sorted(call.partition(",")[0] for call in MODULES["app.webhooks.registry"].calls())

    assert [".import_module", ".import_module", ".read_text"] == called


def test_retry_imports_only_exceptions_and_values_from_modules_with_io() -> None:
    names = {
        allowed: {name for module, name in MODULES["jobs.retry"].imports if module == allowed}
        for allowed in PURE["jobs.retry"]
    }

    client = importlib.import_module("app.visits.client")
    assert {"CircuitSignal"} >= names["app.ledger.records"]
    assert "" not in names["app.visits.client"]
    assert [] == [name for name in names["app.visits.client"] if not issubclass(getattr(client, name), Exception)]


def test_loading_every_source_imports_no_network_no_redis_and_no_asyncio() -> None:
    """The modules that PyJWT imports do not count: its client of key sets needs http and ssl, and is not used."""
    program = """
import sys
import jwt
pyjwt_modules = set(sys.modules)
import app.visits.merge
from app.webhooks.registry import load_sources
load_sources().load(load_sources())
impure = "asyncio socket ssl select http httpx httpcore aiohttp redis hiredis arq uvicorn starlette subprocess sqlite3"
ours = "app.settings.model app.settings.environment app.ledger.redis app.ledger.ledger app.visits.client"
print(*sorted({*ours.split(), *impure.split()} & (set(sys.modules) - pyjwt_modules)))
"""

    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == result.stdout.strip()


def test_web_imports_no_page_of_the_console_and_no_library_and_source_that_it_may_not_need() -> None:
    program = """
import sys
import app.main
app.main.app
late = "app.console.pages_app app.console.routes app.telemetry.metrics app.telemetry.alerts jinja2 httpx prometheus_client"
late += " jwt cryptography itsdangerous argon2 app.sources.calendly"
print(*sorted({*late.split()} & set(sys.modules)))
"""
    env = {"REDIS_URL": "redis://127.0.0.1:1", "HOOKS__STANDARD__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )

    assert "" == result.stdout.strip()


# -- sources are discovered, not named --


def test_no_module_names_the_module_of_a_source() -> None:
    imported = {
        name: sources
        for name, module in MODULES.items()
        if (sources := {imported for imported, _ in module.imports} & SOURCES)
    }
    written = {name: sources for name, module in MODULES.items() if (sources := module.texts() & SOURCES)}

    assert {} == imported
    assert {} == written


#: The demo uses some sources by name.
DEMO = {"app.demo.steps", "app.demo.system", "app.demo.tools"}


def test_no_module_outside_a_source_contains_its_name() -> None:
    tools = {source.rpartition(".")[2] for source in SOURCES}
    containing = {
        name: sources
        for name, module in MODULES.items()
        if name not in DEMO and (sources := module.texts() & (tools - {name.rpartition(".")[2]}))
    }

    assert {} == containing


def test_only_the_registry_and_the_cli_import_by_name() -> None:
    importing = {
        name for name in NAMES if any("import_module" in call or "__import__" in call for call in MODULES[name].calls())
    }

    assert {"app.cli", "app.vendors.api", "app.webhooks.registry"} == importing


# -- the Visits API --


def test_the_visits_package_imports_no_other_package() -> None:
    ours = {name: MODULES[name].ours() for name in NAMES if name.startswith("app.visits")}

    assert set() == {
        imported for imports in ours.values() for imported in imports if not imported.startswith("app.visits")
    }


def test_the_sandbox_shares_no_code_with_the_rest() -> None:
    inside = {name for name in NAMES if name.startswith("app.sandbox")}
    users = {name for name in NAMES - inside if MODULES[name].ours() & inside}

    assert set() == {imported for name in inside for imported in MODULES[name].ours()} - inside
    assert users <= {"app.cli.run"}


# -- the parser --


@pytest.mark.parametrize(
    ("expected", "source"),
    [
        ({("app.sources.standard", "")}, "import app.sources.standard"),
        ({("app.sources.standard", "SOURCE")}, "from app.sources.standard import SOURCE"),
        ({("app.sources.standard", "")}, "from app.sources import standard"),
        ({("app.sources", "load")}, "def f():\n    from app.sources import load"),
        ({("app.sources.standard", "")}, "if False:\n    from . import standard as s"),
        ({("app.sources.standard", "translate")}, "from .standard import translate"),
        ({("app.web", "create_app")}, "from ..web import create_app"),
        ({("jobs.retry", "decide")}, "try:\n    from jobs.retry import decide\nexcept ImportError: pass"),
    ],
)
def test_every_form_of_import_is_recognized(expected: set[tuple[str, str]], source: str, tmp_path: Path) -> None:
    (path := tmp_path / "other.py").write_text(source)

    assert expected == Module("app.sources.other", path).imports


def test_only_the_ledger_contains_keys_of_redis() -> None:
    outside = [name for name in MODULES if name.split(".")[0] in ("app", "jobs") and not name.startswith("app.ledger")]

    keys = {
        name: texts
        for name in outside
        if (texts := {node.value for node in ast.walk(MODULES[name].tree) if _is_key(node)})
    }

    assert {} == keys


def _is_key(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(("bell:", "arq:"))
