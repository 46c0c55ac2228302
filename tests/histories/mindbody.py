"""Mindbody: an appointment is in the event, but for a cancel, which names it and nothing else. An id counts inside its
site. Or a class: its clients book, cancel, book again, sign in and are marked as absent, each for themselves."""

from collections.abc import Callable
from typing import Any

from tests.histories import Life, Person, Visit, written


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.status = "Scheduled"
        self.starts = self.hour() if self.maybe() else None
        self.clients: list[Person] = [self.person() for _ in range(3)] if self.starts else []

    def acts(self) -> list[Callable[[], None]]:
        if self.starts:
            return [self.take_place, self.take_place, *([self.in_class] if self.visits else [])]
        if not self.visits:
            return [self.book]
        match self.status:
            case "Cancelled":
                return [self.again, self.stand, self.stand]
            case "Completed" | "NoShow":
                return [self.again, self.stand, self.cancel]
        return [self.move, self.move, self.swap, self.cancel, self.complete, self.miss, self.none]

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

    def none(self) -> None:
        """No status is told: it stays what it was."""
        status, self.status = self.status, "None"
        self.say("updated")
        self.status = status

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

    # -- a class --

    def take_place(self) -> None:
        number = self.dice.randrange(len(self.clients))
        id = f"-99:class:{self.name}.{number}"
        visit = next((one for one in self.visits if one.id == id), None)
        if visit is None:
            visit = Visit(id, ids=[id])
            self.visits.append(visit)
        visit.who, visit.scheduled, visit.cancelled, visit.missed = self.clients[number], self.starts, None, None
        self.of_class("classRosterBooking.created", visit, signedInStatus="Absent")

    def in_class(self) -> None:
        visit = self.dice.choice(self.visits)
        status = self.dice.choice(("cancelled", "SignedIn", "Absent", "LateCancelled"))
        visit.cancelled = (visit.cancelled or self.now) if "ancelled" in status else None
        visit.missed = (visit.missed or self.now) if status == "Absent" else None
        if status == "cancelled":
            ids = {"siteId": -99, "classId": self.name, "clientId": visit.id.rpartition(".")[2]}
            self.post("classRosterBooking.cancelled", ids)
        else:
            self.of_class("classRosterBookingStatus.updated", visit, signedInStatus=status)

    def of_class(self, kind: str, visit: Visit, **more: Any) -> None:
        assert visit.who
        assert visit.scheduled
        self.post(kind, {
            "siteId": -99, "classId": self.name, "classRosterBookingId": self.mint("r{}"),
            "clientId": visit.id.rpartition(".")[2], "classStartDateTime": written(visit.scheduled),
            "clientFirstName": visit.who.first, "clientLastName": visit.who.last,
            "clientEmail": self.dice.choice((visit.who.email, (visit.who.email or "").upper())), **more,
        })  # fmt: skip

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
        self.post(f"appointmentBooking.{kind}", {"siteId": -99, "appointmentId": self.name, **data})

    def post(self, kind: str, data: dict[str, Any]) -> None:
        body = {"messageId": self.mint("m{}"), "eventId": kind, "eventSchemaVersion": 1, "eventData": data}
        body |= {"eventInstanceOriginationDateTime": written(self.now)}
        self.ring(body, f"{kind} {data.get('status', data.get('signedInStatus', ''))} {data.get('clientId', '')}")
