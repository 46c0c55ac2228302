"""Limits how many jobs run at once in a worker, without letting jobs that wait for a response block the others.

A job is active while its coroutine runs and for IDLE_AFTER_S afterwards. An idle job only waits for an API, a tool or a
lock, which costs a connection and some memory. Many idle jobs are allowed, but the jobs of one account or hook may not
take more slots than remain free.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from app.ledger.locks import acquire
from app.ledger.records import Queue

#: Active jobs, by queue.
MAX_ACTIVE: dict[Queue, int] = {"visits": 80, "events": 80, "replays": 10}
#: Active and idle jobs. Each may have a connection, and a process is often limited to 1,024 file descriptors.
MAX_IN_FLIGHT = 600
#: A job is idle when its coroutine has not run for this long.
IDLE_AFTER_S = 0.5
#: A fetch that takes longer releases its slot.
SLOT_TIMEOUT_S = 0.25


class Job(Coroutine[Any, Any, None]):
    """A coroutine that records when it last ran.

    share: queue and account, whose jobs are limited together; "" for an event, because its hook is read later.
    """

    def __init__(self, run: Coroutine[Any, Any, None], queue: Queue, share: str) -> None:
        self._run, self.queue, self.share, self.last_active = run, queue, share, time.monotonic()

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
    """The jobs of this worker. worker_count: how many workers were alive at its last heartbeat."""

    def __init__(self) -> None:
        self.jobs: set[Job] = set()
        self.worker_count = 1

    @property
    def free(self) -> int:
        return MAX_IN_FLIGHT - len(self.jobs)

    def capacity(self) -> dict[Queue, int]:
        """Return how many jobs may start, by queue."""
        active_since = time.monotonic() - IDLE_AFTER_S
        active = Counter(job.queue for job in self.jobs if job.last_active > active_since)
        free, capacity = self.free, dict[Queue, int]()
        for queue, limit in MAX_ACTIVE.items():
            capacity[queue] = max(0, min(limit - active[queue], free))
            free -= capacity[queue]
        return capacity

    def full_shares(self) -> list[str]:
        """Return the shares of which no more jobs may start."""
        counts = Counter(job.share for job in self.jobs if job.share)
        return [share for share, count in counts.items() if self.is_full(count)]

    def is_full(self, count: int) -> bool:
        """Whether `count` jobs of one share are at least as many as the free slots that remain for all others."""
        return count >= self.free


class FetchSlots:
    """Limits concurrent fetches. A fetch that takes longer than SLOT_TIMEOUT_S releases its slot."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def hold(self, wait_s: float, error: type[Exception]) -> AsyncIterator[None]:
        """Hold until the block ends. Raises `error` if that is not possible within wait_s."""
        await acquire(self._free, wait_s, error)
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
