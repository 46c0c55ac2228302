"""The event stream of the console, at a real web process: who hears what, for how long, and how many may listen."""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from itsdangerous import TimestampSigner

from app.console import events
from app.console.events import MAX_STREAMS, EventHub, EventStream
from app.console.sessions import SESSION_COOKIE
from app.ledger.ledger import Ledger
from app.settings.environment import read_environment
from tests.support.harness import Harness, wait_until

KEY = "key-of-the-tests"
PROXYS = "a secret of the proxy"
PROXY = {"x-user": "ada", "x-doorbell-proxy-secret": PROXYS}
VISIT = {"contact": {"email": "ada@example.com", "first_name": "Ada"}, "time_scheduled": "2027-03-14T16:00:00Z"}


@pytest.fixture
def running(harness: Harness) -> Harness:
    harness.env |= {
        "SECRET_KEY": KEY,
        "CONSOLE_VIEWER_PASSWORD_HASH": PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a viewer's"),
        "CONSOLE_PROXY_HEADER": "X-User",
        "CONSOLE_PROXY_SECRET": PROXYS,
    }
    harness.start_web()
    return harness


class Listener:
    """Somebody with an open stream; as a context, so that it is closed at the end."""

    def __init__(self, harness: Harness, headers: dict[str, str] = PROXY) -> None:
        self._stack = ExitStack()
        self._url, self._headers = f"{harness.web_server.url}/console/stream", headers

    def __enter__(self) -> "Listener":
        http = self._stack.enter_context(httpx.Client(timeout=30))
        self.answer = self._stack.enter_context(http.stream("GET", self._url, headers=self._headers))
        self.lines = self.answer.iter_lines()
        if self.answer.status_code == 200:
            assert ": hello" == next(self.lines)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def names(self) -> Iterator[str]:
        for line in self.lines:
            if line.startswith("data: "):
                yield from json.loads(line.removeprefix("data: "))


def readers(harness: Harness) -> int:
    return sum(
        line.endswith(b"cmd=subscribe") or b"sub=1" in line
        for line in harness.redis_command("CLIENT", "LIST").splitlines()
    )


def test_what_arrives_and_what_is_done_is_told_by_name_and_nothing_else(running: Harness) -> None:
    with Listener(running) as listener:
        wait_until(lambda: readers(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        running.start_worker()

        told = set[str]()
        for name in listener.names():
            told.add(name)
            if told >= {delivery, "standard-A-1"}:
                break

    assert {delivery, "standard-A-1"} == told
    assert "text/event-stream; charset=utf-8" == listener.answer.headers["content-type"]
    assert "private, no-store" == listener.answer.headers["cache-control"]
    assert "default-src 'none'" in listener.answer.headers["content-security-policy"]


def test_all_that_listen_have_one_reader_and_the_last_takes_it_along(running: Harness) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(running)) for _ in range(3)]
        wait_until(lambda: readers(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]

        assert [delivery] * 3 == [next(listener.names()) for listener in listeners]
        assert 1 == readers(running)

    wait_until(lambda: readers(running) == 0)


def test_a_reader_who_leaves_is_noticed_also_with_a_request_sent_ahead(running: Harness) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "x", **PROXY}.items())
    with socket.create_connection(("127.0.0.1", running.web_server.port), 10) as connection:
        for path in ("/console/stream", "/healthz"):
            connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        wait_until(lambda: readers(running) == 1)

    wait_until(lambda: readers(running) == 0)


def test_whoever_finds_no_place_is_told_so_and_a_place_that_is_left_is_free(running: Harness) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stack.enter_context(Listener(running))
        assert 503 == stack.enter_context(Listener(running)).answer.status_code

    with Listener(running) as listener:
        wait_until(lambda: readers(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        assert delivery == next(listener.names())


def test_who_asks_for_the_head_alone_takes_no_place(running: Harness) -> None:
    with httpx.Client(timeout=5) as http:
        heads = [http.head(f"{running.web_server.url}/console/stream", headers=PROXY) for _ in range(MAX_STREAMS + 1)]

    assert {200} == {head.status_code for head in heads}


def test_nothing_is_told_to_a_session_that_was_taken_back(running: Harness) -> None:
    password = hashlib.sha256(running.env["CONSOLE_VIEWER_PASSWORD_HASH"].encode()).hexdigest()[:32]
    running.redis_command(
        "SET", "bell:session:hers", json.dumps({"name": "viewer", "role": "viewer", "password": password})
    )
    cookie = TimestampSigner(KEY, salt="doorbell console session").sign("hers").decode()
    with Listener(running, {"cookie": f"{SESSION_COOKIE}={cookie}"}) as listener:
        wait_until(lambda: readers(running) == 1)
        running.redis_command("DEL", "bell:session:hers")
        running.send("visit.created", "A-1", **VISIT)

        assert [] == list(listener.names())

    assert 303 == httpx.get(f"{running.web_server.url}/console/stream").status_code


def test_without_redis_streams_end_and_come_back_with_it(running: Harness) -> None:
    with Listener(running) as listener:
        wait_until(lambda: readers(running) == 1)
        running.redis_command("CLIENT", "KILL", "TYPE", "pubsub")

        assert [] == list(listener.names())

    with Listener(running) as listener:
        wait_until(lambda: readers(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        assert delivery == next(listener.names())


async def test_where_nothing_happens_something_is_sent_all_the_same(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.01)
    streams = EventHub(ledger, read_environment({"REDIS_URL": redis_url}))
    messages = streams.subscribe()
    assert messages

    sent = [chunk async for chunk in _three(EventStream(streams, messages, _anybody).body_iterator)]

    streams.unsubscribe(messages)
    assert [b": hello\n\n", b": still here\n\n", b": still here\n\n"] == sent


async def _anybody() -> bool:
    return True


async def _three(chunks: Any) -> Any:
    for _ in range(3):
        yield await anext(chunks)


async def test_a_reader_that_is_too_slow_is_sent_away(ledger: Ledger, redis_url: str) -> None:
    streams = EventHub(ledger, read_environment({"REDIS_URL": redis_url}))
    messages = streams.subscribe()
    assert messages
    for number in range(events.MAX_QUEUED_MESSAGES):
        messages.put_nowait(b"%d" % number)

    streams.shut_down()

    left = [messages.get_nowait() for _ in range(messages.qsize())]
    streams.unsubscribe(messages)
    assert b"" == left[-1]
    assert None is streams.subscribe()
