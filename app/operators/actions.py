"""Actions of operators, from the console or the command line. Each is recorded in the activity log before it is done."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Cause, NotFound
from app.operators.activity_log import Action, ActivityLog
from app.operators.erasure import Erasure, ErasureReport, activity_target, erase_all
from app.operators.explain import Explain
from app.operators.filter import Filter
from app.operators.lists import Lists
from app.operators.operations import OperationRequest, Operations, new_operation_id
from app.operators.selection import Mode
from app.settings.model import Settings
from app.telemetry.payload_watch import acknowledge, payload_changes

if TYPE_CHECKING:
    import httpx

    from app.operators.visit_audit import Difference, VisitAudit


@dataclass(frozen=True, slots=True)
class Actor:
    """The person who acts: a user of the console or of the command line."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class RemoteVisit:
    """A visit as the Visits API has it now. `visit` is None if the API has no such visit."""

    account: str
    external_id: str
    visit: dict[str, Any] | None


class Actions:
    """An action that cannot be recorded is not done. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, actor: Actor) -> None:
        self._ledger, self._settings, self._actor = ledger, settings, actor
        self._log, self._operations = ActivityLog(ledger), Operations(ledger, settings)
        self._explain = Explain(ledger, settings)

    @property
    def actor_name(self) -> str:
        return self._actor.name

    async def record(
        self, action: Action, target: str = "", *, operation: str = "", affected: Iterable[TaskId] = ()
    ) -> str:
        return await self._log.record(
            self._actor.name, self._actor.role, action, target, operation=operation, affected=affected
        )

    # -- accounts --

    async def pause(self, account: str) -> bool:
        """Return False if the account was already paused. Raises NotFound for an unknown account."""
        return await self._set_paused(account, True)

    async def resume(self, account: str) -> bool:
        """Return False if the account was not paused. Its hooks may have been removed from the settings."""
        return await self._set_paused(account, False)

    async def _set_paused(self, account: str, is_paused: bool) -> bool:
        if is_paused and account not in self._settings.accounts.values():
            raise NotFound(account, "account")
        if await self._ledger.is_paused(account) == is_paused:
            return False
        await self.record("paused" if is_paused else "resumed", account)
        return await self._ledger.pause(account, is_paused)

    # -- payloads --

    async def acknowledge_payload_changes(self, source: str) -> int:
        """Mark the open changes of a source as known. Return how many."""
        changes = await payload_changes(self._ledger.redis, source, is_open=True)
        if changes:
            await self.record("acknowledged payload changes", f"{source}: {len(changes)}")
            await acknowledge(self._ledger.redis, changes, self._actor.name)
        return len(changes)

    # -- personal data --

    async def reveal_delivery(self, id: str, fields: str = "everything") -> None:
        """Record that personal data of a delivery is shown. Raises NotFound."""
        await self._ledger.load_delivery_info(id)
        await self.record("revealed delivery", f"{id}: {fields}", affected=[TaskId.event(id)])

    async def reveal_arrivals(self, hook: str) -> None:
        """Record that personal data of everything that arrives at a hook is shown from now on."""
        await self.record("revealed delivery", f"everything that arrives at the hook {hook}")

    async def reveal_visit(self, external_id: str, fields: str = "everything") -> None:
        """Record that personal data of a visit is shown. Raises NotFound."""
        task_ids = await self._explain.visit_task_ids(external_id)
        await self.record("revealed visit", f"{external_id}: {fields}", affected=task_ids)

    async def reveal_visits(self, task_ids: Sequence[TaskId]) -> None:
        """Record that the customers of these visits are shown."""
        visits = "1 visit" if len(task_ids) == 1 else f"{len(task_ids):,} visits"
        await self.record("revealed visit", f"the customers of {visits}", affected=task_ids)

    async def keep_specimen(self, id: str) -> None:
        """Record that a delivery is turned into a specimen, in which personal data is replaced."""
        await self.record("kept a specimen", id, affected=[TaskId.event(id)])

    async def export(self, kind: Literal["deliveries", "visits"], filter: Filter) -> None:
        """Record that personal data of all deliveries or visits that match a filter is exported."""
        if kind == "deliveries":
            await self.record("exported deliveries", filter.describe())
        else:
            await self.record("exported visits", filter.describe(kind="visit"))

    async def erase(self, erasures: Sequence[Erasure], planned: ErasureReport) -> ErasureReport:
        affected = [*planned.visits, *map(TaskId.event, planned.deliveries)]
        await self.record("erased person", activity_target(erasures, planned), affected=affected)
        return await erase_all(erasures)

    # -- the Visits API --

    async def fetch_remote(self, external_id: str, http: "httpx.AsyncClient") -> list[RemoteVisit]:
        """Read the visit from the Visits API, once per account that knows it. Raises NotFound, VisitsApiError."""
        task_ids = await self._explain.visit_task_ids(external_id)
        visits = [await self._ledger.load_aliases(task_id) for task_id in task_ids]
        await self.record("fetched remote visit", external_id, affected=task_ids)
        return [await self._fetch_remote(visit[0].account, visit[0].external_id, http) for visit in visits]

    async def _fetch_remote(self, account: str, external_id: str, http: "httpx.AsyncClient") -> RemoteVisit:
        # Imported late: no other action needs an HTTP client.
        from app.operators.visit_audit import fetch_remote_visit

        visit = await fetch_remote_visit(self._ledger, self._settings, http, account, external_id)
        return RemoteVisit(account, external_id, visit)

    async def repair(self, audit: "VisitAudit", difference: "Difference") -> None:
        """Requeue a visit that the Visits API has different. Raises NotFound."""
        task_id = difference.task_id
        activity = await self.record("repaired visit", task_id.display_id, affected=[task_id])
        await audit.repair(difference, Cause(activity, affected=(task_id,)))

    # -- operations --

    async def start(self, request: OperationRequest) -> str:
        """Store a replay or discard for a worker and return its id. Raises NotFound if its search has no match."""
        id, filter = new_operation_id(), await self._without_search(request.filter)
        target = ", ".join([request.selection, *_variants(request)])
        action: Action = "started replay" if request.kind == "replay" else "started discard"
        activity = await self.record(action, target, operation=id)
        return await self._operations.create(replace(request, filter=filter), id=id, activity=activity)

    async def _without_search(self, filter: Filter) -> Filter:
        """Replace a search, which may be an e-mail address, by the matching ids before the operation is stored."""
        if not filter.search:
            return filter
        ids = await Lists(self._ledger, self._settings, self._explain).resolve_ids(filter)
        if not ids:
            raise NotFound("", "delivery or visit that matches the search")
        return replace(filter, ids=tuple(ids), visit="", search="", search_token="")

    async def cancel(self, operation: str) -> bool:
        """Stop an operation; finished steps are not undone. Return False if it has already ended. Raises NotFound."""
        if not (await self._operations.get(operation)).is_open:
            return False
        await self.record("cancelled operation", operation, operation=operation)
        await self._operations.cancel(operation)
        return True


_MODES_IN_WORDS: dict[Mode, str] = {"retranslate": "translated again", "reconcile": "with newly fetched records"}


def _variants(request: OperationRequest) -> Iterator[str]:
    """Yield how a replay differs from the usual one, for the activity log."""
    if request.mode != "retry":
        yield _MODES_IN_WORDS[request.mode]
    if request.recheck:
        yield "after a check of Review Rover"
    if request.contacts:
        yield f"with contacts of {len(request.contacts)} visits" if len(request.contacts) > 1 else "with a contact"
