"""YouCanBook.me: what its triggers send where our payload was pasted. Nothing dates them, so a booking moves once at most
here: of two moves only their arrival tells which came last. Nobody tells when something was cancelled or missed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import SOME_TIME, Life, Visit


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.said: set[str] = set()

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits or self.visits[-1].cancelled:
            return [self.book] if len(self.visits) < 3 else []
        before = {"rescheduled": self.move, "reminder": self.remind, "cancelled": self.cancel}
        after = {"no_show": self.miss, "completed": self.follow_up}
        could = after if self.is_over else before | after
        return [act for said, act in could.items() if said not in self.said]

    @property
    def is_over(self) -> bool:
        return bool({"no_show", "completed"} & self.said)

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = self.mint("REF-{}")
        self.said = set()
        self.visits.append(Visit(id, ids=[id], scheduled=self.hour(), who=self.person()))
        self.say("booked")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("rescheduled")

    def remind(self) -> None:
        self.say("reminder")

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.say("cancelled")

    def miss(self) -> None:
        self.visit.missed = SOME_TIME
        self.say("no_show")

    def follow_up(self) -> None:
        self.visit.completed = self.end
        self.say("completed")

    @property
    def end(self) -> datetime:
        assert self.visit.scheduled
        return self.visit.scheduled + timedelta(minutes=30)

    def say(self, kind: str) -> None:
        self.said.add(kind)
        who, start = self.visit.who, self.visit.scheduled
        assert who
        assert start
        self.ring({
            "event": kind, "reference": self.visit.id, "start": self.stamp(start), "end": self.stamp(self.end),
            "email": who.email, "first_name": who.first,
        }, f"{kind} {self.visit.id} {start}")  # fmt: skip

    def stamp(self, moment: datetime) -> str:
        """As `{START-ISO-8601}` and `{START-MILLIS}` are written."""
        iso = moment.isoformat(timespec="seconds").replace("+00:00", "+0000")
        return self.dice.choice((iso, iso, str(int(moment.timestamp() * 1000))))
