"""A server in cluster mode with all slots, which some hosts sell as a plain Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis as redis_py

from app.demo.valkey import binary, free_port
from app.ledger.ledger import Ledger
from app.ledger.moves import AccountCopy, AccountData, Mark, Scope, moving_hooks, save_mark
from app.ledger.records import CircuitSignal, Outcome
from app.ledger.redis import Redis, RedisAddress
from tests.support.harness import wait_until
from tests.support.ledger import accept, attempt, change, complete_run, done, parked, start_run, visit_task


@pytest.fixture
def cluster_url(tmp_path: Path) -> Iterator[str]:
    port, bus_port = free_port(), free_port()
    options = {"port": port, "cluster-port": bus_port, "dir": tmp_path, "save": "", "cluster-enabled": "yes"}
    server = subprocess.Popen(
        [binary(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    )
    client = redis_py.Redis(port=port)

    def has_all_slots() -> bool:
        with suppress(redis_py.ConnectionError):
            return bool(client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383))
        return False

    try:
        wait_until(has_all_slots)
        wait_until(lambda: "ok" in str(client.execute_command("CLUSTER", "INFO")).partition("cluster_slots")[0])
        yield f"redis://127.0.0.1:{port}"
    finally:
        client.close()
        server.kill()
        server.wait()


async def test_the_scripts_run_in_cluster_mode(cluster_url: str) -> None:
    redis = Redis(RedisAddress(cluster_url))
    ledger = Ledger(redis, 30)
    down = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=0))
    event = await accept(ledger, event_state="queued")
    await accept(ledger, change("B", previous_visit_id="A"))
    await accept(ledger, change("C"), key="evt")
    await accept(ledger, change("C"), key="evt")

    claimed = await ledger.claim({"visits": 5, "events": 5, "replays": 5}, 35)
    await ledger.complete(await start_run(ledger, "A", "main"), done(), "main")
    await ledger.complete(await start_run(ledger, "C", "main"), down, "main")
    released = await ledger.release_held("main")
    await ledger.complete(await start_run(ledger, "C", "main"), parked())
    await ledger.discard(visit_task("C"))
    lease = await ledger.lease(f"event:{event.delivery_id}")
    assert not isinstance(lease, str)
    await ledger.record_changes(lease, "standard", "main", [change("D")], attempt())
    await ledger.retranslate(event.delivery_id, queue="replays")
    await ledger.replay(visit_task("A"), recheck=True)
    await complete_run(ledger, "A")
    await ledger.pause("main")
    await ledger.requeue_due()

    assert (3, 1) == (len(claimed), released)
    assert [visit_task("C")] == await ledger.task_ids("discarded")
    assert {visit_task("D"), f"event:{event.delivery_id}"} == set(await ledger.task_ids("queued"))
    await redis.close()


async def test_an_account_moves_to_and_from_a_server_in_cluster_mode(ledger: Ledger, cluster_url: str) -> None:
    redis = Redis(RedisAddress(cluster_url))
    other, scope = Ledger(redis, 30), Scope("main", ("standard",))
    await accept(ledger, change("B", previous_visit_id="A"))
    await accept(ledger, event_state="queued")

    for source, target in ((ledger, other), (other, ledger)):
        data = AccountData(source, scope)
        await save_mark(source.redis, "main", scope.hooks, Mark(), Mark("copying", "move-1"))
        copy = AccountCopy(data, target)
        await copy.copy_all(lambda _: None)
        await copy.copy_changes()
        await copy.list_tasks()
        await data.remove(lambda _: None)
        await save_mark(source.redis, "main", scope.hooks, Mark("copying"), Mark())

        assert set() == await moving_hooks(source.redis, ["standard", "other"])
        assert 2 == await target.redis.command("ZCARD", "bell:deliveries:standard")
        assert [] == await source.redis.command("KEYS", "bell:visit:*")
    assert 2 == len(await ledger.task_ids("queued"))
    await redis.close()
