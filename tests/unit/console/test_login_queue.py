"""The queue of password checks."""

import asyncio
from typing import Any

import pytest

from app.console import login_queue
from app.console.login_queue import MAX_WAITING, LoginQueue, Priority, TooManyAttempts
from tests.support.cases import each

KNOWN, UNKNOWN = Priority(False, 0), Priority(True, 0)


async def queue_up(queue: LoginQueue, priorities: list[Priority], order: list[Any]) -> list[asyncio.Task[None]]:
    """Start a waiter for each priority. Each appends its number to `order` when its turn starts."""

    async def wait_for_turn(number: int, priority: Priority) -> None:
        async with queue.turn(priority):
            order.append(number)

    tasks = []
    for number, priority in enumerate(priorities):
        tasks.append(asyncio.create_task(wait_for_turn(number, priority)))
        await asyncio.sleep(0)
    return tasks


async def test_known_browsers_go_first_then_clients_with_fewer_failures() -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(UNKNOWN):
        tasks = await queue_up(
            queue,
            [Priority(True, 7), UNKNOWN, Priority(True, 3), UNKNOWN, KNOWN, Priority(False, 9)],
            order,
        )
    await asyncio.gather(*tasks)

    assert [4, 5, 1, 3, 2, 0] == order


async def test_turns_do_not_overlap() -> None:
    queue, running, max_running = LoginQueue(), 0, 0

    async def take_turn() -> None:
        nonlocal running, max_running
        async with queue.turn(UNKNOWN):
            running += 1
            max_running = max(max_running, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(take_turn() for _ in range(20)))

    assert (1, 0) == (max_running, running)


async def test_a_full_queue_rejects_its_last_client() -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(UNKNOWN):
        tasks = await queue_up(queue, [Priority(True, 5)] * MAX_WAITING + [Priority(True, 6), UNKNOWN, KNOWN], order)
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    rejected = [number for number, result in enumerate(results) if isinstance(result, TooManyAttempts)]
    assert [MAX_WAITING - 2, MAX_WAITING - 1, MAX_WAITING] == rejected
    assert [MAX_WAITING + 2, MAX_WAITING + 1] == order[:2]


async def test_a_waiter_is_rejected_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_queue, "MAX_WAIT_S", 0.01)
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(UNKNOWN):
        results = await asyncio.gather(*await queue_up(queue, [UNKNOWN] * 3, order), return_exceptions=True)

    assert [TooManyAttempts] * 3 == [type(result) for result in results]
    async with queue.turn(UNKNOWN):
        order.append("free again")
    assert ["free again"] == order


@each("steps", [0, 1, 2], ids=["while it waits", "as its turn comes", "a moment later"])
async def test_a_cancelled_waiter_passes_its_turn_on(steps: int) -> None:
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(UNKNOWN):
        cancelled, next_waiter = await queue_up(queue, [UNKNOWN, UNKNOWN], order)
        if steps == 0:
            cancelled.cancel()
    for _ in range(steps - 1):
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, next_waiter, return_exceptions=True)

    assert 1 in order
    async with asyncio.timeout(5), queue.turn(UNKNOWN):
        pass


async def test_only_unknown_browsers_are_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_queue, "UNKNOWN_INTERVAL_S", 3_600.0)
    queue, order = LoginQueue(), list[Any]()
    async with queue.turn(UNKNOWN):
        queue.slow_unknown_down()
        unknown, known = await queue_up(queue, [UNKNOWN, KNOWN], order)
    await known
    later = await queue_up(queue, [KNOWN], order)
    await asyncio.gather(*later)

    assert [1, 0] == order
    assert not unknown.done()
    unknown.cancel()
    monkeypatch.setattr(login_queue, "UNKNOWN_INTERVAL_S", 0.0)
    async with queue.turn(KNOWN):
        queue.slow_unknown_down()
    async with asyncio.timeout(5), queue.turn(UNKNOWN):
        pass
