"""Nothing that is not done expires."""

import asyncio
from typing import Any

import pytest

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


async def test_a_done_visit_is_forgotten_after_the_retention_and_leaves_nothing(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await redis.command("DEL", "bell:queue:visits", *(await redis.command("KEYS", "arq:*")))
    await complete_run(ledger, "A")

    await asyncio.sleep(0.1)

    kept = (b"bell:dedup:", b"bell:deliveries:", b"bell:hooks", b"bell:last-done")
    assert set() == {key for key in await all_keys(redis) if not key.startswith(kept)}


async def test_a_discarded_visit_is_forgotten_after_the_retention_and_leaves_nothing(redis: Redis) -> None:
    ledger = short_retention_ledger(redis)
    await accept(ledger, change("A"))
    await ledger.discard(visit_task("A"))

    await asyncio.sleep(0.1)
    await ledger.requeue_due()

    assert [] == await ledger.task_ids("discarded")


async def everything_ends_that_can(redis: Redis) -> None:
    """A retention passes in which nothing happens."""
    for key in await redis.command("KEYS", "*"):
        if await redis.command("PTTL", key) >= 0:
            await redis.command("DEL", key)


@pytest.mark.parametrize("ends", ["parked", "waiting", "held"])
async def test_what_waits_under_any_id_of_a_visit_outlives_the_retention(
    ledger: Ledger, redis: Redis, ends: Any
) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    last = await accept(ledger, change("B"))
    hold = await start_run(ledger, "B")
    await ledger.complete(hold, Outcome(state=ends, attempt=attempt(), retry_in_s=60, failed_attempts=1))

    await everything_ends_that_can(redis)

    assert [visit_task("A")] == await ledger.task_ids("held:main" if ends == "held" else ends)  # type: ignore[arg-type]
    await ledger.replay(visit_task("A"))
    said = [said.origin for member in (await start_run(ledger, "A")).tasks for said in member.recorded_changes()]
    assert f"{last.delivery_id}.0" in said
    assert 3 == len(said)


async def test_a_change_under_a_later_id_is_worked_on_although_the_first_id_is_forgotten(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    last = await accept(ledger, change("B"))

    await everything_ends_that_can(redis)

    hold = await start_run(ledger, "B")
    assert f"{last.delivery_id}.0" in [said.origin for member in hold.tasks for said in member.recorded_changes()]


@pytest.mark.parametrize("then", ["worked on", "discarded"])
async def test_the_ids_that_redis_kept_are_enough_where_it_dropped_one_of_a_visit(
    ledger: Ledger, redis: Redis, then: str
) -> None:
    # An eviction policy does that, or an operator's DEL.
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    await redis.command("DEL", f"bell:{visit_task('A')}")
    await accept(ledger, change("B"))

    if then == "discarded":
        assert 1 == await ledger.discard(visit_task("B"))
    else:
        await complete_run(ledger, "B")

    assert [] == await ledger.task_ids("queued")
    assert ["nothing", "nothing"] == [await ledger.lease(visit_task(visit)) for visit in "AB"]


async def test_a_change_that_lands_on_a_done_visit_keeps_all_of_its_facts_from_expiring(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    await accept(ledger, change("A"))

    await everything_ends_that_can(redis)

    assert 2 == len((await start_run(ledger, "A")).primary.recorded_changes())


async def test_a_delivery_of_changes_expires_a_retention_after_it_arrived(ledger: Ledger, redis: Redis) -> None:
    delivery = await accept(ledger, change("A"))
    await start_run(ledger, "A")

    left_ms = await redis.command("PTTL", f"bell:delivery:{delivery.delivery_id}")

    assert 0 <= 30 * DAY_MS - left_ms < 60_000


async def test_a_delivery_that_is_an_event_expires_a_retention_after_it_was_done(ledger: Ledger, redis: Redis) -> None:
    delivery = await accept(ledger, event_state="queued")
    key = f"bell:delivery:{delivery.delivery_id}"
    lease = await ledger.lease(f"event:{delivery.delivery_id}")
    assert isinstance(lease, Lease)

    before = await redis.command("PTTL", key)
    await ledger.record_changes(lease, "standard", "main", [], attempt())

    assert -1 == before
    assert 0 <= 30 * DAY_MS - await redis.command("PTTL", key) < 60_000
