"""The operations of the ledger: one Lua script each, which Redis runs as a whole.

`scripts.complete(token=…, …)` returns a Call, which `Redis.run` executes.

A file begins with its flags and a header: name and purpose, `@args` (names for ARGV), `@rest` (a name for all arguments
after them: a list, or with `name: field field` a list of tables), `@returns` and `@include`. An include is replaced where
it stands, and once. `key.queued` stands for QUEUED in keys.py.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from app.ledger import keys


class Call(NamedTuple):
    """arguments: ARGV. The first one is the name of the script: its SHA says nothing in MONITOR and SLOWLOG."""

    script: "Script"
    arguments: list[Any]


@dataclass(frozen=True)
class Script:
    """source: as the server reads it, with all includes. rest: name and fields of the arguments after `args`."""

    name: str
    description: str
    args: list[str]
    rest: tuple[str, list[str]]
    returns: str
    source: str

    @cached_property
    def sha(self) -> str:
        return sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def parameters(self) -> set[str]:
        return {*self.args, self.rest[0]} - {""}

    def __call__(self, **arguments: Any) -> Call:
        if arguments.keys() != self.parameters:
            self.check(arguments.keys())
        argv = [self.name, *map(arguments.__getitem__, self.args)]
        rest, fields = self.rest
        for each in arguments[rest] if rest else ():
            if not fields:
                argv.append(each)
            elif len(each) == len(fields):
                argv.extend(each)
            else:
                raise TypeError(f"scripts.{self.name}: each of {rest} is ({', '.join(fields)})")
        return Call(self, argv)

    def check(self, names: Set[str]) -> None:
        """Raise TypeError unless these are the parameters."""
        if names != self.parameters:
            lacks, unknown = sorted(self.parameters - names), sorted(names - self.parameters)
            problems = [f"needs {name}" for name in lacks] + [f"does not take {name}" for name in unknown]
            raise TypeError(f"scripts.{self.name} {', '.join(problems)}")


def load(sources: Mapping[str, str]) -> dict[str, Script]:
    """The scripts by name. Raises LookupError."""
    return {name: _assemble(name, sources) for name in sources if "/" not in name}


def _assemble(name: str, sources: Mapping[str, str]) -> Script:
    flags, *lines = sources[name].splitlines()
    header = list(takewhile(lambda line: line.startswith("---"), lines))
    args = _tag(header, "args").split()
    rest, _, fields = _tag(header, "rest").partition(":")
    bindings, included = _bindings(args, rest, fields.split()), set[str]()
    parts = (_expand(part, sources, included) for part in (header, bindings, lines[len(header) :]))
    source = re.sub(r"\bkey\.(\w+)", _key, "\n".join([flags, *chain.from_iterable(parts)]))
    described = " ".join(line[4:] for line in header if not line.startswith("--- @"))
    description = described.removeprefix(f"{name}: ")
    return Script(name, description, args, (rest, fields.split()), _tag(header, "returns"), source)


def _tag(lines: list[str], tag: str) -> str:
    prefix = f"--- @{tag} "
    return next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "")


def _expand(lines: Iterable[str], sources: Mapping[str, str], included: set[str]) -> Iterator[str]:
    """The lines with each included file where it is included first."""
    for line in lines:
        library = line.removeprefix("--- @include ")
        if library == line:
            yield line
        elif library not in sources:
            raise LookupError(f"a script includes {library}, and there is no {library}.lua")
        elif library not in included:
            included.add(library)
            yield from _expand(sources[library].splitlines(), sources, included)


def _bindings(args: list[str], rest: str, fields: list[str]) -> Iterator[str]:
    """Lua that gives the arguments their names."""
    if args:
        yield f"local {', '.join(args)} = unpack(ARGV, 2, {len(args) + 1})"
    if rest:
        values = [f"{field} = ARGV[i + {offset}]" for offset, field in enumerate(fields)]
        each = f"{{{', '.join(values)}}}" if fields else "ARGV[i]"
        yield f"local {rest} = {{}}"
        yield f"for i = {len(args) + 2}, #ARGV, {len(fields) or 1} do {rest}[#{rest} + 1] = {each} end"


def _key(name: re.Match[str]) -> str:
    try:
        return f"'{getattr(keys, name[1].upper())}'"
    except AttributeError:
        raise LookupError(f"a script uses {name[0]}, and keys.py has no {name[1].upper()}") from None


def check_calls(code: str, file: str, scripts: Mapping[str, Script]) -> None:
    """Raise TypeError if a call `scripts.name(…)` in this Python code does not pass exactly what the script declares."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(ast.Attribute(ast.Name("scripts"), name), positional, keywords):
                names = {keyword.arg or "**arguments" for keyword in keywords} | {"*arguments" for _ in positional}
                try:
                    if name not in scripts:
                        raise TypeError(f"there is no script {name}")
                    scripts[name].check(names)
                except TypeError as error:
                    raise TypeError(f"{file}:{node.lineno}: {error}") from None


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    for file in folder.iterdir():
        if file.is_dir():
            yield from _read(file, f"{prefix}{file.name}/")
        elif file.name.endswith(".lua"):
            yield prefix + file.name.removesuffix(".lua"), file.read_text()


#: Every file by its path without `.lua`.
SOURCES = dict(_read(files("app.ledger.scripts")))
SCRIPTS = load(SOURCES)

# A wrong call ends the process when it starts, not with the first request that needs it.
for _file in files("app.ledger").iterdir():
    if _file.name.endswith(".py") and " scripts." in (_code := _file.read_text()):
        check_calls(_code, _file.name, SCRIPTS)


if TYPE_CHECKING:

    def __getattr__(name: str) -> Script: ...


globals().update(SCRIPTS)
