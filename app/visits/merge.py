"""The join: many changes, in any order and number, become the one set of facts that a visit should show.

Every field goes to the change that says it with the greatest stamp: (how often the tool renamed the visit before,
the tool's version or time, when it was fetched, rank of the action, the value as text). Taking the greatest is
commutative, associative and idempotent, so the facts depend on the *set* of changes and on nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import Any

import orjson

from app.visits.words import FACTS, PAYMENT, RANK, Contact, money, timestamp

Stamp = tuple[int, int, int, int, str]


@dataclass(frozen=True, slots=True)
class Said:
    """A change as it stands in the ledger: who said it (`origin`, the delivery), and what."""

    origin: str
    action: str
    order: int
    facts: dict[str, Any]
    contact: dict[str, str]
    generation: int = 0
    as_of: int = 0
    is_sighting: bool = False
    only_for_contact: bool = False

    @classmethod
    def read(cls, origin: str, stored: bytes, generation: int = 0) -> "Said":
        """generation: 0 for the visit's first id, 1 for the id it was rescheduled to, and so on."""
        read = orjson.loads(stored)
        return cls(
            origin,
            read["a"],
            read["o"],
            read["f"],
            read.get("c", {}),
            generation,
            read.get("t", 0),
            "s" in read,
            "w" in read,
        )

    def stamp(self, value: Any) -> Stamp:
        return (self.generation, self.order, self.as_of, RANK[self.action], "" if value is None else str(value))


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, why it won (`stamp`), and where it came from.

    seen: the stamps of all sightings, since an earlier one may be the first of those in a row.
    """

    value: Any
    stamp: Stamp
    origin: str
    seen: frozenset[Stamp] = frozenset()

    def __or__(self, other: "Fact") -> "Fact":
        last = max(self, other, key=lambda fact: (fact.stamp, fact.origin))
        seen = self.seen | other.seen
        if last.stamp not in seen:
            return replace(last, seen=seen) if seen else last
        return replace(last, value=_since(seen), seen=seen)


def _since(seen: Iterable[Stamp]) -> str | None:
    """The first value since the last time that there was none."""
    since = None
    for *_, value in sorted(seen):
        since = (since or value) if value else None
    return since


Facts = dict[str, Fact]


def facts_of(said: Said) -> Facts:
    """What one change says, as facts. The contact's fields are named `contact.email` and so on."""
    if said.only_for_contact:
        owner = said.contact.get("email")
        return {f"{name}{ONLY_FOR}{owner}": _fact(said, name, value) for name, value in said.facts.items() if owner}
    values = {**said.facts, **{f"contact.{name}": value for name, value in said.contact.items()}}
    facts = {name: _fact(said, name, value) for name, value in values.items()}
    email = said.contact.get("email")
    for name in ("id", "first_name", "last_name", "phone"):
        if email and f"contact.{name}" in facts:
            # These belong to their address: when another customer takes the visit over, the old name does not stay.
            fact = facts.pop(f"contact.{name}")
            facts[f"contact.{name} of {email}"] = fact
    return facts


#: In the name of a fact that counts only while the visit belongs to the address behind it.
ONLY_FOR = " only for "
#: The times that a tool may only let us see.
SIGHTED = ("time_completed", "date_cancelled", "no_show")


def _fact(said: Said, name: str, value: Any) -> Fact:
    stamp = said.stamp(value)
    is_sighting = said.is_sighting and name in SIGHTED
    return Fact(value, stamp, said.origin, frozenset([stamp]) if is_sighting else frozenset())


def join(one: Facts, other: Facts) -> Facts:
    """Both together: per field, the greater stamp."""
    return {name: _greater(one.get(name), other.get(name)) for name in one.keys() | other.keys()}


def _greater(one: Fact | None, other: Fact | None) -> Fact:
    if one is None or other is None:
        fact = one or other
        assert fact is not None
        return fact
    return one | other


def fold(changes: Iterable[Said]) -> Facts:
    return reduce(join, map(facts_of, changes), {})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should stand in the Visits API.

    fields: the writable ones that some change spoke of, as the API writes them; None where it should be empty. What
    nobody spoke of is not in it, and left alone.
    """

    fields: dict[str, str | None]
    contact: Contact
    opted_out: bool = False

    @property
    def is_off(self) -> bool:
        return self.opted_out or bool(self.fields.get("date_cancelled"))

    @property
    def is_nothing(self) -> bool:
        """Nothing was said that counts: there is no visit, and nothing to wait for."""
        return not self.fields and self.contact == Contact()

    @property
    def has_date(self) -> bool:
        return bool(self.fields.get("event_date"))


SENT_AS_SAID: tuple[str, ...] = ("time_scheduled", "time_completed", "amount_collected")


def wanted(facts: Facts) -> Wanted:
    """The visit that the facts mean.

    A no-show is a cancel, and so is an opt-out: nobody wants a review request for either. The campaign starts at
    `event_date`: the completion if there is one, else the appointment.
    """
    contact = _contact(facts)
    found = {name: fact for name in FACTS if (fact := _greatest(facts, name, f"{name}{ONLY_FOR}{contact.email}"))}
    value = {name: fact.value for name, fact in found.items()} | _paid(facts)
    fields: dict[str, str | None] = {name: value[name] for name in SENT_AS_SAID if name in value}
    event_date = value.get("time_completed") or value.get("time_scheduled")
    if value.keys() & {"time_scheduled", "time_completed"}:
        fields["event_date"] = event_date
    if value.keys() & {"date_cancelled", "no_show", "opted_out"}:
        opted_out_at = (event_date or _said_at(found["opted_out"])) if value.get("opted_out") else None
        fields["date_cancelled"] = value.get("date_cancelled") or value.get("no_show") or opted_out_at
    return Wanted(fields, contact, bool(value.get("opted_out")))


def _greatest(facts: Facts, *names: str) -> Fact | None:
    """What counts, of facts that are known by several names."""
    known = [facts[name] for name in names if name in facts]
    return reduce(Fact.__or__, known) if known else None


def _said_at(fact: Fact) -> str:
    """By the clock of a tool that dates its changes; where it counts versions, some time long ago, which does as well."""
    return timestamp(_EPOCH + timedelta(microseconds=min(max(fact.stamp[1], 0), _LATEST_US)))


_EPOCH, _LATEST_US = datetime(1970, 1, 1, tzinfo=UTC), 250_000_000_000_000_000


def _paid(facts: Facts) -> dict[str, str | None]:
    """The sum of the payments, unless somebody knows of more: a tool's total may or may not have them in it."""
    paid = [Decimal(fact.value or 0) for name, fact in facts.items() if name.startswith(PAYMENT)]
    if not paid:
        return {}
    total = facts["amount_collected"].value if "amount_collected" in facts else None
    most = max(sum(paid, Decimal()), Decimal(total or 0))
    return {"amount_collected": money(most) if most > 0 else None}


def _contact(facts: Facts) -> Contact:
    email = (facts["contact.email"].value or None) if "contact.email" in facts else None

    def detail(name: str) -> Any:
        found = _greatest(facts, f"contact.{name}", f"contact.{name} of {email}")
        return (found.value or None) if found else None

    return Contact(
        id=detail("id"),
        email=email,
        first_name=detail("first_name"),
        last_name=detail("last_name"),
        phone=detail("phone"),
    )


#: Beside what the API answered stands whose visit it was then: asking again would cost a call each time.
REMEMBERED = "contact"


def difference(current: Mapping[str, Any], want: Wanted) -> dict[str, str | None]:
    """The fields to send: None clears. A new time takes `event_date` along, and the other way round: a campaign must not
    start at a time that is no more."""
    changed = {name: value for name, value in want.fields.items() if not same(current.get(name), value)}
    if changed.keys() & {"time_scheduled", "time_completed"} and want.fields.get("event_date"):
        changed["event_date"] = want.fields["event_date"]
    return changed


def same(stands: Any, value: str | None) -> bool:
    """Are the two the same moment, the same money, or both nothing?"""
    if not stands or not value:
        return not stands and not value
    try:
        return datetime.fromisoformat(str(stands)) == datetime.fromisoformat(value)
    except (ValueError, TypeError):
        pass
    try:
        return Decimal(str(stands)) == Decimal(value)
    except InvalidOperation:
        return str(stands) == value


def winners(facts: Facts) -> set[str]:
    """The origins that still decide something; a change of any other origin is superseded."""
    return {fact.origin for fact in facts.values()}
