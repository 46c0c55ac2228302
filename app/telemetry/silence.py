"""Whether a hook is silent: for much longer than between its recent deliveries."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

from app.ledger import keys
from app.ledger.ids import is_listed
from app.ledger.redis import Redis
from app.settings.model import Settings
from app.telemetry.alert_rules import MIN_GAP_S, SILENCE_FACTOR

#: The number of gaps between recent deliveries to read, and the number that a hook needs before it can be silent.
MAX_GAPS, MIN_GAPS = 200, 10


async def delivery_times(redis: Redis, hook: str) -> list[float]:
    """Return the times of the last webhooks in seconds since 1970, newest first. Raises RedisUnavailable.

    Doorbell's own deliveries, from a tool's list, say nothing about its webhooks.
    """
    flat = await redis.command("ZREVRANGE", f"{keys.DELIVERIES}{hook}", 0, MAX_GAPS, "WITHSCORES")
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [float(score) / 1000 for id, score in pairs if not is_listed(id.decode())]


def is_silent(times: Sequence[float]) -> bool:
    """Return whether a hook with these deliveries is silent. times: as `delivery_times` returns them."""
    gaps = [later - earlier for later, earlier in pairwise(times)]
    return len(gaps) >= MIN_GAPS and time.time() - times[0] >= SILENCE_FACTOR * max(MIN_GAP_S, *gaps)


async def silent_hooks(redis: Redis, hooks: Iterable[str]) -> set[str]:
    names = list(hooks)
    times = await asyncio.gather(*(delivery_times(redis, name) for name in names))
    return {name for name, own_times in zip(names, times, strict=True) if is_silent(own_times)}


async def last_delivery_times(redis: Redis, settings: Settings) -> dict[str, float | None]:
    """Return the time of each hook's last delivery, in ms."""
    hooks = list(settings.active_hooks)
    times = await asyncio.gather(*(delivery_times(redis, hook) for hook in hooks))
    return {hook: newest[0] * 1000 if newest else None for hook, newest in zip(hooks, times, strict=True)}
