"""The console as a mount of the web process, which imports its pages at the first request: it is ready earlier."""

import asyncio
import gc
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from app.connections.stored_hooks import StoredHooks
from app.ledger.ledger import Ledger
from app.settings.model import Settings
from app.telemetry.counters import Counters
from app.webhooks.registry import load_sources

if TYPE_CHECKING:
    from app.console.context import ConsoleContext

PAGES = "app.console.pages_app"


class Console:
    """The application must have it as `app.state.console`."""

    def __init__(self, settings: Settings, ledger: Ledger, counters: Counters, stored_hooks: StoredHooks) -> None:
        self._settings, self._ledger, self._counters, self._stored_hooks = settings, ledger, counters, stored_hooks
        self._is_open = asyncio.Event()

    def routes(self) -> list[BaseRoute]:
        """Return the routes; none if neither a password nor a trusted proxy is configured."""
        return [ConsoleMount("/console", self._serve)] if self._settings.has_console else []

    @cached_property
    def context(self) -> "ConsoleContext":
        context: ConsoleContext = import_module("app.console.context").ConsoleContext(
            self._settings, self._ledger, self._counters, self._stored_hooks
        )
        self._is_open.set()
        return context

    @cached_property
    def _pages(self) -> ASGIApp:
        pages: ASGIApp = import_module(PAGES).create_pages(self.context)
        gc.freeze()  # as at the start: what was imported stays
        return pages

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_open.is_set():
            await asyncio.to_thread(_import_pages)  # meanwhile webhooks are answered
        await self._pages(scope, receive, send)

    async def run(self) -> None:
        """Enforce the deadlines of forms until cancelled."""
        await self._is_open.wait()
        await self.context.body_deadlines.run()

    def start_draining(self) -> None:
        """End event streams and shorten the deadline of forms, so that the process can stop."""
        if self._is_open.is_set():
            self.context.body_deadlines.start_draining()
            self.context.events.shut_down()

    async def close(self) -> None:
        self.start_draining()
        if self._is_open.is_set():
            await self.context.close()


def _import_pages() -> None:
    import_module(PAGES)
    load_sources().load(load_sources())


class ConsoleMount(Mount):
    """Also serves its own path; Starlette's Mount matches `/console/` but not `/console`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        own_path = scope.get("root_path", "") + self.path
        if scope["path"] != own_path:
            return super().matches(scope)
        scope = {**scope, "path": f"{own_path}/"}
        match, child_scope = super().matches(scope)
        return match, {**child_scope, "path": scope["path"]}
