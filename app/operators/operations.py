"""Operations: replays and discards that operators start and workers run.

    bell:operations                 ids of the stored operations, by creation time
    bell:operations:open            ids of the unfinished ones; workers run the oldest, one at a time
    bell:operation:<id>             a request, its author, its progress, and the number of tasks by outcome
    bell:operation:<id>:tasks:…     the tasks by outcome (scripts/lib/operations.lua)
    bell:operation:<id>:lock        the worker that runs it
    bell:operation:<id>:results     results per task, for a command that follows the operation

When a worker dies, the next one starts the operation again. That is safe: requeued tasks are no longer selected, and
replaying a task that is done changes nothing.
"""

import asyncio
import base64
import re
from collections import Counter
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import orjson

from app.ledger import keys
from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.ledger.ids import TaskId, new_id, new_token
from app.ledger.keys import OPERATIONS_KEY, OPERATIONS_TTL_S
from app.ledger.ledger import Ledger
from app.ledger.records import Cause, NotFound
from app.ledger.redis import RedisUnavailable
from app.operators.discard import Discard
from app.operators.filter import Filter
from app.operators.replay import NoWorkerProgress, PlannedTask, Replay
from app.operators.selection import Mode
from app.settings.model import Settings
from app.telemetry.logs import log

OperationKind = Literal["replay", "discard"]
MAX_STORED = 500
#: Begins the name of an outcome; the reason follows.
FAILED = "failed:"
#: The field of a stored request with the contacts. A version or a SECRET_KEY that cannot read it leaves the operation.
ENCRYPTED = "encrypted_contacts"
PROGRESS_INTERVAL_S, LOCK_TTL_S = 0.5, 15
#: Limits for results that no command reads; the oldest are dropped first.
MAX_RESULTS, RESULTS_TTL_S = 10_000, 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRequest:
    """A replay or discard as an operator started it.

    expected: the number of tasks in the plan. mode, contacts, recheck: only for a replay. contacts: by visit, see Replay.
    They are stored encrypted; an operation that ended has only the visits. keeps_results: a command reads the result of
    each task.
    """

    kind: OperationKind
    filter: Filter
    actor: str
    expected: int
    planned_at_ms: int
    mode: Mode = "retry"
    contacts: dict[str, str] = field(default_factory=dict)
    recheck: bool = False
    keeps_results: bool = False

    @property
    def selection(self) -> str:
        """What it replays or discards, in words, without the time of the plan."""
        return replace(self.filter, until="").describe(self.expected)


class TaskResult(NamedTuple):
    """state: the new state of the task, or the reason why it was skipped."""

    id: str
    task_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A stored operation with its progress.

    activity: its start in the activity log. state: `queued`, `running`, `done`, `cancelled` or `stalled` (no worker takes
    the requeued tasks). skipped: counts by reason. outcomes: the results of the tasks, as in scripts/lib/operations.lua. The
    events of a retranslation have the outcomes of their visits. has_unknown_options: a later version started it, or
    SECRET_KEY lacks the key of its contacts; without these options it would do something else.
    """

    id: str
    request: OperationRequest
    created_at_ms: int
    activity: str = ""
    state: str = "queued"
    done: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    has_unknown_options: bool = False

    @property
    def pending(self) -> int:
        """The number of requeued tasks that are not done yet."""
        return self.outcomes.get("pending", 0)

    @property
    def succeeded(self) -> int:
        return self.outcomes.get("succeeded", 0)

    @property
    def failed(self) -> dict[str, int]:
        """The numbers of tasks that failed again, by reason."""
        return {name.removeprefix(FAILED): count for name, count in self.outcomes.items() if name.startswith(FAILED)}

    @property
    def result(self) -> str:
        """The numbers of tasks by outcome, as text."""
        counts = {"succeeded": self.succeeded, "failed again": sum(self.failed.values()), "pending": self.pending}
        if self.request.kind == "discard" or not self.outcomes:
            counts = {"discarded" if self.request.kind == "discard" else "requeued": self.done}
        counts["skipped"] = sum(self.skipped.values())
        nothing = {"queued": "no task yet", "running": "no task yet", "done": "no task matched"}
        numbers = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        return numbers or nothing.get(self.state, "no task was processed")

    @property
    def status(self) -> str:
        """The state; of a replay that is done: `pending`, `failed again` or `done`, by the outcomes."""
        if self.state != "done":
            return self.state
        return "pending" if self.pending else "failed again" if self.failed else "done"

    @property
    def is_live(self) -> bool:
        """Whether its result may still change."""
        return self.is_open or self.pending > 0

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def processed(self) -> int:
        return self.done + sum(self.skipped.values())


@dataclass(frozen=True, slots=True)
class OutcomePage:
    """Tasks with the same outcome, newest first. next_cursor: empty on the last page."""

    task_ids: list[TaskId]
    next_cursor: str = ""


def new_operation_id() -> str:
    return new_id()


class Operations:
    """Stores and runs operations. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._redis, self._settings = ledger, ledger.redis, settings
        self._keyring = Keyring(settings.secret_key or tuple(settings.tokens.values()) or ("",), "doorbell.operation")

    # -- for operators --

    async def create(self, request: OperationRequest, *, id: str = "", activity: str = "") -> str:
        """Store an operation for the workers and return its id. activity: its start in the activity log."""
        id = id or new_operation_id()
        now_ms = int((await self._ledger.server_time()).timestamp() * 1000)
        commands = (
            ("ZADD", OPERATIONS_KEY, now_ms, id),
            ("ZREMRANGEBYRANK", OPERATIONS_KEY, 0, -MAX_STORED - 1),
            ("ZADD", keys.OPEN_OPERATIONS, now_ms, id),
        )
        operation = Operation(id=id, request=request, created_at_ms=now_ms, activity=activity)
        await self._store(operation, *commands)
        return id

    async def get(self, id: str) -> Operation:
        """Return an operation. Raises NotFound."""
        reply = await self._redis.command("HGETALL", f"{keys.OPERATION}{id}")
        if not reply:
            raise NotFound(id, "operation")
        return _decode(id, dict(zip(reply[::2], reply[1::2], strict=True)), self._keyring)

    async def newest(self, limit: int = 50) -> list[Operation]:
        operations = []
        for id in await self._redis.command("ZREVRANGE", OPERATIONS_KEY, 0, limit - 1):
            with suppress(NotFound):
                operations.append(await self.get(id.decode()))
        return operations

    async def tasks(self, id: str, outcome: str, cursor: str = "", limit: int = 50) -> OutcomePage:
        """Return the tasks with this outcome. cursor: of the previous page."""
        start = int(cursor) if re.fullmatch("[0-9]{1,6}", cursor) else 0
        command = ("ZREVRANGE", f"{keys.OPERATION}{id}:tasks:{outcome}", start, start + limit)
        task_ids = [TaskId(task_id.decode()) for task_id in await self._redis.command(*command)]
        return OutcomePage(task_ids[:limit], str(start + limit) if len(task_ids) > limit else "")

    async def take_results(self, id: str) -> list[TaskResult]:
        """Remove and return the results since the last call."""
        rows = await self._redis.command("LPOP", f"{keys.OPERATION}{id}:results", MAX_RESULTS)
        return [TaskResult(*orjson.loads(row)) for row in rows or ()]

    async def cancel(self, id: str) -> None:
        """Stop an operation after the current task; finished tasks are not undone. Raises NotFound."""
        if (await self.get(id)).is_open:
            await self._redis.commands(("HSET", f"{keys.OPERATION}{id}", "cancel", 1))
        async with self._lock(id) as token:
            # Without the lock, a worker runs it, and ends it soon.
            if token and (operation := await self.get(id)).state == "queued":
                await self._store(replace(operation, state="cancelled"), ("ZREM", keys.OPEN_OPERATIONS, id))

    # -- for workers --

    async def run_next(self) -> None:
        """Run the oldest open operation, unless another worker runs it, or only a later version can."""
        for id in await self._redis.command("ZRANGE", keys.OPEN_OPERATIONS, 0, 0):
            async with self._lock(id.decode()) as token:
                if token:
                    await self._run(id.decode(), token)

    @asynccontextmanager
    async def _lock(self, id: str) -> AsyncIterator[str]:
        """Lock an operation. Yield the token of the lock; empty if another process has it."""
        name, token = f"{keys.OPERATION}{id}:lock", new_token()
        if not await self._ledger.acquire_lock(name, token, LOCK_TTL_S):
            yield ""
            return
        try:
            yield token
        finally:
            await self._ledger.release_lock(name, token)

    async def _run(self, id: str, token: str) -> None:
        try:
            operation = await self.get(id)
        except NotFound:
            await self._redis.command("ZREM", keys.OPEN_OPERATIONS, id)
            return
        if operation.has_unknown_options:
            return
        progress = _Progress(operation, await self._processed(operation))
        if await self._is_cancelled(id):  # since a worker that ran it died
            await self._store(progress.operation("cancelled"), ("ZREM", keys.OPEN_OPERATIONS, id))
            return
        execution = asyncio.create_task(self._execute(progress))
        state = "running"
        try:
            while state == "running":
                state = await self._poll(progress, execution)
                await self._store(progress.operation(state), *progress.take_results())
                lock = f"{keys.OPERATION}{id}:lock"
                if state == "running" and not await self._ledger.acquire_lock(lock, token, LOCK_TTL_S):
                    return  # another worker has taken the operation over
        finally:
            execution.cancel()
            with suppress(asyncio.CancelledError, RedisUnavailable, NoWorkerProgress, _Stopped):
                await execution
        await self._redis.command("ZREM", keys.OPEN_OPERATIONS, id)
        log.info("operation_finished", operation=id, state=state, done=progress.done)

    async def _poll(self, progress: "_Progress", execution: "asyncio.Task[None]") -> str:
        """Wait PROGRESS_INTERVAL_S and return the state of the operation."""
        await asyncio.wait([execution], timeout=PROGRESS_INTERVAL_S)
        if execution.done():
            if isinstance(error := execution.exception(), NoWorkerProgress):
                return "stalled"
            if error:
                raise error
            return "done"
        if not await self._is_cancelled(progress.id):
            return "running"
        progress.stops = True
        await asyncio.wait([execution], timeout=PROGRESS_INTERVAL_S)
        return "cancelled"

    async def _is_cancelled(self, id: str) -> bool:
        return bool(await self._redis.command("HEXISTS", f"{keys.OPERATION}{id}", "cancel"))

    async def _processed(self, operation: Operation) -> set[str]:
        """Return the tasks that the operation has requeued or discarded already: a worker that ran it died."""
        lists = [f"{keys.OPERATION}{operation.id}:tasks:{outcome}" for outcome in operation.outcomes]
        pages = await self._redis.pipeline([("ZRANGE", key, 0, -1) for key in lists])
        return {task_id.decode() for page in pages for task_id in page}

    async def _execute(self, progress: "_Progress") -> None:
        request = progress.request
        if request.kind == "replay":
            replay = Replay(
                self._ledger,
                self._settings,
                request.mode,
                recheck=request.recheck,
                contacts=request.contacts,
                cause=progress.cause,
            )
            await replay.execute(request.filter, progress.on_step)
        else:
            discard = Discard(self._ledger, self._settings, request.planned_at_ms, cause=progress.cause)
            await discard.execute(request.filter, progress.on_step)

    async def _store(self, operation: Operation, *commands: tuple[Any, ...]) -> None:
        """Store the operation. commands: executed first, in the same transaction."""
        key, request = f"{keys.OPERATION}{operation.id}", operation.request
        if not operation.is_open:
            request = replace(request, contacts=dict.fromkeys(request.contacts, ""))
        stored = {
            "request": orjson.dumps(_encode_request(request, operation.id, self._keyring)),
            "at": operation.created_at_ms,
            "activity": operation.activity,
            "state": operation.state,
            "done": operation.done,
            "skipped": orjson.dumps(operation.skipped),
        }
        pairs = (part for pair in stored.items() for part in pair)
        await self._redis.commands(*commands, ("HSET", key, *pairs), ("EXPIRE", key, OPERATIONS_TTL_S))


class _Stopped(Exception):
    """An operator cancelled the operation."""


class _Progress:
    """The progress of a running operation.

    processed: the tasks of a run that died. They are counted, although some are selected and skipped in this run.
    stops: the run ends after the current task.
    """

    def __init__(self, operation: Operation, processed: Container[str]) -> None:
        self._operation, self._processed = operation, processed
        self.id, self.request = operation.id, operation.request
        self.cause = Cause(operation.activity, operation.id)
        self.done = sum(operation.outcomes.values())
        self.stops = False
        self._skipped = Counter[str]()
        self._results: list[TaskResult] = []

    def on_step(self, planned: PlannedTask, state: str) -> None:
        if planned.task_id in self._processed:
            state = "discarded" if self.request.kind == "discard" else "queued"
        elif skipped := planned.skip_reason or ("expired" if state == "expired" else ""):
            self._skipped[skipped] += 1
        else:
            self.done += 1
        if self.request.keeps_results:
            self._results.append(TaskResult(planned.id, planned.task_id, state))
        if self.stops:
            raise _Stopped

    def operation(self, state: str) -> Operation:
        return replace(self._operation, state=state, done=self.done, skipped=dict(self._skipped))

    def take_results(self) -> list[tuple[Any, ...]]:
        """Return the commands that store the results since the last call."""
        rows, self._results = self._results[-MAX_RESULTS:], []
        key = f"{keys.OPERATION}{self.id}:results"
        append = ("RPUSH", key, *(orjson.dumps(list(row)) for row in rows))
        return [append, ("LTRIM", key, -MAX_RESULTS, -1), ("EXPIRE", key, RESULTS_TTL_S)] if rows else []


def _encode_request(request: OperationRequest, id: str, keyring: Keyring) -> dict[str, Any]:
    """Return the request as it is stored: its contacts, which are personal data, are encrypted."""
    contacts, stored = request.contacts, asdict(request)
    if any(contacts.values()):
        encrypted = keyring.encrypt(orjson.dumps(contacts), _place(id))
        stored |= {"contacts": dict.fromkeys(contacts, ""), ENCRYPTED: base64.b64encode(encrypted).decode()}
    return stored


def _decrypt_contacts(encrypted: str, id: str, keyring: Keyring) -> dict[str, str] | None:
    """Return None if SECRET_KEY lacks the key."""
    try:
        contacts: dict[str, str] = orjson.loads(keyring.decrypt(base64.b64decode(encrypted), _place(id)))
    except (UnknownKey, TamperedValue):
        return None
    return contacts


def _place(id: str) -> str:
    return f"{keys.OPERATION}{id}"


def _decode(id: str, stored: dict[bytes, bytes], keyring: Keyring) -> Operation:
    request = orjson.loads(stored[b"request"])
    filter, unknown_filters = _known_fields(Filter, request.pop("filter"))
    if contact := request.pop("contact", ""):  # stored when a replay had one contact for all visits
        request["contacts"] = {"": contact}
    if encrypted := request.get(ENCRYPTED):
        contacts = _decrypt_contacts(encrypted, id, keyring)
        if contacts is not None:
            request = {name: value for name, value in request.items() if name != ENCRYPTED} | {"contacts": contacts}
    request, unknown_options = _known_fields(OperationRequest, request)
    return Operation(
        id=id,
        request=OperationRequest(filter=Filter(**filter | {"ids": tuple(filter["ids"])}), **request),
        created_at_ms=int(stored[b"at"]),
        activity=stored.get(b"activity", b"").decode(),
        state=stored[b"state"].decode(),
        done=int(stored[b"done"]),
        skipped=orjson.loads(stored[b"skipped"]),
        outcomes={
            name.removeprefix(b"tasks:").decode(): int(count)
            for name, count in sorted(stored.items())
            if name.startswith(b"tasks:") and int(count) > 0
        },
        has_unknown_options=unknown_filters or unknown_options,
    )


def _known_fields(cls: type[Filter | OperationRequest], stored: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the fields of the class, and whether a later version stored a value in another field."""
    names = {field.name for field in fields(cls)}
    unknown = any(value for name, value in stored.items() if name not in names)
    return {name: value for name, value in stored.items() if name in names}, unknown
