"""Nylas Scheduler: a booking keeps its id, and is over once it is cancelled. Where the host confirms, a request comes first.
The host may stand among the participants, named by the calendar. Several guests of a group event have a booking each, for
one event of the calendar."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import Life, Visit


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.states: dict[str, str] = {}
        self.wishes: dict[str, datetime] = {}
        self.group = self.hour() if self.maybe(0.4) else None

    def acts(self) -> list[Callable[[], None]]:
        acts: list[Callable[[], None]] = []
        over = all(state == "cancelled" for state in self.states.values())
        if len(self.visits) < 3 and (over or self.group):
            acts += [self.book, self.book, *([] if self.group else [self.ask])]
        for visit in self.visits:
            acts += self.acts_of(visit)
        return acts

    def acts_of(self, visit: Visit) -> list[Callable[[], None]]:
        def on(act: Callable[[Visit], None]) -> Callable[[], None]:
            return lambda: act(visit)

        match self.states[visit.id]:
            case "pending":
                return [on(self.confirm), on(self.confirm), on(self.cancel)]
            case "booked":
                return [on(self.move), on(self.move), on(self.move), on(self.remind), on(self.cancel)]
        return []

    def book(self) -> None:
        self.confirm(self.begin())

    def ask(self) -> None:
        visit = self.begin()
        self.states[visit.id] = "pending"
        self.say(visit, "booking.pending")

    def confirm(self, visit: Visit) -> None:
        self.states[visit.id], visit.scheduled = "booked", self.wishes[visit.id]
        self.say(visit, "booking.created")

    def move(self, visit: Visit) -> None:
        old = int(self.wishes[visit.id].timestamp())
        visit.scheduled = self.wishes[visit.id] = self.hour()
        self.say(visit, "booking.rescheduled", old_start_time=old, old_end_time=old + 1_800)

    def remind(self, visit: Visit) -> None:
        self.say(visit, "booking.reminder", time_until_event=600)

    def cancel(self, visit: Visit) -> None:
        self.states[visit.id], visit.scheduled, visit.cancelled = "cancelled", self.wishes[visit.id], self.now
        self.say(visit, "booking.cancelled", cancellation_reason="")

    def begin(self) -> Visit:
        id = self.mint("bk-{}")
        visit = Visit(id, ids=[id], who=self.person())
        self.visits.append(visit)
        self.states[id], self.wishes[id] = "", self.group or self.hour()
        return visit

    def say(self, visit: Visit, kind: str, **more: Any) -> None:
        who, start = visit.who, int(self.wishes[visit.id].timestamp())
        assert who
        assert who.email
        guest = {"email": who.email, "name": f"{who.first} {who.last}"}
        participants = [guest, {**guest, "email": who.email.upper()}] if self.maybe(0.2) else [guest]
        info = {
            "event_id": "cal-1", "start_time": start, "end_time": start + 1_800, "additional_fields": None,
            "participants": participants, "organizer_calendar_id": "primary", **more,
        }  # fmt: skip
        if self.maybe():
            host = "host@example.org"
            info |= {"participants": [{"email": host}, *participants], "organizer_calendar_id": host}
        booking = {"object": "booking", "booking_id": visit.id, "configuration_id": "cfg-1", "booking_info": info}
        body = {"specversion": "1.0", "type": kind, "id": self.mint("evt-{}"), "time": int(self.now.timestamp())}
        data = {"application_id": "app-1", "grant_id": "grant-1", "object": booking}
        self.ring({**body, "data": data}, f"{kind} {visit.id} {self.wishes[visit.id]:%d %H:%M}")
