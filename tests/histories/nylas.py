"""A model of Nylas Scheduler.

The id of a booking does not change, and a cancelled booking is final. If the host confirms bookings, a request comes first.
The host may be one of the participants, identified by the calendar. Several guests of a group event have a booking each,
for one event of the calendar.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import ToolModel, Visit


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.states: dict[str, str] = {}
        self.wishes: dict[str, datetime] = {}
        self.group = self.future_time() if self.maybe(0.4) else None

    def actions(self) -> list[Callable[[], None]]:
        actions: list[Callable[[], None]] = []
        over = all(state == "cancelled" for state in self.states.values())
        if len(self.visits) < 3 and (over or self.group):
            actions += [self.book, self.book, *([] if self.group else [self.request_booking])]
        for visit in self.visits:
            actions += self.acts_of(visit)
        return actions

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

    def request_booking(self) -> None:
        visit = self.begin()
        self.states[visit.id] = "pending"
        self.send(visit, "booking.pending")

    def confirm(self, visit: Visit) -> None:
        self.states[visit.id], visit.scheduled = "booked", self.wishes[visit.id]
        self.send(visit, "booking.created")

    def move(self, visit: Visit) -> None:
        old = int(self.wishes[visit.id].timestamp())
        visit.scheduled = self.wishes[visit.id] = self.future_time()
        self.send(visit, "booking.rescheduled", old_start_time=old, old_end_time=old + 1_800)

    def remind(self, visit: Visit) -> None:
        self.send(visit, "booking.reminder", time_until_event=600)

    def cancel(self, visit: Visit) -> None:
        self.states[visit.id], visit.scheduled, visit.cancelled = "cancelled", self.wishes[visit.id], self.now
        self.send(visit, "booking.cancelled", cancellation_reason="")

    def begin(self) -> Visit:
        id = self.new_id("bk-{}")
        visit = Visit(id, ids=[id], who=self.person())
        self.visits.append(visit)
        self.states[id], self.wishes[id] = "", self.group or self.future_time()
        return visit

    def send(self, visit: Visit, kind: str, **kwargs: Any) -> None:
        who, start = visit.who, int(self.wishes[visit.id].timestamp())
        assert who
        assert who.email
        guest = {"email": who.email, "name": f"{who.first} {who.last}"}
        participants = [guest, {**guest, "email": who.email.upper()}] if self.maybe(0.2) else [guest]
        info = {
            "event_id": "cal-1", "start_time": start, "end_time": start + 1_800, "additional_fields": None,
            "participants": participants, "organizer_calendar_id": "primary", **kwargs,
        }  # fmt: skip
        if self.maybe():
            host = "host@example.org"
            info |= {"participants": [{"email": host}, *participants], "organizer_calendar_id": host}
        booking = {"object": "booking", "booking_id": visit.id, "configuration_id": "cfg-1", "booking_info": info}
        body = {"specversion": "1.0", "type": kind, "id": self.new_id("evt-{}"), "time": int(self.now.timestamp())}
        data = {"application_id": "app-1", "grant_id": "grant-1", "object": booking}
        self.emit({**body, "data": data}, f"{kind} {visit.id} {self.wishes[visit.id]:%d %H:%M}")
