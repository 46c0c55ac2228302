"""Searches in URLs, encrypted: a search may be an e-mail address, and browsers and proxies keep URLs."""

import base64
import binascii
from dataclasses import replace

from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.operators.filter import Filter
from app.settings.model import Settings

#: Begins a token. MAX_LENGTH: of a search.
PREFIX, MAX_LENGTH = "~", 300
_PLACE, _MAX_TOKEN = "a search", 2_000


class SearchTokens:
    def __init__(self, settings: Settings) -> None:
        self._keyring = Keyring(settings.secret_key, "doorbell.search")

    def encode(self, text: str) -> str:
        return PREFIX + base64.urlsafe_b64encode(self._keyring.encrypt(text.encode(), _PLACE)).decode().rstrip("=")

    def decode(self, param: str) -> str:
        """Return the search of a token. Another text is the search itself, as in a link to an id.

        An unreadable token stays a search, which nothing matches: an empty one would match everything.
        """
        text = param.strip()[:_MAX_TOKEN]
        if not text.startswith(PREFIX):
            return text[:MAX_LENGTH]
        try:
            encrypted = base64.urlsafe_b64decode(text.removeprefix(PREFIX) + "==")
            return self._keyring.decrypt(encrypted, _PLACE).decode()
        except (binascii.Error, ValueError, UnknownKey, TamperedValue):
            return text[:MAX_LENGTH]

    def with_search(self, filter: Filter, param: str) -> Filter:
        """Return the filter with the search of a parameter, and with a token for its URLs."""
        search = self.decode(param)
        return replace(filter, search=search, search_token=self.encode(search) if search else "")
