"""Starts the worker: `python -m jobs`, or `arq jobs.worker.WorkerSettings`.

The settings override defaults of arq that would lose or delay tasks.
"""

import asyncio
import gc
from contextlib import suppress
from typing import Any

import arq.worker
from arq import func

from app.connections.tokens import EXCHANGE_TIMEOUT_S
from app.ledger import keys, scripts
from app.ledger.ids import EVENT, VISIT
from app.ledger.ledger import Ledger
from app.ledger.redis import RedisUnavailable
from app.settings.model import Settings
from app.telemetry import logs, tracing
from app.telemetry.logs import log
from app.visits.client import http_client
from jobs import apply_visit, translate_event
from jobs.arq_redis import redis_settings
from jobs.claiming_worker import JOB_TIMEOUT_S, ClaimingWorker
from jobs.concurrency import MAX_IN_FLIGHT
from jobs.context import Context
from jobs.maintenance import run_maintenance
from jobs.startup import check_arq_version, read_settings

#: Allocations between two garbage collections of the youngest generation; Python's default is 700.
GC_THRESHOLD = 20_000


def run() -> None:
    """Run until a signal. Raises CannotStart."""
    check_arq_version()
    ClaimingWorker(**worker_settings(read_settings())).run()


def __getattr__(name: str) -> dict[str, Any]:
    """Return `WorkerSettings`, for `arq jobs.worker.WorkerSettings`. Raises CannotStart.

    arq's command line creates an `arq.worker.Worker`, and has no setting for another class. Therefore reading this
    attribute replaces that class; starting with `run` does not.
    """
    if name != "WorkerSettings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_arq_version()
    settings = worker_settings(read_settings())
    arq.worker.Worker = ClaimingWorker  # type: ignore[misc]
    return settings


async def on_startup(ctx: dict[Any, Any]) -> None:
    settings: Settings = ctx["settings"]
    logs.configure(settings)  # arq's command line has already configured logging
    logs.warn_of_unknown_variables()
    tracing.configure("worker")
    scripts.check_callers()
    ledger = Ledger(ctx["client"], settings.retention_days, settings.body_keys)
    await ledger.record_schema()
    await ledger.record_accounts(settings.all_accounts)
    ctx["context"] = Context(settings, ledger, http_client(MAX_IN_FLIGHT))
    await ctx["context"].stored_hooks.discover()
    ctx["maintenance"] = asyncio.create_task(run_maintenance(ctx["context"]))
    gc.freeze()  # full collections of the objects from the start would take a twentieth of the time
    gc.set_threshold(GC_THRESHOLD)
    log.info("worker_started", accounts=sorted(settings.tokens))


async def on_shutdown(ctx: dict[Any, Any]) -> None:
    ctx["maintenance"].cancel()
    with suppress(asyncio.CancelledError):
        await ctx["maintenance"]
    if exchanges := ctx["context"].token_exchanges:
        await asyncio.wait(exchanges, timeout=EXCHANGE_TIMEOUT_S)
    with suppress(RedisUnavailable):
        await ctx["context"].counters.flush(ctx["context"].ledger.redis)
    await ctx["context"].http.aclose()
    await ctx["context"].ledger.redis.close()
    log.info("worker_stopped")


def worker_settings(settings: Settings) -> dict[str, Any]:
    return {
        "functions": [func(apply_visit.visit_job, name=VISIT), func(translate_event.event_job, name=EVENT)],
        "queue_name": keys.VISITS_QUEUE,
        "redis_settings": redis_settings(settings),
        "ctx": {"settings": settings},
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "max_jobs": MAX_IN_FLIGHT,
        "poll_delay": 0.025,
        "job_timeout": JOB_TIMEOUT_S,
        # On SIGTERM, claim no jobs and let running ones end; platforms send SIGKILL after 30 s.
        "job_completion_wait": 25,
        # The ledger counts attempts. arq counts interrupted runs too, and deletes a job after max_tries.
        "max_tries": 1_000_000,
        # A stored result would prevent a replay, whose job has the same id.
        "keep_result": 0,
        "log_results": False,
        "health_check_interval": 10,
    }
