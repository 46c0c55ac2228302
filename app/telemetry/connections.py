"""The connections of all hooks, as the console, the command line and the verdict show them."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.ledger.connection_states import BROKEN, UNHEALTHY, ConnectionState, ConnectionStates, describe_problem
from app.ledger.redis import Redis
from app.settings.model import Settings
from app.telemetry.counters import secret_last_used
from app.telemetry.silence import Silence, delivery_times, find_silence
from app.webhooks.registry import source_title

#: What a tool answered counts for this long, or for four checks.
ANSWER_VALID_S = 86_400


@dataclass(frozen=True, slots=True)
class HookConnection(ConnectionState):
    """The connection of a configured hook. can_ask: whether the tool was asked lately.

    uses_oauth: whether it was connected with a log-in. is_silent: whether its deliveries show that it is degraded.
    """

    source: str = ""
    can_ask: bool = False
    is_stored: bool = False
    uses_oauth: bool = False
    is_silent: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether the tool sends nothing until an operator acts."""
        return self.state in BROKEN

    @property
    def problem(self) -> tuple[str, str] | None:
        """The problem and its fix; None if the connection is healthy or unverified."""
        if self.state not in UNHEALTHY:
            return None
        meaning, fix = describe_problem(self.state, self.hook, self.source, source_title(self.source))
        if self.uses_oauth and self.state == "credentials_expired":
            fix = f"Reconnect it with a new log-in: /console/hooks/{self.hook}."
        return meaning, fix


async def load_connections(
    redis: Redis, settings: Settings, names: Iterable[str] | None = None
) -> list[HookConnection]:
    """Return the connection of each hook, or of these. If the tool was not asked lately, the hook's deliveries decide."""
    names, states = sorted(settings.hooks if names is None else names), await ConnectionStates(redis).all()
    times = await asyncio.gather(*(_webhook_times(redis, settings, name) for name in names))
    oldest_ms = time.time() * 1000 - max(ANSWER_VALID_S, 4 * settings.connection_check_s) * 1000
    connections = []
    for name, own_times in zip(names, times, strict=True):
        state, source = states.get(name, ConnectionState(name)), settings.source_for(name)
        can_ask = bool(source.subscription and source.subscription.can_ask and state.checked_at_ms > oldest_ms)
        silence = None if can_ask else await find_silence(redis, name, own_times)
        if not can_ask:
            state = _by_deliveries(state, own_times, silence)
        fields = {each: getattr(state, each) for each in ConnectionState.__slots__}
        connections.append(
            HookConnection(
                **fields,
                source=source.name,
                can_ask=can_ask,
                is_stored=settings.is_stored(name),
                uses_oauth=settings.hooks[name].uses_oauth,
                is_silent=bool(silence) and state.state == "degraded",
            )
        )
    return connections


async def load_connection(redis: Redis, settings: Settings, name: str) -> HookConnection:
    """Return the connection of a configured hook."""
    return next(each for each in await load_connections(redis, settings, [name]))


async def _webhook_times(redis: Redis, settings: Settings, name: str) -> Sequence[float]:
    """Return the times of the last webhooks, newest first; once they have expired, when a secret last verified one."""
    if times := await delivery_times(redis, name):
        return times
    used = await secret_last_used(redis, name, settings.hooks[name].secrets, settings.secret_key)
    return [max(ms / 1000 for ms in used.values() if ms)] if any(used.values()) else []


def _by_deliveries(state: ConnectionState, times: Sequence[float], silence: Silence | None) -> ConnectionState:
    """Return the state that the deliveries of the hook show. times: as `_webhook_times` returns them."""
    if state.state == "credentials_expired":
        return state
    if state.state in UNHEALTHY and (not times or times[0] * 1000 < state.checked_at_ms):
        return state
    if not times:
        return replace(state, state="unverified", detail=state.detail or "no delivery has arrived yet")
    if silence:
        return replace(state, state="degraded", detail=str(silence), healthy_at_ms=int(times[0] * 1000))
    is_problem = state.detail and state.state != "healthy"
    detail = f"webhooks arrive, but {state.detail}" if is_problem else state.detail
    return replace(state, state="healthy", detail=detail, healthy_at_ms=int(times[0] * 1000))
