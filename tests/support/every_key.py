"""A harness with two sources, deliveries of every result, and checks over all keys of Redis."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.ledger.ids import delivery_id_of
from app.ledger.keys import kind_of
from app.ledger.redis import Redis, RedisAddress
from app.webhooks.registry import load_specimens
from tests.support.console import HASHES, OPERATORS
from tests.support.harness import Harness, sign_standard, standard_body, wait_until

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
    if name.startswith("bell:delivery:"):
        head, _, _ = (await redis.command("GET", name)).partition(b"\n")
        name = f"bell:event:{delivery_id_of(name, json.loads(head)['a'])}"
    return bool(await redis.command("HEXISTS", name, "state"))


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
