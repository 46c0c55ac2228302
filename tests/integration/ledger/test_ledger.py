"""The ledger's steps, on a real Redis: what is written, who may work on it, and that nothing accepted disappears."""

import asyncio
import itertools
import json
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from arq.jobs import deserialize_job_raw
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.demo.valkey import valkey
from app.ledger.ledger import Ledger
from app.ledger.records import (
    AcceptResult,
    Attempt,
    CircuitSignal,
    DeliveryInfo,
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
    Queue,
)
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery

T = TypeVar("T")

STATES = ("queued", "running", "waiting", "held:main", "parked", "discarded")


def change(visit: str, continues: str | None = None, order: int = 1, **said: Any) -> VisitChange:
    return VisitChange(action="update", visit_id=visit, order=order, continues=continues, **said)


def work(visit: str) -> str:
    return f"visit:main/standard-{visit}"


async def accept(
    ledger: Ledger, *changes: VisitChange, key: str | None = None, raw: bytes = b"", **how: Any
) -> AcceptResult:
    """A delivery of the `standard` source; a new one each time unless it has a key."""
    key = f"evt-{next(_numbers)}" if key is None else key
    delivery = Delivery(how.pop("hook", "standard"), "standard", (), raw or key.encode(), datetime.now(UTC))
    meta = DeliveryInfo(hook=delivery.hook, source="standard", received_at_ms=1_790_000_000_000)
    return await ledger.accept(delivery, meta, changes, "main", dedup_id=key, **how)


_numbers = itertools.count()


def attempt(outcome: str = "updated", at: int = 1) -> Attempt:
    return Attempt(started_at_ms=at, took_ms=1, outcome=outcome)


def settled(**more: Any) -> Outcome:
    return Outcome(state="settled", attempt=attempt(), **more)


def waiting(retry_in_s: float = 60, failed_attempts: int | None = 1, **more: Any) -> Outcome:
    return Outcome(
        state="waiting",
        attempt=attempt("unanswered"),
        reason="timeout",
        retry_in_s=retry_in_s,
        failed_attempts=failed_attempts,
        **more,
    )


def parked(reason: str = "422", **more: Any) -> Outcome:
    return Outcome(state="parked", attempt=attempt("refused"), reason=reason, failed_attempts=1, **more)


async def begin(ledger: Ledger, visit: str, gate: str = "") -> Lease:
    hold = await ledger.lease(work(visit), gate)
    assert isinstance(hold, Lease), hold
    return hold


async def work_off(ledger: Ledger, visit: str) -> Lease:
    hold = await begin(ledger, visit)
    await ledger.complete(hold, settled())
    return hold


async def backdate(redis: Redis, state: str, *works: str) -> None:
    """As if a day had passed since: leases end, waits are over."""
    for name in works or [name.decode() for name in await redis.command("ZRANGE", f"db:{state}", 0, -1)]:
        await redis.command("ZINCRBY", f"db:{state}", -86_400_000, name)


async def state_of(ledger: Ledger, name: str) -> str:
    return (await ledger.load_task(name)).state


LANES: dict[Queue, str] = {"visit": "db:jobs", "event": "db:jobs:event", "replay": "db:jobs:replay"}


async def jobs(redis: Redis, *lanes: Queue) -> list[str]:
    """What the jobs in arq's queue are about, in order."""
    queued = [await redis.command("ZRANGE", LANES[lane], 0, -1) for lane in lanes or LANES]
    names = [job.decode() for each in queued for job in each]
    return [name.rpartition("#")[0] for name in names if await redis.command("EXISTS", f"arq:job:{name}")]


async def everything(redis: Redis) -> set[bytes]:
    return set(await redis.command("KEYS", "*"))


# -- accept --


async def test_an_accepted_change_stands_as_fact_with_a_job_that_arq_can_read(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", order=7))

    member = await ledger.load_task(work("A"))
    assert not written.is_repeat
    assert ("queued", 1, 0) == (member.state, member.change_count, member.applied_count)
    assert [f"{written.delivery_id}.0"] == list(member.changes)
    assert {"a": "update", "o": 7, "f": {}} == json.loads(member.changes[f"{written.delivery_id}.0"].partition(b" ")[2])
    [job] = await redis.command("ZRANGE", "db:jobs", 0, -1)
    function, args, kwargs, job_try, _ = deserialize_job_raw(
        await redis.command("GET", b"arq:job:" + job), deserializer=json.loads
    )
    assert ("visit", ["main/standard-A"], {}, None) == (function, args, kwargs, job_try)


async def test_a_delivery_comes_back_as_it_was_written(ledger: Ledger) -> None:
    raw = bytes(range(256)) * 1_024
    delivery = Delivery("shop", "standard", (), raw, datetime.now(UTC))
    meta = DeliveryInfo(
        "shop", "standard", 1_790_000_000_123, 'a "name"\n\u2028', "request-1", 1, "", {"webhook-id": "\x00é\n"}
    )

    written = await ledger.accept(delivery, meta, [change("A"), change("B")], "main", dedup_id=None)

    kept, body = await ledger.load_delivery(written.delivery_id)
    assert raw == body
    assert ("shop", 1_790_000_000_123, 'a "name"\n\u2028', {"webhook-id": "\x00é\n"}) == (
        kept.hook,
        kept.received_at_ms,
        kept.event_name,
        kept.headers,
    )
    assert [work("A"), work("B")] == kept.task_ids
    assert [written.delivery_id] == await ledger.newest_delivery_ids(["shop"], 10)


async def test_newer_deliveries_have_greater_ids(ledger: Ledger) -> None:
    first = await accept(ledger)
    await asyncio.sleep(0.002)
    second = await accept(ledger)

    assert first.delivery_id < second.delivery_id
    assert [second.delivery_id, first.delivery_id] == await ledger.newest_delivery_ids(["standard"], 10)


async def test_a_repeat_is_told_the_first_id_and_writes_nothing(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, change("A"), key="evt", raw=b"one")
    before = await everything(redis)

    repeat = await accept(ledger, change("A"), change("B"), key="evt", raw=b"another body of the same event")

    assert AcceptResult(first.delivery_id, is_repeat=True) == repeat
    assert before == await everything(redis)
    assert 1 == (await ledger.load_task(work("A"))).change_count


async def test_of_many_at_once_over_several_connections_exactly_one_is_the_first(redis_url: str, redis: Redis) -> None:
    connections = [Redis(RedisAddress(redis_url)) for _ in range(4)]
    ledgers = [Ledger(connection, retention_days=30) for connection in connections]

    written = await asyncio.gather(*(accept(ledgers[n % 4], change("A"), key="evt") for n in range(200)))

    assert 1 == sum(not one.is_repeat for one in written)
    assert 1 == len({one.delivery_id for one in written})
    assert 1 == (await Ledger(redis, 30).load_task(work("A"))).change_count
    for connection in connections:
        await connection.close()


async def test_the_same_event_at_another_hook_is_another_one(ledger: Ledger) -> None:
    one = await accept(ledger, key="evt", hook="standard")
    other = await accept(ledger, key="evt", hook="shop")

    assert (False, False) == (one.is_repeat, other.is_repeat)


async def test_a_body_that_looks_like_a_key_is_no_repeat_of_it(ledger: Ledger) -> None:
    delivery = Delivery("standard", "standard", (), b"evt", datetime.now(UTC))
    await accept(ledger, key="evt")

    by_body = await ledger.accept(delivery, DeliveryInfo("standard", "standard", 0), [], "main", dedup_id=None)

    assert not by_body.is_repeat


async def test_an_event_is_known_for_eight_days_and_kept_for_the_retention(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, key="evt")

    [seen] = await redis.command("KEYS", "db:seen:*")
    assert 691_200 - 5 <= await redis.command("TTL", seen) <= 691_200  # 8 * 86400
    assert 2_592_000 - 5 <= await redis.command("TTL", f"db:delivery:{written.delivery_id}") <= 2_592_000  # 30 * 86400


async def test_every_change_of_a_delivery_lands_also_two_for_one_visit(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", order=1), change("B"), change("A", order=2))

    one, other = await ledger.load_task(work("A")), await ledger.load_task(work("B"))
    assert (2, 1) == (one.change_count, other.change_count)
    assert {f"{written.delivery_id}.0", f"{written.delivery_id}.2"} == set(one.changes)
    assert [work("A"), work("B")] == sorted(await jobs(redis))


async def test_ten_changes_waiting_for_one_visit_are_one_job(ledger: Ledger, redis: Redis) -> None:
    for order in range(10):
        await accept(ledger, change("A", order=order))

    assert [work("A")] == await jobs(redis)
    assert 10 == len((await begin(ledger, "A")).primary.recorded_changes())


async def test_an_event_to_fetch_is_queued_and_one_not_understood_is_parked(ledger: Ledger, redis: Redis) -> None:
    thin = await accept(ledger, event_state="queued")
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")

    assert ["event:" + thin.delivery_id] == await jobs(redis)
    assert ["event:" + odd.delivery_id] == await ledger.task_ids("parked")
    member = await ledger.load_task("event:" + odd.delivery_id)
    assert ("parked", "untranslatable: type") == (member.state, member.reason)


async def test_nothing_about_a_person_is_in_what_arq_reads(ledger: Ledger, redis: Redis) -> None:
    contact = Contact(email="canary@example.com", first_name="Canary", phone="+15550100099")
    await accept(ledger, change("A", contact=contact), raw=b"canary body")

    kept = [key + (await redis.command("GET", key)) for key in await redis.command("KEYS", "arq:*")]
    kept += await redis.command("ZRANGE", "db:jobs", 0, -1)
    assert kept
    assert not [one for one in kept if b"canary" in one.lower() or b"0100099" in one]


# -- repeats of what went wrong --


async def test_a_repeat_puts_a_parked_visit_back_to_work(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await begin(ledger, "A"), parked())

    assert (await accept(ledger, change("A"), key="evt")).is_repeat

    assert "queued" == await state_of(ledger, work("A"))
    assert [] == await ledger.task_ids("parked")
    assert 1 == len((await begin(ledger, "A")).tasks)


async def test_a_repeat_puts_a_parked_event_back_to_work(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


@pytest.mark.parametrize("came_of_it", [settled(), waiting()], ids=["settled", "waiting"])
async def test_a_repeat_leaves_alone_what_did_not_fail(ledger: Ledger, came_of_it: Outcome) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await begin(ledger, "A"), came_of_it)

    await accept(ledger, change("A"), key="evt")

    assert came_of_it.state == await state_of(ledger, work("A"))


async def test_a_repeat_of_a_look_alike_is_fetched_anew(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    hold = await ledger.lease(f"event:{first.delivery_id}")
    assert isinstance(hold, Lease)
    await ledger.record_changes(hold, "standard", "main", [change("A")], attempt())

    await accept(ledger, key="evt", event_state="queued", refetch=True)

    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


@pytest.mark.parametrize("ends", ["landed", "released"])
async def test_a_look_alike_that_rings_during_the_fetch_is_fetched_after_it(ledger: Ledger, ends: str) -> None:
    # Two reschedules of an Acuity appointment are the same to the byte: the fetch under way may have read the first.
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    name = f"event:{first.delivery_id}"
    hold = await ledger.lease(name)
    assert isinstance(hold, Lease)

    await accept(ledger, key="evt", event_state="queued", refetch=True)
    if ends == "landed":
        await ledger.record_changes(hold, "standard", "main", [change("A")], attempt())
    else:
        await ledger.complete(hold, settled())

    assert "queued" == await state_of(ledger, name)


async def fetched(ledger: Ledger, name: str, meanwhile: int = 0) -> None:
    """A run over the event, during which it rings so many times."""
    hold = await ledger.lease(name)
    assert isinstance(hold, Lease)
    for _ in range(meanwhile):
        await accept(ledger, key="evt", event_state="queued", refetch=True)
    await ledger.record_changes(hold, "standard", "main", [change("A")], attempt())


@pytest.mark.parametrize("meanwhile", [0, 3])
async def test_a_look_alike_that_is_sent_again_and_again_is_fetched_once_a_minute(
    ledger: Ledger, redis: Redis, meanwhile: int
) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    name = f"event:{first.delivery_id}"
    await fetched(ledger, name)
    await accept(ledger, key="evt", event_state="queued", refetch=True)
    await fetched(ledger, name, meanwhile)  # the first repeat is not waited with

    came_of_it = []
    for minute in range(4):
        for _ in range(20):
            await accept(ledger, key="evt", event_state="queued", refetch=True)
        came_of_it.append(await state_of(ledger, name))
        [_, due] = await redis.command("ZRANGE", "db:waiting", 0, -1, "WITHSCORES")
        left_ms = float(due) - (await ledger.server_time()).timestamp() * 1000
        assert 0 < left_ms <= 60_000, minute
        await redis.command("ZINCRBY", "db:waiting", -int(left_ms + 1), name)
        await redis.command("HINCRBY", f"db:{name}", "again", -int(left_ms + 1))
        assert 1 == await ledger.requeue_due()
        await fetched(ledger, name, meanwhile)

    assert ["waiting"] * 4 == came_of_it


async def test_what_was_parked_is_put_back_by_repeats_once_a_minute(ledger: Ledger) -> None:
    first = await accept(ledger, change("A"), key="evt")
    for expected in ("queued", "waiting"):
        hold = await begin(ledger, "A")
        await ledger.complete(hold, Outcome(state="parked", attempt=attempt(), reason="422"))
        await accept(ledger, change("A"), key="evt")
        assert expected == await state_of(ledger, work("A"))

    # An operator is not made to wait.
    await ledger.replay(work("A"))
    assert "queued" == await state_of(ledger, work("A"))
    assert (await ledger.load_delivery_info(first.delivery_id)).task_ids == [work("A")]


# -- lease --


async def test_work_is_given_to_one_worker_and_then_to_nobody_until_something_lands(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    hold = await begin(ledger, "A")
    meanwhile = await ledger.lease(work("A"))
    await ledger.complete(hold, settled(remote={work("A"): {"id": 9}}))
    afterwards = await ledger.lease(work("A"))
    await accept(ledger, change("A"))
    again = await begin(ledger, "A")

    assert ("busy", "nothing") == (meanwhile, afterwards)
    assert ({"id": 9}, 2, 1, True) == (
        again.primary.remote,
        again.primary.change_count,
        again.primary.applied_count,
        again.primary.was_attempted,
    )


async def test_of_many_workers_at_once_one_gets_the_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))

    answers = await asyncio.gather(*(ledger.lease(work("A")) for _ in range(50)))

    assert 1 == sum(isinstance(answer, Lease) for answer in answers)
    assert 49 == answers.count("busy")


async def test_to_begin_what_nobody_knows_finds_nothing_and_leaves_nothing_behind(ledger: Ledger, redis: Redis) -> None:
    assert "nothing" == await ledger.lease(work("A"))
    assert set() == await everything(redis)
    with pytest.raises(NotFound):
        await ledger.load_task(work("A"))
    with pytest.raises(NotFound):
        await ledger.load_aliases(work("A"))


async def test_a_lease_ends_within_a_minute(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await begin(ledger, "A")

    left_ms = (
        float(await redis.command("ZSCORE", "db:running", work("A"))) - (await ledger.server_time()).timestamp() * 1_000
    )
    assert 0 < left_ms <= 60_000


@pytest.mark.parametrize("is_swept", [True, False], ids=["swept", "not swept yet"])
async def test_work_of_a_dead_worker_goes_to_another_and_the_late_release_is_lost(
    ledger: Ledger, redis: Redis, is_swept: bool
) -> None:
    await accept(ledger, change("A"))
    dead = await begin(ledger, "A")
    await backdate(redis, "running")
    assert not is_swept or 1 == await ledger.requeue_due()

    heir = await begin(ledger, "A")
    with pytest.raises(LeaseLost):
        await ledger.complete(dead, settled(remote={work("A"): {"id": 1}}))
    await ledger.complete(heir, settled(remote={work("A"): {"id": 2}}))

    member = await ledger.load_task(work("A"))
    assert ("settled", {"id": 2}, 1) == (member.state, member.remote, len(member.attempts))


async def test_a_swept_lease_has_a_job_again(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", *(await redis.command("KEYS", "arq:job:*")), "db:jobs")
    await begin(ledger, "A")
    await backdate(redis, "running")

    await ledger.requeue_due()

    assert [work("A")] == await jobs(redis)
    assert "queued" == await state_of(ledger, work("A"))


async def test_a_change_that_lands_during_a_run_is_queued_after_it(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    hold = await begin(ledger, "A")

    await accept(ledger, change("A"))
    during = await state_of(ledger, work("A"))
    await ledger.complete(hold, settled())

    member = await ledger.load_task(work("A"))
    assert ("running", "queued", 2, 1) == (during, member.state, member.change_count, member.applied_count)
    assert work("A") in await jobs(redis)


async def test_a_change_that_lands_during_a_parking_run_is_worked_on(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await begin(ledger, "A")

    await accept(ledger, change("A"))
    await ledger.complete(hold, parked())

    assert "queued" == await state_of(ledger, work("A"))


async def test_a_change_that_lands_on_parked_work_puts_it_back_to_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, work("A"))


async def test_a_change_that_lands_on_parked_work_gets_its_own_three_days(ledger: Ledger) -> None:
    # What failed for three days was parked; a change of today must not be parked by its first trouble.
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), parked())

    await accept(ledger, change("A"))

    assert None is (await begin(ledger, "A")).primary.failing_since_ms


async def test_waiting_work_waits_until_it_is_due_and_says_when(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), waiting(retry_in_s=60, failed_attempts=3))

    early = await ledger.requeue_due()
    member = await ledger.load_task(work("A"))
    await backdate(redis, "waiting")
    late = await ledger.requeue_due()

    assert (0, 1) == (early, late)
    assert ("waiting", 3, "timeout") == (member.state, member.failed_attempts, member.reason)
    now_ms = (await ledger.server_time()).timestamp() * 1_000
    assert member.retry_at_ms is not None
    assert now_ms < member.retry_at_ms <= now_ms + 60_000
    assert "queued" == await state_of(ledger, work("A"))


async def test_after_trouble_a_new_change_waits_for_the_next_try(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), waiting(failed_attempts=1))

    await accept(ledger, change("A"))

    assert "waiting" == await state_of(ledger, work("A"))


async def test_work_that_waits_for_facts_is_woken_by_a_new_change(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), waiting(retry_in_s=86_400, failed_attempts=None))

    await accept(ledger, change("A"))

    assert "queued" == await state_of(ledger, work("A"))


async def test_no_name_of_a_job_is_used_twice(ledger: Ledger, redis: Redis) -> None:
    names = set()
    for _ in range(4):
        await accept(ledger, change("A"))
        names |= set(await redis.command("ZRANGE", "db:jobs", 0, -1))
        await redis.command("DEL", "db:jobs")
        await work_off(ledger, "A")

    assert 4 == len(names)


async def test_the_last_hundred_attempts_are_kept_in_their_order(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    for at in range(1, 111):
        await ledger.replay(work("A"))
        await ledger.complete(await begin(ledger, "A"), Outcome(state="settled", attempt=attempt(at=at)))

    attempts = (await ledger.load_task(work("A"))).attempts
    assert list(range(11, 111)) == [one.started_at_ms for one in attempts]


@pytest.mark.parametrize("ends", ["settled", "parked", "waiting", "held"])
async def test_what_the_api_answered_is_remembered_however_a_run_ends(ledger: Ledger, ends: Any) -> None:
    await accept(ledger, change("A"))
    outcome = Outcome(state=ends, attempt=attempt(), remote={work("A"): {"id": 7}})
    await ledger.complete(await begin(ledger, "A"), outcome)
    kept = (await ledger.load_task(work("A"))).remote
    await ledger.replay(work("A"))

    await ledger.complete(await begin(ledger, "A"), settled(remote={work("A"): None}))

    member = await ledger.load_task(work("A"))
    assert ({"id": 7}, None, False) == (kept, member.remote, member.was_attempted)


# -- gate --


async def held(ledger: Ledger, visit: str, verdict: CircuitSignal) -> None:
    await accept(ledger, change(visit))
    hold = await begin(ledger, visit, gate="main")
    await ledger.complete(hold, Outcome(state="held", attempt=attempt(), circuit_signal=verdict), account="main")


async def let_time_pass(redis: Redis, gate: str = "main") -> None:
    await redis.command("HSET", f"db:gate:{gate}", "until", 1)


async def test_behind_a_shut_gate_work_is_held_until_one_probe_is_let_out(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit in "BC":
        await accept(ledger, change(visit))
    answers = [await ledger.lease(work(visit), account="main") for visit in "BC"]
    early = await ledger.release_circuit("main")

    await let_time_pass(redis)
    probes = await ledger.release_circuit("main")
    more_probes = await ledger.release_circuit("main")

    assert (["held", "held"], 0, 1, 0) == (answers, early, probes, more_probes)
    assert [work("A")] == await ledger.task_ids("queued")
    probe = await begin(ledger, "A", gate="main")
    await ledger.complete(probe, settled(circuit_signal=CircuitSignal(kind="ok")), account="main")
    assert 2 == await ledger.release_circuit("main")
    assert {work("B"), work("C")} == set(await ledger.task_ids("queued"))


@pytest.mark.parametrize("why", ["ok", "down", "unauthorized", "rate_limited"])
async def test_what_an_operator_paused_no_answer_opens(ledger: Ledger, redis: Redis, why: str) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    in_hand = await begin(ledger, "A", gate="main")

    assert [True, False] == [await ledger.pause("main"), await ledger.pause("main")]
    await ledger.complete(in_hand, settled(circuit_signal=CircuitSignal(kind=why)), account="main")
    assert ["held", "held"] == [await ledger.lease(work(visit), account="main") for visit in "BC"]
    assert 0 == await ledger.release_circuit("main")
    assert b"paused" == await redis.command("HGET", "db:gate:main", "why")

    assert [True, False] == [await ledger.pause("main", False), await ledger.pause("main", False)]
    assert 2 == await ledger.release_circuit("main")
    assert [0, 0] == [(await ledger.load_task(work(visit))).failed_attempts for visit in "BC"]


async def test_a_gate_that_trouble_shut_is_not_what_an_operator_resumes(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="down", pause_s=60))

    assert not await ledger.pause("main", False)
    assert b"down" == await redis.command("HGET", "db:gate:main", "why")


async def test_a_probe_that_fails_shuts_the_gate_again(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    assert "held" == await ledger.lease(work("B"), account="main")
    await let_time_pass(redis)
    assert 1 == await ledger.release_circuit("main")

    probe = await begin(ledger, "A", gate="main")
    again = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30))
    await ledger.complete(probe, again, account="main")

    assert 0 == await ledger.release_circuit("main")
    assert {work("A"), work("B")} == set(await ledger.task_ids("held:main"))  # type: ignore[arg-type]


async def test_a_probe_that_dies_is_replaced(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    assert "held" == await ledger.lease(work("B"), account="main")
    await let_time_pass(redis)
    assert 1 == await ledger.release_circuit("main")
    await begin(ledger, "A", gate="main")  # the probe, and it is never heard of again

    await let_time_pass(redis)

    assert 1 == await ledger.release_circuit("main")
    assert [work("B")] == await ledger.task_ids("queued")


async def test_a_gate_of_one_account_holds_no_other(ledger: Ledger) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))

    assert isinstance(await ledger.lease(work("B"), account="shop"), Lease)


async def test_trouble_of_one_visit_shuts_no_gate_but_that_of_three_does(ledger: Ledger) -> None:
    down = CircuitSignal(kind="down", pause_s=30, threshold=3)
    seen = []
    for visit in "ABC":
        await accept(ledger, change(visit))
        hold = await begin(ledger, visit, gate="main")
        await ledger.complete(hold, waiting(circuit_signal=down), account="main")
        await ledger.complete(await _replayed(ledger, visit), waiting(circuit_signal=down), account="main")
        await accept(ledger, change(f"{visit}2"))
        seen.append(await ledger.lease(work(f"{visit}2"), account="main"))

    assert ["yours", "yours", "held"] == ["yours" if isinstance(one, Lease) else one for one in seen]


DOWN = CircuitSignal(kind="down", pause_s=30, threshold=3)


async def fails(ledger: Ledger, visit: str, took_ms: int = 1) -> bool:
    """A run over a new visit ends in trouble. Whether the account's calls are held now."""
    await accept(ledger, change(visit))
    trouble = Attempt(started_at_ms=1, took_ms=took_ms, outcome="broken")
    outcome = Outcome(
        state="waiting", attempt=trouble, reason="500", retry_in_s=60, failed_attempts=1, circuit_signal=DOWN
    )
    await ledger.complete(await begin(ledger, visit), outcome, account="main")
    return bool(await ledger.redis.command("EXISTS", "db:gate:main"))


async def answers_of_late(redis: Redis, *seconds_ago: float) -> None:
    """So long ago some calls of other visits succeeded."""
    now_ms = int(time.time() * 1000)
    await redis.command("RPUSH", "db:answers:main", *(f"+{now_ms - int(ago * 1000)}" for ago in seconds_ago))


async def test_a_visit_that_failed_before_shuts_no_gate(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABCDE":
        await accept(ledger, change(visit))
        await ledger.complete(await begin(ledger, visit), waiting(failed_attempts=3))  # seen by nobody
    await backdate(redis, "waiting")
    await ledger.requeue_due()

    for visit in "ABCDE":
        again = waiting(failed_attempts=4, circuit_signal=DOWN)
        await ledger.complete(await begin(ledger, visit), again, account="main")

    assert not await redis.command("EXISTS", "db:gate:main")


@pytest.mark.parametrize(("succeeded", "failures_until_shut"), [(0, 3), (1, 4), (2, 8), (20, 16)])
async def test_the_share_of_failures_among_the_newest_answers_shuts_the_gate(
    ledger: Ledger, redis: Redis, succeeded: int, failures_until_shut: int
) -> None:
    if succeeded:
        await answers_of_late(redis, *(5 for _ in range(succeeded)))

    shut = [await fails(ledger, f"V{number}") for number in range(20)]

    assert failures_until_shut == shut.index(True) + 1


@pytest.mark.parametrize(("took_ms", "ago_s", "shuts"), [(10, 5, True), (10_000, 5, False), (10, 0.2, False)])
async def test_while_others_succeed_a_failure_is_a_visits_own(
    ledger: Ledger, redis: Redis, took_ms: int, ago_s: float, shuts: bool
) -> None:
    """Two hundred look-ups that hang for ten seconds end at the same time, and others went through meanwhile."""
    await answers_of_late(redis, ago_s)

    shut = [await fails(ledger, f"V{number}", took_ms) for number in range(10)]

    assert shuts == shut[-1]


async def test_while_the_gate_is_shut_only_a_probe_says_anything_new(ledger: Ledger, redis: Redis) -> None:
    for visit in "DE":
        await accept(ledger, change(visit))
    under_way = [await begin(ledger, visit, gate="main") for visit in "DE"]
    assert [False, False, True] == [await fails(ledger, visit) for visit in "ABC"]
    before = await redis.command("HGETALL", "db:gate:main")

    for hold in under_way:
        await ledger.complete(hold, waiting(circuit_signal=DOWN), account="main")

    assert before == await redis.command("HGETALL", "db:gate:main")


async def test_the_pauses_between_probes_double_up_to_the_longest(ledger: Ledger, redis: Redis) -> None:
    pauses = []
    for visit in ("A", "B", "C", "D", "E", "F", "G", "H", "I"):
        is_shut = await redis.command("EXISTS", "db:gate:main")
        if is_shut:  # this one is the probe
            await redis.command("HSET", "db:gate:main", "probe", work(visit))
        await accept(ledger, change(visit))
        hold = await ledger.lease(work(visit), account="main")
        assert isinstance(hold, Lease)
        before_ms = (await ledger.server_time()).timestamp() * 1000
        await ledger.complete(hold, waiting(circuit_signal=DOWN), account="main")
        if until := await redis.command("HGET", "db:gate:main", "until"):
            pauses.append(round((float(until) - before_ms) / 1000))

    assert [1, 2, 4, 8, 16, 30, 30] == pauses


async def test_what_never_failed_probes_and_comes_out_first(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await accept(ledger, change(visit, time_scheduled=on_day(1)))
        await ledger.complete(await begin(ledger, visit), waiting(failed_attempts=1))
    await backdate(redis, "waiting")
    await ledger.requeue_due()
    for visit in "CD":
        await accept(ledger, change(visit, time_scheduled=on_day(9)))
    await ledger.pause("main")
    for visit in "ABCD":
        assert "held" == await ledger.lease(work(visit), account="main")
    await redis.command("HSET", "db:gate:main", "why", "down", "until", 1)

    await ledger.release_circuit("main")
    [probe] = await ledger.task_ids("queued")
    await ledger.complete(
        await begin(ledger, probe[-1], gate="main"), settled(circuit_signal=CircuitSignal(kind="ok")), account="main"
    )
    await ledger.release_circuit("main")

    assert work("C") == probe
    assert [work("D"), work("A"), work("B")] == (await jobs(redis, "visit"))[-3:]


async def test_at_a_rate_no_visit_is_overtaken_for_ever(ledger: Ledger, redis: Redis) -> None:
    """Visits of yesterday keep coming, and have been at work for less long than one of next month."""
    await accept(ledger, change("patient", time_scheduled=on_day(28)))
    first = await ledger.lease(work("patient"), "main", is_rate_limited=True)
    assert isinstance(first, Lease)
    await redis.command("HINCRBY", f"db:{work('patient')}", "since", -60_000)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    out = set[str]()
    for number in range(100):
        for half in "ab":
            await accept(ledger, change(f"past-{number}{half}", time_scheduled=on_day(1)))
            await ledger.lease(work(f"past-{number}{half}"), "main", is_rate_limited=True)
        await ledger.release_circuit("main", limit=1, calls_per_second=1_000)
        out |= set(await ledger.task_ids("queued"))
        if work("patient") in out:
            break

    assert work("patient") in out
    assert 0 == await redis.command("ZCARD", "db:ages:main") - await redis.command("ZCARD", "db:held:main")


async def _replayed(ledger: Ledger, visit: str) -> Lease:
    await ledger.replay(work(visit))
    return await begin(ledger, visit)


async def test_a_success_does_not_open_what_the_api_shut_for_a_time(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B"))
    before = await begin(ledger, "B", gate="main")
    await held(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=30))

    await ledger.complete(before, settled(circuit_signal=CircuitSignal(kind="ok")), account="main")
    early = await ledger.release_circuit("main")
    await let_time_pass(redis)
    late = await ledger.release_circuit("main")

    assert (0, 1) == (early, late)
    assert isinstance(await ledger.lease(work("A"), account="main"), Lease)


def on_day(day: int) -> datetime:
    return datetime(2026, 10, day, 9, tzinfo=UTC)


async def test_of_what_was_held_the_visit_that_starts_soonest_goes_first(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("A", order=2, time_scheduled=on_day(3)))
    for visit, day in (("B", 9), ("C", 2), ("D", 5)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    await accept(ledger, change("B", order=2, time_scheduled=on_day(1)))  # moved to the front
    await accept(ledger, change("D", order=2, time_completed=on_day(4)))
    for visit in "BCD":
        assert "held" == await ledger.lease(work(visit), account="main")
    await redis.command("DEL", "db:gate:main")

    out = [await ledger.release_circuit("main", limit=3)]
    await asyncio.sleep(0.002)
    out.append(await ledger.release_circuit("main", limit=3))

    assert [3, 1] == out
    # A was held before it was known when it is: it may be a cancel, and goes before all others.
    assert [work("A"), work("B"), work("C"), work("D")] == (await jobs(redis))[-4:]


async def test_a_visit_that_always_fails_is_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit, day in (("B", 2), ("C", 3)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
        assert "held" == await ledger.lease(work(visit), account="main")

    probes = []
    for _ in range(4):
        await let_time_pass(redis)
        assert 1 == await ledger.release_circuit("main")
        [probe] = await ledger.task_ids("queued")
        probes.append(probe)
        hold = await ledger.lease(probe, account="main")
        assert isinstance(hold, Lease)
        refused = Outcome(
            state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30)
        )
        await ledger.complete(hold, refused, account="main")

    assert [work("A"), work("B"), work("C"), work("A")] == probes


async def test_visits_of_one_tool_that_all_fail_are_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    """There are more of them than are looked at, they start first, and new ones keep coming."""
    for visit in "ABC":
        await fails(ledger, visit)
    for number in range(60):
        await accept(ledger, change(f"bad-{number}", time_scheduled=on_day(1)))
        assert "held" == await ledger.lease(work(f"bad-{number}"), account="main")
    good = VisitChange(action="update", visit_id="good", order=1, named="calcom-good", time_scheduled=on_day(20))
    await accept(ledger, good)
    assert "held" == await ledger.lease("visit:main/calcom-good", account="main")

    async def probe(number: int) -> str:
        await let_time_pass(redis)
        assert 1 == await ledger.release_circuit("main")
        [probe] = await ledger.task_ids("queued")
        hold = await ledger.lease(probe, account="main")
        assert isinstance(hold, Lease)
        trouble = Attempt(started_at_ms=1, took_ms=1, outcome="broken")
        outcome = Outcome(state="held", attempt=trouble, reason="500", failed_attempts=number, circuit_signal=DOWN)
        await ledger.complete(hold, outcome, account="main")
        return probe

    probes = [await probe(number) for number in range(1, 10)]

    assert probes[0].startswith(work("bad-"))
    assert "visit:main/calcom-good" in probes


async def test_a_visit_that_is_refused_alone_is_parked_before_it_stops_everybody_for_ever(ledger: Ledger) -> None:
    refused = Outcome(
        state="held", attempt=attempt(), reason="403", circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30)
    )
    ok = settled(circuit_signal=CircuitSignal(kind="ok"))
    await accept(ledger, change("A"))

    for times in range(10):
        assert "queued" == await state_of(ledger, work("A")), times
        await ledger.complete(await begin(ledger, "A", gate="main"), refused, account="main")
        if times < 9:
            await accept(ledger, change("B", order=times))
            await let_time_pass(ledger.redis)
            await ledger.redis.command("HSET", "db:gate:main", "probe", work("B"))  # another one is sent to see
            await ledger.complete(await begin(ledger, "B", gate="main"), ok, account="main")
            await ledger.release_circuit("main")

    assert ("parked", "403") == ((await ledger.load_task(work("A"))).state, (await ledger.load_task(work("A"))).reason)
    assert not await ledger.redis.command("EXISTS", "db:gate:main")


async def test_where_calls_are_paced_whoever_comes_later_waits_for_its_turn(ledger: Ledger, redis: Redis) -> None:
    for visit, day in (("A", 8), ("B", 6), ("C", 7)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    first = await ledger.lease(work("A"), "main", is_rate_limited=True)
    assert isinstance(first, Lease)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    later = [await ledger.lease(work(visit), "main", is_rate_limited=True) for visit in "CB"]
    elsewhere = await ledger.lease(work("C"), "main")
    await redis.command("SET", "db:pace:main", str(int(time.time() * 1000) + 10_000))
    while_the_line_is_long = await ledger.release_circuit("main", calls_per_second=4)
    await redis.command("DEL", "db:pace:main")
    let_out = await ledger.release_circuit("main", calls_per_second=4)

    assert (["held", "held"], "nothing", 0, 2) == (later, elsewhere, while_the_line_is_long, let_out)
    assert [work("B"), work("C")] == await ledger.task_ids("queued")
    assert isinstance(await ledger.lease(work("B"), "main", is_rate_limited=True), Lease)
    assert [] == (await ledger.load_task(work("A"))).attempts


# -- sweep, orphans, claim, pace --


async def test_queued_work_whose_job_is_gone_gets_another(ledger: Ledger, redis: Redis) -> None:
    for n in range(90):
        await accept(ledger, change(f"v{n}"))
    await backdate(redis, "queued")
    lost = [job for n, job in enumerate(await redis.command("ZRANGE", "db:jobs", 0, -1)) if n % 3]
    await redis.command("DEL", *(b"arq:job:" + job for job in lost[::2]))
    await redis.command("ZREM", "db:jobs", *lost[1::2])

    adopted, offset = 0, 0
    while offset >= 0:
        found, offset = await ledger.requeue_orphans(offset, limit=20)
        adopted += found

    assert 60 == adopted
    assert {work(f"v{n}") for n in range(90)} == set(await jobs(redis))


async def test_young_queued_work_is_not_taken_for_an_orphan(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await redis.command("DEL", "db:jobs")

    assert (0, -1) == await ledger.requeue_orphans()


async def test_a_sweep_takes_no_more_than_it_was_told(ledger: Ledger, redis: Redis) -> None:
    for n in range(30):
        await accept(ledger, change(f"v{n}"))
        await ledger.complete(await begin(ledger, f"v{n}"), waiting())
    await backdate(redis, "waiting")

    assert [20, 10, 0] == [await ledger.requeue_due(limit=20) for _ in range(3)]


def about(claimed: list[tuple[Queue, str, bytes]]) -> list[str]:
    return [job.rpartition("#")[0] for _, job, _ in claimed]


async def test_a_claimed_job_is_not_claimed_again_before_its_lease_ends(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
        await asyncio.sleep(0.002)

    first = await ledger.claim({"visit": 2}, lease_s=3_600)
    before = await now_ms(ledger)
    [(lane, job, _)] = second = await ledger.claim({"visit": 2}, lease_s=3_600)
    after = await now_ms(ledger)
    third = await ledger.claim({"visit": 2}, lease_s=3_600)
    ends = float(await redis.command("ZSCORE", LANES[lane], job))
    await redis.command("ZADD", LANES[lane], after, job)  # as if it had come to that
    last = await ledger.claim({"visit": 5}, lease_s=3_600)

    assert [work("A"), work("B")] == about(first)
    assert ([work("C")], [], [work("C")]) == (about(second), about(third), about(last))
    assert before <= ends - 3_600_000 <= after


async def now_ms(ledger: Ledger) -> int:
    return int((await ledger.server_time()).timestamp() * 1000)


async def test_each_lane_has_its_own_places(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await work_off_anew(ledger, visit)
        await ledger.replay(work(visit), queue="replay")
    event = await accept(ledger, event_state="queued")
    await accept(ledger, change("C"))

    some = await ledger.claim({"visit": 5, "event": 0, "replay": 1}, lease_s=30)
    rest = await ledger.claim({"visit": 5, "event": 5, "replay": 5}, lease_s=30)

    assert [("visit", work("C")), ("replay", work("A"))] == lanes(some)
    assert [("event", f"event:{event.delivery_id}"), ("replay", work("B"))] == lanes(rest)


def lanes(claimed: list[tuple[Queue, str, bytes]]) -> list[tuple[Queue, str]]:
    return [(lane, job.rpartition("#")[0]) for lane, job, _ in claimed]


async def work_off_anew(ledger: Ledger, visit: str) -> None:
    """Settled, and its job is gone."""
    await accept(ledger, change(visit))
    [(lane, job, _)] = await ledger.claim({"visit": 1}, lease_s=30)
    await work_off(ledger, visit)
    await ledger.ack(job, lane)


async def test_what_rings_does_not_wait_behind_replays(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await work_off_anew(ledger, visit)
        await ledger.replay(work(visit), queue="replay")

    await accept(ledger, change("A", order=2))

    assert ([work("A")], [work("B")]) == (await jobs(redis, "visit"), await jobs(redis, "replay"))
    assert 2 == len(await redis.command("KEYS", "arq:job:*"))


async def test_a_replay_that_has_to_wait_stays_in_its_lane_until_it_is_done(ledger: Ledger, redis: Redis) -> None:
    await work_off_anew(ledger, "A")
    await ledger.replay(work("A"), queue="replay")
    [(lane, job, _)] = await ledger.claim({"replay": 1}, lease_s=30)
    await ledger.complete(await begin(ledger, "A"), waiting())
    await ledger.ack(job, lane)
    await backdate(redis, "waiting")

    await ledger.requeue_due()
    again = lanes(await ledger.claim({"visit": 1, "replay": 1}, lease_s=30))
    await work_off(ledger, "A")
    await accept(ledger, change("A", order=2))

    assert [("replay", work("A"))] == again
    assert [work("A")] == await jobs(redis, "visit")


async def test_a_replay_whose_job_is_lost_gets_another_in_its_lane(ledger: Ledger, redis: Redis) -> None:
    await work_off_anew(ledger, "A")
    await ledger.replay(work("A"), queue="replay")
    await backdate(redis, "queued")
    there = await ledger.requeue_orphans()
    await redis.command("DEL", "db:jobs:replay")

    lost = await ledger.requeue_orphans()

    assert ((0, -1), (1, -1)) == (there, lost)
    assert ([], [work("A")]) == (await jobs(redis, "visit"), await jobs(redis, "replay"))


async def test_a_claimed_job_comes_with_what_arq_needs_to_run_it(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await redis.command("DEL", *(await redis.command("KEYS", "arq:job:*standard-B*")))

    claimed = {job.rpartition("#")[0]: payload for _, job, payload in await ledger.claim({"visit": 5}, lease_s=30)}

    assert b"" == claimed[work("B")]
    function, arguments, *_ = deserialize_job_raw(claimed[work("A")], deserializer=json.loads)
    assert ("visit", ["main/standard-A"]) == (function, arguments)


async def test_a_job_that_has_run_is_gone_and_the_next_one_is_not(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    [(_, job, _)] = await ledger.claim({"visit": 5}, lease_s=0)
    hold = await begin(ledger, "A")
    await accept(ledger, change("A"))
    await ledger.complete(hold, settled())

    await ledger.ack(job)

    assert [work("A")] == await jobs(redis)
    assert [work("A")] == about(await ledger.claim({"visit": 5}, lease_s=30))
    assert 1 == len(await redis.command("KEYS", "arq:*"))


async def test_of_many_workers_no_two_claim_the_same_job(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}"))

    claimed = await asyncio.gather(*(ledger.claim({"visit": 7}, lease_s=30) for _ in range(20)))

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

    assert await redis.command("PTTL", "db:pace:main") >= 99_000  # the next turn is in 100 s, and must be known then


# -- operators --


async def test_a_discarded_change_is_given_up_and_an_applied_one_stays(ledger: Ledger) -> None:
    one = await accept(ledger, change("A"))
    await work_off(ledger, "A")
    other = await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), parked())

    dropped = await ledger.discard(work("A"))

    member = await ledger.load_task(work("A"))
    assert (1, "discarded") == (dropped, member.state)
    assert {f"{one.delivery_id}.0"} == set(member.changes)
    assert {f"{other.delivery_id}.0"} == set(member.discarded_changes)
    assert "nothing" == await ledger.lease(work("A"))
    assert 0 == await ledger.discard(work("A"))


async def test_an_event_that_was_never_translated_is_given_up_as_one(ledger: Ledger) -> None:
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")
    event = f"event:{odd.delivery_id}"

    given_up = [await ledger.discard(event), await ledger.discard(event)]

    assert ([1, 0], "discarded") == (given_up, await state_of(ledger, event))


async def test_work_in_a_workers_hands_is_not_discarded(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await begin(ledger, "A")

    assert -1 == await ledger.discard(work("A"))
    assert 1 == len((await ledger.load_task(work("A"))).changes)


async def test_nothing_is_discarded_of_what_is_settled_or_unknown(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await work_off(ledger, "A")

    assert 0 == await ledger.discard(work("A"))
    assert 0 == await ledger.discard(work("nobody"))
    assert "settled" == await state_of(ledger, work("A"))
    assert [] == await ledger.task_ids("discarded")


async def test_a_change_after_a_discard_is_worked_on_without_what_was_given_up(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.discard(work("A"))

    new = await accept(ledger, change("A"))

    assert [f"{new.delivery_id}.0"] == [said.origin for said in (await begin(ledger, "A")).primary.recorded_changes()]


async def test_to_discard_a_delivery_gives_up_its_own_changes_and_no_other(ledger: Ledger) -> None:
    booked = await accept(ledger, change("A"))
    moved = await accept(ledger, change("A"))

    dropped = await ledger.discard(work("A"), moved.delivery_id)

    assert 1 == dropped
    assert [f"{booked.delivery_id}.0"] == [
        said.origin for said in (await begin(ledger, "A")).primary.recorded_changes()
    ]


async def test_to_discard_a_rescheduled_visit_gives_up_what_waits_under_its_later_ids_too(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", continues="A"))
    await work_off(ledger, "A")
    await accept(ledger, change("B"))
    await ledger.complete(await begin(ledger, "B"), parked())

    dropped = await ledger.discard(work("A"))  # the failure is listed under the first id

    assert 1 == dropped
    assert all(member.change_count == member.applied_count for member in await ledger.load_aliases(work("B")))


@pytest.mark.parametrize("ends", ["settled", "parked", "waiting", "discarded"])
async def test_a_replay_puts_back_to_work_whatever_came_of_it(ledger: Ledger, redis: Redis, ends: Any) -> None:
    await accept(ledger, change("A"))
    if ends == "discarded":
        await ledger.discard(work("A"))
    else:
        outcome = Outcome(
            state=ends, attempt=attempt(), retry_in_s=60, failed_attempts=3, remote={work("A"): {"id": 7}}
        )
        await ledger.complete(await begin(ledger, "A"), outcome)

    assert "queued" == await ledger.replay(work("A"))
    assert "queued" == await ledger.replay(work("A"))

    assert work("A") in await jobs(redis)
    root = (await begin(ledger, "A")).primary
    assert (0, None, None) == (root.failed_attempts, root.failing_since_ms, root.retry_at_ms)


async def test_a_fresh_replay_has_the_api_asked_until_a_run_settled(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), settled(remote={work("A"): {"id": 7}}))
    asked = []

    for fresh, outcome in ((False, settled()), (True, waiting(retry_in_s=0)), (False, settled()), (False, settled())):
        await ledger.replay(work("A"), recheck=fresh, duplicate_ids=[8] if fresh else [])
        hold = await begin(ledger, "A")
        asked.append(hold.primary.recheck_ids)
        await ledger.complete(hold, outcome)

    assert [None, ["8"], ["8"], None] == asked
    assert {"id": 7} == hold.primary.remote


async def test_a_fresh_replay_during_a_run_is_not_forgotten_by_its_end(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await begin(ledger, "A")

    assert "running" == await ledger.replay(work("A"), recheck=True)
    await ledger.complete(hold, settled(remote={work("A"): {"id": 7}}))

    assert [] == (await begin(ledger, "A")).primary.recheck_ids


async def test_a_fresh_replay_by_a_later_id_asks_about_every_id(ledger: Ledger) -> None:
    await accept(ledger, change("B", continues="A"), change("A"))
    await work_off(ledger, "A")

    await ledger.replay(work("B"), recheck=True)

    root, later = (await begin(ledger, "A")).tasks
    assert [] == root.recheck_ids
    assert later.was_attempted


async def test_a_replay_of_running_work_runs_it_once_more(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await begin(ledger, "A")

    assert "running" == await ledger.replay(work("A"))
    await ledger.complete(hold, settled())

    assert "queued" == await state_of(ledger, work("A"))


async def test_a_replay_of_an_event_that_is_being_fetched_fetches_it_once_more(ledger: Ledger) -> None:
    first = await accept(ledger, event_state="queued")
    name = f"event:{first.delivery_id}"
    hold = await ledger.lease(name)
    assert isinstance(hold, Lease)

    assert "running" == await ledger.replay(name)
    await ledger.record_changes(hold, "standard", "main", [change("A")], attempt())

    assert "queued" == await state_of(ledger, name)


async def test_a_replay_of_what_is_unknown_is_told(ledger: Ledger, redis: Redis) -> None:
    with pytest.raises(NotFound):
        await ledger.replay(work("nobody"))
    assert set() == await everything(redis)


async def test_an_operators_contact_is_a_fact_that_puts_the_visit_back_to_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await begin(ledger, "A"), parked("contact_unknown"))

    await ledger.assign_contact(work("A"), change("A", order=9, contact=Contact(id="cont_1")))

    hold = await begin(ledger, "A")
    assert [{"id": "cont_1"}] == [said.contact for said in hold.primary.recorded_changes() if said.contact]


async def test_what_an_event_turned_out_to_mean_lands_once_and_settles_it(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, event_state="queued")
    name = f"event:{first.delivery_id}"
    dead = await ledger.lease(name)
    await backdate(redis, "running")
    heir = await ledger.lease(name)
    assert isinstance(dead, Lease)
    assert isinstance(heir, Lease)

    with pytest.raises(LeaseLost):
        await ledger.record_changes(dead, "standard", "main", [change("A")], attempt())
    await ledger.record_changes(heir, "standard", "main", [change("A"), change("B")], attempt())

    event = await ledger.load_task(name)
    assert ("settled", [work("A"), work("B")]) == (event.state, event.targets)
    assert [work("A"), work("B")] == sorted(await ledger.task_ids("queued"))


# -- the ids of a rescheduled visit --

Families = dict[str, tuple[str, dict[str, int]]]


async def families(ledger: Ledger, visits: Sequence[str]) -> Families:
    """Per id: the first id of its family, and the ids with how many came before each."""
    found = {}
    for visit in visits:
        members = await ledger.load_aliases(work(visit))
        ids = {member.task_id.removeprefix(work("")): member.alias_depth for member in members}
        found[visit] = (members[0].task_id.removeprefix(work("")), ids)
    return found


LINKS = [("A", None), ("B", "A"), ("C", "B"), ("D", "B")]


@pytest.mark.parametrize("order", list(itertools.permutations(LINKS)), ids=lambda links: "".join(a for a, _ in links))
async def test_a_reschedule_is_one_visit_whatever_order_its_links_arrive_in(
    ledger: Ledger, order: tuple[tuple[str, str | None], ...]
) -> None:
    for visit, continues in order:
        await accept(ledger, change(visit, continues))

    whole = ("A", {"A": 0, "B": 1, "C": 2, "D": 2})
    assert dict.fromkeys("ABCD", whole) == await families(ledger, "ABCD")


async def test_a_visit_that_continues_itself_continues_nothing(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", "A"))

    assert [("A", 0)] == [(m.task_id.rpartition("-")[2], m.alias_depth) for m in (await begin(ledger, "A")).tasks]
    assert 0 == await redis.command("HEXISTS", f"db:{work('A')}", "kin")


async def test_a_link_that_arrives_before_either_half_is_remembered(ledger: Ledger) -> None:
    await accept(ledger, change("B", "A"))
    await work_off(ledger, "B")
    await accept(ledger, change("A"))

    hold = await begin(ledger, "A")
    assert [work("A"), work("B")] == [member.task_id for member in hold.tasks]


async def test_a_link_that_joins_two_finished_visits_puts_them_to_work_as_one(ledger: Ledger) -> None:
    for visit in "AB":
        await accept(ledger, change(visit))
        await work_off(ledger, visit)

    await accept(ledger, change("B", "A"))

    hold = await work_off(ledger, "B")
    assert [work("A"), work("B")] == [member.task_id for member in hold.tasks]
    assert {"settled"} == {member.state for member in await ledger.load_aliases(work("A"))}


async def test_while_one_id_of_a_visit_is_worked_on_the_others_are_busy(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", "A"))
    await accept(ledger, change("C", "B"))

    hold = await begin(ledger, "C")

    assert ["busy", "busy", "busy"] == [await ledger.lease(work(visit)) for visit in "ABC"]
    await ledger.complete(hold, settled())
    assert ["nothing"] * 3 == [await ledger.lease(work(visit)) for visit in "ABC"]


async def test_a_link_that_lands_during_a_run_is_seen_after_it(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await begin(ledger, "A")

    await accept(ledger, change("B", "A"))
    meanwhile = await ledger.lease(work("B"))
    await ledger.complete(hold, settled())

    assert "busy" == meanwhile
    assert [work("A"), work("B")] == [member.task_id for member in (await begin(ledger, "A")).tasks]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_links_in_a_circle_are_one_visit_with_one_first_id(ledger: Ledger, redis: Redis, size: int) -> None:
    visits = "ABCDE"[:size]
    links = [(visit, visits[n - 1]) for n, visit in enumerate(visits)]
    seen = set()
    for order in ([*links], links[::-1], links[1:] + links[:1]):
        await redis.command("FLUSHDB")
        for visit, continues in order:
            await accept(ledger, change(visit, continues))
        found = await families(ledger, visits)
        assert all(set(visits) == set(ids) for _, ids in found.values())
        seen |= {root for root, _ in found.values()}
        await work_off(ledger, visits[-1])
        assert ["nothing"] * size == [await ledger.lease(work(visit)) for visit in visits]

    assert 1 == len(seen), seen


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")], ids="".join)
async def test_an_id_that_two_claim_to_come_before_belongs_to_one_visit(ledger: Ledger, order: tuple[str, str]) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    for before in order:
        await accept(ledger, change("C", before))

    owners = [root for root, ids in (await families(ledger, "AB")).values() if "C" in ids]
    assert 1 == len(set(owners)), owners


async def test_a_chain_of_a_hundred_reschedules_is_one_visit(ledger: Ledger) -> None:
    for n in range(100):
        await accept(ledger, change(f"v{n}", f"v{n - 1}" if n else None))

    hold = await work_off(ledger, "v99")

    assert [f"visit:main/standard-v{n}" for n in range(100)] == [member.task_id for member in hold.tasks]
    assert {"settled"} == {member.state for member in await ledger.load_aliases(work("v50"))}


# -- what is unsettled does not expire --


def forgetful(redis: Redis, keep_ms: int = 80) -> Ledger:
    """Forgets what is settled soon."""
    ledger = Ledger(redis, retention_days=1)
    ledger._retention_ms = keep_ms
    return ledger


async def test_a_settled_visit_is_forgotten_after_the_retention_and_leaves_nothing(redis: Redis) -> None:
    ledger = forgetful(redis)
    await accept(ledger, change("A"))
    await redis.command("DEL", "db:jobs", *(await redis.command("KEYS", "arq:*")))
    await work_off(ledger, "A")

    await asyncio.sleep(0.1)

    kept = (b"db:seen:", b"db:deliveries:", b"db:hooks", b"db:progress")
    assert set() == {key for key in await everything(redis) if not key.startswith(kept)}


async def test_a_discarded_visit_is_forgotten_after_the_retention_and_leaves_nothing(redis: Redis) -> None:
    ledger = forgetful(redis)
    await accept(ledger, change("A"))
    await ledger.discard(work("A"))

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
    await accept(ledger, change("B", continues="A"))
    await work_off(ledger, "A")
    last = await accept(ledger, change("B"))
    hold = await begin(ledger, "B")
    await ledger.complete(hold, Outcome(state=ends, attempt=attempt(), retry_in_s=60, failed_attempts=1))

    await everything_ends_that_can(redis)

    assert [work("A")] == await ledger.task_ids("held:main" if ends == "held" else ends)  # type: ignore[arg-type]
    await ledger.replay(work("A"))
    said = [said.origin for member in (await begin(ledger, "A")).tasks for said in member.recorded_changes()]
    assert f"{last.delivery_id}.0" in said
    assert 3 == len(said)


async def test_a_change_under_a_later_id_is_worked_on_although_the_first_id_is_forgotten(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", continues="A"))
    await work_off(ledger, "A")
    last = await accept(ledger, change("B"))

    await everything_ends_that_can(redis)

    hold = await begin(ledger, "B")
    assert f"{last.delivery_id}.0" in [said.origin for member in hold.tasks for said in member.recorded_changes()]


@pytest.mark.parametrize("then", ["worked on", "discarded"])
async def test_the_ids_that_redis_kept_are_enough_where_it_dropped_one_of_a_visit(
    ledger: Ledger, redis: Redis, then: str
) -> None:
    # An eviction policy does that, or an operator's DEL.
    await accept(ledger, change("A"))
    await accept(ledger, change("B", continues="A"))
    await work_off(ledger, "A")
    await redis.command("DEL", f"db:{work('A')}")
    await accept(ledger, change("B"))

    if then == "discarded":
        assert 1 == await ledger.discard(work("B"))
    else:
        await work_off(ledger, "B")

    assert [] == await ledger.task_ids("queued")
    assert ["nothing", "nothing"] == [await ledger.lease(work(visit)) for visit in "AB"]


async def test_a_change_that_lands_on_a_settled_visit_keeps_all_of_its_facts_from_expiring(
    ledger: Ledger, redis: Redis
) -> None:
    await accept(ledger, change("A"))
    await work_off(ledger, "A")
    await accept(ledger, change("A"))

    await everything_ends_that_can(redis)

    assert 2 == len((await begin(ledger, "A")).primary.recorded_changes())


# -- a walk over all steps --


class Walk(RuleBasedStateMachine):
    """Tools, workers, deaths, operators and time, in any order; what must hold, holds after every step."""

    VISITS = ("A", "B", "C", "D")
    visits = st.sampled_from(VISITS)

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.redis = Redis(RedisAddress(url))
        self.ledger = Ledger(self.redis, retention_days=30)
        self.run(self.redis.command("FLUSHDB"))
        self.accepted: set[tuple[str, str]] = set()
        self.deliveries: list[tuple[str, str]] = []
        self.running: dict[tuple[Queue, str], Lease] = {}
        self.families = {work(visit): {work(visit)} for visit in self.VISITS}

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def teardown(self) -> None:
        try:
            self.run(self.work_everything_off())
        finally:
            self.run(self.redis.close())
            self.runner.close()

    # -- steps --

    @initialize()
    def something_rings(self) -> None:
        self.ring("A", None)

    @rule(visit=visits, is_moved=st.booleans())
    def a_tool_rings(self, visit: str, is_moved: bool) -> None:
        # Every id comes after at most one other, as the tools do it: B and D after A, C after B.
        self.ring(visit, {"B": "A", "C": "B", "D": "A"}.get(visit) if is_moved else None)

    def ring(self, visit: str, before: str | None) -> None:
        key = f"key-{len(self.deliveries)}"
        written = self.run(accept(self.ledger, change(visit, before), key=key))
        assert not written.is_repeat
        self.deliveries.append((key, visit))
        self.accepted.add((work(visit), f"{written.delivery_id}.0"))
        if before:
            joined = self.families[work(visit)] | self.families[work(before)]
            self.families |= dict.fromkeys(joined, joined)

    @rule(data=st.data())
    def a_tool_repeats(self, data: st.DataObject) -> None:
        key, visit = data.draw(st.sampled_from(self.deliveries))
        assert self.run(accept(self.ledger, change(visit), key=key)).is_repeat

    @rule(gate=st.sampled_from(["", "main"]))
    def a_worker_takes_a_job(self, gate: str) -> None:
        for lane, job, _ in self.run(self.ledger.claim({"visit": 1, "replay": 1}, lease_s=30)):
            hold = self.run(self.ledger.lease(job.rpartition("#")[0], gate))
            if isinstance(hold, str):
                self.run(self.ledger.ack(job, lane))
            else:
                self.running[lane, job] = hold

    @rule(
        data=st.data(),
        state=st.sampled_from(["settled", "settled", "waiting", "waiting for facts", "held", "parked"]),
        why=st.sampled_from([None, "ok", "down", "unauthorized", "rate_limited"]),
    )
    def a_worker_is_done(self, data: st.DataObject, state: str, why: str | None) -> None:
        if not self.running:
            return
        lane, job = data.draw(st.sampled_from(sorted(self.running)))
        outcome = Outcome(
            state=state.partition(" ")[0],  # type: ignore[arg-type]
            attempt=attempt(state),
            retry_in_s=60,
            failed_attempts=1 if state in ("waiting", "parked") else None,
            circuit_signal=CircuitSignal(kind=why, pause_s=30, threshold=2 if why == "down" else 1) if why else None,
        )
        with suppress(LeaseLost):
            self.run(self.ledger.complete(self.running.pop((lane, job)), outcome, account="main"))
        self.run(self.ledger.ack(job, lane))

    @rule(data=st.data(), is_back_later=st.booleans())
    def a_worker_dies(self, data: st.DataObject, is_back_later: bool) -> None:
        """Its lease ends, and its job's turn comes again."""
        if not self.running:
            return
        lane, job = data.draw(st.sampled_from(sorted(self.running)))
        self.run(self.let_the_lease_end(self.running[lane, job]))
        if not is_back_later:
            del self.running[lane, job]
            self.run(self.redis.command("ZADD", LANES[lane], "XX", 1, job))

    async def let_the_lease_end(self, hold: Lease) -> None:
        for member in hold.tasks:
            if hold.token.encode() == await self.redis.command("HGET", f"db:{member.task_id}", "lease"):
                await self.redis.command("ZADD", "db:running", "XX", 1, member.task_id)

    @rule()
    def time_passes(self) -> None:
        self.run(backdate(self.redis, "waiting"))
        if self.run(self.redis.command("EXISTS", "db:gate:main")):
            self.run(let_time_pass(self.redis))

    @rule()
    def a_worker_sweeps(self) -> None:
        self.run(self.ledger.requeue_due())

    @rule()
    def a_worker_looks_at_the_gate(self) -> None:
        self.run(self.ledger.release_circuit("main"))

    @rule(data=st.data())
    def redis_loses_a_job_and_a_minute_passes(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(LANES)))
        queue = self.run(self.redis.command("ZRANGE", LANES[lane], 0, -1))
        if queue:
            self.run(self.ledger.ack(data.draw(st.sampled_from(queue)).decode(), lane))
            self.run(self.adopt())

    async def adopt(self) -> None:
        await backdate(self.redis, "queued")
        await self.ledger.requeue_orphans()

    @rule(visit=visits, fresh=st.booleans(), lane=st.sampled_from(["", "replay"]))
    def an_operator_replays(self, visit: str, fresh: bool, lane: Any) -> None:
        try:
            assert self.run(self.ledger.replay(work(visit), fresh, queue=lane)) in ("queued", "running")
        except NotFound:
            assert not any(name == work(visit) for name, _ in self.accepted)

    @rule(visit=visits)
    def an_operator_discards(self, visit: str) -> None:
        self.run(self.ledger.discard(work(visit)))

    @rule(visit=visits)
    def an_operator_names_the_contact(self, visit: str) -> None:
        if any(name == work(visit) for name, _ in self.accepted):
            self.run(self.ledger.assign_contact(work(visit), change(visit, contact=Contact(id="cont_1"))))

    # -- what holds after each --

    async def look(self) -> "Snapshot":
        ask, names = self.redis.command, [work(visit) for visit in self.VISITS]
        flat = await asyncio.gather(*(ask("HGETALL", f"db:{name}") for name in names))
        expiry = await asyncio.gather(*(ask("PTTL", f"db:{name}") for name in names))
        listed = await asyncio.gather(*(ask("ZRANGE", f"db:{state}", 0, -1) for state in STATES))
        texts = [[part.decode() for part in one] for one in flat]
        hashes = {
            name: dict(zip(one[::2], one[1::2], strict=True)) for name, one in zip(names, texts, strict=True) if one
        }
        sets = [
            (state.partition(":")[0], one.decode()) for state, each in zip(STATES, listed, strict=True) for one in each
        ]
        return Snapshot(hashes, sorted(sets), dict(zip(names, expiry, strict=True)), set(await jobs(self.redis)))

    @invariant()
    def all_is_well(self) -> None:
        now = self.run(self.look())
        now.every_unsettled_work_is_in_exactly_the_set_of_its_state()
        now.nobody_has_done_more_than_there_is()
        now.nothing_accepted_disappears(self.accepted, self.families)
        now.queued_work_has_a_job_or_its_visit_is_in_good_hands(self.families)
        now.what_is_unsettled_never_expires(self.families)

    async def work_everything_off(self) -> None:
        """Without further trouble all of it is settled, in bounded time."""
        await self.redis.command("DEL", "db:gate:main")
        for _ in range(30):
            for state in ("running", "waiting"):
                await backdate(self.redis, state)
            await self.ledger.requeue_due()
            await self.ledger.release_circuit("main")
            await self.adopt()
            for name in await self.ledger.task_ids("parked"):
                await self.ledger.replay(name)
            everything = dict.fromkeys(LANES, 1000)
            for lane, job, _ in await self.ledger.claim(everything, lease_s=0):
                hold = await self.ledger.lease(job.rpartition("#")[0])
                if isinstance(hold, Lease):
                    await self.ledger.complete(hold, settled())
                await self.ledger.ack(job, lane)
            if not await self.redis.command("ZCARD", "db:queued"):
                break
        (await self.look()).all_is_done(self.accepted)


@dataclass
class Snapshot:
    """The ledger between two steps. listed: state and work. expiry: ms, -1 for never."""

    hashes: dict[str, dict[str, str]]
    listed: list[tuple[str, str]]
    expiry: dict[str, int]
    jobs: set[str]

    def state(self, name: str) -> str | None:
        return self.hashes.get(name, {}).get("state")

    def every_unsettled_work_is_in_exactly_the_set_of_its_state(self) -> None:
        assert sorted((hash["state"], name) for name, hash in self.hashes.items() if "state" in hash) == self.listed

    def nobody_has_done_more_than_there_is(self) -> None:
        assert [] == [name for name, hash in self.hashes.items() if int(hash["n"]) < int(hash.get("done", 0))]

    def nothing_accepted_disappears(self, accepted: set[tuple[str, str]], families: dict[str, set[str]]) -> None:
        for name, origin in accepted:
            hash = self.hashes[name]
            assert f"c:{origin}" in hash or f"x:{origin}" in hash
            if self.is_open(name, origin):
                states = {self.state(member) for member in families[name]}
                assert states & {"queued", "running", "waiting", "held", "parked"}, (name, origin, states)

    def is_open(self, name: str, origin: str) -> bool:
        """Neither seen by a settled run nor discarded."""
        hash = self.hashes[name]
        said = hash.get(f"c:{origin}")
        return said is not None and int(said.partition(" ")[0]) > int(hash.get("done", 0))

    def queued_work_has_a_job_or_its_visit_is_in_good_hands(self, families: dict[str, set[str]]) -> None:
        """Somebody who works on another of its ids, or is going to, takes it along."""
        for name in (name for state, name in self.listed if state == "queued"):
            states = {self.state(member) for member in families[name]}
            assert self.jobs & families[name] or states & {"running", "waiting", "held"}, (name, states)

    def what_is_unsettled_never_expires(self, families: dict[str, set[str]]) -> None:
        for state, name in self.listed:
            if state != "discarded":
                kept = {member for member in families[name] if self.state(member) != "discarded"}
                assert [] == [(name, member) for member in kept if self.expiry[member] > 0]

    def all_is_done(self, accepted: set[tuple[str, str]]) -> None:
        assert {"discarded"} >= {state for state, _ in self.listed}
        assert [] == [(name, origin) for name, origin in accepted if self.is_open(name, origin)]


def test_whatever_happens_in_whatever_order_nothing_accepted_disappears(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: Walk(redis_url),
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- a full Redis --


async def test_what_was_accepted_is_worked_off_on_a_full_redis_that_takes_nothing_new() -> None:
    with valkey() as url:
        redis = Redis(RedisAddress(url))
        ledger = Ledger(redis, retention_days=30)
        await accept(ledger, change("1"))
        await accept(ledger, change("2"))
        await accept(ledger, event_state="queued", raw=b"thin")
        await redis.command("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(RedisUnavailable, match="OOM"):
            await accept(ledger, change("3"))
        assert 3 == len(await ledger.claim({"visit": 50, "event": 50}, 35))
        await work_off(ledger, "1")
        await ledger.complete(await begin(ledger, "2"), waiting(retry_in_s=0))
        await ledger.ack(f"{work('1')}#1")
        [event] = [name for name in await ledger.task_ids("queued") if name.startswith("event:")]
        hold = await ledger.lease(event)
        assert isinstance(hold, Lease)
        await ledger.record_changes(hold, "standard", "main", [change("4")], attempt())

        assert await ledger.acquire_lock("db:lock", "token", 60)
        await ledger.set_with_ttl("db:contact", "cont_1", 60_000)
        assert 1 == await ledger.requeue_due()
        assert "queued" == await ledger.replay(work("1"))
        assert 1 == await ledger.discard(work("4"))
        assert b"cont_1" == await redis.command("GET", "db:contact")
        assert [work("1"), work("2")] == sorted(await ledger.task_ids("queued"))
        await redis.close()
