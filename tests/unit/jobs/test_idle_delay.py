"""Idle workers do not poll more often together than two of them."""

import pytest

from jobs.claiming_worker import idle_delay_s


@pytest.mark.parametrize("workers", [1, 2])
def test_one_or_two_workers_poll_without_delay(workers: int) -> None:
    assert 0 == idle_delay_s(0.05, workers)


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 20])
def test_more_workers_poll_as_often_as_two(workers: int) -> None:
    polls_per_s = workers / (0.05 + idle_delay_s(0.05, workers))

    assert 2 / 0.05 == pytest.approx(polls_per_s)


def test_no_worker_waits_longer_than_half_a_second() -> None:
    assert 0.5 == idle_delay_s(0.05, 1_000)
