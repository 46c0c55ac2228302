"""Fetches records from a tool's API, once for several events of one record.

A record that was fetched after an event arrived serves that event too. So while one run fetches, the others wait for its
result. Of ten events of one record, the first fetch serves those that arrived before it began; a second fetch serves all
later ones.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

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
CACHE_TTL_MS = 30_000
LOCK_TTL_S, LOCK_WAIT_S = 25.0, 8.0


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

    async def find(self, request: RecordRequest) -> FetchedRecord:
        """Return the record, from the cache or from the tool.

        Raises VisitsApiError, NeedsOperator, TooManyFetches, LockContended, RedisUnavailable.
        """
        counts, hook = self.context.fetches_by_hook, self.hook.name
        if self.context.running_jobs.is_full(counts[hook]):
            raise TooManyFetches
        slots = self.context.fetch_slots.setdefault(hook, FetchSlots(MAX_CONCURRENT_FETCHES))
        counts[hook] += 1
        try:
            async with slots.hold(LOCK_WAIT_S, TooManyFetches):
                return await self._fetch_once(request)
        finally:
            counts[hook] -= 1

    async def _fetch_once(self, request: RecordRequest) -> FetchedRecord:
        key = f"{keys.RECORD}{self.hook.name}:{_request_digest(request)}"
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
                keep_ms=CACHE_TTL_MS,
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
        api = ToolApi(self.context, self.hook, self.calls)
        fetched_at = await self.context.ledger.server_time()
        try:
            record = await api.find(request)
            follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
            related = {name: await api.find(follow_up) for name, follow_up in follow_ups.items()}
        except CredentialsMissing as missing:
            raise NeedsOperator(f"credentials_missing: {missing}") from None
        return FetchedRecord(record, related, fetched_at)


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
        request.path,
        request.endpoint,
        request.query,
        dict(request.variables),
        dict(request.params),
        request.json,
        request.form,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
