"""The shapes of payloads: fields and words, and no value of a person."""

import json
from typing import Any

from app.telemetry.payload_watch import documented
from app.webhooks.payload_shape import Vocabulary, shape_of, vocabulary_of
from app.webhooks.registry import load_sources
from app.webhooks.source_words import constants_of
from tests.support.cases import each
from tests.support.specimens import Specimen, events

#: A name that no module and no specimen contains.
NAME = "Xanthippe"
DOCUMENTS = [
    {
        "event": "booked",
        "guest": {"first": "Ada", "status": "confirmed"},
        "address": {"state": "confirmed", "city": "Paris"},
    },
    {
        "event": "cancelled",
        "guest": {"first": "Grace", "status": "left"},
        "tags": [{"label": "new"}],
        "note": "confirmed",
    },
]
KNOWN = vocabulary_of(DOCUMENTS, {"booked", "cancelled", "confirmed"}, ".event")


def words(payload: Any, known: Vocabulary = KNOWN) -> dict[str, set[str]]:
    return {path: set(values) for path, values in shape_of(payload, known).words.items()}


def test_a_shape_has_paths_and_the_words_of_fields_that_the_module_compares() -> None:
    shape = shape_of(DOCUMENTS[1], KNOWN)

    assert {
        ".event",
        ".guest",
        ".guest.first",
        ".guest.status",
        ".tags",
        ".tags[]",
        ".tags[].label",
        ".note",
    } == shape.paths
    assert {".event": {"cancelled"}, ".guest.status": {"left"}} == words(DOCUMENTS[1])


def test_a_new_status_is_a_word() -> None:
    assert {".guest.status": {"tentative"}} == words({"guest": {"status": "tentative"}})


@each(
    "payload",
    [
        {"guest": {"first": NAME, "last": NAME, "nickname": NAME}},
        {"guest": {"status": f"{NAME} is late"}},
        {"guest": {"status": f"{NAME}@example.com"}},
        {"guest": {"status": "+15550100001"}},
        {"note": NAME},
        {"tags": [{"label": NAME}]},
        {"address": {"state": NAME, "city": NAME}},
        {"answers": {NAME: NAME}},
        {"metadata": {NAME.lower(): NAME}},
        {NAME: {"status": NAME}},
        {f"{NAME}@example.com": 1, "+15550100001": 2, f"what does {NAME} want?": 3},
        {"guest": json.dumps({NAME: NAME, "note": NAME})},
    ],
)
def test_no_value_of_a_person_is_recorded(payload: Any) -> None:
    shape = shape_of(payload, KNOWN)

    text = str((shape.paths, shape.objects, shape.words)).casefold()
    assert [] == [value for value in (NAME.casefold(), "example.com", "5550100001") if value in text]


def test_a_field_is_missing_only_if_its_object_came() -> None:
    shape = shape_of({"event": "booked", "guest": None}, KNOWN)

    assert {".note"} == shape.missing([".event", ".guest", ".guest.status", ".note"])


def with_a_name_everywhere(value: Any, constants: frozenset[str]) -> Any:
    """Return the payload with a name in place of every text that the module does not know."""
    if isinstance(value, dict):
        return {key: with_a_name_everywhere(child, constants) for key, child in value.items()}
    if isinstance(value, list):
        return [with_a_name_everywhere(child, constants) for child in value]
    return NAME if isinstance(value, str) and value not in constants else value


def payloads(specimen: Specimen) -> list[Any]:
    return [specimen.event().data.value, *specimen.recorded.get("records", {}).values()]


def contact_values(specimen: Specimen) -> set[str]:
    changes = specimen.expect if isinstance(specimen.expect, list) else []
    return {value for change in changes for name, value in change.get("contact", {}).items() if name != "id"}


@each("source", load_sources())
def test_no_shape_of_a_specimen_has_a_value_of_its_person(source: str) -> None:
    for specimen in events(source):
        for payload in payloads(specimen):
            shape = shape_of(payload, documented(source))
            recorded = {word for values in shape.words.values() for word in values}
            parts = {part for path in shape.paths for part in path.split(".")}
            assert set() == contact_values(specimen) & (recorded | parts)


@each("source", load_sources())
def test_a_name_in_every_field_is_recorded_nowhere_but_in_fields_with_fixed_words(source: str) -> None:
    constants, known = constants_of(source), documented(source)
    event_path = f".{'.'.join(load_sources()[source].definition.event_name_path)}"
    for specimen in events(source):
        for payload in payloads(specimen):
            shape = shape_of(with_a_name_everywhere(payload, constants), known)
            assert not [path for path in shape.paths if NAME in path]
            with_name = {path for path, values in shape.words.items() if NAME in values}
            assert not [path for path in with_name if not known.words[path] & constants and path != event_path]


@each("source", load_sources())
def test_a_field_with_fixed_words_is_no_field_of_a_person(source: str) -> None:
    personal = {value.casefold() for specimen in events(source) for value in contact_values(specimen)}

    for path, values in documented(source).words.items():
        assert not personal & set(map(str.casefold, values)), path
