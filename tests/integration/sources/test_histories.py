"""Whatever happens at a tool, in whatever order it is told, the visit is the one that it means (see tests/histories).

Here some hundreds of every source through the part that computes, and some dozens through all of Doorbell, on APIs that
differ in what their reference leaves open; `make soak` has ten thousand of each.
"""

from collections.abc import AsyncIterator

import pytest

from tests.histories import tools
from tests.histories.pure import problems
from tests.histories.run import BATCH, World
from tests.support.harness import Server

COMPUTED, WHOLE = 100, BATCH

each_source = pytest.mark.parametrize("source", sorted(tools()))


@pytest.fixture
async def world(redis_url: str, sandbox: Server) -> AsyncIterator[World]:
    async with World(redis_url, sandbox.url) as world:
        yield world


@each_source
def test_a_history_means_the_same_visit_in_every_order(source: str) -> None:
    assert [] == [problem for seed in range(COMPUTED) for problem in problems(source, seed)]


@each_source
def test_what_happens_at_one_and_the_same_moment_ends_alike_in_every_order(source: str) -> None:
    assert [] == [problem for seed in range(COMPUTED // 5) for problem in problems(source, seed, ties=True)]


@each_source
async def test_a_history_ends_in_the_visit_that_it_means_whatever_comes_when_and_however_often(
    world: World, source: str
) -> None:
    start = sorted(tools()).index(source) * WHOLE  # so that the sources together meet every behaviour
    ended = [
        history
        for first in range(start, start + WHOLE, BATCH)
        for history in await world.batch([(source, seed) for seed in range(first, first + BATCH)])
    ]

    assert [] == [str(history) for history in ended if history.problems]
    assert WHOLE < sum(history.deliveries for history in ended)
