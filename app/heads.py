"""A bound on the head of a request, which uvicorn's fast protocol does not set: `uvicorn --http app.heads:BoundedHeads`."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Address and headers together; routers in front of us allow less.
MOST = 65_536


class BoundedHeads(HttpToolsProtocol):
    """Hangs up on a request whose head does not end."""

    _head: int | None = None

    def on_message_begin(self) -> None:
        self._head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MOST:
                self.transport.close()
