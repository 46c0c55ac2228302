"""Appointlet: every activity of a meeting tells the whole of it as it is then; a meeting keeps its id. An attendee who joins
or leaves is told by themselves, and the meeting's time is not. Each is a visit of their own; whoever is alone in the meeting
as it is made has the visit that is named by the meeting."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.histories import Life, Person, Visit, written


class Tool(Life):
    tick = timedelta(microseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.spelled = self.dice.choice(("Meeting.{}", "meeting.{}", "Meeting.{}"))
        self.start: datetime | None = None
        self.made_at = self.now
        #: Who comes, and who was listed before and does not.
        self.present: list[Visit] = []
        self.left: list[Visit] = []

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.ask]
        join = [self.join] if len(self.visits) < 5 else []
        again = [self.come_back] if self.left else []
        if not self.present:
            return [self.tag, *join, *again]
        if self.present[0].cancelled:
            return [self.move, self.confirm, self.tag, *join, *again]
        return [self.move, self.move, self.cancel, self.leave, self.leave, self.tag, self.confirm, *join, *again]

    def book(self) -> None:
        self.start, self.made_at = self.hour(), self.now
        people = [self.somebody() for _ in range(self.dice.choice((1, 1, 2, 3)))]
        self.now += self.tick
        if len(people) == 1:
            self.visits[0].id, self.visits[0].ids = self.name, [self.name, *self.visits[0].ids]
        for visit in people:
            visit.scheduled = self.start
        self.say("scheduled", people)

    def ask(self) -> None:
        """A request, which is approved or not."""
        self.book()
        self.now += self.tick
        self.confirm() if self.maybe() else self.end("declined")

    def confirm(self) -> None:
        for visit in self.present:
            visit.scheduled, visit.cancelled = self.start, None
        self.say("approved", self.present)

    def move(self) -> None:
        """Of a group, those who left may still be listed."""
        self.start = self.hour()
        listed = self.present + (self.left if self.maybe() else [])
        for visit in listed:
            visit.scheduled, visit.cancelled = self.start, None
        self.say("rescheduled", listed)

    def cancel(self) -> None:
        self.end(self.dice.choice(("cancelled", "cancelled", "canceled")))

    def end(self, what: str) -> None:
        for visit in self.present:
            visit.scheduled, visit.cancelled = self.start, self.now
        self.say(what, self.present)

    def join(self) -> None:
        """When is not told: an event of the meeting must list them."""
        visit = self.somebody()
        self.attend("scheduled", visit)

    def come_back(self) -> None:
        visit = self.left.pop(self.dice.randrange(len(self.left)))
        visit.missed = None
        self.present.append(visit)
        self.attend("approved", visit)

    def leave(self) -> None:
        visit = self.present.pop(self.dice.randrange(len(self.present)))
        visit.missed = self.now
        self.left.append(visit)
        self.attend(self.dice.choice(("cancelled", "declined")), visit)

    def tag(self) -> None:
        self.say("tagged", self.present)

    # -- what is sent --

    def somebody(self) -> Visit:
        who = self.person()
        while who.email in [visit.who and visit.who.email for visit in self.visits]:
            who = self.person()
        who = Person(None, who.first, who.last) if self.maybe(0.1) else who
        number = str(80001 + len(self.visits))
        digest = hashlib.sha256(f"{self.name}{chr(10)}{who.email}".encode()).hexdigest()[:20]
        id = f"{self.name}.{digest if who.email else number}"
        visit = Visit(id, ids=[id], who=who)
        self.visits.append(visit)
        self.present.append(visit)
        return visit

    def say(self, what: str, listed: list[Visit]) -> None:
        assert self.start
        self.tell(self.spelled.format(what), {
            "id": self.name, "type": "Meeting", "created_at": self.stamp(self.made_at), "start": written(self.start),
            "approved": None, "confirmed": False, "cancelled": bool(self.present and self.present[0].cancelled),
            "attendees": [self.attendee(visit) for visit in listed],
        })  # fmt: skip

    def attend(self, what: str, visit: Visit) -> None:
        meeting = self.dice.choice((self.name, {"id": self.name}))
        self.tell(f"Attendee.{what}", {"type": "Attendee", **self.attendee(visit), "meeting": meeting})

    def attendee(self, visit: Visit) -> dict[str, Any]:
        who = visit.who
        assert who
        email = who.email and self.dice.choice((who.email, who.email.title()))
        return {"id": 80001 + self.visits.index(visit), "email": email, "first_name": who.first, "last_name": who.last}

    def tell(self, action: str, entity: dict[str, Any]) -> None:
        body = {"id": self.mint("act-{}"), "type": "Activity", "created_at": self.stamp(self.now), "metadata": None}
        self.ring({**body, "action": action, "entity": entity}, f"{action} {entity.get('start', '')}")

    def stamp(self, moment: datetime) -> str:
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
