"""Lists the appointments of a hook, and decides which of them Doorbell lacks. It stores nothing."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import orjson

from app.connections.connector import Connector, NotSubscribable
from app.connections.context import CallContext, shared_now
from app.connections.listing import ListedChanges, booking_of, read_pages, translate_record
from app.ledger.catch_ups import CatchUp, CatchUpResult
from app.ledger.connection_states import ConnectionStates
from app.ledger.ids import TaskId, delivery_time_ms
from app.ledger.records import NotFound, Task
from app.operators.explain import merge_visit
from app.settings.model import Hook
from app.visits.change import VisitChange, encode_change, external_id
from app.visits.merge import Facts, RecordedChange, desired_visit, merge_changes
from app.webhooks.fetching import RecordRequest
from app.webhooks.payload import Untranslatable
from app.webhooks.subscription import ApiResponse, ListedRecord, Listing, ListRequest, Window

#: Earlier appointments may have been cancelled, paid or marked since. They are listed where the tool cannot list changes.
LOOK_BACK = timedelta(days=7)


class Lister:
    """Lists the appointments of one hook, and decides the outcome of each. It stores nothing."""

    def __init__(self, context: CallContext, hook: Hook, catch_up: CatchUp) -> None:
        self._context, self._hook, self._catch_up = context, hook, catch_up
        self._connector = Connector(context, hook)
        self._next_call_at = 0.0
        self._listed_at = shared_now(context)
        self._seen_digests = set[str]()

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
        requests = list(self.listing.start(Window(since, until, changed_since, self._hook.settings.tenants), account))
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
        """Yield the appointments of each page with their outcomes, and the remaining requests."""
        source, settings = self._hook.source, self._hook.settings
        async for page, remaining in read_pages(source, requests, self._call, lambda: shared_now(self._context)):
            listed_at, records = self._listed_at, [record for record in page.records if self._is_first_listing(record)]
            people = await self._known_people(records, listed_at)
            listed = [
                translate_record(source, record, listed_at, settings.zone, settings.tenants, people)
                for record in records
            ]
            yield [await self._with_result(each, _of_record(each, listed)) for each in listed], remaining

    async def _known_people(self, records: Iterable[ListedRecord], listed_at: datetime) -> dict[str, tuple[str, ...]]:
        """Return the people whom earlier records of the same bookings listed, by booking."""
        known = dict[str, tuple[str, ...]]()
        for record in records:
            with suppress(Untranslatable):
                if booking := booking_of(self._hook.source, record, listed_at):
                    known[booking[0]] = await self._context.ledger.known_people(self._hook.account, booking[0])
        return known

    def _is_first_listing(self, record: ListedRecord) -> bool:
        """Whether no earlier list had this record: some tools have one list of changed and one of upcoming appointments."""
        digest, before = digest_of(record), len(self._seen_digests)
        self._seen_digests.add(digest)
        return len(self._seen_digests) > before

    async def _call(self, request: RecordRequest) -> ApiResponse:
        await self._wait_for_turn()
        self._listed_at = await self._context.ledger.server_time()
        response = await self._connector.call(request)
        # A clock may have gone back by some ms since the catch-up was requested.
        earliest = datetime.fromtimestamp(self._catch_up.requested_at_ms / 1000, UTC)
        response.requested_at = max(response.requested_at, earliest)
        return response

    async def _wait_for_turn(self) -> None:
        """Wait as the tool's rate limit requires."""
        await asyncio.sleep(max(0.0, self._next_call_at - time.monotonic()))
        self._next_call_at = time.monotonic() + 1 / self.listing.calls_per_s

    async def _with_result(
        self, listed: ListedChanges, of_record: Sequence[VisitChange]
    ) -> tuple[ListedChanges, CatchUpResult]:
        """Decide on one event of an appointment. of_record: the changes of all its events on the page."""
        if not listed.changes:
            return listed, "unclear" if listed.problem else "unchanged"
        visits = [await self._tasks(change) for change in listed.changes]
        if not any(visits) and starts_before(of_record, self._catch_up.since_ms):
            return listed, "past"
        pairs = [self._compared(change, tasks) for change, tasks in zip(listed.changes, visits, strict=True)]
        if any(pair is None or desired_visit(pair.before) != desired_visit(pair.after) for pair in pairs):
            return listed, "changed"
        # A list without the time of the last change is ordered by its own time: that is later for every list.
        newer = (
            change.version < self._catch_up.requested_at_ms * 1000 and pair is not None and pair.has_later_version
            for change, pair in zip(listed.changes, pairs, strict=True)
        )
        return replace(listed, is_newer=any(newer)), "unchanged"

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

    def _compared(self, change: VisitChange, tasks: Sequence[Task]) -> "ComparedFacts | None":
        """Return the facts without and with the change; None if Doorbell does not have the visit, or this id of it.

        Discarded changes count: an operator decided on them.
        """
        id = change.external_id(self._hook.source.name)
        own = next((task for task in tasks if task.external_id == id), None)
        if own is None or (change.previous_visit_id and len(tasks) == 1):
            return None
        current, discarded = (
            [each for task in tasks for each in task.recorded_changes(discarded=is_old)] for is_old in (False, True)
        )
        listed, stored = RecordedChange.decode("listed", encode_change(change), own.alias_depth), [*current, *discarded]
        return ComparedFacts(merge_changes(stored), merge_changes([*stored, listed]), bool(discarded))


class ComparedFacts(NamedTuple):
    """The facts of a visit without and with a listed change. has_discarded: whether some are of discarded changes."""

    before: Facts
    after: Facts
    has_discarded: bool

    @property
    def has_later_version(self) -> bool:
        """Whether the change decides a fact, by the tool's version: an equal value, or one that makes no difference yet.

        Not of a visit with discarded changes: a new change would requeue it.
        """
        return not self.has_discarded and any(
            name not in self.before or fact.stamp[:2] > self.before[name].stamp[:2] for name, fact in self.after.items()
        )


def _of_record(listed: ListedChanges, page: Sequence[ListedChanges]) -> list[VisitChange]:
    return [change for each in page if each.record.id == listed.record.id for change in each.changes]


def starts_before(changes: Sequence[VisitChange], since_ms: int) -> bool:
    """Whether the appointment starts, or was completed, before this time.

    One without a time counts as one that does. A payment creates no visit.
    A completion that is only observed has the time of the list, which says nothing.
    """
    if any(change.payment_id for change in changes):
        return False
    times = [change.time_scheduled for change in changes]
    times += [change.time_completed for change in changes if not change.times_are_observed]
    latest = max((time.timestamp() for time in times if isinstance(time, datetime)), default=0.0)
    return latest * 1000 < since_ms


def digest_of(record: ListedRecord) -> str:
    return hashlib.sha256(orjson.dumps([record.id, record.body, record.record, record.related])).hexdigest()
