"""What moves with an account from one Redis to another, and what the marks of a move stop in both."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from app.demo.valkey import valkey
from app.ledger import buckets
from app.ledger.ids import delivery_key
from app.ledger.keys import KEY_KINDS, SCHEMA_VERSION
from app.ledger.ledger import Ledger
from app.ledger.moves import MOVE_RULES, AccountCopy, AccountData, Mark, Phase, Scope, load_mark, save_mark
from app.ledger.records import DeliveryInfo, HookMoved, Lease, NewDelivery
from app.ledger.redis import Redis, RedisAddress
from app.telemetry.counters import delivery_of_request
from app.webhooks.delivery import Delivery
from tests.support.harness import memory_folder
from tests.support.ledger import accept, change, complete_run, jobs, parked, start_run, state_of, visit_task, waiting

SCOPE = Scope("main", ("standard",), ("other",))
EXPIRES_AT_MS = 4_102_444_800_000


@pytest.fixture(scope="module")
def other_url() -> Iterator[str]:
    with valkey(parent=memory_folder()) as url:
        yield url


@pytest.fixture
async def other(other_url: str) -> AsyncIterator[Ledger]:
    """Return the ledger of another cell."""
    connection = Redis(RedisAddress(other_url))
    await connection.command("FLUSHDB")
    yield Ledger(connection, retention_days=30)
    await connection.close()


async def mark(ledger: Ledger, phase: Phase) -> None:
    before = await load_mark(ledger.redis, "main")
    assert await save_mark(ledger.redis, "main", SCOPE.hooks, before, Mark(phase, "move-1", "elsewhere:6379"))


async def copy(ledger: Ledger, other: Ledger) -> AccountCopy:
    copy = AccountCopy(AccountData(ledger, SCOPE), other)
    await copy.copy_all(lambda _: None)
    await copy.copy_changes()
    return copy


async def contents(redis: Redis, key: str) -> Any:
    """Return type, contents and time of expiry of a key; None if there is none."""
    reads = {"string": ("GET", key), "hash": ("HGETALL", key), "list": ("LRANGE", key, 0, -1)}
    reads |= {"set": ("SMEMBERS", key), "zset": ("ZRANGE", key, 0, -1, "WITHSCORES")}
    kind = (await redis.command("TYPE", key)).decode()
    if kind == "none":
        return None
    value = await redis.command(*reads[kind])
    ordered = {"hash": lambda: dict(zip(value[::2], value[1::2], strict=True)), "set": lambda: set(value)}
    return kind, ordered.get(kind, lambda: value)(), await redis.command("PEXPIRETIME", key)


def test_every_kind_of_key_has_a_rule() -> None:
    assert [kind.pattern for kind in KEY_KINDS] == list(MOVE_RULES)


def names_of(way: str, account: str, hook: str) -> list[str]:
    """Return an example of each kind of key that is named by an account or a hook."""
    names = {
        "bell:visit:*": f"bell:visit:{account}/standard-A",
        "bell:people:*": f"bell:people:{account}/standard-A",
        "bell:contact:*": f"bell:contact:{account}:a1b2",
        "bell:circuit:*": f"bell:circuit:{account}",
        "bell:dedup:*": f"bell:dedup:{hook}:a1b2",
        "bell:retry-after:*": f"bell:retry-after:{hook}",
        "bell:token:*": f"bell:token:{hook}",
        "bell:catch-up:*": f"bell:catch-up:{hook}:plan",
        "bell:secret-used:*": f"bell:secret-used:{hook}",
        "bell:rejections:*:*": f"bell:rejections:{hook}:unsigned",
        "bell:rejections:*": f"bell:rejections:{hook}",
    }
    assert names.keys() == {pattern for pattern, rule in MOVE_RULES.items() if rule.way in ("account", "hook")}
    return [name for pattern, name in names.items() if MOVE_RULES[pattern].way == way]


TYPES = {
    "string": lambda key: ("SET", key, b"\x00\xff"),
    "hash": lambda key: ("HSET", key, *(part for n in range(3_000) for part in (f"field{n}", f"value{n}"))),
    "list": lambda key: ("RPUSH", key, *range(2_500)),
    "set": lambda key: ("SADD", key, "a", "b"),
    "zset": lambda key: ("ZADD", key, 1.5, "a", 1_790_000_000_123, "b"),
}


@pytest.mark.parametrize("type", TYPES)
async def test_keys_of_the_account_and_its_hooks_move_with_their_expiry(
    ledger: Ledger, redis: Redis, other: Ledger, type: str
) -> None:
    own = names_of("account", "main", "standard") + names_of("hook", "main", "standard")
    foreign = names_of("account", "mainz", "other") + names_of("hook", "mainz", "other")
    for number, key in enumerate([*own, *foreign]):
        await redis.command(*TYPES["hash" if key.startswith("bell:visit:") else type](key))
        if number % 2:
            await redis.command("PEXPIREAT", key, EXPIRES_AT_MS)
    before = [await contents(redis, key) for key in own]

    await copy(ledger, other)

    assert before == [await contents(other.redis, key) for key in own]
    assert sorted(own) == sorted(key.decode() for key in await other.redis.command("KEYS", "*"))

    await AccountData(ledger, SCOPE).remove(lambda _: None)

    assert sorted(foreign) == sorted(key.decode() for key in await redis.command("KEYS", "*"))


async def test_keys_of_the_cell_stay(ledger: Ledger, redis: Redis, other: Ledger) -> None:
    names = [pattern.replace("*", "standard") for pattern, rule in MOVE_RULES.items() if rule.way == "stays"]
    for key in set(names) - {"bell:state:running", "bell:move-arrivals:standard"}:
        await redis.command("SET", key, SCHEMA_VERSION)  # as in bell:schema, without which no process connects

    await copy(ledger, other)
    await AccountData(ledger, SCOPE).remove(lambda _: None)

    assert [] == await other.redis.command("KEYS", "*")
    assert len(names) - 2 == await redis.command("DBSIZE")


async def test_only_the_members_of_the_account_move(ledger: Ledger, redis: Redis, other: Ledger) -> None:
    for key, command in {
        "bell:hooks": ("SADD", "standard", "other"),
        "bell:accounts": ("SADD", "main", "mainz"),
        "bell:circuits": ("SADD", "main", "mainz"),
        "bell:catch-ups": ("SADD", "standard", "standard:plan", "other"),
        "bell:connections": ("HSET", "standard", "{}", "other", "{}"),
        "bell:payload-cursors": ("HSET", "standard", "d1", "other", "d2"),
        "bell:visit-day:2031-03-14": ("RPUSH", "16:00 main/a", "16:00 mainz/b", "17:30 main/c"),
        "bell:visit-day:2031-03-15": ("RPUSH", "16:00 mainz/b"),
        "bell:visit-days": ("ZADD", 20310314, "2031-03-14", 20310315, "2031-03-15"),
    }.items():
        await redis.command(command[0], key, *command[1:])
    await redis.command("HSET", "bell:visit:mainz/b", "changes", 1)

    await copy(ledger, other)
    await copy(ledger, other)  # a killed move copies again

    west = {key.decode(): await contents(other.redis, key.decode()) for key in await other.redis.command("KEYS", "*")}
    assert west == {
        "bell:hooks": ("set", {b"standard"}, -1),
        "bell:accounts": ("set", {b"main"}, -1),
        "bell:circuits": ("set", {b"main"}, -1),
        "bell:catch-ups": ("set", {b"standard", b"standard:plan"}, -1),
        "bell:connections": ("hash", {b"standard": b"{}"}, -1),
        "bell:payload-cursors": ("hash", {b"standard": b"d1"}, -1),
        "bell:visit-day:2031-03-14": ("list", [b"16:00 main/a", b"17:30 main/c"], -1),
        "bell:visit-days": ("zset", [b"2031-03-14", b"20310314"], -1),
    }

    await AccountData(ledger, SCOPE).remove(lambda _: None)

    assert [b"other"] == await redis.command("SMEMBERS", "bell:hooks")
    assert [b"other", b"{}"] == await redis.command("HGETALL", "bell:connections")
    assert [b"16:00 mainz/b"] == await redis.command("LRANGE", "bell:visit-day:2031-03-14", 0, -1)


async def test_the_account_s_entries_in_indexes_move(ledger: Ledger, redis: Redis, other: Ledger) -> None:
    own, foreign = [await accept(ledger, hook=hook) for hook in ("standard", "other")]
    digests, keep_ms = [b"\xa3" * 12, b"\xa3" * 11 + b"\x00"], 30 * 86_400_000
    both = [(digest, each.delivery_id) for digest in digests for each in (own, foreign)]
    await buckets.add(redis, buckets.REQUESTS, both, keep_ms)
    await buckets.add(other.redis, buckets.REQUESTS, [(digests[0], "d-of-the-other-cell")], keep_ms)
    visits = [(b"\xa3" * 12, "main/standard-A"), (b"\xa3" * 12, "mainz/other-A")]
    await buckets.add(redis, buckets.CONTACTS, visits, 762 * 86_400_000)

    await copy(ledger, other)
    await copy(ledger, other)  # a killed move copies again

    ids = await buckets.find(other.redis, buckets.REQUESTS, digests, 10)
    assert [[own.delivery_id, "d-of-the-other-cell"], [own.delivery_id]] == ids
    assert [["main/standard-A"]] == await buckets.find(other.redis, buckets.CONTACTS, digests[:1], 10)
    names = await redis.command("KEYS", "bell:*index*")
    assert sorted(names) == sorted(await other.redis.command("KEYS", "bell:*index*"))
    assert [await redis.command("PEXPIRETIME", name) for name in names] == [
        await other.redis.command("PEXPIRETIME", name) for name in names
    ]

    await AccountData(ledger, SCOPE).remove(lambda _: None)

    ids = await buckets.find(redis, buckets.REQUESTS, digests, 10)
    assert [[foreign.delivery_id], [foreign.delivery_id]] == ids
    assert [["mainz/other-A"]] == await buckets.find(redis, buckets.CONTACTS, digests[:1], 10)


async def accept_request(ledger: Ledger, request_id: str, hook: str = "standard") -> str:
    """Accept a delivery with a request id, and return its id."""
    delivery = Delivery(hook, "standard", (), b"{}", datetime.now(UTC))
    info = DeliveryInfo(hook, "standard", 1_790_000_000_000, request_id=request_id)
    return (await ledger.accept(NewDelivery(delivery, info, [change("A")], "main", dedup_id=request_id))).delivery_id


async def test_a_delivery_that_arrives_while_the_account_is_copied_is_found_by_its_request_id(
    ledger: Ledger, other: Ledger
) -> None:
    await mark(ledger, "copying")
    moved = AccountCopy(AccountData(ledger, SCOPE), other)
    await moved.copy_all(lambda _: None)
    late = await accept_request(ledger, "request-1")
    await mark(ledger, "closed")

    await moved.copy_changes()

    assert late == await delivery_of_request(other.redis, "request-1")


async def test_no_request_id_of_a_moved_account_stays(
    ledger: Ledger, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.moves.BATCH", 1)  # lists of the index are looked at before and after the deliveries
    for hook in ("standard", "other"):
        ids = [f"{hook}-{number}" for number in range(20)]
        entries = [(buckets.digest_of(id), await accept_request(ledger, id, hook)) for id in ids]
        await buckets.add(redis, buckets.REQUESTS, entries, 30 * 86_400_000)

    await AccountData(ledger, SCOPE).remove(lambda _: None)

    assert {None} == {await delivery_of_request(redis, f"standard-{number}") for number in range(20)}
    assert None not in {await delivery_of_request(redis, f"other-{number}") for number in range(20)}


async def test_tasks_of_every_state_continue_in_the_other_cell(ledger: Ledger, redis: Redis, other: Ledger) -> None:
    for visit in ("done", "waiting", "parked", "queued", "replayed", "discarded", "held"):
        await accept(ledger, change(visit))
    await complete_run(ledger, "done")
    await complete_run(ledger, "replayed")
    await ledger.replay(visit_task("replayed"), queue="replays")
    await ledger.complete(await start_run(ledger, "waiting"), waiting(retry_in_s=3_600))
    await ledger.complete(await start_run(ledger, "parked"), parked())
    await ledger.discard(visit_task("discarded"))
    await ledger.pause("main")
    assert "held" == await ledger.lease(visit_task("held"), "main")
    event = await accept(ledger, event_state="queued")
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")
    await mark(ledger, "copying")
    before = await redis.command("ZRANGE", "bell:state:waiting", 0, -1, "WITHSCORES")

    moved = await copy(ledger, other)
    await mark(ledger, "moved")
    await moved.list_tasks()
    await moved.list_tasks()  # a killed move lists them again

    states = {visit: await state_of(other, visit_task(visit)) for visit in ("waiting", "parked", "queued", "held")}
    assert all(visit == state for visit, state in states.items())
    assert ["visit:main/standard-queued"] == await jobs(other.redis, "visits")
    assert ["visit:main/standard-replayed"] == await jobs(other.redis, "replays")
    assert [f"event:{event.delivery_id}"] == await jobs(other.redis, "events")
    assert before == await other.redis.command("ZRANGE", "bell:state:waiting", 0, -1, "WITHSCORES")
    assert {visit_task("parked"), f"event:{odd.delivery_id}"} == set(await other.task_ids("parked"))
    assert [visit_task("discarded")] == await other.task_ids("discarded")
    assert [visit_task("held").encode()] == await other.redis.command("ZRANGE", "bell:state:held:main", 0, -1)
    assert [visit_task("held").encode()] == await other.redis.command("ZRANGE", "bell:held-by-age:main", 0, -1)
    await other.pause("main", is_paused=False)
    assert 1 == await other.release_held("main")
    assert isinstance(await other.lease(visit_task("queued"), "main"), Lease)


async def test_what_arrives_while_the_account_is_copied_moves_too(ledger: Ledger, other: Ledger) -> None:
    await accept(ledger, change("first"), key="first")
    failed = await accept(ledger, change("failed"), key="failed")
    await ledger.complete(await start_run(ledger, "failed"), parked())
    await mark(ledger, "copying")
    moved = AccountCopy(AccountData(ledger, SCOPE), other)
    await moved.copy_all(lambda _: None)

    new = await accept(ledger, change("new"), key="new")
    event = await accept(ledger, event_state="queued", key="event")
    await accept(ledger, change("moved", previous_visit_id="first"), key="link")
    repeat = await accept(ledger, change("failed"), key="failed")
    await mark(ledger, "closed")
    await moved.copy_changes()
    await mark(ledger, "moved")
    await moved.list_tasks()

    assert (True, failed.delivery_id) == (repeat.is_repeat, repeat.delivery_id)
    assert {"queued"} == {await state_of(other, visit_task(visit)) for visit in ("first", "new", "failed")}
    assert 2 == len(await other.load_aliases(visit_task("moved")))
    assert b"event" == (await other.load_delivery(event.delivery_id))[1]
    assert (True, new.delivery_id) == (await accept(other, change("new"), key="new"))[1::-1]
    assert 5 == await other.redis.command("ZCARD", "bell:deliveries:standard")
    assert [] == await moved.missing()
    assert 0 == await ledger.redis.command("EXISTS", "bell:move-arrivals:standard")


async def test_a_visit_that_is_absent_in_the_other_cell_is_noticed(ledger: Ledger, other: Ledger) -> None:
    written = await accept(ledger, change("A"))
    moved = await copy(ledger, other)
    await other.redis.command("DEL", "bell:visit:main/standard-A", delivery_key(written.delivery_id))

    assert ["bell:visit:main/standard-A", delivery_key(written.delivery_id)] == await moved.missing()


@pytest.mark.parametrize("phase", ["closed", "moved", "arriving"])
async def test_deliveries_are_refused_outside_the_cell_that_has_the_account(ledger: Ledger, phase: Phase) -> None:
    await mark(ledger, phase)

    with pytest.raises(HookMoved):
        await accept(ledger, change("A"))
    await accept(ledger, change("B"), hook="other")

    assert 1 == await ledger.redis.command("ZCARD", "bell:deliveries:other")
    assert [] == await ledger.redis.command("KEYS", "bell:*standard-A*")


@pytest.mark.parametrize("phase", ["copying", "closed", "moved", "arriving"])
async def test_no_task_of_a_moving_account_starts(ledger: Ledger, phase: Phase) -> None:
    await accept(ledger, change("A"))
    event = f"event:{(await accept(ledger, event_state='queued')).delivery_id}"
    await mark(ledger, phase)

    assert ["held", "waiting"] == [await ledger.lease(task, "main") for task in (visit_task("A"), event)]

    assert ["held", "waiting"] == [await state_of(ledger, task) for task in (visit_task("A"), event)]
    assert "account_moves" == (await ledger.load_task(event)).reason
    assert 0 == await ledger.release_held("main")
    assert -1 == await ledger.discard(visit_task("A"))
    assert "busy" == await ledger.redact(visit_task("A"), 1, b"", {})


async def test_a_paused_task_starts_after_the_move_is_cancelled(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await mark(ledger, "copying")
    assert "held" == await ledger.lease(visit_task("A"), "main")

    await mark(ledger, "")
    await ledger.release_held("main")

    assert isinstance(await ledger.lease(visit_task("A"), "main"), Lease)


async def test_a_mark_is_not_replaced_after_another_process_did(ledger: Ledger) -> None:
    await mark(ledger, "closed")

    assert not await save_mark(ledger.redis, "main", SCOPE.hooks, Mark("copying", "move-1"), Mark("closed", "move-1"))
    assert await asyncio.gather(
        *(save_mark(ledger.redis, "main", SCOPE.hooks, Mark("closed", "move-1"), Mark("moved", "move-1")) for _ in "ab")
    ) in ([True, False], [False, True])
