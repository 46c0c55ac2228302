"""Fixtures of all tests: one embedded Valkey in cluster mode (or REDIS_URL) per run, and Doorbell's processes."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import hypothesis
import pytest
import structlog
import uvloop

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.telemetry.logs import format_event
from app.web import GC_THRESHOLD
from tests.support.clusters import redis_for_tests
from tests.support.harness import Harness, Server

# A process that a shell starts in the background ignores SIGINT, and would pass that on to Doorbell's processes. If this
# were the default handler itself, asyncio would replace it for each fixture and test, which takes long.
signal.signal(signal.SIGINT, lambda number, frame: signal.default_int_handler(number, frame))

# httpx would search the disk for this module, which is not installed, at each request to an application in this process.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]

# Machines are shared, so no test fails because it is slow; and each run generates the same examples. `make soak` generates
# many others.
hypothesis.settings.register_profile("doorbell", deadline=None, derandomize=True, database=None, max_examples=30)
hypothesis.settings.register_profile("soak", deadline=None, database=None, max_examples=2_000)
hypothesis.settings.load_profile("doorbell")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Exclude what the collection of tests makes from garbage collection: it lives until the end.

    Later collections are as rare as in web and worker.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()
    return result


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the event loop of web and worker."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_for_tests() as url:
        yield url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Return a connection to an empty Redis."""
    connection = Redis(RedisAddress(redis_url))
    await connection.command("FLUSHDB", "SYNC")  # else its memory becomes free during the test
    yield connection
    await connection.close()


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis, retention_days=30)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Server]:
    """Start the sandbox as a process; `Harness.reset` empties it."""
    with Server.sandbox() as server:
        yield server


@pytest.fixture
def harness(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    """Return a harness with an empty Redis and sandbox. The test starts the processes that it needs."""
    with Harness(redis_url, sandbox) as harness:
        yield harness


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Capture the log events of this process at every level, formatted as in production."""
    original, capture = structlog.get_config(), structlog.testing.LogCapture()
    all_levels = structlog.make_filtering_bound_logger("debug")
    structlog.configure(processors=[format_event, capture], wrapper_class=all_levels)
    yield capture.entries
    structlog.configure(**original)
