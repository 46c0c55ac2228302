"""What operators do with catch-ups: plan, start, cancel. The console and the command line use it alike."""

from dataclasses import dataclass
from datetime import datetime

from app.connections.catch_up import can_list, default_since, new_catch_up, plan, store_of
from app.connections.connector import NotSubscribable
from app.connections.context import CallContext
from app.ledger.catch_ups import CatchUp, CatchUpResult
from app.ledger.records import NotFound
from app.operators.actions import Actions
from app.settings.model import Hook
from app.telemetry.health import live_workers


@dataclass(frozen=True, slots=True)
class CatchUpPlan:
    """What a catch-up would do.

    counts: the listed appointments by result. new_past: visits of the past that it would create or change.
    """

    since: datetime
    counts: dict[CatchUpResult, int]
    new_past: int


class CatchUpRequests:
    """Methods raise NotFound for an unknown hook, NotSubscribable if its tool has no list, and RedisUnavailable."""

    def __init__(self, context: CallContext, actions: Actions) -> None:
        self._context, self._actions = context, actions

    async def plan(self, name: str, since: datetime | None) -> CatchUpPlan:
        """List everything and store nothing. Raises VisitsApiError, Refused, CredentialsMissing."""
        hook = self._hook(name)
        since = since or await default_since(self._context, name)
        catch_up = new_catch_up(name, since, self._actions.actor_name, "operator")
        counts, new_past = await plan(self._context, hook, catch_up)
        return CatchUpPlan(since, counts, new_past)

    async def start(self, name: str, since: datetime | None) -> CatchUp:
        """Store a catch-up for a worker. It replaces an unfinished one."""
        self._hook(name)
        since = since or await default_since(self._context, name)
        catch_up = new_catch_up(name, since, self._actions.actor_name, "operator")
        await self._actions.record("started catch-up", f"{name} since {since:%Y-%m-%dT%H:%M:%SZ}")
        await store_of(self._context).save(catch_up)
        return catch_up

    async def get(self, name: str) -> CatchUp | None:
        return await store_of(self._context).get(name)

    async def cancel(self, name: str) -> bool:
        """Return False if there is no unfinished one."""
        catch_up = await self.get(name)
        if catch_up is None or not catch_up.is_open:
            return False
        await self._actions.record("cancelled catch-up", name)
        await store_of(self._context).cancel(name, catch_up.id)
        return True

    async def has_worker(self) -> bool:
        return bool(await live_workers(self._context.ledger.redis))

    def _hook(self, name: str) -> Hook:
        settings = self._context.settings
        if name not in settings.hooks:
            raise NotFound(name)
        hook = settings.hook(name)
        title = hook.source.definition.title
        if not hook.source.listing:
            raise NotSubscribable(f"Doorbell cannot list the appointments of {title}")
        if not can_list(hook):
            missing = ", ".join(hook.source.definition.missing_credentials(hook.settings.credentials))
            raise NotSubscribable(f"the hook {name} lacks credentials of {title}: {missing}")
        return hook
