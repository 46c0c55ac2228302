"""Appointlet: one visit for each person of a meeting."""

from typing import Any

from tests.support.shared_bookings import ADA, BOB, CY, FIRST, PEOPLE, SECOND, Body, BookingWorld, _activity, attendee


def appointlet(
    action: str, minute: int, *people: str, start: str = FIRST, created_minute: int = 1, **more: Any
) -> Body:
    """Return a webhook body. created_minute: when the meeting was created."""
    meeting = {
        "id": 2751918, "type": "Meeting", "created_at": f"2026-09-21T14:{created_minute:02}:00.100000Z", "start": start,
        "attendees": [{"id": PEOPLE[email.lower()], "email": email} for email in people], **more,
    }  # fmt: skip
    return _activity(f"Meeting.{action}", minute, meeting)


async def test_a_group_meeting_is_one_visit_per_attendee(world: BookingWorld) -> None:
    made = appointlet("scheduled", 1, ADA, "BOB@example.com", ADA.title())
    moved = appointlet("rescheduled", 3, ADA, BOB, CY, start=SECOND)

    assert [("ada", FIRST), ("bob", FIRST)] == await world.in_every_order("appointlet", [made])
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await world.in_every_order("appointlet", [made, attendee("scheduled", 2, CY), moved])


async def test_an_attendee_who_leaves_ends_only_their_visit(world: BookingWorld) -> None:
    made, cancelled = appointlet("scheduled", 1, ADA, BOB, CY), attendee("cancelled", 2, "Bob@Example.com")

    assert [("ada", FIRST), ("cy", FIRST)] == await world.in_every_order("appointlet", [made, cancelled])
    listed = appointlet("rescheduled", 3, ADA, BOB, CY, start=SECOND)
    assert [("ada", SECOND), ("cy", SECOND)] == await world.in_every_order("appointlet", [made, cancelled, listed])
    back = attendee("scheduled", 4, BOB)
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await world.in_every_order("appointlet", [made, cancelled, listed, back])


async def test_a_cancelled_group_meeting_ends_every_visit(world: BookingWorld) -> None:
    made, cancelled = appointlet("scheduled", 1, ADA, BOB), appointlet("cancelled", 2, ADA, BOB)

    assert [] == await world.in_every_order("appointlet", [made, attendee("scheduled", 1, ADA), cancelled])


async def test_the_visit_of_a_meeting_of_one_has_the_id_of_the_meeting(world: BookingWorld) -> None:
    life = [appointlet("scheduled", 1, ADA), attendee("scheduled", 1, ADA, meeting={"id": 2751918}),
            appointlet("rescheduled", 2, ADA, start=SECOND)]  # fmt: skip

    assert [("ada", SECOND)] == await world.in_every_order("appointlet", life)
    assert ["appointlet-2751918"] == [visit["external_id"] for visit in world.harness.visits()]
    assert [] == await world.in_every_order("appointlet", [*life, appointlet("cancelled", 3, ADA)])
    assert [] == await world.in_every_order("appointlet", [*life, attendee("cancelled", 3, ADA)])


async def test_a_cancellation_without_attendees_ends_a_meeting_of_one(world: BookingWorld) -> None:
    made, moved, cancelled = (
        appointlet("scheduled", 1, ADA),
        appointlet("rescheduled", 2, ADA, start=SECOND),
        appointlet("cancelled", 3),
    )

    assert [] == await world.in_every_order("appointlet", [made, cancelled])
    assert [] == await world.in_every_order("appointlet", [made, moved, cancelled])
    assert ["a meeting was cancelled, and the event does not list its attendees"] == await world.parked()


async def test_a_second_booking_of_one_meeting_is_a_second_visit(world: BookingWorld) -> None:
    """Appointlet sends it as a new meeting with one attendee."""
    both = [appointlet("scheduled", 1, ADA), appointlet("scheduled", 9, BOB)]

    assert [("ada", FIRST), ("bob", FIRST)] == await world.in_every_order("appointlet", both)


async def test_an_event_without_an_identifiable_attendee_is_parked(world: BookingWorld) -> None:
    nameless = appointlet("scheduled", 1, ADA)
    nameless["entity"]["attendees"].append({"email": None, "first_name": "Dan"})
    await world.process("appointlet", nameless)
    assert ([("ada", FIRST)], ["an attendee has neither an e-mail address nor an id"]) == (
        world.review_requests(),
        await world.parked(),
    )

    await world.process("appointlet", appointlet("cancelled", 2))
    await world.process("appointlet", appointlet("rescheduled", 3))
    await world.process("appointlet", attendee("cancelled", 4, ADA, meeting=None))
    await world.process("appointlet", attendee("cancelled", 5, None))
    # Those of one millisecond are in any order.
    assert sorted(await world.parked()) == [
        "a meeting was cancelled, and the event does not list its attendees",
        "an attendee has neither an e-mail address nor an id",
        "an attendee has neither an e-mail address nor an id",
        "entity.attendees: expected the attendees, found a list of length 0",
        "entity.meeting: expected the meeting that the attendee left, found nothing",
    ]


async def test_a_delivery_of_a_legacy_account_is_parked(world: BookingWorld) -> None:
    await world.process("appointlet", {"type": "booking", "action": "created", "data": {"id": 1, "email": ADA}})

    assert ["a booking of a legacy account, whose webhooks are not supported"] == await world.parked()
