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

from app.visits.change import ACTION_RANK, FACTS, PAYMENT_PREFIX, Contact, format_money, format_time

Stamp = tuple[int, int, int, int, str]


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """A change as it stands in the ledger: who said it (`origin`, the delivery), and what."""

    origin: str
    action: str
    version: int
    facts: dict[str, Any]
    contact: dict[str, str]
    alias_depth: int = 0
    observed_at_us: int = 0
    times_are_observed: bool = False
    only_for_contact: bool = False
    first_contact_stays: bool = False

    @classmethod
    def decode(cls, origin: str, stored: bytes, alias_depth: int = 0) -> "RecordedChange":
        """generation: 0 for the visit's first id, 1 for the id it was rescheduled to, and so on."""
        fields = orjson.loads(stored)
        return cls(
            origin,
            fields["a"],
            fields["o"],
            fields["f"],
            fields.get("c", {}),
            alias_depth,
            fields.get("t", 0),
            "s" in fields,
            "w" in fields,
            "k" in fields,
        )

    def stamp(self, value: Any) -> Stamp:
        return (
            self.alias_depth,
            self.version,
            self.observed_at_us,
            ACTION_RANK[self.action],
            "" if value is None else str(value),
        )


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, why it won (`stamp`), and where it came from.

    seen: the stamps of the sightings that may still decide (see `_live`), since an earlier one may be the first of those
    in a row.
    """

    value: Any
    stamp: Stamp
    origin: str
    observations: frozenset[Stamp] = frozenset()

    def __or__(self, other: "Fact") -> "Fact":
        last = max(self, other, key=lambda fact: (fact.stamp, fact.origin))
        return _with_observations(last, self.observations | other.observations)


def _with_observations(last: Fact, observations: Iterable[Stamp]) -> Fact:
    """The fact with the greatest stamp, as the sightings of its field explain it."""
    live = _relevant_observations(observations)
    if not live:
        return last
    if last.stamp != live[-1]:  # a value that the tool dated itself came later
        return replace(last, observations=frozenset(live))
    since = next((value for *_, value in live if value), None)
    return replace(last, value=since, observations=frozenset(live))


def _relevant_observations(observations: Iterable[Stamp]) -> list[Stamp]:
    """In order, the sightings from the last one that saw nothing (value "") on.

    The value of a field is the first one seen since then. A later change can only move that point forward, so what lies
    before it never decides again. What lies after it may: a late change that saw nothing moves the point to any place
    between two of these.
    """
    ordered = sorted(set(observations))
    start = next((at for at in range(len(ordered) - 1, 0, -1) if not ordered[at][-1]), 0)
    return ordered[start:]


Facts = dict[str, Fact]


def _change_values(change: RecordedChange) -> dict[str, Any]:
    """What one change says, by field. The contact's fields are named `contact.email` and so on."""
    if change.only_for_contact:
        owner = change.contact.get("email")
        return {f"{name}{ONLY_FOR}{owner}": value for name, value in change.facts.items() if owner}
    if not change.contact:
        return change.facts
    email = change.contact.get("email")
    facts = change.facts
    if change.first_contact_stays and email:
        facts = {f"{name}{ONLY_FOR}{email}": value for name, value in facts.items()} | {f"{NAMED_CONTACT}{email}": True}
    values = facts | {f"contact.{name}": value for name, value in change.contact.items()}
    for name in ("id", "first_name", "last_name", "phone"):
        if email and f"contact.{name}" in values:
            # These belong to their address: when another customer takes the visit over, the old name does not stay.
            values[f"contact.{name} of {email}"] = values.pop(f"contact.{name}")
    return values


#: In the name of a fact that counts only while the visit belongs to the address behind it.
ONLY_FOR = " only for "
#: The fact that the tool named this address under an id that several people may share.
NAMED_CONTACT = f"named{ONLY_FOR}"
#: The times that a tool may only let us see.
OBSERVABLE_TIMES = ("time_completed", "date_cancelled", "no_show")


def _is_observation(change: RecordedChange, name: str) -> bool:
    """Does the first of several in a row count?"""
    if name == "contact.email":
        return change.first_contact_stays
    return change.times_are_observed and name.partition(ONLY_FOR)[0] in OBSERVABLE_TIMES


def join_facts(one: Facts, other: Facts) -> Facts:
    """Both together: per field, the greater stamp."""
    return {name: _greater(one.get(name), other.get(name)) for name in one.keys() | other.keys()}


def _greater(one: Fact | None, other: Fact | None) -> Fact:
    if one is None or other is None:
        fact = one or other
        assert fact is not None
        return fact
    return one | other


def merge_changes(changes: Iterable[RecordedChange]) -> Facts:
    """The join of all, in one pass: O(n log n) however many they are, and whatever they say."""
    last: dict[str, tuple[Stamp, str, Any]] = {}
    observations: dict[str, list[Stamp]] = {}
    for change in changes:
        for name, value in _change_values(change).items():
            stamp = change.stamp(value)
            if name not in last or (stamp, change.origin) > last[name][:2]:
                last[name] = (stamp, change.origin, value)
            if _is_observation(change, name):
                observations.setdefault(name, []).append(stamp)
    return {
        name: _with_observations(Fact(value, stamp, origin), observations.get(name, ()))
        for name, (stamp, origin, value) in last.items()
    }


#: Of consecutive observations of a field the first, and this many of the newest, are kept.
MAX_OBSERVATIONS = 200


def required_origins(changes: Sequence[RecordedChange]) -> set[str]:
    """The origins of the changes that a visit must not forget: whatever lands later, the fold of these with it is the
    fold of all with it.

    With one exception. Of more than NEWEST_SIGHTINGS sightings in a row the ones in the middle are not needed. Should a
    change that saw nothing arrive that is older than the newest of them, the time is that of the next sighting that was
    kept: later than it was, but never a completion or a cancellation more or less. No bounded rule is exact there, since
    any of the sightings may be the first one after a late change.
    """
    facts = merge_changes(changes)
    live = {name: set(_thin_out(sorted(fact.observations))) for name, fact in facts.items() if fact.observations}
    sighted = {
        (name, stamp): said.origin
        for said in changes
        if said.times_are_observed or said.first_contact_stays
        for name, value in _change_values(said).items()
        if name in live and (stamp := said.stamp(value)) in live[name]
    }
    return deciding_origins(facts) | set(sighted.values())


def _thin_out(live: list[Stamp]) -> list[Stamp]:
    """The last that saw nothing, the first that saw something, and the newest."""
    return live[:2] + live[2:][-MAX_OBSERVATIONS:]


@dataclass(frozen=True, slots=True)
class DesiredVisit:
    """What should stand in the Visits API.

    fields: the writable ones that some change spoke of, as the API writes them; None where it should be empty. What
    nobody spoke of is not in it, and left alone.
    """

    fields: dict[str, str | None]
    contact: Contact
    opted_out: bool = False

    @property
    def is_cancelled(self) -> bool:
        return self.opted_out or bool(self.fields.get("date_cancelled"))

    @property
    def is_empty(self) -> bool:
        """Nothing was said that counts: there is no visit, and nothing to wait for."""
        return not self.fields and self.contact == Contact()

    @property
    def has_date(self) -> bool:
        return bool(self.fields.get("event_date"))


PASSED_THROUGH: tuple[str, ...] = ("time_scheduled", "time_completed", "amount_collected")


#: The facts that take a visit off, whichever is there.
CANCELLING_FACTS = ("date_cancelled", "no_show", "date_left")


def desired_visit(facts: Facts) -> DesiredVisit:
    """The visit that the facts mean.

    A no-show is a cancel, and so are a place given up and an opt-out: nobody wants a review request for them. The campaign
    starts at `event_date`: the completion if there is one, else the appointment.
    """
    contact = _contact(facts)
    found = {name: fact for name in FACTS if (fact := _greatest_fact(facts, name, f"{name}{ONLY_FOR}{contact.email}"))}
    value = {name: fact.value for name, fact in found.items()} | _payments_total(facts)
    fields: dict[str, str | None] = {name: value[name] for name in PASSED_THROUGH if name in value}
    event_date = value.get("time_completed") or value.get("time_scheduled")
    if value.keys() & {"time_scheduled", "time_completed"}:
        fields["event_date"] = event_date
    if value.keys() & {*CANCELLING_FACTS, "opted_out"}:
        opted_out_at = (event_date or _opted_out_at(found["opted_out"])) if value.get("opted_out") else None
        fields["date_cancelled"] = next(filter(None, map(value.get, CANCELLING_FACTS)), None) or opted_out_at
    return DesiredVisit(fields, contact, bool(value.get("opted_out")))


def _greatest_fact(facts: Facts, *names: str) -> Fact | None:
    """What counts, of facts that are known by several names."""
    known = [facts[name] for name in names if name in facts]
    return reduce(Fact.__or__, known) if known else None


def _opted_out_at(fact: Fact) -> str:
    """By the clock of a tool that dates its changes; where it counts versions, some time long ago, which does as well."""
    return format_time(_EPOCH + timedelta(microseconds=min(max(fact.stamp[1], 0), _LATEST_US)))


_EPOCH, _LATEST_US = datetime(1970, 1, 1, tzinfo=UTC), 250_000_000_000_000_000


def _payments_total(facts: Facts) -> dict[str, str | None]:
    """The sum of the payments, unless somebody knows of more: a tool's total may or may not have them in it."""
    paid = [Decimal(fact.value or 0) for name, fact in facts.items() if name.startswith(PAYMENT_PREFIX)]
    if not paid:
        return {}
    total = facts["amount_collected"].value if "amount_collected" in facts else None
    most = max(sum(paid, Decimal()), Decimal(total or 0))
    return {"amount_collected": format_money(most) if most > 0 else None}


def count_people(facts: Facts) -> int:
    """How many people the tool named under this one id, where it may name several."""
    return sum(name.startswith(NAMED_CONTACT) for name in facts)


def count_payments(facts: Facts) -> int:
    """How many payments the tool told of."""
    return sum(name.startswith(PAYMENT_PREFIX) for name in facts)


def _contact(facts: Facts) -> Contact:
    email = (facts["contact.email"].value or None) if "contact.email" in facts else None

    def detail(name: str) -> Any:
        found = _greatest_fact(facts, f"contact.{name}", f"contact.{name} of {email}")
        return (found.value or None) if found else None

    return Contact(
        id=detail("id"),
        email=email,
        first_name=detail("first_name"),
        last_name=detail("last_name"),
        phone=detail("phone"),
    )


#: Beside what the API answered stands whose visit it was then: asking again would cost a call each time.
CONTACT_KEY = "contact"


def changed_fields(remote: Mapping[str, Any], desired: DesiredVisit) -> dict[str, str | None]:
    """The fields to send: None clears. A new time takes `event_date` along, and the other way round: a campaign must not
    start at a time that is no more."""
    changed = {name: value for name, value in desired.fields.items() if not values_equal(remote.get(name), value)}
    if changed.keys() & {"time_scheduled", "time_completed"} and desired.fields.get("event_date"):
        changed["event_date"] = desired.fields["event_date"]
    return changed


def values_equal(remote: Any, value: str | None) -> bool:
    """Are the two the same moment, the same money, or both nothing?"""
    if not remote or not value:
        return not remote and not value
    try:
        return datetime.fromisoformat(str(remote)) == datetime.fromisoformat(value)
    except (ValueError, TypeError):
        pass
    try:
        return Decimal(str(remote)) == Decimal(value)
    except InvalidOperation:
        return str(remote) == value


def deciding_origins(facts: Facts) -> set[str]:
    """The origins that still decide something; a change of any other origin is superseded."""
    return {fact.origin for fact in facts.values()}
