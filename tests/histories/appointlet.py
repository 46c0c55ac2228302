"""Appointlet: every activity tells the whole meeting as it is then; a meeting keeps its id."""

from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

from tests.histories import Life, Visit, written


class Tool(Life):
    tick = timedelta(microseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.spelled = self.dice.choice(("Meeting.{}", "meeting.{}", "Meeting.{}"))

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.ask]
        if self.visit.cancelled:
            return [self.approve, self.tag]
        return [self.move, self.move, self.cancel, self.tag]

    def book(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.hour(), who=self.person())]
        self.say("scheduled")

    def ask(self) -> None:
        """A request, which is approved or not."""
        self.book()
        self.approve() if self.maybe() else self.decline()

    def approve(self) -> None:
        self.now += self.tick
        self.visit.cancelled = None
        self.say("approved")

    def decline(self) -> None:
        self.now += self.tick
        self.visit.cancelled = self.now
        self.say("declined")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("rescheduled")

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.say(self.dice.choice(("cancelled", "cancelled", "canceled")))

    def tag(self) -> None:
        self.say("tagged")

    def say(self, what: str) -> None:
        visit = self.visit
        assert visit.scheduled
        assert visit.who
        who = {"id": 1, "email": visit.who.email, "first_name": visit.who.first, "last_name": visit.who.last}
        meeting = {
            "id": visit.id, "type": "Meeting", "start": written(visit.scheduled), "approved": None, "confirmed": False,
            "cancelled": visit.cancelled is not None, "attendees": [who],
        }  # fmt: skip
        told_at = self.now.astimezone(UTC).isoformat().replace("+00:00", "Z")
        body = {"id": self.mint("act-{}"), "type": "Activity", "created_at": told_at, "metadata": None}
        self.ring({**body, "action": self.spelled.format(what), "entity": meeting}, f"{what} {meeting['start']}")
