"""A synchronous client of the ledger, for tests of processes."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, NewDelivery, Task
from app.ledger.redis import Redis, RedisAddress
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
from tests.support.harness import Harness

#: Personal data that must appear in no log.
CANARY_CONTACT = {
    "email": "canary.ada@example.com",
    "first_name": "Canaryada",
    "last_name": "Canarylace",
    "phone": "+15550142424",
}


@dataclass
class LedgerClient:
    """A synchronous client of the ledger, for tests that need no web process."""

    url: str
    body_keys: Sequence[str] = ()

    def run(self, step: Any) -> Any:
        """Return the result of `await step(ledger)`."""

        async def connect_and_run() -> Any:
            redis = Redis(RedisAddress(self.url))
            try:
                return await step(Ledger(redis, 30, self.body_keys))
            finally:
                await redis.close()

        return asyncio.run(connect_and_run())

    def accept(self, *changes: VisitChange) -> None:
        """Accept each change with a separate delivery."""

        async def step(ledger: Ledger) -> None:
            for change in changes:
                delivery = Delivery("standard", "standard", (), uuid.uuid4().bytes, datetime.now(UTC))
                meta = DeliveryInfo("standard", "standard", int(time.time() * 1000))
                await ledger.accept(NewDelivery(delivery, meta, [change], "main", dedup_id=None))

        self.run(step)

    def member(self, visit_id: str) -> Task:
        return self.run(lambda ledger: ledger.load_task(f"visit:main/standard-{visit_id}"))  # type: ignore[no-any-return]

    def tasks(self, state: Any) -> list[str]:
        return self.run(lambda ledger: ledger.task_ids(state))  # type: ignore[no-any-return]

    def command(self, *command: Any) -> Any:
        return self.run(lambda ledger: ledger.redis.command(*command))

    def is_done(self) -> bool:
        return self.run(has_no_work)  # type: ignore[no-any-return]


async def has_no_work(ledger: Ledger) -> bool:
    """Return whether nothing is queued, running, waiting or held, and no queue has a job."""
    keys = (
        "bell:state:queued",
        "bell:state:running",
        "bell:state:waiting",
        "bell:state:held:main",
        "bell:queue:visits",
        "bell:queue:events",
        "bell:queue:replays",
    )
    return not any(await asyncio.gather(*(ledger.redis.command("ZCARD", key) for key in keys)))


def end_leases(client: LedgerClient) -> None:
    """Move leases a minute back, and delete locks."""
    for key in ("bell:state:running", "bell:queue:visits"):
        for name in client.command("ZRANGE", key, 0, -1):
            client.command("ZINCRBY", key, -60_000, name)
    for lock in client.command("KEYS", "bell:contact:*:lock"):
        client.command("DEL", lock)


def booked(visit_id: str, **fields: Any) -> VisitChange:
    fields = {"contact": Contact(**CANARY_CONTACT), "time_scheduled": datetime(2026, 3, 14, 9, tzinfo=UTC)} | fields
    return VisitChange(action="create", visit_id=visit_id, version=1, **fields)


def all_visits(harness: Harness) -> list[str]:
    """Return the external_ids of all pages, sorted."""
    first = harness.get_from_api("/visits?limit=100")
    pages = [
        first,
        *(
            harness.get_from_api(f"/visits?limit=100&page={page}")
            for page in range(2, first["pagination"]["total_pages"] + 1)
        ),
    ]
    return sorted(visit["external_id"] for page in pages for visit in page["visits"])
