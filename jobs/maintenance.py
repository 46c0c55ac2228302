"""Periodic steps of every worker: due tasks, orphans, circuits, trimming, hooks, operations, alerts, counters, heartbeat."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import orjson

from app.connections.catch_up import CatchUpRunner
from app.connections.guard import Guard
from app.ledger import keys
from app.ledger.cleanup import trim_deliveries
from app.ledger.ids import new_token
from app.ledger.ledger import known_accounts
from app.ledger.redis import RedisUnavailable
from app.operators.account_moves import configuration_of
from app.operators.loss_audit import LossAudit
from app.operators.operations import Operations
from app.telemetry.alerts import AlertMonitor
from app.telemetry.counters import FLUSH_EVERY_S
from app.telemetry.health import host_name
from app.telemetry.logs import log
from app.telemetry.payload_watch import WATCH_EVERY_S, PayloadWatch
from jobs.context import Context

REQUEUE_EVERY_S = 0.5
CIRCUITS_EVERY_S = 0.5
PROBE_POLLS, PROBE_POLL_S = 9, 0.05
ORPHANS_EVERY_S = 20.0
OPERATIONS_EVERY_S = 0.5
CONNECTIONS_EVERY_S, CATCH_UPS_EVERY_S = 1.0, 1.0
TRIM_EVERY_S = 60.0
LOSSES_EVERY_S = 5.0
HEARTBEAT_EVERY_S, HEARTBEAT_TTL_MS = 10.0, 30_000


async def run_maintenance(context: Context) -> None:
    """Run until cancelled. Every worker runs all steps; once one has run a step, the others find nothing to do."""
    async with (
        aclosing(Guard(context, context.stored_hooks)) as guard,
        aclosing(CatchUpRunner(context, context.stored_hooks)) as catch_ups,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_every(REQUEUE_EVERY_S, lambda: _requeue_due(context)))
        group.create_task(_every(CIRCUITS_EVERY_S, lambda: _release_held_tasks(context)))
        group.create_task(_every(ORPHANS_EVERY_S, lambda: _requeue_orphans(context)))
        group.create_task(_every(TRIM_EVERY_S, lambda: _trim(context)))
        group.create_task(context.stored_hooks.follow())
        group.create_task(_every(CONNECTIONS_EVERY_S, guard.check_due))
        group.create_task(_every(CATCH_UPS_EVERY_S, catch_ups.run_next))
        group.create_task(_every(TRIM_EVERY_S, catch_ups.start_daily))
        group.create_task(_every(TRIM_EVERY_S, catch_ups.restart_failed))
        operations = Operations(context.ledger, context.settings)
        group.create_task(_every(OPERATIONS_EVERY_S, operations.run_next))
        losses = LossAudit(context.ledger, context.settings, context.http)
        group.create_task(_every(LOSSES_EVERY_S, losses.step))
        watch = PayloadWatch(context.ledger, context.settings, context.payload_samples)
        group.create_task(_every(WATCH_EVERY_S, watch.step))
        group.create_task(_every(HEARTBEAT_EVERY_S, Heartbeat(context).beat))
        group.create_task(AlertMonitor(context.ledger.redis, context.settings).run(is_worker=True))
        group.create_task(_every(FLUSH_EVERY_S, lambda: context.counters.flush(context.ledger.redis)))


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except RedisUnavailable as error:
            log.warning("redis_unavailable", reason=str(error))
        except Exception:
            log.exception("unhandled_exception")
        await asyncio.sleep(seconds)


async def _requeue_due(context: Context) -> None:
    await context.ledger.redis.compare_clocks()
    while await context.ledger.requeue_due() >= 200:
        pass


async def _release_held_tasks(context: Context) -> None:
    """Release held tasks of all accounts. A single one may be a probe: if it succeeds soon, release the others, too."""
    accounts = await known_accounts(context.ledger.redis, context.settings.tokens)
    probing = [account for account in accounts if await _release_held(context, account) == 1]
    for _ in range(PROBE_POLLS):
        if not probing:
            return
        await asyncio.sleep(PROBE_POLL_S)
        probing = [account for account in probing if not await _release_held(context, account)]


async def _release_held(context: Context, account: str) -> int:
    if account not in context.settings.tokens:
        await context.ledger.delete_circuit(account)
    return await context.ledger.release_held(account, calls_per_second=context.settings.visits_api_rate)


async def _requeue_orphans(context: Context) -> None:
    offset = 0
    while offset >= 0:
        requeued, offset = await context.ledger.requeue_orphans(offset)
        if requeued:
            log.warning("orphans_requeued", tasks=requeued)


async def _trim(context: Context) -> None:
    if trimmed := await trim_deliveries(context.ledger):
        log.info("deliveries_trimmed", deliveries=trimmed)


class Heartbeat:
    """Writes `bell:worker:<id>` with host, process id, start time and configuration, and adds the key to `bell:workers`."""

    def __init__(self, context: Context) -> None:
        self._ledger, self._settings, self._running_jobs = context.ledger, context.settings, context.running_jobs
        self._key = f"{keys.WORKER}{new_token()}"
        self._process = {"host": host_name(), "pid": os.getpid(), "since": int(time.time() * 1000)}

    async def beat(self) -> None:
        report = orjson.dumps(self._process | {"configuration": configuration_of(self._settings)})
        self._running_jobs.worker_count = await self._ledger.heartbeat(self._key, report, HEARTBEAT_TTL_MS)
