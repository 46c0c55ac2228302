"""The API's last answer for a visit, as it is stored: with short names, and without what follows from other fields."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.visits.merge import CONTACT_KEY, FOREIGN_KEY

_FULL_NAMES = {
    "i": "id",
    "c": "contact_id",
    "s": "time_scheduled",
    "f": "time_completed",
    "m": "amount_collected",
    "x": "date_cancelled",
    "e": "event_date",
    "k": CONTACT_KEY,
    "o": FOREIGN_KEY,
}
_SHORT_NAMES = {name: short for short, name in _FULL_NAMES.items()}


def encode_remote(remote: Mapping[str, Any]) -> bytes:
    stored = {_SHORT_NAMES.get(name, name): value for name, value in remote.items() if name != "event_date"}
    if (date := remote.get("event_date")) != _usual_event_date(remote):
        stored["e"] = date
    return orjson.dumps(stored)


def decode_remote(stored: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(stored)
    remote = {_FULL_NAMES.get(name, name): value for name, value in fields.items() if name != "e"}
    if date := fields.get("e", _usual_event_date(remote)):
        remote["event_date"] = date
    return remote


def _usual_event_date(remote: Mapping[str, Any]) -> Any:
    """Return the `event_date` of almost every visit: it is stored only if it differs."""
    return remote.get("time_completed") or remote.get("time_scheduled")
