"""Parts of Doorbell beside the libraries that could replace them.

Each line has the CPU time of this process per call, and its ratio to Doorbell's ("ours"); docs/adr quotes the ratios.
Redis is the embedded Valkey. `standardwebhooks` is included if it is installed.
"""

import asyncio
import base64
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel

from app.demo.valkey import valkey
from app.ledger.redis import Redis, RedisAddress
from app.telemetry.counters import Counters
from app.telemetry.metric_names import REQUESTS
from app.webhooks.delivery import Delivery
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.signatures.scheme import VerificationContext
from tests.bench.deliveries import SECRET, standard

ROUNDS, CALLS, IN_FLIGHT = 5, 4_000, 32
STEP = (
    "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', 60) then redis.call('ZADD', 'queue', 1, ARGV[1]) end return 1"
)


async def redis_clients(url: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return functions that call the same small script 32 times concurrently, by client."""
    ours = Redis(RedisAddress(url))
    theirs = redis.asyncio.Redis.from_url(url)
    sha = await theirs.script_load(STEP)

    async def our_client() -> None:
        await asyncio.gather(*(ours.command("EVALSHA", sha, 1, f"a{i}", f"{i}") for i in range(IN_FLIGHT)))

    async def redis_py() -> None:
        await asyncio.gather(*(theirs.evalsha(sha, 1, f"b{i}", f"{i}") for i in range(IN_FLIGHT)))

    async def redis_py_pipeline() -> None:
        """Call in one pipeline, as if every caller waited for the others."""
        async with theirs.pipeline(transaction=False) as pipe:
            for i in range(IN_FLIGHT):
                pipe.evalsha(sha, 1, f"c{i}", f"{i}")
            await pipe.execute()

    return {"ours": our_client, "redis-py": redis_py, "redis-py, one pipeline": redis_py_pipeline}


class Contact(BaseModel):
    email: str
    first_name: str
    last_name: str


class Data(BaseModel):
    visit_id: str
    contact: Contact
    time_scheduled: datetime
    amount_collected: str
    date_cancelled: datetime | None


class Body(BaseModel):
    type: str
    timestamp: datetime
    data: Data


def payload_readers(raw: bytes) -> dict[str, Callable[[], Any]]:
    parsed = json.loads(raw)

    def ours() -> None:
        body = Payload(parsed)
        data = body.at("data")
        body.at("type").required_text(), body.at("timestamp").required_time(), data.at("visit_id").required_text()
        contact = data.at("contact")
        contact.at("email").text(), contact.at("first_name").text(), contact.at("last_name").text()
        data.at("time_scheduled").time(), data.at("amount_collected").text(), data.at("date_cancelled").time()

    return {"ours": ours, "pydantic": lambda: Body.model_validate(parsed)}


def signatures(delivery: Delivery) -> dict[str, Callable[[], Any]]:
    scheme, context = load_sources()["standard"].definition.signature, VerificationContext((SECRET,), time.time())
    candidates: dict[str, Callable[[], Any]] = {"ours": lambda: scheme.verify(delivery, context)}
    try:
        from standardwebhooks import Webhook  # type: ignore[import-not-found]
    except ImportError:
        return candidates
    headers = {name.decode(): value.decode() for name, value in delivery.headers}
    webhook = Webhook(base64.b64encode(base64.b64decode(SECRET.removeprefix("whsec_"))).decode())
    return candidates | {"standardwebhooks": lambda: webhook.verify(delivery.body, headers)}


def counters() -> dict[str, Callable[[], Any]]:
    ours, theirs = Counters(), Counter("requests", "requests", ["hook", "outcome"], registry=CollectorRegistry())
    return {
        "ours": lambda: ours.increment(REQUESTS, "standard", "accepted"),
        "prometheus_client": lambda: theirs.labels("standard", "accepted").inc(),
    }


def _delivery() -> tuple[Delivery, bytes]:
    head, _, raw = standard("/hooks/standard", 1, 1).partition(b"\r\n\r\n")
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    headers = tuple((name, value) for name, _, value in lines)
    return Delivery("standard", "standard", headers, raw, datetime.now(UTC)), raw


def _us(call: Callable[[], Any], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls * 1e6


async def _us_in_flight(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.process_time()
    for _ in range(CALLS // IN_FLIGHT):
        await call()
    return (time.process_time() - began) / CALLS * 1e6


def _show(title: str, rounds: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    for name, us in medians.items():
        print(f"{title:<12} {name:<24} {us:8.2f} us  {us / medians['ours']:5.2f} x ours", flush=True)


async def compare() -> None:
    with valkey() as url:
        clients = await redis_clients(url)
        rounds: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, call in clients.items():
                rounds[name].append(await _us_in_flight(call))
        _show("redis", rounds)
    delivery, raw = _delivery()
    parts = {"signature": signatures(delivery), "payload": payload_readers(raw), "counter": counters()}
    for title, candidates in parts.items():
        rounds = {name: [] for name in candidates}
        for _ in range(ROUNDS):
            for name, candidate in candidates.items():
                rounds[name].append(_us(candidate, CALLS))
        _show(title, rounds)


def main() -> None:
    asyncio.run(compare())


if __name__ == "__main__":
    main()
