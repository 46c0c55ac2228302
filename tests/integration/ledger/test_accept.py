"""`Ledger.accept`: stored keys, repeats, and a full Redis."""

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.demo.valkey import valkey
from app.ledger.ids import TaskId, delivery_key
from app.ledger.ledger import Ledger
from app.ledger.moves import READ
from app.ledger.records import AcceptResult, DeliveryInfo, Lease, NewDelivery, NotFound, Outcome
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.visits.change import Contact
from app.webhooks.delivery import Delivery
from tests.support.ledger import (
    accept,
    all_keys,
    attempt,
    backdate,
    change,
    complete_run,
    done,
    jobs,
    newest_delivery_ids,
    now_ms,
    parked,
    start_run,
    state_of,
    visit_task,
    waiting,
)

#: The begin of a visit.
SOON = datetime(2031, 3, 14, 16, tzinfo=UTC)


async def test_an_accepted_change_is_stored_with_a_job(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", version=7))

    task = await ledger.load_task(visit_task("A"))
    assert not written.is_repeat
    assert ("queued", 1, 0) == (task.state, task.change_count, task.applied_count)
    assert [f"{written.delivery_id}.0"] == list(task.changes)
    assert {"a": "update", "o": 7, "f": {}} == json.loads(task.changes[f"{written.delivery_id}.0"].body)
    [job] = await redis.command("ZRANGE", "bell:queue:visits", 0, -1)
    assert b"visit:main/standard-A#1" == job


async def test_a_delivery_is_read_as_it_was_written(ledger: Ledger) -> None:
    raw = bytes(range(256)) * 1_024
    delivery = Delivery("shop", "standard", (), raw, datetime.now(UTC))
    meta = DeliveryInfo(
        "shop", "standard", 1_790_000_000_123, 'a "name"\n\u2028', "request-1", 1, "", {"webhook-id": "\x00é\n"}
    )

    written = await ledger.accept(NewDelivery(delivery, meta, [change("A"), change("B")], "main", dedup_id=None))

    info, body = await ledger.load_delivery(written.delivery_id)
    assert raw == body
    assert ("shop", 1_790_000_000_123, 'a "name"\n\u2028', {"webhook-id": "\x00é\n"}) == (
        info.hook,
        info.received_at_ms,
        info.event_name,
        info.headers,
    )
    assert [visit_task("A"), visit_task("B")] == info.task_ids
    assert [written.delivery_id] == await newest_delivery_ids(ledger, "shop")


async def test_newer_deliveries_have_greater_ids(ledger: Ledger) -> None:
    first = await accept(ledger)
    await asyncio.sleep(0.002)
    second = await accept(ledger)

    assert first.delivery_id < second.delivery_id
    assert [second.delivery_id, first.delivery_id] == await newest_delivery_ids(ledger, "standard")


async def test_a_repeat_returns_the_first_id_and_writes_nothing(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, change("A"), key="evt", raw=b"one")
    before = await all_keys(redis)

    repeat = await accept(ledger, change("A"), change("B"), key="evt", raw=b"another body of the same event")

    assert AcceptResult(first.delivery_id, is_repeat=True) == repeat
    assert before == await all_keys(redis)
    assert 1 == (await ledger.load_task(visit_task("A"))).change_count


async def test_concurrent_deliveries_over_several_connections_have_exactly_one_first(
    redis_url: str, redis: Redis
) -> None:
    connections = [Redis(RedisAddress(redis_url)) for _ in range(4)]
    ledgers = [Ledger(connection, retention_days=30) for connection in connections]

    results = await asyncio.gather(*(accept(ledgers[n % 4], change("A"), key="evt") for n in range(200)))

    assert 1 == sum(not result.is_repeat for result in results)
    assert 1 == len({result.delivery_id for result in results})
    assert 1 == (await Ledger(redis, 30).load_task(visit_task("A"))).change_count
    for connection in connections:
        await connection.close()


async def test_the_same_event_at_another_hook_is_no_repeat(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", hook="standard")
    second = await accept(ledger, key="evt", hook="shop")

    assert (False, False) == (first.is_repeat, second.is_repeat)


async def test_a_body_equal_to_a_deduplication_id_is_no_repeat(ledger: Ledger) -> None:
    delivery = Delivery("standard", "standard", (), b"evt", datetime.now(UTC))
    await accept(ledger, key="evt")

    by_body = await ledger.accept(
        NewDelivery(delivery, DeliveryInfo("standard", "standard", 0), [], "main", dedup_id=None)
    )

    assert not by_body.is_repeat


async def test_a_delivery_expires_after_30_days(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, key="evt")

    assert 2_592_000 - 5 <= await redis.command("TTL", delivery_key(written.delivery_id)) <= 2_592_000  # 30 * 86400


EIGHT_DAYS_MS = 691_200_000  # 8 * 86400 * 1000


@pytest.mark.parametrize(("ago_ms", "is_repeat"), [(EIGHT_DAYS_MS - 60_000, True), (EIGHT_DAYS_MS + 1, False)])
async def test_an_event_is_a_repeat_for_eight_days(ledger: Ledger, ago_ms: int, is_repeat: bool) -> None:
    first = await accept(ledger, change("A"), key="evt", at_ms=await now_ms(ledger) - ago_ms)
    second = await accept(ledger, change("A", version=2), key="evt")
    third = await accept(ledger, change("A", version=3), key="evt")

    assert (is_repeat, True) == (second.is_repeat, third.is_repeat)
    assert third.delivery_id == second.delivery_id
    assert (first.delivery_id == second.delivery_id) == is_repeat
    assert {first.delivery_id, second.delivery_id} == set(await newest_delivery_ids(ledger, "standard"))
    for written in (first, second):
        assert b"evt" == (await ledger.load_delivery(written.delivery_id))[1]


async def test_an_event_that_was_lost_and_sent_again_has_another_delivery(ledger: Ledger, redis: Redis) -> None:
    """Both have the same key."""
    first = await accept(ledger, change("A"), key="evt", at_ms=await now_ms(ledger) - 5_000)
    await redis.command("FLUSHDB")
    second = await accept(ledger, change("A"), key="evt")

    assert not second.is_repeat
    assert b"evt" == (await ledger.load_delivery(second.delivery_id))[1]
    assert [None] == await ledger.load_delivery_infos([first.delivery_id])
    for load in (ledger.load_delivery, ledger.load_delivery_info, ledger.retranslate):
        with pytest.raises(NotFound):
            await load(first.delivery_id)


async def test_an_event_is_a_repeat_for_longer_than_its_delivery_is_stored(ledger: Ledger, redis: Redis) -> None:
    days, long_ago = 400 * 86_400, await now_ms(ledger) - 40 * 86_400_000
    first = await accept(ledger, change("A"), key="evt", dedup_ttl_s=days, at_ms=long_ago)
    stored = await accept(ledger, change("A"), key="evt", dedup_ttl_s=days)
    await redis.command("DEL", delivery_key(first.delivery_id))
    expired = await accept(ledger, change("A"), key="evt", dedup_ttl_s=days)

    assert [(first.delivery_id, True)] * 2 == [stored[:2], expired[:2]]
    [mark] = await redis.command("KEYS", "bell:dedup:*")
    assert days - 5 <= await redis.command("TTL", mark) <= days


async def test_a_repeat_for_a_full_visit_that_was_seen_long_ago_is_parked(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"), key="evt", at_ms=await now_ms(ledger) - EIGHT_DAYS_MS - 1)
    await redis.command("HSET", f"bell:{visit_task('A')}", *(f"change:d{number}.0" for number in range(10_000)))
    await redis.command("HSET", f"bell:{visit_task('A')}", "changes", 5_000)

    written = await accept(ledger, change("A"), key="evt")

    assert ("too_many_changes", False) == (written.limit_reached, written.is_repeat)
    assert "parked" == await state_of(ledger, f"event:{written.delivery_id}")


async def test_all_changes_of_a_delivery_are_stored_even_two_for_one_visit(ledger: Ledger, redis: Redis) -> None:
    written = await accept(ledger, change("A", version=1), change("B"), change("A", version=2))

    first, second = await ledger.load_task(visit_task("A")), await ledger.load_task(visit_task("B"))
    assert (2, 1) == (first.change_count, second.change_count)
    assert {f"{written.delivery_id}.0", f"{written.delivery_id}.2"} == set(first.changes)
    assert [visit_task("A"), visit_task("B")] == sorted(await jobs(redis))


async def test_ten_queued_changes_of_one_visit_share_one_job(ledger: Ledger, redis: Redis) -> None:
    for order in range(10):
        await accept(ledger, change("A", version=order))

    assert [visit_task("A")] == await jobs(redis)
    assert 10 == len((await start_run(ledger, "A")).primary.recorded_changes())


async def test_an_event_to_fetch_is_queued_and_an_untranslatable_event_is_parked(ledger: Ledger, redis: Redis) -> None:
    thin = await accept(ledger, event_state="queued")
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")

    assert ["event:" + thin.delivery_id] == await jobs(redis)
    assert ["event:" + odd.delivery_id] == await ledger.task_ids("parked")
    task = await ledger.load_task("event:" + odd.delivery_id)
    assert ("parked", "untranslatable: type") == (task.state, task.reason)


async def test_arq_keys_contain_no_personal_data(ledger: Ledger, redis: Redis) -> None:
    contact = Contact(email="canary@example.com", first_name="Canary", phone="+15550100099")
    await accept(ledger, change("A", contact=contact), raw=b"canary body")

    values = [key + (await redis.command("GET", key)) for key in await redis.command("KEYS", "arq:*")]
    values += await redis.command("ZRANGE", "bell:queue:visits", 0, -1)
    assert values
    assert not [value for value in values if b"canary" in value.lower() or b"0100099" in value]


# -- repeats of failures --


async def test_a_repeat_requeues_a_parked_visit(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await start_run(ledger, "A"), parked())

    assert (await accept(ledger, change("A"), key="evt")).is_repeat

    assert "queued" == await state_of(ledger, visit_task("A"))
    assert [] == await ledger.task_ids("parked")
    assert 1 == len((await start_run(ledger, "A")).tasks)


async def test_a_repeat_requeues_a_parked_event(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    await accept(ledger, key="evt", event_state="parked", reason="untranslatable")

    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


@pytest.mark.parametrize("outcome", [done(), waiting()], ids=["done", "waiting"])
async def test_a_repeat_does_not_change_a_task_that_is_not_parked(ledger: Ledger, outcome: Outcome) -> None:
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await start_run(ledger, "A"), outcome)

    await accept(ledger, change("A"), key="evt")

    assert outcome.state == await state_of(ledger, visit_task("A"))


async def test_a_repeat_of_an_event_without_an_id_is_fetched_again(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    lease = await ledger.lease(f"event:{first.delivery_id}")
    assert isinstance(lease, Lease)
    await ledger.record_changes(lease, "standard", "main", [change("A")], attempt())

    await accept(ledger, key="evt", event_state="queued", refetch=True)

    assert "queued" == await state_of(ledger, f"event:{first.delivery_id}")


@pytest.mark.parametrize("ends", ["changes recorded", "completed"])
async def test_a_repeat_during_the_fetch_is_fetched_after_it(ledger: Ledger, ends: str) -> None:
    # Two reschedules of an Acuity appointment have equal bodies: the running fetch may have read only the first.
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    task_id = f"event:{first.delivery_id}"
    lease = await ledger.lease(task_id)
    assert isinstance(lease, Lease)

    await accept(ledger, key="evt", event_state="queued", refetch=True)
    if ends == "changes recorded":
        await ledger.record_changes(lease, "standard", "main", [change("A")], attempt())
    else:
        await ledger.complete(lease, done())

    assert "queued" == await state_of(ledger, task_id)


async def test_an_event_after_a_discard_of_one_with_the_same_body_is_fetched(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    event = TaskId.event(first.delivery_id)
    await ledger.discard(event)

    await accept(ledger, key="evt", event_state="queued", refetch=True)

    assert "queued" == await state_of(ledger, event)


async def test_a_discard_does_not_include_an_event_that_arrived_after_its_plan(ledger: Ledger) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    event = TaskId.event(first.delivery_id)
    lease = await ledger.lease(event)
    assert isinstance(lease, Lease)
    await ledger.complete(lease, waiting())
    planned = (await ledger.load_task(event)).change_count

    await accept(ledger, key="evt", event_state="queued", refetch=True)

    assert -2 == await ledger.discard(event, expected_changes=planned)


async def test_an_event_after_the_erasure_of_one_with_the_same_body_is_stored(ledger: Ledger) -> None:
    """The record is fetched with the body, which is erased."""
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    event = TaskId.event(first.delivery_id)
    await run_event(ledger, event)
    info, _ = await ledger.load_delivery(first.delivery_id)
    erased = replace(info, erased_at_ms=info.received_at_ms).encode() + b"\n"
    assert "ok" == await ledger.redact(event, (await ledger.load_task(event)).change_count, erased, {})

    second = await accept(ledger, key="evt", event_state="queued", refetch=True)
    third = await accept(ledger, key="evt", event_state="queued", refetch=True)

    assert ((False, True), third.delivery_id) == ((second.is_repeat, third.is_repeat), second.delivery_id)
    assert b"evt" == (await ledger.load_delivery(second.delivery_id))[1]


async def test_a_delivery_that_is_fetched_again_does_not_expire(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    event = TaskId.event(first.delivery_id)
    ttls = []
    for _ in range(2):  # at once, then in a minute
        await run_event(ledger, event)
        ttls.append(await redis.command("PTTL", delivery_key(first.delivery_id)))
        await accept(ledger, key="evt", event_state="queued", refetch=True)
        ttls.append(await redis.command("PTTL", delivery_key(first.delivery_id)))
        await backdate(redis, "waiting")
        await ledger.requeue_due()

    assert [True, False, True, False] == [ttl > 0 for ttl in ttls]


async def test_a_repeat_is_not_delayed_by_a_time_in_the_future(ledger: Ledger, redis: Redis) -> None:
    """The clock of the server was a day ahead."""
    await accept(ledger, change("A"), key="evt")
    await ledger.complete(await start_run(ledger, "A"), parked())
    await redis.command("HSET", f"bell:{visit_task('A')}", "repeated_at", await now_ms(ledger) + 86_400_000)

    await accept(ledger, change("A"), key="evt")

    retry_at_ms = (await ledger.load_task(TaskId(visit_task("A")))).retry_at_ms
    assert retry_at_ms is not None
    assert retry_at_ms <= await now_ms(ledger) + 60_000


async def run_event(ledger: Ledger, task_id: str, repeats: int = 0) -> None:
    """Run the event, and accept repeats of it during the run."""
    lease = await ledger.lease(task_id)
    assert isinstance(lease, Lease)
    for _ in range(repeats):
        await accept(ledger, key="evt", event_state="queued", refetch=True)
    await ledger.record_changes(lease, "standard", "main", [change("A")], attempt())


@pytest.mark.parametrize("repeats", [0, 3])
async def test_frequent_repeats_are_fetched_once_a_minute(ledger: Ledger, redis: Redis, repeats: int) -> None:
    first = await accept(ledger, key="evt", event_state="queued", refetch=True)
    task_id = f"event:{first.delivery_id}"
    await run_event(ledger, task_id)
    await accept(ledger, key="evt", event_state="queued", refetch=True)
    await run_event(ledger, task_id, repeats)  # the first repeat does not wait

    states = []
    for minute in range(4):
        for _ in range(20):
            await accept(ledger, key="evt", event_state="queued", refetch=True)
        states.append(await state_of(ledger, task_id))
        [_, due] = await redis.command("ZRANGE", "bell:state:waiting", 0, -1, "WITHSCORES")
        wait_ms = float(due) - (await ledger.server_time()).timestamp() * 1000
        assert 0 < wait_ms <= 60_000, minute
        await redis.command("ZINCRBY", "bell:state:waiting", -int(wait_ms + 1), task_id)
        await redis.command("HINCRBY", f"bell:{task_id}", "repeated_at", -int(wait_ms + 1))
        assert 1 == await ledger.requeue_due()
        await run_event(ledger, task_id, repeats)

    assert ["waiting"] * 4 == states


async def test_repeats_requeue_a_parked_visit_once_a_minute(ledger: Ledger) -> None:
    first = await accept(ledger, change("A"), key="evt")
    for expected in ("queued", "waiting"):
        lease = await start_run(ledger, "A")
        await ledger.complete(lease, Outcome(state="parked", attempt=attempt(), reason="422"))
        await accept(ledger, change("A"), key="evt")
        assert expected == await state_of(ledger, visit_task("A"))

    # An operator's replay does not wait.
    await ledger.replay(visit_task("A"))
    assert "queued" == await state_of(ledger, visit_task("A"))
    assert (await ledger.load_delivery_info(first.delivery_id)).task_ids == [visit_task("A")]


# -- a full Redis --


async def test_a_full_redis_accepts_nothing_new_and_completes_accepted_tasks() -> None:
    with valkey() as url:
        redis = Redis(RedisAddress(url))
        ledger = Ledger(redis, retention_days=30)
        await accept(ledger, change("1"))
        await accept(ledger, change("2"))
        await accept(ledger, event_state="queued", raw=b"thin")
        await redis.command("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(RedisUnavailable, match="OOM"):
            await accept(ledger, change("3"))
        assert 3 == len((await ledger.claim({"visits": 50, "events": 50}, 35)).jobs)
        await complete_run(ledger, "1")
        await ledger.complete(await start_run(ledger, "2"), waiting(retry_in_s=0))
        await ledger.ack(f"{visit_task('1')}#1", "visits")
        [event] = [name for name in await ledger.task_ids("queued") if name.startswith("event:")]
        lease = await ledger.lease(event)
        assert isinstance(lease, Lease)
        await ledger.record_changes(lease, "standard", "main", [change("4")], attempt())

        assert await ledger.acquire_lock("bell:lock", "token", 60)
        await ledger.set_with_ttl("bell:contact", "cont_1", 60_000)
        assert 1 == await ledger.requeue_due()
        assert "queued" == await ledger.replay(visit_task("1"))
        assert 1 == await ledger.discard(visit_task("4"))
        assert b"cont_1" == await redis.command("GET", "bell:contact")
        assert [visit_task("1"), visit_task("2")] == sorted(await ledger.task_ids("queued"))
        await redis.close()


async def test_a_hook_is_listed_again_after_redis_was_emptied(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(ledger, change("A"))
    await redis.command("FLUSHDB")
    monkeypatch.setattr("app.ledger.ledger.HOOK_REGISTERED_FOR_S", 0)
    ledger._registered_until.clear()

    await accept(ledger, change("B"))
    await redis.command("FLUSHDB")
    await accept(ledger, change("C"))

    assert ["standard"] == await ledger.hook_names()


async def stored(redis: Redis) -> dict[str, Any]:
    """Return all keys and what they contain, with `T` for each time, and whether they expire."""
    keys: dict[str, Any] = {}
    for key in sorted(await all_keys(redis)):
        read, _ = READ[(await redis.command("TYPE", key)).decode()]
        flat = await redis.command(*read(key.decode()))
        parts = [re.sub(rb"\b1[0-9]{12}\b", b"T", part) for part in ([flat] if isinstance(flat, bytes) else flat)]
        is_hash = b"changes" in parts
        contents = sorted(zip(parts[::2], parts[1::2], strict=True)) if is_hash else parts
        keys[key.decode()] = contents, await redis.command("PTTL", key) > 0
    return keys


@pytest.mark.parametrize(
    "fields", [{}, {"time_scheduled": SOON}, {"contact": Contact(email=f"{'a' * 90}@example.com")}]
)
@pytest.mark.parametrize("state", ["new", "queued", "done"])
async def test_every_path_of_the_script_stores_the_same(
    ledger: Ledger, redis: Redis, state: str, fields: dict[str, Any]
) -> None:
    """Refetch takes the longest one, and changes nothing for an event that was not stored before."""
    await accept(ledger, change("A"))  # lists the hook, for ten seconds
    contents = []
    for refetch in (False, True):
        await redis.command("FLUSHDB")
        if state != "new":
            await accept(ledger, change("A", **fields), key="first", at_ms=1_790_000_000_001)
        if state == "done":
            await complete_run(ledger, "A")
        again = change("A", version=2, **fields)
        await accept(ledger, again, key="second", at_ms=1_790_000_000_002, refetch=refetch)
        contents.append(await stored(redis))

    assert contents[0] == contents[1]
    assert f"bell:{visit_task('A')}" in contents[0]
