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


async def test_discard_removes_pending_changes_and_not_applied_ones(ledger: Ledger) -> None:
    applied = await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    pending = await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked())

    count = await ledger.discard(visit_task("A"))

    task = await ledger.load_task(visit_task("A"))
    assert (1, "discarded") == (count, task.state)
    assert {f"{applied.delivery_id}.0"} == set(task.changes)
    assert {f"{pending.delivery_id}.0"} == set(task.discarded_changes)
    assert "nothing" == await ledger.lease(visit_task("A"))
    assert 0 == await ledger.discard(visit_task("A"))


async def test_discard_of_an_untranslated_event_counts_as_one_change(ledger: Ledger) -> None:
    delivery = await accept(ledger, event_state="parked", reason="untranslatable: type")
    event = f"event:{delivery.delivery_id}"

    counts = [await ledger.discard(event), await ledger.discard(event)]

    assert ([1, 0], "discarded") == (counts, await state_of(ledger, event))


async def test_a_running_task_is_not_discarded(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await start_run(ledger, "A")

    assert -1 == await ledger.discard(visit_task("A"))
    assert 1 == len((await ledger.load_task(visit_task("A"))).changes)


async def test_discard_of_a_done_or_unknown_task_changes_nothing(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")

    assert 0 == await ledger.discard(visit_task("A"))
    assert 0 == await ledger.discard(visit_task("nobody"))
    assert "done" == await state_of(ledger, visit_task("A"))
    assert [] == await ledger.task_ids("discarded")


async def test_a_change_after_a_discard_is_applied_without_the_discarded_changes(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.discard(visit_task("A"))

    new = await accept(ledger, change("A"))

    assert [f"{new.delivery_id}.0"] == [
        recorded.origin for recorded in (await start_run(ledger, "A")).primary.recorded_changes()
    ]


async def test_discard_of_a_delivery_removes_only_its_own_changes(ledger: Ledger) -> None:
    booked = await accept(ledger, change("A"))
    moved = await accept(ledger, change("A"))

    count = await ledger.discard(visit_task("A"), moved.delivery_id)

    assert 1 == count
    assert [f"{booked.delivery_id}.0"] == [
        recorded.origin for recorded in (await start_run(ledger, "A")).primary.recorded_changes()
    ]


async def test_discard_of_a_rescheduled_visit_includes_the_changes_of_its_aliases(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await complete_run(ledger, "A")
    await accept(ledger, change("B"))
    await ledger.complete(await start_run(ledger, "B"), parked())

    count = await ledger.discard(visit_task("A"))  # the failure is listed under the primary

    assert 1 == count
    assert all(task.change_count == task.applied_count for task in await ledger.load_aliases(visit_task("B")))


@pytest.mark.parametrize("state", ["done", "parked", "waiting", "discarded"])
async def test_a_replay_requeues_a_task_in_any_state(ledger: Ledger, redis: Redis, state: Any) -> None:
    await accept(ledger, change("A"))
    if state == "discarded":
        await ledger.discard(visit_task("A"))
    else:
        outcome = Outcome(
            state=state, attempt=attempt(), retry_in_s=60, failed_attempts=3, remote={visit_task("A"): {"id": 7}}
        )
        await ledger.complete(await start_run(ledger, "A"), outcome)

    assert "queued" == await ledger.replay(visit_task("A"))
    assert "queued" == await ledger.replay(visit_task("A"))

    assert visit_task("A") in await jobs(redis)
    primary = (await start_run(ledger, "A")).primary
    assert (0, None, None) == (primary.failed_attempts, primary.failing_since_ms, primary.retry_at_ms)


async def test_a_replay_with_recheck_lasts_until_a_run_is_done(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), done(remote={visit_task("A"): {"id": 7}}))
    recheck_ids = []

    for recheck, outcome in ((False, done()), (True, waiting(retry_in_s=0)), (False, done()), (False, done())):
        await ledger.replay(visit_task("A"), recheck=recheck, duplicate_ids=[8] if recheck else [])
        lease = await start_run(ledger, "A")
        recheck_ids.append(lease.primary.recheck_ids)
        await ledger.complete(lease, outcome)

    assert [None, ["8"], ["8"], None] == recheck_ids
    assert {"id": 7} == lease.primary.remote


async def test_a_recheck_requested_during_a_run_applies_to_the_next_run(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")

    assert "running" == await ledger.replay(visit_task("A"), recheck=True)
    await ledger.complete(lease, done(remote={visit_task("A"): {"id": 7}}))

    assert [] == (await start_run(ledger, "A")).primary.recheck_ids


async def test_a_recheck_by_an_alias_applies_to_every_id(ledger: Ledger) -> None:
    await accept(ledger, change("B", previous_visit_id="A"), change("A"))
    await complete_run(ledger, "A")

    await ledger.replay(visit_task("B"), recheck=True)

    primary, alias = (await start_run(ledger, "A")).tasks
    assert [] == primary.recheck_ids
    assert alias.was_attempted


async def test_a_replay_of_a_running_task_queues_another_run(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    lease = await start_run(ledger, "A")

    assert "running" == await ledger.replay(visit_task("A"))
    await ledger.complete(lease, done())

    assert "queued" == await state_of(ledger, visit_task("A"))


async def test_a_replay_of_a_running_event_queues_another_run(ledger: Ledger) -> None:
    first = await accept(ledger, event_state="queued")
    event = f"event:{first.delivery_id}"
    lease = await ledger.lease(event)
    assert isinstance(lease, Lease)

    assert "running" == await ledger.replay(event)
    await ledger.record_changes(lease, "standard", "main", [change("A")], attempt())

    assert "queued" == await state_of(ledger, event)


async def test_a_replay_of_an_unknown_task_raises_not_found(ledger: Ledger, redis: Redis) -> None:
    with pytest.raises(NotFound):
        await ledger.replay(visit_task("nobody"))
    assert set() == await all_keys(redis)


async def test_a_contact_assigned_by_an_operator_requeues_the_visit(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A"), parked("contact_unknown"))

    await ledger.assign_contact(visit_task("A"), change("A", version=9, contact=Contact(id="cont_1")))

    lease = await start_run(ledger, "A")
    assert [{"id": "cont_1"}] == [recorded.contact for recorded in lease.primary.recorded_changes() if recorded.contact]


async def test_the_changes_of_an_event_are_recorded_once_and_complete_it(ledger: Ledger, redis: Redis) -> None:
    first = await accept(ledger, event_state="queued")
    task_id = f"event:{first.delivery_id}"
    first = await ledger.lease(task_id)
    await backdate(redis, "running")
    second = await ledger.lease(task_id)
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)

    with pytest.raises(LeaseLost):
        await ledger.record_changes(first, "standard", "main", [change("A")], attempt())
    await ledger.record_changes(second, "standard", "main", [change("A"), change("B")], attempt())

    event = await ledger.load_task(task_id)
    assert ("done", [visit_task("A"), visit_task("B")]) == (event.state, event.targets)
    assert [visit_task("A"), visit_task("B")] == sorted(await ledger.task_ids("queued"))
