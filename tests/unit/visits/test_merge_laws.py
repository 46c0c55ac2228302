"""Tests that the merge is a join (commutative, associative, idempotent), and of the changes that may be dropped."""

import signal
from collections.abc import Sequence
from datetime import timedelta
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from app.visits import merge
from app.visits.change import (
    format_time,
)
from app.visits.merge import (
    Fact,
    Facts,
    RecordedChange,
    deciding_origins,
    desired_visit,
    join_facts,
    merge_changes,
    required_origins,
)
from tests.support.cases import each
from tests.support.changes import EXAMPLES, NINE, desired_of

# -- the laws of a join --

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


#: Few versions and few origins, so that ties are common.
CHANGES = st.builds(
    RecordedChange,
    origin=st.sampled_from(("d1", "d2", "d3")),
    action=st.sampled_from(("create", "update", "cancel")),
    version=st.integers(0, 3),
    facts=FACTS,
    contact=CONTACTS,
    alias_depth=st.integers(0, 2),
    observed_at_us=st.integers(0, 1),
    times_are_observed=st.booleans(),
    only_for_contact=st.sampled_from((False, False, True)),
    first_contact_stays=st.sampled_from((False, False, True)),
)

SETS = st.lists(CHANGES, max_size=6)


@EXAMPLES
@given(SETS, SETS)
def test_the_join_is_commutative(first: list[RecordedChange], second: list[RecordedChange]) -> None:
    assert join_facts(merge_changes(first), merge_changes(second)) == join_facts(
        merge_changes(second), merge_changes(first)
    )


@EXAMPLES
@given(SETS, SETS, SETS)
def test_the_join_is_associative(
    first: list[RecordedChange], second: list[RecordedChange], third: list[RecordedChange]
) -> None:
    a, b, c = merge_changes(first), merge_changes(second), merge_changes(third)

    assert join_facts(join_facts(a, b), c) == join_facts(a, join_facts(b, c))


@EXAMPLES
@given(SETS)
def test_the_join_is_idempotent_with_a_neutral_element(changes: list[RecordedChange]) -> None:
    facts = merge_changes(changes)

    assert facts == join_facts(facts, facts)
    assert facts == join_facts(facts, {}) == join_facts({}, facts)


@EXAMPLES
@given(SETS, st.data())
def test_every_order_with_repeats_gives_the_same_visit(changes: list[RecordedChange], data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.sampled_from(changes), max_size=6)) if changes else []
    arrived = data.draw(st.permutations(changes + repeats))

    assert merge_changes(changes) == merge_changes(arrived)
    assert desired_visit(merge_changes(changes)) == desired_visit(merge_changes(arrived))
    assert deciding_origins(merge_changes(changes)) == deciding_origins(merge_changes(arrived))


@EXAMPLES
@given(SETS, st.integers(0, 6))
def test_the_join_of_overlapping_parts_is_the_merge_of_all(changes: list[RecordedChange], half: int) -> None:
    overlapping = changes[max(0, half - 1) :]

    assert merge_changes(changes) == join_facts(merge_changes(changes[:half]), merge_changes(overlapping))


@EXAMPLES
@given(SETS, CHANGES)
def test_an_older_change_decides_no_field_of_a_newer_one(changes: list[RecordedChange], late: RecordedChange) -> None:
    older = RecordedChange("late", late.action, -1, late.facts, late.contact, 0)
    before = merge_changes(changes)

    after = merge_changes([*changes, older])

    assert before == {name: fact for name, fact in after.items() if name in before}


@EXAMPLES
@given(SETS)
def test_a_fact_has_the_origin_of_its_change(changes: list[RecordedChange]) -> None:
    facts = merge_changes(changes)
    origins = {change.origin for change in changes if change.facts or change.contact}

    assert deciding_origins(facts) <= origins
    assert all(isinstance(fact, Fact) and fact.origin in origins for fact in facts.values())


@EXAMPLES
@given(SETS)
def test_the_merge_is_the_join_of_all_changes(changes: list[RecordedChange]) -> None:
    joined: Facts = {}
    for change in changes:
        joined = join_facts(joined, merge_changes([change]))

    assert joined == merge_changes(changes)


# -- required changes --


#: Values of one field with few versions: late, repeated, and with the same version.
OBSERVATIONS = st.lists(
    st.builds(
        RecordedChange,
        origin=st.sampled_from(("d1", "d2", "d3", "d4")),
        action=st.sampled_from(("update", "cancel")),
        version=st.integers(0, 9),
        facts=st.fixed_dictionaries({"date_cancelled": TIMES}),
        contact=st.just({}),
        alias_depth=st.integers(0, 1),
        times_are_observed=st.sampled_from((True, True, True, False)),
    ),
    max_size=14,
)


def numbered(changes: Sequence[RecordedChange], prefix: str = "n") -> list[RecordedChange]:
    """Give each change another origin, as in the ledger."""
    return [change._replace(origin=f"{prefix}{at:02}") for at, change in enumerate(changes)]


def required_changes(changes: Sequence[RecordedChange]) -> list[RecordedChange]:
    origins = required_origins(changes)
    return [change for change in changes if change.origin in origins]


@EXAMPLES
@given(SETS | OBSERVATIONS, SETS | OBSERVATIONS)
def test_the_required_changes_replace_all_with_any_later_change(
    changes: list[RecordedChange], later: list[RecordedChange]
) -> None:
    changes, later = numbered(changes), numbered(later, "late")

    assert merge_changes([*changes, *later]) == merge_changes([*required_changes(changes), *later])


@EXAMPLES
@given(SETS | OBSERVATIONS, SETS | OBSERVATIONS, st.integers(1, 3))
def test_the_required_changes_replace_all_with_another_alias_depth(
    changes: list[RecordedChange], first: list[RecordedChange], by: int
) -> None:
    changes = numbered(changes)
    moved = {change.origin: change._replace(alias_depth=change.alias_depth + by) for change in changes}

    full = merge_changes([*numbered(first, "first"), *moved.values()])

    assert full == merge_changes(
        [*numbered(first, "first"), *(moved[change.origin] for change in required_changes(changes))]
    )


@EXAMPLES
@given(st.lists(OBSERVATIONS, max_size=4))
def test_repeated_thinning_drops_no_required_change(parts: list[list[RecordedChange]]) -> None:
    all_changes, retained = list[RecordedChange](), list[RecordedChange]()
    for at, part in enumerate(parts):
        all_changes += numbered(part, f"part{at}-")
        retained = required_changes([*retained, *numbered(part, f"part{at}-")])

    assert merge_changes(all_changes) == merge_changes(retained)


@EXAMPLES
@given(OBSERVATIONS, OBSERVATIONS)
def test_a_late_change_among_very_many_observations_moves_only_the_time(
    changes: list[RecordedChange], later: list[RecordedChange]
) -> None:
    changes, later = numbered(changes), numbered(later, "late")
    with patch.object(merge, "MAX_OBSERVATIONS", 2):
        required = required_changes(changes)

    full, thinned = (merge_changes([*some, *later]).get("date_cancelled") for some in (changes, required))

    assert (full and (full.stamp, full.origin)) == (thinned and (thinned.stamp, thinned.origin))
    assert bool(full and full.value) == bool(thinned and thinned.value)
    newest = sorted({change.stamp(value) for change in required if (value := change.facts["date_cancelled"])})[-2:]
    if all(change.facts["date_cancelled"] or [change.stamp(None)] > newest[:1] for change in later):
        assert (full and full.value) == (thinned and thinned.value)


def test_few_of_eight_thousand_observations_are_required_and_the_first_counts() -> None:
    def observation(second: int, done: bool = True) -> RecordedChange:
        observed_at = format_time(NINE + timedelta(seconds=second)) if done else None
        return RecordedChange(
            f"d{second:05}", "update", second, {"time_completed": observed_at}, {}, times_are_observed=True
        )

    changes = [observation(0, done=False), *(observation(second) for second in range(1, 8_000))]

    required = required_changes(changes)

    assert merge.MAX_OBSERVATIONS + 2 == len(required)
    assert (
        "2026-03-14T09:00:01Z"
        == desired_of(*required).fields["time_completed"]
        == desired_of(*changes).fields["time_completed"]
    )


def test_equal_observations_are_stored_once() -> None:
    changes = [
        RecordedChange(f"d{at}", "update", 1, {"no_show": "2026-03-14T09:00:00Z"}, {}, times_are_observed=True)
        for at in range(9)
    ]

    assert {"d8"} == required_origins(changes)


@each("kind", ["observations", "payments", "addresses"])
def test_twenty_thousand_changes_of_one_visit_are_merged(kind: str) -> None:
    """The merge takes less than a second. Joining pair by pair took ten minutes, and blocked the process."""

    def change(at: int) -> RecordedChange:
        observed_at = format_time(NINE + timedelta(seconds=at))
        if kind == "observations":
            return RecordedChange(f"d{at}", "update", at, {"time_completed": observed_at}, {}, times_are_observed=True)
        if kind == "payments":
            return RecordedChange(f"d{at}", "update", at, {f"amount_collected of p{at}": "1.00"}, {})
        return RecordedChange(
            f"d{at}", "update", at, {}, {"email": f"{at}@example.com", "first_name": "Ada", "phone": "+1555"}
        )

    changes = [change(at) for at in range(20_000)]

    signal.alarm(60)  # ends the test; the merge is much faster, even on a busy machine
    visit = desired_visit(merge_changes(changes))
    signal.alarm(0)

    actual = {"observations": visit.fields.get("time_completed"), "payments": visit.fields.get("amount_collected")}
    expected = {"observations": "2026-03-14T09:00:00Z", "payments": "20000.00", "addresses": None}
    assert expected[kind] == actual.get(kind)
    assert visit.contact.email == ("19999@example.com" if kind == "addresses" else None)
