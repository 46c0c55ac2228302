"""What every job works with."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from app.ledger.ledger import Ledger
from app.ledger.records import Attempt
from app.settings.model import Settings
from app.telemetry.counters import Counters
from jobs.concurrency import FetchSlots, KeyedLocks, RunningJobs
from jobs.retry import Schedule

#: The calls of a job begin within so long; each is over in ten seconds more. Lease and arq's own limit are longer.
RUN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Context:
    """One worker process's settings, ledger and connections."""

    settings: Settings
    ledger: Ledger
    http: httpx.AsyncClient
    counters: Counters = field(default_factory=Counters)
    running_jobs: RunningJobs = field(default_factory=RunningJobs)
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    #: Events of each hook whose records are being fetched here, and the slots for them.
    fetches_by_hook: Counter[str] = field(default_factory=Counter)
    fetch_slots: dict[str, FetchSlots] = field(default_factory=dict)
    #: Exchanges of refresh tokens that are under way; they outlive the jobs that began them.
    token_exchanges: set[asyncio.Task[str]] = field(default_factory=set)

    @property
    def schedule(self) -> Schedule:
        settings = self.settings
        return Schedule(settings.retry_first_s, settings.retry_cap_s, settings.retry_for_s)


@dataclass(slots=True)
class RunTimer:
    """When a run began, for the record of its attempt."""

    started_at_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    started: float = field(default_factory=time.monotonic)

    @property
    def took_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def attempt(self, outcome: str, calls: list[list[object]], said: str = "") -> Attempt:
        return Attempt(self.started_at_ms, self.took_ms, outcome, calls, said)


def seconds_since(ms: int | None) -> float:
    """Seconds since a time of the ledger; 0 without one."""
    return max(0.0, time.time() - ms / 1000) if ms else 0.0
