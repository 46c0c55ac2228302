"""Fixtures of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from app.ledger.redis import Redis
from tests.support.harness import Harness, serving
from tests.support.tool_api import ToolApi, ToolWorld
from tests.support.visit_worker import open_world


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ToolApi, str]]:
    tool = ToolApi()
    with serving(Starlette(routes=[Route("/{path:path}", tool.serve, methods=["GET", "POST"])])) as url:
        yield tool, url
        tool.response_gate.set()


@pytest.fixture
async def world(redis: Redis, module_harness: Harness, served: tuple[ToolApi, str]) -> AsyncIterator[ToolWorld]:
    served[0].reset()
    async with open_world(redis, module_harness):
        world = ToolWorld(redis, module_harness, *served)
        yield world
        world.tool.response_gate.set()
        await world.transport.aclose()
