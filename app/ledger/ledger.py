"""What happened: deliveries, changes, and what came of them. Every step is one script (ledger.lua), hence atomic.

What is kept per piece of work stands at the top of ledger.lua.
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from app.ledger.bodies import Bodies, BodyUndecryptable
from app.ledger.jobs_contract import event_task_id, visit_task_id
from app.ledger.records import (
    AcceptResult,
    Attempt,
    BodyUnavailable,
    DeliveryInfo,
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
    Queue,
    QueueOverride,
    RecordOutdated,
    RequestContext,
    Task,
    TaskState,
    VisitLimitReached,
)
from app.ledger.redis import HeldLease, Redis
from app.visits.change import VisitChange, encode_change, external_id, microseconds
from app.webhooks.delivery import Delivery

#: Whom the records of a booking listed. A booking may be made long ahead.
PEOPLE_TTL_MS = 2 * 366 * 86_400_000
#: A tool's retry of the same event is known for so long.
DEDUP_TTL_S = 8 * 86_400
#: The same where changes are ordered by their arrival: a recorded delivery that is sent again would count as the newest.
LONG_DEDUP_TTL_S = 400 * 86_400
#: A worker that dies gives its work up after so long; a job never takes as long (jobs.worker).
LEASE_S = 35.0
#: A new delivery whose job is lost gets another after so long.
ORPHAN_AFTER_S = 60.0
#: As long as the line for a call is no longer than this, more may join it.
MAX_RATE_BACKLOG_MS = 1_000


class Ledger:
    """The steps. Every method may raise RedisUnavailable."""

    def __init__(self, redis: Redis, retention_days: int, body_keys: Sequence[str] = ()) -> None:
        self.redis, self._retention_ms, self._bodies = redis, retention_days * 86_400_000, Bodies(body_keys)

    # -- at the door --

    async def accept(
        self,
        delivery: Delivery,
        info: DeliveryInfo,
        changes: Sequence[VisitChange],
        account: str,
        *,
        dedup_id: str | None,
        event_state: Literal["", "queued", "parked"] = "",
        reason: str = "",
        refetch: bool = False,
        dedup_ttl_s: int = DEDUP_TTL_S,
    ) -> AcceptResult:
        """Write a delivery, its changes and its job, unless it is a repeat: all of it, or nothing.

        repeat_key: what the tool calls the event; None: the digest of the body. event: whether the delivery itself is work
        (to fetch and translate), or is parked for the reason. again: a repeat is fetched anew. repeat_s:
        how long a repeat is known.

        Where a visit takes no more, the delivery is parked and its changes do not land: an operator may have it translated
        again.
        """
        id = new_delivery_id()
        landing = _pack_changes(info.source, account, changes)
        info.task_ids.extend([event_task_id(id)] if event_state else landing[::3])
        record = orjson.dumps(info) + b"\n" + self._bodies.encode(delivery.body, id)
        seen = _dedup_key(delivery, dedup_id)
        first = await self.redis.durable_script(
            "accept",
            id,
            info.hook,
            seen,
            dedup_ttl_s,
            self._retention_ms,
            record,
            event_state,
            reason,
            int(refetch),
            *landing,
        )
        if isinstance(first, list):
            bound, info.task_ids = first[0].decode(), []
            how: dict[str, Any] = {"dedup_id": dedup_id, "refetch": refetch, "dedup_ttl_s": dedup_ttl_s}
            written = await self.accept(delivery, info, (), account, event_state="parked", reason=bound, **how)
            return written._replace(limit_reached=bound)
        return AcceptResult(id, False) if first == 1 else AcceptResult(first.decode(), True)

    # -- for the worker --

    async def lease(self, task_id: str, account: str = "", is_rate_limited: bool = False) -> Lease | str:
        """The work and the lease on it, or why not: `busy`, `held`, `parked`, `nothing`. is_paced: while others of this
        account wait for their turn, so does this."""
        token, started = new_delivery_id(), time.monotonic()
        answer, *rest = await self.redis.script_after_grace(
            "begin", task_id, token, int(LEASE_S * 1000), account and f"db:gate:{account}", int(is_rate_limited)
        )
        if answer != b"yours":
            return str(answer.decode())
        trace, members = rest
        known_as = RequestContext(*(name.decode() for name in trace))
        hold = Lease(token, started + LEASE_S, [_decode_task(*member) for member in members], known_as)
        self.redis.held_leases[token] = HeldLease(
            hold.until, "resume", "renew", (token, *(member.task_id for member in hold.tasks))
        )
        return hold

    async def complete(self, lease: Lease, outcome: Outcome, account: str = "") -> None:
        """Give the work back with what came of it. Raises LeaseLost."""
        verdict = outcome.circuit_signal
        members = [
            part
            for member in lease.tasks
            for part in (member.task_id, member.change_count, _encode_remote(member.task_id, outcome.remote))
        ]
        answer = await self.redis.script(
            "release",
            lease.token,
            outcome.state,
            int(outcome.retry_in_s * 1000),
            outcome.reason,
            orjson.dumps(outcome.attempt) if outcome.attempt else "",
            self._retention_ms + time_until_visit_ms(lease, outcome),
            account and f"db:gate:{account}",
            verdict.kind if verdict else "",
            int(verdict.pause_s * 1000) if verdict else 0,
            verdict.threshold if verdict else 1,
            "" if outcome.failed_attempts is None else outcome.failed_attempts,
            *members,
        )
        self.redis.held_leases.pop(lease.token, None)
        if answer == b"lost":
            raise LeaseLost(lease.primary.task_id)

    async def add_people(
        self, account: str, external_id: str, fetched_at: datetime, people: Sequence[str]
    ) -> tuple[str, ...]:
        """Everybody whom any record of this booking listed, those first who were listed first. people: whom its record lists
        that was asked for at that time. Raises RecordOutdated."""
        name, order = f"{account}/{external_id}", microseconds(fetched_at)
        answer = await self.redis.script("people", name, order, PEOPLE_TTL_MS, *people)
        if answer == b"outdated":
            raise RecordOutdated
        return tuple(person.decode() for person in answer)

    async def compact(self, lease: Lease, task: Task, origins: Iterable[str]) -> None:
        """Forget what these said: it can never win again."""
        await self.redis.script("compact", task.task_id, lease.token, *origins)

    async def record_changes(
        self,
        lease: Lease,
        source: str,
        account: str,
        changes: Sequence[VisitChange],
        attempt: Attempt,
        parked_reason: str = "",
    ) -> None:
        """Write what an event turned out to mean, and settle it, or park it for this reason. Raises LeaseLost;
        VisitLimitReached, and then
        nothing is written."""
        delivery = lease.primary.task_id.partition(":")[2]
        landing = _pack_changes(source, account, changes)
        answer = await self.redis.script(
            "landed",
            delivery,
            lease.token,
            lease.primary.change_count,
            orjson.dumps(attempt),
            self._retention_ms,
            parked_reason,
            *landing,
        )
        if isinstance(answer, list):
            raise VisitLimitReached(answer[0].decode())
        self.redis.held_leases.pop(lease.token, None)
        if answer == b"lost":
            raise LeaseLost(lease.primary.task_id)

    async def requeue_due(self, limit: int = 200) -> int:
        """Put to work what has become due and what a dead worker left; how many."""
        return int(await self.redis.script_after_grace("sweep", limit, self._retention_ms))

    async def trim(self, key: str, retention_ms: int = 0, limit: int = 1_000) -> int:
        """Take out of a set that is sorted by time what is older, by default than what is settled is kept; how many."""
        return int(await self.redis.script("trim", key, retention_ms or self._retention_ms, limit))

    async def requeue_orphans(self, offset: int = 0, limit: int = 200) -> tuple[int, int]:
        """Give queued work whose job is gone another one: how many, and where to go on (-1: at the end)."""
        woken, after = await self.redis.script("orphans", limit, int(ORPHAN_AFTER_S * 1000), offset)
        return woken, after

    async def release_circuit(self, account: str, limit: int = 200, calls_per_second: float | None = None) -> int:
        """Let out what waits behind an account's gate, or one probe, if its time has come; how many. calls_a_second: the
        rate at which it may drain."""
        return int(await self.redis.script("gate", account, limit, calls_per_second or "", MAX_RATE_BACKLOG_MS))

    async def acquire_rate_slot(self, account: str, calls_per_second: float, max_wait_s: float) -> float:
        """Take a place in the line before a call; seconds to wait for it. Negative: longer than most_s, none taken."""
        return (
            float(await self.redis.script("pace", f"db:pace:{account}", calls_per_second, int(max_wait_s * 1000)))
            / 1000
        )

    async def acquire_lock(self, name: str, token: str, lease_s: float) -> bool:
        """Take a lock that ends by itself, or keep it longer; False while somebody else has it."""
        until = time.monotonic() + lease_s
        if not await self.redis.script_after_grace("lock", int(lease_s * 1000), name, token):
            return False
        self.redis.held_leases[token] = HeldLease(until, "lock", "lock", (name, token))
        return True

    async def release_lock(self, name: str, token: str) -> None:
        self.redis.held_leases.pop(token, None)
        await self.redis.script("unlock", name, token)

    async def server_time(self) -> datetime:
        """The server's clock: one for all processes."""
        seconds, micros = await self.redis.command("TIME")
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))

    async def claim(
        self, free_slots: Mapping[Queue, int], lease_s: float, full_accounts: Sequence[str] = ()
    ) -> list[tuple[Queue, str, bytes]]:
        """arq's jobs that this worker has room for, those due longest first, with their payloads (empty: it expired).

        full: `<lane>:<account>` for which there is no room; others overtake them.
        """
        lanes = [part for lane, most in free_slots.items() if most for part in (lane, most)]
        flat = (
            await self.redis.script_after_grace("claim", int(lease_s * 1000), " ".join(full_accounts), *lanes)
            if lanes
            else []
        )
        return [(flat[i].decode(), flat[i + 1].decode(), flat[i + 2]) for i in range(0, len(flat), 3)]

    async def ack(self, job_id: str, queue: Queue = "visit") -> None:
        """The job is done with, whatever came of it: what is still to be done stands in the ledger."""
        await self.redis.script("ran", job_id, queue)

    async def set_with_ttl(self, key: str, value: str | bytes, ttl_ms: int) -> None:
        """Write beside the ledger, for so long, also where Redis is full."""
        await self.redis.commands(("SET", key, value, "PX", ttl_ms))

    async def heartbeat(self, key: str, value: bytes, ttl_ms: int) -> None:
        """A worker's sign of life, which counts for so long; also where Redis is full."""
        await self.redis.script("beat", key, value, ttl_ms)

    # -- for operators --

    async def replay(
        self, task_id: str, recheck: bool = False, *, duplicate_ids: Iterable[int] = (), queue: QueueOverride = ""
    ) -> str:
        """Put it back to work: `queued` or `running`. Raises NotFound.

        fresh: ask the API what stands there first. beside: its own numbers of visits that stand beside the right one
        under the same external_id; they go. lane: `replay` lets live work go first.
        """
        answer = await self.redis.script("replay", task_id, int(recheck), " ".join(map(str, duplicate_ids)), queue)
        if answer == b"gone":
            raise NotFound(task_id)
        return str(answer.decode())

    async def retranslate(self, delivery_id: str, queue: QueueOverride = "") -> str:
        """Have a delivery translated anew; what comes of it takes the place of what it said. Raises NotFound, also where its
        body was removed."""
        answer = b"moved"
        while answer == b"moved":
            head = await self._head(delivery_id)
            meta, event = DeliveryInfo(**orjson.loads(head)), event_task_id(delivery_id)
            if meta.erased_at_ms:
                raise NotFound(delivery_id)
            told = (
                ("", "")
                if meta.task_ids == [event]
                else (orjson.dumps(replace(meta, task_ids=[event])), " ".join(meta.task_ids))
            )
            answer = await self.redis.script("rederive", delivery_id, head, *told, queue)
        if answer == b"gone":
            raise NotFound(delivery_id)
        return str(answer.decode())

    async def discard(self, task_id: str, delivery_id: str = "", expected_changes: int | None = None) -> int:
        """Give up what has not been applied, of one delivery or of all: how many changes, of an event 1; -1 while a worker
        has it, -2 where something landed since. landed: how many changes its members had when somebody looked."""
        seen = "" if expected_changes is None else expected_changes
        return int(await self.redis.script("discard", task_id, self._retention_ms, delivery_id, seen))

    async def pause(self, account: str, is_paused: bool = True) -> bool:
        """Shut the account's gate until it is resumed: what is to be sent is held, and nothing is counted as a try. Whether
        that changed anything."""
        return bool(await self.redis.script("pause", account, int(is_paused)))

    async def hook_names(self) -> list[str]:
        """Where anybody ever rang, also those that are not in the settings any more."""
        return sorted(hook.decode() for hook in await self.redis.command("SMEMBERS", "db:hooks"))

    async def delete_circuit(self, account: str) -> None:
        """Nobody has a token for it any more: what it held comes out, and is parked for that."""
        await self.redis.command("DEL", f"db:gate:{account}")

    async def assign_contact(self, task_id: str, change: VisitChange) -> None:
        """Land an operator's own change; it is a fact like any other."""
        id = new_delivery_id()
        await self.redis.script("operate", id, task_id, encode_change(change), "")

    async def redact(
        self, task_id: str, expected_changes: int | None, record: bytes, fields: Mapping[str, bytes]
    ) -> str:
        """Overwrite what speaks of a person: `ok`, `busy` while a worker has it, `moved` where something landed since it was
        read. n: that was seen; None: there was no such work. record: of an event, its delivery as it is to stand."""
        flat = [part for pair in fields.items() for part in pair]
        return str(
            (
                await self.redis.script(
                    "forget", task_id, "" if expected_changes is None else expected_changes, record, *flat
                )
            ).decode()
        )

    async def load_delivery(self, delivery_id: str) -> tuple[DeliveryInfo, bytes]:
        """A delivery as it was kept, and its body. Raises NotFound, BodyUnavailable."""
        record = await self.redis.command("GET", f"db:delivery:{delivery_id}")
        if record is None:
            raise NotFound(delivery_id)
        return self.decode_delivery(delivery_id, record)

    def decode_delivery(self, delivery_id: str, record: bytes) -> tuple[DeliveryInfo, bytes]:
        """Raises BodyUnavailable."""
        head, _, body = record.partition(b"\n")
        meta = DeliveryInfo(**orjson.loads(head))
        if meta.erased_at_ms:
            raise BodyUnavailable(meta, "body_erased", f"its body was removed at {meta.erased_at}")
        try:
            return meta, self._bodies.decode(body, delivery_id)
        except BodyUndecryptable as error:
            raise BodyUnavailable(meta, "body_key_unknown", str(error)) from None

    async def load_delivery_info(self, delivery_id: str) -> DeliveryInfo:
        """A delivery without its body. Raises NotFound."""
        return DeliveryInfo(**orjson.loads(await self._head(delivery_id)))

    async def _head(self, delivery_id: str) -> bytes:
        head, newline, _ = (await self.redis.command("GETRANGE", f"db:delivery:{delivery_id}", 0, 4_095)).partition(
            b"\n"
        )
        if not newline:
            head, newline, _ = (await self.redis.command("GET", f"db:delivery:{delivery_id}") or b"").partition(b"\n")
        if not newline:
            raise NotFound(delivery_id)
        return bytes(head)

    async def scan_by_time(
        self, name: str, since: float = float("-inf"), until: float = float("inf")
    ) -> AsyncIterator[str]:
        """The names in `db:<name>`, a set that is sorted by time in ms, page by page, while others leave and join it."""
        known: set[bytes] = set()  # of the last time that was seen: several may share it
        while True:
            most = 500 + len(known)
            asked = ("ZRANGEBYSCORE", f"db:{name}", since, until, "WITHSCORES", "LIMIT", 0, most)
            flat = await self.redis.command(*asked)
            page = list(zip(flat[::2], map(float, flat[1::2]), strict=True))
            for found, _ in page:
                if found not in known:
                    yield found.decode()
            if len(page) < most:
                return
            last = page[-1][1]
            known = {found for found, at in page if at == last}
            since = last

    async def count_queued(self, task_ids: Sequence[str]) -> int:
        """How many of these are still queued."""
        scores = await self.redis.command("ZMSCORE", "db:queued", *task_ids) if task_ids else []
        return sum(score is not None for score in scores)

    async def newest_delivery_ids(self, hooks: Iterable[str], limit: int) -> list[str]:
        """The newest ids over all these hooks, newest first."""
        found = [await self.redis.command("ZREVRANGE", f"db:deliveries:{hook}", 0, limit - 1) for hook in hooks]
        return sorted((id.decode() for ids in found for id in ids), reverse=True)[:limit]

    async def load_task(self, task_id: str, alias_depth: int = 0) -> Task:
        """A piece of work as it stands. Raises NotFound."""
        hash = await self.redis.command("HGETALL", f"db:{task_id}")
        if not hash:
            raise NotFound(task_id)
        return _decode_task(task_id.encode(), alias_depth, hash)

    async def load_aliases(self, task_id: str) -> list[Task]:
        """All ids of a visit, the first one first. Raises NotFound."""
        await self.load_task(task_id)
        return [_decode_task(*member) for member in await self.redis.script("look", task_id)]

    async def task_ids(self, state: TaskState, limit: int = 1_000) -> list[str]:
        """The names of the work in that state, oldest first."""
        names = await self.redis.command("ZRANGE", f"db:{state}", 0, limit - 1)
        return [name.decode() for name in names]


async def known_accounts(redis: Redis, configured: Iterable[str]) -> list[str]:
    """The accounts of the settings, and those that had work held or parked, or whose way to the API was shut: an account may
    leave the settings before its work is done. Raises RedisUnavailable."""
    left, gates = await asyncio.gather(redis.command("SMEMBERS", "db:accounts"), redis.command("SMEMBERS", "db:gates"))
    names = {name.decode().removeprefix("db:gate:") for name in (*left, *gates)}
    return sorted(names.union(configured))


def new_delivery_id() -> str:
    """A name that sorts by time: milliseconds, then 40 bits of chance."""
    return f"d{(time.time_ns() // 1_000_000 << 40) + random.getrandbits(40):021x}"


def delivery_time_ms(delivery_id: str) -> int:
    """When a delivery was given its name."""
    return int(delivery_id[1:12], 16)


def _dedup_key(delivery: Delivery, dedup_id: str | None) -> str:
    named = delivery.body if dedup_id is None else b"id:" + dedup_id.encode("utf-8", "surrogatepass")
    digest = base64.urlsafe_b64encode(hashlib.sha256(named).digest()[:16]).rstrip(b"=").decode()
    return f"db:seen:{delivery.hook}:{digest}"


def _pack_changes(source: str, account: str, changes: Sequence[VisitChange]) -> list[Any]:
    """Changes as the script takes them, by threes: work, change, the work that it continues."""

    parts = []
    for change in changes:
        work = visit_task_id(account, change.external_id(source))
        before = visit_task_id(account, external_id(source, change.continues)) if change.continues else ""
        parts += [work, encode_change(change), before if before != work else ""]
    return parts


#: A visit further ahead than this is kept no longer for it: a wrong date must not keep a contact for ever.
MAX_TIME_UNTIL_VISIT_MS = 2 * 366 * 86_400_000


def time_until_visit_ms(lease: Lease, outcome: Outcome) -> int:
    """How far ahead the visit lies: what is known of it is kept so much longer, since it may still be moved or cancelled."""
    stands = outcome.remote.get(lease.primary.task_id) or lease.primary.remote or {}
    try:
        ahead = datetime.fromisoformat(str(stands.get("event_date"))) - datetime.now(UTC)
    except (ValueError, TypeError):
        return 0
    return min(max(0, int(ahead.total_seconds() * 1000)), MAX_TIME_UNTIL_VISIT_MS)


def _encode_remote(work: str, api: dict[str, dict[str, Any] | None]) -> bytes:
    if work not in api:
        return b""
    answer = api[work]
    return b"-" if answer is None else orjson.dumps(answer)


def _decode_task(work: bytes, generation: int, flat: list[bytes]) -> Task:
    stored = dict(zip(flat[::2], flat[1::2], strict=True))

    def below(prefix: bytes) -> dict[str, bytes]:
        return {name[len(prefix) :].decode(): value for name, value in stored.items() if name.startswith(prefix)}

    def number(name: bytes) -> int | None:
        return int(float(stored[name])) if name in stored else None

    attempts = sorted(below(b"a:").items(), key=lambda item: int(item[0]))
    return Task(
        task_id=work.decode(),
        alias_depth=generation,
        change_count=number(b"n") or 0,
        applied_count=number(b"done") or 0,
        state=stored.get(b"state", b"settled").decode(),  # type: ignore[arg-type]
        changes=below(b"c:"),
        discarded_changes=below(b"x:"),
        attempts_by_number={number: Attempt(**orjson.loads(attempt)) for number, attempt in attempts},
        remote=orjson.loads(stored[b"api"]) if b"api" in stored else None,
        was_attempted=b"tried" in stored,
        recheck_ids=stored[b"ask"].decode().split() if b"ask" in stored else None,
        replaces_changes=b"replaces" in stored,
        compacted_count=number(b"dropped") or 0,
        failed_attempts=number(b"tries") or 0,
        pending_since_ms=number(b"since"),
        failing_since_ms=number(b"failed_since"),
        retry_at_ms=number(b"due"),
        reason=stored.get(b"reason", b"").decode(),
        targets=stored.get(b"landed", b"").decode().split(),
        last_event_at_ms=number(b"rang"),
        erased_at_ms=number(b"forgot"),
    )
