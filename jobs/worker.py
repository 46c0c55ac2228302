"""arq's worker: `arq jobs.worker.WorkerSettings`.

arq's defaults that would lose or delay work are set here; the reasons stand beside them.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import arq.worker
import uvloop
from arq import func
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.ledger.jobs_contract import EVENT, QUEUE, VISIT, deserialize, serialize
from app.ledger.ledger import Ledger
from app.ledger.redis import Address, Distrusted, Redis, RedisDown
from app.settings.environment import SettingsError, read
from app.settings.model import Settings
from app.telemetry import logs, tracing
from app.visits.client import http_client
from jobs import apply_visit, translate_event
from jobs.claiming_worker import JOB_LIMIT_S, ClaimingWorker
from jobs.context import Context
from jobs.maintenance import keep_sweeping
from jobs.places import IN_FLIGHT
from jobs.tokens import EXCHANGE_S

#: A Redis that is not there yet, in a deploy or after a restart, is waited for so long.
REACH_S = 30


#: arq's command line makes whatever stands under this name in its module; it offers no other way to bring a worker.
arq.worker.Worker = ClaimingWorker  # type: ignore[misc]


async def start(ctx: dict[Any, Any]) -> None:
    settings: Settings = ctx["settings"]
    logs.configure(settings)  # here, because arq's command line has just set up its own
    tracing.start("worker")
    redis = Redis(Address.of(settings.redis_url, settings.redis_tls_verify))
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
        "functions": [func(apply_visit.visit, name=VISIT), func(translate_event.event, name=EVENT)],
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
    address = Address.of(settings.redis_url, settings.redis_tls_verify)
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
    address = Address.of(settings.redis_url, settings.redis_tls_verify)
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
        loop.run_until_complete(_reach(Redis(Address.of(settings.redis_url, settings.redis_tls_verify))))
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
