"""Accepting a delivery: what is stored, what is a repeat, and what a full Redis does."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from arq.jobs import deserialize_job_raw

from app.demo.valkey import valkey
from app.ledger.ledger import Ledger
from app.ledger.records import (
    AcceptResult,
    DeliveryInfo,
    Lease,
    Outcome,
)
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.visits.change import Contact
from app.webhooks.delivery import Delivery
from tests.support.ledger import (
    accept,
    all_keys,
    attempt,
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

# -- accept --


async def test_an_accepted_change_stands_as_fact_with_a_job_that_arq_can_read(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", version=7))

    member = await ledger.load_task(visit_task("A"))
    assert not written.is_repeat
    assert ("queued", 1, 0) == (member.state, member.change_count, member.applied_count)
    assert [f"{written.delivery_id}.0"] == list(member.changes)
    assert {"a": "update", "o": 7, "f": {}} == json.loads(member.changes[f"{written.delivery_id}.0"].body)
    [job] = await redis.command("ZRANGE", "bell:queue:visits", 0, -1)
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
    assert [visit_task("A"), visit_task("B")] == kept.task_ids
    assert [written.delivery_id] == await ledger.newest_delivery_ids(["shop"], 10)


async def test_newer_deliveries_have_greater_ids(ledger: Ledger) -> None:
    first = await accept(ledger)
    await asyncio.sleep(0.002)
    second = await accept(ledger)

    assert first.delivery_id < second.delivery_id
    assert [second.delivery_id, first.delivery_id] == await ledger.newest_delivery_ids(["standard"], 10)


async def test_a_repeat_is_told_the_first_id_and_writes_nothing(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, change("A"), key="evt", raw=b"one")
    before = await all_keys(redis)

    repeat = await accept(ledger, change("A"), change("B"), key="evt", raw=b"another body of the same event")

    assert AcceptResult(first.delivery_id, is_repeat=True) == repeat
    assert before == await all_keys(redis)
    assert 1 == (await ledger.load_task(visit_task("A"))).change_count


async def test_of_many_at_once_over_several_connections_exactly_one_is_the_first(redis_url: str, redis: Redis) -> None:
    connections = [Redis(RedisAddress(redis_url)) for _ in range(4)]
    ledgers = [Ledger(connection, retention_days=30) for connection in connections]

    written = await asyncio.gather(*(accept(ledgers[n % 4], change("A"), key="evt") for n in range(200)))

    assert 1 == sum(not one.is_repeat for one in written)
    assert 1 == len({one.delivery_id for one in written})
    assert 1 == (await Ledger(redis, 30).load_task(visit_task("A"))).change_count
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

    [seen] = await redis.command("KEYS", "bell:dedup:*")
    assert 691_200 - 5 <= await redis.command("TTL", seen) <= 691_200  # 8 * 86400
    assert (
        2_592_000 - 5 <= await redis.command("TTL", f"bell:delivery:{written.delivery_id}") <= 2_592_000
    )  # 30 * 86400


async def test_every_change_of_a_delivery_lands_also_two_for_one_visit(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", version=1), change("B"), change("A", version=2))

    one, other = await ledger.load_task(visit_task("A")), await ledger.load_task(visit_task("B"))
    assert (2, 1) == (one.change_count, other.change_count)
    assert {f"{written.delivery_id}.0", f"{written.delivery_id}.2"} == set(one.changes)
    assert [visit_task("A"), visit_task("B")] == sorted(await jobs(redis))


async def test_ten_changes_waiting_for_one_visit_are_one_job(ledger: Ledger, redis: Redis) -> None:
    for order in range(10):
        await accept(ledger, change("A", version=order))

    assert [visit_task("A")] == await jobs(redis)
    assert 10 == len((await start_run(ledger, "A")).primary.recorded_changes())


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
    kept += await redis.command("ZRANGE", "bell:queue:visits", 0, -1)
    assert kept
    assert not [one for one in kept if b"canary" in one.lower() or b"0100099" in one]


# -- repeats of what went wrong --


async def test_a_repeat_puts_a_parked_visit_back_to_work(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await start_run(ledger, "A"), parked())

    assert (await accept(ledger, change("A"), key="evt")).is_repeat

    assert "queued" == await state_of(ledger, visit_task("A"))
    assert [] == await ledger.task_ids("parked")
    assert 1 == len((await start_run(ledger, "A")).tasks)


async def test_a_repeat_puts_a_parked_event_back_to_work(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


@pytest.mark.parametrize("came_of_it", [done(), waiting()], ids=["done", "waiting"])
async def test_a_repeat_leaves_alone_what_did_not_fail(ledger: Ledger, came_of_it: Outcome) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await start_run(ledger, "A"), came_of_it)

    await accept(ledger, change("A"), key="evt")

    assert came_of_it.state == await state_of(ledger, visit_task("A"))


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
        await ledger.complete(hold, done())

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
        [_, due] = await redis.command("ZRANGE", "bell:waiting", 0, -1, "WITHSCORES")
        left_ms = float(due) - (await ledger.server_time()).timestamp() * 1000
        assert 0 < left_ms <= 60_000, minute
        await redis.command("ZINCRBY", "bell:waiting", -int(left_ms + 1), name)
        await redis.command("HINCRBY", f"bell:{name}", "repeated_at", -int(left_ms + 1))
        assert 1 == await ledger.requeue_due()
        await fetched(ledger, name, meanwhile)

    assert ["waiting"] * 4 == came_of_it


async def test_what_was_parked_is_put_back_by_repeats_once_a_minute(ledger: Ledger) -> None:
    first = await accept(ledger, change("A"), key="evt")
    for expected in ("queued", "waiting"):
        hold = await start_run(ledger, "A")
        await ledger.complete(hold, Outcome(state="parked", attempt=attempt(), reason="422"))
        await accept(ledger, change("A"), key="evt")
        assert expected == await state_of(ledger, visit_task("A"))

    # An operator is not made to wait.
    await ledger.replay(visit_task("A"))
    assert "queued" == await state_of(ledger, visit_task("A"))
    assert (await ledger.load_delivery_info(first.delivery_id)).task_ids == [visit_task("A")]


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
        assert 3 == len(await ledger.claim({"visits": 50, "events": 50}, 35))
        await complete_run(ledger, "1")
        await ledger.complete(await start_run(ledger, "2"), waiting(retry_in_s=0))
        await ledger.ack(f"{visit_task('1')}#1")
        [event] = [name for name in await ledger.task_ids("queued") if name.startswith("event:")]
        hold = await ledger.lease(event)
        assert isinstance(hold, Lease)
        await ledger.record_changes(hold, "standard", "main", [change("4")], attempt())

        assert await ledger.acquire_lock("bell:lock", "token", 60)
        await ledger.set_with_ttl("bell:contact", "cont_1", 60_000)
        assert 1 == await ledger.requeue_due()
        assert "queued" == await ledger.replay(visit_task("1"))
        assert 1 == await ledger.discard(visit_task("4"))
        assert b"cont_1" == await redis.command("GET", "bell:contact")
        assert [visit_task("1"), visit_task("2")] == sorted(await ledger.task_ids("queued"))
        await redis.close()
