"""A model of YouCanBook.me with the payload of SETUP.

The payloads have no time, so a booking moves at most once: of two moves only the order of arrival would show which was
last. Cancels and no-shows have no time.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import SOME_TIME, ToolModel, Visit


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent_kinds: set[str] = set()

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits or self.visits[-1].cancelled:
            return [self.book] if len(self.visits) < 3 else []
        before = {"rescheduled": self.move, "reminder": self.remind, "cancelled": self.cancel}
        after = {"no_show": self.miss, "completed": self.follow_up}
        kinds = after if self.is_over else before | after
        return [action for kind, action in kinds.items() if kind not in self.sent_kinds]

    @property
    def is_over(self) -> bool:
        return bool({"no_show", "completed"} & self.sent_kinds)

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = self.new_id("REF-{}")
        self.sent_kinds = set()
        self.visits.append(Visit(id, ids=[id], scheduled=self.future_time(), who=self.person()))
        self.send("booked")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("rescheduled")

    def remind(self) -> None:
        self.send("reminder")

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.send("cancelled")

    def miss(self) -> None:
        self.visit.missed = SOME_TIME
        self.send("no_show")

    def follow_up(self) -> None:
        self.visit.completed = self.end
        self.send("completed")

    @property
    def end(self) -> datetime:
        assert self.visit.scheduled
        return self.visit.scheduled + timedelta(minutes=30)

    def send(self, kind: str) -> None:
        self.sent_kinds.add(kind)
        who, start = self.visit.who, self.visit.scheduled
        assert who
        assert start
        self.emit({
            "event": kind, "reference": self.visit.id, "start": self.stamp(start), "end": self.stamp(self.end),
            "email": who.email, "first_name": who.first,
        }, f"{kind} {self.visit.id} {start}")  # fmt: skip

    def stamp(self, moment: datetime) -> str:
        """Format a time as `{START-ISO-8601}` or `{START-MILLIS}`."""
        iso = moment.isoformat(timespec="seconds").replace("+00:00", "+0000")
        return self.rng.choice((iso, iso, str(int(moment.timestamp() * 1000))))
