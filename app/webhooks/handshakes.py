"""Handshakes and probes as data: what a tool sends before it believes that an address is ours.

A handshake never writes anything. One that the tool signs is answered only after the signature holds, since an answer
may itself be a signature: whoever could have it made unsigned could forge deliveries. One that is not signed is
answered with our own words, or with a token of a harmless shape.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

import orjson

from app.webhooks.delivery import Delivery, Event

_HARMLESS = re.compile(r"[A-Za-z0-9._~=+/-]{1,256}")
#: No message that a tool signs is only this.
_NEVER_SIGNED = re.compile(r"[A-Za-z0-9_=+/-]{1,256}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the tool wants to hear."""

    body: bytes = b"{}"
    content_type: str = "application/json"


class Unsigned(Protocol):
    """A handshake that comes without a signature, by POST or by GET."""

    def answer(self, delivery: Delivery) -> Reply | None: ...


class Signed(Protocol):
    """A handshake that is answered after the signature holds. secret: the one that matched."""

    def answer(self, event: Event, secret: str) -> Reply | None: ...


@dataclass(frozen=True)
class FixedBody:
    """One known body and no signature header: answered with 200, and nothing else happens.

    The body is compared with its white space taken out; nothing is parsed before a signature holds.
    """

    body: bytes
    unless_header: str

    def answer(self, delivery: Delivery) -> Reply | None:
        if len(delivery.raw) > 2 * len(self.body) or delivery.header_lines(self.unless_header):
            return None
        return Reply() if b"".join(delivery.raw.split()) == self.body else None


@dataclass(frozen=True)
class EchoQuery:
    """`GET …?challenge=abc` wants to hear `abc`."""

    name: str

    def answer(self, delivery: Delivery) -> Reply | None:
        if delivery.method != "GET" or len(delivery.query) > 2_048:
            return None
        given = dict(parse_qsl(delivery.query.decode("latin-1"))).get(self.name, "")
        return Reply(given.encode(), "text/plain") if _HARMLESS.fullmatch(given) else None


@dataclass(frozen=True)
class EchoField:
    """An event with a field that wants to hear it back. when: a path into the body, and what stands there then."""

    field: tuple[str, ...]
    when: tuple[tuple[str, ...], str]

    def answer(self, event: Event, secret: str) -> Reply | None:
        path, value = self.when
        given = event.data.at(*self.field).value
        if event.data.at(*path).value != value or not isinstance(given, str) or not _HARMLESS.fullmatch(given):
            return None
        return Reply(given.encode(), "text/plain")


@dataclass(frozen=True)
class SignField:
    """An event with a token that wants it back with its HMAC-SHA256 in hexadecimal, under the secret of the signature.

    when: a path into the body, and what stands there then. token: where the token is. plain, signed: what the two are
    called in the answer.
    """

    token: tuple[str, ...]
    when: tuple[tuple[str, ...], str]
    plain: str
    signed: str

    def answer(self, event: Event, secret: str) -> Reply | None:
        path, value = self.when
        given = event.data.at(*self.token).value
        if event.data.at(*path).value != value or not isinstance(given, str) or not _NEVER_SIGNED.fullmatch(given):
            return None
        digest = hmac.digest(secret.encode(), given.encode(), hashlib.sha256).hex()
        return Reply(orjson.dumps({self.plain: given, self.signed: digest}))
