"""Every source by its name: each module of app/sources that declares SOURCE is one."""

import importlib
import json
import pkgutil
from dataclasses import replace
from functools import cache, wraps
from importlib.resources import files
from typing import Any

from app.visits.change import DETAILS, VisitChange
from app.webhooks.delivery import Event
from app.webhooks.source import BadSource, Ignored, PartlyTranslatable, Source, Tool, Translate

#: The package whose modules are the sources. It is found by name, since every module there imports this package.
SOURCES = "app.sources"


@cache
def load() -> dict[str, Tool]:
    """Every source, by name. Raises BadSource."""
    names = sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(SOURCES).__path__))
    return {name: _tool(name) for name in names}


def _tool(name: str) -> Tool:
    module = importlib.import_module(f"{SOURCES}.{name}")
    where = f"app/sources/{name}.py"
    source, translate = getattr(module, "SOURCE", None), getattr(module, "translate", None)
    if not isinstance(source, Source):
        raise BadSource(f"{where} declares no SOURCE = Source(…)")
    if not callable(translate):
        raise BadSource(f"{where} has no function translate(event)")
    fetch = getattr(module, "fetch", None)
    if fetch and not ((source.api or "API_URL" in source.needs) and source.credentials):
        raise BadSource(f"{where} has fetch(event), but its SOURCE names no api or no credentials")
    if hasattr(module, "people") and not fetch:
        raise BadSource(f"{where} has people(event), but no fetch(event): only records list people")
    if "TENANTS" in source.needs and not source.tenant:
        raise BadSource(f"{where} needs TENANTS, but its SOURCE does not say where an event names its tenant")
    return Tool(name, source, _with_bounds(translate), fetch, getattr(module, "people", None))


def _with_bounds(translate: Translate) -> Translate:
    """The same, but what it says of a person whose address is too long to be one is left to an operator."""

    @wraps(translate)
    def bounded(event: Event) -> list[VisitChange] | Ignored:
        try:
            meaning, reason = translate(event), ""
        except PartlyTranslatable as partly:
            meaning, reason = partly.changes, str(partly)
        if isinstance(meaning, Ignored):
            return meaning
        if any(change.contact and change.contact.is_too_long for change in meaning):
            reason = TOO_LONG
            meaning = [replace(it, contact=None) if it.contact and it.contact.is_too_long else it for it in meaning]
        if reason:
            raise PartlyTranslatable(reason, meaning)
        return meaning

    return bounded


TOO_LONG = (
    f"the contact's e-mail address or id is too long: {DETAILS['email']} and {DETAILS['id']} characters at the most"
)


def specimens(name: str) -> dict[str, Any]:
    """The recorded deliveries of a source, and what they should become."""
    read: dict[str, Any] = json.loads(files(SOURCES).joinpath(f"{name}.json").read_text("utf-8"))
    return read


def source_of(work: str) -> str:
    """The source of a visit, by its external_id; of an event it is not in the name."""
    external_id = work.partition("/")[2]
    return max((name for name in load() if external_id.startswith(f"{name}-")), key=len, default="")


def title_of(name: str) -> str:
    """A source as it calls itself."""
    tool = load().get(name)
    return tool.source.title if tool else name
