"""Discards: an operator gives up what has not been applied. As with a replay, the plan walks the way that is gone."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace

from app.filter import Filter
from app.ledger import Gone, Ledger, Member
from app.replay import Step, Tally
from app.selection import Selector, Unit
from app.settings import Settings

NOTHING = "nothing to give up"


class Discard:
    """Every method may raise RedisDown."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._selector = ledger, Selector(ledger, settings, "retry", apart=True)

    async def plan(self, filter: Filter) -> AsyncIterator[Step]:
        """A step for everything that is selected, one after the other; nothing is done."""
        async for unit in self._selector.select(filter):
            yield await self._step(unit)

    async def carry_out(self, filter: Filter, told: Callable[[Step, str], None]) -> Tally:
        """Do what the plan says, and tell of each what it is now: `discarded`, or why it is left as it was."""
        tally = Tally(most=0)
        async for unit in self._selector.select(filter):
            step = await self._step(unit)
            if not step.skip:
                given_up = await self._ledger.discard(unit.work, unit.delivery)
                step = replace(step, skip="" if given_up > 0 else NOTHING if given_up == 0 else "running")
            tally.add(step)
            told(step, step.skip or "discarded")
        return tally

    async def _step(self, unit: Unit) -> Step:
        step = Step(id=unit.id, work=unit.work)
        if not unit.work:
            return replace(step, skip="unknown")
        try:
            family = await self._ledger.family(unit.work)
        except Gone:
            return replace(step, skip="expired")
        root = next((member for member in family if member.state != "settled"), family[0])
        step = replace(step, state=root.state, reason=root.reason)
        if root.state == "running":
            return replace(step, skip="running")
        is_open = root.state not in ("settled", "discarded") and _has_open(family, unit.delivery)
        return step if is_open else replace(step, skip=NOTHING)


def _has_open(family: Iterable[Member], delivery: str) -> bool:
    """Is there a change of that delivery that was not applied? Where there is none of any, the work itself is given up."""
    rang = {
        origin.rpartition(".")[0]
        for member in family
        for origin, change in member.changes.items()
        if int(change.partition(b" ")[0]) > member.done
    }
    return not rang or not delivery or delivery in rang
