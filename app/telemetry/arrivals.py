"""Requests that are not stored, for an operator who listens to a hook: what was answered, and why.

`doorbell listen` and the console put a hook into the set `bell:listening`. While it is there, the web processes write a note
about each of its requests that is not in Redis otherwise: rejections with their diagnosis, repeats, handshakes. A note has
no content of the request. At most one diagnosis runs at a time, in a thread, after the request was answered.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis
import orjson

from app.ledger import keys
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log
from app.webhooks.delivery import Delivery

#: How long a hook stays in the set after an operator last asked for its requests.
LISTEN_S, LISTENING_TTL_S = 60, 600
#: How soon a web process knows that an operator listens.
FOLLOW_EVERY_S = 1.0
MAX_NOTES, NOTES_TTL_S = 100, 900
#: Requests beyond these limits have no note: an attack must not cost more because an operator listens.
MAX_PENDING, MIN_INTERVAL_S = 20, 0.05
#: A larger body is not diagnosed: each correction hashes it again.
MAX_DIAGNOSED_BYTES = 131_072
MAX_TEXT = 300
#: Requests to unknown URLs.
NO_HOOK = ""

#: Returns the findings about an invalid signature, from the name of the hook and the request.
Diagnose = Callable[[str, Delivery], Sequence[str]]


def no_diagnosis(_: str, __: Delivery) -> Sequence[str]:
    return ()


class Arrivals:
    """hooks: those that an operator listens to, and NO_HOOK if there is any."""

    def __init__(self, redis: Redis, diagnose: Diagnose = no_diagnosis) -> None:
        self.hooks: frozenset[str] = frozenset()
        self._redis, self._diagnose = redis, diagnose
        self._pending: asyncio.Queue[tuple[dict[str, Any], Delivery | None]] = asyncio.Queue(MAX_PENDING)

    def record(self, note: dict[str, Any], request: Delivery | None) -> None:
        """Take a note of a request: hook, status, outcome and what else is known. request: None if it was not read."""
        note |= {"at": int(time.time() * 1000)}
        with suppress(asyncio.QueueFull):
            self._pending.put_nowait((note, request))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._write())

    async def _follow(self) -> None:
        while True:
            with suppress(RedisUnavailable, hiredis.ReplyError):
                hooks = await listened_hooks(self._redis)
                self.hooks = hooks | {NO_HOOK} if hooks else hooks
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _write(self) -> None:
        while True:
            note, request = await self._pending.get()
            started = time.monotonic()
            try:
                if request and note.get("reason", "").startswith("signature_"):
                    note["findings"] = await self._findings(note["hook"], request)
                await self._store(note)
            except (RedisUnavailable, hiredis.ReplyError):
                pass  # the log has it, and the request itself was answered
            except Exception:
                log.exception("unhandled_exception", hook=note["hook"])
            # Diagnoses take a fifth of the time at most.
            await asyncio.sleep(max(MIN_INTERVAL_S, 4 * (time.monotonic() - started)))

    async def _findings(self, hook: str, request: Delivery) -> list[str]:
        if len(request.body) > MAX_DIAGNOSED_BYTES:
            return [f"the body has more than {MAX_DIAGNOSED_BYTES:,} bytes: check it with `doorbell verify {hook}`"]
        return [text[:MAX_TEXT] for text in await asyncio.to_thread(self._diagnose, hook, request)]

    async def _store(self, note: dict[str, Any]) -> None:
        key = f"{keys.ARRIVALS}{note['hook']}"
        await self._redis.commands(
            ("LPUSH", key, orjson.dumps(note)), ("LTRIM", key, 0, MAX_NOTES - 1), ("EXPIRE", key, NOTES_TTL_S)
        )


async def listened_hooks(redis: Redis) -> frozenset[str]:
    """Return the hooks that an operator listens to. Raises RedisUnavailable."""
    seconds, _ = await redis.command("TIME")
    return frozenset(
        hook.decode() for hook in await redis.command("ZRANGEBYSCORE", keys.LISTENING, int(seconds), "+inf")
    )


async def listen_to(redis: Redis, hook: str, for_s: int = LISTEN_S) -> None:
    """Have the web processes take notes about a hook for this time, at most LISTENING_TTL_S. Raises RedisUnavailable."""
    seconds, _ = await redis.command("TIME")
    await redis.commands(
        ("ZREMRANGEBYSCORE", keys.LISTENING, "-inf", f"({int(seconds)}"),
        ("ZADD", keys.LISTENING, "GT", int(seconds) + for_s, hook),
        ("EXPIRE", keys.LISTENING, LISTENING_TTL_S),
    )


async def notes_of(redis: Redis, hook: str) -> list[dict[str, Any]]:
    """Return the notes about a hook and about unknown URLs, newest first. Raises RedisUnavailable."""
    lists = await asyncio.gather(
        *(redis.command("LRANGE", f"{keys.ARRIVALS}{name}", 0, MAX_NOTES - 1) for name in (hook, NO_HOOK))
    )
    return sorted((orjson.loads(note) for notes in lists for note in notes), key=lambda note: -note["at"])
