"""Schemes for tools that sign nothing: a secret in a header, or a token in the hook's URL."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import (
    MIN_CHOSEN_SECRET_BYTES,
    MIN_GENERATED_SECRET_BYTES,
    Coverage,
    Scheme,
    SignatureError,
    VerificationContext,
    has_header,
    matching_index,
    single_header,
)


@dataclass(frozen=True)
class HeaderToken(Scheme):
    """The secret itself in a header, as in `Authorization: Bearer …`. It does not cover the body.

    prefix: the text before the secret, in upper or lower case (as HTTP allows for `Bearer`). It may be repeated, because
        people paste the secret together with its prefix.
    """

    header: str
    prefix: str = ""
    min_length: int = MIN_GENERATED_SECRET_BYTES

    @property
    def coverage(self) -> Coverage:
        return "nothing"

    @property
    def is_secret_user_chosen(self) -> bool:
        return self.min_length >= MIN_CHOSEN_SECRET_BYTES

    def secret_problem(self, secret: str) -> str | None:
        if len(secret) < self.min_length:
            return f"must have {self.min_length} characters or more"
        return f"must have {MAX_TOKEN_BYTES} bytes at most" if len(secret.encode()) > MAX_TOKEN_BYTES else None

    def applies_to(self, delivery: Delivery) -> bool:
        return has_header(delivery, self.header)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        line = single_header(delivery, self.header)
        if len(line) > MAX_TOKEN_HEADER_BYTES:
            raise SignatureError(f"{self.header} has more than {MAX_TOKEN_HEADER_BYTES} bytes", "malformed")
        match = _prefix_pattern(self.prefix).fullmatch(line)
        if not match:
            raise SignatureError(f"{self.header} does not begin with `{self.prefix.strip()}`", "malformed")
        return matching_index(match[1], [secret.encode() for secret in context.secrets], self.header)

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        return {self.header: self.prefix + context.secrets[0]}


@cache
def _prefix_pattern(prefix: str) -> re.Pattern[bytes]:
    """Match what follows the repeated prefix. Possessive, so that the time is linear in the header's length."""
    return re.compile(rb"(?is:(?:%b)++(.*))" % re.escape(prefix.encode()) if prefix else rb"(?s:(.*))")


@dataclass(frozen=True)
class PathToken(Scheme):
    """A token in the hook's URL, for tools that sign nothing: `/hooks/{hook}/{token}`.

    The token is derived from the hook's name and secret with SECRET_KEY. `doorbell hook-url HOOK` prints the URL. A new
    secret or a new key changes the URL.
    """

    @property
    def coverage(self) -> Coverage:
        return "nothing"

    @property
    def needs_secret_key(self) -> bool:
        return True

    def secret_problem(self, secret: str) -> str | None:
        return None if secret else "must not be empty"

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        if not delivery.token:
            raise SignatureError("the URL has no token; `doorbell hook-url` prints the right URL", "missing")
        expected = [_make_path_token(key, delivery.hook, secret) for secret in context.secrets for key in context.keys]
        return matching_index(delivery.token.encode(), expected, "the token in the URL") // len(context.keys)

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        return {}

    def path_token(self, hook: str, context: VerificationContext) -> str:
        return _make_path_token(context.keys[0], hook, context.secrets[0]).decode()


@lru_cache(maxsize=1024)
def _make_path_token(key: str, hook: str, secret: str) -> bytes:
    from itsdangerous import Signer  # few tools need it

    signer = Signer(key, "doorbell.hook", key_derivation="hmac", digest_method=hashlib.sha256)
    return signer.get_signature(f"{hook} {secret}")


#: The header has room for a prefix that was pasted several times.
MAX_TOKEN_BYTES, MAX_TOKEN_HEADER_BYTES = 1_024, 2_048
