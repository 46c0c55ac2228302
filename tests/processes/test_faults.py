"""Every fault of the Visits API with hundreds of visits: no duplicates, few calls, and afterwards every visit is correct."""

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
from app.ledger.ledger import Ledger
from app.visits.change import Contact, VisitChange
from jobs.concurrency import MAX_ACTIVE
from jobs.contacts import LOCK_TTL_S
from tests.crash.checker import duplicated_visits
from tests.support.harness import Harness, Server, wait_until
from tests.support.ledger_client import LedgerClient, has_no_work

#: More visits than both workers process at once, so that an outage leaves a backlog.
VISIT_COUNT, PEOPLE, WORKERS = 200, 40, 2
#: Enough calls that every kind of call meets every fault.
FEWER_VISITS = 100
START = datetime(2026, 3, 14, 9, tzinfo=UTC)


@dataclass
class Service:
    """Two workers with their Redis and sandbox."""

    harness: Harness
    client: LedgerClient

    def accept_bookings(self, order: int = 1, count: int = VISIT_COUNT) -> None:
        """Accept a booking of `count` visits, `order` hours after START and with the amount `order`."""
        self.client.accept(
            *(
                VisitChange(
                    action="create",
                    visit_id=f"{number:03}",
                    version=order,
                    contact=Contact(email=f"{number % PEOPLE}@example.com"),
                    time_scheduled=START + timedelta(hours=order),
                    amount_collected=Decimal(order),
                )
                for number in range(count)
            )
        )

    def wait_until_done(self, within_s: float = 60) -> None:
        """Wait until all tasks are done.

        Meanwhile, circuits are probed at once, and locks of contacts last only 5 s, which is longer than any call here.
        """

        async def step(ledger: Ledger) -> bool:
            if await ledger.redis.command("EXISTS", "bell:circuit:main"):
                await ledger.redis.command("HSET", "bell:circuit:main", "until", 0, "limited_until", 0)
            for lock in await ledger.redis.command("KEYS", "bell:contact:*:lock"):
                if 0 < await ledger.redis.command("PTTL", lock) < (LOCK_TTL_S - 5) * 1_000:
                    await ledger.redis.command("DEL", lock)
            return await has_no_work(ledger)

        wait_until(lambda: self.client.run(step), within_s)

    def failed_attempts(self) -> int:
        """Return the failed attempts of every seventh visit."""

        async def step(ledger: Ledger) -> int:
            numbers = range(0, VISIT_COUNT, 7)
            visits = [await ledger.load_task(f"visit:main/standard-{number:03}") for number in numbers]
            return sum(visit.failed_attempts for visit in visits)

        return int(self.client.run(step))

    def assert_all_applied(self, order: int = 1, count: int = VISIT_COUNT) -> None:
        visits = (
            self.harness.get_from_api("/visits?limit=100")["visits"]
            + self.harness.get_from_api("/visits?limit=100&page=2")["visits"]
        )
        actual = sorted((visit["external_id"], visit["event_date"], visit["amount_collected"]) for visit in visits)
        start = (START + timedelta(hours=order)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert [(f"standard-{number:03}", start, f"{order}.00") for number in range(count)] == actual
        assert [] == duplicated_visits(self.harness.journal())
        contacts = [
            len(self.harness.get_from_api(f"/contacts?email={number}%40example.com")["data"])
            for number in range(PEOPLE)
        ]
        assert [1] * PEOPLE == contacts
        assert [] == self.client.tasks("parked")


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


def count_responses(harness: Harness, since: int = 0) -> Counter[Any]:
    """Count the responses of the calls after the first `since` ones."""
    return Counter(call["response"] for call in harness.journal()[since:])


# Faults of some calls

VISITS = ["GET /visits/:id", "POST /visits"]
PARTIAL_FAULTS: dict[str, dict[str, Any]] = {
    "slow": {"slow_share": 1, "slow_s": 0.1},
    "5xx": {"error_share": 0.3, "error_status": 500, "times": 60},
    "resets": {"reset_share": 0.3, "times": 60, "only": VISITS},
    "truncated-responses": {"truncated_share": 0.3, "times": 60, "only": VISITS},
    "commit-then-hang": {"commit_then_hang_share": 0.3, "hang_s": 0.2, "times": 60, "only": VISITS},
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


@pytest.mark.parametrize("faults", PARTIAL_FAULTS.values(), ids=PARTIAL_FAULTS)
def test_every_visit_is_created_once_despite_faults_of_some_calls(service: Service, faults: dict[str, Any]) -> None:
    service.harness.inject_faults(**faults)

    service.accept_bookings(count=FEWER_VISITS)
    service.wait_until_done(120)

    faulty = sum(call["fault"] is not None for call in service.harness.journal())
    calls = count_responses(service.harness).total()
    service.assert_all_applied(count=FEWER_VISITS)
    assert faulty >= faults.get("times", FEWER_VISITS)
    # A visit takes two calls, a contact two. A failed call repeats its run, which has four calls at most. While the API may
    # still create a contact, every run that waits for the contact looks it up again.
    assert calls <= 2 * FEWER_VISITS + 4 * PEOPLE + 8 * faults.get("times", 0)


# Faults of all calls

TOTAL_FAULTS: dict[str, tuple[dict[str, Any], int | str]] = {
    "down": ({"down": True}, 503),
    "resets": ({"reset_share": 1}, "reset"),
    "rejected-token": ({"unauthorized": True}, 401),
    "429": ({"rate_limited_share": 1, "retry_after_s": 30}, 429),
    "429-without-retry-after": ({"rate_limited_share": 1, "retry_after_s": None}, 429),
}


@pytest.mark.parametrize(("faults", "response"), TOTAL_FAULTS.values(), ids=TOTAL_FAULTS)
def test_an_outage_is_probed_by_one_visit_and_then_the_backlog_drains(
    service: Service, faults: dict[str, Any], response: int | str
) -> None:
    service.harness.inject_faults(**faults)
    service.accept_bookings()
    accepted_at = time.monotonic()
    wait_until(lambda: service.client.command("ZCARD", "bell:state:held:main") > VISIT_COUNT - 10)
    wait_until(lambda: not service.client.tasks("running"))
    first_calls, opened_at = len(service.harness.journal()), time.monotonic()

    time.sleep(3)
    probes = count_responses(service.harness, since=first_calls)
    probed_s = time.monotonic() - opened_at
    failed_attempts = service.failed_attempts()
    service.harness.clear_faults()
    service.wait_until_done(120)  # the pause after a 429 without Retry-After alone lasts half a minute

    # First come the calls that were in progress when the circuit opened, and those that had failed before: the circuit opens
    # after some of the last twenty. Then comes at most one probe per second (RETRY_CAP_S).
    # The transport repeats a call whose reused connection was reset.
    calls = 2 if response == "reset" else 1
    assert first_calls <= calls * (20 + WORKERS * MAX_ACTIVE["visits"] + (opened_at - accepted_at) + 1)
    assert probes.keys() <= {response}
    assert probes.total() <= calls * (probed_s + 1)
    if response in (401, 429):
        assert (0, 0) == (probes.total(), failed_attempts)
    service.assert_all_applied()


def test_a_deleted_visit_is_recreated_by_its_next_change(service: Service) -> None:
    service.accept_bookings()
    service.wait_until_done()
    for number in range(0, VISIT_COUNT, 4):
        service.harness.http.delete(
            f"{service.harness.sandbox.url}/api/v1/visits/standard-{number:03}", headers={"authorization": "Bearer any"}
        ).raise_for_status()
    deleted = VISIT_COUNT // 4
    calls_before = len(service.harness.journal())

    service.accept_bookings(2)
    service.wait_until_done()

    responses = count_responses(service.harness, since=calls_before)
    assert {200: VISIT_COUNT - deleted, 404: deleted, 201: deleted} == responses
    service.assert_all_applied(2)
