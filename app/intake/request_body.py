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
BODY_S = 10.0
#: More senders than this at once in one process, or more bytes of unfinished bodies, and who has been sending longest
#: makes room.
MOST_SENDING, MOST_UNFINISHED = 1_000, 67_108_864
#: Once this process is asked to go, a body has so long to come.
LEAVING_S = 4.0


class Refused(Exception):
    """An answer that is not 2xx. code and detail are what the tool's operator gets to read."""

    def __init__(self, status: int, code: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers


async def read_body(receive: Receive, claimed: str, most: int, grow: Callable[[int], None] | None = None) -> bytes:
    """The body, never more than `most` bytes of it in memory. claimed: its content-length. grow: is told the size of every
    part. Raises Refused."""
    claimed = claimed.strip() or "0"
    if not (claimed.isascii() and claimed.isdecimal()) or len(claimed) > 15 or int(claimed) > most:
        raise _too_large(most)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "unfinished", "the sender left before the body was complete")
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if grow:
            grow(len(part))
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"a body has {most} bytes at the most", connection="close")


@dataclass(slots=True, eq=False)
class Sending:
    """A body that is on its way."""

    task: asyncio.Task[Any]
    since: float
    size: int = 0


def _too_slow() -> Refused:
    return Refused(408, "too_slow", "the body did not come in time", connection="close")


class Slow:
    """Who is still sending. One look at all of them now and then costs less than a timer for each; and whoever sends
    nothing at all takes no place from those who do."""

    def __init__(self, most_unfinished: int | None = None) -> None:
        self._most_unfinished = most_unfinished or MOST_UNFINISHED
        self._sending: dict[Sending, None] = {}  # the longest first
        self._cut: set[Sending] = set()
        self._unfinished = 0
        self._within_s = BODY_S

    async def read(self, receive: Receive, claimed: str, most: int) -> bytes:
        """The body. Raises Refused, 408, in whoever is cut off meanwhile."""
        task = asyncio.current_task()
        assert task
        if len(self._sending) >= min(MOST_SENDING, http_protocol.MOST_CONNECTIONS // 2):
            self._cut_off_longest()
        sending = Sending(task, time.monotonic())
        self._sending[sending] = None
        try:
            return await read_body(receive, claimed, most, partial(self._grow, sending))
        except asyncio.CancelledError:
            if sending not in self._cut:
                raise
            task.uncancel()
            raise _too_slow() from None
        finally:
            self._forget(sending)
            self._cut.discard(sending)

    def _grow(self, sending: Sending, size: int) -> None:
        sending.size += size
        self._unfinished += size
        while self._unfinished > self._most_unfinished:
            if next(iter(self._sending)) is sending:
                raise _too_slow()  # a task that cancels itself would stop at some later step
            self._cut_off_longest()

    async def keep_cutting(self) -> None:
        while True:
            await asyncio.sleep(self._within_s / 10)
            least = time.monotonic() - self._within_s
            for sending in [sending for sending in self._sending if sending.since < least]:
                self._cut_off(sending)

    def leave(self) -> None:
        """The process is asked to go."""
        self._within_s = min(self._within_s, LEAVING_S)

    def _cut_off_longest(self) -> None:
        self._cut_off(next(iter(self._sending)))

    def _cut_off(self, sending: Sending) -> None:
        self._forget(sending)
        self._cut.add(sending)
        sending.task.cancel()

    def _forget(self, sending: Sending) -> None:
        if sending in self._sending:
            del self._sending[sending]
            self._unfinished -= sending.size
