"""Server-sent events: the ids of deliveries that arrived and of tasks whose attempt finished, as JSON lists.

A page then fetches the current state of the ids that it shows. One reader of Redis serves all streams of a process.
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
from app.settings.model import Settings
from app.telemetry.logs import log

#: The maximum number of streams per process. A page without a stream polls.
MAX_STREAMS = 50
#: Routers close a connection that is silent for 55 s.
BROADCAST_INTERVAL_S, KEEPALIVE_S = 0.5, 15.0
MAX_IDS_PER_MESSAGE = 200
#: A stream with more waiting messages than this ends, and its page connects again.
MAX_QUEUED_MESSAGES = 20

Messages = asyncio.Queue[bytes]


class EventHub:
    """All streams of a process. An empty message ends a stream."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._settings = ledger, settings
        self._streams: set[Messages] = set()
        self._changed_ids: dict[str, None] = {}
        self._runner: asyncio.Task[None] | None = None
        self._is_shut_down = False

    def subscribe(self) -> Messages | None:
        """Return None above MAX_STREAMS. The caller must unsubscribe."""
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
        """End all streams and accept no new ones."""
        self._is_shut_down = True
        self._close_streams()

    def _close_streams(self) -> None:
        for messages in self._streams:
            _put(messages, b"")

    async def _run(self) -> None:
        # A connection in subscriber mode accepts no other commands.
        subscriber = Redis(self._ledger.redis.address)
        try:
            async with asyncio.TaskGroup() as group:
                for step in (self._read_deliveries(), self._read_attempts(subscriber), self._broadcast()):
                    group.create_task(step)
        except* RedisUnavailable:
            log.info("event_streams_closed")
        except* Exception:
            log.exception("unhandled_exception")
        finally:
            await subscriber.close()
            if self._runner is asyncio.current_task():
                self._runner = None
                self._close_streams()

    async def _read_deliveries(self) -> None:
        async for id in new_deliveries(self._ledger, lambda: self._settings.hooks):
            self._publish(id)

    async def _read_attempts(self, subscriber: Redis) -> None:
        async for task, _ in finished_attempts(subscriber):
            self._publish(task.display_id)

    def _publish(self, id: str) -> None:
        if len(self._changed_ids) < MAX_IDS_PER_MESSAGE:
            self._changed_ids[id] = None

    async def _broadcast(self) -> None:
        while True:
            await asyncio.sleep(BROADCAST_INTERVAL_S)
            if self._changed_ids:
                message = b"data: " + orjson.dumps(list(self._changed_ids)) + b"\n\n"
                self._changed_ids.clear()
                for messages in self._streams:
                    _put(messages, message)


def _put(messages: Messages, message: bytes) -> None:
    # A full queue ends the stream: its page missed a message and must connect again.
    if messages.full():
        messages.get_nowait()
        message = b""
    messages.put_nowait(message)


class EventStream(StreamingResponse):
    """Sends comments as keep-alive. Ends when `is_allowed` returns a false value, because the session has ended."""

    def __init__(self, hub: EventHub, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> None:
        headers = {"x-accel-buffering": "no"}
        super().__init__(self._chunks(messages, is_allowed), media_type="text/event-stream", headers=headers)
        self._hub, self._messages = hub, messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hub.unsubscribe(self._messages)

    async def _chunks(self, messages: Messages, is_allowed: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
        message = b": connected\n\n"
        with suppress(RedisUnavailable):
            while message and await is_allowed():
                yield message
                try:
                    message = await asyncio.wait_for(messages.get(), KEEPALIVE_S)
                except TimeoutError:
                    message = b": keep-alive\n\n"
