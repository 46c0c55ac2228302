"""Replays: which work, what each piece of it would do, and doing it. A plan and a replay walk the same way, so that the one
tells what the other does.

    retry       the same facts again; what has nothing left to send is skipped
    retranslate a delivery is translated by today's code; its changes take the place of what it had said. What a thin event
                points at is fetched again: it was not stored, and its current state is closer to the truth
    reconcile   the tool is asked for the truth, through the newest event that can be fetched; it lands as a fact of now

None of them can harm: facts keep the tool's own order, so what newer ones decided stays decided.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace

from app.ledger import keys
from app.ledger.ids import NO_TASK, TaskId, delivery_of, new_origin
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NotFound, Task
from app.operators.explain import merge_visit, run_off_loop
from app.operators.filter import Filter
from app.operators.selection import Mode, SelectedTask, TaskSelector, load_stored
from app.settings.model import Hook, Settings
from app.visits.change import Contact, VisitChange, encode_change
from app.visits.merge import (
    CONTACT_KEY,
    DesiredVisit,
    Facts,
    RecordedChange,
    changed_fields,
    deciding_origins,
    desired_visit,
    merge_changes,
)
from app.webhooks.translation import Translation, translate_event

#: So many are put back at once; the next ones when most of these have been taken, so that live work is never behind more.
BATCH_SIZE = 100
#: No worker took a task of the batch for this long: none is alive, or all are busy.
STALL_TIMEOUT_S = 120.0


class NoWorkerProgress(Exception):
    """What was put back is not taken by any worker."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that would be made. fields: what would be sent; of a contact, only that it is another one."""

    call: str
    visit: str = ""
    fields: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTask:
    """What a replay means to one visit or delivery.

    work: as the ledger has it. reason: what it failed for. skip: why nothing is done: `applied`, `superseded`, `unchanged`,
    `discarded`, `expired`, `queued`, `running`, `unknown`, or a sentence.
    """

    id: str
    task_id: TaskId = NO_TASK
    state: str = "done"
    reason: str = ""
    skip_reason: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(slots=True)
class PlanSummary:
    """Of many steps only the counts are kept, and the first few."""

    max_samples: int = 20
    total: int = 0
    actionable: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    by_call: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    samples: list[PlannedTask] = field(default_factory=list)

    def add(self, planned: PlannedTask) -> None:
        self.total += 1
        if planned.skip_reason:
            self.skipped[planned.skip_reason] += 1
            return
        self.actionable += 1
        self.by_reason[planned.reason or planned.state] += 1
        self.by_call.update(call.call for call in planned.calls)
        if len(self.samples) < self.max_samples:
            self.samples.append(planned)


class Replay:
    """Every method may raise RedisUnavailable."""

    def __init__(
        self, ledger: Ledger, settings: Settings, mode: Mode = "retry", *, recheck: bool = False, contact: str = ""
    ) -> None:
        """recheck: read the visits from the API first. contact: the contact that an operator assigns to them."""
        self._ledger, self._settings, self._mode = ledger, settings, mode
        self._recheck, self._contact = recheck, contact

    async def plan(self, filter: Filter) -> AsyncIterator[PlannedTask]:
        """A step for everything that is selected, one after the other; nothing is done. A visit with several ids is one."""
        known: set[int] = set()
        async for unit in TaskSelector(self._ledger, self._settings, self._mode).iter(filter):
            step = await self._plan_task(unit)
            if filter.ids or hash(step.task_id) not in known:
                known.add(hash(step.task_id))
                yield step

    async def execute(self, filter: Filter, on_step: Callable[[PlannedTask, str], None]) -> PlanSummary:
        """Do what the plan says, some at a time, and tell of each what it is now. Can be broken off and begun again.
        Raises Stuck."""
        tally, batch = PlanSummary(max_samples=0), list[str]()
        async for step in self.plan(filter):
            if not step.skip_reason:
                if len(batch) >= BATCH_SIZE:
                    await self._wait_for_workers(batch)
                    batch.clear()
                state = await self.replay_one(step)
                batch.append(step.task_id)
            else:
                state = step.skip_reason
            tally.add(step)
            on_step(step, state)
        return tally

    async def replay_one(self, step: PlannedTask) -> str:
        """Put one back to work: `queued`, `running`, or `expired` where it went meanwhile."""
        try:
            if self._mode == "retranslate":
                return await self._ledger.retranslate(step.task_id.delivery_id, queue="replays")
            if self._contact and not step.task_id.is_event:
                await self._assign_contact(step.task_id)
            return await self._ledger.replay(step.task_id, self._recheck, queue="replays")
        except NotFound:
            return "expired"

    async def _assign_contact(self, work: TaskId) -> None:
        """Once is enough: named again, it says the same."""
        family = await self._ledger.load_aliases(work)
        if desired_visit(await run_off_loop(family, merge_visit, family)).contact.id != self._contact:
            await self._ledger.assign_contact(work, _contact_assignment(self._contact))

    async def _wait_for_workers(self, batch: list[str]) -> None:
        left, until = len(batch), time.monotonic() + STALL_TIMEOUT_S
        while (now := await self._ledger.count_queued(batch)) > len(batch) / 2:
            if now < left:
                left, until = now, time.monotonic() + STALL_TIMEOUT_S
            if time.monotonic() > until:
                raise NoWorkerProgress
            await asyncio.sleep(0.1)

    # -- what one step would do --

    async def _plan_task(self, unit: SelectedTask) -> PlannedTask:
        if not unit.task_id:
            return PlannedTask(id=unit.id, skip_reason="unknown")
        step = PlannedTask(id=unit.id, task_id=unit.task_id)
        try:
            if unit.task_id.is_event:
                return await self._plan_event(await self._with_state(step))
            if self._mode == "reconcile":
                return replace(step, skip_reason="record_not_fetchable")
            return await self._plan_visit(step, unit.delivery)
        except NotFound:
            return replace(step, skip_reason="expired")

    async def _with_state(self, step: PlannedTask) -> PlannedTask:
        """With the state of its work; where the door translated it, there is none."""
        try:
            member = await self._ledger.load_task(step.task_id)
        except NotFound:
            return step
        return replace(step, state=member.state, reason=member.reason)

    async def _plan_event(self, step: PlannedTask) -> PlannedTask:
        kept = await load_stored(self._ledger, self._settings, step.task_id.display_id)
        if step.state in ("queued", "running", "discarded"):
            return replace(step, skip_reason=step.state)
        if self._mode == "retry" and step.state == "done":
            return replace(step, skip_reason="applied")
        if kept.hook is None or kept.event is None:
            return replace(step, skip_reason=kept.problem)
        if gets := kept.record_requests:
            return replace(step, calls=tuple(Call(get.label, get.path) for get in gets))
        if self._mode == "reconcile":
            return replace(step, skip_reason="record_not_fetchable")
        # What came after it may be forgotten already, and would be undone.
        if time.time() - kept.meta.received_at_ms / 1000 > self._settings.retention_days * 86_400:
            return replace(step, skip_reason="expired")
        translation = translate_event(kept.hook.source, kept.event, kept.hook.settings.tenants)
        if translation.state == "parked" and not translation.changes:
            return replace(step, skip_reason=translation.reason)
        return await self._plan_retranslation(step, kept.meta, kept.hook, translation)

    async def _plan_visit(self, step: PlannedTask, delivery: str) -> PlannedTask:
        family = await self._ledger.load_aliases(step.task_id)
        root = next((member for member in family if member.state != "done"), family[0])
        step = replace(step, task_id=family[0].task_id, state=root.state, reason=root.reason)
        if root.state == "discarded" or (root.state in ("queued", "running") and not self._recheck):
            return replace(step, skip_reason=root.state)
        more = (
            [RecordedChange.decode("operator", encode_change(_contact_assignment(self._contact)))]
            if self._contact
            else []
        )
        facts = await run_off_loop(family, merge_visit, family, *more)
        calls = await self._calls(family, facts if more or any(member.changes for member in family) else None)
        if root.state == "done" and not calls:
            decides = {delivery_of(origin) for origin in deciding_origins(facts)}
            return replace(step, skip_reason="superseded" if delivery and delivery not in decides else "applied")
        return replace(step, calls=calls)

    async def _calls(self, family: list[Task], facts: Facts | None) -> tuple[Call, ...]:
        """What a worker would do now, as far as it can be known without asking. facts: None where no change is left."""
        root, *later = family
        calls = [
            Call("DELETE /visits/:id", member.external_id) for member in later if member.remote or member.was_attempted
        ]
        if facts is not None:
            call = await self._visit_call(root, desired_visit(facts))
        else:
            call = Call("DELETE /visits/:id", root.external_id) if root.remote or root.was_attempted else None
        return (*calls, *filter(None, [call]))

    async def _visit_call(self, root: Task, want: DesiredVisit) -> Call | None:
        name, whole = root.external_id, {name: value for name, value in want.fields.items() if value is not None}
        if self._recheck:
            return Call("GET /visits/:id, then what differs", name, want.fields)
        if root.remote is None and (want.is_cancelled or want.is_empty):
            return Call("GET /visits/:id: it is not to be made", name) if root.state != "done" else None
        if root.remote is None and not want.has_date:
            return Call("wait: time_unknown", name)
        if root.remote is None:
            known = want.contact.cache_key(self._settings.contact_hash_key(root.account)) and not want.contact.is_erased
            return Call("POST /visits", name, whole) if known else Call("wait: contact_unknown", name)
        if contact := await self._contact_call(root, want):
            return Call(contact, name, whole)
        changed = changed_fields(root.remote, want)
        return Call("PUT /visits/:id", name, changed) if changed else None

    async def _contact_call(self, root: Task, want: DesiredVisit) -> str:
        """The calls, where the facts name somebody else than when the visit was made; empty where they do not."""
        assert root.remote is not None
        name = want.contact.cache_key(self._settings.contact_hash_key(root.account))
        if name is None or want.is_cancelled or name == root.remote.get(CONTACT_KEY):
            return ""
        found = await self._ledger.redis.command("GET", f"{keys.CONTACT}{root.account}:{name}")
        known = want.contact.id or (found and found.decode())
        if known is None:
            return "GET /contacts, then what differs"
        return "" if known == root.remote.get("contact_id") else "DELETE and POST /visits: another contact"

    async def _plan_retranslation(
        self, step: PlannedTask, meta: DeliveryInfo, hook: Hook, translation: Translation
    ) -> PlannedTask:
        """What the ledger has of a delivery beside what today's code says."""
        delivery = step.task_id.display_id
        families = {
            work: family for work in await self._affected_task_ids(meta) if (family := await self._visit_or_empty(work))
        }
        before, discarded, forgotten = dict[str, tuple[TaskId, bytes]](), set[str](), False
        for work, family in families.items():
            [member] = [one for one in family if one.task_id == work]
            for origin, change in {**member.changes, **member.discarded_changes}.items():
                if delivery_of(origin) == delivery:
                    before[origin] = work, change.body
            discarded |= before.keys() & member.discarded_changes.keys()
            forgotten = forgotten or bool(member.compacted_count)
        now = {
            new_origin(delivery, number): (_task_id_of(hook, meta, change), encode_change(change))
            for number, change in enumerate(translation.changes)
        }
        if now == before and (step.state == "done" or translation.reason):
            return replace(step, skip_reason=translation.reason or "unchanged")
        if before and before.keys() == discarded:
            return replace(step, skip_reason="discarded")
        if forgotten and not before:
            return replace(step, skip_reason="superseded")
        calls: list[Call] = []
        for work in dict.fromkeys([*families, *(work for work, _ in now.values())]):
            calls += await self._calls_after(delivery, work, families, now)
        return replace(step, calls=tuple(calls or [Call("translate: nothing to send")]))

    async def _calls_after(
        self,
        delivery: str,
        work: TaskId,
        families: Mapping[TaskId, list[Task]],
        now: Mapping[str, tuple[TaskId, bytes]],
    ) -> tuple[Call, ...]:
        """What would be called for one visit if the delivery had said that."""
        family = families.get(work) or await self._visit_or_empty(work)
        if not family:
            said = [RecordedChange.decode(origin, change) for origin, (at, change) in now.items() if at == work]
            want = desired_visit(merge_changes(said))
            return (
                (Call("POST /visits", work.display_id, want.fields),) if want.has_date and not want.is_cancelled else ()
            )
        said = [one for member in family for one in member.recorded_changes() if delivery_of(one.origin) != delivery]
        for member in family:
            said += [
                RecordedChange.decode(o, change, member.alias_depth)
                for o, (at, change) in now.items()
                if at == member.task_id
            ]
        return await self._calls(family, await run_off_loop(family, merge_changes, said) if said else None)

    async def _affected_task_ids(self, meta: DeliveryInfo) -> list[TaskId]:
        works: list[TaskId] = []
        for work in meta.task_ids:
            try:
                works += (await self._ledger.load_task(work)).targets if work.is_event else [work]
            except NotFound:
                continue
        return works

    async def _visit_or_empty(self, work: TaskId) -> list[Task]:
        try:
            return await self._ledger.load_aliases(work)
        except NotFound:
            return []


def _contact_assignment(contact: str) -> VisitChange:
    """An operator's word counts from now on."""
    return VisitChange(action="update", visit_id="", version=time.time_ns() // 1000, contact=Contact(id=contact))


def _task_id_of(hook: Hook, meta: DeliveryInfo, change: VisitChange) -> TaskId:
    return TaskId.visit(hook.account, change.external_id(meta.source))
