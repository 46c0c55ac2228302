"""Every fault of the Visits API against whole workers with hundreds of visits: nothing twice, no storm, and afterwards all
of it as it was said."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.demo.valkey import valkey
from app.visits.change import Contact, VisitChange
from jobs.concurrency import MAX_ACTIVE
from jobs.contacts import LOCK_TTL_MS
from tests.crash.checker import duplicated_visits
from tests.processes.test_worker import LedgerClient
from tests.support.harness import Harness, Server, wait_until

MANY, PEOPLE, WORKERS = 200, 40, 2
START = datetime(2026, 3, 14, 9, tzinfo=UTC)


@dataclass
class Service:
    """Two workers, their Redis, and a sandbox that behaves."""

    harness: Harness
    books: LedgerClient

    def land(self, order: int = 1) -> None:
        """A booking of every visit, `order` hours after nine, and money to the amount of `order`."""
        self.books.accept(
            *(
                VisitChange(
                    action="create",
                    visit_id=f"{number:03}",
                    version=order,
                    contact=Contact(email=f"{number % PEOPLE}@example.com"),
                    time_scheduled=START + timedelta(hours=order),
                    amount_collected=Decimal(order),
                )
                for number in range(MANY)
            )
        )

    def rest(self, within_s: float = 60) -> None:
        """Everything is done. A gate that is shut for a long time is looked at now, and who may be in the making for half a
        minute is only for five seconds: no call here lasts that long."""

        def is_done() -> bool:
            if self.books.command("EXISTS", "bell:circuit:main"):
                self.books.command("HSET", "bell:circuit:main", "until", 0)
            for lock in self.books.command("KEYS", "bell:contact:*:lock"):
                if 0 < self.books.command("PTTL", lock) < LOCK_TTL_MS - 5_000:
                    self.books.command("DEL", lock)
            return bool(self.books.is_done())

        wait_until(is_done, within_s)

    def tries(self) -> int:
        """How many tries all visits have spent by now."""
        return sum(self.books.member(f"{number:03}").failed_attempts for number in range(0, MANY, 7))

    def assert_stands(self, order: int = 1) -> None:
        first = (
            self.harness.get_from_api("/visits?limit=100")["visits"]
            + self.harness.get_from_api("/visits?limit=100&page=2")["visits"]
        )
        stands = sorted((visit["external_id"], visit["event_date"], visit["amount_collected"]) for visit in first)
        when = (START + timedelta(hours=order)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert [(f"standard-{number:03}", when, f"{order}.00") for number in range(MANY)] == stands
        assert [] == duplicated_visits(self.harness.journal())
        contacts = [
            len(self.harness.get_from_api(f"/contacts?email={number}%40example.com")["data"])
            for number in range(PEOPLE)
        ]
        assert [1] * PEOPLE == contacts
        assert [] == self.books.tasks("parked")


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[Service]:
    with ExitStack() as stack:
        harness = stack.enter_context(Harness(stack.enter_context(valkey()), sandbox))
        for _ in range(WORKERS):
            harness.start_worker()
        yield Service(harness, LedgerClient(harness.redis_url))


@pytest.fixture
def service(shared_service: Service) -> Service:
    shared_service.harness.reset()
    return shared_service


def answers(harness: Harness, since: int = 0) -> Counter[Any]:
    """How often each answer was given to a worker, after so many calls."""
    return Counter(call["response"] for call in harness.journal()[since:])


# Trouble that meets some calls --------------------------------------------------------------------------------------

VISITS = ["GET /visits/:id", "POST /visits"]
SOME: dict[str, dict[str, Any]] = {
    "slow": {"slow_share": 1, "slow_s": 0.1},
    "5xx": {"error_share": 0.3, "error_status": 500, "times": 100},
    "resets": {"reset_share": 0.3, "times": 60, "only": VISITS},
    "half-answers": {"truncated_share": 0.3, "times": 60, "only": VISITS},
    "done-then-silence": {"commit_then_hang_share": 0.3, "hang_s": 0.2, "times": 60, "only": VISITS},
    "wrong-json": {"wrong_json_share": 0.3, "times": 60, "only": VISITS},
    "a-mixture": {
        "slow_share": 0.2,
        "slow_s": 0.2,
        "rate_limited_share": 0.02,
        "error_share": 0.1,
        "reset_share": 0.1,
        "truncated_share": 0.1,
        "commit_then_hang_share": 0.1,
        "hang_s": 0.2,
        "wrong_json_share": 0.1,
        "times": 150,
    },
}


@pytest.mark.parametrize("switches", SOME.values(), ids=SOME)
def test_through_trouble_with_some_calls_everything_stands_once(service: Service, switches: dict[str, Any]) -> None:
    service.harness.inject_faults(**switches)

    service.land()
    service.rest(120)

    spoilt = sum(call["fault"] is not None for call in service.harness.journal())
    calls = answers(service.harness).total()
    service.assert_stands()
    assert spoilt >= switches.get("times", MANY)
    # A visit costs two calls, a customer two; a call that went wrong costs its run once more, which has four at the most,
    # and where a customer may be in the making, a look now and then of everybody who waits for him.
    assert calls <= 2 * MANY + 4 * PEOPLE + 8 * switches.get("times", 0)


# Trouble for everybody ----------------------------------------------------------------------------------------------

ALL: dict[str, tuple[dict[str, Any], int | str]] = {
    "down": ({"down": True}, 503),
    "resets": ({"reset_share": 1}, "reset"),
    "refused-token": ({"unauthorized": True}, 401),
    "429": ({"rate_limited_share": 1, "retry_after_s": 30}, 429),
    "429-without-a-time": ({"rate_limited_share": 1, "retry_after_s": None}, 429),
}


@pytest.mark.parametrize(("switches", "answer"), ALL.values(), ids=ALL)
def test_while_nobody_gets_through_one_probe_asks_and_then_everything_drains(
    service: Service, switches: dict[str, Any], answer: int | str
) -> None:
    service.harness.inject_faults(**switches)
    service.land()
    landed_at = time.monotonic()
    wait_until(lambda: service.books.command("ZCARD", "bell:held:main") > MANY - 10)
    wait_until(lambda: not service.books.tasks("running"))
    met, met_at = len(service.harness.journal()), time.monotonic()

    time.sleep(3)
    probes = answers(service.harness, since=met)
    longest_s = time.monotonic() - met_at
    tries = service.tries()
    service.harness.clear_faults()
    service.rest()

    # Whoever was on the way when the first was answered, and where a kept connection was reset the transport asks once more;
    # from then on a probe at most every second, for so long the gate is shut each time (RETRY_CAP_S).
    calls = 2 if answer == "reset" else 1
    assert met <= calls * (WORKERS * MAX_ACTIVE["visits"] + (met_at - landed_at) + 1)
    assert probes.keys() <= {answer}
    assert probes.total() <= calls * (longest_s + 1)
    if answer in (401, 429):
        assert (0, 0) == (probes.total(), tries)
    service.assert_stands()


def test_a_visit_that_somebody_deleted_is_made_again_by_its_next_change(service: Service) -> None:
    service.land()
    service.rest()
    for number in range(0, MANY, 4):
        service.harness.http.delete(
            f"{service.harness.sandbox.url}/api/v1/visits/standard-{number:03}", headers={"authorization": "Bearer any"}
        ).raise_for_status()
    gone = len(service.harness.journal())

    service.land(2)
    service.rest()

    assert {200: MANY - MANY // 4, 404: MANY // 4, 201: MANY // 4} == answers(service.harness, since=gone)
    service.assert_stands(2)
