"""The objects that a call to a tool needs from its process."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import httpx

from app.ledger.ledger import Ledger
from app.ledger.locks import KeyedLocks
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


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The context of a command or a page."""

    settings: Settings
    ledger: Ledger
    http: httpx.AsyncClient
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    token_exchanges: set[asyncio.Task[str]] = field(default_factory=set)


def shared_now(context: CallContext) -> datetime:
    """Return the time by the clock that all processes share. That of this process may differ."""
    return datetime.fromtimestamp(context.ledger.redis.now_ms() / 1000, UTC)
