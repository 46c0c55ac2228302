"""Is accepted work left lying? How old the oldest is that could be done now, and since when nothing came to an end."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from app.ledger import keys
from app.ledger.ledger import known_accounts
from app.ledger.redis import Redis
from app.ledger.times import iso_timestamp
from app.settings.model import Settings

#: An alert begins when a runnable task is older than this, or no task ended for this long while one is runnable.
STALE_AFTER_S = 120.0
STALLED_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Seconds.

    ages_s: by state, how long the oldest is overdue: queued since then, running past its lease, waiting past its next
    try, held since its gate was shut. no_progress_s: for how long work was due and none came to an end; what is held
    behind a shut gate is not due, since then it is the API's turn.
    """

    ages_s: dict[str, float]
    no_progress_s: float

    @property
    def oldest_s(self) -> float:
        """Without what is held, which is as old as the trouble of the API."""
        return max(age_s for state, age_s in self.ages_s.items() if state != "held")

    @property
    def is_stalled(self) -> bool:
        return self.no_progress_s > STALLED_AFTER_S


async def load_backlog(redis: Redis, accounts: Iterable[str]) -> Backlog:
    """Raises RedisUnavailable."""
    seconds, micros = await redis.command("TIME")
    now_ms = int(seconds) * 1000 + int(micros) // 1000

    async def overdue_s(key: str) -> float:
        oldest = await redis.command("ZRANGE", key, 0, 0, "WITHSCORES")
        return max(0.0, now_ms - float(oldest[1])) / 1000 if oldest else 0.0

    ages_s = {state: await overdue_s(f"{keys.STATE}{state}") for state in ("queued", "running", "waiting")}
    held_s, let_out_s = 0.0, 0.0
    for account in await known_accounts(redis, accounts):
        # Who is held stands in the order of the visits' times, which tells no age.
        if first := await redis.command("ZRANGE", f"{keys.HELD}{account}", 0, 0):
            shut = await redis.command("HGET", f"{keys.CIRCUIT}{account}", "since")
            since = shut or await redis.command("HGET", f"{keys.TASK}{first[0].decode()}", "pending_since") or now_ms
            age_s = max(0.0, (now_ms - int(since)) / 1000)
            held_s, let_out_s = max(held_s, age_s), max(let_out_s, 0.0 if shut else age_s)
    progress = await redis.command("GET", keys.LAST_DONE)
    quiet_s = max(0.0, now_ms - int(progress)) / 1000 if progress else float("inf")
    # After a quiet night the first visit is not late at once: what is due has to have been due for as long.
    no_progress_s = min(quiet_s, max(*ages_s.values(), let_out_s))
    return Backlog(ages_s | {"held": held_s}, no_progress_s)


#: Workers beat every ten seconds.
WORKER_ALIVE_S = 30.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """The way of an account to the Visits API is shut."""

    account: str
    reason: str
    since: str
    held: int

    @property
    def is_paused(self) -> bool:
        return self.reason == "paused"


@dataclass(frozen=True, slots=True)
class Worker:
    host: str
    pid: int
    seen: float
    since: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"seen": iso_timestamp(self.seen), "since": iso_timestamp(self.since)}


CIRCUIT_REASONS = {
    "down": "does not answer",
    "unauthorized": "refuses our token",
    "rate_limited": "asked us to slow down",
}


async def live_workers(redis: Redis) -> list[Worker]:
    """The workers that gave a sign of life."""
    least = (int((await redis.command("TIME"))[0]) - WORKER_ALIVE_S) * 1000  # the beats are by the server's clock
    flat = await redis.command("ZRANGEBYSCORE", keys.WORKERS, least, "+inf", "WITHSCORES")
    told = await redis.command("MGET", *flat[::2]) if flat else []
    return [_worker(orjson.loads(one), float(seen)) for one, seen in zip(told, flat[1::2], strict=True) if one]


def _worker(told: Mapping[str, Any], seen: float) -> Worker:
    return Worker(str(told.get("host", "")), int(told.get("pid", 0)), seen, told.get("since"))


async def last_delivery_times(redis: Redis, settings: Settings) -> dict[str, float | None]:
    """When each hook last had a delivery, in ms."""
    names = list(settings.active_hooks)
    asked = (redis.command("ZREVRANGE", f"{keys.DELIVERIES}{name}", 0, 0, "WITHSCORES") for name in names)
    return {name: float(end[1]) if end else None for name, end in zip(names, await asyncio.gather(*asked), strict=True)}


async def open_circuits(redis: Redis, settings: Settings) -> list[Circuit]:
    accounts = await known_accounts(redis, settings.tokens or {"main": ""})
    told = await asyncio.gather(*(redis.command("HMGET", f"{keys.CIRCUIT}{one}", "kind", "since") for one in accounts))
    sizes = await asyncio.gather(*(redis.command("ZCARD", f"{keys.HELD}{one}") for one in accounts))
    return [
        Circuit(account, why.decode(), iso_timestamp(int(float(since))) or "", size)
        for account, (why, since), size in zip(accounts, told, sizes, strict=True)
        if why and since
    ]
