"""Fixtures of the tests of the command line."""

from collections.abc import Iterator

import pytest

from app.demo.valkey import valkey
from tests.support.command_line import ADA
from tests.support.harness import Harness, Server, wait_until
from tests.support.ledger_client import LedgerClient


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[Harness]:
    """Start a web process, and a worker that waits 0.2 s for an e-mail address.

    They start again for each file: as many processes that idle until the end of the run would cost more.
    """
    with valkey() as url, Harness(url, sandbox) as harness:
        harness.env |= {"SECRET_KEY": "key-of-the-tests", "CONTACT_FOR_S": "0.2"}
        harness.start_web()
        harness.start_worker()
        yield harness


@pytest.fixture
def service(shared_service: Harness) -> Iterator[Harness]:
    """Yield an empty service; unfinished tasks of a test end before the next test."""
    shared_service.reset()
    yield shared_service
    wait_until(LedgerClient(shared_service.redis_url).is_done)


@pytest.fixture
def busy(service: Harness) -> Harness:
    """Return a service with one applied visit, and one that is parked without an e-mail address."""
    service.send("visit.created", "A-1", "2026-03-01T09:00:00Z", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    service.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    client = LedgerClient(service.redis_url)
    wait_until(lambda: len(client.tasks("parked")) == 1 and client.is_done())
    return service
