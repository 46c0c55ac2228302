"""Which work an operator means: by ids, or by a filter; and by mode, the visits themselves or the deliveries behind them."""

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from app.ledger.ids import NO_TASK, TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import BodyUnavailable, DeliveryInfo, NotFound
from app.operators.explain import Explain
from app.operators.filter import RESULT_STATES, Filter
from app.operators.lists import Lists
from app.settings.model import Hook, Settings
from app.webhooks.delivery import Event, UnreadableBody
from app.webhooks.fetching import RecordRequest
from app.webhooks.translation import parse_event

Mode = Literal["retry", "retranslate", "reconcile"]


@dataclass(frozen=True, slots=True)
class SelectedTask:
    """One thing that is selected. id: as an operator knows it. work: as the ledger does; empty: unknown. delivery: the one
    that led to it."""

    id: str
    task_id: TaskId = NO_TASK
    delivery: str = ""


class TaskSelector:
    """Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, mode: Mode, *, per_delivery: bool = False) -> None:
        """apart: what two deliveries did to one visit is two things."""
        self._ledger, self._settings, self._mode, self._per_delivery = ledger, settings, mode, per_delivery
        self._explain = Explain(ledger, settings)

    async def iter(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        """Each piece of work once, page by page: of what was seen only digests are kept."""
        if filter.visit or filter.search:
            ids = await Lists(self._ledger, self._settings, self._explain).resolve_ids(filter)
            if not ids:
                return
            filter = replace(filter, ids=tuple(ids), visit="", search="")
        known: set[int] = set()
        async for unit in self._iter_all(filter):
            digest = hash((unit.task_id or unit.id, unit.delivery if self._per_delivery else ""))
            if digest not in known:
                known.add(digest)
                yield unit

    async def _iter_all(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        if filter.ids:
            words = replace(filter, ids=())
            for id in filter.ids:
                async for unit in self._select_id(id, words):
                    yield unit
        elif sets := await self._state_sets(filter):
            for name in sets:
                async for work in self._ledger.scan_by_time(name):
                    async for unit in self._select_visits([TaskId(work)], filter):
                        yield unit
        else:
            async for unit in self._select_deliveries(filter):
                yield unit

    async def _state_sets(self, filter: Filter) -> list[str]:
        """Where all that can fit stands; none, where that is everywhere."""
        held = [f"held:{one}" for one in await known_accounts(self._ledger.redis, self._settings.all_accounts)]
        if filter.state in ("", "done", *RESULT_STATES):
            return ["parked", "waiting", *held] if filter.reason and not filter.state else []
        return held if filter.state == "held" else [filter.state]

    async def _select_id(self, id: str, words: Filter) -> AsyncIterator[SelectedTask]:
        try:
            meta = await self._ledger.load_delivery_info(id)
        except NotFound:
            works = await self._visit_task_ids(id)
            for work in works:
                # What is the matter stands at the first of its ids.
                if words.is_empty or await self._task_matches(
                    (await self._ledger.load_aliases(work))[0].task_id, words
                ):
                    async for unit in self._select_task(id, work):
                        yield unit
            if not works:
                yield SelectedTask(id)
        else:
            if words.is_empty or await self._delivery_matches(id, words):
                async for unit in self._select_delivery(id, meta):
                    yield unit

    async def _delivery_matches(self, id: str, words: Filter) -> bool:
        """By its own head, and by what it spoke of."""
        said, rest = replace(words, state="", reason=""), Filter(state=words.state, reason=words.reason)
        if not await self._any_delivery_matches([id], said):
            return False
        try:
            works = [] if rest.is_empty else await self._explain.task_ids(id)
        except NotFound:
            return False
        return rest.is_empty or any([await self._task_matches(work, rest) for work in works])

    async def _visit_task_ids(self, external_id: str) -> list[TaskId]:
        with suppress(NotFound):
            return await self._explain.visit_task_ids(external_id)
        return []

    async def _select_visits(self, works: Iterable[TaskId], filter: Filter) -> AsyncIterator[SelectedTask]:
        for work in works:
            if await self._task_matches(work, filter):
                async for unit in self._select_task(work.display_id, work):
                    yield unit

    async def _task_matches(self, work: TaskId, filter: Filter) -> bool:
        try:
            member = await self._ledger.load_task(work)
        except NotFound:
            return False
        if member.pending_since_ms:  # what is not over has a time of its own
            if not filter.since_ms <= member.pending_since_ms <= filter.until_ms:
                return False
            filter = replace(filter, since="", until="")
        said_by = [delivery_of(origin) for origin in (*member.changes, *member.discarded_changes)]
        deliveries = [work.delivery_id] if work.is_event else list(dict.fromkeys(said_by))
        return (
            (not filter.state or member.state == filter.state)
            and filter.reason in member.reason
            and await self._any_delivery_matches(deliveries, filter)
        )

    async def _any_delivery_matches(self, deliveries: Iterable[str], filter: Filter) -> bool:
        """Does one of them fit, where source, hook or time are asked for?"""
        if not (filter.source or filter.hook or filter.since or filter.until):
            return True
        for id in deliveries:
            with suppress(NotFound):
                meta = await self._ledger.load_delivery_info(id)
                is_then = filter.since_ms <= meta.received_at_ms <= filter.until_ms
                if is_then and filter.source in ("", meta.source) and filter.hook in ("", meta.hook):
                    return True
        return False

    async def _select_deliveries(self, filter: Filter) -> AsyncIterator[SelectedTask]:
        since, until = filter.since_ms, filter.until_ms
        for hook in [filter.hook] if filter.hook else await self._ledger.hook_names():
            async for id in self._ledger.scan_by_time(f"deliveries:{hook}", since, until):
                try:
                    meta = await self._ledger.load_delivery_info(id)
                except NotFound:
                    continue
                if filter.source in ("", meta.source) and await self._has_result(id, filter):
                    async for unit in self._select_delivery(id, meta):
                        if await self._in_state(unit.task_id, filter):
                            yield replace(unit, id=unit.task_id.display_id)

    async def _has_result(self, id: str, filter: Filter) -> bool:
        return (
            filter.state not in RESULT_STATES
            or filter.state in (await self._explain.delivery_summary(id))["state"].split()
        )

    async def _in_state(self, work: TaskId, filter: Filter) -> bool:
        """Does the state and the reason fit, where either is asked for?"""
        if filter.state in ("", *RESULT_STATES) and not filter.reason:
            return True
        try:
            member = await self._ledger.load_task(work)
        except NotFound:
            return False
        return filter.state in ("", *RESULT_STATES, member.state) and filter.reason in member.reason

    async def _select_task(self, id: str, work: TaskId) -> AsyncIterator[SelectedTask]:
        """By mode: the visit or event itself, or the deliveries behind it."""
        if work.is_event or self._mode == "retry":
            yield SelectedTask(id, work)
            return
        family = await self._ledger.load_aliases(work)
        said = [(change.number, origin) for one in family for origin, change in one.changes.items()]
        deliveries = list(dict.fromkeys(delivery_of(origin) for _, origin in sorted(said, reverse=True)))
        if self._mode == "retranslate":
            for delivery in reversed(deliveries):
                yield SelectedTask(delivery, TaskId.event(delivery), delivery)
            return
        for delivery in deliveries:
            if await self._has_record_requests(delivery):
                yield SelectedTask(id, TaskId.event(delivery), delivery)
                return
        yield SelectedTask(id, work)

    async def _select_delivery(self, id: str, meta: DeliveryInfo) -> AsyncIterator[SelectedTask]:
        if self._mode != "retry":
            yield SelectedTask(id, TaskId.event(id), id)
            return
        for work in meta.task_ids:
            landed: list[TaskId] = []
            if work.is_event:
                try:
                    member = await self._ledger.load_task(work)
                except NotFound:
                    continue
                landed = member.targets
                if member.state == "done" and landed:
                    work = NO_TASK
            for one in filter(None, (work, *landed)):
                yield SelectedTask(id, one, id)

    async def _has_record_requests(self, delivery: str) -> bool:
        try:
            kept = await load_stored(self._ledger, self._settings, delivery)
        except NotFound:
            return False
        return bool(kept.record_requests)


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery as it was kept. event: what is in it; None: nothing that can be read, for the reason `why`."""

    meta: DeliveryInfo
    hook: Hook | None
    event: Event | None = None
    problem: str = ""

    @property
    def record_requests(self) -> list[RecordRequest]:
        """The records that it points at, if it is a thin one."""
        if self.hook is None or self.event is None or self.hook.source.fetch is None:
            return []
        try:
            return self.hook.source.fetch(self.event)
        except Exception:  # what it is that today's code does not understand, translating it will tell
            return []


async def load_stored(ledger: Ledger, settings: Settings, delivery: str) -> StoredDelivery:
    """Raises NotFound."""
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
