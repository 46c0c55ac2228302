"""Who may try a password next."""

import asyncio
from typing import Any

import pytest

from app.console import login_queue
from app.console.login_queue import MAX_WAITING, LoginQueue, Priority, TooManyAttempts

KNOWN, STRANGER = Priority(False, 0), Priority(True, 0)


async def queue_up(queue: LoginQueue, ranks: list[Priority], order: list[Any]) -> list[asyncio.Task[None]]:
    """Each waits for its turn, and notes when it comes."""

    async def one(number: int, rank: Priority) -> None:
        async with queue.turn(rank):
            order.append(number)

    tasks = []
    for number, rank in enumerate(ranks):
        tasks.append(asyncio.create_task(one(number, rank)))
        await asyncio.sleep(0)
    return tasks


async def test_who_is_known_goes_first_and_then_who_failed_least() -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(STRANGER):
        tasks = await queue_up(
            queue, [Priority(True, 7), STRANGER, Priority(True, 3), STRANGER, KNOWN, Priority(False, 9)], order
        )
    await asyncio.gather(*tasks)

    assert [4, 5, 1, 3, 2, 0] == order


async def test_one_at_a_time() -> None:
    queue, now, most = LoginQueue(), 0, 0

    async def one() -> None:
        nonlocal now, most
        async with queue.turn(STRANGER):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(one() for _ in range(20)))

    assert (1, 0) == (most, now)


async def test_in_a_full_queue_the_last_makes_room() -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(STRANGER):
        tasks = await queue_up(queue, [Priority(True, 5)] * MAX_WAITING + [Priority(True, 6), STRANGER, KNOWN], order)
        await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    refused = [number for number, one in enumerate(ended) if isinstance(one, TooManyAttempts)]
    assert [MAX_WAITING - 2, MAX_WAITING - 1, MAX_WAITING] == refused
    assert [MAX_WAITING + 2, MAX_WAITING + 1] == order[:2]


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_queue, "MAX_WAIT_S", 0.01)
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(STRANGER):
        ended = await asyncio.gather(*await queue_up(queue, [STRANGER] * 3, order), return_exceptions=True)

    assert [TooManyAttempts] * 3 == [type(one) for one in ended]
    async with queue.turn(STRANGER):
        order.append("free again")
    assert ["free again"] == order


@pytest.mark.parametrize("after", [0, 1, 2], ids=["while it waits", "as its turn comes", "a moment later"])
async def test_whoever_leaves_passes_the_turn_on(after: int) -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(STRANGER):
        leaving, staying = await queue_up(queue, [STRANGER, STRANGER], order)
        if after == 0:
            leaving.cancel()
    for _ in range(after - 1):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, staying, return_exceptions=True)

    assert 1 in order
    async with asyncio.timeout(5), queue.turn(STRANGER):
        pass


async def test_strangers_are_slowed_down_and_those_who_are_known_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_queue, "STRANGER_INTERVAL_S", 3_600.0)
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(STRANGER):
        queue.slow_strangers_down()
        stranger, known = await queue_up(queue, [STRANGER, KNOWN], order)
    await known
    later = await queue_up(queue, [KNOWN], order)
    await asyncio.gather(*later)

    assert [1, 0] == order
    assert not stranger.done()
    stranger.cancel()
    monkeypatch.setattr(login_queue, "STRANGER_INTERVAL_S", 0.0)
    async with queue.turn(KNOWN):
        queue.slow_strangers_down()
    async with asyncio.timeout(5), queue.turn(STRANGER):
        pass
