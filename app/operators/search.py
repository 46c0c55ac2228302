"""Search of visits and deliveries by whole ids, beginnings of ids, addresses, numbers and names."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.times import MAX_CLOCK_SKEW_MS
from app.operators import search_index
from app.operators.explain import Explain, Row, run_off_loop
from app.operators.lists import Lists, SearchResult
from app.operators.visit_lists import MAX_COMPARED, visit_row
from app.settings.model import Settings

MAX_HITS = 50
#: A beginning of an id has at least two characters; that of a delivery at least four digits, which is a time.
_BEGINNING = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,119}")
_DELIVERY_BEGINNING = re.compile(r"[dl][0-9a-f]{4,11}|[dl][0-9a-f]{11}[0-9A-Za-z]{1,16}")


@dataclass(frozen=True, slots=True)
class SearchHits:
    """rows: at most MAX_HITS, visits and deliveries. searched: what the text was compared with, as sentences."""

    rows: list[Row]
    searched: list[str]


class Search:
    """Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._redis, self._settings = ledger, ledger.redis, settings
        self._explain = Explain(ledger, settings)
        self._lists = Lists(ledger, settings, self._explain)

    async def find(self, text: str) -> SearchHits:
        """Return the visits and deliveries with this id, address or number; else those with this name or beginning."""
        results = await self._lists.search(text)
        if not results:
            visits, by_beginning, deliveries = await asyncio.gather(
                search_index.lookup_name(self._redis, text, self._settings.secret_key, MAX_HITS),
                self._visits_beginning_with(text),
                self._deliveries_beginning_with(text),
            )
            names = [task_id.external_id for task_id in (*visits, *by_beginning)]
            results = [SearchResult("visit", name) for name in names]
            results += [SearchResult("delivery", id) for id in deliveries]
        rows = [row for hits in await asyncio.gather(*map(self._rows, dict.fromkeys(results))) for row in hits]
        unique = {(row["kind"], row["id"], row.get("account")): row for row in rows}
        now = datetime.now(UTC)
        in_order = sorted(unique.values(), key=lambda row: _order(row, now))
        return SearchHits(in_order[:MAX_HITS], self._searched())

    def _searched(self) -> list[str]:
        by_contact = (
            "customers of visits that a worker has processed, by e-mail address, phone number or name (whole words; the "
            f"newest {search_index.MAX_VISITS_PER_KEY} visits of each)"
            if self._settings.secret_key
            else "no customers: SECRET_KEY is not set"
        )
        return [
            "ids of visits (Doorbell's and the tool's), deliveries and requests",
            f"beginnings of the ids of deliveries, and of the {MAX_COMPARED:,} visits whose start is nearest to today",
            by_contact,
        ]

    async def _visits_beginning_with(self, text: str) -> list[TaskId]:
        """Compare the ids of the visits nearest to today: a bounded number, whatever the number of visits is."""
        if not _BEGINNING.fullmatch(text):
            return []
        prefix, today, hits, remaining = text.casefold(), datetime.now(UTC).date(), list[TaskId](), MAX_COMPARED
        days = sorted(await self._ledger.visit_days(), key=lambda day: abs((_date(day) - today).days))
        for day in days:
            visits = await self._ledger.visits_of_day(day, remaining)
            hits += [task_id for _, task_id in visits if _begins_with(task_id.external_id.casefold(), prefix)]
            remaining -= len(visits)
            if remaining <= 0 or len(hits) >= MAX_HITS:
                break
        return hits[:MAX_HITS]

    async def _deliveries_beginning_with(self, text: str) -> list[str]:
        """Ids of deliveries begin with their time."""
        if not _DELIVERY_BEGINNING.fullmatch(text):
            return []
        first, last = (int(text[1:12].ljust(11, digit), 16) for digit in "0f")
        period = last + MAX_CLOCK_SKEW_MS, first - MAX_CLOCK_SKEW_MS
        hooks = await self._ledger.hook_names(self._settings.hooks)
        pages = await asyncio.gather(
            *(
                self._redis.command("ZREVRANGEBYSCORE", f"{keys.DELIVERIES}{hook}", *period, "LIMIT", 0, 10 * MAX_HITS)
                for hook in hooks
            )
        )
        ids = sorted((id.decode() for page in pages for id in page), reverse=True)
        return [id for id in ids if id.startswith(text)][:MAX_HITS]

    async def _rows(self, result: SearchResult) -> list[Row]:
        """Return a row for each account that has the visit."""
        try:
            if result.kind == "delivery":
                return [await self._delivery_row(result.id)]
            return [await self._visit_row(task_id) for task_id in await self._explain.visit_task_ids(result.id)]
        except NotFound:  # it has expired
            return []

    async def _delivery_row(self, id: str) -> Row:
        summary, info = await asyncio.gather(self._explain.delivery_summary(id), self._ledger.load_delivery_info(id))
        title = f"Delivery: {summary['event']}" if summary["event"] else "Delivery"
        return {
            "kind": "delivery",
            "id": id,
            "title": title,
            "at": summary["at"],
            "source": info.source,
            "state": summary["state"],
        }

    async def _visit_row(self, task_id: TaskId) -> Row:
        aliases = await self._ledger.load_aliases(task_id)
        row = await run_off_loop(aliases, visit_row, aliases)
        number = row["number"]
        return {
            "kind": "visit",
            "id": row["visit"],
            "title": f"Visit #{number}" if number else "Visit, not in Review Rover",
            "at": row["start"],
            "cancelled": bool(row["date_cancelled"]),
            **{name: row[name] for name in ("source", "state", "amount_collected", "currency", "account")},
        }


def _order(row: Row, now: datetime) -> tuple[bool, float]:
    """Order visits before deliveries, those nearest to now first."""
    distance = abs((datetime.fromisoformat(row["at"]) - now).total_seconds()) if row["at"] else float("inf")
    return row["kind"] == "delivery", distance


def _begins_with(external_id: str, prefix: str) -> bool:
    return external_id.startswith(prefix) or external_id.partition("-")[2].startswith(prefix)


def _date(day: str) -> date:
    try:
        return date.fromisoformat(day)
    except ValueError:
        return date.max
