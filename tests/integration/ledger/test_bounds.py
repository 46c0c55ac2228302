"""Limits on the cost of one sender, one visit or one invalid task id; every one is reported."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.ledger.ids import TaskId, delivery_key
from app.ledger.ledger import Ledger
from app.ledger.records import (
    AcceptResult,
    CircuitSignal,
    DeliveryInfo,
    Lease,
    NewDelivery,
    Outcome,
    VisitLimitReached,
)
from app.ledger.redis import Redis, RedisAddress
from app.telemetry import metric_names, metrics
from app.telemetry.health import load_backlog
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery
from jobs.maintenance import _release_held_tasks
from tests.support.harness import Harness, standard_body, wait_until
from tests.support.ledger import (
    accept,
    attempt,
    backdate,
    change,
    complete_run,
    done,
    end_circuit_pause,
    jobs,
    start_run,
    state_of,
    visit_task,
)
from tests.support.visit_worker import ADA, World, booked

#: As in app/ledger/scripts/lib/aliases.lua.
MAX_IDS, MAX_CHANGES, MAX_IDS_READ, MAX_CRASHES = 200, 5_000, 1_000, 5
RUN_ALONE_MS = 10_000
SOON = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
WAITING_FOR_CONTACT = Outcome(state="waiting", attempt=None, reason="contact_unknown", retry_in_s=600)


async def command_counts(redis: Redis) -> Counter[str]:
    """Return how often the server has run each command."""
    lines = (await redis.command("INFO", "commandstats")).decode().splitlines()
    doorbell_jsons = (line.removeprefix("cmdstat_").split(":calls=") for line in lines if line.startswith("cmdstat_"))
    return Counter({name: int(calls.partition(",")[0]) for name, calls in doorbell_jsons})


async def fill(redis: Redis, visit: str, count: int) -> None:
    """Store `count` changes directly."""
    fields = [
        part
        for number in range(count)
        for part in (f"change:d{number:021}.0", f'{number + 1} {{"a":"update","o":{number},"f":{{}}}}')
    ]
    await redis.command("HSET", f"bell:{visit_task(visit)}", *fields)
    await redis.command("HINCRBY", f"bell:{visit_task(visit)}", "changes", count)


async def fill_at(redis_url: str, visit: str) -> None:
    redis = Redis(RedisAddress(redis_url))
    await fill(redis, visit, MAX_CHANGES)
    await redis.close()


async def accept_chain(ledger: Ledger, count: int) -> None:
    """Accept v0, rescheduled to v1, rescheduled to v2, and so on."""
    for number in range(count):
        written = await accept(ledger, change(f"v{number}", f"v{number - 1}" if number else None))
        assert not written.limit_reached, number


async def store_unlimited_chain(redis: Redis, count: int) -> None:
    """Store a chain as versions without a limit did."""

    def fields(number: int) -> list[str]:
        previous = [f"previous:{visit_task(f'v{number - 1}')}", ""] if number else []
        following = [f"next:{visit_task(f'v{number + 1}')}", ""] if number < count - 1 else []
        return ["changes", "1", "linked", "1", *previous, *following]

    await asyncio.gather(
        *(redis.command("HSET", f"bell:{visit_task(f'v{number}')}", *fields(number)) for number in range(count))
    )


# -- changes of one visit --


async def test_a_change_for_a_full_visit_is_stored_and_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MAX_CHANGES)
    before = await ledger.load_task(visit_task("A"))

    written = await accept(ledger, change("A"), change("B"), key="once")

    event = f"event:{written.delivery_id}"
    parked = await ledger.load_task(event)
    assert ("too_many_changes", False) == (written.limit_reached, written.is_repeat)
    assert ("parked", "too_many_changes") == (parked.state, parked.reason)
    assert [event] == (await ledger.load_delivery_info(written.delivery_id)).task_ids
    assert before == await ledger.load_task(visit_task("A"))
    assert 0 == await redis.command(
        "EXISTS", f"bell:{visit_task('B')}"
    )  # a delivery is stored completely or not at all
    assert -1 == await redis.command("PTTL", delivery_key(written.delivery_id))


def test_a_delivery_for_a_full_visit_is_answered_202_and_listed_as_a_failure(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", time_scheduled=SOON)
    asyncio.run(fill_at(harness.redis_url, "A"))

    response = harness.send("visit.updated", "A", time_scheduled=SOON)

    assert (202, 1) == (response.status_code, response.json()["changes"])
    [failure] = [json.loads(line) for line in harness.doorbell("failures", "--json").stdout.splitlines()]
    assert (response.json()["delivery"], "event", "too_many_changes") == tuple(
        failure[name] for name in ("id", "kind", "reason")
    )


async def test_a_repeat_of_a_delivery_parked_for_a_full_visit_is_a_repeat(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MAX_CHANGES)
    first = await accept(ledger, change("A"), key="once")

    again = await accept(ledger, change("A"), key="once")

    assert (first.delivery_id, True) == again[:2]
    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


async def test_a_full_visit_accepts_changes_again_after_it_is_compacted(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MAX_CHANGES)
    written = await accept(ledger, change("A", version=9_999))
    event = f"event:{written.delivery_id}"
    await ledger.replay(event)
    lease = await ledger.lease(event)
    assert isinstance(lease, Lease)

    with pytest.raises(VisitLimitReached, match="too_many_changes"):
        await ledger.record_changes(lease, "standard", "main", [change("A", version=9_999)], attempt())
    run = await start_run(ledger, "A")
    await ledger.compact(run, run.primary, list(run.primary.changes)[100:])
    await ledger.complete(run, done())
    await ledger.record_changes(lease, "standard", "main", [change("A", version=9_999)], attempt())

    task = await ledger.load_task(visit_task("A"))
    assert f"{written.delivery_id}.0" in task.changes
    assert "queued" == task.state
    assert "done" == await state_of(ledger, event)


async def test_a_full_visit_does_not_stop_other_visits(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MAX_CHANGES)

    written = await accept(ledger, change("B"))

    assert not written.limit_reached
    assert "queued" == await state_of(ledger, visit_task("B"))


async def test_the_aliases_of_a_visit_share_its_limit(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", "A"))
    await fill(redis, "A", MAX_CHANGES // 2)
    await fill(redis, "B", MAX_CHANGES // 2)

    assert "too_many_changes" == (await accept(ledger, change("A"))).limit_reached
    assert "too_many_changes" == (await accept(ledger, change("C", "B"))).limit_reached


async def test_a_visit_with_more_changes_than_a_run_can_read_is_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", 20_001)  # stored before the limit existed

    assert "parked" == await ledger.lease(visit_task("A"))

    task = await ledger.load_task(visit_task("A"))
    assert ("parked", "too_many_changes") == (task.state, task.reason)
    assert ["parked"] == [item.outcome for item in task.attempts]
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert 0 == await redis.command("ZCARD", "bell:state:running")


async def test_accepting_a_change_costs_the_same_commands_for_two_or_a_thousand_changes(
    ledger: Ledger, redis: Redis
) -> None:
    async def count_commands(visit: str) -> Counter[str]:
        before = await command_counts(redis)
        await accept(ledger, change(visit))
        after = await command_counts(redis)
        return Counter({name: count - before[name] for name, count in after.items()}) - Counter({"info": 1})

    await accept(ledger, change("few"))
    await accept(ledger, change("many"))
    await fill(redis, "many", 1_000)

    few = await count_commands("few")

    assert few == await count_commands("many")
    assert 10 == sum(few.values()), few  # EVALSHA, TIME, GET, GET, HGET, HMGET, SET, ZADD, HSET, SET


# -- reschedules --


async def test_a_reschedule_over_the_limit_is_parked_and_the_visit_still_runs(ledger: Ledger, redis: Redis) -> None:
    await accept_chain(ledger, MAX_IDS)

    written = await accept(ledger, change("one-more", f"v{MAX_IDS - 1}"))

    parked = await ledger.load_task(f"event:{written.delivery_id}")
    assert ("parked", "too_many_reschedules") == (parked.state, parked.reason)
    assert 0 == await redis.command("EXISTS", f"bell:{visit_task('one-more')}")
    last = f"v{MAX_IDS - 1}"
    assert not (await accept(ledger, change(last, f"v{MAX_IDS - 2}"))).limit_reached  # an existing link
    lease = await complete_run(ledger, last)
    assert MAX_IDS == len(lease.tasks)
    assert 0 == await redis.command("ZCARD", "bell:state:running")


async def test_two_chains_that_exceed_the_limit_together_are_not_joined(ledger: Ledger) -> None:
    half = MAX_IDS // 2 + 1
    for name in "ab":
        for number in range(half):
            await accept(ledger, change(f"{name}{number}", f"{name}{number - 1}" if number else None))

    assert "too_many_reschedules" == (await accept(ledger, change("b0", f"a{half - 1}"))).limit_reached
    assert half == len(await ledger.load_aliases(visit_task("a0")))


async def test_a_chain_longer_than_the_limit_is_parked_with_all_its_ids(ledger: Ledger, redis: Redis) -> None:
    await store_unlimited_chain(redis, 8_010)
    await accept(ledger, change("v4000"))
    [queued] = map(TaskId, await ledger.task_ids("queued"))

    assert "parked" == await ledger.lease(queued)

    task = await ledger.load_task(queued)
    assert ("parked", "too_many_reschedules") == (task.state, task.reason)
    assert 0 == await redis.command("ZCARD", "bell:state:running")
    assert MAX_IDS_READ == len(await ledger.load_aliases(queued))
    assert "queued" == await ledger.replay(queued)


async def test_a_change_for_a_long_chain_reads_only_the_size_of_each_id(ledger: Ledger, redis: Redis) -> None:
    await accept_chain(ledger, 150)
    await fill(redis, "v3", 1_000)
    before = await command_counts(redis)

    await accept(ledger, change("v7"))

    counts = await command_counts(redis) - before
    assert 0 == counts["hgetall"]
    assert 2 * 150 == counts["hlen"]  # for the limits, and for the state of the visit


# -- expired leases --


async def crash(ledger: Ledger, redis: Redis, visit: str) -> None:
    """Let the lease of a run expire, as when its worker dies."""
    await start_run(ledger, visit)
    await backdate(redis, "running")
    await ledger.requeue_due()


async def test_a_task_whose_lease_expires_five_times_is_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    for _ in range(MAX_CRASHES - 1):
        await crash(ledger, redis, "A")
        assert "queued" == await state_of(ledger, visit_task("A"))

    await crash(ledger, redis, "A")

    task = await ledger.load_task(visit_task("A"))
    assert ("parked", "crashed_repeatedly") == (task.state, task.reason)
    assert ["parked"] == [item.outcome for item in task.attempts]
    assert "nothing" == await ledger.lease(visit_task("A"))


async def test_a_replay_resets_the_count_of_crashes(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    for _ in range(MAX_CRASHES):
        await crash(ledger, redis, "A")

    await ledger.replay(visit_task("A"))

    await crash(ledger, redis, "A")
    assert "queued" == await state_of(ledger, visit_task("A"))
    await complete_run(ledger, "A")


@pytest.mark.parametrize("ends", [done(), WAITING_FOR_CONTACT], ids=lambda end: end.state)
async def test_a_completed_run_resets_the_count_of_crashes(ledger: Ledger, redis: Redis, ends: Outcome) -> None:
    for _ in range(3):
        await accept(ledger, change("A"))
        for _ in range(MAX_CRASHES - 2):
            await crash(ledger, redis, "A")
        await ledger.complete(await start_run(ledger, "A"), ends)

    assert "parked" != await state_of(ledger, visit_task("A"))


async def test_an_event_that_crashes_repeatedly_is_parked(ledger: Ledger, redis: Redis) -> None:
    task_id = f"event:{(await accept(ledger, event_state='queued')).delivery_id}"
    for _ in range(MAX_CRASHES):
        assert isinstance(await ledger.lease(task_id), Lease)
        await backdate(redis, "running")
        await ledger.requeue_due()

    task = await ledger.load_task(task_id)
    assert ("parked", "crashed_repeatedly") == (task.state, task.reason)


async def test_a_rescheduled_visit_that_crashes_is_parked_once_with_all_its_ids(ledger: Ledger, redis: Redis) -> None:
    await accept_chain(ledger, 3)
    for _ in range(MAX_CRASHES):
        await crash(ledger, redis, "v1")

    assert [visit_task("v0")] == await ledger.task_ids("parked")
    assert ["parked", "done", "done"] == [task.state for task in await ledger.load_aliases(visit_task("v0"))]
    await ledger.replay(visit_task("v0"))
    assert 3 == len((await complete_run(ledger, "v0")).tasks)


async def test_tasks_that_crashed_together_twice_run_one_by_one(ledger: Ledger, redis: Redis) -> None:
    """One of the tasks may crash the workers: the others must run without it."""

    async def crash_all() -> list[float]:
        for visit in visits:
            await start_run(ledger, visit)
        await backdate(redis, "running")
        await redis.command("DEL", "bell:queue:visits")
        await ledger.requeue_due()
        return [
            float(score) for score in (await redis.command("ZRANGE", "bell:queue:visits", 0, -1, "WITHSCORES"))[1::2]
        ]

    visits = "ABC"
    for visit in visits:
        await accept(ledger, change(visit))

    first, second = await crash_all(), await crash_all()

    assert 0 == max(first) - min(first)
    assert [250, 250] == [later - earlier for earlier, later in pairwise(second)]


async def test_the_last_attempt_of_a_crashing_task_runs_alone(ledger: Ledger, redis: Redis) -> None:
    """Tasks that only ran beside the one that crashes the workers complete without it."""
    for visit in "ABC":
        await accept(ledger, change(visit))
        for _ in range(MAX_CRASHES - 2):
            await crash(ledger, redis, visit)
    await redis.command("DEL", "bell:queue:visits")

    for visit in "ABC":  # each is requeued separately
        await crash(ledger, redis, visit)

    turns = [float(score) for score in (await redis.command("ZRANGE", "bell:queue:visits", 0, -1, "WITHSCORES"))[1::2]]
    assert 3 == len(turns)
    assert all(later - earlier >= RUN_ALONE_MS - 1 for earlier, later in pairwise(turns))
    assert turns[0] - 1000 * (await ledger.server_time()).timestamp() > RUN_ALONE_MS / 2


async def test_the_last_attempt_waits_at_most_an_hour(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    for _ in range(MAX_CRASHES - 2):
        await crash(ledger, redis, "A")
    far = 1000 * (await ledger.server_time()).timestamp() + 2 * 3_600_000  # the clock was set back, or many tasks wait
    await redis.command("SET", "bell:alone", int(far))
    await redis.command("DEL", "bell:queue:visits")

    await crash(ledger, redis, "A")

    [_, turn] = await redis.command("ZRANGE", "bell:queue:visits", 0, -1, "WITHSCORES")
    assert float(turn) < far - 3_600_000


# -- invalid task ids --


@pytest.mark.parametrize("name", ["nonsense", "visit:main", "visit:/A", "event:", "other:main/A", ":", ""])
@pytest.mark.parametrize("state", ["waiting", "running", "queued"])
async def test_an_invalid_task_id_is_removed_and_harmless(ledger: Ledger, redis: Redis, state: str, name: str) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), WAITING_FOR_CONTACT)
    await accept(ledger, change("B"))
    await start_run(ledger, "B")
    await accept(ledger, change("C"))
    await redis.command("DEL", "bell:queue:visits")
    await redis.command("ZADD", f"bell:state:{state}", 0, name)
    for set_name in ("waiting", "running", "queued"):
        await backdate(redis, set_name)

    await ledger.requeue_due()
    await ledger.requeue_orphans()

    assert sorted([visit_task("A"), visit_task("B"), visit_task("C")]) == sorted(await jobs(redis))
    assert None is await redis.command("ZSCORE", f"bell:state:{state}", name)


async def test_an_invalid_task_id_does_not_stop_the_release_of_a_circuit(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(
        await start_run(ledger, "A"), Outcome(state="held", attempt=None, reason="rate_limited_locally")
    )
    await redis.command("ZADD", "bell:state:held:main", -1, "nonsense")
    await redis.command("DEL", "bell:queue:visits")

    assert 1 == await ledger.release_held("main")
    assert [visit_task("A")] == await jobs(redis)


# -- dates far ahead --


async def test_a_visit_in_the_year_9999_expires_after_two_years_and_the_retention(ledger: Ledger, redis: Redis) -> None:
    day_ms = 86_400_000
    for date, days in (("9999-12-31T00:00:00Z", 2 * 366 + 30), (None, 30)):
        await accept(ledger, change("A"))
        await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): {"event_date": date}}))

        left_ms = await redis.command("PTTL", f"bell:{visit_task('A')}")
        assert (days - 1) * day_ms < left_ms <= days * day_ms


async def test_a_visit_of_next_year_expires_a_retention_after_its_date(ledger: Ledger, redis: Redis) -> None:
    next_year = datetime.now(UTC) + timedelta(days=365)
    await accept(ledger, change("A"))

    await ledger.complete(
        await start_run(ledger, "A"), done(remote={visit_task("A"): {"event_date": next_year.isoformat()}})
    )

    assert 394 * 86_400_000 < await redis.command("PTTL", f"bell:{visit_task('A')}") <= 395 * 86_400_000


# -- tasks of an account that was removed from the settings --

EAST_TASK = "visit:east/standard-1"


async def hold_task_in_east(world: World) -> str:
    """Hold a visit of an account without a token for the rate limit, and return the id of its delivery."""
    delivery = Delivery("standard", "standard", (), b"east", datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await world.ledger.accept(NewDelivery(delivery, meta, [booked()], "east", dedup_id=None))
    lease = await world.ledger.lease(EAST_TASK, "east", True)
    assert isinstance(lease, Lease)
    await world.ledger.complete(lease, Outcome(state="held", attempt=None, reason="rate_limited_locally"), "east")
    return written.delivery_id


def doorbell_json(world: World, *command: str) -> list[Any]:
    """Return the lines that the command prints with --json."""
    result = world.harness.doorbell(*command, "--json")
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_held_tasks_of_a_removed_account_are_visible(world: World) -> None:
    delivery = await hold_task_in_east(world)

    assert [1] == [row["states"]["held"] for row in doorbell_json(world, "overview")]
    assert [delivery] == [row["delivery"] for row in doorbell_json(world, "deliveries", "--state", "held")]
    assert [("standard-1", "east", "held")] == [
        (row["visit"], row["account"], row["state"]) for row in doorbell_json(world, "visit", "standard-1")
    ]
    assert 0 < (await load_backlog(world.redis, ["main"])).ages_s["held"]
    warnings = [check for check in doorbell_json(world, "doctor") if check["check"] == "visits_api east"]
    assert ["1 tasks held: the account has no token"] == [check["detail"] for check in warnings]
    exposition, _ = (await metrics.snapshot(world.ledger, world.context.settings)).encode()
    assert f'{metric_names.TASKS}{{state="held"}} 1.0' in exposition.decode().splitlines()


async def test_held_tasks_of_an_account_without_a_token_are_parked(world: World) -> None:
    await hold_task_in_east(world)

    await _release_held_tasks(world.context)
    await world.run()

    task = await world.ledger.load_task(EAST_TASK)
    assert ("parked", "token_missing") == (task.state, task.reason)
    assert ["token_missing"] == [row["reason"] for row in doorbell_json(world, "failures")]
    assert [("standard-1", "parked")] == [
        (row["visit"], row["state"]) for row in doorbell_json(world, "visit", "standard-1")
    ]


async def test_the_success_of_a_probe_releases_the_others_in_the_same_step_of_maintenance(world: World) -> None:
    """An API that answers 429 again and again would otherwise cost half a second more each time."""
    for visit in "AB":
        await accept(world.ledger, change(visit))
    signal = CircuitSignal(kind="rate_limited", pause_s=15)
    for lease in [await start_run(world.ledger, visit, account="main") for visit in "AB"]:
        await world.ledger.complete(
            lease, Outcome(state="held", attempt=attempt("429"), circuit_signal=signal), account="main"
        )
    await end_circuit_pause(world.redis)

    probe, _ = await asyncio.gather(run_probe(world), _release_held_tasks(world.context))

    assert {visit_task("A"), visit_task("B")} == {probe, *await world.ledger.task_ids("queued")}


async def run_probe(world: World) -> str:
    """Run the probe of the circuit as soon as it is queued. Return its task."""
    for _ in range(200):
        if queued := await world.ledger.task_ids("queued"):
            break
        await asyncio.sleep(0.01)
    [probe] = queued
    lease = await world.ledger.lease(TaskId(probe), account="main")
    assert isinstance(lease, Lease)
    await world.ledger.complete(lease, done(circuit_signal=CircuitSignal(kind="ok")), account="main")
    return probe


# -- with a real worker --

FIRST_SEEN = datetime(2026, 3, 14, 9, tzinfo=UTC)


async def flood(redis_url: str, count: int, max_pending: int) -> int:
    """Send changes of one finished Workiz job, as an automation in a loop does; return how many were parked.

    max_pending: the number of stored changes at which the sender waits for the worker.
    """
    redis = Redis(RedisAddress(redis_url))
    ledger = Ledger(redis, retention_days=30)

    def observed_change(number: int) -> VisitChange:
        done_at = FIRST_SEEN + timedelta(seconds=number)
        fields = {"contact": ADA, "time_scheduled": FIRST_SEEN, "time_completed": done_at}
        return VisitChange(action="update", visit_id="loop", version=number, times_are_observed=True, **fields)  # type: ignore[arg-type]

    async def accept_change(number: int) -> AcceptResult:
        delivery = Delivery("workiz", "workiz", (), b"%d" % number, datetime.now(UTC))
        meta = DeliveryInfo("workiz", "workiz", 1_790_000_000_000)
        return await ledger.accept(NewDelivery(delivery, meta, [observed_change(number)], "main", dedup_id=None))

    try:
        limit_count = 0
        for start in range(0, count, 100):
            limit_count += sum(
                bool(result.limit_reached)
                for result in await asyncio.gather(*map(accept_change, range(start, start + 100)))
            )
            for _ in range(3_000):
                if await redis.command("HLEN", "bell:visit:main/workiz-loop") <= max_pending:
                    break
                await asyncio.sleep(0.02)
        return limit_count
    finally:
        await redis.close()


@pytest.mark.parametrize("is_backlog", [False, True], ids=["while the worker runs", "before it starts"])
def test_a_flood_for_one_visit_does_not_stop_other_visits(harness: Harness, is_backlog: bool) -> None:
    harness.start_web()
    if not is_backlog:
        harness.start_worker()
    parked = asyncio.run(flood(harness.redis_url, 8_000, 9_000 if is_backlog else 1_500))
    for number in range(20):
        person = {"email": f"{number}@example.com", "first_name": "Ada"}
        assert 202 == harness.send("visit.created", f"good-{number}", time_scheduled=SOON, contact=person).status_code
    if is_backlog:
        harness.start_worker()

    good = {f"standard-good-{number}" for number in range(20)}
    wait_until(lambda: good <= {visit["external_id"] for visit in harness.visits()}, 120)
    loop = wait_until(lambda: harness.visit("workiz-loop"), 120)

    assert "2026-03-14T09:00:00Z" == loop["time_completed"]  # the time of the first observation
    assert parked == harness.redis_command("ZCARD", "bell:state:parked")
    assert parked in (range(3_000, 3_050) if is_backlog else [0])
    wait_until(lambda: harness.redis_command("HLEN", "bell:visit:main/workiz-loop") < 500, 60)
    assert not harness.redis_command("EXISTS", "bell:circuit:main")


async def test_a_delivery_parked_for_a_full_visit_is_applied_after_a_replay(world: World) -> None:
    await world.apply(booked(version=1))
    await fill(world.redis, "1", MAX_CHANGES)
    raw = standard_body("visit.completed", "1", "2026-03-15T10:00:00Z", time_completed="2026-03-15T09:30:00Z")
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    moved = VisitChange(action="update", visit_id="1", version=1, time_completed=FIRST_SEEN)
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await world.ledger.accept(NewDelivery(delivery, meta, [moved], "main", dedup_id=None))
    event = f"event:{written.delivery_id}"

    await world.ledger.replay(event)
    assert "too_many_changes" == await world.run_task(event)
    assert "parked" == (await world.ledger.load_task(event)).state
    await world.ledger.replay(visit_task("1"))
    await world.run()
    await world.ledger.replay(event)
    await world.run()

    assert "done" == (await world.ledger.load_task(event)).state
    assert "2026-03-15T09:30:00Z" == (world.visit() or {})["time_completed"]
