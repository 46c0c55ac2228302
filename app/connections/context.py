"""What a call to a tool needs from its process."""

import asyncio
from typing import Protocol

import httpx

from app.ledger.leases import KeyedLocks
from app.ledger.ledger import Ledger
from app.settings.model import Settings


class CallContext(Protocol):
    """A worker's context has these attributes; ToolContext has no others.

    token_exchanges: the running exchanges of refresh tokens; they may outlive their callers.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def http(self) -> httpx.AsyncClient: ...
    @property
    def locks(self) -> KeyedLocks: ...
    @property
    def token_exchanges(self) -> set[asyncio.Task[str]]: ...
