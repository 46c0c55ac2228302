"""Who was not let in: counted in memory and flushed now and then, so that an attack costs no write of its own."""

import asyncio
import time
from collections import Counter, deque

import orjson

from app.connection import Redis, RedisDown

FLUSH_EVERY_S = 5.0
NEWEST = 50


class Refusals:
    """Counts by hook and reason, and the newest few of each hook with their sentence. `hook` is empty for unknown ones."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counts: Counter[str] = Counter()
        self._newest: dict[str, deque[bytes]] = {}

    def note(self, hook: str, reason: str, detail: str) -> None:
        """hook: a configured one, or empty: names from outside would fill the memory."""
        self._counts[f"{hook}:{reason}"] += 1
        newest = self._newest.setdefault(hook, deque(maxlen=NEWEST))
        newest.append(orjson.dumps({"at": int(time.time() * 1000), "reason": reason, "detail": detail[:200]}))

    async def flush(self) -> None:
        """Counts into the hash `db:refused`, the newest into one short list per hook."""
        counts, newest = self._counts, self._newest
        self._counts, self._newest = Counter(), {}
        try:
            for field, count in counts.items():
                await self._redis.command("HINCRBY", "db:refused", field, count)
            for hook, rows in newest.items():
                await self._redis.command("LPUSH", f"db:refused:{hook}", *rows)
                await self._redis.command("LTRIM", f"db:refused:{hook}", 0, NEWEST - 1)
        except RedisDown:
            self._counts.update(counts)

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            if self._counts:
                await self.flush()
