"""The shared objects of a worker process."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from app.connections.stored_hooks import StoredHooks
from app.ledger.ledger import Ledger
from app.ledger.locks import KeyedLocks
from app.ledger.losses import Losses
from app.ledger.records import Attempt
from app.settings.model import Settings
from app.telemetry.counters import Counters
from app.telemetry.payload_watch import Samples
from jobs.concurrency import FetchSlots, RunningJobs
from jobs.retry import Schedule

#: A run starts no call after this time. A call takes at most RESPONSE_TIMEOUT_S; the lease and arq's timeout are longer.
RUN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    ledger: Ledger
    http: httpx.AsyncClient
    counters: Counters = field(default_factory=Counters)
    running_jobs: RunningJobs = field(default_factory=RunningJobs)
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    #: By hook: the number of runs that fetch records or wait to fetch them.
    fetching_jobs_by_hook: Counter[str] = field(default_factory=Counter)
    #: The slots for fetches of each hook.
    fetch_slots: dict[str, FetchSlots] = field(default_factory=dict)
    payload_samples: Samples = field(default_factory=Samples)
    #: Running exchanges of refresh tokens; they may outlive their jobs.
    token_exchanges: set[asyncio.Task[str]] = field(default_factory=set)
    stored_hooks: StoredHooks = field(init=False)
    losses: Losses = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stored_hooks", StoredHooks(self.ledger.redis, self.settings))
        object.__setattr__(self, "losses", Losses(self.ledger.redis))

    def seconds_since(self, ms: float | None) -> float:
        """Return the seconds since a time of the ledger (ms); 0 for None and for times in the future."""
        return max(0.0, (self.ledger.redis.now_ms() - ms) / 1000) if ms else 0.0

    @property
    def schedule(self) -> Schedule:
        settings = self.settings
        return Schedule(settings.retry_first_s, settings.retry_cap_s, settings.retry_for_s)


@dataclass(slots=True)
class RunTimer:
    started_at_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    started: float = field(default_factory=time.monotonic)

    @property
    def took_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def attempt(self, outcome: str, calls: list[list[object]], response_text: str = "") -> Attempt:
        return Attempt(self.started_at_ms, self.took_ms, outcome, calls, response_text)
