"""The activity log of operators: a Redis stream with the newest activities, and an index by visit and delivery."""

import math
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.times import iso_timestamp
from app.operators.filter import ActivityFilter
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


Action = Literal[
    "started replay",
    "started discard",
    "cancelled operation",
    "repaired visit",
    "revealed delivery",
    "revealed visit",
    "fetched remote visit",
    "exported deliveries",
    "exported visits",
    "erased person",
    "paused",
    "resumed",
    "started move",
    "cancelled move",
    "sent a test delivery",
    "kept a specimen",
    "acknowledged payload changes",
    "added hook",
    "changed hook",
    "rotated secret",
    "removed hook",
    "connected tool",
    "disconnected tool",
    "checked connection",
    "noticed connection state",
    "noticed lost visits",
    "repaired connection",
    "renewed connection",
    "started catch-up",
    "cancelled catch-up",
    "logged in",
    "failed to log in",
    "ended all sessions",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
#: Clearer words for people than the stored ones.
_TITLES = {
    "fetched remote visit": "looked up visit in Review Rover",
}
#: What an action does to a visit or a delivery.
_EFFECTS = {
    "started replay": "replayed",
    "started discard": "discarded changes",
    "repaired visit": "repaired after an audit",
    "revealed delivery": "revealed personal data",
    "revealed visit": "revealed personal data",
    "fetched remote visit": "looked it up in Review Rover",
    "erased person": "erased personal data",
    "kept a specimen": "kept as a specimen, without personal data",
}
#: The number of entries that are read at once, and from which `actors` takes the names.
BATCH_SIZE, ACTORS_FROM = 500, 1_000


def action_title(action: str) -> str:
    return _TITLES.get(action, action)


@dataclass(frozen=True, slots=True)
class Activity:
    """What an operator did.

    operation: the replay or discard that it started or cancelled, else empty. affected: the first few visits and deliveries,
    as task ids; those of an operation are in its results.
    """

    id: str
    at: str
    actor: str
    role: str
    action: str
    target: str
    operation: str = ""
    affected: tuple[TaskId, ...] = ()

    @property
    def effect(self) -> str:
        """What it did to the visits and deliveries that it affected."""
        return _EFFECTS.get(self.action, self.action)


@dataclass(frozen=True, slots=True)
class ActivityPage:
    """next_cursor: empty on the last page."""

    rows: list[Activity]
    next_cursor: str = ""


class ActivityLog:
    """Writes and reads the activities. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._redis = ledger, ledger.redis

    async def record(
        self,
        actor: str,
        role: str,
        action: Action,
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

    async def newest(
        self, filter: ActivityFilter, limit: int = 50, task_ids: Sequence[TaskId] | None = None
    ) -> ActivityPage:
        """Return activities, newest first. task_ids: those of `id` of the filter, see of_tasks()."""
        rows: list[Activity] = []
        async for activity in self._of_filter(filter) if task_ids is None else self._of_index(filter, task_ids):
            if len(rows) == limit:
                return ActivityPage(rows, rows[-1].id)
            rows.append(activity)
        return ActivityPage(rows)

    async def _of_filter(self, filter: ActivityFilter) -> AsyncIterator[Activity]:
        """Yield the activities that match, newest first. Only these are decoded."""
        end = f"({filter.cursor}" if _is_id(filter.cursor) else _bound(filter.until_ms, "+")
        start = f"({filter.after}" if _is_id(filter.after) else _bound(filter.since_ms, "-")
        while True:
            command = ("XREVRANGE", keys.ACTIVITY, end, start, "COUNT", BATCH_SIZE)
            entries = await self._redis.command(*command)
            for id, fields in entries:
                if _matches(filter, *_actor_and_action(fields)):
                    yield _decode(id.decode(), fields)
            if len(entries) < BATCH_SIZE:
                return
            end = f"({entries[-1][0].decode()}"

    async def _of_index(self, filter: ActivityFilter, task_ids: Sequence[TaskId]) -> AsyncIterator[Activity]:
        cursor = _position(filter.cursor) if _is_id(filter.cursor) else (math.inf,)
        after = _position(filter.after) if _is_id(filter.after) else (-math.inf,)
        for activity in reversed(await self.of_tasks(*task_ids)):
            position = _position(activity.id)
            is_in_period = after < position < cursor and filter.since_ms <= position[0] <= filter.until_ms
            if is_in_period and _matches(filter, activity.actor, activity.action):
                yield activity

    async def actors(self) -> list[str]:
        """Return the names in the newest activities."""
        entries = await self._redis.command("XREVRANGE", keys.ACTIVITY, "+", "-", "COUNT", ACTORS_FROM)
        return sorted({_actor_and_action(fields)[0] for _, fields in entries})

    async def of_tasks(self, *task_ids: TaskId) -> list[Activity]:
        """Return the activities that affected these visits or deliveries, oldest first.

        task_ids: all ids of a visit; of a delivery, TaskId.event().
        """
        indexes = await self._redis.pipeline([("ZRANGE", f"{keys.ACTIVITIES}{id}", 0, -1) for id in task_ids])
        ids = sorted({id.decode() for index in indexes for id in index}, key=_position)
        pages = await self._redis.pipeline([("XRANGE", keys.ACTIVITY, id, id) for id in ids])
        return [_decode(id.decode(), fields) for page in pages for id, fields in page]


def _matches(filter: ActivityFilter, actor: str, action: str) -> bool:
    return filter.actor.casefold() in actor.casefold() and any(
        filter.action.casefold() in text.casefold() for text in (action, action_title(action))
    )


def _actor_and_action(fields: list[bytes]) -> tuple[str, str]:
    return fields[1].decode(), fields[5].decode()  # scripts/record_activity.lua has their order


def _is_id(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,15}-\d{1,15}", text))


def _bound(time_ms: float, infinite: str) -> str:
    return f"{max(time_ms, 0):.0f}" if math.isfinite(time_ms) else infinite


def _position(id: str) -> tuple[float, ...]:
    return tuple(map(int, id.split("-")))


def _decode(id: str, fields: list[bytes]) -> Activity:
    values = {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
    at = iso_timestamp(_position(id)[0]) or ""
    affected = tuple(map(TaskId, values.pop("affected", "").split()))
    return Activity(id=id, at=at, affected=affected, **values)
