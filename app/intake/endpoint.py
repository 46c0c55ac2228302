"""POST /hooks/{hook}: a delivery is capped while it streams in, verified, parsed, translated and written; then answered.

Nothing is parsed and Redis is not asked before the signature holds. The route is a plain ASGI application: at this door a
microsecond counts, and there is nothing here that a Request object would do.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from app.intake import http_protocol
from app.intake.exchange import receive_body, send_response
from app.intake.request_body import BodyDeadlines, HttpRejection
from app.ledger.ledger import DEDUP_TTL_S, LONG_DEDUP_TTL_S, Ledger, new_delivery_id
from app.ledger.records import DeliveryInfo, trace_fields
from app.ledger.redis import RedisUnavailable
from app.settings.model import Entrance, Settings
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
from app.webhooks.signatures.scheme import SignatureError, Terms
from app.webhooks.source import Source
from app.webhooks.translation import FOREIGN_TENANT, Translation, parse_event, translate_event

#: More deliveries than this that wait for Redis in one process, and the next is asked to come back.
MAX_IN_FLIGHT = 1_000
RETRY_AFTER_S = 5


JSON = "application/json"


class Response(NamedTuple):
    """What the tool hears."""

    status: int
    body: bytes
    content_type: str = JSON


class WebhookEndpoint:
    """The door, for all hooks."""

    def __init__(
        self,
        settings: Settings,
        ledgers: Mapping[float, Ledger],
        rejections: Rejections,
        counters: Counters | None = None,
    ) -> None:
        """ledgers: by how long a tool may be kept waiting (Source.sender_timeout_s)."""
        self._entrances = settings.entrances
        self._max_body = settings.max_body
        self._terms = {name: settings.terms(entrance, 0) for name, entrance in settings.entrances.items()}
        self._ledgers, self._rejections, self._counters = ledgers, rejections, counters or Counters()
        self._in_flight, self._max_in_flight = 0, min(MAX_IN_FLIGHT, http_protocol.MAX_CONNECTIONS // 2)
        self._body_deadlines = BodyDeadlines()
        self._log = log.bind()  # once: looking it up for every line costs a fifth of the line

    async def run(self) -> None:
        """For ever: slow senders are cut off."""
        await self._body_deadlines.run()

    def start_draining(self) -> None:
        """The process is asked to go: what would keep it does not."""
        self._body_deadlines.start_draining()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What may follow the name is a token of ours: it is nobody's to read in a log.
        hook, slash, token = scope["path"].removeprefix("/hooks/").partition("/")
        started = time.perf_counter()
        entrance = self._entrances.get(hook)
        request_log = RequestLog(entrance.name if entrance else "", entrance.tool.name if entrance else "")
        request_log.request_id = _valid_request_id(dict(scope["headers"]).get(b"x-request-id", b""))
        headers: Mapping[str, str] = {}
        kind = JSON
        try:
            status, answer, kind = await self._dispatch(scope, receive, entrance, slash + token, request_log)
        except HttpRejection as refused:
            status, headers = refused.status, refused.headers
            answer = orjson.dumps({"error": refused.code, "detail": str(refused)})
            request_log.reject(refused.code)
            self._rejections.record(request_log.hook, refused.code, str(refused))
            self._counters.count_for_hour(request_log.hook, "rejected")
        except Exception:
            log.exception("unhandled_exception", hook=request_log.hook)
            status, headers = 503, RETRY_LATER_HEADERS
            answer = orjson.dumps(
                {"error": "internal_error", "detail": "this is our fault; what rang was not written down"}
            )
            request_log.reject("internal_error")
        head = [
            (b"content-type", kind.encode()),
            (b"content-length", b"%d" % len(answer)),
            (b"x-request-id", request_log.response_request_id().encode()),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        is_cut_short = status == 413 and "connection" in headers
        await send_response(scope, send, status, head, answer, receive if is_cut_short else None)
        took_s = time.perf_counter() - started
        self._counters.record_request(
            request_log.source,
            METRIC_OUTCOMES.get(request_log.reason, request_log.reason) or request_log.outcome,
            request_log.secret_number,
            took_s,
        )
        self._log.info("webhook_handled", **request_log.log_fields(), status=status, took_ms=round(took_s * 1000, 1))

    async def _dispatch(
        self, scope: Scope, receive: Receive, entrance: Entrance | None, path_token: str, request_log: "RequestLog"
    ) -> Response:
        """behind: what follows the hook's name, which only an address with a token has."""
        if entrance is None or (path_token and not entrance.tool.definition.signature.needs_key):
            raise HttpRejection(404, "no_such_hook", "there is no hook of this name, or it has no secret")
        method, source = scope["method"], entrance.tool.definition
        if (
            method == "GET"
            and source.handshake
            and (reply := source.handshake.answer(_probe_delivery(entrance, scope)))
        ):
            return Response(200, reply.body, reply.content_type)
        if method in source.probe_methods:
            return Response(200, b"")
        if method != "POST":
            raise HttpRejection(405, "method_not_allowed", "webhooks are POSTed here", allow="POST")
        delivery = await self._read_delivery(scope, receive, entrance, path_token[1:], request_log.request_id)
        if self._in_flight >= self._max_in_flight:
            raise HttpRejection(
                _unavailable_status(entrance),
                "too_many_in_flight",
                "too many deliveries at once",
                **RETRY_LATER_HEADERS,
            )
        self._in_flight += 1
        try:
            return await self._accept(entrance, delivery, request_log)
        finally:
            self._in_flight -= 1

    async def _read_delivery(
        self, scope: Scope, receive: Receive, entrance: Entrance, token: str, request_id: str
    ) -> Delivery:
        headers, query = tuple(scope["headers"]), scope["query_string"]
        delivery = Delivery(
            entrance.name, entrance.tool.name, headers, b"", datetime.now(UTC), request_id, token, query=query
        )
        try:
            check_content_type(delivery, entrance.tool.definition.body_format)
            check_content_encoding(delivery, entrance.tool.definition.content_encodings)
        except UnsupportedContentType as error:
            raise HttpRejection(415, "wrong_content_type", str(error)) from None
        except UnsupportedContentEncoding as error:
            taken = ", ".join(entrance.tool.definition.content_encodings) or "identity"
            raise HttpRejection(415, "wrong_content_encoding", str(error), **{"accept-encoding": taken}) from None
        content_length = delivery.header("content-length") or ""
        delivery.body = await receive_body(scope, receive, content_length, self._max_body, self._body_deadlines)
        return delivery

    async def _accept(self, entrance: Entrance, delivery: Delivery, request_log: "RequestLog") -> Response:
        source = entrance.tool.definition
        if source.handshake and (reply := source.handshake.answer(delivery)):
            return Response(200, reply.body, reply.content_type)
        slot = self._verify(entrance, delivery)
        request_log.secret_number = slot + 1
        try:
            if source.content_encodings and content_encoding(delivery):
                delivery.body = decompress(delivery.body, self._max_body)
            event = parse_event(entrance.tool, delivery, entrance.hook.zone)
        except UnreadableBody as error:
            raise HttpRejection(400, "unreadable_body", str(error)) from None
        except BodyTooLarge:
            raise HttpRejection(
                413, "too_large", f"a body has {self._max_body} bytes at the most, decompressed"
            ) from None
        if source.signed_handshake and (reply := source.signed_handshake.answer(event, entrance.hook.secrets[slot])):
            return Response(200, reply.body, reply.content_type)
        translation = translate_event(entrance.tool, event, entrance.hook.tenants)
        if translation.error:
            log.error("unhandled_exception", hook=entrance.name, exc_info=translation.error)
        if translation.is_foreign:
            return self._ignore_foreign_tenant(entrance, event, slot, request_log)
        try:
            return await self._store(entrance, delivery, event, translation, slot, request_log)
        except RedisUnavailable as error:
            log.warning("redis_unavailable", hook=entrance.name, reason=str(error))
            raise HttpRejection(
                _unavailable_status(entrance),
                "redis_down",
                "what rang cannot be written down now",
                **RETRY_LATER_HEADERS,
            ) from None

    def _verify(self, entrance: Entrance, delivery: Delivery) -> int:
        fixed = self._terms[entrance.name]
        terms = Terms(fixed.secrets, time.time(), fixed.url, fixed.tolerance_s, fixed.keys)
        try:
            return entrance.tool.definition.signature.verify(delivery, terms)
        except SignatureError as error:
            raise HttpRejection(401, f"signature_{error.reason}", str(error)) from None

    def _ignore_foreign_tenant(
        self, entrance: Entrance, event: Event, secret_index: int, request_log: "RequestLog"
    ) -> Response:
        """Where all customers of a tool share its keys, anybody who has an account there could fill Redis: such an event is
        counted and not kept."""
        request_log.outcome, request_log.delivery = FOREIGN_TENANT_REASON, new_delivery_id()
        self._rejections.record(
            entrance.name,
            FOREIGN_TENANT_REASON,
            f"the event is of {_describe_tenant(entrance, event)}; TENANTS does not name it",
        )
        self._counters.record_delivery(
            entrance.name, FOREIGN_TENANT_REASON, secret_index, int(event.received_at.timestamp() * 1000), "", ""
        )
        return Response(200, orjson.dumps({"delivery": request_log.delivery, "ignored": FOREIGN_TENANT}))

    async def _store(
        self,
        entrance: Entrance,
        delivery: Delivery,
        event: Event,
        translation: Translation,
        secret_index: int,
        request_log: "RequestLog",
    ) -> Response:
        tool = entrance.tool
        request_log.traceparent = _valid_traceparent(delivery.header("traceparent") or "")
        meta = DeliveryInfo(
            hook=entrance.name,
            source=tool.name,
            received_at_ms=int(event.received_at.timestamp() * 1000),
            event_name=_event_name(event, tool.definition),
            request_id=delivery.request_id,
            secret_index=secret_index,
            ignored=translation.ignored,
            headers={"traceparent": request_log.traceparent, **event.headers}
            if request_log.traceparent
            else dict(event.headers),
        )
        if translation.state == "parked":
            log.warning("event_parked", hook=entrance.name, reason=translation.reason)
        written = await self._ledgers[tool.definition.sender_timeout_s].accept(
            delivery,
            meta,
            translation.changes,
            entrance.account,
            dedup_id=translation.repeat_key,
            event_state=translation.state,
            reason=translation.reason,
            refetch=tool.definition.events_may_collide,
            dedup_ttl_s=LONG_DEDUP_TTL_S if tool.definition.ordered_by_arrival else DEDUP_TTL_S,
        )
        if written.limit_reached:
            log.warning("event_parked", hook=entrance.name, reason=written.limit_reached)
        request_log.outcome = "repeat" if written.is_repeat else "ignored" if translation.ignored else "accepted"
        request_log.delivery, request_log.event_name = (
            written.delivery_id,
            meta.event_name if translation.change_count else "",
        )
        self._counters.record_delivery(
            entrance.name, request_log.outcome, secret_index, meta.received_at_ms, meta.request_id, written.delivery_id
        )
        if written.is_repeat:
            return Response(200, orjson.dumps({"delivery": written.delivery_id, "repeat": True}))
        if translation.ignored:
            return Response(200, orjson.dumps({"delivery": written.delivery_id, "ignored": translation.ignored}))
        return Response(202, orjson.dumps({"delivery": written.delivery_id, "changes": translation.change_count}))


@dataclass(slots=True)
class RequestLog:
    """One request at the door, for its line in the log and for what is counted.

    hook, source: empty for an address that is none. name: what the tool calls the event, once it was understood.
    slot: the secret that matched, from 1.
    """

    hook: str
    source: str
    request_id: str = ""
    traceparent: str = ""
    event_name: str = ""
    delivery: str = ""
    outcome: str = "handshake"
    reason: str = ""
    secret_number: int = 0

    def reject(self, code: str) -> None:
        self.outcome, self.reason = "rejected", code

    def response_request_id(self) -> str:
        """The X-Request-ID of the answer: the sender's, or else one of ours, by which the sender may ask."""
        self.request_id = self.request_id or self.delivery or new_delivery_id()
        return self.request_id

    def log_fields(self) -> dict[str, Any]:
        told: dict[str, Any] = {"hook": self.hook, "source": self.source, "outcome": self.outcome}
        if self.delivery:
            told["delivery"] = self.delivery
        if self.event_name and _LOGGABLE_EVENT_NAME.fullmatch(self.event_name):
            told["event_type"] = self.event_name
        if self.reason:
            told["reason"] = self.reason
        if self.secret_number or _LOGGABLE_REQUEST_ID.fullmatch(self.request_id):
            told |= trace_fields(self.request_id, self.traceparent)
        return told


#: What may be the name of an event; and what a stranger may call a request, if it is to be in the log: a UUID, or ours.
_LOGGABLE_EVENT_NAME, _LOGGABLE_REQUEST_ID = (
    re.compile("[A-Za-z][A-Za-z0-9_.:/-]*"),
    re.compile("[0-9a-fA-F-]{32,36}|d[0-9a-f]{21}"),
)
#: What refusals are called in /metrics; the others by their code.
METRIC_OUTCOMES = {
    "signature_missing": "bad_signature",
    "signature_malformed": "bad_signature",
    "signature_mismatch": "bad_signature",
    "signature_stale": "stale_timestamp",
    "unreadable_body": "bad_body",
    "wrong_content_type": "bad_body",
    "wrong_content_encoding": "bad_body",
    "unfinished": "bad_body",
    "redis_down": "unavailable",
    "too_many_in_flight": "unavailable",
    "internal_error": "unavailable",
}
#: The same as a reason, where such events are counted.
FOREIGN_TENANT_REASON = "foreign_tenant"


def _describe_tenant(entrance: Entrance, event: Event) -> str:
    """The account that the event names, in words."""
    named = entrance.tool.definition.tenant_of(event) if entrance.tool.definition.tenant_of else None
    return f"account {named}" if named and _PLAIN_TENANT.fullmatch(named) else "an account without a plain name"


_PLAIN_TENANT = re.compile("[A-Za-z0-9._:/-]{1,64}")


def _probe_delivery(entrance: Entrance, scope: Scope) -> Delivery:
    """A GET: no body, and nothing of it is kept."""
    headers, query = tuple(scope["headers"]), scope.get("query_string", b"")
    return Delivery(entrance.name, entrance.tool.name, headers, b"", datetime.now(UTC), method="GET", query=query)


def _event_name(event: Event, source: Source) -> str:
    """What the tool calls the event, for people; it is not relied on."""
    try:
        name = source.event_name(event) if source.event_name else event.data.at(*source.event_name_path).value
    except Untranslatable:
        return ""
    return name[:80] if isinstance(name, str) else ""


def _unavailable_status(entrance: Entrance) -> int:
    return entrance.tool.definition.unavailable_status


RETRY_LATER_HEADERS = {"retry-after": str(RETRY_AFTER_S)}


def _valid_traceparent(given: str) -> str:
    """https://www.w3.org/TR/trace-context/; empty for what is none."""
    return given if given and _TRACEPARENT.fullmatch(given) else ""


_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _valid_request_id(given: bytes) -> str:
    """The router's, if it is one."""
    if 0 < len(given) <= 80 and given.isascii() and given.replace(b"-", b"").replace(b"_", b"").isalnum():
        return given.decode()
    return ""
