"""Replays and discards that are said at the desk and carried out by a worker, so that nobody has to wait for them.

    bell:operations         all that are known, by when they were said
    bell:operations:open    those that are not over; the first is carried out, by whoever holds its lock
    bell:operation:<id>     what was said, by whom, and how far it is

A worker that dies leaves its operation to the next one, which walks the same way again: what was put back to work is no
longer what is looked for, and a replay of what is done changes nothing.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import orjson

from app.ledger.keys import OPERATIONS_KEY, OPERATIONS_TTL_S
from app.ledger.ledger import Ledger, new_delivery_id
from app.ledger.records import NotFound
from app.ledger.redis import RedisUnavailable
from app.operators.discard import Discard
from app.operators.filter import Filter
from app.operators.replay import NoWorkerProgress, PlannedTask, Replay
from app.settings.model import Settings
from app.telemetry.logs import log

OperationKind = Literal["replay", "discard"]
OPEN = "bell:operations:open"
MAX_STORED = 500
#: How often progress is written, and how long a worker that says nothing keeps its operation.
PROGRESS_INTERVAL_S, LOCK_TTL_S = 0.5, 15


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRequest:
    """What was said. expected: how many matched when it was planned, planned_at: when that was, in ms."""

    kind: OperationKind
    filter: Filter
    actor: str
    expected: int
    planned_at_ms: int
    contact: str = ""
    recheck: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """state: `queued`, `running`, `done`, `cancelled`, or `stalled`: no worker took what was put back. skipped: by why."""

    id: str
    request: OperationRequest
    created_at_ms: int
    state: str = "queued"
    done: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def processed(self) -> int:
        return self.done + sum(self.skipped.values())


class Operations:
    """Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._redis, self._settings = ledger, ledger.redis, settings

    # -- at the desk --

    async def create(self, request: OperationRequest) -> str:
        id, now = new_delivery_id(), int((await self._ledger.server_time()).timestamp() * 1000)
        lists = (
            ("ZADD", OPERATIONS_KEY, now, id),
            ("ZREMRANGEBYRANK", OPERATIONS_KEY, 0, -MAX_STORED - 1),
            ("ZADD", OPEN, now, id),
        )
        await self._store(Operation(id=id, request=request, created_at_ms=now), *lists)
        return id

    async def get(self, id: str) -> Operation:
        """Raises NotFound."""
        flat = await self._redis.command("HGETALL", f"bell:operation:{id}")
        if not flat:
            raise NotFound(id)
        return _decode(id, dict(zip(flat[::2], flat[1::2], strict=True)))

    async def newest(self, limit: int = 50) -> list[Operation]:
        found = []
        for id in await self._redis.command("ZREVRANGE", OPERATIONS_KEY, 0, limit - 1):
            with suppress(NotFound):
                found.append(await self.get(id.decode()))
        return found

    async def cancel(self, id: str) -> None:
        """What was put back to work stays so; the rest is left alone. Raises NotFound."""
        operation = await self.get(id)
        if operation.is_open:
            await self._redis.commands(("HSET", f"bell:operation:{id}", "cancel", 1))
        if operation.state == "queued":
            await self._store(replace(operation, state="cancelled"), ("ZREM", OPEN, id))

    # -- for the worker --

    async def run_next(self) -> None:
        for id in await self._redis.command("ZRANGE", OPEN, 0, 0):
            lock, token = f"bell:operation:{id.decode()}:lock", new_delivery_id()
            if await self._ledger.acquire_lock(lock, token, LOCK_TTL_S):
                try:
                    await self._run(id.decode(), lock, token)
                finally:
                    await self._ledger.release_lock(lock, token)

    async def _run(self, id: str, lock: str, token: str) -> None:
        try:
            operation = await self.get(id)
        except NotFound:
            await self._redis.command("ZREM", OPEN, id)
            return
        run = _Progress(operation)
        work = asyncio.create_task(self._execute(run))
        state = "running"
        try:
            while state == "running":
                state = await self._poll(run, work)
                await self._store(replace(operation, state=state, done=run.done, skipped=dict(run.skipped)))
                if state == "running" and not await self._ledger.acquire_lock(lock, token, LOCK_TTL_S):
                    return  # another worker has taken it over
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, RedisUnavailable, NoWorkerProgress):
                await work
        await self._redis.command("ZREM", OPEN, id)
        log.info("operation_finished", operation=id, state=state, done=run.done)

    async def _poll(self, run: "_Progress", work: "asyncio.Task[None]") -> str:
        """What has become of it a moment later."""
        await asyncio.wait([work], timeout=PROGRESS_INTERVAL_S)
        if work.done():
            if isinstance(error := work.exception(), NoWorkerProgress):
                return "stalled"
            if error:
                raise error
            return "done"
        cancelled = await self._redis.command("HEXISTS", f"bell:operation:{run.operation.id}", "cancel")
        return "cancelled" if cancelled else "running"

    async def _execute(self, run: "_Progress") -> None:
        order = run.operation.request
        if order.kind == "replay":
            replaying = Replay(self._ledger, self._settings, recheck=order.recheck, contact=order.contact)
            await replaying.execute(order.filter, run.on_step)
        else:
            discard = Discard(self._ledger, self._settings, planned_at=order.planned_at_ms)
            await discard.execute(order.filter, run.on_step)

    async def _store(self, operation: Operation, *more: tuple[Any, ...]) -> None:
        """more: commands that are executed with it."""
        key, order = f"bell:operation:{operation.id}", operation.request
        told = {
            "request": orjson.dumps(asdict(order)),
            "at": operation.created_at_ms,
            "state": operation.state,
            "done": operation.done,
            "skipped": orjson.dumps(operation.skipped),
        }
        fields = (part for pair in told.items() for part in pair)
        await self._redis.commands(("HSET", key, *fields), ("EXPIRE", key, OPERATIONS_TTL_S), *more)


class _Progress:
    """How far one is. What an earlier worker did counts, where it is not met again."""

    def __init__(self, operation: Operation) -> None:
        goes_on = not operation.request.filter.ids
        self.operation = operation
        self.done = operation.done if goes_on else 0
        self.skipped = Counter(operation.skipped if goes_on else {})

    def on_step(self, step: PlannedTask, state: str) -> None:
        if skipped := step.skip_reason or ("expired" if state == "expired" else ""):
            self.skipped[skipped] += 1
        else:
            self.done += 1


def _decode(id: str, stored: dict[bytes, bytes]) -> Operation:
    told: dict[str, Any] = {"planned_at_ms": int(stored[b"at"])} | orjson.loads(stored[b"request"])
    words = told.pop("filter")
    return Operation(
        id=id,
        request=OperationRequest(filter=Filter(**words | {"ids": tuple(words["ids"])}), **told),
        created_at_ms=int(stored[b"at"]),
        state=stored[b"state"].decode(),
        done=int(stored[b"done"]),
        skipped=orjson.loads(stored[b"skipped"]),
    )
