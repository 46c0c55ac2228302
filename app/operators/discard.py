"""Discards: an operator gives up what has not been applied. As with a replay, the plan walks the way that is gone; unlike
one, a discard could harm, so that what changed since the plan is left alone."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.ledger.ledger import Ledger, rang_ms
from app.ledger.records import Gone, Member
from app.operators.filter import Filter
from app.operators.replay import Step, Tally
from app.operators.selection import Selector, Unit
from app.settings.model import Settings

NOTHING, SINCE, OVER = "nothing to give up", "changed since the plan", ("settled", "discarded")
#: What the ledger answers where it gave up nothing.
LEFT_ALONE = {0: NOTHING, -1: "running", -2: SINCE}

#: Work and delivery, and how many changes had landed.
Planned = dict[tuple[str, str], int]


class Discard:
    """Every method may raise RedisDown."""

    def __init__(
        self, ledger: Ledger, settings: Settings, planned: Planned | None = None, planned_at: float = float("inf")
    ) -> None:
        """planned: where the plan is remembered for whoever carries it out. planned_at: when it was made, in ms, where
        that is all that is known of it."""
        self._ledger, self._selector = ledger, Selector(ledger, settings, "retry", apart=True)
        self._planned, self._planned_at = planned, planned_at

    async def plan(self, filter: Filter) -> AsyncIterator[Step]:
        """A step for everything that is selected, one after the other; nothing is done."""
        async for unit in self._selector.select(filter):
            step, landed = await self._look(unit)
            if self._planned is not None and not step.skip:
                self._planned[unit.work, unit.delivery] = landed
            yield step

    async def carry_out(self, filter: Filter, told: Callable[[Step, str], None]) -> Tally:
        """Do what the plan says, and tell of each what it is now: `discarded`, or why it is left as it was."""
        tally = Tally(most=0)
        async for unit in self._selector.select(filter):
            step, landed = await self._look(unit)
            if not step.skip and self._planned is not None:
                landed = self._planned.get((unit.work, unit.delivery), -1)
            if not step.skip:
                given_up = await self._ledger.discard(unit.work, unit.delivery, landed)
                step = replace(step, skip=LEFT_ALONE.get(given_up, ""))
            tally.add(step)
            told(step, step.skip or "discarded")
        return tally

    async def _look(self, unit: Unit) -> tuple[Step, int]:
        """What it means to one, and how many changes it has."""
        step = Step(id=unit.id, work=unit.work)
        if not unit.work:
            return replace(step, skip="unknown"), 0
        try:
            family = await self._ledger.family(unit.work)
        except Gone:
            return replace(step, skip="expired"), 0
        root = next((member for member in family if member.state not in OVER), family[0])
        step = replace(step, state=root.state, reason=root.reason, skip=await self._skip(root, family, unit.delivery))
        return step, sum(member.n for member in family)

    async def _skip(self, root: Member, family: list[Member], delivery: str) -> str:
        if root.state == "running":
            return "running"
        rang = {
            origin.rpartition(".")[0]
            for member in family
            for origin, change in member.changes.items()
            if int(change.partition(b" ")[0]) > member.done
        }
        # Where no change is open, the work itself is given up.
        if root.state in OVER or (rang and delivery and delivery not in rang):
            return NOTHING
        parked_at = await self._ledger.redis.command("ZSCORE", "db:parked", root.work)
        since = [float(parked_at or 0), *(rang_ms(one) for one in rang if one.startswith("d"))]
        return SINCE if max(since) > self._planned_at else ""
