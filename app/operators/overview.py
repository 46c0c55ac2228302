"""The overview: the state of Doorbell in one sentence, with the numbers behind it."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.losses import Losses
from app.ledger.moves import Mark, load_marks
from app.ledger.reasons import find_reason
from app.ledger.redis import Redis
from app.ledger.times import humanize, iso_timestamp
from app.operators.explain import Explain, Row
from app.operators.lists import FailureGroup, Lists
from app.operators.problems import Level, Problem
from app.settings.model import Settings
from app.telemetry import counters
from app.telemetry.alert_rules import MIN_BAD_SIGNATURES
from app.telemetry.connections import HookConnection, load_connections
from app.telemetry.health import (
    CIRCUIT_REASONS,
    STALE_AFTER_S,
    Backlog,
    Circuit,
    Worker,
    live_workers,
    load_backlog,
    open_circuits,
)
from app.telemetry.payload_watch import PayloadChange, payload_changes
from app.telemetry.rejections import mismatch_times
from app.telemetry.silence import last_delivery_times
from app.webhooks.registry import source_title

#: An hour since 1970, and its counts by hook and outcome.
HourlyCounts = tuple[int, Counter[tuple[str, str]]]
CHART_HOURS = 24
#: The outcomes that each series of the chart counts.
ARRIVED_OUTCOMES, REJECTED_OUTCOMES, PARKED_OUTCOMES = ("accepted", "repeat", "ignored"), ("rejected",), ("parked",)


@dataclass(frozen=True, slots=True)
class HookStats:
    """One hook.

    last: time of the last delivery, in ms. accepted, rejected: requests of the last 24 hours. missing: unset variables
    without which its records cannot be fetched. mismatches: requests of the last 24 hours with a wrong signature, since
    the last delivery; at most MAX_NEWEST of telemetry.rejections. is_silent: for longer than usual.
    """

    name: str
    source: str
    last: float | None
    accepted: int
    rejected: int
    missing: list[str] = field(default_factory=list)
    mismatches: int = 0
    is_silent: bool = False

    @property
    def has_wrong_secret(self) -> bool:
        """Whether the tool's own requests are rejected. Forged requests do not count while verified ones arrive."""
        return self.mismatches >= (MIN_BAD_SIGNATURES if self.last else 1)

    @property
    def has_problem(self) -> bool:
        return bool(self.missing or self.has_wrong_secret or self.is_silent)

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
    payload_changes: list[PayloadChange] = field(default_factory=list)
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    #: By name, why a stored hook cannot be used.
    unusable_hooks: dict[str, str] = field(default_factory=dict)
    connections: list[HookConnection] = field(default_factory=list)
    #: Visits in the Visits API whose changes Redis lost at its last restart or failover.
    lost: list[TaskId] = field(default_factory=list)
    #: The accounts that move, or have moved to another cell: the mark, and a hook of each.
    moves: dict[str, tuple[Mark, str]] = field(default_factory=dict)

    @property
    def last_delivery_ms(self) -> float | None:
        return max((hook.last for hook in self.hooks if hook.last), default=None)

    @property
    def memory_share(self) -> float:
        return self.memory_bytes / self.memory_limit_bytes if self.memory_limit_bytes else 0.0

    def status(self) -> tuple[Level, str]:
        """Return the worst problem as a sentence, with its level."""
        for problem in self.problems():
            return problem.level, problem.sentence
        if not self.hooks:
            return "new", "No tool is connected yet, so nothing arrives."
        if self.last_delivery_ms is None:
            return "new", "Everything is ready. Waiting for the first delivery."
        ago = humanize(time.time() - self.last_delivery_ms / 1000)
        pending = {0: "no task is", 1: "one task is"}.get(self.pending, f"{self.pending:,} tasks are")
        return "good", f"Everything works. The last delivery arrived {ago} ago, {pending} pending."

    def problems(self) -> list[Problem]:
        """Return all problems, the worst first."""
        return [
            *self._outages(),
            *self._unfinished_moves(),
            *self._hook_problems(),
            *self._delays(),
            *self._ended_moves(),
            *self._payload_notes(),
        ]

    @property
    def pending(self) -> int:
        return sum(self.states[state] for state in ("queued", "waiting", "held"))

    def _outages(self) -> Iterator[Problem]:
        if not self.workers and (self.pending or self.last_delivery_ms):
            waiting = _changes_wait(self.pending).capitalize()
            yield Problem("workers", "bad", f"No worker is running: deliveries are stored, but not applied. {waiting}.")
        for circuit in self.circuits:
            if not circuit.is_paused:
                reason, waiting = (
                    CIRCUIT_REASONS.get(circuit.reason, circuit.reason),
                    _changes_wait(circuit.held).capitalize(),
                )
                account = "" if circuit.account == "main" else f" for the account {circuit.account}"
                sentence = f"The Visits API {reason}{account}. {waiting} until it recovers; nothing is lost."
                yield Problem("api", "bad", sentence)
        if self.memory_share > 0.9:
            sentence = f"Redis is {self.memory_share:.0%} full. When it is full, senders get 503, and most retry."
            yield Problem("memory", "bad", sentence)
        if self.backlog.is_stalled:
            stalled = humanize(self.backlog.no_progress_s)
            sentence = f"Tasks are due, and no task has finished for {stalled}: restart the workers."
            yield Problem("stalled", "bad", sentence)

    def _unfinished_moves(self) -> Iterator[Problem]:
        for account, (mark, hook) in self.moves.items():
            if mark.phase == "moved":
                continue
            began = humanize(time.time() - mark.begun_at_ms / 1000)
            place = f"from the cell at {mark.cell}" if mark.phase == "arriving" else f"to the cell at {mark.cell}"
            effect = (
                "its tasks wait"
                if mark.phase == "copying"
                else "its tasks wait, and its senders get 503, and most retry"
            )
            sentence = (
                f"The account {account} began to move {place} {began} ago: {effect}. `doorbell move` continues it."
            )
            yield Problem("moving", "warn", sentence, hook)

    def _hook_problems(self) -> Iterator[Problem]:
        for name, reason in self.unusable_hooks.items():
            sentence = f"The stored hook {name} cannot be used, and its tool gets 503: {reason.removesuffix('.')}."
            yield Problem("unusable", "bad", sentence, name)
        yield from self._connection_problems()
        for hook in self.hooks:
            if hook.missing:
                settings = ", ".join(hook.missing)
                sentence = f"The hook {hook.name} cannot fetch its records: set {settings}, then replay its failures."
                yield Problem("credentials", "warn", sentence, hook.name)
            if hook.has_wrong_secret:
                times = "a request" if hook.mismatches == 1 else f"{hook.mismatches} requests"
                sentence = (
                    f"The hook {hook.name} rejected {times} with a wrong signature, and accepted none since: compare its "
                    "secret with the tool's."
                )
                yield Problem("signatures", "warn", sentence, hook.name)
            elif hook.is_silent and hook.last:
                ago = humanize(time.time() - hook.last / 1000)
                sentence = (
                    f"The hook {hook.name} has received nothing for {ago}, much longer than usual: check whether its "
                    "webhook is still enabled at the tool."
                )
                yield Problem("silent", "warn", sentence, hook.name)

    def _connection_problems(self) -> Iterator[Problem]:
        """Yield the problems that a tool reports. Those of silent hooks are reported with the hooks."""
        for connection in self.connections:
            if not connection.problem or not (connection.can_ask or connection.state == "credentials_expired"):
                continue
            meaning, _ = connection.problem
            if connection.is_broken:
                sentence = f"The hook {connection.hook} is not connected: {meaning}."
                yield Problem("connection", "bad", sentence, connection.hook)
            else:
                title, detail = source_title(connection.source), (connection.detail or meaning).removesuffix(".")
                sentence = f"The webhooks of {connection.hook} fail at {title}: {detail}."
                yield Problem("connection", "warn", sentence, connection.hook)

    def _ended_moves(self) -> Iterator[Problem]:
        for account, (mark, hook) in self.moves.items():
            if mark.phase == "moved":
                sentence = (
                    f"The account {account} has moved to the cell at {mark.cell}: its senders get 503 here, and most retry. "
                    "Remove its hooks here when requests stop arriving."
                )
                yield Problem("moved", "warn", sentence, hook)

    def _delays(self) -> Iterator[Problem]:
        for circuit in self.circuits:
            if circuit.is_paused:
                waiting = _changes_wait(circuit.held)
                sentence = f"Paused by an operator: {waiting} for the account {circuit.account}. Nothing is lost."
                yield Problem("paused", "warn", sentence, next(iter(circuit.hooks), circuit.account))
        if self.states["parked"]:
            yield Problem("failures", "warn", _failures_need_operator(self.states["parked"], self.groups))
        if self.lost:
            lost = "1 visit" if len(self.lost) == 1 else f"{len(self.lost)} visits"
            sentence = (
                f"Redis lost its newest writes, and with them the changes of {lost} in Review Rover: make the tools send "
                "these again, or catch up."
            )
            yield Problem("lost", "warn", sentence)
        if self.backlog.oldest_s > STALE_AFTER_S and not self.backlog.is_stalled:
            oldest = humanize(self.backlog.oldest_s)
            sentence = f"The oldest task has been due for {oldest}: the workers cannot keep up."
            yield Problem("slow", "warn", sentence)

    def _payload_notes(self) -> Iterator[Problem]:
        for source, changes in groupby(sorted(self.payload_changes, key=lambda change: change.source), _source_of):
            newest, *others = changes
            more = f", and {len(others)} more" if others else ""
            sentence = f"{source_title(source)} changed its payloads: {newest.sentence.replace('`', '')}{more}."
            hook = next((hook.name for hook in self.hooks if hook.source == source), "")
            yield Problem("payload", "warn", sentence, hook)

    def to_dict(self) -> Row:
        """Return all values, with times in ISO 8601."""
        level, summary = self.status()
        return {
            "status": level,
            "summary": summary,
            "problems": [asdict(problem) for problem in self.problems()],
            "last_delivery": iso_timestamp(self.last_delivery_ms),
            "oldest_due_s": round(self.backlog.oldest_s, 1),
            "redis_bytes": self.memory_bytes,
            "redis_limit_bytes": self.memory_limit_bytes or None,
            "lost_visits": [visit.display_id for visit in self.lost],
            "states": self.states,
            "failures": [
                asdict(group) | {"first": iso_timestamp(group.first), "last": iso_timestamp(group.last)}
                for group in self.groups
            ],
            "circuits": [asdict(circuit) for circuit in self.circuits],
            "hooks": [asdict(hook) | {"last": iso_timestamp(hook.last)} for hook in self.hooks],
            "connections": [
                {"hook": each.hook, "state": each.state, "detail": each.detail} for each in self.connections
            ],
            "workers": [worker.to_dict() for worker in self.workers],
            "hours": [asdict(hour) for hour in self.hours],
        }


def _source_of(change: PayloadChange) -> str:
    return change.source


def _changes_wait(count: int) -> str:
    return "no change waits" if not count else "1 change waits" if count == 1 else f"{count:,} changes wait"


def _failures_need_operator(count: int, groups: Sequence[FailureGroup]) -> str:
    needs = "One failure needs attention" if count == 1 else f"{count:,} failures need attention"
    since = min(group.first for group in groups) if groups else 0
    age = f"The first failed {humanize(time.time() - since / 1000)} ago."
    if not groups:
        return f"{needs}."
    title = find_reason(groups[0].reason).title
    if len(groups) == 1:
        return f"{needs}: {title} ({source_title(groups[0].source)}). {age}"
    return f"{needs}, most often: {title}. {age}"


async def load_moves(redis: Redis, settings: Settings) -> dict[str, tuple[Mark, str]]:
    accounts = sorted(set(settings.accounts.values()))
    marks = await load_marks(redis, accounts)
    return {account: (mark, settings.hooks_for(account)[0]) for account, mark in marks.items()}


async def load_overview(ledger: Ledger, settings: Settings) -> Overview:
    redis, lists = ledger.redis, Lists(ledger, settings, Explain(ledger, settings))
    states, groups, hours = await asyncio.gather(
        lists.count_by_state(), lists.group_by_reason(), counters.hourly_counts(redis, CHART_HOURS)
    )
    connections = await load_connections(redis, settings)
    workers, backlog, memory, circuits, hooks, changes = await asyncio.gather(
        live_workers(redis),
        load_backlog(redis, settings.tokens or {"main": ""}),
        redis.info("memory"),
        open_circuits(redis, settings),
        _load_hooks(redis, settings, connections, hours),
        payload_changes(redis, is_open=True),
    )
    return Overview(
        lost=await Losses(redis).lost_visits(),
        moves=await load_moves(redis, settings),
        connections=connections,
        payload_changes=changes,
        states=states,
        backlog=backlog,
        circuits=circuits,
        workers=workers,
        hooks=hooks,
        hours=[_hour(at, counts) for at, counts in hours],
        groups=groups,
        memory_bytes=int(memory["used_memory"]),
        memory_limit_bytes=int(memory.get("maxmemory", 0)),
        unusable_hooks=settings.unusable_hooks,
    )


async def load_hooks(redis: Redis, settings: Settings, connections: Sequence[HookConnection]) -> list[HookStats]:
    return await _load_hooks(redis, settings, connections, await counters.hourly_counts(redis, CHART_HOURS))


async def _load_hooks(
    redis: Redis, settings: Settings, connections: Sequence[HookConnection], hours: Sequence[HourlyCounts]
) -> list[HookStats]:
    last_deliveries = await last_delivery_times(redis, settings)
    mismatches = await _count_mismatches(redis, last_deliveries)
    silent = {each.hook for each in connections if each.is_silent}
    return [
        HookStats(
            name,
            hook.source.name,
            last_deliveries[name],
            accepted=sum(counts[name, outcome] for _, counts in hours for outcome in ARRIVED_OUTCOMES),
            rejected=sum(counts[name, "rejected"] for _, counts in hours),
            missing=settings.missing_credentials(name),
            mismatches=mismatches[name],
            is_silent=name in silent,
        )
        for name, hook in settings.active_hooks.items()
    ]


async def _count_mismatches(redis: Redis, last_deliveries: Mapping[str, float | None]) -> dict[str, int]:
    """Count the wrong signatures of each hook since its last delivery, within the hours of the chart."""
    earliest_ms = (time.time() - CHART_HOURS * counters.HOUR_S) * 1000
    times = await asyncio.gather(
        *(mismatch_times(redis, hook, max(earliest_ms, last or 0)) for hook, last in last_deliveries.items())
    )
    return {hook: len(mismatches) for hook, mismatches in zip(last_deliveries, times, strict=True)}


def _hour(hour: int, counts: Counter[tuple[str, str]]) -> HourStats:
    def total(*outcomes: str) -> int:
        return sum(count for (_, outcome), count in counts.items() if outcome in outcomes)

    return HourStats(
        iso_timestamp(hour * counters.HOUR_S * 1000) or "",
        total(*ARRIVED_OUTCOMES),
        total(*REJECTED_OUTCOMES),
        total(*PARKED_OUTCOMES),
    )
