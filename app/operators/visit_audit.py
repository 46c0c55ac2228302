"""The audit: compares the visits of an account in the Visits API with the merged changes.

    missing     the visit should exist, and the API has none
    unexpected  the visit has an external_id of a source and should not exist: it was merged into another id, or no change
                of it is stored
    different   a field or the contact differs from the merged changes
    duplicate   two visits have the same external_id, or two ids of one visit both exist

Finished visits expire after RETENTION_DAYS. An older visit with an external_id of a source is counted as `unknown`, not as a
difference. A repair requeues the visit with a recheck, so the worker reads it during its lease. Visits that no stored change
mentions are never deleted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import httpx
import orjson

from app.ledger import keys
from app.ledger.ids import NO_TASK, TaskId, new_id
from app.ledger.ledger import Ledger
from app.ledger.moves import is_moving
from app.ledger.records import NO_CAUSE, Cause, NotFound, Task
from app.operators.explain import merge_visit
from app.settings.model import Settings
from app.visits.client import ConnectionFailed, OutcomeUnknown, RateLimited, Record, ServerError, VisitsClient
from app.visits.merge import changed_fields, desired_visit, values_equal
from app.webhooks.registry import load_sources

Kind = Literal["missing", "unexpected", "different", "duplicate"]

PAGE_SIZE = 100
#: How long the progress of an audit is stored, for --resume.
PROGRESS_TTL_S = 7 * 86_400
MAX_ATTEMPTS, RETRY_DELAY_S, RATE_LIMITED_DELAY_S = 4, 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between the Visits API and the merged changes.

    task_id: the visit to repair; empty if none is stored. fields: by name, [the merged value, the value in the API].
    remote_ids: the API's own ids of the duplicates.
    """

    kind: Kind
    account: str
    visit: str
    task_id: TaskId = NO_TASK
    fields: dict[str, list[Any]] = field(default_factory=dict)
    remote_ids: list[int] = field(default_factory=list)

    @property
    def is_repairable(self) -> bool:
        return bool(self.task_id)


@dataclass(slots=True)
class AuditProgress:
    """Progress of the audit of one account.

    counts: by kind of difference, and `seen`, `foreign`, `unknown`, `in_progress`, `matching`, `requeued`.
    """

    run_id: str = field(default_factory=new_id)
    page: int = 0
    pages: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    @property
    def remaining(self) -> int:
        """The number of differences that were not requeued, with those before an interruption."""
        return sum(self.counts.get(kind, 0) for kind in get_args(Kind)) - self.counts.get("requeued", 0)


class AccountMoves(Exception):
    """The account moves, or has moved to another cell: what is stored of it here may be incomplete."""


class VisitAudit:
    """The audit of one account. Every method may raise RedisUnavailable, VisitsApiError or AccountMoves."""

    def __init__(
        self, ledger: Ledger, settings: Settings, http: httpx.AsyncClient, account: str, rate: float | None = None
    ) -> None:
        """rate: calls per second, VISITS_API_RATE by default. The workers share the rate limit of the account."""
        self._ledger, self._settings, self._account = ledger, settings, account
        self._rate = rate or settings.visits_api_rate
        self._key = f"{keys.AUDIT}{account}"
        token = settings.tokens[account]
        self._api = VisitsClient(http, settings.visits_api_url, token, [], self._before_call)
        self._prefixes = tuple(f"{name}-" for name in load_sources())
        self.progress = AuditProgress()

    @property
    def lock(self) -> str:
        return f"{self._key}:lock"

    async def _before_call(self) -> None:
        self._api.calls.clear()
        while self._rate and (wait_s := await self._ledger.acquire_rate_slot(self._account, self._rate, 10.0)):
            await asyncio.sleep(abs(wait_s))
            if wait_s > 0:
                return

    async def differences(
        self, resume: bool = False, on_progress: Callable[[AuditProgress], None] = lambda _: None
    ) -> AsyncIterator[Difference]:
        """Yield all differences: first those of visits in the API's list, then the visits that the list lacks.

        It marks the visits that it has compared, so an account has one audit at a time: see `lock`.
        resume: continue after the last finished page. on_progress: called after each page.
        """
        self.progress = await self._load_progress() if resume else AuditProgress()
        await self._check_place()
        while self.progress.page == 0 or self.progress.page < self.progress.pages:
            page = await self._fetch_page(self.progress.page + 1)
            for visit in page["visits"]:
                if difference := await self._compare(visit):
                    await self._note(difference)
                    yield difference
            self.progress.page += 1
            self.progress.pages = _page_count(page, self.progress.page)
            await self._ledger.set_with_ttl(self._key, orjson.dumps(asdict(self.progress)), PROGRESS_TTL_S * 1000)
            on_progress(self.progress)
        async for task_id in self._ledger.scan_visits(self._account):
            if difference := await self._missing(task_id):
                await self._note(difference)
                yield difference
        await self._check_place()
        await self._ledger.redis.command("DEL", self._key)

    async def recent_differences(self, since: datetime, max_pages: int) -> AsyncIterator[Difference]:
        """Yield the differences of visits that the API created since then, from at most max_pages pages.

        The API does not document whether its list begins with the newest or the oldest. The progress has all pages if none
        was left out.
        """
        await self._check_place()
        first = await self._fetch_page(1)
        self.progress = AuditProgress(pages=max(1, _page_count(first, 1)))
        numbers = list(range(1, self.progress.pages + 1))
        if not any(_is_since(visit.get("created_at"), since) for visit in first["visits"]):
            numbers.reverse()
        for number in numbers[:max_pages]:
            page = first if number == 1 else await self._fetch_page(number)
            recent = [visit for visit in page["visits"] if _is_since(visit.get("created_at"), since)]
            for visit in recent:
                if difference := await self._compare(visit, is_marked=False):
                    await self._note(difference)
                    yield difference
            self.progress.page += 1
            if page["visits"] and not recent:
                self.progress.page = self.progress.pages  # all others are older
                return

    async def repair(self, difference: Difference, cause: Cause = NO_CAUSE) -> None:
        """Requeue the visit with a recheck. Raises NotFound."""
        await self._ledger.replay(
            difference.task_id, recheck=True, duplicate_ids=difference.remote_ids, queue="replays", cause=cause
        )
        self.progress.count("requeued")

    async def _note(self, difference: Difference) -> None:
        await self._check_place()
        self.progress.count(difference.kind)

    async def _check_place(self) -> None:
        if await is_moving(self._ledger.redis, self._account):
            raise AccountMoves(self._account)

    async def _load_progress(self) -> AuditProgress:
        stored = await self._ledger.redis.command("GET", self._key)
        return AuditProgress(**orjson.loads(stored)) if stored else AuditProgress()

    async def _fetch_page(self, number: int) -> Record:
        page: Record = await self._with_retries(lambda: self._api.list_visits(number, PAGE_SIZE))
        return page

    async def _with_retries(self, call: Callable[[], Any]) -> Any:
        """Retry after temporary errors. The calls of an audit only read, so a repeat is safe."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await call()
            except RateLimited as limited:
                wait_s = RATE_LIMITED_DELAY_S if limited.wait_s is None else limited.wait_s
                if attempt == MAX_ATTEMPTS:
                    raise
            except (ServerError, ConnectionFailed, OutcomeUnknown):
                wait_s = RETRY_DELAY_S * attempt
                if attempt == MAX_ATTEMPTS:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError

    # -- visits in the list --

    async def _compare(self, visit: Record, *, is_marked: bool = True) -> Difference | None:
        self.progress.count("seen")
        name = visit.get("external_id")
        if not isinstance(name, str) or not name.startswith(self._prefixes):
            self.progress.count("foreign")
            return None
        task_id = TaskId.visit(self._account, name)
        try:
            aliases = await self._ledger.load_aliases(task_id)
        except NotFound:
            return self._unknown_visit(name, visit)
        if is_marked and (remote_ids := await self._duplicate_ids(task_id, visit)):
            return Difference("duplicate", self._account, name, aliases[0].task_id, remote_ids=remote_ids)
        if any(alias.state != "done" for alias in aliases):
            self.progress.count("in_progress")
            return None
        if aliases[0].task_id != task_id:
            return Difference(
                "duplicate" if aliases[0].remote else "unexpected", self._account, name, aliases[0].task_id
            )
        if not any(alias.changes for alias in aliases):
            return Difference("unexpected", self._account, name, task_id)
        return self._field_differences(aliases, visit)

    def _unknown_visit(self, name: str, visit: Record) -> Difference | None:
        """Report a visit without stored changes, unless its changes may have expired."""
        oldest = datetime.now(UTC) - timedelta(days=self._settings.retention_days)
        if _is_since(visit.get("created_at"), oldest):
            return Difference("unexpected", self._account, name)
        self.progress.count("unknown")
        return None

    async def _duplicate_ids(self, task_id: TaskId, visit: Record) -> list[int]:
        """Return both of the API's ids if another visit of this audit had the same external_id.

        The pages shift while visits are created, so a page may repeat a visit of an earlier page.
        """
        remote_id, audited = visit.get("id"), f"{self.progress.run_id} {visit.get('id')}"
        earlier = await self._ledger.redis.command("HGET", f"{keys.TASK}{task_id}", "audited")
        run, _, earlier_id = (earlier or b"").decode().partition(" ")
        if run == self.progress.run_id and earlier_id != str(remote_id):
            return [int(earlier_id), int(remote_id)] if earlier_id.isdecimal() and isinstance(remote_id, int) else []
        await self._ledger.mark_audited(task_id, audited)
        return []

    def _field_differences(self, aliases: list[Task], visit: Record) -> Difference | None:
        primary, desired = aliases[0], desired_visit(merge_visit(aliases))
        fields = {
            name: [value, visit.get(name)]
            for name, value in changed_fields(visit, desired).items()
            if not values_equal(visit.get(name), value)
        }
        contact_id = (primary.remote or {}).get("contact_id")
        if contact_id and contact_id != visit.get("contact_id"):
            fields["contact_id"] = [contact_id, visit.get("contact_id")]
        if not fields:
            self.progress.count("matching")
            return None
        return Difference("different", self._account, primary.external_id, primary.task_id, fields)

    # -- visits that the list lacks --

    async def _missing(self, task_id: TaskId) -> Difference | None:
        """Check a visit that should exist and was on no page.

        Fetch the visit first: the pages also shift when visits are deleted, and a worker may have created it since.
        """
        fields = ("state", "remote", "audited")
        state, remote, audited = await self._ledger.redis.command("HMGET", f"{keys.TASK}{task_id}", *fields)
        if state or not remote or (audited or b"").decode().startswith(self.progress.run_id):
            return None
        name = task_id.external_id
        visit = await self._with_retries(lambda: self._api.get_visit(name))
        if visit is None:
            return Difference("missing", self._account, name, task_id)
        return await self._compare(visit)


def _page_count(page: Record, number: int) -> int:
    """Return the number of pages. If the API does not return it, assume another page after a full one."""
    total = page.get("pagination", {}).get("total_pages")
    return total if isinstance(total, int) else number + (len(page["visits"]) >= PAGE_SIZE)


def _is_since(moment: Any, oldest: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(moment)) >= oldest
    except (ValueError, TypeError):
        return False


async def fetch_remote_visit(
    ledger: Ledger, settings: Settings, http: httpx.AsyncClient, account: str, external_id: str
) -> dict[str, Any] | None:
    """Return one visit of the Visits API without its nested objects, which contain personal data.

    Raises RedisUnavailable, VisitsApiError.
    """

    async def before_call() -> None:
        if settings.visits_api_rate:
            await ledger.acquire_rate_slot(account, settings.visits_api_rate, 0)

    api = VisitsClient(http, settings.visits_api_url, settings.tokens.get(account, ""), [], before_call)
    visit = await api.get_visit(external_id)
    return visit and {name: value for name, value in visit.items() if not isinstance(value, dict | list)}
