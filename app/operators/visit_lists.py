"""Lists of visits by the time at which they start."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Literal, get_args

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound, Task
from app.operators.explain import Row, merge_visit, run_off_loop
from app.operators.filter import INDEXED_STATES
from app.operators.lists import BATCH_SIZE, MAX_ROWS_CHECKED, PAGE_SIZE, ListPage
from app.operators.search_index import full_name
from app.visits.change import visit_start
from app.visits.merge import currency, desired_visit
from app.webhooks.registry import source_of_visit

#: `past` is the only one that lists the latest visits first.
When = Literal["upcoming", "today", "tomorrow", "past", "any"]
WHEN: tuple[When, ...] = get_args(When)
#: The maximum number of visits whose start, id and state one page, count or search compares.
MAX_COMPARED = 20_000
#: The number of visits whose state is read at once.
INDEX_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitFilter:
    """Matches visits by all fields that are not empty.

    since, until: `2026-03-14T16:00` in UTC; the visit starts at or after the first, and before the second. state: of its
    task. cancelled: `yes` or `no`. min_amount, max_amount: also exclude visits without an amount. cursor: the start of a
    page, the start and subject of a visit.
    """

    since: str = ""
    until: str = ""
    latest_first: bool = False
    source: str = ""
    state: str = ""
    cancelled: str = ""
    min_amount: Decimal | None = None
    max_amount: Decimal | None = None
    cursor: str = ""

    def starts_within(self, start: str) -> bool:
        return self.since <= start and (not self.until or start < self.until)

    def follows_cursor(self, start: str, task_id: TaskId) -> bool:
        if not self.cursor:
            return True
        position = _position(start, task_id)
        return position < self.cursor if self.latest_first else position > self.cursor

    def has_source(self, task_id: TaskId) -> bool:
        return not self.source or source_of_visit(task_id.external_id) == self.source

    def has_row(self, row: Row) -> bool:
        amount = _decimal(row["amount_collected"])
        return (
            self.cancelled in ("", "yes" if row["date_cancelled"] else "no")
            and (self.min_amount is None or (amount is not None and amount >= self.min_amount))
            and (self.max_amount is None or (amount is not None and amount <= self.max_amount))
        )


def period(when: str, now: datetime, zone: tzinfo | None) -> VisitFilter:
    """Return the filter of a `When`; days begin at midnight in the zone. None: the zone of this computer."""
    today = now.astimezone(zone).date()
    tomorrow = today + timedelta(1)
    periods: dict[str, tuple[date | None, date | None]] = {
        "upcoming": (today, None),
        "today": (today, tomorrow),
        "tomorrow": (tomorrow, tomorrow + timedelta(1)),
        "past": (None, today),
        "any": (None, None),
    }
    since, until = (day_start(day, zone) if day else "" for day in periods.get(when, periods["upcoming"]))
    return VisitFilter(since=since, until=until, latest_first=when == "past")


def day_start(day: date, zone: tzinfo | None) -> str:
    """Return the start of a day in a zone, as a bound of a VisitFilter."""
    midnight = datetime.combine(day, time.min, zone) if zone else datetime.combine(day, time.min).astimezone()
    return to_bound(midnight)


def to_bound(moment: datetime) -> str:
    try:
        return moment.astimezone(UTC).isoformat()[:16]
    except OverflowError:  # in the years 1 and 9999 some zones have no such time
        return moment.isoformat()[:16]


def visit_row(aliases: Sequence[Task], start: str = "") -> Row:
    """Return a visit without personal data. start: of a visit whose changes no longer have a time."""
    primary, facts = aliases[0], merge_visit(aliases)
    fields = desired_visit(facts).fields
    remote = primary.remote or {}
    merged_start = visit_start(fields) or start
    return {
        "visit": primary.external_id,
        "account": primary.account,
        "number": remote.get("id"),
        "source": source_of_visit(primary.external_id),
        "start": f"{merged_start}:00Z" if merged_start else None,
        "state": primary.state,
        "reason": primary.reason or None,
        "date_cancelled": fields.get("date_cancelled"),
        "time_completed": fields.get("time_completed"),
        "amount_collected": fields.get("amount_collected"),
        "currency": currency(facts),
    }


def task_id_of(row: Row) -> TaskId:
    return TaskId.visit(row["account"], row["visit"])


class VisitLists:
    """Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._redis = ledger, ledger.redis

    async def visits(self, filter: VisitFilter, limit: int = PAGE_SIZE) -> ListPage:
        """Return visits in the order of their start. A visit whose newest time is not applied yet has its former place."""
        rows: list[Row] = []
        compared = checked = 0
        last = filter.cursor
        async for batch in self._batches(filter):
            compared += len(batch)
            matching = await self._in_state(batch, filter)
            for position in range(0, len(matching), PAGE_SIZE):
                chunk = matching[position : position + PAGE_SIZE]
                for (start, task_id), row in zip(chunk, await self._rows(chunk), strict=True):
                    if row and filter.has_row(row):
                        if len(rows) == limit:
                            return ListPage(rows, last)
                        rows.append(row)
                    last = _position(start, task_id)
                checked += len(chunk)
                if checked >= max(MAX_ROWS_CHECKED, limit):
                    return ListPage(rows, last, truncated=True)
            last = _position(*batch[-1])
            if compared >= MAX_COMPARED:
                return ListPage(rows, last, truncated=True)
        return ListPage(rows)

    async def count(self, filter: VisitFilter) -> int | None:
        """Count the visits that start within the filter's time, whatever its other fields; None if there are too many."""
        days = [day for day in await self._ledger.visit_days() if _has_day(filter, day)]
        sizes = await asyncio.gather(*(self._redis.command("LLEN", f"{keys.VISIT_DAY}{day}") for day in days))
        if sum(sizes) > MAX_COMPARED:
            return None
        pages = await asyncio.gather(*map(self._ledger.visits_of_day, days))
        return sum(filter.starts_within(start) for page in pages for start, _ in page)

    async def customers(self, rows: Sequence[Row]) -> list[str]:
        """Return the name of the customer of each row, else an address or number; empty if there is none."""
        names: list[str] = []
        for start in range(0, len(rows), PAGE_SIZE):
            task_ids = map(task_id_of, rows[start : start + PAGE_SIZE])
            names += await asyncio.gather(*map(self._customer, task_ids))
        return names

    async def _customer(self, task_id: TaskId) -> str:
        try:
            aliases = await self._ledger.load_aliases(task_id)
        except NotFound:
            return ""
        contact = desired_visit(await run_off_loop(aliases, merge_visit, aliases)).contact
        address = "" if contact.is_erased else contact.email
        return full_name(contact.first_name, contact.last_name) or address or contact.phone or ""

    async def iter_pages(self, filter: VisitFilter, limit: int) -> AsyncIterator[ListPage]:
        """Yield pages until the end, or until `limit` rows."""
        while True:
            page = await self.visits(filter, min(limit, BATCH_SIZE))
            limit -= len(page.rows)
            yield page
            if not page.next_cursor or limit <= 0:
                return
            filter = replace(filter, cursor=page.next_cursor)

    async def _batches(self, filter: VisitFilter) -> AsyncIterator[list[tuple[str, TaskId]]]:
        """Yield start and task of the visits that the index alone does not exclude, in order."""
        days = [day for day in await self._ledger.visit_days() if _has_day(filter, day)]
        for day in reversed(days) if filter.latest_first else days:
            visits = await self._ledger.visits_of_day(day)
            matching = (
                (start, task_id)
                for start, task_id in (reversed(visits) if filter.latest_first else visits)
                if filter.starts_within(start) and filter.follows_cursor(start, task_id) and filter.has_source(task_id)
            )
            while batch := list(islice(matching, INDEX_BATCH)):
                yield batch

    async def _in_state(self, batch: Sequence[tuple[str, TaskId]], filter: VisitFilter) -> list[tuple[str, TaskId]]:
        if not filter.state:
            return list(batch)
        task_ids = [task_id for _, task_id in batch]
        accounts = {task_id.account for task_id in task_ids}
        # `done` has no index: it is the state of the visits that no index has.
        states = INDEXED_STATES if filter.state == "done" else (filter.state,)
        indexes = [key for state in states for key in _state_keys(state, accounts)]
        scores = await asyncio.gather(*(self._redis.command("ZMSCORE", key, *task_ids) for key in indexes))
        are_indexed = (any(score is not None for score in of_visit) for of_visit in zip(*scores, strict=True))
        return [visit for visit, is_in in zip(batch, are_indexed, strict=True) if is_in == (filter.state != "done")]

    async def _rows(self, visits: Sequence[tuple[str, TaskId]]) -> list[Row | None]:
        return await asyncio.gather(*(self._row(start, task_id) for start, task_id in visits))

    async def _row(self, start: str, task_id: TaskId) -> Row | None:
        """Return None for a visit that has expired, that another id represents, or that is listed elsewhere by now."""
        try:
            aliases = await self._ledger.load_aliases(task_id)
        except NotFound:
            return None
        if (aliases[0].task_id, aliases[0].start) != (task_id, start):
            return None
        return await run_off_loop(aliases, visit_row, aliases, start)


def _state_keys(state: str, accounts: Iterable[str]) -> list[str]:
    return [f"{keys.HELD}{account}" for account in accounts] if state == "held" else [f"{keys.STATE}{state}"]


def _position(start: str, task_id: TaskId) -> str:
    return f"{start} {task_id.subject}"


def _has_day(filter: VisitFilter, day: str) -> bool:
    cursor_day = filter.cursor[:10]
    if cursor_day and (day > cursor_day if filter.latest_first else day < cursor_day):
        return False
    return filter.since[:10] <= day and (not filter.until or f"{day}T00:00" < filter.until)


def _decimal(text: str | None) -> Decimal | None:
    try:
        return Decimal(text) if text else None
    except InvalidOperation:
        return None
