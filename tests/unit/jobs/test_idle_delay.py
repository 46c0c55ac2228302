"""Idle workers together poll as often as one."""

import pytest

from jobs.claiming_worker import idle_delay_s
from tests.support.cases import each


@each("workers", [0, 1])
def test_a_worker_alone_polls_without_further_delay(workers: int) -> None:
    assert 0 == idle_delay_s(0.05, workers)


@each("workers", [2, 3, 4, 8])
def test_several_workers_poll_as_often_as_one(workers: int) -> None:
    polls_per_s = workers / (0.05 + idle_delay_s(0.05, workers))

    assert 1 / 0.05 == pytest.approx(polls_per_s)


def test_no_worker_waits_longer_than_half_a_second() -> None:
    assert 0.5 == idle_delay_s(0.05, 1_000)
