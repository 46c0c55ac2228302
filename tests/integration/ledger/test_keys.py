"""What is kept, and until when: every key that Doorbell writes has a kind and an end."""

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


def run_of(url: str, step: Callable[[Redis], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        redis = Redis(RedisAddress(url))
        try:
            return await step(redis)
        finally:
            await redis.close()

    return asyncio.run(run())


async def without_an_end(redis: Redis) -> list[str]:
    """The keys that the table does not know, or that do not end as it says."""
    wrong = []
    for key in sorted(await redis.command("KEYS", "*")):
        name, left_ms = key.decode(), await redis.command("PTTL", key)
        kind = kind_of(name)
        if left_ms == -2:  # it went meanwhile
            continue
        if kind is None:
            wrong.append(f"{name}: of no kind")
        elif kind.expiry == "expires" and left_ms < 0:
            wrong.append(f"{name}: never expires")
        elif kind.expiry == "task" and left_ms < 0 and not await is_open(redis, name):
            wrong.append(f"{name}: done, and never expires")
        elif kind.expiry in ("members", "permanent") and left_ms >= 0:
            wrong.append(f"{name}: expires, although it should stay")
    return wrong


async def is_open(redis: Redis, name: str) -> bool:
    work = name.replace("bell:delivery:", "bell:event:")
    return bool(await redis.command("HEXISTS", work, "state"))


@contextmanager
def acuity() -> Iterator[str]:
    """The tool's API: one record, whatever is asked for."""
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
async def at_the_desk(harness: Harness) -> AsyncIterator[Browser]:
    app = create_app(read_environment(harness.env))
    async with app.router.lifespan_context(app):
        browser = Browser(app)
        await browser.log_in("a wrong password")
        await browser.log_in()
        yield browser


ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
SOON = "2031-03-14T16:00:00Z"


def ring_everything(harness: Harness) -> None:
    """Visits made, moved and cancelled, a repeat, one ignored, one not understood, one without a contact, a thin event; and
    who is not let in."""
    raw = standard_body("visit.created", "A", contact=ADA, time_scheduled=SOON)
    headers = {**sign_standard(raw), "x-request-id": "request-1"}
    assert [202, 200] == [harness.post(raw, headers).status_code for _ in range(2)]
    wait_until(lambda: harness.visit("standard-A"))
    harness.send("visit.updated", "A", amount_collected="245.00")
    harness.send("visit.cancelled", "A")
    harness.send("visit.created", "B", contact={"first_name": "Grace", "phone": "+15550100002"}, time_scheduled=SOON)
    odd = standard_body("visit.created", "C", time_scheduled="at noon")
    assert 202 == harness.post(odd, sign_standard(odd)).status_code
    other = json.dumps({"type": "invoice.paid", "timestamp": "2026-03-14T17:32:05Z", "data": {}}).encode()
    assert "ignored" in harness.post(other, sign_standard(other)).text
    rang = harness.doorbell("ring", "acuity", "1", "--to", f"{harness.web_server.url}/hooks/acuity")
    assert "202" in rang.stdout + rang.stderr, rang
    assert [401, 404] == [harness.post(raw, {}, hook).status_code for hook in ("standard", "nobody")]
    wait_until(lambda: harness.visit("acuity-123456789"))


def test_every_key_is_of_a_known_kind_and_has_an_end(harness: Harness) -> None:
    async def at_work(redis: Redis) -> None:
        """The desk: every page, a search, a reveal, an operation."""
        async with at_the_desk(harness) as browser:
            [failure] = await redis.command("ZRANGE", "bell:parked", 0, 0)
            for page in ENDING:
                if page.method == "GET" and "{" not in page.path:
                    await browser.get(page.path, params={"q": "ada@example.com"})
            assert "standard-A" in (await browser.get("/console/search?q=ada@example.com")).text
            name = failure.decode().partition(":")[2].partition("/")[2] or failure.decode().partition(":")[2]
            form = {"ids": name, "do": "replay", "expected": "1"}
            started = await browser.post("/console/operations", form)
            assert started.headers["location"].startswith("/console/operations/"), started.text

    async def parked_ones(redis: Redis) -> int:
        return int(await redis.command("ZCARD", "bell:parked"))

    with acuity() as url:
        configure(harness, url)
        harness.start_web()
        harness.start_worker()
        ring_everything(harness)
        assert 2 == wait_until(lambda: run_of(harness.redis_url, parked_ones) == 2 and 2)
        run_of(harness.redis_url, at_work)
        harness.inject_faults(down=True)
        harness.send("visit.created", "D", contact=ADA, time_scheduled=SOON)
        wait_until(lambda: harness.doorbell("visit", "standard-D").stdout.count("waiting"))
        during = run_of(harness.redis_url, without_an_end)
        harness.clear_faults()
        wait_until(lambda: harness.visit("standard-D"))
        assert 0 == harness.doorbell("replay", "standard-A", "--recheck", "--yes").returncode
        assert harness.doorbell("audit").returncode in (0, 3)
        harness.doorbell("discard", "standard-B", "--yes")
        wait_until(lambda: not run_of(harness.redis_url, lambda redis: redis.command("ZCARD", "bell:queued")))
        # The door writes its counts every few seconds.
        wait_until(
            lambda: run_of(
                harness.redis_url, lambda redis: redis.command("EXISTS", "bell:rejections:standard:unsigned")
            )
        )

    keys = [key.decode() for key in run_of(harness.redis_url, lambda redis: redis.command("KEYS", "*"))]
    assert ([], []) == (during, run_of(harness.redis_url, without_an_end))
    # It looked at what it should: most of what the table knows was there.
    seen = {kind.pattern for kind in KEY_KINDS for key in keys if fnmatchcase(key, kind.pattern)}
    assert {kind.pattern for kind in KEY_KINDS if ":lock" not in kind.pattern} - seen <= UNSEEN


#: Kinds that this run does not meet: no token is exchanged, no record lists people, no alert is sent, no event is foreign,
#: no task kills its worker; and kinds that do not last until its end.
UNSEEN = {
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


@pytest.mark.parametrize("wrong", ["bell:nobody-knows", "bell:dedup:standard:x", "bell:visit:main/standard-A"])
async def test_a_key_without_an_end_would_be_seen(redis: Redis, wrong: str) -> None:
    await redis.command("HSET", wrong, "n", 1)

    assert [wrong] == [told.partition(": ")[0] for told in await without_an_end(redis)]


async def test_old_deliveries_leave_the_lists_also_of_hooks_that_are_no_more(redis: Redis) -> None:
    ledger = short_retention_ledger(redis, retention_ms=1_000)
    for number in range(25):
        await accept(ledger, hook="gone" if number % 5 else "standard")
    await asyncio.sleep(1.1)
    last = await accept(ledger)

    assert 25 == await trim_deliveries(ledger, limit=3)

    assert [last.delivery_id.encode()] == await redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)
    assert 0 == await redis.command("EXISTS", "bell:deliveries:gone")


async def test_the_lists_are_tidied_by_one_worker_an_hour(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await trim_deliveries(ledger)
    await accept(ledger)
    await asyncio.sleep(0.1)

    assert 0 == await trim_deliveries(ledger)
    assert 3_595 < await redis.command("TTL", "bell:cleanup") <= 3_600


async def test_a_step_of_the_job_is_bounded(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    for _ in range(10):
        await accept(ledger)
    await asyncio.sleep(0.1)

    assert [4, 4, 2, 0] == [await ledger.trim("bell:deliveries:standard", limit=4) for _ in range(4)]


async def test_what_is_young_stays_in_the_lists(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger)

    assert 0 == await trim_deliveries(ledger)
    assert 1 == await redis.command("ZCARD", "bell:deliveries:standard")


async def test_what_is_parked_longer_than_the_retention_stays(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")
    await ledger.complete(await start_run(ledger, "A"), parked())
    await asyncio.sleep(0.1)

    await trim_deliveries(ledger)

    assert ["event:" + odd.delivery_id, visit_task("A")] == sorted(await ledger.task_ids("parked"))
    assert -1 == await redis.command("PTTL", f"bell:delivery:{odd.delivery_id}")
    assert 1 == len((await ledger.load_task(visit_task("A"))).changes)


async def test_a_worker_tidies(harness: Harness, redis: Redis) -> None:
    await redis.command("ZADD", "bell:deliveries:gone", 1_000, "d-long-ago")
    await redis.command("SADD", "bell:hooks", "gone")
    harness.start_worker()

    for _ in range(1_500):
        if not await redis.command("EXISTS", "bell:deliveries:gone"):
            break
        await asyncio.sleep(0.02)

    assert 0 == await redis.command("EXISTS", "bell:deliveries:gone")


async def test_a_done_visit_leaves_nothing_but_what_expires(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")

    assert [] == await without_an_end(redis)
