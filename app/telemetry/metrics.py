"""/metrics, written by prometheus_client in Prometheus' text format or as OpenMetrics, as the scraper accepts. The counts
live in Redis, so that any process of any machine answers the same.
"""

import asyncio
import math
import os
import platform
from collections import defaultdict
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
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.redis import Redis, RedisUnavailable
from app.settings.model import Settings
from app.telemetry import counters, metric_names
from app.telemetry.health import WORKER_ALIVE_S, Backlog, load_backlog
from app.telemetry.metric_names import METRICS, MetricSpec

COUNTED_STATES = ("queued", "running", "waiting", "parked", "discarded")
#: Where platforms say which commit runs.
REVISION_VARIABLES = (
    "REVISION",
    "HEROKU_SLUG_COMMIT",
    "SOURCE_VERSION",
    "RENDER_GIT_COMMIT",
    "RAILWAY_GIT_COMMIT_SHA",
    "GIT_REV",
)

#: Of one signal: the values by labels.
Values = dict[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Exposition:
    """A collector of metric families that were read before: to read them is asynchronous, to write them is not."""

    families: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.families

    def encode(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type, for a request with this `Accept` header.

        The library's own `choose_encoder` raises TypeError for a version that is not a number.
        """
        if "application/openmetrics-text" in accept:
            return openmetrics.generate_latest(self), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4


async def snapshot(ledger: Ledger, settings: Settings) -> Exposition:
    """Everything that is measured; without Redis that is little."""
    known: dict[str, Values] = {metric_names.BUILD_INFO: {(__version__, _revision(), platform.python_version()): 1}}
    try:
        redis = ledger.redis
        live, counted = await asyncio.gather(_live_gauges(redis, settings), counters.totals(redis))
        known |= live | {metric_names.REDIS_UP: {(): 1}}
        counted = _zero_counts(settings) | counted
    except RedisUnavailable:
        known[metric_names.REDIS_UP], counted = {(): 0}, {}
    by_signal: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
    for field, count in counted.items():
        name, *labels = field.split("|")
        by_signal[name][tuple(labels)] = count
    return Exposition(list(_families(known, by_signal)))


def _zero_counts(settings: Settings) -> dict[str, int]:
    """Of what alarms look at: a count that first appears as five has not risen, as far as Prometheus can see."""
    sources = {hook.source.name for hook in settings.active_hooks.values()}
    return {
        f"{metric_names.REQUESTS}|{name}|{outcome}": 0 for name in sources for outcome in ("accepted", "bad_signature")
    }


def _revision() -> str:
    return next((os.environ[name][:40] for name in REVISION_VARIABLES if os.environ.get(name)), "")


async def _live_gauges(redis: Redis, settings: Settings) -> dict[str, Values]:
    accounts = await known_accounts(redis, settings.tokens or {"main": ""})
    active_hooks = settings.active_hooks.values()
    sizes, held, gates, lasts, refused, work, workers, info, clock = await asyncio.gather(
        _command_each(redis, COUNTED_STATES, "ZCARD", keys.TASK + "{}"),
        _command_each(redis, accounts, "ZCARD", keys.HELD + "{}"),
        _command_each(redis, accounts, "EXISTS", keys.CIRCUIT + "{}"),
        _command_each(
            redis, [hook.name for hook in active_hooks], "ZREVRANGE", keys.DELIVERIES + "{}", 0, 0, "WITHSCORES"
        ),
        redis.command("HGETALL", keys.REJECTIONS),
        load_backlog(redis, accounts),
        redis.command("ZREVRANGE", keys.WORKERS, 0, -1, "WITHSCORES"),
        redis.command("INFO"),
        redis.command("TIME"),
    )
    beats = [max(0.0, int(clock[0]) - float(beat) / 1000) for beat in workers[1::2]]
    told = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    last: dict[tuple[str, ...], float] = {}
    for hook, found in zip(active_hooks, lasts, strict=True):
        if found:
            source = (hook.source.name,)
            last[source] = max(last.get(source, 0), float(found[1]) / 1000)
    return {
        metric_names.TASKS: {(state,): size for state, size in zip(COUNTED_STATES, sizes, strict=True)}
        | {("held",): sum(held)},
        **_ages(work),
        metric_names.CIRCUIT_OPEN: {(account,): shut for account, shut in zip(accounts, gates, strict=True)},
        metric_names.LAST_ACCEPTED: last,
        metric_names.REJECTIONS: {(one.name, "signature_mismatch"): 0 for one in active_hooks}
        | dict(_rejection_counts(refused)),
        metric_names.WORKERS: {(): sum(age_s <= WORKER_ALIVE_S for age_s in beats)},
        metric_names.HEARTBEAT_AGE_S: {(): beats[0]} if beats else {},
        metric_names.REDIS_MEMORY_USED: {(): int(told["used_memory"])},
        metric_names.REDIS_MEMORY_MAX: {(): int(told.get("maxmemory", 0))},
        metric_names.REDIS_CLIENTS: {(): int(told["connected_clients"])},
    }


async def _command_each(redis: Redis, names: Iterable[str], command: str, key: str, *more: object) -> list[Any]:
    return list(await asyncio.gather(*(redis.command(command, key.format(name), *more) for name in names)))


def _ages(work: Backlog) -> dict[str, Values]:
    ages: Values = {(state,): round(age_s, 3) for state, age_s in work.ages_s.items()}
    return {metric_names.OLDEST_AGE_S: ages, metric_names.NO_PROGRESS_S: {(): round(work.no_progress_s, 3)}}


def _rejection_counts(flat: Sequence[bytes]) -> Iterator[tuple[tuple[str, ...], float]]:
    for field, count in zip(flat[::2], flat[1::2], strict=True):
        hook, _, reason = field.decode().rpartition(":")
        yield (hook, reason), int(count)


def _families(gauges: Mapping[str, Values], counted: Mapping[str, Mapping[tuple[str, ...], int]]) -> Iterator[Metric]:
    for name, signal in METRICS.items():
        if signal.kind == "histogram":
            yield _histogram_family(name, signal, counted.get(name, {}))
        else:
            yield _scalar_family(name, signal, gauges.get(name) or counted.get(name, {}))


def _scalar_family(name: str, signal: MetricSpec, values: Mapping[tuple[str, ...], float]) -> Metric:
    kind = CounterMetricFamily if signal.kind == "counter" else GaugeMetricFamily
    family = kind(name, signal.help, labels=signal.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram_family(name: str, signal: MetricSpec, counted: Mapping[tuple[str, ...], int]) -> Metric:
    family = HistogramMetricFamily(name, signal.help, labels=signal.labels)
    bounds = [floatToGoString(bound) for bound in (*signal.buckets, math.inf)]
    for labels in sorted({labels[:-1] for labels in counted}):
        by_bucket = [counted.get((*labels, str(bucket)), 0) for bucket in range(len(bounds))]
        cumulative = list(zip(bounds, accumulate(by_bucket), strict=True))
        family.add_metric(labels, cumulative, counted.get((*labels, "us"), 0) / 1e6)
    return family
