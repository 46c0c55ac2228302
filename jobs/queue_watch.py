"""Wakes an idle worker when a job is queued."""

import asyncio
from contextlib import suppress
from typing import Any

import hiredis

from app.ledger import keys
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log


class QueueWatch:
    """Waits for changes of the queues, which Redis reports for client-side caching. Code that queues a job is not involved.

    Redis reports each change to each worker that asks, so only idle workers ask.
    https://redis.io/docs/latest/develop/reference/client-side-caching/
    """

    def __init__(self, redis: Redis) -> None:
        """redis: with a connection of its own."""
        self._redis, self._changed, self._is_active = redis, asyncio.Event(), False
        self._is_supported = True

    async def start(self) -> bool:
        """Return True if the watch has just begun: a job may have been queued before."""
        if self._is_active or not self._is_supported:
            return False
        self._changed.clear()
        try:
            await self._redis.track_keys(keys.QUEUE, self._report)
        except hiredis.ReplyError as error:
            self._is_supported = False
            log.warning("queue_watch_unsupported", reason=str(error)[:100])
            return False
        except RedisUnavailable:
            return False  # the next claim logs it
        self._is_active = True
        return True

    def _report(self, message: Any) -> None:
        """message: None if the connection was lost."""
        self._is_active = self._is_active and message is not None
        self._changed.set()

    async def wait(self, timeout_s: float, poll_delay_s: float) -> None:
        """Wait until a queue has changed, and for timeout_s at most; for poll_delay_s if Redis does not report changes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s if self._is_active else poll_delay_s):
                await self._changed.wait()
        self._changed.clear()

    async def stop(self) -> None:
        if self._is_active:
            self._is_active = False
            with suppress(RedisUnavailable):  # the server ends the watch with the connection
                await self._redis.untrack_keys()

    async def close(self) -> None:
        await self._redis.close()
