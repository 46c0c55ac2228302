"""Handshakes and probes as data: what a tool sends before it believes that an address is ours.

A handshake never writes anything. One that the tool signs is answered only after the signature holds, since an answer
may itself be a signature: whoever could have it made unsigned could forge deliveries.
"""

from dataclasses import dataclass
from typing import Protocol

from app.delivery import Delivery


@dataclass(frozen=True, slots=True)
class Reply:
    """What the tool wants to hear."""

    body: bytes = b"{}"
    content_type: str = "application/json"


class Unsigned(Protocol):
    """A handshake that comes without a signature."""

    def answer(self, delivery: Delivery) -> Reply | None: ...


@dataclass(frozen=True)
class FixedBody:
    """One known body and no signature header: answered with 200, and nothing else happens.

    The body is compared with its white space taken out; nothing is parsed before a signature holds.
    """

    body: bytes
    unless_header: str

    def answer(self, delivery: Delivery) -> Reply | None:
        if len(delivery.raw) > 2 * len(self.body) or delivery.header_lines(self.unless_header):
            return None
        return Reply() if b"".join(delivery.raw.split()) == self.body else None
