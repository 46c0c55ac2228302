"""One shard in cluster mode, which hosts sell as a plain Redis: its primary changes, and the client follows.

The Redis of all other tests is in cluster mode too, with one node.
"""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress, ServerUnusable
from jobs.arq_redis import redis_pool
from tests.integration.ledger.test_sentinel import set_when_possible
from tests.support.clusters import Cluster, cluster
from tests.support.ledger import accept, change


@pytest.fixture(scope="module")
def servers() -> Iterator[Cluster]:
    with cluster(replicas=1) as servers:
        yield servers


async def promote(servers: Cluster) -> None:
    await asyncio.to_thread(servers.promote, servers.replica)


async def test_the_address_of_a_replica_leads_to_the_primary(servers: Cluster) -> None:
    redis = Redis(RedisAddress(f"redis://127.0.0.1:{servers.replica}"))

    assert b"OK" == await redis.command("SET", "key", "1")
    assert ("127.0.0.1", servers.primary) == await redis.endpoint()
    await redis.close()


async def test_commands_and_scripts_follow_a_promoted_replica(servers: Cluster) -> None:
    redis = Redis(RedisAddress(servers.url))
    ledger = Ledger(redis, 30)
    await accept(ledger, change("A"))
    for _ in range(2):  # there and back
        await promote(servers)
        await set_when_possible(redis)
        assert ("127.0.0.1", servers.primary) == await redis.endpoint()
    await accept(ledger, change("B"))

    assert 2 == len(await ledger.task_ids("queued"))
    await redis.close()


async def test_arq_follows_a_promoted_replica(servers: Cluster) -> None:
    redis = Redis(RedisAddress(servers.url))
    pool = redis_pool(redis)
    await pool.psetex("health", 30_000, "1")
    await promote(servers)
    await set_when_possible(redis)

    await pool.psetex("health", 30_000, "2")

    assert b"2" == await redis.command("GET", "health")
    await pool.aclose(close_connection_pool=True)  # type: ignore[attr-defined]
    await redis.close()


async def test_the_primary_is_found_although_the_node_of_the_address_is_dead(servers: Cluster) -> None:
    dead = servers.primary
    redis = Redis(RedisAddress(servers.url))
    await redis.command("SET", "before", "1")
    servers.kill(dead)
    waiting = threading.Timer(0.5, servers.promote, (servers.replica, "TAKEOVER"))
    waiting.start()

    async with asyncio.timeout(10):
        await set_when_possible(redis)

    assert b"1" == await redis.command("GET", "before")
    waiting.join()
    servers.start(dead)
    await redis.close()


async def test_another_database_than_0_is_refused_with_a_sentence(servers: Cluster) -> None:
    redis = Redis(RedisAddress(f"redis://127.0.0.1:{servers.primary}/3"))

    with pytest.raises(ServerUnusable, match=r"has no database 3 .* so end REDIS_URL with /0"):
        await redis.command("PING")
    await redis.close()
