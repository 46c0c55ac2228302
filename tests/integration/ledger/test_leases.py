"""Leases: one worker for each task."""

import asyncio
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import (
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
)
from app.ledger.redis import Redis
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


async def test_work_is_given_to_one_worker_and_then_to_nobody_until_something_lands(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    hold = await start_run(ledger, "A")
    meanwhile = await ledger.lease(visit_task("A"))
    await ledger.complete(hold, done(remote={visit_task("A"): {"id": 9}}))
    afterwards = await ledger.lease(visit_task("A"))
    await accept(ledger, change("A"))
    again = await start_run(ledger, "A")

    assert ("busy", "nothing") == (meanwhile, afterwards)
    assert ({"id": 9}, 2, 1, True) == (
        again.primary.remote,
        again.primary.change_count,
        again.primary.applied_count,
        again.primary.was_attempted,
    )


async def test_of_many_workers_at_once_one_gets_the_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    answers = await asyncio.gather(*(ledger.lease(visit_task("A")) for _ in range(50)))

    assert 1 == sum(isinstance(answer, Lease) for answer in answers)
    assert 49 == answers.count("busy")


async def test_to_begin_what_nobody_knows_finds_nothing_and_leaves_nothing_behind(ledger: Ledger, redis: Redis) -> None:
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert set() == await all_keys(redis)
    with pytest.raises(NotFound):
        await ledger.load_task(visit_task("A"))
    with pytest.raises(NotFound):
        await ledger.load_aliases(visit_task("A"))


async def test_a_lease_ends_within_a_minute(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")

    left_ms = (
        float(await redis.command("ZSCORE", "bell:running", visit_task("A")))
        - (await ledger.server_time()).timestamp() * 1_000
    )
    assert 0 < left_ms <= 60_000


@pytest.mark.parametrize("is_swept", [True, False], ids=["swept", "not swept yet"])
async def test_work_of_a_dead_worker_goes_to_another_and_the_late_release_is_lost(
    ledger: Ledger, redis: Redis, is_swept: bool
) -> None:
    await accept(ledger, change("A"))
    dead = await start_run(ledger, "A")
    await backdate(redis, "running")
    assert not is_swept or 1 == await ledger.requeue_due()

    heir = await start_run(ledger, "A")
    with pytest.raises(LeaseLost):
        await ledger.complete(dead, done(remote={visit_task("A"): {"id": 1}}))
    await ledger.complete(heir, done(remote={visit_task("A"): {"id": 2}}))

    member = await ledger.load_task(visit_task("A"))
    assert ("done", {"id": 2}, 1) == (member.state, member.remote, len(member.attempts))


async def test_a_swept_lease_has_a_job_again(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", *(await redis.command("KEYS", "arq:job:*")), "bell:queue:visits")
    await start_run(ledger, "A")
    await backdate(redis, "running")

    await ledger.requeue_due()

    assert [visit_task("A")] == await jobs(redis)
    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_change_that_lands_during_a_run_is_queued_after_it(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")

    await accept(ledger, change("A"))
    during = await state_of(ledger, visit_task("A"))
    await ledger.complete(hold, done())

    member = await ledger.load_task(visit_task("A"))
    assert ("running", "queued", 2, 1) == (during, member.state, member.change_count, member.applied_count)
    assert visit_task("A") in await jobs(redis)


async def test_a_change_that_lands_during_a_parking_run_is_worked_on(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")

    await accept(ledger, change("A"))
    await ledger.complete(hold, parked())

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_change_that_lands_on_parked_work_puts_it_back_to_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_change_that_lands_on_parked_work_gets_its_own_three_days(ledger: Ledger) -> None:
    # What failed for three days was parked; a change of today must not be parked by its first trouble.
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert None is (await start_run(ledger, "A")).primary.failing_since_ms


async def test_waiting_work_waits_until_it_is_due_and_says_when(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(retry_in_s=60, failed_attempts=3))

    early = await ledger.requeue_due()
    member = await ledger.load_task(visit_task("A"))
    await backdate(redis, "waiting")
    late = await ledger.requeue_due()

    assert (0, 1) == (early, late)
    assert ("waiting", 3, "timeout") == (member.state, member.failed_attempts, member.reason)
    now_ms = (await ledger.server_time()).timestamp() * 1_000
    assert member.retry_at_ms is not None
    assert now_ms < member.retry_at_ms <= now_ms + 60_000
    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_after_trouble_a_new_change_waits_for_the_next_try(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(failed_attempts=1))

    await accept(ledger, change("A"))

    assert "waiting" == await state_of(ledger, visit_task("A"))


async def test_work_that_waits_for_facts_is_woken_by_a_new_change(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), waiting(retry_in_s=86_400, failed_attempts=None))

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_no_name_of_a_job_is_used_twice(ledger: Ledger, redis: Redis) -> None:
    names = set()
    for _ in range(4):
        await accept(ledger, change("A"))
        names |= set(await redis.command("ZRANGE", "bell:queue:visits", 0, -1))
        await redis.command("DEL", "bell:queue:visits")
        await complete_run(ledger, "A")

    assert 4 == len(names)


async def test_the_last_hundred_attempts_are_kept_in_their_order(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    for at in range(1, 111):
        await ledger.replay(visit_task("A"))
        await ledger.complete(await start_run(ledger, "A"), Outcome(state="done", attempt=attempt(at=at)))

    attempts = (await ledger.load_task(visit_task("A"))).attempts
    assert list(range(11, 111)) == [one.started_at_ms for one in attempts]


@pytest.mark.parametrize("ends", ["done", "parked", "waiting", "held"])
async def test_what_the_api_answered_is_remembered_however_a_run_ends(ledger: Ledger, ends: Any) -> None:
    await accept(ledger, change("A"))
    outcome = Outcome(state=ends, attempt=attempt(), remote={visit_task("A"): {"id": 7}})
    await ledger.complete(await start_run(ledger, "A"), outcome)
    kept = (await ledger.load_task(visit_task("A"))).remote
    await ledger.replay(visit_task("A"))

    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): None}))

    member = await ledger.load_task(visit_task("A"))
    assert ({"id": 7}, None, False) == (kept, member.remote, member.was_attempted)
