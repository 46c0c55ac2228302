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
from app.ledger.redis import Redis, RedisUnavailable
from app.operators.feed import finished_attempts, new_deliveries
from app.operators.selection import display_id
from app.settings.model import Settings
from app.telemetry.logs import log

#: Streams of one process; whoever finds no place polls.
MAX_STREAMS = 50
#: How often something is told at the most, and how many names; routers close what is silent for 55 s.
BROADCAST_INTERVAL_S, MAX_IDS_PER_MESSAGE, KEEPALIVE_S = 0.5, 200, 15.0
#: What may wait for a slow reader, before it has to come anew.
MAX_QUEUED_MESSAGES = 20

Messages = asyncio.Queue[bytes]


class EventHub:
    """All streams of a process. An empty message ends one."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._settings = ledger, settings
        self._streams: set[Messages] = set()
        self._changed_ids: dict[str, None] = {}
        self._runner: asyncio.Task[None] | None = None
        self._is_shut_down = False

    def subscribe(self) -> Messages | None:
        """A place, if there is one; to be given back."""
        if self._is_shut_down or len(self._streams) >= MAX_STREAMS:
            return None
        messages = Messages(MAX_QUEUED_MESSAGES)
        self._streams.add(messages)
        self._runner = self._runner or asyncio.create_task(self._run())
        return messages

    def unsubscribe(self, messages: Messages) -> None:
        self._streams.discard(messages)
        if not self._streams and self._runner:
            self._runner.cancel()
            self._runner = None

    def shut_down(self) -> None:
        """All of them, for good: this process is asked to go."""
        self._is_shut_down = True
        self._close_streams()

    def _close_streams(self) -> None:
        for messages in self._streams:
            _put(messages, b"")

    async def _run(self) -> None:
        # A connection that listens can be asked nothing else.
        listening = Redis(self._ledger.redis.address)
        try:
            async with asyncio.TaskGroup() as group:
                for step in (self._read_arrivals(), self._read_attempts(listening), self._broadcast()):
                    group.create_task(step)
        except* RedisUnavailable:
            log.info("event_streams_closed")
        except* Exception:
            log.exception("unhandled_exception")
        finally:
            await listening.close()
            if self._runner is asyncio.current_task():
                self._runner = None
                self._close_streams()

    async def _read_arrivals(self) -> None:
        async for id in new_deliveries(self._ledger, self._settings.hooks):
            self._publish(id)

    async def _read_attempts(self, listening: Redis) -> None:
        async for work, _ in finished_attempts(listening):
            self._publish(display_id(work))

    def _publish(self, name: str) -> None:
        if len(self._changed_ids) < MAX_IDS_PER_MESSAGE:
            self._changed_ids[name] = None

    async def _broadcast(self) -> None:
        while True:
            await asyncio.sleep(BROADCAST_INTERVAL_S)
            if self._changed_ids:
                told = b"data: " + orjson.dumps(list(self._changed_ids)) + b"\n\n"
                self._changed_ids.clear()
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

    def __init__(self, live: EventHub, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> None:
        headers = {"x-accel-buffering": "no"}
        super().__init__(self._told(messages, is_allowed), media_type="text/event-stream", headers=headers)
        self._live, self._messages = live, messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.unsubscribe(self._messages)

    async def _told(self, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
        message = b": hello\n\n"
        with suppress(RedisUnavailable):
            while message and await is_allowed():
                yield message
                try:
                    message = await asyncio.wait_for(messages.get(), KEEPALIVE_S)
                except TimeoutError:
                    message = b": still here\n\n"
