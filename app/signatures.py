"""Signature schemes as data: what is signed, with which key, and where the result is.

`verify` raises or says which secret matched; it never returns False. Everything is compared as bytes, in constant time,
and in the exact spelling: a changed letter of a header is a changed header.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, NamedTuple, Protocol

from app.delivery import Delivery

Reason = Literal["missing", "malformed", "stale", "mismatch"]


class SignatureError(Exception):
    """The delivery is not believed. The sentence is for people, the reason for counters."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Terms(NamedTuple):
    """What a hook brings to a verification.

    url: the hook's own address as the tool knows it, from PUBLIC_URL and never from the request.
    tolerance_s: how far the signed time may be from ours; None: what the scheme says.
    """

    secrets: Sequence[str]
    now: float
    url: str = ""
    tolerance_s: float | None = None


class Scheme(Protocol):
    """What a source names as its signature."""

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        """The position of the secret that matched. Raises SignatureError."""
        ...

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        """The headers that the tool would send with this body, made with the first secret: for `ring` and the demo."""
        ...

    def check_secret(self, secret: str) -> str | None:
        """What is wrong with a secret that can never match, as a rule to follow; None if nothing is."""
        ...

    @property
    def needs_url(self) -> bool: ...


def text_key(secret: str) -> bytes:
    return secret.encode()


@lru_cache(maxsize=256)
def standard_webhooks_key(secret: str) -> bytes:
    """The bytes behind `whsec_`, in base64 with or without its padding. Raises ValueError."""
    encoded = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _hex(digest: bytes) -> bytes:
    return binascii.hexlify(digest)


_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"hex": _hex, "base64": base64.b64encode}
_PLACEHOLDER = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Hmac:
    """HMAC over a template.

    signs: `{body}`, `{url}`, `{t}` (the signed time) and `{any-header}` stand for those bytes.
    fields: where the header is a list like `t=1,v1=ab`: the names of the time and of the signatures in it.
    separator: what stands between the parts of such a list, or between several signatures.
    timestamp: the header that holds the signed time, where it has one of its own.
    prefix: what stands before each signature, like `v1,`.
    forgiving: also take `sha256=` before a signature, and hexadecimal in capitals.
    """

    header: str
    signs: str = "{body}"
    digest: str = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    fields: tuple[str, str] | None = None
    separator: str | None = None
    timestamp: str | None = None
    tolerance_s: float = 300
    key: Callable[[str], bytes] = text_key
    forgiving: bool = False

    @property
    def needs_url(self) -> bool:
        return "{url}" in self.signs

    def check_secret(self, secret: str) -> str | None:
        try:
            return None if self.key(secret) else "must not be empty"
        except ValueError:
            is_text = self.key is text_key
            return "must be text in UTF-8" if is_text else "must be base64, with or without `whsec_` before it"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        given, signed_at = self._read(delivery)
        message = self._message(delivery, terms.url, signed_at)
        slot = self._matching(given, message, terms.secrets)
        if signed_at is not None:
            _check_age(signed_at, terms, self.tolerance_s)
        return slot

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        now = str(int(terms.now))
        message = self._message(delivery, terms.url, now.encode())
        digest = hmac.digest(self.key(terms.secrets[0]), message, self.digest)
        signature = self.prefix + _ENCODINGS[self.encoding](digest).decode()
        if self.fields:
            time_field, signature_field = self.fields
            return {self.header: f"{time_field}={now},{signature_field}={signature}"}
        return {self.header: signature} | ({self.timestamp: now} if self.timestamp else {})

    def _read(self, delivery: Delivery) -> tuple[list[bytes], bytes | None]:
        """The signatures that were sent, and the time that they cover."""
        value = only_line(delivery, self.header)
        signed_at = only_line(delivery, self.timestamp) if self.timestamp else None
        if self.fields:
            time_field, signature_field = self.fields
            pairs = [part.partition(b"=") for part in value.split(b",")]
            given = [after for name, _, after in pairs if name.strip() == signature_field.encode()]
            times = [after for name, _, after in pairs if name.strip() == time_field.encode()]
            if len(times) != 1:
                raise SignatureError(f"{self.header} does not name one time `{time_field}=`", "malformed")
            signed_at = times[0]
        else:
            given = value.split(self.separator.encode()) if self.separator else [value]
        given = list(self._unwrapped(given))
        if not given:
            raise SignatureError(f"{self.header} holds no signature of the kind that this tool sends", "malformed")
        return given[:MOST_SIGNATURES], signed_at

    def _unwrapped(self, given: Iterable[bytes]) -> Iterable[bytes]:
        prefix = self.prefix.encode()
        for signature in given:
            if signature.startswith(prefix):
                signature = signature[len(prefix) :]
                yield signature.removeprefix(b"sha256=").lower() if self.forgiving else signature

    def _message(self, delivery: Delivery, url: str, signed_at: bytes | None) -> bytes:
        if self.signs == "{body}":
            return delivery.raw

        def filled(name: str) -> bytes:
            match name:
                case "body":
                    return delivery.raw
                case "url":
                    return url.encode()
                case "t":
                    return signed_at or b""
            return only_line(delivery, name)

        return b"".join([filled(name) if name else text for text, name in _pieces(self.signs)])

    def _matching(self, given: Sequence[bytes], message: bytes, secrets: Sequence[str]) -> int:
        encode = _ENCODINGS[self.encoding]
        for slot, secret in enumerate(secrets):
            expected = encode(hmac.digest(self.key(secret), message, self.digest))
            if True in [hmac.compare_digest(expected, signature) for signature in given]:
                return slot
        raise SignatureError(f"{self.header} matches none of {len(secrets)} secrets", "mismatch")


MOST_SIGNATURES = 16


@cache
def _pieces(template: str) -> list[tuple[bytes, str]]:
    """A template in parts: a fixed text, or the name of what stands there."""
    texts_and_names = enumerate(_PLACEHOLDER.split(template))
    return [(b"", piece) if n % 2 else (piece.encode(), "") for n, piece in texts_and_names if piece]


@dataclass(frozen=True)
class StandardWebhooks:
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    The `svix-` names of the headers mean the same; one complete set counts, never a mixture of both.
    """

    needs_url: bool = False

    def check_secret(self, secret: str) -> str | None:
        return _standard("webhook").check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        family, other = ("svix", "webhook") if delivery.header_lines("svix-signature") else ("webhook", "svix")
        slot = _standard(family).verify(delivery, terms)
        # Repeats are known by the id: one beside the signed one must be the same.
        if any(id != only_line(delivery, f"{family}-id") for id in delivery.header_lines(f"{other}-id")):
            raise SignatureError(f"{other}-id is not the id that was signed", "malformed")
        return slot

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        """The delivery must carry its `webhook-id` or `svix-id`."""
        return _standard("svix" if delivery.header_lines("svix-id") else "webhook").sign(delivery, terms)


@cache
def _standard(family: str) -> Hmac:
    return Hmac(
        header=f"{family}-signature",
        signs=f"{{{family}-id}}.{{t}}.{{body}}",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        timestamp=f"{family}-timestamp",
        key=standard_webhooks_key,
    )


def only_line(delivery: Delivery, name: str) -> bytes:
    """The header's one line: two lines of one name are two claims, and none of them is believed."""
    lines = delivery.header_lines(name)
    if not lines or not lines[0].strip():
        raise SignatureError(f"{name} is missing", "missing")
    if len(lines) > 1:
        raise SignatureError(f"{name} was sent {len(lines)} times", "malformed")
    return lines[0]


def _check_age(signed_at: bytes, terms: Terms, tolerance_s: float) -> None:
    """Both ways, and so that NaN would not pass: `not abs(age) <= tolerance`."""
    if not signed_at.isdigit() or len(signed_at) > 12:
        raise SignatureError("the signed time is not a number of seconds", "malformed")
    tolerance_s = tolerance_s if terms.tolerance_s is None else terms.tolerance_s
    age = terms.now - int(signed_at)
    if not abs(age) <= tolerance_s:
        direction = "old" if age > 0 else "ahead of our clock"
        raise SignatureError(
            f"the signed time is {abs(age):.0f} s {direction}; {tolerance_s:.0f} s are allowed", "stale"
        )
