"""Jumps of the server's clock: no worker loses its lease, and no task waits for the skipped time."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.demo.valkey import binary, free_port
from app.ledger.ledger import Ledger
from app.ledger.records import Lease
from app.ledger.redis import Redis, RedisAddress
from app.visits.change import Contact
from tests.support.harness import Harness, Server, memory_folder, wait_until
from tests.support.ledger import QUEUE_KEYS, accept, change, done, start_run, state_of, visit_task, waiting
from tests.support.ledger_client import LedgerClient, all_visits, booked

CONTACT = Contact(id="cont_KYdl3lftgZXGRbxqoj")
SETS = ("bell:state:running", "bell:state:queued", "bell:state:waiting", "bell:workers", *QUEUE_KEYS.values())


async def jump(seconds: float, *ledgers: Ledger) -> None:
    """Simulate a jump of the server's clock: move all stored times back, and the clock offsets of the ledgers too."""
    redis = ledgers[0].redis
    for name in SETS:
        for member in await redis.command("ZRANGE", name, 0, -1):
            await redis.command("ZINCRBY", name, -seconds * 1000, member)
    for ledger in ledgers:
        wire = ledger.redis._connection
        if wire and wire.clock_offset_s is not None:
            wire.clock_offset_s -= seconds
            ledger.redis._clock_offset_s = wire.clock_offset_s


@pytest.fixture
async def second(redis_url: str, ledger: Ledger) -> AsyncIterator[Ledger]:
    """Yield a ledger with its own connection, as of another process."""
    connection = Redis(RedisAddress(redis_url))
    yield Ledger(connection, retention_days=30)
    await connection.close()


async def test_a_lease_survives_a_jump_ahead(ledger: Ledger, second: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")
    await second.requeue_due()

    await jump(60, ledger, second)
    requeued, second_lease, _ = await asyncio.gather(
        second.requeue_due(), second.lease(visit_task("A")), ledger.redis.compare_clocks()
    )

    assert (0, "busy") == (requeued, second_lease)
    await ledger.complete(lease, done())
    assert "done" == await state_of(ledger, visit_task("A"))


async def test_a_lock_survives_a_jump_ahead(ledger: Ledger, second: Ledger) -> None:
    await ledger.acquire_lock("bell:contact:main:x:lock", "mine", 30)
    await second.requeue_due()
    await jump(60, ledger, second)
    await ledger.redis.command("DEL", "bell:contact:main:x:lock")  # it has expired by the new clock

    acquired, _ = await asyncio.gather(
        second.acquire_lock("bell:contact:main:x:lock", "theirs", 30), ledger.redis.compare_clocks()
    )

    assert not acquired


async def test_the_task_of_a_dead_worker_is_requeued_after_a_jump_ahead(ledger: Ledger, second: Ledger) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")
    await second.requeue_due()

    await jump(60, ledger, second)

    assert 1 == await second.requeue_due()
    assert isinstance(await second.lease(visit_task("A")), Lease)


async def test_a_completed_lease_is_not_restored_after_a_jump(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")
    held = dict(ledger.redis.held_leases)
    await ledger.complete(lease, done())
    ledger.redis.held_leases |= held  # as if the response had not arrived yet

    await jump(60, ledger)
    await ledger.redis.compare_clocks()

    assert "done" == await state_of(ledger, visit_task("A"))


async def test_acquiring_a_held_lock_again_extends_it(ledger: Ledger, redis: Redis) -> None:
    await ledger.acquire_lock("a-lock", "mine", 30)
    await redis.command("PEXPIRE", "a-lock", 5)

    assert await ledger.acquire_lock("a-lock", "mine", 30)
    assert not await ledger.acquire_lock("a-lock", "theirs", 60)
    assert 5 < await redis.command("PTTL", "a-lock") <= 30_000


async def test_the_lock_of_a_dead_process_does_not_last_for_an_hour_after_a_jump_back(
    ledger: Ledger, redis: Redis
) -> None:
    await redis.command("SET", "a-lock", "of a dead process", "PX", 3_620_000)  # 20 s before the jump

    assert not await ledger.acquire_lock("a-lock", "mine", 30)
    assert 0 < await redis.command("PTTL", "a-lock") <= 30_000


async def test_no_lease_is_given_until_other_processes_can_notice_a_jump(ledger: Ledger, second: Ledger) -> None:
    await accept(ledger, change("A"))
    await second.requeue_due()
    await jump(-3_600, ledger, second)
    started = time.monotonic()

    await second.lease(visit_task("A"))

    assert time.monotonic() - started > 1.5


async def test_queued_tasks_are_due_after_a_jump_back(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await accept(ledger, change("C"))
    await ledger.claim({"visits": 1}, 35)
    await ledger.complete(await start_run(ledger, "C"), waiting(retry_in_s=60))
    await ledger.heartbeat("bell:worker:one", b"{}", 30_000)

    await jump(-3_600, ledger)
    await ledger.heartbeat("bell:worker:one", b"{}", 30_000)
    await ledger.requeue_due()

    now_ms = (await ledger.server_time()).timestamp() * 1000
    claimed = [job for _, job, _ in (await ledger.claim({"visits": 10}, 35)).jobs]
    [_, due] = await redis.command("ZRANGE", "bell:state:waiting", 0, -1, "WITHSCORES")
    [_, beat] = await redis.command("ZRANGE", "bell:workers", 0, -1, "WITHSCORES")
    assert {f"{visit_task(visit)}#1" for visit in "AB"} <= set(claimed)
    assert 0 < float(due) - now_ms < 61_000
    assert float(beat) <= now_ms


async def test_the_lease_of_a_dead_worker_ends_within_a_minute_after_a_jump_back(
    ledger: Ledger, second: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")
    await second.requeue_due()

    await jump(-3_600, ledger, second)
    await second.requeue_due()

    [_, until] = await redis.command("ZRANGE", "bell:state:running", 0, -1, "WITHSCORES")
    assert float(until) - (await ledger.server_time()).timestamp() * 1000 <= 60_000


async def test_the_rate_limit_delays_no_call_for_longer_after_a_jump_back(ledger: Ledger, redis: Redis) -> None:
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 3_570_000))

    assert 0 == await ledger.acquire_rate_slot("main", 10, max_wait_s=2)
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 3_570_000))
    await ledger.complete(await _start_new_visit(ledger, "A"), waiting())
    assert 0 == await ledger.release_held("main", calls_per_second=10)


async def _start_new_visit(ledger: Ledger, visit: str) -> Lease:
    await accept(ledger, change(visit))
    return await start_run(ledger, visit)


# A server whose clock really jumps


class FakeClockServer:
    """A Valkey whose clock has the offset in a file."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.port, self._folder, self._library, self._clock = free_port(), folder, library, folder / "clock"
        self.set(0)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def set(self, seconds: int) -> None:
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._clock)

    def start(self) -> None:
        faketime = {"LD_PRELOAD": str(self._library), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        faketime |= {"FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync always --loglevel warning"
        command = [binary(), *options.split(), "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, env={**os.environ, **faketime}, stdout=subprocess.DEVNULL)
        wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            LedgerClient(self.url).command("PING")
        except Exception:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def libfaketime() -> Path:
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("needs libfaketime (Debian: apt install faketime)")
    return libraries[0]


@pytest.fixture
def fake_clock_server(libfaketime: Path) -> Iterator[FakeClockServer]:
    with TemporaryDirectory(dir=memory_folder()) as folder:
        server = FakeClockServer(Path(folder), libfaketime)
        yield server
        server.kill()


@pytest.mark.parametrize("restarts", [False, True], ids=["jump", "another server"])
@pytest.mark.parametrize("seconds", [60, -3_600])
def test_a_visit_is_created_once_despite_a_jump_of_the_clock(
    fake_clock_server: FakeClockServer, sandbox: Server, seconds: int, restarts: bool
) -> None:
    with ExitStack() as stack:
        harness, client = (
            stack.enter_context(Harness(fake_clock_server.url, sandbox)),
            LedgerClient(fake_clock_server.url),
        )
        harness.inject_faults(slow_share=1, slow_s=6, only=["POST /visits"])
        client.accept(*(booked(f"{number}", contact=CONTACT) for number in range(5)))
        for _ in range(2):
            harness.start_worker(VISITS_API_RATE="100")
        wait_until(lambda: harness.calls().count("GET /visits/:id") == 5)

        if restarts:
            fake_clock_server.kill()
        fake_clock_server.set(seconds)
        if restarts:
            fake_clock_server.start()
        client.accept(*(booked(f"late-{number}", contact=CONTACT) for number in range(5)))
        wait_until(lambda: len(all_visits(harness)) >= 10, 60)
        wait_until(client.is_done, 60)

        assert 10 == harness.calls().count("POST /visits")
        wait_until(lambda: "No worker is running" not in harness.doorbell("overview").stdout)


def remaining_s(client: LedgerClient, times: str) -> float:
    """Return the seconds until the latest of these times, by the server's clock."""
    latest = client.command("ZRANGE", times, -1, -1, "WITHSCORES")
    return float(latest[1]) / 1000 - int(client.command("TIME")[0]) if latest else 0


@pytest.mark.parametrize("seconds", [3_600, -3_600])
def test_waiting_visits_are_tried_a_few_times_and_replays_run_after_a_jump_of_the_clock(
    fake_clock_server: FakeClockServer, sandbox: Server, seconds: int
) -> None:
    """Ahead, each visit is due an hour early, once. Back, none waits for an hour."""
    visits = [f"{number}" for number in range(20)]
    with Harness(fake_clock_server.url, sandbox) as harness:
        client = LedgerClient(fake_clock_server.url)
        harness.inject_faults(error_share=1, error_status=500, only=["GET /visits/:id"])
        client.accept(*(booked(visit, contact=CONTACT) for visit in visits))
        harness.start_worker(RETRY_FIRST_S="60", RETRY_CAP_S="60")
        wait_until(lambda: all(client.member(visit).failed_attempts for visit in visits))
        calls_before = len(harness.calls())

        fake_clock_server.set(seconds)
        time.sleep(5)

        assert len(harness.calls()) - calls_before <= 2 * len(visits)
        assert remaining_s(client, "bell:state:running") <= 60
        wait_until(lambda: remaining_s(client, "bell:state:waiting") <= 60, 5)
        harness.clear_faults()
        names = [f"standard-{visit}" for visit in visits]
        assert 0 == harness.doorbell("replay", *names, "--yes").returncode
        wait_until(lambda: len(all_visits(harness)) == len(visits), 30)
        assert len(visits) == harness.calls().count("POST /visits")


# Workers whose clocks are wrong


def test_workers_with_wrong_clocks_lose_double_and_delay_nothing(
    redis_url: str, sandbox: Server, libfaketime: Path
) -> None:
    """One is an hour ahead, the other an hour late. The API asks them to wait until a time of day."""
    visits = [f"{number}" for number in range(20)]
    with Harness(redis_url, sandbox) as harness:
        client = LedgerClient(redis_url)
        limit = {"rate_limited_share": 0.1, "retry_after_s": 1, "retry_after_date": True}
        calls = ["GET /visits/:id", "POST /visits"]
        harness.inject_faults(**limit, error_share=0.2, only=calls)
        for offset in ("+3600", "-3600"):
            fake = {"LD_PRELOAD": str(libfaketime), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
            harness.start_worker(**fake, RETRY_FOR_S="600")
        client.accept(*(booked(visit, contact=CONTACT) for visit in visits))
        leases_s = []
        deadline = time.monotonic() + 60
        while len(all_visits(harness)) < len(visits) or not client.is_done():
            assert time.monotonic() < deadline
            leases_s.append(remaining_s(client, "bell:state:running"))
            time.sleep(0.2)

        assert max(leases_s) <= 60
        assert len(visits) == len(all_visits(harness))
        assert [] == client.tasks("parked")
        assert len(harness.calls()) < 8 * len(visits)
