"""One visit, from its facts to the API: the difference between what should stand and what the API last answered."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.ledger.jobs_contract import visit_task_id
from app.ledger.ledger import delivery_time_ms, time_until_visit_ms
from app.ledger.records import CircuitSignal, Lease, LeaseLost, Outcome, Task, VisitLimitReached
from app.ledger.redis import RedisUnavailable
from app.operators.search_index import index
from app.telemetry import tracing
from app.telemetry.counters import Counters
from app.telemetry.logs import log
from app.telemetry.metric_names import API_REQUEST_DURATION_S, API_REQUESTS, END_TO_END_S, TASK_RUNS, TASKS_FINISHED
from app.telemetry.tracing import start_span
from app.visits.change import Contact
from app.visits.client import ANSWER_S, Record, Refused, Unanswered, VisitsApiTrouble, VisitsClient
from app.visits.merge import REMEMBERED, Wanted, difference, fold, needed, payments_of, people_of, wanted
from app.webhooks.registry import source_of_task
from jobs.contacts import Contacts, InProgressElsewhere
from jobs.context import RUN_TIMEOUT_S, Context, RunTimer, chance, seconds_since
from jobs.retry import decide, reason_class

#: In a line that is longer than this, a visit waits in the ledger and not with a lease in its hand.
MAX_RATE_WAIT_S = 2.0
#: A visit with more changes than this keeps those that may still decide something, and the newest.
COMPACT_ABOVE, COMPACT_KEEP_NEWEST = 300, 50
#: A visit with more payments than this is an operator's turn: each of them is kept for ever.
MAX_PAYMENTS = 500


class DeadlinePassed(Exception):
    """A call begun now might still be under way when the lease ends."""


class RateLimitedLocally(Exception):
    """The allowed rate of calls leaves no room now."""


class MissingFact(Exception):
    """Something is missing that a later change may bring. The argument: what, in one word."""


class VisitMustBeRecreated(Exception):
    """The API keeps a value that was to be cleared, or a contact that was to change: only a new visit will do. The
    argument: the contact that it will have."""


async def visit_job(ctx: dict[str, Any], subject: str) -> None:
    """arq's job. subject: `<account>/<external_id>`."""
    account, _, external_id = subject.partition("/")
    await run_visit(ctx["context"], account, external_id)


async def run_visit(context: Context, account: str, external_id: str) -> str:
    """Make the API show the visit, and give the work back; what came of it, in a word."""
    is_rate_limited = context.settings.visits_api_rate is not None
    hold = await context.ledger.lease(visit_task_id(account, external_id), account, is_rate_limited)
    if isinstance(hold, str):
        return hold
    with start_span("visit", "CONSUMER", hold.request_context.traceparent, external_id=hold.primary.external_id):
        run = VisitRun(context, hold, account)
        outcome = await run.outcome()
    with suppress(RedisUnavailable):  # the next run does it
        await compact(context, hold)
    await asyncio.gather(complete(context, hold, outcome, account), run.index_contact(outcome))
    context.counters.count_for_hour(account, outcome.state)
    record_metrics(context.counters, hold, outcome)
    log.info(
        "visit_run_finished",
        state=outcome.state,
        external_id=hold.primary.external_id,
        delivery=hold.request_context.delivery_id,
        attempt=hold.primary.failed_attempts + 1,
        outcome=outcome.attempt.outcome if outcome.attempt else outcome.reason,
        **({"reason": outcome.reason} if outcome.reason else {}),
        calls=len(run.api.calls),
        took_ms=run.clock.took_ms,
        **hold.request_context.log_fields,
    )
    return outcome.state


def record_metrics(tally: Counters, hold: Lease, outcome: Outcome) -> None:
    """A run over a visit; and how long each of its changes that are settled now was under way."""
    tally.increment(TASK_RUNS, "visit", outcome.state, reason_class(outcome.reason))
    if outcome.attempt and outcome.state in ("settled", "parked"):
        tally.increment(TASKS_FINISHED, "visit", outcome.attempt.outcome)
    if outcome.state == "settled":
        source, now = source_of_task(hold.primary.task_id), time.time()
        for member in hold.tasks:
            for origin, change in member.changes.items():
                if int(change.partition(b" ")[0]) > member.applied_count:
                    tally.observe(END_TO_END_S, max(0.0, now - delivery_time_ms(origin) / 1000), source)


async def compact(context: Context, hold: Lease) -> None:
    """A visit does not grow for ever: of very many changes, those that may still decide something stay, and the newest."""
    for member in hold.tasks:
        if len(member.changes) > COMPACT_ABOVE:
            # Folded by itself: should another id turn out to come before it, all of its changes move up alike.
            kept = needed(member.recorded_changes()).union(_newest(member.changes))
            await context.ledger.compact(hold, member, member.changes.keys() - kept)
        if len(member.discarded_changes) > COMPACT_ABOVE:
            await context.ledger.compact(
                hold, member, member.discarded_changes.keys() - _newest(member.discarded_changes)
            )


def _newest(changes: Mapping[str, bytes]) -> list[str]:
    """The origins that landed last."""
    return sorted(changes, key=lambda origin: -int(changes[origin].partition(b" ")[0]))[:COMPACT_KEEP_NEWEST]


async def complete(context: Context, hold: Lease, outcome: Outcome, gate: str = "") -> None:
    """Release, through a restart of Redis too as long as the lease lasts; after it, the sweep puts the work back."""
    while True:
        try:
            await context.ledger.complete(hold, outcome, gate)
            return
        except LeaseLost:
            log.warning("lease_lost", task=hold.primary.task_id)
            return
        except RedisUnavailable:
            if hold.remaining_s() < 1:
                raise
            await asyncio.sleep(0.5)


@dataclass
class VisitRun:
    """One run over one visit, under a lease."""

    context: Context
    hold: Lease
    account: str
    clock: RunTimer = field(default_factory=RunTimer)
    #: Whose visit it is, once the facts were looked at.
    contact: Contact | None = None
    #: How many others the tool named under the same id.
    other_people: int = 0
    #: What now stands in the API, per piece of work that was touched.
    remote: dict[str, Record | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings, self.deadline = self.context.settings, time.monotonic() + RUN_TIMEOUT_S
        token = settings.tokens.get(self.account, "")
        names, url = self.hold.request_context.headers | tracing.trace_headers(), settings.visits_api_url
        self.api = VisitsClient(self.context.http, url, token, [], self.before_call, names, self.record_call)
        key = settings.contact_key(self.account)
        self.contacts = Contacts(self.context.ledger, self.account, key, self.context.locks)

    async def before_call(self) -> None:
        rate = self.context.settings.visits_api_rate
        if rate:
            wait_s = await self.context.ledger.acquire_rate_slot(self.account, rate, MAX_RATE_WAIT_S)
            if wait_s < 0:
                raise RateLimitedLocally
            await asyncio.sleep(wait_s)
        if time.monotonic() > self.deadline:
            raise DeadlinePassed

    def record_call(self, method: str, route: str, status: str, seconds: float) -> None:
        self.context.counters.increment(API_REQUESTS, method, route, status)
        self.context.counters.observe(API_REQUEST_DURATION_S, seconds, method, route)
        tracing.record_api_call(method, route, status, seconds)

    async def outcome(self) -> Outcome:
        root = self.hold.primary
        try:
            if not self.api.token:
                return self._parked("token_missing", "no token is set for this account", tries=None)
            async with asyncio.timeout(RUN_TIMEOUT_S + ANSWER_S):
                done = await self.reconcile()
            if self.other_people:
                said = f"{done}; {self.other_people} more people share this id, and have no visit"
                return self._parked("several_people", said, tries=None)
            return self._settled(done)
        except VisitsApiTrouble as trouble:
            return self._on_api_error(trouble)
        except MissingFact as missing:
            return self._wait_for_fact(str(missing))
        except VisitLimitReached as bound:
            said = f"this visit has more than {MAX_PAYMENTS} payments"
            return self._parked(str(bound), said, tries=None)
        except (InProgressElsewhere, DeadlinePassed):
            return self._retry_soon("lock_contention", 1 + chance())
        except RateLimitedLocally:
            return self._rate_limited()
        except TimeoutError:
            return self._on_api_error(Unanswered("run", said=f"not done within {RUN_TIMEOUT_S:.0f} s"))
        except RedisUnavailable:
            return self._retry_soon("redis_down", 1 + chance())
        except Exception:
            log.exception("unhandled_exception", external_id=root.external_id)
            return self._parked(
                "internal_error", "a defect of Doorbell; its log has the place", tries=root.failed_attempts + 1
            )

    async def index_contact(self, outcome: Outcome) -> None:
        """By whose visit it is, for operators; never worth a failure."""
        keys = self.context.settings.secret_key
        if not keys or not self.contact or outcome.state not in ("settled", "parked"):
            return
        keep_ms = self.context.settings.retention_days * 86_400_000 + time_until_visit_ms(self.hold, outcome)
        with suppress(RedisUnavailable):
            await index(self.context.ledger.redis, self.hold.primary.task_id, self.contact, keys[0], keep_ms)

    # -- what comes of it --

    def _settled(self, done: str) -> Outcome:
        return Outcome(
            state="settled", attempt=self._attempt(done), remote=self.remote, circuit_signal=self._circuit_ok()
        )

    def _circuit_ok(self) -> CircuitSignal | None:
        """The API answered: whatever this visit lacks, the way is free."""
        return CircuitSignal(kind="ok") if self.api.calls else None

    def _parked(self, reason: str, said: str, tries: int | None) -> Outcome:
        return Outcome(
            state="parked",
            attempt=self._attempt("parked", said),
            reason=reason,
            failed_attempts=tries,
            remote=self.remote,
        )

    def _retry_soon(self, reason: str, due_s: float) -> Outcome:
        tries = self.hold.primary.failed_attempts or None
        return Outcome(
            state="waiting",
            attempt=self._attempt(reason),
            reason=reason,
            retry_in_s=due_s,
            failed_attempts=tries,
            remote=self.remote,
        )

    def _rate_limited(self) -> Outcome:
        """The line for a call is long: the ledger keeps the place, the visit that starts soonest first."""
        attempt = self._attempt("rate_limited_locally") if self.api.calls else None
        return Outcome(state="held", attempt=attempt, reason="rate_limited_locally", remote=self.remote)

    def _wait_for_fact(self, missing: str) -> Outcome:
        """Wait for a change that brings it, but not for ever."""
        settings = self.context.settings
        left_s = min(settings.contact_for_s, settings.retry_for_s) - seconds_since(self.hold.primary.pending_since_ms)
        if left_s <= 0:
            return self._parked(missing, "no change brought it", tries=None)
        return Outcome(
            state="waiting",
            attempt=self._attempt("waiting"),
            reason=missing,
            retry_in_s=left_s + 0.05,
            remote=self.remote,
            circuit_signal=self._circuit_ok(),
        )

    def _on_api_error(self, trouble: VisitsApiTrouble) -> Outcome:
        root = self.hold.primary
        decision = decide(
            trouble, self.context.schedule, root.failed_attempts, seconds_since(root.failing_since_ms), chance()
        )
        attempt = self._attempt(type(trouble).__name__.lower(), trouble.said)
        state = "parked" if decision.retry_in_s is None else "held" if decision.opens_circuit else "waiting"
        return Outcome(
            state=state,  # type: ignore[arg-type]
            attempt=attempt,
            reason=decision.reason,
            retry_in_s=decision.retry_in_s or 0,
            failed_attempts=None if decision.opens_circuit else decision.failed_attempts,
            remote=self.remote,
            circuit_signal=decision.circuit_signal,
        )

    def _attempt(self, outcome: str, said: str = "") -> Any:
        return self.clock.attempt(outcome, self.api.calls, said)

    # -- bringing it about --

    async def reconcile(self) -> str:
        """Make the API show what the facts mean. Returns what was done, in a word."""
        root, *later = self.hold.tasks
        facts = fold(said for member in self.hold.tasks for said in member.recorded_changes())
        if payments_of(facts) > MAX_PAYMENTS:
            raise VisitLimitReached("too_many_payments")
        desired = wanted(facts)
        self.contact, self.other_people = desired.contact, max(people_of(facts) - 1, 0)
        for member in later:
            if member.remote or member.was_attempted:  # made under a later id before the first one was known
                await self._delete(member)
        if not any(member.changes for member in self.hold.tasks):
            # All that was ever said of it was taken back.
            if root.remote or root.was_attempted:
                await self._delete(root)
            return "deleted" if root.task_id in self.remote else "not_created"
        current = await self._fetch_remote(root)
        try:
            return (
                await self._update(root, current, desired) if current is not None else await self._create(root, desired)
            )
        except VisitMustBeRecreated as kept:
            await self._delete(root)
            return await self._create(root, desired, *kept.args)

    async def _fetch_remote(self, root: Task) -> Record | None:
        """What stands there: as the API last answered, or, where nobody knows or an operator doubts it, as it does now."""
        if root.remote is not None and root.recheck_ids is None:
            return root.remote
        found = await self.api.get_visit(root.external_id)
        if found is None:
            return None
        await self._delete_duplicates(root, found)
        # Whose visit it was when we made it: one that somebody gave another contact by hand keeps that.
        return {**found, REMEMBERED: (root.remote or {}).get(REMEMBERED)}

    async def _delete_duplicates(self, root: Task, kept: Record) -> None:
        """What an audit saw standing twice goes: if it is still there, and ours, and not the one that its name opens."""
        for number in root.recheck_ids or () if kept.get("id") else ():
            other = await self.api.get_visit(number) if number != str(kept["id"]) else None
            if other and str(other.get("id")) == number and other.get("external_id") == root.external_id:
                await self.api.delete_visit(number)

    async def _delete(self, member: Task) -> None:
        await self.api.delete_visit(member.external_id)
        self.remote[member.task_id] = None

    async def _create(self, root: Task, desired: Wanted, contact_id: str | None = None) -> str:
        """contact_id: of the visit that this one stands in for. What stood, stands again, cancelled or not, so that it
        does not depend on how many changes came at once; only who wants no requests has no visit."""
        if desired.opted_out or (desired.is_off and not contact_id) or desired.is_nothing:
            return "not_created"
        if not desired.has_date:
            raise MissingFact("time_unknown")
        contact_id = contact_id or await self.contacts.resolve(desired.contact, self.api)
        if contact_id is None:
            raise MissingFact("contact_unknown")
        fields = {name: value for name, value in desired.fields.items() if value is not None}
        try:
            answer = await self.api.create_visit(contact_id, root.external_id, fields)
        except Refused as refused:
            return await self._on_create_rejected(root, desired, refused)
        self._record_remote(root, answer, desired)
        return "created"

    async def _on_create_rejected(self, root: Task, desired: Wanted, rejection: Refused) -> str:
        """It may be there already; or the contact that we remember may be gone."""
        if rejection.status not in (404, 409, 422):
            raise rejection
        if rejection.status != 404 and (current := await self.api.get_visit(root.external_id)) is not None:
            return await self._update(root, current, desired)
        await self.contacts.evict(desired.contact)
        raise rejection

    async def _update(self, root: Task, current: Record, desired: Wanted) -> str:
        await self._check_contact(current, desired)
        changed = difference(current, desired)
        if not changed:
            self._record_remote(root, current, desired)
            return "unchanged"
        answer = await self.api.update_visit(root.external_id, {name: value or "" for name, value in changed.items()})
        if answer is None:
            self.remote[root.task_id] = None
            return await self._create(root, desired)
        if not answer:
            cleared = None in changed.values()
            answer = (await self.api.get_visit(root.external_id)) if cleared else {**current, **changed}
        answer = {"contact_id": current.get("contact_id"), REMEMBERED: current.get(REMEMBERED), **(answer or {})}
        if any(value is None and answer.get(name) for name, value in changed.items()):
            raise VisitMustBeRecreated(answer.get("contact_id"))
        self._record_remote(root, answer, desired)
        return "cancelled" if changed.get("date_cancelled") else "updated"

    async def _check_contact(self, current: Record, desired: Wanted) -> None:
        """Another customer needs another visit: the API does not move one. Raises Unclearable."""
        name = self.contacts.cache_key(desired.contact)
        if name is None or name == current.get(REMEMBERED):
            return
        contact_id = await self.contacts.resolve(desired.contact, self.api)
        if contact_id is None:
            raise MissingFact("contact_unknown")
        if contact_id != current.get("contact_id"):
            raise VisitMustBeRecreated(contact_id)

    def _record_remote(self, root: Task, answer: Record, desired: Wanted) -> None:
        kept = {name: answer[name] for name in REMOTE_FIELDS if answer.get(name) is not None}
        self.remote[root.task_id] = kept | {
            REMEMBERED: self.contacts.cache_key(desired.contact) or answer.get(REMEMBERED)
        }


#: What is kept of an answer, and, beside it, whose visit it was then (REMEMBERED).
REMOTE_FIELDS = (
    "id",
    "contact_id",
    "time_scheduled",
    "time_completed",
    "amount_collected",
    "date_cancelled",
    "event_date",
)
