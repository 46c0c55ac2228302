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


#: What orjson can hand over: whole numbers of 64 bits, finite fractions, text without halves of characters.
ODD_VALUES = (None, True, False, *ODD_TEXTS, *ODD_NUMBERS, *ODD_SHAPES)


ANY_JSON = st.recursive(
    st.sampled_from(ODD_VALUES),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(("id", "x", "")), inside, max_size=3),
    max_leaves=5,
)


#: Whoever reads our complaints about a specimen must not learn whose it is.
PEOPLE = re.compile("ada|lovelace|example|5550|zo[eë]", re.IGNORECASE)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from _places(inside, (*path, key))


def _put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy with another value at that place, if the place is still there; `...` takes it away."""
    if not path:
        return None if other is ... else other
    step, rest = path[0], path[1:]
    steps = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if step not in steps:
        return value
    copied = value.copy()
    if other is ... and not rest:
        del copied[step]
    else:
        copied[step] = _put(value[step], rest, other)
    return copied


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


FETCHED_AT = datetime(2026, 10, 1, tzinfo=UTC)


@each_tool
def test_one_strange_value_anywhere_is_understood_ignored_or_untranslatable(name: str) -> None:
    """Every place of a body and of a record, in up to three kinds of events that have it, with every odd value."""
    tool, looked = TOOLS[name], Counter[tuple[Any, ...]]()
    for specimen in events(name):
        event, both = specimen.event(), _both(specimen)
        odd_values = (..., *ODD_VALUES, *{change.visit_id for change in _changes(specimen)})
        kind = (
            tool.definition.event_name(event)
            if tool.definition.event_name
            else event.data.at(*tool.definition.event_name_path).value
        )
        for place in _places(both):
            if not place or looked[place, kind] or looked[place] == 3:
                continue
            looked.update([place, (place, kind)])
            for odd in odd_values:
                body, *fetched = (_put(part, place[1:], odd) if n == place[0] else part for n, part in enumerate(both))
                _understand(tool, replace(event, data=Payload(body)), fetched)


def _both(specimen: Specimen) -> list[Any]:
    """The body, the first record that it points at, and what is beside that."""
    gets = specimen.record_requests()
    event = specimen.with_record(gets[0]) if gets else specimen.event()
    beside = {name: found.value for name, found in event.related.items()}
    return [event.data.value, event.record.value if event.record else None, beside]


def _understand(tool: LoadedSource, event: Event, fetched: Sequence[Any]) -> None:
    """As the door and the worker do it: a record is only there where the event points at one."""
    said = [_complaint(_repeat_key, tool, event), _complaint(_tenant, tool, event)]
    gets: list[RecordRequest] = []
    if tool.fetch:
        said.append(_complaint(lambda *_: gets.extend(tool.fetch(event)), tool, event))
        _safe(gets)
    if gets:
        record, beside = fetched[0], fetched[1] if isinstance(fetched[1], dict) else {}
        if record:
            said.append(_complaint(lambda *_: _safe(gets[0].follow_up(Payload(record)).values()), tool, event))
        event = event.with_record(record, FETCHED_AT, beside, gets[0].path)
    said.append(_complaint(_meaning, tool, event))

    assert not any(len(sentence) > 200 or PEOPLE.search(sentence) for sentence in said), said


@st.composite
def strange_events(draw: Any, name: str) -> tuple[Event, Any]:
    """An event of a specimen and its record, with anything at all in some places of them."""
    specimen = draw(st.sampled_from(events(name)))
    event, both = specimen.event(), _both(specimen)
    places = [place for place in _places(both) if place]
    values = [_at(both, place) for place in places]
    for _ in range(draw(st.integers(1, 4))):
        both = _put(both, draw(st.sampled_from(places)), draw(ANY_JSON | st.sampled_from(values) | st.just(...)))
    body, record, beside, *_ = [*both, None, None, None]
    return replace(event, data=Payload(body)), (record, beside)


@each_tool
def test_whatever_a_body_holds_it_is_understood_ignored_or_untranslatable(name: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strange_events(name))
    def holds(strange: tuple[Event, Any]) -> None:
        before = copy.deepcopy(strange)

        _understand(TOOLS[name], *strange)

        assert before == strange

    holds()


def _complaint(read: Callable[[LoadedSource, Event], Any], tool: LoadedSource, event: Event) -> str:
    try:
        read(tool, event)
    except Untranslatable as error:
        return str(error)
    return ""


def _tenant(tool: LoadedSource, event: Event) -> None:
    if tool.definition.tenant_of:
        assert isinstance(tool.definition.tenant_of(event), str | None)


def _safe(gets: Iterable[RecordRequest]) -> None:
    """A body never chooses what else is asked for."""
    for get in gets:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*(/[A-Za-z0-9_.~=+-]+)*", get.path), (
            "an id in a path was not checked"
        )
        assert ".." not in get.path
        assert all(isinstance(value, str) for value in [*get.variables.values(), *get.params.values()])
        assert not any("evil" in value or len(value) > 300 for value in get.params.values()), "an id was not checked"


def _meaning(tool: LoadedSource, event: Event) -> None:
    said = tool.translate(event)

    if isinstance(said, Ignored):
        assert isinstance(said.reason, str)
        assert said.reason
        return
    assert said
    for change in said:
        assert change.visit_id == change.visit_id.strip()
        assert bool(change.visit_id) != bool(change.external_id_override), (
            "a change names one visit, by `visit_id` or by `named`"
        )
        assert change.external_id_override is None or is_external_id(change.external_id_override)
        assert re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", change.external_id(tool.name))
        assert type(change.version) is int
        RecordedChange.decode("delivery", encode_change(change))
