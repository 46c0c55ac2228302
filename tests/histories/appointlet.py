"""Appointlet: every activity of a meeting tells the whole of it as it is then; a meeting keeps its id. Of a group whoever
joined last counts, and once somebody left nobody does."""

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
            return [self.approve, self.join, self.shift, self.tag]
        return [self.move, self.move, self.cancel, self.join, self.leave, self.tag]

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

    def shift(self) -> None:
        """The host moves it, and nobody says who comes: whoever cancelled or left does not."""
        self.visit.scheduled = self.hour()
        self.say("rescheduled", [])

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.say(self.dice.choice(("cancelled", "cancelled", "canceled")))

    def join(self) -> None:
        self.visit.who, self.visit.cancelled = self.person(), None
        self.attend("scheduled")

    def leave(self) -> None:
        """Whoever it is."""
        self.visit.cancelled = self.now
        self.attend(self.dice.choice(("cancelled", "declined")))

    def tag(self) -> None:
        self.say("tagged")

    def say(self, what: str, attendees: list[dict[str, Any]] | None = None) -> None:
        visit = self.visit
        assert visit.scheduled
        self.tell(self.spelled.format(what), {
            "id": visit.id, "type": "Meeting", "start": written(visit.scheduled), "approved": None, "confirmed": False,
            "cancelled": visit.cancelled is not None, "attendees": [self.attendee()] if attendees is None else attendees,
        })  # fmt: skip

    def attend(self, what: str) -> None:
        meeting = self.dice.choice((self.visit.id, {"id": self.visit.id}))
        self.tell(f"Attendee.{what}", {"type": "Attendee", **self.attendee(), "meeting": meeting})

    def attendee(self) -> dict[str, Any]:
        who = self.visit.who
        assert who
        return {"id": 1, "email": who.email, "first_name": who.first, "last_name": who.last}

    def tell(self, action: str, entity: dict[str, Any]) -> None:
        told_at = self.now.astimezone(UTC).isoformat().replace("+00:00", "Z")
        body = {"id": self.mint("act-{}"), "type": "Activity", "created_at": told_at, "metadata": None}
        self.ring({**body, "action": action, "entity": entity}, f"{action} {entity.get('start', '')}")
