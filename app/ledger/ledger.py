"""Deliveries, changes and tasks in Redis. Each change of a task's state is one script, and therefore atomic."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson

from app.ledger import keys, scripts
from app.ledger.bodies import Bodies, BodyUnreadable
from app.ledger.compression import compress
from app.ledger.ids import TaskId, delivery_key, is_id_of, new_assignment_id, new_delivery_id, new_id, new_token
from app.ledger.reasons import CIRCUIT_REASONS, reason_now
from app.ledger.records import (
    DEDUP_TTL_S,
    NO_CAUSE,
    AcceptCall,
    AcceptResult,
    Attempt,
    BodyUnavailable,
    Cause,
    Claimed,
    DeliveryInfo,
    HookMoved,
    Lease,
    LeaseLost,
    Member,
    NewDelivery,
    NotFound,
    Outcome,
    PackedChange,
    Queue,
    QueueOverride,
    RecordOutdated,
    RequestContext,
    StoredChange,
    Task,
    TaskState,
    VisitLimitReached,
)
from app.ledger.redis import HeldLease, Redis, ServerUnusable
from app.ledger.remote import decode_remote, encode_remote
from app.ledger.scripts import Call
from app.ledger.values import join_values
from app.visits.change import VisitChange, encode_change, external_id, unix_microseconds, visit_start
from app.webhooks.delivery import Delivery

#: How long the people of a booking are known. Bookings may be made long ahead.
PEOPLE_TTL_MS = 2 * 366 * 86_400_000
#: The task of a dead worker is requeued after this time. A run takes RUN_TIMEOUT_S and its last call at most, 30 s together.
LEASE_S = 35.0
LEASE_MS = int(LEASE_S * 1000)
#: A queued task without a job gets another job after this time.
ORPHAN_AFTER_S = 60.0
#: A process registers a hook again with a delivery after this time, in case Redis was emptied.
HOOK_REGISTERED_FOR_S = 10.0
#: Held tasks are released while the next slot of VISITS_API_RATE is at most this far away.
MAX_RATE_BACKLOG_MS = 1_000


class Ledger:
    """Every method may raise RedisUnavailable."""

    def __init__(self, redis: Redis, retention_days: int, body_keys: Sequence[str] = ()) -> None:
        self.redis, self._retention_ms, self._bodies = redis, retention_days * 86_400_000, Bodies(body_keys)
        self._registered_until: dict[str, float] = {}

    @property
    def retention(self) -> timedelta:
        return timedelta(milliseconds=self._retention_ms)

    # -- for the endpoint --

    async def accept(self, new: NewDelivery) -> AcceptResult:
        """Store a delivery, its changes and its jobs, unless it is a repeat: all, or nothing.

        If a visit accepts no more changes, the delivery is parked without its changes; an operator can retranslate it.
        Raises HookMoved.
        """
        changes, limit = pack_changes(new.info.source, new.account, new.changes), ""
        body = compress(new.delivery.body, new.info.source)
        for occurrence in itertools.count():
            accept = self.prepare(new, changes, body, occurrence)
            reply = await self.redis.script(accept.call, durable=True)
            if isinstance(reply, list):
                changes, limit = [], reply[0].decode()
                new = new._replace(event_state="parked", reason=limit)
                accept = self.prepare(new, changes, body, occurrence)
                reply = await self.redis.script(accept.call, durable=True)
            if result := self.result_of(accept, reply):
                return result._replace(limit_reached=limit)
            if reply != _NO_REPEAT_ANY_MORE:
                break
        raise HookMoved(f"the account of the hook {new.info.hook} is moving or has moved to another cell")

    def prepare(
        self, new: NewDelivery, changes: Sequence[PackedChange], body: bytes, occurrence: int = 0
    ) -> AcceptCall:
        """Return the call that stores the delivery, for Redis.send_script.

        changes, body: by pack_changes and compress. occurrence: see _event_of.
        """
        info = new.info
        event = _event_of(new.delivery, new.dedup_id, occurrence)
        id = new_delivery_id(info.hook, event, info.received_at_ms, is_listed=new.is_listed)
        info.task_ids = [TaskId.event(id)] if new.event_state else [task_id for task_id, *_ in changes]
        registers_hook = time.monotonic() >= self._registered_until.get(info.hook, 0)
        call = scripts.accept(
            delivery=id,
            hook=info.hook,
            keep_ms=self._retention_ms,
            record=info.encode() + b"\n" + self._bodies.encode(body, id),
            options=_encode_options(new, registers_hook),
            changes=changes,
        )
        return AcceptCall(call, id, info.hook if registers_hook else "")

    def result_of(self, accept: AcceptCall, reply: Any) -> AcceptResult | None:
        """Return the result if the delivery is stored, now or before. None for the other replies of accept.lua."""
        if reply != 1:
            return AcceptResult(reply.decode(), is_repeat=True) if isinstance(reply, bytes) else None
        if accept.registered_hook:
            self._registered_until[accept.registered_hook] = time.monotonic() + HOOK_REGISTERED_FOR_S
        return AcceptResult(accept.delivery_id, is_repeat=False)

    # -- for the worker --

    async def lease(self, task_id: TaskId, account: str = "", is_paced: bool = False) -> Lease | str:
        """Lease the task, or return why not: `busy`, `held`, `waiting`, `parked` or `nothing`.

        is_paced: VISITS_API_RATE limits the account, so the task is held while others of the account wait for it.
        """
        token, started = new_token(), time.monotonic()
        reply, *details = await self.redis.script_after_grace(
            lambda expected_ms: scripts.lease(
                expected_ms=expected_ms,
                task=task_id,
                token=token,
                lease_ms=LEASE_MS,
                circuit=account,
                paced=int(is_paced),
            )
        )
        if reply != b"leased":
            return str(reply.decode())
        context, tasks = details
        lease = Lease(
            token,
            started + LEASE_S,
            [_decode_task(*task) for task in tasks],
            RequestContext(*(field.decode() for field in context)),
        )
        task_ids = [task.task_id for task in lease.tasks]
        self.redis.held_leases[token] = HeldLease(
            lease.until,
            lambda remaining_ms: scripts.restore_lease(lease_ms=remaining_ms, token=token, tasks=task_ids),
            lambda remaining_ms: scripts.renew_lease(lease_ms=remaining_ms, token=token, tasks=task_ids),
            lambda: _restore_changes(token, tasks),
        )
        return lease

    async def complete(self, lease: Lease, outcome: Outcome, account: str = "") -> str:
        """End the lease and store the outcome of the run. Return the new state. Raises LeaseLost."""
        signal = outcome.circuit_signal
        call = scripts.complete(
            token=lease.token,
            outcome=outcome.state,
            is_applied=int(outcome.is_applied or outcome.state == "done"),
            may_exist="" if outcome.may_exist is None else int(outcome.may_exist),
            retry_in_ms=int(outcome.retry_in_s * 1000),
            in_flight_ms=int(outcome.in_flight_s * 1000),
            reason=outcome.reason,
            attempt=outcome.attempt.encode() if outcome.attempt else "",
            keep_ms=self._retention_ms + time_until_visit_ms(lease, outcome),
            circuit=account,
            signal=signal.kind if signal else "",
            wait_ms=int(signal.pause_s * 1000) if signal else 0,
            threshold=signal.threshold if signal else 1,
            failed_attempts="" if outcome.failed_attempts is None else outcome.failed_attempts,
            members=[_member(task, lease.primary, outcome) for task in lease.tasks],
        )
        answer = await self.redis.script(call)
        self.redis.held_leases.pop(lease.token, None)
        for task_id in outcome.remote:
            self.redis.remember_answer(task_id, _encode_remote(TaskId(task_id), outcome.remote))
        if answer == b"lost":
            raise LeaseLost(lease.primary.task_id)
        return str(answer.decode())

    async def add_people(
        self, account: str, external_id: str, fetched_at: datetime, people: Sequence[str]
    ) -> tuple[str, ...]:
        """Add the people of a record that was requested at fetched_at. Raises RecordOutdated.

        Return all people that records of this booking ever listed, in the order of their first listing.
        """
        call = scripts.add_people(
            booking=f"{account}/{external_id}",
            fetched_at=unix_microseconds(fetched_at),
            keep_ms=PEOPLE_TTL_MS,
            people=people,
        )
        answer = await self.redis.script(call)
        if answer == b"outdated":
            raise RecordOutdated
        return tuple(person.decode() for person in answer)

    async def known_people(self, account: str, external_id: str) -> tuple[str, ...]:
        """Return all people that records of this booking ever listed, in the order of their first listing."""
        people = await self.redis.command("ZRANGE", f"{keys.PEOPLE}{account}/{external_id}", 0, -1)
        return tuple(person.decode() for person in people if person)

    async def compact(self, lease: Lease, task: Task, origins: Iterable[str]) -> None:
        """Remove changes that can never win again."""
        await self.redis.script(scripts.compact(task=task.task_id, token=lease.token, origins=origins))

    async def record_changes(
        self,
        lease: Lease,
        source: str,
        account: str,
        changes: Sequence[VisitChange],
        attempt: Attempt,
        parked_reason: str = "",
    ) -> None:
        """Store the changes of a translated event and end its lease: it is done, or parked if there is a reason.

        Raises LeaseLost, VisitLimitReached; then nothing is stored.
        """
        call = scripts.record_changes(
            delivery=lease.primary.task_id.delivery_id,
            token=lease.token,
            changes_seen=lease.primary.change_count,
            attempt=attempt.encode(),
            keep_ms=self._retention_ms,
            reason=parked_reason,
            changes=pack_changes(source, account, changes),
        )
        answer = await self.redis.script(call)
        if isinstance(answer, list):
            raise VisitLimitReached(answer[0].decode())
        self.redis.held_leases.pop(lease.token, None)
        if answer == b"lost":
            raise LeaseLost(lease.primary.task_id)

    async def requeue_due(self, limit: int = 200) -> int:
        """Requeue tasks that are due, and those of dead workers. Return how many."""
        return int(
            await self.redis.script_after_grace(
                lambda expected_ms: scripts.requeue_due(
                    expected_ms=expected_ms, limit=limit, keep_ms=self._retention_ms, lease_ms=LEASE_MS
                )
            )
        )

    async def trim(self, key: str, retention_ms: int = 0, limit: int = 1_000) -> int:
        """Remove members older than retention_ms (default: RETENTION_DAYS) from a set sorted by time. Return how many."""
        call = scripts.trim(set=key, keep_ms=retention_ms or self._retention_ms, limit=limit)
        return int(await self.redis.script(call))

    async def trim_visit_day(self, day: str, limit: int = 1_000) -> int:
        """Remove expired visits from the list of a day. Return how many."""
        removed = 0
        for _ in range(0, await self.redis.command("LLEN", f"{keys.VISIT_DAY}{day}"), limit):
            removed += int(await self.redis.script(scripts.trim_visit_day(day=day, limit=limit)))
        return removed

    async def visit_days(self) -> list[str]:
        """Return the days that have visits, the earliest first."""
        return [day.decode() for day in await self.redis.command("ZRANGE", keys.VISIT_DAYS, 0, -1)]

    async def visits_of_day(self, day: str, limit: int = 0) -> list[tuple[str, TaskId]]:
        """Return the visits that start on a day in UTC, in order, each with its start. Some may have expired.

        limit: 0 for all; else any of them.
        """
        entries = set(await self.redis.command("LRANGE", f"{keys.VISIT_DAY}{day}", 0, limit - 1))
        return [
            (f"{day}T{time}", TaskId.of_subject(subject))
            for time, _, subject in (entry.decode().partition(" ") for entry in sorted(entries))
        ]

    async def requeue_orphans(self, offset: int = 0, limit: int = 200) -> tuple[int, int]:
        """Requeue tasks whose job was lost. Return how many, and the next offset (-1 at the end)."""
        call = scripts.requeue_orphans(limit=limit, min_age_ms=int(ORPHAN_AFTER_S * 1000), offset=offset)
        requeued, next_offset = await self.redis.script(call)
        return requeued, next_offset

    async def release_held(self, account: str, limit: int = 200, calls_per_second: float | None = None) -> int:
        """Requeue held tasks of the account. Return how many.

        If the circuit is closed, these are all that calls_per_second allows; else one probe, if it is due.
        """
        call = scripts.release_held(
            account=account,
            limit=limit,
            calls_per_s=calls_per_second or "",
            max_queue_ms=MAX_RATE_BACKLOG_MS,
            lease_ms=LEASE_MS,
        )
        return int(await self.redis.script(call))

    async def acquire_rate_slot(self, account: str, calls_per_second: float, max_wait_s: float) -> float:
        """Reserve the next slot for a call. Return the seconds until then.

        If they exceed max_wait_s, nothing is reserved, and the result is negative.
        """
        call = scripts.rate_slot(account=account, calls_per_s=calls_per_second, max_wait_ms=int(max_wait_s * 1000))
        return float(await self.redis.script(call)) / 1000

    async def acquire_lock(self, name: str, token: str, lease_s: float) -> bool:
        """Take a lock that expires after lease_s, or extend it. Return False while another token has it."""
        return (await self.acquire_lock_and_read(name, token, lease_s, ""))[0]

    async def acquire_lock_and_read(self, name: str, token: str, lease_s: float, key: str) -> tuple[bool, bytes | None]:
        """As `acquire_lock`. Return the value of a key, too, as it was then: with the lock, if it was acquired."""
        until = time.monotonic() + lease_s

        def acquire(ttl_ms: int, expected_ms: int | str = "") -> Call:
            return scripts.acquire_lock(expected_ms=expected_ms, lock=name, token=token, ttl_ms=ttl_ms, value=key)

        is_acquired, value = await self.redis.script_after_grace(partial(acquire, int(lease_s * 1000)))
        if is_acquired:
            self.redis.held_leases[token] = HeldLease(until, acquire, acquire)
        return bool(is_acquired), value

    async def release_lock(
        self, name: str, token: str, key: str = "", value: bytes | None = None, keep_ms: int = 0
    ) -> None:
        """Release the lock, if the token has it. value: what is stored under the key for keep_ms; None for nothing."""
        self.redis.held_leases.pop(token, None)
        call = scripts.release_lock(
            lock=name, token=token, value="" if value is None else key, content=value or b"", keep_ms=keep_ms
        )
        await self.redis.script(call)

    async def server_time(self) -> datetime:
        """Return the time by the server's clock, which all processes share."""
        seconds, micros = await self.redis.command("TIME")
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))

    async def claim(
        self, free_slots: Mapping[Queue, int], lease_s: float, full_accounts: Sequence[str] = ()
    ) -> Claimed:
        """Claim jobs for the free slots of each queue, the longest due first. Visits whose circuit is open are held instead.

        full_accounts: `<queue>:<account>` without free slots; the jobs of others overtake theirs.
        """
        capacity = [(queue, slots) for queue, slots in free_slots.items() if slots]
        if not capacity:
            return Claimed([], False)
        more, *flat = await self.redis.script_after_grace(
            lambda expected_ms: scripts.claim(
                expected_ms=expected_ms, lease_ms=int(lease_s * 1000), full=" ".join(full_accounts), rooms=capacity
            )
        )
        jobs = [(flat[i].decode(), flat[i + 1].decode(), float(flat[i + 2])) for i in range(0, len(flat), 3)]
        return Claimed(jobs, bool(more))

    async def ack(self, job_id: str, queue: Queue) -> None:
        """Remove a job that has run. The state of its task says what remains to be done."""
        await self.redis.script(scripts.acknowledge(job=job_id, queue=queue))

    async def set_with_ttl(self, key: str, value: str | bytes, ttl_ms: int) -> None:
        """Works on a full Redis too."""
        await self.redis.commands(("SET", key, value, "PX", ttl_ms))

    async def record_schema(self) -> None:
        """Let other versions recognize which schema the database has. Works on a full Redis too."""
        await self.redis.commands(("SET", keys.SCHEMA, keys.SCHEMA_VERSION))

    async def record_accounts(self, accounts: Iterable[str]) -> None:
        """Let operators find the visits of an account after it is removed from the settings. Works on a full Redis too."""
        await self.redis.commands(("SADD", keys.ACCOUNTS, *accounts))

    async def heartbeat(self, key: str, value: bytes, ttl_ms: int) -> int:
        """Return how many workers are alive. Works on a full Redis too."""
        return int(await self.redis.script(scripts.heartbeat(worker=key, report=value, ttl_ms=ttl_ms)))

    # -- for operators --

    async def replay(
        self,
        task_id: TaskId,
        recheck: bool = False,
        *,
        duplicate_ids: Iterable[int] = (),
        queue: QueueOverride = "",
        cause: Cause = NO_CAUSE,
    ) -> str:
        """Requeue a task. Return its state: `queued` or `running`. Raises NotFound.

        recheck: the run reads the visit from the API first. duplicate_ids: the API's numbers of visits with the same
        external_id that the run deletes.
        """
        call = scripts.replay(
            task=task_id,
            recheck=int(recheck),
            recheck_ids=" ".join(map(str, duplicate_ids)),
            queue=queue,
            activity=cause.activity,
            operation=cause.operation,
            affected=cause.affected,
        )
        answer = await self.redis.script(call)
        if answer == b"gone":
            raise NotFound(task_id)
        return str(answer.decode())

    async def retranslate(self, delivery_id: str, *, queue: QueueOverride = "", cause: Cause = NO_CAUSE) -> str:
        """Requeue the translation of a delivery. The new changes replace its earlier ones.

        Raises NotFound, also if its body was erased.
        """
        answer = b"moved"
        while answer == b"moved":
            head = await self._head(delivery_id)
            info, event = DeliveryInfo.decode(head), TaskId.event(delivery_id)
            if info.erased_at_ms:
                raise NotFound(delivery_id)
            was_translated_on_arrival = info.task_ids != [event]
            call = scripts.retranslate(
                delivery=delivery_id,
                head=head,
                new_head=replace(info, task_ids=[event]).encode() if was_translated_on_arrival else "",
                targets=" ".join(info.task_ids) if was_translated_on_arrival else "",
                queue=queue,
                activity=cause.activity,
                operation=cause.operation,
                affected=cause.affected,
            )
            answer = await self.redis.script(call)
        if answer == b"gone":
            raise NotFound(delivery_id)
        return str(answer.decode())

    async def discard(
        self,
        task_id: TaskId,
        delivery_id: str = "",
        expected_changes: int | None = None,
        *,
        cause: Cause = NO_CAUSE,
    ) -> int:
        """Discard the changes that were not applied, of one delivery or of all.

        Return how many (1 for an event), -1 if the task is running, -2 if it has more changes than expected_changes.
        """
        call = scripts.discard(
            task=task_id,
            keep_ms=self._retention_ms,
            delivery=delivery_id,
            change_count="" if expected_changes is None else expected_changes,
            activity=cause.activity,
            operation=cause.operation,
            affected=cause.affected,
        )
        return int(await self.redis.script(call))

    async def record_activity(
        self, actor: str, role: str, action: str, target: str, *, operation: str = "", affected: Iterable[TaskId] = ()
    ) -> str:
        """Append to the activity log, and return the id of the entry. Works on a full Redis too."""
        call = scripts.record_activity(
            actor=actor, role=role, action=action, target=target, operation=operation, affected=affected
        )
        return str((await self.redis.script(call)).decode())

    async def pause(self, account: str, is_paused: bool = True) -> bool:
        """Pause or resume an account. Return whether this changed anything.

        The tasks of a paused account are held, and no attempt is counted.
        """
        call = scripts.pause_circuit(account=account, is_paused=int(is_paused))
        return bool(await self.redis.script(call))

    async def is_paused(self, account: str) -> bool:
        return bool(await self.redis.command("HGET", f"{keys.CIRCUIT}{account}", "kind") == b"paused")

    async def hook_names(self, configured: Iterable[str] = ()) -> list[str]:
        """Return the configured hooks, and those that ever received a delivery."""
        return sorted({hook.decode() for hook in await self.redis.command("SMEMBERS", keys.HOOKS)}.union(configured))

    async def delete_circuit(self, account: str) -> None:
        """Remove the circuit of an account without a token. Its held tasks are then parked as `token_missing`.

        A pause stays: this process may not have read the settings of a new account yet.
        """
        await self.redis.script(scripts.delete_circuit(account=account))

    async def assign_contact(self, task_id: TaskId, change: VisitChange) -> None:
        """Record a change of an operator, of the visit's id task_id. It is merged like any other."""
        changes = [PackedChange(task_id, encode_change(change), previous="", start="")]
        await self.redis.script(scripts.assign_contact(id=new_assignment_id(), changes=changes))

    async def redact(
        self, task_id: TaskId, expected_changes: int | None, record: bytes, fields: Mapping[str, bytes]
    ) -> str:
        """Replace fields that contain personal data.

        Return `ok`, `busy` if the task is running, or `moved` if it changed since it was read.

        expected_changes: the change_count that was read; None if there was no task. record: the new delivery, for an event.
        """
        call = scripts.redact(
            task=task_id,
            change_count="" if expected_changes is None else expected_changes,
            record=record,
            replacements=fields.items(),
        )
        answer: bytes = await self.redis.script(call)
        return answer.decode()

    async def mark_audited(self, task_id: TaskId, mark: str) -> None:
        """Store that an audit found the visit in the API."""
        await self.redis.script(scripts.mark_audited(task=task_id, mark=mark))

    async def load_delivery(self, delivery_id: str) -> tuple[DeliveryInfo, bytes]:
        """Return a delivery and its body. Raises NotFound, BodyUnavailable."""
        record = await self.redis.command("GET", delivery_key(delivery_id))
        if not record or not _is_record_of(delivery_id, record):
            raise NotFound(delivery_id)
        return self.decode_delivery(delivery_id, record)

    def decode_delivery(self, delivery_id: str, record: bytes) -> tuple[DeliveryInfo, bytes]:
        """Raise BodyUnavailable."""
        head, _, body = record.partition(b"\n")
        info = DeliveryInfo.decode(head)
        if info.erased_at_ms:
            raise BodyUnavailable(info, "body_erased", f"its body was erased at {info.erased_at}")
        try:
            return info, self._bodies.decode(body, delivery_id)
        except BodyUnreadable as error:
            raise BodyUnavailable(info, error.reason, str(error)) from None

    async def load_delivery_info(self, delivery_id: str) -> DeliveryInfo:
        """Return a delivery without its body. Raises NotFound."""
        return DeliveryInfo.decode(await self._head(delivery_id))

    async def load_delivery_infos(self, delivery_ids: Sequence[str]) -> list[DeliveryInfo | None]:
        """Return deliveries without their bodies; None for each that is not stored."""
        infos = await self.load_delivery_infos_by_key([delivery_key(id) for id in delivery_ids])
        pairs = zip(delivery_ids, infos, strict=True)
        return [info if info and is_id_of(id, info.received_at_ms) else None for id, info in pairs]

    async def load_delivery_infos_by_key(self, delivery_keys: Sequence[str]) -> list[DeliveryInfo | None]:
        return [DeliveryInfo.decode(head) if head else None for head in await self._heads(delivery_keys)]

    async def _head(self, delivery_id: str) -> bytes:
        """Return the first line of a stored delivery. Raises NotFound."""
        [head] = await self._heads([delivery_key(delivery_id)])
        if not head or not _is_record_of(delivery_id, head):
            raise NotFound(delivery_id)
        return head

    async def _heads(self, delivery_keys: Sequence[str]) -> list[bytes]:
        """Return the first lines of deliveries; an empty one for each that is not stored."""
        starts = await self.redis.pipeline([("GETRANGE", key, 0, 4_095) for key in delivery_keys])
        for number, start in enumerate(starts):
            if start and b"\n" not in start:
                starts[number] = await self.redis.command("GET", delivery_keys[number]) or b""
        return [bytes(start[: max(0, start.find(b"\n"))]) for start in starts]

    async def scan_by_time(
        self, key: str, since: float = float("-inf"), until: float = float("inf")
    ) -> AsyncIterator[str]:
        """Yield the members of a set sorted by time (ms), page by page, while members are added and removed."""
        seen_at_last_score: set[bytes] = set()  # several members may share a score
        while True:
            limit = 500 + len(seen_at_last_score)
            command = ("ZRANGEBYSCORE", key, since, until, "WITHSCORES", "LIMIT", 0, limit)
            flat = await self.redis.command(*command)
            page = list(zip(flat[::2], map(float, flat[1::2]), strict=True))
            for member, _ in page:
                if member not in seen_at_last_score:
                    yield member.decode()
            if len(page) < limit:
                return
            since = page[-1][1]
            seen_at_last_score = {member for member, score in page if score == since}

    async def scan_visits(self, account: str = "*") -> AsyncIterator[TaskId]:
        """Yield every id of all stored visits, some perhaps twice."""
        cursor, pattern = b"0", f"{keys.TASK}{TaskId.visit(account, '*')}"
        while True:
            cursor, page = await self.redis.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000, "TYPE", "hash")
            for key in page:
                yield TaskId(key.decode().removeprefix(keys.TASK))
            if cursor == b"0":
                return

    async def count_queued(self, task_ids: Sequence[str]) -> int:
        """Return how many of these tasks are queued."""
        scores = await self.redis.command("ZMSCORE", keys.QUEUED, *task_ids) if task_ids else []
        return sum(score is not None for score in scores)

    async def load_task(self, task_id: TaskId, alias_depth: int = 0) -> Task:
        """Raise NotFound."""
        [task] = await self._with_reasons_now([await self._load_stored(task_id, alias_depth)])
        return task

    async def load_aliases(self, task_id: TaskId) -> list[Task]:
        """Return the tasks of all ids of a visit, the primary first. Raises NotFound."""
        await self._load_stored(task_id)
        aliases = await self.redis.script(scripts.load_visit(task=task_id))
        return await self._with_reasons_now([_decode_task(*alias) for alias in aliases])

    async def _load_stored(self, task_id: TaskId, alias_depth: int = 0) -> Task:
        hash = await self.redis.command("HGETALL", f"{keys.TASK}{task_id}")
        if not hash:
            raise NotFound(task_id)
        return _decode_task(task_id.encode(), alias_depth, hash)

    async def _with_reasons_now(self, tasks: list[Task]) -> list[Task]:
        accounts = {task.account for task in tasks if task.state == "held"}
        if not accounts:
            return tasks
        reasons = await self.reasons_to_hold(accounts)
        return [
            task._replace(reason=reason_now(task.reason, reasons[task.account])) if task.state == "held" else task
            for task in tasks
        ]

    async def reasons_to_hold(self, accounts: Iterable[str]) -> dict[str, str]:
        """Return why no visit of each account runs now; empty if they may run.

        The reason that is stored with a held visit is older: it would take too long to replace it in 100,000 visits.
        """
        accounts = list(accounts)
        replies = await self.redis.pipeline(
            [
                command
                for account in accounts
                for command in (("HGET", f"{keys.CIRCUIT}{account}", "kind"), ("EXISTS", f"{keys.MOVE}{account}"))
            ]
        )
        return {
            account: "account_moves" if is_moving else CIRCUIT_REASONS.get((kind or b"").decode(), "")
            for account, kind, is_moving in zip(accounts, replies[::2], replies[1::2], strict=True)
        }

    async def task_ids(self, state: TaskState, limit: int = 1_000) -> list[str]:
        """Return the tasks in a state, oldest first."""
        names = await self.redis.command("ZRANGE", f"{keys.STATE}{state}", 0, limit - 1)
        return [name.decode() for name in names]


async def known_accounts(redis: Redis, configured: Iterable[str]) -> list[str]:
    """Return the configured accounts, and those that a worker ever had, or that had tasks or an open circuit.

    An account may be removed from the settings before its visits expire. Raises RedisUnavailable.
    """
    with_tasks, with_circuits = await asyncio.gather(
        redis.command("SMEMBERS", keys.ACCOUNTS), redis.command("SMEMBERS", keys.CIRCUITS)
    )
    return sorted({name.decode() for name in (*with_tasks, *with_circuits)}.union(configured))


async def add_counters(
    redis: Redis, key: str, counts: Mapping[str, int], ttl_s: int = 0, last_batch: str = "", batch: str = ""
) -> None:
    """Add to a hash of counters. ttl_s: 0 for no expiry. Raises RedisUnavailable.

    last_batch: the key that remembers the batch, so that it is not added again if its answer was lost; empty for none.
    """
    call = scripts.add_counters(counters=key, ttl_s=ttl_s, last_batch=last_batch, batch=batch, counts=counts.items())
    await redis.script(call)


async def long_gaps(redis: Redis, hook: str, newest: float, since: float, min_s: float) -> tuple[float, list[float]]:
    """Return the time of the oldest webhook after `since`, and each gap of at least min_s between there and `newest`.

    Times are in seconds since 1970; newest: of a webhook of the hook. Raises RedisUnavailable.
    """
    call = scripts.long_gaps(hook=hook, newest=newest * 1000, since=since * 1000, min_ms=min_s * 1000)
    oldest, *gaps = [float(ms) / 1000 for ms in await redis.script(call)]
    return oldest, gaps


async def check_one_shard(redis: Redis) -> None:
    """Raise ServerUnusable if a proxy hides several shards: then commands do not see all that a script has written."""
    # The second check is for a database that somebody empties during the first one.
    if not await _is_one_shard(redis) and not await _is_one_shard(redis):
        raise ServerUnusable(
            f"Redis at {redis.address} has several shards behind one address; Doorbell needs one shard, because its "
            "scripts use keys of all"
        )


async def _is_one_shard(redis: Redis) -> bool:
    check = new_token()  # several processes may start at once
    probes = [f"{keys.SHARD_PROBE}{check}:{number}" for number in range(20)]
    await redis.commands(*(("SET", probe, 1, "PX", 30_000) for probe in probes))
    return all(await redis.pipeline([("DEL", probe) for probe in probes]))


async def take_turn(redis: Redis, lock: str, ttl_s: float) -> bool:
    """Return True for one process per ttl_s: the lock is never released. Raises RedisUnavailable."""
    call = scripts.acquire_lock(expected_ms="", lock=lock, token=new_id(), ttl_ms=int(ttl_s * 1000), value="")
    is_acquired, _ = await redis.script(call)
    return bool(is_acquired)


def _is_record_of(delivery_id: str, record: bytes) -> bool:
    return is_id_of(delivery_id, DeliveryInfo.decode(record.partition(b"\n")[0]).received_at_ms)


#: The reply of accept.lua for an event that is stored, but no longer makes the same event a repeat.
_NO_REPEAT_ANY_MORE = 2


def _event_of(delivery: Delivery, dedup_id: str | None, occurrence: int) -> bytes:
    """Return what the repeats of an event have in common. occurrence: how many no longer count as repeats."""
    event = delivery.body if dedup_id is None else b"id:" + dedup_id.encode("utf-8", "surrogatepass")
    return b"%d\0%b" % (occurrence, event) if occurrence else event


def _encode_options(new: NewDelivery, registers_hook: bool) -> bytes:
    """Return the options of accept.lua: JSON, or nothing if none applies."""
    options: dict[str, Any] = {}
    if new.event_state:
        options["event"], options["reason"] = new.event_state, new.reason
    if new.refetch:
        options["refetch"] = True
    if new.dedup_ttl_s > DEDUP_TTL_S:
        options["dedup_ttl_s"] = new.dedup_ttl_s
    if registers_hook:
        options["register_hook"] = True
    return orjson.dumps(options) if options else b""


def pack_changes(source: str, account: str, changes: Sequence[VisitChange]) -> list[PackedChange]:
    packed = []
    for change in changes:
        task_id, previous = TaskId.visit(account, change.external_id(source)), ""
        if change.previous_visit_id:
            previous = TaskId.visit(account, external_id(source, change.previous_visit_id))
        facts = change.facts()
        encoded, start = encode_change(change, facts), visit_start(facts)
        packed.append(PackedChange(task_id, encoded, previous if previous != task_id else "", start))
    return packed


#: Limits time_until_visit_ms: a wrong date must not keep a contact forever.
MAX_TIME_UNTIL_VISIT_MS = 2 * 366 * 86_400_000


def time_until_visit_ms(lease: Lease, outcome: Outcome) -> int:
    """Return the time until the visit. Its task is stored longer by it: the visit may still be moved or cancelled."""
    remote = outcome.remote.get(lease.primary.task_id) or lease.primary.remote or {}
    try:
        ahead = datetime.fromisoformat(str(remote.get("event_date"))) - datetime.now(UTC)
    except (ValueError, TypeError):
        return 0
    return min(max(0, int(ahead.total_seconds() * 1000)), MAX_TIME_UNTIL_VISIT_MS)


def _member(task: Task, primary: Task, outcome: Outcome) -> Member:
    """Return an item for complete.lua. A visit is listed once, under its primary id."""
    member = Member(task.task_id, task.change_count, _encode_remote(task.task_id, outcome.remote))
    if outcome.start is None:
        return member
    start = outcome.start if task is primary else ""
    # The hash has no field for a time that `remote` has.
    stored = "-" if start == visit_start(outcome.remote.get(task.task_id, task.remote) or {}) else start or "-"
    if start == task.start:
        return member._replace(start=stored)
    return member._replace(start=stored, unlist=task.start, list=start)


def _restore_changes(token: str, tasks: Sequence[tuple[bytes, int, list[bytes]]]) -> Iterator[Call]:
    """Yield a script for each id of a visit. tasks: as lease.lua returns them."""
    for task_id, _, flat in tasks:
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        names = ("change:", "previous:", "next:", "linked")
        fields = [(name, value) for name, value in stored.items() if name.decode().startswith(names)]
        if fields:
            yield scripts.restore_changes(task=task_id, token=token, changes=stored.get(b"changes", 0), fields=fields)


def _encode_remote(task_id: TaskId, remote: dict[str, dict[str, Any] | None]) -> bytes:
    if task_id not in remote:
        return b""
    visit = remote[task_id]
    return b"-" if visit is None else encode_remote(visit)


def _decode_task(task_id: bytes, alias_depth: int, flat: list[bytes]) -> Task:
    """flat: names and values of the fields of the hash."""
    stored = join_values(flat)

    def with_prefix(prefix: bytes) -> dict[str, bytes]:
        return {name[len(prefix) :].decode(): value for name, value in stored.items() if name.startswith(prefix)}

    def number(name: bytes) -> int | None:
        return int(float(stored[name])) if name in stored else None

    remote = decode_remote(stored[b"remote"]) if b"remote" in stored else None
    attempts = sorted(with_prefix(b"attempt:").items(), key=lambda item: int(item[0]))
    return Task(
        task_id=TaskId(task_id.decode()),
        alias_depth=alias_depth,
        change_count=number(b"changes") or 0,
        applied_count=number(b"applied") or 0,
        state=stored.get(b"state", b"done").decode(),  # type: ignore[arg-type]
        changes=_decode_changes(with_prefix(b"change:")),
        discarded_changes=_decode_changes(with_prefix(b"discarded:")),
        attempts_by_number={number: Attempt.decode(attempt) for number, attempt in attempts},
        remote=remote,
        was_attempted=b"attempted" in stored or remote is not None,
        recheck_ids=stored[b"recheck"].decode().split() if b"recheck" in stored else None,
        replaces_changes=b"replaces_changes" in stored,
        compacted_count=number(b"compacted") or 0,
        failed_attempts=number(b"failed_attempts") or 0,
        pending_since_ms=number(b"pending_since"),
        failing_since_ms=number(b"failed_since"),
        retry_at_ms=number(b"retry_at"),
        reason=stored.get(b"reason", b"").decode(),
        targets=[TaskId(target) for target in stored.get(b"targets", b"").decode().split()],
        last_event_at_ms=number(b"last_event_at"),
        erased_at_ms=number(b"erased_at"),
        start=stored[b"start"].decode() if b"start" in stored else visit_start(remote or {}),
    )


def _decode_changes(stored: Mapping[str, bytes]) -> dict[str, StoredChange]:
    parts = ((origin, value.partition(b" ")) for origin, value in stored.items())
    return {origin: StoredChange(int(number), body) for origin, (number, _, body) in parts}
