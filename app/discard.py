"""Discards: an operator gives up what has not been applied. As with a replay, the plan walks the way that is gone."""

from collections.abc import AsyncIterator, Callable, Container, Iterable
from dataclasses import replace

from app.filter import Filter
from app.ledger import Gone, Ledger, Member
from app.replay import Step, Tally
from app.selection import Selector, Unit
from app.settings import Settings

NOTHING, OVER = "nothing to give up", ("settled", "discarded")


class Discard:
    """Every method may raise RedisDown."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._selector = ledger, Selector(ledger, settings, "retry", apart=True)

    async def plan(self, filter: Filter) -> AsyncIterator[Step]:
        """A step for everything that is selected, one after the other; nothing is done."""
        async for unit in self._selector.select(filter):
            yield await self._step(unit, filter)

    async def carry_out(
        self, filter: Filter, told: Callable[[Step, str], None], only: Container[str] | None = None
    ) -> Tally:
        """Do what the plan says, and tell of each what it is now: `discarded`, or why it is left as it was. only: the work
        that was planned, where that is known."""
        tally = Tally(most=0)
        async for unit in self._selector.select(filter):
            step = await self._step(unit, filter)
            if not step.skip and only is not None and step.work not in only:
                step = replace(step, skip="not in the plan")
            if not step.skip:
                given_up = await self._ledger.discard(unit.work, unit.delivery)
                step = replace(step, skip="" if given_up > 0 else NOTHING if given_up == 0 else "running")
            tally.add(step)
            told(step, step.skip or "discarded")
        return tally

    async def _step(self, unit: Unit, filter: Filter) -> Step:
        step = Step(id=unit.id, work=unit.work)
        if not unit.work:
            return replace(step, skip="unknown")
        try:
            family = await self._ledger.family(unit.work)
        except Gone:
            return replace(step, skip="expired")
        root = next((member for member in family if member.state not in OVER), family[0])
        step = replace(step, state=root.state, reason=root.reason)
        if root.state == "running":
            return replace(step, skip="running")
        if root.state in OVER or not _has_open(family, unit.delivery):
            return replace(step, skip=NOTHING)
        if root.state == "parked" and filter.until and await self._parked_at(root.work) > filter.until_ms:
            return replace(step, skip="failed since")
        return step

    async def _parked_at(self, work: str) -> float:
        """In ms of the server."""
        return float(await self._ledger.redis.command("ZSCORE", "db:parked", work) or 0)


def _has_open(family: Iterable[Member], delivery: str) -> bool:
    """Is there a change of that delivery that was not applied? Where there is none of any, the work itself is given up."""
    rang = {
        origin.rpartition(".")[0]
        for member in family
        for origin, change in member.changes.items()
        if int(change.partition(b" ")[0]) > member.done
    }
    return not rang or not delivery or delivery in rang
