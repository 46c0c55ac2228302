"""Fetches records from a tool's API, once for several events of one record.

A record that was fetched after an event arrived serves that event too. So while one run fetches, the others wait for its
result. Of ten events of one record, the first fetch serves those that arrived before it began; a second fetch serves all
later ones.
"""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import random
from typing import Any

import httpx
import orjson
import zstandard

from app.ledger import keys
from app.ledger.leases import LockContended, single_flight
from app.ledger.redis import RedisUnavailable
from app.settings.model import Hook
from app.visits.client import (
    ClientError,
    RateLimited,
    ServerError,
    Unauthorized,
    VisitsApiError,
    error_for,
    send_request,
)
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from jobs.concurrency import FetchSlots
from jobs.context import Context
from jobs.errors import NeedsOperator, TooManyFetches
from jobs.retry import RATE_LIMIT_WAIT_S
from jobs.tokens import Tokens

#: The limit per hook and worker. Fetches that take longer than SLOT_TIMEOUT_S are not counted.
MAX_CONCURRENT_FETCHES = 32
CACHE_TTL_MS = 30_000
LOCK_TTL_S, LOCK_WAIT_S = 25.0, 8.0
#: The longest pause of a hook after a 429: the limit may apply to one kind of record only.
MAX_PAUSE_S = 300.0
#: The maximum random delay after a pause, which spreads the events that waited for its end.
PAUSE_JITTER_S = 5.0


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
            return await single_flight(
                self.context.ledger,
                f"{key}:lock",
                ttl_s=LOCK_TTL_S,
                wait_s=LOCK_WAIT_S,
                read=lambda: self._cached(key),
                produce=lambda: self._fetch(request, key),
            )

    async def _cached(self, key: str) -> FetchedRecord | None:
        """Return the record if another run fetched it after this event arrived."""
        cached = await self.context.ledger.redis.command("GET", key)
        started_us, _, compressed = (cached or b"0 ").partition(b" ")
        if int(started_us) < (self.event_received_ms + 1) * 1000:  # in the same millisecond it may have been earlier
            return None
        record, related = orjson.loads(zstandard.decompress(compressed))
        seconds, microseconds = divmod(int(started_us), 1_000_000)
        fetched_at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
        return FetchedRecord(record, related, fetched_at)

    async def _fetch(self, request: RecordRequest, key: str) -> FetchedRecord:
        await self._check_pause(request)
        fetched_at = await self.context.ledger.server_time()
        try:
            record = await self._fetch_one(request)
            follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
            related = {name: await self._fetch_one(follow_up) for name, follow_up in follow_ups.items()}
        except RateLimited as limited:
            await self._pause_hook(limited)
            raise
        fetched = FetchedRecord(record, related, fetched_at)
        if fetched.is_complete:
            started_us = int(fetched_at.timestamp()) * 1_000_000 + fetched_at.microsecond
            # If this fails, the next event fetches the record itself. orjson cannot write all JSON that it reads.
            with suppress(RedisUnavailable, orjson.JSONEncodeError):
                value = b"%d " % started_us + zstandard.compress(orjson.dumps([record, related]), 1)
                await self.context.ledger.set_with_ttl(key, value, CACHE_TTL_MS)
        return fetched

    @property
    def _pause_key(self) -> str:
        return f"{keys.RETRY_AFTER}{self.hook.name}"

    async def _check_pause(self, request: RecordRequest) -> None:
        """Raise RateLimited during the pause after a 429, because a tool's rate limit applies to the whole hook."""
        remaining_ms = int(await self.context.ledger.redis.command("PTTL", self._pause_key))
        if remaining_ms > 0:
            wait_s = remaining_ms / 1000 + PAUSE_JITTER_S * random()
            summary = "not sent: another request of this hook received this response"
            raise RateLimited(request.label, 429, summary, wait_s)

    async def _pause_hook(self, limited: RateLimited) -> None:
        wait_s = RATE_LIMIT_WAIT_S if limited.wait_s is None else limited.wait_s
        if pause_ms := int(min(wait_s, MAX_PAUSE_S) * 1000):
            with suppress(RedisUnavailable):
                await self.context.ledger.set_with_ttl(self._pause_key, b"1", pause_ms)

    async def _fetch_one(self, request: RecordRequest) -> Any:
        """Return the record; None if it does not exist. A token that is rejected with 401 is renewed once."""
        source, credentials = self.hook.source.definition, self.hook.settings.credentials
        if missing := source.missing_credentials(credentials):
            names = ", ".join(f"HOOKS__{self.hook.name.upper()}__CREDENTIALS__{name}" for name in missing)
            raise NeedsOperator(f"credentials_missing: {names}")
        if source.token_exchange is None or "TOKEN" in credentials:
            return await self._call(request, credentials)
        tokens = Tokens(self.context, self.hook, source.token_exchange, self.calls)
        token = await tokens.current()
        try:
            return await self._call(request, {**credentials, "TOKEN": token})
        except Unauthorized as error:
            if error.status == 403 or (renewed := await tokens.current(rejected=token)) == token:
                raise
            return await self._call(request, {**credentials, "TOKEN": renewed})

    async def _call(self, request: RecordRequest, credentials: Mapping[str, str]) -> Any:
        source = self.hook.source.definition
        assert source.credentials
        auth = source.credentials.authenticate(credentials, time.time(), request)
        if auth.json is not None:
            request = replace(request, json=auth.json)
        base = (self.hook.settings.api_url or source.api_url or "").rstrip("/")
        method, url, content = _request(request, base)
        headers = {"accept": "application/json", **source.api_headers, **auth.headers}
        params = {**request.params, **auth.params} or None
        response = await send_request(
            self.context.http,
            method,
            url,
            request.label,
            self.calls,
            headers=headers,
            oversized_error=ClientError,
            params=params,
            **content,
        )
        try:
            return read_record(request.label, response)
        except RateLimited as limited:
            raise _until_reset(limited, response, source.rate_limit_reset_header) from None


def _request(request: RecordRequest, base: str) -> tuple[str, str, dict[str, Any]]:
    """Return method, URL, and body as an argument of httpx."""
    if request.query:
        return "POST", base, {"json": {"query": request.query, "variables": dict(request.variables)}}
    url = f"{base}/{request.path if request.endpoint is None else request.endpoint}".rstrip("/")
    if request.json is not None:
        return "POST", url, {"json": dict(request.json)}
    if request.form is not None:
        return "POST", url, {"data": dict(request.form)}
    return "GET", url, {}


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


def read_record(call: str, response: httpx.Response) -> Any:
    """Return the record; None if it does not exist. Raises VisitsApiError, by status as for the Visits API."""
    if response.status_code in (404, 410):
        return None
    if not response.is_success:
        raise error_for(call, response)
    try:
        record = orjson.loads(response.content)
    except ValueError:
        raise ServerError(call, response.status_code, "the response is not JSON") from None
    if error_class := _graphql_error(record):
        raise error_class(call, response.status_code, "in a response with status 200")
    return record


#: GraphQL reports errors with status 200, in `errors[].extensions.code`, or `errors[].code` (Boulevard).
GRAPHQL_ERRORS = {
    "THROTTLED": RateLimited,
    "UNAUTHENTICATED": Unauthorized,
    "INTERNAL_SERVER_ERROR": ServerError,
}


def _items(errors: Payload) -> list[Payload]:
    return list(errors) if isinstance(errors.value, list) else []


def _graphql_error(record: Any) -> type[VisitsApiError] | None:
    for error in _items(Payload(record).at("errors")):
        for code in (error.at("extensions", "code").value, error.at("code").value):
            if isinstance(code, str) and code in GRAPHQL_ERRORS:
                return GRAPHQL_ERRORS[code]
    return None


def _until_reset(limited: RateLimited, response: httpx.Response, header: str | None) -> RateLimited:
    """Add the wait from the tool's own header: seconds, or a Unix time."""
    value = response.headers.get(header, "") if header else ""
    if limited.wait_s is not None or not value.isascii() or not value.isdecimal() or len(value) > 12:
        return limited
    seconds = float(value)
    wait_s = seconds - time.time() if seconds > 1_000_000_000 else seconds
    return RateLimited(limited.call, limited.status, limited.response_text, min(max(wait_s, 0.0), 86_400.0))
