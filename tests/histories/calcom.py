"""Cal.com. A move is one event with a new uid and the old one in `rescheduleUid`. Where the host confirms, a request comes
first; a request to move takes the agreed time away until it is confirmed. Times have milliseconds. MEETING_ENDED is the
booking as it was saved when it was made."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Life, Person, Visit


class Tool(Life):
    tick = timedelta(milliseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.asked = self.ended = self.over = self.refused = False
        self.saved: dict[str, Any] = {}

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.ask]
        visit = self.visits[-1]
        if self.over:
            return [self.back, *([self.anew] if len(self.visits) < 3 else [])]
        if self.asked:
            return [self.confirm, self.confirm, self.reject]
        if visit.cancelled:  # by the host, who asks for another time
            return [self.move, self.give_up]
        mark = self.unmark if visit.missed else self.miss
        acts = [self.move, self.move, self.cancel, self.ask_to_move, self.host_asks, self.other_address, mark]
        return acts + ([] if visit.paid else [self.pay]) + ([] if self.ended else [self.end])

    def book(self) -> None:
        self.new_visit()
        self.say("BOOKING_CREATED", status="ACCEPTED")
        self.save()

    def back(self) -> None:
        """A booking that was cancelled or refused is moved after all, in both cases from any of its ids that is off."""
        self.over = False
        self.move(from_last=self.maybe(0.7))

    def anew(self) -> None:
        """Without a link: another visit."""
        self.over = self.ended = self.refused = False
        self.book()

    def ask(self) -> None:
        self.new_visit()
        self.visits[-1].scheduled, self.wish = None, self.visits[-1].scheduled
        self.asked = True
        self.say("BOOKING_REQUESTED", start=self.wish, status="PENDING")
        self.save(self.wish)

    def confirm(self) -> None:
        visit, self.asked = self.visits[-1], False
        visit.scheduled, visit.cancelled, visit.missed = self.wish, None, None
        self.say("BOOKING_CREATED", status="ACCEPTED")

    def reject(self) -> None:
        visit, self.asked, self.over = self.visits[-1], False, True
        visit.scheduled, visit.cancelled, self.refused = self.wish, self.now, len(visit.ids) > 1
        self.say("BOOKING_REJECTED", start=self.wish, status="REJECTED")

    def move(self, from_last: bool = True) -> None:
        visit = self.visits[-1]
        before, old = visit.scheduled, visit.ids[-1]
        if not from_last and self.refused:
            old = visit.ids[-2]
        visit.ids.append(self.mint("uid{}"))
        visit.scheduled, visit.cancelled, visit.missed, visit.completed = self.hour(), None, None, None
        self.ended = self.refused = False
        self.say("BOOKING_RESCHEDULED", status="ACCEPTED", rescheduleUid=old, rescheduleStartTime=self.stamp(before))
        self.save(old=old)

    def ask_to_move(self) -> None:
        visit = self.visits[-1]
        old, self.wish, self.asked = visit.ids[-1], self.hour(), True
        visit.ids.append(self.mint("uid{}"))
        visit.cancelled, visit.completed, self.ended = self.now, None, False
        self.say("BOOKING_REQUESTED", start=self.wish, status="PENDING", rescheduleUid=old)
        self.save(self.wish, old)

    def cancel(self) -> None:
        self.visits[-1].cancelled, self.over = self.now, True
        self.say("BOOKING_CANCELLED", status="CANCELLED", requestReschedule=False)

    def give_up(self) -> None:
        self.over = True

    def host_asks(self) -> None:
        self.visits[-1].cancelled = self.now
        self.say("BOOKING_CANCELLED", status="CANCELLED", requestReschedule=True)

    def other_address(self) -> None:
        """The attendee is corrected, and the next event says so."""
        self.visits[-1].who = self.person()
        self.pay()

    def pay(self) -> None:
        visit = self.visits[-1]
        visit.paid = self.money()
        self.say("BOOKING_PAID", status="ACCEPTED", paymentId=9, paymentData={
            "amount": int(visit.paid * 100), "currency": "usd", "success": True, "refunded": False
        })  # fmt: skip

    def miss(self) -> None:
        self.visits[-1].missed = self.now
        self.mark(True)

    def unmark(self) -> None:
        self.visits[-1].missed = None
        self.mark(False)

    def end(self) -> None:
        """The meeting's time is over, whoever came."""
        visit, self.ended = self.visits[-1], True
        assert visit.scheduled
        end = visit.scheduled + timedelta(minutes=30)
        self.now = max(self.now, end)
        visit.completed = end
        self.ring({"triggerEvent": "MEETING_ENDED", **self.saved}, "MEETING_ENDED")

    # -- what is sent --

    def new_visit(self) -> None:
        id = self.mint("uid{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.hour(), who=self.person()))

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
        payload = {"message": "x", "bookingUid": visit.ids[-1], "bookingId": 1,
                   "attendees": [{"email": visit.who and visit.who.email, "noShow": missed}]}  # fmt: skip
        self.envelope("BOOKING_NO_SHOW_UPDATED", payload)

    def say(self, kind: str, start: datetime | None = None, **more: Any) -> None:
        visit = self.visits[-1]
        start, attendee = start or visit.scheduled, self.attendee()
        assert start
        payload = {
            "startTime": self.stamp(start), "endTime": self.stamp(start + timedelta(minutes=30)),
            "organizer": {"email": "host@example.com", "name": "Grace Host", "timeZone": "America/New_York"},
            "responses": {"email": {"label": "email_address", "value": attendee["email"]}}, "attendees": [attendee],
            "uid": visit.ids[-1], "bookingId": len(visit.ids), "price": 7550, "currency": "usd", "metadata": {}, **more,
        }  # fmt: skip
        self.envelope(kind, payload)

    def envelope(self, kind: str, payload: dict[str, Any]) -> None:
        body = {"triggerEvent": kind, "createdAt": self.stamp(self.now), "payload": payload}
        self.ring(body, f"{kind} {payload.get('uid') or payload.get('bookingUid')} {payload.get('startTime')}")

    def stamp(self, moment: datetime | None) -> str:
        assert moment
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
