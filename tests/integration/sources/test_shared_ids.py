"""A tool that uses one id for several people: the visit is the first one's, and an operator sees that there are others."""

import json
from datetime import UTC, datetime
from itertools import permutations

from app.operators.explain import Explain
from app.visits.change import Contact, VisitChange, encode_change
from app.visits.merge import RecordedChange, count_people, desired_visit, merge_changes, required_origins
from tests.support.visit_worker import World

START, OFF = datetime(2026, 10, 1, 15, tzinfo=UTC), datetime(2026, 9, 21, tzinfo=UTC)


def answer(order: int, name: str, off: datetime | None = None) -> VisitChange:
    return VisitChange(
        action="cancel" if off else "update",
        visit_id="1",
        version=order,
        contact=Contact(email=f"{name}@example.com", first_name=name),
        date_cancelled=off,
        times_are_observed=True,
        first_contact_stays=True,
    )


TIME = VisitChange(action="create", visit_id="1", version=1, time_scheduled=START)


async def test_the_visit_is_made_for_the_first_and_parked_for_the_others(world: World) -> None:
    assert ["done"] == await world.apply(TIME, answer(2, "ada"))
    assert ["parked"] == await world.apply(answer(3, "bob", OFF))

    visit, member = world.visit() or {}, await world.load_task()
    assert ("parked", "several_people") == (member.state, member.reason)
    assert "2026-10-01T15:00:00Z" == visit["time_scheduled"]
    assert not visit.get("date_cancelled")
    assert (1, 0) == (len(world.contacts("ada@example.com")), len(world.contacts("bob@example.com")))
    assert "@" not in " ".join(attempt.response_text or "" for attempt in member.attempts)
    shown = await Explain(world.ledger, world.context.settings).visit("standard-1")
    assert "@" not in json.dumps(shown, default=str)


async def test_what_the_first_says_later_still_counts(world: World) -> None:
    await world.apply(TIME, answer(2, "ada"), answer(3, "bob"))
    await world.apply(answer(4, "ada", OFF))

    assert "2026-09-21T00:00:00Z" == (world.visit() or {})["date_cancelled"]


def test_the_first_is_the_first_in_every_order_and_after_compaction() -> None:
    changes = [TIME, answer(2, "ada"), answer(3, "bob", OFF), answer(4, "eve"), answer(5, "ada")]
    said = [RecordedChange.decode(f"d{number}", encode_change(change)) for number, change in enumerate(changes)]

    for order in permutations(said):
        facts = merge_changes(order)
        kept = merge_changes(one for one in order if one.origin in required_origins(order))
        for found in (facts, kept):
            assert ("ada@example.com", "ada") == (
                desired_visit(found).contact.email,
                desired_visit(found).contact.first_name,
            )
            assert (3, None) == (count_people(found), desired_visit(found).fields.get("date_cancelled"))
