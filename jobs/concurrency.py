"""Who may go on in a worker: a job that waits for somebody's answer holds no place of one that could run.

A job counts as at work while it goes on, and for a moment after. Beyond that it only waits, for an API, a tool or a lock,
which costs a connection and some memory: of those there are many, and no account and no tool may have more than are left.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from app.ledger.records import Queue

#: Jobs at work at once, by lane.
MAX_ACTIVE: dict[Queue, int] = {"visits": 80, "events": 80, "replays": 10}
#: Jobs at once, those that wait included. Each may have a connection, and a process often has 1,024 descriptors.
MAX_IN_FLIGHT = 600
#: A job that has not gone on for so long only waits; what a tool was asked holds a slot for less time.
IDLE_AFTER_S, SLOT_TIMEOUT_S = 0.5, 0.25


class Job(Coroutine[Any, Any, None]):
    """A coroutine that knows when it last went on.

    share: the lane and account that it counts for; an event has none before it is read.
    """

    def __init__(self, run: Coroutine[Any, Any, None], lane: Queue, share: str) -> None:
        self._run, self.queue, self.share, self.last_active = run, lane, share, time.monotonic()

    def send(self, value: Any) -> Any:
        try:
            return self._run.send(value)
        finally:
            self.last_active = time.monotonic()

    def throw(self, *error: Any) -> Any:
        try:
            return self._run.throw(*error)
        finally:
            self.last_active = time.monotonic()

    def close(self) -> None:
        self._run.close()

    def __await__(self) -> Any:
        return self._run.__await__()


class RunningJobs:
    """The jobs of one worker."""

    def __init__(self) -> None:
        self.jobs: set[Job] = set()

    @property
    def free(self) -> int:
        return MAX_IN_FLIGHT - len(self.jobs)

    def capacity(self) -> dict[Queue, int]:
        """How many jobs may begin, by lane."""
        active_since = time.monotonic() - IDLE_AFTER_S
        active = Counter(job.queue for job in self.jobs if job.last_active > active_since)
        free, capacity = self.free, dict[Queue, int]()
        for queue, limit in MAX_ACTIVE.items():
            capacity[queue] = max(0, min(limit - active[queue], free))
            free -= capacity[queue]
        return capacity

    def full_shares(self) -> list[str]:
        """The shares of which no more jobs may begin."""
        counts = Counter(job.share for job in self.jobs if job.share)
        return [share for share, count in counts.items() if self.is_full(count)]

    def is_full(self, count: int) -> bool:
        """One that has so many in flight already leaves as many to all others."""
        return count >= self.free


class KeyedLocks:
    """One at a time for each name in this process: whoever comes later waits here, and does not ask Redis meanwhile."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, name: str, wait_s: float, error: type[Exception]) -> AsyncIterator[None]:
        """Raises `busy` where that takes longer than wait_s."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        await _acquire(lock, wait_s, error)
        try:
            yield
        finally:
            lock.release()


class FetchSlots:
    """So many at a time, without those that wait for longer than a moment."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def hold(self, wait_s: float, error: type[Exception]) -> AsyncIterator[None]:
        """Raises `busy` where that takes longer than wait_s."""
        await _acquire(self._free, wait_s, error)
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(SLOT_TIMEOUT_S, release)
        try:
            yield
        finally:
            timer.cancel()
            release()


async def _acquire(lock: asyncio.Lock | asyncio.Semaphore, wait_s: float, error: type[Exception]) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await lock.acquire()
    except TimeoutError:
        raise error from None
