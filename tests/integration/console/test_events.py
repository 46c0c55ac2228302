"""The event streams of the console, with a real web process."""

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
from tests.support.harness import Harness, http_client, wait_until

KEY = "key-of-the-tests"
PROXY_SECRET = "a secret of the proxy"
PROXY = {"x-user": "ada", "x-doorbell-proxy-secret": PROXY_SECRET}
VISIT = {"contact": {"email": "ada@example.com", "first_name": "Ada"}, "time_scheduled": "2027-03-14T16:00:00Z"}


@pytest.fixture
def running(harness: Harness) -> Harness:
    harness.env |= {
        "SECRET_KEY": KEY,
        "CONSOLE_VIEWER_PASSWORD_HASH": PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a viewer's"),
        "CONSOLE_PROXY_HEADER": "X-User",
        "CONSOLE_PROXY_SECRET": PROXY_SECRET,
    }
    harness.start_web()
    return harness


class Listener:
    """A client with an open stream. The context manager closes it."""

    def __init__(self, harness: Harness, headers: dict[str, str] = PROXY) -> None:
        self._stack = ExitStack()
        self._url, self._headers = f"{harness.web_server.url}/console/stream", headers

    def __enter__(self) -> "Listener":
        http = self._stack.enter_context(http_client())
        self.response = self._stack.enter_context(http.stream("GET", self._url, headers=self._headers))
        self.lines = self.response.iter_lines()
        if self.response.status_code == 200:
            assert ": connected" == next(self.lines)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ids(self) -> Iterator[str]:
        for line in self.lines:
            if line.startswith("data: "):
                yield from json.loads(line.removeprefix("data: "))


def subscriber_count(harness: Harness) -> int:
    return sum(
        line.endswith(b"cmd=subscribe") or b"sub=1" in line
        for line in harness.redis_command("CLIENT", "LIST").splitlines()
    )


def test_a_stream_contains_ids_of_new_deliveries_and_finished_tasks(running: Harness) -> None:
    with Listener(running) as listener:
        wait_until(lambda: subscriber_count(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        running.start_worker()

        published = set[str]()
        for name in listener.ids():
            published.add(name)
            if published >= {delivery, "standard-A-1"}:
                break

    assert {delivery, "standard-A-1"} == published
    assert "text/event-stream; charset=utf-8" == listener.response.headers["content-type"]
    assert "private, no-store" == listener.response.headers["cache-control"]
    assert "default-src 'none'" in listener.response.headers["content-security-policy"]


def test_all_streams_share_one_subscriber_that_ends_with_the_last(running: Harness) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(running)) for _ in range(3)]
        wait_until(lambda: subscriber_count(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]

        assert [delivery] * 3 == [next(listener.ids()) for listener in listeners]
        assert 1 == subscriber_count(running)

    wait_until(lambda: subscriber_count(running) == 0)


def test_a_disconnect_ends_a_stream_with_a_pipelined_request(running: Harness) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "x", **PROXY}.items())
    with socket.create_connection(("127.0.0.1", running.web_server.port), 10) as connection:
        for path in ("/console/stream", "/healthz"):
            connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        wait_until(lambda: subscriber_count(running) == 1)

    wait_until(lambda: subscriber_count(running) == 0)


def test_a_stream_above_the_limit_is_answered_503_until_another_ends(running: Harness) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_STREAMS):
            stack.enter_context(Listener(running))
        assert 503 == stack.enter_context(Listener(running)).response.status_code

    with Listener(running) as listener:
        wait_until(lambda: subscriber_count(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        assert delivery == next(listener.ids())


def test_a_head_request_does_not_count_as_a_stream(running: Harness) -> None:
    with http_client(timeout=5) as http:
        heads = [http.head(f"{running.web_server.url}/console/stream", headers=PROXY) for _ in range(MAX_STREAMS + 1)]

    assert {200} == {head.status_code for head in heads}


def test_a_deleted_session_ends_its_stream(running: Harness) -> None:
    password = hashlib.sha256(running.env["CONSOLE_VIEWER_PASSWORD_HASH"].encode()).hexdigest()[:32]
    running.redis_command(
        "SET", "bell:session:ada-session", json.dumps({"name": "viewer", "role": "viewer", "password": password})
    )
    cookie = TimestampSigner(KEY, salt="doorbell console session").sign("ada-session").decode()
    with Listener(running, {"cookie": f"{SESSION_COOKIE}={cookie}"}) as listener:
        wait_until(lambda: subscriber_count(running) == 1)
        running.redis_command("DEL", "bell:session:ada-session")
        running.send("visit.created", "A-1", **VISIT)

        assert [] == list(listener.ids())

    assert 303 == httpx.get(f"{running.web_server.url}/console/stream").status_code


def test_streams_end_without_redis_and_reconnect(running: Harness) -> None:
    with Listener(running) as listener:
        wait_until(lambda: subscriber_count(running) == 1)
        running.redis_command("CLIENT", "KILL", "TYPE", "pubsub")

        assert [] == list(listener.ids())

    with Listener(running) as listener:
        wait_until(lambda: subscriber_count(running) == 1)
        delivery = running.send("visit.created", "A-1", **VISIT).json()["delivery"]
        assert delivery == next(listener.ids())


async def test_an_idle_stream_sends_keepalives(ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.01)
    streams = EventHub(ledger, read_environment({"REDIS_URL": redis_url}))
    messages = streams.subscribe()
    assert messages

    sent = [chunk async for chunk in _first_three(EventStream(streams, messages, _always_allowed).body_iterator)]

    streams.unsubscribe(messages)
    assert [b": connected\n\n", b": keep-alive\n\n", b": keep-alive\n\n"] == sent


async def _always_allowed() -> bool:
    return True


async def _first_three(chunks: Any) -> Any:
    for _ in range(3):
        yield await anext(chunks)


async def test_a_slow_reader_gets_the_end_of_its_stream(ledger: Ledger, redis_url: str) -> None:
    streams = EventHub(ledger, read_environment({"REDIS_URL": redis_url}))
    messages = streams.subscribe()
    assert messages
    for number in range(events.MAX_QUEUED_MESSAGES):
        messages.put_nowait(b"%d" % number)

    streams.shut_down()

    messages_left = [messages.get_nowait() for _ in range(messages.qsize())]
    streams.unsubscribe(messages)
    assert b"" == messages_left[-1]
    assert None is streams.subscribe()
