"""A model of Mindbody.

An event has the appointment, except a cancel, which has only ids. An id is unique inside its site. Clients of a class book,
cancel, book again, sign in and are marked as absent, each separately.
"""

from collections.abc import Callable
from typing import Any

from tests.histories import Person, ToolModel, Visit, format_time


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status = "Scheduled"
        self.starts = self.future_time() if self.maybe() else None
        self.clients: list[Person] = [self.person() for _ in range(3)] if self.starts else []

    def actions(self) -> list[Callable[[], None]]:
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
        self.visits = [Visit(id, ids=[id], scheduled=self.future_time(), who=self.person())]
        self.send("created")

    def stand(self) -> None:
        """Send an update with the status of every appointment that is not cancelled, completed and missed ones included."""
        visit = self.visit
        self.status, visit.cancelled = "Scheduled", None
        self.send("updated")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("updated")

    def swap(self) -> None:
        self.visit.who = self.person()
        self.send("updated")

    def again(self) -> None:
        self.send("updated")

    def none(self) -> None:
        """Send an update without a status, which does not change it."""
        status, self.status = self.status, "None"
        self.send("updated")
        self.status = status

    def complete(self) -> None:
        self.status = "Completed"
        self.visit.completed, self.visit.missed = self.visit.completed or self.now, None
        self.send("updated")

    def miss(self) -> None:
        self.status = "NoShow"
        self.visit.completed, self.visit.missed = None, self.visit.missed or self.now
        self.send("updated")

    def cancel(self) -> None:
        visit = self.visit
        self.status, visit.cancelled, visit.completed, visit.missed = "Cancelled", self.now, None, None
        self.deliver("cancelled", {})

    # -- a class --

    def take_place(self) -> None:
        number = self.rng.randrange(len(self.clients))
        id = f"-99:class:{self.name}.{number}"
        visit = next((visit for visit in self.visits if visit.id == id), None)
        if visit is None:
            visit = Visit(id, ids=[id])
            self.visits.append(visit)
        visit.who, visit.scheduled, visit.cancelled, visit.missed = self.clients[number], self.starts, None, None
        self.of_class("classRosterBooking.created", visit, signedInStatus="Absent")

    def in_class(self) -> None:
        visit = self.rng.choice(self.visits)
        status = self.rng.choice(("cancelled", "SignedIn", "Absent", "LateCancelled"))
        visit.cancelled = (visit.cancelled or self.now) if "ancelled" in status else None
        visit.missed = (visit.missed or self.now) if status == "Absent" else None
        if status == "cancelled":
            ids = {"siteId": -99, "classId": self.name, "clientId": visit.id.rpartition(".")[2]}
            self.post("classRosterBooking.cancelled", ids)
        else:
            self.of_class("classRosterBookingStatus.updated", visit, signedInStatus=status)

    def of_class(self, kind: str, visit: Visit, **kwargs: Any) -> None:
        assert visit.who
        assert visit.scheduled
        self.post(kind, {
            "siteId": -99, "classId": self.name, "classRosterBookingId": self.new_id("r{}"),
            "clientId": visit.id.rpartition(".")[2], "classStartDateTime": format_time(visit.scheduled),
            "clientFirstName": visit.who.first, "clientLastName": visit.who.last,
            "clientEmail": self.rng.choice((visit.who.email, (visit.who.email or "").upper())), **kwargs,
        })  # fmt: skip

    # -- webhooks --

    def send(self, kind: str) -> None:
        who, starts = self.visit.who, self.visit.scheduled
        assert who
        assert starts
        status = self.rng.choice((self.status, self.status.lower()))
        self.deliver(kind, {
            "status": status, "startDateTime": format_time(starts), "clientId": "100", "clientFirstName": who.first,
            "clientLastName": who.last, "clientEmail": who.email, "clientPhone": None, "hasArrived": self.maybe(),
        })  # fmt: skip

    def deliver(self, kind: str, data: dict[str, Any]) -> None:
        self.post(f"appointmentBooking.{kind}", {"siteId": -99, "appointmentId": self.name, **data})

    def post(self, kind: str, data: dict[str, Any]) -> None:
        body = {"messageId": self.new_id("m{}"), "eventId": kind, "eventSchemaVersion": 1, "eventData": data}
        body |= {"eventInstanceOriginationDateTime": format_time(self.now)}
        self.emit(body, f"{kind} {data.get('status', data.get('signedInStatus', ''))} {data.get('clientId', '')}")
