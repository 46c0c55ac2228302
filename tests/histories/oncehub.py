"""OnceHub: within a page a booking keeps its id; to another page, and after the host asked for another time, it gets a new
one that names the old. A meeting whose time is over is completed, and may then be marked as a no-show."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Life, Visit

LENGTH = timedelta(minutes=30)


class Tool(Life):
    tick = timedelta(milliseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.state, self.old, self.charged = "", "", None

    def acts(self) -> list[Callable[[], None]]:
        match self.state:
            case "scheduled" | "rescheduled":
                return [
                    self.move, self.move, self.move_away, self.move_away, self.ask, self.cancel, self.reassign, self.end
                ]  # fmt: skip
            case "asked":
                return [self.pick, self.pick, self.cancel]
            case "completed":
                return [self.miss]
            case "no_show":
                return [self.unmark]
        return [self.book] if len(self.visits) < 3 else []

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = self.mint("BKNG-{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.hour(), who=self.person()))
        self.state, self.old, self.charged = "scheduled", "", self.money() if self.maybe() else None
        self.visit.paid = self.charged
        self.say("booking.scheduled")

    def move(self) -> None:
        self.state, self.visit.scheduled = "rescheduled", self.hour()
        self.say("booking.rescheduled")

    def move_away(self) -> None:
        self.say("booking.canceled_then_rescheduled", status="canceled")
        self.renew()

    def ask(self) -> None:
        self.state, self.visit.cancelled = "asked", self.now
        self.say("booking.canceled_reschedule_requested", status="canceled")

    def pick(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.old = self.visit.ids[-1]
        self.visit.ids.append(self.mint("BKNG-{}"))
        self.state, self.visit.scheduled, self.visit.cancelled = "rescheduled", self.hour(), None
        if self.maybe():
            self.charged = None  # whether a payment moves along is not told; what was paid stays paid
        self.say("booking.rescheduled")

    def cancel(self) -> None:
        self.state, self.visit.cancelled = "canceled", self.now
        self.say("booking.canceled")

    def reassign(self) -> None:
        self.say("booking.reassigned")

    def end(self) -> None:
        assert self.visit.scheduled
        over = self.visit.scheduled + LENGTH
        self.now = max(self.now, over)
        self.state, self.visit.completed = "completed", over
        self.say("booking.completed")

    def miss(self) -> None:
        self.state, self.visit.missed = "no_show", self.now
        self.say("booking.no_show")

    def unmark(self) -> None:
        """Not documented; here it completes once more."""
        self.state, self.visit.missed = "completed", None
        self.say("booking.completed")

    def say(self, kind: str, status: str | None = None) -> None:
        who, start = self.visit.who, self.visit.scheduled
        assert who
        assert start
        paid = self.charged and {"amount_charged": int(self.charged * 100), "currency": "USD", "transaction_id": "ch_1"}
        booking = {
            "object": "booking", "id": self.visit.ids[-1], "status": status or self.state, "in_trash": False,
            "starting_time": self.stamp(start), "last_updated_time": self.stamp(self.now), "duration_minutes": 30,
            "owner": "USR-1" if self.maybe() else {"id": "USR-1", "object": "user"},
            "rescheduled_booking_id": self.old or self.dice.choice(("", None)), "cancel_reschedule_information": None,
            "attendees": [who.email, "host@example.org"], "payment_information": paid,
            "form_submission": {"name": f"{who.first} {who.last}", "email": who.email, "phone": "", "mobile_phone": None},
        }  # fmt: skip
        body = {"id": self.mint("EVNT-{}"), "object": "event", "creation_time": self.stamp(self.now), "type": kind}
        self.ring({**body, "api_version": "v2", "data": booking}, f"{kind} {booking['id']} {booking['starting_time']}")

    def stamp(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
