"""Records rejections in memory and flushes them periodically, so that an attack causes no additional writes."""

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


#: Reasons of requests whose signature has the tool's format, valid or not: they usually come from it. Anyone can cause the
#: others, which have a separate list, so that they cannot evict requests of the tool from the list of the newest.
TOOL_REASONS = (
    "signature_mismatch",
    "signature_stale",
    "unreadable_body",
    "redis_down",
    "redis_full",
    "redis_read_only",
    "hook_moved",
    "internal_error",
)
#: Reasons with a separate list, because they can be frequent enough to evict all others from the hook's list.
SEPARATE_REASONS = ("foreign_tenant",)
UNSIGNED = "unsigned"


def _list_name(hook: str, reason: str) -> str:
    if reason in SEPARATE_REASONS:
        return f"{hook}:{reason}"
    return hook if reason in TOOL_REASONS or not hook else f"{hook}:{UNSIGNED}"


class Rejections:
    """Rejections that are not flushed yet: counts by hook and reason, and the newest of each hook with their details.

    The hook is empty for requests to an unknown hook.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._counts: Counter[str] = Counter()
        self._newest: dict[str, deque[bytes]] = {}

    def record(self, hook: str, reason: str, detail: str, tool: str = "") -> None:
        """Record a rejection.

        hook: a configured hook, else empty: unknown names would fill the memory. tool: the tool whose name was tried as one.
        """
        self._counts[f"{hook}:{reason}"] += 1
        newest = self._newest.setdefault(_list_name(hook, reason), deque(maxlen=MAX_NEWEST))
        note = {"at": int(time.time() * 1000), "reason": reason, "detail": detail[:200]}
        newest.append(orjson.dumps(note | ({"tool": tool} if tool else {})))

    async def flush(self) -> None:
        """Write the counts to the hash `bell:rejections`, and the newest rejections to the lists of their hooks.

        Entries that cannot be written stay for the next flush. If only the reply is lost, they are written twice.
        """
        try:
            for field in list(self._counts):
                await self._flush_count(field, self._counts.pop(field))
            for name in list(self._newest):
                await self._flush_newest(name, self._newest.pop(name))
        except (RedisUnavailable, hiredis.ReplyError) as error:
            log.warning("metrics_flush_failed", part="rejections", reason=type(error).__name__)

    async def _flush_count(self, field: str, count: int) -> None:
        try:
            await self.redis.commands(("HINCRBY", keys.REJECTIONS, field, count))
        except BaseException:
            self._counts[field] += count
            raise

    async def _flush_newest(self, name: str, newest: deque[bytes]) -> None:
        key = f"{keys.REJECTION_LIST}{name}"
        try:
            await self.redis.commands(
                ("LPUSH", key, *newest), ("LTRIM", key, 0, MAX_NEWEST - 1), ("EXPIRE", key, NEWEST_TTL_S)
            )
        except BaseException:
            self._newest[name] = deque([*newest, *self._newest.get(name, ())], MAX_NEWEST)
            raise

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            if self._counts or self._newest:
                await self.flush()


async def counts(redis: Redis) -> dict[tuple[str, str], int]:
    """Return the total by hook and reason. Raises RedisUnavailable."""
    flat = await redis.command("HGETALL", keys.REJECTIONS)
    by_name = zip(flat[::2], flat[1::2], strict=True)
    return {(name.partition(b":")[0].decode(), name.partition(b":")[2].decode()): int(count) for name, count in by_name}


async def newest(redis: Redis, hooks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the newest rejections of these hooks, newest first: at (ms), hook, reason, detail, and tool if there is one.

    Raises RedisUnavailable.
    """
    kinds = ("", *(f":{kind}" for kind in (*SEPARATE_REASONS, UNSIGNED)))
    names = [(hook, f"{hook}{kind}") for hook in hooks for kind in kinds]
    lists = await asyncio.gather(
        *(redis.command("LRANGE", f"{keys.REJECTION_LIST}{name}", 0, MAX_NEWEST - 1) for _, name in names)
    )
    rejections = [
        orjson.loads(stored) | {"hook": hook} for (hook, _), items in zip(names, lists, strict=True) for stored in items
    ]
    return sorted(rejections, key=lambda rejection: -rejection["at"])


def senders_first(notes: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` rejections, newest first, preferring requests that come from the tools."""
    of_tools = [note for note in notes if note["reason"] in TOOL_REASONS][:limit]
    others = [note for note in notes if note["reason"] not in TOOL_REASONS][: limit - len(of_tools)]
    return sorted([*of_tools, *others], key=lambda note: -note["at"])


async def mismatch_times(redis: Redis, hook: str, since_ms: float) -> list[float]:
    """Return the times (ms) of the newest rejections with a well-formed signature that no secret matches.

    Raises RedisUnavailable.
    """
    notes = map(orjson.loads, await redis.command("LRANGE", f"{keys.REJECTION_LIST}{hook}", 0, MAX_NEWEST - 1))
    return [note["at"] for note in notes if note["reason"] == "signature_mismatch" and note["at"] > since_ms]
