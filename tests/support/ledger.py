"""Short forms of the ledger's steps."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.ledger.ids import delivery_id_of, delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import AcceptResult, Attempt, DeliveryInfo, Lease, NewDelivery, Outcome, Queue
from app.ledger.redis import Redis
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery


def change(visit: str, previous_visit_id: str | None = None, version: int = 1, **fields: Any) -> VisitChange:
    return VisitChange(action="update", visit_id=visit, version=version, previous_visit_id=previous_visit_id, **fields)


def visit_task(visit: str) -> str:
    return f"visit:main/standard-{visit}"


async def newest_delivery_ids(ledger: Ledger, hook: str) -> list[str]:
    return [id.decode() for id in await ledger.redis.command("ZREVRANGE", f"bell:deliveries:{hook}", 0, -1)]


async def accept(
    ledger: Ledger, *changes: VisitChange, key: str | None = None, raw: bytes = b"", **options: Any
) -> AcceptResult:
    """Accept a delivery of the `standard` source. key: its deduplication id, unique by default. at_ms: when it arrived."""
    key = f"evt-{next(_numbers)}" if key is None else key
    delivery = Delivery(options.pop("hook", "standard"), "standard", (), raw or key.encode(), datetime.now(UTC))
    at_ms = options.pop("at_ms", 0) or int(time.time() * 1000)
    meta = DeliveryInfo(hook=delivery.hook, source="standard", received_at_ms=at_ms)
    return await ledger.accept(
        NewDelivery(delivery, meta, changes, options.pop("account", "main"), dedup_id=key, **options)
    )


_numbers = itertools.count()


def attempt(outcome: str = "updated", at: int = 1) -> Attempt:
    return Attempt(started_at_ms=at, took_ms=1, outcome=outcome)


def done(**more: Any) -> Outcome:
    return Outcome(state="done", attempt=attempt(), **more)


def waiting(retry_in_s: float = 60, failed_attempts: int | None = 1, **more: Any) -> Outcome:
    return Outcome(
        state="waiting",
        attempt=attempt("unanswered"),
        reason="timeout",
        retry_in_s=retry_in_s,
        failed_attempts=failed_attempts,
        **more,
    )


def parked(reason: str = "422", **more: Any) -> Outcome:
    return Outcome(state="parked", attempt=attempt("refused"), reason=reason, failed_attempts=1, **more)


async def start_run(ledger: Ledger, visit: str, account: str = "") -> Lease:
    lease = await ledger.lease(visit_task(visit), account)
    assert isinstance(lease, Lease), lease
    return lease


async def complete_run(ledger: Ledger, visit: str) -> Lease:
    lease = await start_run(ledger, visit)
    await ledger.complete(lease, done())
    return lease


async def backdate(redis: Redis, state: str, *task_ids: str) -> None:
    """Move the tasks' times back by a day, so that leases end and waits are over. task_ids: all of the state by default."""
    for name in task_ids or [name.decode() for name in await redis.command("ZRANGE", f"bell:state:{state}", 0, -1)]:
        await redis.command("ZINCRBY", f"bell:state:{state}", -86_400_000, name)


async def state_of(ledger: Ledger, name: str) -> str:
    return (await ledger.load_task(name)).state


QUEUE_KEYS: dict[Queue, str] = {
    "visits": "bell:queue:visits",
    "events": "bell:queue:events",
    "replays": "bell:queue:replays",
}


async def jobs(redis: Redis, *queues: Queue) -> list[str]:
    """Return the task ids of the jobs in the queues, in order."""
    queued = [await redis.command("ZRANGE", QUEUE_KEYS[queue], 0, -1) for queue in queues or QUEUE_KEYS]
    return [job.decode().rpartition("#")[0] for each in queued for job in each]


async def all_keys(redis: Redis) -> set[bytes]:
    return set(await redis.command("KEYS", "*"))


async def end_circuit_pause(redis: Redis, account: str = "main") -> None:
    await redis.command("HSET", f"bell:circuit:{account}", "until", 1, "limited_until", 1)


async def now_ms(ledger: Ledger) -> int:
    return int((await ledger.server_time()).timestamp() * 1000)


def claimed_tasks(claimed: list[tuple[Queue, str, bytes]]) -> list[tuple[Queue, str]]:
    return [(queue, job.rpartition("#")[0]) for queue, job, _ in claimed]


AliasesByVisit = dict[str, tuple[str, dict[str, int]]]


async def aliases_by_visit(ledger: Ledger, visits: Sequence[str]) -> AliasesByVisit:
    """Return for each id its primary, and its aliases with their depth."""
    aliases = {}
    for visit in visits:
        members = await ledger.load_aliases(visit_task(visit))
        ids = {member.task_id.removeprefix(visit_task("")): member.alias_depth for member in members}
        aliases[visit] = (members[0].task_id.removeprefix(visit_task("")), ids)
    return aliases


def short_retention_ledger(redis: Redis, retention_ms: int = 80) -> Ledger:
    """Return a ledger that deletes done tasks after retention_ms."""
    ledger = Ledger(redis, retention_days=1)
    ledger._retention_ms = retention_ms
    return ledger


async def move_arrival(redis: Redis, delivery: str, arrived_at_ms: int) -> str:
    """Let a stored delivery have arrived at another time. Return its new id."""
    record = await redis.command("GET", delivery_key(delivery))
    head, _, body = record.partition(b"\n")
    info = replace(DeliveryInfo.decode(head), received_at_ms=arrived_at_ms)
    await redis.command("SET", delivery_key(delivery), info.encode() + b"\n" + body, "KEEPTTL")
    return delivery_id_of(delivery_key(delivery), arrived_at_ms)
