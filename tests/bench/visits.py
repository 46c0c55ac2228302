"""Queues visits without HTTP, writes applied ones, or makes only the calls of a worker. Other parts run it."""

import asyncio
import json
import sys
import time
from datetime import date, timedelta
from itertools import count

import uvloop

from app.ledger.ids import TaskId
from app.ledger.keys import VISITS_QUEUE
from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, DeliveryInfo, Lease, NewDelivery, Outcome
from app.ledger.redis import Redis, RedisAddress
from app.settings.environment import read_environment
from app.visits.client import VisitsClient, http_client
from app.webhooks.delivery import Delivery
from app.webhooks.translation import parse_event, translate_event
from tests.bench.deliveries import SECRET

CONCURRENCY = 50
TOKEN = "bench"


def contact(number: int) -> dict[str, str]:
    return {"email": f"p{number}@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}


def fields(number: int) -> dict[str, str]:
    """Return the fields of a visit on one of the next 28 days."""
    at = f"{date.today() + timedelta(days=1 + number % 28)}T10:00:00Z"
    return {"time_scheduled": at, "event_date": at}


async def make_calls(api_url: str, visits: int, seed: str) -> dict[str, float]:
    """Make the four calls of a first create for each visit. Return the seconds and the CPU time that it took."""
    http, numbers = http_client(), count()

    async def before_call() -> None:
        return None

    async def create_visits() -> None:
        api = VisitsClient(http, api_url, TOKEN, [], before_call)
        while (number := next(numbers)) < visits:
            await api.find_contacts(contact(number)["email"] + seed)
            created = await api.create_contact({**contact(number), "email": contact(number)["email"] + seed})
            await api.get_visit(f"standard-{seed}-{number}")
            await api.create_visit(created["id"], f"standard-{seed}-{number}", fields(number))
            api.calls.clear()

    started, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(create_visits() for _ in range(CONCURRENCY)))
    result = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_s}
    await http.aclose()
    return result


async def queue(redis_url: str, visits: int, seed: str, apply: bool = False) -> None:
    """Write deliveries directly to the ledger, as the webhook endpoint does. apply: also complete their tasks."""
    settings = read_environment({"REDIS_URL": redis_url, "HOOKS__STANDARD__SECRETS": SECRET})
    redis, hook = Redis(RedisAddress(redis_url)), settings.active_hooks["standard"]
    ledger = Ledger(redis, 30)

    async def accept(number: int) -> None:
        data = {"visit_id": f"{seed}-{number}", "contact": contact(number) | {"email": contact(number)["email"] + seed}}
        data["time_scheduled"] = fields(number)["time_scheduled"]
        raw = json.dumps({"type": "visit.created", "timestamp": "2026-03-01T09:00:00Z", "data": data}).encode()
        delivery = Delivery("standard", "standard", (), raw, await ledger.server_time())
        meaning = translate_event(hook.source, parse_event(hook.source, delivery))
        meta = DeliveryInfo("standard", "standard", int(delivery.received_at.timestamp() * 1000))
        await ledger.accept(NewDelivery(delivery, meta, meaning.changes, "main", dedup_id=None))
        if apply:
            await complete(ledger, TaskId.visit("main", f"standard-{seed}-{number}"), number)

    for start in range(0, visits, 500):
        await asyncio.gather(*(accept(number) for number in range(start, min(visits, start + 500))))
    if apply:
        await redis.command("DEL", VISITS_QUEUE)
    await redis.close()


async def complete(ledger: Ledger, task_id: TaskId, number: int) -> None:
    """Complete a task as after a first create."""
    lease = await ledger.lease(task_id)
    assert isinstance(lease, Lease)
    calls = [["GET /contacts", 200], ["POST /contacts", 201], ["GET /visits/{external_id}", 404], ["POST /visits", 201]]
    attempt = Attempt(int(time.time() * 1000), 31, "created", calls)
    remote = {task_id: {"contact_id": f"c{number}", **fields(number)}}
    start = fields(number)["time_scheduled"][:16]
    await ledger.complete(lease, Outcome(state="done", attempt=attempt, remote=remote, start=start))


if __name__ == "__main__":
    command, url, visits, seed = sys.argv[1:5]
    if command == "calls":
        print(json.dumps(uvloop.run(make_calls(url, int(visits), seed))))
    else:
        uvloop.run(queue(url, int(visits), seed, apply=command == "hold"))
