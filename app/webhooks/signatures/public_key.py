"""Signatures that are verified with a public key, and bodies that are tokens. A secret is then a key: base64 without the
lines BEGIN and END, as `settings` takes it out of a PEM file; to sign, the private key stands in its place.
"""

import base64
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from app.webhooks.delivery import JWT, Delivery, from_base64url
from app.webhooks.signatures.scheme import Scheme, SignatureError, Terms, only_line

Algorithm = Literal["ed25519", "rsa-sha256"]
SMALLEST_RSA, SHORTEST_HS256 = 2048, 32


@lru_cache(maxsize=64)
def _public(secret: str) -> object:
    """The key, or None where it is none. The keys that a hook has are few and stay."""
    try:
        return load_der_public_key(base64.b64decode(secret, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None


def _holds(algorithm: Algorithm, secret: str, signature: bytes, message: bytes) -> bool:
    key = _public(secret)
    try:
        if algorithm == "ed25519" and isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        elif algorithm == "rsa-sha256" and isinstance(key, RSAPublicKey):
            key.verify(signature, message, PKCS1v15(), SHA256())
        else:
            return False
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=4)
def _private(secret: str) -> object:
    """To load one takes longer than to sign with it."""
    return load_der_private_key(base64.b64decode(secret), None)


def _made(algorithm: Algorithm, private: str, message: bytes) -> bytes:
    key = _private(private)
    if algorithm == "rsa-sha256":
        assert isinstance(key, RSAPrivateKey)
        return key.sign(message, PKCS1v15(), SHA256())
    assert isinstance(key, Ed25519PrivateKey)
    return key.sign(message)


def _check_key(algorithm: Algorithm, secret: str) -> str | None:
    key = _public(secret)
    if algorithm == "rsa-sha256":
        is_large = isinstance(key, RSAPublicKey) and key.key_size >= SMALLEST_RSA
        return None if is_large else f"must be an RSA public key of {SMALLEST_RSA} bits or more, as PEM or its base64"
    return None if isinstance(key, Ed25519PublicKey) else "must be an Ed25519 public key, as PEM or its base64"


@dataclass(frozen=True)
class PublicKey(Scheme):
    """A header with a signature of the raw body, in base64. absent: texts that stand there instead of none."""

    header: str
    algorithm: Algorithm
    absent: tuple[str, ...] = ("N/A",)

    def applies(self, delivery: Delivery) -> bool:
        lines = [line.strip() for line in delivery.header_lines(self.header)]
        return any(line and line not in [text.encode() for text in self.absent] for line in lines)

    def check_secret(self, secret: str) -> str | None:
        return _check_key(self.algorithm, secret)

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        given = only_line(delivery, self.header)
        if not self.applies(delivery):
            raise SignatureError(f"{self.header} is missing", "missing")
        try:
            signature = base64.b64decode(given, validate=True)
        except ValueError:
            raise SignatureError(f"{self.header} is not base64", "malformed") from None
        if base64.b64encode(signature) != given:
            raise SignatureError(f"{self.header} is not written as base64 is", "malformed")
        for slot, secret in enumerate(terms.secrets):
            if _holds(self.algorithm, secret, signature, delivery.raw):
                return slot
        raise SignatureError(f"{self.header} matches none of {len(terms.secrets)} keys", "mismatch")

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        signature = _made(self.algorithm, terms.secrets[0], delivery.raw)
        return {self.header: base64.b64encode(signature).decode()}


@dataclass(frozen=True)
class Jwt(Scheme):
    """The whole body is a JSON Web Token, and its claims are the event (form="jwt"). What the token itself names as its
    algorithm is not read: it is this one.

    expires: it must say until when it counts (`exp`). tolerance_s: how far clocks may be apart there and in `iat`, `nbf`.
    A key of HS256 has 32 bytes or more: https://www.rfc-editor.org/rfc/rfc7518#section-3.2
    """

    algorithm: Literal["RS256", "HS256"]
    expires: bool = True
    tolerance_s: float = 300

    def applies(self, delivery: Delivery) -> bool:
        return bool(JWT.fullmatch(delivery.raw.strip()))

    def check_secret(self, secret: str) -> str | None:
        if self.algorithm == "RS256":
            return _check_key("rsa-sha256", secret)
        return None if len(secret.encode()) >= SHORTEST_HS256 else f"must have {SHORTEST_HS256} characters or more"

    def verify(self, delivery: Delivery, terms: Terms) -> int:
        token = delivery.raw.strip()
        if not token:
            raise SignatureError("the body is empty, and the signature would stand in it", "missing")
        if not JWT.fullmatch(token):
            raise SignatureError("the body is not a JSON Web Token", "malformed")
        message, _, written = token.rpartition(b".")
        signature = from_base64url(written)
        for slot, secret in enumerate(terms.secrets):
            if self._is_by(secret, signature, message):
                self._check_times(_claims(token), terms)
                return slot
        raise SignatureError(f"the token in the body matches none of {len(terms.secrets)} keys", "mismatch")

    def _is_by(self, secret: str, signature: bytes | None, message: bytes) -> bool:
        if signature is None:
            return False
        if self.algorithm == "RS256":
            return _holds("rsa-sha256", secret, signature, message)
        return hmac.compare_digest(hmac.digest(secret.encode(), message, "sha256"), signature)

    def _check_times(self, claims: dict[str, Any], terms: Terms) -> None:
        tolerance_s = self.tolerance_s if terms.tolerance_s is None else terms.tolerance_s
        times = {name: claims.get(name) for name in ("exp", "iat", "nbf")}
        if times["exp"] is None and self.expires:
            raise SignatureError("the token does not say when it expires", "malformed")
        for name, at in times.items():
            if at is None:
                continue
            if isinstance(at, bool) or not isinstance(at, int | float):
                raise SignatureError(f"the token's `{name}` is not a time", "malformed")
            too_late = terms.now - at if name == "exp" else at - terms.now
            if not too_late <= tolerance_s:
                raise SignatureError(f"the token's `{name}` is {too_late:.0f} s off", "stale")

    def sign(self, delivery: Delivery, terms: Terms) -> dict[str, str]:
        return {}

    def wrap(self, raw: bytes, terms: Terms) -> bytes:
        claims = _claims(raw.strip()) if JWT.fullmatch(raw.strip()) else orjson.loads(raw)
        fresh = {**claims, "iat": int(terms.now), "exp": int(terms.now) + 3600}
        message = b".".join(_base64url(orjson.dumps(part)) for part in ({"alg": self.algorithm, "typ": "JWT"}, fresh))
        private = terms.secrets[0]
        if self.algorithm == "RS256":
            signature = _made("rsa-sha256", private, message)
        else:
            signature = hmac.digest(private.encode(), message, "sha256")
        return message + b"." + _base64url(signature)


def _claims(token: bytes) -> dict[str, Any]:
    try:
        claims = orjson.loads(from_base64url(token.split(b".")[1]) or b"")
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise SignatureError("the token's claims are not an object", "malformed")
    return claims


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
