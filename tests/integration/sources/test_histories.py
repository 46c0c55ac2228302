"""Random histories of every source give the same visit in every order (see tests/histories).

For each source, some dozens run through the pure functions, and a few through all of Doorbell, on APIs that differ where
their reference is silent. `make soak` runs ten thousand of each.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.histories import tools
from tests.histories.pure import problems
from tests.histories.run import BATCH, World
from tests.support.harness import Server

PURE_SEEDS, FULL_SEEDS = 30, 4

each_source = pytest.mark.parametrize("source", sorted(tools()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(redis_url: str, sandbox: Server) -> AsyncIterator[World]:
    async with World(redis_url, sandbox.url) as world:
        yield world


@each_source
def test_a_history_gives_the_same_visit_in_every_order(source: str) -> None:
    assert [] == [problem for seed in range(PURE_SEEDS) for problem in problems(source, seed)]


@each_source
def test_simultaneous_events_give_the_same_visit_in_every_order(source: str) -> None:
    assert [] == [problem for seed in range(PURE_SEEDS // 5) for problem in problems(source, seed, ties=True)]


@pytest.mark.asyncio(loop_scope="module")
@each_source
async def test_a_history_gives_its_visit_in_the_api_despite_delays_and_repeats(world: World, source: str) -> None:
    start = sorted(tools()).index(source) * BATCH  # the sources together cover every behaviour of the API
    histories = await world.batch([(source, seed) for seed in range(start, start + FULL_SEEDS)])

    assert [] == [str(history) for history in histories if history.problems]
    assert FULL_SEEDS < sum(history.deliveries for history in histories)
