"""Is all well? A sentence, and the numbers behind it."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from app.ledger.ledger import Ledger
from app.ledger.times import _iso, moment
from app.operators.explain import Explain, Row, span
from app.operators.lists import Group, Lists
from app.settings.model import Settings
from app.telemetry import counters
from app.telemetry.health import GATES, OLD_S, Due, Gate, Worker, due, last_of_hooks, living, shut_gates
from app.webhooks.registry import title_of

HOURS = 24
#: What the chart shows, from the bottom up: at the door, and of the worker.
ARRIVED, REFUSED, PARKED = ("accepted", "repeat", "ignored"), ("refused",), ("parked",)


@dataclass(frozen=True, slots=True)
class Hook:
    """One entrance. rate: accepted in the last 24 hours; refused_share: of everything that rang there, 0 to 1."""

    name: str
    source: str
    last: float | None
    rate: int
    refused: int

    @property
    def refused_share(self) -> float:
        return self.refused / (self.refused + self.rate) if self.refused else 0.0


@dataclass(frozen=True, slots=True)
class Hour:
    at: str
    arrived: int
    refused: int
    parked: int

    @property
    def total(self) -> int:
        return self.arrived + self.refused


@dataclass(slots=True)
class Overview:
    states: dict[str, int] = field(default_factory=dict)
    due: Due = field(default_factory=lambda: Due({}, 0))
    gates: list[Gate] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    hours: list[Hour] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    memory: int = 0
    memory_most: int = 0

    @property
    def last(self) -> float | None:
        return max((hook.last for hook in self.hooks if hook.last), default=None)

    @property
    def memory_share(self) -> float:
        return self.memory / self.memory_most if self.memory_most else 0.0

    def verdict(self) -> tuple[str, str]:
        """(`bad`, `warn`, `new` or `good`, a sentence): the worst of what is the matter."""
        waiting = sum(self.states[state] for state in ("queued", "waiting", "held"))
        if not self.workers and (waiting or self.last):
            return "bad", f"No worker is running: deliveries are accepted, but wait. {_works(waiting)} to be done."
        if shut := [gate for gate in self.gates if not gate.is_paused]:
            gate = shut[0]
            why = GATES.get(gate.why, gate.why)
            return "bad", f"The Visits API {why}. {_works(gate.waiting)} until it recovers; nothing is lost."
        if self.memory_share > 0.9:
            return "bad", f"Redis is {self.memory_share:.0%} full. When it is full, tools are asked to come back later."
        if self.due.is_stuck:
            return (
                "bad",
                f"Work is due, and for {span(self.due.no_progress_s)} nothing came to an end: restart the workers.",
            )
        if self.gates:
            gate = self.gates[0]
            return (
                "warn",
                f"Paused by an operator: {_works(gate.waiting)} for the account {gate.account}. Nothing is lost.",
            )
        if self.states["parked"]:
            return "warn", _needing_you(self.states["parked"], self.groups)
        if self.due.oldest_s > OLD_S:
            return "warn", f"The oldest due work has waited for {span(self.due.oldest_s)}; the workers do not keep up."
        if not self.hooks:
            return "new", "No hook is configured yet: nobody can ring."
        if self.last is None:
            return "new", "Everything is ready. Waiting for the first delivery."
        ago = span(time.time() - self.last / 1000)
        done = "nothing waits" if not waiting else f"{waiting:,} on their way"
        return "good", f"All is well. The last delivery came {ago} ago, {done}."

    def story(self) -> Row:
        """All of it, with times in ISO 8601."""
        level, sentence = self.verdict()
        return {
            "verdict": level,
            "sentence": sentence,
            "last_delivery": _iso(self.last),
            "oldest_due_s": round(self.due.oldest_s, 1),
            "redis_bytes": self.memory,
            "redis_bytes_most": self.memory_most or None,
            "states": self.states,
            "failures": [asdict(one) | {"first": _iso(one.first), "last": _iso(one.last)} for one in self.groups],
            "shut": [asdict(gate) for gate in self.gates],
            "hooks": [asdict(hook) | {"last": _iso(hook.last)} for hook in self.hooks],
            "workers": [worker.row() for worker in self.workers],
            "hours": [asdict(hour) for hour in self.hours],
        }


def _works(count: int) -> str:
    return f"{count:,} change waits" if count == 1 else f"{count:,} changes wait"


def _needing_you(count: int, groups: Sequence[Group]) -> str:
    needs = "One failure needs" if count == 1 else f"{count:,} failures need"
    since = min(group.first for group in groups) if groups else 0
    age = f"The first came {span(time.time() - since / 1000)} ago."
    if len(groups) == 1:
        return f"{needs} you: {groups[0].reason}, from {title_of(groups[0].source)}. {age}"
    return f"{needs} you, most often for {groups[0].reason}. {age}" if groups else f"{needs} you."


async def look(ledger: Ledger, settings: Settings) -> Overview:
    """Raises RedisDown."""
    redis, lists = ledger.redis, Lists(ledger, settings, Explain(ledger, settings))
    states, groups, hours, workers, overdue, memory, lasts, gates = await asyncio.gather(
        lists.states(),
        lists.groups(),
        counters.hours(redis, HOURS),
        living(redis),
        due(redis, settings.tokens or {"main": ""}),
        redis.command("INFO", "memory"),
        last_of_hooks(redis, settings),
        shut_gates(redis, settings),
    )
    told = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    return Overview(
        states=states,
        due=overdue,
        gates=gates,
        workers=workers,
        hooks=[_hook(name, entrance.tool.name, lasts[name], hours) for name, entrance in settings.entrances.items()],
        hours=[_hour(at, counts) for at, counts in hours],
        groups=groups,
        memory=int(told["used_memory"]),
        memory_most=int(told.get("maxmemory", 0)),
    )


def _hook(name: str, source: str, last: float | None, hours: Sequence[tuple[int, Counter[tuple[str, str]]]]) -> Hook:
    rang = sum(counts[name, outcome] for _, counts in hours for outcome in ARRIVED)
    return Hook(name, source, last, rang, sum(counts[name, "refused"] for _, counts in hours))


def _hour(hour: int, counts: Counter[tuple[str, str]]) -> Hour:
    def of(*outcomes: str) -> int:
        return sum(count for (_, outcome), count in counts.items() if outcome in outcomes)

    return Hour(moment(hour * counters.HOUR_S * 1000) or "", of(*ARRIVED), of(*REFUSED), of(*PARKED))
