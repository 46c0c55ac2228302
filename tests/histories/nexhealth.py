"""A model of NexHealth.

An event has one appointment or a list; its patient is fetched, and may change without an event. Some practice systems send
the time of a cancel or a check-out, others only a flag.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.histories import Person, ToolModel, Visit

INSTITUTION = 11


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tells_times, self.brings_patient = self.maybe(0.6), self.maybe(0.2)
        subdomain, self.practice, self.address = {"subdomain": "example-dental"}, dict[str, str](), dict[str, str]()
        if self.maybe(0.7):
            self.practice = subdomain
        else:
            self.address = {f"?{name}": value for name, value in subdomain.items()}
        self.patients: dict[str, Person] = {}
        self.patient = ""

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        visit = self.visit
        if visit.cancelled:
            return [self.restore, self.note]
        if visit.missed:
            return [self.unmark, self.note]
        if visit.completed:
            return [self.note, self.take_back]
        return [self.move, self.move, self.cancel, self.miss, self.check_out, self.note, self.swap, self.correct]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = f"{INSTITUTION}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.future_time())]
        self.new_patient()
        if self.maybe(0.3):
            self.send("appointment_insertion.complete")
        self.send("appointment_created")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send()

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.send()

    def restore(self) -> None:
        self.visit.cancelled = None
        self.send()

    def miss(self) -> None:
        self.visit.missed = self.now
        self.send()

    def unmark(self) -> None:
        self.visit.missed = None
        self.send()

    def check_out(self) -> None:
        self.visit.completed = self.now
        self.send()

    def take_back(self) -> None:
        self.visit.completed = None
        self.send()

    def note(self) -> None:
        """Change something irrelevant."""
        self.send()

    def swap(self) -> None:
        self.new_patient()
        self.send()

    def correct(self) -> None:
        """Change the patient's address, without an event that Doorbell subscribes to."""
        self.patients[self.patient] = self.visit.who = self.person()
        if self.brings_patient:
            self.send()

    def new_patient(self) -> None:
        self.patient = self.new_id("p-{}")
        self.patients[self.patient] = self.visit.who = self.person()

    def owns(self, key: str) -> bool:
        return key in self.patients

    def answer(self, key: str) -> Any:
        return {"code": True, "data": self.record(key)}

    def record(self, key: str) -> Any:
        who = self.patients[key]
        return {"id": key, "email": who.email, "first_name": who.first, "last_name": who.last, "bio": {}}

    def stamp(self, moment: datetime | str | None, is_told: bool = True) -> str | None:
        if not isinstance(moment, datetime) or not is_told:
            return None
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def send(self, kind: str = "appointment_updated") -> None:
        visit = self.visit
        assert visit.scheduled
        appointment = {
            "id": self.name, "patient_id": self.patient, "provider_id": 9, "location_id": 21, "unavailable": False,
            "start_time": self.stamp(visit.scheduled), "end_time": self.stamp(visit.scheduled + timedelta(hours=1)),
            "patient_missed": visit.missed is not None, "cancelled": visit.cancelled is not None,
            "cancelled_at": self.stamp(visit.cancelled, self.tells_times), "checked_out": visit.completed is not None,
            "checked_out_at": self.stamp(visit.completed, self.tells_times), "updated_at": self.stamp(self.now),
        }  # fmt: skip
        if self.brings_patient:
            appointment["patient"] = self.record(self.patient)
        data = {"appointments": [appointment]} if kind == "appointment_created" else {"appointment": appointment}
        self.emit(
            {"resource_type": "Appointment", "event_name": kind, "event_time": self.stamp(self.now), "data": data,
             **self.practice, "institution_id": INSTITUTION, "delivery_errors": []},
            f"{kind} {appointment}", **self.address,
        )  # fmt: skip
