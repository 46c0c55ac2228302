"""A tool that uses one id for several people: the visit is for the first, and the task is parked for the others."""

import json
from datetime import UTC, datetime
from itertools import permutations

from app.ledger.ids import TaskId
from app.operators.explain import Explain
from app.visits.change import Contact, VisitChange, encode_change
from app.visits.merge import RecordedChange, count_people, desired_visit, merge_changes, required_origins
from tests.support.visit_worker import World

START, CANCELLED_AT = datetime(2026, 10, 1, 15, tzinfo=UTC), datetime(2026, 9, 21, tzinfo=UTC)


def person_change(order: int, name: str, cancelled_at: datetime | None = None) -> VisitChange:
    return VisitChange(
        action="cancel" if cancelled_at else "update",
        visit_id="1",
        version=order,
        contact=Contact(email=f"{name}@example.com", first_name=name),
        date_cancelled=cancelled_at,
        times_are_observed=True,
        first_contact_stays=True,
    )


TIME = VisitChange(action="create", visit_id="1", version=1, time_scheduled=START)


async def test_a_visit_is_created_for_the_first_person_and_parked_for_the_others(world: World) -> None:
    assert ["done"] == await world.apply(TIME, person_change(2, "ada"))
    assert ["parked"] == await world.apply(person_change(3, "bob", CANCELLED_AT))

    visit, task = world.visit() or {}, await world.load_task()
    assert ("parked", "several_people") == (task.state, task.reason)
    assert "2026-10-01T15:00:00Z" == visit["time_scheduled"]
    assert not visit.get("date_cancelled")
    assert (1, 0) == (len(world.contacts("ada@example.com")), len(world.contacts("bob@example.com")))
    assert "@" not in " ".join(attempt.response_text or "" for attempt in task.attempts)
    shown = await Explain(world.ledger, world.context.settings).visit("standard-1")
    assert "@" not in json.dumps(shown, default=str)


async def test_after_a_discard_the_visit_stays_that_of_the_first_person(world: World) -> None:
    await world.apply(TIME, person_change(2, "ada"), person_change(3, "bob"))

    await world.ledger.discard(TaskId.visit("main", "standard-1"))
    await world.apply(person_change(4, "bob"))

    [visit], [ada] = world.harness.visits(), world.contacts("ada@example.com")
    assert (ada["id"], []) == (visit["contact_id"], world.contacts("bob@example.com"))


async def test_later_changes_of_the_first_person_are_applied(world: World) -> None:
    await world.apply(TIME, person_change(2, "ada"), person_change(3, "bob"))
    await world.apply(person_change(4, "ada", CANCELLED_AT))

    assert "2026-09-21T00:00:00Z" == (world.visit() or {})["date_cancelled"]


def test_the_first_person_is_the_same_in_every_order_and_after_compaction() -> None:
    changes = [
        TIME,
        person_change(2, "ada"),
        person_change(3, "bob", CANCELLED_AT),
        person_change(4, "eve"),
        person_change(5, "ada"),
    ]
    recorded = [RecordedChange.decode(f"d{number}", encode_change(change)) for number, change in enumerate(changes)]

    for order in permutations(recorded):
        merged = merge_changes(order)
        compacted = merge_changes(change for change in order if change.origin in required_origins(order))
        for facts in (merged, compacted):
            assert ("ada@example.com", "ada") == (
                desired_visit(facts).contact.email,
                desired_visit(facts).contact.first_name,
            )
            assert (3, None) == (count_people(facts), desired_visit(facts).fields.get("date_cancelled"))
