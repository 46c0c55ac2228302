"""A bound that uvicorn's fast protocol does not set: `uvicorn --http app.heads:BoundedHeads`."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Address, headers or trailers, in bytes; routers in front of us allow less.
MOST = 65_536


class BoundedHeads(HttpToolsProtocol):
    """Hangs up on a request whose head, or whose trailers, do not end: on bytes that bring nothing forward."""

    _idle = 0

    def on_message_begin(self) -> None:
        self._idle = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._idle = 0
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
