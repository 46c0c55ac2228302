"""Slow, broken and hostile connections."""

import json
import re
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest

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
    start_body,
    start_web,
    stored_keys,
)

# -- slow, broken off, too many --


async def test_a_sender_that_trickles_is_cut_off(short_timeout_web: WebProcess, redis: Redis) -> None:
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

    answer = read_response(connection)
    connection.close()

    assert is_error_response(answer, 408)
    assert "close" == answer.headers["connection"]
    assert set() == await stored_keys(redis)


HALF_A_HEAD = b"POST /hooks/standard HTTP/1.1\r\nhost: x"

REFUSED_AT_ONCE = b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(HALF_A_HEAD, b"", id="half a head"),
        pytest.param(REFUSED_AT_ONCE, b"", id="a head without its body"),
        pytest.param(REFUSED_AT_ONCE, b"{", id="half a body after the answer"),
        pytest.param(REFUSED_AT_ONCE, b"{}", id="a body after the answer"),
        pytest.param(REFUSED_AT_ONCE + b"{}", b"\r\n", id="an empty line"),
        pytest.param(REFUSED_AT_ONCE, b"{}" + HALF_A_HEAD, id="a body after the answer, and half a head"),
    ],
)
def test_who_says_no_more_is_hung_up_on(short_timeout_web: WebProcess, first: bytes, then: bytes) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(first)
        time.sleep(0.2)  # so that it is read, and answered where it can be
        connection.sendall(then)
        connection.settimeout(20)
        with suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass


async def test_senders_that_leave_in_the_middle_cost_nothing(short_timeout_web: WebProcess, redis: Redis) -> None:
    for _ in range(20):  # of whom four at once would fill the place
        start_body(short_timeout_web).close()
    raw = new_event_body("standard")
    headers = sign_standard(raw)

    answer = wait_until(lambda: (got := short_timeout_web.post(raw, headers)).status_code != 503 and got)

    assert 202 == answer.status_code
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_who_sends_nothing_takes_no_place_from_who_does(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head, _, body = request(
        body=raw,
        content_length=str(len(raw)),
        **{name.replace("-", "_"): value for name, value in sign_standard(raw).items()},
    ).partition(b"\r\n\r\n")
    slow = [start_body(short_timeout_web) for _ in range(8)]

    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(head + b"\r\n\r\n")
        short_timeout_web.http.get("/healthz")
        connection.sendall(body)
        answer = read_response(connection)
    first = read_response(slow[0])
    for connection in slow:
        connection.close()

    assert 202 == answer.status
    assert is_error_response(first, 408)


async def test_more_than_may_wait_for_redis_at_once_are_asked_to_come_back(
    short_timeout_web: WebProcess, redis: Redis
) -> None:
    events = [new_event_body("standard") for _ in range(6)]
    await redis.command("CLIENT", "PAUSE", 800, "WRITE")

    with ThreadPoolExecutor(6) as crowd:
        told = list(crowd.map(lambda raw: short_timeout_web.post(raw, sign_standard(raw)), events))
    refused = [answer for answer in told if answer.status_code != 202]

    assert 2 == len(told) - len(refused)
    assert all(is_error_response(answer, 503) for answer in refused)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)


async def test_a_deploy_ends_only_after_what_was_begun_is_written(redis_url: str, redis: Redis) -> None:
    raw = new_event_body("standard")
    signed = {name.replace("-", "_"): value for name, value in sign_standard(raw).items()}
    with start_web(redis_url) as web, closing(web.connect()) as connection:
        connection.sendall(request(body=raw[:10], content_length=str(len(raw)), **signed))
        for _ in range(3):  # what is answered now was read after what was sent before
            web.http.get("/healthz")
        web.server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _is_listening(web.server.port))
        connection.sendall(raw[10:])
        answer = read_response(connection)
        status = web.server.process.wait(10)

    assert 202 == answer.status
    assert status in (0, -signal.SIGTERM)
    assert await redis.command("EXISTS", f"bell:delivery:{json.loads(answer.body)['delivery']}")


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


# -- what an attack costs --


async def test_before_a_signature_holds_redis_is_not_asked(web: WebProcess, redis: Redis) -> None:
    async def commands() -> int:
        info = await redis.command("INFO", "stats")
        return int(re.findall(rb"total_commands_processed:(\d+)", info)[0])

    before = await commands()
    for _ in range(500):
        web.post(b"{}", {})
    asked = await commands() - before

    assert asked < 250  # the look itself, and a flush of what this and other tests were refused


def test_two_hundred_senders_of_ten_megabytes_each_do_not_fill_the_memory(web: WebProcess) -> None:
    chunk = b"%x\r\n" % 65_536 + b"a" * 65_536 + b"\r\n"
    before = web.memory_kb()

    def flood(_: int) -> int:
        with closing(web.connect()) as connection:
            with suppress(OSError):  # it may be cut off while it still sends
                connection.sendall(request(transfer_encoding="chunked"))
                for _ in range(160):  # 10 MB
                    connection.sendall(chunk)
            return read_response(connection).status

    with ThreadPoolExecutor(20) as crowd:
        answers = set(crowd.map(flood, range(200)))

    assert answers <= {413, 0}, answers
    assert web.memory_kb() - before < 40_000
    assert 202 == web.send("standard").status_code


def test_who_reads_no_answers_is_not_read_either_and_gets_them_all_in_the_end(web: WebProcess) -> None:
    asked = (b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1_000) * 200
    before, sent, answers = web.memory_kb("VmRSS"), 0, bytearray()

    with closing(web.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        connection.settimeout(1)
        with suppress(TimeoutError):
            while sent < 500:
                connection.sendall(asked)
                sent += 1
        grown = web.memory_kb("VmRSS") - before
        connection.settimeout(20)
        while answers.count(b"HTTP/1.1 401") < sent * 200:
            answers += connection.recv(1 << 20)

    assert sent < 500
    assert grown < 40_000
    assert 202 == web.send("standard").status_code


@pytest.mark.parametrize("path", ["/hooks/standard", "/nowhere"])
def test_what_arrived_is_not_kept_while_its_connection_stays_open(web: WebProcess, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-long: {'a' * 30_000}\r\ncontent-length: 60000\r\n\r\n".encode()
    before = web.memory_kb("VmRSS")

    with ExitStack() as connected:
        for _ in range(300):
            connection = connected.enter_context(closing(web.connect()))
            connection.sendall(head + b"a" * 60_000)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 40")
        assert web.memory_kb("VmRSS") - before < 12_000


def test_nothing_is_kept_of_a_connection_that_was_reset(web: WebProcess) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 57_000 + b"\r\n\r\n"
    before = web.memory_kb("VmRSS")

    for _ in range(500):
        with closing(web.connect()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(asked)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")

    assert web.memory_kb("VmRSS") - before < 12_000


def test_who_sends_thousands_of_requests_ahead_is_hung_up_on(web: WebProcess) -> None:
    with closing(web.connect()) as connection:
        connection.settimeout(20)
        with suppress(OSError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000)
        answers = bytearray()
        with suppress(OSError):
            while part := connection.recv(1 << 20):
                answers += part

    assert answers.count(b"HTTP/1.1 200") < 20_000
    assert 202 == web.send("standard").status_code


@pytest.mark.parametrize("where", ["one header", "many headers", "the address", "trailers"])
async def test_a_head_without_end_does_not_fill_the_memory(web: WebProcess, where: str) -> None:
    start = {
        "one header": b"POST /hooks/standard HTTP/1.1\r\nx-long: ",
        "many headers": b"POST /hooks/standard HTTP/1.1\r\n",
        "the address": b"POST /hooks/",
        "trailers": request(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n",  # headers again, behind the body
    }
    part = b"x-a: %s\r\n" % (b"a" * 100) * 1_000 if where in ("many headers", "trailers") else b"a" * 100_000
    before = web.memory_kb()

    with closing(web.connect()) as connection, suppress(OSError):
        connection.sendall(start[where])
        for _ in range(320):  # 32 MB
            connection.sendall(part)

    assert web.memory_kb() - before < 8_000
