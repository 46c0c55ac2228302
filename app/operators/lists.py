"""Deliveries and failures, newest first, page by page: the address is the filter, and a page begins where another ended,
so that what arrives meanwhile moves nothing."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.records import DeliveryInfo, NotFound
from app.ledger.times import iso_timestamp
from app.operators import search_index
from app.operators.explain import Explain, Row, VisitCache, event_name
from app.operators.filter import INDEXED_STATES, Filter
from app.settings.model import Settings
from app.telemetry import counters
from app.visits.change import external_id
from app.webhooks.registry import load_sources, source_of_visit

PAGE_SIZE = 50
#: So many are asked for at once.
BATCH_SIZE = 200
#: The most rows without a match that one page reads; then it returns a cursor.
MAX_ROWS_CHECKED = 400
#: The same for rows that were rejected by their metadata alone.
MAX_SCANNED = 20_000
#: The number of tasks whose reasons are read at once.
REASON_BATCH = 1_000
#: More failures than this are counted, but not sorted by their reasons.
MAX_GROUPED = 20_000


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. more: where the next one begins, if there may be one; given_up: it stopped looking before it was full."""

    rows: list[Row]
    next_cursor: str = ""
    truncated: bool = False


@dataclass(slots=True)
class FailureGroup:
    """Failures of one reason and source."""

    reason: str
    source: str
    count: int = 0
    first: float = float("inf")
    last: float = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search came to: an address of ours, and what is there."""

    kind: str
    id: str
    visits: list[str] = field(default_factory=list)


class Lists:
    """Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, explain: Explain) -> None:
        self._ledger, self._redis, self._settings, self._explain = ledger, ledger.redis, settings, explain

    # -- lists --

    async def deliveries(self, filter: Filter, limit: int = PAGE_SIZE) -> ListPage:
        if filter.is_by_state:
            return await self.tasks(filter, limit)
        lists = [f"{keys.DELIVERIES}{hook}" for hook in await self._hooks_matching(filter)]
        is_named = filter.visit or filter.search
        rows: list[Row] = []
        looked, heads, last, visits = 0, 0, "", VisitCache(self._ledger)
        async for page in self._deliveries_by_id(filter) if is_named else self._scan(lists, filter):
            heads += len(page)
            metas = await self._delivery_infos([id for _, id in page])
            fitting = [(at, id) for (at, id), meta in zip(page, metas, strict=True) if _matches(filter, meta)]
            # In handfuls: a page is full before all of them were asked for.
            for start in range(0, len(fitting), PAGE_SIZE):
                handful = fitting[start : start + PAGE_SIZE]
                for (at, id), row in zip(
                    handful, await self._explain.delivery_summaries([id for _, id in handful], visits), strict=True
                ):
                    looked += 1
                    if not filter.state or filter.state in row["state"].split():
                        if len(rows) == limit:
                            return ListPage(rows, last)
                        rows.append(row)
                    last = f"{at:.0f}_{id}"
                if looked >= MAX_ROWS_CHECKED:
                    return ListPage(rows, last, truncated=True)
            if heads >= MAX_SCANNED:
                return ListPage(rows, f"{page[-1][0]:.0f}_{page[-1][1]}", truncated=True)
        return ListPage(rows)

    async def tasks(self, filter: Filter, limit: int = PAGE_SIZE) -> ListPage:
        """What stands in a state that is not over: visits and events, with the delivery that waits in each."""
        state = filter.state if filter.state in INDEXED_STATES else "parked"
        lists = await self._held_keys() if state == "held" else [f"{keys.STATE}{state}"]
        is_named = filter.visit or filter.search
        rows: list[Row] = []
        last = ""
        async for page in self._tasks_by_id(filter) if is_named else self._scan(lists, filter, by_arrival=False):
            wanted = await self._filter_tasks([TaskId(work) for _, work in page], filter)
            fitting = [(at, work) for at, work in page if work in wanted]
            for start in range(0, len(fitting), PAGE_SIZE):
                handful = fitting[start : start + PAGE_SIZE]
                found = await asyncio.gather(*(self.task_row(TaskId(work)) for _, work in handful))
                for (at, work), row in zip(handful, found, strict=True):
                    if row and row["state"] == state and filter.hook in ("", row["hook"]):
                        if len(rows) == limit:
                            return ListPage(rows, last)
                        rows.append(row)
                    last = f"{at:.0f}_{work}"
        return ListPage(rows)

    async def iter_pages(
        self, filter: Filter, limit: float = float("inf"), max_empty_pages: float = float("inf")
    ) -> AsyncIterator[ListPage]:
        """Pages of deliveries, until the end, the row limit, or the limit of pages without a match."""
        while True:
            page = await self.deliveries(filter, int(min(limit, BATCH_SIZE)))
            limit, max_empty_pages = limit - len(page.rows), max_empty_pages - (not page.rows)
            yield page
            if not page.next_cursor or limit <= 0 or max_empty_pages <= 0:
                return
            filter = replace(filter, cursor=page.next_cursor)

    async def count_newer(self, filter: Filter, cursor: str) -> int:
        """How many deliveries arrived after that one."""
        score = cursor.partition("_")[0]
        return await self._count_arrived(filter, f"({score}", "+inf") if re.fullmatch(r"\d{1,16}", score) else 0

    async def newest_cursor(self, filter: Filter) -> str:
        """The time of the newest delivery, for `newer`."""
        lists = [f"{keys.DELIVERIES}{hook}" for hook in await self._hooks_matching(filter)]
        ends = await asyncio.gather(*(self._redis.command("ZREVRANGE", key, 0, 0, "WITHSCORES") for key in lists))
        return f"{max((float(end[1]) for end in ends if end), default=0):.0f}"

    async def count_by_state(self) -> dict[str, int]:
        """How much work stands in each state."""
        sizes = await asyncio.gather(
            *(self._redis.command("ZCARD", f"{keys.STATE}{state}") for state in INDEXED_STATES)
        )
        held = await asyncio.gather(*(self._redis.command("ZCARD", key) for key in await self._held_keys()))
        return dict(zip(INDEXED_STATES, sizes, strict=True)) | {"held": sum(held)}

    async def _hooks_matching(self, filter: Filter) -> list[str]:
        return [filter.hook] if filter.hook else await self._all_hooks()

    async def _all_hooks(self) -> list[str]:
        return list(dict.fromkeys([*self._settings.hooks, *await self._ledger.hook_names()]))

    async def count_by_hook(self) -> dict[str, int]:
        names = await self._all_hooks()
        sizes = await asyncio.gather(*(self._redis.command("ZCARD", f"{keys.DELIVERIES}{name}") for name in names))
        return dict(zip(names, sizes, strict=True))

    async def group_by_reason(self, state: str = "parked") -> list[FailureGroup]:
        """What stands in that state, by reason and source, the largest first."""
        groups: dict[tuple[str, str], FailureGroup] = {}
        grouped = 0
        async for page in self._iter_reasons(state):
            for _, source, reason, since in page:
                group = groups.setdefault((reason, source), FailureGroup(reason, source))
                group.count += 1
                group.first, group.last = min(group.first, since), max(group.last, since)
            grouped += len(page)
            if grouped >= MAX_GROUPED:
                break
        return sorted(groups.values(), key=lambda group: -group.count)

    async def count(self, filter: Filter) -> int:
        """Count the matches: exact for tasks; for deliveries without their state."""
        if not filter.is_by_state:
            return await self._count_arrived(filter, filter.since_ms, filter.until_ms)
        if replace(filter, cursor="") == Filter(state=filter.state):
            return (await self.count_by_state())[filter.state]
        count, within = 0, (filter.since_ms, filter.until_ms)
        async for page in self._iter_reasons(filter.state if filter.state in INDEXED_STATES else "parked"):
            works = [
                work
                for work, source, reason, since in page
                if filter.reason in reason and filter.source in ("", source) and within[0] <= since <= within[1]
            ]
            count += await self._count_for_hook(filter.hook, works) if filter.hook else len(works)
        return count

    async def _count_for_hook(self, hook: str, works: Sequence[TaskId]) -> int:
        rows = await asyncio.gather(*(self.task_row(work) for work in works))
        return sum(row is not None and row["hook"] == hook for row in rows)

    async def _count_arrived(self, filter: Filter, since: float | str, until: float | str) -> int:
        hooks = await self._hooks_matching(filter)
        lists = [f"{keys.DELIVERIES}{hook}" for hook in hooks if self._hook_has_source(hook, filter.source)]
        return sum(await asyncio.gather(*(self._redis.command("ZCOUNT", key, since, until) for key in lists)))

    def _hook_has_source(self, hook: str, source: str) -> bool:
        known = self._settings.hooks.get(hook)
        return source in ("", known.source or hook) if known else True

    # -- search --

    async def search(self, text: str) -> list[SearchResult]:
        """By the id of a delivery, of a visit on either side, of a request; by e-mail address or phone number."""
        stands, visits, request = await asyncio.gather(
            self._redis.command("EXISTS", f"{keys.DELIVERY}{text}"),
            self._existing_visits(_possible_names(text)),
            counters.delivery_of_request(self._redis, text),
        )
        works = await search_index.lookup(self._redis, text, self._settings.secret_key)
        found = [SearchResult("delivery", text)] if stands else []
        found += [SearchResult("delivery", request)] if request else []
        names = list(dict.fromkeys([*visits, *(work.external_id for work in works)]))
        return found + [SearchResult("visit", name) for name in names]

    async def resolve_ids(self, filter: Filter) -> list[str]:
        """The ids of the deliveries and visits that its visit and its search mean."""
        found = [one.id for one in await self.search(filter.search)] if filter.search else []
        if filter.visit:
            visits = await self._existing_visits(_possible_names(filter.visit))
            return visits if not filter.search else [id for id in found if id in visits]
        return found

    async def _existing_visits(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are visits: one command for each account, and for each name where there is one."""
        every = await known_accounts(self._redis, self._settings.all_accounts)
        by_account = [[f"{keys.TASK}visit:{account}/{name}" for name in names] for account in every]
        sizes = await asyncio.gather(*(self._redis.command("EXISTS", *of_account) for of_account in by_account))
        accounts = [account for account, size in zip(every, sizes, strict=True) if size]
        asked = [(name, f"{keys.TASK}visit:{account}/{name}") for name in names for account in accounts]
        found = await asyncio.gather(*(self._redis.command("EXISTS", key) for _, key in asked))
        return [name for (name, _), stands in zip(asked, found, strict=True) if stands]

    # -- parts --

    async def _held_keys(self) -> list[str]:
        return [f"{keys.HELD}{one}" for one in await known_accounts(self._redis, self._settings.all_accounts)]

    async def _tasks_by_id(self, filter: Filter) -> AsyncIterator[list[tuple[float, str]]]:
        found = await asyncio.gather(*(self._task_ids(id) for id in await self.resolve_ids(filter)))
        works = {work for works in found for work in works}
        yield sorted(((0.0, work) for work in works if (0.0, work) < filter.cursor_position()), reverse=True)

    async def _task_ids(self, id: str) -> list[TaskId]:
        try:
            return await self._explain.task_ids(id)
        except NotFound:
            return []

    async def _deliveries_by_id(self, filter: Filter) -> AsyncIterator[list[tuple[float, str]]]:
        """Those that said something of the visits, and those that are named themselves; in one page, newest first."""
        found = await asyncio.gather(*(self._deliveries_of_id(name) for name in await self.resolve_ids(filter)))
        ids = list({id for ids in found for id in ids})
        metas = await self._delivery_infos(ids)
        page = [(float(meta.received_at_ms), id) for id, meta in zip(ids, metas, strict=True) if meta]
        start, within = filter.cursor_position(), (filter.since_ms, filter.until_ms)
        yield sorted((one for one in page if one < start and within[0] <= one[0] <= within[1]), reverse=True)

    async def _deliveries_of_id(self, name: str) -> set[str]:
        """Of a visit, all that said something of it; of a delivery, itself."""
        try:
            works = await self._explain.visit_task_ids(name)
        except NotFound:
            return {name}
        families = await asyncio.gather(*(self._ledger.load_aliases(work) for work in works))
        members = [member for family in families for member in family]
        return {delivery_of(origin) for one in members for origin in (*one.changes, *one.discarded_changes)}

    async def _scan(
        self, lists: Sequence[str], filter: Filter, by_arrival: bool = True
    ) -> AsyncIterator[list[tuple[float, str]]]:
        """What is in these sorted sets together, greatest score first, in pages, from where the filter begins."""
        score, name = filter.cursor_position()
        least: Any = "-inf"
        if by_arrival:
            least = filter.since_ms
            score, name = (score, name) if score <= filter.until_ms else (filter.until_ms, "")
        most = BATCH_SIZE
        while lists:
            flats = await asyncio.gather(
                *(
                    self._redis.command("ZREVRANGEBYSCORE", key, score, least, "WITHSCORES", "LIMIT", 0, most)
                    for key in lists
                )
            )
            pages = [list(zip(map(float, flat[1::2]), map(bytes.decode, flat[::2]), strict=True)) for flat in flats]
            # Below the end of a page that is full, others may have what it has too.
            bound = max((page[-1][0] for page in pages if len(page) == most), default=float("-inf"))
            merged = sorted((one for page in pages for one in page if one[0] >= bound), reverse=True)
            fresh = [one for one in merged if not name or one < (score, name)]
            if fresh:
                yield fresh
                score, name = fresh[-1]
            elif bound > float("-inf"):
                most *= 2  # more of one millisecond than fit on a page
                continue
            if bound == float("-inf"):
                return

    async def _delivery_infos(self, ids: Sequence[str]) -> list[DeliveryInfo | None]:
        return await asyncio.gather(*(self._delivery_info(id) for id in ids))

    async def _delivery_info(self, id: str) -> DeliveryInfo | None:
        try:
            return await self._ledger.load_delivery_info(id) if id else None
        except NotFound:
            return None

    async def _filter_tasks(self, works: Sequence[TaskId], filter: Filter) -> set[str]:
        if not (filter.reason or filter.source or filter.since or filter.until):
            return set(works)
        told = await asyncio.gather(
            *(self._redis.command("HMGET", f"{keys.TASK}{work}", "reason", "pending_since") for work in works)
        )
        sources = await self._sources_of_tasks(works)
        return {
            work
            for work, (reason, since) in zip(works, told, strict=True)
            if filter.reason in (reason or b"").decode()
            and filter.source in ("", sources[work])
            and filter.since_ms <= float(since or 0) <= filter.until_ms
        }

    async def _iter_reasons(self, state: str) -> AsyncIterator[list[tuple[TaskId, str, str, float]]]:
        """Everything in that state, newest first, in pages: work, source, reason, since when."""
        for key in await self._held_keys() if state == "held" else [f"{keys.STATE}{state}"]:
            for start in itertools.count(0, REASON_BATCH):
                asked = ("SORT", key, "BY", "nosort", "DESC", "LIMIT", start, REASON_BATCH)
                flat = await self._redis.command(
                    *asked, "GET", "#", "GET", f"{keys.TASK}*->reason", "GET", f"{keys.TASK}*->pending_since"
                )
                works = [TaskId(work.decode()) for work in flat[::3]]
                sources = await self._sources_of_tasks(works)
                yield [
                    (work, sources[work], (reason or b"").decode(), float(since or 0))
                    for work, reason, since in zip(works, flat[1::3], flat[2::3], strict=True)
                ]
                if len(works) < REASON_BATCH:
                    break

    async def _sources_of_tasks(self, works: Sequence[TaskId]) -> dict[str, str]:
        events = [work for work in works if work.is_event]
        metas = await self._delivery_infos([work.delivery_id for work in events])
        of_events = {work: meta.source if meta else "" for work, meta in zip(events, metas, strict=True)}
        return {work: of_events.get(work) or source_of_visit(work.external_id) for work in works}

    async def task_row(self, work: TaskId) -> Row | None:
        """As a row of deliveries: the newest one that is not applied, and what is the matter."""
        try:
            member = await self._ledger.load_task(work)
        except NotFound:
            return None
        is_visit = work.is_visit
        changes = member.discarded_changes if member.state == "discarded" else member.changes
        pending = sorted(changes, key=lambda origin: -changes[origin].number)
        deliveries = [delivery_of(origin) for origin in pending] if is_visit else [work.delivery_id]
        delivery, meta = await self._first_stored(deliveries)
        return self._explain.failure(member) | {
            "task_id": work,
            "delivery": delivery,
            "at": iso_timestamp(meta.received_at_ms) if meta else None,
            "hook": meta.hook if meta else "",
            "event": event_name(meta) if meta else "",
            "source": meta.source if meta else source_of_visit(work.external_id),
            "state": member.state,
            "visits": [member.external_id] if is_visit else [],
        }

    async def _first_stored(self, deliveries: Iterable[str]) -> tuple[str, DeliveryInfo | None]:
        """An operator's word is a change without a delivery."""
        for id in deliveries:
            if meta := await self._delivery_info(id):
                return id, meta
        return "", None


def _matches(filter: Filter, meta: DeliveryInfo | None) -> bool:
    """What the head of a delivery tells."""
    if meta is None:
        return not (filter.source or filter.state)
    fits = filter.source in ("", meta.source) and filter.hook in ("", meta.hook)
    return fits and (filter.state != "ignored" or bool(meta.ignored))


def _possible_names(id: str) -> list[str]:
    """What a visit of that id may be called: it may be ours, or the tool's."""
    return [id, *(external_id(source, id) for source in load_sources())]
