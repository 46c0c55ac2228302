"""VisitChange: its stored bytes, times, money and external_ids."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from app.visits.change import (
    UNSET,
    Contact,
    VisitChange,
    encode_change,
    external_id,
    format_money,
    format_time,
    unix_microseconds,
)
from app.visits.merge import (
    RecordedChange,
)
from app.webhooks.registry import load_sources
from tests.support.cases import each
from tests.support.changes import EXAMPLES

# -- the ledger's bytes --


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).flatmap(
    lambda naive: st.integers(-14 * 60, 14 * 60).map(
        lambda minutes: naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    )
)

SAID_MOMENTS = st.none() | st.just(UNSET) | MOMENTS

TEXTS = st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


FULL_CHANGES = st.builds(
    VisitChange,
    action=st.sampled_from(("create", "update", "cancel")),
    visit_id=st.text(min_size=1),
    version=st.integers(-(2**63), 2**64 - 1),
    contact=st.none() | st.builds(Contact, id=TEXTS, email=TEXTS, first_name=TEXTS, last_name=TEXTS, phone=TEXTS),
    time_scheduled=SAID_MOMENTS,
    time_completed=SAID_MOMENTS,
    amount_collected=st.none() | st.just(UNSET) | st.decimals(0, 10**12 - 1, allow_nan=False),
    date_cancelled=SAID_MOMENTS,
    no_show=SAID_MOMENTS,
    opted_out=st.just(UNSET) | st.booleans(),
    observed_at_us=st.integers(0, 2**63),
    times_are_observed=st.booleans(),
)


@EXAMPLES
@given(FULL_CHANGES)
def test_a_decoded_change_equals_the_encoded_one(change: VisitChange) -> None:
    read = RecordedChange.decode("d1", encode_change(change), 3)

    assert read == RecordedChange(
        "d1",
        change.action,
        change.version,
        change.facts(),
        change.contact.to_dict() if change.contact else {},
        3,
        change.observed_at_us,
        change.times_are_observed,
    )
    assert b"\n" not in encode_change(change)


@EXAMPLES
@given(FULL_CHANGES)
def test_a_stored_value_has_the_format_of_the_api(change: VisitChange) -> None:
    facts = change.facts()

    for name in facts.keys() & {"time_scheduled", "time_completed", "date_cancelled", "no_show"}:
        assert facts[name] is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(facts[name]))
    if facts.get("amount_collected") is not None:
        assert re.fullmatch(r"\d{1,13}\.\d\d", str(facts["amount_collected"]))


def test_a_change_stores_only_the_fields_that_are_set() -> None:
    change = VisitChange(
        action="update", visit_id="A-1", version=1, time_completed=None, amount_collected=Decimal(0), opted_out=False
    )

    assert {"time_completed": None, "amount_collected": "0.00", "opted_out": False} == change.facts()


def test_the_stored_bytes_are_small_json() -> None:
    stored = encode_change(
        VisitChange(action="cancel", visit_id="A-1", version=7, contact=Contact(email="a@example.com"), no_show=None)
    )

    assert {"a": "cancel", "o": 7, "f": {"n": None}, "c": {"email": "a@example.com"}} == json.loads(stored)


def test_every_fact_is_read_under_its_full_name() -> None:
    change = VisitChange(
        action="update",
        visit_id="A-1",
        version=7,
        time_scheduled=datetime(2026, 3, 14, 9, tzinfo=UTC),
        time_completed=None,
        amount_collected=Decimal(5),
        currency="EUR",
        date_cancelled=None,
        no_show=datetime(2026, 3, 14, 10, tzinfo=UTC),
        date_left=None,
        opted_out=True,
    )

    assert len(change.facts()) == 8
    assert change.facts() == RecordedChange.decode("d1.0", encode_change(change)).facts


def test_the_facts_of_single_payments_keep_their_names() -> None:
    change = VisitChange(action="update", visit_id="A-1", version=7, amount_collected=Decimal(5), payment_id="p1")

    assert {"amount_collected of p1": "5.00"} == json.loads(encode_change(change))["f"]


# -- times and money, as the API writes them --

NEPAL = timezone(timedelta(hours=5, minutes=45))


@each(
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
    assert expected == format_time(moment)


@each(
    ("expected", "amount"),
    [
        ("120.00", "120"), ("245.00", "245.0"), ("75.50", "75.5"), ("0.00", "0"), ("0.01", "0.005"), ("0.00", "0.0049"),
        ("2.68", "2.675"), ("1000.00", "1E+3"), ("7550.00", "7550"), ("999999999999.99", "999999999999.99"),
    ],
)  # fmt: skip
def test_money_has_two_places_and_rounds_half_up(expected: str, amount: str) -> None:
    assert expected == format_money(Decimal(amount))


@each(
    ("expected", "moment"),
    [
        (1_790_000_000_000_000, datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)),
        (1_739_782_800_000_001, datetime(2025, 2, 17, 14, 45, 0, 1, tzinfo=NEPAL)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)  # `date -u -d … +%s`
def test_a_time_orders_by_its_microseconds(expected: int, moment: datetime) -> None:
    assert expected == unix_microseconds(moment)


# -- the visit's name on both sides --


@each(
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


def test_an_id_that_is_too_long_ends_in_a_digest_and_has_120_characters() -> None:
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
def test_every_id_becomes_the_same_valid_name(visit_id: str) -> None:
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


def test_an_id_that_looks_like_a_digest_of_another_id_differs_from_it() -> None:
    lookalike = external_id("standard", "a b").removeprefix("standard-")

    assert external_id("standard", "a b") != external_id("standard", lookalike)


@EXAMPLES
@given(ODD_IDS)
def test_visits_of_two_sources_never_share_a_name(visit_id: str) -> None:
    names = {external_id(name, visit_id) for name in load_sources()}

    assert len(load_sources()) == len(names)
