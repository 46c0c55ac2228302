"""Queues: sweeps, orphans, claims and the rate limit."""

import asyncio
import json

from arq.jobs import deserialize_job_raw

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


async def test_queued_work_whose_job_is_gone_gets_another(ledger: Ledger, redis: Redis) -> None:
    for n in range(90):
        await accept(ledger, change(f"v{n}"))
    await backdate(redis, "queued")
    lost = [job for n, job in enumerate(await redis.command("ZRANGE", "bell:queue:visits", 0, -1)) if n % 3]
    await redis.command("DEL", *(b"arq:job:" + job for job in lost[::2]))
    await redis.command("ZREM", "bell:queue:visits", *lost[1::2])

    adopted, offset = 0, 0
    while offset >= 0:
        found, offset = await ledger.requeue_orphans(offset, limit=20)
        adopted += found

    assert 60 == adopted
    assert {visit_task(f"v{n}") for n in range(90)} == set(await jobs(redis))


async def test_young_queued_work_is_not_taken_for_an_orphan(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", "bell:queue:visits")

    assert (0, -1) == await ledger.requeue_orphans()


async def test_a_sweep_takes_no_more_than_it_was_told(ledger: Ledger, redis: Redis) -> None:
    for n in range(30):
        await accept(ledger, change(f"v{n}"))
        await ledger.complete(await start_run(ledger, f"v{n}"), waiting())
    await backdate(redis, "waiting")

    assert [20, 10, 0] == [await ledger.requeue_due(limit=20) for _ in range(3)]


def about(claimed: list[tuple[Queue, str, bytes]]) -> list[str]:
    return [job.rpartition("#")[0] for _, job, _ in claimed]


async def test_a_claimed_job_is_not_claimed_again_before_its_lease_ends(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
        await asyncio.sleep(0.002)

    first = await ledger.claim({"visits": 2}, lease_s=3_600)
    before = await now_ms(ledger)
    [(lane, job, _)] = second = await ledger.claim({"visits": 2}, lease_s=3_600)
    after = await now_ms(ledger)
    third = await ledger.claim({"visits": 2}, lease_s=3_600)
    ends = float(await redis.command("ZSCORE", QUEUE_KEYS[lane], job))
    await redis.command("ZADD", QUEUE_KEYS[lane], after, job)  # as if it had come to that
    last = await ledger.claim({"visits": 5}, lease_s=3_600)

    assert [visit_task("A"), visit_task("B")] == about(first)
    assert ([visit_task("C")], [], [visit_task("C")]) == (about(second), about(third), about(last))
    assert before <= ends - 3_600_000 <= after


async def test_each_lane_has_its_own_places(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await work_off_anew(ledger, visit)
        await ledger.replay(visit_task(visit), queue="replays")
    event = await accept(ledger, event_state="queued")
    await accept(ledger, change("C"))

    some = await ledger.claim({"visits": 5, "events": 0, "replays": 1}, lease_s=30)
    rest = await ledger.claim({"visits": 5, "events": 5, "replays": 5}, lease_s=30)

    assert [("visits", visit_task("C")), ("replays", visit_task("A"))] == claimed_tasks(some)
    assert [("events", f"event:{event.delivery_id}"), ("replays", visit_task("B"))] == claimed_tasks(rest)


async def work_off_anew(ledger: Ledger, visit: str) -> None:
    """Settled, and its job is gone."""
    await accept(ledger, change(visit))
    [(lane, job, _)] = await ledger.claim({"visits": 1}, lease_s=30)
    await complete_run(ledger, visit)
    await ledger.ack(job, lane)


async def test_what_rings_does_not_wait_behind_replays(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await work_off_anew(ledger, visit)
        await ledger.replay(visit_task(visit), queue="replays")

    await accept(ledger, change("A", version=2))

    assert ([visit_task("A")], [visit_task("B")]) == (await jobs(redis, "visits"), await jobs(redis, "replays"))
    assert 2 == len(await redis.command("KEYS", "arq:job:*"))


async def test_a_replay_that_has_to_wait_stays_in_its_lane_until_it_is_done(ledger: Ledger, redis: Redis) -> None:
    await work_off_anew(ledger, "A")
    await ledger.replay(visit_task("A"), queue="replays")
    [(lane, job, _)] = await ledger.claim({"replays": 1}, lease_s=30)
    await ledger.complete(await start_run(ledger, "A"), waiting())
    await ledger.ack(job, lane)
    await backdate(redis, "waiting")

    await ledger.requeue_due()
    again = claimed_tasks(await ledger.claim({"visits": 1, "replays": 1}, lease_s=30))
    await complete_run(ledger, "A")
    await accept(ledger, change("A", version=2))

    assert [("replays", visit_task("A"))] == again
    assert [visit_task("A")] == await jobs(redis, "visits")


async def test_a_replay_whose_job_is_lost_gets_another_in_its_lane(ledger: Ledger, redis: Redis) -> None:
    await work_off_anew(ledger, "A")
    await ledger.replay(visit_task("A"), queue="replays")
    await backdate(redis, "queued")
    there = await ledger.requeue_orphans()
    await redis.command("DEL", "bell:queue:replays")

    lost = await ledger.requeue_orphans()

    assert ((0, -1), (1, -1)) == (there, lost)
    assert ([], [visit_task("A")]) == (await jobs(redis, "visits"), await jobs(redis, "replays"))


async def test_a_claimed_job_comes_with_what_arq_needs_to_run_it(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await redis.command("DEL", *(await redis.command("KEYS", "arq:job:*standard-B*")))

    claimed = {job.rpartition("#")[0]: payload for _, job, payload in await ledger.claim({"visits": 5}, lease_s=30)}

    assert b"" == claimed[visit_task("B")]
    function, arguments, *_ = deserialize_job_raw(claimed[visit_task("A")], deserializer=json.loads)
    assert ("visit", ["main/standard-A"]) == (function, arguments)


async def test_a_job_that_has_run_is_gone_and_the_next_one_is_not(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    [(_, job, _)] = await ledger.claim({"visits": 5}, lease_s=0)
    hold = await start_run(ledger, "A")
    await accept(ledger, change("A"))
    await ledger.complete(hold, done())

    await ledger.ack(job)

    assert [visit_task("A")] == await jobs(redis)
    assert [visit_task("A")] == about(await ledger.claim({"visits": 5}, lease_s=30))
    assert 1 == len(await redis.command("KEYS", "arq:*"))


async def test_of_many_workers_no_two_claim_the_same_job(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}"))

    claimed = await asyncio.gather(*(ledger.claim({"visits": 7}, lease_s=30) for _ in range(20)))

    names = [job for each in claimed for job in about(each)]
    assert (100, 100) == (len(names), len(set(names)))


async def test_a_line_of_ten_calls_a_second_gives_places_a_tenth_apart(ledger: Ledger) -> None:
    waits = [await ledger.acquire_rate_slot("main", 10, max_wait_s=100) for _ in range(6)]

    turns = [wait - n * 0.1 for n, wait in enumerate(waits)]
    assert all(-0.1 <= turn <= 0.001 for turn in turns), waits  # a place is never later than its turn
    assert waits == sorted(waits)


async def test_in_a_line_that_is_too_long_no_place_is_taken(ledger: Ledger) -> None:
    for _ in range(4):
        await ledger.acquire_rate_slot("main", 2, max_wait_s=60)

    too_long = [await ledger.acquire_rate_slot("main", 2, max_wait_s=1) for _ in range(10)]
    taken = await ledger.acquire_rate_slot("main", 2, max_wait_s=60)

    assert all(-2 <= wait < -1 for wait in too_long)
    assert 1 < taken <= 2  # the fifth place, two seconds from the first


async def test_each_account_has_its_own_line(ledger: Ledger) -> None:
    await ledger.acquire_rate_slot("main", 1, max_wait_s=60)

    assert 0 == await ledger.acquire_rate_slot("shop", 1, max_wait_s=60)


async def test_a_rate_of_less_than_one_call_a_minute_is_kept(ledger: Ledger, redis: Redis) -> None:
    await ledger.acquire_rate_slot("main", 0.01, max_wait_s=1)

    assert await redis.command("PTTL", "bell:rate:main") >= 99_000  # the next turn is in 100 s, and must be known then
