"""Filters in words, as the activity log has them."""

from app.operators.filter import Filter
from tests.support.cases import each


@each(
    ("words", "filter", "count"),
    [
        ("7 failures of the hook east", Filter(state="parked", hook="east"), 7),
        ("1 failure with the reason contact_unknown", Filter(reason="contact_unknown"), 1),
        ("3 held tasks of the source calendly", Filter(state="held", source="calendly"), 3),
        ("1,200 superseded deliveries", Filter(state="superseded"), 1200),
        ("all deliveries since 2026-03-14T16:00:00Z", Filter(since="2026-03-14T16:00:00Z"), None),
        ("2 failures found by a search", Filter(state="parked", search="ada@example.com"), 2),
        ("standard-1, standard-2", Filter(ids=("standard-1", "standard-2")), 2),
        ("1, 2, 3, 4, 5 and 2 more in the state parked", Filter(ids=tuple("1234567"), state="parked"), 7),
    ],
)
def test_a_filter_is_described_in_words(words: str, filter: Filter, count: int | None) -> None:
    assert words == filter.describe(count)
