"""The time of every page of the console with 100,000 deliveries, 5,000 failures and 10,000 activities.

It writes them as the web process and the worker would, then requests every page and search over HTTP.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import zstandard

from app.demo.valkey import free_port, valkey
from app.ledger import buckets
from app.ledger.ids import TaskId, delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, DeliveryInfo
from app.ledger.redis import Redis, RedisAddress
from app.ledger.remote import encode_remote
from app.operators.search_index import index
from app.settings.model import hash_password
from app.visits.change import Contact

DELIVERIES, FAILURES, ACTIVITIES, ROUNDS = 100_000, 5_000, 10_000, 7
REASONS = ("contact_unknown", "POST /visits: 422", "time_unknown", "bug", "credentials_missing: HOOKS__ACUITY")
KEY, PASSWORD = "key-of-the-bench", "operate"
DAY_MS = 86_400_000
COMPRESSOR = zstandard.ZstdCompressor(level=1)


async def fill(url: str) -> dict[str, str]:
    """Write a month of deliveries, of which one in twenty failed. Return ids for the pages."""
    redis = Redis(RedisAddress(url), 30)
    now, pending = int(time.time() * 1000), []
    names: dict[str, str] = {}
    for number in range(DELIVERIES):
        at = now - (DELIVERIES - number) * (30 * DAY_MS // DELIVERIES)
        pending += _delivery(redis, number, at, names)
        if len(pending) > 4_000:
            await asyncio.gather(*pending)
            pending = []
    await asyncio.gather(*pending)
    ledger = Ledger(redis, 30)
    for start in range(0, ACTIVITIES, 1_000):
        visits = (f"calendly-V-{number}" for number in range(start, start + 1_000))
        await asyncio.gather(*(_activity(ledger, visit) for visit in visits))
    contact = Contact(email="ada@example.com", phone="+15550100001")
    for number in range(500):
        await index(redis, TaskId.visit("main", f"standard-V-{number}"), contact, KEY, DAY_MS)
    await redis.close()
    return names


async def _activity(ledger: Ledger, visit: str) -> None:
    await ledger.record_activity("ada", "operator", "revealed visit", visit, affected=[TaskId.visit("main", visit)])


def _delivery(redis: Redis, number: int, at: int, names: dict[str, str]) -> list[Any]:
    failed = number % (DELIVERIES // FAILURES) == 0
    id, hook = f"d{at:011x}{number:010x}", ("standard", "calendly")[number % 2]
    name = f"{hook}-V-{number}"
    task_id = f"visit:main/{name}"
    info = DeliveryInfo(
        hook, hook, at, event_name="visit.created", request_id=f"req-{number}", task_ids=[TaskId.visit("main", name)]
    )
    body = orjson.dumps(
        {"type": "visit.created", "data": {"visit_id": f"V-{number}", "contact": {"email": "a@example.com"}}}
    )
    record = info.encode() + b"\n" + COMPRESSOR.compress(body)
    starts = datetime.fromtimestamp(at / 1000 + 86_400, UTC).strftime("%Y-%m-%dT%H:%M")
    change = {
        "a": "create",
        "o": at * 1000,
        "f": {"s": f"{starts}:00Z"},
        "c": {"email": "a@example.com"},
    }
    fields: dict[str, Any] = {
        "changes": 1,
        "applied": 0 if failed else 1,
        f"change:{id}.0": b"1 " + orjson.dumps(change),
    }
    fields |= {
        "attempt:1": Attempt(at, 31, "created", [["POST /visits", 201]]).encode(),
        "remote": encode_remote({"id": number, "time_scheduled": f"{starts}:00Z", "event_date": f"{starts}:00Z"}),
    }
    commands = [
        redis.command("SET", delivery_key(id), record),
        redis.command("ZADD", f"bell:deliveries:{hook}", at, id),
        buckets.add(redis, buckets.REQUESTS, [(buckets.digest_of(f"req-{number}"), id)], 30 * DAY_MS),
        redis.command("RPUSH", f"bell:visit-day:{starts[:10]}", f"{starts[11:]} main/{name}"),
        redis.command("ZADD", "bell:visit-days", starts[:10].replace("-", ""), starts[:10]),
    ]
    if failed:
        fields |= {"state": "parked", "reason": REASONS[number // 20 % len(REASONS)], "pending_since": at}
        commands.append(redis.command("ZADD", "bell:state:parked", at, task_id))
    names |= {"delivery": id, "visit": name, "request": f"req-{number}"}
    if failed:
        names["failure"] = name
    commands.append(redis.command("HSET", f"bell:{task_id}", *(part for pair in fields.items() for part in pair)))
    return commands


def pages(names: dict[str, str]) -> dict[str, str]:
    return {
        "overview": "/console",
        "failures": "/console/failures",
        "failures of one reason": "/console/failures?reason=time_unknown",
        "failures of one source": "/console/failures?source=calendly&reason=bug",
        "failures, no match": "/console/failures?reason=no+such+reason",
        "plan of all": "/console/plan?do=replay&state=parked",
        "plan of one reason": "/console/plan?do=replay&state=parked&reason=time_unknown",
        "plan of a rare source": "/console/plan?do=replay&state=parked&reason=bug&source=calendly",
        "deliveries": "/console/deliveries",
        "deliveries of a hook": "/console/deliveries?hook=calendly",
        "deliveries, parked": "/console/deliveries?state=parked",
        "deliveries, parked, of a hook": "/console/deliveries?state=parked&hook=calendly",
        "deliveries, parked, of no hook": "/console/deliveries?state=parked&hook=none",
        "deliveries, applied": "/console/deliveries?state=applied",
        "deliveries, ignored (none)": "/console/deliveries?state=ignored",
        "deliveries, superseded (none)": "/console/deliveries?state=superseded",
        "deliveries, a page far back": f"/console/deliveries?cursor={int(time.time() * 1000) - 20 * DAY_MS}_",
        "delivery": f"/console/deliveries/{names['delivery']}",
        "visit": f"/console/visits/{names['visit']}",
        "visits": "/console/visits",
        "visits of all days": "/console/visits?when=any",
        "visits, parked": "/console/visits?when=any&state=parked",
        "visits, discarded (none)": "/console/visits?when=any&state=discarded",
        "visits of 250 or more (none)": "/console/visits?when=any&amount=250",
        "visits of a source": "/console/visits?when=any&source=calendly&cancelled=no",
        "rejections": "/console/rejections",
        "sources": "/console/sources",
        "source": "/console/sources/standard",
        "workers": "/console/workers",
        "operations": "/console/operations",
        "activity": "/console/activity",
        "activity of a visit": f"/console/activity?id={names['visit']}",
        "activity of a user (none)": "/console/activity?actor=nobody",
        "settings": "/console/settings",
        "search: delivery": f"/console/search?q={names['delivery']}",
        "search: visit": f"/console/search?q={names['visit']}",
        "search: the tool's id": "/console/search?q=V-4711",
        "search: request": f"/console/search?q={names['request']}",
        "search: e-mail": "/console/search?q=ada@example.com",
        "search: phone": "/console/search?q=555-010-0001",
        "search: a name": "/console/search?q=Lovelace",
        "search: the beginning of an id": "/console/search?q=standard-V-47",
        "search: nothing": "/console/search?q=nobody",
    }


def main() -> None:
    with valkey() as url:
        began = time.monotonic()
        names = asyncio.run(fill(url))
        print(f"{DELIVERIES:,} deliveries, {FAILURES:,} failures, written in {time.monotonic() - began:.0f} s")
        env = {
            **os.environ,
            "REDIS_URL": url,
            "VISITS_API_TOKEN": "bench",
            "HOOKS__STANDARD__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "HOOKS__CALENDLY__SECRETS": "secret-of-the-bench",
            "SECRET_KEY": KEY,
            "CONSOLE_PASSWORD_HASH": hash_password(PASSWORD),
        }
        port = free_port()
        web = subprocess.Popen(
            [sys.executable, "-m", "app", "web", "--port", str(port)], env=env, stdout=subprocess.DEVNULL
        )
        try:
            slowest = measure(f"http://127.0.0.1:{port}", names)
        finally:
            web.terminate()
            web.wait()
    print(f"slowest median: {slowest:.0f} ms")
    sys.exit(slowest >= 300)


def measure(url: str, names: dict[str, str]) -> float:
    """Print the times of each page. Return the slowest median in ms."""
    with httpx.Client(base_url=url, timeout=30, headers={"origin": url}) as http:
        cookie = log_in(http)
        slowest = 0.0
        for name, path in pages(names).items():
            times_ms, statuses = [], Counter[int]()
            for _ in range(ROUNDS):
                started = time.perf_counter()
                response = http.get(path, headers={"cookie": cookie})
                times_ms.append((time.perf_counter() - started) * 1000)
                statuses[response.status_code] += 1
            print(f"{name:32} {statistics.median(times_ms):6.0f} ms, at most {max(times_ms):6.0f}   {dict(statuses)}")
            slowest = max(slowest, statistics.median(times_ms))
        return slowest


def log_in(http: httpx.Client) -> str:
    for _ in range(100):
        try:
            page = http.get("/console/login").text
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    token = page.partition('name="token" value="')[2].partition('"')[0]
    response = http.post("/console/login", data={"password": PASSWORD, "token": token})
    return response.headers["set-cookie"].partition(";")[0]


if __name__ == "__main__":
    main()
