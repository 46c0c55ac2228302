"""The filters of the templates."""

import time
from typing import Any

import pytest

from app.console.rendering import due, marked, plain


@pytest.mark.parametrize(
    ("expected", "value"),
    [("none", None), ("none", ""), ("yes", True), ("no", False), ("0", 0), ("120.00", "120.00")],
)
def test_a_value_of_a_visit_is_shown_in_words(expected: str, value: Any) -> None:
    assert expected == plain(value)


@pytest.mark.parametrize(("expected", "in_s"), [("in 2 min", 119), ("now", 0), ("now", -7)])
def test_the_next_attempt_is_never_in_the_past(expected: str, in_s: float) -> None:
    assert expected == due((time.time() + in_s) * 1000)


def test_code_between_backticks_is_marked_and_html_is_escaped() -> None:
    assert "run <code>a &lt;b&gt;</code>, then <code>c</code> &lt;i&gt;" == marked("run `a <b>`, then `c` <i>")
    assert "a `single backtick" == marked("a `single backtick")
