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

from app.webhooks.payload import Json

#: `any`: whichever of the three it looks like.
Form = Literal["json", "form", "json or form", "jwt", "any"]


class Unreadable(Exception):
    """The signature holds, but the body is not what the tool's content type promises."""


class WrongContentType(Exception):
    """The body calls itself something that this tool never sends."""


class WrongContentEncoding(Exception):
    """The body is compressed, or in a way that this tool never uses."""


class TooLarge(Exception):
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
    raw: bytes
    received_at: datetime
    request_id: str = ""
    token: str = ""
    method: str = "POST"
    query: bytes = b""
    _named: dict[bytes, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._named = dict(reversed(self.headers))

    def header_lines(self, name: str) -> list[bytes]:
        wanted = _as_sent(name)
        return [value for given, value in self.headers if given == wanted] if wanted in self._named else []

    def only_line(self, name: str) -> bytes | None:
        """The header's one line; None where there is none, or several."""
        if len(self._named) == len(self.headers):
            return self._named.get(_as_sent(name))
        lines = self.header_lines(name)
        return lines[0] if len(lines) == 1 else None

    def header(self, name: str) -> str | None:
        """The first line of that name, as text; of `?name` the parameter of the address."""
        line = self._named.get(_as_sent(name))
        if line is not None:
            return line.decode("latin-1")
        return self._parameter(name[1:]) if self.query and name.startswith("?") else None

    def _parameter(self, name: str) -> str | None:
        asked = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return next((value for named, value in asked if named == name), None)


@cache
def _as_sent(name: str) -> bytes:
    return name.lower().encode()


@dataclass(slots=True)
class Event:
    """A delivery that is believed.

    data: the parsed body; a form is an object of texts.
    headers: only those that the source asks for.
    record: what a thin event pointed at, once fetched; None before, and where the tool says that it is gone.
    beside: what else was fetched with it (`Get.then`), by name; of nothing where the tool has no such record.
    people: whom the records of this booking listed so far, as the source's `people` names them, this record's included;
        those first who were listed first. None where nobody counts them.
    asked: the path of the Get that the record answers; there is one for each record of a thin event.
    fetched_at: when the fetch of the record began.
    zone: what local times without an offset mean (the hook's TIMEZONE).
    """

    source: str
    data: Json
    received_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    record: Json | None = None
    beside: Mapping[str, Json] = field(default_factory=dict)
    people: tuple[str, ...] | None = None
    asked: str = ""
    fetched_at: datetime | None = None
    zone: tzinfo | None = None

    def with_record(
        self, record: Any, fetched_at: datetime, beside: Mapping[str, Any] | None = None, asked: str = ""
    ) -> "Event":
        """record, beside: parsed JSON, or None where the tool answered that there is no such record."""
        read = None if record is None else Json(record, "record")
        others = {name: Json(value, name) for name, value in (beside or {}).items()}
        return replace(self, record=read, fetched_at=fetched_at, beside=others, asked=asked)


_JSON, _FORM = ("application/json", "text/json"), ("application/x-www-form-urlencoded",)
_TOKEN = ("text/plain", "application/jwt", "application/jose")
_CONTENT_TYPES: dict[Form, tuple[str, ...]] = {
    "json": _JSON,
    "form": _FORM,
    "json or form": _JSON + _FORM,
    "jwt": _TOKEN + _JSON,
    "any": _JSON + _FORM + _TOKEN,
}
#: A JSON Web Token in its compact form.
JWT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+=?")


def check_content_type(delivery: Delivery, form: Form) -> None:
    """A missing content type is forgiven, a wrong one is not. Raises WrongContentType."""
    if not _is_taken((delivery.header("content-type") or "")[:LONGEST_TYPE], form):
        raise WrongContentType(f"this hook takes {' or '.join(_CONTENT_TYPES[form])}")


#: What strangers write is not remembered at any length.
LONGEST_TYPE = 200


@lru_cache(256)
def _is_taken(content_type: str, form: Form) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind in _CONTENT_TYPES[form] or (kind.endswith("+json") and form != "form")


def content_encoding(delivery: Delivery) -> str:
    """How the body is compressed, as `gzip`; several are separated by commas. Empty: it is not."""
    if delivery.header("content-encoding") is None:
        return ""
    given = b",".join(delivery.header_lines("content-encoding")).decode("latin-1").lower()
    names = [name.strip() for name in given.split(",")]
    return ", ".join("gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity"))


def check_content_encoding(delivery: Delivery, taken: tuple[str, ...]) -> None:
    """Raises WrongContentEncoding."""
    encoding = content_encoding(delivery)
    if encoding and encoding not in taken:
        raise WrongContentEncoding(f"this hook takes bodies {' or '.join(('without a content encoding', *taken))}")


def decompress(raw: bytes, most: int) -> bytes:
    """What one gzip member holds; never more than `most` bytes of it in memory. Raises Unreadable, TooLarge."""
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        read = member.decompress(raw, most + 1)
    except zlib.error:
        raise Unreadable("the body is not what its content encoding says") from None
    if len(read) > most:
        raise TooLarge
    if not member.eof:
        raise Unreadable("the compressed body is not complete")
    if member.unused_data:
        raise Unreadable("something follows the compressed body")
    return read


def parse_body(delivery: Delivery, form: Form) -> Json:
    """The body as JSON. Raises Unreadable: not UTF-8, not JSON (NaN included), nested too deep, not a form."""
    raw = delivery.raw.strip()
    if not raw:
        raise Unreadable("the body is empty")
    if form == "jwt" or (form == "any" and JWT.fullmatch(raw)):
        return Json(_parse_claims(raw))
    # Old Jobber apps get JSON that calls itself a form, so what may be either is taken for what it looks like.
    is_json = raw.startswith(b"{") or (form == "any" and raw.startswith(b"["))
    is_form = form == "form" or (form in ("json or form", "any") and not is_json)
    try:
        return Json(_parse_form(delivery.raw) if is_form else _parse_json(delivery.raw))
    except ValueError:
        raise Unreadable(f"the body is not {'a form' if is_form else 'JSON in UTF-8'}") from None


def _parse_claims(raw: bytes) -> Any:
    """What a token says; that it says so is for its signature to prove."""
    claims = from_base64url(raw.split(b".")[1]) if JWT.fullmatch(raw) else None
    try:
        return _parse_json(claims or b"")
    except ValueError:
        raise Unreadable("the body is not a JSON Web Token") from None


def from_base64url(written: bytes) -> bytes | None:
    """The bytes; None where it is not what base64 for URLs writes of any bytes."""
    try:
        read = base64.urlsafe_b64decode(written + b"==")  # more of these than are needed are passed over
    except ValueError:
        return None
    return read if base64.urlsafe_b64encode(read).rstrip(b"=") == written.rstrip(b"=") else None


def _parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        # JavaScript that cuts an emoji in two leaves half of it, `\ud83d`; a booking is not refused for that.
        return orjson.loads(_HALF_A_CHARACTER.sub(rb"\\ufffd", raw))


_HALF_A_CHARACTER = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def _parse_form(raw: bytes) -> dict[str, str]:
    return dict(
        parse_qsl(raw.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=500)
    )
