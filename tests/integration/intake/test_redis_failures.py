"""503: Redis is unavailable, full, or read-only."""

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

from app.connections.stored_hooks import StoredHooks
from app.demo import valkey
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.operators.doctor import examine
from app.operators.explain import Explain
from app.operators.lists import Lists
from app.settings.environment import read_environment
from app.telemetry.counters import Counters, hourly_counts, totals
from app.telemetry.metrics import snapshot
from tests.support.harness import (
    sign_standard,
    wait_until,
)
from tests.support.intake import (
    QUEUE_KEYS,
    SHORT_TIMEOUTS,
    SIGN,
    SOURCES,
    WebProcess,
    is_error_response,
    new_event_body,
    start_web,
    stored_keys,
    without_counters,
)
from tests.support.ledger import accept, change

PASSWORD = "redis-canary-password"


class OwnRedis:
    """A Valkey for this module, which tests may stop, kill, fill and make read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, valkey.free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = valkey.start(self.port, self.folder, appendfsync="always")
        self.command("CONFIG", "SET", "requirepass", PASSWORD)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def command(self, *arguments: str) -> Any:
        async def send() -> Any:
            for url in (self.url, self.url.replace(f":{PASSWORD}@", "")):
                redis = Redis(RedisAddress(url))
                with suppress(RedisUnavailable):
                    try:
                        return await redis.command(*arguments)
                    finally:
                        await redis.close()
            raise RedisUnavailable("neither with the password nor without it")

        with ThreadPoolExecutor(1) as executor:  # the test may have a running event loop
            return executor.submit(asyncio.run, send()).result()

    def keys(self) -> set[bytes]:
        return without_counters(self.command("KEYS", "*"))


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path_factory.mktemp("redis"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def web(own_redis: OwnRedis) -> Iterator[WebProcess]:
    with start_web(own_redis.url) as web:
        yield web


FAILURES: dict[str, tuple[Callable[[OwnRedis], Any], Callable[[OwnRedis], Any]]] = {
    "stopped": (
        lambda server: server.process.send_signal(signal.SIGSTOP),
        lambda server: server.process.send_signal(signal.SIGCONT),
    ),
    "killed": (OwnRedis.kill, OwnRedis.start),
    "read-only": (
        lambda server: server.command("REPLICAOF", "127.0.0.1", "1"),
        lambda server: server.command("REPLICAOF", "NO", "ONE"),
    ),
    "full": (
        lambda server: server.command("CONFIG", "SET", "maxmemory", "1"),
        lambda server: server.command("CONFIG", "SET", "maxmemory", "0"),
    ),
    "without its replicas": (
        lambda server: server.command("CONFIG", "SET", "min-replicas-to-write", "1"),
        lambda server: server.command("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


ERROR_CODES = {
    "stopped": "redis_down",
    "killed": "redis_down",
    "read-only": "redis_read_only",
    "full": "redis_full",
    "without its replicas": "redis_read_only",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_tool_is_answered_503_during_a_redis_failure_and_nothing_is_lost(
    web: WebProcess, own_redis: OwnRedis, failure: str
) -> None:
    begin, end = FAILURES[failure]
    deliveries = {source: (raw := new_event_body(source), SIGN[source](raw)) for source in SOURCES}

    def send(source: str) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        return web.post(*deliveries[source], source), time.monotonic() - started

    assert 202 == wait_until(lambda: (reply := web.send("standard").status_code) == 202 and reply)
    before = own_redis.keys()

    begin(own_redis)
    try:
        with ThreadPoolExecutor(len(SOURCES)) as executor:
            rejected = dict(zip(SOURCES, executor.map(send, SOURCES), strict=True))
    finally:
        end(own_redis)

    for source, (response, took_s) in rejected.items():
        assert is_error_response(response, 503), source
        assert 0 < int(response.headers["retry-after"]) <= 60
        assert took_s < 10, source  # Calendly and Square wait at least 10 s
    # The connection to a read-only server is closed, which ends the other deliveries on it with `redis_down`.
    codes = {response.json()["error"] for response, _ in rejected.values()}
    assert ERROR_CODES[failure] in codes
    assert codes <= {ERROR_CODES[failure], "redis_down"}
    if failure == "stopped":  # Jobber waits for one second, so its deadline is shorter than the 3 s of the others
        assert rejected["jobber"][1] < min(took_s for source, (_, took_s) in rejected.items() if source != "jobber")
    if failure != "stopped":  # a stopped server may have read them already, and executes them when it continues
        assert before == own_redis.keys()
    for source in SOURCES:
        response = wait_until(lambda source=source: (reply := send(source)[0]).status_code != 503 and reply)
        assert response.status_code in ((200, 202) if failure == "stopped" else (202,)), (source, response.text)
    assert before < own_redis.keys()
    new = own_redis.keys() - before
    assert 6 == len([key for key in new if key.startswith(b"bell:delivery:")])
    tasks = [key for key in new if key.startswith((b"bell:visit:", b"bell:event:"))]
    jobs = [job for queue in QUEUE_KEYS for job in own_redis.command("ZRANGE", queue, 0, -1)]
    counts = {task: own_redis.command("HGET", task.decode(), "changes") for task in tasks}
    if failure == "stopped":  # a repeat of an event without an id counts as another event
        counts = {task: count for task, count in counts.items() if task.startswith(b"bell:visit:")}
    assert {b"1"} == set(counts.values())
    assert [] == [task for task in tasks if task.removeprefix(b"bell:") + b"#1" not in jobs]


def test_an_event_whose_accept_failed_is_no_repeat(web: WebProcess, own_redis: OwnRedis) -> None:
    # Redis does not undo a script that fails in the middle. Here the ACL denies one of its commands.
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    own_redis.command("ACL", "SETUSER", "default", "-zadd")
    try:
        rejected = web.post(raw, headers)
    finally:
        own_redis.command("ACL", "SETUSER", "default", "+zadd")

    again = web.post(raw, headers)

    assert is_error_response(rejected, 503)
    assert (202, 1) == (again.status_code, again.json().get("changes")), again.text


def test_readiness_depends_on_redis_and_health_does_not(web: WebProcess, own_redis: OwnRedis) -> None:
    assert [200, 200] == [web.http.get(path).status_code for path in ("/healthz", "/readyz")]
    own_redis.kill()
    try:
        during = [
            web.http.request(method, path).status_code for path in ("/healthz", "/readyz") for method in ("GET", "HEAD")
        ]
    finally:
        own_redis.start()

    assert [200, 200, 503, 503] == during
    assert 200 == wait_until(lambda: (status := web.http.get("/readyz").status_code) == 200 and status)


def test_rejections_during_a_redis_failure_are_counted_after_it(own_redis: OwnRedis) -> None:
    counter = ("HGET", "bell:rejections", "standard:signature_missing")
    with start_web(own_redis.url, "-c", SHORT_TIMEOUTS) as web:
        own_redis.kill()
        try:
            statuses = [web.post(b"{}", {}).status_code for _ in range(7)]
            time.sleep(0.2)  # some flushes fail
        finally:
            own_redis.start()
        count = wait_until(lambda: own_redis.command(*counter))

    assert [401] * 7 == statuses
    assert b"7" == count


def test_with_ack_fsync_a_delivery_is_accepted_once(own_redis: OwnRedis) -> None:
    raw = new_event_body("standard")
    headers = sign_standard(raw)
    with start_web(own_redis.url, ACK="fsync") as web:
        responses = [web.post(raw, headers) for _ in range(2)]
        with ThreadPoolExecutor(10) as executor:
            more = list(executor.map(lambda _: web.send("standard").status_code, range(30)))

    assert [202, 200] == [response.status_code for response in responses]
    assert [202] * 30 == more


def test_with_ack_fsync_a_redis_without_a_disk_accepts_a_delivery() -> None:
    with valkey.valkey(appendonly=False) as url, start_web(url, ACK="fsync") as web:
        response = web.send("standard")

    assert 202 == response.status_code, response.text


async def test_samples_of_rejections_are_limited_and_quote_nothing(own_redis: OwnRedis) -> None:
    url = own_redis.url.removesuffix("0") + "7"  # a database in which no other process counts its rejections
    redis = Redis(RedisAddress(url))
    with start_web(url, "-c", SHORT_TIMEOUTS) as web:
        for n in range(130):
            headers = {"webhook-id": f"canary-{n}", "webhook-timestamp": "1", "webhook-signature": f"v1,canary{n}"}
            web.post(b'{"email":"canary@example.com"}', headers)
            web.post(b"canary", {}, f"canary-{n}@example.com")
        counts = await _flushed(redis, 260)
    samples = {
        key: await redis.command("LRANGE", key, 0, -1) for key in await redis.command("KEYS", "bell:rejections:*")
    }
    keys = await stored_keys(redis)
    await redis.close()

    assert set() == keys
    assert [130, 130] == list(counts.values())
    assert 2 == len(samples)
    assert all(50 <= len(lines) <= 100 for lines in samples.values())  # trimmed to 50 whenever it reaches 100
    assert "canary" not in repr(samples) + repr(counts)


async def _flushed(redis: Redis, total: int) -> dict[str, int]:
    for _ in range(1_500):
        flat = await redis.command("HGETALL", "bell:rejections")
        counts = {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}
        if sum(counts.values()) >= total:
            break
        await asyncio.sleep(0.02)
    assert total == sum(counts.values())
    return counts


def test_a_redis_failure_is_logged_without_the_password(web: WebProcess, own_redis: OwnRedis) -> None:
    own_redis.kill()
    try:
        web.send("standard")
        web.http.get("/readyz")
    finally:
        own_redis.start()

    assert "redis_unavailable" in web.log
    assert PASSWORD not in web.log


async def test_counts_that_a_frozen_redis_adds_late_are_added_once(own_redis: OwnRedis) -> None:
    """Its answers came too late, so the counts were sent again."""
    counters, redis = Counters(), Redis(RedisAddress(own_redis.url), timeout_s=0.3)
    counters.count_for_hour("standard", "early")
    await counters.flush(redis)  # the server must have the script
    counters.record_request("standard", "late", 0, 0.2)
    counters.count_for_hour("standard", "late")
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        await counters.flush(redis)
        counters.record_request("standard", "late", 0, 0.2)
        await counters.flush(redis)
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(0.5)
    await counters.flush(redis)

    assert 2 == (await totals(redis))["doorbell_webhook_requests_total|standard|late"]
    assert 1 == (await hourly_counts(redis, 1))[0][1]["standard", "late"]
    await redis.close()


async def test_a_redis_that_accepts_no_writes_is_reported(own_redis: OwnRedis) -> None:
    environ = {"REDIS_URL": own_redis.url, "VISITS_API_TOKEN": "t", "VISITS_API_URL": "http://127.0.0.1:1"}
    ledger = Ledger(Redis(RedisAddress(own_redis.url)), 30)
    before = await redis_up(ledger)
    own_redis.command("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        checks = {check.name: check async for check in examine(environ)}
        during = await redis_up(ledger)
    finally:
        own_redis.command("CONFIG", "SET", "min-replicas-to-write", "0")
        await ledger.redis.close()

    assert ("fail", True) == (checks["redis.writes"].result, "NOREPLICAS" in checks["redis.writes"].detail)
    assert ("1.0", "0.0") == (before, during)


async def test_operators_read_although_redis_accepts_no_writes(own_redis: OwnRedis) -> None:
    settings = read_environment({"REDIS_URL": own_redis.url, "SECRET_KEY": "key-of-the-tests" * 2})
    ledger = Ledger(Redis(RedisAddress(own_redis.url)), 30)
    await accept(ledger, change("A"))
    own_redis.command("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        await StoredHooks(ledger.redis, settings).load()
        matches = await Lists(ledger, settings, Explain(ledger, settings)).search("standard-A")
    finally:
        own_redis.command("CONFIG", "SET", "min-replicas-to-write", "0")
        await ledger.redis.close()

    assert ["standard-A"] == [match.id for match in matches]


async def redis_up(ledger: Ledger) -> str:
    text = (await snapshot(ledger, read_environment({"REDIS_URL": ledger.redis.address.url}))).encode()[0].decode()
    [line] = [line for line in text.splitlines() if line.startswith("doorbell_redis_up ")]
    return line.partition(" ")[2]


def test_a_web_process_that_cannot_use_redis_says_why_when_it_starts(own_redis: OwnRedis) -> None:
    with start_web(own_redis.url.replace(PASSWORD, "a-wrong-password")) as web:
        log = web.log

    assert "WRONGPASS" in log
    assert "a-wrong-password" not in log
