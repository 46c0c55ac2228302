"""The arguments and results of the ledger's methods."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson

from app.ledger.ids import TaskId
from app.ledger.redis import RedisUnavailable
from app.ledger.scripts import Call
from app.visits.change import VisitChange
from app.visits.merge import RecordedChange
from app.webhooks.delivery import Delivery, header_lines

#: A worker runs a limited number of jobs of each queue at once (jobs/concurrency.py).
Queue = Literal["visits", "events", "replays"]
#: The queue of a task that an operator requeues: "" is the queue of its kind, `replays` is behind live tasks.
QueueOverride = Literal["", "replays"]
#: How long a delivery of the same event is recognized as a repeat: REPEAT_MS in accept.lua. RETENTION_DAYS is greater.
DEDUP_TTL_S = 8 * 86_400
#: For sources whose changes are ordered by arrival: a delivery sent again later would count as the newest.
LONG_DEDUP_TTL_S = 400 * 86_400
TaskState = Literal["queued", "running", "waiting", "held", "parked", "discarded", "done"]


class NotFound(Exception):
    """What was asked for does not exist. A delivery, a visit or an operation may have expired."""

    def __init__(self, name: str, kind: str = "delivery or visit") -> None:
        super().__init__(name)
        self.kind = kind

    @property
    def sentence(self) -> str:
        return f"there is no {self.kind} {self}".rstrip()


class BodyUnavailable(Exception):
    """The delivery is stored, but its body cannot be read. reason: a key of REASONS."""

    def __init__(self, info: "DeliveryInfo", reason: str, message: str) -> None:
        super().__init__(message)
        self.info, self.reason = info, reason


class HookMoved(RedisUnavailable):
    """The account of the hook moves between cells, or has left this one. The sender must retry."""


class LeaseLost(Exception):
    """Another worker has taken the task over."""


class RecordOutdated(Exception):
    """A newer record of the same booking was stored before."""


class VisitLimitReached(Exception):
    """The visit accepts no further changes. The argument is the exceeded limit, a key of REASONS."""


class AcceptResult(NamedTuple):
    """delivery_id: for a repeat, of the first delivery. limit_reached: a key of REASONS if a visit takes no more changes."""

    delivery_id: str
    is_repeat: bool
    limit_reached: str = ""


class PackedChange(NamedTuple):
    """An item of the list `changes` of scripts, which have these fields in the same order.

    previous: the task of the visit's earlier id, or "". start: of the visit, or "".
    """

    task: TaskId
    change: bytes
    previous: str
    start: str


class Member(NamedTuple):
    """An item of the list `members` of complete.lua, with these fields in the same order: a task of the visit.

    The header of complete.lua explains the fields.
    """

    task: TaskId
    changes: int
    remote: bytes
    start: str = ""
    unlist: str = ""
    list: str = ""


class Claimed(NamedTuple):
    """Jobs of a worker: queue, job id, and since when the job was due, in ms. more: others may be due for the free slots."""

    jobs: list[tuple[Queue, str, float]]
    more: bool


class AcceptCall(NamedTuple):
    """The call of accept.lua for a delivery. registered_hook: the hook if the call registers it again, else empty."""

    call: Call
    delivery_id: str
    registered_hook: str


#: The names of the fields in a stored delivery, and in Python.
_FULL_NAMES = {
    "h": "hook",
    "a": "received_at_ms",
    "s": "source",
    "e": "event_name",
    "r": "request_id",
    "k": "secret_index",
    "i": "ignored",
    "t": "task_ids",
    "x": "erased_at_ms",
    "H": "headers",
}


@dataclass(slots=True)
class DeliveryInfo:
    """A delivery without its body.

    secret_index: the position of the secret that verified it. headers: those that the source needs, and the sender's
    traceparent. task_ids: set by the ledger. erased_at_ms: the time of the erasure of personal data, else 0.
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

    def encode(self) -> bytes:
        """Return JSON with short names and without empty fields, nor a source that is named like the hook."""
        stored: dict[str, Any] = {"h": self.hook, "a": self.received_at_ms}
        if self.source != self.hook:
            stored["s"] = self.source
        if self.event_name:
            stored["e"] = self.event_name
        if self.request_id:
            stored["r"] = self.request_id
        if self.secret_index:
            stored["k"] = self.secret_index
        if self.ignored:
            stored["i"] = self.ignored
        if self.task_ids:
            stored["t"] = self.task_ids
        if self.erased_at_ms:
            stored["x"] = self.erased_at_ms
        if self.headers:
            stored["H"] = self.headers  # last: lease.lua reads "r" as the first text of this name
        return orjson.dumps(stored)

    @classmethod
    def decode(cls, head: bytes) -> "DeliveryInfo":
        """head: the first line of a stored delivery."""
        info = cls(**{"source": "", **{_FULL_NAMES[name]: value for name, value in orjson.loads(head).items()}})
        info.source = info.source or info.hook
        info.task_ids = [TaskId(task_id) for task_id in info.task_ids]
        return info

    @property
    def erased_at(self) -> str:
        return f"{datetime.fromtimestamp(self.erased_at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def received_at(self) -> datetime:
        return datetime.fromtimestamp(self.received_at_ms / 1000, UTC)

    def to_delivery(self, body: bytes) -> Delivery:
        return Delivery(self.hook, self.source, header_lines(self.headers), body, self.received_at, self.request_id)


class NewDelivery(NamedTuple):
    """A delivery to store.

    dedup_id: the tool's id of the event; None: a digest of the body. event_state: `queued` if a worker has to fetch and
    translate the event, `parked` with a reason if an operator has to act, "" if it is translated. refetch: a repeat may be
    another event with the same body, so its record is fetched again. dedup_ttl_s: how long a repeat is recognized,
    DEDUP_TTL_S at least. is_listed: the delivery is not a webhook, but from a tool's list.
    """

    delivery: Delivery
    info: DeliveryInfo
    changes: Sequence[VisitChange]
    account: str
    dedup_id: str | None
    event_state: Literal["", "queued", "parked"] = ""
    reason: str = ""
    refetch: bool = False
    dedup_ttl_s: int = DEDUP_TTL_S
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task that called the Visits API or a tool.

    calls: each call and its status. outcome: the result, or the class of the reason; of a parked task, `parked: ` and the
    reason. response_text: the response to the failed call, at most 500 characters.
    """

    started_at_ms: int
    took_ms: int
    outcome: str
    calls: list[list[Any]] = field(default_factory=list)
    response_text: str = ""

    def encode(self) -> bytes:
        """Return a JSON list of the fields in order, without the last ones if they are empty."""
        values = [self.started_at_ms, self.took_ms, self.outcome, self.calls, self.response_text]
        while not values[-1]:
            values.pop()
        return orjson.dumps(values)

    @classmethod
    def decode(cls, stored: bytes) -> "Attempt":
        return cls(*orjson.loads(stored))


class Cause(NamedTuple):
    """Why a task is replayed or discarded: an activity of an operator, with the visits and deliveries that it affects.

    operation: the replay or discard, which records the outcome. affected: task ids; of a delivery, that of its event.
    """

    activity: str = ""
    operation: str = ""
    affected: tuple[TaskId, ...] = ()


NO_CAUSE = Cause()


class StoredChange(NamedTuple):
    """A change of a task. number: its position among all changes of the task, from 1. body: the encoded change."""

    number: int
    body: bytes


class Task(NamedTuple):
    """A task as it is stored. A visit that its tool renamed has one task for each of its ids.

    alias_depth: how often the tool renamed the visit before this id.
    change_count, applied_count: changes that were recorded, and how many of them the last finished run had seen.
    changes, discarded_changes: by origin (ids.py).
    remote: the visit as the Visits API last answered it; None if the API has none, or no answer was stored.
    was_attempted: a run has begun, so the API may have the visit although no answer was stored.
    recheck_ids: the run reads the visit from the API first, and deletes duplicates with these ids; None: it trusts `remote`.
    replaces_changes: the next translation of this event replaces the changes of the previous one.
    compacted_count: removed changes that can never win.
    pending_since_ms: since when the task is unfinished. failing_since_ms: the first of the failed attempts in a row.
    targets: the tasks of the visits that an event changed.
    last_event_at_ms: the time of the newest event of this task; records that were fetched before it are outdated.
    start: when the visit starts, as the list of its day has it; empty if no list has it.
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
    start: str = ""

    @property
    def attempts(self) -> list[Attempt]:
        return list(self.attempts_by_number.values())

    @property
    def external_id(self) -> str:
        return self.task_id.external_id

    @property
    def account(self) -> str:
        return self.task_id.account

    def recorded_changes(self, *, discarded: bool = False) -> list[RecordedChange]:
        changes = self.discarded_changes if discarded else self.changes
        return [RecordedChange.decode(origin, change.body, self.alias_depth) for origin, change in changes.items()]


class RequestContext(NamedTuple):
    """The newest delivery of a task, with the X-Request-ID and traceparent of its sender."""

    delivery_id: str = ""
    request_id: str = ""
    traceparent: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers for the calls that the task makes."""
        headers = {"x-request-id": self.request_id or self.delivery_id, "traceparent": self.traceparent}
        return {name: value for name, value in headers.items() if value}

    @property
    def log_fields(self) -> dict[str, str]:
        return trace_fields(self.request_id, self.traceparent)


def trace_fields(request_id: str, traceparent: str) -> dict[str, str]:
    fields = {"request_id": request_id} if request_id else {}
    if traceparent:
        fields |= {"trace_id": traceparent[3:35], "parent_id": traceparent[36:52]}
    return fields


class Lease(NamedTuple):
    """The right of one run to a task. until: by time.monotonic(). tasks: all ids of a visit, primary first; or one event."""

    token: str
    until: float
    tasks: list[Task]
    request_context: RequestContext = RequestContext()

    @property
    def primary(self) -> Task:
        return self.tasks[0]

    def remaining_s(self) -> float:
        return self.until - time.monotonic()


class CircuitSignal(NamedTuple):
    """What a run reports about the Visits API to the circuit of its account.

    kind: `ok` closes the circuit. `unauthorized` and `rate_limited` open it for pause_s. `down` opens it for at most
    pause_s, if most of the newest responses are first failures of different visits, at least `threshold` of them.
    """

    kind: str
    pause_s: float = 0
    threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    attempt: None if no call was made. is_applied: whether the API has all changes of a visit although it is parked.
    failed_attempts: the new count; None resets it, except in the state `held`, which leaves it unchanged. in_flight_s: how
    long a call may still change the visit, so that no run may begin. remote: by task id, the API's answer for each visit
    that was read or written; None after a deletion. may_exist: whether the API may have the visit although `remote` has no
    answer for it; None if the run does not know more than the one before. start: when the visit starts (`visit_start`); None
    if its changes were not merged.
    """

    state: Literal["done", "waiting", "held", "parked"]
    attempt: Attempt | None
    reason: str = ""
    is_applied: bool = False
    retry_in_s: float = 0
    in_flight_s: float = 0
    failed_attempts: int | None = None
    remote: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    may_exist: bool | None = None
    circuit_signal: CircuitSignal | None = None
    start: str | None = None
