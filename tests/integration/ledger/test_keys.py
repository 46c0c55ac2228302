"""Retention: every key that Doorbell writes has a kind and an expiry."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase

import pytest

from app.ledger.cleanup import trim_deliveries
from app.ledger.ids import delivery_key
from app.ledger.keys import KEY_KINDS, kind_of
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.ledger.scripts import SOURCES, load
from app.settings.environment import read_environment
from app.web import create_app
from tests.support.console import FINITE_ROUTES, Browser
from tests.support.every_key import (
    ADA,
    SOON,
    acuity_api,
    configure,
    expiry_problems,
    run_with_redis,
    send_deliveries,
)
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, complete_run, parked, short_retention_ledger, start_run, visit_task


@asynccontextmanager
async def console_browser(harness: Harness) -> AsyncIterator[Browser]:
    app = create_app(read_environment(harness.env))
    async with app.router.lifespan_context(app):
        browser = Browser(app)
        await browser.log_in("a wrong password")
        await browser.log_in()
        yield browser


def test_every_key_has_a_kind_and_expires(harness: Harness) -> None:
    async def use_console(redis: Redis) -> None:
        """Open every page of the console, search, and start an operation."""
        async with console_browser(harness) as browser:
            [failure] = await redis.command("ZRANGE", "bell:state:parked", 0, 0)
            for page in FINITE_ROUTES:
                if page.method == "GET" and "{" not in page.path:
                    await browser.get(page.path, params={"q": "ada@example.com"})
            assert "standard-A" in (await browser.get("/console/search?q=ada@example.com")).text
            name = failure.decode().partition(":")[2].partition("/")[2] or failure.decode().partition(":")[2]
            form = {"ids": name, "do": "replay", "expected": "1"}
            started = await browser.post("/console/operations", form)
            assert started.headers["location"].startswith("/console/operations/"), started.text

    async def count_parked(redis: Redis) -> int:
        return int(await redis.command("ZCARD", "bell:state:parked"))

    with acuity_api() as url:
        configure(harness, url)
        harness.start_web()
        harness.start_worker()
        send_deliveries(harness)
        assert 2 == wait_until(lambda: run_with_redis(harness.redis_url, count_parked) == 2 and 2)
        run_with_redis(harness.redis_url, use_console)
        harness.inject_faults(down=True)
        harness.send("visit.created", "D", contact=ADA, time_scheduled=SOON)
        wait_until(lambda: harness.doorbell("visit", "standard-D", "--json").stdout.count("waiting"))
        problems_before = run_with_redis(harness.redis_url, expiry_problems)
        harness.clear_faults()
        wait_until(lambda: harness.visit("standard-D"))
        assert 0 == harness.doorbell("replay", "standard-A", "--recheck", "--yes").returncode
        assert harness.doorbell("audit").returncode in (0, 3)
        harness.doorbell("discard", "standard-B", "--yes")
        wait_until(
            lambda: not run_with_redis(harness.redis_url, lambda redis: redis.command("ZCARD", "bell:state:queued"))
        )
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


#: Kinds that this run does not write, because no token is exchanged, nobody logs in at a tool, no record lists people, no
#: alert is sent, no hook is stored or listened to, no account moves, nothing is caught up with, no proxy names a user, no
#: event is foreign, no payload changes, no acknowledgement waits for the disk, and no task crashes its worker; and kinds
#: that do not exist any more at its end.
NOT_WRITTEN = {
    "bell:alone", "bell:dedup:*", "bell:token:*", "bell:token:*:rejected", "bell:record:*",
    "bell:alerts", "bell:circuits", "bell:circuit:*",
    "bell:outcomes:*",
    "bell:held-by-age:*",
    "bell:state:held:*", "bell:rate:*", "bell:retry-after:*", "bell:state:queued", "bell:state:running",
    "bell:state:waiting", "bell:queue:*", "bell:audit:*", "bell:operations:open", "bell:rejections:*:*",
    "bell:payload:*", "bell:payload-changes", "bell:payload-cursors",
    "bell:arrivals:*", "bell:catch-up:*", "bell:catch-ups", "bell:listening", "bell:oauth:*",
    "bell:loss", "bell:move:*", "bell:move-arrivals:*", "bell:move-hook:*",
    "bell:people:*", "bell:proxy-login:*", "bell:operation:*:results", "bell:shard-probe:*",
    "bell:stored-hooks", "bell:stored-hooks:version", "bell:write-mark",
}  # fmt: skip


def test_no_channel_has_the_name_of_a_key() -> None:
    channels = {
        name for script in load(SOURCES).values() for name in re.findall(r"'PUBLISH', '([^']+)'", script.source)
    }

    assert {"bell:attempts"} == channels
    assert [None] == [kind_of(channel) for channel in channels]


@pytest.mark.parametrize("key", ["bell:nobody-knows", "bell:dedup:standard:x", "bell:visit:main/standard-A"])
async def test_a_key_without_an_expiry_is_reported(redis: Redis, key: str) -> None:
    await redis.command("HSET", key, "n", 1)

    assert [key] == [problem.partition(": ")[0] for problem in await expiry_problems(redis)]


async def test_old_deliveries_are_trimmed_from_the_lists_of_removed_hooks_too(redis: Redis) -> None:
    ledger = short_retention_ledger(redis, retention_ms=1_000)
    for number in range(25):
        await accept(ledger, hook="removed" if number % 5 else "standard")
    await asyncio.sleep(1.1)
    last = await accept(ledger)

    assert 25 == await trim_deliveries(ledger, limit=3)

    assert [last.delivery_id.encode()] == await redis.command("ZRANGE", "bell:deliveries:standard", 0, -1)
    assert 0 == await redis.command("EXISTS", "bell:deliveries:removed")


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
    assert -1 == await redis.command("PTTL", delivery_key(odd.delivery_id))
    assert 1 == len((await ledger.load_task(visit_task("A"))).changes)


async def test_a_worker_trims_the_lists(harness: Harness, redis: Redis) -> None:
    await redis.command("ZADD", "bell:deliveries:removed", 1_000, "d-long-ago")
    await redis.command("SADD", "bell:hooks", "removed")
    harness.start_worker()

    for _ in range(1_500):
        if not await redis.command("EXISTS", "bell:deliveries:removed"):
            break
        await asyncio.sleep(0.02)

    assert 0 == await redis.command("EXISTS", "bell:deliveries:removed")


async def test_every_key_of_a_done_visit_expires(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")

    assert [] == await expiry_problems(redis)
