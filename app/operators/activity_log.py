"""Who did what at the desk: a stream in Redis, the newest ten thousand lines of it."""

import re
from dataclasses import dataclass

from app.ledger import keys
from app.ledger.redis import Redis
from app.ledger.times import iso_timestamp
from app.operators.redaction import redact_query
from app.telemetry.counters import increment_now
from app.telemetry.metric_names import OPERATOR_ACTIONS

KEY, MAX_ENTRIES = keys.ACTIVITY, 10_000
#: Failed log-ins of one period share a line: their count, and the id of that line.
FAILED_LOGINS_KEY, FAILED_LOGINS_ENTRY_KEY, FAILED_LOGINS_WINDOW_S = (
    f"{keys.LOGIN_ATTEMPTS}:failed",
    f"{keys.LOGIN_ATTEMPTS}:line",
    900,
)


@dataclass(frozen=True, slots=True)
class Activity:
    id: str
    at: str
    actor: str
    role: str
    action: str
    target: str


class ActivityLog:
    """Raises RedisUnavailable: what cannot be written down is not done."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def record(self, actor: str, role: str, action: str, target: str = "") -> None:
        """did: a verb. what: an id or a filter; never anything personal. action: what it is counted as, one of few."""
        told = ("actor", actor[:80], "role", role, "action", action, "target", redact_query(target)[:300])
        await self._redis.commands(("XADD", KEY, "MAXLEN", "~", MAX_ENTRIES, "*", *told))
        await increment_now(self._redis, OPERATOR_ACTIONS, action.replace(" ", "_"))

    async def record_failed_login(self, address: str) -> None:
        """Replace the line of this quarter of an hour, so that failed log-ins cannot push other lines out."""
        [count, _] = await self._redis.commands(
            ("INCR", FAILED_LOGINS_KEY), ("EXPIRE", FAILED_LOGINS_KEY, FAILED_LOGINS_WINDOW_S, "NX")
        )
        tried = f"{count} wrong password{'' if count == 1 else 's'} in a quarter of an hour, the last from {address}"
        told = ("actor", "somebody", "role", "", "action", "failed to log in", "target", tried)
        [line] = await self._redis.commands(("XADD", KEY, "MAXLEN", "~", MAX_ENTRIES, "*", *told))
        [before] = await self._redis.commands(
            ("SET", FAILED_LOGINS_ENTRY_KEY, line, "EX", FAILED_LOGINS_WINDOW_S, "GET")
        )
        if before and count > 1:
            await self._redis.command("XDEL", KEY, before)
        await increment_now(self._redis, OPERATOR_ACTIONS, "failed_to_log_in")

    async def newest(self, cursor: str = "", limit: int = 50) -> list[Activity]:
        """Newest first. before: the id of the last line that was seen."""
        start = f"({cursor}" if re.fullmatch(r"\d{1,15}-\d{1,15}", cursor) else "+"
        flat = await self._redis.command("XREVRANGE", KEY, start, "-", "COUNT", limit)
        return [_decode(id.decode(), fields) for id, fields in flat]


def _decode(id: str, fields: list[bytes]) -> Activity:
    told = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = iso_timestamp(int(id.partition("-")[0])) or ""
    return Activity(id, at, told.get("actor", ""), told.get("role", ""), told.get("action", ""), told.get("target", ""))
