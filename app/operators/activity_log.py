"""The activity log of operators: a Redis stream with the newest MAX_ENTRIES activities."""

import re
from dataclasses import dataclass

from app.ledger import keys
from app.ledger.redis import Redis
from app.ledger.times import iso_timestamp
from app.operators.redaction import redact_query
from app.telemetry.counters import increment_now
from app.telemetry.metric_names import OPERATOR_ACTIONS

KEY, MAX_ENTRIES = keys.ACTIVITY, 10_000
#: Failed logins within FAILED_LOGINS_WINDOW_S share one entry. These keys store their count and the id of the entry.
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
    """Writes and reads the activities. Every method may raise RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def record(self, actor: str, role: str, action: str, target: str = "") -> None:
        """Store an activity.

        action: a verb in the past tense, also the label of a metric. target: an id or a filter, without personal data.
        """
        fields = ("actor", actor[:80], "role", role, "action", action, "target", redact_query(target)[:300])
        await self._redis.commands(("XADD", KEY, "MAXLEN", "~", MAX_ENTRIES, "*", *fields))
        await increment_now(self._redis, OPERATOR_ACTIONS, action.replace(" ", "_"))

    async def record_failed_login(self, address: str) -> None:
        """Replace the entry of the current window, so that failed logins cannot evict other entries."""
        [count, _] = await self._redis.commands(
            ("INCR", FAILED_LOGINS_KEY), ("EXPIRE", FAILED_LOGINS_KEY, FAILED_LOGINS_WINDOW_S, "NX")
        )
        target = f"{count} wrong password{'' if count == 1 else 's'} within 15 minutes, last from {address}"
        fields = ("actor", "unknown user", "role", "", "action", "failed to log in", "target", target)
        [entry] = await self._redis.commands(("XADD", KEY, "MAXLEN", "~", MAX_ENTRIES, "*", *fields))
        [previous_entry] = await self._redis.commands(
            ("SET", FAILED_LOGINS_ENTRY_KEY, entry, "EX", FAILED_LOGINS_WINDOW_S, "GET")
        )
        if previous_entry and count > 1:
            await self._redis.command("XDEL", KEY, previous_entry)
        await increment_now(self._redis, OPERATOR_ACTIONS, "failed_to_log_in")

    async def newest(self, cursor: str = "", limit: int = 50) -> list[Activity]:
        """Return activities, newest first. cursor: the id of the last activity of the previous page."""
        start = f"({cursor}" if re.fullmatch(r"\d{1,15}-\d{1,15}", cursor) else "+"
        entries = await self._redis.command("XREVRANGE", KEY, start, "-", "COUNT", limit)
        return [_decode(id.decode(), fields) for id, fields in entries]


def _decode(id: str, fields: list[bytes]) -> Activity:
    values = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = iso_timestamp(int(id.partition("-")[0])) or ""
    return Activity(
        id, at, values.get("actor", ""), values.get("role", ""), values.get("action", ""), values.get("target", "")
    )
