"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.ledger.redis import Redis
from tests.support.harness import Harness, Server
from tests.support.visit_worker import World, a_world


@pytest.fixture(scope="module")
def hands(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    harness = Harness(redis_url, sandbox)
    yield harness
    harness.http.close()


@pytest.fixture
async def world(redis: Redis, hands: Harness) -> AsyncIterator[World]:
    async with a_world(redis, hands) as world:
        yield world
