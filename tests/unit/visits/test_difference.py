"""Tests of the fields that are sent to the API."""

from decimal import Decimal
from typing import Any

from app.visits.change import (
    Contact,
    VisitChange,
    encode_change,
)
from app.visits.merge import (
    DesiredVisit,
    RecordedChange,
    changed_fields,
    count_payments,
    merge_changes,
    values_equal,
)
from tests.support.cases import each
from tests.support.changes import NINE, TEN, collected, desired_of, paid, recorded

AT_NINE, AT_TEN = "2026-03-14T09:00:00Z", "2026-03-14T10:00:00Z"


@each(
    ("expected", "remote", "value"),
    [
        (True, None, None), (True, "", None), (True, None, ""), (False, AT_NINE, None), (False, None, AT_NINE),
        (True, AT_NINE, AT_NINE), (True, "2026-03-14T10:00:00+01:00", AT_NINE), (False, AT_TEN, AT_NINE),
        (True, "2026-03-14T09:00:00.000Z", AT_NINE),
        (True, "245.00", "245.00"), (True, 245, "245.00"), (True, 245.0, "245.00"), (False, "245.01", "245.00"),
        (True, "?", "?"), (False, "?", "245.00"), (False, "?", AT_NINE), (False, AT_NINE, "245.00"),
    ],
)  # fmt: skip
def test_equal_times_and_amounts_may_have_other_formats(expected: bool, remote: Any, value: str | None) -> None:
    assert expected is values_equal(remote, value)


@each(
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
def test_only_changed_fields_are_sent_and_a_new_time_with_its_date(
    sent: dict[str, str | None], current: dict[str, str], fields: dict[str, str | None]
) -> None:
    assert sent == changed_fields(current, DesiredVisit(fields, Contact()))


def test_payments_are_counted_by_their_ids() -> None:
    assert 0 == count_payments(merge_changes([recorded("create", 1, amount_collected=Decimal(5))]))
    assert 2 == count_payments(merge_changes([paid(1, "p1", "1"), paid(2, "p2", None), paid(3, "p1", "2")]))


def test_a_payment_of_less_than_one_unit_is_collected() -> None:
    assert "0.01" == collected(paid(1, "p1", "0.01"))
    assert collected(paid(1, "p1", "0")) is None


def test_a_decoded_change_has_alias_depth_zero_by_default() -> None:
    stored = encode_change(VisitChange(action="create", visit_id="A-1", version=1, time_scheduled=NINE))

    assert (0, 2) == (
        RecordedChange.decode("d1", stored).alias_depth,
        RecordedChange.decode("d1", stored, 2).alias_depth,
    )


def test_an_opt_out_differs_from_a_cancel() -> None:
    booked, out = recorded("create", 1, time_scheduled=NINE), recorded("update", 2, opted_out=True)

    assert (True, True) == (desired_of(booked, out).opted_out, desired_of(booked, out).is_cancelled)
    assert not desired_of(booked, out, recorded("update", 3, opted_out=False)).opted_out
    assert not desired_of(booked, recorded("cancel", 2, date_cancelled=TEN)).opted_out
