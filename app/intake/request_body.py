"""The body of a request: bounded in bytes, in time, and over all senders."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Receive

from app.intake import http_protocol

#: A body that is not here by then never will be.
BODY_TIMEOUT_S = 10.0
#: More senders than this at once in one process, or more bytes of unfinished bodies, and who has been sending longest
#: makes room.
MAX_OPEN_BODIES, MAX_UNFINISHED_BYTES = 1_000, 67_108_864
#: After SIGTERM, the time that an unfinished body still has.
SHUTDOWN_BODY_TIMEOUT_S = 4.0


class HttpRejection(Exception):
    """An answer that is not 2xx. code and detail are what the tool's operator gets to read."""

    def __init__(self, status: int, code: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers


async def read_body(
    receive: Receive, content_length: str, limit: int, on_chunk: Callable[[int], None] | None = None
) -> bytes:
    """The body, never more than `most` bytes of it in memory. claimed: its content-length. grow: is told the size of every
    part. Raises Refused."""
    content_length = content_length.strip() or "0"
    if (
        not (content_length.isascii() and content_length.isdecimal())
        or len(content_length) > 15
        or int(content_length) > limit
    ):
        raise body_too_large(limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpRejection(400, "unfinished", "the sender left before the body was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise body_too_large(limit)
        parts.append(part)
        if on_chunk:
            on_chunk(len(part))
        if not message.get("more_body"):
            return b"".join(parts)


def body_too_large(most: int) -> HttpRejection:
    return HttpRejection(413, "too_large", f"a body has {most} bytes at the most", connection="close")


@dataclass(slots=True, eq=False)
class OpenBody:
    """A body that is on its way."""

    task: asyncio.Task[Any]
    started_at: float
    size: int = 0


def _body_too_slow() -> HttpRejection:
    return HttpRejection(408, "too_slow", "the body did not come in time", connection="close")


class BodyDeadlines:
    """Cancels requests whose body takes longer than BODY_TIMEOUT_S. One periodic scan replaces a timer per request; when
    MAX_OPEN_BODIES is reached, the oldest is cancelled, so that idle senders do not block others."""

    def __init__(self, max_unfinished_bytes: int | None = None) -> None:
        self._max_unfinished_bytes = max_unfinished_bytes or MAX_UNFINISHED_BYTES
        self._open: dict[OpenBody, None] = {}  # the longest first
        self._cancelled: set[OpenBody] = set()
        self._unfinished_bytes = 0
        self._timeout_s = BODY_TIMEOUT_S

    async def read(self, receive: Receive, content_length: str, limit: int) -> bytes:
        """Raises HttpRejection: 408 in the request that is cancelled."""
        task = asyncio.current_task()
        assert task
        if len(self._open) >= min(MAX_OPEN_BODIES, http_protocol.MAX_CONNECTIONS // 2):
            self._cancel_oldest()
        body = OpenBody(task, time.monotonic())
        self._open[body] = None
        try:
            return await read_body(receive, content_length, limit, partial(self._on_chunk, body))
        except asyncio.CancelledError:
            if body not in self._cancelled:
                raise
            task.uncancel()
            raise _body_too_slow() from None
        finally:
            self._remove(body)
            self._cancelled.discard(body)

    def _on_chunk(self, body: OpenBody, size: int) -> None:
        body.size += size
        self._unfinished_bytes += size
        while self._unfinished_bytes > self._max_unfinished_bytes:
            if next(iter(self._open)) is body:
                raise _body_too_slow()  # a task that cancels itself would stop at some later step
            self._cancel_oldest()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._timeout_s / 10)
            least = time.monotonic() - self._timeout_s
            for sending in [sending for sending in self._open if sending.started_at < least]:
                self._cancel(sending)

    def start_draining(self) -> None:
        """The process is asked to go."""
        self._timeout_s = min(self._timeout_s, SHUTDOWN_BODY_TIMEOUT_S)

    def _cancel_oldest(self) -> None:
        self._cancel(next(iter(self._open)))

    def _cancel(self, body: OpenBody) -> None:
        self._remove(body)
        self._cancelled.add(body)
        body.task.cancel()

    def _remove(self, body: OpenBody) -> None:
        if body in self._open:
            del self._open[body]
            self._unfinished_bytes -= body.size
