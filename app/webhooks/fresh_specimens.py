"""Recorded deliveries with new ids and dates, so that they can be sent any number of times.

Their visits are in the future.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from app.webhooks.delivery import Delivery, UnreadableBody, header_lines
from app.webhooks.payload import Untranslatable
from app.webhooks.registry import load_sources, load_specimens, specimen_body
from app.webhooks.translation import parse_event

#: The fields of an expected change that are ids of the tool.
_ID_FIELDS = ("visit_id", "previous_visit_id", "payment_id")
#: Shorter parts of an id are names of types, or too common in a body to be replaced.
_MIN_ID_CHARS = 3
_ID_PART = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9A-Za-z_]+")
#: An id does not begin inside a word; it can begin after a percent-encoded character of a form.
_ID_START = r"(?:(?<![0-9A-Za-z])|(?<=%[0-9A-F][0-9A-F]))"
#: A date, alone or at the start of a time; a time in seconds or milliseconds since 1970.
_DATE = re.compile(r"(?<![\w-])20[2-4]\d-(?:0[1-9]|1[0-2])-(?:[0-2]\d|3[01])(?![\d-])")
_UNIX_TIME = re.compile(r"(?<![\w.+-])(1[6-9]\d{8})(\d{3})?(?![\w.])")
#: The visits of refreshed deliveries start at least this long after now.
_AHEAD = timedelta(days=1)


def refresh(source: str, recorded: Mapping[str, Any], name: str, now: datetime) -> dict[str, Any]:
    """Return a recorded delivery with ids that are derived from `name`, and with dates around now.

    On one day, the same name gives the same ids and dates in all deliveries of a source, so these deliveries are about
    the same visits. All recorded parts change: body, headers, records of the tool's API, and the expected changes.
    """
    text = orjson.dumps(recorded).decode()
    for id in sorted(set(_ids(source, recorded)), key=len, reverse=True):
        text = re.sub(rf"{_ID_START}{re.escape(id)}(?![0-9A-Za-z])", fresh_id(id, name), text)
    shift = timedelta(days=(now - _reference_time(load_specimens(source)["deliveries"])).days)
    text = _DATE.sub(lambda match: _shift_date(match[0], shift), text)
    text = _UNIX_TIME.sub(lambda match: f"{int(match[1]) + int(shift.total_seconds())}{match[2] or ''}", text)
    refreshed: dict[str, Any] = orjson.loads(text)
    return refreshed


def _reference_time(deliveries: Sequence[Mapping[str, Any]]) -> datetime:
    """Return the recorded time that becomes today: the latest one that is well before the visit of its delivery."""
    times = [
        now
        for recorded in deliveries
        if isinstance(recorded["expect"], list)
        for now in [datetime.fromisoformat(recorded["now"])]
        if any(now + 2 * _AHEAD < start for start in map(_start, recorded["expect"]) if start)
    ]
    return max(times, default=datetime.fromisoformat(deliveries[0]["now"]))


def _start(change: Mapping[str, Any]) -> datetime | None:
    return datetime.fromisoformat(change["time_scheduled"]) if change.get("time_scheduled") else None


def _shift_date(text: str, shift: timedelta) -> str:
    try:
        return (datetime.fromisoformat(text) + shift).date().isoformat()
    except ValueError:  # February 30
        return text


def _ids(source: str, recorded: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids in a delivery: those of visits and payments, and the repeat key.

    An id that is encoded in the body is not found, and stays unchanged.
    """
    changes = recorded["expect"] if isinstance(recorded["expect"], list) else []
    ids = [str(change[field]) for change in changes for field in _ID_FIELDS if change.get(field)]
    text = orjson.dumps([recorded["body"], recorded["headers"]]).decode()
    # An id may have several parts, such as the tenant or a digest of the person.
    parts = (part for id in ids for part in ([id] if id in text else _ID_PART.findall(id)))
    yield from (
        part for part in (*parts, *_repeat_key(source, recorded)) if len(part) >= _MIN_ID_CHARS and part in text
    )


def _repeat_key(source: str, recorded: Mapping[str, Any]) -> Iterator[str]:
    tool, lines = load_sources()[source], header_lines(recorded["headers"])
    delivery = Delivery(source, source, lines, specimen_body(recorded), datetime.min.replace(tzinfo=UTC))
    try:
        key = tool.definition.repeat_key and tool.definition.repeat_key(parse_event(tool, delivery))
    except (UnreadableBody, Untranslatable):
        return
    if key:
        yield key


def fresh_id(id: str, name: str) -> str:
    """Return another id of the same form: digits become other digits; letters change only if there are few digits."""
    digest = hashlib.shake_256(f"{name} {id}".encode()).digest(len(id))
    is_hex = re.fullmatch(r"[0-9a-f-]{16,}", id)
    few_digits = sum(map(str.isdigit, id)) < 6
    characters = []
    for number, (character, byte) in enumerate(zip(id, digest, strict=True)):
        if character.isdigit():
            is_first = number == 0 or not id[number - 1].isalnum()
            characters.append("123456789"[byte % 9] if is_first else "0123456789"[byte % 10])
        elif is_hex and character != "-":
            characters.append("abcdef"[byte % 6])
        elif character.isalpha() and few_digits:
            letter = "bcdfghjkmnpqrstvwxz"[byte % 19]
            characters.append(letter.upper() if character.isupper() else letter)
        else:
            characters.append(character)
    return "".join(characters)
