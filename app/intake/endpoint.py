"""POST /hooks/{hook}: read a delivery up to the size limit, verify it, translate it, store it, and answer.

Nothing is parsed, and Redis is not used, before the signature is verified. The endpoint is a plain ASGI application: it
needs no Request object, and each microsecond counts here.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from app.intake import http_protocol
from app.intake.exchange import receive_body, send_response
from app.intake.request_body import BodyDeadlines, HttpRejection
from app.intake.request_log import RequestLog
from app.ledger.ids import new_id
from app.ledger.ledger import DEDUP_TTL_S, LONG_DEDUP_TTL_S, Ledger
from app.ledger.records import DeliveryInfo, HookMoved
from app.ledger.redis import RedisFull, RedisReadOnly, RedisUnavailable
from app.settings.model import Hook, Settings
from app.telemetry.arrivals import Arrivals
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.rejections import Rejections
from app.webhooks.delivery import (
    BodyTooLarge,
    Delivery,
    Event,
    UnreadableBody,
    UnsupportedContentEncoding,
    UnsupportedContentType,
    check_content_encoding,
    check_content_type,
    content_encoding,
    decompress,
)
from app.webhooks.payload import Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from app.webhooks.source import Source
from app.webhooks.translation import FOREIGN_TENANT, Translation, parse_event, translate_event

#: Deliveries of one process that wait for Redis.
MAX_IN_FLIGHT = 1_000
RETRY_LATER_HEADERS = {"retry-after": "5"}
JSON = "application/json"

#: Code and sentence of the answer to a sender, most specific class first.
UNAVAILABLE_ANSWERS: dict[type[RedisUnavailable], tuple[str, str]] = {
    RedisFull: ("redis_full", "the delivery cannot be stored: Redis is full"),
    RedisReadOnly: ("redis_read_only", "the delivery cannot be stored: Redis accepts no writes"),
    HookMoved: ("hook_moved", "the delivery cannot be stored here: the hook moves to another server, or has moved"),
    RedisUnavailable: ("redis_down", "the delivery cannot be stored: Redis does not answer"),
}

#: Looks for changes of the stored hooks, because a name is unknown. Returns whether all stored hooks are known.
Discover = Callable[[], Awaitable[bool]]
HOOK_UNAVAILABLE = "there may be a hook of this name, but it cannot be loaded now"

_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PLAIN_TENANT = re.compile("[A-Za-z0-9._:/-]{1,64}")


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = JSON


class UnknownHook(HttpRejection):
    """tool: the name in the path if it is a tool's, else empty: a path may contain a secret, and operators see this text."""

    def __init__(self, hook: Hook | None, path: str) -> None:
        name = path.removeprefix("/hooks/").partition("/")[0]
        self.tool = name if hook is None and name in load_sources() else ""
        detail = f"there is no hook {self.tool or 'of this name'}, or it has no secret"
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
        self._hooks = settings.active_hooks
        self._max_body = settings.max_body
        self._ledgers, self._rejections, self._counters = ledgers, rejections, counters or Counters()
        self._in_flight, self._max_in_flight = 0, min(MAX_IN_FLIGHT, http_protocol.MAX_CONNECTIONS // 2)
        self._body_deadlines = BodyDeadlines()
        self._log = log.bind()  # bound once: binding for every line takes a fifth of the time to log it

    def update_hooks(self) -> None:
        """Read the hooks from the settings again, because the stored ones changed."""
        self._hooks = self._settings.active_hooks

    async def run(self) -> None:
        """Enforce the deadlines of bodies, forever."""
        await self._body_deadlines.run()

    def start_draining(self) -> None:
        """Shorten the deadlines of bodies, because the process ends soon."""
        self._body_deadlines.start_draining()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        # The path may end with a token, which is a secret: it must not be logged.
        name, slash, token = scope["path"].removeprefix("/hooks/").partition("/")
        hook, may_exist = self._hooks.get(name), False
        if hook is None and self._discover:
            hook, may_exist = await self._discover_hook(name, self._discover)
        request_log = RequestLog(hook.name if hook else "", hook.source.name if hook else "")
        request_log.request_id = _valid_request_id(dict(scope["headers"]).get(b"x-request-id", b""))
        extra_headers: Mapping[str, str] = {}
        unread = None
        try:
            if may_exist:
                raise HttpRejection(503, "hook_unavailable", HOOK_UNAVAILABLE, **RETRY_LATER_HEADERS)
            response = await self._dispatch(scope, receive, hook, slash + token, request_log)
        except HttpRejection as rejection:
            response, extra_headers = self._reject(rejection, request_log), rejection.headers
            if rejection.status == 413 and "connection" in extra_headers:
                unread = receive
        except Exception:
            log.exception("unhandled_exception", hook=request_log.hook)
            request_log.reject("internal_error")
            detail = "this is a defect of Doorbell; the delivery was not stored"
            response, extra_headers = _error(503, "internal_error", detail), RETRY_LATER_HEADERS
        headers = {
            b"content-type": response.content_type.encode(),
            b"content-length": b"%d" % len(response.body),
            b"x-request-id": request_log.response_request_id().encode(),
        }
        for header, value in extra_headers.items():
            headers[header.encode()] = value.encode()
        await send_response(scope, send, response.status, headers, response.body, unread)
        took_s = time.perf_counter() - started
        self._counters.record_request(request_log.source, request_log.metric_outcome, request_log.secret_number, took_s)
        took_ms = round(took_s * 1000, 1)
        if request_log.hook in self._arrivals.hooks and not request_log.is_stored:
            self._arrivals.record(request_log.note(response.status), request_log.request)
        self._log.info("webhook_handled", **request_log.log_fields(), status=response.status, took_ms=took_ms)

    async def _discover_hook(self, name: str, discover: Discover) -> tuple[Hook | None, bool]:
        """Return the hook if it was just stored, and whether one may be stored that this process cannot load."""
        is_current = await discover()
        hook = self._hooks.get(name)
        return hook, hook is None and (not is_current or name in self._settings.unusable_hooks)

    async def _newer_hook(self, hook: Hook) -> Hook | None:
        """Return the hook if its secrets were just changed: a tool uses a new secret at once."""
        if self._discover is None or not self._settings.is_stored(hook.name):
            return None
        await self._discover()
        newest = self._hooks.get(hook.name)
        return newest if newest and newest.settings.secrets != hook.settings.secrets else None

    def _reject(self, rejection: HttpRejection, request_log: RequestLog) -> Response:
        request_log.reject(rejection.code, str(rejection))
        tool = rejection.tool if isinstance(rejection, UnknownHook) else ""
        self._rejections.record(request_log.hook, rejection.code, str(rejection), tool)
        self._counters.count_for_hour(request_log.hook, "rejected")
        return _error(rejection.status, rejection.code, str(rejection))

    async def _dispatch(
        self, scope: Scope, receive: Receive, hook: Hook | None, path_rest: str, request_log: RequestLog
    ) -> Response:
        """path_rest: the part of the path after the name of the hook, with its slash."""
        if hook is None or (path_rest and not hook.source.definition.signature.needs_secret_key):
            raise UnknownHook(hook, scope["path"])
        method, source = scope["method"], hook.source.definition
        if method == "GET" and source.handshake and (reply := source.handshake.answer(_probe_delivery(hook, scope))):
            return Response(200, reply.body, reply.content_type)
        if method in source.probe_methods:
            return Response(200, b"")
        if method != "POST":
            raise HttpRejection(405, "method_not_allowed", "webhooks are POSTed here", allow="POST")
        delivery = await self._read_delivery(scope, receive, hook, path_rest[1:], request_log)
        if self._in_flight >= self._max_in_flight:
            raise _unavailable(hook, "too_many_in_flight", "too many deliveries at once")
        self._in_flight += 1
        try:
            return await self._accept(hook, delivery, request_log)
        finally:
            self._in_flight -= 1

    async def _read_delivery(
        self, scope: Scope, receive: Receive, hook: Hook, token: str, request_log: RequestLog
    ) -> Delivery:
        request_id = request_log.request_id
        headers, query, source = tuple(scope["headers"]), scope["query_string"], hook.source.definition
        delivery = Delivery(
            hook.name, hook.source.name, headers, b"", datetime.now(UTC), request_id, token, query=query
        )
        request_log.request = delivery
        try:
            check_content_type(delivery, source.body_format)
            check_content_encoding(delivery, source.content_encodings)
        except UnsupportedContentType as error:
            raise HttpRejection(415, "wrong_content_type", str(error)) from None
        except UnsupportedContentEncoding as error:
            accepted = ", ".join(source.content_encodings) or "identity"
            raise HttpRejection(415, "wrong_content_encoding", str(error), **{"accept-encoding": accepted}) from None
        delivery.body = await receive_body(scope, receive, self._max_body, self._body_deadlines)
        return delivery

    async def _accept(self, hook: Hook, delivery: Delivery, request_log: RequestLog) -> Response:
        source = hook.source.definition
        if source.handshake and (reply := source.handshake.answer(delivery)):
            return Response(200, reply.body, reply.content_type)
        try:
            secret_index = self._verify(hook, delivery)
        except HttpRejection:
            newer = await self._newer_hook(hook)
            if newer is None:
                raise
            hook, secret_index = newer, self._verify(newer, delivery)
        request_log.secret_number = secret_index + 1
        event = self._parse(hook, delivery)
        secret = hook.settings.secrets[secret_index]
        if source.signed_handshake and (reply := source.signed_handshake.answer(event, secret)):
            return Response(200, reply.body, reply.content_type)
        translation = translate_event(hook.source, event, hook.settings.tenants)
        if translation.error:
            log.error("unhandled_exception", hook=hook.name, exc_info=translation.error)
        if translation.is_foreign:
            return self._ignore_foreign_tenant(hook, event, secret_index, request_log)
        try:
            return await self._store(hook, delivery, event, translation, secret_index, request_log)
        except RedisUnavailable as error:
            log.warning("redis_unavailable", hook=hook.name, reason=str(error))
            answer = next(answer for kind, answer in UNAVAILABLE_ANSWERS.items() if isinstance(error, kind))
            raise _unavailable(hook, *answer) from None

    def _verify(self, hook: Hook, delivery: Delivery) -> int:
        fixed = hook.context
        context = VerificationContext(fixed.secrets, time.time(), fixed.url, fixed.tolerance_s, fixed.keys)
        try:
            return hook.source.definition.signature.verify(delivery, context)
        except SignatureError as error:
            raise HttpRejection(401, f"signature_{error.reason}", str(error)) from None

    def _parse(self, hook: Hook, delivery: Delivery) -> Event:
        try:
            if hook.source.definition.content_encodings and content_encoding(delivery):
                delivery.body = decompress(delivery.body, self._max_body)
            return parse_event(hook.source, delivery, hook.settings.zone)
        except UnreadableBody as error:
            raise HttpRejection(400, "unreadable_body", str(error)) from None
        except BodyTooLarge:
            detail = f"a decompressed body may have at most {self._max_body} bytes"
            raise HttpRejection(413, "too_large", detail) from None

    def _ignore_foreign_tenant(self, hook: Hook, event: Event, secret_index: int, request_log: RequestLog) -> Response:
        """Count an event of another customer of the tool without storing it.

        If all customers of a tool share its keys, any of them could fill Redis.
        """
        request_log.outcome, request_log.delivery = FOREIGN_TENANT, new_id()
        detail = f"the event is from {_describe_tenant(hook, event)}; TENANTS does not name it"
        self._rejections.record(hook.name, FOREIGN_TENANT, detail)
        received_at_ms = int(event.received_at.timestamp() * 1000)
        secret = hook.settings.secrets[secret_index]
        self._counters.record_delivery(hook.name, FOREIGN_TENANT, secret, received_at_ms, "", "")
        return Response(200, orjson.dumps({"delivery": request_log.delivery, "ignored": FOREIGN_TENANT}))

    async def _store(
        self,
        hook: Hook,
        delivery: Delivery,
        event: Event,
        translation: Translation,
        secret_index: int,
        request_log: RequestLog,
    ) -> Response:
        source = hook.source.definition
        request_log.traceparent = _valid_traceparent(delivery.header("traceparent") or "")
        trace_headers = {"traceparent": request_log.traceparent} if request_log.traceparent else {}
        info = DeliveryInfo(
            hook=hook.name,
            source=hook.source.name,
            received_at_ms=int(event.received_at.timestamp() * 1000),
            event_name=_event_name(event, source),
            request_id=delivery.request_id,
            secret_index=secret_index,
            ignored=translation.ignored,
            headers={**trace_headers, **event.headers},
        )
        if translation.state == "parked":
            log.warning("event_parked", hook=hook.name, reason=translation.reason)
        accepted = await self._ledgers[source.sender_timeout_s].accept(
            delivery,
            info,
            translation.changes,
            hook.account,
            dedup_id=translation.repeat_key,
            event_state=translation.state,
            reason=translation.reason,
            refetch=source.events_may_collide,
            dedup_ttl_s=LONG_DEDUP_TTL_S if source.ordered_by_arrival else DEDUP_TTL_S,
        )
        if accepted.limit_reached:
            log.warning("event_parked", hook=hook.name, reason=accepted.limit_reached)
        request_log.delivery = accepted.delivery_id
        request_log.outcome = "repeat" if accepted.is_repeat else "ignored" if translation.ignored else "accepted"
        request_log.event_name = info.event_name if translation.change_count else ""
        self._counters.record_delivery(
            hook.name,
            request_log.outcome,
            hook.settings.secrets[secret_index],
            info.received_at_ms,
            info.request_id,
            accepted.delivery_id,
        )
        if accepted.is_repeat:
            return Response(200, orjson.dumps({"delivery": accepted.delivery_id, "repeat": True}))
        if translation.ignored:
            return Response(200, orjson.dumps({"delivery": accepted.delivery_id, "ignored": translation.ignored}))
        return Response(202, orjson.dumps({"delivery": accepted.delivery_id, "changes": translation.change_count}))


def _error(status: int, code: str, detail: str) -> Response:
    return Response(status, orjson.dumps({"error": code, "detail": detail}))


def _unavailable(hook: Hook, code: str, detail: str) -> HttpRejection:
    """Return a rejection with the status that this tool retries."""
    return HttpRejection(hook.source.definition.unavailable_status, code, detail, **RETRY_LATER_HEADERS)


def _describe_tenant(hook: Hook, event: Event) -> str:
    tenant_of = hook.source.definition.tenant_of
    tenant = tenant_of(event) if tenant_of else None
    return f"account {tenant}" if tenant and _PLAIN_TENANT.fullmatch(tenant) else "an account without a plain name"


def _probe_delivery(hook: Hook, scope: Scope) -> Delivery:
    """Return a GET request as a delivery, for handshakes. It has no body and is not stored."""
    headers, query = tuple(scope["headers"]), scope.get("query_string", b"")
    return Delivery(hook.name, hook.source.name, headers, b"", datetime.now(UTC), method="GET", query=query)


def _event_name(event: Event, source: Source) -> str:
    """Return the tool's name of the event. It is for display only."""
    try:
        name = source.event_name(event) if source.event_name else event.data.at(*source.event_name_path).value
    except Untranslatable:
        return ""
    return name[:80] if isinstance(name, str) else ""


def _valid_traceparent(value: str) -> str:
    """Return the value, or an empty string if https://www.w3.org/TR/trace-context/ does not allow it."""
    return value if value and _TRACEPARENT.fullmatch(value) else ""


def _valid_request_id(value: bytes) -> str:
    """Return the X-Request-ID of the sender or the router, or an empty string if it is not a plain id."""
    if 0 < len(value) <= 80 and value.isascii() and value.replace(b"-", b"").replace(b"_", b"").isalnum():
        return value.decode()
    return ""
