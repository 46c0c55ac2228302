"""The primary of a replicated Redis, found by Sentinels, and its failover."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from app.demo.valkey import valkey
from app.ledger import scripts
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.ledger.sentinel import NoPrimary, SentinelAddress, find_primary
from tests.support.harness import wait_until
from tests.support.sentinels import PRIMARY, Replicated, replicated


@pytest.fixture(scope="module")
def servers() -> Iterator[Replicated]:
    with replicated() as servers:
        yield servers


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+sentinel://h1,h2:5,[::1]/main/0", SentinelAddress((("h1", 26379), ("h2", 5), ("::1", 26379)), "main")),
        (
            "redis+sentinel://u:p@h1/main?sentinel_username=s&sentinel_password=%40",
            SentinelAddress((("h1", 26379),), "main", "s", "@"),
        ),
    ],
)  # fmt: skip
def test_an_address_names_the_sentinels_and_the_primary(url: str, address: SentinelAddress) -> None:
    assert address == SentinelAddress.parse(url)


def test_the_credentials_in_the_address_are_those_of_the_servers() -> None:
    address = RedisAddress("redis+sentinel://u:p%40w@h1,h2/main/3")

    assert [("AUTH", "u", "p@w"), ("SELECT", 3)] == address.handshake_commands()
    assert "p%40w" not in str(address)
    assert "p@w" not in str(address)


@pytest.mark.parametrize("url", ["redis+sentinel:///main/0", "redis+sentinel://h1,h2/"])
def test_an_incomplete_address_is_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="must name"):
        SentinelAddress.parse(url)


async def test_the_primary_is_found_while_one_sentinel_is_down(servers: Replicated) -> None:
    dead = ("127.0.0.1", 1)
    alive = [("127.0.0.1", port) for port in servers.sentinels[1:]]

    host, port = await find_primary(SentinelAddress((dead, *alive), PRIMARY))

    assert ("127.0.0.1", servers.primary) == (host, port)


async def test_without_sentinels_the_error_names_each(servers: Replicated) -> None:
    with pytest.raises(NoPrimary, match=r"127\.0\.0\.1:1 does not answer"):
        await find_primary(SentinelAddress((("127.0.0.1", 1),), PRIMARY))
    with pytest.raises(NoPrimary, match="No such master"):
        await find_primary(SentinelAddress((("127.0.0.1", servers.sentinels[0]),), "unknown"))


async def set_when_possible(redis: Redis) -> None:
    while True:
        with suppress(RedisUnavailable):
            await redis.command("SET", "after", "1")
            return
        await asyncio.sleep(0.1)


async def test_writes_continue_on_the_new_primary(servers: Replicated) -> None:
    redis = Redis(RedisAddress(servers.url), timeout_s=2)
    await redis.command("SET", "before", "1")
    assert 0 < await redis.command("WAIT", 1, 1_000)
    old = await asyncio.to_thread(servers.kill_primary)

    async with asyncio.timeout(20):
        await set_when_possible(redis)

    assert b"1" == await redis.command("GET", "before")
    assert servers.primary != old
    await redis.close()
    servers.start_server(old)


async def test_the_new_primary_is_found_before_the_failover_has_ended() -> None:
    """It ends when every replica follows the new primary, which may take minutes."""
    with replicated() as servers:
        redis = Redis(RedisAddress(servers.url), timeout_s=2)
        await redis.command("SET", "before", "1")
        promoted, stubborn = servers.servers[1:]
        servers.client(stubborn).config_set("replica-priority", 200)
        servers.client(stubborn).execute_command("ACL", "SETUSER", "default", "-replicaof", "-slaveof")
        wait_until(lambda: all(servers.priority(port, stubborn) == 200 for port in servers.sentinels))
        for port in servers.sentinels:
            servers.client(port).sentinel_set(PRIMARY, "failover-timeout", 60_000)

        await asyncio.to_thread(servers.kill_primary)
        async with asyncio.timeout(5):
            await set_when_possible(redis)
            for port in servers.sentinels:
                alone = SentinelAddress((("127.0.0.1", port),), PRIMARY)
                while await find_primary(alone) != ("127.0.0.1", promoted):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        await redis.close()


async def test_a_server_that_cannot_wait_for_replicas_accepts_nothing() -> None:
    """Without an append-only file, WAITAOF is an error: with ACK=replica that is no acknowledgement."""
    call = scripts.run_commands(arguments=(3, "SET", "stored", "1"))
    with valkey(appendonly=False) as url:
        redis = Redis(RedisAddress(url), timeout_s=2, acknowledge="replica")
        with pytest.raises(RedisUnavailable, match="cannot wait for a replica"):
            await redis.script(call, durable=True)
        await redis.close()


async def test_a_primary_that_was_demoted_is_left(servers: Replicated) -> None:
    """An operator fails over by hand: the old primary still answers, as a replica."""
    redis = Redis(RedisAddress(servers.url), timeout_s=2)
    await redis.command("SET", "before", "1")
    old = servers.primary
    await asyncio.to_thread(
        lambda: servers.client(servers.sentinels[0]).execute_command("SENTINEL", "FAILOVER", PRIMARY)
    )

    async with asyncio.timeout(20):
        await asyncio.to_thread(wait_until, lambda: servers.primary != old)
        await set_when_possible(redis)
    await redis.close()


async def test_ack_replica_waits_for_the_disk_of_a_replica() -> None:
    call = scripts.run_commands(arguments=(3, "SET", "stored", "1"))
    with replicated(replicas=1) as servers:
        redis = Redis(RedisAddress(servers.url), timeout_s=2, acknowledge="replica")
        await redis.script(call, durable=True)
        [replica] = servers.servers[1:]
        assert b"1" == servers.client(replica).get("stored")

        servers.processes[replica].kill()
        with pytest.raises(RedisUnavailable, match="no replica of Redis wrote to its disk in time"):
            await redis.script(call, durable=True)
        await redis.close()
