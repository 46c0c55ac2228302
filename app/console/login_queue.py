"""A priority queue for password checks.

One check takes 64 MB, so a process runs one at a time. Clients with fewer failed attempts go first, and a full queue rejects
only its last client, so an attacker cannot lock out other users.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

#: The length of the queue of one process, and the longest wait. Routers give up after 30 s.
MAX_WAITING, MAX_WAIT_S = 50, 20.0
#: The delay between two checks for unknown browsers, once they are slowed down.
UNKNOWN_INTERVAL_S = 2.0


class TooManyAttempts(Exception):
    """Raised before the password is checked, so the response does not reveal whether it is right."""


class Priority(NamedTuple):
    """The client with the lowest priority goes first. is_unknown: the browser has not logged in before."""

    is_unknown: bool
    failed_attempts: int


class _Waiter(NamedTuple):
    priority: Priority
    number: int
    turn: asyncio.Future[None]


class LoginQueue:
    def __init__(self) -> None:
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._is_busy = False
        self._next_unknown_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for the turn of this client.

        Raises TooManyAttempts if the queue is full of higher priorities, or after MAX_WAIT_S.
        """
        await self._wait(_Waiter(priority, next(self._numbers), asyncio.get_running_loop().create_future()))
        try:
            yield
        finally:
            self._end_turn()

    def slow_unknown_down(self) -> None:
        """Delay the next unknown browser by UNKNOWN_INTERVAL_S. Called during a turn."""
        self._next_unknown_at = asyncio.get_running_loop().time() + UNKNOWN_INTERVAL_S

    async def _wait(self, waiter: _Waiter) -> None:
        self._waiting.append(waiter)
        self._waiting.sort(key=lambda queued: (queued.priority, queued.number))
        if len(self._waiting) > MAX_WAITING:
            last = self._waiting.pop()
            if not last.turn.done():
                last.turn.set_exception(TooManyAttempts())
        self._start_next()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise TooManyAttempts from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        """Remove a waiter that timed out or was cancelled. If its turn has just started, end the turn."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
            self._end_turn()

    def _end_turn(self) -> None:
        self._is_busy = False
        self._start_next()

    def _start_next(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._is_busy or not self._waiting:
            return None
        loop, first = asyncio.get_running_loop(), self._waiting[0]
        if first.priority.is_unknown and (wait_s := self._next_unknown_at - loop.time()) > 0:
            self._timer = loop.call_later(wait_s, self._start_next)
            return None
        del self._waiting[0]
        if first.turn.done():  # cancelled at this moment
            return self._start_next()
        self._is_busy = True
        return first.turn.set_result(None)
