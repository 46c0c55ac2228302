"""Replays and discards by an operator."""

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
from app.visits.change import Contact
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


async def test_a_discarded_change_is_given_up_and_an_applied_one_stays(ledger: Ledger) -> None:
    one = await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    other = await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    dropped = await ledger.discard(visit_task("A"))

    member = await ledger.load_task(visit_task("A"))
    assert (1, "discarded") == (dropped, member.state)
    assert {f"{one.delivery_id}.0"} == set(member.changes)
    assert {f"{other.delivery_id}.0"} == set(member.discarded_changes)
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert 0 == await ledger.discard(visit_task("A"))


async def test_an_event_that_was_never_translated_is_given_up_as_one(ledger: Ledger) -> None:
    odd = await accept(ledger, event_state="parked", reason="untranslatable: type")
    event = f"event:{odd.delivery_id}"

    given_up = [await ledger.discard(event), await ledger.discard(event)]

    assert ([1, 0], "discarded") == (given_up, await state_of(ledger, event))


async def test_work_in_a_workers_hands_is_not_discarded(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")

    assert -1 == await ledger.discard(visit_task("A"))
    assert 1 == len((await ledger.load_task(visit_task("A"))).changes)


async def test_nothing_is_discarded_of_what_is_done_or_unknown(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")

    assert 0 == await ledger.discard(visit_task("A"))
    assert 0 == await ledger.discard(visit_task("nobody"))
    assert "done" == await state_of(ledger, visit_task("A"))
    assert [] == await ledger.task_ids("discarded")


async def test_a_change_after_a_discard_is_worked_on_without_what_was_given_up(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.discard(visit_task("A"))

    new = await accept(ledger, change("A"))

    assert [f"{new.delivery_id}.0"] == [
        said.origin for said in (await start_run(ledger, "A")).primary.recorded_changes()
    ]


async def test_to_discard_a_delivery_gives_up_its_own_changes_and_no_other(ledger: Ledger) -> None:
    booked = await accept(ledger, change("A"))
    moved = await accept(ledger, change("A"))

    dropped = await ledger.discard(visit_task("A"), moved.delivery_id)

    assert 1 == dropped
    assert [f"{booked.delivery_id}.0"] == [
        said.origin for said in (await start_run(ledger, "A")).primary.recorded_changes()
    ]


async def test_to_discard_a_rescheduled_visit_gives_up_what_waits_under_its_later_ids_too(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    await accept(ledger, change("B"))
    await ledger.complete(await start_run(ledger, "B"), parked())

    dropped = await ledger.discard(visit_task("A"))  # the failure is listed under the first id

    assert 1 == dropped
    assert all(member.change_count == member.applied_count for member in await ledger.load_aliases(visit_task("B")))


@pytest.mark.parametrize("ends", ["done", "parked", "waiting", "discarded"])
async def test_a_replay_puts_back_to_work_whatever_came_of_it(ledger: Ledger, redis: Redis, ends: Any) -> None:
    await accept(ledger, change("A"))
    if ends == "discarded":
        await ledger.discard(visit_task("A"))
    else:
        outcome = Outcome(
            state=ends, attempt=attempt(), retry_in_s=60, failed_attempts=3, remote={visit_task("A"): {"id": 7}}
        )
        await ledger.complete(await start_run(ledger, "A"), outcome)

    assert "queued" == await ledger.replay(visit_task("A"))
    assert "queued" == await ledger.replay(visit_task("A"))

    assert visit_task("A") in await jobs(redis)
    root = (await start_run(ledger, "A")).primary
    assert (0, None, None) == (root.failed_attempts, root.failing_since_ms, root.retry_at_ms)


async def test_a_fresh_replay_has_the_api_asked_until_a_run_is_done(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): {"id": 7}}))
    asked = []

    for fresh, outcome in ((False, done()), (True, waiting(retry_in_s=0)), (False, done()), (False, done())):
        await ledger.replay(visit_task("A"), recheck=fresh, duplicate_ids=[8] if fresh else [])
        hold = await start_run(ledger, "A")
        asked.append(hold.primary.recheck_ids)
        await ledger.complete(hold, outcome)

    assert [None, ["8"], ["8"], None] == asked
    assert {"id": 7} == hold.primary.remote


async def test_a_fresh_replay_during_a_run_is_not_forgotten_by_its_end(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")

    assert "running" == await ledger.replay(visit_task("A"), recheck=True)
    await ledger.complete(hold, done(remote={visit_task("A"): {"id": 7}}))

    assert [] == (await start_run(ledger, "A")).primary.recheck_ids


async def test_a_fresh_replay_by_a_later_id_asks_about_every_id(ledger: Ledger) -> None:
    await accept(ledger, change("B", previous_visit_id="A"), change("A"))
    await complete_run(ledger, "A")

    await ledger.replay(visit_task("B"), recheck=True)

    root, later = (await start_run(ledger, "A")).tasks
    assert [] == root.recheck_ids
    assert later.was_attempted


async def test_a_replay_of_running_work_runs_it_once_more(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    hold = await start_run(ledger, "A")

    assert "running" == await ledger.replay(visit_task("A"))
    await ledger.complete(hold, done())

    assert "queued" == await state_of(ledger, visit_task("A"))


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
        await ledger.replay(visit_task("nobody"))
    assert set() == await all_keys(redis)


async def test_an_operators_contact_is_a_fact_that_puts_the_visit_back_to_work(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked("contact_unknown"))

    await ledger.assign_contact(visit_task("A"), change("A", version=9, contact=Contact(id="cont_1")))

    hold = await start_run(ledger, "A")
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
    assert ("done", [visit_task("A"), visit_task("B")]) == (event.state, event.targets)
    assert [visit_task("A"), visit_task("B")] == sorted(await ledger.task_ids("queued"))
