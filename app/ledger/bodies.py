"""The stored form of a delivery's body: compressed, and encrypted if BODY_KEYS is set. Both forms can be read at any time,
so keys can be added, changed and removed.

    28 b5 2f fd …                                    zstd
    01, 4 bytes of key id, 12 bytes of nonce, then   AES-256-GCM of the above, bound to the delivery's id
"""

import hmac
import os
from collections.abc import Sequence

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_ENCRYPTED, _KEY_ID_BYTES, _NONCE_BYTES = b"\x01", 4, 12
_compress = zstandard.ZstdCompressor(level=1).compress


def _decompress(squeezed: bytes) -> bytes:
    """A decompressor for each call, since threads share this module."""
    return zstandard.ZstdDecompressor().decompress(squeezed)


class BodyUndecryptable(Exception):
    """The argument is a sentence for an operator."""


class Bodies:
    """keys: BODY_KEYS, newest first. The first one encrypts, each one decrypts; without keys nothing is encrypted."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = {key_id(key): AESGCM(_derived(key, b"doorbell.body")) for key in keys}
        self._first = key_id(keys[0]) if keys else b""

    def encode(self, raw: bytes, delivery: str) -> bytes:
        squeezed = _compress(raw)
        if not self._first:
            return squeezed
        nonce = os.urandom(_NONCE_BYTES)
        return _ENCRYPTED + self._first + nonce + self._keys[self._first].encrypt(nonce, squeezed, delivery.encode())

    def decode(self, stored: bytes, delivery: str) -> bytes:
        """Raises BodyUndecryptable."""
        if stored[:1] != _ENCRYPTED:
            return _decompress(stored)
        name, nonce, encrypted = stored[1:5], stored[5:17], stored[17:]
        key = self._keys.get(name)
        if key is None:
            raise BodyUndecryptable(f"its body is encrypted with a key that BODY_KEYS lacks ({name.hex()})")
        try:
            return _decompress(key.decrypt(nonce, encrypted, delivery.encode()))
        except InvalidTag:
            raise BodyUndecryptable(f"its body was changed after it was encrypted with key {name.hex()}") from None


def key_id(key: str) -> bytes:
    """Distinguishes the keys; it does not reveal them."""
    return _derived(key, b"doorbell.body.name")[:_KEY_ID_BYTES]


def _derived(key: str, purpose: bytes) -> bytes:
    return hmac.digest(key.encode(), purpose, "sha256")
