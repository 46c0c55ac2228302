"""The audit: what the account's list of visits shows beside what our facts say.

    missing     we say that it stands, the API has none
    unexpected  it bears a name of ours and should not stand: merged into another id, or nothing that we ever heard of
    different   a field, or the contact, is not what it was when we last wrote it
    duplicate   two visits under one name, or two ids of one visit that both stand

Settled visits are forgotten after RETENTION_DAYS: what bears a name of ours and is older than that is `unknown`, and no
difference. A repair requeues the visit with a recheck; the worker reads it under its lease. Nothing is
ever removed that our facts do not know.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
import orjson

from app.ledger import keys
from app.ledger.ids import NO_TASK, TaskId, new_delivery_id
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound, Task
from app.settings.model import Settings
from app.visits.client import ConnectionFailed, OutcomeUnknown, RateLimited, Record, ServerError, VisitsClient
from app.visits.merge import changed_fields, desired_visit, merge_changes, values_equal
from app.webhooks.registry import load_sources

Kind = Literal["missing", "unexpected", "different", "duplicate"]

PAGE_SIZE = 100
#: How long the progress of an audit is stored, for --resume.
PROGRESS_TTL_S = 7 * 86_400
MAX_ATTEMPTS, RETRY_DELAY_S, RATE_LIMITED_DELAY_S = 4, 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One finding. work: our visit, where there is one to repair. fields: name to [ours, theirs]. numbers: the API's own
    ids of visits that stand beside the first."""

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
    """How far the audit of one account is. run: its name. counts: what was seen so far."""

    run_id: str = field(default_factory=new_delivery_id)
    page: int = 0
    pages: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class DriftAudit:
    """Of one account. Raises RedisUnavailable, VisitsApiError."""

    def __init__(
        self, ledger: Ledger, settings: Settings, http: httpx.AsyncClient, account: str, rate: float | None = None
    ) -> None:
        """rate: calls a second, beside those of the workers in the same line; by default VISITS_API_RATE."""
        self._ledger, self._settings, self._account = ledger, settings, account
        self._rate = rate or settings.visits_api_rate
        self._key = f"{keys.AUDIT}{account}"
        token = settings.tokens[account]
        self._api = VisitsClient(http, settings.visits_api_url, token, [], self._before_call)
        self._ours = tuple(f"{name}-" for name in load_sources())
        self.progress = AuditProgress()

    async def _before_call(self) -> None:
        self._api.calls.clear()
        while self._rate and (wait_s := await self._ledger.acquire_rate_slot(self._account, self._rate, 10.0)):
            await asyncio.sleep(abs(wait_s))
            if wait_s > 0:
                return

    async def differences(
        self, resume: bool = False, on_progress: Callable[[AuditProgress], None] = lambda _: None
    ) -> AsyncIterator[Difference]:
        """Everything that is not as it should be: first what the list shows, then what it lacks. resume: go on after the
        last page that was finished; told: hears of each."""
        self.progress = await self._load_progress() if resume else AuditProgress()
        while self.progress.page == 0 or self.progress.page < self.progress.pages:
            page = await self._fetch_page(self.progress.page + 1)
            for visit in page["visits"]:
                if found := await self._compare(visit):
                    self.progress.count(found.kind)
                    yield found
            self.progress.page += 1
            self.progress.pages = _page_count(page, self.progress.page)
            await self._ledger.set_with_ttl(self._key, orjson.dumps(asdict(self.progress)), PROGRESS_TTL_S * 1000)
            on_progress(self.progress)
        async for work in self._iter_visits():
            if found := await self._missing(work):
                self.progress.count(found.kind)
                yield found
        await self._ledger.redis.command("DEL", self._key)

    async def repair(self, difference: Difference) -> None:
        """Requeue the visit with a recheck. Raises NotFound."""
        await self._ledger.replay(
            difference.task_id, recheck=True, duplicate_ids=difference.remote_ids, queue="replays"
        )

    async def _load_progress(self) -> AuditProgress:
        kept = await self._ledger.redis.command("GET", self._key)
        return AuditProgress(**orjson.loads(kept)) if kept else AuditProgress()

    async def _fetch_page(self, number: int) -> Record:
        page: Record = await self._with_retries(lambda: self._api.list_visits(number, PAGE_SIZE))
        return page

    async def _with_retries(self, call: Callable[[], Any]) -> Any:
        """The API is asked for nothing but a list: trouble that passes is waited for."""
        for tries in range(1, MAX_ATTEMPTS + 1):
            try:
                return await call()
            except RateLimited as limited:
                wait_s = RATE_LIMITED_DELAY_S if limited.wait_s is None else limited.wait_s
                if tries == MAX_ATTEMPTS:
                    raise
            except (ServerError, ConnectionFailed, OutcomeUnknown):
                wait_s = RETRY_DELAY_S * tries
                if tries == MAX_ATTEMPTS:
                    raise
            await asyncio.sleep(wait_s)
        raise AssertionError

    # -- what the list shows --

    async def _compare(self, visit: Record) -> Difference | None:
        self.progress.count("seen")
        name = visit.get("external_id")
        if not isinstance(name, str) or not name.startswith(self._ours):
            self.progress.count("foreign")
            return None
        work = TaskId.visit(self._account, name)
        try:
            family = await self._ledger.load_aliases(work)
        except NotFound:
            return self._unknown_visit(name, visit)
        if numbers := await self._duplicate_ids(work, visit):
            return Difference("duplicate", self._account, name, family[0].task_id, remote_ids=numbers)
        if any(member.state != "done" for member in family):
            self.progress.count("in_progress")
            return None
        if family[0].task_id != work:
            return Difference("duplicate" if family[0].remote else "unexpected", self._account, name, family[0].task_id)
        if not any(member.changes for member in family):
            return Difference("unexpected", self._account, name, work)
        return self._field_differences(family, visit)

    def _unknown_visit(self, name: str, visit: Record) -> Difference | None:
        """Long ago it may have been ours; a young one that the ledger does not know never was."""
        oldest = datetime.now(UTC) - timedelta(days=self._settings.retention_days)
        if _is_since(visit.get("created_at"), oldest):
            return Difference("unexpected", self._account, name)
        self.progress.count("unknown")
        return None

    async def _duplicate_ids(self, work: TaskId, visit: Record) -> list[int]:
        """Pages shift while visits are made, so one may be seen twice; two numbers under one name are two visits."""
        number, mark = visit.get("id"), f"{self.progress.run_id} {visit.get('id')}"
        earlier = await self._ledger.redis.command("HGET", f"{keys.TASK}{work}", "audited")
        run, _, before = (earlier or b"").decode().partition(" ")
        if run == self.progress.run_id and before != str(number):
            return [int(before), int(number)] if before.isdecimal() and isinstance(number, int) else []
        await self._ledger.mark_audited(work, mark)
        return []

    def _field_differences(self, family: list[Task], visit: Record) -> Difference | None:
        root, want = (
            family[0],
            desired_visit(merge_changes(said for member in family for said in member.recorded_changes())),
        )
        theirs = {name: visit.get(name) for name in want.fields}
        fields = {
            n: [value, theirs[n]]
            for n, value in changed_fields(visit, want).items()
            if not values_equal(theirs[n], value)
        }
        contact_id = (root.remote or {}).get("contact_id")
        if contact_id and contact_id != visit.get("contact_id"):
            fields["contact_id"] = [contact_id, visit.get("contact_id")]
        if not fields:
            self.progress.count("matching")
            return None
        return Difference("different", self._account, root.external_id, root.task_id, fields)

    # -- what it lacks --

    async def _iter_visits(self) -> AsyncIterator[TaskId]:
        """The ledger's visits of this account, page by page."""
        cursor, prefix = b"0", f"{keys.TASK}visit:{self._account}/"
        while True:
            asked = ("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1_000, "TYPE", "hash")
            cursor, page = await self._ledger.redis.command(*asked)
            for key in page:
                yield TaskId(key.decode().removeprefix(keys.TASK))
            if cursor == b"0":
                return

    async def _missing(self, work: TaskId) -> Difference | None:
        """A visit that should stand and was on no page. It is asked for by its name before anything is said: pages shift
        also when visits are removed, and it may have been made meanwhile."""
        fields = ("state", "remote", "audited")
        state, api, seen = await self._ledger.redis.command("HMGET", f"{keys.TASK}{work}", *fields)
        if state or not api or (seen or b"").decode().startswith(self.progress.run_id):
            return None
        name = work.external_id
        visit = await self._with_retries(lambda: self._api.get_visit(name))
        if visit is None:
            return Difference("missing", self._account, name, work)
        return await self._compare(visit)


def _page_count(page: Record, number: int) -> int:
    """How many there are; where the API does not tell, at least one more after a full one."""
    told = page.get("pagination", {}).get("total_pages")
    return told if isinstance(told, int) else number + (len(page["visits"]) >= PAGE_SIZE)


def _is_since(moment: Any, oldest: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(moment)) >= oldest
    except (ValueError, TypeError):
        return False


async def fetch_remote_visit(
    ledger: Ledger, settings: Settings, http: httpx.AsyncClient, account: str, external_id: str
) -> dict[str, Any] | None:
    """What the API has of one visit, without what it knows of a person. Raises RedisUnavailable, VisitsApiError."""

    async def in_line() -> None:
        if settings.visits_api_rate:
            await ledger.acquire_rate_slot(account, settings.visits_api_rate, 0)

    api = VisitsClient(http, settings.visits_api_url, settings.tokens.get(account, ""), [], in_line)
    found = await api.get_visit(external_id)
    return found and {name: value for name, value in found.items() if not isinstance(value, dict | list)}
