"""The steps of a move between cells that depend on the servers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.ledger.ledger import Ledger
from app.ledger.moves import MoveRefused, load_mark
from app.ledger.redis import Redis, RedisAddress
from app.operators.account_moves import Move
from app.operators.actions import Actions, Actor
from app.settings.environment import read_environment
from tests.support.harness import SECRET
from tests.support.ledger import accept, change, state_of, visit_task
from tests.support.sentinels import Replicated


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Replicated]:
    """Return a primary with a replica."""
    servers = Replicated(tmp_path, replicas=1, sentinels=0)
    yield servers
    servers.stop()


async def test_the_switch_waits_for_a_replica(ledger: Ledger, redis: Redis, servers: Replicated) -> None:
    primary, replica = servers.servers
    source = Ledger(Redis(RedisAddress(f"redis://127.0.0.1:{primary}")), 30)
    settings = read_environment(
        {"REDIS_URL": source.redis.address.url, "HOOKS__STANDARD__SECRETS": SECRET, "VISITS_API_TOKEN": "t"}
    )
    await accept(source, change("A"))
    move, steps = Move(source, ledger, settings, "main"), list[str]()
    actions = Actions(source, settings, Actor("ada", "operator"))

    servers.processes[replica].send_signal(signal.SIGSTOP)
    with pytest.raises(MoveRefused, match="does not confirm"):
        await move.execute(actions, steps.append)
    stopped = [(await load_mark(each.redis, "main")).phase for each in (source, ledger)]
    servers.processes[replica].send_signal(signal.SIGCONT)
    await move.execute(actions, steps.append)

    assert ["moved", "arriving"] == stopped
    assert ["moved", ""] == [(await load_mark(each.redis, "main")).phase for each in (source, ledger)]
    assert "queued" == await state_of(ledger, visit_task("A"))
    assert 1 == steps.count("start in the other cell")
    await source.redis.close()
