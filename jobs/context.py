"""What every job works with."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from app.ledger.ledger import Ledger
from app.ledger.records import Attempt
from app.settings.model import Settings
from app.telemetry.counters import Tally
from jobs.places import Places, Slots, Turns
from jobs.retry import Schedule

#: The calls of a job begin within so long; each is over in ten seconds more. Lease and arq's own limit are longer.
JOB_S = 20.0


@dataclass(frozen=True, slots=True)
class Context:
    """One worker process's settings, ledger and connections."""

    settings: Settings
    ledger: Ledger
    http: httpx.AsyncClient
    tally: Tally = field(default_factory=Tally)
    places: Places = field(default_factory=Places)
    turns: Turns = field(default_factory=Turns)
    #: Events of each hook whose records are being fetched here, and the slots for them.
    at_once: Counter[str] = field(default_factory=Counter)
    slots: dict[str, Slots] = field(default_factory=dict)
    #: Exchanges of refresh tokens that are under way; they outlive the jobs that began them.
    exchanges: set[asyncio.Task[str]] = field(default_factory=set)

    @property
    def schedule(self) -> Schedule:
        settings = self.settings
        return Schedule(settings.retry_first_s, settings.retry_cap_s, settings.retry_for_s)


@dataclass(slots=True)
class Clock:
    """When a run began, for the record of its attempt."""

    at: int = field(default_factory=lambda: int(time.time() * 1000))
    started: float = field(default_factory=time.monotonic)

    @property
    def took_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def attempt(self, outcome: str, calls: list[list[object]], said: str = "") -> Attempt:
        return Attempt(self.at, self.took_ms, outcome, calls, said)


def since_s(ms: int | None) -> float:
    """Seconds since a time of the ledger; 0 without one."""
    return max(0.0, time.time() - ms / 1000) if ms else 0.0


def chance() -> float:
    return random.random()
