"""A model of a system that sends the body of docs/standard.md. Any event may have any fields."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from app.sandbox.store import DOCUMENTED_CONTACT
from tests.histories import Person, ToolModel, Visit


class Tool(ToolModel):
    tick = timedelta(microseconds=1)

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.announce]
        return [self.book, self.move, self.move, self.change, self.pay, self.complete, self.reopen, self.cancel,
                self.restore, self.resend]  # fmt: skip

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def announce(self) -> None:
        """Send a time without a contact."""
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.future_time())]
        self.send("visit.updated", time_scheduled=self.visit.scheduled)

    def book(self) -> None:
        """Book, also after a cancel: a new booking is not cancelled."""
        if not self.visits:
            self.visits = [Visit(self.name, ids=[self.name])]
        visit = self.visit
        visit.scheduled, visit.who, visit.cancelled = self.future_time(), visit.who or self.person(), None
        kwargs: dict[str, Any] = {"amount_collected": None, "time_completed": None} if self.maybe(0.3) else {}
        if kwargs:
            visit.paid = visit.completed = None
        self.send("visit.created", time_scheduled=visit.scheduled, contact=self.contact(), **kwargs)

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("visit.updated", time_scheduled=self.visit.scheduled)

    def change(self) -> None:
        self.visit.who = self.person()
        self.send("visit.updated", contact=self.contact())

    def pay(self) -> None:
        self.visit.paid = None if self.visit.paid is not None and self.maybe() else self.money()
        amount = None if self.visit.paid is None else str(self.visit.paid)
        self.send("visit.updated", amount_collected=amount)

    def complete(self) -> None:
        sent_time = self.now - timedelta(minutes=5) if self.maybe() else None
        self.visit.completed = sent_time or self.now
        self.send("visit.completed", **({"time_completed": sent_time} if sent_time else {}))

    def reopen(self) -> None:
        self.visit.completed = None
        self.send("visit.updated", time_completed=None)

    def cancel(self) -> None:
        sent_time = self.now - timedelta(minutes=5) if self.maybe() else None
        self.visit.cancelled = sent_time or self.now
        kind = self.rng.choice(("visit.cancelled", "visit.canceled"))
        self.send(kind, **({"date_cancelled": sent_time} if sent_time else {}))

    def restore(self) -> None:
        self.visit.cancelled = None
        self.send("visit.updated", date_cancelled=None)

    def resend(self) -> None:
        """Send all fields at once."""
        visit = self.visit
        times = {
            "time_scheduled": visit.scheduled,
            "time_completed": visit.completed,
            "date_cancelled": visit.cancelled,
        }
        amount = None if visit.paid is None else str(visit.paid)
        self.send("visit.updated", **times, amount_collected=amount, contact=self.contact())

    def contact(self) -> dict[str, Any] | None:
        who = self.visit.who
        if who is None:
            return None
        email = who.email and self.rng.choice((who.email, who.email, f" {who.email.upper()}"))
        return {"id": who.id, "email": email, "first_name": who.first, "last_name": who.last, "phone": None}

    def person(self) -> Person:
        """Return a person, who is sometimes identified by Review Rover's id."""
        return super().person() if self.maybe(0.8) else Person(None, "First", "Contact", id=DOCUMENTED_CONTACT)

    def send(self, kind: str, **data: Any) -> None:
        fields = {name: self.spelt(value) if isinstance(value, datetime) else value for name, value in data.items()}
        body = {"type": kind, "timestamp": self.spelt(self.now), "data": {"visit_id": self.name, **fields}}
        id = f"msg_{self.new_id()}"
        self.emit(body, f"{kind} {json.dumps(fields)}", **{self.rng.choice(("webhook-id", "svix-id")): id})

    def spelt(self, moment: datetime) -> str:
        zone = self.rng.choice((UTC, timezone(timedelta(hours=-7)), timezone(timedelta(hours=5, minutes=45))))
        return moment.astimezone(zone).isoformat().replace("+00:00", "Z")
