"""Tests of the merge by the visits that it gives."""

from decimal import Decimal
from typing import Any

from app.visits.change import (
    Contact,
)
from app.visits.merge import (
    deciding_origins,
    merge_changes,
)
from tests.support.cases import each
from tests.support.changes import ELEVEN, NINE, TEN, desired_of, recorded

# -- order and ties --


def test_a_cancel_counts_when_the_booking_arrives_after_it() -> None:
    visit = desired_of(
        recorded("cancel", 2, date_cancelled=TEN),
        recorded("create", 1, time_scheduled=NINE, date_cancelled=None, no_show=None),
    )

    assert "2026-03-14T10:00:00Z" == visit.fields["date_cancelled"]
    assert visit.is_cancelled


def test_a_later_booking_undoes_a_cancel() -> None:
    visit = desired_of(
        recorded("create", 1, time_scheduled=NINE, date_cancelled=None),
        recorded("cancel", 2, date_cancelled=TEN),
        recorded("create", 3, time_scheduled=ELEVEN, date_cancelled=None),
    )

    assert visit.fields["date_cancelled"] is None
    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_cancelled


def test_an_update_without_the_field_does_not_undo_a_cancel() -> None:
    visit = desired_of(recorded("cancel", 2, date_cancelled=TEN), recorded("update", 3, amount_collected=Decimal(5)))

    assert visit.is_cancelled


@each(("stronger", "weaker"), [("cancel", "update"), ("cancel", "create"), ("update", "create")], ids=str)
def test_the_action_with_the_greater_rank_wins_at_the_same_time(stronger: str, weaker: str) -> None:
    visit = desired_of(recorded(stronger, 5, time_scheduled=NINE), recorded(weaker, 5, time_scheduled=TEN))

    assert "2026-03-14T09:00:00Z" == visit.fields["time_scheduled"]


def test_a_cancel_wins_over_a_booking_of_the_same_second() -> None:
    visit = desired_of(
        recorded("create", 5, time_scheduled=NINE, date_cancelled=None), recorded("cancel", 5, date_cancelled=NINE)
    )

    assert "2026-03-14T09:00:00Z" == visit.fields["date_cancelled"]


def test_the_same_of_two_values_always_wins_a_tie() -> None:
    nine, ten = (
        recorded("update", 5, origin="d1", time_scheduled=NINE),
        recorded("update", 5, origin="d2", time_scheduled=TEN),
    )
    nothing = recorded("update", 5, origin="d3", time_scheduled=None)

    assert desired_of(nine, ten) == desired_of(ten, nine, nothing) == desired_of(nothing, ten, nine)
    assert desired_of(nine, nothing).fields["time_scheduled"] is not None


def test_a_negative_version_is_older_than_the_first() -> None:
    visit = desired_of(recorded("update", -1, time_scheduled=NINE), recorded("update", 0, time_scheduled=TEN))

    assert "2026-03-14T10:00:00Z" == visit.fields["time_scheduled"]


def test_fields_of_different_changes_are_combined() -> None:
    visit = desired_of(
        recorded("create", 1, time_scheduled=NINE),
        recorded("update", 3, amount_collected=Decimal("245")),
        recorded("update", 2, time_completed=TEN, amount_collected=Decimal("1")),
    )

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "time_completed": "2026-03-14T10:00:00Z",
        "amount_collected": "245.00",
        "event_date": "2026-03-14T10:00:00Z",
    } == visit.fields


def test_an_unmentioned_field_is_absent_and_a_cleared_field_is_none() -> None:
    visit = desired_of(recorded("create", 1, time_scheduled=NINE), recorded("update", 2, amount_collected=None))

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": None,
    } == visit.fields


@each(
    ("facts", "is_empty"),
    [
        ({"amount_collected": None}, True),
        ({"payment_id": "p1", "amount_collected": None}, True),
        ({"date_cancelled": None, "time_scheduled": None}, True),
        ({"amount_collected": Decimal(1)}, False),
        ({"contact": Contact(email="ada@example.com"), "amount_collected": None}, False),
    ],
)
def test_changes_that_only_clear_fields_make_no_visit(facts: dict[str, Any], is_empty: bool) -> None:
    assert is_empty == desired_of(recorded("update", 1, **facts)).is_empty


def test_a_change_without_a_time_does_not_change_the_date_of_the_campaign() -> None:
    visit = desired_of(recorded("update", 1, amount_collected=Decimal(1)), recorded("cancel", 2, date_cancelled=TEN))

    assert {"amount_collected": "1.00", "date_cancelled": "2026-03-14T10:00:00Z"} == visit.fields


def test_the_new_id_decides_after_a_reschedule_regardless_of_times() -> None:
    visit = desired_of(
        recorded("cancel", 9, date_cancelled=TEN, time_scheduled=NINE),
        recorded("create", 1, time_scheduled=ELEVEN, date_cancelled=None, alias_depth=1),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_cancelled


def test_the_old_id_decides_fields_that_the_new_id_does_not_have() -> None:
    visit = desired_of(
        recorded("create", 5, time_scheduled=NINE, amount_collected=Decimal("30")),
        recorded("update", 6, time_scheduled=TEN, alias_depth=1),
        recorded("update", 2, time_scheduled=ELEVEN, alias_depth=2),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert "30.00" == visit.fields["amount_collected"]


def test_the_record_that_was_fetched_last_decides_within_a_version() -> None:
    first = recorded("create", 0, observed_at_us=100, contact=Contact(email="zoe@example.com"), opted_out=True)
    corrected = recorded(
        "create", 0, origin="again", observed_at_us=200, contact=Contact(email="ada@example.com"), opted_out=False
    )

    visit = desired_of(first, corrected)

    assert "ada@example.com" == visit.contact.email
    assert not visit.is_cancelled


def test_a_greater_version_decides_regardless_of_its_fetch() -> None:
    swapped = recorded("update", 1, observed_at_us=100, contact=Contact(email="zoe@example.com"))
    late = recorded("create", 0, observed_at_us=200, contact=Contact(email="ada@example.com"))

    assert "zoe@example.com" == desired_of(swapped, late).contact.email


# -- observed times --


def test_the_first_of_several_consecutive_observations_counts() -> None:
    observations = [
        recorded("cancel", 3, date_cancelled=ELEVEN, times_are_observed=True),
        recorded("update", 2, date_cancelled=TEN, times_are_observed=True),
        recorded("create", 1, date_cancelled=None, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*observations).fields["date_cancelled"]


def test_an_observation_after_an_empty_one_counts_from_its_own_time() -> None:
    observations = [
        recorded("cancel", 1, date_cancelled=NINE, no_show=NINE, times_are_observed=True),
        recorded("update", 2, date_cancelled=None, no_show=None, times_are_observed=True),
        recorded("cancel", 3, date_cancelled=TEN, times_are_observed=True),
        recorded("cancel", 4, date_cancelled=ELEVEN, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*observations).fields["date_cancelled"]
    assert desired_of(*observations[:2]).fields["date_cancelled"] is None


def test_a_completion_that_is_observed_again_counts_from_the_first_observation_since_it_was_open() -> None:
    observations = [
        recorded("update", 1, time_completed=NINE, times_are_observed=True),
        recorded("update", 2, time_completed=None, times_are_observed=True),
        recorded("update", 3, time_completed=TEN, times_are_observed=True),
        recorded("update", 4, time_completed=ELEVEN, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*observations).fields["time_completed"]


def test_the_last_of_several_times_from_the_tool_counts() -> None:
    changes = [recorded("cancel", 1, date_cancelled=TEN), recorded("cancel", 2, date_cancelled=ELEVEN)]

    assert "2026-03-14T11:00:00Z" == desired_of(*changes).fields["date_cancelled"]


# -- superseded changes --


def test_a_change_that_decides_no_field_is_superseded() -> None:
    facts = merge_changes(
        [
            recorded("create", 1, origin="booked", time_scheduled=NINE),
            recorded("update", 2, origin="moved", time_scheduled=TEN),
            recorded("update", 3, origin="paid", amount_collected=Decimal(1)),
        ]
    )

    assert {"moved", "paid"} == deciding_origins(facts)
