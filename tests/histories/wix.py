"""Wix Bookings: every event has the whole booking and a number that rises; it stands in a token, in texts in texts. A
booking is a cart first, and may be a request again after it was agreed."""

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import Life, Visit, written


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.sequence, self.status, self.start = 0, "", self.hour()
        self.someone = self.person()
        self.is_wrapped, self.paid = self.maybe(0.7), "NOT_PAID"

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def acts(self) -> list[Callable[[], None]]:
        match self.status:
            case "":
                return [self.put_in_cart]
            case "CREATED":
                return [self.confirm, self.confirm, self.request]
            case "PENDING":
                return [self.confirm, self.decline]
            case "CONFIRMED":
                return [self.move, self.move, self.ask, self.cancel, self.pay, self.correct]
        return [self.refund, self.confirm]

    def put_in_cart(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name])]
        self.say("created", "CREATED")

    def request(self) -> None:
        self.say("marked_as_pending", "PENDING")

    def confirm(self) -> None:
        self.agreed()
        self.say("confirmed", "CONFIRMED")

    def move(self) -> None:
        self.start = self.hour()
        self.agreed()
        self.say("rescheduled", "CONFIRMED")

    def ask(self) -> None:
        """Another time, which is not agreed yet."""
        self.start = self.hour()
        self.ended()
        self.say("rescheduled", "PENDING")

    def decline(self) -> None:
        self.ended()
        self.say("declined", "DECLINED")

    def cancel(self) -> None:
        self.ended()
        self.say(self.dice.choice(("canceled", "cancelled")), "CANCELED")

    def pay(self) -> None:
        """It is said that, not how much."""
        self.paid = "PAID"
        self.say("updated", "CONFIRMED")

    def refund(self) -> None:
        """After its end it is told once more, as it is."""
        self.paid = "REFUNDED"
        self.ended()
        self.say("updated", self.status)

    def correct(self) -> None:
        self.someone = self.person()
        self.agreed()
        self.say("updated", "CONFIRMED")

    def agreed(self) -> None:
        self.visit.scheduled, self.visit.who, self.visit.cancelled = self.start, self.someone, None

    def ended(self) -> None:
        self.visit.scheduled, self.visit.who = self.start, self.someone
        self.visit.cancelled = self.visit.cancelled or self.now

    def say(self, slug: str, status: str) -> None:
        self.sequence, self.status = self.sequence + self.dice.choice((1, 1, 2)), status
        who = self.someone
        booking = {
            "id": self.name, "status": status, "paymentStatus": self.paid, "revision": str(self.sequence),
            "bookedEntity": {"slot": {"serviceId": "svc", "startDate": _milliseconds(self.start)}},
            "contactDetails": {"contactId": "c", "firstName": who.first, "lastName": who.last, "email": who.email},
        }  # fmt: skip
        inner = {
            "id": self.mint("ev-{}"), "entityFqdn": "wix.bookings.v2.booking", "slug": slug, "entityId": self.name,
            "eventTime": _milliseconds(self.now), "entityEventSequence": str(self.sequence), **self.told(slug, booking),
        }  # fmt: skip
        event = {"eventType": f"wix.bookings.v2.booking_{slug}", "instanceId": "site", "data": self.layer(inner)}
        claims = base64.urlsafe_b64encode(json.dumps({"data": self.layer(event)}).encode()).rstrip(b"=")
        what = f"{slug} #{self.sequence} {status} {written(self.start)}"
        self.ring(b"e30." + claims + b".e30", what, **{"content-type": "text/plain"})

    def told(self, slug: str, booking: Any) -> dict[str, Any]:
        if slug == "created":
            return {"createdEvent": {"entityAsJson": json.dumps(booking)} if self.is_wrapped else {"entity": booking}}
        if slug == "updated":
            name = "currentEntityAsJson" if self.is_wrapped else "currentEntity"
            return {"updatedEvent": {name: self.layer(booking)}}
        return {"actionEvent": {"body": {"booking": booking}}}

    def layer(self, value: Any) -> Any:
        return json.dumps(value) if self.is_wrapped else value


def _milliseconds(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
