"""Renders /metrics with prometheus_client, in Prometheus' text format or as OpenMetrics.

The counts are in Redis, so every process reports the same values.
"""

import asyncio
import math
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.utils import floatToGoString

from app import __version__
from app.ledger import keys
from app.ledger.connection_states import HEALTH
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.losses import Losses
from app.ledger.redis import Redis, RedisUnavailable
from app.settings.model import Settings
from app.telemetry import counters, metric_names
from app.telemetry.connections import load_connections
from app.telemetry.health import WORKER_ALIVE_S, Backlog, load_backlog, write_problem
from app.telemetry.metric_names import METRICS, MetricSpec
from app.telemetry.payload_watch import payload_changes
from app.telemetry.silence import bad_signatures

COUNTED_STATES = ("queued", "running", "waiting", "parked", "discarded")
#: The variables in which hosting platforms name the deployed commit.
REVISION_VARIABLES = (
    "REVISION",
    "HEROKU_SLUG_COMMIT",
    "SOURCE_VERSION",
    "RENDER_GIT_COMMIT",
    "RAILWAY_GIT_COMMIT_SHA",
    "GIT_REV",
)

#: The values of one metric by labels.
Values = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Exposition:
    """A collector of metric families that are read in advance: reading is asynchronous, collecting is not."""

    families: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.families

    def encode(self, accept: str = "") -> tuple[bytes, str]:
        """Return the body and its content type for a request with this `Accept` header.

        The library's own `choose_encoder` raises TypeError for a version that is not a number.
        """
        if "application/openmetrics-text" in accept:
            return openmetrics.generate_latest(self), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4


async def snapshot(ledger: Ledger, settings: Settings) -> Exposition:
    """Read all metrics; without Redis, only those that do not need it."""
    gauges: dict[str, Values] = {metric_names.BUILD_INFO: {(__version__, _revision(), platform.python_version()): 1}}
    try:
        redis = ledger.redis
        live, totals, problem = await asyncio.gather(
            _live_gauges(redis, settings), counters.totals(redis), write_problem(redis)
        )
        gauges |= live | {metric_names.REDIS_UP: {(): not problem}}
        totals = _zero_counts(settings) | totals
    except RedisUnavailable:
        gauges[metric_names.REDIS_UP], totals = {(): 0}, {}
    counts: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
    for field, count in totals.items():
        name, *labels = field.split("|")
        counts[name][tuple(labels)] = count
    return Exposition(list(_metrics(gauges, counts, {"cell": settings.cell} if settings.cell else {})))


def _zero_counts(settings: Settings) -> dict[str, int]:
    """Return zeros for counters of requests: Prometheus sees no increase in a counter that first appears as 5."""
    sources = {hook.source.name for hook in settings.active_hooks.values()}
    return {
        f"{metric_names.REQUESTS}|{name}|{outcome}": 0 for name in sources for outcome in ("accepted", "bad_signature")
    }


def _revision() -> str:
    return next((os.environ[name][:40] for name in REVISION_VARIABLES if os.environ.get(name)), "")


async def _live_gauges(redis: Redis, settings: Settings) -> dict[str, Values]:
    accounts = await known_accounts(redis, settings.tokens or {"main": ""})
    active_hooks = settings.active_hooks.values()
    (
        sizes,
        held,
        circuits,
        newest_deliveries,
        rejections,
        backlog,
        workers,
        changes,
        connections,
        wrong,
        lost,
        server,
        clock,
    ) = await asyncio.gather(
        _command_each(redis, COUNTED_STATES, "ZCARD", keys.STATE + "{}"),
        _command_each(redis, accounts, "ZCARD", keys.HELD + "{}"),
        _command_each(redis, accounts, "EXISTS", keys.CIRCUIT + "{}"),
        _command_each(
            redis, [hook.name for hook in active_hooks], "ZREVRANGE", keys.DELIVERIES + "{}", 0, 0, "WITHSCORES"
        ),
        redis.command("HGETALL", keys.REJECTIONS),
        load_backlog(redis, accounts),
        redis.command("ZREVRANGE", keys.WORKERS, 0, -1, "WITHSCORES"),
        payload_changes(redis, is_open=True),
        load_connections(redis, settings),
        asyncio.gather(*(bad_signatures(redis, hook.name) for hook in active_hooks)),
        Losses(redis).lost_visits(),
        redis.info(),
        redis.command("TIME"),
    )
    heartbeat_ages_s = [max(0.0, int(clock[0]) - float(beat) / 1000) for beat in workers[1::2]]
    last_accepted: dict[tuple[str, ...], float] = {}
    for hook, newest in zip(active_hooks, newest_deliveries, strict=True):
        if newest:
            source = (hook.source.name,)
            last_accepted[source] = max(last_accepted.get(source, 0), float(newest[1]) / 1000)
    return {
        metric_names.TASKS: {(state,): size for state, size in zip(COUNTED_STATES, sizes, strict=True)}
        | {("held",): sum(held)},
        **_ages(backlog),
        metric_names.CIRCUIT_OPEN: {(account,): is_open for account, is_open in zip(accounts, circuits, strict=True)},
        metric_names.LAST_ACCEPTED: last_accepted,
        metric_names.CONNECTION_STATE: {
            (each.hook, health): each.state == health for each in connections for health in HEALTH
        },
        metric_names.HOOK_SILENT: {(each.hook,): each.is_silent for each in connections},
        metric_names.HOOK_BAD_SIGNATURES: {
            (hook.name,): count for hook, count in zip(active_hooks, wrong, strict=True)
        },
        metric_names.REJECTIONS: {(hook.name, "signature_mismatch"): 0 for hook in active_hooks}
        | dict(_rejection_counts(rejections)),
        metric_names.WORKERS: {(): sum(age_s <= WORKER_ALIVE_S for age_s in heartbeat_ages_s)},
        metric_names.HEARTBEAT_AGE_S: {(): heartbeat_ages_s[0]} if heartbeat_ages_s else {},
        metric_names.PAYLOAD_CHANGES: {(hook.source.name,): 0 for hook in active_hooks}
        | dict(Counter((change.source,) for change in changes)),
        metric_names.LOST_VISITS: {(): len(lost)},
        metric_names.REDIS_MEMORY_USED: {(): int(server["used_memory"])},
        metric_names.REDIS_MEMORY_MAX: {(): int(server.get("maxmemory", 0))},
        metric_names.REDIS_CLIENTS: {(): int(server["connected_clients"])},
    }


async def _command_each(redis: Redis, names: Iterable[str], command: str, key: str, *arguments: object) -> list[Any]:
    return list(await asyncio.gather(*(redis.command(command, key.format(name), *arguments) for name in names)))


def _ages(backlog: Backlog) -> dict[str, Values]:
    ages: Values = {(state,): round(age_s, 3) for state, age_s in backlog.ages_s.items()}
    return {metric_names.OLDEST_AGE_S: ages, metric_names.NO_PROGRESS_S: {(): round(backlog.no_progress_s, 3)}}


def _rejection_counts(flat: Sequence[bytes]) -> Iterator[tuple[tuple[str, ...], float]]:
    for field, count in zip(flat[::2], flat[1::2], strict=True):
        hook, _, reason = field.decode().rpartition(":")
        yield (hook, reason), int(count)


def _metrics(
    gauges: Mapping[str, Values], counts: Mapping[str, Mapping[tuple[str, ...], int]], common: Mapping[str, str]
) -> Iterator[Metric]:
    """Yield all metrics. common: the labels that all of them have."""
    for name, spec in METRICS.items():
        if spec.kind == "histogram":
            yield _histogram(name, spec, counts.get(name, {}), common)
        else:
            yield _counter_or_gauge(name, spec, gauges.get(name) or counts.get(name, {}), common)


def _counter_or_gauge(
    name: str, spec: MetricSpec, values: Mapping[tuple[str, ...], float], common: Mapping[str, str]
) -> Metric:
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    metric = kind(name, spec.help, labels=(*spec.labels, *common))
    for labels, value in sorted(values.items()):
        metric.add_metric((*labels, *common.values()), value)
    return metric


def _histogram(name: str, spec: MetricSpec, counts: Mapping[tuple[str, ...], int], common: Mapping[str, str]) -> Metric:
    metric = HistogramMetricFamily(name, spec.help, labels=(*spec.labels, *common))
    bounds = [floatToGoString(bound) for bound in (*spec.buckets, math.inf)]
    for labels in sorted({labels[:-1] for labels in counts}):
        by_bucket = [counts.get((*labels, str(bucket)), 0) for bucket in range(len(bounds))]
        cumulative = list(zip(bounds, accumulate(by_bucket), strict=True))
        metric.add_metric((*labels, *common.values()), cumulative, counts.get((*labels, "us"), 0) / 1e6)
    return metric
