"""Indexes in buckets: what a digest leads to, in which order, for how long, and how many keys that takes."""

import hashlib
import time
from typing import Any

import pytest

from app.ledger import buckets
from app.ledger.redis import Redis

DAY_MS = 86_400_000


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


async def add(redis: Redis, *entries: tuple[str, str], keep_ms: int = 30 * DAY_MS) -> None:
    await buckets.add(redis, buckets.REQUESTS, [(digest(text), id) for text, id in entries], keep_ms)


async def find(redis: Redis, *texts: str, limit: int = 1_000) -> list[list[str]]:
    return await buckets.find(redis, buckets.REQUESTS, [digest(text) for text in texts], limit)


async def lengths(redis: Redis) -> dict[str, int]:
    names = await redis.command("KEYS", "bell:index:*")
    return {name.decode().rpartition(":")[2]: await redis.command("LLEN", name) for name in names}


async def test_a_digest_leads_to_its_ids_the_newest_first(redis: Redis) -> None:
    await add(redis, ("ada", "d1"), ("grace", "d2"), ("ada", "d3"))
    await add(redis, ("ada", "d1"))

    assert [["d1", "d3"], ["d2"], []] == await find(redis, "ada", "grace", "alan")
    assert [["d1"]] == await find(redis, "ada", limit=1)


async def test_all_entries_are_found_however_many_there_are(redis: Redis) -> None:
    """A full list is continued by lists with one digit more."""
    digests = [b"\xa3" + digest(str(number))[:11] for number in range(2_000)]
    for start in range(0, len(digests), 500):
        batch = [(each, f"d{start + number}") for number, each in enumerate(digests[start : start + 500])]
        await buckets.add(redis, buckets.REQUESTS, batch, DAY_MS)

    for number in (0, 199, 200, 1_000, 1_999):
        assert [[f"d{number}"]] == await buckets.find(redis, buckets.REQUESTS, [digests[number]], 10)
    stored = await lengths(redis)
    assert 2_000 == sum(stored.values())
    assert 200 == stored["a3"] == max(stored.values())
    assert {2, 3} == set(map(len, stored))


async def test_a_digest_with_many_ids_fills_no_list_of_others_and_drops_its_oldest(redis: Redis) -> None:
    for start in range(0, 2_000, 500):
        await add(redis, *(("ada", f"d{number}") for number in range(start, start + 500)))

    [ids] = await find(redis, "ada", limit=200)

    assert [f"d{number}" for number in range(1_999, 1_799, -1)] == ids
    assert dict.fromkeys(range(2, 7), 200) == {len(name): size for name, size in (await lengths(redis)).items()}


async def test_an_id_that_is_added_again_becomes_the_newest_in_a_full_list_too(redis: Redis) -> None:
    await add(redis, *(("ada", f"d{number}") for number in range(450)))

    await add(redis, ("ada", "d7"))

    [ids] = await find(redis, "ada")
    assert ["d7", "d449", "d448"] == ids[:3]
    assert 450 == len(set(ids)) == len(ids)


@pytest.mark.parametrize("keep_days", [9, 30, 762])
async def test_an_entry_is_stored_for_at_most_ten_days_more(redis: Redis, keep_days: int) -> None:
    await add(redis, ("ada", "d1"), keep_ms=keep_days * DAY_MS)

    [name] = await redis.command("KEYS", "bell:index:*")
    rest_ms = await redis.command("PEXPIRETIME", name) - time.time() * 1000
    assert keep_days * DAY_MS - 5_000 < rest_ms <= (keep_days + 10) * DAY_MS
    assert [["d1"]] == await find(redis, "ada")


async def test_entries_that_expire_last_are_first(redis: Redis) -> None:
    for days in (30, 400, 60):
        await add(redis, ("ada", f"d{days}"), keep_ms=days * DAY_MS)

    assert [["d400", "d60", "d30"]] == await find(redis, "ada")


async def test_the_periods_of_expired_lists_are_removed(redis: Redis) -> None:
    await redis.command("SADD", "bell:index-periods:requests", 1_000)

    await add(redis, ("ada", "d1"))

    [period] = await redis.command("SMEMBERS", "bell:index-periods:requests")
    assert 1_000 < int(period)


async def test_any_bytes_are_digests(redis: Redis) -> None:
    digests: list[Any] = [bytes([byte]) * 12 for byte in (0, 10, 13, 32, 0xFF)]

    await buckets.add(redis, buckets.REQUESTS, [(each, f"d{each[0]}") for each in digests], DAY_MS)

    assert [["d0"], ["d10"], ["d13"], ["d32"], ["d255"]] == await buckets.find(redis, buckets.REQUESTS, digests, 9)
