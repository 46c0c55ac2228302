"""The helper that runs many cases in one test runs all of them, and reports each failure."""

from typing import Any

import pytest

from tests.support.cases import each


def check_is_even(numbers: list[int], number: int) -> None:
    numbers.append(number)
    assert number % 2 == 0


def notes(error: BaseException) -> list[str]:
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [*getattr(error, "__notes__", []), *(note for part in parts for note in notes(part))]


def test_every_case_runs_and_every_failure_names_its_case() -> None:
    numbers: list[int] = []

    with pytest.raises(ExceptionGroup, match="2 of 4 cases fail") as raised:
        each("number", [1, 2, pytest.param(3, id="three"), 4])(check_is_even)(numbers=numbers)

    assert [1, 2, 3, 4] == numbers
    assert ["in the case 1", "in the case three"] == notes(raised.value)


def test_a_failure_of_pytest_itself_is_one_of_the_case() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        each(("reason", "again"), [("late", 1)])(lambda reason, again: pytest.fail(reason))()

    assert ["in the case 'late', 1"] == notes(raised.value)


async def test_an_asynchronous_case_is_awaited() -> None:
    async def check(number: int) -> None:
        assert number == 1

    with pytest.raises(ExceptionGroup) as raised:
        await each("number", [1, 2])(check)()

    assert ["in the case 2"] == notes(raised.value)


def test_all_combinations_of_two_lists_run() -> None:
    pairs: list[Any] = []

    def record(a: str, b: int) -> None:
        pairs.append((a, b))

    each("a", "xy")(each("b", [1, 2])(record))()

    assert [("x", 1), ("x", 2), ("y", 1), ("y", 2)] == pairs


def test_a_test_without_a_case_is_an_error() -> None:
    with pytest.raises(ValueError, match="no case"):
        each("number", [])
