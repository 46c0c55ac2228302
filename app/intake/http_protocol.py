"""uvicorn's httptools protocol with more limits and a fast path: `uvicorn --http app.intake.http_protocol:HttpProtocol`.

LimitedHttpProtocol has the limits. BufferedRequest is the fast path, for requests that arrive in one piece.

Only this module depends on uvicorn's internals. The application sees a BufferedRequest as an ASGI extension, and works
without it.
"""

import asyncio
import resource
from collections.abc import Callable, Mapping, Sized
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, ClassVar, cast

import click
import httptools
import uvicorn
from starlette.types import Scope, Send

#: The methods overridden here, and some attributes, are not public in uvicorn.
UVICORN_VERSION = "0.54"


class UnsupportedUvicorn(click.ClickException):
    """Ends `uvicorn`, which is a click command, with a sentence instead of a traceback."""


if not uvicorn.__version__.startswith(f"{UVICORN_VERSION}."):
    raise UnsupportedUvicorn(
        f"doorbell web cannot start: uvicorn {uvicorn.__version__} is installed, and app/intake/http_protocol.py extends "
        f"internals of uvicorn {UVICORN_VERSION}. Install the versions in requirements.txt."
    )

# Imported after the check: another version may have moved these names.
from uvicorn._types import ASGI3Application  # noqa: E402
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle  # noqa: E402

#: Size of the request line and headers, or of the trailers. Routers in front of us allow less.
MAX_HEAD_BYTES = 65_536
#: Time for a complete head, for the first byte of a connection, for the rest of a body after its response, and for
#: MIN_READ_BYTES of a response.
HEAD_TIMEOUT_S = 10.0
#: Each header costs about 130 bytes of memory, however short it is.
MAX_HEADERS = 256
#: Sum of all incomplete heads in one process. Above it the connection with the oldest incomplete head is closed.
MAX_PARTIAL_HEADS_BYTES = 67_108_864
#: A client that reads less than this of a waiting response within HEAD_TIMEOUT_S is disconnected.
MIN_READ_BYTES = 65_536
#: Requests on one connection that wait for the response to an earlier one.
MAX_PIPELINED = 1_000
#: Per process. raise_file_limit() lowers it to what the system allows. An idle connection costs 4 KB.
MAX_CONNECTIONS = 10_000
#: Time for which an idle connection stays open after SIGTERM. A request that is already on its way is answered, with
#: `connection: close`, instead of meeting a reset.
SHUTDOWN_GRACE_S = 2.0
#: Key in the lifespan state of a function to call for each connection when the process shuts down: it ends event streams and
#: shortens the deadlines of bodies.
ON_SHUTDOWN = "doorbell.on_shutdown"
#: ASGI extension: the BufferedRequest of a POST.
BUFFERED_REQUEST = "doorbell.buffered_request"
#: Key in the lifespan state of a function that takes each BufferedRequest once its head has arrived.
TAKE_REQUEST = "doorbell.take_request"
#: Formats a pair of name and value.
HEADER_LINE = b"%b: %b\r\n".__mod__


def raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit, and lower MAX_CONNECTIONS to 80 % of it if it is more."""
    global MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has its own lower limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY:
        MAX_CONNECTIONS = min(MAX_CONNECTIONS, soft * 4 // 5)


# -- limits --


class PipelineFlowControl(FlowControl):
    """Keeps reading paused while pipelined requests are queued.

    uvicorn resumes after each response and each `receive()`, so a client that never reads could make us buffer without
    limit.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            super().resume_reading()


class LimitedHttpProtocol(HttpToolsProtocol):
    """Limits the size and time of heads and trailers, pipelined requests, idle time and unread responses.

    A violation closes the connection. Above MAX_CONNECTIONS the connection that has been idle for longest is closed.
    """

    #: Connections without an active request and when they became idle, the longest idle first.
    _idle: ClassVar[dict["LimitedHttpProtocol", float]] = {}
    #: The event loop that will close idle connections.
    _closing_loop: ClassVar[asyncio.AbstractEventLoop | None] = None
    #: Bytes received of each incomplete head, the oldest first, and their sum.
    _partial_heads: ClassVar[dict["LimitedHttpProtocol", int]] = {}
    _partial_heads_bytes: ClassVar[int] = 0

    _unparsed_bytes = 0  # received since the parser last completed a head, a part of a body or a request
    _body_pending = False  # the head is complete, the body is not
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
        self._idle[self] = self.loop.time()
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
        cast(CoalescingTransport, self.transport).on_unsent = _do_nothing  # breaks a reference cycle
        self._idle.pop(self, None)
        self._unset_keepalive_if_required()  # a running timer would keep this object alive
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
            raise ValueError  # makes the parser report a malformed request
        super().on_headers_complete()
        self._body_pending = True
        self.headers = _DISCARDED_HEADERS  # the parser reports trailers as headers
        if not self.pipeline:
            self._active_cycle = self.cycle
            self._idle.pop(self, None)
        elif len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()
        if self._draining and self.cycle:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        super()._start_asgi_task(cycle, partial(_run, app))

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

    def on_response_complete(self) -> None:
        """Free the headers, body and scope of the request, since the connection may stay open for long; start the next one.

        Replaces uvicorn's method, which has a keep-alive timer for each response.
        """
        finished, is_latest = self._active_cycle, True
        if finished:
            is_latest = finished.scope is self.scope
            _drop_references(finished)
            finished.body.clear()
            if is_latest:
                self.scope, self.headers, self.url = finished.scope, [], b""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._active_cycle, app = self.pipeline.pop()
            self._start_asgi_task(self._active_cycle, app)
            return
        self._set_idle()
        if self._is_malformed:
            self._reject()
        elif not is_latest:
            self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # no other protocol is supported
        except httptools.HttpParserError:
            self._on_malformed()
            return
        cycle = self.cycle
        if self._unparsed_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self.transport.close()
        elif cycle is None or cycle.response_complete:
            # Most heads arrive in one piece. A timer would cost too much for those.
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
            oldest = next(iter(self._partial_heads))
            oldest._untrack_head()
            oldest.transport.close()

    def _untrack_head(self) -> None:
        LimitedHttpProtocol._partial_heads_bytes -= self._partial_heads.pop(self, 0)

    def _on_malformed(self) -> None:
        """Answer 400 after the responses to earlier requests. The active request itself may be the malformed one."""
        active = self._active_cycle
        if self._body_pending and self.pipeline:
            _drop_references(self.pipeline.popleft()[0])
        elif self._body_pending and active and active.response_complete:
            self.transport.close()
            return
        elif self._body_pending or not active or active.response_complete:
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

    def _set_idle(self) -> None:
        self._idle[self] = self.loop.time()
        if LimitedHttpProtocol._closing_loop is not self.loop:
            self._close_idle_later(self.loop, self.timeout_keep_alive, self.timeout_keep_alive)

    @classmethod
    def _close_idle_later(cls, loop: asyncio.AbstractEventLoop, delay_s: float, timeout_s: float) -> None:
        LimitedHttpProtocol._closing_loop = loop
        loop.call_later(delay_s, cls._close_idle, loop, timeout_s)

    @classmethod
    def _close_idle(cls, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Close the connections that were idle for timeout_s. One timer for all costs less than one for each response."""
        LimitedHttpProtocol._closing_loop = None
        began_before = loop.time() - timeout_s
        for protocol, since in list(cls._idle.items()):
            if protocol._head_timer:  # it has an earlier deadline
                continue
            if since > began_before:
                cls._close_idle_later(loop, since - began_before, timeout_s)
                return
            del cls._idle[protocol]
            protocol.timeout_keep_alive_handler()
        if cls._idle:
            cls._close_idle_later(loop, timeout_s, timeout_s)

    def _start_head_timer(self) -> None:
        """Limit the time for the rest of a head, or for the rest of a body after its response."""
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
        """Disconnect a client that does not read, while writing is paused or after close() with unsent bytes."""
        if self._read_timer is None:
            delay_s = SHUTDOWN_GRACE_S if self._draining else HEAD_TIMEOUT_S
            unsent = self.transport.get_write_buffer_size()
            self._read_timer = self.loop.call_later(delay_s, self._check_read_progress, unsent)

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
        """Let active requests finish within --timeout-graceful-shutdown, and idle connections within SHUTDOWN_GRACE_S."""
        self._draining = True
        self.app_state.get(ON_SHUTDOWN, _do_nothing)()
        if self._read_timer:
            self._stop_read_timer()
            self._watch_read_progress()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(SHUTDOWN_GRACE_S, super().shutdown)
        else:
            super().shutdown()


async def _run(app: ASGI3Application, scope: Any, receive: Any, send: Any) -> None:
    """Run the application, unless the connection was lost after the task was created: then the scope is empty."""
    if scope:
        await app(scope, receive, send)


def _drop_references(cycle: RequestResponseCycle) -> None:
    """Break the reference cycle of scope and request, so that both are freed at once and not by the garbage collector."""
    nothing: Any = {}
    cycle.scope = nothing


def _do_nothing() -> None:
    pass


class DiscardingHeaders(list[tuple[bytes, bytes]]):
    """A list of headers that stays empty."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        pass


_DISCARDED_HEADERS = DiscardingHeaders()


class CoalescingTransport:
    """A transport that sends everything written in one turn of the event loop at once."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, on_unsent: Callable[[], None]
    ) -> None:
        """on_unsent: called when close() leaves bytes that the client has not read."""
        self._transport, self._loop, self.on_unsent = transport, loop, on_unsent
        self._parts: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_at_once(self, data: bytes) -> None:
        """Write a whole response, to which nothing can be added in this turn."""
        if self._parts:
            self._flush()
        if not self.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        if self._parts and not self.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self.on_unsent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


# -- fast path --


class BufferedRequest:
    """A POST whose body arrived with its head: its body and its response without ASGI messages.

    ASGI needs one message for the body and two for the response, and uvicorn validates the headers that we wrote ourselves.
    A request costs a tenth less without them.
    """

    __slots__ = ("_app", "_body", "_cycle", "_start")

    def __init__(
        self,
        cycle: RequestResponseCycle,
        app: ASGI3Application,
        start: Callable[[RequestResponseCycle, ASGI3Application], None],
    ) -> None:
        """start: passes the request to the ASGI application."""
        self._cycle, self._app, self._start = cycle, app, start
        self._body: bytes | None = None

    def start(self) -> None:
        """Pass the request to the ASGI application, unless the connection was lost."""
        if self._cycle.scope:
            self._start(self._cycle, self._app)

    @property
    def scope(self) -> Scope:
        """The ASGI scope; empty after the request was answered, and after the connection was lost."""
        return cast(Scope, self._cycle.scope)

    def take_body(self) -> bytes | None:
        """Return the body, in each call; None if it has not arrived yet. The ASGI messages no longer have it."""
        if self._body is None and not self._cycle.more_body:
            self._body = bytes(self._cycle.body)
            self._cycle.body.clear()
        return self._body

    def write_response(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> bool:
        """Write the response at once, and return True.

        Return False, and write nothing, if the client does not read or is disconnected: use `send`, which waits.

        headers: with the content-length. They are not validated, so none may contain unchecked text of a sender.
        """
        cycle = self._cycle
        if cycle.response_started or cycle.flow.write_paused or cycle.disconnected:
            return False
        lines = map(HEADER_LINE, chain(cycle.default_headers, headers.items()))
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cast(CoalescingTransport, cycle.transport).write_at_once(b"".join((STATUS_LINE[status], *lines, end, body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        cycle.on_response = _do_nothing  # breaks a reference cycle, as uvicorn does
        return True

    @property
    def send(self) -> Send:
        """The ASGI callable."""
        return cast(Send, self._cycle.send)


class HttpProtocol(LimitedHttpProtocol):
    """The protocol of the web process: with limits, and with a BufferedRequest for each POST.

    If the application has TAKE_REQUEST in its lifespan state, that function gets the request, and may start it.
    """

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] != "POST":
            super()._start_asgi_task(cycle, app)
            return
        request = BufferedRequest(cycle, app, super()._start_asgi_task)
        cast(Scope, cycle.scope)["extensions"] = {BUFFERED_REQUEST: request}
        take = self.app_state.get(TAKE_REQUEST)
        if take and app is self.app:
            take(request)
        else:
            request.start()
