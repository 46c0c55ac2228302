"""What every signature scheme has: verify, sign, the rules for secrets, and the signed time."""

import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from app.webhooks.delivery import Delivery

Reason = Literal["missing", "malformed", "stale", "mismatch"]
#: What a signature that holds proves: the whole body, some fields of it, or only that the sender knows a secret.
Coverage = Literal["body", "fields", "nothing"]


class SignatureError(Exception):
    """The delivery is not believed. The sentence is for people, the reason for counters."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class VerificationContext(NamedTuple):
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
    """What a source names as its signature. A scheme of its own needs `verify`, `sign` and `secret_problem`."""

    @abstractmethod
    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        """The position of the secret that matched. Raises SignatureError."""

    @abstractmethod
    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        """The headers that the tool would send with this body, made with the first secret: for `ring` and the demo.

        Where the tool signs with a private key, that is what stands in the place of the first secret.
        """

    @abstractmethod
    def secret_problem(self, secret: str) -> str | None:
        """What is wrong with a secret that can never match, as a rule to follow; None if nothing is."""

    def encode_body(self, raw: bytes, context: VerificationContext) -> bytes:
        """The body as the tool would send it, where the signature stands in the body itself."""
        return raw

    def path_token(self, hook: str, context: VerificationContext) -> str:
        """What stands behind the hook's name in its address; nothing, as a rule."""
        return ""

    def applies_to(self, delivery: Delivery) -> bool:
        """Does the delivery carry a signature of this scheme at all, right or wrong?"""
        return True

    @property
    def coverage(self) -> Coverage:
        return "body"

    @property
    def is_secret_user_chosen(self) -> bool:
        """Do people choose the key, rather than copy it from the tool?"""
        return False

    @property
    def needs_url(self) -> bool:
        """Does the tool sign our address? Then PUBLIC_URL must be set."""
        return False

    @property
    def needs_secret_key(self) -> bool:
        """Is there a token of ours in the address? Then SECRET_KEY must be set."""
        return False


class TimestampFormat(NamedTuple):
    """How a signed time is written. parse: to seconds since 1970, or ValueError. format: from (now, the old text)."""

    parse: Callable[[bytes], float]
    format: Callable[[float, str], str]


def _parse_digits(most: int) -> Callable[[bytes], float]:
    digits = re.compile(rb"[0-9]{1,%d}" % most)

    def read(written: bytes) -> float:
        if not digits.fullmatch(written):
            raise ValueError
        return int(written)

    return read


def _parse_iso(written: bytes) -> float:
    moment = datetime.fromisoformat(written.decode("ascii"))
    if moment.tzinfo is None:
        raise ValueError
    return moment.timestamp()


def _format_iso(now: float, _: str) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


UNIX_SECONDS = TimestampFormat(_parse_digits(12), lambda now, _: str(int(now)))
UNIX_MILLISECONDS = TimestampFormat(
    lambda written: _parse_digits(15)(written) / 1000, lambda now, _: str(int(now * 1000))
)
ISO_8601 = TimestampFormat(_parse_iso, _format_iso)
#: `anything:else:1600717631`: seconds after the last colon.
SECONDS_AFTER_LAST_COLON = TimestampFormat(
    lambda written: UNIX_SECONDS.parse(written.rpartition(b":")[2]),
    lambda now, old: f"{old.rpartition(':')[0]}:{int(now)}",
)


#: The shortest keys that are accepted, in bytes: one that a tool makes, and one that people choose, which can be guessed.
MIN_GENERATED_SECRET_BYTES, MIN_CHOSEN_SECRET_BYTES = 8, 12


def matching_index(given: bytes, expected: Sequence[bytes], what: str) -> int:
    """The place of the first that it equals; every one is compared."""
    equal = [hmac.compare_digest(given, one) for one in expected]
    if True not in equal:
        raise SignatureError(f"{what} matches none of {len(expected)} secrets", "mismatch")
    return equal.index(True)


def has_header(delivery: Delivery, header: str) -> bool:
    return any(line.strip() for line in delivery.header_values(header))


def single_header(delivery: Delivery, name: str) -> bytes:
    """The header's one line: two lines of one name are two claims, and none of them is believed."""
    line = delivery.single_header(name)
    if line and not line.isspace():
        return line
    lines = delivery.header_values(name)
    if len(lines) < 2 or not lines[0].strip():
        raise SignatureError(f"{name} is missing", "missing")
    raise SignatureError(f"{name} was sent {len(lines)} times", "malformed")


def parse_signed_time(clock: TimestampFormat, written: bytes) -> float:
    try:
        return clock.parse(written)
    except (ValueError, OverflowError):
        raise SignatureError("the signed time is not a time", "malformed") from None


def check_age(signed_at: float, context: VerificationContext, tolerance_s: float) -> None:
    """Both ways, and so that NaN would not pass: `not abs(age) <= tolerance`."""
    tolerance_s = tolerance_s if context.tolerance_s is None else context.tolerance_s
    age = context.now - signed_at
    if not abs(age) <= tolerance_s:
        direction = "old" if age > 0 else "ahead of our clock"
        raise SignatureError(
            f"the signed time is {abs(age):.0f} s {direction}; {tolerance_s:.0f} s are allowed", "stale"
        )


def fingerprint(secret: str, keys: Sequence[str]) -> str:
    """Enough to tell one secret from another. keys: SECRET_KEY, so that nobody without it can test guesses."""
    return hmac.digest((keys[0] if keys else "").encode(), f"doorbell.fingerprint {secret}".encode(), "sha256").hex()[
        :8
    ]
