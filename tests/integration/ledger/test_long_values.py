"""Values of more than 64 bytes, which a hash has in several fields: they are read, replaced and deleted as a whole."""

import itertools

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import Attempt, Outcome
from app.ledger.redis import Redis
from app.ledger.values import join_values
from app.visits.change import Contact
from app.visits.merge import RecordedChange
from tests.support.ledger import accept, attempt, change, done, start_run, visit_task

TASK = f"bell:{visit_task('A')}"
LENGTHS = [0, 1, 20, *range(60, 70), 128, 129, 200]


async def fields(redis: Redis, prefix: str = "") -> list[str]:
    return sorted(name.decode() for name in await redis.command("HKEYS", TASK) if name.decode().startswith(prefix))


async def last_names(ledger: Ledger) -> list[str]:
    """Return the last name in each change of the visit."""
    task = await ledger.load_task(visit_task("A"))
    changes = [*task.changes.items(), *task.discarded_changes.items()]
    return [RecordedChange.decode(origin, stored.body).contact["last_name"] for origin, stored in changes]


def with_name(length: int) -> Contact:
    return Contact(email="ada@example.com", last_name="é" * (length // 2) + "x" * (length % 2))


@pytest.mark.parametrize("length", LENGTHS)
async def test_a_change_of_any_length_is_read_as_it_was_stored(ledger: Ledger, length: int) -> None:
    contact = with_name(length)
    await accept(ledger, change("A", contact=contact))

    assert [contact.last_name] == await last_names(ledger)


@pytest.mark.parametrize("lengths", [*itertools.permutations([4, 90, 400], 2)])
async def test_a_replaced_answer_leaves_nothing_of_the_previous_one(
    ledger: Ledger, redis: Redis, lengths: tuple[int, int]
) -> None:
    await accept(ledger, change("A"))
    for length in lengths:
        await ledger.replay(visit_task("A"))
        remote = {"id": 7, "contact": "k" * length}
        await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): remote}))
        assert remote == (await ledger.load_task(visit_task("A"))).remote
    await ledger.replay(visit_task("A"))
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): None}))

    assert [] == await fields(redis, "remote")


async def test_a_discarded_change_is_read_as_it_was_stored(ledger: Ledger, redis: Redis) -> None:
    contact = with_name(300)
    await accept(ledger, change("A", contact=contact))

    assert 1 == await ledger.discard(visit_task("A"))

    assert [contact.last_name] == await last_names(ledger)
    assert [] == await fields(redis, "change:")


async def test_a_compacted_change_leaves_nothing(ledger: Ledger, redis: Redis) -> None:
    for version in (1, 2):
        await accept(ledger, change("A", version=version, contact=with_name(300)))
    run = await start_run(ledger, "A")
    first, second = run.primary.changes

    await ledger.compact(run, run.primary, [first])

    assert 1 == (await ledger.load_task(visit_task("A"))).compacted_count
    assert [] == await fields(redis, f"change:{first}")
    assert {f"change:{second}"} == {name.partition("+")[0] for name in await fields(redis, "change:")}


async def test_a_redacted_change_leaves_nothing_of_the_person(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", contact=with_name(300)))
    [(origin, _)] = (await ledger.load_task(visit_task("A"))).changes.items()
    redacted = b'1 {"a":"update","o":1,"f":{}}'

    assert "ok" == await ledger.redact(visit_task("A"), 1, b"", {f"change:{origin}": redacted})

    assert [f"change:{origin}"] == await fields(redis, "change:")
    assert redacted == await redis.command("HGET", TASK, f"change:{origin}")


@pytest.mark.parametrize("length", [64, 65, 6_400, 6_464, 6_465, 100_000])
async def test_a_value_of_any_length_is_read_as_it_was_replaced(ledger: Ledger, length: int) -> None:
    await accept(ledger, change("A", contact=with_name(200)))
    [(origin, _)] = (await ledger.load_task(visit_task("A"))).changes.items()

    await ledger.redact(visit_task("A"), 1, b"", {f"change:{origin}": b"1 " + b"x" * (length - 2)})

    [stored] = (await ledger.load_task(visit_task("A"))).changes.values()
    assert b"x" * (length - 2) == stored.body


async def test_a_shorter_translation_leaves_nothing_of_the_longer_one(ledger: Ledger, redis: Redis) -> None:
    event = f"event:{(await accept(ledger, event_state='queued')).delivery_id}"
    for length in (300, 20):
        await ledger.replay(event)
        lease = await ledger.lease(event)
        assert not isinstance(lease, str)
        changes = [change("A", contact=with_name(length))]
        await ledger.record_changes(lease, "standard", "main", changes, attempt())

    assert [with_name(20).last_name] == await last_names(ledger)
    assert 2 == len(await fields(redis, "change:"))


async def test_changes_that_the_server_lost_are_restored_whole(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", contact=with_name(300)))
    await start_run(ledger, "A")
    stored = await redis.command("HGETALL", TASK)
    [held] = redis.held_leases.values()
    await redis.command("DEL", TASK)

    for call in held.restore_changes():
        await redis.script(call)

    restored = join_values(await redis.command("HGETALL", TASK))
    names = {name for name in join_values(stored) if name.startswith(b"change")}
    assert names == restored.keys()
    assert {name: join_values(stored)[name] for name in names} == restored


async def test_long_attempts_are_read_as_they_were_stored_and_dropped_whole(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    long = [Attempt(number, 1, "updated", [["GET /contacts", 200]], "r" * (number * 7 % 500)) for number in range(110)]
    for each in long:
        await ledger.replay(visit_task("A"))
        await ledger.complete(await start_run(ledger, "A"), Outcome(state="done", attempt=each))

    assert long[-100:] == (await ledger.load_task(visit_task("A"))).attempts
    numbers = {int(name.partition("+")[0].removeprefix("attempt:")) for name in await fields(redis, "attempt:")}
    assert set(range(11, 111)) == numbers


async def test_a_usual_visit_has_the_compact_form_of_redis(ledger: Ledger, redis: Redis) -> None:
    """With the default settings of the server."""
    contact = Contact(email="ada.lovelace@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")
    await accept(ledger, change("A", contact=contact))
    remote = {"id": 7, "contact_id": "cont_L6w8ANiafaYVYdjJe8", "contact": "35ca92e53652483f1dd774de52c19854"}
    calls = [["GET /visits/:id", 404], ["GET /contacts", 200], ["POST /contacts", 201], ["POST /visits", 201]]
    outcome = Outcome(state="done", attempt=Attempt(1, 1, "created", calls), remote={visit_task("A"): remote})
    await ledger.complete(await start_run(ledger, "A"), outcome)

    assert b"listpack" == await redis.command("OBJECT", "ENCODING", TASK)


async def test_the_values_of_a_visit_with_many_changes_are_not_cut(ledger: Ledger, redis: Redis) -> None:
    for version in range(110):
        await accept(ledger, change("A", version=version, contact=with_name(100)))

    assert 110 == len(await last_names(ledger))
    cut = [name for name in await fields(redis, "change:") if name.endswith("+1")]
    assert 100 == len(cut)
