"""What the ledger's steps take and return."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson

from app.ledger.ids import TaskId
from app.visits.merge import RecordedChange
from app.webhooks.delivery import Delivery

#: Where jobs wait: each lane has places of its own in a worker.
Queue = Literal["visits", "events", "replays"]
#: Where an operator puts work back: among what rings, or behind it.
QueueOverride = Literal["", "replays"]
TaskState = Literal["queued", "running", "waiting", "held", "parked", "discarded", "done"]


class NotFound(Exception):
    """There is nothing of that name, or no longer."""


class BodyUnavailable(Exception):
    """The delivery is there, and its body cannot be read. reason: in one word; the argument: as a sentence."""

    def __init__(self, info: "DeliveryInfo", reason: str, why: str) -> None:
        super().__init__(why)
        self.info, self.reason = info, reason


class LeaseLost(Exception):
    """The lease went to another worker, which goes on from here."""


class RecordOutdated(Exception):
    """A newer record of the same booking was seen."""


class VisitLimitReached(Exception):
    """A visit has grown to one of its bounds, and nothing more lands on it. The argument: which, in one word."""


class AcceptResult(NamedTuple):
    """What the ledger made of a delivery: its id, or the first one's where it is a repeat. bound: why it was parked, where a
    visit takes no more."""

    delivery_id: str
    is_repeat: bool
    limit_reached: str = ""


@dataclass(slots=True)
class DeliveryInfo:
    """What is kept of a delivery beside its body.

    at: when it arrived, in ms. slot: which secret matched. headers: those that the source needs, and the sender's
    traceparent. work: the pieces of work that it gave; the ledger fills it in. removed: when somebody whom it spoke of was
    forgotten, in ms.
    """

    hook: str
    source: str
    received_at_ms: int
    event_name: str = ""
    request_id: str = ""
    secret_index: int = 0
    ignored: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    task_ids: list[TaskId] = field(default_factory=list)
    erased_at_ms: int = 0

    @classmethod
    def decode(cls, head: bytes) -> "DeliveryInfo":
        """head: the first line of a stored delivery."""
        info = cls(**orjson.loads(head))
        info.task_ids = [TaskId(task_id) for task_id in info.task_ids]
        return info

    @property
    def erased_at(self) -> str:
        return f"{datetime.fromtimestamp(self.erased_at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def received_at(self) -> datetime:
        return datetime.fromtimestamp(self.received_at_ms / 1000, UTC)

    def to_delivery(self, body: bytes) -> Delivery:
        """The delivery as far as it is stored. raw: its body."""
        headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items())
        return Delivery(self.hook, self.source, headers, body, self.received_at, self.request_id)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of one piece of work: when (ms), how long, which calls with which answers, and what came of it.

    said: what was answered to the call that failed, at most 500 characters.
    """

    started_at_ms: int
    took_ms: int
    outcome: str
    calls: list[list[Any]] = field(default_factory=list)
    response_text: str = ""


class StoredChange(NamedTuple):
    """A change of a task. number: its position among all changes of the task, from 1. body: the encoded change."""

    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """One id of a visit, as the ledger has it. Most visits have one; a rescheduled one may have several.

    n: how many changes landed, done: how many of them the last settled run had seen. api: what the Visits API last
    answered for this id. tried: whether a worker ever began on it. rang: when an event last rang, in ms of the server.
    ask: the API is to be asked anew, also about the visits of these numbers of its own; None: what it last answered is
    believed. replaces: what this event says next takes the place of what it said. dropped: superseded changes that were
    forgotten. forgot: when somebody whose visit it was was forgotten, in ms.
    """

    task_id: TaskId
    alias_depth: int
    change_count: int
    applied_count: int
    state: TaskState
    changes: dict[str, StoredChange]
    discarded_changes: dict[str, StoredChange]
    attempts_by_number: dict[str, Attempt]
    remote: dict[str, Any] | None
    was_attempted: bool
    recheck_ids: list[str] | None
    replaces_changes: bool
    compacted_count: int
    failed_attempts: int
    pending_since_ms: int | None
    failing_since_ms: int | None
    retry_at_ms: int | None
    reason: str
    targets: list[TaskId]
    last_event_at_ms: int | None
    erased_at_ms: int | None = None

    @property
    def attempts(self) -> list[Attempt]:
        return list(self.attempts_by_number.values())

    @property
    def external_id(self) -> str:
        return self.task_id.external_id

    @property
    def account(self) -> str:
        return self.task_id.account

    def recorded_changes(self) -> list[RecordedChange]:
        return [RecordedChange.decode(origin, change.body, self.alias_depth) for origin, change in self.changes.items()]


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The newest delivery that spoke of some work, and what its sender called the request: X-Request-ID, traceparent."""

    delivery_id: str = ""
    request_id: str = ""
    traceparent: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the calls that are made for it."""
        given = {"x-request-id": self.request_id or self.delivery_id, "traceparent": self.traceparent}
        return {name: value for name, value in given.items() if value}

    @property
    def log_fields(self) -> dict[str, str]:
        """For a line of the log."""
        return trace_fields(self.request_id, self.traceparent)


def trace_fields(request_id: str, traceparent: str) -> dict[str, str]:
    fields = {"request_id": request_id} if request_id else {}
    if traceparent:
        fields |= {"trace_id": traceparent[3:35], "parent_id": traceparent[36:52]}
    return fields


@dataclass(frozen=True, slots=True)
class Lease:
    """Work that this worker alone may do until its lease ends. members: the visit's first id, then its later ones."""

    token: str
    until: float
    tasks: list[Task]
    request_context: RequestContext = field(default_factory=RequestContext)

    @property
    def primary(self) -> Task:
        return self.tasks[0]

    def remaining_s(self) -> float:
        return self.until - time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSignal:
    """What one run says about everybody's way to the Visits API.

    why: `ok` opens the gate; `unauthorized` and `rate_limited` close it for wait_s; `down` closes it for wait_s at most,
    once most of the newest answers are first failures of different visits, and `enough` of them.
    """

    kind: str
    pause_s: float = 0
    threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ends. due_s: how long until the next try. tries: how many failed so far; None: what failed before is
    over and does not count (but while held, nothing is counted or forgotten).

    attempt: None where nothing was attempted. api: what now stands in the API per piece of work: an answer, or None where
    there is no visit any more.
    """

    state: Literal["done", "waiting", "held", "parked"]
    attempt: Attempt | None
    reason: str = ""
    retry_in_s: float = 0
    failed_attempts: int | None = None
    remote: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    circuit_signal: CircuitSignal | None = None
