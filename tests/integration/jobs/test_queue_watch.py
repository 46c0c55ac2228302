"""Redis reports to an idle worker that a job was queued."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from jobs.queue_watch import QueueWatch
from tests.support.harness import Harness, Server, free_port, wait_until
from tests.support.ledger import accept, change
from tests.support.ledger_client import LedgerClient, booked
from tests.support.tcp_server import Handler, listening

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


async def begin(watch: QueueWatch) -> None:
    """Start the watch, as an idle worker does, until Redis reports changes."""
    while not watch.is_active:
        watch.start()
        await watch.wait(FOREVER_S, 0.01)


async def test_a_watch_ends_its_wait_when_a_job_is_queued(ledger: Ledger, connection: Redis) -> None:
    watch = QueueWatch(connection)
    await begin(watch)

    await accept(ledger, change("A"))

    await watch.wait(FOREVER_S, FOREVER_S)


async def test_the_beginning_of_a_watch_ends_a_wait(redis: Redis, connection: Redis) -> None:
    watch = QueueWatch(connection)
    watch.start()

    await watch.wait(FOREVER_S, FOREVER_S)

    assert watch.is_active


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
    await begin(watch)
    watch.stop()

    await begin(watch)
    await accept(ledger, change("A"))

    await watch.wait(FOREVER_S, FOREVER_S)


async def test_a_watch_starts_again_after_its_connection_was_lost(ledger: Ledger, connection: Redis) -> None:
    watch = QueueWatch(connection)
    await begin(watch)
    id = await connection.command("CLIENT", "ID")

    await ledger.redis.command("CLIENT", "KILL", "ID", id)
    await watch.wait(FOREVER_S, FOREVER_S)

    await begin(watch)
    await accept(ledger, change("A"))
    await watch.wait(FOREVER_S, FOREVER_S)


async def test_without_reports_a_watch_waits_for_the_poll_delay(
    ledger: Ledger, limited_url: str, logged: list[Any]
) -> None:
    limited = Redis(RedisAddress(limited_url))
    watch = QueueWatch(limited)
    watch.start()
    await asyncio.to_thread(wait_until, lambda: logged)

    await watch.wait(FOREVER_S, 0.01)

    assert ["queue_watch_unsupported"] == [line["event"] for line in logged]
    assert not watch.is_active
    await watch.close()


# With real workers


def test_a_worker_that_gets_no_reports_applies_visits(sandbox: Server, redis_url: str, limited_url: str) -> None:
    with Harness(redis_url, sandbox) as harness:
        worker = harness.start_worker(REDIS_URL=limited_url)
        wait_until(lambda: "queue_watch_unsupported" in worker.log.read_text())

        LedgerClient(redis_url).accept(booked("1"))

        wait_until(harness.visits)


def silent_after(last: bytes, port: int) -> Handler:
    """Return a proxy for a server. A connection on which this argument was sent is lost, and neither side notices."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (data := await reader.read(65536)) and b"\r\n%b\r\n" % last not in data:
            writer.write(data)
        if data:
            await asyncio.Future()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        with closing(to_server):
            await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    return handle


@pytest.mark.parametrize("last", [b"ON", b"OFF"], ids=["a request for reports", "their end"])
async def test_a_worker_without_an_answer_about_reports_applies_visits(
    sandbox: Server, redis_url: str, last: bytes
) -> None:
    waits_forever = (
        "import functools, jobs.claiming_worker as w, jobs.worker; "
        f"w.Redis = functools.partial(w.Redis, timeout_s={FOREVER_S}); jobs.worker.run()"
    )

    def apply_visits(url: str) -> None:
        with Harness(redis_url, sandbox) as harness, ExitStack() as stack:
            env = {**harness.env, "REDIS_URL": url}
            stack.enter_context(Server([sys.executable, "-c", waits_forever], free_port(), "", env))
            for count in range(1, 6):
                LedgerClient(redis_url).accept(booked(str(count)))
                wait_until(lambda count=count: len(harness.visits()) == count)  # type: ignore[misc]

    address = urlsplit(redis_url)
    assert address.port
    async with listening(silent_after(last, address.port)) as port:
        await asyncio.to_thread(apply_visits, f"redis://127.0.0.1:{port}{address.path}")


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
