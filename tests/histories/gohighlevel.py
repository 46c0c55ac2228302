"""A model of GoHighLevel.

An event has the appointment with its status, and its contact is fetched. A completion and a no-show are statuses; every
change of the appointment updates its time, except perhaps its deletion. An appointment that nobody has confirmed, or
that has no contact, is no visit. The contact of a missed or cancelled appointment is not fetched.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Person, ToolModel, Visit

LOCATION = "loc_8BWpSzSwfiuSl0tR2"
REQUESTED = ("new", "pending")
STANDING = (*REQUESTED, "confirmed", "active")


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status, self.contact, self.added, self.updated = "", "", self.now, self.now
        self.contacts: dict[str, Person] = {}
        self.silent: set[str] = set()

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        match self.status:
            case "deleted":
                return []
            case "cancelled" | "invalid":
                return [self.confirm, self.confirm, self.touch, self.delete]
            case "noshow":
                return [self.confirm, self.show, self.touch, self.cancel]
            case "showed" | "completed":
                return [self.touch, self.swap, self.confirm, self.cancel, self.delete, self.remove_contact]
            case "new" | "pending":
                return [self.confirm, self.confirm, self.show, self.move, self.touch, self.hand_over, self.cancel]
        changes = [self.move, self.move, self.swap, self.silence, self.show, self.miss, self.cancel, self.delete]
        return [*changes, self.unconfirm, self.remove_contact]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = self.new_id("apt_{}")
        self.visits, self.added = [Visit(id, ids=[id], scheduled=self.future_time())], self.now
        self.new_contact()
        self.become(self.rng.choice(STANDING), "AppointmentCreate")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.become(self.status)

    def swap(self) -> None:
        """Change the contact, or the address of the contact."""
        if self.contact and self.maybe():
            self.contacts[self.contact] = self.person()
        else:
            self.new_contact()
        self.become(self.status)

    def hand_over(self) -> None:
        self.new_contact()
        self.become(self.status)

    def silence(self) -> None:
        """Toggle "do not disturb", which takes effect with the appointment's next event."""
        self.silent ^= {self.contact} - {""}
        self.become(self.status)

    def confirm(self) -> None:
        self.become("confirmed")

    def unconfirm(self) -> None:
        self.become(self.rng.choice(REQUESTED))

    def remove_contact(self) -> None:
        self.contact = ""
        self.become(self.status)

    def show(self) -> None:
        self.become(self.rng.choice(("showed", "completed")))

    def miss(self) -> None:
        self.become("noshow")

    def cancel(self) -> None:
        self.become(self.rng.choice(("cancelled", "invalid")))

    def touch(self) -> None:
        """Change something irrelevant, such as a note."""
        self.become(self.status)

    def delete(self) -> None:
        self.status = "deleted"
        self.visit.completed, self.visit.cancelled, self.visit.missed = None, self.visit.cancelled or self.now, None
        self.updated = self.now if self.maybe() else self.updated
        self.send("AppointmentDelete", self.rng.choice(("confirmed", "cancelled")))

    def new_contact(self) -> None:
        self.contact = self.new_id("con_{}")
        self.contacts[self.contact] = self.person()

    def become(self, status: str, kind: str = "") -> None:
        """Change the status. The vendor's examples call some updates a creation."""
        visit, self.status, self.updated = self.visit, status, self.now
        off = status in (*REQUESTED, "cancelled", "invalid") or not self.contact
        done, missed = status in ("showed", "completed") and not off, status == "noshow" and not off
        visit.completed = (visit.completed or self.now) if done else None
        visit.cancelled = (visit.cancelled or self.now) if off else None
        visit.missed = (visit.missed or self.now) if missed else None
        if not (off or missed):
            visit.who, visit.opted_out = self.contacts[self.contact], self.contact in self.silent
        self.send(kind or self.rng.choice(("AppointmentUpdate", "AppointmentUpdate", "AppointmentCreate")), status)

    def owns(self, key: str) -> bool:
        return key in self.contacts

    def answer(self, key: str) -> Any:
        who = self.contacts[key]
        contact = {"id": key, "firstName": who.first, "lastName": who.last, "email": who.email, "phone": None}
        return {"contact": {**contact, "locationId": LOCATION, **self.dnd(key)}}

    def dnd(self, key: str) -> dict[str, Any]:
        """Return "do not disturb" for all channels or for e-mail; the setting for calls is irrelevant."""
        calls = {"Call": {"status": self.rng.choice(("active", "inactive"))}}
        if key not in self.silent:
            emails = self.rng.choice(({}, {"Email": {"status": "inactive", "message": "", "code": ""}}))
            return {"dnd": False, "dndSettings": calls | emails}
        if self.maybe():
            return {"dnd": True}
        return {"dnd": False, "dndSettings": {**calls, "Email": {"status": self.rng.choice(("active", "permanent"))}}}

    def send(self, kind: str, status: str) -> None:
        assert self.visit.scheduled
        appointment = {
            "id": self.visit.id, "contactId": self.contact, "appointmentStatus": status, "title": "x",
            "startTime": self.visit.scheduled.isoformat(), "dateAdded": self.stamp(self.added),
            "dateUpdated": self.stamp(self.updated),
        }  # fmt: skip
        body = {"type": kind, "locationId": LOCATION, "appointment": appointment}
        ids = {"timestamp": self.stamp(self.now), "webhookId": self.new_id("wh-{}")}
        summary = f"{kind} {status} {appointment['startTime']}"
        self.emit({**body, **ids}, summary, **{"x-ghl-signature": "of the newer kind"})

    def stamp(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
