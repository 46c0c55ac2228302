"""What arrived, and what is believed of it: a Delivery is raw bytes and headers, an Event is a parsed delivery whose
signature held."""

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

#: `any`: whichever of the three it looks like.
BodyFormat = Literal["json", "form", "json or form", "jwt", "any"]


class UnreadableBody(Exception):
    """The signature holds, but the body is not what the tool's content type promises."""


class UnsupportedContentType(Exception):
    """The body calls itself something that this tool never sends."""


class UnsupportedContentEncoding(Exception):
    """The body is compressed, or in a way that this tool never uses."""


class BodyTooLarge(Exception):
    """What comes out of a compressed body is larger than a body may be."""


@dataclass(slots=True)
class Delivery:
    """One HTTP request as it arrives: the headers first, then the raw body.

    headers: as ASGI hands them over: lower-case names, one pair per line that was sent.
    token: what stood behind the hook's name in the address. query: what stood behind `?`.
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
        return [value for given, value in self.headers if given == key] if key in self._header_by_name else []

    def single_header(self, name: str) -> bytes | None:
        """The header's one line; None where there is none, or several."""
        if len(self._header_by_name) == len(self.headers):
            return self._header_by_name.get(_header_key(name))
        lines = self.header_values(name)
        return lines[0] if len(lines) == 1 else None

    def header(self, name: str) -> str | None:
        """The first line of that name, as text; of `?name` the parameter of the address."""
        line = self._header_by_name.get(_header_key(name))
        if line is not None:
            return line.decode("latin-1")
        return self._query_parameter(name[1:]) if self.query and name.startswith("?") else None

    def _query_parameter(self, name: str) -> str | None:
        parameters = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return next((value for named, value in parameters if named == name), None)


@cache
def _header_key(name: str) -> bytes:
    return name.lower().encode()


@dataclass(slots=True)
class Event:
    """A delivery that is believed.

    data: the parsed body; a form is an object of texts.
    headers: only those that the source asks for.
    record: what a thin event pointed at, once fetched; None before, and where the tool says that it is gone.
    related: what else was fetched with it (`RecordRequest.follow_up`), by name.
    people: whom the records of this booking listed so far, as the source's `people` names them, this record's included;
        those first who were listed first. None where nobody counts them.
    record_path: the path of the request that the record answers; there is one for each record of a thin event.
    fetched_at: when the fetch of the record began.
    zone: what local times without an offset mean (the hook's TIMEZONE).
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
        """record, related: parsed JSON, or None where the tool answered that there is no such record."""
        read = None if record is None else Payload(record, "record")
        others = {name: Payload(value, name) for name, value in (related or {}).items()}
        return replace(self, record=read, fetched_at=fetched_at, related=others, record_path=record_path)


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
    """A missing content type is forgiven, a wrong one is not. Raises UnsupportedContentType."""
    if not _accepts((delivery.header("content-type") or "")[:MAX_CONTENT_TYPE_CHARS], body_format):
        raise UnsupportedContentType(f"this hook takes {' or '.join(_CONTENT_TYPES[body_format])}")


#: What strangers write is not remembered at any length.
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
    """How the body is compressed, as `gzip`; several are separated by commas. Empty: it is not."""
    if delivery.header("content-encoding") is None:
        return ""
    given = b",".join(delivery.header_values("content-encoding")).decode("latin-1").lower()
    names = [name.strip() for name in given.split(",")]
    return ", ".join("gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity"))


def check_content_encoding(delivery: Delivery, accepted: tuple[str, ...]) -> None:
    """Raises UnsupportedContentEncoding."""
    encoding = content_encoding(delivery)
    if encoding and encoding not in accepted:
        raise UnsupportedContentEncoding(
            f"this hook takes bodies {' or '.join(('without a content encoding', *accepted))}"
        )


def decompress(raw: bytes, max_bytes: int) -> bytes:
    """What one gzip member holds; never more than `max_bytes` of it in memory. Raises UnreadableBody, BodyTooLarge."""
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        read = member.decompress(raw, max_bytes + 1)
    except zlib.error:
        raise UnreadableBody("the body is not what its content encoding says") from None
    if len(read) > max_bytes:
        raise BodyTooLarge
    if not member.eof:
        raise UnreadableBody("the compressed body is not complete")
    if member.unused_data:
        raise UnreadableBody("something follows the compressed body")
    return read


def parse_body(delivery: Delivery, body_format: BodyFormat) -> Payload:
    """The body as JSON. Raises UnreadableBody: not UTF-8, not JSON (NaN included), nested too deep, not a form."""
    raw = delivery.body.strip()
    if not raw:
        raise UnreadableBody("the body is empty")
    if body_format == "jwt" or (body_format == "any" and JWT_PATTERN.fullmatch(raw)):
        return Payload(_parse_claims(raw))
    # Old Jobber apps get JSON that calls itself a form, so what may be either is taken for what it looks like.
    is_json = raw.startswith(b"{") or (body_format == "any" and raw.startswith(b"["))
    is_form = body_format == "form" or (body_format in ("json or form", "any") and not is_json)
    try:
        return Payload(_parse_form(delivery.body) if is_form else _parse_json(delivery.body))
    except ValueError:
        raise UnreadableBody(f"the body is not {'a form' if is_form else 'JSON in UTF-8'}") from None


def _parse_claims(raw: bytes) -> Any:
    """What a token says; that it says so is for its signature to prove."""
    claims = decode_base64url(raw.split(b".")[1]) if JWT_PATTERN.fullmatch(raw) else None
    try:
        return _parse_json(claims or b"")
    except ValueError:
        raise UnreadableBody("the body is not a JSON Web Token") from None


def decode_base64url(encoded: bytes) -> bytes | None:
    """The bytes; None where it is not what base64 for URLs writes of any bytes."""
    try:
        decoded = base64.urlsafe_b64decode(encoded + b"==")  # more of these than are needed are passed over
    except ValueError:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=") == encoded.rstrip(b"=") else None


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        # JavaScript that cuts an emoji in two leaves half of it, `\ud83d`; a booking is not refused for that.
        return orjson.loads(_LONE_SURROGATE.sub(rb"\\ufffd", raw))


_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _parse_form(raw: bytes) -> dict[str, str]:
    return dict(
        parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=500)
    )
