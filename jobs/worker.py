"""arq's worker: `arq jobs.worker.WorkerSettings`.

arq's defaults that would lose or delay work are set here; the reasons stand beside them.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import arq.worker
import uvloop
from arq import func
from arq.connections import ArqRedis, RedisSettings
from arq.jobs import deserialize_job_raw
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.ledger.jobs_contract import EVENT, QUEUE, VISIT, deserialize, serialize
from app.ledger.ledger import Ledger
from app.ledger.records import Lane
from app.ledger.redis import Address, Distrusted, Redis, RedisDown
from app.settings.environment import SettingsError, read
from app.settings.model import Settings
from app.telemetry import logs, tracing
from app.telemetry.counters import Tally
from app.telemetry.logs import log
from app.telemetry.metric_names import JOB_TOOK_S, JOB_WAIT_S
from app.visits.client import ANSWER_S, http_client
from jobs import apply, fetch
from jobs.context import JOB_S, Context, since_s
from jobs.places import IN_FLIGHT, Job
from jobs.sweep import keep_sweeping
from jobs.tokens import EXCHANGE_S

#: arq's own limit. A job has its own, shorter one (JOB_S), so that this never fires; ten seconds after it, a job that a
#: dead worker left is claimed by another.
JOB_LIMIT_S = JOB_S + ANSWER_S + 2
#: A Redis that is not there yet, in a deploy or after a restart, is waited for so long.
REACH_S = 30


class ClaimingWorker(arq.worker.Worker):
    """arq's worker with another way to claim, run and finish a job: one round trip for many claims and one to finish,
    over the connection that the ledger uses, instead of six for each job.

    Running jobs do not stand in front of waiting ones, workers do not race for the same job, and the next jobs are
    claimed when a place is free and not at the next poll. The queue's format, the command line, signals, waiting for
    running jobs and the health check are arq's. There are no results and no tries: the ledger has both.
    """

    @cached_property
    def _ended(self) -> asyncio.Event:
        return asyncio.Event()  # not in __init__, whose signature is what arq reads settings by

    async def _poll_iteration(self) -> None:
        more = True
        while more and self.allow_pick_jobs:
            more = await self._claim()
            if more:
                await self._next_end()
            await self._look_around()
        await self._look_around()

    async def _next_end(self) -> None:
        """Of a job since the last claim, or of the time between two looks."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.poll_delay_s):
                await self._ended.wait()

    async def _look_around(self) -> None:
        with _surviving():
            await self.heart_beat()

    async def _claim(self) -> bool:
        """Start what there is room for; True if there may be more than there was room for."""
        context: Context = self.ctx["context"]
        places = context.places
        self._ended.clear()
        room = places.room()
        with _surviving():
            claimed = await context.ledger.claim(room, self.in_progress_timeout_s, places.full())
            for lane, job, payload in claimed:
                self._start(context, lane, job, payload)
            full = Counter(lane for lane, _, _ in claimed)
            return any(full[lane] == places for lane, places in room.items())
        return False

    def _start(self, context: Context, lane: Lane, name: str, payload: bytes) -> None:
        account = name.removeprefix("visit:").partition("/")[0] if name.startswith("visit:") else ""
        job = Job(self._run(context, lane, name, payload), lane, account and f"{lane}:{account}")
        context.places.jobs.add(job)
        key = f"{lane} {name}"
        self.tasks[key] = task = self.loop.create_task(job)

        def end(_: asyncio.Task[None]) -> None:
            context.places.jobs.discard(job)
            if self.tasks.get(key) is task:  # the same job may have been claimed again when its lease ended
                del self.tasks[key]
            self._ended.set()

        task.add_done_callback(end)

    async def _run(self, context: Context, lane: Lane, job: str, payload: bytes) -> None:
        """An expired payload loses nothing: the work still stands in the ledger, and gets another job."""
        with _surviving():
            if payload:
                await self._errand(context.tally, payload)
            self.jobs_complete += 1
            await context.ledger.ran(job, lane)

    async def _errand(self, tally: Tally, payload: bytes) -> None:
        name, arguments, _, _, queued_ms = deserialize_job_raw(payload, deserializer=self.job_deserializer)
        tally.observe(JOB_WAIT_S, since_s(queued_ms), name)
        began = time.monotonic()
        async with asyncio.timeout(self.job_timeout_s):  # in this task, whose moves are watched
            await self.functions[name].coroutine(self.ctx, *arguments)
        tally.observe(JOB_TOOK_S, time.monotonic() - began, name)

    async def close(self) -> None:
        """A job that was cancelled at last must not spoil the way out."""
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()
        await super().close()


@contextmanager
def _surviving() -> Iterator[None]:
    """Nothing ends the process: what was not finished is claimed again when its lease ends."""
    try:
        yield
    except (RedisDown, RedisError, OSError) as error:
        log.warning("redis down", reason=str(error) if isinstance(error, RedisDown) else type(error).__name__)
    except Exception:
        log.exception("bug")


#: arq's command line makes whatever stands under this name in its module; it offers no other way to bring a worker.
arq.worker.Worker = ClaimingWorker  # type: ignore[misc]


async def start(ctx: dict[Any, Any]) -> None:
    settings: Settings = ctx["settings"]
    logs.configure(settings)  # here, because arq's command line has just set up its own
    tracing.start("worker")
    redis = Redis(Address.of(settings))
    ledger = Ledger(redis, settings.retention_days, settings.body_keys)
    ctx["context"] = Context(settings, ledger, http_client(IN_FLIGHT))
    ctx["sweeping"] = asyncio.create_task(keep_sweeping(ctx["context"]))


async def stop(ctx: dict[Any, Any]) -> None:
    ctx["sweeping"].cancel()
    with suppress(asyncio.CancelledError):
        await ctx["sweeping"]
    if exchanges := ctx["context"].exchanges:
        await asyncio.wait(exchanges, timeout=EXCHANGE_S)
    await ctx["context"].tally.flush(ctx["context"].ledger.redis)
    await ctx["context"].http.aclose()
    await ctx["context"].ledger.redis.close()


def worker_settings(settings: Settings) -> dict[str, Any]:
    return {
        "functions": [func(apply.visit, name=VISIT), func(fetch.event, name=EVENT)],
        "queue_name": QUEUE,
        "redis_pool": _pool(settings),
        "redis_settings": _where(settings),  # for `arq --check`, which knows no pool
        "ctx": {"settings": settings},
        "on_startup": start,
        "on_shutdown": stop,
        "max_jobs": IN_FLIGHT,
        "poll_delay": 0.05,
        "job_timeout": JOB_LIMIT_S,
        # On SIGTERM: pick nothing up, and let what runs come to its end; platforms kill after 30 s.
        "job_completion_wait": 25,
        # Tries are ours to count; arq would delete the job after its own number of them, deploys included.
        "max_tries": 1_000_000,
        # A kept result would refuse a replay under the same id.
        "keep_result": 0,
        "log_results": False,
        "expires_extra_ms": 30 * 86_400_000,
        "health_check_interval": 10,
        "job_serializer": serialize,
        "job_deserializer": deserialize,
    }


def _pool(settings: Settings) -> ArqRedis:
    """arq's own connections: with an answer in bounded time, and through a restart of Redis."""
    address = Address.of(settings)
    tls: Mapping[str, Any] = {"ssl_cert_reqs": "required" if address.verify else "none"} if address.is_tls else {}
    pool: ConnectionPool = ConnectionPool.from_url(
        address.url,
        socket_timeout=5,
        socket_connect_timeout=5,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
        max_connections=4,
        **tls,
    )
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=deserialize, default_queue_name=QUEUE)


def _where(settings: Settings) -> RedisSettings:
    address = Address.of(settings)
    parts = address.parts
    return RedisSettings(
        host=parts.get("host", "localhost"),
        port=parts.get("port", 6379),
        unix_socket_path=parts.get("path"),
        database=parts.get("db", 0),
        username=parts.get("username"),
        password=parts.get("password"),
        ssl=address.is_tls,
        ssl_cert_reqs="required" if address.verify else "none",
    )


def _start() -> dict[str, Any]:
    """Refuses to start with every problem at once, as sentences and not as a traceback."""
    try:
        settings = read(token_needed=True)
    except SettingsError as error:
        print(f"doorbell worker cannot start:\n{error}", file=sys.stderr)
        sys.exit(3)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_reach(Redis(Address.of(settings))))
    except RedisDown as error:
        print(f"doorbell worker cannot start:\n{error}", file=sys.stderr)
        sys.exit(4)
    return worker_settings(settings)


async def _reach(redis: Redis) -> None:
    """Raises RedisDown where Redis has not answered within REACH_S; arq would end with a traceback."""
    until = time.monotonic() + REACH_S
    try:
        while True:
            try:
                await redis.command("PING")
                return
            except RedisDown as error:
                if isinstance(error, Distrusted) or time.monotonic() > until:
                    raise
            await asyncio.sleep(0.5)
    finally:
        await redis.close()


def __getattr__(name: str) -> dict[str, Any]:
    """`WorkerSettings` is made when arq asks for it, so that importing this module needs no settings."""
    if name == "WorkerSettings":
        return _start()
    raise AttributeError(name)
