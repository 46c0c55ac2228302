"""Fixtures of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from app.ledger.redis import Redis
from tests.support.harness import Harness, serving
from tests.support.tool_api import Doorstep, Tool
from tests.support.visit_worker import a_world


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Tool, str]]:
    tool = Tool()
    with serving(Starlette(routes=[Route("/{path:path}", tool.serve, methods=["GET", "POST"])])) as url:
        yield tool, url
        tool.open.set()


@pytest.fixture
async def world(redis: Redis, hands: Harness, served: tuple[Tool, str]) -> AsyncIterator[Doorstep]:
    served[0].reset()
    async with a_world(redis, hands):
        world = Doorstep(redis, hands, *served)
        yield world
        world.tool.open.set()
        await world.wire.aclose()
