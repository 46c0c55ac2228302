"""Updates the Visits API to match the merged changes of a visit, with the fewest calls."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from random import random
from typing import Any

from app.ledger.ids import TaskId, delivery_time_ms
from app.ledger.ledger import time_until_visit_ms
from app.ledger.records import CircuitSignal, Lease, Outcome, StoredChange, Task
from app.ledger.redis import RedisUnavailable
from app.operators.search_index import index
from app.telemetry import tracing
from app.telemetry.logs import log
from app.telemetry.metric_names import API_REQUEST_DURATION_S, API_REQUESTS, END_TO_END_S
from app.visits.change import visit_start
from app.visits.client import RESPONSE_TIMEOUT_S, ClientError, OutcomeUnknown, Record, VisitsApiError, VisitsClient
from app.visits.merge import (
    CONTACT_KEY,
    FOREIGN_KEY,
    DesiredVisit,
    changed_fields,
    count_payments,
    count_people,
    desired_visit,
    is_foreign,
    merge_changes,
    required_origins,
)
from app.webhooks.registry import source_of_visit
from jobs.contacts import Contacts
from jobs.context import RUN_TIMEOUT_S, Context
from jobs.errors import DeadlinePassed, NeedsOperator, RateLimitedLocally
from jobs.retry import Decision, decide
from jobs.runs import TaskRun, complete, run

#: If VISITS_API_RATE requires a longer wait, since others take the slots, the run ends and the task is held without a lease.
MAX_RATE_WAIT_S = 2.0
#: A visit with more than COMPACT_ABOVE changes keeps those that may still decide a field, and the newest.
COMPACT_ABOVE, COMPACT_KEEP_NEWEST = 300, 50
#: Payments are never compacted, so a visit with more of them needs an operator.
MAX_PAYMENTS = 500
#: Fields of the API's response that are stored.
REMOTE_FIELDS = (
    "id",
    "contact_id",
    "time_scheduled",
    "time_completed",
    "amount_collected",
    "date_cancelled",
    "event_date",
    FOREIGN_KEY,
)
#: Those that a response to an update need not have.
KEPT_FIELDS = ("contact_id", CONTACT_KEY, FOREIGN_KEY)


class MissingFact(Exception):
    """A required fact is missing, and a later change may contain it. The argument is the reason."""


class VisitMustBeRecreated(Exception):
    """The API did not clear a value, or the visit needs another contact, which the API cannot change.

    The argument is the contact_id of the new visit.
    """


async def visit_job(ctx: dict[str, Any], task_id: TaskId) -> None:
    await run_visit(ctx["context"], task_id.account, task_id.external_id)


async def run_visit(context: Context, account: str, external_id: str) -> str:
    if account not in context.settings.tokens:  # its hook may just have been stored
        with suppress(RedisUnavailable):
            await context.stored_hooks.refresh()
    return await run(VisitRun, context, TaskId.visit(account, external_id), account)


def max_rate_wait_s(calls_per_second: float) -> float:
    """Return the longest wait for a slot. A run needs several, so it waits for the next one, however low the rate is."""
    return max(MAX_RATE_WAIT_S, 1 / calls_per_second + 1)


@dataclass(frozen=True, slots=True)
class CallHooks:
    """The checks before, and the records after, each call of a run. deadline: by time.monotonic().

    These are not methods of VisitRun: it would refer to itself through its client, and stay until a garbage collection.
    """

    context: Context
    account: str
    deadline: float

    async def before_call(self) -> None:
        if rate := self.context.settings.visits_api_rate:
            wait_s = await self.context.ledger.acquire_rate_slot(self.account, rate, max_rate_wait_s(rate))
            if wait_s < 0:
                raise RateLimitedLocally
            await asyncio.sleep(wait_s)
        if time.monotonic() > self.deadline:
            raise DeadlinePassed

    def record_call(self, method: str, route: str, status: str, seconds: float) -> None:
        self.context.counters.increment(API_REQUESTS, method, route, status)
        self.context.counters.observe(API_REQUEST_DURATION_S, seconds, method, route)
        tracing.record_api_call(method, route, status, seconds)


class VisitRun(TaskRun):
    kind = "visit"

    def __init__(self, context: Context, lease: Lease) -> None:
        super().__init__(context, lease)
        self.account = self.task.account
        settings = context.settings
        hooks = CallHooks(context, self.account, time.monotonic() + RUN_TIMEOUT_S)
        self._api = VisitsClient(
            context.http,
            settings.visits_api_url,
            settings.tokens.get(self.account, ""),
            self.calls,
            hooks.before_call,
            on_response=hooks.record_call,
        )
        self._contacts = Contacts(context.ledger, self.account, settings.contact_hash_key(self.account), context.locks)
        #: What the Visits API should have, once the changes are merged.
        self._desired: DesiredVisit | None = None
        self._has_sent_create = False

    @property
    def labels(self) -> dict[str, str]:
        return {"external_id": self.task.external_id}

    @property
    def timeout_s(self) -> float:
        return RUN_TIMEOUT_S + RESPONSE_TIMEOUT_S

    async def execute(self) -> Outcome:
        self._api.trace_headers = self.lease.request_context.headers | tracing.trace_headers()  # in the span of the run
        if not self._api.token:
            raise NeedsOperator("token_missing", "no token is set for this account")
        try:
            result = await self._apply_changes()
        except MissingFact as missing:
            return self._wait_for_change(str(missing))
        return Outcome(
            state="done", attempt=self.attempt(result), remote=self.remote, circuit_signal=self._circuit_ok()
        )

    def decide(self, error: VisitsApiError) -> Decision:
        failing_for_s = self.context.seconds_since(self.task.failing_since_ms)
        return decide(error, self.context.schedule, self.task.failed_attempts, failing_for_s, random())

    async def complete(self, outcome: Outcome) -> Outcome:
        with suppress(RedisUnavailable):  # the next run compacts
            await self._compact()
        if self._desired:
            outcome = replace(outcome, start=visit_start(self._desired.fields))
        outcome = replace(outcome, may_exist=self._may_exist_unanswered())
        outcome = await complete(self.context, self.lease, outcome, self.account)
        await self._index_contact(outcome)
        return outcome

    def record_metrics(self, outcome: Outcome) -> None:
        super().record_metrics(outcome)
        counters = self.context.counters
        counters.count_for_hour(self.account, outcome.state)
        if outcome.state != "done":
            return
        source, now = source_of_visit(self.task.task_id.external_id), time.time()
        for member in self.lease.tasks:
            for origin, change in member.changes.items():
                if change.number > member.applied_count:
                    counters.observe(END_TO_END_S, max(0.0, now - delivery_time_ms(origin) / 1000), source)

    def log_finished(self, level: int, fields: Mapping[str, Any]) -> None:
        log.log(level, "visit_run_finished", **fields)

    def _circuit_ok(self) -> CircuitSignal | None:
        """Report a response of the API, so that other visits of the account may call it too."""
        return CircuitSignal(kind="ok") if self.calls else None

    def _wait_for_change(self, reason: str) -> Outcome:
        settings = self.context.settings
        pending_s = self.context.seconds_since(self.task.pending_since_ms)
        remaining_s = min(settings.contact_for_s, settings.retry_for_s) - pending_s
        if remaining_s <= 0:
            raise NeedsOperator(reason, f"no {'time' if reason == 'time_unknown' else 'e-mail address'} came later")
        return Outcome(
            state="waiting",
            attempt=self.attempt(reason),
            reason=reason,
            retry_in_s=remaining_s + 0.05,
            remote=self.remote,
            circuit_signal=self._circuit_ok(),
        )

    def _may_exist_unanswered(self) -> bool | None:
        """Return `Outcome.may_exist`. A visit that a later run finds is another program's if no create was sent before."""
        if self.remote.get(self.task.task_id):
            return None
        if self._has_sent_create:
            return True
        return None if self.task.was_attempted else False

    async def _compact(self) -> None:
        """Bound the size of a visit."""
        for member in self.lease.tasks:
            if len(member.changes) > COMPACT_ABOVE:
                # Each id is merged alone: if an older id appears later, the depth of all of its changes grows equally.
                required = required_origins(member.recorded_changes()).union(_newest(member.changes))
                await self.context.ledger.compact(self.lease, member, member.changes.keys() - required)
            if len(member.discarded_changes) > COMPACT_ABOVE:
                newest = _newest(member.discarded_changes)
                await self.context.ledger.compact(self.lease, member, member.discarded_changes.keys() - newest)

    async def _index_contact(self, outcome: Outcome) -> None:
        """Let operators find the visit by its contact. A failure is ignored."""
        keys = self.context.settings.secret_key
        if not keys or not self._desired or outcome.state not in ("done", "parked"):
            return
        ttl_ms = self.context.settings.retention_days * 86_400_000 + time_until_visit_ms(self.lease, outcome)
        with suppress(RedisUnavailable):
            await index(self.context.ledger.redis, self.task.task_id, self._desired.contact, keys[0], ttl_ms)

    # -- the algorithm --

    async def _apply_changes(self) -> str:
        """Return the result, one of those in `docs/glossary.md`."""
        primary, *aliases = self.lease.tasks
        facts = merge_changes(change for member in self.lease.tasks for change in member.recorded_changes())
        if count_payments(facts) > MAX_PAYMENTS:
            raise NeedsOperator("too_many_payments", f"this visit has more than {MAX_PAYMENTS} payments")
        desired = desired_visit(facts)
        self._desired = desired
        for alias in aliases:
            if await self._may_exist(alias) and not is_foreign(alias.remote):  # created before the primary id was known
                await self._delete(alias)
        if any(member.changes for member in self.lease.tasks):
            result = await self._create_or_update(primary, desired)
        else:  # all changes were retracted
            result = await self._delete_own(primary)
        if (people := count_people(facts)) > 1:
            summary = f"{result}; {people - 1} more people share this id, and have no visit"
            raise NeedsOperator("several_people", summary, is_applied=True)
        return result

    async def _may_exist(self, member: Task) -> bool:
        """Whether the API may have a visit under this id. Redis may have lost that, with the changes of the run."""
        if member.remote or member.was_attempted:
            return True
        return member.applied_count < member.change_count and await self.context.losses.may_be_recent()

    async def _create_or_update(self, primary: Task, desired: DesiredVisit) -> str:
        remote = await self._fetch_remote(primary)
        try:
            return await (self._create(primary, desired) if remote is None else self._update(primary, remote, desired))
        except VisitMustBeRecreated as error:
            if not desired.has_date and not desired.opted_out:  # only another program knows when it starts
                raise MissingFact("time_unknown") from None
            await self._delete(primary)
            contact_id = error.args[0]
        try:
            return await self._create(primary, desired, contact_id)
        except VisitMustBeRecreated:
            raise OutcomeUnknown("DELETE /visits/:id", response_text="the deleted visit still exists") from None

    async def _fetch_remote(self, primary: Task) -> Record | None:
        """Return the stored state of the visit, or fetch it if none is stored or an operator requested a recheck."""
        if primary.remote is not None and primary.recheck_ids is None:
            return primary.remote
        remote = await self._api.get_visit(primary.external_id)
        if remote is None:
            return None
        await self._delete_duplicates(primary, remote)
        # Keep the contact for which Doorbell created the visit, so that a manual change of the contact is not undone.
        remote |= {CONTACT_KEY: (primary.remote or {}).get(CONTACT_KEY)}
        return await self._mark_foreign(primary, remote)

    async def _mark_foreign(self, primary: Task, remote: Record) -> Record:
        """Mark a visit that another program created: Doorbell sent no create before."""
        if is_foreign(primary.remote) or not await self._may_exist(primary):
            remote |= {FOREIGN_KEY: True}
            self.remote[primary.task_id] = _stored_fields(remote)  # also if the run fails
        return remote

    async def _delete_duplicates(self, primary: Task, remote: Record) -> None:
        """Delete the duplicates that an audit reported, if they still have this external_id and another number."""
        if not remote.get("id"):
            return
        for number in primary.recheck_ids or ():
            duplicate = await self._api.get_visit(number) if number != str(remote["id"]) else None
            if duplicate and str(duplicate.get("id")) == number and duplicate.get("external_id") == primary.external_id:
                await self._api.delete_visit(number)

    async def _delete_own(self, primary: Task) -> str:
        if is_foreign(primary.remote):
            self.remote[primary.task_id] = None
            return "kept"
        if not await self._may_exist(primary):
            return "not_created"
        await self._delete(primary)
        return "deleted"

    async def _delete(self, member: Task) -> None:
        await self._api.delete_visit(member.external_id)
        self.remote[member.task_id] = None

    async def _create(self, primary: Task, desired: DesiredVisit, contact_id: str | None = None) -> str:
        """Create the visit, unless none is needed.

        contact_id: set when recreating a deleted visit. A cancelled visit is recreated too, so that the result does not
        depend on batching; after an opt-out none is created.
        """
        if desired.opted_out or ((desired.is_cancelled or desired.is_empty) and not contact_id):
            return "not_created"
        if not desired.has_date:
            raise MissingFact("time_unknown")
        contact_id = contact_id or await self._contacts.resolve(desired.contact, self._api)
        if contact_id is None:
            raise MissingFact("contact_unknown")
        fields = {name: value for name, value in desired.fields.items() if value is not None}
        self._has_sent_create = True
        try:
            response = await self._api.create_visit(contact_id, primary.external_id, fields)
        except (RateLimitedLocally, DeadlinePassed):
            self._has_sent_create = False  # nothing was sent
            raise
        except ClientError as rejection:
            return await self._after_rejected_create(primary, desired, rejection)
        self._record_remote(primary, response, desired)
        return "created"

    async def _after_rejected_create(self, primary: Task, desired: DesiredVisit, rejection: ClientError) -> str:
        """Update the visit if it exists already; otherwise raise.

        Before that evict the cached contact, with any of these statuses: the API does not document which of them tells that
        the contact was deleted.
        """
        if rejection.status not in (404, 409, 422):
            raise rejection
        if rejection.status != 404 and (remote := await self._api.get_visit(primary.external_id)) is not None:
            return await self._update(primary, await self._mark_foreign(primary, remote), desired)
        await self._contacts.evict(desired.contact)
        raise rejection

    async def _update(self, primary: Task, remote: Record, desired: DesiredVisit) -> str:
        await self._check_contact(remote, desired)
        changed = changed_fields(remote, desired)
        if not changed:
            self._record_remote(primary, remote, desired)
            return "unchanged"
        fields = {name: value or "" for name, value in changed.items()}
        response = await self._api.update_visit(primary.external_id, fields)
        if response is None:  # it was deleted in Review Rover
            self.remote[primary.task_id] = None
            return await self._create(primary, desired)
        if not response:
            is_cleared = None in changed.values()
            response = await self._api.get_visit(primary.external_id) if is_cleared else {**remote, **changed}
        response = {**{name: remote.get(name) for name in KEPT_FIELDS}, **(response or {})}
        if any(value is None and response.get(name) for name, value in changed.items()):
            raise VisitMustBeRecreated(response.get("contact_id"))
        self._record_remote(primary, response, desired)
        return "cancelled" if changed.get("date_cancelled") else "updated"

    async def _check_contact(self, remote: Record, desired: DesiredVisit) -> None:
        """Raise VisitMustBeRecreated for another contact, to which the API cannot move a visit; or MissingFact."""
        key = self._contacts.cache_key(desired.contact)
        if key is None or key == remote.get(CONTACT_KEY):
            return
        contact_id = await self._contacts.resolve(desired.contact, self._api)
        if contact_id is None:
            raise MissingFact("contact_unknown")
        if contact_id != remote.get("contact_id"):
            raise VisitMustBeRecreated(contact_id)

    def _record_remote(self, primary: Task, response: Record, desired: DesiredVisit) -> None:
        contact_key = self._contacts.cache_key(desired.contact) or response.get(CONTACT_KEY)
        self.remote[primary.task_id] = _stored_fields(response) | {CONTACT_KEY: contact_key}


def _stored_fields(response: Record) -> Record:
    return {name: response[name] for name in REMOTE_FIELDS if response.get(name) is not None}


def _newest(changes: Mapping[str, StoredChange]) -> list[str]:
    """Return the origins of the changes that were recorded last."""
    return sorted(changes, key=lambda origin: -changes[origin].number)[:COMPACT_KEEP_NEWEST]
