"""What arrives and what is done, as it happens. Deliveries and refusals are looked for, in what is sorted by time already;
attempts are published as they are written, which costs the server nothing while nobody listens."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import orjson

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt
from app.ledger.redis import Redis
from app.operators.signature_diagnosis import with_likely_causes
from app.telemetry import rejections

POLL_INTERVAL_S = 0.3
PAGE_SIZE = 500


async def new_deliveries(ledger: Ledger, hooks: Iterable[str]) -> AsyncIterator[str]:
    """The ids of the deliveries that arrive from now on. Raises RedisUnavailable."""
    now = (await ledger.server_time()).timestamp() * 1000
    # Of the last time that was seen also the ids: several may share it, and some may still come.
    seen: dict[str, tuple[float, set[bytes]]] = {hook: (now, set()) for hook in hooks}
    while True:
        pages = await asyncio.gather(*(_page(ledger.redis, hook, *seen[hook]) for hook in seen))
        for hook, page in zip(list(seen), pages, strict=True):
            last, known = seen[hook]
            for id, at in page:
                if id not in known:
                    yield id.decode()
                last, known = (last, known | {id}) if at == last else (at, {id})
            seen[hook] = last, known
        await asyncio.sleep(0 if max(map(len, pages), default=0) >= PAGE_SIZE else POLL_INTERVAL_S)


async def _page(redis: Redis, hook: str, since: float, known: set[bytes]) -> list[tuple[bytes, float]]:
    asked = (
        "ZRANGEBYSCORE",
        f"{keys.DELIVERIES}{hook}",
        since,
        "+inf",
        "WITHSCORES",
        "LIMIT",
        0,
        PAGE_SIZE + len(known),
    )
    flat = await redis.command(*asked)
    return list(zip(flat[::2], map(float, flat[1::2]), strict=True))


async def finished_attempts(listening: Redis) -> AsyncIterator[tuple[TaskId, Attempt]]:
    """Each piece of work with the attempt that just came to an end. Raises RedisUnavailable."""
    async for told in listening.subscribe(keys.ATTEMPTS_CHANNEL):
        work, _, attempt = told.partition(b" {")
        yield TaskId(work.decode()), Attempt(**orjson.loads(b"{" + attempt))


async def new_rejections(ledger: Ledger, hooks: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    """What is not let in from now on, as `rejections.newest` tells it; a door writes it down every few seconds. Raises
    RedisUnavailable."""
    since = (await ledger.server_time()).timestamp() * 1000
    while True:
        notes = with_likely_causes(note for note in await rejections.newest(ledger.redis, hooks) if note["at"] > since)
        for note in reversed(notes):
            yield note
        since = max([since, *(note["at"] for note in notes)])
        await asyncio.sleep(3 * POLL_INTERVAL_S)
