"""SavvyCal: every event is told with all of it as it is, and keeps its id. Where a link wants approval or a payment, the
event waits for it, also when it is moved. An approval rings twice, the second time as a creation.

A group session has several attendees, each a visit of their own; one who joins or leaves is told beside the event."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Life, Visit, written

OVER = ("canceled", "declined", "checkout_expired")


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.state = ""
        self.wish: datetime = self.now
        self.dates: dict[str, str] = {}
        self.session = Session(self) if self.maybe(0.4) else None

    def acts(self) -> list[Callable[[], None]]:
        if self.session:
            return self.session.acts()
        if not self.visits or self.state in OVER:
            return [self.book, self.book, self.request, self.check_out] if len(self.visits) < 3 else []
        match self.state:
            case "awaiting_approval":
                return [self.approve, self.approve, self.decline, self.cancel, self.edit]
            case "awaiting_checkout":
                return [self.pay, self.pay, self.expire]
        return [self.move, self.move, self.move, self.move_and_ask, self.cancel, self.edit]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.begin("confirmed")
        self.visit.scheduled = self.wish
        self.say("event.created")

    def request(self) -> None:
        self.begin("awaiting_approval")
        self.say("event.requested")

    def check_out(self) -> None:
        self.begin("awaiting_checkout")
        self.due = self.money()
        self.say("event.checkout.pending")

    def approve(self) -> None:
        self.agree()
        self.say(self.dice.choice(("event.approved", "event.requested")))  # the vendor's example has the latter
        self.say("event.created")

    def pay(self) -> None:
        self.agree()
        self.visit.paid = self.due
        self.say("event.checkout.completed")

    def decline(self) -> None:
        self.end("declined", "event.declined")

    def expire(self) -> None:
        self.end("checkout_expired", "event.checkout.expired")

    def cancel(self) -> None:
        self.dates["canceled_at"] = written(self.now)
        self.end("canceled", "event.canceled")

    def move(self) -> None:
        self.wish = self.visit.scheduled = self.hour()
        self.dates["rescheduled_at"] = written(self.now)
        self.say("event.rescheduled")

    def move_and_ask(self) -> None:
        """The old time is given up, and the new one is not agreed on yet."""
        self.wish = self.visit.scheduled = self.hour()
        self.dates["rescheduled_at"] = written(self.now)
        self.state, self.visit.cancelled = "awaiting_approval", self.now
        self.say("event.rescheduled")

    def edit(self) -> None:
        """Something changes that is none of ours; an event that waits, waits on."""
        if self.state == "awaiting_approval":
            self.visit.scheduled, self.visit.cancelled = self.wish, self.now
        self.say("event.changed")

    # -- what it comes to --

    def begin(self, state: str) -> None:
        id = self.mint("event_{}")
        self.visits.append(Visit(id, ids=[id], who=self.person()))
        self.wish, self.state, self.dates, self.due = self.hour(), state, {"created_at": written(self.now)}, None

    def agree(self) -> None:
        self.state, self.visit.scheduled, self.visit.cancelled = "confirmed", self.wish, None

    def end(self, state: str, kind: str) -> None:
        self.state, self.visit.scheduled, self.visit.cancelled = state, self.wish, self.now
        self.say(kind)

    def payment(self) -> dict[str, Any] | None:
        if self.due is None:
            return None
        return {"state": "paid" if self.visit.paid else "awaiting_checkout", "amount_total": int(self.due * 100)}

    def say(self, kind: str) -> None:
        who = self.visit.who
        assert who
        guest = {"email": who.email, "display_name": f"{who.first} {who.last}", "is_organizer": False}
        host = {"email": "host@example.org", "display_name": "Host", "is_organizer": True}
        event = {
            "id": self.visit.id, "state": self.state, "start_at": written(self.wish),
            "end_at": written(self.wish + timedelta(minutes=30)), "duration": 30, "canceled_at": None,
            "rescheduled_at": None, **self.dates, "is_group_session": False,
            "scheduler": guest if self.visit.id.endswith("1") else None, "organizer": host,
            "attendees": [host, guest], "payment": self.payment(),
        }  # fmt: skip
        body = {"type": kind, "id": self.mint("payload_{}"), "version": "2020-11-18", "occurred_at": written(self.now)}
        payload = {"event": event, "changes": {}} if kind == "event.changed" else event
        self.ring({**body, "payload": payload}, f"{kind} {self.state} {event['start_at']}")


class Session:
    """A group session."""

    def __init__(self, tool: Tool) -> None:
        self.tool, self.id, self.state = tool, "", "confirmed"
        self.present: list[Visit] = []
        self.left: list[Visit] = []

    def acts(self) -> list[Callable[[], None]]:
        if not self.id:
            return [self.book]
        if self.state == "canceled":
            return [self.tag]
        acts = [self.join, self.join] if len(self.tool.visits) < 5 else []
        acts += [self.come_back] if self.left else []
        if not self.present:
            return acts or [self.tag]
        back = [self.approve] if self.state == "awaiting_approval" else [self.move, self.move_and_ask, self.guest]
        return [*acts, *back, self.leave, self.leave, self.cancel, self.tag]

    def book(self) -> None:
        self.id = self.tool.mint("event_{}")
        self.start = self.tool.hour()
        for _ in range(self.tool.dice.choice((1, 2, 3))):
            self.somebody()
        self.say("event.created")

    def move(self) -> None:
        self.start = self.tool.hour()
        self.say(self.tool.dice.choice(("event.rescheduled", "event.changed")))

    def move_and_ask(self) -> None:
        self.start, self.state = self.tool.hour(), "awaiting_approval"
        self.say("event.rescheduled")

    def approve(self) -> None:
        self.state = "confirmed"
        self.say("event.approved")

    def cancel(self) -> None:
        self.state = "canceled"
        self.say("event.canceled")

    def join(self) -> None:
        visit = self.somebody()
        visit.scheduled = self.start
        self.attend("added", visit)

    def come_back(self) -> None:
        visit = self.left.pop()
        visit.missed, visit.scheduled = None, self.start
        self.present.append(visit)
        self.attend("added", visit)

    def leave(self) -> None:
        visit = self.present.pop(self.tool.dice.randrange(len(self.present)))
        visit.missed, visit.scheduled = self.tool.now, self.start
        self.left.append(visit)
        self.attend("canceled", visit)

    def guest(self) -> None:
        """Of an event that is no group session."""
        person = {"id": self.tool.mint("attendee_{}"), "email": self.tool.mint("guest-{}@example.com")}
        self.ring("event.attendee.added", {"event": {**self.event([]), "is_group_session": False}, "attendee": person})

    def tag(self) -> None:
        self.ring("workflow.action.triggered", {})

    # -- what is sent --

    def somebody(self) -> Visit:
        who = self.tool.person()
        while who.email in [visit.who and visit.who.email for visit in self.tool.visits]:
            who = self.tool.person()
        id = f"{self.id}.{hashlib.sha256(f'{self.id}{chr(10)}{who.email}'.encode()).hexdigest()[:20]}"
        visit = Visit(id, ids=[id], who=who)
        self.tool.visits.append(visit)
        self.present.append(visit)
        return visit

    def say(self, kind: str) -> None:
        """Those who left may still be listed."""
        listed = self.present + (self.left if self.tool.maybe() else [])
        for visit in listed:
            visit.scheduled, visit.cancelled = self.start, None if self.state == "confirmed" else self.tool.now
        event = self.event([self.person(visit) for visit in listed])
        self.ring(kind, {"event": event, "changes": {}} if kind == "event.changed" else event)

    def attend(self, what: str, visit: Visit) -> None:
        self.ring(f"event.attendee.{what}", {"event": self.event([]), "attendee": self.person(visit)})

    def event(self, attendees: list[dict[str, Any]]) -> dict[str, Any]:
        host = {"id": "attendee_0", "email": "host@example.org", "display_name": "Host", "is_organizer": True}
        return {
            "id": self.id, "state": self.state, "start_at": written(self.start), "canceled_at": None, "rescheduled_at": None,
            "is_group_session": True, "scheduler": None, "organizer": host, "attendees": [host, *attendees], "payment": None,
        }  # fmt: skip

    def person(self, visit: Visit) -> dict[str, Any]:
        who = visit.who
        assert who
        assert who.email
        email = self.tool.dice.choice((who.email, who.email.title()))
        return {"id": "attendee_1", "email": email, "display_name": f"{who.first} {who.last}", "is_organizer": False}

    def ring(self, kind: str, payload: dict[str, Any]) -> None:
        tool = self.tool
        body = {"type": kind, "id": tool.mint("payload_{}"), "version": "2020-11-18", "occurred_at": written(tool.now)}
        tool.ring({**body, "payload": payload}, f"{kind} {self.state} {written(self.start)}")
