"""503: Redis cannot be reached, is full, or cannot write."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.demo import valkey
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from tests.support.harness import (
    sign_standard,
    wait_until,
)
from tests.support.intake import (
    SHORT_TIMEOUTS,
    SIGN,
    SOURCES,
    WebProcess,
    is_error_response,
    new_event_body,
    start_web,
    stored_keys,
)

# -- trouble with Redis --

PASSWORD = "redis-canary-password"


class OwnRedis:
    """A Valkey of this module's own, to be stopped, killed, filled and locked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, valkey.free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = valkey.start(self.port, self.folder, appendfsync="always")
        self.ask("CONFIG", "SET", "requirepass", PASSWORD)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, *command: str) -> Any:
        async def ask() -> Any:
            for url in (self.url, self.url.replace(f":{PASSWORD}@", "")):
                redis = Redis(RedisAddress(url))
                with suppress(RedisUnavailable):
                    try:
                        return await redis.command(*command)
                    finally:
                        await redis.close()
            raise RedisUnavailable("no way in")

        with ThreadPoolExecutor(1) as apart:  # from any running loop
            return apart.submit(asyncio.run, ask()).result()

    def keys(self) -> set[bytes]:
        """Of what is accepted: what doors count, they write now and then."""
        counted = (b"bell:rejections", b"bell:metrics", b"bell:hourly:", b"bell:secret-used:", b"bell:request-index:")
        return {key for key in self.ask("KEYS", "*") if not key.startswith(counted)}


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    own = OwnRedis(tmp_path_factory.mktemp("redis"))
    try:
        yield own
    finally:
        own.kill()


@pytest.fixture(scope="module")
def shaky(own_redis: OwnRedis) -> Iterator[WebProcess]:
    with start_web(own_redis.url) as web:
        yield web


def _restart(own: OwnRedis) -> None:
    own.start()


TROUBLES: dict[str, tuple[Callable[[OwnRedis], Any], Callable[[OwnRedis], Any]]] = {
    "stopped": (
        lambda own: own.process.send_signal(signal.SIGSTOP),
        lambda own: own.process.send_signal(signal.SIGCONT),
    ),
    "killed": (OwnRedis.kill, _restart),
    "read-only": (lambda own: own.ask("REPLICAOF", "127.0.0.1", "1"), lambda own: own.ask("REPLICAOF", "NO", "ONE")),
    "full": (
        lambda own: own.ask("CONFIG", "SET", "maxmemory", "1"),
        lambda own: own.ask("CONFIG", "SET", "maxmemory", "0"),
    ),
    "without its replicas": (
        lambda own: own.ask("CONFIG", "SET", "min-replicas-to-write", "1"),
        lambda own: own.ask("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


CODES = {
    "stopped": "redis_down",
    "killed": "redis_down",
    "read-only": "redis_read_only",
    "full": "redis_full",
    "without its replicas": "redis_read_only",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_while_redis_cannot_write_every_tool_is_asked_to_come_back_and_nothing_is_lost(
    shaky: WebProcess, own_redis: OwnRedis, trouble: str
) -> None:
    begin, end = TROUBLES[trouble]
    deliveries = {source: (raw := new_event_body(source), SIGN[source](raw)) for source in SOURCES}

    def ring(source: str) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        return shaky.post(*deliveries[source], source), time.monotonic() - started

    assert 202 == wait_until(lambda: (got := shaky.send("standard").status_code) == 202 and got)
    before = own_redis.keys()

    begin(own_redis)
    try:
        with ThreadPoolExecutor(len(SOURCES)) as crowd:
            refused = dict(zip(SOURCES, crowd.map(ring, SOURCES), strict=True))
    finally:
        end(own_redis)

    for source, (answer, took_s) in refused.items():
        assert is_error_response(answer, 503), source
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert took_s < 10, source  # so long Calendly and Square wait, and more
    # The connection to a read-only server is closed, which ends the other deliveries on it with `redis_down`.
    codes = {answer.json()["error"] for answer, _ in refused.values()}
    assert CODES[trouble] in codes
    assert codes <= {CODES[trouble], "redis_down"}
    if trouble == "stopped":  # Jobber waits for one second: it must not have the same 3 s as the others
        assert refused["jobber"][1] < min(took_s for source, (_, took_s) in refused.items() if source != "jobber")
    if trouble != "stopped":  # a stopped one may have read them already, and writes them whole when it goes on
        assert before == own_redis.keys()
    for source in SOURCES:
        answer = wait_until(lambda source=source: (got := ring(source)[0]).status_code != 503 and got)
        assert answer.status_code in ((200, 202) if trouble == "stopped" else (202,)), (source, answer.text)
    assert before < own_redis.keys()
    new = own_redis.keys() - before
    assert 6 == len([key for key in new if key.startswith(b"bell:delivery:")])
    assert 6 == len([key for key in new if key.startswith(b"bell:dedup:")])
    assert {b"1"} == {
        own_redis.ask("HGET", key.decode(), "changes")
        for key in new
        if key.startswith((b"bell:visit:", b"bell:event:"))
    }
    assert 6 == len([key for key in new if key.startswith(b"arq:job:")])


def test_an_event_whose_writing_broke_off_is_no_repeat_when_it_rings_again(
    shaky: WebProcess, own_redis: OwnRedis
) -> None:
    # A script that fails in the middle is not undone by Redis. Here it may not use one of its commands any more.
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    own_redis.ask("ACL", "SETUSER", "default", "-zadd")
    try:
        refused = shaky.post(raw, headers)
    finally:
        own_redis.ask("ACL", "SETUSER", "default", "+zadd")

    again = shaky.post(raw, headers)

    assert is_error_response(refused, 503)
    assert (202, 1) == (again.status_code, again.json().get("changes")), again.text


def test_readiness_tells_of_redis_and_health_does_not(shaky: WebProcess, own_redis: OwnRedis) -> None:
    assert [200, 200] == [shaky.http.get(path).status_code for path in ("/healthz", "/readyz")]
    own_redis.kill()
    try:
        during = [
            shaky.http.request(method, path).status_code
            for path in ("/healthz", "/readyz")
            for method in ("GET", "HEAD")
        ]
    finally:
        own_redis.start()

    assert [200, 200, 503, 503] == during
    assert 200 == wait_until(lambda: (got := shaky.http.get("/readyz").status_code) == 200 and got)


def test_refusals_during_trouble_are_counted_after_it(own_redis: OwnRedis) -> None:
    counted = ("HGET", "bell:rejections", "standard:signature_missing")
    with start_web(own_redis.url, "-c", SHORT_TIMEOUTS) as web:
        own_redis.kill()
        try:
            statuses = [web.post(b"{}", {}).status_code for _ in range(7)]
            time.sleep(0.2)  # some flushes go wrong
        finally:
            own_redis.start()
        count = wait_until(lambda: own_redis.ask(*counted))

    assert [401] * 7 == statuses
    assert b"7" == count


def test_with_ack_fsync_a_delivery_is_accepted_once(own_redis: OwnRedis) -> None:
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    with start_web(own_redis.url, ACK="fsync") as web:
        answers = [web.post(raw, headers) for _ in range(2)]
        with ThreadPoolExecutor(10) as crowd:
            more = list(crowd.map(lambda _: web.send("standard").status_code, range(30)))

    assert [202, 200] == [answer.status_code for answer in answers]
    assert [202] * 30 == more


def test_with_ack_fsync_a_redis_without_a_disk_still_accepts_a_first_delivery() -> None:
    with valkey.valkey(appendonly=False) as url, start_web(url, ACK="fsync") as web:
        answer = web.send("standard")

    assert 202 == answer.status_code, answer.text


async def test_refusals_leave_bounded_notes_that_quote_nothing(own_redis: OwnRedis) -> None:
    url = own_redis.url.removesuffix("0") + "7"  # where no other process flushes what it refused
    redis = Redis(RedisAddress(url))
    with start_web(url, "-c", SHORT_TIMEOUTS) as web:
        for n in range(130):
            headers = {"webhook-id": f"canary-{n}", "webhook-timestamp": "1", "webhook-signature": f"v1,canary{n}"}
            web.post(b'{"email":"canary@example.com"}', headers)
            web.post(b"canary", {}, f"canary-{n}@example.com")
        counts = await _flushed(redis, 260)
    notes = {key: await redis.command("LRANGE", key, 0, -1) for key in await redis.command("KEYS", "bell:rejections:*")}
    left = await stored_keys(redis)
    await redis.close()

    assert set() == left
    assert [130, 130] == list(counts.values())
    assert 2 == len(notes)
    assert all(50 <= len(lines) <= 100 for lines in notes.values())  # 50, and 50 more until they are cut off
    assert "canary" not in repr(notes) + repr(counts)


async def _flushed(redis: Redis, total: int) -> dict[str, int]:
    for _ in range(1_500):
        flat = await redis.command("HGETALL", "bell:rejections")
        counts = {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}
        if sum(counts.values()) >= total:
            break
        await asyncio.sleep(0.02)
    assert total == sum(counts.values())
    return counts


def test_no_trouble_told_of_is_told_with_the_password(shaky: WebProcess, own_redis: OwnRedis) -> None:
    own_redis.kill()
    try:
        shaky.send("standard")
        shaky.http.get("/readyz")
    finally:
        own_redis.start()

    assert "redis_unavailable" in shaky.log
    assert PASSWORD not in shaky.log
