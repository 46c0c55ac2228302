"""A model of OnceHub.

The id of a booking does not change within a page; on another page, and after the host asked for another time, it gets a new
id with a link to the old one. A meeting is completed at its end, and may then be marked as a no-show.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import ToolModel, Visit

LENGTH = timedelta(minutes=30)


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state, self.old, self.charged = "", "", None

    def actions(self) -> list[Callable[[], None]]:
        match self.state:
            case "scheduled" | "rescheduled":
                return [
                    self.move, self.move, self.move_away, self.move_away, self.request_reschedule, self.cancel,
                    self.reassign, self.end,
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
        id = self.new_id("BKNG-{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.future_time(), who=self.person()))
        self.state, self.old, self.charged = "scheduled", "", self.money() if self.maybe() else None
        self.visit.paid = self.charged
        self.send("booking.scheduled")

    def move(self) -> None:
        self.state, self.visit.scheduled = "rescheduled", self.future_time()
        self.send("booking.rescheduled")

    def move_away(self) -> None:
        self.send("booking.canceled_then_rescheduled", status="canceled")
        self.renew()

    def request_reschedule(self) -> None:
        self.state, self.visit.cancelled = "asked", self.now
        self.send("booking.canceled_reschedule_requested", status="canceled")

    def pick(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.old = self.visit.ids[-1]
        self.visit.ids.append(self.new_id("BKNG-{}"))
        self.state, self.visit.scheduled, self.visit.cancelled = "rescheduled", self.future_time(), None
        if self.maybe():
            self.charged = None  # not documented: whether a payment moves with the booking. The amount stays
        self.send("booking.rescheduled")

    def cancel(self) -> None:
        self.state, self.visit.cancelled = "canceled", self.now
        self.send("booking.canceled")

    def reassign(self) -> None:
        self.send("booking.reassigned")

    def end(self) -> None:
        assert self.visit.scheduled
        over = self.visit.scheduled + LENGTH
        self.now = max(self.now, over)
        self.state, self.visit.completed = "completed", over
        self.send("booking.completed")

    def miss(self) -> None:
        self.state, self.visit.missed = "no_show", self.now
        self.send("booking.no_show")

    def unmark(self) -> None:
        """Remove the no-show. Not documented; here the booking is completed again."""
        self.state, self.visit.missed = "completed", None
        self.send("booking.completed")

    def send(self, kind: str, status: str | None = None) -> None:
        who, start = self.visit.who, self.visit.scheduled
        assert who
        assert start
        paid = self.charged and {"amount_charged": int(self.charged * 100), "currency": "USD", "transaction_id": "ch_1"}
        booking = {
            "object": "booking", "id": self.visit.ids[-1], "status": status or self.state, "in_trash": False,
            "starting_time": self.stamp(start), "last_updated_time": self.stamp(self.now), "duration_minutes": 30,
            "owner": "USR-1" if self.maybe() else {"id": "USR-1", "object": "user"},
            "rescheduled_booking_id": self.old or self.rng.choice(("", None)), "cancel_reschedule_information": None,
            "attendees": [who.email, "host@example.org"], "payment_information": paid,
            "form_submission": {"name": f"{who.first} {who.last}", "email": who.email, "phone": "", "mobile_phone": None},
        }  # fmt: skip
        body = {"id": self.new_id("EVNT-{}"), "object": "event", "creation_time": self.stamp(self.now), "type": kind}
        self.emit({**body, "api_version": "v2", "data": booking}, f"{kind} {booking['id']} {booking['starting_time']}")

    def stamp(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
