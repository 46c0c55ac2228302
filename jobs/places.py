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

from app.ledger.records import Lane

#: Jobs at work at once, by lane.
AT_ONCE: dict[Lane, int] = {"visit": 80, "event": 80, "replay": 10}
#: Jobs at once, those that wait included. Each may have a connection, and a process often has 1,024 descriptors.
IN_FLIGHT = 600
#: A job that has not gone on for so long only waits; what a tool was asked holds a slot for less time.
WAITS_S, SLOT_S = 0.5, 0.25


class Job(Coroutine[Any, Any, None]):
    """A coroutine that knows when it last went on.

    share: the lane and account that it counts for; an event has none before it is read.
    """

    def __init__(self, run: Coroutine[Any, Any, None], lane: Lane, share: str) -> None:
        self._run, self.lane, self.share, self.moved = run, lane, share, time.monotonic()

    def send(self, value: Any) -> Any:
        try:
            return self._run.send(value)
        finally:
            self.moved = time.monotonic()

    def throw(self, *error: Any) -> Any:
        try:
            return self._run.throw(*error)
        finally:
            self.moved = time.monotonic()

    def close(self) -> None:
        self._run.close()

    def __await__(self) -> Any:
        return self._run.__await__()


class Places:
    """The jobs of one worker."""

    def __init__(self) -> None:
        self.jobs: set[Job] = set()

    @property
    def free(self) -> int:
        return IN_FLIGHT - len(self.jobs)

    def room(self) -> dict[Lane, int]:
        """How many jobs may begin, by lane."""
        moved_after = time.monotonic() - WAITS_S
        at_work = Counter(job.lane for job in self.jobs if job.moved > moved_after)
        free, room = self.free, dict[Lane, int]()
        for lane, most in AT_ONCE.items():
            room[lane] = max(0, min(most - at_work[lane], free))
            free -= room[lane]
        return room

    def full(self) -> list[str]:
        """The shares of which no more jobs may begin."""
        counts = Counter(job.share for job in self.jobs if job.share)
        return [share for share, count in counts.items() if self.is_full(count)]

    def is_full(self, count: int) -> bool:
        """One that has so many in flight already leaves as many to all others."""
        return count >= self.free


class Turns:
    """One at a time for each name in this process: whoever comes later waits here, and does not ask Redis meanwhile."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def alone(self, name: str, wait_s: float, busy: type[Exception]) -> AsyncIterator[None]:
        """Raises `busy` where that takes longer than wait_s."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        await _acquired(lock, wait_s, busy)
        try:
            yield
        finally:
            lock.release()


class Slots:
    """So many at a time, without those that wait for longer than a moment."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    @asynccontextmanager
    async def one(self, wait_s: float, busy: type[Exception]) -> AsyncIterator[None]:
        """Raises `busy` where that takes longer than wait_s."""
        await _acquired(self._free, wait_s, busy)
        is_held = True

        def let_go() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(SLOT_S, let_go)
        try:
            yield
        finally:
            timer.cancel()
            let_go()


async def _acquired(lock: asyncio.Lock | asyncio.Semaphore, wait_s: float, busy: type[Exception]) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await lock.acquire()
    except TimeoutError:
        raise busy from None
