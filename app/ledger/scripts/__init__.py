"""The Lua scripts of the ledger, which Redis runs atomically, and their loader.

`scripts.complete(token=…, …)` returns a Call, which `Redis.script` runs.

A file begins with its flags and a header: name and purpose, `@args` (names for ARGV), `@varargs` (a name for the list of all
arguments after them; with `name: field field` a list of tables), `@returns` and `@include`. The loader replaces the first
`@include` of a library by its text. `@bind` makes the list of `@varargs` there, and not at the beginning of the script.
`@bind_only` before it assigns `is_only`, and the fields of the first item. `key.queued` is replaced by QUEUED of keys.py.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha1
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from app.ledger import keys


class Call(NamedTuple):
    """The command that runs a script, and the script, which the server may not have yet.

    ARGV begins with the script's name: MONITOR and SLOWLOG show only the digest otherwise.
    """

    command: tuple[Any, ...]
    script: "Script"


@dataclass(frozen=True)
class Script:
    """source: the text that the server runs, with all includes. varargs: name and fields of the arguments after `args`."""

    name: str
    description: str
    args: list[str]
    varargs: tuple[str, list[str]]
    returns: str
    source: str

    @cached_property
    def sha(self) -> str:
        return sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def parameters(self) -> list[str]:
        return [name for name in (*self.args, self.varargs[0]) if name]

    @cached_property
    def call(self) -> Callable[..., Call]:
        """A function with the script's parameters, all by keyword, so that Python itself rejects a wrong call."""
        varargs, fields = self.varargs
        each = f"[_field for ({', '.join(fields)},) in {varargs} for _field in ({', '.join(fields)},)]"
        argv = [repr(self.name), *self.args, *([f"*{each if fields else varargs}"] if varargs else [])]
        signature = ", ".join(["*", *self.parameters]) if self.parameters else ""
        namespace: dict[str, Any] = {"_Call": Call, "_script": self}
        # collections.namedtuple is made the same way. Collecting and sorting **arguments costs three times as much.
        command = ", ".join(["'EVALSHA'", repr(self.sha), "0", *argv])
        exec(f"def {self.name}({signature}): return _Call(({command}), _script)", namespace)
        function: Callable[..., Call] = namespace[self.name]
        return function

    def check(self, names: Set[str]) -> None:
        """Raise TypeError unless these are the parameters."""
        parameters = set(self.parameters)
        if names != parameters:
            missing, unknown = sorted(parameters - names), sorted(names - parameters)
            problems = [f"needs {name}" for name in missing] + [f"does not take {name}" for name in unknown]
            raise TypeError(f"scripts.{self.name} {', '.join(problems)}")


def load(sources: Mapping[str, str]) -> dict[str, Script]:
    """Return the scripts by name. Raises LookupError for an unknown include or key."""
    return {name: _assemble(name, sources) for name in sources if "/" not in name}


def _assemble(name: str, sources: Mapping[str, str]) -> Script:
    flags, *lines = sources[name].splitlines()
    header = list(takewhile(lambda line: line.startswith("---"), lines))
    args = _tag(header, "args").split()
    varargs, _, fields = _tag(header, "varargs").partition(":")
    bindings, body = [*_bind_names(args)], "\n".join(lines[len(header) :])
    list_binding, mark = "\n".join(_bind_list(len(args) + 2, varargs, fields.split())), f"--- @bind {varargs}"
    if varargs and mark in body:
        if clashes := set(args) & set(fields.split()):
            raise LookupError(f"the script {name} has {', '.join(sorted(clashes))} twice: as argument and as field")
        only_binding = "\n".join(_bind_only(len(args) + 2, fields.split()))
        body = body.replace(mark, list_binding).replace(f"--- @bind_only {varargs}", only_binding)
    elif varargs:
        bindings.append(list_binding)
    source = _expand("\n".join([flags, *header, *bindings, body]), sources, set())
    prose = " ".join(line[4:] for line in header if not line.startswith("--- @"))
    return Script(
        name,
        prose.removeprefix(f"{name}: "),
        args,
        (varargs, fields.split()),
        _tag(header, "returns"),
        _KEY.sub(_key, source),
    )


def _tag(lines: list[str], tag: str) -> str:
    prefix = f"--- @{tag} "
    return next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "")


# These and _CALL begin with text, not with `\b` or `^`: a search for text is ten times as fast, and each start does it.
_INCLUDE = re.compile(r"--- @include (.+)\n?")
_KEY = re.compile(r"key\.(\w+)")


def _expand(text: str, sources: Mapping[str, str], included: set[str]) -> str:
    """Replace the first include of each file by its text, and drop the others."""

    def include(match: re.Match[str]) -> str:
        library = match[1]
        if library not in sources:
            raise LookupError(f"a script includes {library}, and there is no {library}.lua")
        if library in included:
            return ""
        included.add(library)
        return _expand(sources[library], sources, included).rstrip() + "\n"

    return _INCLUDE.sub(include, text)


def _bind_names(args: list[str]) -> Iterator[str]:
    """Yield the Lua line that assigns ARGV to named variables."""
    if args:
        yield f"local {', '.join(args)} = unpack(ARGV, 2, {len(args) + 1})"


def _bind_list(first: int, varargs: str, fields: list[str]) -> Iterator[str]:
    """Yield the Lua lines that make a list of the arguments from the first on."""
    if varargs:
        values = [f"{field} = ARGV[i + {offset}]" for offset, field in enumerate(fields)]
        item = f"{{{', '.join(values)}}}" if fields else "ARGV[i]"
        yield f"local {varargs} = {{}}"
        yield f"for i = {first}, #ARGV, {len(fields) or 1} do {varargs}[#{varargs} + 1] = {item} end"


def _bind_only(first: int, fields: list[str]) -> Iterator[str]:
    """Yield the Lua lines that assign the fields of the first item, and whether it is the only one."""
    last = first + len(fields) - 1
    yield f"local is_only = #ARGV == {last}"
    yield f"local {', '.join(fields)} = unpack(ARGV, {first}, {last})"


def _key(match: re.Match[str]) -> str:
    try:
        return f"'{getattr(keys, match[1].upper())}'"
    except AttributeError:
        raise LookupError(f"a script uses {match[0]}, and keys.py has no {match[1].upper()}") from None


@cache
def check_callers() -> None:
    """Raise TypeError if a call in the ledger does not pass the parameters of its script."""
    scripts = {name: script(name) for name in SOURCES if "/" not in name}
    for file in CALLERS:
        check_calls(Path(__file__).parents[1].joinpath(file).read_text("utf-8"), file, scripts)


#: The modules that call scripts.
CALLERS = ("buckets.py", "catch_ups.py", "connections.py", "ledger.py", "moves.py", "redis.py")


def check_calls(code: str, file: str, scripts: Mapping[str, Script]) -> None:
    """Raise TypeError if a call `scripts.name(…)` in this Python code does not pass the script's parameters."""
    for start in (match.start() for match in _CALL.finditer(code)):
        call = _parse_call(code, start)
        name = call.func.attr
        names = {keyword.arg or "**arguments" for keyword in call.keywords} | {"*arguments" for _ in call.args}
        try:
            if name not in scripts:
                raise TypeError(f"there is no script {name}")
            scripts[name].check(names)
        except TypeError as error:
            line = code.count("\n", 0, start) + 1
            raise TypeError(f"{file}:{line}: {error}") from None


_CALL = re.compile(r"scripts\.\w+\(")


def _parse_call(code: str, start: int) -> Any:
    """Return the ast.Call that begins at start. To parse the whole module would take a tenth of a web process's start."""
    end = start
    while True:
        end = code.index(")", end) + 1
        if code.count("(", start, end) == code.count(")", start, end):
            return ast.parse(code[start:end], mode="eval").body


def _read(folder: Path, prefix: str = "") -> dict[str, str]:
    return {prefix + file.stem: file.read_text("utf-8") for file in folder.glob("*.lua")}


#: The text of every file, by its path without `.lua`.
SOURCES = _read(Path(__file__).parent) | _read(Path(__file__).with_name("lib"), "lib/")


@cache
def script(name: str) -> Script:
    """Assemble a script when it is first needed: a command needs few of them."""
    return _assemble(name, SOURCES)


def __getattr__(name: str) -> Callable[..., Call]:
    if name not in SOURCES or "/" in name:
        raise AttributeError(f"there is no script {name}")
    call: Callable[..., Call] = script(name).call
    globals()[name] = call
    return call
