"""Who may try a password next. A check takes 64 MB, so there is one at a time; nobody is refused because others fail, but
whoever fails more often waits behind those who fail less."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

#: So many wait in one process; routers give up after 30 s.
MAX_WAITING, MAX_WAIT_S = 50, 20.0
#: Between two checks for strangers, once they are slowed down.
STRANGER_INTERVAL_S = 2.0


class TooManyAttempts(Exception):
    """Attempts to log in; the answer is the same whether this one was right."""


class Priority(NamedTuple):
    """The least goes first."""

    is_stranger: bool
    failed_attempts: int


class _Waiter(NamedTuple):
    rank: Priority
    number: int
    turn: asyncio.Future[None]


class LoginQueue:
    def __init__(self) -> None:
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._is_taken = False
        self._strangers_from = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, rank: Priority) -> AsyncIterator[None]:
        """Raises TooMany where so many wait that this one has no place, or has none soon."""
        await self._wait(_Waiter(rank, next(self._numbers), asyncio.get_running_loop().create_future()))
        try:
            yield
        finally:
            self._pass_on()

    def slow_strangers_down(self) -> None:
        """From whoever holds the turn: the next stranger has to wait for a while."""
        self._strangers_from = asyncio.get_running_loop().time() + STRANGER_INTERVAL_S

    async def _wait(self, place: _Waiter) -> None:
        self._waiting.append(place)
        self._waiting.sort(key=lambda one: (one.rank, one.number))
        if len(self._waiting) > MAX_WAITING:
            last = self._waiting.pop()
            if not last.turn.done():
                last.turn.set_exception(TooManyAttempts())
        self._look()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await place.turn
        except TimeoutError:
            self._leave(place)
            raise TooManyAttempts from None
        except asyncio.CancelledError:
            self._leave(place)
            raise

    def _leave(self, place: _Waiter) -> None:
        """Somebody who does not wait any more; the turn may have come at the same moment."""
        if place in self._waiting:
            self._waiting.remove(place)
        elif place.turn.done() and not place.turn.cancelled() and not place.turn.exception():
            self._pass_on()

    def _pass_on(self) -> None:
        self._is_taken = False
        self._look()

    def _look(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._is_taken or not self._waiting:
            return None
        loop, first = asyncio.get_running_loop(), self._waiting[0]
        if first.rank.is_stranger and (wait_s := self._strangers_from - loop.time()) > 0:
            self._timer = loop.call_later(wait_s, self._look)
            return None
        del self._waiting[0]
        if first.turn.done():  # cancelled at this moment
            return self._look()
        self._is_taken = True
        return first.turn.set_result(None)
