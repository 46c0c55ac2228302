"""Connections of the web process: how long one may do nothing, how many there may be, and what belongs to a request."""

import asyncio
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

from app.intake import http_protocol
from app.ledger.redis import Redis
from tests.support.console import HASHES, OPERATORS
from tests.support.harness import ROOT, sign_standard, wait_until
from tests.support.intake import (
    SHORT_TIMEOUTS,
    WebProcess,
    is_error_response,
    new_event_body,
    padded_body,
    read_response,
    request,
    start_body,
    start_web,
    stored_keys,
)

PROCFILE_WEB = (ROOT / "Procfile").read_text().splitlines()[0].partition(": ")[2]
#: So few open files that a test can use all of them.
FILES = 200
FEW_FILES = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
import sys, uvicorn
uvicorn.run("app.main:app", port=int(sys.argv[2]), http="app.intake.http_protocol:HttpProtocol", access_log=False)
"""
CONNECTIONS = FILES * 4 // 5
#: It waits for a minute for what is not over, and less long for whoever does not read.
STUBBORN = SHORT_TIMEOUTS.replace(
    '"timeout_keep_alive": 1', '"timeout_keep_alive": 95, "timeout_graceful_shutdown": 90'
)

SMALL = b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
#: Of which not more than a thousand are read at once.
LARGE = b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1_000


# -- the version of uvicorn --


@pytest.mark.parametrize("gone", ["", "uvicorn.protocols.http.flow_control"])
def test_another_version_of_uvicorn_ends_web_with_a_sentence_also_where_its_internals_are_elsewhere(gone: str) -> None:
    command = shlex.split(PROCFILE_WEB.replace("${PORT:-8000}", "0"))[1:]
    prepare = f"import sys, uvicorn; uvicorn.__version__ = '0.55.0'; sys.modules[{gone!r}] = None"

    ended = subprocess.run(
        [sys.executable, "-c", f"{prepare}; from uvicorn.main import main; main({command!r})"],
        env={"PATH": os.environ["PATH"], "REDIS_URL": "redis://127.0.0.1:1/0"},
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip

    assert 1 == ended.returncode
    assert "doorbell web cannot start: uvicorn 0.55.0 is installed" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_version_that_is_checked_is_the_one_that_is_installed_by_pip() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert f"uvicorn=={http_protocol.UVICORN_VERSION}.*" in needed


@pytest.fixture(scope="module")
def patient(redis_url: str) -> Iterator[WebProcess]:
    """Between two requests, but not before the first."""
    with start_web(redis_url, "-c", STUBBORN) as web:
        yield web


@pytest.fixture(scope="module")
def small(redis_url: str) -> Iterator[WebProcess]:
    with start_web(redis_url, "-c", FEW_FILES) as web:
        yield web


def signed(raw: bytes, **more: str) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in (sign_standard(raw) | more).items()}


def chunked(raw: bytes, trailers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers.items())
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(raw), raw, lines.encode())


def is_closed(connection: socket.socket, within_s: float = 20) -> bool:
    """By the other side; what it sent before is read."""
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


async def test_a_signature_in_the_trailers_is_none(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head = request(transfer_encoding="chunked", content_type="application/json")

    assert is_error_response(short_timeout_web.send_bytes(head + chunked(raw, sign_standard(raw))), 401)
    assert set() == await stored_keys(redis)


async def test_a_trailer_changes_nothing_of_what_the_head_said(short_timeout_web: WebProcess, redis: Redis) -> None:
    raw = new_event_body("standard")
    head = request(transfer_encoding="chunked", x_request_id="head", **signed(raw))
    trailers = {"x-request-id": "trailer", "webhook-signature": "v1,x", "content-type": "text/plain"}

    answer = short_timeout_web.send_bytes(head + chunked(raw, trailers))

    assert (202, "head") == (answer.status, answer.headers["x-request-id"])


def test_a_trailer_names_no_user_to_the_console(redis_url: str) -> None:
    secret = "a secret of the proxy"
    console = {
        "CONSOLE_PROXY_HEADER": "X-Forwarded-User",
        "CONSOLE_PROXY_SECRET": secret,
        "SECRET_KEY": "a-key-of-32-characters-for-tests",
    }
    shown = {"transfer_encoding": "chunked", "x_doorbell_proxy_secret": secret}
    with start_web(redis_url, **console) as web:
        named = web.send_bytes(
            request("/console", "GET", x_forwarded_user="ada@example.com", **shown) + chunked(b"x", {})
        )
        trailed = web.send_bytes(
            request("/console", "GET", **shown) + chunked(b"x", {"x-forwarded-user": "ada@example.com"})
        )

    assert (200, 303) == (named.status, trailed.status)


# -- who is silent, who drips, who does not read --


def test_a_connection_without_a_first_byte_is_closed_sooner_than_one_between_requests(patient: WebProcess) -> None:
    with closing(patient.connect()) as silent, closing(patient.connect()) as between:
        between.sendall(SMALL)
        assert 401 == read_response(between).status

        assert is_closed(silent)
        assert not is_closed(between, 2)


def test_a_body_that_drips_after_its_answer_does_not_keep_the_connection(short_timeout_web: WebProcess) -> None:
    head = b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n"
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(head)
        assert 404 == read_response(connection).status
        wait_until(lambda: _drips(connection, b"a"))


def test_empty_lines_do_not_keep_a_connection(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(SMALL)
        assert 401 == read_response(connection).status
        wait_until(lambda: _drips(connection, b"\r\n"))


def test_a_head_that_drips_behind_an_answered_request_does_not_keep_the_connection(
    short_timeout_web: WebProcess,
) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(SMALL + b"POST /hooks/standard HTTP/1.1\r\nx-a: ")
        assert 401 == read_response(connection).status
        wait_until(lambda: _drips(connection, b"a"))


def _drips(connection: socket.socket, data: bytes) -> bool:
    """A little more, every now and then: is the connection closed now?"""
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


def test_who_reads_no_answers_is_disconnected(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        fill(connection)
        wait_until(lambda: _drips_nothing(connection))
    assert 202 == short_timeout_web.send("standard").status_code


def fill(connection: socket.socket) -> None:
    """Requests, until no more are read because their answers are not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.settimeout(0.5)
    with suppress(OSError):
        while True:
            connection.sendall(LARGE * 1_000)


def _drips_nothing(connection: socket.socket) -> bool:
    """Was the connection reset? Nothing is read."""
    try:
        connection.send(b"a")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_who_reads_slowly_and_goes_on_gets_every_answer(short_timeout_web: WebProcess) -> None:
    """Each time some 200 KB: more than is asked of a reader in 0.8 s."""
    asked, answers = LARGE * 20_000, bytearray()
    with closing(short_timeout_web.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.setblocking(False)
        sent = 0
        until = time.monotonic() + 60
        while answers.count(b"HTTP/1.1 401") < 20_000 and time.monotonic() < until:
            with suppress(BlockingIOError):
                sent += connection.send(asked[sent : sent + 65_536])
            with suppress(BlockingIOError):
                for _ in range(8):
                    answers += connection.recv(65_536)
            time.sleep(0.02)

    assert 20_000 == answers.count(b"HTTP/1.1 401")


@pytest.mark.parametrize("how", ["reads nothing", "half a head", "half a body", "drips after its answer", "idle"])
def test_nobody_keeps_a_process_that_is_asked_to_go(redis_url: str, how: str) -> None:
    """It would wait for a minute and a half."""
    with ExitStack() as stack:
        web = stack.enter_context(start_web(redis_url, "-c", STUBBORN.replace("0.8", "60")))
        for _ in range(5):
            connection = stack.enter_context(closing(web.connect()))
            match how:
                case "reads nothing":
                    fill(connection)
                case "half a head":
                    connection.sendall(SMALL[:20])
                case "half a body":
                    connection.sendall(SMALL[:-1])
                case "drips after its answer":
                    connection.sendall(SMALL[:-2].replace(b"standard", b"nobody"))
                    read_response(connection)
        web.http.get("/healthz")
        web.server.process.send_signal(signal.SIGTERM)

        assert web.server.process.wait(30) in (0, -signal.SIGTERM)


def test_a_form_of_the_console_that_does_not_come_is_cut_off(redis_url: str) -> None:
    console = {"CONSOLE_PASSWORD_HASH": HASHES[OPERATORS], "SECRET_KEY": "a-key-of-32-characters-for-tests"}
    with start_web(redis_url, "-c", SHORT_TIMEOUTS, **console) as web, closing(web.connect()) as connection:
        connection.sendall(request("/console/login", body=b"password=", content_length="100"))
        connection.settimeout(20)
        answer = read_response(connection)

    assert 408 == answer.status


# -- heads --


@pytest.mark.parametrize(("count", "status"), [(254, 401), (255, 400), (5_000, 400)])
def test_a_head_has_256_headers_at_most(short_timeout_web: WebProcess, count: int, status: int) -> None:
    """Beside the two of `request`."""
    head, _, _ = request().partition(b"\r\n\r\n")

    assert status == short_timeout_web.send_bytes(head + b"\r\na:b" * count + b"\r\n\r\n").status


@pytest.mark.parametrize(
    "begun",
    [
        b"POST /hooks/standard HTTP/1.1\r\nhost: x\r\n",
        request(transfer_encoding="chunked") + b"2\r\n{}\r\n0\r\n",
        b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    ],
    ids=["heads", "trailers", "trailers after the answer"],
)
def test_many_short_headers_do_not_fill_the_memory(redis_url: str, begun: bytes) -> None:
    """As many as fit into 60 KB would cost 1.4 MB on each connection."""
    with start_web(redis_url) as web, ExitStack() as stack:
        web.http.get("/healthz")
        before = web.memory_kb("VmRSS")
        for _ in range(200):
            connection = stack.enter_context(closing(web.connect()))
            connection.sendall(begun + b"ab:cd\r\n" * 8_500)
        time.sleep(2)  # so that all of it is read

        assert web.memory_kb("VmRSS") - before < 100_000


def test_unfinished_heads_are_bounded_by_their_bytes(redis_url: str) -> None:
    """Forty of 50 KB are 2 MB; twenty of them are kept."""
    code = STUBBORN.replace("0.8", "60").replace(
        "http_protocol.HEAD_TIMEOUT_S",
        "http_protocol.MAX_PARTIAL_HEADS_BYTES = 1_000_000\nhttp_protocol.HEAD_TIMEOUT_S",
        1,
    )
    with start_web(redis_url, "-c", code) as web, ExitStack() as stack:
        connections = [stack.enter_context(closing(web.connect())) for _ in range(40)]
        for connection in connections:
            connection.sendall(SMALL[:40] + b"x-a: " + b"a" * 50_000)
            web.http.get("/healthz")
        gone = [is_closed(connection, 0.01) for connection in connections]

        assert [True] * 20 == gone[:20]
        assert [False] * 18 == gone[-18:]
        assert 202 == web.send("standard").status_code


# -- how many --


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(redis_url: str) -> None:
    with start_web(redis_url, "-c", FEW_FILES.replace(f"({FILES}, {FILES})", f"({FILES}, 500)")) as web:
        limits = Path(f"/proc/{web.server.process.pid}/limits").read_text()

    assert re.search(r"Max open files\s+500\s+500", limits)


async def test_idle_connections_keep_nobody_out(small: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(small.connect())) for _ in range(2 * CONNECTIONS)]
        answers = [small.send("standard").status_code for _ in range(3)]
        gone = [is_closed(connection, 0.01) for connection in idle]

    assert [202] * 3 == answers
    assert CONNECTIONS <= sum(gone) <= CONNECTIONS + 20
    assert all(gone[:CONNECTIONS])  # the longest idle ones


async def test_the_longest_idle_connection_goes_first(small: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        kept_busy = stack.enter_context(closing(small.connect()))
        for _ in range(2 * CONNECTIONS // 40):
            for _ in range(40):
                stack.enter_context(closing(small.connect()))
            kept_busy.sendall(SMALL)
            assert 401 == read_response(kept_busy).status


async def test_unfinished_bodies_keep_nobody_out(small: WebProcess, redis: Redis) -> None:
    with ExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            stack.enter_context(closing(start_body(small)))

        assert 202 == small.send("standard").status_code


def test_unfinished_bodies_are_bounded_by_their_bytes(redis_url: str) -> None:
    """Eighty of 200 KB are 16 MB; only four are kept."""
    code = SHORT_TIMEOUTS.replace("4, 2, 0.05", "200, 200, 0.05").replace("= 0.8", "= 60", 1)
    code = code.replace(
        "http_protocol.HEAD_TIMEOUT_S",
        "request_body.MAX_UNFINISHED_BYTES, request_body.BODY_TIMEOUT_S = 1_000_000, 60\nhttp_protocol.HEAD_TIMEOUT_S",
        1,
    )
    with start_web(redis_url, "-c", code) as web, ExitStack() as stack:
        slow = []
        for _ in range(80):
            connection = stack.enter_context(closing(web.connect()))
            connection.sendall(request(content_length="250000") + b"a" * 200_000)
            slow.append(connection)
        first = [read_response(connection) for connection in slow[:70]]
        open_now = [not is_closed(connection, 0.01) for connection in slow[-3:]]
        raw = padded_body(250_000)
        head, _, body = request(body=raw, content_length=str(len(raw)), **signed(raw)).partition(b"\r\n\r\n")
        genuine = stack.enter_context(closing(web.connect()))
        genuine.sendall(head + b"\r\n\r\n" + body[:100_000])
        web.http.get("/healthz")
        genuine.sendall(body[100_000:])
        answer = read_response(genuine)

    assert all(is_error_response(answer, 408) for answer in first)
    assert [True] * 3 == open_now
    assert 202 == answer.status


# -- what is malformed behind something else --


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
async def test_a_malformed_request_takes_nothing_from_those_before_it(
    short_timeout_web: WebProcess, redis: Redis, count: int, malformed: bytes
) -> None:
    good = b""
    for _ in range(count):
        raw = new_event_body("standard")
        lines = "".join(f"{name}: {value}\r\n" for name, value in sign_standard(raw).items())
        good += f"POST /hooks/standard HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n{lines}\r\n".encode() + raw

    with closing(short_timeout_web.connect()) as connection:
        connection.settimeout(20)
        connection.sendall(good + malformed)
        answered = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                answered += part

    assert [b"202"] * count + [b"400"] == re.findall(rb"HTTP/1\.1 (\d+)", answered)


async def test_a_malformed_rest_of_an_answered_request_is_not_answered(short_timeout_web: WebProcess) -> None:
    with closing(short_timeout_web.connect()) as connection:
        connection.sendall(b"POST /hooks/nobody HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
        assert 404 == read_response(connection).status
        connection.sendall(b"zz\r\n")
        connection.settimeout(20)
        answered = b""
        with suppress(ConnectionResetError):
            answered = await asyncio.to_thread(connection.recv, 65_536)

    assert b"" == answered
