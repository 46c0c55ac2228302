"""The join and the words it is made of: the visit is a function of the set of changes, and of nothing else."""

import hmac
import json
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.visits import merge
from app.visits.change import (
    UNSAID,
    Contact,
    VisitChange,
    attendee_visit_id,
    encode_change,
    external_id,
    is_external_id,
    microseconds,
    money,
    timestamp,
)
from app.visits.merge import (
    Fact,
    Facts,
    Said,
    Wanted,
    difference,
    fold,
    join,
    needed,
    payments_of,
    people_of,
    same,
    wanted,
    winners,
)
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)

NINE, TEN, ELEVEN = (datetime(2026, 3, 14, hour, tzinfo=UTC) for hour in (9, 10, 11))


def said(action: Any, order: int, *, origin: str = "", generation: int = 0, **fields: Any) -> Said:
    """A change, by way of the ledger's bytes."""
    change = VisitChange(action=action, visit_id="A-1", order=order, **fields)
    return Said.read(origin or f"{action} at {order}", encode_change(change), generation)


def made_of(*changes: Said) -> Wanted:
    """The visit that these changes mean, in whichever order they came."""
    forwards, backwards = wanted(fold(changes)), wanted(fold(reversed(changes)))
    assert forwards == backwards
    return forwards


# -- the join, as mathematics has it --

ADDRESSES = ("ada@example.com", "zoe@example.com")
TIMES = st.none() | st.sampled_from(("2026-03-14T09:00:00Z", "2026-03-14T10:00:00Z"))
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "time_scheduled": TIMES,
        "time_completed": TIMES,
        "date_cancelled": TIMES,
        "no_show": TIMES,
        "date_left": TIMES,
        "amount_collected": st.none() | st.sampled_from(("90.00", "245.00")),
        "opted_out": st.booleans(),
    },
)
CONTACTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(("cont_1", "cont_2")),
        "email": st.sampled_from(ADDRESSES),
        "first_name": st.sampled_from(("Ada", "Zoë")),
        "last_name": st.sampled_from(("Lovelace", "Gödel")),
        "phone": st.just("+15550100001"),
    },
)
#: Few clocks and few origins, so that ties are common.
CHANGES = st.builds(
    Said,
    origin=st.sampled_from(("d1", "d2", "d3")),
    action=st.sampled_from(("create", "update", "cancel")),
    order=st.integers(0, 3),
    facts=FACTS,
    contact=CONTACTS,
    generation=st.integers(0, 2),
    as_of=st.integers(0, 1),
    is_sighting=st.booleans(),
    only_for_contact=st.sampled_from((False, False, True)),
    first_contact_stays=st.sampled_from((False, False, True)),
)
SETS = st.lists(CHANGES, max_size=6)


@EXAMPLES
@given(SETS, SETS)
def test_the_join_is_commutative(one: list[Said], other: list[Said]) -> None:
    assert join(fold(one), fold(other)) == join(fold(other), fold(one))


@EXAMPLES
@given(SETS, SETS, SETS)
def test_the_join_is_associative(one: list[Said], other: list[Said], third: list[Said]) -> None:
    a, b, c = fold(one), fold(other), fold(third)

    assert join(join(a, b), c) == join(a, join(b, c))


@EXAMPLES
@given(SETS)
def test_the_join_is_idempotent_and_nothing_is_its_neutral(changes: list[Said]) -> None:
    facts = fold(changes)

    assert facts == join(facts, facts)
    assert facts == join(facts, {}) == join({}, facts)


@EXAMPLES
@given(SETS, st.data())
def test_every_order_with_any_repeats_makes_the_same_visit(changes: list[Said], data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.sampled_from(changes), max_size=6)) if changes else []
    arrived = data.draw(st.permutations(changes + repeats))

    assert fold(changes) == fold(arrived)
    assert wanted(fold(changes)) == wanted(fold(arrived))
    assert winners(fold(changes)) == winners(fold(arrived))


@EXAMPLES
@given(SETS, st.integers(0, 6))
def test_two_workers_that_saw_different_halves_agree_once_they_meet(changes: list[Said], half: int) -> None:
    overlapping = changes[max(0, half - 1) :]

    assert fold(changes) == join(fold(changes[:half]), fold(overlapping))


@EXAMPLES
@given(SETS, CHANGES)
def test_an_older_change_decides_nothing_that_a_newer_one_spoke_of(changes: list[Said], late: Said) -> None:
    older = Said("late", late.action, -1, late.facts, late.contact, 0)
    before = fold(changes)

    after = fold([*changes, older])

    assert before == {name: fact for name, fact in after.items() if name in before}


@EXAMPLES
@given(SETS)
def test_a_fact_remembers_which_change_said_it(changes: list[Said]) -> None:
    facts = fold(changes)
    origins = {change.origin for change in changes if change.facts or change.contact}

    assert winners(facts) <= origins
    assert all(isinstance(fact, Fact) and fact.origin in origins for fact in facts.values())


@EXAMPLES
@given(SETS)
def test_one_pass_over_the_changes_is_the_join_of_all(changes: list[Said]) -> None:
    joined: Facts = {}
    for change in changes:
        joined = join(joined, fold([change]))

    assert joined == fold(changes)


# -- what a visit may forget --

#: Values of one field over a few moments: late, repeated, and dated alike.
SIGHTINGS = st.lists(
    st.builds(
        Said,
        origin=st.sampled_from(("d1", "d2", "d3", "d4")),
        action=st.sampled_from(("update", "cancel")),
        order=st.integers(0, 9),
        facts=st.fixed_dictionaries({"date_cancelled": TIMES}),
        contact=st.just({}),
        generation=st.integers(0, 1),
        is_sighting=st.sampled_from((True, True, True, False)),
    ),
    max_size=14,
)


def numbered(changes: Sequence[Said], prefix: str = "n") -> list[Said]:
    """Each with an origin of its own, as in the ledger."""
    return [replace(change, origin=f"{prefix}{at:02}") for at, change in enumerate(changes)]


def kept_of(changes: Sequence[Said]) -> list[Said]:
    origins = needed(changes)
    return [change for change in changes if change.origin in origins]


@EXAMPLES
@given(SETS | SIGHTINGS, SETS | SIGHTINGS)
def test_whatever_lands_later_what_is_needed_stands_for_all(changes: list[Said], later: list[Said]) -> None:
    changes, later = numbered(changes), numbered(later, "late")

    assert fold([*changes, *later]) == fold([*kept_of(changes), *later])


@EXAMPLES
@given(SETS | SIGHTINGS, SETS | SIGHTINGS, st.integers(1, 3))
def test_what_is_needed_stands_for_all_also_behind_an_id_that_turns_out_to_come_before(
    changes: list[Said], first: list[Said], by: int
) -> None:
    changes = numbered(changes)
    moved = {change.origin: replace(change, generation=change.generation + by) for change in changes}

    whole = fold([*numbered(first, "first"), *moved.values()])

    assert whole == fold([*numbered(first, "first"), *(moved[change.origin] for change in kept_of(changes))])


@EXAMPLES
@given(st.lists(SIGHTINGS, max_size=4))
def test_to_forget_again_and_again_forgets_nothing_that_is_needed(parts: list[list[Said]]) -> None:
    everything, held = list[Said](), list[Said]()
    for at, part in enumerate(parts):
        everything += numbered(part, f"part{at}-")
        held = kept_of([*held, *numbered(part, f"part{at}-")])

    assert fold(everything) == fold(held)


@EXAMPLES
@given(SIGHTINGS, SIGHTINGS)
def test_of_very_many_sightings_in_a_row_a_late_change_may_move_the_time_and_nothing_else(
    changes: list[Said], later: list[Said]
) -> None:
    changes, later = numbered(changes), numbered(later, "late")
    with patch.object(merge, "NEWEST_SIGHTINGS", 2):
        kept = kept_of(changes)

    whole, short = (fold([*some, *later]).get("date_cancelled") for some in (changes, kept))

    assert (whole and (whole.stamp, whole.origin)) == (short and (short.stamp, short.origin))
    assert bool(whole and whole.value) == bool(short and short.value)
    newest = sorted({change.stamp(value) for change in kept if (value := change.facts["date_cancelled"])})[-2:]
    if all(change.facts["date_cancelled"] or [change.stamp(None)] > newest[:1] for change in later):
        assert (whole and whole.value) == (short and short.value)


def test_of_eight_thousand_sightings_few_are_needed_and_the_first_of_them_counts() -> None:
    def sighting(second: int, done: bool = True) -> Said:
        seen_at = timestamp(NINE + timedelta(seconds=second)) if done else None
        return Said(f"d{second:05}", "update", second, {"time_completed": seen_at}, {}, is_sighting=True)

    changes = [sighting(0, done=False), *(sighting(second) for second in range(1, 8_000))]

    kept = kept_of(changes)

    assert merge.NEWEST_SIGHTINGS + 2 == len(kept)
    assert (
        "2026-03-14T09:00:01Z" == made_of(*kept).fields["time_completed"] == made_of(*changes).fields["time_completed"]
    )


def test_sightings_that_are_alike_are_kept_once() -> None:
    changes = [
        Said(f"d{at}", "update", 1, {"no_show": "2026-03-14T09:00:00Z"}, {}, is_sighting=True) for at in range(9)
    ]

    assert {"d8"} == needed(changes)


@pytest.mark.parametrize("kind", ["sightings", "payments", "addresses"])
def test_twenty_thousand_changes_of_one_visit_are_folded(kind: str) -> None:
    """In less than a second; joined pair by pair it took ten minutes, in which nothing else ran."""

    def change(at: int) -> Said:
        seen_at = timestamp(NINE + timedelta(seconds=at))
        if kind == "sightings":
            return Said(f"d{at}", "update", at, {"time_completed": seen_at}, {}, is_sighting=True)
        if kind == "payments":
            return Said(f"d{at}", "update", at, {f"amount_collected of p{at}": "1.00"}, {})
        return Said(f"d{at}", "update", at, {}, {"email": f"{at}@example.com", "first_name": "Ada", "phone": "+1555"})

    changes = [change(at) for at in range(20_000)]

    signal.alarm(60)  # its handler ends the test: far more than the fold takes on a busy machine
    want = wanted(fold(changes))
    signal.alarm(0)

    said = {"sightings": want.fields.get("time_completed"), "payments": want.fields.get("amount_collected")}
    expected = {"sightings": "2026-03-14T09:00:00Z", "payments": "20000.00", "addresses": None}
    assert expected[kind] == said.get(kind)
    assert want.contact.email == ("19999@example.com" if kind == "addresses" else None)


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    def ended(*_: object) -> None:
        raise TimeoutError("the fold does not come to an end")

    before = signal.signal(signal.SIGALRM, ended)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# -- what the rules mean to a visit --


def test_a_cancel_stands_when_the_booking_arrives_after_it() -> None:
    visit = made_of(
        said("cancel", 2, date_cancelled=TEN),
        said("create", 1, time_scheduled=NINE, date_cancelled=None, no_show=None),
    )

    assert "2026-03-14T10:00:00Z" == visit.fields["date_cancelled"]
    assert visit.is_off


def test_a_later_booking_takes_a_cancel_back() -> None:
    visit = made_of(
        said("create", 1, time_scheduled=NINE, date_cancelled=None),
        said("cancel", 2, date_cancelled=TEN),
        said("create", 3, time_scheduled=ELEVEN, date_cancelled=None),
    )

    assert visit.fields["date_cancelled"] is None
    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_off


def test_an_update_that_does_not_speak_of_it_leaves_a_cancel_alone() -> None:
    visit = made_of(said("cancel", 2, date_cancelled=TEN), said("update", 3, amount_collected=Decimal(5)))

    assert visit.is_off


@pytest.mark.parametrize(
    ("stronger", "weaker"), [("cancel", "update"), ("cancel", "create"), ("update", "create")], ids=str
)
def test_of_changes_that_the_tool_dates_alike_the_later_in_life_wins(stronger: str, weaker: str) -> None:
    visit = made_of(said(stronger, 5, time_scheduled=NINE), said(weaker, 5, time_scheduled=TEN))

    assert "2026-03-14T09:00:00Z" == visit.fields["time_scheduled"]


def test_a_cancel_wins_over_a_booking_of_the_same_second() -> None:
    visit = made_of(said("create", 5, time_scheduled=NINE, date_cancelled=None), said("cancel", 5, date_cancelled=NINE))

    assert "2026-03-14T09:00:00Z" == visit.fields["date_cancelled"]


def test_of_two_values_with_nothing_else_between_them_the_same_one_always_wins() -> None:
    one, other = said("update", 5, origin="d1", time_scheduled=NINE), said("update", 5, origin="d2", time_scheduled=TEN)
    nothing = said("update", 5, origin="d3", time_scheduled=None)

    assert made_of(one, other) == made_of(other, one, nothing) == made_of(nothing, other, one)
    assert made_of(one, nothing).fields["time_scheduled"] is not None


def test_a_negative_version_is_older_than_the_first() -> None:
    visit = made_of(said("update", -1, time_scheduled=NINE), said("update", 0, time_scheduled=TEN))

    assert "2026-03-14T10:00:00Z" == visit.fields["time_scheduled"]


def test_fields_of_different_changes_stand_side_by_side() -> None:
    visit = made_of(
        said("create", 1, time_scheduled=NINE),
        said("update", 3, amount_collected=Decimal("245")),
        said("update", 2, time_completed=TEN, amount_collected=Decimal("1")),
    )

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "time_completed": "2026-03-14T10:00:00Z",
        "amount_collected": "245.00",
        "event_date": "2026-03-14T10:00:00Z",
    } == visit.fields


def test_what_nobody_spoke_of_is_left_alone_and_what_was_cleared_is_empty() -> None:
    visit = made_of(said("create", 1, time_scheduled=NINE), said("update", 2, amount_collected=None))

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": None,
    } == visit.fields


def test_a_change_that_speaks_of_no_time_leaves_the_date_of_the_campaign_alone() -> None:
    visit = made_of(said("update", 1, amount_collected=Decimal(1)), said("cancel", 2, date_cancelled=TEN))

    assert {"amount_collected": "1.00", "date_cancelled": "2026-03-14T10:00:00Z"} == visit.fields


def test_after_a_reschedule_the_new_id_decides_whatever_the_clocks_say() -> None:
    visit = made_of(
        said("cancel", 9, date_cancelled=TEN, time_scheduled=NINE),
        said("create", 1, time_scheduled=ELEVEN, date_cancelled=None, generation=1),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_off


def test_of_what_the_new_id_does_not_say_the_old_one_is_believed() -> None:
    visit = made_of(
        said("create", 5, time_scheduled=NINE, amount_collected=Decimal("30")),
        said("update", 6, time_scheduled=TEN, generation=1),
        said("update", 2, time_scheduled=ELEVEN, generation=2),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert "30.00" == visit.fields["amount_collected"]


def test_of_one_version_the_record_that_was_fetched_last_counts() -> None:
    first = said("create", 0, as_of=100, contact=Contact(email="zoe@example.com"), opted_out=True)
    corrected = said("create", 0, origin="again", as_of=200, contact=Contact(email="ada@example.com"), opted_out=False)

    visit = made_of(first, corrected)

    assert "ada@example.com" == visit.contact.email
    assert not visit.is_off


def test_a_greater_version_counts_whenever_it_was_fetched() -> None:
    swapped = said("update", 1, as_of=100, contact=Contact(email="zoe@example.com"))
    late = said("create", 0, as_of=200, contact=Contact(email="ada@example.com"))

    assert "zoe@example.com" == made_of(swapped, late).contact.email


# -- what is seen and not told --


def test_of_several_sightings_in_a_row_the_first_counts() -> None:
    seen = [
        said("cancel", 3, date_cancelled=ELEVEN, is_sighting=True),
        said("update", 2, date_cancelled=TEN, is_sighting=True),
        said("create", 1, date_cancelled=None, is_sighting=True),
    ]

    assert "2026-03-14T10:00:00Z" == made_of(*seen).fields["date_cancelled"]


def test_what_is_seen_again_after_it_was_over_counts_from_then() -> None:
    seen = [
        said("cancel", 1, date_cancelled=NINE, no_show=NINE, is_sighting=True),
        said("update", 2, date_cancelled=None, no_show=None, is_sighting=True),
        said("cancel", 3, date_cancelled=TEN, is_sighting=True),
        said("cancel", 4, date_cancelled=ELEVEN, is_sighting=True),
    ]

    assert "2026-03-14T10:00:00Z" == made_of(*seen).fields["date_cancelled"]
    assert made_of(*seen[:2]).fields["date_cancelled"] is None


def test_a_completion_that_is_seen_again_was_when_it_was_seen_first_since_it_was_open() -> None:
    seen = [
        said("update", 1, time_completed=NINE, is_sighting=True),
        said("update", 2, time_completed=None, is_sighting=True),
        said("update", 3, time_completed=TEN, is_sighting=True),
        said("update", 4, time_completed=ELEVEN, is_sighting=True),
    ]

    assert "2026-03-14T10:00:00Z" == made_of(*seen).fields["time_completed"]


def test_of_several_times_that_were_told_the_last_counts() -> None:
    told = [said("cancel", 1, date_cancelled=TEN), said("cancel", 2, date_cancelled=ELEVEN)]

    assert "2026-03-14T11:00:00Z" == made_of(*told).fields["date_cancelled"]


# -- completion, no-show, opt-out --


def test_a_campaign_starts_at_the_completion_and_else_at_the_appointment() -> None:
    booked, completed = said("create", 1, time_scheduled=NINE), said("update", 2, time_completed=TEN)
    taken_back = said("update", 3, time_completed=None)

    assert "2026-03-14T09:00:00Z" == made_of(booked).fields["event_date"]
    assert "2026-03-14T10:00:00Z" == made_of(booked, completed).fields["event_date"]
    assert "2026-03-14T09:00:00Z" == made_of(booked, completed, taken_back).fields["event_date"]
    assert "2026-03-14T10:00:00Z" == made_of(completed).fields["event_date"]


def test_without_any_time_there_is_no_date_and_no_visit_to_make() -> None:
    visit = made_of(said("create", 1, time_scheduled=None, amount_collected=Decimal(1)))

    assert not visit.has_date
    assert not visit.fields.get("event_date")


def test_a_no_show_is_a_cancel_and_taking_the_mark_back_an_uncancel() -> None:
    booked, missed = said("create", 1, time_scheduled=NINE, date_cancelled=None), said("update", 2, no_show=ELEVEN)
    came_late = said("update", 3, no_show=None)

    assert "2026-03-14T11:00:00Z" == made_of(booked, missed).fields["date_cancelled"]
    assert made_of(booked, missed).is_off
    assert made_of(booked, missed, came_late).fields["date_cancelled"] is None
    assert not made_of(booked, missed, came_late).is_off


def test_a_cancelled_visit_stays_so_when_its_no_show_is_taken_back() -> None:
    visit = made_of(said("cancel", 1, date_cancelled=TEN, no_show=ELEVEN), said("update", 2, no_show=None))

    assert "2026-03-14T10:00:00Z" == visit.fields["date_cancelled"]


def test_a_customer_who_opted_out_gets_no_visit_until_opted_in_again() -> None:
    booked, out = said("create", 1, time_scheduled=NINE), said("update", 2, opted_out=True)
    back_in = said("update", 3, opted_out=False)

    assert made_of(booked, out).is_off
    assert not made_of(booked, out, back_in).is_off
    assert made_of(booked, out, back_in).fields["date_cancelled"] is None


def test_an_opt_out_wins_over_an_opt_in_of_the_same_second() -> None:
    visit = made_of(
        said("create", 1, time_scheduled=NINE), said("update", 2, opted_out=False), said("update", 2, opted_out=True)
    )

    assert visit.is_off


@pytest.mark.parametrize(
    ("order", "at"),
    [(1_796_415_440_000_000, "2026-12-04T20:17:20Z"), (7, "1970-01-01T00:00:00Z")],
    ids=["a time", "a version"],
)
def test_a_visit_that_lost_its_times_is_cancelled_for_a_customer_who_opted_out(order: int, at: str) -> None:
    completed = said("update", order, time_completed=NINE, opted_out=True)
    reopened = said("update", order + 1_000_000, time_completed=None)

    assert {"time_completed": None, "event_date": None, "date_cancelled": at} == made_of(completed, reopened).fields


def test_a_customer_who_opted_out_gets_no_visit_while_its_time_is_unknown_either() -> None:
    visit = made_of(said("create", 1, time_scheduled=None, opted_out=True))

    assert visit.is_off


# -- whose visit it is --

ADA = Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")


def test_the_contact_is_put_together_from_all_that_was_said() -> None:
    visit = made_of(
        said("create", 1, contact=Contact(email="ada@example.com", first_name="Ada")),
        said("update", 2, contact=Contact(email="ADA@example.com", last_name="Lovelace")),
        said("update", 3, contact=Contact(phone="+15550100001")),
    )

    assert visit.contact == ADA


def test_a_name_without_an_address_goes_with_the_address_that_comes_later() -> None:
    visit = made_of(
        said("create", 1, contact=Contact(first_name="Ada", last_name="Lovelace")),
        said("update", 2, contact=Contact(email="ada@example.com")),
    )

    assert visit.contact == Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace")


def test_names_go_with_their_address_when_another_customer_takes_a_visit_over() -> None:
    visit = made_of(
        said("create", 1, contact=ADA), said("update", 2, contact=Contact(email="zoe@example.com", first_name="Zoë"))
    )

    assert visit.contact == Contact(email="zoe@example.com", first_name="Zoë")


def test_names_come_back_with_their_address() -> None:
    zoe = Contact(email="zoe@example.com", first_name="Zoë", phone="+15550100002")

    visit = made_of(
        said("create", 1, contact=ADA),
        said("update", 2, contact=zoe),
        said("update", 3, contact=Contact(email="ada@example.com")),
    )

    assert visit.contact == ADA


def test_addresses_that_differ_in_capitals_are_one_customer() -> None:
    visit = made_of(said("create", 1, contact=Contact(email=" Ada@Example.COM ", first_name=" Ada ", phone=" ")))

    assert visit.contact == Contact(email="ada@example.com", first_name="Ada")


def test_a_contact_that_an_operator_named_stays_when_an_address_comes() -> None:
    visit = made_of(
        said("update", 1, contact=Contact(id="cont_1")), said("update", 2, contact=Contact(email="ada@example.com"))
    )

    assert "cont_1" == visit.contact.id


def test_an_id_goes_with_its_address_when_another_customer_takes_a_visit_over() -> None:
    visit = made_of(
        said("create", 1, contact=Contact(id="cont_ada", email="ada@example.com")),
        said("update", 2, contact=Contact(email="zoe@example.com")),
    )

    assert visit.contact == Contact(email="zoe@example.com")


def test_a_null_in_a_standard_body_clears_the_contact_id() -> None:
    """Design: "A field left out says nothing; `null` clears it", with `"id": null` in its own sample."""
    first = _standard("2026-03-14T09:00:00Z", id="cont_ada", email="ada@example.com")
    second = _standard("2026-03-14T10:00:00Z", id=None, email="zoe@example.com")

    assert made_of(first).contact.id == "cont_ada"
    assert made_of(first, second).contact.id is None


def test_a_null_clears_an_id_that_came_without_an_address_and_one_beside_the_same_address() -> None:
    named = _standard("2026-03-14T09:00:00Z", id="cont_ada")
    both = _standard("2026-03-14T10:00:00Z", id="cont_zoe", email="ada@example.com", phone="+15550100001")
    cleared = _standard("2026-03-14T11:00:00Z", id=None, email="ada@example.com", phone=None)

    assert made_of(named, cleared).contact == Contact(email="ada@example.com")
    assert made_of(named, both, cleared).contact == Contact(email="ada@example.com")
    assert "cont_zoe" == made_of(named, both).contact.id


def test_an_address_that_is_cleared_is_nobodys() -> None:
    visit = made_of(
        _standard("2026-03-14T09:00:00Z", email="ada@example.com"), _standard("2026-03-14T10:00:00Z", email=None)
    )

    assert visit.contact.email is None


def _standard(stamp: str, **contact: str | None) -> Said:
    body = {"type": "visit.updated", "timestamp": stamp, "data": {"visit_id": "A-1", "contact": contact}}
    changes = load_sources()["standard"].translate(Event("standard", Payload(body), NINE))
    assert not isinstance(changes, Ignored)
    return Said.read(stamp, encode_change(changes[0]))


# -- which deliveries still count --


def test_a_change_that_decides_nothing_any_more_is_superseded() -> None:
    facts = fold(
        [
            said("create", 1, origin="booked", time_scheduled=NINE),
            said("update", 2, origin="moved", time_scheduled=TEN),
            said("update", 3, origin="paid", amount_collected=Decimal(1)),
        ]
    )

    assert {"moved", "paid"} == winners(facts)


# -- the ledger's bytes --

MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).flatmap(
    lambda naive: st.integers(-14 * 60, 14 * 60).map(
        lambda minutes: naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    )
)
SAID_MOMENTS = st.none() | st.just(UNSAID) | MOMENTS
TEXTS = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
FULL_CHANGES = st.builds(
    VisitChange,
    action=st.sampled_from(("create", "update", "cancel")),
    visit_id=st.text(min_size=1),
    order=st.integers(-(2**63), 2**64 - 1),
    contact=st.none() | st.builds(Contact, id=TEXTS, email=TEXTS, first_name=TEXTS, last_name=TEXTS, phone=TEXTS),
    time_scheduled=SAID_MOMENTS,
    time_completed=SAID_MOMENTS,
    amount_collected=st.none() | st.just(UNSAID) | st.decimals(0, 10**12 - 1, allow_nan=False),
    date_cancelled=SAID_MOMENTS,
    no_show=SAID_MOMENTS,
    opted_out=st.just(UNSAID) | st.booleans(),
    as_of=st.integers(0, 2**63),
    is_sighting=st.booleans(),
)


@EXAMPLES
@given(FULL_CHANGES)
def test_a_change_is_the_same_on_the_other_side_of_the_ledger(change: VisitChange) -> None:
    read = Said.read("d1", encode_change(change), 3)

    assert read == Said(
        "d1",
        change.action,
        change.order,
        change.facts(),
        change.contact.details() if change.contact else {},
        3,
        change.as_of,
        change.is_sighting,
    )
    assert b"\n" not in encode_change(change)


@EXAMPLES
@given(FULL_CHANGES)
def test_what_is_written_has_the_form_that_the_api_prints(change: VisitChange) -> None:
    facts = change.facts()

    for name in facts.keys() & {"time_scheduled", "time_completed", "date_cancelled", "no_show"}:
        assert facts[name] is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(facts[name]))
    if facts.get("amount_collected") is not None:
        assert re.fullmatch(r"\d{1,13}\.\d\d", str(facts["amount_collected"]))


def test_a_change_says_what_it_says_and_no_more() -> None:
    change = VisitChange(
        action="update", visit_id="A-1", order=1, time_completed=None, amount_collected=Decimal(0), opted_out=False
    )

    assert {"time_completed": None, "amount_collected": "0.00", "opted_out": False} == change.facts()


def test_the_stored_bytes_are_small_json() -> None:
    stored = encode_change(
        VisitChange(action="cancel", visit_id="A-1", order=7, contact=Contact(email="a@example.com"), no_show=None)
    )

    assert {"a": "cancel", "o": 7, "f": {"no_show": None}, "c": {"email": "a@example.com"}} == json.loads(stored)


# -- times and money, as the API writes them --

NEPAL = timezone(timedelta(hours=5, minutes=45))


@pytest.mark.parametrize(
    ("expected", "moment"),
    [
        ("2025-02-17T09:00:00Z", datetime(2025, 2, 17, 9, tzinfo=UTC)),
        ("2025-02-17T10:30:00Z", datetime(2025, 2, 17, 5, 30, tzinfo=timezone(timedelta(hours=-5)))),
        ("2025-02-16T23:59:59Z", datetime(2025, 2, 17, 5, 44, 59, 999_999, tzinfo=NEPAL)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0999-01-01T00:00:00Z", datetime(999, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_utc_in_whole_seconds_with_a_z(expected: str, moment: datetime) -> None:
    assert expected == timestamp(moment)


@pytest.mark.parametrize(
    ("expected", "amount"),
    [
        ("120.00", "120"), ("245.00", "245.0"), ("75.50", "75.5"), ("0.00", "0"), ("0.01", "0.005"), ("0.00", "0.0049"),
        ("2.68", "2.675"), ("1000.00", "1E+3"), ("7550.00", "7550"), ("999999999999.99", "999999999999.99"),
    ],
)  # fmt: skip
def test_money_has_two_places_and_rounds_half_up(expected: str, amount: str) -> None:
    assert expected == money(Decimal(amount))


@pytest.mark.parametrize(
    ("expected", "moment"),
    [
        (1_790_000_000_000_000, datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)),
        (1_739_782_800_000_001, datetime(2025, 2, 17, 14, 45, 0, 1, tzinfo=NEPAL)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)  # `date -u -d … +%s`
def test_a_time_orders_by_its_microseconds(expected: int, moment: datetime) -> None:
    assert expected == microseconds(moment)


# -- the visit's name on both sides --


@pytest.mark.parametrize(
    ("expected", "visit_id"),
    [
        ("standard-A-1042", "A-1042"),
        ("standard-a.b_c-D9", "a.b_c-D9"),
        ("standard-" + "a" * 111, "a" * 111),  # 120 in all
        # printf 'standard-…' | sha256sum | cut -c-16
        ("standard-" + "a" * 94 + "-90eee529e93bfd9d", "a" * 200),
        ("standard-a_b-6d43d381e71882cd", "a/b"),
        ("standard-a_b-6c97db51054e17bd", "a b"),
    ],
)
def test_a_visit_is_named_by_its_source_and_its_id(expected: str, visit_id: str) -> None:
    assert expected == external_id("standard", visit_id)


def test_an_id_one_letter_too_long_ends_in_a_digest_and_has_120_characters() -> None:
    name = external_id("standard", "a" * 112)

    assert 120 == len(name)
    assert re.fullmatch(r"standard-a{94}-[0-9a-f]{16}", name)


ODD_IDS = st.text(st.sampled_from("ab_- /.ü\0😀\n"), min_size=1, max_size=12)
LONG_IDS = st.builds(lambda head, size, tail: head + "a" * size + tail, ODD_IDS, st.integers(90, 130), ODD_IDS)


@EXAMPLES
@given(st.text(min_size=1) | LONG_IDS | ODD_IDS)
@example("a" * 10_000)
@example("..")
@example("\ud800")
def test_every_id_becomes_a_name_that_the_api_takes_and_always_the_same(visit_id: str) -> None:
    name = external_id("standard", visit_id)

    assert re.fullmatch(r"standard-[A-Za-z0-9._-]{1,111}", name)
    assert name == external_id("standard", visit_id)


@EXAMPLES
@given(st.lists(LONG_IDS | ODD_IDS, min_size=2, max_size=12, unique=True))
@example(["a b", "a_b", "a/b", "a\tb"])
@example(["a" * 112, "a" * 113, "a" * 111])
@example(["a" * 111 + "b", "a" * 111 + "c"])
def test_two_ids_never_become_one(visit_ids: Sequence[str]) -> None:
    assert len(visit_ids) == len({external_id("standard", visit_id) for visit_id in visit_ids})


def test_not_even_an_id_that_looks_like_the_name_of_another_one_becomes_one_with_it() -> None:
    other = external_id("standard", "a b").removeprefix("standard-")

    assert external_id("standard", "a b") != external_id("standard", other)


@EXAMPLES
@given(ODD_IDS)
def test_visits_of_two_sources_never_share_a_name(visit_id: str) -> None:
    names = {external_id(name, visit_id) for name in load_sources()}

    assert len(load_sources()) == len(names)


# -- payments that are told one by one --


def paid(order: int, payment: str, amount: str | None) -> Said:
    return said("update", order, payment=payment, amount_collected=None if amount is None else Decimal(amount))


def collected(*changes: Said) -> str | None:
    return made_of(*changes).fields.get("amount_collected")


def test_a_visit_collected_the_sum_of_its_payments_each_as_it_was_told_last() -> None:
    assert "145.00" == collected(paid(1, "p1", "100"), paid(2, "p2", "45"))
    assert "100.00" == collected(paid(1, "p1", "100"), paid(1, "p1", "100"))
    assert "65.00" == collected(paid(1, "p1", "100"), paid(3, "p1", "20"), paid(2, "p2", "45"))
    assert collected(paid(1, "p1", "100"), paid(2, "p1", None)) is None


def test_beside_a_total_the_payments_count_where_they_are_more() -> None:
    """The total may have them in it, or not know of them."""
    total = said("create", 5, amount_collected=Decimal(120))
    nothing = said("create", 5, amount_collected=None)

    assert "120.00" == collected(total, paid(1, "p1", "100"))
    assert "130.00" == collected(total, paid(1, "p1", "100"), paid(2, "p2", "30"))
    assert "100.00" == collected(nothing, paid(1, "p1", "100"))


def test_a_change_may_name_the_visit_of_another_source() -> None:
    change = VisitChange(action="update", named="calendly-INV-1", order=1, payment="ch_1", amount_collected=Decimal(5))

    assert "calendly-INV-1" == change.external_id("stripe")
    assert {"amount_collected of ch_1": "5.00"} == change.facts()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("calendly-INV-1", True),
        ("standard-A_1.2-x", True),
        ("a" * 121, False),
        ("calendly-" + "1" * 112, False),
        ("job_0a1b", False),
        ("Calendly-1", False),
        ("calendly-", False),
        ("calendly-1/2", False),
        ("calendly-1\n", False),
        ("", False),
    ],
)
def test_what_could_be_the_name_of_a_visit(text: str, is_one: bool) -> None:
    assert is_one == is_external_id(text)


# -- contacts --


@pytest.mark.parametrize("label", ["doorbell.hook", "doorbell.token", "doorbell.fingerprint"])
def test_the_digest_of_an_address_is_no_part_of_another_key(label: str) -> None:
    """An address is a stranger's word, and other keys are HMACs of a label under the same key."""
    digest = Contact(email=label).name(b"key")

    assert hmac.digest(b"key", label.encode(), "sha256").hex()[:32] != digest


# -- one visit per person --


def test_each_attendee_of_a_booking_has_a_visit_id_of_their_own() -> None:
    ada, bob = (attendee_visit_id("uid-1", email) for email in ("ada@example.com", "bob@example.com"))
    assert ada != bob
    assert attendee_visit_id("uid-1", " Ada@Example.com") == ada


def test_the_visit_id_of_an_attendee_contains_no_address_and_links_no_two_bookings() -> None:
    first, second = (attendee_visit_id(booking, "ada@example.com") for booking in ("uid-1", "uid-2"))
    assert "ada" not in first
    assert first.removeprefix("uid-1") != second.removeprefix("uid-2")


def test_the_tools_own_id_of_an_attendee_is_used_as_it_is() -> None:
    assert attendee_visit_id("uid-1", "seat-7") == "uid-1.seat-7"


# -- facts that are bound to a person --


def mark(order: int, email: str, missed: datetime | None) -> Said:
    return said("update", order, no_show=missed, contact=Contact(email=email), only_for_contact=True)


def test_a_mark_of_the_customer_counts_whenever_it_arrives_and_one_of_a_guest_never_does() -> None:
    booked = said("create", 1, time_scheduled=NINE, contact=Contact(email="Ada@example.com"))

    assert "2026-03-14T10:00:00Z" == made_of(booked, mark(2, "ADA@example.com", TEN)).fields["date_cancelled"]
    assert not made_of(booked, mark(2, "guest@example.com", TEN)).is_off
    assert not made_of(booked, mark(2, "ada@example.com", TEN), mark(3, "ada@example.com", None)).is_off
    assert made_of(booked, mark(2, "ada@example.com", TEN), mark(3, "guest@example.com", None)).is_off


def test_a_mark_of_one_person_and_a_mark_of_the_visit_are_one_story() -> None:
    booked = said("create", 1, time_scheduled=NINE, contact=Contact(email="ada@example.com"))
    moved = said("update", 3, no_show=None)

    assert not made_of(booked, mark(2, "ada@example.com", TEN), moved).is_off
    assert made_of(booked, moved, mark(4, "ada@example.com", TEN)).is_off


def test_a_mark_alone_is_no_visit_and_says_nothing_about_whose_it_is() -> None:
    alone = made_of(mark(2, "ada@example.com", TEN))

    assert (Contact(), {}, True) == (alone.contact, alone.fields, alone.is_nothing)
    assert {} == fold([said("update", 2, no_show=TEN, contact=Contact(first_name="Ada"), only_for_contact=True)])


def test_whoever_left_stays_away_when_the_booking_comes_back() -> None:
    booked = said("create", 1, time_scheduled=NINE, date_cancelled=None)
    left, cancelled, back = (
        said("cancel", 2, date_left=TEN),
        said("cancel", 3, date_cancelled=TEN),
        said("update", 4, date_cancelled=None),
    )

    assert made_of(booked, left, cancelled, back).is_off
    assert not made_of(booked, cancelled, back).is_off
    assert not made_of(booked, left, cancelled, back, said("update", 5, date_left=None)).is_off


# -- what is sent of it --

AT_NINE, AT_TEN = "2026-03-14T09:00:00Z", "2026-03-14T10:00:00Z"


@pytest.mark.parametrize(
    ("expected", "stands", "value"),
    [
        (True, None, None), (True, "", None), (True, None, ""), (False, AT_NINE, None), (False, None, AT_NINE),
        (True, AT_NINE, AT_NINE), (True, "2026-03-14T10:00:00+01:00", AT_NINE), (False, AT_TEN, AT_NINE),
        (True, "2026-03-14T09:00:00.000Z", AT_NINE),
        (True, "245.00", "245.00"), (True, 245, "245.00"), (True, 245.0, "245.00"), (False, "245.01", "245.00"),
        (True, "?", "?"), (False, "?", "245.00"), (False, "?", AT_NINE), (False, AT_NINE, "245.00"),
    ],
)  # fmt: skip
def test_moments_and_money_are_the_same_however_they_are_written(
    expected: bool, stands: Any, value: str | None
) -> None:
    assert expected is same(stands, value)


@pytest.mark.parametrize(
    ("sent", "current", "fields"),
    [
        ({}, {}, {}),
        ({}, {"time_scheduled": AT_NINE}, {}),
        ({}, {"time_scheduled": AT_NINE, "event_date": AT_NINE}, {"time_scheduled": AT_NINE, "event_date": AT_NINE}),
        ({"amount_collected": None}, {"amount_collected": "5.00"}, {"amount_collected": None, "event_date": None}),
        ({"amount_collected": "5.00"}, {"event_date": AT_NINE}, {"amount_collected": "5.00", "event_date": AT_NINE}),
        # A new time takes the date along, also where that does not change.
        (
            {"time_scheduled": AT_TEN, "event_date": AT_TEN},
            {"time_scheduled": AT_NINE, "event_date": AT_TEN},
            {"time_scheduled": AT_TEN, "event_date": AT_TEN},
        ),
        (
            {"time_completed": AT_TEN, "event_date": AT_TEN},
            {"event_date": AT_TEN},
            {"time_completed": AT_TEN, "event_date": AT_TEN},
        ),
        ({"time_completed": None}, {"time_completed": AT_TEN}, {"time_completed": None, "event_date": None}),
        ({"date_cancelled": AT_TEN}, {"event_date": AT_NINE}, {"date_cancelled": AT_TEN, "event_date": AT_NINE}),
    ],
)
def test_only_what_differs_is_sent_and_a_new_time_with_its_date(
    sent: dict[str, str | None], current: dict[str, str], fields: dict[str, str | None]
) -> None:
    assert sent == difference(current, Wanted(fields, Contact()))


def test_payments_are_counted_by_their_names() -> None:
    assert 0 == payments_of(fold([said("create", 1, amount_collected=Decimal(5))]))
    assert 2 == payments_of(fold([paid(1, "p1", "1"), paid(2, "p2", None), paid(3, "p1", "2")]))


def test_a_payment_of_less_than_one_unit_is_collected() -> None:
    assert "0.01" == collected(paid(1, "p1", "0.01"))
    assert collected(paid(1, "p1", "0")) is None


def test_a_change_is_of_the_first_id_of_its_visit_unless_it_is_said_to_be_of_another() -> None:
    stored = encode_change(VisitChange(action="create", visit_id="A-1", order=1, time_scheduled=NINE))

    assert (0, 2) == (Said.read("d1", stored).generation, Said.read("d1", stored, 2).generation)


def test_an_opt_out_is_told_apart_from_a_cancel() -> None:
    booked, out = said("create", 1, time_scheduled=NINE), said("update", 2, opted_out=True)

    assert (True, True) == (made_of(booked, out).opted_out, made_of(booked, out).is_off)
    assert not made_of(booked, out, said("update", 3, opted_out=False)).opted_out
    assert not made_of(booked, said("cancel", 2, date_cancelled=TEN)).opted_out


# -- one id for several people --


def shared(order: int, email: str, **fields: Any) -> Said:
    contact = Contact(email=email, first_name=email.partition("@")[0])
    return said("create", order, contact=contact, first_contact_stays=True, **fields)


def test_an_id_that_several_people_share_belongs_to_whom_it_named_first() -> None:
    ada = shared(1, "ada@example.com", time_scheduled=NINE)
    zoe = shared(2, "zoe@example.com", time_scheduled=TEN, date_cancelled=TEN)

    visit = made_of(ada, zoe)

    assert ("ada@example.com", "ada") == (visit.contact.email, visit.contact.first_name)
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == visit.fields
    assert (
        "2026-03-14T11:00:00Z"
        == made_of(ada, zoe, shared(3, "ada@example.com", time_scheduled=ELEVEN)).fields["event_date"]
    )


def test_the_people_of_an_id_are_counted_once_each_and_only_where_it_may_have_several() -> None:
    ada, zoe = shared(1, "ada@example.com"), shared(2, "zoe@example.com")
    alone = said("create", 3, contact=Contact(email="ada@example.com"), time_scheduled=NINE)

    assert [0, 1, 1, 2, 2] == [
        people_of(fold(changes)) for changes in ([alone], [ada], [ada, ada, alone], [ada, zoe], [zoe, ada, zoe])
    ]


def test_whom_an_id_named_first_is_not_forgotten() -> None:
    changes = [shared(order, f"{order}@example.com") for order in range(1, 6)]

    assert changes[0].origin in needed(changes)
    assert "1@example.com" == wanted(fold(one for one in changes if one.origin in needed(changes))).contact.email
