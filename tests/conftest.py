"""Real parts: one embedded Valkey (or REDIS_URL) per run, emptied for each test; processes as in production."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.telemetry.logs import format_event
from tests.support.harness import Harness, Server, redis_for_tests

# A shell lets what it puts into the background ignore this signal, and then so would every process that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_for_tests() as url:
        yield url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """An empty one."""
    connection = Redis(RedisAddress(redis_url))
    await connection.command("FLUSHDB")
    yield connection
    await connection.close()


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis, retention_days=30)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Server]:
    """The sandbox as its own process; `harness.fresh_sandbox` empties it."""
    with Server.sandbox() as server:
        yield server


@pytest.fixture
def harness(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    """Nothing running yet beside Redis and the sandbox, both empty: start what the test needs."""
    with Harness(redis_url, sandbox) as harness:
        yield harness


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What our own code says meanwhile in this process, at every level, in the shape in which it leaves."""
    before, capture = structlog.get_config(), structlog.testing.LogCapture()
    everything = structlog.make_filtering_bound_logger("debug")
    structlog.configure(processors=[format_event, capture], wrapper_class=everything)
    yield capture.entries
    structlog.configure(**before)
