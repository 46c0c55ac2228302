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

_SEALED, _NAME, _NONCE = b"\x01", 4, 12
_squeeze = zstandard.ZstdCompressor(level=1).compress


def _widen(squeezed: bytes) -> bytes:
    """By a decompressor of its own: bodies are read in several threads."""
    return zstandard.ZstdDecompressor().decompress(squeezed)


class UnknownKey(Exception):
    """The body cannot be opened. The argument: a sentence for an operator."""


class Bodies:
    """keys: of BODY_KEYS, newest first. The first one seals, each of them opens; without any nothing is sealed."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = {name_of(key): AESGCM(_derived(key, b"doorbell.body")) for key in keys}
        self._first = name_of(keys[0]) if keys else b""

    def keep(self, raw: bytes, delivery: str) -> bytes:
        squeezed = _squeeze(raw)
        if not self._first:
            return squeezed
        nonce = os.urandom(_NONCE)
        return _SEALED + self._first + nonce + self._keys[self._first].encrypt(nonce, squeezed, delivery.encode())

    def read(self, kept: bytes, delivery: str) -> bytes:
        """Raises UnknownKey."""
        if kept[:1] != _SEALED:
            return _widen(kept)
        name, nonce, sealed = kept[1:5], kept[5:17], kept[17:]
        key = self._keys.get(name)
        if key is None:
            raise UnknownKey(f"its body is sealed under a key that BODY_KEYS lacks ({name.hex()})")
        try:
            return _widen(key.decrypt(nonce, sealed, delivery.encode()))
        except InvalidTag:
            raise UnknownKey(f"its body is not as it was sealed under key {name.hex()}") from None


def name_of(key: str) -> bytes:
    """Enough to tell one key from another."""
    return _derived(key, b"doorbell.body.name")[:_NAME]


def _derived(key: str, purpose: bytes) -> bytes:
    return hmac.digest(key.encode(), purpose, "sha256")
