"""SavvyCal: one visit for each person of a session."""

from collections import Counter
from typing import Any

from tests.support.shared_bookings import ADA, BOB, CY, FIRST, SECOND, Body, BookingWorld

HOST = {"id": "attendee_0", "email": "host@example.org", "display_name": "Grace Host", "is_organizer": True}


def joiner(email: str | None, **more: Any) -> Body:
    return {
        "id": "attendee_1",
        "email": email,
        "display_name": (email or "Dan").split("@")[0],
        "is_organizer": False,
        **more,
    }


def session(*people: str, start: str = FIRST, state: str = "confirmed", **more: Any) -> Body:
    """Return a calendar event in the vendor's schema."""
    return {
        "id": "event_1", "state": state, "start_at": start, "canceled_at": None, "rescheduled_at": None, "payment": None,
        "is_group_session": True, "scheduler": joiner(people[-1]) if people else None, "organizer": HOST,
        "attendees": [HOST, *map(joiner, people)], **more,
    }  # fmt: skip


def savvycal(kind: str, minute: int, payload: Body) -> Body:
    at = f"2026-09-21T14:{minute:02}:00Z"
    return {"id": f"{kind} {minute}", "type": kind, "version": "2020-11-18", "occurred_at": at, "payload": payload}


def attendee_event(kind: str, minute: int, email: str, **more: Any) -> Body:
    return savvycal(f"event.attendee.{kind}", minute, {"event": session(**more), "attendee": joiner(email)})


async def test_a_group_session_is_one_visit_per_attendee(world: BookingWorld) -> None:
    made = savvycal("event.created", 1, session(ADA, "BOB@Example.com", ADA.title()))
    moved = savvycal("event.rescheduled", 3, session(ADA, BOB, CY, start=SECOND))

    assert [("ada", FIRST), ("bob", FIRST)] == await world.in_every_order("savvycal", [made])
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await world.in_every_order("savvycal", [made, attendee_event("added", 2, CY), moved])
    cancelled = savvycal("event.canceled", 4, session(ADA, BOB, CY, state="canceled"))
    assert [] == await world.in_every_order("savvycal", [made, attendee_event("added", 2, CY), moved, cancelled])


async def test_an_attendee_who_leaves_a_session_ends_only_their_visit(world: BookingWorld) -> None:
    made, cancelled = savvycal("event.created", 1, session(ADA, BOB)), attendee_event("canceled", 2, "Ada@Example.com")
    listed = savvycal("event.changed", 3, {"event": session(ADA, BOB, start=SECOND), "changes": {}})

    assert [("bob", FIRST)] == await world.in_every_order("savvycal", [made, cancelled])
    assert [("bob", SECOND)] == await world.in_every_order("savvycal", [made, cancelled, listed])
    back = [("ada", SECOND), ("bob", SECOND)]
    assert back == await world.in_every_order(
        "savvycal", [made, cancelled, listed, attendee_event("added", 4, ADA, start=SECOND)]
    )
    by_id = savvycal("event.attendee.canceled", 4, {**joiner(BOB), "event_id": "event_1"})
    assert [] == await world.in_every_order("savvycal", [made, cancelled, by_id])


async def test_an_attendee_who_declined_has_no_visit(world: BookingWorld) -> None:
    event = session(ADA, BOB)
    event["attendees"][1]["response_status"] = "declined"

    assert [("bob", FIRST)] == await world.in_every_order("savvycal", [savvycal("event.changed", 1, {"event": event})])


async def test_a_changed_event_moves_its_visit(world: BookingWorld) -> None:
    alone = {"is_group_session": False, "scheduler": joiner(ADA)}
    changed = savvycal("event.changed", 2, {"event": session(ADA, start=SECOND, **alone), "changes": {"start_at": {}}})

    assert [("ada", SECOND)] == await world.in_every_order(
        "savvycal", [savvycal("event.created", 1, session(ADA, **alone)), changed]
    )
    assert ["savvycal-event_1"] == [visit["external_id"] for visit in world.harness.visits()]


async def test_an_attendee_without_a_session_is_parked(world: BookingWorld) -> None:
    await world.process("savvycal", savvycal("event.created", 1, session(ADA, BOB)))
    for minute, kind in enumerate(("added", "canceled", "rescheduled"), 2):
        await world.process("savvycal", savvycal(f"event.attendee.{kind}", minute, joiner(BOB)))
    assert ["the event is about an attendee, but does not name the calendar event"] * 3 == await world.parked()

    await world.process("savvycal", savvycal("event.attendee.canceled", 5, session(ADA)))
    await world.process("savvycal", attendee_event("rescheduled", 6, BOB, start=SECOND))
    assert Counter(await world.parked()) == {  # those of the same millisecond are in any order
        "the event is about an attendee, but does not name the calendar event": 3,
        "the event is about an attendee of a group session, but does not name the attendee": 1,
        "an attendee of a group session moved, and the event does not name the session that they left": 1,
    }
    assert [("ada", FIRST), ("bob", SECOND)] == world.review_requests()


async def test_a_guest_of_an_individual_event_is_ignored(world: BookingWorld) -> None:
    [response] = await world.receive("savvycal", attendee_event("added", 2, BOB, is_group_session=False))

    assert "event.attendee.added" == response["ignored"]


async def test_a_payment_in_a_group_session_is_parked(world: BookingWorld) -> None:
    paid = {"payment": {"state": "paid", "amount_total": 7550}}
    await world.process("savvycal", savvycal("event.checkout.completed", 1, session(ADA, **paid)))
    assert (["75.50"], []) == ([visit["amount_collected"] for visit in world.harness.visits()], await world.parked())

    await world.process("savvycal", savvycal("event.checkout.completed", 2, session(ADA, BOB, **paid)))
    assert ["a payment in a group session, and the event does not name the attendee who paid"] == await world.parked()
    assert [("ada", FIRST), ("bob", FIRST)] == world.review_requests()


async def test_an_attendee_without_an_email_address_is_a_separate_visit(world: BookingWorld) -> None:
    event = session(ADA)
    event["attendees"] += [joiner(None, id="attendee_9"), joiner(None, id=None)]

    await world.process("savvycal", savvycal("event.created", 1, event))

    assert [("ada", FIRST)] == world.review_requests()
    assert ["contact_unknown"] == [
        (await world.ledger.load_task(task_id)).reason for task_id in await world.ledger.task_ids("waiting")
    ]
    assert ["an attendee has neither an e-mail address nor an id"] == await world.parked()
