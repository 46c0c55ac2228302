"""Redaction of text that operators see: quoted answers, stored bodies, and the targets of activities.

A body shows its structure, and only values that cannot be personal: an allow-list decides.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

#: Replaces what is hidden.
REDACTED = "•••"
_EMAIL = re.compile(r"[^\s\"'<>@]+@[^\s\"'<>@]+")
#: An address in a query string or a filter.
_QUERY_EMAIL = re.compile(r"[^\s=&]+(?:@|%40)[^\s=&]+")
_PHONE = re.compile(r"\+?\d[\d\s().-]{6,}\d")
#: A key of personal data, in JSON or in a form, and its value, which a quote may cut off.
_PERSONAL_KEY = r"[\w\[\].%-]*(?:name|company|address|street|line\d|city|zip|postal_?code|phone|mobile|email|note)s?\]?"
_IN_JSON = re.compile(rf'("{_PERSONAL_KEY}"\s*:\s*)(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|\[[^\]]*(?:\]|$))', re.IGNORECASE)
_IN_FORM = re.compile(rf"((?:^|[&?\s]){_PERSONAL_KEY}=)[^&\s]+", re.IGNORECASE)

#: Names whose values say what happened, and when, but not to whom.
SAFE_KEYS = frozenset(
    """action amount amount_collected api_version cancelled canceled completed created created_at createdat currency
    date_cancelled duration end end_at end_time ends_at endtime event event_id event_type eventtype id kind object order
    price rescheduled start start_at start_time starts_at starttime status time_completed time_scheduled time_zone timestamp
    timezone topic trigger triggerevent type uid updated updated_at updatedat uri uuid version visit_id""".split()  # noqa: SIM905
)
#: Of these, the ones under which some tools write a sentence, in which somebody may be named. A word is shown; a sentence
#: only where the source declares that it is the event's name.
EVENT_NAME_KEYS = frozenset("action event event_type eventtype kind object topic trigger triggerevent type".split())  # noqa: SIM905
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?")
_SAFE_VALUE = re.compile(r"[\w:./+ -]{0,200}")
_ADDRESS = re.compile(r"@|%40")

#: So many values are laid out, so deep; every one of them costs the browser a button.
MAX_VALUES, MAX_DEPTH = 2_000, 64
#: A longer name of a field cannot be asked for.
MAX_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class HiddenValue:
    """A value that may be somebody's. name: where it stands. told: what may be said of it. value: once it is revealed."""

    path: str
    placeholder: str
    value: str | None


def redact_text(text: str) -> str:
    """Hide e-mail addresses, phone numbers, and the values of keys of personal data."""
    text = _IN_FORM.sub(rf"\1{REDACTED}", _IN_JSON.sub(rf'\1"{REDACTED}"', text))
    return _PHONE.sub(REDACTED, _EMAIL.sub(f"{REDACTED}@{REDACTED}", text))


def redact_query(text: str) -> str:
    """Hide e-mail addresses, also encoded ones."""
    return _QUERY_EMAIL.sub(REDACTED, text)


def redact_body(raw: bytes, revealed: Container[str] = (), event: tuple[str, ...] = ()) -> list[str | HiddenValue]:
    """The body as text to read, in pieces. revealed: the names of what is shown nevertheless; `*`: all of it. event: where
    the source declares the event's name."""
    if "*" in revealed:
        return [_full_body(raw)]
    try:
        parsed = _parse(raw)
    except ValueError:
        return [f"••• ({len(raw)} bytes that are neither JSON nor a form)"]
    layout = _Renderer(revealed, ".".join(event))
    pieces = list(layout.render(parsed, "", "", 0))
    left = _size(parsed)[0] - MAX_VALUES
    return [*pieces, f"\n… and {left:,} more" if layout.left < 0 else ""]


def _full_body(raw: bytes) -> str:
    """As it came; JSON is laid out, unless that would change a number, or make very much of it."""
    text = raw.decode("utf-8", "replace")
    try:
        parsed = orjson.loads(raw)
        values, indentation = _size(parsed)
        is_small = values <= 10 * MAX_VALUES and indentation <= 1_000_000
        if is_small and not re.search(r"\d{16,}", text) and orjson.loads(orjson.dumps(parsed)) == parsed:
            return orjson.dumps(parsed, option=orjson.OPT_INDENT_2).decode()
    except (ValueError, TypeError, RecursionError):  # a TypeError: too deep to be written
        pass
    return text


def _parse(raw: bytes) -> Any:
    """Raises ValueError."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=500))


def _size(parsed: Any) -> tuple[int, int]:
    """How many values there are, containers too; and how many characters their indentation has."""
    values, indentation, level = 0, 0, [parsed]
    for depth in range(2_000):
        if not level:
            break
        values, indentation = values + len(level), indentation + 2 * depth * len(level)
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values_of in inside for value in values_of]
    return values, indentation


@dataclass(slots=True)
class _Renderer:
    """left: how many values may still be laid out; below 0, there were more."""

    revealed: Container[str]
    event: str
    left: int = field(default=MAX_VALUES)

    def render(self, value: Any, key: str, place: str, depth: int) -> Iterator[str | HiddenValue]:
        """key: what it stands under; in a list, what the list does."""
        self.left -= 1
        if isinstance(value, dict | list):
            yield from self._render_container(value, key, place, depth)
        elif value is None or isinstance(value, bool) or self._is_safe(value, key, place):
            yield _json(value)
        else:
            told = f"••• ({'number' if isinstance(value, int | float) else f'text, {len(value)}'})"
            name = place or "*"
            yield (
                HiddenValue(name, told, _json(value) if name in self.revealed else None)
                if len(name) <= MAX_NAME_LENGTH
                else told
            )

    def _render_container(self, value: Any, key: str, place: str, depth: int) -> Iterator[str | HiddenValue]:
        first, last = "{}" if isinstance(value, dict) else "[]"
        if not value:
            yield first + last
            return
        if depth >= MAX_DEPTH:
            yield f"{first} ••• too deep to be laid out {last}"
            return
        line = f"\n{'  ' * depth}"
        inside = (
            _dict_items(value) if isinstance(value, dict) else ((key, str(n), "", one) for n, one in enumerate(value))
        )
        before = first
        for name, at, head, one in inside:
            if self.left <= 0:
                self.left = -1
                yield f"{before}{line}  …"
                break
            yield f"{before}{line}  {head}"
            # Of a place that is too long to be asked for, only that is remembered.
            yield from self.render(one, name, f"{place}.{at}".lstrip(".")[: MAX_NAME_LENGTH + 1], depth + 1)
            before = ","
        yield line + last

    def _is_safe(self, value: Any, key: str, place: str) -> bool:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return True
        name = key.lower()
        if name not in SAFE_KEYS:
            return False
        if not isinstance(value, str):
            return True
        is_word = name not in EVENT_NAME_KEYS or " " not in value or place == self.event != ""
        return is_word and bool(_SAFE_VALUE.fullmatch(value) and not _ADDRESS.search(value))


def _dict_items(value: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Of each: its key, its name for the audit log, how it begins, its value."""
    for number, (key, one) in enumerate(value.items()):
        is_a_name = _is_safe_key(key)
        at = key if is_a_name and re.fullmatch(r"[\w-]+", key) else f"#{number}"
        yield key, at, f"{_json(key if is_a_name else '•••')}: ", one


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _is_safe_key(key: str) -> bool:
    """A key may be somebody's address too."""
    return len(key) <= 60 and not _ADDRESS.search(key) and not _PHONE.search(key)
