"""Merges the changes of a visit, in any order and number, into the facts that the visit should show.

For every field, the change with the greatest stamp decides: (alias depth, the tool's version or time, time of the
fetch, rank of the action, the value as text). The maximum is commutative, associative and idempotent, so the facts
depend on the *set* of changes and on nothing else.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import Any, NamedTuple

import orjson

from app.visits.change import ACTION_RANK, FACTS, PAYMENT_PREFIX, Contact, format_money, format_time, stored_facts

Stamp = tuple[int, int, int, int, str]


class RecordedChange(NamedTuple):
    """A change as the ledger stores it. `origin` is the id of its delivery."""

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
        """Decode a stored change; `encode_change` is the inverse.

        alias_depth: 0 for the visit's first id, 1 for the id it was rescheduled to, and so on.
        """
        fields = orjson.loads(stored)
        return cls(
            origin,
            fields["a"],
            fields["o"],
            stored_facts(fields),
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


class Fact(NamedTuple):
    """A value, the stamp that decided for it, and the delivery that it comes from.

    observations: the stamps of the observations that may decide later (see `_relevant_observations`).
    """

    value: Any
    stamp: Stamp
    origin: str
    observations: frozenset[Stamp] = frozenset()

    def __or__(self, other: "Fact") -> "Fact":
        newest = max(self, other, key=lambda fact: (fact.stamp, fact.origin))
        return _with_observations(newest, self.observations | other.observations)


def _with_observations(newest: Fact, observations: Iterable[Stamp]) -> Fact:
    """Return the fact with the greatest stamp, with the value of the first consecutive observation."""
    relevant = _relevant_observations(observations)
    if not relevant:
        return newest
    if newest.stamp != relevant[-1]:  # the newest value is a time from the tool, not an observation
        return newest._replace(observations=frozenset(relevant))
    first_value = next((value for *_, value in relevant if value), None)
    return newest._replace(value=first_value, observations=frozenset(relevant))


def _relevant_observations(observations: Iterable[Stamp]) -> list[Stamp]:
    """Return, in order, the last empty observation (value "") and all observations after it.

    The field has the value of the first observation after the last empty one. A later change can only move that point
    forward, so earlier observations never decide again. Each of the others may decide: an empty observation that
    arrives late moves the point between any two of them.
    """
    ordered = sorted(set(observations))
    start = next((at for at in range(len(ordered) - 1, 0, -1) if not ordered[at][-1]), 0)
    return ordered[start:]


Facts = dict[str, Fact]


def _change_values(change: RecordedChange) -> dict[str, Any]:
    """Return the values of one change by field. The contact's fields are named `contact.email` and so on."""
    email = change.contact.get("email")
    if change.only_for_contact:
        return {f"{name}{ONLY_FOR}{email}": value for name, value in change.facts.items() if email}
    if not change.contact:
        return change.facts
    facts = change.facts
    if change.first_contact_stays and email:
        facts = {f"{name}{ONLY_FOR}{email}": value for name, value in facts.items()} | {f"{NAMED_CONTACT}{email}": True}
    values = facts | {f"contact.{name}": value for name, value in change.contact.items()}
    for name in ("id", "first_name", "last_name", "phone"):
        if email and f"contact.{name}" in values:
            # These fields belong to the e-mail address: a visit that gets another customer must not keep the old name.
            values[f"contact.{name} of {email}"] = values.pop(f"contact.{name}")
    return values


#: Marks the name of a fact that counts only while the visit belongs to the address after this text.
ONLY_FOR = " only for "
#: Prefix of the fact that the tool named this address under an id that several people may share.
NAMED_CONTACT = f"named{ONLY_FOR}"
#: Times that some tools do not send: the time of the first observation is used.
OBSERVABLE_TIMES = ("time_completed", "date_cancelled", "no_show")


def _is_observation(change: RecordedChange, name: str) -> bool:
    """Return whether the first of several consecutive values of this field decides."""
    if name == "contact.email":
        return change.first_contact_stays
    return change.times_are_observed and name.partition(ONLY_FOR)[0] in OBSERVABLE_TIMES


def join_facts(first: Facts, second: Facts) -> Facts:
    """Join two sets of facts: for each field, the fact with the greater stamp."""
    common = {name: first[name] | second[name] for name in first.keys() & second.keys()}
    return first | second | common


def merge_changes(changes: Iterable[RecordedChange]) -> Facts:
    """Merge all changes in one pass, in O(n log n)."""
    newest: dict[str, tuple[Stamp, str, Any]] = {}
    observations: dict[str, list[Stamp]] = {}
    for change in changes:
        for name, value in _change_values(change).items():
            stamp = change.stamp(value)
            if name not in newest or (stamp, change.origin) > newest[name][:2]:
                newest[name] = (stamp, change.origin, value)
            if _is_observation(change, name):
                observations.setdefault(name, []).append(stamp)
    return {
        name: _with_observations(Fact(value, stamp, origin), observations.get(name, ()))
        for name, (stamp, origin, value) in newest.items()
    }


#: Of consecutive observations of a field, the first and this many of the newest are stored.
MAX_OBSERVATIONS = 200


def required_origins(changes: Sequence[RecordedChange]) -> set[str]:
    """Return the origins of the changes that a visit must not drop.

    Whatever arrives later, merging it with these changes gives the same facts as merging it with all changes, with one
    exception: of more than MAX_OBSERVATIONS consecutive observations, the ones in the middle are dropped. If an empty
    observation arrives late and belongs between them, the field gets the time of the next stored observation. That time
    is later than the true one, but no completion or cancellation appears or disappears. No bounded rule is exact here,
    since any observation may become the first one after a late change.
    """
    facts = merge_changes(changes)
    required = {name: set(_thin_out(sorted(fact.observations))) for name, fact in facts.items() if fact.observations}
    observed = {
        (name, stamp): change.origin
        for change in changes
        if change.times_are_observed or change.first_contact_stays
        for name, value in _change_values(change).items()
        if name in required and (stamp := change.stamp(value)) in required[name]
    }
    return deciding_origins(facts) | set(observed.values())


def _thin_out(observations: list[Stamp]) -> list[Stamp]:
    """Return the empty observation, the first with a value, and the newest ones."""
    return observations[:2] + observations[2:][-MAX_OBSERVATIONS:]


class DesiredVisit(NamedTuple):
    """The state that a visit should have in the Visits API.

    fields: the writable fields that some change mentions, formatted as the API formats them; None clears a field. A
    field that no change mentions is absent and is not sent.
    """

    fields: dict[str, str | None]
    contact: Contact
    opted_out: bool = False

    @property
    def is_cancelled(self) -> bool:
        return self.opted_out or bool(self.fields.get("date_cancelled"))

    @property
    def is_empty(self) -> bool:
        """Whether the changes have no value and no contact: then there is no visit to create or to wait for.

        Changes that only clear fields, such as an invoice on which nothing is paid, do not make a visit.
        """
        return not any(self.fields.values()) and self.contact == Contact()

    @property
    def has_date(self) -> bool:
        return bool(self.fields.get("event_date"))


#: Facts that are fields of the Visits API under the same name.
COPIED_FIELDS: tuple[str, ...] = ("time_scheduled", "time_completed", "amount_collected")


#: Facts that cancel a visit.
CANCELLING_FACTS = ("date_cancelled", "no_show", "date_left")


def desired_visit(facts: Facts) -> DesiredVisit:
    """Return the visit that the facts describe.

    A no-show, a person who left, and an opt-out cancel the visit: no review request may be sent for them. The campaign
    starts at `event_date`: the time of completion if there is one, else the time of the appointment.
    """
    contact = _contact(facts)
    deciding = {
        name: fact for name in FACTS if (fact := _greatest_fact(facts, name, f"{name}{ONLY_FOR}{contact.email}"))
    }
    values = {name: fact.value for name, fact in deciding.items()} | _payments_total(facts)
    fields: dict[str, str | None] = {name: values[name] for name in COPIED_FIELDS if name in values}
    event_date = values.get("time_completed") or values.get("time_scheduled")
    if values.keys() & {"time_scheduled", "time_completed"}:
        fields["event_date"] = event_date
    if values.keys() & {*CANCELLING_FACTS, "opted_out"}:
        opted_out_at = (event_date or _opted_out_at(deciding["opted_out"])) if values.get("opted_out") else None
        fields["date_cancelled"] = next(filter(None, map(values.get, CANCELLING_FACTS)), None) or opted_out_at
    return DesiredVisit(fields, contact, bool(values.get("opted_out")))


def _greatest_fact(facts: Facts, *names: str) -> Fact | None:
    """Join the facts that describe one field under several names."""
    candidates = [facts[name] for name in names if name in facts]
    return reduce(Fact.__or__, candidates) if candidates else None


def _opted_out_at(fact: Fact) -> str:
    """Return the time of the change; for a tool that counts versions, a time close to 1970, which also cancels."""
    return format_time(_EPOCH + timedelta(microseconds=min(max(fact.stamp[1], 0), _LATEST_US)))


_EPOCH, _LATEST_US = datetime(1970, 1, 1, tzinfo=UTC), 250_000_000_000_000_000


def _payments_total(facts: Facts) -> dict[str, str | None]:
    """Return the sum of the payments, or the tool's total if it is greater: the total may or may not include them."""
    payments = [Decimal(fact.value or 0) for name, fact in facts.items() if name.startswith(PAYMENT_PREFIX)]
    if not payments:
        return {}
    total = facts["amount_collected"].value if "amount_collected" in facts else None
    amount = max(sum(payments, Decimal()), Decimal(total or 0))
    return {"amount_collected": format_money(amount) if amount > 0 else None}


def currency(facts: Facts) -> str | None:
    """Return the currency of the amount; None if it is unknown, or if payments have several."""
    codes = {fact.value for name, fact in facts.items() if re.match(r"currency\b", name)}
    return codes.pop() if len(codes) == 1 else None


def count_people(facts: Facts) -> int:
    """Count the people that the tool named under one id (`first_contact_stays`)."""
    return sum(name.startswith(NAMED_CONTACT) for name in facts)


def count_payments(facts: Facts) -> int:
    return sum(name.startswith(PAYMENT_PREFIX) for name in facts)


def _contact(facts: Facts) -> Contact:
    email = (facts["contact.email"].value or None) if "contact.email" in facts else None

    def detail(name: str) -> Any:
        fact = _greatest_fact(facts, f"contact.{name}", f"contact.{name} of {email}")
        return (fact.value or None) if fact else None

    return Contact(
        id=detail("id"),
        email=email,
        first_name=detail("first_name"),
        last_name=detail("last_name"),
        phone=detail("phone"),
    )


#: The field of `remote` with the cache key of the visit's contact, which saves a call to fetch the contact in each run.
CONTACT_KEY = "contact"

#: The field of `remote` that marks a visit of another program, which Doorbell deletes only to recreate it.
FOREIGN_KEY = "is_foreign"


def is_foreign(remote: Mapping[str, Any] | None) -> bool:
    return bool(remote and remote.get(FOREIGN_KEY))


def changed_fields(remote: Mapping[str, Any], desired: DesiredVisit) -> dict[str, str | None]:
    """Return the fields to send; None clears a field.

    A new time is always sent with `event_date`, so that no campaign starts at the old time.
    """
    changed = {name: value for name, value in desired.fields.items() if not values_equal(remote.get(name), value)}
    if changed.keys() & {"time_scheduled", "time_completed"} and desired.fields.get("event_date"):
        changed["event_date"] = desired.fields["event_date"]
    return changed


def values_equal(remote: Any, value: str | None) -> bool:
    """Return whether both are the same time, the same amount, the same text, or both empty."""
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
    """Return the origins that decide at least one field. The changes of all other origins are superseded."""
    return {fact.origin for fact in facts.values()}
