"""A model of Appointlet.

Every activity of a meeting contains its current state; the id of a meeting does not change. The event of an attendee who
joins or leaves has no time of the meeting. Each attendee has a visit; the only attendee of a new meeting has the visit
with the meeting's id.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.histories import Person, ToolModel, Visit, format_time


class Tool(ToolModel):
    tick = timedelta(microseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spelled = self.rng.choice(("Meeting.{}", "meeting.{}", "Meeting.{}"))
        self.start: datetime | None = None
        self.made_at = self.now
        #: The attendees who come, and those who were listed before and left.
        self.present: list[Visit] = []
        self.departed: list[Visit] = []

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.request]
        join = [self.join] if len(self.visits) < 5 else []
        again = [self.come_back] if self.departed else []
        if not self.present:
            return [self.tag, *join, *again]
        if self.present[0].cancelled:
            return [self.move, self.confirm, self.tag, *join, *again]
        return [self.move, self.move, self.cancel, self.leave, self.leave, self.tag, self.confirm, *join, *again]

    def book(self) -> None:
        self.start, self.made_at = self.future_time(), self.now
        people = [self.new_attendee() for _ in range(self.rng.choice((1, 1, 2, 3)))]
        self.now += self.tick
        if len(people) == 1:
            self.visits[0].id, self.visits[0].ids = self.name, [self.name, *self.visits[0].ids]
        for visit in people:
            visit.scheduled = self.start
        self.send("scheduled", people)

    def request(self) -> None:
        """Book a meeting that is then approved or declined."""
        self.book()
        self.now += self.tick
        self.confirm() if self.maybe() else self.end("declined")

    def confirm(self) -> None:
        for visit in self.present:
            visit.scheduled, visit.cancelled = self.start, None
        self.send("approved", self.present)

    def move(self) -> None:
        """In a group, attendees who left may still be listed."""
        self.start = self.future_time()
        listed = self.present + (self.departed if self.maybe() else [])
        for visit in listed:
            visit.scheduled, visit.cancelled = self.start, None
        self.send("rescheduled", listed)

    def cancel(self) -> None:
        self.end(self.rng.choice(("cancelled", "cancelled", "canceled")))

    def end(self, activity: str) -> None:
        for visit in self.present:
            visit.scheduled, visit.cancelled = self.start, self.now
        self.send(activity, self.present)

    def join(self) -> None:
        """Add an attendee without a time: a later event of the meeting must list them."""
        visit = self.new_attendee()
        self.attend("scheduled", visit)

    def come_back(self) -> None:
        visit = self.departed.pop(self.rng.randrange(len(self.departed)))
        visit.missed = None
        self.present.append(visit)
        self.attend("approved", visit)

    def leave(self) -> None:
        visit = self.present.pop(self.rng.randrange(len(self.present)))
        visit.missed = self.now
        self.departed.append(visit)
        self.attend(self.rng.choice(("cancelled", "declined")), visit)

    def tag(self) -> None:
        self.send("tagged", self.present)

    # -- webhooks --

    def new_attendee(self) -> Visit:
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

    def send(self, activity: str, listed: list[Visit]) -> None:
        assert self.start
        self.post(self.spelled.format(activity), {
            "id": self.name, "type": "Meeting", "created_at": self.stamp(self.made_at), "start": format_time(self.start),
            "approved": None, "confirmed": False, "cancelled": bool(self.present and self.present[0].cancelled),
            "attendees": [self.attendee(visit) for visit in listed],
        })  # fmt: skip

    def attend(self, activity: str, visit: Visit) -> None:
        meeting = self.rng.choice((self.name, {"id": self.name}))
        self.post(f"Attendee.{activity}", {"type": "Attendee", **self.attendee(visit), "meeting": meeting})

    def attendee(self, visit: Visit) -> dict[str, Any]:
        who = visit.who
        assert who
        email = who.email and self.rng.choice((who.email, who.email.title()))
        return {"id": 80001 + self.visits.index(visit), "email": email, "first_name": who.first, "last_name": who.last}

    def post(self, action: str, entity: dict[str, Any]) -> None:
        body = {"id": self.new_id("act-{}"), "type": "Activity", "created_at": self.stamp(self.now), "metadata": None}
        self.emit({**body, "action": action, "entity": entity}, f"{action} {entity.get('start', '')}")

    def stamp(self, moment: datetime) -> str:
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
