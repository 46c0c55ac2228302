"""The state of a connection: what the tool said, or, if it was not asked lately, what the deliveries show."""

import time
from typing import Any

import pytest

from app.ledger.connection_states import ConnectionState, ConnectionStates, Health
from app.ledger.ledger import Ledger
from app.operators.doctor import local_checks
from app.operators.overview import load_overview
from app.settings.environment import read_environment
from app.telemetry.connections import load_connection
from app.telemetry.counters import Counters
from app.telemetry.metrics import snapshot

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
    connection = await load_connection(ledger.redis, SETTINGS, hook)
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


async def test_a_tool_that_sends_and_refuses_the_check_is_healthy_with_both_facts(ledger: Ledger) -> None:
    await add_deliveries(ledger, [0.5])
    await ConnectionStates(ledger.redis).save(ConnectionState("zoom", detail="Zoom refuses the request (404)"))

    connection = await load_connection(ledger.redis, SETTINGS, "zoom")

    assert ("healthy", "webhooks arrive, but Zoom refuses the request (404)") == (connection.state, connection.detail)


async def test_a_silent_tool_is_degraded(ledger: Ledger) -> None:
    earlier = tuple(60 * MINUTE_MS * number for number in range(10, 22))

    assert ("degraded", False) == await state_of(ledger, "zoom", deliveries_ago_ms=earlier)


async def add_deliveries(ledger: Ledger, hours_ago: list[float], prefix: str = "d") -> None:
    entries = [part for hours in hours_ago for part in (now_ms() - hours * 60 * MINUTE_MS, f"{prefix}{hours}")]
    for start in range(0, len(entries), 1_000):
        await ledger.redis.command("ZADD", "bell:deliveries:zoom", *entries[start : start + 1_000])


async def silence_of_zoom(ledger: Ledger) -> tuple[str, bool, str]:
    connection = await load_connection(ledger.redis, SETTINGS, "zoom")
    return connection.state, connection.is_silent, connection.detail


async def test_a_hook_with_few_deliveries_is_silent_after_a_day(ledger: Ledger) -> None:
    await add_deliveries(ledger, [23, 23.5])
    assert ("healthy", False, "") == await silence_of_zoom(ledger)

    await ledger.redis.command("DEL", "bell:deliveries:zoom")
    await add_deliveries(ledger, [26, 26.5])
    detail = "nothing has arrived for 26 h; too few arrived before to know what is usual"
    assert ("degraded", True, detail) == await silence_of_zoom(ledger)


async def test_a_hook_stays_silent_when_its_deliveries_have_expired(ledger: Ledger) -> None:
    counters = Counters(secret_keys=SETTINGS.secret_key)
    verified_ms = now_ms() - 40 * DAY_MS
    counters.record_delivery("zoom", "accepted", SETTINGS.hooks["zoom"].secrets[0], verified_ms, "", "d1")
    await counters.flush(ledger.redis)

    detail = "nothing has arrived for 40 d; too few arrived before to know what is usual"
    assert ("degraded", True, detail) == await silence_of_zoom(ledger)


def shop_hours(silent_h: float, *, every_min: int) -> list[float]:
    """Return deliveries of four weeks, hours ago: from 9 to 18, except on each seventh day. The last was silent_h ago."""
    open_hours = [
        day * 24 + minute / 60 for day in range(28) if day % 7 != 1 for minute in range(0, 9 * 60 + 1, every_min)
    ]
    return [silent_h + hours for hours in open_hours]


@pytest.mark.parametrize("every_min", [5, 60])
async def test_a_business_closed_on_sundays_is_not_silent_on_monday(ledger: Ledger, every_min: int) -> None:
    """The last 200 deliveries of a busy hook may have no Sunday."""
    await add_deliveries(ledger, shop_hours(39, every_min=every_min))
    assert ("healthy", False, "") == await silence_of_zoom(ledger)

    await ledger.redis.command("DEL", "bell:deliveries:zoom")
    await add_deliveries(ledger, shop_hours(66, every_min=every_min))
    detail = "nothing has arrived for 3 d; its longest usual gap is 39 h"
    assert ("degraded", True, detail) == await silence_of_zoom(ledger)


async def test_deliveries_from_a_list_do_not_hide_silence(ledger: Ledger) -> None:
    await add_deliveries(ledger, [30 + hour for hour in range(12)])
    await add_deliveries(ledger, [hour / 100 for hour in range(600)], prefix="l")

    state, is_silent, detail = await silence_of_zoom(ledger)

    assert ("degraded", True) == (state, is_silent)
    assert detail.startswith("nothing has arrived for 30 h")


async def test_the_tools_word_beats_silence(ledger: Ledger) -> None:
    assert ("healthy", True) == await state_of(ledger, "calendly", "healthy", MINUTE_MS, (3 * DAY_MS, 4 * DAY_MS))


async def test_failing_deliveries_are_reported_with_the_words_of_the_tool(ledger: Ledger) -> None:
    """They are no lost connection: the tool still sends."""
    detail = "Calendly reports failing deliveries since 2026-03-14T16:00:00Z"
    states = ConnectionStates(ledger.redis)
    await states.save(ConnectionState("calendly", "degraded", checked_at_ms=now_ms(), detail=detail))
    degraded = await _connection_problem(ledger)
    await states.save(ConnectionState("calendly", "disabled", checked_at_ms=now_ms()))
    lost = await _connection_problem(ledger)

    assert ("warn", f"The webhooks of calendly fail at Calendly: {detail}.") == degraded
    assert ("bad", True) == (
        lost[0],
        lost[1].startswith("The hook calendly is not connected: Calendly no longer sends"),
    )


async def _connection_problem(ledger: Ledger) -> tuple[str, str]:
    [problem] = [each for each in (await load_overview(ledger, SETTINGS)).problems() if each.kind == "connection"]
    return problem.level, problem.sentence


async def test_a_silent_hook_is_reported_by_doctor_overview_and_metrics(ledger: Ledger) -> None:
    await add_deliveries(ledger, [26, 26.5])

    [check] = [each async for each in local_checks(ledger.redis, SETTINGS) if each.name == "connection zoom"]
    [problem] = [each for each in (await load_overview(ledger, SETTINGS)).problems() if each.kind == "silent"]
    metrics = (await snapshot(ledger, SETTINGS)).encode()[0].decode()

    assert ("warn", True) == (check.result, check.detail.startswith("degraded: nothing has arrived for 26 h"))
    assert "The hook zoom has received nothing for 26 h, much longer than usual" in problem.sentence
    assert 'doorbell_connection_state{hook="zoom",state="degraded"} 1.0' in metrics
    assert 'doorbell_hook_silent{hook="zoom"} 1.0' in metrics
    assert 'doorbell_hook_silent{hook="calendly"} 0.0' in metrics
