"""`single_flight` produces a value once for all processes that need it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.locks import LockContended, single_flight
from app.ledger.redis import Redis

VALUE, LOCK = "bell:record:test", "bell:record:test:lock"
Fly = Callable[..., Awaitable[str]]


@pytest.fixture
def fly(ledger: Ledger) -> Fly:
    """Return `single_flight` for a value that is stored in Redis."""

    def decode(value: bytes | None) -> str | None:
        return value.decode() if value else None

    async def call(produce: Callable[[], Awaitable[str]], **options: Any) -> str:
        options = {"ttl_s": 10, "wait_s": 5, "encode": str.encode, "keep_ms": 60_000} | options
        return await single_flight(ledger, VALUE, decode=decode, produce=produce, **options)

    return call


async def test_only_one_of_many_callers_produces_the_value(fly: Fly, redis: Redis) -> None:
    produced = []

    async def produce() -> str:
        produced.append(1)
        await asyncio.sleep(0.2)
        return "one"

    values = await asyncio.gather(*(fly(produce) for _ in range(20)))

    assert (["one"] * 20, 1) == (values, len(produced))
    assert None is await redis.command("GET", LOCK)
    assert b"one" == await redis.command("GET", VALUE)
    assert 50_000 < await redis.command("PTTL", VALUE) <= 60_000


async def test_a_value_that_was_stored_since_the_caller_looked_is_not_produced(fly: Fly, redis: Redis) -> None:
    async def produce() -> str:
        raise AssertionError

    await redis.command("SET", VALUE, "one")

    assert "one" == await fly(produce)
    assert None is await redis.command("GET", LOCK)


async def test_a_caller_waits_for_the_lock_at_most_wait_s(fly: Fly) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def produce() -> str:
        started.set()
        await release.wait()
        return "one"

    first = asyncio.create_task(fly(produce))
    await started.wait()
    with pytest.raises(LockContended):
        await fly(produce, wait_s=0.1)

    release.set()
    assert "one" == await first


@pytest.mark.parametrize("keeps_lock", [False, True])
async def test_an_error_releases_the_lock_unless_keeps_lock_says_otherwise(
    fly: Fly, redis: Redis, keeps_lock: bool
) -> None:
    async def produce() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fly(produce, keeps_lock=lambda error: keeps_lock and isinstance(error, ZeroDivisionError))

    assert keeps_lock == (await redis.command("GET", LOCK) is not None)


async def test_a_value_is_not_produced_under_a_lock_that_may_expire_first(fly: Fly, redis: Redis) -> None:
    produced = []

    async def produce() -> str:
        produced.append(1)
        return "one"

    with pytest.raises(LockContended):
        await fly(produce, ttl_s=1, produce_s=1)

    assert [] == produced
    assert None is await redis.command("GET", LOCK)
