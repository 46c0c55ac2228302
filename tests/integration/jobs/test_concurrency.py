"""Nothing starves: what waits for somebody's answer is in nobody's way."""

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
from app.ledger.records import Queue
from app.ledger.redis import Redis
from app.visits.change import Contact
from app.webhooks.registry import load_specimens
from jobs.concurrency import MAX_ACTIVE, FetchSlots, Job, KeyedLocks, RunningJobs
from tests.processes.test_worker import LedgerClient, all_visits, booked
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, visit_task

SLOW, QUICK = 200, 20


class Occupied(Exception):
    pass


async def waiting_job(
    places: RunningJobs, answer: asyncio.Event, lane: Queue = "visits", share: str = "visits:main"
) -> Job:
    async def run() -> None:
        await answer.wait()

    job = Job(run(), lane, share)
    places.jobs.add(job)
    asyncio.create_task(job).add_done_callback(lambda _: places.jobs.discard(job))
    await asyncio.sleep(0)
    return job


async def test_a_job_that_waits_for_an_answer_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.concurrency, "IDLE_AFTER_S", 0.05)
    places, answer = RunningJobs(), asyncio.Event()
    for _ in range(10):
        await waiting_job(places, answer)

    at_work = places.capacity()
    await asyncio.sleep(0.1)
    only_wait = places.capacity()
    answer.set()
    await asyncio.sleep(0)

    assert (MAX_ACTIVE["visits"] - 10, MAX_ACTIVE["visits"]) == (at_work["visits"], only_wait["visits"])
    assert {"events": MAX_ACTIVE["events"], "replays": MAX_ACTIVE["replays"]} == {
        lane: at_work[lane] for lane in ("events", "replays")
    }


async def test_jobs_that_wait_are_bounded_and_one_account_leaves_as_many_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs.concurrency, "MAX_IN_FLIGHT", 12)
    monkeypatch.setattr(jobs.concurrency, "IDLE_AFTER_S", -1)
    places, answer = RunningJobs(), asyncio.Event()
    for _ in range(5):
        await waiting_job(places, answer)
    before = places.full_shares()
    await waiting_job(places, answer)
    after = places.full_shares()
    for _ in range(3):
        await waiting_job(places, answer, share="visits:shop")
    both = sorted(places.full_shares()), places.capacity()
    for _ in range(3):
        await waiting_job(places, answer, "events", "")

    assert ([], ["visits:main"]) == (before, after)
    assert (["visits:main", "visits:shop"], {"visits": 3, "events": 0, "replays": 0}) == both
    assert {"visits": 0, "events": 0, "replays": 0} == places.capacity()
    answer.set()
    await asyncio.sleep(0)


async def test_a_job_can_be_cancelled_and_its_end_is_its_own() -> None:
    ends = []

    async def run() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            ends.append("time")
        try:
            await asyncio.sleep(60)
        finally:
            ends.append("cancelled")

    task = asyncio.create_task(Job(run(), "visits", "visits:main"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["time", "cancelled"] == ends


async def test_slots_are_for_so_many_and_pass_on_after_a_moment() -> None:
    slots, begun, answer, all_began = FetchSlots(2), list[int](), asyncio.Event(), asyncio.Event()

    async def call(number: int) -> None:
        async with slots.hold(5, Occupied):
            begun.append(number)
            if len(begun) == 5:
                all_began.set()
            await answer.wait()

    calls = [asyncio.create_task(call(number)) for number in range(5)]
    await asyncio.sleep(0.01)
    at_first = list(begun)
    await all_began.wait()
    answer.set()
    await asyncio.gather(*calls)

    assert [0, 1] == at_first
    assert 2 == slots._free._value


async def test_whoever_waits_too_long_for_a_turn_is_told() -> None:
    turns = KeyedLocks()
    async with turns.hold("a", 1, Occupied):
        with pytest.raises(Occupied):
            async with turns.hold("a", 0.01, Occupied):
                pass
        async with turns.hold("b", 0.01, Occupied):
            pass
    async with turns.hold("a", 0.01, Occupied):
        pass


async def test_jobs_of_an_account_without_room_are_overtaken(ledger: Ledger, redis: Redis) -> None:
    for number in range(30):
        await accept(ledger, change(f"slow-{number}"))
    other = b"visit:shop/standard-quick"
    await redis.command("SET", b"arq:job:" + other + b"#1", "payload")
    await redis.command(
        "ZADD", "bell:queue:visits", int((await ledger.server_time()).timestamp() * 1000), other + b"#1"
    )

    claimed = await ledger.claim({"visits": 5, "replays": 5}, 35, ["visits:main"])
    at_once = await ledger.claim({"visits": 5}, 35)
    await asyncio.sleep(1.1)
    later = await ledger.claim({"visits": 50}, 35)

    assert [("visits", f"{other.decode()}#1", b"payload")] == claimed
    assert [] == at_once
    assert {f"{visit_task(f'slow-{number}')}#1" for number in range(30)} == {job for _, job, _ in later}


# -- with a real worker --


def hanging(client: LedgerClient) -> int:
    return sum("slow" in name for name in client.tasks("running"))


def test_look_ups_that_hang_do_not_delay_others_of_the_account(harness: Harness) -> None:
    """Twenty visits behind two hundred whose contact is looked up for longer than a call may take."""
    harness.inject_faults(slow_share=1, slow_s=25, only=["GET /contacts"], matching="slow.")
    client = LedgerClient(harness.redis_url)
    slow = [booked(f"slow-{n}", contact=Contact(email=f"slow.{n}@example.com")) for n in range(SLOW)]
    quick = [booked(f"quick-{n}", contact=Contact(email=f"quick.{n}@example.com")) for n in range(QUICK)]
    client.accept(*slow, *quick)
    harness.start_worker()

    wait_until(lambda: len(all_visits(harness)) == QUICK)

    # No call that hangs had come to an end: nobody waited for one.
    assert SLOW == hanging(client)
    assert sorted(f"standard-quick-{n}" for n in range(QUICK)) == all_visits(harness)


def test_visits_of_one_contact_that_hangs_do_not_delay_others(harness: Harness) -> None:
    harness.inject_faults(slow_share=1, slow_s=25, only=["GET /contacts"], matching="slow.")
    client = LedgerClient(harness.redis_url)
    slow = [booked(f"slow-{n}", contact=Contact(email="slow.1@example.com")) for n in range(SLOW)]
    quick = [booked(f"quick-{n}", contact=Contact(email=f"quick.{n}@example.com")) for n in range(QUICK)]
    client.accept(*slow, *quick)
    harness.start_worker()

    wait_until(lambda: len(all_visits(harness)) == QUICK)

    assert SLOW == hanging(client)


BOOKED: dict[str, Any] = load_specimens("acuity")["deliveries"][0]
RECORD = BOOKED["records"]["appointments/123456789"]


class HangingTool(BaseHTTPRequestHandler):
    """It answers for ids from 1,000 on, and hangs for the others."""

    over = threading.Event()
    asked: list[int]

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        self.server.asked.append(number)  # type: ignore[attr-defined]
        if number < 1_000:
            self.over.wait(25)
            return
        body = json.dumps({**RECORD, "id": number, "email": f"ada.{number}@example.com"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ManyConnections(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


@pytest.fixture
def tool() -> Iterator[ManyConnections]:
    with ManyConnections(("127.0.0.1", 0), HangingTool) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        HangingTool.over.set()
        server.shutdown()


def test_records_that_hang_delay_neither_others_of_the_tool_nor_other_hooks(
    harness: Harness, tool: ManyConnections
) -> None:
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
    assert len(tool.asked) <= SLOW + QUICK  # type: ignore[attr-defined]
