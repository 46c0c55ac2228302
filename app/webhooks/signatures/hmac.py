"""HMAC schemes as data: the signed message, the key, and the place of the signature.

`verify` raises an exception or returns the position of the secret that matched; it never returns False. Signatures are
compared as bytes, in constant time, and in their exact spelling.
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
    mismatch,
    parse_signed_time,
    single_header,
)


def text_key(secret: str) -> bytes:
    return secret.encode()


@lru_cache(maxsize=256)
def standard_webhooks_key(secret: str) -> bytes:
    """Decode the base64 after `whsec_`, with or without padding. Raise ValueError if it is not base64."""
    encoded = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


@lru_cache(maxsize=256)
def base64_key(secret: str) -> bytes:
    """Decode the secret. Raise ValueError if it is not base64."""
    return base64.b64decode(secret, validate=True)


#: The rule that a secret breaks when its key function raises ValueError.
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

    signs: the template. `{body}`, `{url}`, `{t}` (the signed time), `{body:base64}` and `{any-header}` are replaced by
        those bytes. `{url}` is the hook's URL from PUBLIC_URL, with the query string of the request.
    fields: for a header with a list such as `t=1,v1=ab`: the names of the time and of the signatures in it.
    separator: the separator between several signatures.
    timestamp_header: the header with the signed time, if that is a separate header.
    key: converts a secret to a key: text_key, base64_key, standard_webhooks_key, or a function of the source.
    prefix: the text before each signature, such as `v1,`.
    lenient: also accept `sha256=` before a signature, and uppercase hexadecimal.
    min_key_bytes: the minimum length of a key; MIN_CHOSEN_SECRET_BYTES for tools where people choose the key.
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
        signatures, signed_at = self._parse_signatures(delivery)
        message = self._message(delivery, context.url, signed_at)
        slot = self._matching_secret(signatures, message, context.secrets)
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
        """Return the signatures in the header, and the signed time."""
        value = single_header(delivery, self.header)
        signed_at = single_header(delivery, self.timestamp_header) if self.timestamp_header else None
        if self.fields:
            time_field, signature_field = self.fields
            pairs = [part.partition(b"=") for part in value.split(b",")]
            signatures = [field for name, _, field in pairs if name.strip() == signature_field.encode()]
            times = [field for name, _, field in pairs if name.strip() == time_field.encode()]
            if len(times) != 1:
                raise SignatureError(f"{self.header} does not contain exactly one time `{time_field}=`", "malformed")
            signed_at = times[0]
        else:
            signatures = value.split(self.separator.encode()) if self.separator else [value]
        prefix = self.prefix.encode()
        signatures = [signature[len(prefix) :] for signature in signatures if signature.startswith(prefix)]
        if not signatures:
            raise SignatureError(f"{self.header} has no signature in the format of this tool", "malformed")
        if self.lenient:
            signatures = [signature.removeprefix(b"sha256=").lower() for signature in signatures]
        return signatures[:MAX_SIGNATURES], signed_at

    def _message(self, delivery: Delivery, url: str, signed_at: bytes | None) -> bytes:
        if self.signs == "{body}":
            return delivery.body
        return b"".join([render(delivery, url, signed_at or b"") for render in _template_parts(self.signs)])

    def _matching_secret(self, signatures: Sequence[bytes], message: bytes, secrets: Sequence[str]) -> int:
        encode = _ENCODINGS[self.encoding]
        for slot, secret in enumerate(secrets):
            expected = encode(hmac.digest(self.key(secret), message, self.digest))
            if True in [hmac.compare_digest(expected, signature) for signature in signatures]:
                return slot
        raise mismatch(self.header, len(secrets))


MAX_SIGNATURES = 16


TemplatePart = Callable[[Delivery, str, bytes], bytes]


@cache
def _template_parts(template: str) -> list[TemplatePart]:
    """Return functions that render the parts of a template from a delivery, the hook's URL and the signed time."""
    texts_and_names = enumerate(_PLACEHOLDER.split(template))  # texts at even positions, names at odd ones
    return [
        _PLACEHOLDERS.get(part) or _header_part(part) if position % 2 else _text_part(part)
        for position, part in texts_and_names
        if part
    ]


_PLACEHOLDERS: dict[str, TemplatePart] = {
    "body": lambda delivery, url, t: delivery.body,
    "body:base64": lambda delivery, url, t: base64.b64encode(delivery.body),
    "url": lambda delivery, url, t: url.encode() + b"?" + delivery.query if delivery.query else url.encode(),
    "t": lambda delivery, url, t: t,
}


def _header_part(name: str) -> TemplatePart:
    return lambda delivery, url, t: single_header(delivery, name)


def _text_part(text: str) -> TemplatePart:
    encoded = text.encode()
    return lambda delivery, url, t: encoded


@dataclass(frozen=True)
class StandardWebhooks(Scheme):
    """The scheme of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.

    The names of the headers may also begin with `svix-`. Only a complete set of three headers counts, never a mixture.

    key: converts a secret to a key, for tools that use these headers with another kind of secret.
    """

    key: Callable[[str], bytes] = standard_webhooks_key

    def applies_to(self, delivery: Delivery) -> bool:
        return any(has_header(delivery, f"{prefix}-signature") for prefix in ("webhook", "svix"))

    @property
    def is_secret_user_chosen(self) -> bool:
        return self.key is not standard_webhooks_key  # a program generates these keys

    def secret_problem(self, secret: str) -> str | None:
        return _standard("webhook", self.key).secret_problem(secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        signed, unsigned = ("webhook", "svix") if delivery.header("svix-signature") is None else ("svix", "webhook")
        slot = _standard(signed, self.key).verify(delivery, context)
        # Sources read the id and the time under both prefixes, and only one set is signed.
        for header in ("id", "timestamp"):
            for line in delivery.header_values(f"{unsigned}-{header}"):
                if line != single_header(delivery, f"{signed}-{header}"):
                    raise SignatureError(f"{unsigned}-{header} is not the {header} that was signed", "malformed")
        return slot

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        """Sign a delivery that has a `webhook-id` or `svix-id`."""
        prefix = "svix" if delivery.header_values("svix-id") else "webhook"
        return _standard(prefix, self.key).sign(delivery, context)


@cache
def _standard(header_prefix: str, key: Callable[[str], bytes]) -> Hmac:
    return Hmac(
        header=f"{header_prefix}-signature",
        signs=f"{{{header_prefix}-id}}.{{t}}.{{body}}",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        timestamp_header=f"{header_prefix}-timestamp",
        key=key,
        min_key_bytes=MIN_CHOSEN_SECRET_BYTES,
    )


#: An empty delivery, to parse a body with before it is sent.
UNSENT = Delivery("", "", (), b"", datetime.fromtimestamp(0, UTC))
