"""Completion, no-show, opt-out and payments."""

from dataclasses import replace
from decimal import Decimal

from app.visits.change import UNSET, Unset, VisitChange, encode_change, is_external_id
from app.visits.merge import RecordedChange, currency, merge_changes
from tests.support.cases import each
from tests.support.changes import ELEVEN, NINE, TEN, collected, desired_of, paid, recorded

# -- completion, no-show, opt-out --


def test_a_campaign_starts_at_the_completion_or_the_appointment() -> None:
    booked, completed = recorded("create", 1, time_scheduled=NINE), recorded("update", 2, time_completed=TEN)
    taken_back = recorded("update", 3, time_completed=None)

    assert "2026-03-14T09:00:00Z" == desired_of(booked).fields["event_date"]
    assert "2026-03-14T10:00:00Z" == desired_of(booked, completed).fields["event_date"]
    assert "2026-03-14T09:00:00Z" == desired_of(booked, completed, taken_back).fields["event_date"]
    assert "2026-03-14T10:00:00Z" == desired_of(completed).fields["event_date"]


def test_a_visit_without_a_time_has_no_date_and_is_not_created() -> None:
    visit = desired_of(recorded("create", 1, time_scheduled=None, amount_collected=Decimal(1)))

    assert not visit.has_date
    assert not visit.fields.get("event_date")


def test_a_no_show_is_a_cancel_and_its_removal_restores_the_visit() -> None:
    booked, missed = (
        recorded("create", 1, time_scheduled=NINE, date_cancelled=None),
        recorded("update", 2, no_show=ELEVEN),
    )
    came_late = recorded("update", 3, no_show=None)

    assert "2026-03-14T11:00:00Z" == desired_of(booked, missed).fields["date_cancelled"]
    assert desired_of(booked, missed).is_cancelled
    assert desired_of(booked, missed, came_late).fields["date_cancelled"] is None
    assert not desired_of(booked, missed, came_late).is_cancelled


def test_a_cancelled_visit_stays_cancelled_when_its_no_show_is_removed() -> None:
    visit = desired_of(recorded("cancel", 1, date_cancelled=TEN, no_show=ELEVEN), recorded("update", 2, no_show=None))

    assert "2026-03-14T10:00:00Z" == visit.fields["date_cancelled"]


def test_a_customer_who_opted_out_gets_no_visit_until_opted_in_again() -> None:
    booked, out = recorded("create", 1, time_scheduled=NINE), recorded("update", 2, opted_out=True)
    back_in = recorded("update", 3, opted_out=False)

    assert desired_of(booked, out).is_cancelled
    assert not desired_of(booked, out, back_in).is_cancelled
    assert desired_of(booked, out, back_in).fields["date_cancelled"] is None


def test_an_opt_out_wins_over_an_opt_in_of_the_same_second() -> None:
    visit = desired_of(
        recorded("create", 1, time_scheduled=NINE),
        recorded("update", 2, opted_out=False),
        recorded("update", 2, opted_out=True),
    )

    assert visit.is_cancelled


@each(
    ("order", "at"),
    [(1_796_415_440_000_000, "2026-12-04T20:17:20Z"), (7, "1970-01-01T00:00:00Z")],
    ids=["a time", "a version"],
)
def test_a_visit_that_lost_its_times_is_cancelled_for_a_customer_who_opted_out(order: int, at: str) -> None:
    completed = recorded("update", order, time_completed=NINE, opted_out=True)
    reopened = recorded("update", order + 1_000_000, time_completed=None)

    assert {"time_completed": None, "event_date": None, "date_cancelled": at} == desired_of(completed, reopened).fields


def test_a_customer_who_opted_out_gets_no_visit_without_a_time() -> None:
    visit = desired_of(recorded("create", 1, time_scheduled=None, opted_out=True))

    assert visit.is_cancelled


# -- payments that are reported one by one --


def test_the_amount_of_a_visit_is_the_sum_of_the_newest_payments() -> None:
    assert "145.00" == collected(paid(1, "p1", "100"), paid(2, "p2", "45"))
    assert "100.00" == collected(paid(1, "p1", "100"), paid(1, "p1", "100"))
    assert "65.00" == collected(paid(1, "p1", "100"), paid(3, "p1", "20"), paid(2, "p2", "45"))
    assert collected(paid(1, "p1", "100"), paid(2, "p1", None)) is None


def test_the_payments_count_if_they_exceed_the_total() -> None:
    """The total may or may not include the payments."""
    total = recorded("create", 5, amount_collected=Decimal(120))
    nothing = recorded("create", 5, amount_collected=None)

    assert "120.00" == collected(total, paid(1, "p1", "100"))
    assert "130.00" == collected(total, paid(1, "p1", "100"), paid(2, "p2", "30"))
    assert "100.00" == collected(nothing, paid(1, "p1", "100"))


@each(
    ("expected", "codes"),
    [("USD", ["USD", "USD"]), ("USD", ["USD", None]), (None, ["USD", "EUR"]), (None, [None, None])],
)
def test_payments_of_one_currency_have_its_name(expected: str | None, codes: list[str | None]) -> None:
    payment = VisitChange(action="update", visit_id="A", version=1, amount_collected=Decimal(5))
    payments = [replace(payment, payment_id=f"p{number}", currency=code) for number, code in enumerate(codes)]
    changes = [RecordedChange.decode("d1", encode_change(payment)) for payment in payments]

    assert expected == currency(merge_changes(changes))


@each(("expected", "amount"), [("USD", Decimal(5)), (None, None), (None, UNSET)])
def test_a_change_without_an_amount_has_no_currency(expected: str | None, amount: Decimal | None | Unset) -> None:
    change = VisitChange(action="update", visit_id="A", version=1, currency="USD", amount_collected=amount)

    assert expected == change.facts().get("currency")


def test_a_change_may_name_the_visit_of_another_source() -> None:
    change = VisitChange(
        action="update",
        external_id_override="calendly-INV-1",
        version=1,
        payment_id="ch_1",
        amount_collected=Decimal(5),
    )

    assert "calendly-INV-1" == change.external_id("stripe")
    assert {"amount_collected of ch_1": "5.00"} == change.facts()


@each(
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
def test_an_external_id_has_a_format(text: str, is_one: bool) -> None:
    assert is_one == is_external_id(text)
