"""Killed at any moment: real processes, SIGKILL, and a Redis that comes back with less than it had."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig import Rig, Server, wait_until
from test_worker import Books, a_rig, all_visits, booked

from app.embedded import free_port, start, stop
from app.visits.words import Contact
from tests.crash.run import Plan, run


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(kills=12, seed=1, every_s=0.5, fast=True), id="everysec"),
        pytest.param(Plan(kills=8, seed=2, every_s=0.5, fast=True, torn=True), id="torn"),
    ],
)
async def test_whatever_is_killed_what_was_accepted_stands_in_the_api_once(plan: Plan) -> None:
    report = await run(plan)

    assert plan.kills == report.kills.total()
    assert report.visits > 5
    assert [] == report.breaches.all(), str(report)


# A server that lost the end of its file ------------------------------------------------------------------------------


class Torn:
    """A Redis that forgets what it was told since `mark`, and a rig around it."""

    def __init__(self, stack: ExitStack, sandbox: Server) -> None:
        self._folder, self._port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        self._start()
        stack.callback(lambda: stop(self._server))
        url = f"redis://127.0.0.1:{self._port}/0"
        self.rig, self.books = a_rig(url, sandbox, stack), Books(url)

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


def slow_calls(rig: Rig) -> int:
    return [call["trouble"] for call in rig.journal()].count("slow")


@pytest.fixture
def torn(sandbox: Server) -> Iterator[Torn]:
    with ExitStack() as stack:
        yield Torn(stack, sandbox)


def test_a_redis_that_forgot_who_holds_what_lets_nobody_double_it(torn: Torn) -> None:
    rig, books = torn.rig, torn.books
    rig.misbehave(slow_share=1, slow_s=3, only=["POST /visits"])
    books.land(*(booked(f"{number:02}", contact=Contact(id="cont_KYdl3lftgZXGRbxqoj")) for number in range(20)))
    torn.mark()
    for _ in range(2):
        rig.worker()
    wait_until(lambda: rig.calls().count("GET /visits/:id") == 20, 30)

    torn.tear()  # The leases are gone, and twenty visits are in the making.
    rig.behave()
    wait_until(lambda: slow_calls(rig) == 20)
    wait_until(books.is_done, 60)

    assert [f"standard-{number:02}" for number in range(20)] == all_visits(rig)
    assert 20 == rig.calls().count("POST /visits")


def test_a_redis_that_forgot_who_makes_a_customer_lets_nobody_make_him_twice(torn: Torn) -> None:
    rig, books = torn.rig, torn.books
    rig.misbehave(slow_share=1, slow_s=3, only=["POST /contacts"])
    books.land(*(booked(f"{number:02}") for number in range(4)))
    torn.mark()
    for _ in range(2):
        rig.worker()
    wait_until(lambda: rig.calls().count("GET /contacts") == 1, 30)

    torn.tear()
    rig.behave()
    wait_until(lambda: slow_calls(rig) == 1)
    wait_until(books.is_done, 60)

    assert [f"standard-{number:02}" for number in range(4)] == all_visits(rig)
    assert 1 == rig.calls().count("POST /contacts")
