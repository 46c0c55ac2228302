"""The shape of a payload: its fields, and the words in fields with a fixed list of words. It has no personal data.

A field is a path such as `payload.questions[].answer`. A name that may be a value, such as a key in a map of answers,
is `*`. A word is recorded only for a field in which some specimen has a word that the source's module contains, because
the module compares such a field with fixed words. So a new status is recorded, and a person's name or answer never is.
"""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.webhooks.personal_data import PERSONAL_KEY, PLACE_KEY

MAX_DEPTH, MAX_ITEMS, MAX_PATHS = 12, 20, 400
#: A field with more distinct words than this has no fixed list.
MAX_WORDS, MAX_EVENT_NAMES = 20, 100
_NAME = re.compile(r"(?=.{1,40}$)[a-z_$][A-Za-z_$-]*(?:\d{1,2}[A-Za-z_$-]*)*")
#: Objects whose field names the customer chooses.
_MAP = re.compile(
    r"metadata|custom|fields|answers|responses|properties|attributes|variables|extra|params|query|data_?map", re.I
)
_WORD = re.compile(r"[A-Za-z_.-]{1,40}")
_EVENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,79}")
_WORDS = re.compile(r"[A-Za-z_.-]{1,40}(?: [A-Za-z_.-]{1,40}){0,3}")
ANY = "*"


@dataclass(frozen=True, slots=True)
class Shape:
    """paths: the fields of the payload. objects: the objects in it; only their fields can be missing.

    words: by path.
    """

    paths: frozenset[str]
    objects: frozenset[str]
    words: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def missing(self, expected: Iterable[str]) -> set[str]:
        """Return the expected paths that are absent although the payload has the object they belong to."""
        return {path for path in expected if path not in self.paths and parent_of(path) in self.objects}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known fields and words of a source's payloads.

    words: by path, for fields with a fixed list of words. event_name_path: the path of the event's name, which the
        source declares not to be personal data.
    """

    paths: frozenset[str] = frozenset()
    words: Mapping[str, frozenset[str]] = field(default_factory=dict)
    event_name_path: str = ""

    def max_words(self, path: str) -> int:
        return MAX_EVENT_NAMES if path == self.event_name_path else MAX_WORDS


def parent_of(path: str) -> str:
    return path.rpartition(".")[0]


def shape_of(payload: Any, known: Vocabulary) -> Shape:
    """Return the shape of a parsed body or record."""
    paths, objects, words = set[str](), set[str](), defaultdict[str, set[str]](set)
    for path, value, siblings in _walk(payload, "", known.paths, 0):
        if isinstance(value, dict):
            objects.add(path)
        if path:
            paths.add(path)
        if path in known.words and (word := _word(value, path, siblings, known)):
            words[path].add(word)
        if len(paths) >= MAX_PATHS:
            break
    return Shape(frozenset(paths), frozenset(objects), {path: frozenset(values) for path, values in words.items()})


def _walk(value: Any, path: str, known: Container[str] | None, depth: int) -> Iterator[tuple[str, Any, Container[str]]]:
    """Yield each field with its path, its value, and its sibling fields. known: None for a documented payload."""
    value = _parsed(value)
    if depth == 0:
        yield path, value, ()
    if depth >= MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in map(_parsed, value[:MAX_ITEMS]):
            if isinstance(item, dict | list):
                yield f"{path}[]", item, ()
                yield from _walk(item, f"{path}[]", known, depth + 1)
    elif isinstance(value, dict):
        for name, child in value.items():
            child = _parsed(child)
            child_path = _child_path(path, str(name), known)
            yield child_path, child, value
            yield from _walk(child, child_path, known, depth + 1)


def _child_path(path: str, name: str, known: Container[str] | None) -> str:
    child = f"{path}.{name}"
    if known is not None and child in known:
        return child
    may_be_value = known is not None and _MAP.search(path.rpartition(".")[2])
    return child if _NAME.fullmatch(name) and not may_be_value else f"{path}.{ANY}"


def _parsed(value: Any) -> Any:
    """Return the value, parsed if it is a string that contains JSON."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        return value


def _word(value: Any, path: str, siblings: Container[str], known: Vocabulary) -> str:
    """Return the value if it is a word that is not about a person; else an empty string."""
    if not isinstance(value, str):
        return ""
    if path == known.event_name_path:
        return value if _EVENT_NAME.fullmatch(value) else ""
    pattern = _WORDS if any(" " in word for word in known.words[path]) else _WORD
    is_address = isinstance(siblings, dict) and any(PLACE_KEY.search(str(name)) for name in siblings)
    is_state = path.lower().endswith("state") and is_address
    return value if pattern.fullmatch(value) and not is_state else ""


def vocabulary_of(payloads: Iterable[Any], constants: Container[str], event_name_path: str = "") -> Vocabulary:
    """Return the vocabulary of documented payloads.

    constants: the words of the module. event_name_path: empty if the source declares none.
    """
    paths, candidates, event_names = set[str](), defaultdict[str, set[str]](set), set[str]()
    for payload in payloads:
        for path, value, _ in _walk(payload, "", None, 0):
            if path:
                paths.add(path)
            if path == event_name_path and isinstance(value, str) and _EVENT_NAME.fullmatch(value):
                event_names.add(value)
            elif isinstance(value, str) and _WORDS.fullmatch(value) and not may_be_personal(path):
                candidates[path].add(value)
    words = {
        path: frozenset(values)
        for path, values in candidates.items()
        if len(values) <= MAX_WORDS and any(word in constants for word in values)
    }
    if event_name_path:
        words[event_name_path] = frozenset(event_names)
    return Vocabulary(frozenset(paths), words, event_name_path)


def may_be_personal(path: str) -> bool:
    """Return whether values of the field may be personal data: by its name, or because the field can hold any value."""
    name = path.rpartition(".")[2]
    return bool(PERSONAL_KEY.search(name)) or name.lower().endswith("value") or ANY in path
