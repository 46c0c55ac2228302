"""uvicorn's fast protocol, with a bound that it does not set, and a short way for requests that arrive in one piece:
`uvicorn --http app.intake.http_protocol:LimitedHttpProtocol`."""

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


class UnsupportedUvicorn(click.ClickException):
    """Ends `uvicorn`, which is a click command, with a sentence and without a traceback."""


if not uvicorn.__version__.startswith(f"{UVICORN_VERSION}."):
    raise UnsupportedUvicorn(
        f"doorbell web cannot start: uvicorn {uvicorn.__version__} is installed, and app/intake/http_protocol.py extends "
        f"internals of uvicorn {UVICORN_VERSION}. Install the versions in requirements.txt."
    )

# Only now: in another version they may be elsewhere.
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle  # noqa: E402

#: Address, headers or trailers, in bytes and in seconds; routers in front of us allow less. The first byte of a
#: connection, and the rest of a body after its answer, must come within the same time.
MAX_HEAD_BYTES, HEAD_TIMEOUT_S = 65_536, 10.0
#: More headers than this are malformed: each costs some 130 bytes, however short it is. And in bytes, all heads that are
#: on their way in one process: beyond it, the one that began first makes room.
MAX_HEADERS, MAX_PARTIAL_HEADS_BYTES = 256, 67_108_864
#: Whoever takes less than this of an answer WITHIN_S, while more of it waits, is disconnected.
MIN_READ_BYTES = 65_536
#: Requests that are sent ahead on one connection, before the first of them is answered.
MAX_PIPELINED = 1_000
#: Connections of one process; `make_room` lowers it to what the system allows. An idle one costs 4 KB.
MAX_CONNECTIONS = 10_000
#: So long after SIGTERM a connection on which nothing is going on stays open: the next request may be on its way already,
#: and would meet a reset. It is answered, with `connection: close`.
SHUTDOWN_GRACE_S = 2.0
#: In the lifespan's state: what to call when this process is asked to go, so that event streams end at once.
ON_SHUTDOWN = "doorbell.on_shutdown"
#: In the scope of a POST that arrived in one piece: for `take` and `answer`.
BUFFERED_CYCLE = "doorbell.buffered_cycle"


def take_body(cycle: RequestResponseCycle) -> bytes:
    """The body, once."""
    body = bytes(cycle.body)
    cycle.body.clear()
    return body


def write_response(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    """In one write. ASGI takes a message for the body and two for the answer, and looks through what we wrote ourselves: a
    tenth of what the door costs.

    head: the lines of our own, with the content-length, and nothing in them that a stranger wrote. False: the sender does
    not read what it is told, and `send` has to wait for that.
    """
    if cycle.response_started or cycle.flow.write_paused or cycle.disconnected:
        return False
    default_headers = b"".join([b"%b: %b\r\n" % line for line in cycle.default_headers])
    end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    cycle.transport.write(b"".join((STATUS_LINE[status], default_headers, head, end, body)))
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class PipelineFlowControl(FlowControl):
    """Reads no more while requests wait that were sent ahead. uvicorn reads on with every answer, and with every body that
    is asked for: a stranger who reads no answers could fill the memory."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()


class LimitedHttpProtocol(HttpToolsProtocol):
    """Closes a connection whose head, trailers or body does not end, that sends nothing, that does not read its answers, or
    that sends too much ahead. Where there are too many connections, the one that has been idle for longest is closed."""

    #: Without a request that is being answered, the longest first.
    _idle: ClassVar[dict["LimitedHttpProtocol", None]] = {}
    #: How much arrived of each head that is on its way, in bytes, the first to begin first; and the sum.
    _partial_heads: ClassVar[dict["LimitedHttpProtocol", int]] = {}
    _partial_heads_bytes: ClassVar[int] = 0

    _unparsed_bytes = 0  # bytes since anything came of them
    _body_pending = False  # a head was complete, and its body is not
    _is_malformed = False
    _draining = False
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _active_cycle: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, CoalescingTransport(transport, self.loop, self._watch_read_progress))
        self.flow = PipelineFlowControl(transport, self.pipeline)
        self.headers = []
        self.timeout_keep_alive_task = self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)
        self._idle[self] = None
        if len(self.connections) > MAX_CONNECTIONS:
            next(iter(self._idle))._evict()

    def _evict(self) -> None:
        del self._idle[self]
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._idle.pop(self, None)
        self._unset_keepalive_if_required()  # a timer would hold all of this
        self._stop_head_timer()
        self._stop_read_timer()
        if self._active_cycle:
            self._active_cycle.disconnected = not self._active_cycle.response_complete
            self._active_cycle.message_event.set()
            _drop_references(self._active_cycle)
        for cycle, _ in self.pipeline:
            _drop_references(cycle)
        self.pipeline.clear()

    # -- requests --

    def on_headers_complete(self) -> None:
        self._unparsed_bytes = 0
        if self._head_timer:
            self._stop_head_timer()
        if self.timeout_keep_alive_task:
            self._unset_keepalive_if_required()
        if len(self.headers) > MAX_HEADERS:
            raise ValueError  # for the parser
        super().on_headers_complete()
        self._body_pending = True
        self.headers = _DISCARDED_HEADERS  # trailers are no headers
        if not self.pipeline:
            self._active_cycle = self.cycle
            self._idle.pop(self, None)
        elif len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()
        if self._draining and self.cycle:
            self.cycle.keep_alive = False

    def _should_upgrade(self) -> bool:
        return False

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._body_pending = False
        if self._head_timer:
            self._stop_head_timer()
        super().on_message_complete()
        scope: Any = self.scope
        if self.cycle and scope.get("method") == "POST":
            scope[BUFFERED_CYCLE] = self.cycle

    def on_response_complete(self) -> None:
        """A connection that stays open keeps nothing of what arrived."""
        done, is_latest = self._active_cycle, True
        if done:
            is_latest = done.scope is self.scope
            _drop_references(done)
            done.body.clear()
            if is_latest:
                self.scope, self.headers, self.url = done.scope, [], b""
        if self.pipeline:
            self._active_cycle = self.pipeline[-1][0]  # which is next
            super().on_response_complete()
            return
        super().on_response_complete()
        self._idle[self] = None
        if self._is_malformed:
            self._reject()
        elif not is_latest:
            self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing but HTTP is spoken here
        except httptools.HttpParserError:
            self._on_malformed()
            return
        cycle = self.cycle
        if self._unparsed_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self.transport.close()
        elif cycle is None or cycle.response_complete:
            # Most heads come in one piece; only for the others is a timer worth its cost.
            if self._body_pending:
                self._start_head_timer()
            elif self.scope is not None and not (cycle and cycle.scope is self.scope):
                self._start_head_timer()
                self._track_head(len(data))

    def _track_head(self, size: int) -> None:
        if self._head_timer is None:
            return
        self._partial_heads[self] = self._partial_heads.get(self, 0) + size
        LimitedHttpProtocol._partial_heads_bytes += size
        while self._partial_heads_bytes > MAX_PARTIAL_HEADS_BYTES:
            first = next(iter(self._partial_heads))
            first._untrack_head()
            first.transport.close()

    def _untrack_head(self) -> None:
        LimitedHttpProtocol._partial_heads_bytes -= self._partial_heads.pop(self, 0)

    def _on_malformed(self) -> None:
        """The requests before it are answered first. The one that is being answered may itself be malformed."""
        running = self._active_cycle
        if self._body_pending and self.pipeline:
            _drop_references(self.pipeline.popleft()[0])
        elif self._body_pending and running and running.response_complete:
            self.transport.close()
            return
        elif self._body_pending or not running or running.response_complete:
            self._reject()
            return
        self._body_pending, self._is_malformed = False, True
        self.flow.pause_reading()

    def _reject(self) -> None:
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        if not self.transport.is_closing():
            self.send_400_response(message)

    # -- time --

    def _start_head_timer(self) -> None:
        """For the rest of a head, or of a body that was answered."""
        if self._head_timer is None and not self.flow.read_paused:
            self._unset_keepalive_if_required()
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
            self._untrack_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_read_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_read_timer()

    def _watch_read_progress(self) -> None:
        """Something waits to be read: while writing is paused, and after the connection was closed."""
        if self._read_timer is None:
            within_s = SHUTDOWN_GRACE_S if self._draining else HEAD_TIMEOUT_S
            self._read_timer = self.loop.call_later(
                within_s, self._check_read_progress, self.transport.get_write_buffer_size()
            )

    def _check_read_progress(self, unsent_before: int) -> None:
        self._read_timer = None
        if unsent_before - self.transport.get_write_buffer_size() < MIN_READ_BYTES:
            self.transport.abort()
        else:
            self._watch_read_progress()

    def _stop_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None

    def shutdown(self) -> None:
        """What is being answered is finished within --timeout-graceful-shutdown."""
        self._draining = True
        self.app_state.get(ON_SHUTDOWN, _nothing)()
        if self._read_timer:
            self._stop_read_timer()
            self._watch_read_progress()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(SHUTDOWN_GRACE_S, super().shutdown)
        else:
            super().shutdown()


def raise_file_limit() -> None:
    """Raises the limit of open files as far as this process may, and keeps a fifth of it for what are no connections."""
    global MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY:
        MAX_CONNECTIONS = min(MAX_CONNECTIONS, soft * 4 // 5)


def _drop_references(cycle: RequestResponseCycle) -> None:
    """Of its scope, which may hold it: such circles would be left to the collector."""
    nothing: Any = {}
    cycle.scope = nothing


def _nothing() -> None:
    pass


class DiscardingHeaders(list[tuple[bytes, bytes]]):
    """In the place of headers: keeps none."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        pass


_DISCARDED_HEADERS = DiscardingHeaders()


class CoalescingTransport:
    """A transport that sends what is written in one turn of the loop together."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, on_unsent: Callable[[], None]
    ) -> None:
        """on_unread: called where the connection is closed and something still waits to be read."""
        self._transport, self._loop, self._on_unsent = transport, loop, on_unsent
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
            self._on_unsent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
