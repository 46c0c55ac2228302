"""The server's clock jumps: nobody loses a lease for it, and nothing waits for the time that went."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.demo.valkey import binary, free_port
from app.ledger.ledger import Ledger
from app.ledger.records import Lease
from app.ledger.redis import Redis, RedisAddress
from app.visits.change import Contact
from tests.processes.test_worker import LedgerClient, all_visits, booked
from tests.support.harness import Harness, Server, wait_until
from tests.support.ledger import QUEUE_KEYS, accept, change, done, start_run, state_of, visit_task, waiting

KNOWN = Contact(id="cont_KYdl3lftgZXGRbxqoj")
SETS = ("bell:running", "bell:queued", "bell:waiting", "bell:workers", *QUEUE_KEYS.values())


async def jump(seconds: float, *ledgers: Ledger) -> None:
    """As the server would see it: all times that it knows are so much earlier by its new clock, and who has compared clocks
    expects the old one."""
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
async def other(redis_url: str, ledger: Ledger) -> AsyncIterator[Ledger]:
    """Another process."""
    connection = Redis(RedisAddress(redis_url))
    yield Ledger(connection, retention_days=30)
    await connection.close()


async def test_after_a_jump_ahead_the_work_is_still_its_holders(ledger: Ledger, other: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")
    await other.requeue_due()

    await jump(60, ledger, other)
    swept, answer, _ = await asyncio.gather(
        other.requeue_due(), other.lease(visit_task("A")), ledger.redis.compare_clocks()
    )

    assert (0, "busy") == (swept, answer)
    await ledger.complete(hold, done())
    assert "done" == await state_of(ledger, visit_task("A"))


async def test_after_a_jump_ahead_a_lock_is_still_its_holders(ledger: Ledger, other: Ledger) -> None:
    await ledger.acquire_lock("bell:contact:main:x:lock", "mine", 30)
    await other.requeue_due()
    await jump(60, ledger, other)
    await ledger.redis.command("DEL", "bell:contact:main:x:lock")  # by that clock it has ended

    taken, _ = await asyncio.gather(
        other.acquire_lock("bell:contact:main:x:lock", "theirs", 30), ledger.redis.compare_clocks()
    )

    assert not taken


async def test_after_a_jump_ahead_the_work_of_a_dead_worker_still_goes_to_another(
    ledger: Ledger, other: Ledger
) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")
    await other.requeue_due()

    await jump(60, ledger, other)

    assert 1 == await other.requeue_due()
    assert isinstance(await other.lease(visit_task("A")), Lease)


async def test_what_was_given_back_is_not_taken_again_for_a_jump(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")
    right = dict(ledger.redis.held_leases)
    await ledger.complete(hold, done())
    ledger.redis.held_leases |= right  # its answer is still under way

    await jump(60, ledger)
    await ledger.redis.compare_clocks()

    assert "done" == await state_of(ledger, visit_task("A"))


async def test_a_renewed_lock_lasts_longer(ledger: Ledger, redis: Redis) -> None:
    await ledger.acquire_lock("a-lock", "mine", 30)
    await redis.command("PEXPIRE", "a-lock", 5)

    assert await ledger.acquire_lock("a-lock", "mine", 30)
    assert not await ledger.acquire_lock("a-lock", "theirs", 60)
    assert 5 < await redis.command("PTTL", "a-lock") <= 30_000


async def test_a_server_that_expects_another_time_gives_nothing_before_the_grace(ledger: Ledger, other: Ledger) -> None:
    """It was said again at once, but others may not have noticed yet."""
    await accept(ledger, change("A"))
    await other.requeue_due()
    await jump(-3_600, ledger, other)
    asked_at = time.monotonic()

    await other.lease(visit_task("A"))

    assert time.monotonic() - asked_at > 1.5


async def test_after_a_jump_back_what_was_queued_before_is_due(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await accept(ledger, change("C"))
    await ledger.claim({"visits": 1}, 35)
    await ledger.complete(await start_run(ledger, "C"), waiting(retry_in_s=60))
    await ledger.heartbeat("bell:worker:one", b"{}", 30_000)

    await jump(-3_600, ledger)
    await ledger.requeue_due()

    now_ms = (await ledger.server_time()).timestamp() * 1000
    claimed = [job for _, job, _ in await ledger.claim({"visits": 10}, 35)]
    [_, due] = await redis.command("ZRANGE", "bell:waiting", 0, -1, "WITHSCORES")
    [_, beat] = await redis.command("ZRANGE", "bell:workers", 0, -1, "WITHSCORES")
    assert {f"{visit_task(visit)}#1" for visit in "AB"} <= set(claimed)
    assert 0 < float(due) - now_ms < 61_000
    assert float(beat) <= now_ms


async def test_after_a_jump_back_a_dead_worker_gives_its_work_up_within_a_minute(
    ledger: Ledger, other: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")
    await other.requeue_due()

    await jump(-3_600, ledger, other)
    await other.requeue_due()

    [_, until] = await redis.command("ZRANGE", "bell:running", 0, -1, "WITHSCORES")
    assert float(until) - (await ledger.server_time()).timestamp() * 1000 <= 60_000


async def test_after_a_jump_back_the_line_for_calls_is_no_longer_than_before(ledger: Ledger, redis: Redis) -> None:
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 3_570_000))

    assert 0 == await ledger.acquire_rate_slot("main", 10, max_wait_s=2)
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 3_570_000))
    await ledger.complete(await _in_line(ledger, "A"), waiting())
    assert 0 == await ledger.release_circuit("main", calls_per_second=10)


async def _in_line(ledger: Ledger, visit: str) -> Lease:
    await accept(ledger, change(visit))
    return await start_run(ledger, visit)


# -- with a server whose clock really jumps --


class ClockedServer:
    """A Valkey whose clock stands as far off as a file says."""

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
        faked = {"LD_PRELOAD": str(self._library), "FAKETIME_TIMESTAMP_FILE": str(self._clock)}
        faked |= {"FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync always --loglevel warning"
        command = [binary(), *options.split(), "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, env={**os.environ, **faked}, stdout=subprocess.DEVNULL)
        wait_until(lambda: LedgerClient(self.url).command("PING") if self._listens() else None)

    def _listens(self) -> bool:
        try:
            LedgerClient(self.url).command("PING")
        except Exception:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def clocked(tmp_path: Path) -> Iterator[ClockedServer]:
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("needs libfaketime (Debian: apt install faketime)")
    server = ClockedServer(tmp_path, libraries[0])
    yield server
    server.kill()


@pytest.mark.parametrize("restarts", [False, True], ids=["jump", "another server"])
@pytest.mark.parametrize("seconds", [60, -3_600])
def test_whatever_a_servers_clock_does_a_visit_is_made_once(
    clocked: ClockedServer, sandbox: Server, seconds: int, restarts: bool
) -> None:
    with ExitStack() as stack:
        harness, books = stack.enter_context(Harness(clocked.url, sandbox)), LedgerClient(clocked.url)
        harness.inject_faults(slow_share=1, slow_s=6, only=["POST /visits"])
        books.accept(*(booked(f"{number}", contact=KNOWN) for number in range(5)))
        for _ in range(2):
            harness.start_worker(VISITS_API_RATE="100")
        wait_until(lambda: harness.calls().count("GET /visits/:id") == 5)

        if restarts:
            clocked.kill()
        clocked.set(seconds)
        if restarts:
            clocked.start()
        books.accept(*(booked(f"late-{number}", contact=KNOWN) for number in range(5)))
        wait_until(lambda: len(all_visits(harness)) >= 10, 60)
        wait_until(books.is_done, 60)

        assert 10 == harness.calls().count("POST /visits")
        wait_until(lambda: "No worker is running" not in harness.doorbell("overview").stdout)
