"""SavvyCal: every event is told with all of it as it is, and keeps its id. Where a link wants approval or a payment, the
event waits for it, also when it is moved. An approval rings twice, the second time as a creation."""

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

    def acts(self) -> list[Callable[[], None]]:
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
        self.ring({**body, "payload": event}, f"{kind} {self.state} {event['start_at']}")
