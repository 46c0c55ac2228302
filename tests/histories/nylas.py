"""Nylas Scheduler: a booking keeps its id, and is over once it is cancelled. Where the host confirms, a request comes first.
The host may stand among the participants, named by the calendar."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import Life, Visit


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.state = ""
        self.wish: datetime = self.now

    def acts(self) -> list[Callable[[], None]]:
        match self.state:
            case "pending":
                return [self.confirm, self.confirm, self.cancel]
            case "booked":
                return [self.move, self.move, self.move, self.remind, self.cancel]
        return [self.book, self.book, self.ask] if len(self.visits) < 3 else []

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.begin()
        self.confirm()

    def ask(self) -> None:
        self.begin()
        self.state = "pending"
        self.say("booking.pending")

    def confirm(self) -> None:
        self.state, self.visit.scheduled = "booked", self.wish
        self.say("booking.created")

    def move(self) -> None:
        old, self.wish = self.wish, self.hour()
        self.visit.scheduled = self.wish
        self.say("booking.rescheduled", old_start_time=int(old.timestamp()), old_end_time=int(old.timestamp()) + 1_800)

    def remind(self) -> None:
        self.say("booking.reminder", time_until_event=600)

    def cancel(self) -> None:
        self.state, self.visit.scheduled, self.visit.cancelled = "cancelled", self.wish, self.now
        self.say("booking.cancelled", cancellation_reason="")

    def begin(self) -> None:
        id = self.mint("bk-{}")
        self.visits.append(Visit(id, ids=[id], who=self.person()))
        self.wish = self.hour()

    def say(self, kind: str, **more: Any) -> None:
        who, start = self.visit.who, int(self.wish.timestamp())
        assert who
        guest = {"email": who.email, "name": f"{who.first} {who.last}"}
        info = {
            "event_id": "cal-1", "start_time": start, "end_time": start + 1_800, "additional_fields": None,
            "participants": [guest], "organizer_calendar_id": "primary", **more,
        }  # fmt: skip
        if self.maybe():
            host = "host@example.org"
            info |= {"participants": [{"email": host}, guest], "organizer_calendar_id": host}
        booking = {"object": "booking", "booking_id": self.visit.id, "configuration_id": "cfg-1", "booking_info": info}
        body = {"specversion": "1.0", "type": kind, "id": self.mint("evt-{}"), "time": int(self.now.timestamp())}
        data = {"application_id": "app-1", "grant_id": "grant-1", "object": booking}
        self.ring({**body, "data": data}, f"{kind} {self.visit.id} {self.wish:%d %H:%M}")
