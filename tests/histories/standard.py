"""A system of somebody's own that sends the body of docs/standard.md. Any field may come with any event, or alone."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from app.sandbox.store import DOCUMENTED_CONTACT
from tests.histories import Life, Person, Visit


class Tool(Life):
    tick = timedelta(microseconds=1)

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.announce]
        return [self.book, self.move, self.move, self.change, self.pay, self.complete, self.reopen, self.cancel,
                self.restore, self.resend]  # fmt: skip

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def announce(self) -> None:
        """A time and nobody to go with it."""
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.hour())]
        self.say("visit.updated", time_scheduled=self.visit.scheduled)

    def book(self) -> None:
        """Also a re-booking: what is booked stands, although it was cancelled before."""
        if not self.visits:
            self.visits = [Visit(self.name, ids=[self.name])]
        visit = self.visit
        visit.scheduled, visit.who, visit.cancelled = self.hour(), visit.who or self.person(), None
        more: dict[str, Any] = {"amount_collected": None, "time_completed": None} if self.maybe(0.3) else {}
        if more:
            visit.paid = visit.completed = None
        self.say("visit.created", time_scheduled=visit.scheduled, contact=self.contact(), **more)

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("visit.updated", time_scheduled=self.visit.scheduled)

    def change(self) -> None:
        self.visit.who = self.person()
        self.say("visit.updated", contact=self.contact())

    def pay(self) -> None:
        self.visit.paid = None if self.visit.paid is not None and self.maybe() else self.money()
        amount = None if self.visit.paid is None else str(self.visit.paid)
        self.say("visit.updated", amount_collected=amount)

    def complete(self) -> None:
        told = self.now - timedelta(minutes=5) if self.maybe() else None
        self.visit.completed = told or self.now
        self.say("visit.completed", **({"time_completed": told} if told else {}))

    def reopen(self) -> None:
        self.visit.completed = None
        self.say("visit.updated", time_completed=None)

    def cancel(self) -> None:
        told = self.now - timedelta(minutes=5) if self.maybe() else None
        self.visit.cancelled = told or self.now
        kind = self.dice.choice(("visit.cancelled", "visit.canceled"))
        self.say(kind, **({"date_cancelled": told} if told else {}))

    def restore(self) -> None:
        self.visit.cancelled = None
        self.say("visit.updated", date_cancelled=None)

    def resend(self) -> None:
        """Everything that is known, at once."""
        visit = self.visit
        said = {"time_scheduled": visit.scheduled, "time_completed": visit.completed, "date_cancelled": visit.cancelled}
        amount = None if visit.paid is None else str(visit.paid)
        self.say("visit.updated", **said, amount_collected=amount, contact=self.contact())

    def contact(self) -> dict[str, Any] | None:
        who = self.visit.who
        if who is None:
            return None
        email = who.email and self.dice.choice((who.email, who.email, f" {who.email.upper()}"))
        return {"id": who.id, "email": email, "first_name": who.first, "last_name": who.last, "phone": None}

    def person(self) -> Person:
        """Now and then named by the id that Review Rover gave."""
        return super().person() if self.maybe(0.8) else Person(None, "First", "Contact", id=DOCUMENTED_CONTACT)

    def say(self, kind: str, **data: Any) -> None:
        told = {name: self.spelt(value) if isinstance(value, datetime) else value for name, value in data.items()}
        body = {"type": kind, "timestamp": self.spelt(self.now), "data": {"visit_id": self.name, **told}}
        id = f"msg_{self.mint()}"
        self.ring(body, f"{kind} {json.dumps(told)}", **{self.dice.choice(("webhook-id", "svix-id")): id})

    def spelt(self, moment: datetime) -> str:
        zone = self.dice.choice((UTC, timezone(timedelta(hours=-7)), timezone(timedelta(hours=5, minutes=45))))
        return moment.astimezone(zone).isoformat().replace("+00:00", "Z")
