"""The steps from the head of a request to its response, for one delivery. They do no I/O."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import orjson
from starlette.types import Scope

from app.intake.request_body import HttpRejection
from app.intake.request_log import RequestLog
from app.ledger.records import DEDUP_TTL_S, LONG_DEDUP_TTL_S, AcceptResult, DeliveryInfo, NewDelivery
from app.settings.model import Hook
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
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from app.webhooks.source import Source
from app.webhooks.translation import Translation, parse_event, translate_event

_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})

    def encode_headers(self, request_log: RequestLog) -> dict[bytes, bytes]:
        encoded = {
            b"content-type": self.content_type.encode(),
            b"content-length": b"%d" % len(self.body),
            b"x-request-id": request_log.response_request_id().encode(),
        }
        for name, value in self.headers.items():
            encoded[name.encode()] = value.encode()
        return encoded


@dataclass(slots=True, eq=False)
class Acceptance:
    """A delivery on its way. The methods below are the steps, in this order; each needs the results of those before.

    secret_index: the position of the secret that verified the delivery.
    """

    hook: Hook
    delivery: Delivery
    request_log: RequestLog
    secret_index: int = field(init=False)
    event: Event = field(init=False)
    translation: Translation = field(init=False)

    @classmethod
    def begin(cls, scope: Scope, hook: Hook, token: str, request_log: RequestLog) -> "Acceptance":
        """Raise HttpRejection for a content type or encoding that the tool never sends. token: the end of the path."""
        source = hook.source.definition
        delivery = Delivery(
            hook.name,
            hook.source.name,
            tuple(scope["headers"]),
            b"",
            datetime.now(UTC),
            request_log.request_id,
            token,
            query=scope["query_string"],
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
        return cls(hook, delivery, request_log)

    def verify(self) -> None:
        """Raise HttpRejection if no secret of the hook verifies the signature."""
        fixed = self.hook.context
        context = VerificationContext(fixed.secrets, time.time(), fixed.url, fixed.tolerance_s, fixed.keys)
        try:
            self.secret_index = self.hook.source.definition.signature.verify(self.delivery, context)
        except SignatureError as error:
            raise HttpRejection(401, f"signature_{error.reason}", str(error)) from None
        self.request_log.secret_number = self.secret_index + 1

    def parse(self, max_body: int) -> None:
        """Raise HttpRejection for a body that cannot be read. max_body: the limit of a decompressed body."""
        delivery, hook = self.delivery, self.hook
        try:
            if hook.source.definition.content_encodings and content_encoding(delivery):
                delivery.body = decompress(delivery.body, max_body)
            self.event = parse_event(hook.source, delivery, hook.settings.zone)
        except UnreadableBody as error:
            raise HttpRejection(400, "unreadable_body", str(error)) from None
        except BodyTooLarge:
            raise HttpRejection(413, "too_large", f"a decompressed body may have at most {max_body} bytes") from None

    def translate(self) -> None:
        self.translation = translate_event(self.hook.source, self.event, self.hook.settings.tenants)

    def describe(self) -> NewDelivery:
        """Return what to store."""
        hook, translation, source = self.hook, self.translation, self.hook.source.definition
        self.request_log.traceparent = _valid_traceparent(self.delivery.header("traceparent") or "")
        headers = dict(self.event.headers)
        if self.request_log.traceparent:
            headers["traceparent"] = self.request_log.traceparent
        info = DeliveryInfo(
            hook=hook.name,
            source=hook.source.name,
            received_at_ms=self.received_at_ms,
            event_name=_event_name(self.event, source),
            request_id=self.delivery.request_id,
            secret_index=self.secret_index,
            ignored=translation.ignored,
            headers=headers,
        )
        return NewDelivery(
            self.delivery,
            info,
            translation.changes,
            hook.account,
            dedup_id=translation.repeat_key,
            event_state=translation.state,
            reason=translation.reason,
            refetch=source.events_may_collide,
            dedup_ttl_s=LONG_DEDUP_TTL_S if source.ordered_by_arrival else DEDUP_TTL_S,
        )

    def answer(self, info: DeliveryInfo, stored: AcceptResult) -> Response:
        """Return the response to a delivery that is stored, or was before."""
        request_log, translation = self.request_log, self.translation
        request_log.delivery = stored.delivery_id
        request_log.event_name = info.event_name if translation.change_count else ""
        if stored.is_repeat:
            request_log.outcome = "repeat"
            return Response(200, orjson.dumps({"delivery": stored.delivery_id, "repeat": True}))
        if translation.ignored:
            request_log.outcome = "ignored"
            return Response(200, orjson.dumps({"delivery": stored.delivery_id, "ignored": translation.ignored}))
        request_log.outcome = "accepted"
        return Response(202, orjson.dumps({"delivery": stored.delivery_id, "changes": translation.change_count}))

    @property
    def received_at_ms(self) -> int:
        return int(self.event.received_at.timestamp() * 1000)

    @property
    def secret(self) -> str:
        """The secret that verified the delivery."""
        return self.hook.settings.secrets[self.secret_index]


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
