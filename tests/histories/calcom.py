"""A model of Cal.com.

A move is one event with a new uid and the old one in `rescheduleUid`. If the host confirms bookings, a request comes
first; a request to move cancels the confirmed booking until the move is confirmed. Times have milliseconds.
MEETING_ENDED contains the booking as it was saved when it was made.

In a class with seats, several people share a uid, and each has a visit. They take seats, give them up, take them again,
move alone or all together, and are marked as no-shows.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Person, ToolModel, Visit


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requests = self.ended = self.over = self.refused = False
        self.saved: dict[str, Any] = {}
        self.slots: list[Slot] = []
        self.has_seats = self.maybe(0.4)

    def actions(self) -> list[Callable[[], None]]:
        if self.has_seats:
            return self.acts_with_seats()
        if not self.visits:
            return [self.book, self.book, self.request_booking]
        visit = self.visits[-1]
        if self.over:
            return [self.back, *([self.book_again] if len(self.visits) < 3 else [])]
        if self.requests:
            return [self.confirm, self.confirm, self.reject]
        if visit.cancelled:  # cancelled by the host, who asks for another time
            return [self.move, self.give_up]
        actions = [self.move, self.move, self.cancel, self.ask_to_move, self.host_asks, self.guest_is_missing]
        actions += [self.unmark] if visit.missed else [self.miss, self.other_address]
        return actions + ([] if visit.paid else [self.pay]) + ([] if self.ended else [self.end])

    def book(self) -> None:
        self.new_visit()
        self.send("BOOKING_CREATED", status="ACCEPTED")
        self.save()

    def back(self) -> None:
        """Move a cancelled or rejected booking after all, from any of its ids that are cancelled."""
        self.over = False
        self.move(from_last=self.maybe(0.7))

    def book_again(self) -> None:
        """Book without a link to the cancelled booking: a new visit."""
        self.over = self.ended = self.refused = False
        self.book()

    def request_booking(self) -> None:
        self.new_visit()
        self.visits[-1].scheduled, self.wish = None, self.visits[-1].scheduled
        self.requests = True
        self.send("BOOKING_REQUESTED", start=self.wish, status="PENDING")
        self.save(self.wish)

    def confirm(self) -> None:
        visit, self.requests = self.visits[-1], False
        visit.scheduled, visit.cancelled, visit.missed = self.wish, None, None
        self.send("BOOKING_CREATED", status="ACCEPTED")

    def reject(self) -> None:
        visit, self.requests, self.over = self.visits[-1], False, True
        visit.scheduled, visit.cancelled, self.refused = self.wish, self.now, len(visit.ids) > 1
        self.send("BOOKING_REJECTED", start=self.wish, status="REJECTED")

    def move(self, from_last: bool = True) -> None:
        visit = self.visits[-1]
        before, old = visit.scheduled, visit.ids[-1]
        if not from_last and self.refused:
            old = visit.ids[-2]
        visit.ids.append(self.new_id("uid{}"))
        visit.scheduled, visit.cancelled, visit.missed, visit.completed = self.future_time(), None, None, None
        self.ended = self.refused = False
        self.send("BOOKING_RESCHEDULED", status="ACCEPTED", rescheduleUid=old, rescheduleStartTime=self.stamp(before))
        self.save(old=old)

    def ask_to_move(self) -> None:
        visit = self.visits[-1]
        old, self.wish, self.requests = visit.ids[-1], self.future_time(), True
        visit.ids.append(self.new_id("uid{}"))
        visit.cancelled, visit.completed, self.ended = self.now, None, False
        self.send("BOOKING_REQUESTED", start=self.wish, status="PENDING", rescheduleUid=old)
        self.save(self.wish, old)

    def cancel(self) -> None:
        self.visits[-1].cancelled, self.over = self.now, True
        self.send("BOOKING_CANCELLED", status="CANCELLED", requestReschedule=False)

    def give_up(self) -> None:
        self.over = True

    def host_asks(self) -> None:
        self.visits[-1].cancelled = self.now
        self.send("BOOKING_CANCELLED", status="CANCELLED", requestReschedule=True)

    def other_address(self) -> None:
        """Correct the attendee; the next event contains the correction."""
        self.visits[-1].who = self.person()
        self.pay()

    def pay(self) -> None:
        visit = self.visits[-1]
        visit.paid = self.money()
        self.send("BOOKING_PAID", status="ACCEPTED", paymentId=9, paymentData={
            "amount": int(visit.paid * 100), "currency": "usd", "success": True, "refunded": False
        })  # fmt: skip

    def miss(self) -> None:
        self.visits[-1].missed = self.now
        self.mark(True)

    def unmark(self) -> None:
        self.visits[-1].missed = None
        self.mark(False)

    def guest_is_missing(self) -> None:
        """Mark a guest as missing. The customer came."""
        self.mark_all([self.guest()], True, self.visits[-1].ids[-1])

    def guest(self) -> Person:
        return Person(self.new_id("guest-{}@example.com"), "Gus", "Guest")

    def end(self) -> None:
        """End the meeting, even if nobody came."""
        visit, self.ended = self.visits[-1], True
        assert visit.scheduled
        end = visit.scheduled + timedelta(minutes=30)
        self.now = max(self.now, end)
        visit.completed = end
        self.emit({"triggerEvent": "MEETING_ENDED", **self.saved}, "MEETING_ENDED")

    # -- seats --

    def acts_with_seats(self) -> list[Callable[[], None]]:
        if not self.slots:
            return [self.open_slot]
        actions = [self.take, self.take, self.mark_some, self.guest_of_seat] if len(self.visits) < 6 else []
        open_slots = [slot for slot in self.slots if not slot.is_over]
        if any(slot.holders for slot in open_slots):
            actions += [
                self.leave,
                self.leave,
                self.move_seat,
                self.move_seat,
                self.move_all,
                self.cancel_all,
                self.end_slot,
            ]
        return [*actions, self.take_again]

    def slot(self, held: bool = True) -> "Slot | None":
        could = [slot for slot in self.slots if (slot.holders and not slot.is_over if held else self.is_open(slot))]
        return self.rng.choice(could) if could else None

    def is_open(self, slot: "Slot") -> bool:
        return not slot.is_over and slot.start > self.now

    def open_slot(self) -> None:
        """Open a booking in which a few people take a seat at once."""
        slot = Slot(self.new_id("uid{}"), self.future_time(), self.now)
        self.slots.append(slot)
        for _ in range(self.rng.randint(1, 3)):
            self.take_in(slot)
            self.now += self.tick

    def take(self) -> None:
        slot = self.slot(held=False)
        if slot is None or self.maybe(0.3):
            self.open_slot()
        else:
            self.take_in(slot)

    def take_in(self, slot: "Slot") -> None:
        who = self.person()
        if who.email in [visit.who and visit.who.email for visit in self.visits]:
            return
        if self.maybe(0.15):  # some attendees have only a phone number
            who = Person(None, who.first, who.last)
        visit = Visit("", who=who)
        self.visits.append(visit)
        visit.id = seat_of(slot.uid, self.address(visit))
        visit.ids = [visit.id]
        self.sit(slot, visit)

    def sit(self, slot: "Slot", visit: Visit) -> None:
        listed_visits = list(slot.holders) if self.maybe(0.7) else []
        slot.holders.append(visit)
        visit.scheduled, visit.cancelled, visit.missed, visit.completed = slot.start, None, None, None
        self.send_seats("BOOKING_CREATED", slot, [*listed_visits, visit], visit, attendeeSeatId=self.new_id("seat-{}"))

    def take_again(self) -> None:
        """Take a seat again in a booking whose seat was given up."""
        departed = [visit for visit in self.visits if visit.cancelled]
        for slot in self.slots:
            for visit in departed:
                if self.is_open(slot) and visit.ids[-1] == seat_of(slot.uid, self.address(visit)):
                    return self.sit(slot, visit)
        return None

    def leave(self) -> None:
        if slot := self.slot():
            visit = self.rng.choice(slot.holders)
            slot.holders.remove(visit)
            visit.cancelled = self.now
            self.send_seats("BOOKING_CANCELLED", slot, [visit], self.rng.choice(self.visits))

    def cancel_all(self) -> None:
        if slot := self.slot():
            departed, slot.holders, slot.is_over = slot.holders, [], True
            for visit in departed:
                visit.cancelled = self.now
            self.send_seats("BOOKING_CANCELLED", slot, departed, departed[0])

    def move_seat(self) -> None:
        """Move one holder to another booking: an earlier one, or a new one. Each booking has a visit."""
        old = self.slot()
        if old is None:
            return
        departed = self.rng.choice(old.holders)
        address = self.address(departed)
        open_slots = [
            s for s in self.slots if self.is_open(s) and departed.who not in [visit.who for visit in s.holders]
        ]
        new = (
            self.rng.choice(open_slots)
            if open_slots and self.maybe()
            else Slot(self.new_id("uid{}"), self.future_time(), self.now)
        )
        if new not in self.slots:
            self.slots.append(new)
        old.holders.remove(departed)
        departed.cancelled = self.now
        visit = self.visit_of(seat_of(new.uid, address), departed)
        listed = [visit, *new.holders] if self.maybe() else [visit]
        new.holders.append(visit)
        visit.scheduled, visit.cancelled, visit.missed, visit.completed = new.start, None, None, None
        self.send_seats("BOOKING_RESCHEDULED", new, listed, visit, rescheduleUid=old.uid, rescheduledBy=address)

    def visit_of(self, id: str, person: Visit) -> Visit:
        for visit in self.visits:
            if visit.id == id:
                return visit
        self.visits.append(Visit(id, who=person.who, ids=[id]))
        return self.visits[-1]

    def move_all(self) -> None:
        """Move all holders, as the host. The uid does not change."""
        if slot := self.slot():
            slot.start = self.future_time()
            for visit in slot.holders:
                visit.scheduled, visit.missed, visit.completed = slot.start, None, None
            self.send_seats("BOOKING_RESCHEDULED", slot, slot.holders, slot.holders[0], rescheduleUid=slot.uid)

    def mark_some(self) -> None:
        held = [slot for slot in self.slots if slot.holders]
        if held:
            slot = self.rng.choice(held)
            some = self.rng.sample(slot.holders, self.rng.randint(1, len(slot.holders)))
            missed = self.maybe(0.7)
            for visit in some:
                visit.missed = self.now if missed else None
            kwargs = {"seatsPerTimeSlot": 5} if self.maybe() else {}
            self.mark_all([self.listed(visit) for visit in some], missed, slot.uid, **kwargs)

    def guest_of_seat(self) -> None:
        self.mark_all([self.guest()], True, self.rng.choice(self.slots).uid)

    def end_slot(self) -> None:
        slot = self.slot()
        if slot is None:
            return
        slot.is_over, end = True, slot.start + timedelta(minutes=30)
        self.now = max(self.now, end)
        for visit in slot.holders:
            visit.completed = end
        booking = {
            "uid": slot.uid, "startTime": self.stamp(slot.start), "endTime": self.stamp(end),
            "createdAt": self.stamp(slot.since), "paid": False, "payment": [], "fromReschedule": None,
            "eventType": {"team": None, "seatsPerTimeSlot": 5},
            "attendees": [{**self.listed(visit), "noShow": False} for visit in slot.holders],
        }  # fmt: skip
        body = {"triggerEvent": "MEETING_ENDED", "createdAt": self.stamp(self.now), "payload": booking}
        self.emit(body if self.maybe() else {"triggerEvent": "MEETING_ENDED", **booking}, f"MEETING_ENDED {slot.uid}")

    def address(self, visit: Visit) -> str:
        """Return the address; Cal.com makes one up from a phone number."""
        assert visit.who
        number = next(n for n, other_visit in enumerate(self.visits) if other_visit.who is visit.who)
        return visit.who.email or f"1555{number:07}@sms.cal.com"

    def listed(self, visit: Visit) -> dict[str, Any]:
        who, address = visit.who, self.address(visit)
        assert who
        return {
            "email": self.rng.choice((address, address.upper(), address.title())),
            "name": f"{who.first} {who.last}",
        }

    def send_seats(self, kind: str, slot: "Slot", listed: Sequence[Visit], booker: Visit, **kwargs: Any) -> None:
        payload = {
            "startTime": self.stamp(slot.start), "endTime": self.stamp(slot.start + timedelta(minutes=30)),
            "organizer": {"email": "host@example.com"}, "seatsPerTimeSlot": 5, "uid": slot.uid,
            "responses": {"email": {"label": "email_address", "value": self.address(booker)}},
            "attendees": [self.listed(visit) for visit in listed], **kwargs,
        }  # fmt: skip
        self.envelope(kind, payload)

    # -- webhooks --

    def new_visit(self) -> None:
        id = self.new_id("uid{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.future_time(), who=self.person()))

    def attendee(self) -> dict[str, Any]:
        who: Person | None = self.visits[-1].who
        assert who
        return {"email": who.email, "name": f"{who.first} {who.last}", "firstName": who.first, "lastName": who.last,
                "timeZone": "Europe/London", "phoneNumber": None}  # fmt: skip

    def save(self, start: datetime | None = None, old: str | None = None) -> None:
        start = start or self.visits[-1].scheduled
        assert start
        self.saved = {
            "uid": self.visits[-1].ids[-1], "startTime": self.stamp(start),
            "endTime": self.stamp(start + timedelta(minutes=30)), "createdAt": self.stamp(self.now),
            "updatedAt": self.stamp(self.now), "status": "ACCEPTED", "paid": False, "payment": [],
            "fromReschedule": old, "attendees": [{**self.attendee(), "noShow": False}],
        }  # fmt: skip

    def mark(self, missed: bool) -> None:
        visit = self.visits[-1]
        assert visit.who
        self.mark_all([visit.who], missed, visit.ids[-1])

    def mark_all(self, those: Sequence[Person | dict[str, Any]], missed: bool, uid: str, **kwargs: Any) -> None:
        emails = [attendee.email if isinstance(attendee, Person) else attendee["email"] for attendee in those]
        attendees = [{"email": email, "noShow": missed} for email in emails]
        payload = {"message": "x", "bookingUid": uid, "bookingId": 1, "attendees": attendees, **kwargs}
        self.envelope("BOOKING_NO_SHOW_UPDATED", payload)

    def send(self, kind: str, start: datetime | None = None, **kwargs: Any) -> None:
        visit = self.visits[-1]
        start, attendee = start or visit.scheduled, self.attendee()
        assert start
        payload = {
            "startTime": self.stamp(start), "endTime": self.stamp(start + timedelta(minutes=30)),
            "organizer": {"email": "host@example.com", "name": "Grace Host", "timeZone": "America/New_York"},
            "responses": {"email": {"label": "email_address", "value": attendee["email"]}}, "attendees": [attendee],
            "uid": visit.ids[-1], "bookingId": len(visit.ids), "price": 7550, "currency": "usd", "metadata": {}, **kwargs,
        }  # fmt: skip
        self.envelope(kind, payload)

    def envelope(self, kind: str, payload: dict[str, Any]) -> None:
        body = {"triggerEvent": kind, "createdAt": self.stamp(self.now), "payload": payload}
        self.emit(body, f"{kind} {payload.get('uid') or payload.get('bookingUid')} {payload.get('startTime')}")

    def stamp(self, moment: datetime | None) -> str:
        assert moment
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(eq=False)
class Slot:
    """A booking with seats, and their holders."""

    uid: str
    start: datetime
    since: datetime
    holders: list[Visit] = field(default_factory=list)
    is_over: bool = False


def seat_of(uid: str, address: str) -> str:
    """Return the visit id of a seat, computed independently of the app."""
    return f"{uid}.{hashlib.sha256(f'{uid}{chr(10)}{address}'.encode()).hexdigest()[:20]}"
