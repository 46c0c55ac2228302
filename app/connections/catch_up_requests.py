"""What operators do with catch-ups: plan, start, cancel. The console and the command line use it alike."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.connections.catch_up import (
    OPERATOR,
    can_list,
    default_since,
    new_catch_up,
    plan,
    start,
    store_of,
    with_reach_of,
)
from app.connections.connector import NotSubscribable
from app.connections.context import CallContext, shared_now
from app.ledger.catch_ups import CatchUp, CatchUpResult, slots_of
from app.ledger.records import NotFound
from app.operators.actions import Actions
from app.settings.model import Hook
from app.telemetry.health import live_workers

#: What the results mean, after the number of appointments.
RESULT_TEXTS: dict[CatchUpResult, str] = {
    "changed": "with changes that Doorbell lacks",
    "unchanged": "as Doorbell has them",
    "past": "over before that time, and without a visit: not imported",
    "unclear": "that cannot be translated",
}
#: The counts of an older plan may be wrong.
PLAN_VALID_S = 3_600


class PlanNotConfirmed(Exception):
    """The message is a sentence."""


@dataclass(frozen=True, slots=True)
class CatchUpPlan:
    """What a catch-up would do.

    counts: the listed appointments by result. new_past: visits of the past that it would create or change. records: what the
    tool lists, for people.
    """

    since: datetime
    counts: dict[CatchUpResult, int]
    new_past: int
    records: str


class CatchUpRequests:
    """Methods raise NotFound for an unknown hook, NotSubscribable if its tool has no list, and RedisUnavailable."""

    def __init__(self, context: CallContext, actions: Actions) -> None:
        self._context, self._actions = context, actions

    async def plan(self, name: str, since: datetime | None) -> CatchUpPlan:
        """List everything and store nothing. Raises VisitsApiError, Refused, CredentialsMissing."""
        hook = self._hook(name)
        wanted = with_reach_of(await self._new(name, since), await self.get(name))
        counts, new_past = await plan(self._context, hook, wanted)
        assert hook.source.listing
        since = datetime.fromtimestamp(wanted.since_ms / 1000, UTC)
        return CatchUpPlan(since, counts, new_past, hook.source.listing.records)

    async def start(self, name: str, since: datetime | None) -> CatchUp:
        """Store a catch-up for a worker. It replaces an unfinished one."""
        self._hook(name)
        wanted = await self._new(name, since)
        target = f"{name} since {datetime.fromtimestamp(wanted.since_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
        await self._actions.record("started catch-up", target)
        return await start(self._context, wanted)

    async def start_plan(self, name: str, since: datetime | None) -> CatchUp:
        """Let a worker list everything and store nothing, because listing may take long."""
        self._hook(name)
        return await start(self._context, replace(await self._new(name, since), is_plan=True))

    async def _new(self, name: str, since: datetime | None) -> CatchUp:
        since = since or await default_since(self._context, name)
        return new_catch_up(name, since, self._actions.actor_name, OPERATOR, now=shared_now(self._context))

    async def start_planned(self, name: str, plan_id: str, typed: str) -> CatchUp:
        """Start what a plan has counted. typed: the number of visits of the past that it would create or change.

        Raises PlanNotConfirmed if the plan is another one, is unfinished or is too old, or if the number is wrong.
        """
        finished_plan = await self.get_plan(name)
        oldest_ms = self._context.ledger.redis.now_ms() - PLAN_VALID_S * 1000
        if (
            finished_plan is None
            or finished_plan.id != plan_id
            or finished_plan.status != "done"
            or finished_plan.ended_at_ms < oldest_ms
        ):
            raise PlanNotConfirmed("The plan has changed, or is too old. Nothing was started: check it again.")
        if finished_plan.new_past and typed.strip() != str(finished_plan.new_past):
            raise PlanNotConfirmed("The number that you typed does not match. Nothing was started.")
        started = await self.start(name, datetime.fromtimestamp(finished_plan.since_ms / 1000, UTC))
        await store_of(self._context).remove(finished_plan.slot, finished_plan.id)
        return started

    async def get(self, name: str) -> CatchUp | None:
        return await store_of(self._context).get(name)

    async def get_plan(self, name: str) -> CatchUp | None:
        _, slot = slots_of(name)
        return await store_of(self._context).get(slot)

    async def cancel(self, name: str) -> bool:
        """Cancel the plan and the catch-up of a hook. Return False if neither is unfinished."""
        is_open = [each for each in (await self.get_plan(name), await self.get(name)) if each and each.is_open]
        if not is_open:
            return False
        await self._actions.record("cancelled catch-up", name)
        for each in is_open:
            await store_of(self._context).cancel(each.slot, each.id)
        return True

    async def has_worker(self) -> bool:
        return bool(await live_workers(self._context.ledger.redis))

    def _hook(self, name: str) -> Hook:
        settings = self._context.settings
        if name not in settings.hooks:
            raise NotFound(name, "hook")
        hook = settings.hook(name)
        title = hook.source.definition.title
        if not hook.source.listing:
            raise NotSubscribable(f"Doorbell cannot list the appointments of {title}")
        if not can_list(hook):
            missing = ", ".join(hook.source.definition.missing_credentials(hook.settings.credentials))
            raise NotSubscribable(f"the hook {name} lacks credentials of {title}: {missing}")
        return hook
