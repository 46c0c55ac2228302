"""What is logged and counted about one request to a hook."""

import re
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from app.ledger.ids import new_id
from app.ledger.records import trace_fields
from app.settings.model import Hook
from app.webhooks.delivery import Delivery

#: Values of the label `outcome` in /metrics by reason of the rejection. Other reasons are their own value.
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
    "redis_full": "unavailable",
    "redis_read_only": "unavailable",
    "hook_unavailable": "unavailable",
    "hook_moved": "unavailable",
    "too_many_in_flight": "unavailable",
    "internal_error": "unavailable",
}

_EVENT_NAME = re.compile("[A-Za-z][A-Za-z0-9_.:/-]*")
#: A UUID, or an id of ours. Before the signature is verified, no other text of a sender is logged.
_PLAIN_REQUEST_ID = re.compile("[0-9a-fA-F-]{32,36}|d[0-9a-f]{11}(?:[0-9a-f]{10}|[0-9A-Za-z]{16})")


@dataclass(slots=True)
class RequestLog:
    """The fields of one request's log line.

    hook, source: empty for an unknown hook. event_name: the tool's name of the event, once it is translated.
    secret_number: position of the secret that matched, from 1; 0 if none did.
    detail: the sentence of a rejection. request: the request, once its head is read. started_at: by time.perf_counter().
    """

    hook: str = ""
    source: str = ""
    request_id: str = ""
    traceparent: str = ""
    event_name: str = ""
    delivery: str = ""
    outcome: str = "handshake"
    reason: str = ""
    secret_number: int = 0
    detail: str = ""
    request: Delivery | None = None
    started_at: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls, scope: Scope) -> "RequestLog":
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                return cls(request_id=_valid_request_id(value))
        return cls()

    def name_hook(self, hook: Hook) -> None:
        self.hook, self.source = hook.name, hook.source.name

    def reject(self, reason: str, detail: str = "") -> None:
        self.outcome, self.reason, self.detail = "rejected", reason, detail[:200]

    @property
    def took_s(self) -> float:
        return time.perf_counter() - self.started_at

    @property
    def is_stored(self) -> bool:
        """Whether the request is a new delivery in Redis."""
        return self.outcome in ("accepted", "ignored")

    @property
    def metric_outcome(self) -> str:
        return METRIC_OUTCOMES.get(self.reason, self.reason) or self.outcome

    def response_request_id(self) -> str:
        """Return the X-Request-ID of the response: the sender's, else the id of the delivery, else a new one."""
        self.request_id = self.request_id or self.delivery or new_id()
        return self.request_id

    def note(self, status: int) -> dict[str, Any]:
        """Return what an operator who listens sees of the request, without its content."""
        fields = {
            "delivery": self.delivery,
            "reason": self.reason,
            "detail": self.detail,
            "secret_number": self.secret_number,
        }
        note: dict[str, Any] = {"hook": self.hook, "status": status, "outcome": self.outcome}
        return note | {name: value for name, value in fields.items() if value}

    def log_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"hook": self.hook, "source": self.source, "outcome": self.outcome}
        if self.delivery:
            fields["delivery"] = self.delivery
        if self.event_name and _EVENT_NAME.fullmatch(self.event_name):
            fields["event_type"] = self.event_name
        if self.reason:
            fields["reason"] = self.reason
        if self.secret_number or _PLAIN_REQUEST_ID.fullmatch(self.request_id):
            fields |= trace_fields(self.request_id, self.traceparent)
        return fields


def _valid_request_id(value: bytes) -> str:
    """Return the X-Request-ID of the sender or the router, or an empty string if it is not a plain id."""
    if 0 < len(value) <= 80 and value.isascii() and value.replace(b"-", b"").replace(b"_", b"").isalnum():
        return value.decode()
    return ""
