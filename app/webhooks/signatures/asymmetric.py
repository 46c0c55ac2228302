"""Public and private keys, with cryptography. Imported at the first use, because importing the library takes long.

A key is base64 without the lines BEGIN and END, as the settings extract it from a PEM file.
"""

import base64
from functools import lru_cache
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

Algorithm = Literal["ed25519", "rsa-sha256"]
MIN_RSA_BITS = 2048


@lru_cache(maxsize=64)
def load_public_key(secret: str) -> object:
    """Return the key; None if the secret is not a key. Cached: a hook has few keys, and they rarely change."""
    try:
        return load_der_public_key(base64.b64decode(secret, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None


@lru_cache(maxsize=4)
def load_private_key(secret: str) -> object:
    """Load a private key. Cached: loading a key takes longer than signing with it."""
    return load_der_private_key(base64.b64decode(secret), None)


def is_signed(algorithm: Algorithm, secret: str, signature: bytes, message: bytes) -> bool:
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


def sign(algorithm: Algorithm, private: str, message: bytes) -> bytes:
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
