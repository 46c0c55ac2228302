"""The activity log of operators: a Redis stream with the newest activities, and an index by visit and delivery."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.redaction import redact_query
from app.telemetry.counters import increment_now
from app.telemetry.metric_names import OPERATOR_ACTIONS

#: Failed logins within FAILED_LOGINS_WINDOW_S share one entry. These keys store their count and the id of the entry;
#: + colon and name: those of one user.
FAILED_LOGINS_KEY, FAILED_LOGINS_ENTRY_KEY, FAILED_LOGINS_WINDOW_S = (
    f"{keys.LOGIN_ATTEMPTS}:failed",
    f"{keys.LOGIN_ATTEMPTS}:line",
    900,
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What an operator did. operation: the replay or discard that it started or cancelled, else empty."""

    id: str
    at: str
    actor: str
    role: str
    action: str
    target: str
    operation: str = ""


class ActivityLog:
    """Writes and reads the activities. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._redis = ledger, ledger.redis

    async def record(
        self,
        actor: str,
        role: str,
        action: str,
        target: str = "",
        *,
        operation: str = "",
        affected: Iterable[TaskId] = (),
    ) -> str:
        """Store an activity and return its id.

        action: a verb in the past tense, also the label of a metric. target: an id or a filter, without personal data.
        affected: visits, and deliveries as tasks of their events. Those of an operation are added by its steps.
        """
        id = await self._ledger.record_activity(
            actor[:80], role, action, redact_query(target)[:300], operation=operation, affected=affected
        )
        await increment_now(self._redis, OPERATOR_ACTIONS, action.replace(" ", "_"))
        return id

    async def record_failed_login(self, user: str, address: str) -> None:
        """Replace the entry of the current window, so that failed logins cannot evict other entries.

        user: the name of a configured user, or an empty string.
        """
        suffix = f":{user}" if user else ""
        count_key, entry_key = FAILED_LOGINS_KEY + suffix, FAILED_LOGINS_ENTRY_KEY + suffix
        [count, _] = await self._redis.commands(
            ("INCR", count_key), ("EXPIRE", count_key, FAILED_LOGINS_WINDOW_S, "NX")
        )
        target = f"{count} wrong password{'' if count == 1 else 's'} within 15 minutes, last from {address}"
        entry = await self._ledger.record_activity(user or "unknown user", "", "failed to log in", target)
        [previous_entry] = await self._redis.commands(("SET", entry_key, entry, "EX", FAILED_LOGINS_WINDOW_S, "GET"))
        if previous_entry and count > 1:
            await self._redis.command("XDEL", keys.ACTIVITY, previous_entry)
        await increment_now(self._redis, OPERATOR_ACTIONS, "failed_to_log_in")

    async def newest(self, cursor: str = "", limit: int = 50) -> list[Activity]:
        """Return activities, newest first. cursor: the id of the last activity of the previous page."""
        start = f"({cursor}" if re.fullmatch(r"\d{1,15}-\d{1,15}", cursor) else "+"
        entries = await self._redis.command("XREVRANGE", keys.ACTIVITY, start, "-", "COUNT", limit)
        return [_decode(id.decode(), fields) for id, fields in entries]

    async def of_tasks(self, *task_ids: TaskId) -> list[Activity]:
        """Return the activities that affected these visits or deliveries, oldest first.

        task_ids: all ids of a visit; of a delivery, TaskId.event().
        """
        indexes = await asyncio.gather(
            *(self._redis.command("ZRANGE", f"{keys.ACTIVITIES}{task_id}", 0, -1) for task_id in task_ids)
        )
        ids = sorted({id.decode() for index in indexes for id in index}, key=_position)
        pages = await asyncio.gather(*(self._redis.command("XRANGE", keys.ACTIVITY, id, id) for id in ids))
        return [_decode(id.decode(), fields) for page in pages for id, fields in page]


def _position(id: str) -> tuple[int, ...]:
    return tuple(map(int, id.split("-")))


def _decode(id: str, fields: list[bytes]) -> Activity:
    values = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = iso_timestamp(_position(id)[0]) or ""
    names = ("actor", "role", "action", "target", "operation")
    return Activity(id, at, *(values.get(name, "") for name in names))
