"""Fetches the records that an event refers to, translates the event, and stores its changes. Also runs replays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import random
from typing import Any

from app.ledger.ids import TaskId
from app.ledger.records import BodyUnavailable, DeliveryInfo, Lease, NotFound, Outcome, RecordOutdated
from app.settings.model import Hook
from app.telemetry.logs import log
from app.visits.change import VisitChange, external_id
from app.visits.client import VisitsApiError
from app.webhooks.delivery import Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.source import RECORD_GONE, Ignored, PartlyTranslatable
from app.webhooks.translation import FOREIGN_TENANT, is_foreign_tenant, parse_event
from jobs.context import RUN_TIMEOUT_S, Context
from jobs.errors import BodyNotReadable, NeedsOperator, RecordNotReadable
from jobs.records import FetchedRecord, Records
from jobs.retry import Decision, decide_fetch
from jobs.runs import TaskRun, run

#: A tool may announce a record before its API returns it. An older event is translated without the record.
READ_LAG_S = 60.0
#: While an event is younger, a newer web process may have stored it, and a newer worker may soon read it.
DEPLOY_S = 300.0
#: Why this worker cannot read a body that another worker may be able to read.
_READABLE_ELSEWHERE = ("body_key_unknown", "newer_version")


async def event_job(ctx: dict[str, Any], task_id: TaskId) -> None:
    await run_event(ctx["context"], task_id.delivery_id)


async def run_event(context: Context, delivery_id: str) -> str:
    return await run(EventRun, context, TaskId.event(delivery_id))


class EventRun(TaskRun):
    kind = "event"

    def __init__(self, context: Context, lease: Lease) -> None:
        super().__init__(context, lease)
        self.delivery_id = self.task.task_id.delivery_id
        self._lease_has_ended = False  # recording the changes ends it

    @property
    def labels(self) -> dict[str, str]:
        return {"delivery": self.delivery_id}

    @property
    def timeout_s(self) -> float:
        return RUN_TIMEOUT_S

    async def execute(self) -> Outcome:
        meta, hook, event = await self._load_event()
        translated, parked = await self._translate(hook, event)
        if isinstance(translated, Ignored):
            attempt, changes = self.attempt(f"ignored: {translated.reason}"), list[VisitChange]()
            # A retranslated event that is now ignored retracts its earlier changes, unless the record was deleted: then
            # nothing is known about the visit.
            if translated == RECORD_GONE or not self.task.replaces_changes:
                return Outcome(state="done", attempt=attempt)
        else:
            attempt, changes = self.attempt("translated"), translated
        await self.context.ledger.record_changes(self.lease, meta.source, hook.account, changes, attempt, parked)
        self._lease_has_ended = True
        return Outcome(state="parked" if parked else "done", attempt=attempt, reason=parked)

    def decide(self, error: VisitsApiError) -> Decision:
        failing_for_s = self.context.seconds_since(self.task.failing_since_ms)
        return decide_fetch(error, self.context.schedule, self.task.failed_attempts, failing_for_s, random())

    async def complete(self, outcome: Outcome) -> Outcome:
        return outcome if self._lease_has_ended else await super().complete(outcome)

    def log_finished(self, level: int, fields: Mapping[str, Any]) -> None:
        log.log(level, "event_run_finished", **fields)

    async def _load_event(self) -> tuple[DeliveryInfo, Hook, Event]:
        try:
            meta, raw = await self.context.ledger.load_delivery(self.delivery_id)
        except NotFound:
            raise NeedsOperator("delivery_expired") from None
        except BodyUnavailable as error:
            reason = f"{error.reason}: {error}"
            age_s = self.context.seconds_since(error.info.received_at_ms)
            if error.reason in _READABLE_ELSEWHERE and age_s < DEPLOY_S:
                raise BodyNotReadable(reason) from None
            raise NeedsOperator(reason) from None
        if meta.hook not in self.context.settings.active_hooks:  # it may just have been stored
            await self.context.stored_hooks.refresh()
        hook = self.context.settings.active_hooks.get(meta.hook)
        if hook is None:
            raise NeedsOperator("hook_not_configured")
        return meta, hook, parse_event(hook.source, meta.to_delivery(raw), hook.settings.zone)

    async def _translate(self, hook: Hook, event: Event) -> tuple[list[VisitChange] | Ignored, str]:
        """Return the changes or the reason to ignore the event, and the reason for an operator if it is incomplete."""
        source = hook.source
        if is_foreign_tenant(source, event, hook.settings.tenants):
            return Ignored(FOREIGN_TENANT), ""
        try:
            requests = source.fetch(event) if source.fetch else []
            if not requests:
                return source.translate(event), ""
            return await self._translate_records(hook, event, requests), ""
        except PartlyTranslatable as partly:
            return partly.changes, f"untranslatable: {partly}"

    async def _translate_records(
        self, hook: Hook, event: Event, requests: Sequence[RecordRequest]
    ) -> list[VisitChange] | Ignored:
        """Return Ignored only if every record is ignored. Raises PartlyTranslatable with the changes of all records."""
        changes: list[VisitChange] = []
        ignored, problem = Ignored("nothing"), ""
        records = Records(self.context, hook, self.task.last_event_at_ms or 0, self.calls)
        for request, record in zip(requests, await records.find_all(requests), strict=True):
            self.context.payload_samples.add_record(event.source, request.label, record.record, self.delivery_id)
            with_record = event.with_record(record.record, record.fetched_at, record.related, request.path)
            try:
                with_record = await self._with_people(hook, with_record, record)
            except RecordOutdated:
                await records.forget(request)  # the next run fetches it again
                raise
            try:
                translated = hook.source.translate(with_record)
            except PartlyTranslatable as partly:
                translated, problem = partly.changes, str(partly)
            age_s = self.context.seconds_since(int(event.received_at.timestamp() * 1000))
            if age_s < READ_LAG_S and _record_may_appear(translated, record):
                raise RecordNotReadable
            if isinstance(translated, Ignored):
                ignored = translated
            else:
                changes += translated
        if problem:
            raise PartlyTranslatable(problem, changes)
        return changes or ignored

    async def _with_people(self, hook: Hook, event: Event, record: FetchedRecord) -> Event:
        """Add all people whom any record of this booking has listed. Raises RecordOutdated."""
        if hook.source.people is None:
            return event
        visit_id, people = hook.source.people(event)
        name = external_id(event.source, visit_id)
        all_people = await self.context.ledger.add_people(hook.account, name, record.fetched_at, people)
        return replace(event, people=all_people)


def _record_may_appear(translated: list[VisitChange] | Ignored, record: FetchedRecord) -> bool:
    """Whether the record, or a record that it refers to, is missing and needed. A cancellation needs neither."""
    if isinstance(translated, Ignored):
        return translated == RECORD_GONE
    return not record.is_complete and any(change.action != "cancel" for change in translated)
