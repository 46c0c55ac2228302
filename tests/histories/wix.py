"""A model of Wix Bookings.

Every event has the whole booking and a rising number, in a token with nested JSON strings. A booking is a cart first, and
may become a request again after it was confirmed.
"""

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import ToolModel, Visit, format_time


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sequence, self.status, self.start = 0, "", self.future_time()
        self.someone = self.person()
        self.is_wrapped, self.paid = self.maybe(0.7), "NOT_PAID"

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def actions(self) -> list[Callable[[], None]]:
        match self.status:
            case "":
                return [self.put_in_cart]
            case "CREATED":
                return [self.confirm, self.confirm, self.request]
            case "PENDING":
                return [self.confirm, self.decline]
            case "CONFIRMED":
                return [self.move, self.move, self.request_move, self.cancel, self.pay, self.correct]
        return [self.refund, self.confirm]

    def put_in_cart(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name])]
        self.send("created", "CREATED")

    def request(self) -> None:
        self.send("marked_as_pending", "PENDING")

    def confirm(self) -> None:
        self.agreed()
        self.send("confirmed", "CONFIRMED")

    def move(self) -> None:
        self.start = self.future_time()
        self.agreed()
        self.send("rescheduled", "CONFIRMED")

    def request_move(self) -> None:
        """Request another time, which is not confirmed yet."""
        self.start = self.future_time()
        self.ended()
        self.send("rescheduled", "PENDING")

    def decline(self) -> None:
        self.ended()
        self.send("declined", "DECLINED")

    def cancel(self) -> None:
        self.ended()
        self.send(self.rng.choice(("canceled", "cancelled")), "CANCELED")

    def pay(self) -> None:
        """Pay. The event does not have the amount."""
        self.paid = "PAID"
        self.send("updated", "CONFIRMED")

    def refund(self) -> None:
        """Refund. After the end of the booking, it is sent again without a change."""
        self.paid = "REFUNDED"
        self.ended()
        self.send("updated", self.status)

    def correct(self) -> None:
        self.someone = self.person()
        self.agreed()
        self.send("updated", "CONFIRMED")

    def agreed(self) -> None:
        self.visit.scheduled, self.visit.who, self.visit.cancelled = self.start, self.someone, None

    def ended(self) -> None:
        self.visit.scheduled, self.visit.who = self.start, self.someone
        self.visit.cancelled = self.visit.cancelled or self.now

    def send(self, slug: str, status: str) -> None:
        self.sequence, self.status = self.sequence + self.rng.choice((1, 1, 2)), status
        who = self.someone
        booking = {
            "id": self.name, "status": status, "paymentStatus": self.paid, "revision": str(self.sequence),
            "bookedEntity": {"slot": {"serviceId": "svc", "startDate": _milliseconds(self.start)}},
            "contactDetails": {"contactId": "c", "firstName": who.first, "lastName": who.last, "email": who.email},
        }  # fmt: skip
        inner = {
            "id": self.new_id("ev-{}"), "entityFqdn": "wix.bookings.v2.booking", "slug": slug, "entityId": self.name,
            "eventTime": _milliseconds(self.now), "entityEventSequence": str(self.sequence), **self.body(slug, booking),
        }  # fmt: skip
        event = {"eventType": f"wix.bookings.v2.booking_{slug}", "instanceId": "site", "data": self.layer(inner)}
        claims = base64.urlsafe_b64encode(json.dumps({"data": self.layer(event)}).encode()).rstrip(b"=")
        summary = f"{slug} #{self.sequence} {status} {format_time(self.start)}"
        self.emit(b"e30." + claims + b".e30", summary, **{"content-type": "text/plain"})

    def body(self, slug: str, booking: Any) -> dict[str, Any]:
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
