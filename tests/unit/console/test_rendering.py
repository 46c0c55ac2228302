"""The filters of the templates."""

import time
from typing import Any

from app.console.rendering import due, marked, plain, sentence, version
from tests.support.cases import each


@each(
    ("expected", "value"),
    [("none", None), ("none", ""), ("yes", True), ("no", False), ("0", 0), ("120.00", "120.00")],
)
def test_a_value_of_a_visit_is_shown_in_words(expected: str, value: Any) -> None:
    assert expected == plain(value)


@each(("expected", "in_s"), [("in 2 min", 119), ("now", 0), ("now", -7)])
def test_the_next_attempt_is_never_in_the_past(expected: str, in_s: float) -> None:
    assert expected == due((time.time() + in_s) * 1000)


def test_code_between_backticks_is_marked_and_html_is_escaped() -> None:
    assert "run <code>a &lt;b&gt;</code>, then <code>c</code> &lt;i&gt;" == marked("run `a <b>`, then `c` <i>")
    assert "a `single backtick" == marked("a `single backtick")


def test_a_sentence_begins_with_a_capital_and_has_readable_times() -> None:
    assert 'Moved to <time datetime="2027-01-15T19:00:00Z">Jan 15, 2027, 7:00 PM UTC</time> &lt;b&gt;' == sentence(
        "moved to 2027-01-15T19:00:00Z <b>"
    )


@each(("expected", "value"), [("12", 12), ("Jan 15, 2027, 7:00:05 PM UTC", 1_800_039_605_000_000), ("0", 0)])
def test_the_version_of_a_change_is_a_time_or_a_number(expected: str, value: int) -> None:
    assert expected in version(value)
