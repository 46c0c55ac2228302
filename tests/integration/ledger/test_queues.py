"""Queues: sweeps, orphans, claims and the rate limit."""

import asyncio

from app.ledger.ledger import Ledger
from app.ledger.records import (
    Queue,
)
from app.ledger.redis import Redis
from tests.support.ledger import (
    QUEUE_KEYS,
    accept,
    backdate,
    change,
    claimed_tasks,
    complete_run,
    done,
    jobs,
    now_ms,
    start_run,
    visit_task,
    waiting,
)


async def test_a_queued_task_without_a_job_gets_a_new_job(ledger: Ledger, redis: Redis) -> None:
    for number in range(90):
        await accept(ledger, change(f"v{number}"))
    await backdate(redis, "queued")
    jobs_in_queue = await redis.command("ZRANGE", "bell:queue:visits", 0, -1)
    await redis.command("ZREM", "bell:queue:visits", *(job for number, job in enumerate(jobs_in_queue) if number % 3))

    total, offset = 0, 0
    while offset >= 0:
        requeued, offset = await ledger.requeue_orphans(offset, limit=20)
        total += requeued

    assert 60 == total
    assert {visit_task(f"v{number}") for number in range(90)} == set(await jobs(redis))


async def test_a_recently_queued_task_is_not_an_orphan(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", "bell:queue:visits")

    assert (0, -1) == await ledger.requeue_orphans()


async def test_requeue_due_respects_its_limit(ledger: Ledger, redis: Redis) -> None:
    for n in range(30):
        await accept(ledger, change(f"v{n}"))
        await ledger.complete(await start_run(ledger, f"v{n}"), waiting())
    await backdate(redis, "waiting")

    assert [20, 10, 0] == [await ledger.requeue_due(limit=20) for _ in range(3)]


def task_ids_of(claimed: list[tuple[Queue, str, bytes]]) -> list[str]:
    return [job.rpartition("#")[0] for _, job, _ in claimed]


async def test_a_claimed_job_is_not_claimed_again_before_its_lease_ends(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
        await asyncio.sleep(0.002)

    first = (await ledger.claim({"visits": 2}, lease_s=3_600)).jobs
    before = await now_ms(ledger)
    [(queue, job, _)] = second = (await ledger.claim({"visits": 2}, lease_s=3_600)).jobs
    after = await now_ms(ledger)
    third = (await ledger.claim({"visits": 2}, lease_s=3_600)).jobs
    lease_end = float(await redis.command("ZSCORE", QUEUE_KEYS[queue], job))
    await redis.command("ZADD", QUEUE_KEYS[queue], after, job)  # as if the lease had ended
    last = (await ledger.claim({"visits": 5}, lease_s=3_600)).jobs

    assert [visit_task("A"), visit_task("B")] == task_ids_of(first)
    assert ([visit_task("C")], [], [visit_task("C")]) == (task_ids_of(second), task_ids_of(third), task_ids_of(last))
    assert before <= lease_end - 3_600_000 <= after


async def test_each_queue_has_its_own_places(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await complete_new_task(ledger, visit)
        await ledger.replay(visit_task(visit), queue="replays")
    event = await accept(ledger, event_state="queued")
    await accept(ledger, change("C"))

    first = (await ledger.claim({"visits": 5, "events": 0, "replays": 1}, lease_s=30)).jobs
    second = (await ledger.claim({"visits": 5, "events": 5, "replays": 5}, lease_s=30)).jobs

    assert [("visits", visit_task("C")), ("replays", visit_task("A"))] == claimed_tasks(first)
    assert [("events", f"event:{event.delivery_id}"), ("replays", visit_task("B"))] == claimed_tasks(second)


async def complete_new_task(ledger: Ledger, visit: str) -> None:
    """Accept and complete a task, and acknowledge its job."""
    await accept(ledger, change(visit))
    [(queue, job, _)] = (await ledger.claim({"visits": 1}, lease_s=30)).jobs
    await complete_run(ledger, visit)
    await ledger.ack(job, queue)


async def test_a_new_change_does_not_wait_behind_replays(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await complete_new_task(ledger, visit)
        await ledger.replay(visit_task(visit), queue="replays")

    await accept(ledger, change("A", version=2))

    assert ([visit_task("A")], [visit_task("B")]) == (await jobs(redis, "visits"), await jobs(redis, "replays"))


async def test_a_waiting_replay_stays_in_its_queue_until_it_is_done(ledger: Ledger, redis: Redis) -> None:
    await complete_new_task(ledger, "A")
    await ledger.replay(visit_task("A"), queue="replays")
    [(queue, job, _)] = (await ledger.claim({"replays": 1}, lease_s=30)).jobs
    await ledger.complete(await start_run(ledger, "A"), waiting())
    await ledger.ack(job, queue)
    await backdate(redis, "waiting")

    await ledger.requeue_due()
    again = claimed_tasks((await ledger.claim({"visits": 1, "replays": 1}, lease_s=30)).jobs)
    await complete_run(ledger, "A")
    await accept(ledger, change("A", version=2))

    assert [("replays", visit_task("A"))] == again
    assert [visit_task("A")] == await jobs(redis, "visits")


async def test_a_replay_without_a_job_gets_a_new_job_in_its_queue(ledger: Ledger, redis: Redis) -> None:
    await complete_new_task(ledger, "A")
    await ledger.replay(visit_task("A"), queue="replays")
    await backdate(redis, "queued")
    before = await ledger.requeue_orphans()
    await redis.command("DEL", "bell:queue:replays")

    after = await ledger.requeue_orphans()

    assert ((0, -1), (1, -1)) == (before, after)
    assert ([], [visit_task("A")]) == (await jobs(redis, "visits"), await jobs(redis, "replays"))


async def test_a_claimed_job_has_the_time_at_which_it_was_due(ledger: Ledger, redis: Redis) -> None:
    before = int((await ledger.server_time()).timestamp() * 1000)
    await accept(ledger, change("A"))
    await asyncio.sleep(0.05)

    [(_, job, due_ms)] = (await ledger.claim({"visits": 5}, lease_s=30)).jobs

    assert f"{visit_task('A')}#1" == job
    assert before <= due_ms < int((await ledger.server_time()).timestamp() * 1000) - 40


async def test_the_job_of_a_run_that_a_failover_lost_is_due_again(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    [(_, job, _)] = (await ledger.claim({"visits": 5}, lease_s=30)).jobs

    await ledger.ack(job, "visits")  # the worker has completed its run on a server that is gone
    assert [job] == [name.decode() for name in await redis.command("ZRANGE", "bell:queue:visits", 0, -1)]
    await redis.command("ZADD", "bell:queue:visits", "XX", "INCR", -2_000, job)

    assert [visit_task("A")] == task_ids_of((await ledger.claim({"visits": 5}, lease_s=30)).jobs)
    await complete_run(ledger, "A")
    await ledger.ack(job, "visits")
    assert [] == await jobs(redis)


async def test_ack_deletes_the_finished_job_and_not_the_next_job(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    [(_, job, _)] = (await ledger.claim({"visits": 5}, lease_s=0)).jobs
    lease = await start_run(ledger, "A")
    await accept(ledger, change("A"))
    await ledger.complete(lease, done())

    await ledger.ack(job, "visits")

    assert [visit_task("A")] == await jobs(redis)
    assert [visit_task("A")] == task_ids_of((await ledger.claim({"visits": 5}, lease_s=30)).jobs)


async def test_concurrent_workers_never_claim_the_same_job(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}"))

    claimed = await asyncio.gather(*(ledger.claim({"visits": 7}, lease_s=30) for _ in range(20)))

    task_ids = [job for claim in claimed for job in task_ids_of(claim.jobs)]
    assert (100, 100) == (len(task_ids), len(set(task_ids)))


async def test_rate_slots_for_ten_calls_a_second_are_a_tenth_apart(ledger: Ledger) -> None:
    waits = [await ledger.acquire_rate_slot("main", 10, max_wait_s=100) for _ in range(6)]

    turns = [wait - n * 0.1 for n, wait in enumerate(waits)]
    assert all(-0.1 <= turn <= 0.001 for turn in turns), waits  # a slot is never later than its turn
    assert waits == sorted(waits)


async def test_no_rate_slot_is_taken_beyond_the_maximum_wait(ledger: Ledger) -> None:
    for _ in range(4):
        await ledger.acquire_rate_slot("main", 2, max_wait_s=60)

    too_long = [await ledger.acquire_rate_slot("main", 2, max_wait_s=1) for _ in range(10)]
    slot = await ledger.acquire_rate_slot("main", 2, max_wait_s=60)

    assert all(-2 <= wait < -1 for wait in too_long)
    assert 1 < slot <= 2  # the fifth slot, two seconds after the first


async def test_each_account_has_its_own_rate_slots(ledger: Ledger) -> None:
    await ledger.acquire_rate_slot("main", 1, max_wait_s=60)

    assert 0 == await ledger.acquire_rate_slot("shop", 1, max_wait_s=60)


async def test_a_rate_below_one_call_a_minute_is_respected(ledger: Ledger, redis: Redis) -> None:
    await ledger.acquire_rate_slot("main", 0.01, max_wait_s=1)

    assert (
        await redis.command("PTTL", "bell:rate:main") >= 99_000
    )  # the next slot is in 100 s, so the key must last that long


async def test_a_heartbeat_counts_the_live_workers(ledger: Ledger) -> None:
    counts = [await ledger.heartbeat(f"bell:worker:{name}", b"{}", 30_000) for name in "aba"]

    assert [1, 2, 2] == counts
