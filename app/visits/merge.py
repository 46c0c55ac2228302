"""The join: many changes, in any order and number, become the one set of facts that a visit should show.

Every field goes to the change that says it with the greatest stamp: (how often the tool renamed the visit before,
the tool's version or time, when it was fetched, rank of the action, the value as text). Taking the greatest is
commutative, associative and idempotent, so the facts depend on the *set* of changes and on nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import Any

import orjson

from app.visits.change import FACTS, PAYMENT, RANK, Contact, money, timestamp

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
    first_contact_stays: bool = False

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
            "k" in read,
        )

    def stamp(self, value: Any) -> Stamp:
        return (self.generation, self.order, self.as_of, RANK[self.action], "" if value is None else str(value))


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, why it won (`stamp`), and where it came from.

    seen: the stamps of the sightings that may still decide (see `_live`), since an earlier one may be the first of those
    in a row.
    """

    value: Any
    stamp: Stamp
    origin: str
    seen: frozenset[Stamp] = frozenset()

    def __or__(self, other: "Fact") -> "Fact":
        last = max(self, other, key=lambda fact: (fact.stamp, fact.origin))
        return _with_sightings(last, self.seen | other.seen)


def _with_sightings(last: Fact, seen: Iterable[Stamp]) -> Fact:
    """The fact with the greatest stamp, as the sightings of its field explain it."""
    live = _live(seen)
    if not live:
        return last
    if last.stamp != live[-1]:  # a value that the tool dated itself came later
        return replace(last, seen=frozenset(live))
    since = next((value for *_, value in live if value), None)
    return replace(last, value=since, seen=frozenset(live))


def _live(seen: Iterable[Stamp]) -> list[Stamp]:
    """In order, the sightings from the last one that saw nothing (value "") on.

    The value of a field is the first one seen since then. A later change can only move that point forward, so what lies
    before it never decides again. What lies after it may: a late change that saw nothing moves the point to any place
    between two of these.
    """
    ordered = sorted(set(seen))
    start = next((at for at in range(len(ordered) - 1, 0, -1) if not ordered[at][-1]), 0)
    return ordered[start:]


Facts = dict[str, Fact]


def _values(said: Said) -> dict[str, Any]:
    """What one change says, by field. The contact's fields are named `contact.email` and so on."""
    if said.only_for_contact:
        owner = said.contact.get("email")
        return {f"{name}{ONLY_FOR}{owner}": value for name, value in said.facts.items() if owner}
    if not said.contact:
        return said.facts
    email = said.contact.get("email")
    facts = said.facts
    if said.first_contact_stays and email:
        facts = {f"{name}{ONLY_FOR}{email}": value for name, value in facts.items()} | {f"{NAMED}{email}": True}
    values = facts | {f"contact.{name}": value for name, value in said.contact.items()}
    for name in ("id", "first_name", "last_name", "phone"):
        if email and f"contact.{name}" in values:
            # These belong to their address: when another customer takes the visit over, the old name does not stay.
            values[f"contact.{name} of {email}"] = values.pop(f"contact.{name}")
    return values


#: In the name of a fact that counts only while the visit belongs to the address behind it.
ONLY_FOR = " only for "
#: The fact that the tool named this address under an id that several people may share.
NAMED = f"named{ONLY_FOR}"
#: The times that a tool may only let us see.
SIGHTED = ("time_completed", "date_cancelled", "no_show")


def _is_sighting(said: Said, name: str) -> bool:
    """Does the first of several in a row count?"""
    if name == "contact.email":
        return said.first_contact_stays
    return said.is_sighting and name.partition(ONLY_FOR)[0] in SIGHTED


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
    """The join of all, in one pass: O(n log n) however many they are, and whatever they say."""
    last: dict[str, tuple[Stamp, str, Any]] = {}
    seen: dict[str, list[Stamp]] = {}
    for said in changes:
        for name, value in _values(said).items():
            stamp = said.stamp(value)
            if name not in last or (stamp, said.origin) > last[name][:2]:
                last[name] = (stamp, said.origin, value)
            if _is_sighting(said, name):
                seen.setdefault(name, []).append(stamp)
    return {
        name: _with_sightings(Fact(value, stamp, origin), seen.get(name, ()))
        for name, (stamp, origin, value) in last.items()
    }


#: Of sightings of one field in a row the first and so many of the newest are kept.
NEWEST_SIGHTINGS = 200


def needed(changes: Sequence[Said]) -> set[str]:
    """The origins of the changes that a visit must not forget: whatever lands later, the fold of these with it is the
    fold of all with it.

    With one exception. Of more than NEWEST_SIGHTINGS sightings in a row the ones in the middle are not needed. Should a
    change that saw nothing arrive that is older than the newest of them, the time is that of the next sighting that was
    kept: later than it was, but never a completion or a cancellation more or less. No bounded rule is exact there, since
    any of the sightings may be the first one after a late change.
    """
    facts = fold(changes)
    live = {name: set(_thinned(sorted(fact.seen))) for name, fact in facts.items() if fact.seen}
    sighted = {
        (name, stamp): said.origin
        for said in changes
        if said.is_sighting or said.first_contact_stays
        for name, value in _values(said).items()
        if name in live and (stamp := said.stamp(value)) in live[name]
    }
    return winners(facts) | set(sighted.values())


def _thinned(live: list[Stamp]) -> list[Stamp]:
    """The last that saw nothing, the first that saw something, and the newest."""
    return live[:2] + live[2:][-NEWEST_SIGHTINGS:]


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


#: The facts that take a visit off, whichever is there.
OFF = ("date_cancelled", "no_show", "date_left")


def wanted(facts: Facts) -> Wanted:
    """The visit that the facts mean.

    A no-show is a cancel, and so are a place given up and an opt-out: nobody wants a review request for them. The campaign
    starts at `event_date`: the completion if there is one, else the appointment.
    """
    contact = _contact(facts)
    found = {name: fact for name in FACTS if (fact := _greatest(facts, name, f"{name}{ONLY_FOR}{contact.email}"))}
    value = {name: fact.value for name, fact in found.items()} | _paid(facts)
    fields: dict[str, str | None] = {name: value[name] for name in SENT_AS_SAID if name in value}
    event_date = value.get("time_completed") or value.get("time_scheduled")
    if value.keys() & {"time_scheduled", "time_completed"}:
        fields["event_date"] = event_date
    if value.keys() & {*OFF, "opted_out"}:
        opted_out_at = (event_date or _said_at(found["opted_out"])) if value.get("opted_out") else None
        fields["date_cancelled"] = next(filter(None, map(value.get, OFF)), None) or opted_out_at
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


def people_of(facts: Facts) -> int:
    """How many people the tool named under this one id, where it may name several."""
    return sum(name.startswith(NAMED) for name in facts)


def payments_of(facts: Facts) -> int:
    """How many payments the tool told of."""
    return sum(name.startswith(PAYMENT) for name in facts)


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
