"""Reading the body of a request and sending its response.

Both use the server's BufferedRequest if there is one, else ASGI messages.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from app.intake.http_protocol import BUFFERED_REQUEST, BufferedRequest
from app.intake.request_body import BodyDeadlines, body_too_large

#: Of a body that is too large, at most this is read and discarded before the connection closes.
MAX_DRAIN_BYTES, DRAIN_TIMEOUT_S = 16_777_216, 2.0


async def receive_body(scope: Scope, receive: Receive, limit: int, deadlines: BodyDeadlines) -> bytes:
    """Raise HttpRejection: 400, 408 or 413."""
    request: BufferedRequest | None = scope.get("extensions", {}).get(BUFFERED_REQUEST)
    if request and (body := request.take_body()) is not None:
        if len(body) > limit:
            raise body_too_large(limit)
        return body
    content_length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
    return await deadlines.read(receive, content_length, limit)


async def send_response(
    scope: Scope,
    send: Send,
    status: int,
    headers: Mapping[bytes, bytes],
    body: bytes,
    unread: Receive | None = None,
) -> None:
    """headers: with the content-length, and validated: nothing checks them again.

    unread: reads the rest of a body that was rejected. It is discarded before the connection closes: closing a connection
    with unread bytes resets it, and most senders would never see the response.
    """
    request: BufferedRequest | None = scope.get("extensions", {}).get(BUFFERED_REQUEST)
    if request and b"connection" not in headers and request.write_response(status, headers, body):
        return
    await send({"type": "http.response.start", "status": status, "headers": [*headers.items()]})
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await _drain(unread)
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    remaining = MAX_DRAIN_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while remaining > 0:
                message = await receive()
                remaining -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
