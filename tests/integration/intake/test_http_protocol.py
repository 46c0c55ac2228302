"""Connections of the web process: how long one may do nothing, how many there may be, and what belongs to a request."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.intake import http_protocol
from app.intake.http_protocol import TAKE_REQUEST, BufferedRequest, HttpProtocol
from app.ledger.redis import Redis
from tests.support.cases import each
from tests.support.console import HASHES, OPERATORS
from tests.support.harness import sign_standard, wait_until
from tests.support.intake import (
    SHORT_TIMEOUTS,
    WebProcess,
    is_error_response,
    new_event_body,
    padded_body,
    read_response,
    request,
    signed_headers,
    start_body,
    start_web,
    stored_keys,
)
from tests.support.processes import ROOT

PROCFILE_WEB = (ROOT / "Procfile").read_text().splitlines()[0].partition(": ")[2]
#: A limit of open files that a test can reach.
MAX_OPEN_FILES = 200
FEW_FILES = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({MAX_OPEN_FILES}, {MAX_OPEN_FILES}))
import sys, uvicorn
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:HttpProtocol", access_log=False)
"""
CONNECTIONS = MAX_OPEN_FILES * 4 // 5
#: A web process that waits 90 s for open requests when it stops, and closes idle connections after 95 s.
LONG_KEEP_ALIVE = SHORT_TIMEOUTS.replace(
    '"timeout_keep_alive": 1', '"timeout_keep_alive": 95, "timeout_graceful_shutdown": 90'
)

SMALL_REQUEST = b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
#: The server reads at most a thousand of them at once.
LARGE_REQUEST = b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1_000


# -- the version of uvicorn --


@each("missing_module", ["", "uvicorn.protocols.http.flow_control"])
def test_an_unsupported_version_of_uvicorn_ends_web_with_a_message(
    missing_module: str,
) -> None:
    command = shlex.split(PROCFILE_WEB.replace("${PORT:-8000}", "0"))[1:]
    setup = f"import sys, uvicorn; uvicorn.__version__ = '0.55.0'; sys.modules[{missing_module!r}] = None"

    result = subprocess.run(
        [sys.executable, "-c", f"{setup}; from uvicorn.main import main; main({command!r})"],
        env={"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1/0"},
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert 1 == result.returncode
    assert "doorbell web cannot start: uvicorn 0.55.0 is installed" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_checked_version_of_uvicorn_is_the_required_one() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert f"uvicorn=={http_protocol.UVICORN_VERSION}.*" in dependencies


@pytest.fixture(scope="module")
def long_keep_alive_web(redis_url: str) -> Iterator[WebProcess]:
    """Start a web process that waits long between two requests, but not before the first."""
    with start_web(redis_url, "-c", LONG_KEEP_ALIVE) as web:
        yield web


@pytest.fixture(scope="module")
def few_files_web(redis_url: str) -> Iterator[WebProcess]:
    with start_web(redis_url, "-c", FEW_FILES) as web:
        yield web


def chunked(raw: bytes, trailers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers.items())
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(raw), raw, lines.encode())


def is_closed(connection: socket.socket, within_s: float = 20) -> bool:
    """Read everything and return whether the server closed the connection within the time."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


# -- trailers --


async def test_a_signature_in_the_trailers_is_ignored(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head = request(transfer_encoding="chunked", content_type="application/json")

    assert is_error_response(short_timeout_web.send_bytes(head + chunked(raw, sign_standard(raw))), 401)
    assert set() == await stored_keys(redis)


async def test_a_trailer_does_not_change_a_header(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head = request(transfer_encoding="chunked", x_request_id="head", **signed_headers(raw))
    trailers = {"x-request-id": "trailer", "webhook-signature": "v1,x", "content-type": "text/plain"}

    response = short_timeout_web.send_bytes(head + chunked(raw, trailers))

    assert (202, "head") == (response.status, response.headers["x-request-id"])


def test_a_trailer_does_not_log_in_to_the_console(redis_url: str) -> None:
    secret = "a secret of the proxy"
    console = {
        "CONSOLE_PROXY_HEADER": "X-Forwarded-User",
        "CONSOLE_PROXY_SECRET": secret,
        "SECRET_KEY": "a-key-of-32-characters-for-tests",
    }
    headers = {"transfer_encoding": "chunked", "x_doorbell_proxy_secret": secret}
    with start_web(redis_url, **console) as web:
        by_header = web.send_bytes(
            request("/console", "GET", x_forwarded_user="ada@example.com", **headers) + chunked(b"x", {})
        )
        by_trailer = web.send_bytes(
            request("/console", "GET", **headers) + chunked(b"x", {"x-forwarded-user": "ada@example.com"})
        )

    assert (200, 303) == (by_header.status, by_trailer.status)


# -- senders that are silent, slow, or do not read --


def test_a_silent_connection_is_closed_before_one_between_requests(
    long_keep_alive_web: WebProcess,
) -> None:
    with closing(long_keep_alive_web.connect()) as silent, closing(long_keep_alive_web.connect()) as between:
        between.sendall(SMALL_REQUEST)
        assert 401 == read_response(between).status

        assert is_closed(silent)
        assert not is_closed(between, 2)


def test_a_slow_body_after_the_response_is_disconnected(short_timeout_web: WebProcess) -> None:
    head = b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n"
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(head)
        assert 404 == read_response(connection).status
        wait_until(lambda: _is_closed_after_drip(connection, b"a"))


def test_a_sender_of_empty_lines_is_disconnected(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(SMALL_REQUEST)
        assert 401 == read_response(connection).status
        wait_until(lambda: _is_closed_after_drip(connection, b"\r\n"))


def test_a_slow_head_after_a_request_is_disconnected(
    short_timeout_web: WebProcess,
) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(SMALL_REQUEST + b"POST /hooks/standard HTTP/1.1\r\nx-a: ")
        assert 401 == read_response(connection).status
        wait_until(lambda: _is_closed_after_drip(connection, b"a"))


def _is_closed_after_drip(connection: socket.socket, data: bytes) -> bool:
    """Send a little data, and return whether the server has closed the connection."""
    time.sleep(0.1)
    try:
        connection.sendall(data)
        connection.setblocking(False)
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)


def test_a_sender_that_reads_no_responses_is_disconnected(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        send_until_blocked(connection)
        wait_until(lambda: _is_reset(connection))
    assert 202 == short_timeout_web.send("standard").status_code


def send_until_blocked(connection: socket.socket) -> None:
    """Send requests without reading the responses, until the server stops reading."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.settimeout(0.5)
    with suppress(OSError):
        while True:
            connection.sendall(LARGE_REQUEST * 1_000)


def _is_reset(connection: socket.socket) -> bool:
    """Return whether the server has reset the connection, without reading from it."""
    try:
        connection.send(b"a")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_a_slow_reader_receives_every_response(short_timeout_web: WebProcess) -> None:
    """Each read takes some 200 KB, more than the minimum in 0.8 s."""
    requests, received = LARGE_REQUEST * 10_000, bytearray()
    with closing(short_timeout_web.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.setblocking(False)
        sent = 0
        deadline = time.monotonic() + 60
        while received.count(b"HTTP/1.1 401") < 10_000 and time.monotonic() < deadline:
            with suppress(BlockingIOError):
                sent += connection.send(requests[sent : sent + 65_536])
            with suppress(BlockingIOError):
                for _ in range(8):
                    received += connection.recv(65_536)
            time.sleep(0.02)

    assert 10_000 == received.count(b"HTTP/1.1 401")


def test_open_connections_do_not_delay_the_end_of_a_process(redis_url: str) -> None:
    """Without its limits the process would wait for 90 s."""
    with ExitStack() as stack:
        web = stack.enter_context(start_web(redis_url, "-c", LONG_KEEP_ALIVE.replace("0.8", "60")))
        idle, reads_nothing, half_head, half_body, slow_body = (
            stack.enter_context(closing(web.connect())) for _ in range(5)
        )
        send_until_blocked(reads_nothing)
        half_head.sendall(SMALL_REQUEST[:20])
        half_body.sendall(SMALL_REQUEST[:-1])
        slow_body.sendall(SMALL_REQUEST[:-2].replace(b"standard", b"nobody"))
        assert 404 == read_response(slow_body).status
        web.http.get("/healthz")
        web.server.process.send_signal(signal.SIGTERM)

        assert web.server.process.wait(30) in (0, -signal.SIGTERM)
        assert is_closed(idle)


def test_an_unfinished_form_of_the_console_is_answered_408(redis_url: str) -> None:
    console = {"CONSOLE_PASSWORD_HASH": HASHES[OPERATORS], "SECRET_KEY": "a-key-of-32-characters-for-tests"}
    with start_web(redis_url, "-c", SHORT_TIMEOUTS, **console) as web, closing(web.connect()) as connection:
        connection.sendall(request("/console/login", body=b"password=", content_length="100"))
        connection.settimeout(20)
        response = read_response(connection)

    assert 408 == response.status


# -- heads --


@pytest.mark.parametrize(("count", "status"), [(254, 401), (255, 400), (5_000, 400)])
def test_a_head_has_256_headers_at_most(short_timeout_web: WebProcess, count: int, status: int) -> None:
    """The count excludes the two headers of `request`."""
    head, _, _ = request().partition(b"\r\n\r\n")

    assert status == short_timeout_web.send_bytes(head + b"\r\na:b" * count + b"\r\n\r\n").status


@pytest.mark.parametrize(
    "start",
    [
        b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\n",
        request(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n",
        b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    ],
    ids=["heads", "trailers", "trailers after the response"],
)
def test_many_short_headers_use_little_memory(redis_url: str, start: bytes) -> None:
    """The headers that fit into 60 KB would cost 1.4 MB per connection."""
    with start_web(redis_url) as web, ExitStack() as stack:
        web.http.get("/healthz")
        before = web.memory_kb("VmRSS")
        for _ in range(200):
            connection = stack.enter_context(closing(web.connect()))
            connection.sendall(start + b"ab:cd\r\n" * 8_500)
        time.sleep(2)  # the server reads everything

        assert web.memory_kb("VmRSS") - before < 100_000


def test_the_bytes_of_unfinished_heads_are_limited(redis_url: str) -> None:
    """Forty heads of 50 KB are 2 MB; the limit allows twenty."""
    code = LONG_KEEP_ALIVE.replace("0.8", "60").replace(
        "http_protocol.HEAD_TIMEOUT_S",
        "http_protocol.MAX_PARTIAL_HEADS_BYTES = 1_000_000\nhttp_protocol.HEAD_TIMEOUT_S",
        1,
    )
    with start_web(redis_url, "-c", code) as web, ExitStack() as stack:
        connections = [stack.enter_context(closing(web.connect())) for _ in range(40)]
        for connection in connections:
            connection.sendall(SMALL_REQUEST[:40] + b"x-a: " + b"a" * 50_000)
            web.http.get("/healthz")
        closed = [is_closed(connection, 0.01) for connection in connections]

        assert [True] * 20 == closed[:20]
        assert [False] * 18 == closed[-18:]
        assert 202 == web.send("standard").status_code


# -- limits of connections --


def test_the_limit_of_open_files_is_raised_to_its_maximum(redis_url: str) -> None:
    with start_web(
        redis_url, "-c", FEW_FILES.replace(f"({MAX_OPEN_FILES}, {MAX_OPEN_FILES})", f"({MAX_OPEN_FILES}, 500)")
    ) as web:
        limits = Path(f"/proc/{web.server.process.pid}/limits").read_text()

    assert re.search(r"Max open files\s+500\s+500", limits)


async def test_idle_connections_do_not_block_a_delivery(few_files_web: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(few_files_web.connect())) for _ in range(2 * CONNECTIONS)]
        statuses = [few_files_web.send("standard").status_code for _ in range(3)]
        closed = [is_closed(connection, 0.01) for connection in idle]

    assert [202] * 3 == statuses
    assert CONNECTIONS <= sum(closed) <= CONNECTIONS + 20
    assert all(closed[:CONNECTIONS])  # the longest idle ones


async def test_the_longest_idle_connection_is_closed_first(few_files_web: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        busy = stack.enter_context(closing(few_files_web.connect()))
        for _ in range(2 * CONNECTIONS // 40):
            for _ in range(40):
                stack.enter_context(closing(few_files_web.connect()))
            busy.sendall(SMALL_REQUEST)
            assert 401 == read_response(busy).status


async def test_unfinished_bodies_do_not_block_a_delivery(few_files_web: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            stack.enter_context(closing(start_body(few_files_web)))

        assert 202 == few_files_web.send("standard").status_code


def test_the_bytes_of_unfinished_bodies_are_limited(redis_url: str) -> None:
    """Eighty bodies of 200 KB are 16 MB; the limit allows four."""
    code = SHORT_TIMEOUTS.replace("4, 2, 0.05", "200, 200, 0.05").replace("= 0.8", "= 60", 1)
    code = code.replace(
        "http_protocol.HEAD_TIMEOUT_S",
        "request_body.MAX_UNFINISHED_BYTES, request_body.BODY_TIMEOUT_S = 1_000_000, 60\nhttp_protocol.HEAD_TIMEOUT_S",
        1,
    )
    with start_web(redis_url, "-c", code) as web, ExitStack() as stack:
        connections = []
        for _ in range(80):
            connection = stack.enter_context(closing(web.connect()))
            connection.sendall(request(content_length="250000") + b"a" * 200_000)
            connections.append(connection)
        first = [read_response(connection) for connection in connections[:70]]
        newest_are_open = [not is_closed(connection, 0.01) for connection in connections[-3:]]
        raw = padded_body(250_000)
        head, _, body = request(body=raw, content_length=str(len(raw)), **signed_headers(raw)).partition(b"\r\n\r\n")
        complete = stack.enter_context(closing(web.connect()))
        complete.sendall(head + b"\r\n\r\n" + body[:100_000])
        web.http.get("/healthz")
        complete.sendall(body[100_000:])
        response = read_response(complete)

    assert all(is_error_response(response, 408) for response in first)
    details = {json.loads(response.body)["detail"] for response in first}
    assert {"too many bodies are unfinished, and this one began first"} == details
    assert [True] * 3 == newest_are_open
    assert 202 == response.status


# -- malformed requests after others --


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(b"\x00\r\n\r\n", id="a head"),
        pytest.param(b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 2x\r\n\r\n{}", id="a length"),
        pytest.param(b"POST http://x:y/ HTTP/1.1\r\nhost: x\r\n\r\n", id="an address"),
        pytest.param(
            b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="a body"
        ),
    ],
)
async def test_requests_before_a_malformed_request_are_answered(
    short_timeout_web: WebProcess, redis: Redis, count: int, malformed: bytes
) -> None:
    requests = b""
    for _ in range(count):
        raw = new_event_body("standard")
        lines = "".join(f"{name}: {value}\r\n" for name, value in sign_standard(raw).items())
        requests += (
            f"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{lines}\r\n".encode() + raw
        )

    with closing(short_timeout_web.connect()) as connection:
        connection.settimeout(20)
        connection.sendall(requests + malformed)
        received = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                received += part

    assert [b"202"] * count + [b"400"] == re.findall(rb"HTTP/1\.1 (\d+)", received)


async def test_malformed_data_after_a_response_gets_no_response(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
        assert 404 == read_response(connection).status
        connection.sendall(b"zz\r\n")
        connection.settimeout(20)
        received = b""
        with suppress(ConnectionResetError):
            received = await asyncio.to_thread(connection.recv, 65_536)

    assert b"" == received


async def test_a_request_does_not_run_without_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A request may start in the turn of the event loop in which its connection is lost."""
    requests, connections, scopes = asyncio.Queue[BufferedRequest](), list[HttpProtocol](), list[Scope]()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    def connect() -> HttpProtocol:
        connections.append(
            HttpProtocol(config=config, server_state=state, app_state={TAKE_REQUEST: requests.put_nowait})
        )
        return connections[0]

    config, state = uvicorn.Config(application, lifespan="off", log_config=None), ServerState()
    config.load()
    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(SMALL_REQUEST)
    waiting = await requests.get()

    connections[0].transport.abort()
    waiting.start()
    await asyncio.wait(state.tasks)

    assert not scopes
    assert not [record.getMessage() for record in caplog.records]
    writer.close()
    server.close()
