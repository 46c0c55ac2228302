"""The console as routes of the web process."""

from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

from app.connections.stored_hooks import StoredHooks
from app.console.context import ConsoleContext
from app.console.errors import HANDLERS
from app.console.middleware import ResponseHeaders
from app.console.rendering import STATIC, VersionedFiles
from app.console.routes import ROUTES
from app.ledger.ledger import Ledger
from app.settings.model import Settings
from app.telemetry.counters import Counters


class Console:
    def __init__(self, settings: Settings, ledger: Ledger, counters: Counters, stored_hooks: StoredHooks) -> None:
        self.context = ConsoleContext(settings, ledger, counters, stored_hooks)

    def routes(self) -> list[BaseRoute]:
        """Return the routes; none if neither a password nor a trusted proxy is configured.

        The application must set `context` as `app.state.console`.
        """
        if not self.context.settings.has_console:
            return []
        authentication = Middleware(AuthenticationMiddleware, backend=self.context.sessions)
        files = Mount("/static/{version}", VersionedFiles(directory=STATIC))
        pages = Mount("", routes=ROUTES, middleware=[authentication])
        common = [Middleware(ResponseHeaders), Middleware(ExceptionMiddleware, handlers=HANDLERS)]
        return [ConsoleMount("/console", routes=[files, pages], middleware=common)]

    async def run(self) -> None:
        """Enforce the deadlines of forms until cancelled."""
        await self.context.body_deadlines.run()

    def start_draining(self) -> None:
        """End event streams and shorten the deadline of forms, so that the process can stop."""
        self.context.body_deadlines.start_draining()
        self.context.events.shut_down()

    async def close(self) -> None:
        self.start_draining()
        await self.context.close()


class ConsoleMount(Mount):
    """Also serves its own path; Starlette's Mount matches `/console/` but not `/console`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        own_path = scope.get("root_path", "") + self.path
        if scope["path"] != own_path:
            return super().matches(scope)
        scope = {**scope, "path": f"{own_path}/"}
        match, child_scope = super().matches(scope)
        return match, {**child_scope, "path": scope["path"]}
