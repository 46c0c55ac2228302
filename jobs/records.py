"""Fetches records from a tool's API, once for several events of one record.

A record that was fetched after an event arrived serves that event too. So while one run fetches, the others wait for its
result. Of ten events of one record, the first fetch serves those that arrived before it began; a second fetch serves all
later ones.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
import zstandard

from app.connections.tool_api import CredentialsMissing, ToolApi
from app.ledger import keys
from app.ledger.locks import LockContended, single_flight
from app.settings.model import Hook
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from jobs.concurrency import FetchSlots
from jobs.context import Context
from jobs.errors import NeedsOperator, TooManyFetches

#: The limit per hook and worker. Fetches that take longer than SLOT_TIMEOUT_S are not counted.
MAX_CONCURRENT_FETCHES = 32
#: The limit per event: a tool may limit the rate.
MAX_PARALLEL_CALLS = 4
#: How long a record serves other events; and the same event, if it needs several records, and perhaps several runs.
CACHE_TTL_MS, CACHE_OF_SEVERAL_TTL_MS = 30_000, 600_000
LOCK_TTL_S, LOCK_WAIT_S = 25.0, 8.0


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FetchedRecord:
    """A record with its related records, by the names in the follow-up requests.

    fetched_at: when the fetch began, by Redis' clock.
    """

    record: Any
    related: Mapping[str, Any]
    fetched_at: datetime

    @property
    def is_complete(self) -> bool:
        """Whether every requested record exists."""
        return self.record is not None and None not in self.related.values()


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one event.

    event_received_ms: when the event last arrived; a record that was fetched earlier is too old. calls: see TaskRun.
    """

    context: Context
    hook: Hook
    event_received_ms: int
    calls: list[list[object]]
    cache_ttl_ms: int = CACHE_TTL_MS
    call_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_PARALLEL_CALLS))

    async def find_all(self, requests: Sequence[RecordRequest]) -> list[FetchedRecord]:
        """Return the records, from the cache or from the tool.

        Raises VisitsApiError, NeedsOperator, TooManyFetches, LockContended, RedisUnavailable.
        """
        records = self if len(requests) < 2 else replace(self, cache_ttl_ms=CACHE_OF_SEVERAL_TTL_MS)
        counts, hook = self.context.fetching_jobs_by_hook, self.hook.name
        if self.context.running_jobs.is_full(counts[hook]):
            raise TooManyFetches
        counts[hook] += 1
        try:
            return await _gather(records._find, requests)
        finally:
            counts[hook] -= 1

    async def forget(self, request: RecordRequest) -> None:
        """Remove a record from the cache. Raises RedisUnavailable."""
        await self.context.ledger.redis.command("DEL", self._key(request))

    def _key(self, request: RecordRequest) -> str:
        return f"{keys.RECORD}{self.hook.name}:{_request_digest(request)}"

    async def _find(self, request: RecordRequest) -> FetchedRecord:
        slots = self.context.fetch_slots.setdefault(self.hook.name, FetchSlots(MAX_CONCURRENT_FETCHES))
        async with slots.hold(LOCK_WAIT_S, TooManyFetches):
            return await self._fetch_once(request)

    async def _fetch_once(self, request: RecordRequest) -> FetchedRecord:
        key = self._key(request)
        async with self.context.locks.hold(key, LOCK_WAIT_S, LockContended):
            if cached := self._decode(await self.context.ledger.redis.command("GET", key)):
                return cached
            return await single_flight(
                self.context.ledger,
                key,
                ttl_s=LOCK_TTL_S,
                wait_s=LOCK_WAIT_S,
                decode=self._decode,
                produce=lambda: self._fetch(request),
                encode=_encode,
                keep_ms=self.cache_ttl_ms,
            )

    def _decode(self, cached: bytes | None) -> FetchedRecord | None:
        """Return the record if another run fetched it after this event arrived."""
        started_us, _, compressed = (cached or b"0 ").partition(b" ")
        if int(started_us) < (self.event_received_ms + 1) * 1000:  # in the same millisecond it may have been earlier
            return None
        record, related = orjson.loads(zstandard.decompress(compressed))
        seconds, microseconds = divmod(int(started_us), 1_000_000)
        fetched_at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
        return FetchedRecord(record, related, fetched_at)

    async def _fetch(self, request: RecordRequest) -> FetchedRecord:
        fetched_at = await self.context.ledger.server_time()
        try:
            record = await self._call(request)
            follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
            related = await _gather(self._call, follow_ups.values())
        except CredentialsMissing as missing:
            raise NeedsOperator(f"credentials_missing: {missing}") from None
        return FetchedRecord(record, dict(zip(follow_ups, related, strict=True)), fetched_at)

    async def _call(self, request: RecordRequest) -> Any:
        async with self.call_slots:
            return await ToolApi(self.context, self.hook, self.calls).find(request)


async def _gather(step: Callable[[RecordRequest], Awaitable[T]], requests: Collection[RecordRequest]) -> list[T]:
    """Return the result of the step for each request, a few of which run at once. The first error ends all."""
    if len(requests) < 2:
        return [await step(request) for request in requests]
    slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)

    async def run(request: RecordRequest) -> T:
        async with slots:
            return await step(request)

    tasks = [asyncio.create_task(run(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _encode(fetched: FetchedRecord) -> bytes | None:
    """Return what `_decode` reads; None for a record that is not cached."""
    if not fetched.is_complete:
        return None
    started_us = int(fetched.fetched_at.timestamp()) * 1_000_000 + fetched.fetched_at.microsecond
    try:
        return b"%d " % started_us + zstandard.compress(orjson.dumps([fetched.record, fetched.related]), 1)
    except orjson.JSONEncodeError:  # orjson cannot write all JSON that it reads
        return None


def _request_digest(request: RecordRequest) -> str:
    parts = [
        request.api.url if request.api else None,
        request.method,
        dict(request.headers),
        request.path,
        request.endpoint,
        request.query,
        dict(request.variables),
        dict(request.params),
        request.json,
        request.form,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
