"""Signature schemes as data: what is signed, with which key, and where the result is.

`verify` raises or says which secret matched; it never returns False. Everything is compared as bytes, in constant time,
and in the exact spelling: a changed letter of a header is a changed header.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Literal

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import (
    MIN_CHOSEN_SECRET_BYTES,
    MIN_GENERATED_SECRET_BYTES,
    UNIX_SECONDS,
    Scheme,
    SignatureError,
    TimestampFormat,
    VerificationContext,
    check_age,
    has_header,
    parse_signed_time,
    single_header,
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
_KEY_PROBLEMS: dict[Callable[[str], bytes], str] = {
    text_key: "must be text in UTF-8",
    base64_key: "must be base64",
}


def hex_digest(digest: bytes) -> bytes:
    return binascii.hexlify(digest)


_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"hex": hex_digest, "base64": base64.b64encode}
_PLACEHOLDER = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Hmac(Scheme):
    """HMAC over a template.

    signs: `{body}`, `{url}`, `{t}` (the signed time), `{body:base64}` and `{any-header}` stand for those bytes. `{url}` is
        the hook's address from PUBLIC_URL, with what stood behind `?` as it arrived.
    fields: where the header is a list like `t=1,v1=ab`: the names of the time and of the signatures in it.
    separator: what stands between the parts of such a list, or between several signatures.
    timestamp_header: the header with the signed time, where it has one of its own. timestamp_format: how it is written.
    key: how a secret becomes a key: text_key, base64_key, standard_webhooks_key, or a function of the source.
    prefix: what stands before each signature, like `v1,`.
    lenient: also take `sha256=` before a signature, and hexadecimal in capitals.
    min_key_bytes: bytes. A tool's own key is taken as it comes; MIN_CHOSEN_SECRET_BYTES where people choose the key.
    """

    header: str
    signs: str = "{body}"
    digest: str = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    fields: tuple[str, str] | None = None
    separator: str | None = None
    timestamp_header: str | None = None
    tolerance_s: float = 300
    key: Callable[[str], bytes] = text_key
    lenient: bool = False
    timestamp_format: TimestampFormat = UNIX_SECONDS
    min_key_bytes: int = MIN_GENERATED_SECRET_BYTES

    @property
    def is_secret_user_chosen(self) -> bool:
        return self.min_key_bytes >= MIN_CHOSEN_SECRET_BYTES

    @property
    def needs_url(self) -> bool:
        return "{url}" in self.signs

    def applies_to(self, delivery: Delivery) -> bool:
        return has_header(delivery, self.header)

    def secret_problem(self, secret: str) -> str | None:
        try:
            key = self.key(secret)
        except ValueError:
            return _KEY_PROBLEMS.get(self.key, "must be base64, with or without `whsec_` before it")
        return None if len(key) >= self.min_key_bytes else f"must have {self.min_key_bytes} characters or more"

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        given, signed_at = self._parse_signatures(delivery)
        message = self._message(delivery, context.url, signed_at)
        slot = self._matching_secret(given, message, context.secrets)
        if signed_at is not None:
            check_age(parse_signed_time(self.timestamp_format, signed_at), context, self.tolerance_s)
        return slot

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        now = self.timestamp_format.format(
            context.now, (self.timestamp_header and delivery.header(self.timestamp_header)) or ""
        )
        message = self._message(delivery, context.url, now.encode())
        digest = hmac.digest(self.key(context.secrets[0]), message, self.digest)
        signature = self.prefix + _ENCODINGS[self.encoding](digest).decode()
        if self.fields:
            time_field, signature_field = self.fields
            return {self.header: f"{time_field}={now},{signature_field}={signature}"}
        return {self.header: signature} | ({self.timestamp_header: now} if self.timestamp_header else {})

    def _parse_signatures(self, delivery: Delivery) -> tuple[list[bytes], bytes | None]:
        """The signatures that were sent, and the time that they cover."""
        value = single_header(delivery, self.header)
        signed_at = single_header(delivery, self.timestamp_header) if self.timestamp_header else None
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
        if self.lenient:
            given = [signature.removeprefix(b"sha256=").lower() for signature in given]
        return given[:MAX_SIGNATURES], signed_at

    def _message(self, delivery: Delivery, url: str, signed_at: bytes | None) -> bytes:
        if self.signs == "{body}":
            return delivery.body
        return b"".join([piece(delivery, url, signed_at or b"") for piece in _template_parts(self.signs)])

    def _matching_secret(self, given: Sequence[bytes], message: bytes, secrets: Sequence[str]) -> int:
        encode = _ENCODINGS[self.encoding]
        for slot, secret in enumerate(secrets):
            expected = encode(hmac.digest(self.key(secret), message, self.digest))
            if True in [hmac.compare_digest(expected, signature) for signature in given]:
                return slot
        raise SignatureError(f"{self.header} matches none of {len(secrets)} secrets", "mismatch")


MAX_SIGNATURES = 16


TemplatePart = Callable[[Delivery, str, bytes], bytes]


@cache
def _template_parts(template: str) -> list[TemplatePart]:
    """A template in parts, each of which makes its bytes of a delivery, the hook's address and the signed time."""
    texts_and_names = enumerate(_PLACEHOLDER.split(template))
    return [
        _PLACEHOLDERS.get(piece) or _header_part(piece) if n % 2 else _text_part(piece)
        for n, piece in texts_and_names
        if piece
    ]


_PLACEHOLDERS: dict[str, TemplatePart] = {
    "body": lambda delivery, url, t: delivery.body,
    "body:base64": lambda delivery, url, t: base64.b64encode(delivery.body),
    "url": lambda delivery, url, t: url.encode() + b"?" + delivery.query if delivery.query else url.encode(),
    "t": lambda delivery, url, t: t,
}


def _header_part(name: str) -> TemplatePart:
    return lambda delivery, url, t: single_header(delivery, name)


def _text_part(piece: str) -> TemplatePart:
    fixed = piece.encode()
    return lambda delivery, url, t: fixed


@dataclass(frozen=True)
class StandardWebhooks(Scheme):
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

    The `svix-` names of the headers mean the same; one complete set counts, never a mixture of both.
    key: for tools that take these headers and another kind of secret.
    """

    key: Callable[[str], bytes] = standard_webhooks_key

    def applies_to(self, delivery: Delivery) -> bool:
        return any(has_header(delivery, f"{family}-signature") for family in ("webhook", "svix"))

    @property
    def is_secret_user_chosen(self) -> bool:
        return self.key is not standard_webhooks_key  # a key in base64 is made by a program

    def secret_problem(self, secret: str) -> str | None:
        return _standard("webhook", self.key).secret_problem(secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        family, other = ("webhook", "svix") if delivery.header("svix-signature") is None else ("svix", "webhook")
        slot = _standard(family, self.key).verify(delivery, context)
        # Sources read the id and the time under both names, and only one of them is signed.
        for header in ("id", "timestamp"):
            for line in delivery.header_values(f"{other}-{header}"):
                if line != single_header(delivery, f"{family}-{header}"):
                    raise SignatureError(f"{other}-{header} is not the {header} that was signed", "malformed")
        return slot

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        """The delivery must carry its `webhook-id` or `svix-id`."""
        family = "svix" if delivery.header_values("svix-id") else "webhook"
        return _standard(family, self.key).sign(delivery, context)


@cache
def _standard(family: str, key: Callable[[str], bytes]) -> Hmac:
    return Hmac(
        header=f"{family}-signature",
        signs=f"{{{family}-id}}.{{t}}.{{body}}",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        timestamp_header=f"{family}-timestamp",
        key=key,
        min_key_bytes=MIN_CHOSEN_SECRET_BYTES,
    )


#: The delivery that a body is before it is sent.
UNSENT = Delivery("", "", (), b"", datetime.fromtimestamp(0, UTC))
