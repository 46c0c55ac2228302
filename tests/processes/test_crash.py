"""Crashes at any moment: workers and web processes are killed, jobs are lost, and Redis loses its last writes."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.demo.valkey import free_port, start, stop, valkey
from app.ledger.keys import VISITS_QUEUE
from app.ledger.ledger import ORPHAN_AFTER_S
from app.visits.change import Contact, VisitChange
from jobs.maintenance import ORPHANS_EVERY_S
from tests.crash.checker import duplicated_visits
from tests.crash.run import Plan, run
from tests.support.harness import Harness, Server, wait_until
from tests.support.ledger_client import LedgerClient, all_visits, booked, end_leases


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(kills=12, seed=4, kill_interval_s=0.5, fast=True), id="everysec"),
        pytest.param(Plan(kills=12, seed=9, kill_interval_s=0.5, fast=True, truncate=True), id="truncated"),
    ],
)
async def test_accepted_visits_are_created_once_despite_kills(plan: Plan) -> None:
    report = await run(plan)

    assert plan.kills == report.kills.total()
    assert 4 == report.kills["redis"]
    assert report.visits > 5
    assert [] == report.breaches.all(), str(report)


# A worker that is killed between two calls

ADA, BOB = Contact(email="ada@example.com"), Contact(email="bob@example.com")
NINE, TEN = datetime(2026, 3, 14, 9, tzinfo=UTC), datetime(2026, 3, 14, 10, tzinfo=UTC)
BOOKED = VisitChange(action="create", visit_id="1", version=1, contact=ADA, time_scheduled=NINE)
#: Changes before the kill, the change that is interrupted, and the contacts that must exist afterwards.
CASES = {
    "create": ([], BOOKED, {"ada"}),
    "update": (
        [replace(BOOKED, time_scheduled=TEN)],
        VisitChange(action="update", visit_id="1", version=2, time_scheduled=NINE),
        {"ada"},
    ),
    "another-customer": ([BOOKED], VisitChange(action="update", visit_id="1", version=2, contact=BOB), {"ada", "bob"}),
    "merged-ids": (
        [BOOKED, replace(BOOKED, visit_id="2", version=2)],
        VisitChange(action="update", visit_id="2", version=3, previous_visit_id="1"),
        {"ada"},
    ),
}


@dataclass
class StandbyWorker:
    """A worker that is stopped until a test needs it."""

    worker: Server
    client: LedgerClient

    def stop(self) -> None:
        self.worker.process.send_signal(signal.SIGSTOP)

    def finish_tasks(self) -> None:
        self.worker.process.send_signal(signal.SIGCONT)
        wait_until(self.client.is_done, 30)
        self.stop()


@pytest.fixture(scope="module")
def service(sandbox: Server) -> Iterator[tuple[Harness, StandbyWorker]]:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        yield harness, StandbyWorker(harness.start_worker(), LedgerClient(harness.redis_url))


@pytest.mark.parametrize(("before", "change", "people"), CASES.values(), ids=CASES)
def test_a_worker_that_is_killed_after_any_call_leaves_no_duplicates(
    service: tuple[Harness, StandbyWorker], before: list[VisitChange], change: VisitChange, people: set[str]
) -> None:
    """Kills the worker after the API has executed a call and before it responds, and lets another worker finish."""
    harness, standby = service
    killed = 0
    while True:
        clean(harness, standby)
        standby.client.accept(*before)
        standby.finish_tasks()
        harness.inject_faults(commit_then_hang_share=1, after=killed, times=1)
        calls_before = len(harness.journal())
        standby.client.accept(change)

        first = harness.start_worker()
        wait_until(lambda: is_hanging(harness) or standby.client.is_done(), 30)
        first.kill()
        if not is_hanging(harness):
            break
        killed += 1
        end_leases(standby.client)
        standby.finish_tasks()

        case = f"killed after {[call['route'] for call in harness.journal()[calls_before:]][:killed]}"
        assert [("standard-1", "2026-03-14T09:00:00Z")] == [
            (visit["external_id"], visit["time_scheduled"]) for visit in harness.visits()
        ], case
        assert [1] * len(people) == [
            len(harness.get_from_api(f"/contacts?email={name}@example.com")["data"]) for name in people
        ], case
        assert [] == duplicated_visits(harness.journal()), case
    assert killed >= 1


def is_hanging(harness: Harness) -> bool:
    return any(call["response"] == "hang" for call in harness.journal())


# Lost jobs


def test_lost_jobs_are_requeued(service: tuple[Harness, StandbyWorker]) -> None:
    harness, standby = service
    clean(harness, standby)
    standby.client.accept(*(booked(f"{number:03}") for number in range(250)))
    standby.client.command("DEL", VISITS_QUEUE)
    pass_minute(standby.client)

    worker = harness.start_worker()
    wait_until(standby.client.is_done, 40)
    worker.kill()  # the next test starts its own worker

    assert [f"standard-{number:03}" for number in range(250)] == all_visits(harness)
    assert 250 == harness.calls().count("POST /visits")


def test_a_lost_job_is_detected_within_90_seconds() -> None:
    assert ORPHAN_AFTER_S + ORPHANS_EVERY_S <= 90


def clean(harness: Harness, standby: StandbyWorker) -> None:
    standby.stop()
    harness.reset()


def pass_minute(client: LedgerClient) -> None:
    for task in client.tasks("queued"):
        client.command("ZINCRBY", "bell:state:queued", -60_000, task)


# A server that loses the end of its append-only file


class TruncatableRedis:
    """A Redis that can lose all writes since `mark`, and a harness that uses it."""

    def __init__(self, stack: ExitStack, sandbox: Server) -> None:
        self._folder, self._port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        self._start()
        stack.callback(lambda: stop(self._server))
        url = f"redis://127.0.0.1:{self._port}/0"
        self.harness, self.client = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)

    def _start(self) -> None:
        self._server = start(self._port, self._folder, appendfsync="always")

    @property
    def _file(self) -> Path:
        return next((self._folder / "appendonlydir").glob("*.incr.aof"))

    def mark(self) -> None:
        self._size = self._file.stat().st_size

    def truncate(self) -> None:
        """Kill the server, and restart it without the writes after the mark."""
        self._server.kill()
        self._server.wait()
        os.truncate(self._file, self._size)
        self._start()


def slow_calls(harness: Harness) -> int:
    return [call["fault"] for call in harness.journal()].count("slow")


@pytest.fixture
def truncatable(sandbox: Server) -> Iterator[TruncatableRedis]:
    with ExitStack() as stack:
        yield TruncatableRedis(stack, sandbox)


def test_lost_leases_cause_no_duplicate_visits(truncatable: TruncatableRedis) -> None:
    harness, client = truncatable.harness, truncatable.client
    harness.inject_faults(slow_share=1, slow_s=4, only=["POST /visits"], times=20)
    client.accept(*(booked(f"{number:02}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(20)))
    truncatable.mark()
    for _ in range(2):
        harness.start_worker()
    wait_until(lambda: harness.faults()["times"] == 0)

    truncatable.truncate()  # the leases are lost while twenty calls are in progress
    assert 0 == slow_calls(harness)
    wait_until(client.is_done, 60)

    assert [f"standard-{number:02}" for number in range(20)] == all_visits(harness)
    assert 20 == harness.calls().count("POST /visits")


def test_lost_locks_cause_no_duplicate_contacts(truncatable: TruncatableRedis) -> None:
    harness, client = truncatable.harness, truncatable.client
    harness.inject_faults(slow_share=1, slow_s=4, only=["POST /contacts"], times=1)
    client.accept(*(booked(f"{number:02}") for number in range(4)))
    truncatable.mark()
    for _ in range(2):
        harness.start_worker()
    wait_until(lambda: harness.faults()["times"] == 0)

    truncatable.truncate()
    assert 0 == slow_calls(harness)
    wait_until(client.is_done, 60)

    assert [f"standard-{number:02}" for number in range(4)] == all_visits(harness)
    assert 1 == harness.calls().count("POST /contacts")
