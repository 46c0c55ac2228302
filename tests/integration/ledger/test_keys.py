"""Retention: every key that Doorbell writes has a kind and an expiry."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.ledger.cleanup import trim_deliveries
from app.ledger.keys import KEY_KINDS, kind_of
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis, RedisAddress
from app.ledger.scripts import SCRIPTS
from app.main import create_app
from app.settings.environment import read_environment
from app.webhooks.registry import load_specimens
from tests.support.console import ENDING, HASHES, OPERATORS, Browser
from tests.support.harness import Harness, sign_standard, standard_body, wait_until
from tests.support.ledger import accept, change, complete_run, parked, short_retention_ledger, start_run, visit_task

KEY = "secret-key-of-the-tests-0123456789"
ACUITY = load_specimens("acuity")


def run_with_redis(url: str, operation: Callable[[Redis], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        redis = Redis(RedisAddress(url))
        try:
            return await operation(redis)
        finally:
            await redis.close()

    return asyncio.run(run())


async def expiry_problems(redis: Redis) -> list[str]:
    """Return the keys that are not in KEY_KINDS, or that do not expire as it says."""
    problems = []
    for key in sorted(await redis.command("KEYS", "*")):
        name, ttl_ms = key.decode(), await redis.command("PTTL", key)
        kind = kind_of(name)
        if ttl_ms == -2:  # it expired since KEYS
            continue
        if kind is None:
            problems.append(f"{name}: of no kind")
        elif kind.expiry == "expires" and ttl_ms < 0:
            problems.append(f"{name}: never expires")
        elif kind.expiry == "task" and ttl_ms < 0 and not await has_open_task(redis, name):
            problems.append(f"{name}: done, and never expires")
        elif kind.expiry in ("members", "permanent") and ttl_ms >= 0:
            problems.append(f"{name}: expires, although it should stay")
    return problems


async def has_open_task(redis: Redis, name: str) -> bool:
    task_key = name.replace("bell:delivery:", "bell:event:")
    return bool(await redis.command("HEXISTS", task_key, "state"))


@contextmanager
def acuity_api() -> Iterator[str]:
    """Serve one record for every request to the tool's API, and yield the URL."""
    [record] = ACUITY["deliveries"][0]["records"].values()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw = json.dumps(record).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def configure(harness: Harness, api_url: str) -> None:
    harness.env |= {
        "SECRET_KEY": KEY,
        "HOOKS__ACUITY__SECRETS": ACUITY["secret"],
        "HOOKS__ACUITY__CREDENTIALS__USER_ID": "4711",
        "HOOKS__ACUITY__CREDENTIALS__API_KEY": ACUITY["secret"],
        "HOOKS__ACUITY__API_URL": api_url,
        "CONSOLE_PASSWORD_HASH": HASHES[OPERATORS],
        "CONTACT_FOR_S": "0.2",
        "VISITS_API_RATE": "200",
    }


@asynccontextmanager
async def console_browser(harness: Harness) -> AsyncIterator[Browser]:
    app = create_app(read_environment(harness.env))
    async with app.router.lifespan_context(app):
        browser = Browser(app)
        await browser.log_in("a wrong password")
        await browser.log_in()
        yield browser


ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
SOON = "2031-03-14T16:00:00Z"


def send_deliveries(harness: Harness) -> None:
    """Send deliveries of every result: created, moved, cancelled, repeated, ignored, parked, fetched and rejected."""
    raw = standard_body("visit.created", "A", contact=ADA, time_scheduled=SOON)
    headers = {**sign_standard(raw), "x-request-id": "request-1"}
    assert [202, 200] == [harness.post(raw, headers).status_code for _ in range(2)]
    wait_until(lambda: harness.visit("standard-A"))
    harness.send("visit.updated", "A", amount_collected="245.00")
    harness.send("visit.cancelled", "A")
    harness.send("visit.created", "B", contact={"first_name": "Grace", "phone": "+15550100002"}, time_scheduled=SOON)
    invalid = standard_body("visit.created", "C", time_scheduled="at noon")
    assert 202 == harness.post(invalid, sign_standard(invalid)).status_code
    unrelated = json.dumps({"type": "invoice.paid", "timestamp": "2026-03-14T17:32:05Z", "data": {}}).encode()
    assert "ignored" in harness.post(unrelated, sign_standard(unrelated)).text
    result = harness.doorbell("ring", "acuity", "1", "--to", f"{harness.web_server.url}/hooks/acuity")
    assert "202" in result.stdout + result.stderr, result
    assert [401, 404] == [harness.post(raw, {}, hook).status_code for hook in ("standard", "nobody")]
    wait_until(lambda: harness.visit("acuity-123456789"))


def test_every_key_has_a_kind_and_expires(harness: Harness) -> None:
    async def use_console(redis: Redis) -> None:
        """Open every page of the console, search, and start an operation."""
        async with console_browser(harness) as browser:
            [failure] = await redis.command("ZRANGE", "bell:parked", 0, 0)
            for page in ENDING:
                if page.method == "GET" and "{" not in page.path:
                    await browser.get(page.path, params={"q": "ada@example.com"})
            assert "standard-A" in (await browser.get("/console/search?q=ada@example.com")).text
            name = failure.decode().partition(":")[2].partition("/")[2] or failure.decode().partition(":")[2]
            form = {"ids": name, "do": "replay", "expected": "1"}
            started = await browser.post("/console/operations", form)
            assert started.headers["location"].startswith("/console/operations/"), started.text

    async def count_parked(redis: Redis) -> int:
        return int(await redis.command("ZCARD", "bell:parked"))

    with acuity_api() as url:
        configure(harness, url)
        harness.start_web()
        harness.start_worker()
        send_deliveries(harness)
        assert 2 == wait_until(lambda: run_with_redis(harness.redis_url, count_parked) == 2 and 2)
        run_with_redis(harness.redis_url, use_console)
        harness.inject_faults(down=True)
        harness.send("visit.created", "D", contact=ADA, time_scheduled=SOON)
        wait_until(lambda: harness.doorbell("visit", "standard-D").stdout.count("waiting"))
        problems_before = run_with_redis(harness.redis_url, expiry_problems)
        harness.clear_faults()
        wait_until(lambda: harness.visit("standard-D"))
        assert 0 == harness.doorbell("replay", "standard-A", "--recheck", "--yes").returncode
        assert harness.doorbell("audit").returncode in (0, 3)
        harness.doorbell("discard", "standard-B", "--yes")
        wait_until(lambda: not run_with_redis(harness.redis_url, lambda redis: redis.command("ZCARD", "bell:queued")))
        # The web process writes its counters every few seconds.
        wait_until(
            lambda: run_with_redis(
                harness.redis_url, lambda redis: redis.command("EXISTS", "bell:rejections:standard:unsigned")
            )
        )

    keys = [key.decode() for key in run_with_redis(harness.redis_url, lambda redis: redis.command("KEYS", "*"))]
    assert ([], []) == (problems_before, run_with_redis(harness.redis_url, expiry_problems))
    # The run must have written keys of nearly every kind.
    patterns = {kind.pattern for kind in KEY_KINDS for key in keys if fnmatchcase(key, kind.pattern)}
    assert {kind.pattern for kind in KEY_KINDS if ":lock" not in kind.pattern} - patterns <= NOT_WRITTEN


#: Kinds that this run does not write, because no token is exchanged, no record lists people, no alert is sent, no event is
#: foreign and no task crashes its worker; and kinds that do not exist any more at its end.
NOT_WRITTEN = {
    "bell:alone",
    "bell:token:*", "bell:record:*", "bell:alerts", "bell:circuits", "bell:circuit:*", "bell:outcomes:*",
    "bell:held-by-age:*", "bell:held:*", "bell:rate:*", "bell:retry-after:*", "bell:queued", "bell:running",
    "bell:waiting", "bell:queue:*", "arq:job:*", "bell:audit:*", "bell:operations:open", "bell:rejections:*:*",
    "bell:people:*", "bell:operation:*:results",
}  # fmt: skip


def test_no_channel_has_the_name_of_a_key() -> None:
    channels = {name for script in SCRIPTS.values() for name in re.findall(r"'PUBLISH', '([^']+)'", script.source)}

    assert {"bell:attempts"} == channels
    assert [None] == [kind_of(channel) for channel in channels]


@pytest.mark.parametrize("key", ["bell:nobody-knows", "bell:dedup:standard:x", "bell:visit:main/standard-A"])
async def test_a_key_without_an_expiry_is_reported(redis: Redis, key: str) -> None:
    await redis.command("HSET", key, "n", 1)

    assert [key] == [problem.partition(": ")[0] for problem in await expiry_problems(redis)]


async def test_old_deliveries_are_trimmed_from_the_lists_of_removed_hooks_too(redis: Redis) -> None:
    ledger = short_retention_ledger(redis, retention_ms=1_000)
    for number in range(25):
        await accept(ledger, hook="gone" if number % 5 else "standard")
    await asyncio.sleep(1.1)
    last = await accept(ledger)

    assert 25 == await trim_deliveries(ledger, limit=3)

    assert [last.delivery_id.encode()] == await redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)
    assert 0 == await redis.command("EXISTS", "bell:deliveries:gone")


async def test_the_lists_are_trimmed_by_one_worker_per_hour(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await trim_deliveries(ledger)
    await accept(ledger)
    await asyncio.sleep(0.1)

    assert 0 == await trim_deliveries(ledger)
    assert 3_595 < await redis.command("TTL", "bell:cleanup") <= 3_600


async def test_a_trim_step_is_limited(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    for _ in range(10):
        await accept(ledger)
    await asyncio.sleep(0.1)

    assert [4, 4, 2, 0] == [await ledger.trim("bell:deliveries:standard", limit=4) for _ in range(4)]


async def test_recent_deliveries_are_not_trimmed(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger)

    assert 0 == await trim_deliveries(ledger)
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_parked_tasks_do_not_expire(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")
    await ledger.complete(await start_run(ledger, "A"), parked())
    await asyncio.sleep(0.1)

    await trim_deliveries(ledger)

    assert ["event:" + odd.delivery_id, visit_task("A")] == sorted(await ledger.task_ids("parked"))
    assert -1 == await redis.command("PTTL", f"bell:delivery:{odd.delivery_id}")
    assert 1 == len((await ledger.load_task(visit_task("A"))).changes)


async def test_a_worker_trims_the_lists(harness: Harness, redis: Redis) -> None:
    await redis.command("ZADD", "bell:deliveries:gone", 1_000, "d-long-ago")
    await redis.command("SADD", "bell:hooks", "gone")
    harness.start_worker()

    for _ in range(1_500):
        if not await redis.command("EXISTS", "bell:deliveries:gone"):
            break
        await asyncio.sleep(0.02)

    assert 0 == await redis.command("EXISTS", "bell:deliveries:gone")


async def test_every_key_of_a_done_visit_expires(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")

    assert [] == await expiry_problems(redis)
