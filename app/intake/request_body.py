"""Reading a body, with limits on its size, its time, and all bodies together."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.types import Receive

from app.intake import http_protocol

#: Time for a complete body, from the end of the head.
BODY_TIMEOUT_S = 10.0
#: Per process. Above one of these, the oldest unfinished body is cancelled.
MAX_OPEN_BODIES, MAX_UNFINISHED_BYTES = 1_000, 67_108_864
#: BODY_TIMEOUT_S after SIGTERM.
SHUTDOWN_BODY_TIMEOUT_S = 4.0


class HttpRejection(Exception):
    """A response that is not 2xx. The owner of the sending system reads code and detail."""

    def __init__(self, status: int, code: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers


async def read_body(
    receive: Receive, content_length: str, limit: int, on_chunk: Callable[[int], None] | None = None
) -> bytes:
    """Return the body. At most `limit` bytes are in memory.

    on_chunk: called with the size of each part. Raises HttpRejection.
    """
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
            raise HttpRejection(400, "unfinished", "the connection closed before the body was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise body_too_large(limit)
        parts.append(part)
        if on_chunk:
            on_chunk(len(part))
        if not message.get("more_body"):
            return b"".join(parts)


def body_too_large(limit: int) -> HttpRejection:
    return HttpRejection(413, "too_large", f"a body may have at most {limit} bytes", connection="close")


def _too_slow(detail: str) -> HttpRejection:
    return HttpRejection(408, "too_slow", detail, connection="close")


@dataclass(slots=True, eq=False)
class OpenBody:
    """A body that is being received."""

    task: asyncio.Task[Any]
    started_at: float
    size: int = 0


#: Details of a 408.
_TOO_SLOW = "the body did not arrive in time"
_EVICTED = "too many bodies are unfinished, and this one began first"


class BodyDeadlines:
    """Cancels requests whose body takes longer than BODY_TIMEOUT_S, and the oldest ones above MAX_OPEN_BODIES.

    One periodic scan replaces a timer per request.
    """

    def __init__(self, max_unfinished_bytes: int | None = None) -> None:
        self._max_unfinished_bytes = max_unfinished_bytes or MAX_UNFINISHED_BYTES
        self._open: dict[OpenBody, None] = {}  # the oldest first
        self._cancelled: dict[OpenBody, str] = {}  # with the detail of the response
        self._unfinished_bytes = 0
        self._timeout_s = BODY_TIMEOUT_S

    async def read(self, receive: Receive, content_length: str, limit: int) -> bytes:
        """Return the body. Raises HttpRejection: 408 in the request that is cancelled."""
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
            raise _too_slow(self._cancelled[body]) from None
        finally:
            self._remove(body)
            self._cancelled.pop(body, None)

    def _on_chunk(self, body: OpenBody, size: int) -> None:
        body.size += size
        self._unfinished_bytes += size
        while self._unfinished_bytes > self._max_unfinished_bytes:
            if next(iter(self._open)) is body:
                raise _too_slow(_EVICTED)  # a task that cancels itself would stop at some later step
            self._cancel_oldest()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._timeout_s / 10)
            deadline = time.monotonic() - self._timeout_s
            for body in [body for body in self._open if body.started_at < deadline]:
                self._cancel(body, _TOO_SLOW)

    def start_draining(self) -> None:
        """Shorten the deadline, because the process ends soon."""
        self._timeout_s = min(self._timeout_s, SHUTDOWN_BODY_TIMEOUT_S)

    def _cancel_oldest(self) -> None:
        self._cancel(next(iter(self._open)), _EVICTED)

    def _cancel(self, body: OpenBody, detail: str) -> None:
        self._remove(body)
        self._cancelled[body] = detail
        body.task.cancel()

    def _remove(self, body: OpenBody) -> None:
        if body in self._open:
            del self._open[body]
            self._unfinished_bytes -= body.size
