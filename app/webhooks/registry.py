"""Loads the sources: every module of app/sources declares one as SOURCE."""

import importlib
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path
from typing import Any

import orjson

from app.visits.change import CONTACT_FIELDS, VisitChange
from app.webhooks.delivery import Event
from app.webhooks.source import Ignored, InvalidSource, LoadedSource, PartlyTranslatable, Source, Translate

#: The package of the sources. It is imported by name, since its modules import this package.
SOURCES = "app.sources"
#: Its modules, and the specimens of each.
FOLDER = Path(__file__).parents[1] / "sources"


class Sources(Mapping[str, LoadedSource]):
    """Every source by name. A module is imported when its source is first read: most commands need only a few sources.

    Reading a source raises InvalidSource if its module is not a source.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._loaded: dict[str, LoadedSource | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> LoadedSource:
        if (source := self._loaded[name]) is None:
            source = self._loaded[name] = _load_source(name)
        return source

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, names: Iterable[str]) -> None:
        """Import these sources now. Raise InvalidSource."""
        for name in names:
            self[name]


@cache
def load_sources() -> Sources:
    return Sources(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(SOURCES).__path__)))


def _load_source(name: str) -> LoadedSource:
    path = f"app/sources/{name}.py"
    try:
        module = importlib.import_module(f"{SOURCES}.{name}")
    except Exception as error:
        raise InvalidSource(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    definition, translate = getattr(module, "SOURCE", None), getattr(module, "translate", None)
    if not isinstance(definition, Source):
        raise InvalidSource(f"{path} declares no SOURCE = Source(…)")
    if not callable(translate):
        raise InvalidSource(f"{path} has no function translate(event)")
    fetch = getattr(module, "fetch", None)
    if fetch and not ((definition.api_url or "API_URL" in definition.required_settings) and definition.credentials):
        raise InvalidSource(f"{path} has fetch(event), but its SOURCE has no api_url or no credentials")
    if hasattr(module, "people") and not fetch:
        raise InvalidSource(f"{path} has people(event), but no fetch(event): only records list people")
    if "TENANTS" in definition.required_settings and not definition.tenant_of:
        raise InvalidSource(f"{path} needs TENANTS, but its SOURCE has no tenant_of")
    subscription, listing = getattr(module, "SUBSCRIPTION", None), getattr(module, "LISTING", None)
    if (subscription or listing) and not definition.credentials:
        raise InvalidSource(f"{path} has SUBSCRIPTION or LISTING, but its SOURCE has no credentials")
    return LoadedSource(
        name,
        definition,
        _check_contact_length(translate),
        fetch,
        getattr(module, "people", None),
        subscription,
        listing,
        getattr(module, "OAUTH", None),
    )


def _check_contact_length(translate: Translate) -> Translate:
    """Wrap `translate`: a contact whose e-mail address or id is too long is removed, and an operator decides."""

    @wraps(translate)
    def bounded(event: Event) -> list[VisitChange] | Ignored:
        try:
            translated, reason = translate(event), ""
        except PartlyTranslatable as partly:
            translated, reason = partly.changes, str(partly)
        if isinstance(translated, Ignored):
            return translated
        for position, change in enumerate(translated):
            if change.contact and change.contact.is_too_long:
                reason = CONTACT_TOO_LONG
                translated[position] = replace(change, contact=None)
        if reason:
            raise PartlyTranslatable(reason, translated)
        return translated

    return bounded


CONTACT_TOO_LONG = (
    "the contact's e-mail address or id is too long: "
    f"{CONTACT_FIELDS['email']} and {CONTACT_FIELDS['id']} characters at most"
)


def load_specimens(name: str) -> dict[str, Any]:
    """Return the recorded deliveries of a source, with the changes they should become. Raise InvalidSource."""
    path = f"app/sources/{name}.json"
    try:
        specimens: dict[str, Any] = json.loads(specimens_file(name).read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidSource(f"{path} is missing: it has the specimens of app/sources/{name}.py") from None
    except ValueError as error:
        raise InvalidSource(f"{path} is not valid JSON: {error}") from None
    return specimens


def specimen_body(recorded: Mapping[str, Any]) -> bytes:
    """Return the body of a recorded delivery: a string unchanged, anything else as compact JSON."""
    body = recorded["body"]
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def specimens_file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def source_of_visit(external_id: str) -> str:
    """Return the source that a visit's external_id begins with; empty if none does."""
    name, hyphen, _ = external_id.partition("-")
    return name if hyphen and name in load_sources() else ""


def source_title(name: str) -> str:
    """Return the title of a source; the name itself if there is no such source."""
    source = load_sources().get(name)
    return source.definition.title if source else name
