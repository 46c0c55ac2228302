"""Encryption of values in Redis: AES-256-GCM with a separate key for each purpose, and several keys for rotation.

01, 4 bytes of key id, 12 bytes of nonce, ciphertext with tag
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: The first byte of an encrypted value.
FORMAT = b"\x01"
_KEY_ID_BYTES, _NONCE_BYTES = 4, 12


class UnknownKey(Exception):
    """The argument is the id of a key that is not configured."""


class TamperedValue(Exception):
    """The value, or its place, was changed after it was encrypted. The argument is the id of the key."""


class Keyring:
    """keys: newest first. The first one encrypts, each one decrypts."""

    def __init__(self, keys: Sequence[str], purpose: str) -> None:
        self._keys = {derive_key(key, f"{purpose}.name")[:_KEY_ID_BYTES]: derive_key(key, purpose) for key in keys}

    @property
    def key_ids(self) -> list[str]:
        """Ids that distinguish the keys and do not reveal them, newest first."""
        return [key_id.hex() for key_id in self._keys]

    def is_newest(self, encrypted: bytes) -> bool:
        """Return whether the value is encrypted with the first key."""
        return encrypted[1:5] == next(iter(self._keys))

    def encrypt(self, value: bytes, place: str) -> bytes:
        """place: where the value is stored. It cannot be decrypted as the value of another place."""
        key_id, key = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE_BYTES)
        return FORMAT + key_id + nonce + _cipher(key).encrypt(nonce, value, place.encode())

    def decrypt(self, encrypted: bytes, place: str) -> bytes:
        """Raise UnknownKey or TamperedValue."""
        from cryptography.exceptions import InvalidTag

        key_id, nonce, ciphertext = encrypted[1:5], encrypted[5:17], encrypted[17:]
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(key_id.hex())
        try:
            return _cipher(key).decrypt(nonce, ciphertext, place.encode())
        except (InvalidTag, ValueError):
            raise TamperedValue(key_id.hex()) from None


@lru_cache
def _cipher(key: bytes) -> "AESGCM":
    # Imported at the first use: the library takes 7 MB, and not every process encrypts.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def derive_key(key: str, purpose: str) -> bytes:
    """Derive 32 bytes. Keys of different purposes do not reveal each other, nor the key that they come from."""
    return hmac.digest(key.encode(), purpose.encode("utf-8", "surrogatepass"), hashlib.sha256)
