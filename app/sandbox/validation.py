"""Parses and validates requests: bodies, form fields, timestamps, amounts and page numbers."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from app.sandbox.store import Row, iso_timestamp


class ApiError(Exception):
    """An invalid request: its status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"error": code, "detail": detail, **fields}


def unprocessable(name: str, problem: str) -> ApiError:
    return ApiError(422, "unprocessable", f"{name} {problem}", field=name)


def text(name: str, value: Any) -> str:
    """Return the value as text. Accepts a JSON integer as its digits; rejects lone surrogates, which JSON can contain."""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        with contextlib.suppress(UnicodeEncodeError):
            return str(value).encode().decode()
    raise unprocessable(name, "must be text")


def timestamp(name: str, value: Any) -> str:
    """Convert to UTC, without fractions of a second."""
    try:
        moment = datetime.fromisoformat(text(name, value))
        if moment.tzinfo is not None:
            return iso_timestamp(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    raise unprocessable(name, "must be an ISO 8601 timestamp with a time zone, like 2025-02-17T09:00:00Z")


def amount(name: str, value: Any) -> str:
    """Normalize to two decimal places. Rejects further digits other than zero, because rounding would lose money."""
    parts = re.fullmatch(r"0*([0-9]{1,12})(?:\.([0-9]{1,2})0*)?", text(name, value))
    if parts is None:
        raise unprocessable(name, "must be a decimal with at most two places, like 120.00")
    return f"{parts[1]}.{parts[2] or '':0<2}"


def check_email(address: str) -> None:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
        raise unprocessable("email", "must be an e-mail address")


UPDATABLE: Mapping[str, Callable[[str, Any], str]] = {
    "time_scheduled": timestamp,
    "time_completed": timestamp,
    "amount_collected": amount,
    "date_cancelled": timestamp,
    "event_date": timestamp,
}


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def updates(fields: Mapping[str, Any]) -> Row:
    """Return the updatable fields of the request, None where the value is empty. Other fields are ignored."""
    return {
        name: None if is_empty(fields[name]) else parse(name, fields[name])
        for name, parse in UPDATABLE.items()
        if name in fields
    }


def texts(fields: Mapping[str, Any], names: tuple[str, ...]) -> Row:
    """Return the named fields that are not empty."""
    return {name: text(name, fields[name]) for name in names if not is_empty(fields.get(name))}


def required(fields: Mapping[str, Any], name: str) -> str:
    if is_empty(fields.get(name)):
        raise unprocessable(name, "is missing")
    return text(name, fields[name])


def positive_integer(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", value) or not 1 <= int(value) <= maximum:
        raise unprocessable(name, f"must be a whole number from 1 to {maximum}")
    return int(value)


def json_object(body: bytes) -> dict[str, Any]:
    try:
        # Decimals are not parsed: 120.10 must not become 120.1.
        content = json.loads(body, parse_float=str)
    except (ValueError, RecursionError):
        raise ApiError(422, "unreadable", "the body is not JSON") from None
    if not isinstance(content, dict):
        raise ApiError(422, "unreadable", "the body must be a JSON object")
    return content


def body_fields(content_type: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if "json" in content_type:
        return json_object(body)
    if "multipart" in content_type:
        raise ApiError(422, "unreadable", "send a form (application/x-www-form-urlencoded) or JSON")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise ApiError(422, "unreadable", "the form is not UTF-8") from None
