"""Handshakes: requests with which a tool tests that a URL belongs to a receiver of its webhooks.

A handshake stores nothing. A signed handshake is answered only after its signature was verified, because the reply may
itself be a signature: a sender who got a reply to an unsigned request could forge deliveries. The reply to an unsigned
handshake is a fixed text, or a token of safe characters.
"""

import hashlib
import hmac
import re
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

import orjson

from app.webhooks.delivery import Delivery, Event

_SAFE_ECHO = re.compile(r"[A-Za-z0-9._~=+/-]{1,256}")
#: A token of these characters cannot be the signed message of a delivery.
_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_=+/-]{1,256}")


class HandshakeReply(NamedTuple):
    body: bytes = b"{}"
    content_type: str = "application/json"


class UnsignedHandshake(Protocol):
    """A handshake without a signature, by POST or by GET."""

    def answer(self, delivery: Delivery) -> HandshakeReply | None: ...


class SignedHandshake(Protocol):
    """A handshake that is answered after its signature was verified. `secret` is the secret that matched."""

    def answer(self, event: Event, secret: str) -> HandshakeReply | None: ...


class FixedBody(NamedTuple):
    """A fixed body without a signature header; it is answered 200.

    The body is compared without white space, because nothing is parsed before a signature was verified.
    """

    body: bytes
    absent_header: str

    def answer(self, delivery: Delivery) -> HandshakeReply | None:
        if len(delivery.body) > 2 * len(self.body) or delivery.header_values(self.absent_header):
            return None
        return HandshakeReply() if b"".join(delivery.body.split()) == self.body else None


class EchoQuery(NamedTuple):
    """Answers `GET …?challenge=abc` with `abc`."""

    parameter: str

    def answer(self, delivery: Delivery) -> HandshakeReply | None:
        if delivery.method != "GET" or len(delivery.query) > 2_048:
            return None
        value = dict(parse_qsl(delivery.query.decode("latin-1"))).get(self.parameter, "")
        return HandshakeReply(value.encode(), "text/plain") if _SAFE_ECHO.fullmatch(value) else None


class EchoField(NamedTuple):
    """An event whose field must be echoed. match: a path into the body, and the value that marks the event."""

    echo_path: tuple[str, ...]
    match: tuple[tuple[str, ...], str]

    def answer(self, event: Event, secret: str) -> HandshakeReply | None:
        path, value = self.match
        echo = event.data.at(*self.echo_path).value
        if event.data.at(*path).value != value or not isinstance(echo, str) or not _SAFE_ECHO.fullmatch(echo):
            return None
        return HandshakeReply(echo.encode(), "text/plain")


class SignField(NamedTuple):
    """An event with a token that the response must repeat, together with the token's HMAC-SHA256 in hexadecimal.

    The key is the secret of the signature.

    match: a path into the body, and the value that marks the event.
    token_path: the path to the token.
    token_field, signature_field: the names of both in the response.
    """

    token_path: tuple[str, ...]
    match: tuple[tuple[str, ...], str]
    token_field: str
    signature_field: str

    def answer(self, event: Event, secret: str) -> HandshakeReply | None:
        path, value = self.match
        token = event.data.at(*self.token_path).value
        if event.data.at(*path).value != value or not isinstance(token, str) or not _SAFE_TOKEN.fullmatch(token):
            return None
        digest = hmac.digest(secret.encode(), token.encode(), hashlib.sha256).hex()
        return HandshakeReply(orjson.dumps({self.token_field: token, self.signature_field: digest}))
