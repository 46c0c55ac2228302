"""Leases: one worker per task."""

import asyncio
import time
from typing import Any

import pytest

from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import (
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
)
from app.ledger.redis import HeldLease, Redis, RedisAddress, RedisUnavailable
from app.ledger.scripts import Call
from tests.support.ledger import (
    accept,
    all_keys,
    attempt,
    backdate,
    change,
    complete_run,
    done,
    jobs,
    parked,
    start_run,
    state_of,
    visit_task,
    waiting,
)

SOON, LATER = "2026-03-14T16:00:00Z", "2026-03-14T17:00:00Z"


async def test_a_task_is_leased_to_one_worker_and_again_after_a_new_change(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    lease = await start_run(ledger, "A")
    during_run = await ledger.lease(visit_task("A"))
    await ledger.complete(lease, done(remote={visit_task("A"): {"id": 9}}))
    after_run = await ledger.lease(visit_task("A"))
    await accept(ledger, change("A"))
    again = await start_run(ledger, "A")

    assert ("busy", "nothing") == (during_run, after_run)
    assert ({"id": 9}, 2, 1, True) == (
        again.primary.remote,
        again.primary.change_count,
        again.primary.applied_count,
        again.primary.was_attempted,
    )


async def test_one_of_many_concurrent_workers_gets_the_lease(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    results = await asyncio.gather(*(ledger.lease(visit_task("A")) for _ in range(50)))

    assert 1 == sum(isinstance(result, Lease) for result in results)
    assert 49 == results.count("busy")


async def test_a_lease_of_an_unknown_task_writes_nothing(ledger: Ledger, redis: Redis) -> None:
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert set() == await all_keys(redis)
    with pytest.raises(NotFound):
        await ledger.load_task(visit_task("A"))
    with pytest.raises(NotFound):
        await ledger.load_aliases(visit_task("A"))


@pytest.mark.parametrize(("is_other_server", "fails_first"), [(True, False), (True, True), (False, False)])
async def test_a_new_process_grants_no_lease_soon_after_a_failover(
    ledger: Ledger, redis_url: str, is_other_server: bool, fails_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new primary has been running for long, and another process may hold a lease that it lost."""
    monkeypatch.setattr("app.ledger.redis.RESTART_GRACE_S", 0.5)
    await ledger.redis.command("SET", "bell:server", "another" if is_other_server else ledger.redis.run_id)
    await accept(ledger, change("A"))
    await asyncio.sleep(max(0, 1 - int((await ledger.redis.info("server"))["uptime_in_seconds"])))
    new_process = Redis(RedisAddress(redis_url))

    def fail(remaining_ms: int) -> Call:
        raise RedisUnavailable("the connection to Redis was lost")

    if fails_first:
        new_process.held_leases["token"] = HeldLease(time.monotonic() + 30, restore=fail, renew=fail)
        with pytest.raises(RedisUnavailable):
            await new_process.command("PING")
        new_process.held_leases.clear()
        await asyncio.sleep(0.6)  # the first grace period ends
    started = time.monotonic()

    lease = await Ledger(new_process, retention_days=30).lease(visit_task("A"))
    await new_process.close()

    assert isinstance(lease, Lease)
    assert not is_other_server or time.monotonic() - started > 0.49


async def test_a_lease_ends_within_a_minute(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")

    remaining_ms = (
        float(await redis.command("ZSCORE", "bell:state:running", visit_task("A")))
        - (await ledger.server_time()).timestamp() * 1_000
    )
    assert 0 < remaining_ms <= 60_000


@pytest.mark.parametrize("is_requeued", [True, False], ids=["requeued", "not requeued yet"])
async def test_the_task_of_a_dead_worker_is_leased_again_and_its_late_result_is_rejected(
    ledger: Ledger, redis: Redis, is_requeued: bool
) -> None:
    await accept(ledger, change("A"))
    first = await start_run(ledger, "A")
    await backdate(redis, "running")
    assert not is_requeued or 1 == await ledger.requeue_due()

    second = await start_run(ledger, "A")
    with pytest.raises(LeaseLost):
        await ledger.complete(first, done(remote={visit_task("A"): {"id": 1}}))
    await ledger.complete(second, done(remote={visit_task("A"): {"id": 2}}))

    task = await ledger.load_task(visit_task("A"))
    assert ("done", {"id": 2}, 1) == (task.state, task.remote, len(task.attempts))


async def test_an_expired_lease_is_requeued_with_a_job(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", "bell:queue:visits")
    await start_run(ledger, "A")
    await backdate(redis, "running")

    await ledger.requeue_due()

    assert [visit_task("A")] == await jobs(redis)
    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_change_during_a_run_is_queued_after_the_run(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")

    await accept(ledger, change("A"))
    during = await state_of(ledger, visit_task("A"))
    await ledger.complete(lease, done())

    task = await ledger.load_task(visit_task("A"))
    assert ("running", "queued", 2, 1) == (during, task.state, task.change_count, task.applied_count)
    assert visit_task("A") in await jobs(redis)


async def test_a_change_during_a_run_that_parks_is_queued(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")

    await accept(ledger, change("A"))
    await ledger.complete(lease, parked())

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_new_change_requeues_a_parked_visit(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_new_change_of_a_parked_visit_restarts_the_three_days(ledger: Ledger) -> None:
    # The old changes were parked after failures for three days. The first failure of a new change must not park it.
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert None is (await start_run(ledger, "A")).primary.failing_since_ms


async def test_a_waiting_task_has_a_retry_time_and_is_requeued_when_due(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(retry_in_s=60, failed_attempts=3))

    early = await ledger.requeue_due()
    task = await ledger.load_task(visit_task("A"))
    await backdate(redis, "waiting")
    late = await ledger.requeue_due()

    assert (0, 1) == (early, late)
    assert ("waiting", 3, "timeout") == (task.state, task.failed_attempts, task.reason)
    now_ms = (await ledger.server_time()).timestamp() * 1_000
    assert task.retry_at_ms is not None
    assert now_ms < task.retry_at_ms <= now_ms + 60_000
    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_new_change_after_a_failure_waits_for_the_next_attempt(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(failed_attempts=1))

    await accept(ledger, change("A"))

    assert "waiting" == await state_of(ledger, visit_task("A"))


@pytest.mark.parametrize("change_for", ["B", "C"])
async def test_a_change_of_any_id_after_a_failure_waits_for_the_next_attempt(ledger: Ledger, change_for: str) -> None:
    await accept(ledger, change("B", previous_visit_id="A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(failed_attempts=1))

    await accept(ledger, change(change_for, previous_visit_id={"C": "B"}.get(change_for)))

    assert [] == await ledger.task_ids("queued")
    assert [visit_task("A")] == await ledger.task_ids("waiting")


async def test_a_change_of_another_id_during_a_failing_run_waits_for_the_next_attempt(ledger: Ledger) -> None:
    await accept(ledger, change("B", previous_visit_id="A"))
    lease = await start_run(ledger, "A")
    await accept(ledger, change("B"))

    await ledger.complete(lease, waiting(failed_attempts=1))

    assert ([], [visit_task("A")]) == (await ledger.task_ids("queued"), await ledger.task_ids("waiting"))


async def test_a_change_of_any_id_of_a_parked_visit_restarts_the_three_days(ledger: Ledger) -> None:
    await accept(ledger, change("B", previous_visit_id="A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    await accept(ledger, change("B"))

    assert ([], [visit_task("A")]) == (await ledger.task_ids("parked"), await ledger.task_ids("queued"))
    assert None is (await start_run(ledger, "A")).primary.failing_since_ms


async def test_no_run_begins_while_a_call_may_still_take_effect(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked(in_flight_s=5))
    await accept(ledger, change("B", previous_visit_id="A"))

    assert "waiting" == await ledger.lease(visit_task("A"))

    visit = await ledger.load_task(visit_task("A"))
    now_ms = (await ledger.server_time()).timestamp() * 1_000
    assert ("waiting", "write_in_progress") == (visit.state, visit.reason)
    assert visit.retry_at_ms is not None
    assert now_ms + 3_000 < visit.retry_at_ms <= now_ms + 5_000
    await redis.command("HSET", f"bell:{visit_task('A')}", "in_flight_until", int(now_ms))
    await backdate(redis, "waiting")
    assert 1 == await ledger.requeue_due()
    assert 2 == len((await start_run(ledger, "A")).tasks)


async def test_a_visit_that_waits_for_data_is_queued_by_a_new_change(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(retry_in_s=86_400, failed_attempts=None))

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_job_ids_are_unique(ledger: Ledger, redis: Redis) -> None:
    job_ids = set()
    for _ in range(4):
        await accept(ledger, change("A"))
        job_ids |= set(await redis.command("ZRANGE", "bell:queue:visits", 0, -1))
        await redis.command("DEL", "bell:queue:visits")
        await complete_run(ledger, "A")

    assert 4 == len(job_ids)


async def test_the_last_hundred_attempts_are_stored_in_order(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    for number in range(1, 111):
        await ledger.replay(visit_task("A"))
        await ledger.complete(await start_run(ledger, "A"), Outcome(state="done", attempt=attempt(at=number)))

    attempts = (await ledger.load_task(visit_task("A"))).attempts
    assert list(range(11, 111)) == [item.started_at_ms for item in attempts]


@pytest.mark.parametrize("state", ["done", "parked", "waiting", "held"])
async def test_the_remote_visit_is_stored_for_every_outcome(ledger: Ledger, state: Any) -> None:
    await accept(ledger, change("A"))
    outcome = Outcome(state=state, attempt=attempt(), remote={visit_task("A"): {"id": 7}})
    await ledger.complete(await start_run(ledger, "A"), outcome)
    stored = (await ledger.load_task(visit_task("A"))).remote
    await ledger.replay(visit_task("A"))

    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): None}))

    task = await ledger.load_task(visit_task("A"))
    assert ({"id": 7}, None, False) == (stored, task.remote, task.was_attempted)


@pytest.mark.parametrize(
    "remote",
    [
        {"id": 7, "time_scheduled": SOON, "event_date": SOON, "contact": "a digest"},
        {"id": 7, "time_scheduled": SOON, "time_completed": LATER, "event_date": LATER},
        {"id": 7, "time_scheduled": SOON, "event_date": LATER, "date_cancelled": SOON},
        {"id": 7, "time_scheduled": SOON},  # the API returned no event_date
        {"id": 7, "amount_collected": "12.00", "contact_id": "cont_1"},
        {"contact": None},
    ],
)
async def test_the_remote_visit_is_read_as_it_was_stored(ledger: Ledger, remote: dict[str, Any]) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): remote}))

    assert remote == (await ledger.load_task(visit_task("A"))).remote


@pytest.mark.parametrize("is_sent_again", [False, True])
async def test_the_lease_of_an_event_that_the_server_lost_is_not_restored(
    ledger: Ledger, redis: Redis, is_sent_again: bool
) -> None:
    """Without its delivery it could only be parked, as one that has expired."""
    event = TaskId.event((await accept(ledger, event_state="queued", key="thin", at_ms=1_790_000_000_000)).delivery_id)
    lease = await ledger.lease(event)
    assert isinstance(lease, Lease)
    [held] = redis.held_leases.values()
    await redis.command("FLUSHDB")
    if is_sent_again:
        await accept(ledger, event_state="queued", key="thin")
    before = await redis.command("KEYS", "*")

    await redis.script(held.restore(1_000))

    assert set(before) == set(await redis.command("KEYS", "*"))
    with pytest.raises(LeaseLost):
        await ledger.complete(lease, done())
