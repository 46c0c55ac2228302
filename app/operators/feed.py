"""Live events: deliveries and rejections are polled; workers publish attempts to a Redis channel."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt
from app.ledger.redis import Redis
from app.operators.rejections import with_likely_causes
from app.telemetry import rejections

POLL_INTERVAL_S = 0.3
PAGE_SIZE = 500


async def new_deliveries(ledger: Ledger, hooks: Callable[[], Iterable[str]]) -> AsyncIterator[str]:
    """Yield the ids of new deliveries. hooks: returns the present hooks, which may change. Raises RedisUnavailable."""
    now = (await ledger.server_time()).timestamp() * 1000
    # By hook: the newest time and all ids with that time. Several deliveries may share a time and be stored one by one.
    positions: dict[str, tuple[float, set[bytes]]] = {}
    while True:
        for hook in hooks():
            positions.setdefault(hook, (now, set()))
        pages = await asyncio.gather(*(_page(ledger.redis, hook, *positions[hook]) for hook in positions))
        for hook, page in zip(list(positions), pages, strict=True):
            last, last_ids = positions[hook]
            for id, at in page:
                if id not in last_ids:
                    yield id.decode()
                last, last_ids = (last, last_ids | {id}) if at == last else (at, {id})
            positions[hook] = last, last_ids
        await asyncio.sleep(0 if max(map(len, pages), default=0) >= PAGE_SIZE else POLL_INTERVAL_S)


async def _page(redis: Redis, hook: str, since: float, last_ids: set[bytes]) -> list[tuple[bytes, float]]:
    command = (
        "ZRANGEBYSCORE",
        f"{keys.DELIVERIES}{hook}",
        since,
        "+inf",
        "WITHSCORES",
        "LIMIT",
        0,
        PAGE_SIZE + len(last_ids),
    )
    reply = await redis.command(*command)
    return list(zip(reply[::2], map(float, reply[1::2]), strict=True))


async def finished_attempts(subscriber: Redis) -> AsyncIterator[tuple[TaskId, Attempt]]:
    """Yield each finished attempt with its task. subscriber: its own connection. Raises RedisUnavailable."""
    async for message in subscriber.subscribe(keys.ATTEMPTS_CHANNEL):
        task_id, _, attempt = message.partition(b" ")
        yield TaskId(task_id.decode()), Attempt.decode(attempt)


async def new_rejections(ledger: Ledger, hooks: Callable[[], Iterable[str]]) -> AsyncIterator[dict[str, Any]]:
    """Yield new rejections, as `rejections.newest` returns them. Web processes store them every few seconds.

    hooks: as in new_deliveries. Raises RedisUnavailable.
    """
    since = (await ledger.server_time()).timestamp() * 1000
    # One web process may store a rejection later than another one stores a newer rejection.
    yielded = Counter[bytes]()
    while True:
        newest = [note for note in await rejections.newest(ledger.redis, list(hooks())) if note["at"] > since]
        stored = Counter(map(orjson.dumps, newest))
        unseen = [*(stored - yielded).elements()]
        for note in with_likely_causes(map(orjson.loads, reversed(unseen))):
            yield note
        yielded = stored
        await asyncio.sleep(3 * POLL_INTERVAL_S)
