"""Discards of changes that are not applied. Changes that arrive after the plan are not discarded."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.ledger import keys
from app.ledger.ids import delivery_time_ms
from app.ledger.ledger import Ledger
from app.ledger.records import NO_CAUSE, Cause, NotFound, Task
from app.operators.filter import Filter
from app.operators.replay import PlannedTask, PlanSummary
from app.operators.selection import SelectedTask, TaskSelector, affected_by, pending_deliveries
from app.settings.model import Settings

NOTHING_TO_DISCARD, CHANGED_SINCE_PLAN = "nothing_to_discard", "changed_since_plan"
FINAL_STATES = ("done", "discarded")
#: By the result of Ledger.discard; other results are the number of discarded changes.
SKIP_REASONS = {0: NOTHING_TO_DISCARD, -1: "running", -2: CHANGED_SINCE_PLAN}


class Discard:
    """Plans and executes a discard. Every method may raise RedisUnavailable."""

    def __init__(
        self, ledger: Ledger, settings: Settings, planned_at_ms: float = float("inf"), *, cause: Cause = NO_CAUSE
    ) -> None:
        """cause: the activity and the operation."""
        self._ledger, self._selector = ledger, TaskSelector(ledger, settings, "retry", per_delivery=True)
        self._planned_at_ms, self._cause = planned_at_ms, cause

    async def plan(self, filter: Filter) -> AsyncIterator[PlannedTask]:
        async for selected in self._selector.iter(filter):
            yield (await self._inspect(selected))[0]

    async def execute(self, filter: Filter, on_step: Callable[[PlannedTask, str], None]) -> PlanSummary:
        """Discard the selected changes. on_step: called with each task and `discarded` or the reason to skip it."""
        summary = PlanSummary(max_samples=0)
        async for selected in self._selector.iter(filter):
            planned, change_count = await self._inspect(selected)
            if not planned.skip_reason:
                cause = self._cause._replace(affected=planned.affected)
                discarded = await self._ledger.discard(selected.task_id, selected.delivery, change_count, cause=cause)
                planned = replace(planned, skip_reason=SKIP_REASONS.get(discarded, ""))
            summary.add(planned)
            on_step(planned, planned.skip_reason or "discarded")
        return summary

    async def _inspect(self, selected: SelectedTask) -> tuple[PlannedTask, int]:
        """Return the plan of one task with its number of changes."""
        planned = PlannedTask(id=selected.id, task_id=selected.task_id)
        if not selected.task_id:
            return replace(planned, skip_reason="unknown"), 0
        try:
            aliases = await self._ledger.load_aliases(selected.task_id)
        except NotFound:
            return replace(planned, skip_reason="expired"), 0
        primary = next((alias for alias in aliases if alias.state not in FINAL_STATES), aliases[0])
        pending = pending_deliveries(aliases)
        planned = replace(
            planned,
            task_id=aliases[0].task_id,
            state=primary.state,
            reason=primary.reason,
            skip_reason=await self._skip_reason(primary, pending, selected.delivery),
            affected=affected_by(aliases, [selected.delivery] if selected.delivery else pending),
        )
        return planned, sum(alias.change_count for alias in aliases)

    async def _skip_reason(self, primary: Task, pending: set[str], delivery: str) -> str:
        """pending: the deliveries with changes that are not applied."""
        if primary.state == "running":
            return "running"
        # Without pending changes the task itself is discarded.
        if primary.state in FINAL_STATES or (pending and delivery and delivery not in pending):
            return NOTHING_TO_DISCARD
        parked_at = await self._ledger.redis.command("ZSCORE", keys.PARKED, primary.task_id)
        changed_at = [float(parked_at or 0), *map(delivery_time_ms, pending)]
        return CHANGED_SINCE_PLAN if max(changed_at) > self._planned_at_ms else ""
