"""Histories of visits: what happens at a tool, the webhooks that it sends, and the expected visit.

A module for each source, with the same name, has a class `Tool`: a small model of the tool, written from the tool's
documentation and not from Doorbell's code. It simulates one visit step by step and knows its true state at any time.
"""

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any

#: A time that the tool does not send: the visit must have one, and it may be any.
SOME_TIME = "some time"
FIRST = ("Ada", "Zoë", "Grace")
LAST = ("Lovelace", "Gödel", "Hopper")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One request of the tool, not signed yet. headers: without the signature and its time. summary: for people."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""


@dataclass(slots=True)
class Person:
    """A customer. id: Review Rover's id, if the tool has it."""

    email: str | None
    first: str
    last: str
    id: str | None = None

    @property
    def is_known(self) -> bool:
        return bool(self.email or self.id)


@dataclass(slots=True, eq=False)
class Visit:
    """The true state of one visit. id: its first id in the tool."""

    id: str
    scheduled: datetime | None = None
    completed: datetime | None = None
    paid: Decimal | None = None
    cancelled: datetime | str | None = None
    missed: datetime | str | None = None
    opted_out: bool = False
    who: Person | None = None
    #: The tool has deleted it: data that was not fetched before is lost.
    is_gone: bool = False
    #: Every id that the tool ever gave it.
    ids: list[str] = field(default_factory=list)

    @property
    def is_off(self) -> bool:
        return bool(self.cancelled or self.missed or self.opted_out)

    @property
    def can_be_created(self) -> bool:
        """Whether there is a customer with an address or id, and a time."""
        return bool(self.who and self.who.is_known and (self.scheduled or self.completed))

    def expected_fields(self) -> dict[str, str]:
        """Return the fields that the Visits API should have, without unset ones."""
        off = self.cancelled or self.missed or (SOME_TIME if self.opted_out else None)
        expected_fields = {
            "time_scheduled": self.scheduled,
            "time_completed": self.completed,
            "event_date": self.completed or self.scheduled,
            "date_cancelled": off,
            "amount_collected": None if self.paid is None else f"{self.paid:.2f}",
        }
        return {name: format_time(value) for name, value in expected_fields.items() if value is not None}


def format_time(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ToolModel(ABC):
    """A model of a tool with one visit (or a few, where a new booking is a new visit).

    tick: the resolution of the tool's clock.
    ties: several actions may happen at the same time. Then a test can only require that every order of arrival gives the
        same visit, since the tool itself cannot say which action came last.
    """

    tick = timedelta(seconds=1)
    #: Whether the tool sends a webhook for every action. Otherwise Doorbell learns of some only with the next fetch.
    announces_all = True
    #: Whether a record shows that it is cancelled. Otherwise the visit may be created before the cancel is processed.
    records_show_cancel = True

    def __init__(self, rng: Random, name: str, ties: bool = False) -> None:
        self.rng, self.name, self.ties = rng, name, ties
        self.now = datetime(2026, 11, 2, 9, tzinfo=UTC) + timedelta(seconds=rng.randrange(10**7))
        self.visits: list[Visit] = []
        self.emitted: list[Webhook] = []
        self.id_count = 0
        self.addresses: set[str] = set()

    # -- implemented by the model of a tool --

    @abstractmethod
    def actions(self) -> list[Callable[[], None]]:
        """Return the actions that may happen next."""

    def answer(self, key: str) -> Any:
        """Return the current record in the tool's API; None for 404."""
        return None

    def owns(self, key: str) -> bool:
        """Return whether the record belongs to this model."""
        return False

    # -- shared by all models --

    def step(self) -> list[Webhook]:
        """Perform the next action; return the webhooks that the tool sends for it."""
        if not (self.ties and self.emitted and self.rng.random() < 0.5):
            long = self.rng.choice((1, 1, 2, 60, 3_600, 90_000))
            self.now += self.tick * self.rng.randint(1, 9) if long == 1 else timedelta(seconds=long)
        before = len(self.emitted)
        actions = self.actions()
        if actions:
            self.rng.choice(actions)()
        return self.emitted[before:]

    def emit(self, body: Any, summary: str, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.emitted.append(
            Webhook(raw, {"content-type": "application/json", **headers}, f"{self.now:%d %H:%M:%S.%f} {summary}")
        )

    def new_id(self, form: str = "{}") -> str:
        """Return a unique id."""
        self.id_count += 1
        return form.format(f"{self.name}-{self.id_count}")

    def person(self) -> Person:
        """Return a random person; some of them appear in several histories."""
        shared = self.rng.random() < 0.1
        name = f"p{self.rng.randrange(5)}" if shared else f"{self.name}.{self.rng.randrange(10**6)}"
        self.addresses.add(f"{name}@example.com")
        return Person(f"{name}@example.com", self.rng.choice(FIRST), self.rng.choice(LAST))

    def future_time(self) -> datetime:
        """Return a random time, hours to weeks from now."""
        ahead = timedelta(hours=self.rng.randint(1, 500))
        return (self.now + ahead).replace(minute=self.rng.choice((0, 15, 30)), second=0, microsecond=0)

    def money(self) -> Decimal:
        return Decimal(self.rng.choice((100, 7_550, 24_500, 5, 99_999))) / 100

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance


@cache
def tools() -> dict[str, type[ToolModel]]:
    """Return the models by source."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names if not name.startswith("_")}
    return {name: module.Tool for name, module in modules.items() if hasattr(module, "Tool")}
