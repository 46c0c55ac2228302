"""The stored form of a delivery's body: compressed, and encrypted if BODY_KEYS is set.

Both forms can be read at any time, so keys can be added, changed and removed.

    28 b5 2f fd …   zstd
    01 …            the above, encrypted (encryption.py)
"""

from collections.abc import Sequence

import zstandard

from app.ledger.encryption import FORMAT, Keyring, TamperedValue, UnknownKey

_compress = zstandard.ZstdCompressor(level=1).compress


def _decompress(compressed: bytes) -> bytes:
    """Threads share this module, so each call has a decompressor of its own."""
    return zstandard.ZstdDecompressor().decompress(compressed)


class BodyUndecryptable(Exception):
    """The argument is a sentence for an operator."""


class Bodies:
    """keys: BODY_KEYS, newest first. Without keys nothing is encrypted."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keyring = Keyring(keys, "doorbell.body")
        self._is_encrypting = bool(keys)

    @property
    def key_ids(self) -> list[str]:
        return self._keyring.key_ids

    def encode(self, body: bytes, delivery_id: str) -> bytes:
        compressed = _compress(body)
        return self._keyring.encrypt(compressed, delivery_id) if self._is_encrypting else compressed

    def decode(self, stored: bytes, delivery_id: str) -> bytes:
        """Raise BodyUndecryptable."""
        if not stored.startswith(FORMAT):
            return _decompress(stored)
        try:
            return _decompress(self._keyring.decrypt(stored, delivery_id))
        except UnknownKey as error:
            raise BodyUndecryptable(f"its body is encrypted with a key that BODY_KEYS lacks ({error})") from None
        except TamperedValue as error:
            raise BodyUndecryptable(f"its body was changed after it was encrypted with key {error}") from None
