"""Discards: an operator gives up what has not been applied. As with a replay, the plan walks the way that is gone; unlike
one, a discard could harm, so that what changed since the plan is left alone."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.ledger.ledger import Ledger, delivery_time_ms
from app.ledger.records import NotFound, Task
from app.operators.filter import Filter
from app.operators.replay import PlannedTask, PlanSummary
from app.operators.selection import SelectedTask, TaskSelector
from app.settings.model import Settings

NOTHING_TO_DISCARD, CHANGED_SINCE_PLAN, FINAL_STATES = (
    "nothing_to_discard",
    "changed_since_plan",
    ("settled", "discarded"),
)
#: What the ledger answers where it gave up nothing.
SKIP_REASONS = {0: NOTHING_TO_DISCARD, -1: "running", -2: CHANGED_SINCE_PLAN}

#: Work and delivery, and how many changes had landed.
Planned = dict[tuple[str, str], int]


class Discard:
    """Every method may raise RedisUnavailable."""

    def __init__(
        self, ledger: Ledger, settings: Settings, planned: Planned | None = None, planned_at: float = float("inf")
    ) -> None:
        """planned: where the plan is remembered for whoever carries it out. planned_at: when it was made, in ms, where
        that is all that is known of it."""
        self._ledger, self._selector = ledger, TaskSelector(ledger, settings, "retry", per_delivery=True)
        self._planned, self._planned_at = planned, planned_at

    async def plan(self, filter: Filter) -> AsyncIterator[PlannedTask]:
        """A step for everything that is selected, one after the other; nothing is done."""
        async for unit in self._selector.iter(filter):
            step, landed = await self._inspect(unit)
            if self._planned is not None and not step.skip_reason:
                self._planned[unit.task_id, unit.delivery] = landed
            yield step

    async def execute(self, filter: Filter, on_step: Callable[[PlannedTask, str], None]) -> PlanSummary:
        """Do what the plan says, and tell of each what it is now: `discarded`, or why it is left as it was."""
        tally = PlanSummary(max_samples=0)
        async for unit in self._selector.iter(filter):
            step, landed = await self._inspect(unit)
            if not step.skip_reason and self._planned is not None:
                landed = self._planned.get((unit.task_id, unit.delivery), -1)
            if not step.skip_reason:
                given_up = await self._ledger.discard(unit.task_id, unit.delivery, landed)
                step = replace(step, skip_reason=SKIP_REASONS.get(given_up, ""))
            tally.add(step)
            on_step(step, step.skip_reason or "discarded")
        return tally

    async def _inspect(self, unit: SelectedTask) -> tuple[PlannedTask, int]:
        """What it means to one, and how many changes it has."""
        step = PlannedTask(id=unit.id, task_id=unit.task_id)
        if not unit.task_id:
            return replace(step, skip_reason="unknown"), 0
        try:
            family = await self._ledger.load_aliases(unit.task_id)
        except NotFound:
            return replace(step, skip_reason="expired"), 0
        root = next((member for member in family if member.state not in FINAL_STATES), family[0])
        step = replace(
            step, state=root.state, reason=root.reason, skip_reason=await self._skip_reason(root, family, unit.delivery)
        )
        return step, sum(member.change_count for member in family)

    async def _skip_reason(self, root: Task, family: list[Task], delivery: str) -> str:
        if root.state == "running":
            return "running"
        rang = {
            origin.rpartition(".")[0]
            for member in family
            for origin, change in member.changes.items()
            if int(change.partition(b" ")[0]) > member.applied_count
        }
        # Where no change is open, the work itself is given up.
        if root.state in FINAL_STATES or (rang and delivery and delivery not in rang):
            return NOTHING_TO_DISCARD
        parked_at = await self._ledger.redis.command("ZSCORE", "bell:parked", root.task_id)
        since = [float(parked_at or 0), *(delivery_time_ms(one) for one in rang if one.startswith("d"))]
        return CHANGED_SINCE_PLAN if max(since) > self._planned_at else ""
