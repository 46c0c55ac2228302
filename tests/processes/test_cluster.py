"""Web, worker and commands on one shard in cluster mode, while its primary changes."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.support.clusters import Cluster, cluster
from tests.support.harness import Harness, Server, wait_until


@pytest.fixture
def service(sandbox: Server) -> Iterator[tuple[Harness, Cluster]]:
    with ExitStack() as stack:
        servers = stack.enter_context(cluster(replicas=1))
        yield stack.enter_context(Harness(servers.url, sandbox)), servers


def deliver(harness: Harness, visit: str) -> None:
    """Send a delivery as a tool does: again, until it is accepted."""

    def send() -> httpx.Response:
        contact = {"email": f"{visit.lower()}@example.com"}
        return harness.send("visit.created", visit, time_scheduled="2026-03-14T16:00:00Z", contact=contact)

    wait_until(lambda: send().status_code in (200, 202), 20)
    wait_until(lambda: harness.visit(f"standard-{visit}"), 20)


def test_everything_works_in_cluster_mode_and_follows_the_primary(service: tuple[Harness, Cluster]) -> None:
    harness, servers = service
    harness.start_web()
    worker = harness.start_worker()
    deliver(harness, "A")

    servers.promote(servers.replica)
    deliver(harness, "B")
    servers.kill(servers.primary)
    servers.promote(servers.primaries[0], "TAKEOVER")
    deliver(harness, "C")

    assert 3 == harness.calls().count("POST /visits")
    for command in ("doctor", "audit", "replay standard-B --yes", "erase b@example.com --yes"):
        ended = harness.doorbell(*command.split())
        assert 0 == ended.returncode, (command, ended.stdout, ended.stderr)
    assert "b@example.com" not in harness.doorbell("visit", "standard-B", "--json").stdout
    assert worker.process.poll() is None
