"""Catching up: lists the appointments of a tool, and stores the changes that no webhook told.

A listed appointment becomes a delivery of our own with the changes that its webhook would have, so it merges like any other:
doing it twice, or late, harms nothing. Creating a visit can start a review request. Therefore appointments that began before
`since` are stored only if Doorbell has their visit.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import orjson

from app.connections.connector import Connector, NotSubscribable, describe
from app.connections.context import CallContext
from app.connections.listing import ListedChanges, booking_of, read_pages, translate_record
from app.connections.stored_hooks import StoredHooks
from app.connections.tool_api import CredentialsMissing
from app.ledger import keys
from app.ledger.catch_ups import PLAN, RESULTS, CatchUp, CatchUpResult, CatchUps, CatchUpStatus
from app.ledger.connection_states import ConnectionStates
from app.ledger.ids import TaskId, delivery_time_ms, new_listed_id, new_token
from app.ledger.leases import LockContended, exclusive
from app.ledger.ledger import take_turn
from app.ledger.records import DeliveryInfo, NotFound, RecordOutdated, Task
from app.operators.explain import merge_visit
from app.settings.model import Hook
from app.telemetry.logs import log
from app.visits.change import VisitChange, encode_change, external_id
from app.visits.client import ClientError, Unauthorized, VisitsApiError
from app.visits.merge import RecordedChange, desired_visit, merge_changes
from app.webhooks.delivery import Delivery
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Untranslatable
from app.webhooks.source import LoadedSource
from app.webhooks.subscription import ApiResponse, ListedRecord, Listing, ListRequest, Refused, Window

#: Appointments further ahead are not listed.
HORIZON = timedelta(days=366)
#: Earlier appointments may have been cancelled, paid or marked since. They are listed where the tool cannot list changes.
LOOK_BACK = timedelta(days=7)
#: Before the moment at which a connection was last healthy, some webhooks may already have been lost.
OVERLAP = timedelta(hours=1)
#: How long a worker works on a catch-up before others get a turn, and how many queued visits make it wait.
TURN_S, MAX_QUEUED = 20.0, 200
DAY_MS = 86_400_000
FIRST_RETRY_S, MAX_RETRY_S, MAX_FAILED_ATTEMPTS = 10, 3_600, 30


def store_of(context: CallContext) -> CatchUps:
    settings = context.settings
    return CatchUps(context.ledger.redis, settings.secret_key or sorted(settings.tokens.values())[:1] or ["unset"])


def can_list(hook: Hook) -> bool:
    """Whether the appointments of this hook can be listed: the tool has a list, and the hook has its credentials."""
    source = hook.source
    return source.listing is not None and not source.definition.missing_credentials(hook.settings.credentials)


def is_daily(hook: Hook) -> bool:
    """Whether missed changes of this hook are looked for each day."""
    listing, chosen = hook.source.listing, hook.settings.reconcile
    return can_list(hook) and (chosen == "daily" or (chosen is None and listing is not None and listing.is_daily))


def new_catch_up(
    hook: str, since: datetime, requested_by: str, cause: str, changed_since: datetime | None = None
) -> CatchUp:
    now = datetime.now(UTC)
    times = (since, now + HORIZON, changed_since or since)
    since_ms, until_ms, changed_since_ms = (int(each.timestamp() * 1000) for each in times)
    requested_at_ms = int(now.timestamp() * 1000)
    return CatchUp(new_token(), hook, since_ms, until_ms, changed_since_ms, requested_by, requested_at_ms, cause)


async def default_since(context: CallContext, hook: str) -> datetime:
    """Return since when webhooks may have been missed: the connection's last healthy moment, with an overlap; else now."""
    state = await ConnectionStates(context.ledger.redis).get(hook)
    if not state.healthy_at_ms:
        return datetime.now(UTC)
    return datetime.fromtimestamp(state.healthy_at_ms / 1000, UTC) - OVERLAP


class Lister:
    """Lists the appointments of one hook, and decides what becomes of each. It stores nothing."""

    def __init__(self, context: CallContext, hook: Hook, catch_up: CatchUp) -> None:
        self._context, self._hook, self._catch_up = context, hook, catch_up
        self._connector = Connector(context, hook)
        self._next_call_at = 0.0
        self._listed = set[str]()

    @property
    def listing(self) -> Listing:
        if not (listing := self._hook.source.listing):
            raise NotSubscribable(f"{self._hook.source.definition.title} has no list of appointments")
        return listing

    async def start(self) -> list[ListRequest]:
        """Return the first requests."""
        since, until, changed_since = (
            datetime.fromtimestamp(ms / 1000, UTC)
            for ms in (self._catch_up.since_ms, self._catch_up.until_ms, self._catch_up.changed_since_ms)
        )
        if not self.listing.lists_changed:
            since -= LOOK_BACK
        account = await self._connector.account() if self._hook.source.subscription else ApiResponse(None)
        requests = list(self.listing.start(Window(since, until, changed_since), account))
        if self.listing.check and (ids := await self._upcoming_visits(since, until)):
            requests += self.listing.check(ids, account)
        return requests

    async def _upcoming_visits(self, since: datetime, until: datetime) -> list[str]:
        """Return the ids of this hook's visits that start in this period, without those that are cancelled.

        With several hooks of the source, no visit shows whose it is: then it returns none. Nor does a visit that is older
        than the connection: its tool's account may have been another one.
        """
        settings, source = self._context.settings, self._hook.source.name
        if sum(settings.hook(name).source.name == source for name in settings.hooks) > 1:
            return []
        ids, ledger, prefix = list[str](), self._context.ledger, f"{source}-"
        connected_at_ms = (await ConnectionStates(ledger.redis).get(self._hook.name)).connected_at_ms
        first, last = (f"{time:%Y-%m-%dT%H:%M}" for time in (since, until))
        for day in [day for day in await ledger.visit_days() if first[:10] <= day <= last[:10]]:
            for start, task_id in await ledger.visits_of_day(day):
                is_own = task_id.account == self._hook.account and task_id.external_id.startswith(prefix)
                if is_own and first <= start <= last and await self._is_current(task_id, connected_at_ms):
                    ids.append(task_id.external_id.removeprefix(prefix))
        return ids

    async def _is_current(self, task_id: TaskId, since_ms: int) -> bool:
        """Whether the visit is not cancelled, and has a change that arrived since."""
        try:
            aliases = await self._context.ledger.load_aliases(task_id)
        except NotFound:
            return False
        arrived = any(delivery_time_ms(origin) >= since_ms for alias in aliases for origin in alias.changes)
        return arrived and not desired_visit(merge_visit(aliases)).is_cancelled

    async def pages(
        self, requests: Sequence[ListRequest]
    ) -> AsyncIterator[tuple[list[tuple[ListedChanges, CatchUpResult]], list[ListRequest]]]:
        """Yield the appointments of each page with what becomes of them, and the requests that remain."""
        source, settings = self._hook.source, self._hook.settings
        async for page, remaining in read_pages(source, requests, self._call):
            listed_at, records = self._listed_at, [record for record in page.records if self._is_new(record)]
            people = await self._known_people(records, listed_at)
            listed = [
                translate_record(source, record, listed_at, settings.zone, settings.tenants, people)
                for record in records
            ]
            yield [(each, await self._result(each, _of_record(each, listed))) for each in listed], remaining

    async def _known_people(self, records: Iterable[ListedRecord], listed_at: datetime) -> dict[str, tuple[str, ...]]:
        """Return the people whom earlier records of the same bookings listed, by booking."""
        known = dict[str, tuple[str, ...]]()
        for record in records:
            with suppress(Untranslatable):
                if booking := booking_of(self._hook.source, record, listed_at):
                    known[booking[0]] = await self._context.ledger.known_people(self._hook.account, booking[0])
        return known

    def _is_new(self, record: ListedRecord) -> bool:
        """Whether no other list had the same: some tools list what changed besides what is to come."""
        digest, before = digest_of(record), len(self._listed)
        self._listed.add(digest)
        return len(self._listed) > before

    async def _call(self, request: RecordRequest) -> ApiResponse:
        await self._wait_for_turn()
        self._listed_at = await self._context.ledger.server_time()
        return await self._connector.call(request)

    async def _wait_for_turn(self) -> None:
        """Keep to the rate that the tool allows."""
        await asyncio.sleep(max(0.0, self._next_call_at - time.monotonic()))
        self._next_call_at = time.monotonic() + 1 / self.listing.calls_per_s

    async def _result(self, listed: ListedChanges, of_record: Sequence[VisitChange]) -> CatchUpResult:
        """Decide on one event of an appointment. of_record: the changes of all its events on the page."""
        if not listed.changes:
            return "unclear" if listed.problem else "unchanged"
        visits = [await self._tasks(change) for change in listed.changes]
        if not any(visits) and _starts_before(of_record, self._catch_up.since_ms):
            return "past"
        has_news = any(self._is_news(change, tasks) for change, tasks in zip(listed.changes, visits, strict=True))
        return "changed" if has_news else "unchanged"

    async def _tasks(self, change: VisitChange) -> list[Task]:
        """Return the tasks of the visit, under this id or the previous one."""
        source, account = self._hook.source.name, self._hook.account
        ids = [change.external_id(source)]
        if change.previous_visit_id:
            ids.append(external_id(source, change.previous_visit_id))
        for id in ids:
            with suppress(NotFound):
                return await self._context.ledger.load_aliases(TaskId.visit(account, id))
        return []

    def _is_news(self, change: VisitChange, tasks: Sequence[Task]) -> bool:
        """Whether the change adds something to those that are stored. Discarded ones count: an operator decided on them."""
        id = change.external_id(self._hook.source.name)
        own = next((task for task in tasks if task.external_id == id), None)
        if own is None or (change.previous_visit_id and len(tasks) == 1):
            return True
        stored = [
            each for task in tasks for is_old in (False, True) for each in task.recorded_changes(discarded=is_old)
        ]
        listed = RecordedChange.decode("listed", encode_change(change), own.alias_depth)
        return desired_visit(merge_changes([*stored, listed])) != desired_visit(merge_changes(stored))


def _of_record(listed: ListedChanges, page: Sequence[ListedChanges]) -> list[VisitChange]:
    return [change for each in page if each.record.id == listed.record.id for change in each.changes]


def _starts_before(changes: Sequence[VisitChange], since_ms: int) -> bool:
    """Whether the appointment is over before this time. One without a time is taken to be; a payment creates no visit.

    A completion that is only observed has the time of the list, which says nothing.
    """
    if any(change.payment_id for change in changes):
        return False
    times = [change.time_scheduled for change in changes]
    times += [change.time_completed for change in changes if not change.times_are_observed]
    latest = max((time.timestamp() for time in times if isinstance(time, datetime)), default=0.0)
    return latest * 1000 < since_ms


class CatchUpRunner:
    """Runs the catch-ups that are due: the step of a worker. Several workers take turns, one at a time for each hook."""

    def __init__(self, context: CallContext, stored: StoredHooks) -> None:
        self._context, self._stored = context, stored

    async def run_next(self) -> None:
        """Run each open catch-up and each plan for a while, all at once: a tool may be slow. Raises RedisUnavailable."""
        slots = await store_of(self._context).open_slots()
        if slots:
            await self._stored.refresh()  # a hook that was just connected may not be loaded yet
        for result in await asyncio.gather(*map(self._run_alone, slots), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _run_alone(self, slot: str) -> None:
        with suppress(LockContended):
            async with exclusive(self._context.ledger, f"{keys.CATCH_UP}{slot.removesuffix(PLAN)}:lock"):
                await self._run(slot)

    async def start_daily(self) -> None:
        """Start the daily reconciliations that are due. Raises RedisUnavailable."""
        settings, store = self._context.settings, store_of(self._context)
        for name in list(settings.active_hooks):
            hook = settings.hook(name)
            if not is_daily(hook):
                continue
            newest, now_ms = await store.get(name), time.time() * 1000
            is_due = newest is None or (not newest.is_open and newest.requested_at_ms < now_ms - DAY_MS)
            if is_due and await take_turn(self._context.ledger.redis, f"{keys.CATCH_UP}{name}:daily:lock", TURN_S):
                since = (
                    datetime.fromtimestamp(newest.requested_at_ms / 1000, UTC) - OVERLAP
                    if newest
                    else datetime.now(UTC)
                )
                await store.save(new_catch_up(name, since, "Doorbell", "daily"))

    async def _run(self, slot: str) -> None:
        store, settings, name = store_of(self._context), self._context.settings, slot.removesuffix(PLAN)
        catch_up = await store.get(slot)
        if catch_up is None or not catch_up.is_open:
            await (store.save(catch_up) if catch_up else store.remove(slot))  # cancelled, or unreadable
            return
        if name not in settings.hooks or not can_list(settings.hook(name)):
            await store.save(
                ended(catch_up, "failed", "the hook, its list or its credentials are no longer configured")
            )
            return
        if catch_up.next_attempt_ms > time.time() * 1000:
            return
        hook = settings.hook(name)
        try:
            await self._continue(hook, catch_up)
        except (ClientError, Unauthorized, Refused, Untranslatable, CredentialsMissing, VisitsApiError) as error:
            current = await store.get(slot) or catch_up
            await store.save(after_error(current, error, hook.source.definition.title))

    async def _continue(self, hook: Hook, catch_up: CatchUp) -> None:
        """Store the changes page by page. After each page the progress is stored, so that another worker can continue."""
        store, deadline = store_of(self._context), time.monotonic() + TURN_S
        lister = Lister(self._context, hook, catch_up)
        if catch_up.status == "queued":
            requests = await lister.start()
            catch_up = replace(catch_up, status="running", remaining=[encode_request(each) for each in requests])
            await store.save(catch_up)
        async for listed, remaining in lister.pages([decode_request(each) for each in catch_up.remaining]):
            for each, result in listed:
                if result == "changed" and not catch_up.is_plan:
                    await self._store(hook, catch_up, each)
            catch_up = counted(catch_up, listed, remaining)
            current = await store.get(catch_up.slot)
            if current is None or current.id != catch_up.id:
                return  # a newer one replaces it
            if not current.is_open:
                await store.save(ended(catch_up, "cancelled"))
                return
            if not remaining:
                catch_up = ended(catch_up, "done")
            await store.save(catch_up)
            if time.monotonic() > deadline or await self._has_backlog():
                return
        if not catch_up.remaining and catch_up.is_open:
            await store.save(ended(catch_up, "done"))

    async def _store(self, hook: Hook, catch_up: CatchUp, listed: ListedChanges) -> None:
        """Store a delivery of our own. The same record of the same catch-up is stored once."""
        record, now = listed.record, datetime.now(UTC)
        if listed.booking:
            booking, people = listed.booking
            with suppress(RecordOutdated):
                await self._context.ledger.add_people(hook.account, booking, record.requested_at or now, people)
        delivery = Delivery(hook.name, hook.source.name, (), encode_body(hook.source, record.body), now)
        info = DeliveryInfo(hook.name, hook.source.name, int(now.timestamp() * 1000), event_name="listed")
        await self._context.ledger.accept(
            delivery,
            info,
            listed.changes,
            hook.account,
            dedup_id=f"{catch_up.id} {digest_of(record)}",
            event_state="parked" if listed.problem else "",
            reason=f"untranslatable: {listed.problem}" if listed.problem else "",
            delivery_id=new_listed_id(),
        )

    async def _has_backlog(self) -> bool:
        """Whether the workers have enough to do: webhooks go first."""
        return int(await self._context.ledger.redis.command("ZCARD", keys.VISITS_QUEUE)) > MAX_QUEUED


def digest_of(record: ListedRecord) -> str:
    return hashlib.sha256(orjson.dumps([record.id, record.body, record.record, record.related])).hexdigest()


def encode_body(source: LoadedSource, body: Mapping[str, Any]) -> bytes:
    """Return the body as the tool would send it, so that the delivery can be translated again."""
    return urlencode(body).encode() if source.definition.body_format == "form" else orjson.dumps(body)


def encode_request(request: ListRequest) -> dict[str, Any]:
    sent = {
        each.name: value
        for each in fields(RecordRequest)
        if each.name != "follow_up" and (value := getattr(request.request, each.name)) not in (None, {}, ())
    }
    return {"request": sent, "context": request.context, "can_be_missing": request.can_be_missing}


def decode_request(stored: Mapping[str, Any]) -> ListRequest:
    return ListRequest(RecordRequest(**stored["request"]), stored["context"], stored.get("can_be_missing", False))


def counted(
    catch_up: CatchUp, listed: Sequence[tuple[ListedChanges, CatchUpResult]], remaining: Sequence[ListRequest]
) -> CatchUp:
    counts = Counter(catch_up.counts)
    counts.update(result for _, result in listed)
    now_ms = int(time.time() * 1000)
    past = sum(result == "changed" and _starts_before(each.changes, now_ms) for each, result in listed)
    return replace(
        catch_up,
        counts=dict(counts),
        new_past=catch_up.new_past + past,
        remaining=[encode_request(each) for each in remaining],
        problem="",
        failed_attempts=0,
    )


def ended(catch_up: CatchUp, status: CatchUpStatus, problem: str = "") -> CatchUp:
    log.info("catch_up_ended", hook=catch_up.hook, outcome=status, counts=dict(catch_up.counts))
    return replace(catch_up, status=status, remaining=(), problem=problem, ended_at_ms=int(time.time() * 1000))


def after_error(catch_up: CatchUp, error: Exception, title: str) -> CatchUp:
    """Return the catch-up after a failed call: it waits, or it failed for good."""
    sentence = describe(error, title)
    can_retry = isinstance(error, VisitsApiError) and not isinstance(error, ClientError | Unauthorized)
    attempts = catch_up.failed_attempts + 1
    if not can_retry or attempts > MAX_FAILED_ATTEMPTS:
        return ended(catch_up, "failed", sentence)
    asked_s = error.wait_s if isinstance(error, VisitsApiError) and error.wait_s is not None else 0
    wait_s = max(asked_s, min(FIRST_RETRY_S * 2 ** (attempts - 1), MAX_RETRY_S))
    next_attempt_ms = int((time.time() + wait_s) * 1000)
    return replace(catch_up, failed_attempts=attempts, next_attempt_ms=next_attempt_ms, problem=sentence)


async def plan(context: CallContext, hook: Hook, catch_up: CatchUp) -> tuple[dict[CatchUpResult, int], int]:
    """List everything and store nothing. Return the counts by result, and how many new visits would be in the past."""
    lister = Lister(context, hook, catch_up)
    async for listed, remaining in lister.pages(await lister.start()):
        catch_up = counted(catch_up, listed, remaining)
    return {result: catch_up.counts.get(result, 0) for result in RESULTS}, catch_up.new_past
