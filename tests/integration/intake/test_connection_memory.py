"""The memory of a closed connection is freed at once, without a garbage collection."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.intake.http_protocol import HttpProtocol
from tests.support.harness import free_port

POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(answer, http=HttpProtocol, lifespan="off", log_level="warning")
    config.load()
    state, port = ServerState(), free_port()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpProtocol(config=config, server_state=state, app_state={}), "127.0.0.1", port
    )
    gc.collect()  # the connections of other tests
    gc.disable()
    yield port
    gc.enable()
    server.close()


async def remaining_connections() -> int:
    """Return how many connections still exist after a second."""
    for _ in range(100):
        if not (count := sum(type(each) is HttpProtocol for each in gc.get_objects())):
            break
        await asyncio.sleep(0.01)
    return count


async def test_nothing_is_left_of_a_connection_with_two_requests(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(POST)
        await reader.readuntil(b"ok")
    writer.close()

    assert 0 == await remaining_connections()


@pytest.mark.parametrize("sent", [b"", POST[:20], POST[:-1], POST, POST + POST])
async def test_nothing_is_left_of_a_connection_that_its_sender_closes_early(port: int, sent: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    writer.close()

    assert 0 == await remaining_connections()
