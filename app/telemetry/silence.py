"""Whether a hook is silent: for much longer than between its recent deliveries."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

from app.ledger import keys
from app.ledger.redis import Redis
from app.telemetry.alert_rules import MIN_GAP_S, SILENCE_FACTOR

#: The number of gaps between recent deliveries to read, and the number that a hook needs before it can be silent.
MAX_GAPS, MIN_GAPS = 200, 10


async def delivery_times(redis: Redis, hook: str) -> list[float]:
    """Return the times of the last deliveries in seconds since 1970, newest first. Raises RedisUnavailable."""
    flat = await redis.command("ZREVRANGE", f"{keys.DELIVERIES}{hook}", 0, MAX_GAPS, "WITHSCORES")
    return [float(score) / 1000 for score in flat[1::2]]


def is_silent(times: Sequence[float]) -> bool:
    """Return whether a hook with these deliveries is silent. times: as `delivery_times` returns them."""
    gaps = [later - earlier for later, earlier in pairwise(times)]
    return len(gaps) >= MIN_GAPS and time.time() - times[0] >= SILENCE_FACTOR * max(MIN_GAP_S, *gaps)


async def silent_hooks(redis: Redis, hooks: Iterable[str]) -> set[str]:
    names = list(hooks)
    times = await asyncio.gather(*(delivery_times(redis, name) for name in names))
    return {name for name, own_times in zip(names, times, strict=True) if is_silent(own_times)}
