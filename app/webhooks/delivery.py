"""Deliveries (headers and raw body) and events (verified, parsed deliveries)."""

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from functools import cache, lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl

import orjson

from app.webhooks.payload import Payload

#: `any`: JSON, form or JWT, detected from the body.
BodyFormat = Literal["json", "form", "json or form", "jwt", "any"]


class UnreadableBody(Exception):
    """The signature is valid, but the body does not have the tool's format."""


class UnsupportedContentType(Exception):
    """The tool never sends this content type."""


class UnsupportedContentEncoding(Exception):
    """The tool never uses this content encoding."""


class BodyTooLarge(Exception):
    """The decompressed body exceeds the limit."""


@dataclass(slots=True)
class Delivery:
    """One HTTP request as it arrived. Intake creates it with the headers and adds the raw body later.

    headers: in the format of ASGI: lower-case names, one pair per header line.
    token: the part of the path after the hook's name.
    query: the raw query string, without `?`.
    """

    hook: str
    source: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    received_at: datetime
    request_id: str = ""
    token: str = ""
    method: str = "POST"
    query: bytes = b""
    _header_by_name: dict[bytes, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._header_by_name = dict(reversed(self.headers))

    def header_values(self, name: str) -> list[bytes]:
        key = _header_key(name)
        return [value for header, value in self.headers if header == key] if key in self._header_by_name else []

    def single_header(self, name: str) -> bytes | None:
        """Return the only line of this header; None if there is no line, or several."""
        if len(self._header_by_name) == len(self.headers):
            return self._header_by_name.get(_header_key(name))
        lines = self.header_values(name)
        return lines[0] if len(lines) == 1 else None

    def header(self, name: str) -> str | None:
        """Return the first line of this header as text. For `?name`, return the query parameter `name`."""
        line = self._header_by_name.get(_header_key(name))
        if line is not None:
            return line.decode("latin-1")
        return self._query_parameter(name[1:]) if self.query and name.startswith("?") else None

    def _query_parameter(self, name: str) -> str | None:
        parameters = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return next((value for parameter, value in parameters if parameter == name), None)


def header_lines(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Return headers in the format of `Delivery.headers`."""
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())


@cache
def _header_key(name: str) -> bytes:
    return name.lower().encode()


@dataclass(slots=True)
class Event:
    """A verified, parsed delivery.

    data: the parsed body; a form is an object of strings.
    headers: only the source's `stored_headers`.
    record: the fetched record of a thin event; None before the fetch, or if the tool has no such record.
    related: other records that were fetched with it (`RecordRequest.follow_up`), by name.
    people: the ids of all people that any record of this booking has listed (see `people` in source.py), in order of
        their first listing. None if the source has no `people`.
    record_path: the path of the request for the record. `translate` runs once for each record of a thin event.
    fetched_at: when the fetch of the record began.
    zone: the time zone of local times without an offset (the hook's TIMEZONE).
    """

    source: str
    data: Payload
    received_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    record: Payload | None = None
    related: Mapping[str, Payload] = field(default_factory=dict)
    people: tuple[str, ...] | None = None
    record_path: str = ""
    fetched_at: datetime | None = None
    zone: tzinfo | None = None

    def with_record(
        self, record: Any, fetched_at: datetime, related: Mapping[str, Any] | None = None, record_path: str = ""
    ) -> "Event":
        """Return the event with its record. record, related: parsed JSON, or None if the tool has no such record."""
        return replace(
            self,
            record=None if record is None else Payload(record, "record"),
            related={name: Payload(value, name) for name, value in (related or {}).items()},
            fetched_at=fetched_at,
            record_path=record_path,
        )


_JSON, _FORM = ("application/json", "text/json"), ("application/x-www-form-urlencoded",)
_TOKEN = ("text/plain", "application/jwt", "application/jose")
_CONTENT_TYPES: dict[BodyFormat, tuple[str, ...]] = {
    "json": _JSON,
    "form": _FORM,
    "json or form": _JSON + _FORM,
    "jwt": _TOKEN + _JSON,
    "any": _JSON + _FORM + _TOKEN,
}
#: A JSON Web Token in its compact form.
JWT_PATTERN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+=?")


def check_content_type(delivery: Delivery, body_format: BodyFormat) -> None:
    """Raise UnsupportedContentType for a wrong content type. A missing one is accepted."""
    if not _accepts((delivery.header("content-type") or "")[:MAX_CONTENT_TYPE_CHARS], body_format):
        raise UnsupportedContentType(f"this hook accepts {' or '.join(_CONTENT_TYPES[body_format])}")


#: Limits the size of the cache of `_accepts`: anyone can send any content type.
MAX_CONTENT_TYPE_CHARS = 200


@lru_cache(256)
def _accepts(content_type: str, body_format: BodyFormat) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return (
        not media_type
        or media_type in _CONTENT_TYPES[body_format]
        or (media_type.endswith("+json") and body_format != "form")
    )


def content_encoding(delivery: Delivery) -> str:
    """Return the encodings of the body, such as `gzip`, separated by commas; empty if there is none."""
    if delivery.header("content-encoding") is None:
        return ""
    value = b",".join(delivery.header_values("content-encoding")).decode("latin-1").lower()
    names = [name.strip() for name in value.split(",")]
    return ", ".join("gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity"))


def check_content_encoding(delivery: Delivery, accepted: tuple[str, ...]) -> None:
    """Raise UnsupportedContentEncoding for an encoding that is not accepted."""
    encoding = content_encoding(delivery)
    if encoding and encoding not in accepted:
        raise UnsupportedContentEncoding(
            f"this hook accepts bodies {' or '.join(('without a content encoding', *accepted))}"
        )


def decompress(raw: bytes, max_bytes: int) -> bytes:
    """Decompress one gzip member, with at most `max_bytes` + 1 bytes in memory. Raise UnreadableBody, BodyTooLarge."""
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = member.decompress(raw, max_bytes + 1)
    except zlib.error:
        raise UnreadableBody("the body does not match its content encoding") from None
    if len(body) > max_bytes:
        raise BodyTooLarge
    if not member.eof:
        raise UnreadableBody("the compressed body is not complete")
    if member.unused_data:
        raise UnreadableBody("the compressed body is followed by other data")
    return body


def parse_body(delivery: Delivery, body_format: BodyFormat) -> Payload:
    """Parse the body.

    Raise UnreadableBody if it is not UTF-8, not JSON (NaN is not), nested too deep, or not a form.
    """
    raw = delivery.body.strip()
    if not raw:
        raise UnreadableBody("the body is empty")
    if body_format == "jwt" or (body_format == "any" and JWT_PATTERN.fullmatch(raw)):
        return Payload(_parse_claims(raw))
    # Old Jobber apps send JSON with the content type of a form, so the first byte decides.
    is_json = raw.startswith(b"{") or (body_format == "any" and raw.startswith(b"["))
    is_form = body_format == "form" or (body_format in ("json or form", "any") and not is_json)
    try:
        return Payload(_parse_form(delivery.body) if is_form else parse_json(delivery.body))
    except ValueError:
        raise UnreadableBody(f"the body is not {'a form' if is_form else 'JSON in UTF-8'}") from None


def _parse_claims(raw: bytes) -> Any:
    """Return the claims of a JSON Web Token. The signature is not checked here."""
    claims = decode_base64url(raw.split(b".")[1]) if JWT_PATTERN.fullmatch(raw) else None
    try:
        return parse_json(claims or b"")
    except ValueError:
        raise UnreadableBody("the body is not a JSON Web Token") from None


def decode_base64url(encoded: bytes) -> bytes | None:
    """Decode URL-safe base64; return None if it is not in canonical form."""
    try:
        decoded = base64.urlsafe_b64decode(encoded + b"==")  # extra padding is ignored
    except ValueError:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == encoded.rstrip(b"=") else None


def parse_json(raw: bytes) -> Any:
    """Return the JSON of a tool. Raises ValueError."""
    try:
        return orjson.loads(raw)
    except ValueError:
        # A JavaScript program that truncates a string in the middle of an emoji sends a lone surrogate, `\ud83d`.
        return orjson.loads(_LONE_SURROGATE.sub(rb"\\ufffd", raw))


_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _parse_form(raw: bytes) -> dict[str, str]:
    return dict(
        parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=500)
    )
