"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.ledger.redis import Redis
from tests.support.harness import Harness, Server
from tests.support.visit_worker import World, open_world


@pytest.fixture(scope="module")
def module_harness(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    harness = Harness(redis_url, sandbox)
    yield harness
    harness.http.close()


@pytest.fixture
async def world(redis: Redis, module_harness: Harness) -> AsyncIterator[World]:
    async with open_world(redis, module_harness) as world:
        yield world
