"""When a hook is silent, by the gaps between its deliveries."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.silence import silence_limit_s, usual_gap_s

HOUR, DAY, WEEK = 3_600.0, 86_400.0, 7 * 86_400.0
gap_lists = st.lists(st.floats(1, 10 * DAY), max_size=60)


def limit(gaps: list[float], history: float | None = None) -> float:
    return silence_limit_s(usual_gap_s(gaps, sum(gaps) if history is None else history))


@given(gap_lists)
def test_a_hook_is_not_silent_within_an_hour_or_its_longest_usual_gap(gaps: list[float]) -> None:
    recurring = sorted(gaps)[-2] if len(gaps) >= 2 else 0

    assert limit(gaps) >= max(HOUR, recurring if recurring < DAY else 1.5 * recurring)


@given(st.lists(st.floats(1, DAY - 1), max_size=60))
def test_where_no_day_without_a_delivery_is_usual_a_hook_is_silent_after_a_day_at_the_latest(gaps: list[float]) -> None:
    assert limit(gaps) <= DAY


@given(st.lists(st.floats(1, DAY - 1), max_size=9))
def test_with_too_few_deliveries_to_know_a_hook_is_silent_after_a_day(gaps: list[float]) -> None:
    assert limit(gaps) == DAY


@given(st.lists(st.floats(1, 7 * HOUR), min_size=10, max_size=60))
def test_a_hook_with_short_gaps_is_silent_after_three_times_the_longest(gaps: list[float]) -> None:
    assert limit(gaps) == max(HOUR, 3 * max(gaps))


@given(gap_lists, st.floats(1, 10 * DAY))
def test_another_long_gap_never_makes_a_hook_silent_earlier(gaps: list[float], gap: float) -> None:
    assert limit([*gaps, max([gap, *gaps])], history=WEEK) >= min(limit(gaps, history=WEEK), DAY)


@given(
    opens=st.integers(6, 11),
    hours=st.integers(4, 12),
    every_min=st.integers(5, 120),
    closed=st.sampled_from([{6}, {5, 6}, {0, 6}]),
)
def test_a_business_that_is_closed_each_week_is_silent_on_none_of_these_days(
    opens: int, hours: int, every_min: int, closed: set[int]
) -> None:
    times = [
        day * DAY + opens * HOUR + minute * 60
        for day in range(42)
        if day % 7 not in closed
        for minute in range(0, hours * 60, every_min)
    ]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    second_week = next(number for number, at in enumerate(times) if at > 9 * DAY)

    for number in range(second_week, len(gaps)):
        assert gaps[number] < limit(gaps[:number], times[number] - times[0])


def test_an_outage_is_usual_only_if_the_history_is_too_short_to_tell() -> None:
    gaps = [10 * HOUR] * 20 + [3 * DAY]

    assert limit(gaps, 13 * DAY) == 4.5 * DAY
    assert limit(gaps, 14 * DAY) == DAY
