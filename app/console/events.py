"""The event stream. It tells the names of the deliveries that arrived and of what was worked on, as a JSON list; the page
then asks for what it shows of them. However many look, one reader of Redis serves a process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisDown
from app.operators.feed import arrivals, attempts
from app.operators.selection import name_of
from app.settings.model import Settings
from app.telemetry.logs import log

#: Streams of one process; whoever finds no place polls.
MOST = 50
#: How often something is told at the most, and how many names; routers close what is silent for 55 s.
TELL_EVERY_S, MOST_NAMES, BEAT_S = 0.5, 200, 15.0
#: What may wait for a slow reader, before it has to come anew.
MOST_WAITING = 20

Messages = asyncio.Queue[bytes]


class Live:
    """All streams of a process. An empty message ends one."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._settings = ledger, settings
        self._streams: set[Messages] = set()
        self._names: dict[str, None] = {}
        self._reading: asyncio.Task[None] | None = None
        self._is_over = False

    def join(self) -> Messages | None:
        """A place, if there is one; to be given back."""
        if self._is_over or len(self._streams) >= MOST:
            return None
        messages = Messages(MOST_WAITING)
        self._streams.add(messages)
        self._reading = self._reading or asyncio.create_task(self._read())
        return messages

    def leave(self, messages: Messages) -> None:
        self._streams.discard(messages)
        if not self._streams and self._reading:
            self._reading.cancel()
            self._reading = None

    def end(self) -> None:
        """All of them, for good: this process is asked to go."""
        self._is_over = True
        self._end_all()

    def _end_all(self) -> None:
        for messages in self._streams:
            _put(messages, b"")

    async def _read(self) -> None:
        # A connection that listens can be asked nothing else.
        listening = Redis(self._ledger.redis.address)
        try:
            async with asyncio.TaskGroup() as group:
                for step in (self._arriving(), self._attempted(listening), self._telling()):
                    group.create_task(step)
        except* RedisDown:
            log.info("streams ended: redis down")
        except* Exception:
            log.exception("bug")
        finally:
            await listening.close()
            if self._reading is asyncio.current_task():
                self._reading = None
                self._end_all()

    async def _arriving(self) -> None:
        async for id in arrivals(self._ledger, self._settings.hooks):
            self._happened(id)

    async def _attempted(self, listening: Redis) -> None:
        async for work, _ in attempts(listening):
            self._happened(name_of(work))

    def _happened(self, name: str) -> None:
        if len(self._names) < MOST_NAMES:
            self._names[name] = None

    async def _telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            if self._names:
                told = b"data: " + orjson.dumps(list(self._names)) + b"\n\n"
                self._names.clear()
                for messages in self._streams:
                    _put(messages, told)


def _put(messages: Messages, told: bytes) -> None:
    """Whoever reads too slowly missed something: that stream ends, and its page comes anew."""
    if messages.full():
        messages.get_nowait()
        told = b""
    messages.put_nowait(told)


class EventStream(StreamingResponse):
    """Comments where there is nothing to tell; nothing at all to somebody whose session is over."""

    def __init__(self, live: Live, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> None:
        headers = {"x-accel-buffering": "no"}
        super().__init__(self._told(messages, is_allowed), media_type="text/event-stream", headers=headers)
        self._live, self._messages = live, messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave(self._messages)

    async def _told(self, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
        message = b": hello\n\n"
        with suppress(RedisDown):
            while message and await is_allowed():
                yield message
                try:
                    message = await asyncio.wait_for(messages.get(), BEAT_S)
                except TimeoutError:
                    message = b": still here\n\n"
