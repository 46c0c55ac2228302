"""The state of the system in Redis: age of the oldest due task, progress, live workers, open circuits, writes."""

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.ledger import keys
from app.ledger.ledger import known_accounts
from app.ledger.redis import Redis, RedisReadOnly
from app.ledger.times import iso_timestamp
from app.settings.model import Settings

#: Limits for alerts: the age of the oldest due task, and the time without a finished task while one is due.
STALE_AFTER_S = 120.0
STALLED_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """How late the tasks are.

    ages_s: by state, how long the oldest task is overdue: since it was queued, since its lease ended (running), since
    the time of its next attempt (waiting), since its circuit opened or its account began to move (held). no_progress_s: how
    long tasks were due and no task finished; tasks of a moving account are not due, and tasks behind an open circuit not
    until its next probe is.
    """

    ages_s: dict[str, float]
    no_progress_s: float

    @property
    def oldest_s(self) -> float:
        """Return the greatest age, excluding held tasks, which wait for the Visits API."""
        return max(age_s for state, age_s in self.ages_s.items() if state != "held")

    @property
    def is_stalled(self) -> bool:
        return self.no_progress_s > STALLED_AFTER_S


async def load_backlog(redis: Redis, accounts: Iterable[str]) -> Backlog:
    """Read the backlog. Raises RedisUnavailable."""
    seconds, micros = await redis.command("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000

    async def overdue_s(key: str) -> float:
        oldest = await redis.command("ZRANGE", key, 0, 0, "WITHSCORES")
        return max(0.0, now_ms - float(oldest[1])) / 1000 if oldest else 0.0

    ages_s = {state: await overdue_s(f"{keys.STATE}{state}") for state in ("queued", "running", "waiting")}
    held_s, releasable_s = 0.0, 0.0
    for account in await known_accounts(redis, accounts):
        # Held tasks are ordered by the time of their visit, so their scores are not ages.
        if first := await redis.command("ZRANGE", f"{keys.HELD}{account}", 0, 0):
            opened_at, probe_at = await redis.command("HMGET", f"{keys.CIRCUIT}{account}", "since", "until")
            began_to_move_at = await redis.command("HGET", f"{keys.MOVE}{account}", "begun_at")
            pending_since = await redis.command("HGET", f"{keys.TASK}{first[0].decode()}", "pending_since")
            held_s = max(held_s, (now_ms - int(opened_at or began_to_move_at or pending_since or now_ms)) / 1000)
            due_at = now_ms if began_to_move_at else probe_at or pending_since or now_ms
            releasable_s = max(releasable_s, (now_ms - float(due_at)) / 1000)
    last_done = await redis.command("GET", keys.LAST_DONE)
    since_done_s = max(0.0, now_ms - int(last_done)) / 1000 if last_done else float("inf")
    # The minimum: after hours without a task, the last one ended long ago, but the new task is not late yet.
    no_progress_s = min(since_done_s, max(*ages_s.values(), releasable_s))
    return Backlog(ages_s | {"held": held_s}, no_progress_s)


#: Workers send a heartbeat every ten seconds.
WORKER_ALIVE_S = 30.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """The open circuit of an account. hooks: those of the account. held: the number of tasks that wait until it closes."""

    account: str
    hooks: list[str]
    reason: str
    since: str
    held: int

    @property
    def is_paused(self) -> bool:
        return self.reason == "paused"


@dataclass(frozen=True, slots=True)
class Worker:
    """configuration: what its settings can do, for a move to its cell (app/operators/account_moves.py)."""

    host: str
    pid: int
    heartbeat_at_ms: float
    started_at_ms: float | None
    configuration: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "pid": self.pid,
            "seen": iso_timestamp(self.heartbeat_at_ms),
            "since": iso_timestamp(self.started_at_ms),
        }


CIRCUIT_REASONS = {
    "down": "does not answer",
    "unauthorized": "rejects the token",
    "rate_limited": "limits the rate of calls",
}


def host_name() -> str:
    """Return the name of this machine in heartbeats: Heroku's name of the dyno, such as worker.1, else the host's."""
    return os.environ.get("DYNO") or socket.gethostname()


async def live_workers(redis: Redis) -> list[Worker]:
    """Return the workers with a heartbeat within WORKER_ALIVE_S."""
    earliest_ms = (int((await redis.command("TIME"))[0]) - WORKER_ALIVE_S) * 1000  # heartbeats have the server's time
    flat = await redis.command("ZRANGEBYSCORE", keys.WORKERS, earliest_ms, "+inf", "WITHSCORES")
    values = await redis.pipeline([("GET", key) for key in flat[::2]])
    beats = zip(values, flat[1::2], strict=True)
    return [_worker(orjson.loads(value), float(at_ms)) for value, at_ms in beats if value]


def _worker(value: Mapping[str, Any], heartbeat_at_ms: float) -> Worker:
    return Worker(
        str(value.get("host", "")),
        int(value.get("pid", 0)),
        heartbeat_at_ms,
        value.get("since"),
        value.get("configuration", {}),
    )


async def write_problem(redis: Redis) -> str:
    """Return why Redis accepts no writes; empty if it does, or is only full. Raises RedisUnavailable."""
    try:
        await redis.commands(("SET", keys.WRITE_MARK, ""))
    except RedisReadOnly as error:
        return str(error)
    return ""


async def open_circuits(redis: Redis, settings: Settings) -> list[Circuit]:
    accounts = await known_accounts(redis, settings.tokens or {"main": ""})
    circuits = await asyncio.gather(
        *(redis.command("HMGET", f"{keys.CIRCUIT}{account}", "kind", "since") for account in accounts)
    )
    sizes = await asyncio.gather(*(redis.command("ZCARD", f"{keys.HELD}{account}") for account in accounts))
    return [
        Circuit(account, settings.hooks_for(account), kind.decode(), iso_timestamp(int(float(since))) or "", size)
        for account, (kind, since), size in zip(accounts, circuits, sizes, strict=True)
        if kind and since
    ]
