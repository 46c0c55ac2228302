"""POST /hooks/{hook}: read a delivery up to the size limit, verify it, translate it, store it, and answer.

Before the signature is verified, nothing is parsed, and Redis is only asked whether stored hooks have changed, at most
once a second. acceptance.py has the steps; fast_path.py takes them for many deliveries together. The endpoint is a plain
ASGI application, because each microsecond counts here.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import orjson
from starlette.types import Receive, Scope, Send

from app.intake import http_protocol
from app.intake.acceptance import Acceptance, Response
from app.intake.exchange import receive_body, send_response
from app.intake.request_body import BodyDeadlines, HttpRejection
from app.intake.request_log import RequestLog
from app.ledger.ids import new_id
from app.ledger.ledger import Ledger
from app.ledger.records import AcceptResult, DeliveryInfo, HookMoved
from app.ledger.redis import RedisFull, RedisReadOnly, RedisUnavailable
from app.settings.model import Hook, Settings
from app.telemetry.arrivals import Arrivals
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.rejections import Rejections
from app.webhooks.delivery import Delivery, Event
from app.webhooks.registry import load_sources
from app.webhooks.translation import FOREIGN_TENANT

#: Deliveries of one process that wait for Redis.
MAX_IN_FLIGHT = 1_000
RETRY_LATER_HEADERS = {"retry-after": "5"}

#: Code and sentence of the answer to a sender, most specific class first.
UNAVAILABLE_ANSWERS: dict[type[RedisUnavailable], tuple[str, str]] = {
    RedisFull: ("redis_full", "the delivery cannot be stored: Redis is full"),
    RedisReadOnly: ("redis_read_only", "the delivery cannot be stored: Redis accepts no writes"),
    HookMoved: ("hook_moved", "the delivery cannot be stored here: the hook is moving or has moved to another server"),
    RedisUnavailable: ("redis_down", "the delivery cannot be stored: Redis does not answer"),
}

#: Looks for changes of the stored hooks, because a name is unknown. Returns whether all stored hooks are known.
Discover = Callable[[], Awaitable[bool]]
HOOK_UNAVAILABLE = "a hook with this name may exist, but cannot be loaded now"
SECRETS_UNAVAILABLE = "no known secret matches the signature, and whether there is a newer one cannot be checked now"

_PLAIN_TENANT = re.compile("[A-Za-z0-9._:/-]{1,64}")


class UnknownHook(HttpRejection):
    """tool: the name in the path if it is a tool's, else empty: a path may contain a secret, and operators see this text."""

    def __init__(self, hook: Hook | None, path: str) -> None:
        name = path.removeprefix("/hooks/").partition("/")[0]
        self.tool = name if hook is None and name in load_sources() else ""
        detail = f"there is no hook {self.tool or 'with this name'}, or it has no secret"
        super().__init__(404, "no_such_hook", f"the URL of the hook {name} ends with its name" if hook else detail)


class WebhookEndpoint:
    """The ASGI application behind /hooks/, for all hooks."""

    def __init__(
        self,
        settings: Settings,
        ledgers: Mapping[float, Ledger],
        rejections: Rejections,
        counters: Counters | None = None,
        arrivals: Arrivals | None = None,
        discover: Discover | None = None,
    ) -> None:
        """ledgers: one per sender timeout (Source.sender_timeout_s). discover: None if no hooks can be stored."""
        self._arrivals = arrivals or Arrivals(rejections.redis)
        self._settings, self._discover = settings, discover
        self.hooks = settings.active_hooks
        self.max_body = settings.max_body
        self._ledgers, self._rejections, self._counters = ledgers, rejections, counters or Counters()
        self.in_flight, self._max_in_flight = 0, min(MAX_IN_FLIGHT, http_protocol.MAX_CONNECTIONS // 2)
        self._body_deadlines = BodyDeadlines()
        self._log = log.bind()  # bound once: binding for every line takes a fifth of the time to log it

    def update_hooks(self) -> None:
        """Read the hooks from the settings again, because the stored ones changed."""
        self.hooks = self._settings.active_hooks

    async def run(self) -> None:
        """Enforce the deadlines of bodies, forever."""
        await self._body_deadlines.run()

    def start_draining(self) -> None:
        """Shorten the deadlines of bodies, because the process ends soon."""
        self._body_deadlines.start_draining()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_log = RequestLog.begin(scope)
        name, path_rest = split_path(scope["path"])
        hook, may_exist = self.hooks.get(name), False
        if hook is None and self._discover:
            hook, may_exist = await self._discover_hook(name, self._discover)
        if hook:
            request_log.name_hook(hook)
        unread = None
        try:
            if may_exist:
                raise _unavailable(None, "hook_unavailable", HOOK_UNAVAILABLE)
            response = await self._dispatch(scope, receive, hook, path_rest, request_log)
        except HttpRejection as rejection:
            response = self.reject(rejection, request_log)
            if rejection.status == 413 and "connection" in rejection.headers:
                unread = receive
        except Exception:
            log.exception("unhandled_exception", hook=request_log.hook)
            detail = "this is a bug in Doorbell; the delivery was not stored"
            response = self.reject(_unavailable(hook, "internal_error", detail), request_log)
        await send_response(scope, send, response.status, response.encode_headers(request_log), response.body, unread)
        self.record(request_log, response.status)

    def record(self, request_log: RequestLog, status: int) -> None:
        """Count and log a request that was answered."""
        took_s = request_log.took_s
        self._counters.record_request(request_log.source, request_log.metric_outcome, request_log.secret_number, took_s)
        if request_log.hook in self._arrivals.hooks and not request_log.is_stored:
            self._arrivals.record(request_log.note(status), request_log.request)
        if self._log.is_enabled_for(logging.INFO):
            took_ms = round(took_s * 1000, 1)
            self._log.info("webhook_handled", **request_log.log_fields(), status=status, took_ms=took_ms)

    async def _discover_hook(self, name: str, discover: Discover) -> tuple[Hook | None, bool]:
        """Return the hook if it was just stored, and whether one may be stored that this process cannot load."""
        is_current = await discover()
        hook = self.hooks.get(name)
        return hook, hook is None and (not is_current or name in self._settings.unusable_hooks)

    async def _newer_hook(self, hook: Hook) -> Hook | None:
        """Return the hook if its secrets were just changed: a tool uses a new secret at once."""
        if not self.may_have_newer_secrets(hook):
            return None
        assert self._discover
        if not await self._discover():
            raise _unavailable(hook, "hook_unavailable", SECRETS_UNAVAILABLE)
        newest = self.hooks.get(hook.name)
        return newest if newest and newest.settings.secrets != hook.settings.secrets else None

    def reject(self, rejection: HttpRejection, request_log: RequestLog) -> Response:
        """Count a rejection, and return the response."""
        request_log.reject(rejection.code, str(rejection))
        tool = rejection.tool if isinstance(rejection, UnknownHook) else ""
        self._rejections.record(request_log.hook, rejection.code, str(rejection), tool)
        self._counters.count_for_hour(request_log.hook, "rejected")
        return _error(rejection.status, rejection.code, str(rejection), rejection.headers)

    async def _dispatch(
        self, scope: Scope, receive: Receive, hook: Hook | None, path_rest: str, request_log: RequestLog
    ) -> Response:
        if hook is None or not accepts_path(hook, path_rest):
            raise UnknownHook(hook, scope["path"])
        method, source = scope["method"], hook.source.definition
        if method == "GET" and source.handshake and (reply := source.handshake.answer(_probe_delivery(hook, scope))):
            return Response(200, reply.body, reply.content_type)
        if method in source.probe_methods:
            return Response(200, b"")
        if method != "POST":
            raise HttpRejection(405, "method_not_allowed", "webhooks are POSTed here", allow="POST")
        acceptance = Acceptance.begin(scope, hook, path_rest[1:], request_log)
        acceptance.delivery.body = await receive_body(scope, receive, self.max_body, self._body_deadlines)
        if not self.has_capacity(1):
            raise _unavailable(hook, "too_many_in_flight", "too many deliveries at once")
        self.in_flight += 1
        try:
            return await self._accept(acceptance)
        finally:
            self.in_flight -= 1

    async def _accept(self, acceptance: Acceptance) -> Response:
        delivery, source = acceptance.delivery, acceptance.hook.source.definition
        if source.handshake and (reply := source.handshake.answer(delivery)):
            return Response(200, reply.body, reply.content_type)
        try:
            acceptance.verify()
        except HttpRejection:
            newer = await self._newer_hook(acceptance.hook)
            if newer is None:
                raise
            acceptance.hook = newer
            acceptance.verify()
        acceptance.parse(self.max_body)
        if source.signed_handshake and (reply := source.signed_handshake.answer(acceptance.event, acceptance.secret)):
            return Response(200, reply.body, reply.content_type)
        acceptance.translate()
        if acceptance.translation.error:
            log.error("unhandled_exception", hook=acceptance.hook.name, exc_info=acceptance.translation.error)
        if acceptance.translation.is_foreign:
            return self._ignore_foreign_tenant(acceptance)
        new = acceptance.describe()
        if new.event_state == "parked":
            log.warning("event_parked", hook=acceptance.hook.name, reason=new.reason)
        try:
            stored = await self.ledger_of(acceptance.hook).accept(new)
        except RedisUnavailable as error:
            raise self.unavailable(acceptance.hook, error) from None
        if stored.limit_reached:
            log.warning("event_parked", hook=acceptance.hook.name, reason=stored.limit_reached)
        return self.answer(acceptance, new.info, stored)

    def may_have_newer_secrets(self, hook: Hook) -> bool:
        """Return whether the hook is stored, so that another process may have changed its secrets."""
        return self._discover is not None and self._settings.is_stored(hook.name)

    def has_capacity(self, count: int) -> bool:
        """Return whether this number of further deliveries may wait for Redis."""
        return self.in_flight + count <= self._max_in_flight

    def ledger_of(self, hook: Hook) -> Ledger:
        return self._ledgers[hook.source.definition.sender_timeout_s]

    def unavailable(self, hook: Hook, error: RedisUnavailable) -> HttpRejection:
        """Log why a delivery cannot be stored, and return its rejection."""
        log.warning("redis_unavailable", hook=hook.name, reason=str(error))
        answer = next(answer for kind, answer in UNAVAILABLE_ANSWERS.items() if isinstance(error, kind))
        return _unavailable(hook, *answer)

    def answer(self, acceptance: Acceptance, info: DeliveryInfo, stored: AcceptResult) -> Response:
        """Count a delivery that is stored, and return the response."""
        response = acceptance.answer(info, stored)
        self._counters.record_delivery(
            info.hook,
            acceptance.request_log.outcome,
            acceptance.secret,
            info.received_at_ms,
            info.request_id,
            stored.delivery_id,
        )
        return response

    def _ignore_foreign_tenant(self, acceptance: Acceptance) -> Response:
        """Count an event of another customer of the tool without storing it.

        If all customers of a tool share its keys, any of them could fill Redis.
        """
        hook, request_log = acceptance.hook, acceptance.request_log
        request_log.outcome, request_log.delivery = FOREIGN_TENANT, new_id()
        detail = f"the event is from {_describe_tenant(hook, acceptance.event)}; TENANTS does not name it"
        self._rejections.record(hook.name, FOREIGN_TENANT, detail)
        self._counters.record_delivery(
            hook.name, FOREIGN_TENANT, acceptance.secret, acceptance.received_at_ms, request_id="", delivery=""
        )
        return Response(200, orjson.dumps({"delivery": request_log.delivery, "ignored": FOREIGN_TENANT}))


def split_path(path: str) -> tuple[str, str]:
    """Return the name of the hook, and the rest with its slash: the rest may be a token, which must not be logged."""
    name, slash, token = path.removeprefix("/hooks/").partition("/")
    return name, slash + token


def accepts_path(hook: Hook, path_rest: str) -> bool:
    return not path_rest or hook.source.definition.signature.needs_secret_key


def _error(status: int, code: str, detail: str, headers: Mapping[str, str]) -> Response:
    return Response(status, orjson.dumps({"error": code, "detail": detail}), headers=headers)


def _unavailable(hook: Hook | None, code: str, detail: str) -> HttpRejection:
    """Return a rejection with the status that this tool retries."""
    status = hook.source.definition.unavailable_status if hook else 503
    return HttpRejection(status, code, detail, **RETRY_LATER_HEADERS)


def _describe_tenant(hook: Hook, event: Event) -> str:
    tenant_of = hook.source.definition.tenant_of
    tenant = tenant_of(event) if tenant_of else None
    return f"account {tenant}" if tenant and _PLAIN_TENANT.fullmatch(tenant) else "an account without a plain name"


def _probe_delivery(hook: Hook, scope: Scope) -> Delivery:
    """Return a GET request as a delivery, for handshakes. It has no body and is not stored."""
    headers, query = tuple(scope["headers"]), scope.get("query_string", b"")
    return Delivery(hook.name, hook.source.name, headers, b"", datetime.now(UTC), method="GET", query=query)
