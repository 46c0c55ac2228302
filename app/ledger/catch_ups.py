"""The newest catch-up of each hook: the request, the progress, and the remaining requests, encrypted.

Each write names the catch-up that it expects: a newer one, and a hook that was disconnected, are left alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

import orjson

from app.ledger import keys, scripts
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
    missed_since_ms: since when webhooks were missed, if that is before since_ms; 0 otherwise.
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
    missed_since_ms: int = 0

    @property
    def slot(self) -> str:
        """Where it is stored: a plan beside the catch-up of its hook."""
        return slots_of(self.hook)[self.is_plan]

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

    async def replace(self, catch_up: CatchUp, expected: str) -> bool:
        """Store a new catch-up. expected: the id of the one that it replaces; empty for none. False: another is stored."""
        return await self._change(catch_up.slot, expected, self._fields(catch_up), is_open=True)

    async def save(self, catch_up: CatchUp, listed_up_to_ms: int = 0) -> bool:
        """Store the progress. Return False if the catch-up was replaced or removed.

        listed_up_to_ms: up to when Doorbell has now listed all changes of the hook, if that is later than before.
        """
        fields = self._fields(catch_up) | ({"listed_up_to": listed_up_to_ms} if listed_up_to_ms else {})
        return await self._change(catch_up.slot, catch_up.id, fields, is_open=catch_up.is_open)

    async def cancel(self, slot: str, id: str) -> None:
        await self._change(slot, id, {"cancelled": id}, is_open=True)

    async def remove(self, slot: str, id: str) -> None:
        """Remove a catch-up. id: empty to forget one that has expired."""
        await self._change(slot, id, {}, is_open=False)

    async def stored_id(self, slot: str) -> str:
        """Return the id of the newest catch-up, also if it cannot be decrypted; empty if there is none."""
        return (await self._redis.command("HGET", _key(slot), "id") or b"").decode()

    async def listed_up_to_ms(self, hook: str) -> int:
        """Return up to when all changes of the hook were listed; 0 if that is unknown."""
        return int(await self._redis.command("HGET", _key(hook), "listed_up_to") or 0)

    def _fields(self, catch_up: CatchUp) -> dict[str, Any]:
        encrypted = self._keyring.encrypt(orjson.dumps(asdict(catch_up)), _key(catch_up.slot))
        return {"id": catch_up.id, "state": encrypted}

    async def _change(self, slot: str, expected: str, fields: Mapping[str, Any], *, is_open: bool) -> bool:
        reply = await self._redis.script(
            scripts.change_catch_up(
                slot=slot, expected=expected, is_open=int(is_open), keep_s=RETENTION_S, fields=list(fields.items())
            )
        )
        return bool(reply)


async def remove_catch_ups(redis: Redis, hook: str) -> None:
    """Remove the catch-up and the plan of a hook."""
    slots = slots_of(hook)
    await redis.commands(*(("DEL", _key(slot)) for slot in slots), ("SREM", keys.OPEN_CATCH_UPS, *slots))


def slots_of(hook: str) -> tuple[str, str]:
    """Return where the catch-up of a hook is stored, and where its plan."""
    return hook, f"{hook}{PLAN}"


def _key(slot: str) -> str:
    return f"{keys.CATCH_UP}{slot}"
