"""Redis reports to an idle worker that a job was queued."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from jobs.queue_watch import QueueWatch
from tests.support.harness import Harness, Server, free_port, wait_until
from tests.support.ledger import accept, change
from tests.support.ledger_client import LedgerClient, booked

#: Longer than any test.
FOREVER_S = 600.0


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(RedisAddress(redis_url))
    yield connection
    await connection.close()


@pytest.fixture
def limited_url(redis_url: str) -> Iterator[str]:
    """Return the URL of a user who may not ask for reports."""
    client = LedgerClient(redis_url)
    client.command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
    yield redis_url.replace("redis://", "redis://limited:secret@")
    client.command("ACL", "DELUSER", "limited")


async def test_a_watch_ends_its_wait_when_a_job_is_queued(ledger: Ledger, connection: Redis) -> None:
    watch = QueueWatch(connection)
    assert await watch.start()

    await accept(ledger, change("A"))

    await watch.wait(FOREVER_S, FOREVER_S)


async def test_only_changes_of_the_queues_are_reported(redis: Redis, connection: Redis) -> None:
    reports = asyncio.Queue[Any]()
    await connection.track_keys("bell:queue:", reports.put_nowait)

    await redis.command("SET", "bell:other", 1)
    await redis.command("ZADD", "bell:queue:events", 1, "event:d1#1")

    assert [b"invalidate", [b"bell:queue:events"]] == await reports.get()


async def test_nothing_is_reported_after_the_end_of_a_watch(redis: Redis, connection: Redis) -> None:
    reports = asyncio.Queue[Any]()
    await connection.track_keys("bell:queue:", reports.put_nowait)
    await connection.untrack_keys()

    await redis.command("ZADD", "bell:queue:events", 1, "event:d1#1")
    await connection.command("PING")

    assert reports.empty()


async def test_a_watch_that_was_stopped_can_start_again(ledger: Ledger, connection: Redis) -> None:
    watch = QueueWatch(connection)
    await watch.start()
    await watch.stop()

    assert await watch.start()
    assert not await watch.start()
    await accept(ledger, change("A"))

    await watch.wait(FOREVER_S, FOREVER_S)


async def test_a_watch_starts_again_after_its_connection_was_lost(ledger: Ledger, connection: Redis) -> None:
    watch = QueueWatch(connection)
    await watch.start()
    id = await connection.command("CLIENT", "ID")

    await ledger.redis.command("CLIENT", "KILL", "ID", id)
    await watch.wait(FOREVER_S, FOREVER_S)

    assert await watch.start()
    await accept(ledger, change("A"))
    await watch.wait(FOREVER_S, FOREVER_S)


async def test_without_reports_a_watch_waits_for_the_poll_delay(ledger: Ledger, limited_url: str) -> None:
    limited = Redis(RedisAddress(limited_url))
    watch = QueueWatch(limited)

    assert not await watch.start()
    await watch.wait(FOREVER_S, 0.01)
    await limited.close()


# With real workers


def test_a_worker_that_gets_no_reports_applies_visits(sandbox: Server, redis_url: str, limited_url: str) -> None:
    with Harness(redis_url, sandbox) as harness:
        worker = harness.start_worker(REDIS_URL=limited_url)
        wait_until(lambda: "queue_watch_unsupported" in worker.log.read_text())

        LedgerClient(redis_url).accept(booked("1"))

        wait_until(harness.visits)


def test_an_idle_worker_needs_no_poll_to_find_a_job(sandbox: Server, redis_url: str) -> None:
    never_polls = f"import jobs.claiming_worker as w, jobs.worker; w.MAX_IDLE_S = {FOREVER_S}; jobs.worker.run()"
    with Harness(redis_url, sandbox) as harness, ExitStack() as stack:
        stack.enter_context(Server([sys.executable, "-c", never_polls], free_port(), "", harness.env))
        client = LedgerClient(redis_url)
        wait_until(lambda: b"tracking_clients:1" in client.command("INFO", "clients"))

        client.accept(booked("1"))
        wait_until(harness.visits)
        wait_until(lambda: b"tracking_clients:1" in client.command("INFO", "clients"))
        client.accept(booked("2"))

        wait_until(lambda: len(harness.visits()) == 2)
