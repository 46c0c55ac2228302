"""Selection of the tasks that ids or a filter match, for replays, discards and exports."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from app.ledger import keys
from app.ledger.ids import NO_TASK, TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import BodyUnavailable, DeliveryInfo, NotFound, Task
from app.operators.explain import Explain, stored_aliases
from app.operators.filter import RESULT_STATES, Filter
from app.operators.lists import Lists
from app.settings.model import Hook, Settings
from app.webhooks.delivery import Event, UnreadableBody
from app.webhooks.fetching import RecordRequest
from app.webhooks.registry import source_of_visit
from app.webhooks.translation import parse_event

#: The activity log links each step with at most this number of visits and deliveries.
MAX_AFFECTED = 100

Mode = Literal["retry", "retranslate", "reconcile"]


@dataclass(frozen=True, slots=True)
class SelectedTask:
    """A selected task.

    id: a delivery or visit, as operators see it. task_id: empty if the id is unknown. delivery: the delivery that
    selected the task; empty if another filter did.
    """

    id: str
    task_id: TaskId = NO_TASK
    delivery: str = ""


class TaskSelector:
    """Selects the tasks that a filter matches. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, mode: Mode, *, per_delivery: bool = False) -> None:
        """per_delivery: yield a visit once for each delivery that selects it."""
        self._ledger, self._settings, self._mode, self._per_delivery = ledger, settings, mode, per_delivery
        self._explain = Explain(ledger, settings)

    async def iter(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        """Yield each task once. Only digests of the yielded tasks are in memory."""
        if filter.is_by_id:
            ids = await Lists(self._ledger, self._settings, self._explain).resolve_ids(filter)
            if not ids:
                return
            filter = replace(filter, ids=tuple(ids), visit="", search="")
        yielded: set[int] = set()
        async for selected in self._iter_all(filter):
            digest = hash((selected.task_id or selected.id, selected.delivery if self._per_delivery else ""))
            if digest not in yielded:
                yielded.add(digest)
                yield selected

    async def iter_visits(self, filter: Filter) -> AsyncIterator[TaskId]:
        """Yield each id of the visits that match. A visit may be stored longer than its deliveries."""
        yielded: set[int] = set()
        async for selected in self.iter(filter):
            if selected.task_id.is_visit:
                yielded.add(hash(selected.task_id))
                yield selected.task_id
        if filter.state not in ("", "done") or not replace(filter, state="", source="").is_empty:
            return
        async for task_id in self._ledger.scan_visits():
            if hash(task_id) not in yielded and await self._visit_matches(task_id, filter):
                yield task_id

    async def _iter_all(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        if filter.ids:
            conditions = replace(filter, ids=())
            for id in filter.ids:
                async for selected in self._select_id(id, conditions):
                    yield selected
        elif lists := await self._state_lists(filter):
            for key in lists:
                async for name in self._ledger.scan_by_time(key):
                    task_id = TaskId(name)
                    if await self._task_matches(task_id, filter):
                        async for selected in self._select_task(task_id.display_id, task_id):
                            yield selected
        else:
            async for selected in self._select_deliveries(filter):
                yield selected

    async def _state_lists(self, filter: Filter) -> list[str]:
        """Return the keys of the lists that contain every match; empty if only a scan of the deliveries can find them."""
        accounts = await known_accounts(self._ledger.redis, self._settings.all_accounts)
        held = [f"{keys.HELD}{account}" for account in accounts]
        if filter.state in ("", "done", *RESULT_STATES):
            return [keys.PARKED, keys.WAITING, *held] if filter.reason and not filter.state else []
        return held if filter.state == "held" else [f"{keys.STATE}{filter.state}"]

    async def _select_id(self, id: str, conditions: Filter) -> AsyncIterator[SelectedTask]:
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            task_ids = await self._visit_task_ids(id)
            for task_id in task_ids:
                if conditions.is_empty or await self._visit_matches(task_id, conditions):
                    async for selected in self._select_task(id, task_id):
                        yield selected
            if not task_ids:
                yield SelectedTask(id)
        else:
            if conditions.is_empty or await self._delivery_matches(id, conditions):
                async for selected in self._select_delivery(id, meta):
                    yield selected

    async def _delivery_matches(self, id: str, conditions: Filter) -> bool:
        by_delivery = replace(conditions, state="", reason="")
        by_task = Filter(state=conditions.state, reason=conditions.reason)
        if not await self._any_delivery_matches([id], by_delivery):
            return False
        try:
            task_ids = [] if by_task.is_empty else await self._explain.task_ids(id)
        except NotFound:
            return False
        return by_task.is_empty or any([await self._task_matches(task_id, by_task) for task_id in task_ids])

    async def _visit_task_ids(self, external_id: str) -> list[TaskId]:
        with suppress(NotFound):
            return await self._explain.visit_task_ids(external_id)
        return []

    async def _visit_matches(self, task_id: TaskId, filter: Filter) -> bool:
        """As _task_matches, for any id of a visit: its state and reason are stored with the primary id."""
        aliases = await stored_aliases(self._ledger, task_id)
        return bool(aliases) and await self._task_matches(aliases[0].task_id, filter)

    async def _task_matches(self, task_id: TaskId, filter: Filter) -> bool:
        try:
            task = await self._ledger.load_task(task_id)
        except NotFound:
            return False
        if task.pending_since_ms:  # pending tasks are filtered by this time, not by the arrival of their deliveries
            if not filter.since_ms <= task.pending_since_ms <= filter.until_ms:
                return False
            filter = replace(filter, since="", until="")
        if task_id.is_visit and filter.source in ("", source_of_visit(task_id.external_id)):
            filter = replace(filter, source="")  # its deliveries may have expired
        origins = (*task.changes, *task.discarded_changes)
        deliveries = [task_id.delivery_id] if task_id.is_event else list(dict.fromkeys(map(delivery_of, origins)))
        return (
            (not filter.state or task.state == filter.state)
            and filter.reason in task.reason
            and await self._any_delivery_matches(deliveries, filter)
        )

    async def _any_delivery_matches(self, deliveries: Iterable[str], filter: Filter) -> bool:
        """Return whether a delivery matches source, hook and time of the filter."""
        if not (filter.source or filter.hook or filter.since or filter.until):
            return True
        for id in deliveries:
            with suppress(NotFound):
                meta = await self._ledger.load_delivery_info(id)
                is_in_period = filter.since_ms <= meta.received_at_ms <= filter.until_ms
                if is_in_period and filter.source in ("", meta.source) and filter.hook in ("", meta.hook):
                    return True
        return False

    async def _select_deliveries(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        since, until = filter.since_ms, filter.until_ms
        for hook in [filter.hook] if filter.hook else await self._ledger.hook_names(self._settings.hooks):
            async for id in self._ledger.scan_by_time(f"{keys.DELIVERIES}{hook}", since, until):
                try:
                    meta = await self._ledger.load_delivery_info(id)
                except NotFound:
                    continue
                if filter.source in ("", meta.source) and await self._has_result(id, filter):
                    async for selected in self._select_delivery(id, meta):
                        if await self._in_state(selected.task_id, filter):
                            yield replace(selected, id=selected.task_id.display_id)

    async def _has_result(self, id: str, filter: Filter) -> bool:
        return (
            filter.state not in RESULT_STATES
            or filter.state in (await self._explain.delivery_summary(id))["state"].split()
        )

    async def _in_state(self, task_id: TaskId, filter: Filter) -> bool:
        """Return whether the task matches state and reason of the filter."""
        if filter.state in ("", *RESULT_STATES) and not filter.reason:
            return True
        aliases = await stored_aliases(self._ledger, task_id)
        return any(
            filter.state in ("", *RESULT_STATES, primary.state) and filter.reason in primary.reason
            for primary in aliases[:1]
        )

    async def _select_task(self, id: str, task_id: TaskId) -> AsyncIterator[SelectedTask]:
        """Yield the task itself (retry), its deliveries (retranslate), or its newest delivery with a record (reconcile)."""
        if task_id.is_event or self._mode == "retry":
            yield SelectedTask(id, task_id)
            return
        aliases = await self._ledger.load_aliases(task_id)
        origins = [(change.number, origin) for task in aliases for origin, change in task.changes.items()]
        deliveries = list(dict.fromkeys(delivery_of(origin) for _, origin in sorted(origins, reverse=True)))
        if self._mode == "retranslate":
            for delivery in reversed(deliveries):
                yield SelectedTask(delivery, TaskId.event(delivery), delivery)
            return
        for delivery in deliveries:
            if await self._has_record_requests(delivery):
                yield SelectedTask(id, TaskId.event(delivery), delivery)
                return
        yield SelectedTask(id, task_id)

    async def _select_delivery(self, id: str, meta: DeliveryInfo) -> AsyncIterator[SelectedTask]:
        if self._mode != "retry":
            yield SelectedTask(id, TaskId.event(id), id)
            return
        for task_id in meta.task_ids:
            targets: list[TaskId] = []
            if task_id.is_event:
                try:
                    task = await self._ledger.load_task(task_id)
                except NotFound:
                    continue
                targets = task.targets
                if task.state == "done" and targets:
                    task_id = NO_TASK
            for target in filter(None, (task_id, *targets)):
                yield SelectedTask(id, target, id)

    async def _has_record_requests(self, delivery: str) -> bool:
        try:
            stored = await load_stored(self._ledger, self._settings, delivery)
        except NotFound:
            return False
        return bool(stored.record_requests)


def pending_deliveries(aliases: Sequence[Task]) -> set[str]:
    """Return the deliveries with changes of this visit that are not applied."""
    return {
        delivery_of(origin)
        for alias in aliases
        for origin, change in alias.changes.items()
        if change.number > alias.applied_count
    }


def affected_by(aliases: Sequence[Task], deliveries: Iterable[str]) -> tuple[TaskId, ...]:
    """Return what a step affects: the visit with these deliveries, or the event with its visits."""
    primary = aliases[0]
    affected = (primary.task_id, *primary.targets, *map(TaskId.event, sorted(deliveries, reverse=True)))
    return affected[:MAX_AFFECTED]


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A stored delivery with its event. event: None if it cannot be parsed; `problem` is the reason."""

    meta: DeliveryInfo
    hook: Hook | None
    event: Event | None = None
    problem: str = ""

    @property
    def record_requests(self) -> list[RecordRequest]:
        if self.hook is None or self.event is None or self.hook.source.fetch is None:
            return []
        try:
            return self.hook.source.fetch(self.event)
        except Exception:  # the translation fails on the same event, and reports why
            return []


async def load_stored(ledger: Ledger, settings: Settings, delivery: str) -> StoredDelivery:
    """Load a stored delivery and parse its event. Raises NotFound if the delivery expired."""
    try:
        meta, raw = await ledger.load_delivery(delivery)
    except BodyUnavailable as error:
        return StoredDelivery(error.info, None, problem=str(error))
    hook = settings.active_hooks.get(meta.hook)
    if hook is None:
        return StoredDelivery(meta, None, problem="its hook has no secret")
    try:
        return StoredDelivery(meta, hook, parse_event(hook.source, meta.to_delivery(raw), hook.settings.zone))
    except UnreadableBody as error:
        return StoredDelivery(meta, hook, problem=str(error))
