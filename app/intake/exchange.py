"""The body of one request and its response: through the server's BufferedRequest where it offers one, else through ASGI
messages."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from app.intake.http_protocol import BUFFERED_REQUEST, BufferedRequest
from app.intake.request_body import BodyDeadlines, body_too_large

#: Of a body that is too large, at most this is read and thrown away before the connection closes.
MAX_DRAIN_BYTES, DRAIN_TIMEOUT_S = 16_777_216, 2.0


async def receive_body(
    scope: Scope, receive: Receive, content_length: str, limit: int, deadlines: BodyDeadlines
) -> bytes:
    """Raises HttpRejection: 400, 408 or 413."""
    if request := _buffered_request(scope):
        body = request.take_body()
        if len(body) > limit:
            raise body_too_large(limit)
        return body
    return await deadlines.read(receive, content_length, limit)


async def send_response(
    scope: Scope,
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    unread: Receive | None = None,
) -> None:
    """headers: with the content-length, and validated: nothing checks them again.

    unread: reads the rest of a body that was rejected. It is thrown away before the connection closes: closing a connection
    with unread bytes resets it, and most senders would never see the response.
    """
    closes = any(name == b"connection" for name, _ in headers)
    if not closes and (request := _buffered_request(scope)):
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        if request.write_response(status, head, body):
            return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await _drain(unread)
        await send({"type": "http.response.body", "body": b""})


def _buffered_request(scope: Scope) -> BufferedRequest | None:
    request: BufferedRequest | None = scope.get("extensions", _NO_EXTENSIONS).get(BUFFERED_REQUEST)
    return request


_NO_EXTENSIONS: dict[str, object] = {}


async def _drain(receive: Receive) -> None:
    remaining = MAX_DRAIN_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while remaining > 0:
                message = await receive()
                remaining -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
