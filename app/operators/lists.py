"""Lists of deliveries and tasks, newest first, with searches and counts.

A page begins at a cursor, so new deliveries do not shift the later pages.
"""

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.ledger import keys
from app.ledger.ids import TaskId, delivery_of
from app.ledger.ledger import Ledger, known_accounts
from app.ledger.reasons import reason_now
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
BATCH_SIZE = 200
#: The maximum number of rows that one page reads before it returns a cursor.
MAX_ROWS_CHECKED = 400
#: The same limit for deliveries and tasks that their metadata alone excludes.
MAX_SCANNED = 10_000
#: The number of tasks whose reasons are read at once.
REASON_BATCH = 1_000
#: More failures than this are counted, but not sorted by their reasons.
MAX_GROUPED = 10_000


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. next_cursor: empty on the last page. truncated: the search stopped before the page was full."""

    rows: list[Row]
    next_cursor: str = ""
    truncated: bool = False


@dataclass(slots=True)
class FailureGroup:
    """The tasks of one state with the same reason and source.

    newest: the visit or delivery of the newest one. first, last: when they became pending, in ms.
    """

    reason: str
    source: str
    newest: str
    count: int = 0
    first: float = float("inf")
    last: float = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A match of a search. kind: `delivery` or `visit`."""

    kind: str
    id: str


class Lists:
    """Lists, counts and searches. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, explain: Explain) -> None:
        self._ledger, self._redis, self._settings, self._explain = ledger, ledger.redis, settings, explain

    # -- lists --

    async def deliveries(self, filter: Filter, limit: int = PAGE_SIZE) -> ListPage:
        if filter.is_by_state:
            return ListPage([]) if filter.is_contradictory else await self.tasks(filter, limit)
        lists = [f"{keys.DELIVERIES}{hook}" for hook in await self._hooks_matching(filter)]
        rows: list[Row] = []
        checked, scanned, last, visits = 0, 0, "", VisitCache(self._ledger)
        async for page in self._deliveries_by_id(filter) if filter.is_by_id else self._scan(lists, filter):
            scanned += len(page)
            metas = await self._ledger.load_delivery_infos([id for _, id in page])
            matches = [(at, id) for (at, id), meta in zip(page, metas, strict=True) if _matches(filter, meta)]
            # In chunks: the page may be full before all summaries are needed.
            for start in range(0, len(matches), PAGE_SIZE):
                chunk = matches[start : start + PAGE_SIZE]
                summaries = await self._explain.delivery_summaries([id for _, id in chunk], visits)
                for (at, id), row in zip(chunk, summaries, strict=True):
                    if not filter.state or filter.state in row["state"].split():
                        if len(rows) == limit:
                            return ListPage(rows, last)
                        rows.append(row)
                    last = _position(at, id)
                checked += len(chunk)
                if checked >= MAX_ROWS_CHECKED:
                    return ListPage(rows, last, truncated=True)
            if scanned >= MAX_SCANNED:
                return ListPage(rows, _position(*page[-1]), truncated=True)
        return ListPage(rows)

    async def tasks(self, filter: Filter, limit: int = PAGE_SIZE) -> ListPage:
        """Return tasks of a state that has an index, each with its newest delivery that is not applied."""
        state = filter.state if filter.state in INDEXED_STATES else "parked"
        lists = await self._held_keys() if state == "held" else [f"{keys.STATE}{state}"]
        rows: list[Row] = []
        checked, scanned, last = 0, 0, ""
        async for page in self._tasks_by_id(filter) if filter.is_by_id else self._scan(lists, filter, by_arrival=False):
            scanned += len(page)
            matching = await self._filter_tasks([TaskId(task_id) for _, task_id in page], filter)
            matches = [(at, task_id) for at, task_id in page if task_id in matching]
            for start in range(0, len(matches), PAGE_SIZE):
                chunk = matches[start : start + PAGE_SIZE]
                task_rows = await asyncio.gather(*(self.task_row(TaskId(task_id)) for _, task_id in chunk))
                for (at, task_id), row in zip(chunk, task_rows, strict=True):
                    if row and row["state"] == state and filter.hook in ("", row["hook"]):
                        if len(rows) == limit:
                            return ListPage(rows, last)
                        rows.append(row)
                    last = _position(at, task_id)
                checked += len(chunk)
                if checked >= max(MAX_ROWS_CHECKED, limit):
                    return ListPage(rows, last, truncated=True)
            if scanned >= MAX_SCANNED:
                return ListPage(rows, _position(*page[-1]), truncated=True)
        return ListPage(rows)

    async def iter_pages(
        self, filter: Filter, limit: float = float("inf"), max_empty_pages: float = float("inf")
    ) -> AsyncIterator[ListPage]:
        """Yield pages of deliveries until the end, the row limit, or the limit of pages without a match."""
        while True:
            page = await self.deliveries(filter, int(min(limit, BATCH_SIZE)))
            limit, max_empty_pages = limit - len(page.rows), max_empty_pages - (not page.rows)
            yield page
            if not page.next_cursor or limit <= 0 or max_empty_pages <= 0:
                return
            filter = replace(filter, cursor=page.next_cursor)

    async def count_newer(self, filter: Filter, cursor: str) -> int:
        score = cursor.partition("_")[0]
        return await self._count_arrived(filter, f"({score}", "+inf") if re.fullmatch(r"\d{1,16}", score) else 0

    async def newest_cursor(self, filter: Filter) -> str:
        """Return a cursor for `count_newer` at the newest delivery."""
        lists = [f"{keys.DELIVERIES}{hook}" for hook in await self._hooks_matching(filter)]
        newest = await asyncio.gather(*(self._redis.command("ZREVRANGE", key, 0, 0, "WITHSCORES") for key in lists))
        return f"{max((float(end[1]) for end in newest if end), default=0):.0f}"

    async def neighbors(self, hook: str, id: str) -> tuple[str, str]:
        """Return the deliveries of the hook that arrived before and after this one, or empty strings."""
        key = f"{keys.DELIVERIES}{hook}"
        rank = await self._redis.command("ZRANK", key, id)
        if rank is None:
            return "", ""
        ids = [id.decode() for id in await self._redis.command("ZRANGE", key, max(0, rank - 1), rank + 1)]
        if id not in ids:  # the ranks changed in between, since the oldest deliveries expired
            return await self.neighbors(hook, id)
        position = ids.index(id)
        return "".join(ids[:position]), "".join(ids[position + 1 :])

    async def count_by_state(self) -> dict[str, int]:
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
        """Group the tasks of a state by reason and source, the largest group first."""
        groups: dict[tuple[str, str], FailureGroup] = {}
        grouped = 0
        async for page in self._iter_reasons(state):
            for task_id, source, reason, since in page:
                group = groups.setdefault((reason, source), FailureGroup(reason, source, task_id.display_id))
                group.count += 1
                group.first, group.last = min(group.first, since), max(group.last, since)
            grouped += len(page)
            if grouped >= MAX_GROUPED:
                break
        return sorted(groups.values(), key=lambda group: -group.count)

    async def count(self, filter: Filter, max_compared: float = float("inf")) -> int:
        """Count the matches; an upper bound if `has_exact_count` of the filter is false.

        The state of a delivery is not checked, nor is the hook of many tasks. max_compared: compares only this number of
        tasks, the newest; then the count is a lower bound.
        """
        if filter.is_contradictory:
            return 0
        if filter.is_by_id:
            return await self._count_by_id(replace(filter, cursor=""))
        if not filter.is_by_state:
            return await self._count_arrived(filter, filter.since_ms, filter.until_ms)
        if replace(filter, cursor="") == Filter(state=filter.state):
            return (await self.count_by_state())[filter.state]
        count, compared, task_ids, period = 0, 0, list[TaskId](), (filter.since_ms, filter.until_ms)
        async for page in self._iter_reasons(filter.state if filter.state in INDEXED_STATES else "parked"):
            matching = [
                task_id
                for task_id, source, reason, since in page
                if filter.reason in reason and filter.source in ("", source) and period[0] <= since <= period[1]
            ]
            count += len(matching)
            compared += len(page)
            if count <= MAX_ROWS_CHECKED:
                task_ids += matching
            if compared >= max_compared:
                break
        return await self._count_for_hook(filter.hook, task_ids) if filter.hook and count <= MAX_ROWS_CHECKED else count

    async def _count_by_id(self, filter: Filter) -> int:
        if filter.is_by_state:
            return len((await self.tasks(filter, sys.maxsize)).rows)
        count = 0
        async for page in self._deliveries_by_id(filter):
            count += sum(
                _matches(filter, meta) for meta in await self._ledger.load_delivery_infos([id for _, id in page])
            )
        return count

    async def _count_for_hook(self, hook: str, task_ids: Sequence[TaskId]) -> int:
        count = 0
        for start in range(0, len(task_ids), REASON_BATCH):
            batch = task_ids[start : start + REASON_BATCH]
            rows = await asyncio.gather(*map(self.task_row, batch))
            count += sum(row is not None and row["hook"] == hook for row in rows)
        return count

    async def _count_arrived(self, filter: Filter, since: float | str, until: float | str) -> int:
        hooks = await self._hooks_matching(filter)
        lists = [f"{keys.DELIVERIES}{hook}" for hook in hooks if self._hook_has_source(hook, filter.source)]
        return sum(await asyncio.gather(*(self._redis.command("ZCOUNT", key, since, until) for key in lists)))

    def _hook_has_source(self, hook: str, source: str) -> bool:
        configured = self._settings.hooks.get(hook)
        return source in ("", configured.source or hook) if configured else True

    # -- search --

    async def search(self, text: str, limit: int = PAGE_SIZE) -> list[SearchResult]:
        """Search by the id of a delivery, request or visit (ours or the tool's), by e-mail address or phone number.

        limit: of visits with the address or number.
        """
        [delivery], visits, request = await asyncio.gather(
            self._ledger.load_delivery_infos([text]),
            self._existing_visits(_possible_names(text)),
            counters.delivery_of_request(self._redis, text),
        )
        task_ids = await search_index.lookup(self._redis, text, self._settings.secret_key, limit)
        results = [SearchResult("delivery", text)] if delivery else []
        results += [SearchResult("delivery", request)] if request else []
        names = list(dict.fromkeys([*visits, *(task_id.external_id for task_id in task_ids)]))
        return results + [SearchResult("visit", name) for name in names]

    async def resolve_ids(self, filter: Filter) -> list[str]:
        """Return the ids of the deliveries and visits that match `visit` and `search` of the filter."""
        results = await self.search(filter.search, search_index.MAX_SELECTED) if filter.search else []
        ids = [result.id for result in results]
        if filter.visit:
            visits = await self._existing_visits(_possible_names(filter.visit))
            return visits if not filter.search else [id for id in ids if id in visits]
        return ids

    async def _existing_visits(self, names: Sequence[str]) -> list[str]:
        """Return the names that are visits, once for each account that has them."""
        accounts = await known_accounts(self._redis, self._settings.all_accounts)
        candidates = [(name, f"{keys.TASK}visit:{account}/{name}") for name in names for account in accounts]
        existing = await self._redis.pipeline([("EXISTS", key) for _, key in candidates])
        return [name for (name, _), exists in zip(candidates, existing, strict=True) if exists]

    # -- parts --

    async def _held_keys(self) -> list[str]:
        return [f"{keys.HELD}{account}" for account in await known_accounts(self._redis, self._settings.all_accounts)]

    async def _tasks_by_id(self, filter: Filter) -> AsyncIterator[list[tuple[float, str]]]:
        groups = await asyncio.gather(*(self._task_ids(id) for id in await self.resolve_ids(filter)))
        entries = {(0.0, task_id) for task_ids in groups for task_id in task_ids}
        yield sorted((entry for entry in entries if entry < filter.cursor_position()), reverse=True)

    async def _task_ids(self, id: str) -> list[TaskId]:
        try:
            return await self._explain.task_ids(id)
        except NotFound:
            return []

    async def _deliveries_by_id(self, filter: Filter) -> AsyncIterator[list[tuple[float, str]]]:
        """Yield one page with the deliveries that have a matching id, or that changed a visit with a matching id."""
        ids_by_visit = await asyncio.gather(*(self._deliveries_of_id(name) for name in await self.resolve_ids(filter)))
        ids = list({id for ids in ids_by_visit for id in ids})
        metas = await self._ledger.load_delivery_infos(ids)
        page = [(float(meta.received_at_ms), id) for id, meta in zip(ids, metas, strict=True) if meta]
        start, period = filter.cursor_position(), (filter.since_ms, filter.until_ms)
        yield sorted((entry for entry in page if entry < start and period[0] <= entry[0] <= period[1]), reverse=True)

    async def _deliveries_of_id(self, name: str) -> set[str]:
        """Return all deliveries that changed the visit `name`, or `name` itself if it is a delivery."""
        try:
            task_ids = await self._explain.visit_task_ids(name)
        except NotFound:
            return {name}
        visits = await asyncio.gather(*(self._ledger.load_aliases(task_id) for task_id in task_ids))
        tasks = [task for aliases in visits for task in aliases]
        return {delivery_of(origin) for task in tasks for origin in (*task.changes, *task.discarded_changes)}

    async def _scan(
        self, lists: Sequence[str], filter: Filter, by_arrival: bool = True
    ) -> AsyncIterator[list[tuple[float, str]]]:
        """Yield the entries of these sorted sets, greatest score first, in pages, from the cursor of the filter."""
        score, name = filter.cursor_position()
        min_score: Any = "-inf"
        if by_arrival:
            min_score = filter.since_ms
            score, name = (score, name) if score <= filter.until_ms else (filter.until_ms, "")
        limit = BATCH_SIZE
        while lists:
            replies = await asyncio.gather(
                *(
                    self._redis.command("ZREVRANGEBYSCORE", key, score, min_score, "WITHSCORES", "LIMIT", 0, limit)
                    for key in lists
                )
            )
            pages = [
                list(zip(map(float, reply[1::2]), map(bytes.decode, reply[::2]), strict=True)) for reply in replies
            ]
            # Below the end of a full page, its list may have entries that belong between those of the other lists.
            bound = max((page[-1][0] for page in pages if len(page) == limit), default=float("-inf"))
            merged = sorted((entry for page in pages for entry in page if entry[0] >= bound), reverse=True)
            entries = [entry for entry in merged if not name or entry < (score, name)]
            if entries:
                yield entries
                score, name = entries[-1]
            elif bound > float("-inf"):
                limit *= 2  # one millisecond has more entries than a page
                continue
            if bound == float("-inf"):
                return

    async def _filter_tasks(self, task_ids: Sequence[TaskId], filter: Filter) -> set[str]:
        if not (filter.reason or filter.source or filter.since or filter.until):
            return set(task_ids)
        fields = await self._reasons(task_ids)
        sources = await self._sources_of_tasks(task_ids)
        return {
            task_id
            for task_id, (reason, since) in zip(task_ids, fields, strict=True)
            if filter.reason in reason
            and filter.source in ("", sources[task_id])
            and filter.since_ms <= since <= filter.until_ms
        }

    async def _reasons(self, task_ids: Sequence[TaskId]) -> list[tuple[str, float]]:
        """Return the reason of each task, and when it became pending, in ms."""
        commands = [("HMGET", f"{keys.TASK}{task_id}", "state", "reason", "pending_since") for task_id in task_ids]
        stored = list(zip(task_ids, await self._redis.pipeline(commands), strict=True))
        held_in = {task_id.account for task_id, (state, _, _) in stored if state == b"held"}
        account_reasons = await self._ledger.reasons_to_hold(held_in)

        def reason_of(task_id: TaskId, state: bytes | None, reason: bytes | None) -> str:
            text = (reason or b"").decode()
            return reason_now(text, account_reasons[task_id.account]) if state == b"held" else text

        return [(reason_of(task_id, state, reason), float(since or 0)) for task_id, (state, reason, since) in stored]

    async def _iter_reasons(self, state: str) -> AsyncIterator[list[tuple[TaskId, str, str, float]]]:
        """Yield pages of (task, source, reason, time in ms when it became pending) of a state, newest first."""
        for key in await self._held_keys() if state == "held" else [f"{keys.STATE}{state}"]:
            for start in itertools.count(0, REASON_BATCH):
                reply = await self._redis.command("ZREVRANGE", key, start, start + REASON_BATCH - 1)
                task_ids = [TaskId(task_id.decode()) for task_id in reply]
                fields = await self._reasons(task_ids)
                sources = await self._sources_of_tasks(task_ids)
                yield [
                    (task_id, sources[task_id], reason, since)
                    for task_id, (reason, since) in zip(task_ids, fields, strict=True)
                ]
                if len(task_ids) < REASON_BATCH:
                    break

    async def _sources_of_tasks(self, task_ids: Sequence[TaskId]) -> dict[str, str]:
        events = [task_id for task_id in task_ids if task_id.is_event]
        metas = await self._ledger.load_delivery_infos([task_id.delivery_id for task_id in events])
        of_events = {task_id: meta.source if meta else "" for task_id, meta in zip(events, metas, strict=True)}
        return {task_id: of_events.get(task_id) or source_of_visit(task_id.external_id) for task_id in task_ids}

    async def task_row(self, task_id: TaskId) -> Row | None:
        """Return a row like those of deliveries: the newest delivery that is not applied, and the failure."""
        try:
            task = await self._ledger.load_task(task_id)
        except NotFound:
            return None
        is_visit = task_id.is_visit
        changes = task.discarded_changes if task.state == "discarded" else task.changes
        pending = sorted(changes, key=lambda origin: -changes[origin].number)
        deliveries = [delivery_of(origin) for origin in pending] if is_visit else [task_id.delivery_id]
        delivery, meta = await self._first_stored(deliveries)
        return self._explain.failure(task) | {
            "task_id": task_id,
            "delivery": delivery,
            "at": iso_timestamp(meta.received_at_ms) if meta else None,
            "hook": meta.hook if meta else "",
            "event": event_name(meta) if meta else "",
            "source": meta.source if meta else source_of_visit(task_id.external_id),
            "state": task.state,
            "visits": [task.external_id] if is_visit else [],
        }

    async def _first_stored(self, deliveries: Iterable[str]) -> tuple[str, DeliveryInfo | None]:
        # A change that an operator made has no delivery.
        for id in deliveries:
            [meta] = await self._ledger.load_delivery_infos([id])
            if meta:
                return id, meta
        return "", None


def _position(at: float, name: str) -> str:
    """Return the cursor of a page that begins after this entry."""
    return f"{at:.0f}_{name}"


def _matches(filter: Filter, meta: DeliveryInfo | None) -> bool:
    """Check the metadata of a delivery. Its state is checked later: a worker may have ignored an event."""
    if meta is None:
        return not (filter.source or filter.state)
    is_in_hook = filter.source in ("", meta.source) and filter.hook in ("", meta.hook)
    is_ignored = bool(meta.ignored) or any(task_id.is_event for task_id in meta.task_ids)
    return is_in_hook and (filter.state != "ignored" or is_ignored)


def _possible_names(id: str) -> list[str]:
    """Return the external_ids that `id` can mean: itself, or the tool's id in any source."""
    return [id, *(external_id(source, id) for source in load_sources())]
