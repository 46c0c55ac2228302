"""What the merge means for a visit."""

from decimal import Decimal

import pytest

from app.visits.change import (
    Contact,
)
from app.visits.merge import (
    deciding_origins,
    merge_changes,
)
from tests.support.changes import ELEVEN, NINE, TEN, desired_of, recorded

# -- what the rules mean to a visit --


def test_a_cancel_stands_when_the_booking_arrives_after_it() -> None:
    visit = desired_of(
        recorded("cancel", 2, date_cancelled=TEN),
        recorded("create", 1, time_scheduled=NINE, date_cancelled=None, no_show=None),
    )

    assert "2026-03-14T10:00:00Z" == visit.fields["date_cancelled"]
    assert visit.is_cancelled


def test_a_later_booking_takes_a_cancel_back() -> None:
    visit = desired_of(
        recorded("create", 1, time_scheduled=NINE, date_cancelled=None),
        recorded("cancel", 2, date_cancelled=TEN),
        recorded("create", 3, time_scheduled=ELEVEN, date_cancelled=None),
    )

    assert visit.fields["date_cancelled"] is None
    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_cancelled


def test_an_update_that_does_not_speak_of_it_leaves_a_cancel_alone() -> None:
    visit = desired_of(recorded("cancel", 2, date_cancelled=TEN), recorded("update", 3, amount_collected=Decimal(5)))

    assert visit.is_cancelled


@pytest.mark.parametrize(
    ("stronger", "weaker"), [("cancel", "update"), ("cancel", "create"), ("update", "create")], ids=str
)
def test_of_changes_that_the_tool_dates_alike_the_later_in_life_wins(stronger: str, weaker: str) -> None:
    visit = desired_of(recorded(stronger, 5, time_scheduled=NINE), recorded(weaker, 5, time_scheduled=TEN))

    assert "2026-03-14T09:00:00Z" == visit.fields["time_scheduled"]


def test_a_cancel_wins_over_a_booking_of_the_same_second() -> None:
    visit = desired_of(
        recorded("create", 5, time_scheduled=NINE, date_cancelled=None), recorded("cancel", 5, date_cancelled=NINE)
    )

    assert "2026-03-14T09:00:00Z" == visit.fields["date_cancelled"]


def test_of_two_values_with_nothing_else_between_them_the_same_one_always_wins() -> None:
    one, other = (
        recorded("update", 5, origin="d1", time_scheduled=NINE),
        recorded("update", 5, origin="d2", time_scheduled=TEN),
    )
    nothing = recorded("update", 5, origin="d3", time_scheduled=None)

    assert desired_of(one, other) == desired_of(other, one, nothing) == desired_of(nothing, other, one)
    assert desired_of(one, nothing).fields["time_scheduled"] is not None


def test_a_negative_version_is_older_than_the_first() -> None:
    visit = desired_of(recorded("update", -1, time_scheduled=NINE), recorded("update", 0, time_scheduled=TEN))

    assert "2026-03-14T10:00:00Z" == visit.fields["time_scheduled"]


def test_fields_of_different_changes_stand_side_by_side() -> None:
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


def test_what_nobody_spoke_of_is_left_alone_and_what_was_cleared_is_empty() -> None:
    visit = desired_of(recorded("create", 1, time_scheduled=NINE), recorded("update", 2, amount_collected=None))

    assert {
        "time_scheduled": "2026-03-14T09:00:00Z",
        "event_date": "2026-03-14T09:00:00Z",
        "amount_collected": None,
    } == visit.fields


def test_a_change_that_speaks_of_no_time_leaves_the_date_of_the_campaign_alone() -> None:
    visit = desired_of(recorded("update", 1, amount_collected=Decimal(1)), recorded("cancel", 2, date_cancelled=TEN))

    assert {"amount_collected": "1.00", "date_cancelled": "2026-03-14T10:00:00Z"} == visit.fields


def test_after_a_reschedule_the_new_id_decides_whatever_the_clocks_say() -> None:
    visit = desired_of(
        recorded("cancel", 9, date_cancelled=TEN, time_scheduled=NINE),
        recorded("create", 1, time_scheduled=ELEVEN, date_cancelled=None, alias_depth=1),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert not visit.is_cancelled


def test_of_what_the_new_id_does_not_say_the_old_one_is_believed() -> None:
    visit = desired_of(
        recorded("create", 5, time_scheduled=NINE, amount_collected=Decimal("30")),
        recorded("update", 6, time_scheduled=TEN, alias_depth=1),
        recorded("update", 2, time_scheduled=ELEVEN, alias_depth=2),
    )

    assert "2026-03-14T11:00:00Z" == visit.fields["time_scheduled"]
    assert "30.00" == visit.fields["amount_collected"]


def test_of_one_version_the_record_that_was_fetched_last_counts() -> None:
    first = recorded("create", 0, observed_at_us=100, contact=Contact(email="zoe@example.com"), opted_out=True)
    corrected = recorded(
        "create", 0, origin="again", observed_at_us=200, contact=Contact(email="ada@example.com"), opted_out=False
    )

    visit = desired_of(first, corrected)

    assert "ada@example.com" == visit.contact.email
    assert not visit.is_cancelled


def test_a_greater_version_counts_whenever_it_was_fetched() -> None:
    swapped = recorded("update", 1, observed_at_us=100, contact=Contact(email="zoe@example.com"))
    late = recorded("create", 0, observed_at_us=200, contact=Contact(email="ada@example.com"))

    assert "zoe@example.com" == desired_of(swapped, late).contact.email


# -- what is seen and not told --


def test_of_several_sightings_in_a_row_the_first_counts() -> None:
    seen = [
        recorded("cancel", 3, date_cancelled=ELEVEN, times_are_observed=True),
        recorded("update", 2, date_cancelled=TEN, times_are_observed=True),
        recorded("create", 1, date_cancelled=None, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*seen).fields["date_cancelled"]


def test_what_is_seen_again_after_it_was_over_counts_from_then() -> None:
    seen = [
        recorded("cancel", 1, date_cancelled=NINE, no_show=NINE, times_are_observed=True),
        recorded("update", 2, date_cancelled=None, no_show=None, times_are_observed=True),
        recorded("cancel", 3, date_cancelled=TEN, times_are_observed=True),
        recorded("cancel", 4, date_cancelled=ELEVEN, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*seen).fields["date_cancelled"]
    assert desired_of(*seen[:2]).fields["date_cancelled"] is None


def test_a_completion_that_is_seen_again_was_when_it_was_seen_first_since_it_was_open() -> None:
    seen = [
        recorded("update", 1, time_completed=NINE, times_are_observed=True),
        recorded("update", 2, time_completed=None, times_are_observed=True),
        recorded("update", 3, time_completed=TEN, times_are_observed=True),
        recorded("update", 4, time_completed=ELEVEN, times_are_observed=True),
    ]

    assert "2026-03-14T10:00:00Z" == desired_of(*seen).fields["time_completed"]


def test_of_several_times_that_were_told_the_last_counts() -> None:
    told = [recorded("cancel", 1, date_cancelled=TEN), recorded("cancel", 2, date_cancelled=ELEVEN)]

    assert "2026-03-14T11:00:00Z" == desired_of(*told).fields["date_cancelled"]


# -- which deliveries still count --


def test_a_change_that_decides_nothing_any_more_is_superseded() -> None:
    facts = merge_changes(
        [
            recorded("create", 1, origin="booked", time_scheduled=NINE),
            recorded("update", 2, origin="moved", time_scheduled=TEN),
            recorded("update", 3, origin="paid", amount_collected=Decimal(1)),
        ]
    )

    assert {"moved", "paid"} == deciding_origins(facts)
