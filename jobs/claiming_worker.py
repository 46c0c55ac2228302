"""A subclass of arq's worker that claims, runs and acknowledges jobs through the ledger."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import arq.worker
import uvloop
from redis.exceptions import RedisError

from app.ledger.ids import TaskId
from app.ledger.records import Queue
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log
from app.telemetry.metric_names import RUN_DURATION_S, TASK_WAIT_S
from app.visits.client import RESPONSE_TIMEOUT_S
from jobs.arq_redis import redis_pool
from jobs.concurrency import Job
from jobs.context import RUN_TIMEOUT_S, Context
from jobs.queue_watch import QueueWatch
from jobs.startup import connect_to_redis

#: arq's own limit, which no run reaches (RUN_TIMEOUT_S). Ten seconds after it, another worker may claim the job.
JOB_TIMEOUT_S = RUN_TIMEOUT_S + RESPONSE_TIMEOUT_S + 2
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
#: The longest time by which an idle worker extends its poll delay.
MAX_IDLE_DELAY_S = 0.5
#: The longest wait of an idle worker for the report of a new job. Redis does not report that an older job becomes due.
MAX_IDLE_S = 0.5
#: How long a worker that stops waits for Redis.
CLOSE_TIMEOUT_S = 2.0


def idle_delay_s(poll_delay_s: float, worker_count: int) -> float:
    """Return how much longer than the poll delay an idle worker waits: all of them poll as often as one would."""
    return min(poll_delay_s * max(0, worker_count - 1), MAX_IDLE_DELAY_S)


class ClaimingWorker(arq.worker.Worker):
    """Claims many jobs in one round trip and acknowledges each in one, over the ledger's connection.

    arq needs six round trips per job.
    Running jobs do not block waiting ones, workers do not race for the same job, and a job is claimed as soon as there
    is capacity, not at the next poll. The format of the queue, the command line, signals, draining and the health check
    are arq's. Results and attempts are in the ledger, not in arq's keys.
    """

    # arq reads the names of its settings from this signature.
    @wraps(arq.worker.Worker.__init__)  # type: ignore[misc]
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        if not _is_loop_running():
            asyncio.set_event_loop(uvloop.new_event_loop())
            # uvloop would lose a signal that arrives after arq has added its handlers and before the loop runs.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        super().__init__(*arguments, **settings)
        self._job_ended = asyncio.Event()

    async def main(self) -> None:
        """Raise NoRedis if Redis does not answer. The pool is created afterwards; `close` also works without a pool."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self.ctx["client"] = await connect_to_redis(self.ctx["settings"])
        self._pool = redis_pool(self.ctx["client"])
        self._queue_watch = QueueWatch(Redis(self.ctx["client"].address))
        await super().main()

    async def _poll_iteration(self) -> None:
        more = True
        while more and self.allow_pick_jobs:
            more = await self._claim()
            if more:
                await self._wait_for_job_end()
            await self._beat()
        await self._beat()
        if not self.tasks:
            await self._wait_while_idle()

    async def _wait_while_idle(self) -> None:
        """Wait until a job may be due: a queue has changed, or time has passed."""
        self._queue_watch.start()
        # All workers claim when a job is queued, but not more often than they would without the watch.
        await asyncio.sleep(idle_delay_s(self.poll_delay_s, self.ctx["context"].running_jobs.worker_count))
        await self._queue_watch.wait(MAX_IDLE_S, self.poll_delay_s)

    async def _wait_for_job_end(self) -> None:
        """Wait until a job ends, or for the poll delay."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.poll_delay_s):
                await self._job_ended.wait()

    async def _beat(self) -> None:
        with _log_errors():
            await self.heart_beat()
        # redis-py calls asyncio.wait_for, which may lose a cancellation before Python 3.12: the worker would never stop.
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError

    async def _claim(self) -> bool:
        """Start as many jobs as there is capacity for. Return True if the queue may contain more."""
        context: Context = self.ctx["context"]
        self._job_ended.clear()
        capacity, full_shares = context.running_jobs.capacity(), context.running_jobs.full_shares()
        with _log_errors():
            jobs, more = await context.ledger.claim(capacity, self.in_progress_timeout_s, full_shares)
            for queue, job_id, due_ms in jobs:
                self._start(context, queue, job_id, due_ms)
            if jobs:
                self._queue_watch.stop()
            counts = Counter(queue for queue, _, _ in jobs)
            return more or any(counts[queue] == limit for queue, limit in capacity.items())
        return False

    def _start(self, context: Context, queue: Queue, job_id: str, due_ms: float) -> None:
        account = TaskId.of_job(job_id).account
        job = Job(self._run(context, queue, job_id, due_ms), queue, account and f"{queue}:{account}")
        context.running_jobs.jobs.add(job)
        key = f"{queue} {job_id}"
        self.tasks[key] = task = self.loop.create_task(job)

        def end(_: asyncio.Task[None]) -> None:
            context.running_jobs.jobs.discard(job)
            if self.tasks.get(key) is task:  # the same job may have been claimed again after its lease
                del self.tasks[key]
            self._job_ended.set()

        task.add_done_callback(end)

    async def _run(self, context: Context, queue: Queue, job_id: str, due_ms: float) -> None:
        with _log_errors():
            await self._execute(context, TaskId.of_job(job_id), due_ms)
            self.jobs_complete += 1
            await context.ledger.ack(job_id, queue)

    async def _execute(self, context: Context, task_id: TaskId, due_ms: float) -> None:
        context.counters.observe(TASK_WAIT_S, context.seconds_since(due_ms), task_id.kind)
        started = time.monotonic()
        async with asyncio.timeout(self.job_timeout_s):  # not a separate task: Job observes when this coroutine runs
            await self.functions[task_id.kind].coroutine(self.ctx, task_id)
        context.counters.observe(RUN_DURATION_S, time.monotonic() - started, task_id.kind)

    async def close(self) -> None:
        """Replace arq's, which waits for minutes if Redis is unavailable, and then does not call on_shutdown."""
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        if not self._pool:
            return
        # Jobs that were cancelled after the drain must not raise here.
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        with _log_errors():
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.pool.delete(self.health_check_key)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self._queue_watch.close()
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _log_errors() -> Iterator[None]:
    """Log exceptions and continue: an unfinished job is claimed again when its lease ends."""
    try:
        yield
    except (RedisUnavailable, RedisError, OSError) as error:
        log.warning(
            "redis_unavailable", reason=str(error) if isinstance(error, RedisUnavailable) else type(error).__name__
        )
    except Exception:
        log.exception("unhandled_exception")
