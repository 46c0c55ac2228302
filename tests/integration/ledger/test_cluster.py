"""One shard in cluster mode, which hosts sell as a plain Redis: its primary changes, and the client follows.

The Redis of all other tests is in cluster mode too, with one node.
"""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

import hiredis
import pytest

from app.demo.valkey import valkey
from app.ledger.ledger import Ledger, check_one_shard
from app.ledger.redis import Redis, RedisAddress, ServerUnusable
from jobs.arq_redis import redis_pool
from tests.integration.ledger.test_sentinel import set_when_possible
from tests.support.clusters import Cluster, cluster
from tests.support.ledger import accept, change
from tests.support.tcp_server import Handler, listening


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


# A proxy in front of several servers, as some hosts have


def proxy(ports: list[int]) -> Handler:
    """Return a handler that sends a command with a key to the server that has it, and all others to the first."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        servers = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
        commands = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                commands.feed(data)
                while command := commands.gets():
                    place = crc32(command[1]) % len(servers) if command[0] in (b"GET", b"DEL") else 0
                    writer.write(await forward(servers[place], command))
        finally:
            for _, connection in servers:
                connection.close()

    return handle


async def forward(server: tuple[asyncio.StreamReader, asyncio.StreamWriter], command: list[bytes]) -> bytes:
    server[1].write(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
    reply, parser = b"", hiredis.Reader()
    while parser.gets() is False:
        data = await server[0].read(65_536)
        parser.feed(data)
        reply += data
    return reply


async def test_several_processes_check_the_shards_at_once(redis: Redis) -> None:
    await asyncio.gather(*(check_one_shard(redis) for _ in range(5)))

    assert [] == await redis.command("KEYS", "bell:shard-probe:*")


async def test_a_database_that_is_emptied_during_the_check_is_one_shard(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = redis.pipeline

    async def flush_first(commands: Any) -> Any:
        monkeypatch.undo()
        await redis.command("FLUSHDB")
        return await pipeline(commands)

    monkeypatch.setattr(redis, "pipeline", flush_first)

    await check_one_shard(redis)


@pytest.mark.parametrize("shards", [1, 2])
async def test_several_shards_behind_one_address_are_refused(shards: int) -> None:
    with valkey(appendonly=False) as first, valkey(appendonly=False) as second:
        ports = [urlsplit(url).port or 0 for url in (first, second)][:shards]
        async with listening(proxy(ports)) as port:
            redis = Redis(RedisAddress(f"redis://127.0.0.1:{port}/0"))
            if shards == 1:
                await check_one_shard(redis)
            else:
                with pytest.raises(ServerUnusable, match="several shards behind one address"):
                    await check_one_shard(redis)
            await redis.close()
