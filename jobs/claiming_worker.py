"""arq's worker with our own way to claim, run and finish a job."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import arq.worker
import uvloop
from arq.jobs import deserialize_job_raw
from redis.exceptions import RedisError

from app.ledger.records import Queue
from app.ledger.redis import RedisUnavailable
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.metric_names import RUN_DURATION_S, TASK_WAIT_S
from app.visits.client import ANSWER_S
from jobs.arq_redis import redis_pool
from jobs.concurrency import Job
from jobs.context import RUN_TIMEOUT_S, Context, seconds_since
from jobs.startup import wait_for_redis

#: arq's own limit, which never fires: a run ends earlier (RUN_TIMEOUT_S). Ten seconds after it, a job that a dead worker
#: left is claimed by another.
JOB_TIMEOUT_S = RUN_TIMEOUT_S + ANSWER_S + 2


class ClaimingWorker(arq.worker.Worker):
    """arq's worker with another way to claim, run and finish a job: one round trip for many claims and one to finish,
    over the connection that the ledger uses, instead of six for each job.

    Running jobs do not stand in front of waiting ones, workers do not race for the same job, and the next jobs are
    claimed when a place is free and not at the next poll. The queue's format, the command line, signals, waiting for
    running jobs and the health check are arq's. There are no results and no tries: the ledger has both.
    """

    # arq finds out by the signature which settings there are.
    @wraps(arq.worker.Worker.__init__)  # type: ignore[misc]
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        if not _is_loop_running():
            asyncio.set_event_loop(uvloop.new_event_loop())
        super().__init__(*arguments, **settings)
        self._job_ended = asyncio.Event()

    async def main(self) -> None:
        """Raises NoRedis where Redis does not answer. Without a pool, `close` has nothing to do."""
        settings = self.ctx["settings"]
        await wait_for_redis(settings)
        self._pool = redis_pool(settings)
        await super().main()

    async def _poll_iteration(self) -> None:
        more = True
        while more and self.allow_pick_jobs:
            more = await self._claim()
            if more:
                await self._wait_for_job_end()
            await self._beat()
        await self._beat()

    async def _wait_for_job_end(self) -> None:
        """Of a job since the last claim, or of the time between two looks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.poll_delay_s):
                await self._job_ended.wait()

    async def _beat(self) -> None:
        with _log_errors():
            await self.heart_beat()

    async def _claim(self) -> bool:
        """Start what there is room for; True if there may be more than there was room for."""
        context: Context = self.ctx["context"]
        places = context.running_jobs
        self._job_ended.clear()
        room = places.capacity()
        with _log_errors():
            claimed = await context.ledger.claim(room, self.in_progress_timeout_s, places.full_shares())
            for lane, job, payload in claimed:
                self._start(context, lane, job, payload)
            full = Counter(lane for lane, _, _ in claimed)
            return any(full[lane] == places for lane, places in room.items())
        return False

    def _start(self, context: Context, lane: Queue, name: str, payload: bytes) -> None:
        account = name.removeprefix("visit:").partition("/")[0] if name.startswith("visit:") else ""
        job = Job(self._run(context, lane, name, payload), lane, account and f"{lane}:{account}")
        context.running_jobs.jobs.add(job)
        key = f"{lane} {name}"
        self.tasks[key] = task = self.loop.create_task(job)

        def end(_: asyncio.Task[None]) -> None:
            context.running_jobs.jobs.discard(job)
            if self.tasks.get(key) is task:  # the same job may have been claimed again when its lease ended
                del self.tasks[key]
            self._job_ended.set()

        task.add_done_callback(end)

    async def _run(self, context: Context, lane: Queue, job: str, payload: bytes) -> None:
        """An expired payload loses nothing: the work still stands in the ledger, and gets another job."""
        with _log_errors():
            if payload:
                await self._execute(context.counters, payload)
            self.jobs_complete += 1
            await context.ledger.ack(job, lane)

    async def _execute(self, tally: Counters, payload: bytes) -> None:
        name, arguments, _, _, queued_ms = deserialize_job_raw(payload, deserializer=self.job_deserializer)
        tally.observe(TASK_WAIT_S, seconds_since(queued_ms), name)
        started = time.monotonic()
        async with asyncio.timeout(self.job_timeout_s):  # in this task, whose moves are watched
            await self.functions[name].coroutine(self.ctx, *arguments)
        tally.observe(RUN_DURATION_S, time.monotonic() - started, name)

    async def close(self) -> None:
        """A job that was cancelled at last must not spoil the way out."""
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()
        await super().close()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _log_errors() -> Iterator[None]:
    """Nothing ends the process: what was not finished is claimed again when its lease ends."""
    try:
        yield
    except (RedisUnavailable, RedisError, OSError) as error:
        log.warning(
            "redis_unavailable", reason=str(error) if isinstance(error, RedisUnavailable) else type(error).__name__
        )
    except Exception:
        log.exception("unhandled_exception")
