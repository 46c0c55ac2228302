"""A model of SavvyCal.

Every webhook has the whole event, whose id does not change. If a link needs approval or a payment, the event waits for it,
also after a move. An approval sends two webhooks, the second of them a creation.

A group session has several attendees, each with a visit; separate webhooks report those who join or leave.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import ToolModel, Visit, format_time

OVER = ("canceled", "declined", "checkout_expired")


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = ""
        self.wish: datetime = self.now
        self.dates: dict[str, str] = {}
        self.session = Session(self) if self.maybe(0.4) else None

    def actions(self) -> list[Callable[[], None]]:
        if self.session:
            return self.session.actions()
        if not self.visits or self.state in OVER:
            return [self.book, self.book, self.request, self.check_out] if len(self.visits) < 3 else []
        match self.state:
            case "awaiting_approval":
                return [self.approve, self.approve, self.decline, self.cancel, self.edit]
            case "awaiting_checkout":
                return [self.pay, self.pay, self.expire]
        return [self.move, self.move, self.move, self.move_pending, self.cancel, self.edit]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.begin("confirmed")
        self.visit.scheduled = self.wish
        self.send("event.created")

    def request(self) -> None:
        self.begin("awaiting_approval")
        self.send("event.requested")

    def check_out(self) -> None:
        self.begin("awaiting_checkout")
        self.due = self.money()
        self.send("event.checkout.pending")

    def approve(self) -> None:
        self.agree()
        self.send(self.rng.choice(("event.approved", "event.requested")))  # the vendor's example has `event.requested`
        self.send("event.created")

    def pay(self) -> None:
        self.agree()
        self.visit.paid = self.due
        self.send("event.checkout.completed")

    def decline(self) -> None:
        self.end("declined", "event.declined")

    def expire(self) -> None:
        self.end("checkout_expired", "event.checkout.expired")

    def cancel(self) -> None:
        self.dates["canceled_at"] = format_time(self.now)
        self.end("canceled", "event.canceled")

    def move(self) -> None:
        self.wish = self.visit.scheduled = self.future_time()
        self.dates["rescheduled_at"] = format_time(self.now)
        self.send("event.rescheduled")

    def move_pending(self) -> None:
        """Give up the old time; the new one is not confirmed yet."""
        self.wish = self.visit.scheduled = self.future_time()
        self.dates["rescheduled_at"] = format_time(self.now)
        self.state, self.visit.cancelled = "awaiting_approval", self.visit.cancelled or self.now
        self.send("event.rescheduled")

    def edit(self) -> None:
        """Change something irrelevant; an event that waits still waits."""
        if self.state == "awaiting_approval":
            self.visit.scheduled, self.visit.cancelled = self.wish, self.visit.cancelled or self.now
        self.send("event.changed")

    # -- results --

    def begin(self, state: str) -> None:
        id = self.new_id("event_{}")
        self.visits.append(Visit(id, ids=[id], who=self.person()))
        self.wish, self.state, self.dates, self.due = (
            self.future_time(),
            state,
            {"created_at": format_time(self.now)},
            None,
        )

    def agree(self) -> None:
        self.state, self.visit.scheduled, self.visit.cancelled = "confirmed", self.wish, None

    def end(self, state: str, kind: str) -> None:
        """Only a cancellation has a time of its own; of other ends, the first that is seen counts."""
        self.state, self.visit.scheduled = state, self.wish
        self.visit.cancelled = self.now if state == "canceled" else self.visit.cancelled or self.now
        self.send(kind)

    def payment(self) -> dict[str, Any] | None:
        if self.due is None:
            return None
        return {"state": "paid" if self.visit.paid else "awaiting_checkout", "amount_total": int(self.due * 100)}

    def send(self, kind: str) -> None:
        who = self.visit.who
        assert who
        guest = {"email": who.email, "display_name": f"{who.first} {who.last}", "is_organizer": False}
        host = {"email": "host@example.org", "display_name": "Host", "is_organizer": True}
        event = {
            "id": self.visit.id, "state": self.state, "start_at": format_time(self.wish),
            "end_at": format_time(self.wish + timedelta(minutes=30)), "duration": 30, "canceled_at": None,
            "rescheduled_at": None, **self.dates, "is_group_session": False,
            "scheduler": guest if self.visit.id.endswith("1") else None, "organizer": host,
            "attendees": [host, guest], "payment": self.payment(),
        }  # fmt: skip
        body = {
            "type": kind,
            "id": self.new_id("payload_{}"),
            "version": "2020-11-18",
            "occurred_at": format_time(self.now),
        }
        payload = {"event": event, "changes": {}} if kind == "event.changed" else event
        self.emit({**body, "payload": payload}, f"{kind} {self.state} {event['start_at']}")


class Session:
    """A group session."""

    def __init__(self, tool: Tool) -> None:
        self.tool, self.id, self.state = tool, "", "confirmed"
        self.present: list[Visit] = []
        self.departed: list[Visit] = []

    def actions(self) -> list[Callable[[], None]]:
        if not self.id:
            return [self.book]
        if self.state == "canceled":
            return [self.tag]
        actions = [self.join, self.join] if len(self.tool.visits) < 5 else []
        actions += [self.come_back] if self.departed else []
        if not self.present:
            return actions or [self.tag]
        back = [self.approve] if self.state == "awaiting_approval" else [self.move, self.move_pending, self.guest]
        return [*actions, *back, self.leave, self.leave, self.cancel, self.tag]

    def book(self) -> None:
        self.id = self.tool.new_id("event_{}")
        self.start = self.tool.future_time()
        for _ in range(self.tool.rng.choice((1, 2, 3))):
            self.new_attendee()
        self.send("event.created")

    def move(self) -> None:
        self.start = self.tool.future_time()
        self.send(self.tool.rng.choice(("event.rescheduled", "event.changed")))

    def move_pending(self) -> None:
        self.start, self.state = self.tool.future_time(), "awaiting_approval"
        self.send("event.rescheduled")

    def approve(self) -> None:
        self.state = "confirmed"
        self.send("event.approved")

    def cancel(self) -> None:
        self.state = "canceled"
        self.send("event.canceled")

    def join(self) -> None:
        visit = self.new_attendee()
        visit.scheduled = self.start
        self.attend("added", visit)

    def come_back(self) -> None:
        visit = self.departed.pop()
        visit.missed, visit.scheduled = None, self.start
        self.present.append(visit)
        self.attend("added", visit)

    def leave(self) -> None:
        visit = self.present.pop(self.tool.rng.randrange(len(self.present)))
        visit.missed, visit.scheduled = self.tool.now, self.start
        self.departed.append(visit)
        self.attend("canceled", visit)

    def guest(self) -> None:
        """Add a guest to an event that is not a group session."""
        person = {"id": self.tool.new_id("attendee_{}"), "email": self.tool.new_id("guest-{}@example.com")}
        self.emit("event.attendee.added", {"event": {**self.event([]), "is_group_session": False}, "attendee": person})

    def tag(self) -> None:
        self.emit("workflow.action.triggered", {})

    # -- webhooks --

    def new_attendee(self) -> Visit:
        who = self.tool.person()
        while who.email in [visit.who and visit.who.email for visit in self.tool.visits]:
            who = self.tool.person()
        id = f"{self.id}.{hashlib.sha256(f'{self.id}{chr(10)}{who.email}'.encode()).hexdigest()[:20]}"
        visit = Visit(id, ids=[id], who=who)
        self.tool.visits.append(visit)
        self.present.append(visit)
        return visit

    def send(self, kind: str) -> None:
        """Send an event. Attendees who left may still be listed. The first end that is seen counts."""
        listed = self.present + (self.departed if self.tool.maybe() else [])
        for visit in listed:
            ended_at = visit.cancelled or self.tool.now
            visit.scheduled, visit.cancelled = self.start, None if self.state == "confirmed" else ended_at
        event = self.event([self.person(visit) for visit in listed])
        self.emit(kind, {"event": event, "changes": {}} if kind == "event.changed" else event)

    def attend(self, action: str, visit: Visit) -> None:
        self.emit(f"event.attendee.{action}", {"event": self.event([]), "attendee": self.person(visit)})

    def event(self, attendees: list[dict[str, Any]]) -> dict[str, Any]:
        host = {"id": "attendee_0", "email": "host@example.org", "display_name": "Host", "is_organizer": True}
        return {
            "id": self.id, "state": self.state, "start_at": format_time(self.start), "canceled_at": None,
            "rescheduled_at": None,
            "is_group_session": True, "scheduler": None, "organizer": host, "attendees": [host, *attendees], "payment": None,
        }  # fmt: skip

    def person(self, visit: Visit) -> dict[str, Any]:
        who = visit.who
        assert who
        assert who.email
        email = self.tool.rng.choice((who.email, who.email.title()))
        return {"id": "attendee_1", "email": email, "display_name": f"{who.first} {who.last}", "is_organizer": False}

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        tool = self.tool
        body = {
            "type": kind,
            "id": tool.new_id("payload_{}"),
            "version": "2020-11-18",
            "occurred_at": format_time(tool.now),
        }
        tool.emit({**body, "payload": payload}, f"{kind} {self.state} {format_time(self.start)}")
