"""Replays: plan what each selected task would do, and requeue it. A replay executes its own plan.

    retry       runs the task again with the stored changes; skips a task that has nothing to send
    retranslate translates the stored delivery with the current code and replaces its changes. The record that a thin event
                refers to is fetched again: it was not stored, and its current state is more accurate
    reconcile   fetches the record of the newest event that has one; its fields are changes with the current time

All modes are safe: changes merge by the tool's own times, so an old change never overrides a newer one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace

from app.ledger import keys
from app.ledger.ids import NO_TASK, TaskId, delivery_of, new_origin
from app.ledger.ledger import Ledger
from app.ledger.reasons import find_reason, is_rejection
from app.ledger.records import NO_CAUSE, Cause, DeliveryInfo, NotFound, Task
from app.operators.contacts import assignment, has_contact, parse_contact
from app.operators.explain import merge_visit, run_off_loop, stored_aliases
from app.operators.filter import Filter
from app.operators.lists import FailureGroup
from app.operators.selection import (
    MAX_AFFECTED,
    Mode,
    SelectedTask,
    TaskSelector,
    affected_by,
    load_stored,
    pending_deliveries,
)
from app.settings.model import Hook, Settings
from app.visits.change import Contact, VisitChange, encode_change
from app.visits.merge import (
    CONTACT_KEY,
    DesiredVisit,
    Facts,
    RecordedChange,
    changed_fields,
    count_people,
    deciding_origins,
    desired_visit,
    is_foreign,
    merge_changes,
)
from app.webhooks.translation import Translation, translate_event

#: The next batch of tasks is requeued when workers took half of this one, so new deliveries wait for one batch at most.
BATCH_SIZE = 100
STALL_TIMEOUT_S = 120.0
NO_CONTACTS: Mapping[str, str] = {}
#: Begins the name of a call that is not made, because a fact is missing.
WAIT = "wait: "


class NoWorkerProgress(Exception):
    """No worker took a task of the batch within STALL_TIMEOUT_S: no worker runs, or all are busy."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a worker would make. fields: the fields of the visit in its body, without the contact."""

    call: str
    visit: str = ""
    fields: Mapping[str, str | None] = field(default_factory=dict)


NOTHING_TO_SEND = Call("translate: nothing to send")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTask:
    """The plan of a replay for one visit or delivery.

    id: as the operator wrote it. state, reason: those of the task at this time. skip_reason: `applied`, `superseded`,
    `unchanged`, `discarded`, `expired`, `queued`, `running`, `unknown`, a reason of a task, or a sentence; empty if the
    task would be requeued. obstacle: the reason with which it would fail again, as far as is known. is_rejected: the API
    rejected its values, and no later change has others. affected: the visits,
    and the deliveries as tasks of their events, whose changes it applies.
    """

    id: str
    task_id: TaskId = NO_TASK
    state: str = "done"
    reason: str = ""
    skip_reason: str = ""
    obstacle: str = ""
    is_rejected: bool = False
    calls: tuple[Call, ...] = ()
    affected: tuple[TaskId, ...] = ()

    @property
    def needs_contact(self) -> bool:
        """Whether an operator should name the contact of the visit."""
        reasons = ("contact_unknown", "GET /contacts", "POST /contacts")
        return not self.skip_reason and (self.obstacle == reasons[0] or self.reason.startswith(reasons))

    @property
    def fetches_record(self) -> bool:
        return self.task_id.is_event and not any("/visits" in call.call for call in self.calls)


@dataclass(slots=True)
class PlanSummary:
    """Counts of planned tasks, and the first `max_samples` of them.

    by_call: of the tasks that would be requeued. obstacles: the reasons with which some of these would fail, and whether it
    is the reason of their last failure. idle: those that would send nothing. fetched: those that would fetch a record.
    rejected: those that would be sent with values that the API rejected.
    """

    max_samples: int = 20
    total: int = 0
    actionable: int = 0
    idle: int = 0
    fetched: int = 0
    rejected: int = 0
    obstacles: Counter[tuple[str, bool]] = field(default_factory=Counter)
    by_call: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    samples: list[PlannedTask] = field(default_factory=list)

    def add(self, planned: PlannedTask) -> None:
        self.total += 1
        if planned.skip_reason:
            self.skipped[planned.skip_reason] += 1
            return
        self.actionable += 1
        self.by_call.update(call.call for call in planned.calls)
        if planned.obstacle:
            self.obstacles[planned.obstacle, planned.reason.startswith(planned.obstacle)] += 1
        elif not planned.calls or planned.calls == (NOTHING_TO_SEND,):
            self.idle += 1
        elif planned.fetches_record:
            self.fetched += 1
        elif planned.is_rejected:
            self.rejected += 1
        if len(self.samples) < self.max_samples:
            self.samples.append(planned)

    @property
    def sent(self) -> int:
        """The number of tasks that would call the Visits API."""
        return self.actionable - self.obstacles.total() - self.idle - self.fetched


class Replay:
    """Plans and executes a replay. Every method may raise RedisUnavailable."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        mode: Mode = "retry",
        *,
        recheck: bool = False,
        contacts: Mapping[str, str] = NO_CONTACTS,
        cause: Cause = NO_CAUSE,
    ) -> None:
        """recheck: the worker reads each visit from the API first.

        contacts: an e-mail address or id to assign, by visit (its task, external_id, or the id that selected it; an empty
        string for all). cause: the activity and the operation. Raise InvalidContact.
        """
        self._ledger, self._settings, self._mode, self._cause = ledger, settings, mode, cause
        self._recheck = recheck
        self._contacts = {visit: parse_contact(contact) for visit, contact in contacts.items()}

    async def plan(self, filter: Filter) -> AsyncIterator[PlannedTask]:
        """Yield what would be done for each selected task. A visit with several ids is one task."""
        yielded: set[int] = set()
        async for selected in TaskSelector(self._ledger, self._settings, self._mode).iter(filter):
            planned = await self._plan_task(selected)
            if filter.ids or hash(planned.task_id) not in yielded:
                yielded.add(hash(planned.task_id))
                yield planned

    async def may_help(self, group: FailureGroup) -> bool:
        """Return whether these failures may succeed. For a final reason, the plan of the newest one decides."""
        if not find_reason(group.reason).is_final:
            return True
        plan = self.plan(Filter(ids=(group.newest,)))
        return any([not (planned.skip_reason or planned.obstacle) async for planned in plan])

    async def execute(self, filter: Filter, on_step: Callable[[PlannedTask, str], None]) -> PlanSummary:
        """Requeue the planned tasks in batches. An interrupted replay can be started again. Raises NoWorkerProgress.

        on_step: called for each task with its new state, or with the reason why it was skipped.
        """
        summary, batch = PlanSummary(max_samples=0), list[str]()
        async for planned in self.plan(filter):
            if not planned.skip_reason:
                if len(batch) >= BATCH_SIZE:
                    await self._wait_for_workers(batch)
                    batch.clear()
                state = await self.replay_one(planned)
                batch.append(planned.task_id)
            else:
                state = planned.skip_reason
            summary.add(planned)
            on_step(planned, state)
        return summary

    async def replay_one(self, planned: PlannedTask) -> str:
        """Requeue a task. Return its state (`queued` or `running`), or `expired`."""
        cause = self._cause._replace(affected=planned.affected)
        try:
            if self._mode == "retranslate":
                return await self._ledger.retranslate(planned.task_id.delivery_id, queue="replays", cause=cause)
            if contact := self._contact_of(planned):
                await self._assign_contact(planned.task_id, contact)
            return await self._ledger.replay(planned.task_id, self._recheck, queue="replays", cause=cause)
        except NotFound:
            return "expired"

    def _contact_of(self, planned: PlannedTask) -> Contact | None:
        if not planned.task_id.is_visit:
            return None
        names = (planned.task_id, planned.task_id.external_id, planned.id, "")
        return next((self._contacts[name] for name in names if name in self._contacts), None)

    async def _assign_contact(self, task_id: TaskId, contact: Contact) -> None:
        aliases = await self._ledger.load_aliases(task_id)
        current = desired_visit(await run_off_loop(aliases, merge_visit, aliases)).contact
        if not has_contact(current, contact):
            await self._ledger.assign_contact(aliases[-1].task_id, assignment(contact, aliases[-1]))

    async def _wait_for_workers(self, batch: list[str]) -> None:
        remaining, deadline = len(batch), time.monotonic() + STALL_TIMEOUT_S
        while (queued := await self._ledger.count_queued(batch)) > len(batch) / 2:
            if queued < remaining:
                remaining, deadline = queued, time.monotonic() + STALL_TIMEOUT_S
            if time.monotonic() > deadline:
                raise NoWorkerProgress
            await asyncio.sleep(0.1)

    # -- plan of one task --

    async def _plan_task(self, selected: SelectedTask) -> PlannedTask:
        if not selected.task_id:
            return PlannedTask(id=selected.id, skip_reason="unknown")
        planned = PlannedTask(id=selected.id, task_id=selected.task_id)
        try:
            if selected.task_id.is_event:
                return await self._plan_event(await self._with_state(planned))
            if self._mode == "reconcile":
                return replace(planned, skip_reason="record_not_fetchable")
            return await self._plan_visit(planned, selected.delivery)
        except NotFound:
            return replace(planned, skip_reason="expired")

    async def _with_state(self, planned: PlannedTask) -> PlannedTask:
        """Add the state of the task and its visits. Intake translated most deliveries: these have no task."""
        try:
            task = await self._ledger.load_task(planned.task_id)
        except NotFound:
            return planned
        return replace(planned, state=task.state, reason=task.reason, affected=affected_by([task], ()))

    async def _plan_event(self, planned: PlannedTask) -> PlannedTask:
        stored = await load_stored(self._ledger, self._settings, planned.task_id.display_id)
        if planned.state in ("queued", "running", "discarded"):
            return replace(planned, skip_reason=planned.state)
        if self._mode == "retry" and planned.state == "done":
            return replace(planned, skip_reason="applied")
        if stored.hook is None or stored.event is None:
            return replace(planned, skip_reason=stored.problem)
        if requests := stored.record_requests:
            obstacle = "credentials_missing" if self._settings.missing_credentials(stored.hook.name) else ""
            calls = tuple(Call(request.label, request.path) for request in requests)
            return replace(planned, calls=calls, obstacle=obstacle)
        if self._mode == "reconcile":
            return replace(planned, skip_reason="record_not_fetchable")
        # Newer changes of its visits may have expired already; the replay would undo them.
        if time.time() - stored.meta.received_at_ms / 1000 > self._settings.retention_days * 86_400:
            return replace(planned, skip_reason="expired")
        translation = translate_event(stored.hook.source, stored.event, stored.hook.settings.tenants)
        if translation.state == "parked" and not translation.changes:
            return replace(planned, skip_reason=translation.reason)
        return await self._plan_retranslation(planned, stored.meta, stored.hook, translation)

    async def _plan_visit(self, planned: PlannedTask, delivery: str) -> PlannedTask:
        aliases = await self._ledger.load_aliases(planned.task_id)
        primary = next((alias for alias in aliases if alias.state != "done"), aliases[0])
        planned = replace(
            planned,
            task_id=aliases[0].task_id,
            state=primary.state,
            reason=primary.reason,
            affected=affected_by(aliases, pending_deliveries(aliases).union(filter(None, [delivery]))),
        )
        if primary.state == "discarded" or (primary.state in ("queued", "running") and not self._recheck):
            return replace(planned, skip_reason=primary.state)
        assigned = []
        if contact := self._contact_of(planned):
            change = encode_change(assignment(contact, aliases[-1]))
            assigned = [RecordedChange.decode("operator", change, aliases[-1].alias_depth)]
        facts = await run_off_loop(aliases, merge_visit, aliases, *assigned)
        calls = await self._calls(aliases, facts if assigned or any(alias.changes for alias in aliases) else None)
        if primary.state == "done" and not calls:
            deciding = {delivery_of(origin) for origin in deciding_origins(facts)}
            return replace(planned, skip_reason="superseded" if delivery and delivery not in deciding else "applied")
        # A new change would have requeued a failure, so its values are still those that were rejected.
        is_rejected = not assigned and primary.state == "parked" and is_rejection(primary.reason)
        obstacle = self._obstacle(planned.task_id, facts, calls)
        return replace(planned, calls=calls, obstacle=obstacle, is_rejected=is_rejected)

    def _obstacle(self, task_id: TaskId, facts: Facts, calls: tuple[Call, ...]) -> str:
        """Return the reason with which a run of the visit would fail, or an empty string."""
        if task_id.account not in self._settings.tokens:
            return "token_missing"
        if count_people(facts) > 1:
            return "several_people"
        return next((call.call.removeprefix(WAIT) for call in calls if call.call.startswith(WAIT)), "")

    async def _calls(self, aliases: list[Task], facts: Facts | None) -> tuple[Call, ...]:
        """Predict the calls of a worker without a request to the API. facts: None if the visit has no changes."""
        primary, *later = aliases
        calls = [
            Call("DELETE /visits/:id", alias.external_id)
            for alias in later
            if (alias.remote or alias.was_attempted) and not is_foreign(alias.remote)
        ]
        if facts is not None:
            call = await self._visit_call(primary, desired_visit(facts))
        else:
            may_exist = (primary.remote or primary.was_attempted) and not is_foreign(primary.remote)
            call = Call("DELETE /visits/:id", primary.external_id) if may_exist else None
        return (*calls, *filter(None, [call]))

    async def _visit_call(self, primary: Task, desired: DesiredVisit) -> Call | None:
        name, whole = primary.external_id, {name: value for name, value in desired.fields.items() if value is not None}
        if self._recheck:
            return Call("GET /visits/:id, then the fields that differ", name, desired.fields)
        if primary.remote is None and (desired.is_cancelled or desired.is_empty):
            return Call("GET /visits/:id: none should exist", name) if primary.state != "done" else None
        if primary.remote is None and not desired.has_date:
            return Call(f"{WAIT}time_unknown", name)
        if primary.remote is None:
            has_contact = (
                desired.contact.cache_key(self._settings.contact_hash_key(primary.account))
                and not desired.contact.is_erased
            )
            return Call("POST /visits", name, whole) if has_contact else Call(f"{WAIT}contact_unknown", name)
        if contact := await self._contact_call(primary, desired):
            return Call(contact, name, whole)
        changed = changed_fields(primary.remote, desired)
        return Call("PUT /visits/:id", name, changed) if changed else None

    async def _contact_call(self, primary: Task, desired: DesiredVisit) -> str:
        """Return the calls for another contact than the visit has, or an empty string."""
        assert primary.remote is not None
        name = desired.contact.cache_key(self._settings.contact_hash_key(primary.account))
        if name is None or desired.is_cancelled or name == primary.remote.get(CONTACT_KEY):
            return ""
        cached_id = await self._ledger.redis.command("GET", f"{keys.CONTACT}{primary.account}:{name}")
        contact_id = desired.contact.id or (cached_id and cached_id.decode())
        if contact_id is None:
            return "GET /contacts, then the fields that differ"
        return "" if contact_id == primary.remote.get("contact_id") else "DELETE and POST /visits: another contact"

    async def _plan_retranslation(
        self, planned: PlannedTask, meta: DeliveryInfo, hook: Hook, translation: Translation
    ) -> PlannedTask:
        """Compare the stored changes of the delivery with its new translation."""
        delivery = planned.task_id.display_id
        aliases_by_task = {
            task_id: aliases
            for task_id in await self._affected_task_ids(meta)
            if (aliases := await stored_aliases(self._ledger, task_id))
        }
        stored, discarded, is_compacted = dict[str, tuple[TaskId, bytes]](), set[str](), False
        for task_id, aliases in aliases_by_task.items():
            [task] = [alias for alias in aliases if alias.task_id == task_id]
            for origin, change in {**task.changes, **task.discarded_changes}.items():
                if delivery_of(origin) == delivery:
                    stored[origin] = task_id, change.body
            discarded |= stored.keys() & task.discarded_changes.keys()
            is_compacted = is_compacted or bool(task.compacted_count)
        translated = {
            new_origin(delivery, number): (_task_id_of(hook, meta, change), encode_change(change))
            for number, change in enumerate(translation.changes)
        }
        if translated == stored and (planned.state == "done" or translation.reason):
            return replace(planned, skip_reason=translation.reason or "unchanged")
        if stored and stored.keys() == discarded:
            return replace(planned, skip_reason="discarded")
        if is_compacted and not stored:
            return replace(planned, skip_reason="superseded")
        calls: list[Call] = []
        for task_id in dict.fromkeys([*aliases_by_task, *(task_id for task_id, _ in translated.values())]):
            calls += await self._calls_after(delivery, task_id, aliases_by_task, translated)
        affected = (planned.task_id, *aliases_by_task, *(task_id for task_id, _ in translated.values()))
        return replace(
            planned,
            calls=tuple(calls or [NOTHING_TO_SEND]),
            affected=tuple(dict.fromkeys(affected))[:MAX_AFFECTED],
        )

    async def _calls_after(
        self,
        delivery: str,
        task_id: TaskId,
        aliases_by_task: Mapping[TaskId, list[Task]],
        translated: Mapping[str, tuple[TaskId, bytes]],
    ) -> tuple[Call, ...]:
        """Return the calls for one visit if `translated` replaced the changes of the delivery."""
        aliases = aliases_by_task.get(task_id) or await stored_aliases(self._ledger, task_id)
        if not aliases:
            changes = [
                RecordedChange.decode(origin, change) for origin, (at, change) in translated.items() if at == task_id
            ]
            desired = desired_visit(merge_changes(changes))
            is_created = desired.has_date and not desired.is_cancelled
            return (Call("POST /visits", task_id.display_id, desired.fields),) if is_created else ()
        changes = [
            change for alias in aliases for change in alias.recorded_changes() if delivery_of(change.origin) != delivery
        ]
        for alias in aliases:
            changes += [
                RecordedChange.decode(origin, change, alias.alias_depth)
                for origin, (at, change) in translated.items()
                if at == alias.task_id
            ]
        return await self._calls(aliases, await run_off_loop(aliases, merge_changes, changes) if changes else None)

    async def _affected_task_ids(self, meta: DeliveryInfo) -> list[TaskId]:
        task_ids: list[TaskId] = []
        for task_id in meta.task_ids:
            try:
                task_ids += (await self._ledger.load_task(task_id)).targets if task_id.is_event else [task_id]
            except NotFound:
                continue
        return task_ids


def _task_id_of(hook: Hook, meta: DeliveryInfo, change: VisitChange) -> TaskId:
    return TaskId.visit(hook.account, change.external_id(meta.source))
