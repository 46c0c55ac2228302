"""Cal.com: one visit for each person of a booking."""

from collections.abc import Sequence
from typing import Any

import pytest

from app.operators.erasure import Erasure
from app.operators.explain import Explain
from app.visits.merge import desired_visit, merge_changes
from tests.support.shared_bookings import ADA, BOB, CY, FIRST, SECOND, THIRD, Body, BookingWorld


def calcom(kind: str, minute: int, uid: str, people: Sequence[str], start: str = FIRST, **more: Any) -> Body:
    """Return a webhook body. minute: when it happened. people: e-mail addresses; the one who acts is the last."""
    attendees = [{"email": email, "name": email.split("@")[0], "timeZone": "Europe/London"} for email in people]
    payload = {
        "uid": uid, "startTime": start, "endTime": start.replace(":00:00Z", ":30:00Z"), "attendees": attendees,
        "organizer": {"email": "host@example.com", "name": "Grace Host"}, "status": "ACCEPTED",
        "responses": {"email": {"label": "email_address", "value": people[-1] if people else ""}},
        "price": 0, "currency": "usd", "metadata": {}, **more,
    }  # fmt: skip
    return {"triggerEvent": kind, "createdAt": f"2026-09-21T14:{minute:02}:00.000Z", "payload": payload}


def seats(kind: str, minute: int, uid: str, people: Sequence[str], start: str = FIRST, **more: Any) -> Body:
    return calcom(kind, minute, uid, people, start, seatsPerTimeSlot=10, **more)


def no_show(minute: int, uid: str, marks: dict[str, bool], **more: Any) -> Body:
    attendees = [{"email": email, "noShow": mark} for email, mark in marks.items()]
    payload = {"message": "x", "bookingUid": uid, "bookingId": 1, "attendees": attendees, **more}
    return {
        "triggerEvent": "BOOKING_NO_SHOW_UPDATED",
        "createdAt": f"2026-09-21T14:{minute:02}:00.000Z",
        "payload": payload,
    }


SEATS = [seats("BOOKING_CREATED", 1, "u1", [ADA]), seats("BOOKING_CREATED", 2, "u1", [ADA, BOB]),
         seats("BOOKING_CREATED", 3, "u1", [ADA, BOB, CY])]  # fmt: skip


async def test_every_seat_is_one_visit(world: BookingWorld) -> None:
    assert [("ada", FIRST), ("bob", FIRST), ("cy", FIRST)] == await world.in_every_order("calcom", SEATS)


async def test_a_cancelled_seat_ends_one_visit(world: BookingWorld) -> None:
    cancelled = seats("BOOKING_CANCELLED", 4, "u1", ["BOB@Example.com"], status="CANCELLED")

    assert [("ada", FIRST), ("cy", FIRST)] == await world.in_every_order("calcom", [*SEATS, cancelled])


async def test_a_seat_booked_again_is_the_same_visit(world: BookingWorld) -> None:
    cancelled, again = seats("BOOKING_CANCELLED", 4, "u1", [BOB]), seats("BOOKING_CREATED", 5, "u1", [ADA, CY, BOB])

    assert [("ada", FIRST), ("bob", FIRST), ("cy", FIRST)] == await world.in_every_order(
        "calcom", [*SEATS, cancelled, again]
    )


async def test_a_later_list_with_a_cancelled_seat_does_not_restore_its_visit(world: BookingWorld) -> None:
    cancelled, later = (
        seats("BOOKING_CANCELLED", 4, "u1", [ADA]),
        seats("BOOKING_CREATED", 5, "u1", [ADA, BOB, CY, "dan@example.com"]),
    )

    assert [("bob", FIRST), ("cy", FIRST), ("dan", FIRST)] == await world.in_every_order(
        "calcom", [*SEATS, cancelled, later]
    )


async def test_a_cancellation_by_the_host_ends_every_visit(world: BookingWorld) -> None:
    assert [] == await world.in_every_order("calcom", [*SEATS, seats("BOOKING_CANCELLED", 4, "u1", [ADA, BOB, CY])])


@pytest.mark.parametrize("attendees", [[ADA], [BOB, ADA]], ids=["alone", "with the others"])
async def test_one_seat_moves_to_another_booking(world: BookingWorld, attendees: list[str]) -> None:
    """Bob has a seat in both bookings, and both stay."""
    other_booking = seats("BOOKING_CREATED", 4, "u2", [BOB], SECOND)
    moved = seats("BOOKING_RESCHEDULED", 5, "u2", attendees, SECOND, rescheduleUid="u1", rescheduledBy=ADA)

    expected = [("ada", SECOND), ("bob", FIRST), ("bob", SECOND), ("cy", FIRST)]
    assert expected == await world.in_every_order("calcom", [*SEATS, other_booking, moved])


async def test_a_seat_that_moves_back_has_its_latest_time(world: BookingWorld) -> None:
    other_booking = seats("BOOKING_CREATED", 4, "u2", ["dan@example.com"], SECOND)
    moved = seats(
        "BOOKING_RESCHEDULED", 5, "u2", ["dan@example.com", BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB
    )
    back = seats("BOOKING_RESCHEDULED", 6, "u1", [ADA, CY, BOB], FIRST, rescheduleUid="u2", rescheduledBy=BOB)

    expected = [("ada", FIRST), ("bob", FIRST), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await world.in_every_order("calcom", [*SEATS, other_booking, moved, back])
    away = seats(
        "BOOKING_RESCHEDULED", 7, "u2", ["dan@example.com", BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB
    )
    expected = [("ada", FIRST), ("bob", SECOND), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await world.in_every_order("calcom", [*SEATS, other_booking, moved, back, away])


@pytest.mark.parametrize("is_confirmed", [False, True])
async def test_a_requested_move_ends_the_visit_at_the_old_time(world: BookingWorld, is_confirmed: bool) -> None:
    requested = seats(
        "BOOKING_REQUESTED", 5, "u2", [BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB, status="PENDING"
    )
    confirmed = seats("BOOKING_CREATED", 6, "u2", [BOB], SECOND)

    moved = [("bob", SECOND)] if is_confirmed else []
    expected = [("ada", FIRST), *moved, ("cy", FIRST)]
    assert expected == await world.in_every_order("calcom", [*SEATS, requested, *([confirmed] if is_confirmed else [])])


PAID = {"paymentData": {"success": True, "amount": 2_000, "refunded": False}}


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (seats("BOOKING_CREATED", 4, "u1", [ADA, BOB]), [("ada", FIRST), ("bob", FIRST)]),
        (seats("BOOKING_CANCELLED", 4, "u1", [ADA]), []),
        (seats("BOOKING_CANCELLED", 4, "u1", [BOB]), [("ada", FIRST)]),
        (
            seats("BOOKING_RESCHEDULED", 4, "u2", [ADA], SECOND, rescheduleUid="u1", rescheduledBy=ADA),
            [("ada", SECOND)],
        ),
        (seats("BOOKING_REQUESTED", 4, "u2", [ADA], SECOND, rescheduleUid="u1", status="PENDING"), []),
        (seats("BOOKING_PAID", 4, "u1", [ADA], **PAID), [("ada", FIRST)]),
        (
            seats("MEETING_ENDED", 0, "u1", [ADA], eventType={"team": None, "seatsPerTimeSlot": 10}),
            [("ada", "2026-10-01T15:30:00Z")],
        ),
    ],
    ids=["joined", "cancelled", "cancelled by another", "moved", "move requested", "paid", "ended"],
)
async def test_a_booking_that_gets_seats_later_is_one_visit(
    world: BookingWorld, later: Body, expected: list[tuple[str, str]]
) -> None:
    alone = calcom("BOOKING_CREATED", 1, "u1", [ADA])

    assert expected == await world.in_every_order("calcom", [alone, later])


async def test_a_move_by_the_host_moves_every_seat(world: BookingWorld) -> None:
    moved = seats(
        "BOOKING_RESCHEDULED", 4, "u1", [ADA, BOB, CY], SECOND, rescheduleUid="u1", rescheduledBy="host@example.com"
    )

    assert [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)] == await world.in_every_order("calcom", [*SEATS, moved])


async def test_a_move_by_the_host_can_join_two_bookings(world: BookingWorld) -> None:
    other_booking = seats("BOOKING_CREATED", 4, "u2", ["dan@example.com"], SECOND)
    moved = seats(
        "BOOKING_RESCHEDULED", 5, "u2", [ADA, BOB, CY], SECOND, rescheduleUid="u1", rescheduledBy="host@example.com"
    )

    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND), ("dan", SECOND)]
    assert expected == await world.in_every_order("calcom", [*SEATS, other_booking, moved])


@pytest.mark.parametrize("more", [{}, {"seatsPerTimeSlot": 10}], ids=["without seats", "with seats"])
async def test_a_no_show_ends_the_visit_of_one_seat(world: BookingWorld, more: Body) -> None:
    marks = [
        no_show(40, "u1", {"Ada@Example.com": True, CY: True}, **more),
        no_show(41, "u1", {ADA: False}, **more),
    ]

    assert [("ada", FIRST), ("bob", FIRST)] == await world.in_every_order("calcom", [*SEATS, *marks])
    assert [] == await world.ledger.task_ids("waiting")


async def test_the_end_of_a_meeting_completes_the_visits_of_its_seats(world: BookingWorld) -> None:
    ended = {
        "triggerEvent": "MEETING_ENDED", "uid": "u1", "startTime": FIRST, "endTime": "2026-10-01T15:30:00Z",
        "createdAt": "2026-09-21T14:01:00.000Z", "seatsPerTimeSlot": 10, "fromReschedule": None, "paid": False,
        "attendees": [{"email": ADA, "name": "ada", "noShow": True}, {"email": BOB, "name": "bob", "noShow": False},
                      {"email": "cohost@example.com", "name": "Co", "noShow": False}],
    }  # fmt: skip
    cancelled = seats("BOOKING_CANCELLED", 4, "u1", [CY])

    assert [("bob", "2026-10-01T15:30:00Z")] == await world.in_every_order("calcom", [*SEATS[:2], cancelled, ended])
    assert [] == await world.ledger.task_ids("waiting"), "a task waits for a host among the attendees"


async def test_the_end_of_a_meeting_without_seat_data_creates_no_second_visit(world: BookingWorld) -> None:
    """The event contains the booking as it was when the first seat was booked (scheduleTrigger)."""
    ended = {
        "triggerEvent": "MEETING_ENDED", "uid": "u1", "startTime": FIRST, "endTime": "2026-10-01T15:30:00Z",
        "createdAt": "2026-09-21T14:01:00.000Z", "attendees": [{"email": ADA, "name": "ada", "noShow": False}],
    }  # fmt: skip

    assert [("ada", FIRST), ("bob", FIRST)] == await world.in_every_order("calcom", [*SEATS[:2], ended])


async def test_a_team_host_among_the_attendees_is_no_visit(world: BookingWorld) -> None:
    """Hosts are attendees too. Cal.com lists them in the team, or gives every other attendee a seat."""
    team = {"team": {"name": "Team", "members": [{"email": "Cohost@example.com", "name": "Co"}]}}
    named = seats("BOOKING_CREATED", 1, "u1", ["host@example.com", "cohost@example.com", ADA], **team)
    listed = seats("BOOKING_CREATED", 2, "u2", ["cohost@example.com", ADA, BOB], SECOND, attendeeSeatId="seat-2")
    for number, attendee in enumerate(listed["payload"]["attendees"][1:], 1):
        attendee["bookingSeat"] = {"referenceUid": f"seat-{number}", "attendeeId": number}

    assert [("ada", FIRST), ("ada", SECOND), ("bob", SECOND)] == await world.in_every_order("calcom", [named, listed])


async def test_a_seat_without_an_email_address_is_a_separate_visit(world: BookingWorld) -> None:
    """A seat with a phone number waits for a contact; one without is parked."""
    phone_only = seats("BOOKING_CREATED", 2, "u1", [ADA])
    phone_only["payload"]["attendees"].append({"name": "Bob", "phoneNumber": "+1 555 0100002"})
    nameless = seats("BOOKING_CREATED", 3, "u1", [ADA, CY])
    nameless["payload"]["attendees"].append({"email": None, "name": "Dan"})

    await world.process("calcom", SEATS[0], phone_only, nameless)

    assert [("ada", FIRST), ("cy", FIRST)] == world.review_requests()
    assert ["contact_unknown"] == [
        (await world.ledger.load_task(task_id)).reason for task_id in await world.ledger.task_ids("waiting")
    ]
    assert ["an attendee has neither an e-mail address nor a phone number"] == await world.parked()
    assert not [key for key in await world.redis.command("KEYS", "*") if b"5550100002" in key or b"@" in key]


async def test_a_payment_for_one_of_several_seats_is_parked(world: BookingWorld) -> None:
    paid = {"paymentId": 9, "paymentData": {"amount": 7550, "currency": "usd", "success": True, "refunded": False}}

    await world.process("calcom", *SEATS[:2], seats("BOOKING_PAID", 4, "u1", [ADA, BOB], **paid))
    assert ["a payment for one of several seats, and the event does not name the seat"] == await world.parked()
    assert not any(visit.get("amount_collected") for visit in world.harness.visits())

    await world.process("calcom", seats("BOOKING_CREATED", 5, "u3", [CY]), seats("BOOKING_PAID", 6, "u3", [CY], **paid))
    assert ["75.50"] == [visit["amount_collected"] for visit in world.harness.visits() if visit.get("amount_collected")]


async def test_the_visit_of_a_booking_without_seats_has_the_id_of_the_booking(world: BookingWorld) -> None:
    await world.process("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA], seatsPerTimeSlot=None),
                    calcom("BOOKING_CREATED", 1, "u2", [ADA], seatsPerTimeSlot=1))  # fmt: skip

    assert ["calcom-u1", "calcom-u2"] == sorted(visit["external_id"] for visit in world.harness.visits())


async def test_a_no_show_of_a_guest_does_not_change_the_customers_visit(world: BookingWorld) -> None:
    booked = calcom("BOOKING_CREATED", 1, "u1", ["guest@example.com", ADA])

    assert [("ada", FIRST)] == await world.in_every_order(
        "calcom", [booked, no_show(40, "u1", {"guest@example.com": True})]
    )
    assert [] == await world.in_every_order(
        "calcom", [booked, no_show(40, "u1", {"guest@example.com": True, ADA: True})]
    )
    both = [no_show(40, "u1", {ADA: True}), no_show(41, "u1", {ADA: False, "guest@example.com": True})]
    assert [("ada", FIRST)] == await world.in_every_order("calcom", [booked, *both])


async def test_a_no_show_of_an_erased_person_still_counts(world: BookingWorld) -> None:
    await world.process("calcom", *SEATS[:2], no_show(40, "u1", {ADA: True, "guest@example.com": True}))
    assert [("bob", FIRST)] == world.review_requests()

    for email in (ADA, "guest@example.com"):
        await Erasure(world.ledger, world.context.settings, email).execute()

    keys = [name.decode() for name in await world.redis.command("KEYS", "bell:visit:*")]
    stored = [b" ".join(await world.redis.command("HGETALL", key)) for key in keys]
    assert not [text for text in stored if ADA.encode() in text or b"guest@" in text]
    aliases = [await world.ledger.load_aliases(key.removeprefix("bell:")) for key in keys]
    visits = [
        desired_visit(merge_changes(change for task in tasks for change in task.recorded_changes()))
        for tasks in aliases
    ]
    assert [True] == [visit.is_cancelled for visit in visits if visit.contact.is_erased]


REASON = {
    "responses": {"email": {"value": ADA}, "rescheduleReason": {"label": "reason_for_reschedule", "value": "Ill"}}
}

NO_OLD_BOOKING = (
    "a booking was moved, and the event does not name the old one: cancel the visit at the old time by hand"
)


@pytest.mark.parametrize(
    "fields", [REASON, {"iCalSequence": 1, "iCalUID": "a1b2@google.com"}], ids=["a reason", "a sequence"]
)
async def test_a_requested_move_without_the_old_booking_is_parked(world: BookingWorld, fields: Body) -> None:
    """WebhookTaskConsumer sends it after Cal.com cancelled the old booking."""
    booked = calcom("BOOKING_CREATED", 1, "u1", [ADA])
    requested = calcom("BOOKING_REQUESTED", 2, "u2", [ADA], SECOND, status="PENDING", **fields)
    confirmed = calcom("BOOKING_CREATED", 3, "u2", [ADA], SECOND, **fields)

    await world.process("calcom", booked, requested)
    assert [NO_OLD_BOOKING] == await world.parked()

    await world.process("calcom", confirmed)
    assert [NO_OLD_BOOKING, NO_OLD_BOOKING] == await world.parked()
    assert ("ada", SECOND) in world.review_requests(), "the confirmed booking is a visit"


async def test_a_requested_move_with_the_calendar_event_of_the_old_booking_is_a_move(world: BookingWorld) -> None:
    more = {"iCalUID": "u1@Cal.com", "iCalSequence": 1}
    booked = calcom("BOOKING_CREATED", 1, "u1", [ADA], iCalUID="u1@Cal.com", iCalSequence=0)
    requested = calcom("BOOKING_REQUESTED", 2, "u2", [ADA], SECOND, status="PENDING", **more)
    confirmed = calcom("BOOKING_CREATED", 3, "u2", [ADA], SECOND, **more)
    again = calcom("BOOKING_REQUESTED", 4, "u3", [ADA], THIRD, status="PENDING", **more)

    assert [] == await world.in_every_order("calcom", [booked, requested])
    assert [("ada", SECOND)] == await world.in_every_order("calcom", [booked, requested, confirmed])
    assert [] == await world.in_every_order("calcom", [booked, requested, confirmed, again])
    rejected = calcom("BOOKING_REJECTED", 5, "u3", [ADA], THIRD, status="REJECTED", **more)
    assert [] == await world.in_every_order("calcom", [booked, requested, confirmed, again, rejected])
    accepted = calcom("BOOKING_CREATED", 5, "u3", [ADA], THIRD, **more)
    assert [("ada", THIRD)] == await world.in_every_order("calcom", [booked, requested, confirmed, again, accepted])
    assert [] == await world.parked()


async def test_a_requested_move_with_a_root_booking_is_a_move(world: BookingWorld) -> None:
    """A future version of Cal.com sends `rootBookingUid`; it applies to one seat."""
    requested = seats("BOOKING_REQUESTED", 4, "u2", [ADA], SECOND, rootBookingUid="u1", status="PENDING")

    assert [("bob", FIRST), ("cy", FIRST)] == await world.in_every_order("calcom", [*SEATS, requested])


async def test_a_request_for_a_new_booking_is_ignored(world: BookingWorld) -> None:
    requested = calcom("BOOKING_REQUESTED", 1, "u1", [ADA], status="PENDING", iCalUID="u1@Cal.com", iCalSequence=0)

    assert "BOOKING_REQUESTED" == (await world.receive("calcom", requested))[0]["ignored"]


async def test_a_move_without_the_old_booking_is_applied_and_parked(world: BookingWorld) -> None:
    await world.process("calcom", calcom("BOOKING_RESCHEDULED", 2, "u2", [ADA], SECOND))

    assert [NO_OLD_BOOKING] == await world.parked()
    assert [("ada", SECOND)] == world.review_requests()


SERIES = {"recurringEvent": {"freq": 2, "count": 3, "interval": 1}}


@pytest.mark.parametrize(
    "more", [SERIES, {"allRemainingBookings": True}], ids=["recurringEvent", "allRemainingBookings"]
)
async def test_a_cancelled_series_is_parked(world: BookingWorld, more: Body) -> None:
    booked = [calcom("BOOKING_CREATED", n, f"u{n}", [ADA], start) for n, start in enumerate((FIRST, SECOND, THIRD), 1)]

    await world.process("calcom", *booked, calcom("BOOKING_CANCELLED", 9, "u2", [ADA], SECOND, **more))

    assert [("ada", FIRST), ("ada", THIRD)] == world.review_requests(), "the named booking is cancelled at once"
    assert [
        "a booking of a series was cancelled; all later ones may be, too, but the event does not name them"
    ] == await world.parked()


async def test_a_partly_translated_delivery_is_shown_as_applied_and_parked(
    world: BookingWorld,
) -> None:
    body = calcom("BOOKING_CANCELLED", 9, "u1", [ADA], **SERIES)
    await world.process("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA]), body)

    [again] = await world.receive("calcom", body)
    await world.run()

    assert again["repeat"]
    row = await Explain(world.ledger, world.context.settings).delivery_summary(again["delivery"])
    assert ("applied parked", ["calcom-u1"]) == (row["state"], row["visits"])
    assert ([], 1) == (world.review_requests(), len(await world.parked()))


async def test_a_new_seat_in_a_moved_booking_is_not_parked(world: BookingWorld) -> None:
    """The booking's calendar event and its responses are those of the attendee who moved it first."""
    first_mover = {
        "iCalSequence": 1,
        "iCalUID": "u1@Cal.com",
        "responses": {"email": {"value": ADA}, "rescheduleReason": {"value": "Ill"}},
    }
    moved = seats("BOOKING_RESCHEDULED", 4, "u2", [ADA], SECOND, rescheduleUid="u1", rescheduledBy=ADA)
    joined = seats("BOOKING_CREATED", 5, "u2", [ADA, "dan@example.com"], SECOND, **first_mover)

    expected = [("ada", SECOND), ("bob", FIRST), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await world.in_every_order("calcom", [*SEATS, moved, joined])
    assert [] == await world.parked()


async def test_a_cancelled_seat_of_a_series_ends_one_visit(world: BookingWorld) -> None:
    assert [("ada", FIRST)] == await world.in_every_order(
        "calcom", [*SEATS[:2], seats("BOOKING_CANCELLED", 9, "u1", [BOB], **SERIES)]
    )
    assert [] == await world.parked()


async def test_one_cancelled_booking_of_a_series_ends_one_visit(world: BookingWorld) -> None:
    alone = calcom("BOOKING_CANCELLED", 9, "u1", [ADA], **SERIES, allRemainingBookings=False)

    await world.process("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA], **SERIES), alone)

    assert ([], []) == (world.review_requests(), await world.parked())
