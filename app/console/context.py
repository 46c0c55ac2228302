"""The objects that all pages share."""

import httpx
from starlette.requests import HTTPConnection, Request

from app.connections.context import ToolContext
from app.connections.stored_hooks import StoredHooks
from app.console.events import EventHub
from app.console.form_tokens import FormTokens
from app.console.passwords import Passwords
from app.console.search_tokens import SearchTokens
from app.console.sessions import Sessions
from app.intake.request_body import BodyDeadlines
from app.ledger.ledger import Ledger
from app.operators.actions import Actions, Actor
from app.operators.activity_log import ActivityLog
from app.operators.explain import Explain
from app.operators.lists import Lists
from app.operators.operations import Operations
from app.settings.model import Settings
from app.telemetry.counters import Counters
from app.visits.client import http_client

#: The maximum total size, in bytes, of all forms that are being received.
MAX_OPEN_FORM_BYTES = 8_388_608


class ConsoleContext:
    def __init__(self, settings: Settings, ledger: Ledger, counters: Counters, stored_hooks: StoredHooks) -> None:
        self.settings, self.ledger, self.redis, self.counters = settings, ledger, ledger.redis, counters
        self.stored_hooks = stored_hooks
        self.sessions = Sessions(settings, ledger)
        self.passwords = Passwords(settings, ledger.redis)
        self.search_tokens = SearchTokens(settings)
        self.form_tokens = FormTokens(settings)
        self.body_deadlines = BodyDeadlines(MAX_OPEN_FORM_BYTES)
        self.activity_log = ActivityLog(ledger)
        self.explain = Explain(ledger, settings)
        self.lists = Lists(ledger, settings, self.explain)
        self.operations = Operations(ledger, settings)
        self.events = EventHub(ledger, settings)
        self._visits_api: httpx.AsyncClient | None = None
        self._tools: ToolContext | None = None

    @property
    def visits_api(self) -> httpx.AsyncClient:
        self._visits_api = self._visits_api or http_client(5)
        return self._visits_api

    @property
    def tools(self) -> ToolContext:
        """What calls to the tools need."""
        self._tools = self._tools or ToolContext(self.settings, self.ledger, http_client(5))
        return self._tools

    async def close(self) -> None:
        for http in (self._visits_api, self._tools and self._tools.http):
            if http:
                await http.aclose()


def actions(request: Request) -> Actions:
    """Return the actions of the user of this request."""
    console, user = context(request), request.user
    return Actions(console.ledger, console.settings, Actor(user.name, user.role))


def context(request: HTTPConnection) -> ConsoleContext:
    console: ConsoleContext = request.app.state.console.context
    return console
