"""Indexes that lead from digests to ids, for searches. lib/buckets.lua says how they are stored.

Every function may raise RedisUnavailable.
"""

import hashlib
from collections.abc import Iterable, Sequence

from app.ledger import keys, scripts
from app.ledger.batches import batched
from app.ledger.redis import Redis

#: The indexes: ids of deliveries, and `<account>/<external_id>` of visits.
REQUESTS, CONTACTS = "requests", "contacts"
#: Longer digests are cut. The first bytes are in the names of the lists, as hex digits.
DIGEST_BYTES, NAME_DIGITS = 12, 6
#: Entries that one script removes.
REMOVED_AT_ONCE = 100


async def add(redis: Redis, index: str, entries: Iterable[tuple[bytes, str]], keep_ms: int) -> None:
    """Add ids to digests. An id that a digest already has becomes its newest. Works on a full Redis too."""
    await redis.script(scripts.add_to_buckets(index=index, keep_ms=keep_ms, entries=map(_encode, entries)))


async def find(redis: Redis, index: str, digests: Sequence[bytes], limit: int) -> list[list[str]]:
    """Return at most `limit` ids of each digest, those that expire last first."""
    packed = [(_digits(digest), _tail(digest)) for digest in digests]
    reply = await redis.script(scripts.find_in_buckets(index=index, limit=limit, digests=packed))
    return [[id.decode() for id in ids] for ids in reply]


async def remove(redis: Redis, index: str, entries: Sequence[tuple[bytes, str]]) -> None:
    for some in batched(entries, REMOVED_AT_ONCE):
        await redis.script(scripts.remove_from_buckets(index=index, entries=map(_encode, some)))


def _encode(entry: tuple[bytes, str]) -> tuple[str, bytes]:
    digest, id = entry
    return _digits(digest), _tail(digest) + id.encode()


def digest_of(request_id: str) -> bytes:
    return hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).digest()


def id_of(entry: bytes) -> str:
    return entry[DIGEST_BYTES - 1 :].decode()


def index_and_period(key: str) -> tuple[str, str]:
    """Return the index and the period of a list."""
    index, period, _ = key.removeprefix(keys.INDEX).split(":")
    return index, period


def _digits(digest: bytes) -> str:
    return digest.hex()[:NAME_DIGITS]


def _tail(digest: bytes) -> bytes:
    return digest[1:DIGEST_BYTES]
