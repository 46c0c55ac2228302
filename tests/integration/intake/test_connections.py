"""Slow, broken and hostile connections."""

import itertools
import json
import re
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress

import pytest

from app.ledger.ids import delivery_key
from app.ledger.redis import Redis
from tests.support.harness import (
    sign_standard,
    wait_until,
)
from tests.support.intake import (
    WebProcess,
    is_error_response,
    new_event_body,
    read_response,
    request,
    signed_headers,
    start_body,
    start_web,
    stored_keys,
)


async def test_a_slow_sender_is_answered_408(short_timeout_web: WebProcess, redis: Redis) -> None:
    connection = short_timeout_web.connect()
    connection.sendall(request(content_length="100000"))
    for _ in range(200):
        try:
            connection.sendall(b" ")
        except OSError:
            break
        connection.settimeout(0.05)
        with suppress(TimeoutError):
            if connection.recv(1, socket.MSG_PEEK):
                break
    connection.settimeout(5)

    response = read_response(connection)
    connection.close()

    assert is_error_response(response, 408)
    assert "close" == response.headers["connection"]
    assert set() == await stored_keys(redis)


PARTIAL_HEAD = b"POST /hooks/standard HTTP/1.1\r\nhost: x"

UNKNOWN_HOOK = b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(PARTIAL_HEAD, b"", id="half a head"),
        pytest.param(UNKNOWN_HOOK, b"", id="a head without its body"),
        pytest.param(UNKNOWN_HOOK, b"{", id="half a body after the answer"),
        pytest.param(UNKNOWN_HOOK, b"{}", id="a body after the answer"),
        pytest.param(UNKNOWN_HOOK + b"{}", b"\r\n", id="an empty line"),
        pytest.param(UNKNOWN_HOOK, b"{}" + PARTIAL_HEAD, id="a body after the answer, and half a head"),
    ],
)
def test_a_sender_that_stops_sending_is_disconnected(
    short_timeout_web: WebProcess, first: bytes, second: bytes
) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(first)
        time.sleep(0.2)  # the server reads it, and responds if it can
        connection.sendall(second)
        connection.settimeout(20)
        with suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass


async def test_senders_that_disconnect_do_not_block_a_delivery(short_timeout_web: WebProcess, redis: Redis) -> None:
    for _ in range(20):  # the limit of open bodies is 4
        start_body(short_timeout_web).close()
    raw = new_event_body("standard")
    headers = sign_standard(raw)

    response = wait_until(lambda: (reply := short_timeout_web.post(raw, headers)).status_code != 503 and reply)

    assert 202 == response.status_code
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_unfinished_bodies_do_not_block_a_complete_delivery(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head, _, body = request(body=raw, content_length=str(len(raw)), **signed_headers(raw)).partition(b"\r\n\r\n")
    slow = [start_body(short_timeout_web) for _ in range(8)]

    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(head + b"\r\n\r\n")
        short_timeout_web.http.get("/healthz")
        connection.sendall(body)
        response = read_response(connection)
    first = read_response(slow[0])
    for connection in slow:
        connection.close()

    assert 202 == response.status
    assert is_error_response(first, 408)


async def test_deliveries_over_max_in_flight_are_answered_503(short_timeout_web: WebProcess, redis: Redis) -> None:
    events = [new_event_body("standard") for _ in range(6)]
    await redis.command("CLIENT", "PAUSE", 20_000, "WRITE")

    with ThreadPoolExecutor(6) as executor:
        posting = [executor.submit(lambda raw: short_timeout_web.post(raw, sign_standard(raw)), raw) for raw in events]
        rejected = [future.result() for future in itertools.islice(as_completed(posting), 4)]
        await redis.command("CLIENT", "UNPAUSE")
    accepted = [future.result().status_code for future in posting].count(202)

    assert 2 == accepted
    assert all(is_error_response(response, 503) for response in rejected)
    assert all(int(response.headers["retry-after"]) > 0 for response in rejected)


async def test_a_process_ends_after_its_open_deliveries_are_stored(redis_url: str, redis: Redis) -> None:
    raw = new_event_body("standard")
    with start_web(redis_url) as web, closing(web.connect()) as connection:
        connection.sendall(request(body=raw[:10], content_length=str(len(raw)), **signed_headers(raw)))
        for _ in range(3):  # each response proves that earlier bytes were read
            web.http.get("/healthz")
        web.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _is_listening(web.server.port))
        connection.sendall(raw[10:])
        response = read_response(connection)
        status = web.server.process.wait(10)

    assert 202 == response.status
    assert status in (0, -signal.SIGTERM)
    assert await redis.command("EXISTS", delivery_key(json.loads(response.body)["delivery"]))


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


# -- the cost of an attack --


async def test_an_unsigned_request_sends_no_command_to_redis(web: WebProcess, redis: Redis) -> None:
    async def command_count() -> int:
        info = await redis.command("INFO", "stats")
        return int(re.findall(rb"total_commands_processed:(\d+)", info)[0])

    before = await command_count()
    for _ in range(500):
        web.post(b"{}", {})
    commands_sent = await command_count() - before

    assert commands_sent < 250  # INFO itself, and a flush of the rejections of this and other tests


def test_sixty_bodies_of_ten_megabytes_use_little_memory(web: WebProcess) -> None:
    chunk = b"%x\r\n" % 65_536 + b"a" * 65_536 + b"\r\n"
    before = web.memory_kb()

    def flood(_: int) -> int:
        with closing(web.connect()) as connection:
            with suppress(OSError):  # the server may close the connection while it still sends
                connection.sendall(request(transfer_encoding="chunked"))
                for _ in range(160):  # 10 MB
                    connection.sendall(chunk)
            return read_response(connection).status

    with ThreadPoolExecutor(20) as executor:
        statuses = set(executor.map(flood, range(60)))

    assert statuses <= {413, 0}, statuses
    assert web.memory_kb() - before < 40_000
    assert 202 == web.send("standard").status_code


def test_a_sender_that_reads_late_is_paused_and_receives_every_response(web: WebProcess) -> None:
    requests = (b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1_000) * 200
    before, sent, received = web.memory_kb("VmRSS"), 0, bytearray()

    with closing(web.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        connection.settimeout(1)
        with suppress(TimeoutError):
            while sent < 500:
                connection.sendall(requests)
                sent += 1
        growth_kb = web.memory_kb("VmRSS") - before
        connection.settimeout(20)
        while received.count(b"HTTP/1.1 401") < sent * 200:
            received += connection.recv(1 << 20)

    assert sent < 500
    assert growth_kb < 40_000
    assert 202 == web.send("standard").status_code


@pytest.mark.parametrize("path", ["/hooks/standard", "/nowhere"])
def test_an_idle_connection_keeps_no_request_in_memory(web: WebProcess, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-long: {'a' * 30_000}\r\ncontent-length: 60000\r\n\r\n".encode()
    before = web.memory_kb("VmRSS")

    with ExitStack() as stack:
        for _ in range(300):
            connection = stack.enter_context(closing(web.connect()))
            connection.sendall(head + b"a" * 60_000)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 40")
        assert web.memory_kb("VmRSS") - before < 12_000


def test_a_reset_connection_keeps_no_request_in_memory(web: WebProcess) -> None:
    request_bytes = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 57_000 + b"\r\n\r\n"
    before = web.memory_kb("VmRSS")

    for _ in range(500):
        with closing(web.connect()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(request_bytes)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")

    assert web.memory_kb("VmRSS") - before < 12_000


def test_a_sender_of_thousands_of_pipelined_requests_is_disconnected(web: WebProcess) -> None:
    with closing(web.connect()) as connection:
        connection.settimeout(20)
        with suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000)
        received = bytearray()
        with suppress(OSError):
            while part := connection.recv(1 << 20):
                received += part

    assert received.count(b"HTTP/1.1 200") < 20_000
    assert 202 == web.send("standard").status_code


@pytest.mark.parametrize("where", ["one header", "many headers", "the address", "trailers"])
async def test_an_endless_head_uses_little_memory(web: WebProcess, where: str) -> None:
    start = {
        "one header": b"POST /hooks/standard HTTP/1.1\r\nx-long: ",
        "many headers": b"POST /hooks/standard HTTP/1.1\r\n",
        "the address": b"POST /hooks/",
        "trailers": request(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n",  # headers after the body
    }
    part = b"x-a: %s\r\n" % (b"a" * 100) * 1_000 if where in ("many headers", "trailers") else b"a" * 100_000
    before = web.memory_kb()

    with closing(web.connect()) as connection, suppress(OSError):
        connection.sendall(start[where])
        for _ in range(320):  # 32 MB
            connection.sendall(part)

    assert web.memory_kb() - before < 8_000
