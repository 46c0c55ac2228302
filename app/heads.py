"""A bound that uvicorn's fast protocol does not set: `uvicorn --http app.heads:BoundedHeads`."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Address, headers or trailers, in bytes and in seconds; routers in front of us allow less.
MOST, WITHIN_S = 65_536, 10.0


class BoundedHeads(HttpToolsProtocol):
    """Hangs up on a request whose head, or whose trailers, do not end: on bytes that bring nothing forward."""

    _idle = 0
    _in_head = False
    _patience: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self._idle, self._in_head = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._idle, self._in_head = 0, False
        if self._patience:
            self._patience.cancel()
            self._patience = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._idle = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._idle = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._idle += len(data)
        super().data_received(data)
        if self._idle > MOST:
            self.transport.close()
        elif self._in_head and self._patience is None:
            # Most heads come in one piece; only for the others is a timer worth its cost.
            self._patience = self.loop.call_later(WITHIN_S, self.transport.close)
