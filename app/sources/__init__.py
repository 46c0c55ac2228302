"""What a source is, and how the sources are found: every module of this folder that declares SOURCE is one.

A source is a pair of files: `tool.py` with SOURCE, `translate` and, where its events only point at a record, `fetch`;
and `tool.json`, its specimens. The module's name is the only name: of the hook, the settings and the `external_id`s.
Nothing is registered anywhere else.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from app.challenges import Unsigned
from app.delivery import Event, Form
from app.signatures import Scheme
from app.visits.words import VisitChange

Evidence = Literal["vendor", "second-hand", "recalled"]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Genuine, and nothing to do with visits. why: the event's name, or a word like `opted_out`."""

    why: str


#: The record is not there, and the event alone says nothing. Right after the event it is asked for again.
GONE = Ignored("record gone")


@dataclass(frozen=True, slots=True)
class Get:
    """A record to fetch, below the source's `api`: the body of a webhook never chooses the host.

    path: built from checked ids only; it also names the record in specimens.
    query: GraphQL: what is POSTed to `api` itself instead, with `variables`.
    """

    path: str
    query: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic. Both are names of credentials, not their values."""

    user: str
    password: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.password)


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer …`, or another word before it."""

    token: str = "TOKEN"
    word: str = "Bearer"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.token,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A scheduling tool, as data.

    docs: the vendor's page on its webhooks.
    evidence: where our facts come from at their weakest.
    event: the path to the event's name in the body.
    repeat_key: what names an event, the same on every retry; None (the default): the digest of the body.
    look_alike: two different events can be the same to the byte, so a repeat is fetched anew instead of forgotten.
    headers: the headers that `translate` needs.
    busy: the status of our own trouble that this tool tries again after.
    answer_within_s: the tool's patience, where it is shorter than ours.
    api: where records are fetched, with a slash at the end. headers_out: fixed headers of those requests.
    setup: steps for whoever connects the tool: where to click, what to tick, what it cannot tell.
    """

    title: str
    docs: str
    signature: Scheme
    setup: str
    evidence: Evidence = "vendor"
    form: Form = "json"
    event: tuple[str, ...] = ("type",)
    repeat_key: Callable[[Event], str | None] | None = None
    look_alike: bool = False
    headers: tuple[str, ...] = ()
    unsigned: Unsigned | None = None
    probes: tuple[str, ...] = ()
    busy: int = 503
    answer_within_s: float = 3.0
    api: str | None = None
    credentials: Basic | Bearer | None = None
    headers_out: Mapping[str, str] = field(default_factory=dict)


Translate = Callable[[Event], "list[VisitChange] | Ignored"]
Fetch = Callable[[Event], list[Get]]


@dataclass(frozen=True, slots=True)
class Tool:
    """A source with its name and its functions, as `load` finds it."""

    name: str
    source: Source
    translate: Translate
    fetch: Fetch | None


class BadSource(Exception):
    """A module in this folder is not a source. It names the file and what is missing."""


@cache
def load() -> dict[str, Tool]:
    """Every source, by name. Raises BadSource."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: _tool(name) for name in names}


def _tool(name: str) -> Tool:
    module = importlib.import_module(f"{__name__}.{name}")
    where = f"app/sources/{name}.py"
    source, translate = getattr(module, "SOURCE", None), getattr(module, "translate", None)
    if not isinstance(source, Source):
        raise BadSource(f"{where} declares no SOURCE = Source(…)")
    if not callable(translate):
        raise BadSource(f"{where} has no function translate(event)")
    fetch = getattr(module, "fetch", None)
    if fetch and not (source.api and source.credentials):
        raise BadSource(f"{where} has fetch(event), but its SOURCE names no api or no credentials")
    return Tool(name, source, translate, fetch)


def specimens(name: str) -> dict[str, Any]:
    """The recorded deliveries of a source, and what they should become."""
    read: dict[str, Any] = json.loads(files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return read
