"""A model of Calendly.

A move is a cancel of the old invitee and a new invitee, linked both ways; a customer who books again after a cancel is a
new invitee without a link, hence another visit. Customers do not change, and there are no events for a completion or a
payment after the booking.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import Person, ToolModel, Visit

API = "https://api.calendly.com"


class Tool(ToolModel):
    tick = timedelta(microseconds=1)

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visits[-1].cancelled:
            return [self.book] if len(self.visits) < 3 else []
        return [self.move, self.move, self.move, self.cancel, self.unmark if self.visits[-1].missed else self.miss]

    def book(self) -> None:
        id = self.new_id("INV-{}")
        visit = Visit(id, ids=[id], scheduled=self.future_time(), who=self.person())
        visit.paid = self.money() if self.maybe() else None
        self.payment = visit.paid and {"amount": float(visit.paid), "currency": "USD", "successful": True}
        self.visits.append(visit)
        self.send("invitee.created", self.invitee(id, payment=self.payment))

    def move(self) -> None:
        """Move the booking. Here the payment stays; it is not documented whether the new invitee pays again."""
        visit = self.visits[-1]
        old, new = visit.ids[-1], self.new_id("INV-{}")
        before = visit.scheduled
        self.send("invitee.canceled", self.invitee(
            old, status="canceled", rescheduled=True, new_invitee=self.uri(new), cancellation=self.cancellation()
        ) | {"scheduled_event": self.event(before)})  # fmt: skip
        visit.ids.append(new)
        visit.scheduled, visit.missed = self.future_time(), None
        if self.maybe(0.2):
            visit.who = self.person()
        self.send("invitee.created", self.invitee(new, old_invitee=self.uri(old)))

    def cancel(self) -> None:
        visit = self.visits[-1]
        visit.cancelled = self.now
        payload = self.invitee(visit.ids[-1], status="canceled", rescheduled=False, cancellation=self.cancellation())
        self.send("invitee.canceled", payload)

    def miss(self) -> None:
        visit = self.visits[-1]
        visit.missed = self.now
        self.send("invitee_no_show.created", self.no_show(visit))

    def unmark(self) -> None:
        visit = self.visits[-1]
        visit.missed = None
        self.send("invitee_no_show.deleted", self.no_show(visit))

    # -- webhooks --

    def no_show(self, visit: Visit) -> dict[str, Any]:
        """Return one of the two known formats: the mark with its invitee, or the invitee with its mark."""
        uri = f"{API}/invitee_no_shows/NS-{self.name}"
        at = self.stamp(visit.missed) if isinstance(visit.missed, datetime) else None
        if self.maybe():
            invitee: Any = self.uri(visit.ids[-1])
            return {
                "uri": uri,
                "invitee": invitee if self.maybe() else {"uri": invitee},
                "created_at": at or self.stamp(self.now),
            }
        return self.invitee(visit.ids[-1], no_show={"uri": uri, "created_at": at} if at else None)

    def invitee(self, id: str, **kwargs: Any) -> dict[str, Any]:
        visit = self.visits[-1]
        who: Person | None = visit.who
        assert who
        return {
            "uri": self.uri(id), "email": who.email, "name": f"{who.first} {who.last}", "first_name": who.first,
            "last_name": who.last, "status": "active", "timezone": "Europe/London", "text_reminder_number": None,
            "questions_and_answers": [], "rescheduled": False, "old_invitee": None, "new_invitee": None,
            "payment": None, "no_show": None, "scheduled_event": self.event(visit.scheduled), **kwargs,
        }  # fmt: skip

    def event(self, start: datetime | None) -> dict[str, Any]:
        assert start
        end = start + timedelta(minutes=30)
        return {"uri": f"{API}/scheduled_events/E", "start_time": self.stamp(start), "end_time": self.stamp(end)}

    def cancellation(self) -> dict[str, Any]:
        return {"canceled_by": "x", "reason": "", "canceler_type": "invitee", "created_at": self.stamp(self.now)}

    def uri(self, id: str) -> str:
        return f"{API}/scheduled_events/EVT-{id}/invitees/{id}"

    def stamp(self, moment: datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        self.emit(
            {"event": kind, "created_at": self.stamp(self.now), "payload": payload}, f"{kind} {payload['uri'][-20:]}"
        )
