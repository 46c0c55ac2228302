"""Killed at any moment: real processes, SIGKILL, and a Redis that comes back with less than it had."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.demo.valkey import free_port, start, stop, valkey
from app.ledger import scripts
from app.ledger.keys import VISITS_QUEUE
from app.ledger.ledger import ORPHAN_AFTER_S
from app.visits.change import Contact, VisitChange
from jobs.maintenance import ORPHANS_EVERY_S
from tests.crash.checker import duplicated_visits
from tests.crash.run import Plan, run
from tests.processes.test_worker import LedgerClient, all_visits, booked
from tests.support.harness import Harness, Server, wait_until


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(kills=12, seed=4, kill_interval_s=0.5, fast=True), id="everysec"),
        pytest.param(Plan(kills=12, seed=9, kill_interval_s=0.5, fast=True, torn=True), id="torn"),
    ],
)
async def test_whatever_is_killed_what_was_accepted_stands_in_the_api_once(plan: Plan) -> None:
    report = await run(plan)

    assert plan.kills == report.kills.total()
    assert 4 == report.kills["redis"]
    assert report.visits > 5
    assert [] == report.breaches.all(), str(report)


# A worker killed between any two calls ------------------------------------------------------------------------------

ADA, BOB = Contact(email="ada@example.com"), Contact(email="bob@example.com")
NINE, TEN = datetime(2026, 3, 14, 9, tzinfo=UTC), datetime(2026, 3, 14, 10, tzinfo=UTC)
BOOKED = VisitChange(action="create", visit_id="1", version=1, contact=ADA, time_scheduled=NINE)
STORIES = {
    "create": ([], BOOKED, {"ada"}),
    "update": (
        [replace(BOOKED, time_scheduled=TEN)],
        VisitChange(action="update", visit_id="1", version=2, time_scheduled=NINE),
        {"ada"},
    ),
    "another-customer": ([BOOKED], VisitChange(action="update", visit_id="1", version=2, contact=BOB), {"ada", "bob"}),
    "two-become-one": (
        [BOOKED, replace(BOOKED, visit_id="2", version=2)],
        VisitChange(action="update", visit_id="2", version=3, previous_visit_id="1"),
        {"ada"},
    ),
}


@dataclass
class Heir:
    """A worker that stands still until it is its turn."""

    worker: Server
    books: LedgerClient

    def still(self) -> None:
        self.worker.process.send_signal(signal.SIGSTOP)

    def finish(self) -> None:
        self.worker.process.send_signal(signal.SIGCONT)
        wait_until(self.books.is_done, 30)
        self.still()


@pytest.fixture(scope="module")
def heir(sandbox: Server) -> Iterator[tuple[Harness, Heir]]:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        yield harness, Heir(harness.start_worker(), LedgerClient(harness.redis_url))


@pytest.mark.parametrize(("before", "then", "people"), STORIES.values(), ids=STORIES)
def test_killed_after_any_call_another_worker_finishes_and_nothing_is_there_twice(
    heir: tuple[Harness, Heir], before: list[VisitChange], then: VisitChange, people: set[str]
) -> None:
    """The call is done, the answer never comes, and whoever waits for it dies."""
    harness, other = heir
    killed = 0
    while True:
        clean(harness, other)
        other.books.accept(*before)
        other.finish()
        harness.inject_faults(commit_then_hang_share=1, after=killed, times=1)
        made = harness.journal()
        other.books.accept(then)

        first = harness.start_worker()
        wait_until(lambda: is_hanging(harness) or other.books.is_done(), 30)
        first.kill()
        if not is_hanging(harness):
            break
        killed += 1
        let_leases_end(other.books)
        other.finish()

        story = f"killed after {[call['route'] for call in harness.journal()[len(made) :]][:killed]}"
        assert [("standard-1", "2026-03-14T09:00:00Z")] == [
            (visit["external_id"], visit["time_scheduled"]) for visit in harness.visits()
        ], story
        assert [1] * len(people) == [
            len(harness.get_from_api(f"/contacts?email={name}@example.com")["data"]) for name in people
        ], story
        assert [] == duplicated_visits(harness.journal()), story
    assert killed >= 1


def is_hanging(harness: Harness) -> bool:
    return any(call["response"] == "hang" for call in harness.journal())


def let_leases_end(books: LedgerClient) -> None:
    """A minute passes for who is dead."""
    for key in ("bell:running", VISITS_QUEUE):
        for name in books.command("ZRANGE", key, 0, -1):
            books.command("ZINCRBY", key, -60_000, name)
    for lock in books.command("KEYS", "bell:contact:*:lock"):
        books.command("DEL", lock)


# Jobs that are lost -------------------------------------------------------------------------------------------------


def no_payloads(books: LedgerClient) -> None:
    for key in books.command("KEYS", "arq:job:*"):
        books.command("DEL", key)


def no_queue(books: LedgerClient) -> None:
    books.command("DEL", VISITS_QUEUE)


def no_arq(books: LedgerClient) -> None:
    no_payloads(books)
    no_queue(books)


@pytest.mark.parametrize("lose", [no_payloads, no_queue, no_arq])
def test_jobs_that_are_lost_are_queued_again(heir: tuple[Harness, Heir], lose: Callable[[LedgerClient], None]) -> None:
    harness, other = heir
    clean(harness, other)
    other.books.accept(*(booked(f"{number:03}") for number in range(250)))
    lose(other.books)
    a_minute_passes(other.books)

    worker = harness.start_worker()
    wait_until(other.books.is_done, 40)
    worker.kill()  # the next test has nobody but its own

    assert [f"standard-{number:03}" for number in range(250)] == all_visits(harness)
    assert 250 == harness.calls().count("POST /visits")


def test_a_backlog_older_than_arqs_expiry_loses_nothing(
    heir: tuple[Harness, Heir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expiry is 30 days; here it is 50 ms."""
    harness, other = heir
    clean(harness, other)
    source = scripts.accept.source.replace("JOB_TTL_MS = 30 * 86400 * 1000", "JOB_TTL_MS = 50")
    assert source != scripts.accept.source
    monkeypatch.setitem(scripts.SCRIPTS, "accept", replace(scripts.accept, source=source))
    other.books.accept(*(booked(f"{number:03}") for number in range(250)))
    wait_until(lambda: not other.books.command("KEYS", "arq:job:*"))
    a_minute_passes(other.books)

    worker = harness.start_worker()
    wait_until(other.books.is_done, 40)
    worker.kill()  # the next test has nobody but its own

    assert [f"standard-{number:03}" for number in range(250)] == all_visits(harness)


def test_a_lost_job_is_noticed_within_90_seconds() -> None:
    assert ORPHAN_AFTER_S + ORPHANS_EVERY_S <= 90


def clean(harness: Harness, other: Heir) -> None:
    other.still()
    harness.reset()


def a_minute_passes(books: LedgerClient) -> None:
    for work in books.tasks("queued"):
        books.command("ZINCRBY", "bell:queued", -60_000, work)


# A server that lost the end of its file ------------------------------------------------------------------------------


class Torn:
    """A Redis that forgets what it was told since `mark`, and a harness around it."""

    def __init__(self, stack: ExitStack, sandbox: Server) -> None:
        self._folder, self._port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        self._start()
        stack.callback(lambda: stop(self._server))
        url = f"redis://127.0.0.1:{self._port}/0"
        self.harness, self.books = stack.enter_context(Harness(url, sandbox)), LedgerClient(url)

    def _start(self) -> None:
        self._server = start(self._port, self._folder, appendfsync="always")

    @property
    def _file(self) -> Path:
        return next((self._folder / "appendonlydir").glob("*.incr.aof"))

    def mark(self) -> None:
        self._size = self._file.stat().st_size

    def tear(self) -> None:
        """Killed, and back without what came after the mark."""
        self._server.kill()
        self._server.wait()
        os.truncate(self._file, self._size)
        self._start()


def slow_calls(harness: Harness) -> int:
    return [call["fault"] for call in harness.journal()].count("slow")


@pytest.fixture
def torn(sandbox: Server) -> Iterator[Torn]:
    with ExitStack() as stack:
        yield Torn(stack, sandbox)


def test_a_redis_that_forgot_who_holds_what_lets_nobody_double_it(torn: Torn) -> None:
    harness, books = torn.harness, torn.books
    harness.inject_faults(slow_share=1, slow_s=3, only=["POST /visits"])
    books.accept(*(booked(f"{number:02}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(20)))
    torn.mark()
    for _ in range(2):
        harness.start_worker()
    wait_until(lambda: harness.calls().count("GET /visits/:id") == 20, 30)

    torn.tear()  # The leases are gone, and twenty visits are in the making.
    harness.clear_faults()
    wait_until(lambda: slow_calls(harness) == 20)
    wait_until(books.is_done, 60)

    assert [f"standard-{number:02}" for number in range(20)] == all_visits(harness)
    assert 20 == harness.calls().count("POST /visits")


def test_a_redis_that_forgot_who_makes_a_customer_lets_nobody_make_him_twice(torn: Torn) -> None:
    harness, books = torn.harness, torn.books
    harness.inject_faults(slow_share=1, slow_s=3, only=["POST /contacts"])
    books.accept(*(booked(f"{number:02}") for number in range(4)))
    torn.mark()
    for _ in range(2):
        harness.start_worker()
    wait_until(lambda: harness.calls().count("GET /contacts") == 1, 30)

    torn.tear()
    harness.clear_faults()
    wait_until(lambda: slow_calls(harness) == 1)
    wait_until(books.is_done, 60)

    assert [f"standard-{number:02}" for number in range(4)] == all_visits(harness)
    assert 1 == harness.calls().count("POST /contacts")
