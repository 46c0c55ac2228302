"""The connections of all hooks, as the console, the command line and the verdict show them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from app.ledger.connection_states import UNHEALTHY, ConnectionState, ConnectionStates, describe_problem
from app.ledger.ledger import Ledger
from app.settings.model import Settings
from app.telemetry.silence import delivery_times, silent_hooks
from app.webhooks.registry import source_title


@dataclass(frozen=True, slots=True)
class HookConnection(ConnectionState):
    """The connection of a configured hook. can_ask: whether the tool can be asked about its state.

    uses_oauth: whether it was connected with a log-in.
    """

    source: str = ""
    can_ask: bool = False
    is_stored: bool = False
    uses_oauth: bool = False

    @property
    def problem(self) -> tuple[str, str] | None:
        """What is wrong with it and what helps; None if it is healthy, or was never heard from."""
        if self.state not in UNHEALTHY:
            return None
        meaning, fix = describe_problem(self.state, self.hook, self.source, source_title(self.source))
        if self.uses_oauth and self.state == "credentials_expired":
            fix = f"Reconnect it with a new log-in: /console/hooks/{self.hook}."
        return meaning, fix


async def load_connections(
    ledger: Ledger, settings: Settings, names: Iterable[str] | None = None
) -> list[HookConnection]:
    """Return the connection of each hook, or of these. Where the tool cannot be asked, its own deliveries decide."""
    states = await ConnectionStates(ledger.redis).all()
    silent = await silent_hooks(ledger.redis, settings.hooks)
    connections = []
    for name in sorted(settings.hooks if names is None else names):
        state, source = states.get(name, ConnectionState(name)), settings.source_for(name)
        can_ask = bool(source.subscription and source.subscription.can_ask and state.checked_at_ms)
        if not can_ask:
            state = await _by_deliveries(ledger, state, name in silent)
        fields = {each: getattr(state, each) for each in ConnectionState.__slots__}
        connections.append(
            HookConnection(
                **fields,
                source=source.name,
                can_ask=can_ask,
                is_stored=settings.is_stored(name),
                uses_oauth=settings.hooks[name].uses_oauth,
            )
        )
    return connections


async def load_connection(ledger: Ledger, settings: Settings, name: str) -> HookConnection:
    """Return the connection of a configured hook."""
    return next(each for each in await load_connections(ledger, settings, [name]))


async def _by_deliveries(ledger: Ledger, state: ConnectionState, is_silent: bool) -> ConnectionState:
    """Return the state that the deliveries of the hook show."""
    if state.state == "credentials_expired":
        return state
    times = await delivery_times(ledger.redis, state.hook)
    if not times:
        return replace(state, state="unverified", detail=state.detail or "no delivery has arrived yet")
    if is_silent:
        detail = "no delivery has arrived for much longer than usual"
        return replace(state, state="degraded", detail=detail, healthy_at_ms=int(times[0] * 1000))
    return replace(state, state="healthy", healthy_at_ms=int(times[0] * 1000))
