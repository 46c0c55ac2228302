"""Jobs that wait for slow responses do not delay other jobs."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import jobs.concurrency
from app.ledger.ledger import Ledger
from app.ledger.locks import KeyedLocks
from app.ledger.records import Queue
from app.ledger.redis import Redis
from app.visits.change import Contact
from app.webhooks.registry import load_specimens
from jobs.concurrency import MAX_ACTIVE, FetchSlots, Job, RunningJobs
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, visit_task
from tests.support.ledger_client import LedgerClient, all_visits, booked

SLOW, QUICK = 200, 20


class Timeout(Exception):
    pass


async def start_job(
    running: RunningJobs, response: asyncio.Event, queue: Queue = "visits", share: str = "visits:main"
) -> Job:
    """Start a job that waits for the response."""

    async def run() -> None:
        await response.wait()

    job = Job(run(), queue, share)
    running.jobs.add(job)
    asyncio.create_task(job).add_done_callback(lambda _: running.jobs.discard(job))
    await asyncio.sleep(0)
    return job


async def test_an_idle_job_uses_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.concurrency, "IDLE_AFTER_S", 0.05)
    running, response = RunningJobs(), asyncio.Event()
    for _ in range(10):
        await start_job(running, response)

    active = running.capacity()
    await asyncio.sleep(0.1)
    idle = running.capacity()
    response.set()
    await asyncio.sleep(0)

    assert (MAX_ACTIVE["visits"] - 10, MAX_ACTIVE["visits"]) == (active["visits"], idle["visits"])
    assert {"events": MAX_ACTIVE["events"], "replays": MAX_ACTIVE["replays"]} == {
        queue: active[queue] for queue in ("events", "replays")
    }


async def test_one_account_leaves_as_many_jobs_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.concurrency, "MAX_IN_FLIGHT", 12)
    monkeypatch.setattr(jobs.concurrency, "IDLE_AFTER_S", -1)
    running, response = RunningJobs(), asyncio.Event()
    for _ in range(5):
        await start_job(running, response)
    before = running.full_shares()
    await start_job(running, response)
    after = running.full_shares()
    for _ in range(3):
        await start_job(running, response, share="visits:shop")
    both = sorted(running.full_shares()), running.capacity()
    for _ in range(3):
        await start_job(running, response, "events", "")

    assert ([], ["visits:main"]) == (before, after)
    assert (["visits:main", "visits:shop"], {"visits": 3, "events": 0, "replays": 0}) == both
    assert {"visits": 0, "events": 0, "replays": 0} == running.capacity()
    response.set()
    await asyncio.sleep(0)


async def test_a_job_passes_timeouts_and_cancellation_on() -> None:
    events = []

    async def run() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            events.append("timeout")
        try:
            await asyncio.sleep(60)
        finally:
            events.append("cancelled")

    task = asyncio.create_task(Job(run(), "visits", "visits:main"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["timeout", "cancelled"] == events


async def test_a_slow_fetch_releases_its_slot() -> None:
    slots, started, response, all_started = FetchSlots(2), list[int](), asyncio.Event(), asyncio.Event()

    async def call(number: int) -> None:
        async with slots.hold(5, Timeout):
            started.append(number)
            if len(started) == 5:
                all_started.set()
            await response.wait()

    calls = [asyncio.create_task(call(number)) for number in range(5)]
    await asyncio.sleep(0.01)
    first = list(started)
    await all_started.wait()
    response.set()
    await asyncio.gather(*calls)

    assert [0, 1] == first
    assert 2 == slots._free._value


async def test_waiting_too_long_for_a_lock_raises() -> None:
    locks = KeyedLocks()
    async with locks.hold("a", 1, Timeout):
        with pytest.raises(Timeout):
            async with locks.hold("a", 0.01, Timeout):
                pass
        async with locks.hold("b", 0.01, Timeout):
            pass
    async with locks.hold("a", 0.01, Timeout):
        pass


async def test_jobs_of_other_accounts_are_claimed_before_those_of_a_full_one(ledger: Ledger, redis: Redis) -> None:
    for number in range(30):
        await accept(ledger, change(f"slow-{number}"))
    quick = b"visit:shop/standard-quick"
    due_ms = int((await ledger.server_time()).timestamp() * 1000)
    await redis.command("ZADD", "bell:queue:visits", due_ms, quick + b"#1")

    claimed = (await ledger.claim({"visits": 5, "replays": 5}, 35, ["visits:main"])).jobs
    immediately = (await ledger.claim({"visits": 5}, 35)).jobs
    await asyncio.sleep(1.1)
    later = (await ledger.claim({"visits": 50}, 35)).jobs

    assert [("visits", f"{quick.decode()}#1", due_ms)] == claimed
    assert [] == immediately
    assert {f"{visit_task(f'slow-{number}')}#1" for number in range(30)} == {job for _, job, _ in later}


# With a real worker


def count_slow_runs(client: LedgerClient) -> int:
    return sum("slow" in name for name in client.tasks("running"))


def test_slow_contact_lookups_do_not_delay_other_visits_of_the_account(harness: Harness) -> None:
    """Queue 20 visits behind 200 visits whose contact lookups time out."""
    harness.inject_faults(slow_share=1, slow_s=25, only=["GET /contacts"], matching="slow.")
    client = LedgerClient(harness.redis_url)
    slow = [booked(f"slow-{n}", contact=Contact(email=f"slow.{n}@example.com")) for n in range(SLOW)]
    quick = [booked(f"quick-{n}", contact=Contact(email=f"quick.{n}@example.com")) for n in range(QUICK)]
    client.accept(*slow, *quick)
    harness.start_worker()

    wait_until(lambda: len(all_visits(harness)) == QUICK)

    # All slow calls are still in progress, so no other visit waited for one.
    assert SLOW == count_slow_runs(client)
    assert sorted(f"standard-quick-{n}" for n in range(QUICK)) == all_visits(harness)


def test_visits_that_wait_for_one_contact_do_not_delay_others(harness: Harness) -> None:
    harness.inject_faults(slow_share=1, slow_s=25, only=["GET /contacts"], matching="slow.")
    client = LedgerClient(harness.redis_url)
    slow = [booked(f"slow-{n}", contact=Contact(email="slow.1@example.com")) for n in range(SLOW)]
    quick = [booked(f"quick-{n}", contact=Contact(email=f"quick.{n}@example.com")) for n in range(QUICK)]
    client.accept(*slow, *quick)
    harness.start_worker()

    wait_until(lambda: len(all_visits(harness)) == QUICK)

    assert SLOW == count_slow_runs(client)


BOOKED: dict[str, Any] = load_specimens("acuity")["deliveries"][0]
RECORD = BOOKED["records"]["appointments/123456789"]


class HangingTool(BaseHTTPRequestHandler):
    """A tool's API that responds for ids from 1,000, and hangs for the others."""

    end = threading.Event()
    requested_ids: list[int]

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        self.server.requested_ids.append(number)  # type: ignore[attr-defined]
        if number < 1_000:
            self.end.wait(25)
            return
        body = json.dumps({**RECORD, "id": number, "email": f"ada.{number}@example.com"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ToolServer(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


@pytest.fixture
def tool() -> Iterator[ToolServer]:
    with ToolServer(("127.0.0.1", 0), HangingTool) as server:
        server.requested_ids = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        HangingTool.end.set()
        server.shutdown()


def test_slow_records_delay_neither_other_records_nor_other_hooks(harness: Harness, tool: ToolServer) -> None:
    secret = load_specimens("acuity")["secret"]
    env = {
        "HOOKS__ACUITY__SECRETS": secret,
        "HOOKS__ACUITY__CREDENTIALS__USER_ID": "4711",
        "HOOKS__ACUITY__CREDENTIALS__API_KEY": "acuity-api-key",
        "HOOKS__ACUITY__API_URL": f"http://127.0.0.1:{tool.server_port}",
    }
    harness.start_web(**env)
    for number in [*range(1, SLOW + 1), *range(1_000, 1_000 + QUICK)]:
        raw = f"action=scheduled&id={number}&calendarID=1234567&appointmentTypeID=7654321".encode()
        signature = base64.b64encode(hmac.digest(secret.encode(), raw, hashlib.sha256)).decode()
        headers = {"content-type": "application/x-www-form-urlencoded", "x-acuity-signature": signature}
        assert 202 == harness.post(raw, headers, "acuity").status_code
    client = LedgerClient(harness.redis_url)
    client.accept(*(booked(f"{n}", contact=Contact(email=f"quick.{n}@example.com")) for n in range(QUICK)))
    harness.start_worker(**env)

    wait_until(lambda: len(all_visits(harness)) == 2 * QUICK)

    assert SLOW <= sum(name.startswith("event:") for name in client.tasks("running"))
    assert len(tool.requested_ids) <= SLOW + QUICK  # type: ignore[attr-defined]
