"""uvicorn's fast protocol, with a bound that it does not set, and a short way for requests that arrive in one piece:
`uvicorn --http app.protocol:Bounded`."""

import asyncio
from collections.abc import Sized
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

#: Address, headers or trailers, in bytes and in seconds; routers in front of us allow less.
MOST, WITHIN_S = 65_536, 10.0
#: Requests that are sent ahead on one connection, before the first of them is answered.
MOST_AHEAD = 1_000
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
    """Hangs up on a request whose head, or whose trailers, do not end: on bytes that bring nothing forward; on too many
    requests at once; and on who says nothing for as long as a connection is kept."""

    _idle = 0
    _is_leaving = False
    _patience: asyncio.TimerHandle | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, Gathering(transport, self.loop))
        self.flow = Ahead(transport, self.pipeline)
        self._keep()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # a timer would hold all of this
        self._stop_waiting()
        if self._running:
            self._running.disconnected = not self._running.response_complete
            self._running.message_event.set()
            _let_go(self._running)
        for cycle, _ in self.pipeline:
            _let_go(cycle)
        self.pipeline.clear()

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def on_headers_complete(self) -> None:
        self._idle = 0
        if self._patience:
            self._stop_waiting()
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        elif len(self.pipeline) > MOST_AHEAD:
            self.transport.close()
        if self._is_leaving and self.cycle:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._idle = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._idle = 0
        super().on_message_complete()
        scope: Any = self.scope
        if self.cycle and scope.get("method") == "POST":
            scope[WHOLE] = self.cycle

    def on_response_complete(self) -> None:
        """A connection that stays open keeps nothing of what arrived."""
        done = self._running
        if done:
            is_latest = done.scope is self.scope
            _let_go(done)
            done.body.clear()
            if is_latest:
                self.scope, self.headers, self.url = done.scope, [], b""
        if self.pipeline:
            self._running = self.pipeline[-1][0]  # which is next
        super().on_response_complete()

    def shutdown(self) -> None:
        """What is being answered is finished within --timeout-graceful-shutdown."""
        self._is_leaving = True
        self.app_state.get(LEAVE, _nothing)()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        self._idle += len(data)
        super().data_received(data)
        cycle = self.cycle
        if self._idle > MOST:
            self.transport.close()
        elif cycle is None or cycle.response_complete:
            # Most heads come in one piece; only for the others is a timer worth its cost.
            if self.scope is None or (cycle and cycle.scope is self.scope):
                self._keep()
            elif self._patience is None and not self.flow.read_paused:
                self._patience = self.loop.call_later(WITHIN_S, self.transport.close)

    def _keep(self) -> None:
        """Nothing is going on: who is silent may stay for as long as between two requests."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _let_go(cycle: RequestResponseCycle) -> None:
    """Of its scope, which may hold it: such circles would be left to the collector."""
    nothing: Any = {}
    cycle.scope = nothing


def _nothing() -> None:
    pass


class Gathering:
    """A transport that sends what is written in one turn of the loop together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
