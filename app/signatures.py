"""Signature schemes as data: what is signed, with which key, and where the result is.

`verify` raises or says which secret matched; it never returns False. Everything is compared as bytes, in constant time,
and in the exact spelling: a changed letter of a header is a changed header.
"""

import base64
import binascii
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import itsdangerous
import orjson

from app.delivery import Delivery, Unreadable, parse_body
from app.reading import Json

Reason = Literal["missing", "malformed", "stale", "mismatch"]
#: What a signature that holds proves: the whole body, some fields of it, or only that the sender knows a secret.
Cover = Literal["body", "fields", "nothing"]


class SignatureError(Exception):
    """The delivery is not believed. The sentence is for people, the reason for counters."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Terms(NamedTuple):
    """What a hook brings to a verification.

    url: the hook's own address as the tool knows it, from PUBLIC_URL and never from the request.
    tolerance_s: how far the signed time may be from ours; None: what the scheme says.
    keys: SECRET_KEY, newest first: for the tokens that we make ourselves.
    """

    secrets: Sequence[str]
    now: float
    url: str = ""
    tolerance_s: float | None = None
    keys: Sequence[str] = ()


class Scheme(ABC):
    """What a source names as its signature. A scheme of its own needs `verify`, `sign` and `check_secret`."""

    @abstractmethod
    def verify(self, delivery: Delivery, terms: Terms) -> int:
        """The position of the secret that matched. Raises SignatureError."""

    @abstractmethod
    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        """The headers that the tool would send with this body, made with the first secret: for `ring` and the demo.

        Where the tool signs with a private key, that is what stands in the place of the first secret.
        """

    @abstractmethod
    def check_secret(self, secret: str) -> str | None:
        """What is wrong with a secret that can never match, as a rule to follow; None if nothing is."""

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        """The body as the tool would send it, where the signature stands in the body itself."""
        return raw

    def token(self, hook: str, terms: Terms) -> str:
        """What stands behind the hook's name in its address; nothing, as a rule."""
        return ""

    def applies(self, delivery: Delivery) -> bool:
        """Does the delivery carry a signature of this scheme at all, right or wrong?"""
        return True

    @property
    def covers(self) -> Cover:
        return "body"

    @property
    def is_key_chosen(self) -> bool:
        """Do people choose the key, rather than copy it from the tool?"""
        return False

    @property
    def needs_url(self) -> bool:
        """Does the tool sign our address? Then PUBLIC_URL must be set."""
        return False

    @property
    def needs_key(self) -> bool:
        """Is there a token of ours in the address? Then SECRET_KEY must be set."""
        return False


class Clock(NamedTuple):
    """How a signed time is written. read: seconds since 1970, or ValueError. write: a time in the place of another."""

    read: Callable[[bytes], float]
    write: Callable[[float, str], str]


def _digits(most: int) -> Callable[[bytes], float]:
    digits = re.compile(rb"[0-9]{1,%d}" % most)

    def read(written: bytes) -> float:
        if not digits.fullmatch(written):
            raise ValueError
        return int(written)

    return read


def _iso(written: bytes) -> float:
    moment = datetime.fromisoformat(written.decode("ascii"))
    if moment.tzinfo is None:
        raise ValueError
    return moment.timestamp()


def _write_iso(now: float, _: str) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


SECONDS = Clock(_digits(12), lambda now, _: str(int(now)))
MILLISECONDS = Clock(lambda written: _digits(15)(written) / 1000, lambda now, _: str(int(now * 1000)))
ISO_TIME = Clock(_iso, _write_iso)
#: `anything:else:1600717631`: seconds after the last colon.
LAST_SECONDS = Clock(
    lambda written: SECONDS.read(written.rpartition(b":")[2]), lambda now, old: f"{old.rpartition(':')[0]}:{int(now)}"
)


def text_key(secret: str) -> bytes:
    return secret.encode()


@lru_cache(maxsize=256)
def standard_webhooks_key(secret: str) -> bytes:
    """The bytes behind `whsec_`, in base64 with or without its padding. Raises ValueError."""
    encoded = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


@lru_cache(maxsize=256)
def base64_key(secret: str) -> bytes:
    """The bytes that the secret is the base64 of. Raises ValueError."""
    return base64.b64decode(secret, validate=True)


#: What a secret must be that a key function refuses.
_KEY_RULES: dict[Callable[[str], bytes], str] = {
    text_key: "must be text in UTF-8",
    base64_key: "must be base64",
}


def _hex(digest: bytes) -> bytes:
    return binascii.hexlify(digest)


_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"hex": _hex, "base64": base64.b64encode}
_PLACEHOLDER = re.compile(r"\{([^}]+)\}")


#: The shortest keys that are accepted, in bytes: one that a tool makes, and one that people choose, which can be guessed.
TOOLS_KEY, CHOSEN_KEY = 8, 12


@dataclass(frozen=True)
class Hmac(Scheme):
    """HMAC over a template.

    signs: `{body}`, `{url}`, `{t}` (the signed time), `{body:base64}` and `{any-header}` stand for those bytes. `{url}` is
        the hook's address from PUBLIC_URL, with what stood behind `?` as it arrived.
    fields: where the header is a list like `t=1,v1=ab`: the names of the time and of the signatures in it.
    separator: what stands between the parts of such a list, or between several signatures.
    timestamp: the header that holds the signed time, where it has one of its own. clock: how it is written.
    key: how a secret becomes a key: text_key, base64_key, standard_webhooks_key, or a function of the source.
    prefix: what stands before each signature, like `v1,`.
    forgiving: also take `sha256=` before a signature, and hexadecimal in capitals.
    shortest_key: bytes. A tool's own key is taken as it comes; CHOSEN_KEY where people choose the key.
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
    clock: Clock = SECONDS
    shortest_key: int = TOOLS_KEY

    @property
    def is_key_chosen(self) -> bool:
        return self.shortest_key >= CHOSEN_KEY

    @property
    def needs_url(self) -> bool:
        return "{url}" in self.signs

    def applies(self, delivery: Delivery) -> bool:
        return _is_there(delivery, self.header)

    def check_secret(self, secret: str) -> str | None:
        try:
            key = self.key(secret)
        except ValueError:
            return _KEY_RULES.get(self.key, "must be base64, with or without `whsec_` before it")
        return None if len(key) >= self.shortest_key else f"must have {self.shortest_key} characters or more"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        given, signed_at = self._read(delivery)
        message = self._message(delivery, terms.url, signed_at)
        slot = self._matching(given, message, terms.secrets)
        if signed_at is not None:
            check_age(_read_time(self.clock, signed_at), terms, self.tolerance_s)
        return slot

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        now = self.clock.write(terms.now, (self.timestamp and delivery.header(self.timestamp)) or "")
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
        prefix = self.prefix.encode()
        given = [signature[len(prefix) :] for signature in given if signature.startswith(prefix)]
        if not given:
            raise SignatureError(f"{self.header} holds no signature of the kind that this tool sends", "malformed")
        if self.forgiving:
            given = [signature.removeprefix(b"sha256=").lower() for signature in given]
        return given[:MOST_SIGNATURES], signed_at

    def _message(self, delivery: Delivery, url: str, signed_at: bytes | None) -> bytes:
        if self.signs == "{body}":
            return delivery.raw
        return b"".join([piece(delivery, url, signed_at or b"") for piece in _pieces(self.signs)])

    def _matching(self, given: Sequence[bytes], message: bytes, secrets: Sequence[str]) -> int:
        encode = _ENCODINGS[self.encoding]
        for slot, secret in enumerate(secrets):
            expected = encode(hmac.digest(self.key(secret), message, self.digest))
            if True in [hmac.compare_digest(expected, signature) for signature in given]:
                return slot
        raise SignatureError(f"{self.header} matches none of {len(secrets)} secrets", "mismatch")


MOST_SIGNATURES = 16


Piece = Callable[[Delivery, str, bytes], bytes]


@cache
def _pieces(template: str) -> list[Piece]:
    """A template in parts, each of which makes its bytes of a delivery, the hook's address and the signed time."""
    texts_and_names = enumerate(_PLACEHOLDER.split(template))
    return [_PIECES.get(piece) or _header(piece) if n % 2 else _text(piece) for n, piece in texts_and_names if piece]


_PIECES: dict[str, Piece] = {
    "body": lambda delivery, url, t: delivery.raw,
    "body:base64": lambda delivery, url, t: base64.b64encode(delivery.raw),
    "url": lambda delivery, url, t: url.encode() + b"?" + delivery.query if delivery.query else url.encode(),
    "t": lambda delivery, url, t: t,
}


def _header(name: str) -> Piece:
    return lambda delivery, url, t: only_line(delivery, name)


def _text(piece: str) -> Piece:
    fixed = piece.encode()
    return lambda delivery, url, t: fixed


@dataclass(frozen=True)
class StandardWebhooks(Scheme):
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    The `svix-` names of the headers mean the same; one complete set counts, never a mixture of both.
    key: for tools that take these headers and another kind of secret.
    """

    key: Callable[[str], bytes] = standard_webhooks_key

    def applies(self, delivery: Delivery) -> bool:
        return any(_is_there(delivery, f"{family}-signature") for family in ("webhook", "svix"))

    @property
    def is_key_chosen(self) -> bool:
        return self.key is not standard_webhooks_key  # a key in base64 is made by a program

    def check_secret(self, secret: str) -> str | None:
        return _standard("webhook", self.key).check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        family, other = ("webhook", "svix") if delivery.header("svix-signature") is None else ("svix", "webhook")
        slot = _standard(family, self.key).verify(delivery, terms)
        # Sources read the id and the time under both names, and only one of them is signed.
        for header in ("id", "timestamp"):
            for line in delivery.header_lines(f"{other}-{header}"):
                if line != only_line(delivery, f"{family}-{header}"):
                    raise SignatureError(f"{other}-{header} is not the {header} that was signed", "malformed")
        return slot

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        """The delivery must carry its `webhook-id` or `svix-id`."""
        family = "svix" if delivery.header_lines("svix-id") else "webhook"
        return _standard(family, self.key).sign(delivery, terms)


@cache
def _standard(family: str, key: Callable[[str], bytes]) -> Hmac:
    return Hmac(
        header=f"{family}-signature",
        signs=f"{{{family}-id}}.{{t}}.{{body}}",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        timestamp=f"{family}-timestamp",
        key=key,
        shortest_key=CHOSEN_KEY,
    )


@dataclass(frozen=True)
class Token(Scheme):
    """The secret itself in a header, as `Authorization: Bearer …` and the like: it proves nothing of the body.

    prefix: what stands before it, once or, where people paste it with its prefix, several times; in capitals or not, as
        HTTP has it for the likes of `Bearer`.
    """

    header: str
    prefix: str = ""
    shortest: int = TOOLS_KEY

    @property
    def covers(self) -> Cover:
        return "nothing"

    @property
    def is_key_chosen(self) -> bool:
        return self.shortest >= CHOSEN_KEY

    def check_secret(self, secret: str) -> str | None:
        if len(secret) < self.shortest:
            return f"must have {self.shortest} characters or more"
        return f"must have {LONGEST_TOKEN} bytes at most" if len(secret.encode()) > LONGEST_TOKEN else None

    def applies(self, delivery: Delivery) -> bool:
        return _is_there(delivery, self.header)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        line = only_line(delivery, self.header)
        if len(line) > LONGEST_TOKEN_HEADER:
            raise SignatureError(f"{self.header} has more than {LONGEST_TOKEN_HEADER} bytes", "malformed")
        found = _prefixed(self.prefix).fullmatch(line)
        if not found:
            raise SignatureError(f"{self.header} does not begin with `{self.prefix.strip()}`", "malformed")
        return _same(found[1], [secret.encode() for secret in terms.secrets], self.header)

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return {self.header: self.prefix + terms.secrets[0]}


@cache
def _prefixed(prefix: str) -> re.Pattern[bytes]:
    """What follows the prefix, which may be repeated. Possessive, so that the time is linear in the header's length."""
    return re.compile(rb"(?is:(?:%b)++(.*))" % re.escape(prefix.encode()) if prefix else rb"(?s:(.*))")


@dataclass(frozen=True)
class PathToken(Scheme):
    """For tools that sign nothing: `/hooks/{hook}/{token}`, with a token that we make from the hook's name and secret
    under SECRET_KEY. `doorbell hook-url HOOK` prints the address. A new secret, or a new key, makes a new address."""

    @property
    def covers(self) -> Cover:
        return "nothing"

    @property
    def needs_key(self) -> bool:
        return True

    def check_secret(self, secret: str) -> str | None:
        return None if secret else "must not be empty"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        if not delivery.token:
            raise SignatureError("the address has no token; `doorbell hook-url` prints it", "missing")
        expected = [_path_token(key, delivery.hook, secret) for secret in terms.secrets for key in terms.keys]
        return _same(delivery.token.encode(), expected, "the token in the address") // len(terms.keys)

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return {}

    def token(self, hook: str, terms: Terms) -> str:
        return _path_token(terms.keys[0], hook, terms.secrets[0]).decode()


@lru_cache(maxsize=1024)
def _path_token(key: str, hook: str, secret: str) -> bytes:
    signer = itsdangerous.Signer(key, "doorbell.hook", key_derivation="hmac", digest_method=hashlib.sha256)
    return signer.get_signature(f"{hook} {secret}")


#: The delivery that a body is before it is sent.
_UNSENT = Delivery("", "", (), b"", datetime.fromtimestamp(0, UTC))


@dataclass(frozen=True)
class FieldsHmac(Scheme):
    """HMAC-SHA256, in hexadecimal, over some fields of a JSON body, itself a field of it: nothing else is proven.

    The body has to be parsed for it, so it stands behind a PathToken only (Both). signs: paths into the body, whose texts
    follow one another without anything between them.
    """

    field: str
    signs: tuple[tuple[str, ...], ...]

    @property
    def covers(self) -> Cover:
        return "fields"

    def check_secret(self, secret: str) -> str | None:
        return None if secret else "must not be empty"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        body = self._body(delivery)
        given = body.at(self.field).value
        if not isinstance(given, str) or not given.strip():
            raise SignatureError(f"the body has no `{self.field}`", "missing")
        message = self._message(body)
        expected = [_hex(hmac.digest(secret.encode(), message, "sha256")) for secret in terms.secrets]
        return _same(given.encode(), expected, f"`{self.field}`")

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return {}

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        body = self._body(replace(_UNSENT, raw=raw))
        digest = hmac.digest(terms.secrets[0].encode(), self._message(body), "sha256")
        return orjson.dumps({**body.value, self.field: digest.hex()})

    def _body(self, delivery: Delivery) -> Json:
        try:
            body = parse_body(delivery, "json")
        except Unreadable as error:
            raise SignatureError(str(error), "malformed") from None
        if not isinstance(body.value, dict):
            raise SignatureError("the body is not an object", "malformed")
        return body

    def _message(self, body: Json) -> bytes:
        values = [body.at(*path).value for path in self.signs]
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
            raise SignatureError("a signed field is missing", "malformed")
        return "".join(map(str, values)).encode()


@dataclass(frozen=True)
class Either(Scheme):
    """A tool with two schemes: the first counts where the delivery carries it, and then there is no way back to the other.

    Each scheme is given only the secrets that are strong enough for it (`check_secret`), so a sender gains nothing by
    choosing the scheme.
    """

    first: Scheme
    otherwise: Scheme

    def chosen(self, delivery: Delivery) -> Scheme:
        return self.first if self.first.applies(delivery) else self.otherwise

    @property
    def covers(self) -> Cover:
        return _weakest(self.first.covers, self.otherwise.covers)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.otherwise.needs_url

    @property
    def needs_key(self) -> bool:
        return self.first.needs_key or self.otherwise.needs_key

    def check_secret(self, secret: str) -> str | None:
        return self.first.check_secret(secret) and self.otherwise.check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        scheme = self.chosen(delivery)
        slots = [slot for slot, secret in enumerate(terms.secrets) if scheme.check_secret(secret) is None]
        return slots[scheme.verify(delivery, terms._replace(secrets=[terms.secrets[slot] for slot in slots]))]

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        scheme = self.chosen(delivery)
        return scheme.sign(delivery, _fitting(scheme, terms))

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        scheme = self.chosen(replace(_UNSENT, raw=raw))
        return scheme.wrap(raw, _fitting(scheme, terms))

    def token(self, hook: str, terms: Terms) -> str:
        return self.first.token(hook, terms) or self.otherwise.token(hook, terms)


def _fitting(scheme: Scheme, terms: Terms) -> Terms:
    """The secrets that the scheme takes first. A private key, with which only we sign, is none of them and stays."""
    return terms._replace(secrets=sorted(terms.secrets, key=lambda secret: scheme.check_secret(secret) is not None))


@dataclass(frozen=True)
class Both(Scheme):
    """Two proofs, each of them needed; the second is not looked at before the first holds."""

    first: Scheme
    second: Scheme

    @property
    def covers(self) -> Cover:
        return _strongest(self.first.covers, self.second.covers)

    @property
    def needs_url(self) -> bool:
        return self.first.needs_url or self.second.needs_url

    @property
    def needs_key(self) -> bool:
        return self.first.needs_key or self.second.needs_key

    def check_secret(self, secret: str) -> str | None:
        return self.first.check_secret(secret) or self.second.check_secret(secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        self.first.verify(delivery, terms)
        return self.second.verify(delivery, terms)

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return self.first.sign(delivery, terms) | self.second.sign(delivery, terms)

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        return self.second.wrap(self.first.wrap(raw, terms), terms)

    def token(self, hook: str, terms: Terms) -> str:
        return self.first.token(hook, terms) or self.second.token(hook, terms)


_COVERS: tuple[Cover, ...] = ("nothing", "fields", "body")


def _weakest(*covers: Cover) -> Cover:
    return min(covers, key=_COVERS.index)


def _strongest(*covers: Cover) -> Cover:
    return max(covers, key=_COVERS.index)


#: In bytes. The header has room for a prefix that was pasted several times.
LONGEST_TOKEN, LONGEST_TOKEN_HEADER = 1_024, 2_048


def _same(given: bytes, expected: Sequence[bytes], what: str) -> int:
    """The place of the first that it equals; every one is compared."""
    equal = [hmac.compare_digest(given, one) for one in expected]
    if True not in equal:
        raise SignatureError(f"{what} matches none of {len(expected)} secrets", "mismatch")
    return equal.index(True)


def _is_there(delivery: Delivery, header: str) -> bool:
    return any(line.strip() for line in delivery.header_lines(header))


def only_line(delivery: Delivery, name: str) -> bytes:
    """The header's one line: two lines of one name are two claims, and none of them is believed."""
    line = delivery.only_line(name)
    if line and not line.isspace():
        return line
    lines = delivery.header_lines(name)
    if len(lines) < 2 or not lines[0].strip():
        raise SignatureError(f"{name} is missing", "missing")
    raise SignatureError(f"{name} was sent {len(lines)} times", "malformed")


def _read_time(clock: Clock, written: bytes) -> float:
    try:
        return clock.read(written)
    except (ValueError, OverflowError):
        raise SignatureError("the signed time is not a time", "malformed") from None


def check_age(signed_at: float, terms: Terms, tolerance_s: float) -> None:
    """Both ways, and so that NaN would not pass: `not abs(age) <= tolerance`."""
    tolerance_s = tolerance_s if terms.tolerance_s is None else terms.tolerance_s
    age = terms.now - signed_at
    if not abs(age) <= tolerance_s:
        direction = "old" if age > 0 else "ahead of our clock"
        raise SignatureError(
            f"the signed time is {abs(age):.0f} s {direction}; {tolerance_s:.0f} s are allowed", "stale"
        )
