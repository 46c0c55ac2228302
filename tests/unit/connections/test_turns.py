"""Steps for several names at once."""

import asyncio

import pytest

from app.connections import turns
from app.connections.turns import Turns


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
