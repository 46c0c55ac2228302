"""The stored form of a delivery's body: compressed, and encrypted if BODY_KEYS is set.

All forms can be read at any time, so keys can be added, changed and removed.

    28 b5 2f fd …   zstd
    02 …            zstd with the dictionary of the source (compression.py)
    01 …            one of the above, encrypted (encryption.py)
"""

from collections.abc import Sequence

from app.ledger.compression import UnknownDictionary, decompress
from app.ledger.encryption import FORMAT, Keyring, TamperedValue, UnknownKey


class BodyUnreadable(Exception):
    """reason: a key of REASONS. The message is a sentence for an operator."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Bodies:
    """keys: BODY_KEYS, newest first. Without keys nothing is encrypted."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keyring = Keyring(keys, "doorbell.body")
        self._is_encrypting = bool(keys)

    @property
    def key_ids(self) -> list[str]:
        return self._keyring.key_ids

    def encode(self, compressed: bytes, delivery_id: str) -> bytes:
        """compressed: by compression.compress."""
        return self._keyring.encrypt(compressed, delivery_id) if self._is_encrypting else compressed

    def decode(self, stored: bytes, delivery_id: str) -> bytes:
        """Raise BodyUnreadable."""
        try:
            return decompress(self._keyring.decrypt(stored, delivery_id) if stored.startswith(FORMAT) else stored)
        except UnknownKey as error:
            message = f"its body is encrypted with a key that BODY_KEYS lacks ({error})"
            raise BodyUnreadable("body_key_unknown", message) from None
        except UnknownDictionary as error:
            message = f"a newer version of Doorbell compressed its body (dictionary {error})"
            raise BodyUnreadable("newer_version", message) from None
        except TamperedValue as error:
            message = f"its body was changed after it was encrypted with key {error}"
            raise BodyUnreadable("body_changed", message) from None
