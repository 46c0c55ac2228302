"""Wakes an idle worker when a job is queued."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import hiredis

from app.ledger import keys
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log


class QueueWatch:
    """Waits for changes of the queues, which Redis reports for client-side caching. Code that queues a job is not involved.

    Redis reports each change to each worker that asks, so only idle workers ask. No worker waits for the answer: the
    connection is silent while nothing is queued, so it may have been lost unnoticed.
    https://redis.io/docs/latest/develop/reference/client-side-caching/
    """

    def __init__(self, redis: Redis) -> None:
        """redis: with a separate connection."""
        self._redis, self._changed, self._is_supported = redis, asyncio.Event(), True
        self._request: asyncio.Task[None] | None = None
        #: Whether Redis reports changes.
        self.is_active = False

    def start(self) -> None:
        """Ask for reports, unless an earlier request is still open: an idle worker calls this again and again."""
        if self._is_supported and not self.is_active and (self._request is None or self._request.done()):
            self._send(self._begin())

    def stop(self) -> None:
        if self.is_active:
            self.is_active = False
            self._send(self._end())

    def _send(self, request: Coroutine[Any, Any, None]) -> None:
        self._request = asyncio.get_running_loop().create_task(request)

    async def _begin(self) -> None:
        try:
            await self._redis.track_keys(keys.QUEUE, self._report)
        except hiredis.ReplyError as error:
            self._is_supported = False
            log.warning("queue_watch_unsupported", reason=str(error)[:100])
        except RedisUnavailable:
            pass  # the next claim logs it
        else:
            self.is_active = True
            self._changed.set()  # a job may have been queued before

    async def _end(self) -> None:
        with suppress(RedisUnavailable):  # the server ends the watch with the connection
            await self._redis.untrack_keys()

    def _report(self, message: Any) -> None:
        """message: None if the connection was lost."""
        self.is_active = self.is_active and message is not None
        self._changed.set()

    async def wait(self, timeout_s: float, poll_delay_s: float) -> None:
        """Wait until a queue may have changed, and for timeout_s at most; for poll_delay_s if Redis reports no changes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s if self.is_active else poll_delay_s):
                await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        await self._redis.close()
        if self._request:
            await asyncio.wait([self._request])
