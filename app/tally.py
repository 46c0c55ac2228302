"""What is counted for people to look at: in memory, and flushed now and then, so that no delivery costs a round trip.

    db:hour:<hour>      counts of that hour since 1970, by `<hook>:<outcome>`; it goes after a week
    db:matched:<hook>   when each secret last matched, in ms, by its fingerprint; a year after the last of them
    db:requests:<hour>  X-Request-ID to delivery, kept as long as deliveries are

A process that is killed loses the last few seconds of it, and nothing that anybody relies on.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import hiredis

from app.connection import Redis, RedisDown

log = logging.getLogger("doorbell.tally")

FLUSH_EVERY_S = 3.0
HOUR_S = 3_600
KEPT_S = 8 * 86_400
#: A hook at which nobody rang for so long has forgotten its secrets.
MATCHED_S = 366 * 86_400
#: While Redis is away, no more request ids than this wait in memory.
MOST_REQUESTS = 10_000


class Tally:
    def __init__(self, keep_days: int = 0, secrets: Mapping[str, Sequence[str]] | None = None) -> None:
        """keep_days: of request ids. secrets: of each hook, for their fingerprints."""
        self._keep_s, self._secrets = keep_days * 86_400, secrets or {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._matched: dict[tuple[str, int], int] = {}
        self._requests: dict[str, str] = {}

    def count(self, hook: str, outcome: str) -> None:
        self._counts[hook, outcome] += 1

    def let_in(self, hook: str, outcome: str, slot: int, at: int, request_id: str, delivery: str) -> None:
        """A delivery whose signature held. slot: which secret matched."""
        self._counts[hook, outcome] += 1
        self._matched[hook, slot] = at
        if request_id and len(self._requests) < MOST_REQUESTS:
            self._requests[request_id] = delivery

    async def flush(self, redis: Redis) -> None:
        """What cannot be written stays."""
        hour = this_hour()
        counts, self._counts = self._counts, Counter()
        matched, self._matched = self._matched, {}
        requests, self._requests = self._requests, {}
        try:
            asked = [redis.command("HINCRBY", f"db:hour:{hour}", f"{h}:{o}", count) for (h, o), count in counts.items()]
            if counts:
                asked.append(redis.command("EXPIRE", f"db:hour:{hour}", KEPT_S))
            for (hook, slot), at in matched.items():
                secret = fingerprint(self._secrets[hook][slot])
                asked.append(redis.command("HSET", f"db:matched:{hook}", secret, at))
                asked.append(redis.command("EXPIRE", f"db:matched:{hook}", MATCHED_S))
            if requests:
                pairs = [part for pair in requests.items() for part in pair]
                asked.append(redis.command("HSET", f"db:requests:{hour}", *pairs))
                asked.append(redis.command("EXPIRE", f"db:requests:{hour}", self._keep_s))
            await asyncio.gather(*asked)
        except (RedisDown, hiredis.ReplyError) as error:
            self._counts.update(counts)
            self._matched = matched | self._matched
            self._requests = requests | self._requests
            log.warning("counts not written", extra={"reason": type(error).__name__})

    async def keep_flushing(self, redis: Redis) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            if self._counts:
                await self.flush(redis)


async def hours(redis: Redis, last: int) -> list[tuple[int, Counter[tuple[str, str]]]]:
    """The last hours with their counts by hook and outcome, oldest first. Raises RedisDown."""
    names = range(this_hour() - last + 1, this_hour() + 1)
    hashes = await asyncio.gather(*(redis.command("HGETALL", f"db:hour:{hour}") for hour in names))
    return [(hour, _read(flat)) for hour, flat in zip(names, hashes, strict=True)]


async def delivery_of(redis: Redis, request_id: str, keep_days: int) -> str | None:
    """The delivery that arrived under that X-Request-ID. Raises RedisDown."""
    names = range(this_hour() - keep_days * 24, this_hour() + 1)
    found = await asyncio.gather(*(redis.command("HGET", f"db:requests:{hour}", request_id) for hour in names))
    return next((id.decode() for id in reversed(found) if id), None)


async def matched(redis: Redis, hook: str, secrets: Sequence[str]) -> dict[str, int | None]:
    """When each secret last matched, in ms, by its fingerprint; None: never, as far as is known. Raises RedisDown."""
    flat = await redis.command("HGETALL", f"db:matched:{hook}")
    known = {print.decode(): int(at) for print, at in zip(flat[::2], flat[1::2], strict=True)}
    return {print: known.get(print) for print in map(fingerprint, secrets)}


def this_hour() -> int:
    return int(time.time() // HOUR_S)


def fingerprint(secret: str) -> str:
    """Enough to tell one secret from another, too little to guess it by."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def _read(flat: list[bytes]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for name, count in zip(flat[::2], flat[1::2], strict=True):
        hook, _, outcome = name.decode().rpartition(":")
        counts[hook, outcome] = int(count)
    return counts
