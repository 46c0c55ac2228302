"""The base class of fake tools: faults, subscriptions, the sending of webhooks, and the endpoints that control a fake.

Each tool is served under its name, such as /calendly. These endpoints control it:

    GET PUT DELETE /calendly/_vendor/faults     read, change some (JSON), restore the defaults
    GET            /calendly/_vendor/requests   the requests since the start: method, path, status
    GET            /calendly/_vendor/deliveries the webhooks that were sent: event, status of the response (0: none)
    GET            /calendly/_vendor/subscriptions, /calendly/_vendor/appointments
    POST           /calendly/_vendor/book       {"starts_at": …, "email": …}; the response has its number
    POST           /calendly/_vendor/move       {"number": …, "starts_at": …}; also cancel, complete, pay (amount), miss
    POST           /calendly/_vendor/disable    the tool disables every subscription; also delete
    POST           /calendly/_vendor/revoke     the owner removes the app: its tokens end
"""

import asyncio
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.vendors.calendar import Appointment, Calendar, Step
from app.vendors.oauth import OAuthServer

#: A fake tool sends nothing to other machines.
OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
Endpoint = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults that a fake simulates.

    down: 503 for every request. unauthorized: 401. forbidden: 403 for creating a subscription, as if the plan or the
        right were missing. rate_limited: the next n requests are answered 429. slow_s: the delay of every response.
        hang_after: the nth request from now on is executed, but its response is lost. drop_every: every nth webhook is
        not sent. duplicate: each webhook is sent twice. page_size: the maximum size of a page.
    """

    down: bool = False
    unauthorized: bool = False
    forbidden: bool = False
    rate_limited: int = 0
    retry_after_s: int = 1
    slow_s: float = 0.0
    hang_after: int = 0
    drop_every: int = 0
    duplicate: bool = False
    page_size: int = 50


@dataclass(slots=True)
class StoredSubscription:
    """A subscription as the tool stores it. attributes: further fields of this tool."""

    id: str
    url: str
    events: tuple[str, ...]
    secret: str
    created_at: datetime
    is_active: bool = True
    failing_since: datetime | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook, which is sent to the subscriptions that have its event."""

    event: str
    body: bytes
    headers: Mapping[str, str]


class ResponseLost(Exception):
    """The request was executed, but its response is not sent."""


class LostResponse(Response):
    """A response that ends in the middle of its body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionError("the response is lost")


class Vendor(ABC):
    """A fake tool. A subclass implements its API: `endpoints`, `is_authorized`, `error`, `webhooks` and `sign`.

    before_response: called after a request was executed, before its response is sent.
    name: the source. has_appointments: False for a tool that has only payments for appointments of other tools.
    credentials: the credentials that a caller must send. tenant: the id of the account, if a person enters it.
    token_path: the path of the token endpoint.
    secret_on_a_page: the secret that a person copies from the tool's pages. registered_url: the URL that a person
        enters there.
    oauth_settings: the arguments of its OAuthServer; None for a tool without OAuth.
    disables_after: failed deliveries in a row after which the tool disables a subscription; 0 for never.
    """

    name = ""
    has_appointments = True
    api_path = ""
    credentials: Mapping[str, str] = {"TOKEN": "token-of-the-account"}
    tenant = ""
    token_path = "/oauth/token"
    secret_on_a_page = ""
    registered_url = ""
    oauth_settings: Mapping[str, Any] | None = None
    disables_after = 5

    def __init__(self) -> None:
        self.calendar = Calendar(on_change=self._changed)
        self.faults = Faults()
        self.oauth = OAuthServer(**self.oauth_settings) if self.oauth_settings is not None else None
        self.subscriptions: dict[str, StoredSubscription] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.before_response: Callable[[], None] = lambda: None
        self.deliveries: list[tuple[str, int]] = []
        self._queue: asyncio.Queue[list[Webhook]] = asyncio.Queue()
        self._sent = 0
        self._failed_in_a_row: dict[str, int] = {}
        self._http: httpx.AsyncClient | None = None

    @property
    def values_to_enter(self) -> dict[str, str]:
        """The values that a person enters to connect the tool."""
        values = {**self.credentials, "SECRET": self.secret_on_a_page, "TENANTS": self.tenant}
        return {name: value for name, value in values.items() if value}

    # -- a subclass implements or overrides these --

    @abstractmethod
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Return the endpoints of the API by method and path: {"GET /users/me": …}."""

    def is_authorized(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.credentials['TOKEN']}"

    def error(self, status: int, text: str) -> Response:
        """Return an error in the format of this tool."""
        return JSONResponse({"message": text}, status)

    @abstractmethod
    def webhooks(self, appointment: Appointment, step: Step) -> list[Webhook]:
        """Return the webhooks that this tool sends after a change, oldest first."""

    @abstractmethod
    def sign(self, webhook: Webhook, subscription: StoredSubscription) -> Mapping[str, str]:
        """Return the headers of a webhook, with its signature."""

    # -- subscriptions --

    def subscribe(self, url: str, events: tuple[str, ...], secret: str, **attributes: Any) -> StoredSubscription:
        id = self.new_subscription_id()
        stored = StoredSubscription(id, url, events, secret, self.calendar.now(), attributes=attributes)
        self.subscriptions[id] = stored
        return stored

    def signing_secret(self, request: Request, chosen: str) -> str:
        """Return the secret of a new subscription: that of the app, if the app creates it and has one."""
        return self.oauth.webhook_secret or chosen if self.oauth and self._has_access_token(request) else chosen

    def oauth_variables(self, api_url: str) -> dict[str, str]:
        """Return the settings for an app that is registered with the OAuth server."""
        if self.oauth is None:
            return {}
        variables = {
            "CLIENT_ID": self.oauth.client_id,
            "CLIENT_SECRET": self.oauth.client_secret,
            "WEBHOOK_SECRET": self.oauth.webhook_secret,
            "AUTHORIZE_URL": f"{api_url}/oauth/authorize",
            "TOKEN_URL": f"{api_url}{self.token_path}",
        }
        return {f"OAUTH__{self.name.upper()}__{name}": value for name, value in variables.items() if value}

    def _has_access_token(self, request: Request) -> bool:
        """Return whether the request has a valid access token of the OAuth server."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self.oauth is not None and scheme == "Bearer" and self.oauth.is_valid(token)

    def register(self, url: str) -> None:
        """Enter the URL of the webhooks, as a person does on the pages of the tool."""
        self.registered_url = url

    def new_subscription_id(self) -> str:
        return secrets.token_hex(8)

    def disable_all(self) -> None:
        for stored in self.subscriptions.values():
            stored.is_active = False

    # -- webhooks --

    def _changed(self, appointment: Appointment, step: Step) -> None:
        """Queue the webhooks of a change.

        Their bodies are made now: the appointment may change before they are sent.
        """
        self._queue.put_nowait(self.webhooks(appointment, step))

    async def run(self) -> None:
        """Send webhooks, in order, until cancelled."""
        while True:
            webhooks = await self._queue.get()
            try:
                for webhook in webhooks:
                    await self.send(webhook)
            finally:
                self._queue.task_done()

    async def sent_all(self) -> None:
        """Wait until every webhook was sent."""
        await self._queue.join()

    async def send(self, webhook: Webhook) -> None:
        self._sent += 1
        if self.faults.drop_every and self._sent % self.faults.drop_every == 0:
            return
        for stored in list(self.subscriptions.values()):
            if stored.is_active and webhook.event in stored.events:
                for _ in range(2 if self.faults.duplicate else 1):
                    await self._post(webhook, stored)

    async def _post(self, webhook: Webhook, stored: StoredSubscription) -> None:
        status = await self._send_request(webhook, stored) if urlsplit(stored.url).hostname in OWN_HOSTS else 0
        self.deliveries.append((webhook.event, status))
        if 200 <= status < 300:
            stored.failing_since, self._failed_in_a_row[stored.id] = None, 0
            return
        stored.failing_since = stored.failing_since or datetime.now(UTC)
        self._failed_in_a_row[stored.id] = self._failed_in_a_row.get(stored.id, 0) + 1
        if self.disables_after and self._failed_in_a_row[stored.id] >= self.disables_after:
            stored.is_active = False

    async def _send_request(self, webhook: Webhook, stored: StoredSubscription) -> int:
        """Return the status of the response, 0 if there is none."""
        self._http = self._http or httpx.AsyncClient(timeout=5, trust_env=False)
        try:
            response = await self._http.post(stored.url, content=webhook.body, headers=self.sign(webhook, stored))
        except httpx.HTTPError:
            return 0
        return response.status_code

    async def close(self) -> None:
        if self._http:
            await self._http.aclose()

    # -- HTTP --

    def routes(self) -> Iterator[Route]:
        for route, endpoint in self.endpoints().items():
            method, path = route.split(" ")
            yield Route(f"/{self.name}{path}", self._guarded(endpoint), methods=[method])
        yield from self._control_routes()
        if self.oauth:
            authorize, token = (
                self._guarded(each, is_public=True) for each in (self.oauth.authorize, self.oauth.token)
            )
            yield Route(f"/{self.name}{self.api_path}/oauth/authorize", authorize, methods=["GET", "POST"])
            yield Route(f"/{self.name}{self.api_path}{self.token_path}", token, methods=["POST"])
        yield Route(f"/{self.name}/{{path:path}}", self._guarded(self._unknown), methods=METHODS)

    async def _unknown(self, request: Request) -> Response:
        return self.error(404, "there is no such endpoint")

    def _guarded(self, endpoint: Endpoint, *, is_public: bool = False) -> Endpoint:
        """Wrap an endpoint with the faults and the authorization. is_public: it needs no credentials of the account."""

        async def guarded(request: Request) -> Response:
            try:
                response = await self._answer(endpoint, request, is_public)
            except ResponseLost:
                return LostResponse()
            self.requests.append((request.method, request.url.path.removeprefix(f"/{self.name}"), response.status_code))
            return response

        return guarded

    async def _answer(self, endpoint: Endpoint, request: Request, is_public: bool) -> Response:
        faults = self.faults
        await asyncio.sleep(faults.slow_s)
        if faults.down:
            return Response("Service Unavailable", 503)
        if faults.rate_limited:
            self.faults = replace(faults, rate_limited=faults.rate_limited - 1)
            return Response("Too Many Requests", 429, {"retry-after": str(faults.retry_after_s)})
        has_access = is_public or self.is_authorized(request) or self._has_access_token(request)
        if not has_access or (faults.unauthorized and not is_public):
            return self.error(401, "The access token is invalid")
        response = await endpoint(request)
        self.before_response()
        if faults.hang_after:
            self.faults = replace(self.faults, hang_after=faults.hang_after - 1)
            if faults.hang_after == 1:
                raise ResponseLost
        return response

    # -- control --

    def _control_routes(self) -> Iterator[Route]:
        prefix = f"/{self.name}/_vendor"
        yield Route(f"{prefix}/faults", self._control_faults, methods=["GET", "PUT", "DELETE"])
        yield Route(f"{prefix}/requests", self._show_requests)
        yield Route(f"{prefix}/deliveries", self._show_deliveries)
        yield Route(f"{prefix}/subscriptions", self._show_subscriptions)
        yield Route(f"{prefix}/appointments", self._show_appointments)
        yield Route(f"{prefix}/{{action}}", self._act, methods=["POST"])

    async def _control_faults(self, request: Request) -> Response:
        if request.method == "PUT":
            changes = json.loads(await request.body())
            if unknown := sorted(changes.keys() - {each.name for each in fields(Faults)}):
                return JSONResponse(
                    {"error": "unknown_fault", "detail": f"there is no fault {', '.join(unknown)}"}, 422
                )
            self.faults = replace(self.faults, **changes)
        elif request.method == "DELETE":
            self.faults = Faults()
        return JSONResponse(asdict(self.faults))

    async def _show_requests(self, _: Request) -> Response:
        return JSONResponse(
            [{"method": method, "path": path, "status": status} for method, path, status in self.requests]
        )

    async def _show_deliveries(self, _: Request) -> Response:
        return JSONResponse([{"event": event, "status": status} for event, status in self.deliveries])

    async def _show_subscriptions(self, _: Request) -> Response:
        return Response(
            json.dumps([asdict(each) for each in self.subscriptions.values()], default=str), media_type=JSON
        )

    async def _show_appointments(self, _: Request) -> Response:
        appointments = [asdict(each) for each in self.calendar.appointments.values()]
        return Response(json.dumps(appointments, default=str), media_type=JSON)

    async def _act(self, request: Request) -> Response:
        body = await request.body()
        try:
            return JSONResponse(self._do(request.path_params["action"], json.loads(body) if body else {}))
        except (KeyError, ValueError, TypeError, InvalidOperation) as error:
            return JSONResponse({"error": "unprocessable", "detail": repr(error)}, 422)

    def _do(self, action: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        calendar = self.calendar
        match action:
            case "register":
                self.register(arguments["url"])
            case "disable":
                self.disable_all()
            case "delete":
                self.subscriptions.clear()
            case "revoke":
                if self.oauth:
                    self.oauth.revoke()
            case "book":
                starts_at = datetime.fromisoformat(arguments["starts_at"])
                return {"number": calendar.book(starts_at, arguments.get("email", "")).number}
            case "move":
                calendar.move(arguments["number"], datetime.fromisoformat(arguments["starts_at"]))
            case "pay":
                calendar.pay(arguments["number"], Decimal(arguments["amount"]))
            case "cancel" | "complete" | "miss":
                getattr(calendar, action)(arguments["number"])
            case _:
                raise KeyError(action)
        return {"done": action}


JSON = "application/json"


def iso(time: datetime) -> str:
    """Return a time in UTC with microseconds, as most tools write it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
