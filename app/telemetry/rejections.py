"""Who was not let in: counted in memory and flushed now and then, so that an attack costs no write of its own."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import hiredis
import orjson

from app.ledger import keys
from app.ledger.redis import Redis, RedisUnavailable
from app.telemetry.logs import log

FLUSH_EVERY_S = 5.0
MAX_NEWEST = 50
#: The newest rejections of a hook expire this long after the last one; the counts stay.
NEWEST_TTL_S = 30 * 86_400


#: What carried a signature of the right shape, or one that holds, is the tool's own as a rule. All else may be anybody's:
#: it has a list of its own, so that strangers push none of the tool's requests out of the newest.
SIGNED_REASONS = (
    "signature_mismatch",
    "signature_stale",
    "unreadable_body",
    "redis_down",
    "redis_full",
    "redis_read_only",
)
#: Reasons with a list of their own, because they can be frequent enough to push all others out of the hook's list.
SEPARATE_REASONS = ("foreign_tenant",)
UNSIGNED = "unsigned"


def _list_name(hook: str, reason: str) -> str:
    if reason in SEPARATE_REASONS:
        return f"{hook}:{reason}"
    return hook if reason in SIGNED_REASONS or not hook else f"{hook}:{UNSIGNED}"


class Rejections:
    """Counts by hook and reason, and the newest few of each hook with their sentence. `hook` is empty for unknown ones."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counts: Counter[str] = Counter()
        self._newest: dict[str, deque[bytes]] = {}

    def record(self, hook: str, reason: str, detail: str) -> None:
        """hook: a configured one, or empty: names from outside would fill the memory."""
        self._counts[f"{hook}:{reason}"] += 1
        newest = self._newest.setdefault(_list_name(hook, reason), deque(maxlen=MAX_NEWEST))
        newest.append(orjson.dumps({"at": int(time.time() * 1000), "reason": reason, "detail": detail[:200]}))

    async def flush(self) -> None:
        """Counts into the hash `bell:rejections`, the newest into one short list per hook. What cannot be written stays."""
        try:
            for field in list(self._counts):
                await self._flush_count(field, self._counts.pop(field))
            for name in list(self._newest):
                key = f"{keys.REJECTION_LIST}{name}"
                await self._redis.commands(
                    ("LPUSH", key, *self._newest.pop(name)),
                    ("LTRIM", key, 0, MAX_NEWEST - 1),
                    ("EXPIRE", key, NEWEST_TTL_S),
                )
        except (RedisUnavailable, hiredis.ReplyError) as error:
            log.warning("metrics_flush_failed", part="rejections", reason=type(error).__name__)

    async def _flush_count(self, field: str, count: int) -> None:
        try:
            await self._redis.commands(("HINCRBY", keys.REJECTIONS, field, count))
        except BaseException:
            self._counts[field] += count
            raise

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            if self._counts:
                await self.flush()


async def counts(redis: Redis) -> dict[tuple[str, str], int]:
    """How often since ever, by hook and reason. Raises RedisUnavailable."""
    flat = await redis.command("HGETALL", keys.REJECTIONS)
    by_name = zip(flat[::2], flat[1::2], strict=True)
    return {(name.partition(b":")[0].decode(), name.partition(b":")[2].decode()): int(count) for name, count in by_name}


async def newest(redis: Redis, hooks: Sequence[str]) -> list[dict[str, Any]]:
    """The newest refusals of these hooks, newest first: at (ms), hook, reason and detail. Raises
    RedisUnavailable."""
    kinds = ("", *(f":{kind}" for kind in (*SEPARATE_REASONS, UNSIGNED)))
    names = [(hook, f"{hook}{kind}") for hook in hooks for kind in kinds]
    lists = await asyncio.gather(
        *(redis.command("LRANGE", f"{keys.REJECTION_LIST}{name}", 0, MAX_NEWEST - 1) for _, name in names)
    )
    notes = [
        orjson.loads(note) | {"hook": hook} for (hook, _), found in zip(names, lists, strict=True) for note in found
    ]
    return sorted(notes, key=lambda note: -note["at"])


def senders_first(notes: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """So many of them, newest first: those of the tools before those that may be anybody's."""
    signed = [note for note in notes if note["reason"] in SIGNED_REASONS][:limit]
    others = [note for note in notes if note["reason"] not in SIGNED_REASONS][: limit - len(signed)]
    return sorted([*signed, *others], key=lambda note: -note["at"])


async def mismatch_times(redis: Redis, hook: str, since_ms: float) -> list[float]:
    """When requests came since then (ms) whose signature had the right shape and fitted no secret; of the newest refusals.
    Raises RedisUnavailable."""
    notes = map(orjson.loads, await redis.command("LRANGE", f"{keys.REJECTION_LIST}{hook}", 0, MAX_NEWEST - 1))
    return [note["at"] for note in notes if note["reason"] == "signature_mismatch" and note["at"] > since_ms]
