"""Odd values anywhere in a body."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.visits.change import encode_change, is_external_id
from app.visits.merge import RecordedChange
from app.webhooks.delivery import Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.source import Ignored, LoadedSource
from tests.support.specimens import TOOLS, Specimen, _changes, _repeat_key, each_tool, events

ODD_TEXTS = (
    "", " ", "\0", "a" * 400, "0", "-1", "007", "١٢٣", "NaN", "1e999999999", "../../v1/users", "a/b?c=d#e", "..",
    "https://evil.example/invitees/ü", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-03-14T16:00:00",
    "1773509525000", '{"data":{"webHookEvent":[]}}', "ada@example.com", "😀\u202e",
)  # fmt: skip

ODD_NUMBERS = (0, -1, 2**64 - 1, -(2**63), 1e308, 0.1)

ODD_SHAPES = ([], {}, [None], [{}], [1, "a"], {"x": {"x": 1}})


#: Values that orjson can return: 64-bit whole numbers, finite fractions, text without lone surrogates.
ODD_VALUES = (None, True, False, *ODD_TEXTS, *ODD_NUMBERS, *ODD_SHAPES)


#: Values for a place that nobody reads: nothing, and one of each shape.
UNREAD_VALUES = (..., None, True, -1, "\0", [None], {"x": {"x": 1}})

ANY_JSON = st.recursive(
    st.sampled_from(ODD_VALUES),
    lambda item: st.lists(item, max_size=3) | st.dictionaries(st.sampled_from(("id", "x", "")), item, max_size=3),
    max_leaves=5,
)


#: Personal data of the specimens, which error messages must not contain.
PEOPLE = re.compile("ada|lovelace|example|5550|zo[eë]", re.IGNORECASE)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _with_value(value: Any, path: tuple[Any, ...], new_value: Any) -> Any:
    """Return a copy with another value at this path, if the path exists; `...` removes the value."""
    if not path:
        return None if new_value is ... else new_value
    step, remaining = path[0], path[1:]
    steps = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if step not in steps:
        return value
    copied = value.copy()
    if new_value is ... and not remaining:
        del copied[step]
    else:
        copied[step] = _with_value(value[step], remaining, new_value)
    return copied


def _value_at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


class _Recorder(dict[str, Any]):
    """A JSON object that adds the paths of the values that somebody reads to a set."""

    def __init__(self, value: dict[str, Any], path: tuple[Any, ...], read: set[tuple[Any, ...]]) -> None:
        super().__init__({name: _recorded(item, (*path, name), read) for name, item in value.items()})
        self._path, self._read = path, read

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add((*self._path, name))
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self._read.add((*self._path, name))
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._read.add((*self._path, name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        names = list(super().__iter__())
        self._read.update((*self._path, name) for name in names)
        return iter(names)

    def keys(self) -> Any:
        iter(self)
        return super().keys()

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


def _recorded(value: Any, path: tuple[Any, ...], read: set[tuple[Any, ...]]) -> Any:
    if isinstance(value, dict):
        return _Recorder(value, path, read)
    return [_recorded(item, (*path, n), read) for n, item in enumerate(value)] if isinstance(value, list) else value


def _is_read(path: tuple[Any, ...], read: set[tuple[Any, ...]]) -> bool:
    """Return whether the value is read. Items of a list are read with the list; body and records always."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return len(path) < 3 or path in read


FETCHED_AT = datetime(2026, 10, 1, tzinfo=UTC)


@each_tool
def test_an_event_with_one_odd_value_is_translated_ignored_or_untranslatable(name: str) -> None:
    """Every path of a body and of a record, in up to three kinds of events, with every odd value.

    A value that nobody reads makes no difference, so that it is replaced by few.
    """
    tool, checked = TOOLS[name], Counter[tuple[Any, ...]]()
    for specimen in events(name):
        event, parts = specimen.event(), _parts(specimen)
        odd_values = (..., *ODD_VALUES, *{change.visit_id for change in _changes(specimen)})
        kind = (
            tool.definition.event_name(event)
            if tool.definition.event_name
            else event.data.at(*tool.definition.event_name_path).value
        )
        read = _read_paths(tool, specimen)
        for path in _paths(parts):
            if not path or checked[path, kind] or checked[path] == 3:
                continue
            checked.update([path, (path, kind)])
            for odd in odd_values if _is_read(path, read) else UNREAD_VALUES:
                body, *fetched = (
                    _with_value(part, path[1:], odd) if n == path[0] else part for n, part in enumerate(parts)
                )
                _check_event(tool, replace(event, data=Payload(body)), fetched)


def _read_paths(tool: LoadedSource, specimen: Specimen) -> set[tuple[Any, ...]]:
    """Return the paths of the values that intake and worker read."""
    read = set[tuple[Any, ...]]()
    body, *fetched = (_recorded(part, (n,), read) for n, part in enumerate(_parts(specimen)))
    _check_event(tool, replace(specimen.event(), data=Payload(body)), fetched)
    return read


def _parts(specimen: Specimen) -> list[Any]:
    """Return the body, the first record, and the related records."""
    requests = specimen.record_requests()
    event = specimen.with_record(requests[0]) if requests else specimen.event()
    related = {name: payload.value for name, payload in event.related.items()}
    return [event.data.value, event.record.value if event.record else None, related]


def _check_event(tool: LoadedSource, event: Event, fetched: Sequence[Any]) -> None:
    """Process an event like intake and worker: a record exists only if the event requests it."""
    messages = [_error_message(_repeat_key, tool, event), _error_message(_tenant, tool, event)]
    requests: list[RecordRequest] = []
    if tool.fetch:
        messages.append(_error_message(lambda *_: requests.extend(tool.fetch(event)), tool, event))
        _safe(requests)
    if requests:
        record, related = fetched[0], fetched[1] if isinstance(fetched[1], dict) else {}
        if record:
            messages.append(
                _error_message(lambda *_: _safe(requests[0].follow_up(Payload(record)).values()), tool, event)
            )
        event = event.with_record(record, FETCHED_AT, related, requests[0].path)
    messages.append(_error_message(_check_translation, tool, event))

    assert not any(len(sentence) > 200 or PEOPLE.search(sentence) for sentence in messages), messages


@st.composite
def odd_events(draw: Any, name: str) -> tuple[Event, Any]:
    """Return an event of a specimen and its record, with odd values in some places."""
    specimen = draw(st.sampled_from(events(name)))
    event, parts = specimen.event(), _parts(specimen)
    paths = [path for path in _paths(parts) if path]
    values = [_value_at(parts, path) for path in paths]
    for _ in range(draw(st.integers(1, 4))):
        parts = _with_value(
            parts, draw(st.sampled_from(paths)), draw(ANY_JSON | st.sampled_from(values) | st.just(...))
        )
    body, record, related, *_ = [*parts, None, None, None]
    return replace(event, data=Payload(body)), (record, related)


@each_tool
def test_an_event_with_odd_values_is_translated_ignored_or_untranslatable(name: str) -> None:
    @settings(suppress_health_check=list(HealthCheck))
    @given(odd_events(name))
    def check(odd_event: tuple[Event, Any]) -> None:
        before = copy.deepcopy(odd_event)

        _check_event(TOOLS[name], *odd_event)

        assert before == odd_event

    check()


def _error_message(read: Callable[[LoadedSource, Event], Any], tool: LoadedSource, event: Event) -> str:
    try:
        read(tool, event)
    except Untranslatable as error:
        return str(error)
    return ""


def _tenant(tool: LoadedSource, event: Event) -> None:
    if tool.definition.tenant_of:
        assert isinstance(tool.definition.tenant_of(event), str | None)


def _safe(requests: Iterable[RecordRequest]) -> None:
    """Check the requests: a body must not choose another path or parameter."""
    for request in requests:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*(/[A-Za-z0-9_.~=+-]+)*", request.path), (
            "an id in a path was not checked"
        )
        assert ".." not in request.path
        assert all(isinstance(value, str) for value in [*request.variables.values(), *request.params.values()])
        assert not any("evil" in value or len(value) > 300 for value in request.params.values()), (
            "an id was not checked"
        )


def _check_translation(tool: LoadedSource, event: Event) -> None:
    translated = tool.translate(event)

    if isinstance(translated, Ignored):
        assert isinstance(translated.reason, str)
        assert translated.reason
        return
    assert translated
    for change in translated:
        assert change.visit_id == change.visit_id.strip()
        assert bool(change.visit_id) != bool(change.external_id_override), (
            "a change names one visit, by `visit_id` or by `external_id_override`"
        )
        assert change.external_id_override is None or is_external_id(change.external_id_override)
        assert re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", change.external_id(tool.name))
        assert type(change.version) is int
        RecordedChange.decode("delivery", encode_change(change))
