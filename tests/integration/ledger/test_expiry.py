"""Expiry: only tasks that are done or discarded expire."""

import asyncio
from typing import Any

import pytest

from app.ledger.ids import delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import Lease, Outcome
from app.ledger.redis import Redis
from tests.support.ledger import (
    accept,
    all_keys,
    attempt,
    change,
    complete_run,
    short_retention_ledger,
    start_run,
    visit_task,
)

DAY_MS = 86_400_000


async def test_a_done_visit_expires_completely_after_the_retention(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    for key in ("bell:queue:visits", *(await redis.command("KEYS", "arq:*"))):
        await redis.command("DEL", key)
    await complete_run(ledger, "A")

    await asyncio.sleep(0.1)

    permanent = (b"bell:deliveries:", b"bell:hooks", b"bell:last-done")
    assert set() == {key for key in await all_keys(redis) if not key.startswith(permanent)}


async def test_a_discarded_visit_expires_completely_after_the_retention(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await ledger.discard(visit_task("A"))

    await asyncio.sleep(0.1)
    await ledger.requeue_due()

    assert [] == await ledger.task_ids("discarded")


async def delete_expiring_keys(redis: Redis) -> None:
    """Delete every key that has an expiry, as if the retention had passed."""
    for key in await redis.command("KEYS", "*"):
        if await redis.command("PTTL", key) >= 0:
            await redis.command("DEL", key)


@pytest.mark.parametrize("state", ["parked", "waiting", "held"])
async def test_pending_changes_under_any_alias_do_not_expire(ledger: Ledger, redis: Redis, state: Any) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    last = await accept(ledger, change("B"))
    lease = await start_run(ledger, "B")
    await ledger.complete(lease, Outcome(state=state, attempt=attempt(), retry_in_s=60, failed_attempts=1))

    await delete_expiring_keys(redis)

    assert [visit_task("A")] == await ledger.task_ids("held:main" if state == "held" else state)  # type: ignore[arg-type]
    await ledger.replay(visit_task("A"))
    origins = [origins.origin for task in (await start_run(ledger, "A")).tasks for origins in task.recorded_changes()]
    assert f"{last.delivery_id}.0" in origins
    assert 3 == len(origins)


async def test_a_change_under_an_alias_is_applied_after_the_primary_expired(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    last = await accept(ledger, change("B"))

    await delete_expiring_keys(redis)

    lease = await start_run(ledger, "B")
    assert f"{last.delivery_id}.0" in [change.origin for task in lease.tasks for change in task.recorded_changes()]


@pytest.mark.parametrize("next_step", ["applied", "discarded"])
async def test_a_visit_still_runs_after_redis_lost_one_of_its_ids(ledger: Ledger, redis: Redis, next_step: str) -> None:
    # The cause may be an eviction policy, or a DEL by an operator.
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    await redis.command("DEL", f"bell:{visit_task('A')}")
    await accept(ledger, change("B"))

    if next_step == "discarded":
        assert 1 == await ledger.discard(visit_task("B"))
    else:
        await complete_run(ledger, "B")

    assert [] == await ledger.task_ids("queued")
    assert ["nothing", "nothing"] == [await ledger.lease(visit_task(visit)) for visit in "AB"]


async def test_a_new_change_of_a_done_visit_stops_the_expiry_of_all_its_changes(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    await accept(ledger, change("A"))

    await delete_expiring_keys(redis)

    assert 2 == len((await start_run(ledger, "A")).primary.recorded_changes())


async def test_a_delivery_of_changes_expires_a_retention_after_it_arrived(ledger: Ledger, redis: Redis) -> None:
    delivery = await accept(ledger, change("A"))
    await start_run(ledger, "A")

    ttl_ms = await redis.command("PTTL", delivery_key(delivery.delivery_id))

    assert 0 <= 30 * DAY_MS - ttl_ms < 60_000


async def test_the_delivery_of_an_event_expires_a_retention_after_the_event_is_done(
    ledger: Ledger, redis: Redis
) -> None:
    delivery = await accept(ledger, event_state="queued")
    key = delivery_key(delivery.delivery_id)
    lease = await ledger.lease(f"event:{delivery.delivery_id}")
    assert isinstance(lease, Lease)

    before = await redis.command("PTTL", key)
    await ledger.record_changes(lease, "standard", "main", [], attempt())

    assert -1 == before
    assert 0 <= 30 * DAY_MS - await redis.command("PTTL", key) < 60_000
