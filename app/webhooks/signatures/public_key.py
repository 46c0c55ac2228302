"""Signatures that are verified with a public key.

The hook's secret is the key: base64 without the lines BEGIN and END, as the settings extract it from a PEM file. For
signing, the secret is the private key.
"""

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext, mismatch, single_header

Algorithm = Literal["ed25519", "rsa-sha256"]
MIN_RSA_BITS = 2048


@lru_cache(maxsize=64)
def load_public_key(secret: str) -> object:
    """Return the key; None if the secret is not a key. Cached: a hook has few keys, and they rarely change."""
    try:
        return load_der_public_key(base64.b64decode(secret, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None


def _verify(algorithm: Algorithm, secret: str, signature: bytes, message: bytes) -> bool:
    key = load_public_key(secret)
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
def load_private_key(secret: str) -> object:
    """Load a private key. Cached: loading a key takes longer than signing with it."""
    return load_der_private_key(base64.b64decode(secret), None)


def _sign(algorithm: Algorithm, private: str, message: bytes) -> bytes:
    key = load_private_key(private)
    if algorithm == "rsa-sha256":
        assert isinstance(key, RSAPrivateKey)
        return key.sign(message, PKCS1v15(), SHA256())
    assert isinstance(key, Ed25519PrivateKey)
    return key.sign(message)


def key_problem(algorithm: Algorithm, secret: str) -> str | None:
    key = load_public_key(secret)
    if algorithm == "rsa-sha256":
        is_large = isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS
        return None if is_large else f"must be an RSA public key of {MIN_RSA_BITS} bits or more, as PEM or its base64"
    return None if isinstance(key, Ed25519PublicKey) else "must be an Ed25519 public key, as PEM or its base64"


@dataclass(frozen=True)
class PublicKey(Scheme):
    """A signature of the raw body in base64, in a header. placeholder_values: texts that mean "no signature"."""

    header: str
    algorithm: Algorithm
    placeholder_values: tuple[str, ...] = ("N/A",)

    def applies_to(self, delivery: Delivery) -> bool:
        lines = [line.strip() for line in delivery.header_values(self.header)]
        return any(line and line not in [text.encode() for text in self.placeholder_values] for line in lines)

    def secret_problem(self, secret: str) -> str | None:
        return key_problem(self.algorithm, secret)

    def verify(self, delivery: Delivery, context: VerificationContext) -> int:
        value = single_header(delivery, self.header)
        if not self.applies_to(delivery):
            raise SignatureError(f"{self.header} is missing", "missing")
        try:
            signature = base64.b64decode(value, validate=True)
        except ValueError:
            raise SignatureError(f"{self.header} is not base64", "malformed") from None
        if base64.b64encode(signature) != value:
            raise SignatureError(f"{self.header} is not canonical base64", "malformed")
        for slot, secret in enumerate(context.secrets):
            if _verify(self.algorithm, secret, signature, delivery.body):
                return slot
        raise mismatch(self.header, len(context.secrets), "key")

    def sign(self, delivery: Delivery, context: VerificationContext) -> dict[str, str]:
        signature = _sign(self.algorithm, context.secrets[0], delivery.body)
        return {self.header: base64.b64encode(signature).decode()}
