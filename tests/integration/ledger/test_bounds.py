"""What one sender, one visit or one broken name may cost everybody: bounded, and never silently."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import AcceptResult, DeliveryInfo, Lease, Outcome, VisitLimitReached
from app.ledger.redis import Redis, RedisAddress
from app.telemetry import metric_names, metrics
from app.telemetry.health import load_backlog
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery
from jobs.maintenance import _release_circuits
from tests.support.harness import Harness, standard_body, wait_until
from tests.support.ledger import (
    accept,
    attempt,
    backdate,
    change,
    complete_run,
    done,
    jobs,
    start_run,
    state_of,
    visit_task,
)
from tests.support.visit_worker import ADA, World, booked

#: As in app/ledger/scripts/lib/aliases.lua.
MOST_IDS, MOST_FIELDS, MOST_IDS_READ, MOST_LOST = 200, 5_000, 1_000, 5
ALONE_MS = 10_000
SOON = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}"
KEPT = Outcome(state="waiting", attempt=None, reason="contact_unknown", retry_in_s=600)


async def commands(redis: Redis) -> Counter[str]:
    """How many commands of each kind the server has carried out."""
    lines = (await redis.command("INFO", "commandstats")).decode().splitlines()
    told = (line.removeprefix("cmdstat_").split(":calls=") for line in lines if line.startswith("cmdstat_"))
    return Counter({name: int(calls.partition(",")[0]) for name, calls in told})


async def fill(redis: Redis, visit: str, count: int) -> None:
    """As if so many changes had landed."""
    fields = [
        part for at in range(count) for part in (f"change:d{at:021}.0", f'{at + 1} {{"a":"update","o":{at},"f":{{}}}}')
    ]
    await redis.command("HSET", f"bell:{visit_task(visit)}", *fields)
    await redis.command("HINCRBY", f"bell:{visit_task(visit)}", "changes", count)


async def filled(redis_url: str, visit: str) -> None:
    redis = Redis(RedisAddress(redis_url))
    await fill(redis, visit, MOST_FIELDS)
    await redis.close()


async def chain(ledger: Ledger, count: int) -> None:
    """v0, which became v1, which became v2, and so on."""
    for at in range(count):
        written = await accept(ledger, change(f"v{at}", f"v{at - 1}" if at else None))
        assert not written.limit_reached, at


async def old_chain(redis: Redis, count: int) -> None:
    """The same, as versions without a bound stored it."""

    def fields(at: int) -> list[str]:
        before = [f"previous:{visit_task(f'v{at - 1}')}", ""] if at else []
        after = [f"next:{visit_task(f'v{at + 1}')}", ""] if at < count - 1 else []
        return ["changes", "1", "linked", "1", *before, *after]

    await asyncio.gather(*(redis.command("HSET", f"bell:{visit_task(f'v{at}')}", *fields(at)) for at in range(count)))


# -- changes of one visit --


async def test_what_lands_on_a_visit_that_is_full_is_stored_and_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MOST_FIELDS)
    before = await ledger.load_task(visit_task("A"))

    written = await accept(ledger, change("A"), change("B"), key="once")

    event = f"event:{written.delivery_id}"
    parked = await ledger.load_task(event)
    assert ("too_many_changes", False) == (written.limit_reached, written.is_repeat)
    assert ("parked", "too_many_changes") == (parked.state, parked.reason)
    assert [event] == (await ledger.load_delivery_info(written.delivery_id)).task_ids
    assert before == await ledger.load_task(visit_task("A"))
    assert 0 == await redis.command("EXISTS", f"bell:{visit_task('B')}")  # all of a delivery, or nothing
    assert -1 == await redis.command("PTTL", f"bell:delivery:{written.delivery_id}")


def test_the_door_accepts_what_lands_on_a_full_visit_and_an_operator_sees_it(harness: Harness) -> None:
    harness.start_web()
    harness.send("visit.created", "A", time_scheduled=SOON)
    asyncio.run(filled(harness.redis_url, "A"))

    rang = harness.send("visit.updated", "A", time_scheduled=SOON)

    assert (202, 1) == (rang.status_code, rang.json()["changes"])
    [failure] = [json.loads(line) for line in harness.doorbell("failures", "--json").stdout.splitlines()]
    assert (rang.json()["delivery"], "event", "too_many_changes") == tuple(failure[n] for n in ("id", "kind", "reason"))


async def test_a_repeat_of_what_was_parked_for_a_full_visit_is_a_repeat(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MOST_FIELDS)
    first = await accept(ledger, change("A"), key="once")

    again = await accept(ledger, change("A"), key="once")

    assert (first.delivery_id, True) == again[:2]
    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


async def test_a_full_visit_takes_changes_again_once_a_run_has_forgotten_some(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MOST_FIELDS)
    written = await accept(ledger, change("A", version=9_999))
    event = f"event:{written.delivery_id}"
    await ledger.replay(event)
    hold = await ledger.lease(event)
    assert isinstance(hold, Lease)

    with pytest.raises(VisitLimitReached, match="too_many_changes"):
        await ledger.record_changes(hold, "standard", "main", [change("A", version=9_999)], attempt())
    run = await start_run(ledger, "A")
    await ledger.compact(run, run.primary, list(run.primary.changes)[100:])
    await ledger.complete(run, done())
    await ledger.record_changes(hold, "standard", "main", [change("A", version=9_999)], attempt())

    member = await ledger.load_task(visit_task("A"))
    assert f"{written.delivery_id}.0" in member.changes
    assert "queued" == member.state
    assert "done" == await state_of(ledger, event)


async def test_a_full_visit_stops_no_other(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", MOST_FIELDS)

    written = await accept(ledger, change("B"))

    assert not written.limit_reached
    assert "queued" == await state_of(ledger, visit_task("B"))


async def test_the_ids_of_one_visit_share_its_bound(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", "A"))
    await fill(redis, "A", MOST_FIELDS // 2)
    await fill(redis, "B", MOST_FIELDS // 2)

    assert "too_many_changes" == (await accept(ledger, change("A"))).limit_reached
    assert "too_many_changes" == (await accept(ledger, change("C", "B"))).limit_reached


async def test_a_visit_that_is_more_than_a_run_can_read_is_parked_and_not_taken_again(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await fill(redis, "A", 20_001)  # from before there was a bound

    assert "parked" == await ledger.lease(visit_task("A"))

    member = await ledger.load_task(visit_task("A"))
    assert ("parked", "too_many_changes") == (member.state, member.reason)
    assert ["parked"] == [one.outcome for one in member.attempts]
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert 0 == await redis.command("ZCARD", "bell:running")


async def test_the_door_asks_redis_as_much_for_a_visit_of_a_thousand_changes_as_for_one_of_two(
    ledger: Ledger, redis: Redis
) -> None:
    async def asked(visit: str) -> Counter[str]:
        before = await commands(redis)
        await accept(ledger, change(visit))
        after = await commands(redis)
        return Counter({name: count - before[name] for name, count in after.items()}) - Counter({"info": 1})

    await accept(ledger, change("few"))
    await accept(ledger, change("many"))
    await fill(redis, "many", 1_000)

    few = await asked("few")

    assert few == await asked("many")
    assert 9 == sum(few.values()), few  # EVALSHA, TIME, GET, HMGET, SET, ZADD, SADD, HSET, SET


# -- reschedules --


async def test_a_reschedule_too_many_is_stored_and_parked_and_the_visit_goes_on(ledger: Ledger, redis: Redis) -> None:
    await chain(ledger, MOST_IDS)

    written = await accept(ledger, change("one-more", f"v{MOST_IDS - 1}"))

    parked = await ledger.load_task(f"event:{written.delivery_id}")
    assert ("parked", "too_many_reschedules") == (parked.state, parked.reason)
    assert 0 == await redis.command("EXISTS", f"bell:{visit_task('one-more')}")
    last = f"v{MOST_IDS - 1}"
    assert not (await accept(ledger, change(last, f"v{MOST_IDS - 2}"))).limit_reached  # a link that is known
    hold = await complete_run(ledger, last)
    assert MOST_IDS == len(hold.tasks)
    assert 0 == await redis.command("ZCARD", "bell:running")


async def test_two_chains_that_are_too_long_together_stay_two(ledger: Ledger) -> None:
    half = MOST_IDS // 2 + 1
    for name in "ab":
        for at in range(half):
            await accept(ledger, change(f"{name}{at}", f"{name}{at - 1}" if at else None))

    assert "too_many_reschedules" == (await accept(ledger, change("b0", f"a{half - 1}"))).limit_reached
    assert half == len(await ledger.load_aliases(visit_task("a0")))


async def test_a_chain_from_before_the_bound_is_parked_whole_and_nothing_of_it_is_running(
    ledger: Ledger, redis: Redis
) -> None:
    await old_chain(redis, 8_010)
    await accept(ledger, change("v4000"))

    assert "parked" == await ledger.lease(visit_task("v4000"))

    member = await ledger.load_task(visit_task("v4000"))
    assert ("parked", "too_many_reschedules") == (member.state, member.reason)
    assert 0 == await redis.command("ZCARD", "bell:running")
    assert MOST_IDS_READ == len(await ledger.load_aliases(visit_task("v4000")))
    assert "queued" == await ledger.replay(visit_task("v4000"))


async def test_many_changes_of_a_long_chain_do_not_read_all_of_it_again_and_again(ledger: Ledger, redis: Redis) -> None:
    await chain(ledger, 150)
    await fill(redis, "v3", 1_000)
    before = await commands(redis)

    await accept(ledger, change("v7"))

    asked = await commands(redis) - before
    assert 0 == asked["hgetall"]
    assert 150 == asked["hlen"]


# -- leases that run out --


async def lose(ledger: Ledger, redis: Redis, visit: str) -> None:
    """A worker dies with it."""
    await start_run(ledger, visit)
    await backdate(redis, "running")
    await ledger.requeue_due()


async def test_work_whose_lease_ran_out_again_and_again_is_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    for _ in range(MOST_LOST - 1):
        await lose(ledger, redis, "A")
        assert "queued" == await state_of(ledger, visit_task("A"))

    await lose(ledger, redis, "A")

    member = await ledger.load_task(visit_task("A"))
    assert ("parked", "crashed_repeatedly") == (member.state, member.reason)
    assert ["parked"] == [one.outcome for one in member.attempts]
    assert "nothing" == await ledger.lease(visit_task("A"))


async def test_an_operator_replays_what_crashed_and_it_has_all_of_its_chances_again(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    for _ in range(MOST_LOST):
        await lose(ledger, redis, "A")

    await ledger.replay(visit_task("A"))

    await lose(ledger, redis, "A")
    assert "queued" == await state_of(ledger, visit_task("A"))
    await complete_run(ledger, "A")


@pytest.mark.parametrize("ends", [done(), KEPT], ids=lambda end: end.state)
async def test_a_run_that_came_to_an_end_makes_up_for_those_that_did_not(
    ledger: Ledger, redis: Redis, ends: Outcome
) -> None:
    for _ in range(3):
        await accept(ledger, change("A"))
        for _ in range(MOST_LOST - 2):
            await lose(ledger, redis, "A")
        await ledger.complete(await start_run(ledger, "A"), ends)

    assert "parked" != await state_of(ledger, visit_task("A"))


async def test_an_event_that_crashes_is_parked_too(ledger: Ledger, redis: Redis) -> None:
    name = f"event:{(await accept(ledger, event_state='queued')).delivery_id}"
    for _ in range(MOST_LOST):
        assert isinstance(await ledger.lease(name), Lease)
        await backdate(redis, "running")
        await ledger.requeue_due()

    member = await ledger.load_task(name)
    assert ("parked", "crashed_repeatedly") == (member.state, member.reason)


async def test_a_rescheduled_visit_that_crashes_is_parked_once_and_as_a_whole(ledger: Ledger, redis: Redis) -> None:
    await chain(ledger, 3)
    for _ in range(MOST_LOST):
        await lose(ledger, redis, "v1")

    assert [visit_task("v0")] == await ledger.task_ids("parked")
    assert ["parked", "done", "done"] == [member.state for member in await ledger.load_aliases(visit_task("v0"))]
    await ledger.replay(visit_task("v0"))
    assert 3 == len((await complete_run(ledger, "v0")).tasks)


async def test_what_was_lost_together_twice_is_put_to_work_apart(ledger: Ledger, redis: Redis) -> None:
    """One of them may be what ends the workers: the others get their turn without it."""

    async def lose_all() -> list[float]:
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

    first, second = await lose_all(), await lose_all()

    assert 0 == max(first) - min(first)
    assert [250, 250] == [later - sooner for sooner, later in pairwise(second)]


async def test_the_last_chance_is_alone_whenever_the_leases_ran_out(ledger: Ledger, redis: Redis) -> None:
    """Those that only ran beside what ends the workers come to an end without it."""
    for visit in "ABC":
        await accept(ledger, change(visit))
        for _ in range(MOST_LOST - 2):
            await lose(ledger, redis, visit)
    await redis.command("DEL", "bell:queue:visits")

    for visit in "ABC":  # each by a sweep of its own
        await lose(ledger, redis, visit)

    turns = [float(score) for score in (await redis.command("ZRANGE", "bell:queue:visits", 0, -1, "WITHSCORES"))[1::2]]
    assert 3 == len(turns)
    assert all(later - sooner >= ALONE_MS - 1 for sooner, later in pairwise(turns))
    assert turns[0] - 1000 * (await ledger.server_time()).timestamp() > ALONE_MS / 2


async def test_who_waits_for_the_last_chance_waits_an_hour_at_most(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    for _ in range(MOST_LOST - 2):
        await lose(ledger, redis, "A")
    far = 1000 * (await ledger.server_time()).timestamp() + 2 * 3_600_000  # the clock went back, or very many wait
    await redis.command("SET", "bell:alone", int(far))
    await redis.command("DEL", "bell:queue:visits")

    await lose(ledger, redis, "A")

    [_, turn] = await redis.command("ZRANGE", "bell:queue:visits", 0, -1, "WITHSCORES")
    assert float(turn) < far - 3_600_000


# -- names that are none --


@pytest.mark.parametrize("name", ["nonsense", "visit:main", "visit:/A", "event:", "other:main/A", ":", ""])
@pytest.mark.parametrize("state", ["waiting", "running", "queued"])
async def test_a_name_that_is_none_stops_nobody_and_goes(ledger: Ledger, redis: Redis, state: str, name: str) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), KEPT)
    await accept(ledger, change("B"))
    await start_run(ledger, "B")
    await accept(ledger, change("C"))
    await redis.command("DEL", "bell:queue:visits")
    await redis.command("ZADD", f"bell:{state}", 0, name)
    for each in ("waiting", "running", "queued"):
        await backdate(redis, each)

    await ledger.requeue_due()
    await ledger.requeue_orphans()

    assert sorted([visit_task("A"), visit_task("B"), visit_task("C")]) == sorted(await jobs(redis))
    assert None is await redis.command("ZSCORE", f"bell:{state}", name)


async def test_a_name_that_is_none_does_not_keep_a_gate_from_opening(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(
        await start_run(ledger, "A"), Outcome(state="held", attempt=None, reason="rate_limited_locally")
    )
    await redis.command("ZADD", "bell:held:main", -1, "nonsense")
    await redis.command("DEL", "bell:queue:visits")

    assert 1 == await ledger.release_circuit("main")
    assert [visit_task("A")] == await jobs(redis)


# -- dates far ahead --


async def test_a_date_in_the_year_9999_keeps_a_visit_for_two_years_and_the_retention(
    ledger: Ledger, redis: Redis
) -> None:
    day_ms = 86_400_000
    for date, days in (("9999-12-31T00:00:00Z", 2 * 366 + 30), (None, 30)):
        await accept(ledger, change("A"))
        await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): {"event_date": date}}))

        left_ms = await redis.command("PTTL", f"bell:{visit_task('A')}")
        assert (days - 1) * day_ms < left_ms <= days * day_ms


async def test_a_visit_of_next_year_is_kept_until_it_was(ledger: Ledger, redis: Redis) -> None:
    next_year = datetime.now(UTC) + timedelta(days=365)
    await accept(ledger, change("A"))

    await ledger.complete(
        await start_run(ledger, "A"), done(remote={visit_task("A"): {"event_date": next_year.isoformat()}})
    )

    assert 394 * 86_400_000 < await redis.command("PTTL", f"bell:{visit_task('A')}") <= 395 * 86_400_000


# -- work of an account that left the settings --

EAST = "visit:east/standard-1"


async def hold_in_east(world: World) -> str:
    """A visit of an account with no token, held for the rate of calls; the id of its delivery."""
    delivery = Delivery("standard", "standard", (), b"east", datetime.now(UTC))
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await world.ledger.accept(delivery, meta, [booked()], "east", dedup_id=None)
    hold = await world.ledger.lease(EAST, "east", True)
    assert isinstance(hold, Lease)
    await world.ledger.complete(hold, Outcome(state="held", attempt=None, reason="rate_limited_locally"), "east")
    return written.delivery_id


def told(world: World, *command: str) -> list[Any]:
    """What the command line prints, by lines."""
    ran = world.harness.doorbell(*command, "--json")
    return [json.loads(line) for line in ran.stdout.splitlines()]


async def test_what_is_held_is_seen_also_when_its_account_left_the_settings(world: World) -> None:
    delivery = await hold_in_east(world)

    assert [1] == [one["states"]["held"] for one in told(world, "overview")]
    assert [delivery] == [row["delivery"] for row in told(world, "deliveries", "--state", "held")]
    assert [("standard-1", "east", "held")] == [
        (row["visit"], row["account"], row["state"]) for row in told(world, "visit", "standard-1")
    ]
    assert 0 < (await load_backlog(world.redis, ["main"])).ages_s["held"]
    warned = [check for check in told(world, "doctor") if check["check"] == "visits_api east"]
    assert ["1 tasks held: the account has no token"] == [check["detail"] for check in warned]
    exposition, _ = (await metrics.snapshot(world.ledger, world.context.settings)).encode()
    assert f'{metric_names.TASKS}{{state="held"}} 1.0' in exposition.decode().splitlines()


async def test_what_was_held_for_an_account_that_has_no_token_any_more_is_parked_for_that(world: World) -> None:
    await hold_in_east(world)

    await _release_circuits(world.context)
    await world.run()

    member = await world.ledger.load_task(EAST)
    assert ("parked", "token_missing") == (member.state, member.reason)
    assert ["token_missing"] == [row["reason"] for row in told(world, "failures")]
    assert [("standard-1", "parked")] == [(row["visit"], row["state"]) for row in told(world, "visit", "standard-1")]


# -- with a real worker --

FIRST_SEEN = datetime(2026, 3, 14, 9, tzinfo=UTC)


async def flood(redis_url: str, count: int, at_once: int) -> int:
    """So many small changes of one Workiz job that was done all the while, as its automation in a loop would send them; how
    many of them a bound of the visit parked. at_once: how many the visit has before the sender waits for the worker."""
    redis = Redis(RedisAddress(redis_url))
    ledger = Ledger(redis, retention_days=30)

    def seen(at: int) -> VisitChange:
        done_at = FIRST_SEEN + timedelta(seconds=at)
        said = {"contact": ADA, "time_scheduled": FIRST_SEEN, "time_completed": done_at}
        return VisitChange(action="update", visit_id="loop", version=at, times_are_observed=True, **said)  # type: ignore[arg-type]

    async def land(at: int) -> AcceptResult:
        delivery = Delivery("workiz", "workiz", (), b"%d" % at, datetime.now(UTC))
        meta = DeliveryInfo("workiz", "workiz", 1_790_000_000_000)
        return await ledger.accept(delivery, meta, [seen(at)], "main", dedup_id=None)

    try:
        bounds = 0
        for start in range(0, count, 100):
            bounds += sum(
                bool(one.limit_reached) for one in await asyncio.gather(*map(land, range(start, start + 100)))
            )
            for _ in range(3_000):
                if await redis.command("HLEN", "bell:visit:main/workiz-loop") <= at_once:
                    break
                await asyncio.sleep(0.02)
        return bounds
    finally:
        await redis.close()


@pytest.mark.parametrize("is_backlog", [False, True], ids=["while the worker runs", "before it starts"])
def test_a_visit_in_a_loop_does_not_keep_others_from_being_made(harness: Harness, is_backlog: bool) -> None:
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

    assert "2026-03-14T09:00:00Z" == loop["time_completed"]  # it was seen then for the first time
    assert parked == harness.redis_command("ZCARD", "bell:parked")
    assert parked in (range(3_000, 3_050) if is_backlog else [0])
    wait_until(lambda: harness.redis_command("HLEN", "bell:visit:main/workiz-loop") < 500, 60)
    assert not harness.redis_command("EXISTS", "bell:circuit:main")


async def test_what_was_parked_for_a_full_visit_is_replayed_and_decides(world: World) -> None:
    await world.apply(booked(version=1))
    await fill(world.redis, "1", MOST_FIELDS)
    raw = standard_body("visit.completed", "1", "2026-03-15T10:00:00Z", time_completed="2026-03-15T09:30:00Z")
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    moved = VisitChange(action="update", visit_id="1", version=1, time_completed=FIRST_SEEN)
    meta = DeliveryInfo("standard", "standard", 1_790_000_000_000)
    written = await world.ledger.accept(delivery, meta, [moved], "main", dedup_id=None)
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
