"""Steps for several names at once."""

import asyncio
from typing import Any

import pytest

from app.connections import turns
from app.connections.turns import Turns
from app.ledger.redis import RedisUnavailable


async def test_a_slow_step_delays_no_other_and_is_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ROUND_S", 0.01)
    started, gate, rounds = list[str](), asyncio.Event(), Turns()

    async def step(name: str) -> None:
        started.append(name)
        if name == "slow":
            await gate.wait()

    await rounds.run(["slow", "fast"], step)
    await rounds.run(["slow", "fast", "new"], step)
    gate.set()
    await rounds.run([], step)
    await rounds.run(["slow"], step)

    assert ["slow", "fast", "fast", "new", "slow"] == started


async def test_the_error_of_a_step_is_raised_and_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, rounds = list[str](), Turns()

    async def step(name: str) -> None:
        if name == "broken":
            raise ValueError(name)
        ended.append(name)

    with pytest.raises(ValueError, match="broken"):
        await rounds.run(["broken", "other"], step)

    assert ["other"] == ended


async def test_of_several_errors_one_is_raised_and_the_others_are_logged(logged: list[Any]) -> None:
    async def step(name: str) -> None:
        raise RedisUnavailable(name) if name == "redis" else ValueError(name)

    with pytest.raises(ValueError, match="first"):
        await Turns().run(["redis", "first", "second"], step)

    [line] = logged
    assert ("unhandled_exception", "ValueError") == (line["event"], line["error"].partition(" ")[0])


async def test_the_end_of_a_worker_cancels_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ROUND_S", 0.01)
    cancelled, rounds = asyncio.Event(), Turns()

    async def step(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await rounds.run(["slow"], step)
    await rounds.aclose()

    assert cancelled.is_set()
