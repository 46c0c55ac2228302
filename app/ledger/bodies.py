"""A delivery's body as it is kept: compressed, and sealed where BODY_KEYS is set. Both stand side by side, so that keys can
be added, changed and taken out at any time.

    28 b5 2f fd …                                          zstd, as it begins
    01, 4 bytes that name the key, 12 of chance, and then  AES-256-GCM of that, bound to the delivery's id
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
    """By a decompressor of its own: bodies are read in several threads."""
    return zstandard.ZstdDecompressor().decompress(squeezed)


class BodyUndecryptable(Exception):
    """The body cannot be opened. The argument: a sentence for an operator."""


class Bodies:
    """keys: of BODY_KEYS, newest first. The first one seals, each of them opens; without any nothing is sealed."""

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
        """Raises UnknownKey."""
        if stored[:1] != _ENCRYPTED:
            return _decompress(stored)
        name, nonce, sealed = stored[1:5], stored[5:17], stored[17:]
        key = self._keys.get(name)
        if key is None:
            raise BodyUndecryptable(f"its body is sealed under a key that BODY_KEYS lacks ({name.hex()})")
        try:
            return _decompress(key.decrypt(nonce, sealed, delivery.encode()))
        except InvalidTag:
            raise BodyUndecryptable(f"its body is not as it was sealed under key {name.hex()}") from None


def key_id(key: str) -> bytes:
    """Enough to tell one key from another."""
    return _derived(key, b"doorbell.body.name")[:_KEY_ID_BYTES]


def _derived(key: str, purpose: bytes) -> bytes:
    return hmac.digest(key.encode(), purpose, "sha256")
