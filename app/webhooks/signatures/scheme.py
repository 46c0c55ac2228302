"""The base class of signature schemes, and what all schemes use: verification context, headers, and signed times."""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from app.webhooks.delivery import Delivery

Reason = Literal["missing", "malformed", "stale", "mismatch"]
#: What a valid signature covers: the whole body, some fields of it, or nothing (the sender only knows a secret).
Coverage = Literal["body", "fields", "nothing"]


class SignatureError(Exception):
    """A signature is missing or invalid. The message is for people; the reason is for counters."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def mismatch(label: str, count: int, noun: str = "secret") -> SignatureError:
    """Return the error of a signature that none of the hook's secrets made. label: where the signature is."""
    sentence = f"does not match the {noun}" if count == 1 else f"matches none of {count} {noun}s"
    return SignatureError(f"{label} {sentence}", "mismatch")


class VerificationContext(NamedTuple):
    """The settings of a hook that a verification needs.

    url: the hook's URL as the tool knows it, from PUBLIC_URL and never from the request.
    tolerance_s: the maximum difference between the signed time and now; None: the scheme's default.
    keys: SECRET_KEY, newest first, for the tokens in the hook's URL.
    """

    secrets: Sequence[str]
    now: float
    url: str = ""
    tolerance_s: float | None = None
    keys: Sequence[str] = ()


class Scheme(ABC):
    """The signature of a source's deliveries. A subclass implements `verify`, `sign` and `secret_problem`."""

    @abstractmethod
    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        """Return the position of the secret that matched. Raise SignatureError if none did."""

    @abstractmethod
    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        """Return the signature headers that the tool would send, made with the first secret, for `ring` and the demo.

        For tools that sign with a private key, the first secret is the private key.
        """

    @abstractmethod
    def secret_problem(self, secret: str) -> str | None:
        """Return the rule that an unusable secret breaks, as in "must be base64"; None if the secret is usable."""

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        """Return the body as the tool would send it, for tools whose signature is in the body."""
        return raw

    def path_token(self, hook: str, context: VerificationContext) -> str:
        """Return the token in the hook's URL; empty if the scheme has none."""
        return ""

    def applies_to(self, delivery: Delivery) -> bool:
        """Return whether the delivery has a signature of this scheme, valid or not."""
        return True

    @property
    def coverage(self) -> Coverage:
        return "body"

    @property
    def is_secret_user_chosen(self) -> bool:
        """Whether people choose the key themselves, instead of copying it from the tool."""
        return False

    @property
    def needs_url(self) -> bool:
        """Whether the tool signs the hook's URL. Then PUBLIC_URL must be set."""
        return False

    @property
    def needs_secret_key(self) -> bool:
        """Whether the hook's URL contains a token. Then SECRET_KEY must be set."""
        return False


class TimestampFormat(NamedTuple):
    """The format of a signed time. parse: (text) → seconds since 1970, or ValueError.

    format: (now, old text) → text.
    """

    parse: Callable[[bytes], float]
    format: Callable[[float, str], str]


def _parse_digits(max_digits: int) -> Callable[[bytes], float]:
    def parse(text: bytes) -> float:
        if not text.isdigit() or len(text) > max_digits:
            raise ValueError
        return int(text)

    return parse


def _parse_iso(text: bytes) -> float:
    time = datetime.fromisoformat(text.decode("ascii"))
    if time.tzinfo is None:
        raise ValueError
    return time.timestamp()


def _format_iso(now: float, _: str) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


UNIX_SECONDS = TimestampFormat(_parse_digits(12), lambda now, _: str(int(now)))
UNIX_MILLISECONDS = TimestampFormat(lambda text: _parse_digits(15)(text) / 1000, lambda now, _: str(int(now * 1000)))
ISO_8601 = TimestampFormat(_parse_iso, _format_iso)
#: `anything:else:1600717631`: seconds after the last colon.
SECONDS_AFTER_LAST_COLON = TimestampFormat(
    lambda text: UNIX_SECONDS.parse(text.rpartition(b":")[2]),
    lambda now, old: f"{old.rpartition(':')[0]}:{int(now)}",
)


#: The minimum length of a key that the tool generates, and of a key that people choose, which others may guess.
MIN_GENERATED_SECRET_BYTES, MIN_CHOSEN_SECRET_BYTES = 8, 12


def matching_index(value: bytes, expected: Sequence[bytes], label: str) -> int:
    """Return the position of the first equal value, in constant time. Raise SignatureError if none is equal."""
    equal = [hmac.compare_digest(value, candidate) for candidate in expected]
    if True not in equal:
        raise mismatch(label, len(expected))
    return equal.index(True)


def has_header(delivery: Delivery, header: str) -> bool:
    return any(line.strip() for line in delivery.header_values(header))


def single_header(delivery: Delivery, name: str) -> bytes:
    """Return the header's only line. Raise SignatureError if it is missing, or sent several times."""
    line = delivery.single_header(name)
    if line and not line.isspace():
        return line
    lines = delivery.header_values(name)
    if len(lines) < 2 or not lines[0].strip():
        raise SignatureError(f"{name} is missing", "missing")
    raise SignatureError(f"{name} was sent {len(lines)} times", "malformed")


def parse_signed_time(timestamp_format: TimestampFormat, text: bytes) -> float:
    try:
        return timestamp_format.parse(text)
    except (ValueError, OverflowError):
        raise SignatureError("the signed time cannot be parsed", "malformed") from None


def check_age(signed_at: float, context: VerificationContext, tolerance_s: float) -> None:
    """Raise SignatureError if the signed time is too far in the past or in the future."""
    tolerance_s = tolerance_s if context.tolerance_s is None else context.tolerance_s
    age = context.now - signed_at
    if not abs(age) <= tolerance_s:  # rejects NaN, too
        direction = "old" if age > 0 else "ahead of our clock"
        raise SignatureError(
            f"the signed time is {abs(age):.0f} s {direction}; {tolerance_s:.0f} s are allowed", "stale"
        )


def fingerprint(secret: str, keys: Sequence[str]) -> str:
    """Return 8 characters that identify a secret.

    keys: SECRET_KEY; without it, nobody can test a guess of the secret.
    """
    key = (keys[0] if keys else "").encode()
    return hmac.digest(key, f"doorbell.fingerprint {secret}".encode(), "sha256").hex()[:8]
