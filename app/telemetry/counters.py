"""What is counted for people to look at: in memory, and flushed now and then, so that no delivery costs a round trip.

    db:hour:<hour>      counts of that hour since 1970, by `<hook>:<outcome>`; it goes after a week
    db:matched:<hook>   when each secret last matched, in ms, by its fingerprint; a year after the last of them
    db:request:<digest> an X-Request-ID's delivery, kept as long as deliveries are
    db:counts           counts since ever for /metrics, by `<signal>|<label>|…`, of a histogram also `|<bucket>` or `|us`

A process that is killed loses the last few seconds of it, and nothing that anybody relies on.
"""

import asyncio
import hashlib
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

import hiredis

from app.ledger.redis import Redis, RedisDown
from app.telemetry.logs import log
from app.telemetry.metric_names import MATCHES, QUICK, REQUEST_S, REQUESTS, SIGNALS
from app.webhooks.signatures.scheme import fingerprint

FLUSH_EVERY_S = 3.0
HOUR_S = 3_600
KEPT_S = 8 * 86_400
#: A hook at which nobody rang for so long has forgotten its secrets.
MATCHED_S = 366 * 86_400
COUNTS = "db:counts"
#: While Redis is away, no more request ids than this wait in memory; so many are written at once.
MOST_REQUESTS, REQUESTS_AT_ONCE = 10_000, 500


class Tally:
    def __init__(
        self, keep_days: int = 0, secrets: Mapping[str, Sequence[str]] | None = None, keys: Sequence[str] = ()
    ) -> None:
        """keep_days: of request ids. secrets: of each hook, for their fingerprints. keys: SECRET_KEY."""
        self._keep_s, self._secrets, self._keys = keep_days * 86_400, secrets or {}, keys
        self._counts: Counter[tuple[str, str]] = Counter()
        self._matched: dict[tuple[str, int], int] = {}
        self._requests: dict[str, str] = {}
        self._totals: Counter[tuple[str | int, ...]] = Counter()
        self._answers: Counter[tuple[str, str, int, int]] = Counter()
        self._answering_us: Counter[str] = Counter()

    def add(self, signal: str, *labels: str) -> None:
        self._totals[signal, *labels] += 1

    def observe(self, signal: str, seconds: float, *labels: str) -> None:
        """For a histogram."""
        self._totals[signal, *labels, bisect_left(SIGNALS[signal].buckets, seconds)] += 1
        self._totals[signal, *labels, "us"] += int(seconds * 1e6)

    def answered(self, source: str, outcome: str, slot: int, seconds: float) -> None:
        """The door's: one count in memory, which becomes three at the flush. slot: the secret that matched, from 1; 0:
        none did."""
        self._answers[source, outcome, slot, bisect_left(QUICK, seconds)] += 1
        self._answering_us[source] += int(seconds * 1e6)

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
        self._spread_answers()
        hour = this_hour()
        counts, self._counts = self._counts, Counter()
        totals, self._totals = self._totals, Counter()
        matched, self._matched = self._matched, {}
        requests, self._requests = self._requests, {}
        by_hour = {f"{hook}:{outcome}": count for (hook, outcome), count in counts.items()}
        since_ever = {"|".join(map(str, name)): count for name, count in totals.items()}
        wrote = await asyncio.gather(
            _count(redis, f"db:hour:{hour}", by_hour, KEPT_S),
            _count(redis, COUNTS, since_ever),
            self._note(redis, matched, requests),
            return_exceptions=True,
        )
        if wrote[0]:
            self._counts.update(counts)
        if wrote[1]:
            self._totals.update(totals)
        if wrote[2]:
            self._matched = matched | self._matched
            self._requests = requests | self._requests
        for error in filter(None, wrote):
            if not isinstance(error, RedisDown | hiredis.ReplyError):
                raise error
            log.warning("counts not written", reason=type(error).__name__)

    def _spread_answers(self) -> None:
        answers, self._answers = self._answers, Counter()
        spent, self._answering_us = self._answering_us, Counter()
        for (source, outcome, slot, bucket), count in answers.items():
            self._totals[REQUESTS, source, outcome] += count
            self._totals[REQUEST_S, source, bucket] += count
            if slot:
                self._totals[MATCHES, source, slot] += count
        for source, us in spent.items():
            self._totals[REQUEST_S, source, "us"] += us

    async def _note(self, redis: Redis, matched: Mapping[tuple[str, int], int], requests: Mapping[str, str]) -> None:
        asked = [
            redis.command("HSET", f"db:matched:{hook}", fingerprint(self._secrets[hook][slot], self._keys), at)
            for (hook, slot), at in matched.items()
        ]
        asked += [redis.command("EXPIRE", f"db:matched:{hook}", MATCHED_S) for hook, _ in matched]
        await asyncio.gather(*asked)
        known = list(requests.items()) if self._keep_s else []
        for at in range(0, len(known), REQUESTS_AT_ONCE):
            page = known[at : at + REQUESTS_AT_ONCE]
            await asyncio.gather(*(redis.command("SET", request_key(id), one, "EX", self._keep_s) for id, one in page))

    async def keep_flushing(self, redis: Redis) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush(redis)


async def _count(redis: Redis, key: str, counts: Mapping[str, int], kept_s: int = 0) -> None:
    """All of them or none, so that none is counted twice when the next flush tries again."""
    if counts:
        await redis.script("tally", key, kept_s, *(part for pair in counts.items() for part in pair))


async def note(redis: Redis, signal: str, *labels: str) -> None:
    """At once: for what happens now and then. Raises RedisDown."""
    await _count(redis, COUNTS, {"|".join((signal, *labels)): 1})


async def totals(redis: Redis) -> dict[str, int]:
    """Counts since ever. Raises RedisDown."""
    flat = await redis.command("HGETALL", COUNTS)
    return {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}


async def hours(redis: Redis, last: int) -> list[tuple[int, Counter[tuple[str, str]]]]:
    """The last hours with their counts by hook and outcome, oldest first. Raises RedisDown."""
    names = range(this_hour() - last + 1, this_hour() + 1)
    hashes = await asyncio.gather(*(redis.command("HGETALL", f"db:hour:{hour}") for hour in names))
    return [(hour, _read(flat)) for hour, flat in zip(names, hashes, strict=True)]


async def delivery_of(redis: Redis, request_id: str) -> str | None:
    """The delivery that arrived under that X-Request-ID, the newest one. Raises RedisDown."""
    id = await redis.command("GET", request_key(request_id))
    return id.decode() if id else None


def request_key(id: str) -> str:
    return f"db:request:{hashlib.sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


async def matched(redis: Redis, hook: str, secrets: Sequence[str], keys: Sequence[str]) -> dict[str, int | None]:
    """When each secret last matched, in ms, by its fingerprint; None: never, as far as is known. Raises RedisDown."""
    flat = await redis.command("HGETALL", f"db:matched:{hook}")
    known = {print.decode(): int(at) for print, at in zip(flat[::2], flat[1::2], strict=True)}
    return {print: known.get(print) for print in (fingerprint(secret, keys) for secret in secrets)}


def this_hour() -> int:
    return int(time.time() // HOUR_S)


def _read(flat: list[bytes]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for name, count in zip(flat[::2], flat[1::2], strict=True):
        hook, _, outcome = name.decode().rpartition(":")
        counts[hook, outcome] = int(count)
    return counts
