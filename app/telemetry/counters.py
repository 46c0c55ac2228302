"""Counts in memory for metrics and the console, and flushes them to Redis periodically: no delivery costs a round trip.

    bell:hourly:<hour>            counts of one hour (since 1970), by `<hook>:<outcome>`; expires after eight days
    bell:secret-used:<hook>       when each secret last matched, in ms, by its fingerprint; expires a year after that
    bell:index:requests:…         the deliveries of X-Request-IDs, by their digests; expires after the deliveries
    bell:counted:<process>:…      the last batch of counts that a process added
    bell:metrics                  totals for /metrics, by `<metric>|<label>|…`; histograms add `|<bucket>` or `|us`

A process that is killed loses the last few seconds of these counts. No decision depends on them.
"""

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import hiredis

from app.ledger import buckets, keys
from app.ledger.ids import new_id, new_token
from app.ledger.ledger import add_counters
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log
from app.telemetry.metric_names import METRICS, REQUEST_BUCKETS_S, REQUEST_DURATION_S, REQUESTS, SECRET_MATCHES
from app.webhooks.signatures.scheme import fingerprint

FLUSH_EVERY_S = 3.0
HOUR_S = 3_600
HOURLY_TTL_S = 8 * 86_400
#: How long the last use of a secret is stored.
SECRET_USED_TTL_S = 366 * 86_400
#: The limits for request ids that wait in memory while Redis is down, and for those that one command writes.
MAX_PENDING_REQUEST_IDS, REQUEST_ID_BATCH = 10_000, 500


class Batch(NamedTuple):
    """Counts for a hash. They are sent again under the same id until Redis answers: it may have added them before."""

    key: str
    counts: Mapping[str, int]
    ttl_s: int
    id: str


class Counters:
    def __init__(self, retention_days: int = 0, secret_keys: Sequence[str] = ()) -> None:
        """retention_days: how long request ids stay. secret_keys: SECRET_KEY, for fingerprints."""
        self._request_id_ttl_s, self._secret_keys = retention_days * 86_400, secret_keys
        self._hourly: Counter[tuple[str, str]] = Counter()
        self._secrets_used: dict[tuple[str, str], int] = {}
        self._request_ids: dict[str, str] = {}
        self._totals: Counter[tuple[str | int, ...]] = Counter()
        self._requests: Counter[tuple[str, str, int, int]] = Counter()
        self._request_us: Counter[str] = Counter()
        self._process = new_token()
        self._unanswered: dict[str, Batch] = {}

    def increment(self, metric: str, *labels: str) -> None:
        self._totals[metric, *labels] += 1

    def observe(self, metric: str, seconds: float, *labels: str) -> None:
        """Add a value to a histogram."""
        self._totals[metric, *labels, bisect_left(METRICS[metric].buckets, seconds)] += 1
        self._totals[metric, *labels, "us"] += int(seconds * 1e6)

    def record_request(self, source: str, outcome: str, secret_number: int, seconds: float) -> None:
        """Count a webhook request once; the flush expands it to three metrics.

        secret_number: the secret that matched, from 1; 0 for none.
        """
        self._requests[source, outcome, secret_number, bisect_left(REQUEST_BUCKETS_S, seconds)] += 1
        self._request_us[source] += int(seconds * 1e6)

    def count_for_hour(self, hook: str, outcome: str) -> None:
        self._hourly[hook, outcome] += 1

    def record_delivery(
        self, hook: str, outcome: str, secret: str, received_at_ms: int, request_id: str, delivery: str
    ) -> None:
        """Record a delivery with a valid signature. secret: the one that matched."""
        self._hourly[hook, outcome] += 1
        self._secrets_used[hook, secret] = received_at_ms
        if request_id and len(self._request_ids) < MAX_PENDING_REQUEST_IDS:
            self._request_ids[request_id] = delivery

    async def flush(self, redis: Redis) -> None:
        """Write the counts to Redis. Counts that cannot be written stay for the next flush."""
        self._expand_requests()
        matched, self._secrets_used = self._secrets_used, {}
        requests, self._request_ids = self._request_ids, {}
        errors = await asyncio.gather(
            self._add_counts(redis, "hourly", self._take_hourly),
            self._add_counts(redis, "totals", self._take_totals),
            self._write_last_used(redis, matched, requests),
            return_exceptions=True,
        )
        if errors[2]:
            self._secrets_used = matched | self._secrets_used
            self._request_ids = requests | self._request_ids
        for error in filter(None, errors):
            if not isinstance(error, RedisUnavailable | hiredis.ReplyError):
                raise error
            log.warning("metrics_flush_failed", part="counters", reason=type(error).__name__)

    async def _add_counts(self, redis: Redis, name: str, take: Callable[[], Batch]) -> None:
        """Add the batch that was not answered, if there is one, then the newest counts."""
        if name in self._unanswered:
            await self._send(redis, name)
        self._unanswered[name] = take()
        await self._send(redis, name)

    async def _send(self, redis: Redis, name: str) -> None:
        batch = self._unanswered[name]
        if batch.counts:
            last_batch = f"{keys.COUNTED}{self._process}:{name}"
            await add_counters(redis, batch.key, batch.counts, batch.ttl_s, last_batch, batch.id)
        del self._unanswered[name]

    def _take_hourly(self) -> Batch:
        counts, self._hourly = self._hourly, Counter()
        by_hour = {f"{hook}:{outcome}": count for (hook, outcome), count in counts.items()}
        return Batch(f"{keys.HOURLY}{current_hour()}", by_hour, HOURLY_TTL_S, new_id())

    def _take_totals(self) -> Batch:
        counts, self._totals = self._totals, Counter()
        by_field = {"|".join(map(str, name)): count for name, count in counts.items()}
        return Batch(keys.METRICS, by_field, 0, new_id())

    def _expand_requests(self) -> None:
        requests, self._requests = self._requests, Counter()
        durations_us, self._request_us = self._request_us, Counter()
        for (source, outcome, secret_number, bucket), count in requests.items():
            self._totals[REQUESTS, source, outcome] += count
            self._totals[REQUEST_DURATION_S, source, bucket] += count
            if secret_number:
                self._totals[SECRET_MATCHES, source, secret_number] += count
        for source, us in durations_us.items():
            self._totals[REQUEST_DURATION_S, source, "us"] += us

    async def _write_last_used(
        self, redis: Redis, matched: Mapping[tuple[str, str], int], requests: Mapping[str, str]
    ) -> None:
        for (hook, secret), at_ms in matched.items():
            key = f"{keys.SECRET_USED}{hook}"
            await redis.commands(
                ("HSET", key, fingerprint(secret, self._secret_keys), at_ms), ("EXPIRE", key, SECRET_USED_TTL_S)
            )
        request_ids = list(requests.items()) if self._request_id_ttl_s else []
        for start in range(0, len(request_ids), REQUEST_ID_BATCH):
            batch = request_ids[start : start + REQUEST_ID_BATCH]
            entries = [(buckets.digest_of(id), delivery) for id, delivery in batch]
            await buckets.add(redis, buckets.REQUESTS, entries, self._request_id_ttl_s * 1_000)

    async def run(self, redis: Redis) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush(redis)


async def increment_now(redis: Redis, metric: str, *labels: str) -> None:
    """Count a rare event directly in Redis. Raises RedisUnavailable."""
    await add_counters(redis, keys.METRICS, {"|".join((metric, *labels)): 1})


async def totals(redis: Redis) -> dict[str, int]:
    """Return the totals of all metrics. Raises RedisUnavailable."""
    flat = await redis.command("HGETALL", keys.METRICS)
    return {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}


async def hourly_counts(redis: Redis, count: int) -> list[tuple[int, Counter[tuple[str, str]]]]:
    """Return the last hours with their counts by hook and outcome, oldest first. Raises RedisUnavailable."""
    names = range(current_hour() - count + 1, current_hour() + 1)
    hashes = await asyncio.gather(*(redis.command("HGETALL", f"{keys.HOURLY}{hour}") for hour in names))
    return [(hour, _decode_hour(flat)) for hour, flat in zip(names, hashes, strict=True)]


async def delivery_of_request(redis: Redis, request_id: str) -> str | None:
    """Return the newest delivery with this X-Request-ID. Raises RedisUnavailable."""
    [ids] = await buckets.find(redis, buckets.REQUESTS, [buckets.digest_of(request_id)], limit=1)
    return ids[0] if ids else None


async def secret_last_used(
    redis: Redis, hook: str, secrets: Sequence[str], secret_keys: Sequence[str]
) -> dict[str, int | None]:
    """Return when each secret last matched, in ms, by its fingerprint; None if no match is stored.

    Raises RedisUnavailable.
    """
    flat = await redis.command("HGETALL", f"{keys.SECRET_USED}{hook}")
    last_used = {digest.decode(): int(at) for digest, at in zip(flat[::2], flat[1::2], strict=True)}
    return {digest: last_used.get(digest) for digest in (fingerprint(secret, secret_keys) for secret in secrets)}


def current_hour() -> int:
    return int(time.time() // HOUR_S)


def _decode_hour(flat: list[bytes]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for name, count in zip(flat[::2], flat[1::2], strict=True):
        hook, _, outcome = name.decode().rpartition(":")
        counts[hook, outcome] = int(count)
    return counts
