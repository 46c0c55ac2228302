"""uvicorn's fast protocol, with a bound that it does not set, and a short way for requests that arrive in one piece:
`uvicorn --http app.intake.http_protocol:Bounded`."""

import asyncio
import resource
from collections.abc import Callable, Sized
from contextlib import suppress
from typing import Any, ClassVar, cast

import click
import httptools
import uvicorn

#: This module overrides methods of uvicorn that are not public, and works on attributes that are not.
UVICORN_VERSION = "0.54"


class WrongUvicorn(click.ClickException):
    """Ends `uvicorn`, which is a click command, with a sentence and without a traceback."""


if not uvicorn.__version__.startswith(f"{UVICORN_VERSION}."):
    raise WrongUvicorn(
        f"doorbell web cannot start: uvicorn {uvicorn.__version__} is installed, and app/intake/http_protocol.py extends "
        f"internals of uvicorn {UVICORN_VERSION}. Install the versions in requirements.txt."
    )

# Only now: in another version they may be elsewhere.
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle  # noqa: E402

#: Address, headers or trailers, in bytes and in seconds; routers in front of us allow less. The first byte of a
#: connection, and the rest of a body after its answer, must come within the same time.
MOST, WITHIN_S = 65_536, 10.0
#: More headers than this are malformed: each costs some 130 bytes, however short it is. And in bytes, all heads that are
#: on their way in one process: beyond it, the one that began first makes room.
MOST_HEADERS, MOST_HEADS = 256, 67_108_864
#: Whoever takes less than this of an answer WITHIN_S, while more of it waits, is disconnected.
LEAST_READ = 65_536
#: Requests that are sent ahead on one connection, before the first of them is answered.
MOST_AHEAD = 1_000
#: Connections of one process; `make_room` lowers it to what the system allows. An idle one costs 4 KB.
MOST_CONNECTIONS = 10_000
#: So long after SIGTERM a connection on which nothing is going on stays open: the next request may be on its way already,
#: and would meet a reset. It is answered, with `connection: close`.
LINGER_S = 2.0
#: In the lifespan's state: what to call when this process is asked to go, so that event streams end at once.
LEAVE = "doorbell.leave"
#: In the scope of a POST that arrived in one piece: for `take` and `answer`.
WHOLE = "doorbell.whole"


def take(whole: RequestResponseCycle) -> bytes:
    """The body, once."""
    body = bytes(whole.body)
    whole.body.clear()
    return body


def answer(whole: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """In one write. ASGI takes a message for the body and two for the answer, and looks through what we wrote ourselves: a
    tenth of what the door costs.

    head: the lines of our own, with the content-length, and nothing in them that a stranger wrote. False: the sender does
    not read what it is told, and `send` has to wait for that.
    """
    if whole.response_started or whole.flow.write_paused or whole.disconnected:
        return False
    ours = b"".join([b"%b: %b\r\n" % line for line in whole.default_headers])
    end = b"\r\n" if whole.keep_alive else b"connection: close\r\n\r\n"
    whole.transport.write(b"".join((STATUS_LINE[status], ours, head, end, body)))
    whole.response_started = whole.response_complete = True
    whole.message_event.set()
    if not whole.keep_alive:
        whole.transport.close()
    whole.on_response()
    return True


class Ahead(FlowControl):
    """Reads no more while requests wait that were sent ahead. uvicorn reads on with every answer, and with every body that
    is asked for: a stranger who reads no answers could fill the memory."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if self.read_paused and not self._waiting:
            super().resume_reading()


class Bounded(HttpToolsProtocol):
    """Closes a connection whose head, trailers or body does not end, that sends nothing, that does not read its answers, or
    that sends too much ahead. Where there are too many connections, the one that has been idle for longest is closed."""

    #: Without a request that is being answered, the longest first.
    _idle: ClassVar[dict["Bounded", None]] = {}
    #: How much arrived of each head that is on its way, in bytes, the first to begin first; and the sum.
    _heads: ClassVar[dict["Bounded", int]] = {}
    _heads_size: ClassVar[int] = 0

    _unused = 0  # bytes since anything came of them
    _is_midway = False  # a head was complete, and its body is not
    _is_malformed = False
    _is_leaving = False
    _patience: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, Gathering(transport, self.loop, self._watch_reader))
        self.flow = Ahead(transport, self.pipeline)
        self.headers = []
        self.timeout_keep_alive_task = self.loop.call_later(WITHIN_S, self.timeout_keep_alive_handler)
        self._idle[self] = None
        if len(self.connections) > MOST_CONNECTIONS:
            next(iter(self._idle))._make_way()

    def _make_way(self) -> None:
        del self._idle[self]
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._idle.pop(self, None)
        self._unset_keepalive_if_required()  # a timer would hold all of this
        self._stop_waiting()
        self._stop_watching()
        if self._running:
            self._running.disconnected = not self._running.response_complete
            self._running.message_event.set()
            _let_go(self._running)
        for cycle, _ in self.pipeline:
            _let_go(cycle)
        self.pipeline.clear()

    # -- requests --

    def on_headers_complete(self) -> None:
        self._unused = 0
        if self._patience:
            self._stop_waiting()
        if self.timeout_keep_alive_task:
            self._unset_keepalive_if_required()
        if len(self.headers) > MOST_HEADERS:
            raise ValueError  # for the parser
        super().on_headers_complete()
        self._is_midway = True
        self.headers = _DROPPED  # trailers are no headers
        if not self.pipeline:
            self._running = self.cycle
            self._idle.pop(self, None)
        elif len(self.pipeline) > MOST_AHEAD:
            self.transport.close()
        if self._is_leaving and self.cycle:
            self.cycle.keep_alive = False

    def _should_upgrade(self) -> bool:
        return False

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unused = 0
        self._is_midway = False
        if self._patience:
            self._stop_waiting()
        super().on_message_complete()
        scope: Any = self.scope
        if self.cycle and scope.get("method") == "POST":
            scope[WHOLE] = self.cycle

    def on_response_complete(self) -> None:
        """A connection that stays open keeps nothing of what arrived."""
        done, is_latest = self._running, True
        if done:
            is_latest = done.scope is self.scope
            _let_go(done)
            done.body.clear()
            if is_latest:
                self.scope, self.headers, self.url = done.scope, [], b""
        if self.pipeline:
            self._running = self.pipeline[-1][0]  # which is next
            super().on_response_complete()
            return
        super().on_response_complete()
        self._idle[self] = None
        if self._is_malformed:
            self._refuse()
        elif not is_latest:
            self._wait()

    def data_received(self, data: bytes) -> None:
        self._unused += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing but HTTP is spoken here
        except httptools.HttpParserError:
            self._on_malformed()
            return
        cycle = self.cycle
        if self._unused > MOST or len(self.headers) > MOST_HEADERS:
            self.transport.close()
        elif cycle is None or cycle.response_complete:
            # Most heads come in one piece; only for the others is a timer worth its cost.
            if self._is_midway:
                self._wait()
            elif self.scope is not None and not (cycle and cycle.scope is self.scope):
                self._wait()
                self._count_head(len(data))

    def _count_head(self, size: int) -> None:
        if self._patience is None:
            return
        self._heads[self] = self._heads.get(self, 0) + size
        Bounded._heads_size += size
        while self._heads_size > MOST_HEADS:
            first = next(iter(self._heads))
            first._forget_head()
            first.transport.close()

    def _forget_head(self) -> None:
        Bounded._heads_size -= self._heads.pop(self, 0)

    def _on_malformed(self) -> None:
        """The requests before it are answered first. The one that is being answered may itself be malformed."""
        running = self._running
        if self._is_midway and self.pipeline:
            _let_go(self.pipeline.popleft()[0])
        elif self._is_midway and running and running.response_complete:
            self.transport.close()
            return
        elif self._is_midway or not running or running.response_complete:
            self._refuse()
            return
        self._is_midway, self._is_malformed = False, True
        self.flow.pause_reading()

    def _refuse(self) -> None:
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        if not self.transport.is_closing():
            self.send_400_response(message)

    # -- time --

    def _wait(self) -> None:
        """For the rest of a head, or of a body that was answered."""
        if self._patience is None and not self.flow.read_paused:
            self._unset_keepalive_if_required()
            self._patience = self.loop.call_later(WITHIN_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None
            self._forget_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def _watch_reader(self) -> None:
        """Something waits to be read: while writing is paused, and after the connection was closed."""
        if self._reader is None:
            within_s = LINGER_S if self._is_leaving else WITHIN_S
            self._reader = self.loop.call_later(within_s, self._judge_reader, self.transport.get_write_buffer_size())

    def _judge_reader(self, before: int) -> None:
        self._reader = None
        if before - self.transport.get_write_buffer_size() < LEAST_READ:
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching(self) -> None:
        if self._reader:
            self._reader.cancel()
            self._reader = None

    def shutdown(self) -> None:
        """What is being answered is finished within --timeout-graceful-shutdown."""
        self._is_leaving = True
        self.app_state.get(LEAVE, _nothing)()
        if self._reader:
            self._stop_watching()
            self._watch_reader()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_S, super().shutdown)
        else:
            super().shutdown()


def make_room() -> None:
    """Raises the limit of open files as far as this process may, and keeps a fifth of it for what are no connections."""
    global MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY:
        MOST_CONNECTIONS = min(MOST_CONNECTIONS, soft * 4 // 5)


def _let_go(cycle: RequestResponseCycle) -> None:
    """Of its scope, which may hold it: such circles would be left to the collector."""
    nothing: Any = {}
    cycle.scope = nothing


def _nothing() -> None:
    pass


class Dropped(list[tuple[bytes, bytes]]):
    """In the place of headers: keeps none."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        pass


_DROPPED = Dropped()


class Gathering:
    """A transport that sends what is written in one turn of the loop together."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, on_unread: Callable[[], None]
    ) -> None:
        """on_unread: called where the connection is closed and something still waits to be read."""
        self._transport, self._loop, self._on_unread = transport, loop, on_unread
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        if self._parts and not self.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._on_unread()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
