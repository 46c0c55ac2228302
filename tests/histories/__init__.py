"""Histories: what may happen to one visit at a tool, what the tool would ring, and what should stand in the end.

A module for each source, named like it, with a `Tool`: a small model of the tool, written from the tool's documentation
and not from our code. It lives through one visit step by step and knows the truth at every moment.
"""

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

#: A time that the tool does not tell: it must be there, and may be any.
SOME_TIME = "some time"
FIRST = ("Ada", "Zoë", "Grace")
LAST = ("Lovelace", "Gödel", "Hopper")


@dataclass(frozen=True, slots=True)
class Ring:
    """One delivery, unsigned. headers: beside the signature and its time; a signed id is one of them. said: for people."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    said: str = ""


@dataclass(slots=True)
class Person:
    """A customer. id: Review Rover's, where a tool knows it."""

    email: str | None
    first: str
    last: str
    id: str | None = None

    @property
    def is_known(self) -> bool:
        return bool(self.email or self.id)


@dataclass(slots=True, eq=False)
class Visit:
    """The truth about one visit, in the words of the Visits API. id: the first that the tool gave it."""

    id: str
    scheduled: datetime | None = None
    completed: datetime | None = None
    paid: Decimal | None = None
    cancelled: datetime | str | None = None
    missed: datetime | str | None = None
    opted_out: bool = False
    who: Person | None = None
    #: The tool has forgotten it: what was not asked for before cannot be known.
    is_gone: bool = False
    #: Every id that the tool ever gave it.
    ids: list[str] = field(default_factory=list)

    @property
    def is_off(self) -> bool:
        return bool(self.cancelled or self.missed or self.opted_out)

    @property
    def can_be_made(self) -> bool:
        """A visit needs a customer who can be found, and a time."""
        return bool(self.who and self.who.is_known and (self.scheduled or self.completed))

    def shown(self) -> dict[str, str]:
        """The fields that the API should show; whatever is unset is left out."""
        off = self.cancelled or self.missed or (SOME_TIME if self.opted_out else None)
        shown = {
            "time_scheduled": self.scheduled,
            "time_completed": self.completed,
            "event_date": self.completed or self.scheduled,
            "date_cancelled": off,
            "amount_collected": None if self.paid is None else f"{self.paid:.2f}",
        }
        return {name: written(value) for name, value in shown.items() if value is not None}


def written(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Life(ABC):
    """A tool, as far as it knows one visit (or a few, where a new booking is a new visit).

    tick: the finest step of the tool's clock. ties: things may happen at one and the same moment; then only sameness
    can be asked for, since not even the tool could say which came last.
    """

    tick = timedelta(seconds=1)
    #: Does it ring for everything that happens? Else what it did not ring for is known after the next fetch.
    tells_all = True
    #: Does a record say by itself that it is over? Else its visit may be made before somebody looks at the cancel.
    records_end = True

    def __init__(self, dice: Random, name: str, ties: bool = False) -> None:
        self.dice, self.name, self.ties = dice, name, ties
        self.now = datetime(2026, 11, 2, 9, tzinfo=UTC) + timedelta(seconds=dice.randrange(10**7))
        self.visits: list[Visit] = []
        self.rung: list[Ring] = []
        self.minted = 0
        self.addresses: set[str] = set()

    # -- what a tool's model says --

    @abstractmethod
    def acts(self) -> list[Callable[[], None]]:
        """What could happen next."""

    def answer(self, key: str) -> Any:
        """What the tool's API answers now about a record; None: 404."""
        return None

    def owns(self, key: str) -> bool:
        """Is that one of this life's records?"""
        return False

    # -- the machinery --

    def step(self) -> list[Ring]:
        """The next thing happens; what the tool rings for it."""
        if not (self.ties and self.rung and self.dice.random() < 0.5):
            long = self.dice.choice((1, 1, 2, 60, 3_600, 90_000))
            self.now += self.tick * self.dice.randint(1, 9) if long == 1 else timedelta(seconds=long)
        before = len(self.rung)
        acts = self.acts()
        if acts:
            self.dice.choice(acts)()
        return self.rung[before:]

    def ring(self, body: Any, said: str, **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.rung.append(
            Ring(raw, {"content-type": "application/json", **headers}, f"{self.now:%d %H:%M:%S.%f} {said}")
        )

    def mint(self, form: str = "{}") -> str:
        """An id that nothing else has."""
        self.minted += 1
        return form.format(f"{self.name}-{self.minted}")

    def person(self) -> Person:
        """Somebody; a few come again in other histories."""
        shared = self.dice.random() < 0.1
        name = f"p{self.dice.randrange(5)}" if shared else f"{self.name}.{self.dice.randrange(10**6)}"
        self.addresses.add(f"{name}@example.com")
        return Person(f"{name}@example.com", self.dice.choice(FIRST), self.dice.choice(LAST))

    def hour(self) -> datetime:
        """Some appointment: some hours from now, or some weeks."""
        ahead = timedelta(hours=self.dice.randint(1, 500))
        return (self.now + ahead).replace(minute=self.dice.choice((0, 15, 30)), second=0, microsecond=0)

    def money(self) -> Decimal:
        return Decimal(self.dice.choice((100, 7_550, 24_500, 5, 99_999))) / 100

    def maybe(self, chance: float = 0.5) -> bool:
        return self.dice.random() < chance


def tools() -> dict[str, type[Life]]:
    """The sources that have a model here."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names if not name.startswith("_")}
    return {name: module.Tool for name, module in modules.items() if hasattr(module, "Tool")}
