"""One visit per person: several people in one slot of a booking tool, from the door to the Visits API, in every order.

Each delivery is written from the tool's documents (or its own code) and signed by the documented rule.
"""

import hashlib
import hmac
import itertools
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest

from app.intake.endpoint import WebhookEndpoint
from app.ledger.redis import Redis
from app.operators.erasure import Erasure
from app.operators.explain import Explain
from app.telemetry.rejections import Rejections
from app.visits.merge import fold, wanted
from app.webhooks.registry import load_sources
from tests.support.harness import Harness, Server
from tests.support.visit_worker import World, a_world

SECRET = "a-secret-of-thirty-two-characters"
Body = dict[str, Any]


class Door(World):
    """A world with the hooks of the booking tools."""

    async def ring(self, source: str, *bodies: Body) -> list[dict[str, Any]]:
        """The answers."""
        hooks = self.context.settings.entrances
        intake = WebhookEndpoint(self.context.settings, defaultdict(lambda: self.ledger), Rejections(self.redis))
        path = self.context.settings.address(hooks[source]).removeprefix("https://hooks.example.com")
        answers = []
        async with httpx.AsyncClient(transport=httpx.ASGITransport(intake), base_url="http://door") as client:
            for body in bodies:
                raw = json.dumps(body).encode()
                headers = {"content-type": "application/json", **SIGNED[source](raw)}
                answer = await client.post(path, content=raw, headers=headers)
                assert answer.status_code in (200, 202), answer.text
                answers.append(answer.json())
        return answers

    async def hear(self, source: str, *bodies: Body) -> None:
        """Each is worked off before the next one arrives."""
        for body in bodies:
            await self.ring(source, body)
            await self.run()

    def asked(self) -> list[tuple[str, str]]:
        """Who will be asked for a review, and about which time."""
        emails = {
            contact["id"]: contact["email"] for contact in self.harness.get_from_api("/contacts?limit=100")["data"]
        }
        visits = [visit for visit in self.harness.visits() if not visit.get("date_cancelled")]
        return sorted((emails[visit["contact_id"]].split("@")[0], visit["event_date"]) for visit in visits)

    async def parked(self) -> list[str]:
        works = await self.ledger.task_ids("parked")
        return [(await self.ledger.load_task(work)).reason.removeprefix("untranslatable: ") for work in works]

    async def in_every_order(self, source: str, bodies: Sequence[Body], most: int = 8) -> list[tuple[str, str]]:
        """Who is asked, which is the same in every order, and when each is told twice."""
        orders = list(itertools.permutations(bodies))
        found = set()
        for order in orders[:: max(1, len(orders) // most)]:
            await self.redis.command("FLUSHDB")
            self.harness.http.post(f"{self.harness.sandbox.url}/_sandbox/reset").raise_for_status()
            await self.hear(source, *order)
            await self.ring(source, *order)
            await self.run()
            found.add(tuple(self.asked()))
        assert len(found) == 1, found
        return list(found.pop())


@pytest.fixture(scope="module")
def hands(redis_url: str, sandbox: Server) -> Iterator[Harness]:
    harness = Harness(redis_url, sandbox)
    yield harness
    harness.http.close()


@pytest.fixture
async def door(redis: Redis, hands: Harness) -> AsyncIterator[Door]:
    async with a_world(redis, hands):
        door = Door(redis, hands)
        door.set(
            **{f"HOOKS__{name.upper()}__SECRETS": SECRET for name in SIGNED},
            PUBLIC_URL="https://hooks.example.com",
            SECRET_KEY="a-key-of-ours-for-tests-of-groups",
        )
        yield door
        await door.wire.aclose()


def _hex(raw: bytes) -> str:
    return hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()


SIGNED = {
    "savvycal": lambda raw: {"x-savvycal-signature": f"sha256={_hex(raw).upper()}"},
    "appointlet": lambda raw: {},  # its address has a token
    "youcanbookme": lambda raw: {"X-Doorbell-Token": SECRET},
    "calcom": lambda raw: {"X-Cal-Signature-256": _hex(raw)},
}

# -- Cal.com --

FIRST, SECOND, THIRD = "2026-10-01T15:00:00Z", "2026-10-05T09:00:00Z", "2026-10-09T11:00:00Z"


def calcom(kind: str, minute: int, uid: str, people: Sequence[str], start: str = FIRST, **more: Any) -> Body:
    """minute: when it happened. people: their addresses; who acts comes last."""
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


def missed(minute: int, uid: str, marks: dict[str, bool], **more: Any) -> Body:
    attendees = [{"email": email, "noShow": mark} for email, mark in marks.items()]
    payload = {"message": "x", "bookingUid": uid, "bookingId": 1, "attendees": attendees, **more}
    return {
        "triggerEvent": "BOOKING_NO_SHOW_UPDATED",
        "createdAt": f"2026-09-21T14:{minute:02}:00.000Z",
        "payload": payload,
    }


ADA, BOB, CY = "ada@example.com", "bob@example.com", "cy@example.com"
TAKEN = [seats("BOOKING_CREATED", 1, "u1", [ADA]), seats("BOOKING_CREATED", 2, "u1", [ADA, BOB]),
         seats("BOOKING_CREATED", 3, "u1", [ADA, BOB, CY])]  # fmt: skip


async def test_everybody_with_a_seat_is_a_visit(door: Door) -> None:
    assert [("ada", FIRST), ("bob", FIRST), ("cy", FIRST)] == await door.in_every_order("calcom", TAKEN)


async def test_a_seat_given_up_ends_one_visit(door: Door) -> None:
    left = seats("BOOKING_CANCELLED", 4, "u1", ["BOB@Example.com"], status="CANCELLED")

    assert [("ada", FIRST), ("cy", FIRST)] == await door.in_every_order("calcom", [*TAKEN, left])


async def test_a_seat_taken_again_is_the_same_visit(door: Door) -> None:
    left, again = seats("BOOKING_CANCELLED", 4, "u1", [BOB]), seats("BOOKING_CREATED", 5, "u1", [ADA, CY, BOB])

    assert [("ada", FIRST), ("bob", FIRST), ("cy", FIRST)] == await door.in_every_order("calcom", [*TAKEN, left, again])


async def test_whoever_left_is_not_taken_back_by_a_list_that_still_has_them(door: Door) -> None:
    left, late = (
        seats("BOOKING_CANCELLED", 4, "u1", [ADA]),
        seats("BOOKING_CREATED", 5, "u1", [ADA, BOB, CY, "dan@example.com"]),
    )

    assert [("bob", FIRST), ("cy", FIRST), ("dan", FIRST)] == await door.in_every_order("calcom", [*TAKEN, left, late])


async def test_the_host_cancels_for_everybody(door: Door) -> None:
    assert [] == await door.in_every_order("calcom", [*TAKEN, seats("BOOKING_CANCELLED", 4, "u1", [ADA, BOB, CY])])


@pytest.mark.parametrize("listed", [[ADA], [BOB, ADA]], ids=["alone", "with who is there"])
async def test_one_seat_moves_to_another_booking(door: Door, listed: list[str]) -> None:
    """Bob has a seat in both bookings, and keeps both."""
    there = seats("BOOKING_CREATED", 4, "u2", [BOB], SECOND)
    moved = seats("BOOKING_RESCHEDULED", 5, "u2", listed, SECOND, rescheduleUid="u1", rescheduledBy=ADA)

    expected = [("ada", SECOND), ("bob", FIRST), ("bob", SECOND), ("cy", FIRST)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, there, moved])


async def test_a_seat_that_moves_and_comes_back_is_where_it_is_now(door: Door) -> None:
    there = seats("BOOKING_CREATED", 4, "u2", ["dan@example.com"], SECOND)
    moved = seats(
        "BOOKING_RESCHEDULED", 5, "u2", ["dan@example.com", BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB
    )
    back = seats("BOOKING_RESCHEDULED", 6, "u1", [ADA, CY, BOB], FIRST, rescheduleUid="u2", rescheduledBy=BOB)

    expected = [("ada", FIRST), ("bob", FIRST), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, there, moved, back])
    away = seats(
        "BOOKING_RESCHEDULED", 7, "u2", ["dan@example.com", BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB
    )
    expected = [("ada", FIRST), ("bob", SECOND), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, there, moved, back, away])


@pytest.mark.parametrize("is_confirmed", [False, True])
async def test_a_seat_whose_move_has_to_be_confirmed_is_not_where_it_was(door: Door, is_confirmed: bool) -> None:
    asked = seats("BOOKING_REQUESTED", 5, "u2", [BOB], SECOND, rescheduleUid="u1", rescheduledBy=BOB, status="PENDING")
    agreed = seats("BOOKING_CREATED", 6, "u2", [BOB], SECOND)

    moved = [("bob", SECOND)] if is_confirmed else []
    expected = [("ada", FIRST), *moved, ("cy", FIRST)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, asked, *([agreed] if is_confirmed else [])])


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
    ids=["joined", "cancelled", "another's cancel", "moved", "asked to move", "paid", "ended"],
)
async def test_a_booking_that_got_seats_later_is_not_asked_about_twice(
    door: Door, later: Body, expected: list[tuple[str, str]]
) -> None:
    alone = calcom("BOOKING_CREATED", 1, "u1", [ADA])

    assert expected == await door.in_every_order("calcom", [alone, later])


async def test_the_host_moves_all_seats_of_a_booking(door: Door) -> None:
    moved = seats(
        "BOOKING_RESCHEDULED", 4, "u1", [ADA, BOB, CY], SECOND, rescheduleUid="u1", rescheduledBy="host@example.com"
    )

    assert [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)] == await door.in_every_order("calcom", [*TAKEN, moved])


async def test_the_host_joins_two_bookings(door: Door) -> None:
    there = seats("BOOKING_CREATED", 4, "u2", ["dan@example.com"], SECOND)
    moved = seats(
        "BOOKING_RESCHEDULED", 5, "u2", [ADA, BOB, CY], SECOND, rescheduleUid="u1", rescheduledBy="host@example.com"
    )

    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND), ("dan", SECOND)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, there, moved])


@pytest.mark.parametrize("more", [{}, {"seatsPerTimeSlot": 10}], ids=["without a word of seats", "with seats"])
async def test_a_no_show_is_of_one_seat(door: Door, more: Body) -> None:
    marks = [missed(40, "u1", {"Ada@Example.com": True, CY: True}, **more), missed(41, "u1", {ADA: False}, **more)]

    assert [("ada", FIRST), ("bob", FIRST)] == await door.in_every_order("calcom", [*TAKEN, *marks])
    assert [] == await door.ledger.task_ids("waiting")


async def test_a_meeting_with_seats_ends_for_those_who_held_one(door: Door) -> None:
    ended = {
        "triggerEvent": "MEETING_ENDED", "uid": "u1", "startTime": FIRST, "endTime": "2026-10-01T15:30:00Z",
        "createdAt": "2026-09-21T14:01:00.000Z", "seatsPerTimeSlot": 10, "fromReschedule": None, "paid": False,
        "attendees": [{"email": ADA, "name": "ada", "noShow": True}, {"email": BOB, "name": "bob", "noShow": False},
                      {"email": "cohost@example.com", "name": "Co", "noShow": False}],
    }  # fmt: skip
    left = seats("BOOKING_CANCELLED", 4, "u1", [CY])

    assert [("bob", "2026-10-01T15:30:00Z")] == await door.in_every_order("calcom", [*TAKEN[:2], left, ended])
    assert [] == await door.ledger.task_ids("waiting"), "a host among the attendees is waited for"


async def test_the_end_of_a_meeting_that_does_not_say_that_it_had_seats_asks_nobody_twice(door: Door) -> None:
    """The booking as it was saved when the first seat was taken (scheduleTrigger)."""
    ended = {
        "triggerEvent": "MEETING_ENDED", "uid": "u1", "startTime": FIRST, "endTime": "2026-10-01T15:30:00Z",
        "createdAt": "2026-09-21T14:01:00.000Z", "attendees": [{"email": ADA, "name": "ada", "noShow": False}],
    }  # fmt: skip

    assert [("ada", FIRST), ("bob", FIRST)] == await door.in_every_order("calcom", [*TAKEN[:2], ended])


async def test_a_host_of_a_team_holds_no_seat(door: Door) -> None:
    """Hosts are attendees too: Cal.com lists them in the team, or the others with their seats."""
    team = {"team": {"name": "Team", "members": [{"email": "Cohost@example.com", "name": "Co"}]}}
    named = seats("BOOKING_CREATED", 1, "u1", ["host@example.com", "cohost@example.com", ADA], **team)
    listed = seats("BOOKING_CREATED", 2, "u2", ["cohost@example.com", ADA, BOB], SECOND, attendeeSeatId="seat-2")
    for number, attendee in enumerate(listed["payload"]["attendees"][1:], 1):
        attendee["bookingSeat"] = {"referenceUid": f"seat-{number}", "attendeeId": number}

    assert [("ada", FIRST), ("ada", SECOND), ("bob", SECOND)] == await door.in_every_order("calcom", [named, listed])


async def test_a_seat_without_an_address_is_nobody_elses(door: Door) -> None:
    """By its phone number it is a visit that waits for somebody to name the customer; without one, an operator is told."""
    phone_only = seats("BOOKING_CREATED", 2, "u1", [ADA])
    phone_only["payload"]["attendees"].append({"name": "Bob", "phoneNumber": "+1 555 0100002"})
    nameless = seats("BOOKING_CREATED", 3, "u1", [ADA, CY])
    nameless["payload"]["attendees"].append({"email": None, "name": "Dan"})

    await door.hear("calcom", TAKEN[0], phone_only, nameless)

    assert [("ada", FIRST), ("cy", FIRST)] == door.asked()
    assert ["contact_unknown"] == [
        (await door.ledger.load_task(work)).reason for work in await door.ledger.task_ids("waiting")
    ]
    assert ["an attendee has neither an e-mail address nor a phone number to be told by"] == await door.parked()
    assert not [key for key in await door.redis.command("KEYS", "*") if b"5550100002" in key or b"@" in key]


async def test_a_payment_for_one_of_several_seats_is_an_operators(door: Door) -> None:
    paid = {"paymentId": 9, "paymentData": {"amount": 7550, "currency": "usd", "success": True, "refunded": False}}

    await door.hear("calcom", *TAKEN[:2], seats("BOOKING_PAID", 4, "u1", [ADA, BOB], **paid))
    assert ["a payment for one of several seats, and for which is not told"] == await door.parked()
    assert not any(visit.get("amount_collected") for visit in door.harness.visits())

    await door.hear("calcom", seats("BOOKING_CREATED", 5, "u3", [CY]), seats("BOOKING_PAID", 6, "u3", [CY], **paid))
    assert ["75.50"] == [visit["amount_collected"] for visit in door.harness.visits() if visit.get("amount_collected")]


async def test_a_booking_without_seats_is_named_as_before(door: Door) -> None:
    await door.hear("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA], seatsPerTimeSlot=None),
                    calcom("BOOKING_CREATED", 1, "u2", [ADA], seatsPerTimeSlot=1))  # fmt: skip

    assert ["calcom-u1", "calcom-u2"] == sorted(visit["external_id"] for visit in door.harness.visits())


async def test_a_guest_who_is_missing_leaves_the_customers_visit_alone(door: Door) -> None:
    booked = calcom("BOOKING_CREATED", 1, "u1", ["guest@example.com", ADA])

    assert [("ada", FIRST)] == await door.in_every_order(
        "calcom", [booked, missed(40, "u1", {"guest@example.com": True})]
    )
    assert [] == await door.in_every_order("calcom", [booked, missed(40, "u1", {"guest@example.com": True, ADA: True})])
    both = [missed(40, "u1", {ADA: True}), missed(41, "u1", {ADA: False, "guest@example.com": True})]
    assert [("ada", FIRST)] == await door.in_every_order("calcom", [booked, *both])


async def test_a_no_show_of_somebody_who_was_forgotten_still_counts(door: Door) -> None:
    await door.hear("calcom", *TAKEN[:2], missed(40, "u1", {ADA: True, "guest@example.com": True}))
    assert [("bob", FIRST)] == door.asked()

    for email in (ADA, "guest@example.com"):
        await Erasure(door.ledger, door.context.settings, email).execute()

    works = [key.decode() for key in await door.redis.command("KEYS", "bell:visit:*")]
    left = [b" ".join(await door.redis.command("HGETALL", work)) for work in works]
    assert not [text for text in left if ADA.encode() in text or b"guest@" in text]
    families = [await door.ledger.load_aliases(work.removeprefix("bell:")) for work in works]
    wants = [wanted(fold(said for member in family for said in member.recorded_changes())) for family in families]
    assert [True] == [want.is_off for want in wants if want.contact.is_forgotten]


REASON = {
    "responses": {"email": {"value": ADA}, "rescheduleReason": {"label": "reason_for_reschedule", "value": "Ill"}}
}
UNNAMED = "a booking was moved, and the old one is not named: the visit at the old time must be cancelled by hand"


@pytest.mark.parametrize(
    "sign", [REASON, {"iCalSequence": 1, "iCalUID": "a1b2@google.com"}], ids=["a reason", "a sequence"]
)
async def test_a_request_to_move_that_does_not_name_the_old_booking_is_an_operators(door: Door, sign: Body) -> None:
    """As WebhookTaskConsumer sends it, after Cal.com cancelled the old booking."""
    booked = calcom("BOOKING_CREATED", 1, "u1", [ADA])
    asked = calcom("BOOKING_REQUESTED", 2, "u2", [ADA], SECOND, status="PENDING", **sign)
    agreed = calcom("BOOKING_CREATED", 3, "u2", [ADA], SECOND, **sign)

    await door.hear("calcom", booked, asked)
    assert [UNNAMED] == await door.parked()

    await door.hear("calcom", agreed)
    assert [UNNAMED, UNNAMED] == await door.parked()
    assert ("ada", SECOND) in door.asked(), "what is agreed on is certain"


async def test_a_request_to_move_whose_calendar_event_names_the_first_booking_is_a_move(door: Door) -> None:
    more = {"iCalUID": "u1@Cal.com", "iCalSequence": 1}
    booked = calcom("BOOKING_CREATED", 1, "u1", [ADA], iCalUID="u1@Cal.com", iCalSequence=0)
    asked = calcom("BOOKING_REQUESTED", 2, "u2", [ADA], SECOND, status="PENDING", **more)
    agreed = calcom("BOOKING_CREATED", 3, "u2", [ADA], SECOND, **more)
    again = calcom("BOOKING_REQUESTED", 4, "u3", [ADA], THIRD, status="PENDING", **more)

    assert [] == await door.in_every_order("calcom", [booked, asked])
    assert [("ada", SECOND)] == await door.in_every_order("calcom", [booked, asked, agreed])
    assert [] == await door.in_every_order("calcom", [booked, asked, agreed, again])
    refused = calcom("BOOKING_REJECTED", 5, "u3", [ADA], THIRD, status="REJECTED", **more)
    assert [] == await door.in_every_order("calcom", [booked, asked, agreed, again, refused])
    accepted = calcom("BOOKING_CREATED", 5, "u3", [ADA], THIRD, **more)
    assert [("ada", THIRD)] == await door.in_every_order("calcom", [booked, asked, agreed, again, accepted])
    assert [] == await door.parked()


async def test_a_request_to_move_by_the_root_booking_is_a_move(door: Door) -> None:
    """`rootBookingUid`, once Cal.com sends it; for every seat by itself."""
    asked = seats("BOOKING_REQUESTED", 4, "u2", [ADA], SECOND, rootBookingUid="u1", status="PENDING")

    assert [("bob", FIRST), ("cy", FIRST)] == await door.in_every_order("calcom", [*TAKEN, asked])


async def test_a_request_for_a_new_booking_is_no_visit_and_nobodys_work(door: Door) -> None:
    asked = calcom("BOOKING_REQUESTED", 1, "u1", [ADA], status="PENDING", iCalUID="u1@Cal.com", iCalSequence=0)

    assert "BOOKING_REQUESTED" == (await door.ring("calcom", asked))[0]["ignored"]


async def test_a_move_that_names_no_booking_is_an_operators_and_counts(door: Door) -> None:
    await door.hear("calcom", calcom("BOOKING_RESCHEDULED", 2, "u2", [ADA], SECOND))

    assert [UNNAMED] == await door.parked()
    assert [("ada", SECOND)] == door.asked()


SERIES = {"recurringEvent": {"freq": 2, "count": 3, "interval": 1}}


@pytest.mark.parametrize(
    "more", [SERIES, {"allRemainingBookings": True}], ids=["recurringEvent", "allRemainingBookings"]
)
async def test_a_series_that_is_cancelled_at_once_is_an_operators(door: Door, more: Body) -> None:
    booked = [calcom("BOOKING_CREATED", n, f"u{n}", [ADA], start) for n, start in enumerate((FIRST, SECOND, THIRD), 1)]

    await door.hear("calcom", *booked, calcom("BOOKING_CANCELLED", 9, "u2", [ADA], SECOND, **more))

    assert [("ada", FIRST), ("ada", THIRD)] == door.asked(), "the one that is named is cancelled at once"
    assert [
        "a booking of a series was cancelled, and all that remain may be too: they are not named"
    ] == await door.parked()


async def test_what_is_applied_and_what_is_left_are_both_shown_and_a_repeat_changes_neither(door: Door) -> None:
    body = calcom("BOOKING_CANCELLED", 9, "u1", [ADA], **SERIES)
    await door.hear("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA]), body)

    [again] = await door.ring("calcom", body)
    await door.run()

    assert again["repeat"]
    row = await Explain(door.ledger, door.context.settings).delivery_summary(again["delivery"])
    assert ("applied parked", ["calcom-u1"]) == (row["state"], row["visits"])
    assert ([], 1) == (door.asked(), len(await door.parked()))


async def test_a_seat_in_a_booking_that_somebody_else_moved_is_nobodys_work(door: Door) -> None:
    """The booking's calendar event and its answers are those of whoever moved it first."""
    hers = {
        "iCalSequence": 1,
        "iCalUID": "u1@Cal.com",
        "responses": {"email": {"value": ADA}, "rescheduleReason": {"value": "Ill"}},
    }
    moved = seats("BOOKING_RESCHEDULED", 4, "u2", [ADA], SECOND, rescheduleUid="u1", rescheduledBy=ADA)
    joined = seats("BOOKING_CREATED", 5, "u2", [ADA, "dan@example.com"], SECOND, **hers)

    expected = [("ada", SECOND), ("bob", FIRST), ("cy", FIRST), ("dan", SECOND)]
    assert expected == await door.in_every_order("calcom", [*TAKEN, moved, joined])
    assert [] == await door.parked()


async def test_a_seat_in_a_series_is_given_up_by_itself(door: Door) -> None:
    assert [("ada", FIRST)] == await door.in_every_order(
        "calcom", [*TAKEN[:2], seats("BOOKING_CANCELLED", 9, "u1", [BOB], **SERIES)]
    )
    assert [] == await door.parked()


async def test_one_booking_of_a_series_is_cancelled_by_itself(door: Door) -> None:
    alone = calcom("BOOKING_CANCELLED", 9, "u1", [ADA], **SERIES, allRemainingBookings=False)

    await door.hear("calcom", calcom("BOOKING_CREATED", 1, "u1", [ADA], **SERIES), alone)

    assert ([], []) == (door.asked(), await door.parked())


# -- YouCanBook.me --


def ycbm(event: str, reference: str = "ABCD-EFGH", start: str = "2026-10-01T15:00:00+0000", **more: str) -> Body:
    end = start.replace(":00:00+", ":30:00+")
    return {
        "event": event,
        "reference": reference,
        "start": start,
        "end": end,
        "email": ADA,
        "first_name": "Ada",
        **more,
    }


async def test_the_recipe_of_the_setup_makes_a_visit(door: Door) -> None:
    """Its codes, replaced as the vendor's table says (youcanbook.me/feature/mailmerge)."""
    setup = load_sources()["youcanbookme"].definition.setup
    payload = setup[setup.index('{"event": "booked"') : setup.index("}\n3.") + 1]
    codes = {"{REF}": "ABCD", "{START-ISO-8601}": "2026-10-01T15:00:00+0000", "{END-ISO-8601}": "2026-10-01T15:30:00+0000",
             "{EMAIL}": ADA, "{FNAME}": "Ada", "{LNAME}": "Lovelace", "{PHONE}": "+15550100001"}  # fmt: skip
    assert set(codes) == set(re.findall(r"\{[A-Z0-9-]+\}", payload))
    for code, value in codes.items():
        payload = payload.replace(code, value)

    await door.hear("youcanbookme", json.loads(payload))

    assert [("ada", FIRST)] == door.asked()


async def test_a_move_under_a_new_reference_is_an_operators_and_counts(door: Door) -> None:
    await door.hear("youcanbookme", ycbm("booked"), ycbm("replaced", "MNOP-QRST", "2026-10-05T09:00:00+0000"))

    assert [("ada", FIRST), ("ada", SECOND)] == door.asked()
    assert [
        "a booking was moved, and its old reference is not told: a visit at the old time must be cancelled by hand"
    ] == (await door.parked())


async def test_a_move_that_keeps_its_reference_is_a_move(door: Door) -> None:
    moves = [ycbm("booked"), ycbm("rescheduled", start="2026-10-05T09:00:00+0000")]

    assert [("ada", SECOND)] == await door.in_every_order("youcanbookme", moves)
    assert [] == await door.parked()


async def test_a_start_that_was_not_replaced_is_an_operators_unless_the_booking_is_cancelled(door: Door) -> None:
    await door.hear("youcanbookme", ycbm("booked"), ycbm("cancelled", start="{START-ISO}"))
    assert ([], []) == (door.asked(), await door.parked())

    await door.hear("youcanbookme", ycbm("booked", "MNOP-QRST", "{START-ISO}"))
    assert ["start: expected a time, in ISO 8601 or in milliseconds, found str of length 11"] == await door.parked()


async def test_a_follow_up_whose_end_was_not_replaced_ends_when_it_arrives(door: Door) -> None:
    await door.hear("youcanbookme", ycbm("booked"), ycbm("completed", end="{END-ISO-8601}"))

    [visit] = door.harness.visits()
    assert (FIRST, visit["event_date"]) == (visit["time_scheduled"], visit["time_completed"])


# -- Appointlet --

PEOPLE = {ADA: 80001, BOB: 80002, CY: 80003}


def appointlet(action: str, minute: int, *people: str, start: str = FIRST, made: int = 1, **more: Any) -> Body:
    """made: the minute in which the meeting was made."""
    meeting = {
        "id": 2751918, "type": "Meeting", "created_at": f"2026-09-21T14:{made:02}:00.100000Z", "start": start,
        "attendees": [{"id": PEOPLE[email.lower()], "email": email} for email in people], **more,
    }  # fmt: skip
    return _activity(f"Meeting.{action}", minute, meeting)


def attendee(action: str, minute: int, email: str | None, **more: Any) -> Body:
    entity = {"type": "Attendee", "id": PEOPLE.get((email or "").lower()), "email": email, "meeting": 2751918, **more}
    return _activity(f"Attendee.{action}", minute, entity)


def _activity(action: str, minute: int, entity: Body) -> Body:
    at = f"2026-09-21T14:{minute:02}:00.200000Z"
    return {"id": f"{action} {minute}", "type": "Activity", "created_at": at, "action": action, "entity": entity}


async def test_a_group_meeting_is_a_visit_of_everybody_who_comes(door: Door) -> None:
    made = appointlet("scheduled", 1, ADA, "BOB@example.com", ADA.title())
    moved = appointlet("rescheduled", 3, ADA, BOB, CY, start=SECOND)

    assert [("ada", FIRST), ("bob", FIRST)] == await door.in_every_order("appointlet", [made])
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await door.in_every_order("appointlet", [made, attendee("scheduled", 2, CY), moved])


async def test_whoever_leaves_a_meeting_leaves_alone(door: Door) -> None:
    made, left = appointlet("scheduled", 1, ADA, BOB, CY), attendee("cancelled", 2, "Bob@Example.com")

    assert [("ada", FIRST), ("cy", FIRST)] == await door.in_every_order("appointlet", [made, left])
    listed = appointlet("rescheduled", 3, ADA, BOB, CY, start=SECOND)
    assert [("ada", SECOND), ("cy", SECOND)] == await door.in_every_order("appointlet", [made, left, listed])
    back = attendee("scheduled", 4, BOB)
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await door.in_every_order("appointlet", [made, left, listed, back])


async def test_a_group_meeting_that_is_cancelled_is_nobodys(door: Door) -> None:
    made, gone = appointlet("scheduled", 1, ADA, BOB), appointlet("cancelled", 2, ADA, BOB)

    assert [] == await door.in_every_order("appointlet", [made, attendee("scheduled", 1, ADA), gone])


async def test_a_meeting_of_one_is_named_by_the_meeting(door: Door) -> None:
    life = [appointlet("scheduled", 1, ADA), attendee("scheduled", 1, ADA, meeting={"id": 2751918}),
            appointlet("rescheduled", 2, ADA, start=SECOND)]  # fmt: skip

    assert [("ada", SECOND)] == await door.in_every_order("appointlet", life)
    assert ["appointlet-2751918"] == [visit["external_id"] for visit in door.harness.visits()]
    assert [] == await door.in_every_order("appointlet", [*life, appointlet("cancelled", 3, ADA)])
    assert [] == await door.in_every_order("appointlet", [*life, attendee("cancelled", 3, ADA)])


async def test_a_meeting_of_one_ends_with_a_cancel_that_lists_nobody(door: Door) -> None:
    made, moved, gone = (
        appointlet("scheduled", 1, ADA),
        appointlet("rescheduled", 2, ADA, start=SECOND),
        appointlet("cancelled", 3),
    )

    assert [] == await door.in_every_order("appointlet", [made, gone])
    assert [] == await door.in_every_order("appointlet", [made, moved, gone])
    assert ["a meeting ended, and whose visits end with it is not told"] == await door.parked()


async def test_a_second_booking_of_one_meeting_is_a_second_visit(door: Door) -> None:
    """Told as a meeting that was scheduled, with nobody else in it."""
    both = [appointlet("scheduled", 1, ADA), appointlet("scheduled", 9, BOB)]

    assert [("ada", FIRST), ("bob", FIRST)] == await door.in_every_order("appointlet", both)


async def test_whatever_cannot_be_told_apart_is_an_operators(door: Door) -> None:
    nameless = appointlet("scheduled", 1, ADA)
    nameless["entity"]["attendees"].append({"email": None, "first_name": "Dan"})
    await door.hear("appointlet", nameless)
    assert ([("ada", FIRST)], ["an attendee has neither an e-mail address nor an id"]) == (
        door.asked(),
        await door.parked(),
    )

    await door.hear("appointlet", appointlet("cancelled", 2))
    await door.hear("appointlet", appointlet("rescheduled", 3))
    await door.hear("appointlet", attendee("cancelled", 4, ADA, meeting=None))
    await door.hear("appointlet", attendee("cancelled", 5, None))
    assert [
        "a meeting ended, and whose visits end with it is not told",
        "entity.attendees: expected whoever comes, found list of length 0",
        "entity.meeting: expected the meeting that the attendee left, found nothing",
        "an attendee has neither an e-mail address nor an id",
    ] == (await door.parked())[1:]


async def test_a_delivery_of_a_legacy_account_is_an_operators(door: Door) -> None:
    await door.hear("appointlet", {"type": "booking", "action": "created", "data": {"id": 1, "email": ADA}})

    assert ["a booking of a legacy account, whose webhooks are not understood"] == await door.parked()


# -- SavvyCal --

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
    """An event of the calendar, as the vendor's schema has it."""
    return {
        "id": "event_1", "state": state, "start_at": start, "canceled_at": None, "rescheduled_at": None, "payment": None,
        "is_group_session": True, "scheduler": joiner(people[-1]) if people else None, "organizer": HOST,
        "attendees": [HOST, *map(joiner, people)], **more,
    }  # fmt: skip


def savvycal(kind: str, minute: int, payload: Body) -> Body:
    at = f"2026-09-21T14:{minute:02}:00Z"
    return {"id": f"{kind} {minute}", "type": kind, "version": "2020-11-18", "occurred_at": at, "payload": payload}


def beside(kind: str, minute: int, email: str, **more: Any) -> Body:
    return savvycal(f"event.attendee.{kind}", minute, {"event": session(**more), "attendee": joiner(email)})


async def test_a_group_session_is_a_visit_of_everybody_who_comes(door: Door) -> None:
    made = savvycal("event.created", 1, session(ADA, "BOB@Example.com", ADA.title()))
    moved = savvycal("event.rescheduled", 3, session(ADA, BOB, CY, start=SECOND))

    assert [("ada", FIRST), ("bob", FIRST)] == await door.in_every_order("savvycal", [made])
    expected = [("ada", SECOND), ("bob", SECOND), ("cy", SECOND)]
    assert expected == await door.in_every_order("savvycal", [made, beside("added", 2, CY), moved])
    cancelled = savvycal("event.canceled", 4, session(ADA, BOB, CY, state="canceled"))
    assert [] == await door.in_every_order("savvycal", [made, beside("added", 2, CY), moved, cancelled])


async def test_whoever_leaves_a_session_leaves_alone(door: Door) -> None:
    made, left = savvycal("event.created", 1, session(ADA, BOB)), beside("canceled", 2, "Ada@Example.com")
    listed = savvycal("event.changed", 3, {"event": session(ADA, BOB, start=SECOND), "changes": {}})

    assert [("bob", FIRST)] == await door.in_every_order("savvycal", [made, left])
    assert [("bob", SECOND)] == await door.in_every_order("savvycal", [made, left, listed])
    back = [("ada", SECOND), ("bob", SECOND)]
    assert back == await door.in_every_order("savvycal", [made, left, listed, beside("added", 4, ADA, start=SECOND)])
    by_id = savvycal("event.attendee.canceled", 4, {**joiner(BOB), "event_id": "event_1"})
    assert [] == await door.in_every_order("savvycal", [made, left, by_id])


async def test_whoever_declined_is_not_asked(door: Door) -> None:
    event = session(ADA, BOB)
    event["attendees"][1]["response_status"] = "declined"

    assert [("bob", FIRST)] == await door.in_every_order("savvycal", [savvycal("event.changed", 1, {"event": event})])


async def test_what_changed_is_told_beside_the_event(door: Door) -> None:
    alone = {"is_group_session": False, "scheduler": joiner(ADA)}
    changed = savvycal("event.changed", 2, {"event": session(ADA, start=SECOND, **alone), "changes": {"start_at": {}}})

    assert [("ada", SECOND)] == await door.in_every_order(
        "savvycal", [savvycal("event.created", 1, session(ADA, **alone)), changed]
    )
    assert ["savvycal-event_1"] == [visit["external_id"] for visit in door.harness.visits()]


async def test_an_attendee_without_a_session_is_an_operators(door: Door) -> None:
    await door.hear("savvycal", savvycal("event.created", 1, session(ADA, BOB)))
    for minute, kind in enumerate(("added", "canceled", "rescheduled"), 2):
        await door.hear("savvycal", savvycal(f"event.attendee.{kind}", minute, joiner(BOB)))
    assert ["an attendee, and which event it is about is not told"] * 3 == await door.parked()

    await door.hear("savvycal", savvycal("event.attendee.canceled", 5, session(ADA)))
    await door.hear("savvycal", beside("rescheduled", 6, BOB, start=SECOND))
    assert [
        "an attendee of a group session, and who it is is not told",
        "an attendee of a group session moved, and the session that they left is not told",
    ] == (await door.parked())[3:]
    assert [("ada", FIRST), ("bob", SECOND)] == door.asked()


async def test_a_guest_of_somebodys_event_is_no_visit(door: Door) -> None:
    [answer] = await door.ring("savvycal", beside("added", 2, BOB, is_group_session=False))

    assert "event.attendee.added" == answer["ignored"]


async def test_a_payment_in_a_group_session_is_an_operators(door: Door) -> None:
    paid = {"payment": {"state": "paid", "amount_total": 7550}}
    await door.hear("savvycal", savvycal("event.checkout.completed", 1, session(ADA, **paid)))
    assert (["75.50"], []) == ([visit["amount_collected"] for visit in door.harness.visits()], await door.parked())

    await door.hear("savvycal", savvycal("event.checkout.completed", 2, session(ADA, BOB, **paid)))
    assert ["a payment in a group session, and by whom is not told"] == await door.parked()
    assert [("ada", FIRST), ("bob", FIRST)] == door.asked()


async def test_an_attendee_without_an_address_is_nobody_elses(door: Door) -> None:
    event = session(ADA)
    event["attendees"] += [joiner(None, id="attendee_9"), joiner(None, id=None)]

    await door.hear("savvycal", savvycal("event.created", 1, event))

    assert [("ada", FIRST)] == door.asked()
    assert ["contact_unknown"] == [
        (await door.ledger.load_task(work)).reason for work in await door.ledger.task_ids("waiting")
    ]
    assert ["an attendee has neither an e-mail address nor an id"] == await door.parked()
