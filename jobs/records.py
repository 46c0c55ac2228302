"""What a tool's API answers: asked once for many events of one record, by a few at a time, at addresses of our own making.

A record that was asked for after an event rang is as good as one that the event asks for itself. So while one worker
fetches, the others wait for its answer; of ten events of one record, the first fetch serves those that had rung by then,
and a second one the rest.
"""

import asyncio
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

from app.ledger.ledger import new_delivery_id
from app.ledger.redis import RedisUnavailable
from app.settings.model import Entrance
from app.visits.client import Broken, RateLimited, Refused, Unauthorized, VisitsApiTrouble, ask, trouble
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Payload
from jobs.concurrency import FetchSlots
from jobs.context import Context
from jobs.errors import InProgressElsewhere, NeedsOperator, TooManyFetches
from jobs.retry import RATE_LIMIT_WAIT_S
from jobs.tokens import Tokens

#: Of one tool's API, so many records at a time in one worker, without those whose answer keeps us waiting.
MAX_CONCURRENT_FETCHES = 32
#: How long an answer serves others, how long who fetches may take, and how long the others wait for it.
CACHE_TTL_MS, LOCK_TTL_S, LOCK_WAIT_S = 30_000, 25.0, 8.0
#: The longest that a hook is paused after a 429: the limit may be of one kind of record only.
MAX_PAUSE_S = 300.0
#: Those that waited together do not all come back at once.
PAUSE_JITTER_S = 5.0


@dataclass(frozen=True, slots=True)
class FetchedRecord:
    """A record and what was fetched with it; when the fetch began, by the server's clock."""

    record: Any
    related: Mapping[str, Any]
    fetched_at: datetime

    @property
    def is_complete(self) -> bool:
        """Is all there that was asked for?"""
        return self.record is not None and None not in self.related.values()


@dataclass(frozen=True, slots=True)
class Records:
    """A tool's API, for one run over one event.

    rang_ms: when the event last rang; a record that was asked for before is too old. calls: what was called and answered.
    """

    context: Context
    entrance: Entrance
    event_received_ms: int
    calls: list[list[object]]

    async def find(self, get: RecordRequest) -> FetchedRecord:
        """Raises VisitsApiTrouble, Parked, Busy, RedisUnavailable."""
        at_once, hook = self.context.fetches_by_hook, self.entrance.name
        if self.context.running_jobs.is_full(at_once[hook]):
            raise TooManyFetches
        at_once[hook] += 1
        try:
            async with self.context.fetch_slots.setdefault(hook, FetchSlots(MAX_CONCURRENT_FETCHES)).hold(
                LOCK_WAIT_S, TooManyFetches
            ):
                return await self._find_exclusively(get)
        finally:
            at_once[hook] -= 1

    async def _find_exclusively(self, get: RecordRequest) -> FetchedRecord:
        key = f"bell:record:{self.entrance.name}:{_request_digest(get)}"
        async with self.context.locks.hold(key, LOCK_WAIT_S, InProgressElsewhere):
            return await self._fetch_once(get, key)

    async def _fetch_once(self, get: RecordRequest, key: str) -> FetchedRecord:
        ledger, token = self.context.ledger, new_delivery_id()
        waits_until = time.monotonic() + LOCK_WAIT_S
        while not (found := await self._cached(key)):
            if await ledger.acquire_lock(f"{key}:lock", token, LOCK_TTL_S):
                break
            if time.monotonic() > waits_until:
                raise InProgressElsewhere
            await asyncio.sleep(0.05)
        if found:
            return found
        try:
            return await self._cached(key) or await self._fetch(get, key)
        finally:
            with suppress(RedisUnavailable):
                await ledger.release_lock(f"{key}:lock", token)

    async def _cached(self, key: str) -> FetchedRecord | None:
        """What another run was answered, if it asked after this event rang."""
        cached = await self.context.ledger.redis.command("GET", key)
        began_us, _, compressed = (cached or b"0 ").partition(b" ")
        if int(began_us) < (self.event_received_ms + 1) * 1000:  # the millisecond itself may have been before
            return None
        record, beside = orjson.loads(zstandard.decompress(compressed))
        return FetchedRecord(
            record,
            beside,
            datetime.fromtimestamp(int(began_us) // 1_000_000, UTC).replace(microsecond=int(began_us) % 1_000_000),
        )

    async def _fetch(self, get: RecordRequest, key: str) -> FetchedRecord:
        await self._check_pause(get)
        began = await self.context.ledger.server_time()
        try:
            record = await self._fetch_one(get)
            others = get.follow_up(Payload(record, "record")) if record is not None else {}
            beside = {name: await self._fetch_one(other) for name, other in others.items()}
        except RateLimited as limited:
            await self._pause_hook(limited)
            raise
        found = FetchedRecord(record, beside, began)
        if found.is_complete:
            began_us = int(began.timestamp()) * 1_000_000 + began.microsecond
            # Without a cache the next event fetches the record itself. JSON that is nested too deep is read but not written.
            with suppress(RedisUnavailable, orjson.JSONEncodeError):
                squeezed = zstandard.compress(orjson.dumps([record, beside]), 1)
                value = b"%d " % began_us + squeezed
                await self.context.ledger.set_with_ttl(key, value, CACHE_TTL_MS)
        return found

    @property
    def _pause_key(self) -> str:
        return f"bell:retry-after:{self.entrance.name}"

    async def _check_pause(self, get: RecordRequest) -> None:
        """The rate is the hook's and not the record's: after a 429 nothing is asked for until the tool's time has come."""
        left_ms = int(await self.context.ledger.redis.command("PTTL", self._pause_key))
        if left_ms > 0:
            wait_s, said = (
                left_ms / 1000 + PAUSE_JITTER_S * random(),
                "not sent: another request of this hook was answered so",
            )
            raise RateLimited(get.label, 429, said, wait_s)

    async def _pause_hook(self, limited: RateLimited) -> None:
        wait_s = RATE_LIMIT_WAIT_S if limited.wait_s is None else limited.wait_s
        if pause_ms := int(min(wait_s, MAX_PAUSE_S) * 1000):
            with suppress(RedisUnavailable):
                await self.context.ledger.set_with_ttl(self._pause_key, b"1", pause_ms)

    async def _fetch_one(self, get: RecordRequest) -> Any:
        """The record as JSON; None where the tool says that there is none. A token that has ended is got anew, once."""
        source, given = self.entrance.tool.definition, self.entrance.hook.credentials
        if missing := source.missing_credentials(given):
            names = ", ".join(f"HOOKS__{self.entrance.name.upper()}__CREDENTIALS__{name}" for name in missing)
            raise NeedsOperator(f"credentials_missing: {names}")
        if source.token_exchange is None or "TOKEN" in given:
            return await self._call(get, given)
        tokens = Tokens(self.context, self.entrance, source.token_exchange, self.calls)
        token = await tokens.current()
        try:
            return await self._call(get, {**given, "TOKEN": token})
        except Unauthorized as refused:
            if refused.status == 403 or (fresh := await tokens.current(rejected=token)) == token:
                raise
            return await self._call(get, {**given, "TOKEN": fresh})

    async def _call(self, get: RecordRequest, given: Mapping[str, str]) -> Any:
        source = self.entrance.tool.definition
        assert source.credentials
        shown = source.credentials.authenticate(given, time.time(), get)
        if shown.json is not None:
            get = replace(get, json=shown.json)
        base = (self.entrance.hook.api_url or source.api_url or "").rstrip("/")
        method, url, content = _request(get, base)
        headers = {"accept": "application/json", **source.api_headers, **shown.headers}
        params = {**get.params, **shown.params} or None
        answer = await ask(
            self.context.http,
            method,
            url,
            get.label,
            self.calls,
            headers=headers,
            oversized=Refused,
            params=params,
            **content,
        )
        try:
            return read_record(get.label, answer)
        except RateLimited as limited:
            raise _until_reset(limited, answer, source.rate_limit_reset_header) from None


def _request(get: RecordRequest, base: str) -> tuple[str, str, dict[str, Any]]:
    """Method, URL and body."""
    if get.query:
        return "POST", base, {"json": {"query": get.query, "variables": dict(get.variables)}}
    url = f"{base}/{get.path if get.endpoint is None else get.endpoint}".rstrip("/")
    if get.json is not None:
        return "POST", url, {"json": dict(get.json)}
    if get.form is not None:
        return "POST", url, {"data": dict(get.form)}
    return "GET", url, {}


def _request_digest(get: RecordRequest) -> str:
    parts = [get.path, get.endpoint, get.query, dict(get.variables), dict(get.params), get.json, get.form]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def read_record(call: str, answer: httpx.Response) -> Any:
    """Raises VisitsApiTrouble by status, as for our own API; an answer that is no JSON may be right the next time."""
    if answer.status_code in (404, 410):
        return None
    if not answer.is_success:
        raise trouble(call, answer)
    try:
        record = orjson.loads(answer.content)
    except ValueError:
        raise Broken(call, answer.status_code, "the answer is not JSON") from None
    if failed := _graphql_error(record):
        raise failed(call, answer.status_code, "said inside a 200")
    return record


#: What GraphQL says with status 200, by its `errors[].extensions.code`, or `errors[].code` (Boulevard).
GRAPHQL_ERRORS = {
    "THROTTLED": RateLimited,
    "UNAUTHENTICATED": Unauthorized,
    "INTERNAL_SERVER_ERROR": Broken,
}


def _items(errors: Payload) -> list[Payload]:
    return list(errors) if isinstance(errors.value, list) else []


def _graphql_error(record: Any) -> type[VisitsApiTrouble] | None:
    for error in _items(Payload(record).at("errors")):
        for code in (error.at("extensions", "code").value, error.at("code").value):
            if isinstance(code, str) and code in GRAPHQL_ERRORS:
                return GRAPHQL_ERRORS[code]
    return None


def _until_reset(limited: RateLimited, answer: httpx.Response, header: str | None) -> RateLimited:
    """With the wait that the tool names in a header of its own: seconds, or the time since 1970 at which they are over."""
    said = answer.headers.get(header, "") if header else ""
    if limited.wait_s is not None or not said.isascii() or not said.isdecimal() or len(said) > 12:
        return limited
    seconds = float(said)
    wait_s = seconds - time.time() if seconds > 1_000_000_000 else seconds
    return RateLimited(limited.call, limited.status, limited.said, min(max(wait_s, 0.0), 86_400.0))
