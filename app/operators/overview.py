"""Is all well? A sentence, and the numbers behind it."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from app.ledger.ledger import Ledger
from app.ledger.times import humanize, iso_timestamp
from app.operators.explain import Explain, Row
from app.operators.lists import FailureGroup, Lists
from app.settings.model import Settings
from app.telemetry import counters
from app.telemetry.health import (
    CIRCUIT_REASONS,
    STALE_AFTER_S,
    Backlog,
    Circuit,
    Worker,
    last_delivery_times,
    live_workers,
    load_backlog,
    open_circuits,
)
from app.webhooks.registry import source_title

CHART_HOURS = 24
#: What the chart shows, from the bottom up: at the door, and of the worker.
ARRIVED_OUTCOMES, REJECTED_OUTCOMES, PARKED_OUTCOMES = ("accepted", "repeat", "ignored"), ("rejected",), ("parked",)


@dataclass(frozen=True, slots=True)
class HookStats:
    """One hook. rate: accepted in the last 24 hours; refused_share: of all its requests, 0 to 1."""

    name: str
    source: str
    last: float | None
    accepted: int
    rejected: int

    @property
    def rejected_share(self) -> float:
        return self.rejected / (self.rejected + self.accepted) if self.rejected else 0.0


@dataclass(frozen=True, slots=True)
class HourStats:
    at: str
    arrived: int
    rejected: int
    parked: int

    @property
    def total(self) -> int:
        return self.arrived + self.rejected


@dataclass(slots=True)
class Overview:
    states: dict[str, int] = field(default_factory=dict)
    backlog: Backlog = field(default_factory=lambda: Backlog({}, 0))
    circuits: list[Circuit] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    hooks: list[HookStats] = field(default_factory=list)
    hours: list[HourStats] = field(default_factory=list)
    groups: list[FailureGroup] = field(default_factory=list)
    memory_bytes: int = 0
    memory_limit_bytes: int = 0

    @property
    def last_delivery_ms(self) -> float | None:
        return max((hook.last for hook in self.hooks if hook.last), default=None)

    @property
    def memory_share(self) -> float:
        return self.memory_bytes / self.memory_limit_bytes if self.memory_limit_bytes else 0.0

    def status(self) -> tuple[str, str]:
        """(`bad`, `warn`, `new` or `good`, a sentence): the worst of what is the matter."""
        waiting = sum(self.states[state] for state in ("queued", "waiting", "held"))
        if not self.workers and (waiting or self.last_delivery_ms):
            return (
                "bad",
                f"No worker is running: deliveries are accepted, but wait. {_changes_wait(waiting)} to be done.",
            )
        if shut := [gate for gate in self.circuits if not gate.is_paused]:
            gate = shut[0]
            why = CIRCUIT_REASONS.get(gate.reason, gate.reason)
            return "bad", f"The Visits API {why}. {_changes_wait(gate.held)} until it recovers; nothing is lost."
        if self.memory_share > 0.9:
            return "bad", f"Redis is {self.memory_share:.0%} full. When it is full, tools are asked to come back later."
        if self.backlog.is_stalled:
            return (
                "bad",
                f"Work is due, and for {humanize(self.backlog.no_progress_s)} nothing came to an end: restart the workers.",
            )
        if self.circuits:
            gate = self.circuits[0]
            return (
                "warn",
                f"Paused by an operator: {_changes_wait(gate.held)} for the account {gate.account}. Nothing is lost.",
            )
        if self.states["parked"]:
            return "warn", _failures_need_operator(self.states["parked"], self.groups)
        if self.backlog.oldest_s > STALE_AFTER_S:
            return (
                "warn",
                f"The oldest due work has waited for {humanize(self.backlog.oldest_s)}; the workers do not keep up.",
            )
        if not self.hooks:
            return "new", "No hook is configured yet: nobody can ring."
        if self.last_delivery_ms is None:
            return "new", "Everything is ready. Waiting for the first delivery."
        ago = humanize(time.time() - self.last_delivery_ms / 1000)
        done = "nothing waits" if not waiting else f"{waiting:,} on their way"
        return "good", f"All is well. The last delivery came {ago} ago, {done}."

    def to_dict(self) -> Row:
        """All of it, with times in ISO 8601."""
        level, sentence = self.status()
        return {
            "status": level,
            "summary": sentence,
            "last_delivery": iso_timestamp(self.last_delivery_ms),
            "oldest_due_s": round(self.backlog.oldest_s, 1),
            "redis_bytes": self.memory_bytes,
            "redis_limit_bytes": self.memory_limit_bytes or None,
            "states": self.states,
            "failures": [
                asdict(one) | {"first": iso_timestamp(one.first), "last": iso_timestamp(one.last)}
                for one in self.groups
            ],
            "circuits": [asdict(gate) for gate in self.circuits],
            "hooks": [asdict(hook) | {"last": iso_timestamp(hook.last)} for hook in self.hooks],
            "workers": [worker.to_dict() for worker in self.workers],
            "hours": [asdict(hour) for hour in self.hours],
        }


def _changes_wait(count: int) -> str:
    return f"{count:,} change waits" if count == 1 else f"{count:,} changes wait"


def _failures_need_operator(count: int, groups: Sequence[FailureGroup]) -> str:
    needs = "One failure needs" if count == 1 else f"{count:,} failures need"
    since = min(group.first for group in groups) if groups else 0
    age = f"The first came {humanize(time.time() - since / 1000)} ago."
    if len(groups) == 1:
        return f"{needs} you: {groups[0].reason}, from {source_title(groups[0].source)}. {age}"
    return f"{needs} you, most often for {groups[0].reason}. {age}" if groups else f"{needs} you."


async def load_overview(ledger: Ledger, settings: Settings) -> Overview:
    """Raises RedisUnavailable."""
    redis, lists = ledger.redis, Lists(ledger, settings, Explain(ledger, settings))
    states, groups, hours, workers, overdue, memory, lasts, gates = await asyncio.gather(
        lists.count_by_state(),
        lists.group_by_reason(),
        counters.hourly_counts(redis, CHART_HOURS),
        live_workers(redis),
        load_backlog(redis, settings.tokens or {"main": ""}),
        redis.command("INFO", "memory"),
        last_delivery_times(redis, settings),
        open_circuits(redis, settings),
    )
    told = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    return Overview(
        states=states,
        backlog=overdue,
        circuits=gates,
        workers=workers,
        hooks=[_hook(name, hook.source.name, lasts[name], hours) for name, hook in settings.active_hooks.items()],
        hours=[_hour(at, counts) for at, counts in hours],
        groups=groups,
        memory_bytes=int(told["used_memory"]),
        memory_limit_bytes=int(told.get("maxmemory", 0)),
    )


def _hook(
    name: str, source: str, last: float | None, hours: Sequence[tuple[int, Counter[tuple[str, str]]]]
) -> HookStats:
    arrived = sum(counts[name, outcome] for _, counts in hours for outcome in ARRIVED_OUTCOMES)
    return HookStats(name, source, last, arrived, sum(counts[name, "rejected"] for _, counts in hours))


def _hour(hour: int, counts: Counter[tuple[str, str]]) -> HourStats:
    def of(*outcomes: str) -> int:
        return sum(count for (_, outcome), count in counts.items() if outcome in outcomes)

    return HourStats(
        iso_timestamp(hour * counters.HOUR_S * 1000) or "",
        of(*ARRIVED_OUTCOMES),
        of(*REJECTED_OUTCOMES),
        of(*PARKED_OUTCOMES),
    )
