"""Mindbody: an appointment is in the event, but for a cancel, which names it and nothing else. An id counts inside its
site."""

from collections.abc import Callable
from typing import Any

from tests.histories import Life, Visit, written


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.status = "Scheduled"

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        match self.status:
            case "Cancelled":
                return [self.again, self.stand, self.stand]
            case "Completed" | "NoShow":
                return [self.again, self.stand, self.cancel]
        return [self.move, self.move, self.swap, self.cancel, self.complete, self.miss]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = f"-99:{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.hour(), who=self.person())]
        self.say("created")

    def stand(self) -> None:
        visit = self.visit
        self.status, visit.cancelled, visit.completed, visit.missed = "Scheduled", None, None, None
        self.say("updated")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("updated")

    def swap(self) -> None:
        self.visit.who = self.person()
        self.say("updated")

    def again(self) -> None:
        self.say("updated")

    def complete(self) -> None:
        self.status, self.visit.completed = "Completed", self.now
        self.say("updated")

    def miss(self) -> None:
        self.status, self.visit.missed = "NoShow", self.now
        self.say("updated")

    def cancel(self) -> None:
        visit = self.visit
        self.status, visit.cancelled, visit.completed, visit.missed = "Cancelled", self.now, None, None
        self.tell("cancelled", {})

    # -- what is sent --

    def say(self, kind: str) -> None:
        who, starts = self.visit.who, self.visit.scheduled
        assert who
        assert starts
        status = self.dice.choice((self.status, self.status.lower()))
        self.tell(kind, {
            "status": status, "startDateTime": written(starts), "clientId": "100", "clientFirstName": who.first,
            "clientLastName": who.last, "clientEmail": who.email, "clientPhone": None, "hasArrived": self.maybe(),
        })  # fmt: skip

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        body = {"messageId": self.mint("m{}"), "eventId": f"appointmentBooking.{kind}", "eventSchemaVersion": 1}
        body |= {"eventInstanceOriginationDateTime": written(self.now)}
        body |= {"eventData": {"siteId": -99, "appointmentId": self.name, **data}}
        self.ring(body, f"{kind} {data.get('status', '')} {data.get('startDateTime', '')}")
