"""Short forms of the ledger's steps."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.ledger.ledger import Ledger
from app.ledger.records import (
    AcceptResult,
    Attempt,
    DeliveryInfo,
    Lease,
    Outcome,
    Queue,
)
from app.ledger.redis import Redis
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery


def change(visit: str, previous_visit_id: str | None = None, version: int = 1, **said: Any) -> VisitChange:
    return VisitChange(action="update", visit_id=visit, version=version, previous_visit_id=previous_visit_id, **said)


def work(visit: str) -> str:
    return f"visit:main/standard-{visit}"


async def accept(
    ledger: Ledger, *changes: VisitChange, key: str | None = None, raw: bytes = b"", **how: Any
) -> AcceptResult:
    """A delivery of the `standard` source; a new one each time unless it has a key."""
    key = f"evt-{next(_numbers)}" if key is None else key
    delivery = Delivery(how.pop("hook", "standard"), "standard", (), raw or key.encode(), datetime.now(UTC))
    meta = DeliveryInfo(hook=delivery.hook, source="standard", received_at_ms=1_790_000_000_000)
    return await ledger.accept(delivery, meta, changes, "main", dedup_id=key, **how)


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


async def begin(ledger: Ledger, visit: str, gate: str = "") -> Lease:
    hold = await ledger.lease(work(visit), gate)
    assert isinstance(hold, Lease), hold
    return hold


async def work_off(ledger: Ledger, visit: str) -> Lease:
    hold = await begin(ledger, visit)
    await ledger.complete(hold, done())
    return hold


async def backdate(redis: Redis, state: str, *works: str) -> None:
    """As if a day had passed since: leases end, waits are over."""
    for name in works or [name.decode() for name in await redis.command("ZRANGE", f"bell:{state}", 0, -1)]:
        await redis.command("ZINCRBY", f"bell:{state}", -86_400_000, name)


async def state_of(ledger: Ledger, name: str) -> str:
    return (await ledger.load_task(name)).state


LANES: dict[Queue, str] = {
    "visits": "bell:queue:visits",
    "events": "bell:queue:events",
    "replays": "bell:queue:replays",
}


async def jobs(redis: Redis, *lanes: Queue) -> list[str]:
    """What the jobs in arq's queue are about, in order."""
    queued = [await redis.command("ZRANGE", LANES[lane], 0, -1) for lane in lanes or LANES]
    names = [job.decode() for each in queued for job in each]
    return [name.rpartition("#")[0] for name in names if await redis.command("EXISTS", f"arq:job:{name}")]


async def everything(redis: Redis) -> set[bytes]:
    return set(await redis.command("KEYS", "*"))


async def let_time_pass(redis: Redis, gate: str = "main") -> None:
    await redis.command("HSET", f"bell:circuit:{gate}", "until", 1)


async def now_ms(ledger: Ledger) -> int:
    return int((await ledger.server_time()).timestamp() * 1000)


def lanes(claimed: list[tuple[Queue, str, bytes]]) -> list[tuple[Queue, str]]:
    return [(lane, job.rpartition("#")[0]) for lane, job, _ in claimed]


Families = dict[str, tuple[str, dict[str, int]]]


async def families(ledger: Ledger, visits: Sequence[str]) -> Families:
    """Per id: the first id of its family, and the ids with how many came before each."""
    found = {}
    for visit in visits:
        members = await ledger.load_aliases(work(visit))
        ids = {member.task_id.removeprefix(work("")): member.alias_depth for member in members}
        found[visit] = (members[0].task_id.removeprefix(work("")), ids)
    return found


def forgetful(redis: Redis, keep_ms: int = 80) -> Ledger:
    """Forgets what is done soon."""
    ledger = Ledger(redis, retention_days=1)
    ledger._retention_ms = keep_ms
    return ledger
