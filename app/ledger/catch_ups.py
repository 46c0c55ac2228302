"""The newest catch-up of each hook: the request, the progress, and the remaining requests, encrypted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

import orjson

from app.ledger import keys
from app.ledger.encryption import Keyring, TamperedValue, UnknownKey
from app.ledger.redis import Redis

CatchUpStatus = Literal["queued", "running", "done", "cancelled", "failed"]
#: The outcome of a listed appointment. changed: its changes were stored. unchanged: Doorbell had them. past: it is over, and
#: Doorbell has no visit of it: creating one could ask a customer about the past. unclear: it cannot be translated.
CatchUpResult = Literal["changed", "unchanged", "past", "unclear"]
RESULTS: tuple[CatchUpResult, ...] = get_args(CatchUpResult)
RETENTION_S = 30 * 86_400
#: Ends the slot of a plan. No name of a hook has a colon.
PLAN = ":plan"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """A catch-up. Times are in ms since 1970.

    since_ms: the earliest start of an appointment without a visit that is stored. until_ms: the latest start.
    changed_since_ms: for tools that list what changed. cause: why it was started: an operator, `connected`, `repaired` or
    `daily`. remaining: the requests that are still to be sent, in JSON. problem: why it failed, or waits.
    wait_ms: the wait before the next attempt.
    is_plan: everything is listed, and nothing stored. new_past: visits of the past that would be created or changed.
    """

    id: str
    hook: str
    since_ms: int
    until_ms: int
    changed_since_ms: int
    requested_by: str
    requested_at_ms: int
    cause: str = ""
    status: CatchUpStatus = "queued"
    remaining: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""
    ended_at_ms: int = 0
    next_attempt_ms: int = 0
    wait_ms: int = 0
    failed_attempts: int = 0
    is_plan: bool = False
    new_past: int = 0

    @property
    def slot(self) -> str:
        """Where it is stored: a plan beside the catch-up of its hook."""
        return f"{self.hook}{PLAN}" if self.is_plan else self.hook

    @property
    def is_open(self) -> bool:
        return self.status in ("queued", "running")

    def is_due(self, now_ms: float) -> bool:
        """Whether its wait is over. A longer wait than was set means that the server's clock went back."""
        return not 0 < self.next_attempt_ms - now_ms <= self.wait_ms

    @property
    def listed(self) -> int:
        return sum(self.counts.values())


class CatchUps:
    """Reads and writes them. Methods may raise RedisUnavailable."""

    def __init__(self, redis: Redis, secret_keys: Sequence[str]) -> None:
        """secret_keys: they encrypt what remains, because it may contain parts of records."""
        self._redis, self._keyring = redis, Keyring(secret_keys, "doorbell.catch-up")

    async def open_slots(self) -> list[str]:
        return sorted(hook.decode() for hook in await self._redis.command("SMEMBERS", keys.OPEN_CATCH_UPS))

    async def get(self, slot: str) -> CatchUp | None:
        """Return the newest catch-up of a hook, or its newest plan, and whether an operator asked to cancel it."""
        encrypted, cancelled = await self._redis.command("HMGET", _key(slot), "state", "cancelled")
        if not encrypted:
            return None
        try:
            stored = orjson.loads(self._keyring.decrypt(encrypted, _key(slot)))
        except (UnknownKey, TamperedValue):
            return None
        known = {each.name: stored[each.name] for each in fields(CatchUp) if each.name in stored}
        catch_up = CatchUp(**known)
        if catch_up.is_open and cancelled and cancelled.decode() == catch_up.id:
            return replace(catch_up, status="cancelled", remaining=())
        return catch_up

    async def save(self, catch_up: CatchUp) -> None:
        key = _key(catch_up.slot)
        encrypted = self._keyring.encrypt(orjson.dumps(asdict(catch_up)), key)
        change = "SADD" if catch_up.is_open else "SREM"
        await self._redis.commands(
            ("HSET", key, "state", encrypted),
            ("EXPIRE", key, RETENTION_S),
            (change, keys.OPEN_CATCH_UPS, catch_up.slot),
        )

    async def cancel(self, slot: str, id: str) -> None:
        await self._redis.command("HSET", _key(slot), "cancelled", id)

    async def remove(self, slot: str) -> None:
        await self._redis.commands(("DEL", _key(slot)), ("SREM", keys.OPEN_CATCH_UPS, slot))


def _key(slot: str) -> str:
    return f"{keys.CATCH_UP}{slot}"
