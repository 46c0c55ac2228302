"""The state of a connection: what the tool said, or, if it was not asked lately, what the deliveries show."""

import time
from typing import Any

import pytest

from app.ledger.connection_states import ConnectionState, ConnectionStates, Health
from app.ledger.ledger import Ledger
from app.operators.connections import load_connection
from app.settings.environment import read_environment

SETTINGS = read_environment(
    {
        "REDIS_URL": "redis://127.0.0.1/0",
        "HOOKS__CALENDLY__SECRETS": "signing-secret-of-32-characters-0001",
        "HOOKS__ZOOM__SECRETS": "secret-token-of-zoom",
    }
)
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def now_ms() -> int:
    return int(time.time() * 1000)


async def state_of(
    ledger: Ledger,
    hook: str,
    state: Health = "healthy",
    checked_ago_ms: int = 0,
    deliveries_ago_ms: tuple[int, ...] = (),
) -> Any:
    """Return the state of a hook that was checked and has deliveries so long ago."""
    checked_at_ms = now_ms() - checked_ago_ms if checked_ago_ms else 0
    await ConnectionStates(ledger.redis).save(ConnectionState(hook, state, checked_at_ms=checked_at_ms))
    for ago_ms in deliveries_ago_ms:
        await ledger.redis.command("ZADD", f"bell:deliveries:{hook}", now_ms() - ago_ms, f"d{ago_ms}")
    connection = await load_connection(ledger, SETTINGS, hook)
    return connection.state, connection.can_ask


@pytest.mark.parametrize("state", ["healthy", "disabled", "missing", "degraded"])
async def test_the_word_of_the_tool_counts(ledger: Ledger, state: Health) -> None:
    assert (state, True) == await state_of(ledger, "calendly", state, MINUTE_MS, (1_000,))


async def test_a_tool_that_was_not_asked_for_a_day_is_judged_by_its_deliveries(ledger: Ledger) -> None:
    assert ("unverified", False) == await state_of(ledger, "calendly", "healthy", 2 * DAY_MS)
    assert ("healthy", False) == await state_of(ledger, "calendly", "healthy", 2 * DAY_MS, (MINUTE_MS,))


async def test_a_lost_connection_is_lost_until_a_delivery_arrives(ledger: Ledger) -> None:
    assert ("missing", False) == await state_of(ledger, "calendly", "missing", 2 * DAY_MS, (3 * DAY_MS,))
    assert ("healthy", False) == await state_of(ledger, "calendly", "missing", 2 * DAY_MS, (DAY_MS,))


async def test_a_tool_that_cannot_be_asked_is_healthy_unless_it_is_silent(ledger: Ledger) -> None:
    hourly = tuple(60 * MINUTE_MS * number for number in range(1, 12))

    assert ("unverified", False) == await state_of(ledger, "zoom")
    assert ("healthy", False) == await state_of(ledger, "zoom", deliveries_ago_ms=hourly)


async def test_a_silent_tool_is_degraded(ledger: Ledger) -> None:
    earlier = tuple(60 * MINUTE_MS * number for number in range(10, 22))

    assert ("degraded", False) == await state_of(ledger, "zoom", deliveries_ago_ms=earlier)
