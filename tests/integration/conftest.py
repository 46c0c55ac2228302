"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from app.ledger.redis import Redis
from tests.support.harness import Harness, Server, serving
from tests.support.source_world import RecordApi, SourceWorld
from tests.support.tool_api import ToolApi, ToolWorld
from tests.support.visit_worker import World, open_world


@pytest.fixture(scope="module")
def module_harness(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    with Harness(redis_url, sandbox) as harness:
        yield harness


@pytest.fixture
async def world(redis: Redis, module_harness: Harness) -> AsyncIterator[World]:
    async with open_world(redis, module_harness) as world:
        yield world


@pytest.fixture(scope="module")
def tool_api() -> Iterator[tuple[ToolApi, str]]:
    api = ToolApi()
    with serving(Starlette(routes=[Route("/{path:path}", api.serve, methods=["GET", "POST"])])) as url:
        yield api, url
        api.response_gate.set()


@pytest.fixture
async def tool_world(redis: Redis, module_harness: Harness, tool_api: tuple[ToolApi, str]) -> AsyncIterator[ToolWorld]:
    api, url = tool_api
    api.reset()
    async with open_world(redis, module_harness):
        world = ToolWorld(redis, module_harness, api, url)
        yield world
        api.response_gate.set()
        await world.transport.aclose()


@pytest.fixture(scope="module")
def record_api() -> Iterator[tuple[RecordApi, str]]:
    api = RecordApi()
    with serving(Starlette(routes=[Route("/{path:path}", api.serve, methods=["GET", "POST"])])) as url:
        yield api, url


@pytest.fixture
async def source_world(
    redis: Redis, module_harness: Harness, record_api: tuple[RecordApi, str]
) -> AsyncIterator[SourceWorld]:
    api, url = record_api
    api.records, api.request_headers = {}, []
    async with open_world(redis, module_harness):
        world = SourceWorld(redis, module_harness, api, url)
        yield world
        await world.transport.aclose()
