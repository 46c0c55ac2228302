"""Schemes for tools that sign nothing: a secret in a header, or a token in the hook's address."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache

import itsdangerous

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import (
    CHOSEN_KEY,
    TOOLS_KEY,
    Cover,
    Scheme,
    SignatureError,
    Terms,
    _is_there,
    _same,
    only_line,
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


#: In bytes. The header has room for a prefix that was pasted several times.
LONGEST_TOKEN, LONGEST_TOKEN_HEADER = 1_024, 2_048
