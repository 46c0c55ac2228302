"""Redaction of text that operators see: quoted responses, stored bodies, and the targets of activities.

A redacted body shows its structure, and the values that an allow-list declares as not personal.
"""

import re
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

from app.webhooks.personal_data import EVENT_NAME_KEYS, SAFE_KEYS

#: Replaces a hidden value.
REDACTED = "•••"
_EMAIL = re.compile(r"[^\s\"'<>@]+@[^\s\"'<>@]+")
#: An address in a query string or a filter.
_QUERY_EMAIL = re.compile(r"[^\s=&]+(?:@|%40)[^\s=&]+")
_PHONE = re.compile(r"\+?\d[\d\s().-]{6,}\d")
#: A key of personal data, in JSON or in a form, and its value, which may be truncated.
_PERSONAL_KEY = r"[\w\[\].%-]*(?:name|company|address|street|line\d|city|zip|postal_?code|phone|mobile|email|note)s?\]?"
_IN_JSON = re.compile(rf'("{_PERSONAL_KEY}"\s*:\s*)(?:"(?:[^"\\]|\\.)*(?:"|\\?$)|\[[^\]]*(?:\]|$))', re.IGNORECASE)
_IN_FORM = re.compile(rf"((?:^|[&?\s]){_PERSONAL_KEY}=)[^&\s]+", re.IGNORECASE)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)?")
_SAFE_VALUE = re.compile(r"[\w:./+ -]{0,200}")
_ADDRESS = re.compile(r"@|%40")

#: Each hidden value is a button in the browser.
MAX_VALUES, MAX_DEPTH = 2_000, 64
#: Fields with a longer path cannot be revealed.
MAX_PATH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class HiddenValue:
    """A value that may be personal. placeholder: its type and length. value: None until it is revealed."""

    path: str
    placeholder: str
    value: str | None


def redact_text(text: str) -> str:
    """Hide e-mail addresses, phone numbers, and the values of keys of personal data."""
    text = _IN_FORM.sub(rf"\1{REDACTED}", _IN_JSON.sub(rf'\1"{REDACTED}"', text))
    return _PHONE.sub(REDACTED, _EMAIL.sub(f"{REDACTED}@{REDACTED}", text))


def response_sentence(text: str) -> str:
    """Return what an API says in the response to a failed call, without personal data; empty if it has no sentence."""
    # The response is quoted in part, so it may be no complete JSON.
    match = _SENTENCE.search(text)
    with suppress(ValueError):
        return redact_text(orjson.loads(match[1])).strip() if match else ""
    return ""


_SENTENCE = re.compile(r'"(?:detail|message|error_description)"\s*:\s*("(?:[^"\\]|\\.)+")')


def redact_query(text: str) -> str:
    """Hide e-mail addresses, including URL-encoded ones."""
    return _QUERY_EMAIL.sub(REDACTED, text)


def redact_body(raw: bytes, revealed: Container[str] = (), event: tuple[str, ...] = ()) -> list[str | HiddenValue]:
    """Return the body as indented text, in pieces.

    revealed: paths of the values to show; `*` shows the whole body. event: the path of the event's name, which is shown.
    """
    if "*" in revealed:
        return [_full_body(raw)]
    try:
        parsed = _parse(raw)
    except ValueError:
        return [f"••• ({len(raw)} bytes that are neither JSON nor a form)"]
    renderer = _Renderer(revealed, ".".join(event))
    pieces = list(renderer.render(parsed, "", "", 0))
    omitted = _size(parsed)[0] - MAX_VALUES
    return [*pieces, f"\n… and {omitted:,} more" if renderer.remaining < 0 else ""]


def _full_body(raw: bytes) -> str:
    """Return the whole body. JSON is indented, unless that would change a number or produce too much text."""
    text = raw.decode("utf-8", "replace")
    try:
        parsed = orjson.loads(raw)
        values, indentation = _size(parsed)
        is_small = values <= 10 * MAX_VALUES and indentation <= 1_000_000
        if is_small and not re.search(r"\d{16,}", text) and orjson.loads(orjson.dumps(parsed)) == parsed:
            return orjson.dumps(parsed, option=orjson.OPT_INDENT_2).decode()
    except (ValueError, TypeError, RecursionError):  # orjson raises TypeError if the nesting is too deep
        pass
    return text


def _parse(raw: bytes) -> Any:
    """Parse JSON or a form. Raises ValueError."""
    try:
        return orjson.loads(raw)
    except ValueError:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=500))


def _size(parsed: Any) -> tuple[int, int]:
    """Count the values, including containers, and the characters of their indentation."""
    values, indentation, level = 0, 0, [parsed]
    for depth in range(2_000):
        if not level:
            break
        values, indentation = values + len(level), indentation + 2 * depth * len(level)
        containers = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        )
        level = [value for children in containers for value in children]
    return values, indentation


@dataclass(slots=True)
class _Renderer:
    """Renders a parsed body. remaining: the number of values to render; below 0 if values were omitted."""

    revealed: Container[str]
    event: str
    remaining: int = field(default=MAX_VALUES)

    def render(self, value: Any, key: str, path: str, depth: int) -> Iterator[str | HiddenValue]:
        """Yield the pieces of a value. key: its key, or for an element the key of its list."""
        self.remaining -= 1
        if isinstance(value, dict | list):
            yield from self._render_container(value, key, path, depth)
        elif value is None or isinstance(value, bool) or self._is_safe(value, key, path):
            yield _json(value)
        else:
            placeholder = f"••• ({'number' if isinstance(value, int | float) else f'text, {len(value)}'})"
            path = path or "*"
            if len(path) > MAX_PATH_LENGTH:
                yield placeholder
            else:
                yield HiddenValue(path, placeholder, _json(value) if path in self.revealed else None)

    def _render_container(self, value: Any, key: str, path: str, depth: int) -> Iterator[str | HiddenValue]:
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        if not value:
            yield opening + closing
            return
        if depth >= MAX_DEPTH:
            yield f"{opening} ••• too deep to show {closing}"
            return
        line = f"\n{'  ' * depth}"
        if isinstance(value, dict):
            children = _dict_items(value)
        else:
            children = ((key, str(number), "", child) for number, child in enumerate(value))
        separator = opening
        for child_key, segment, prefix, child in children:
            if self.remaining <= 0:
                self.remaining = -1
                yield f"{separator}{line}  …"
                break
            yield f"{separator}{line}  {prefix}"
            # A path that is too long to be revealed is truncated, but remains too long.
            yield from self.render(child, child_key, f"{path}.{segment}".lstrip(".")[: MAX_PATH_LENGTH + 1], depth + 1)
            separator = ","
        yield line + closing

    def _is_safe(self, value: Any, key: str, path: str) -> bool:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return True
        name = key.lower()
        if name not in SAFE_KEYS:
            return False
        if not isinstance(value, str):
            return True
        is_word = name not in EVENT_NAME_KEYS or " " not in value or path == self.event != ""
        return is_word and bool(_SAFE_VALUE.fullmatch(value) and not _ADDRESS.search(value))


def _dict_items(value: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Yield key, segment of the path, rendered key and value of each item. Unsafe keys are hidden in path and text."""
    for number, (key, child) in enumerate(value.items()):
        is_key_safe = _is_safe_key(key)
        segment = key if is_key_safe and re.fullmatch(r"[\w-]+", key) else f"#{number}"
        yield key, segment, f"{_json(key if is_key_safe else '•••')}: ", child


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _is_safe_key(key: str) -> bool:
    # A key may be an e-mail address or a phone number.
    return len(key) <= 60 and not _ADDRESS.search(key) and not _PHONE.search(key)
