"""A model of Boulevard.

An event has all or some fields of the appointment, or only its id; the other fields are in GraphQL. Refunds reduce the
totals of orders.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.histories import ToolModel, Visit, format_time

STEPS = {"APPOINTMENT_CONFIRMED": "CONFIRMED", "APPOINTMENT_ARRIVED": "ARRIVED", "APPOINTMENT_ACTIVE": "ACTIVE"}


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = ""
        self.cancellation: dict[str, Any] | None = None
        self.orders: dict[str, Decimal] = {}

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        money = [self.pay, self.refund] if self.orders else [self.pay]
        if self.state == "CANCELLED":
            return [self.restore, self.restore, self.change]
        if self.state == "FINAL":
            return [self.change, self.reopen, *money]
        return [self.move, self.move, self.proceed, self.change, self.complete, self.cancel, self.miss, *money]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    @property
    def urn(self) -> str:
        return f"urn:blvd:Appointment:{self.visit.id}"

    def book(self) -> None:
        id = f"{UUID(int=self.rng.getrandbits(128))}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.future_time(), who=self.person())]
        self.state = "BOOKED"
        self.send("APPOINTMENT_CREATED")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("APPOINTMENT_RESCHEDULED")

    def proceed(self) -> None:
        kind = self.rng.choice(list(STEPS))
        self.state = STEPS[kind]
        self.send(kind)

    def change(self) -> None:
        """Change the client, or a note."""
        if self.state != "CANCELLED" and self.maybe():
            self.visit.who = self.person()
        self.send("APPOINTMENT_UPDATED", is_whole=True)

    def complete(self) -> None:
        self.state, self.visit.completed = "FINAL", self.now
        self.send("APPOINTMENT_COMPLETED")

    def reopen(self) -> None:
        self.state, self.visit.completed = "ACTIVE", None
        self.send("APPOINTMENT_UPDATED", is_whole=True)

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.off("CLIENT_CANCEL")

    def miss(self) -> None:
        self.visit.missed = self.now
        self.off("NO_SHOW")

    def off(self, reason: str) -> None:
        stamp = self.now.isoformat().replace("+00:00", "Z")
        self.state, self.cancellation = "CANCELLED", {"cancelledAt": stamp, "reason": reason, "notes": None}
        self.send("APPOINTMENT_CANCELLED", is_whole=True)

    def restore(self) -> None:
        self.state, self.cancellation = "BOOKED", None
        self.visit.cancelled = self.visit.missed = None
        self.send("APPOINTMENT_UPDATED", is_whole=True)

    def pay(self) -> None:
        id = str(UUID(int=self.rng.getrandbits(128)))
        self.orders[id] = self.money()
        self.order("ORDER_COMPLETED", id)

    def refund(self) -> None:
        id = self.rng.choice(list(self.orders))
        self.orders[id] = max(Decimal(), self.orders[id] - self.money())
        if self.maybe():
            self.order("ORDER_REFUND_CLOSED", id)
            return
        self.count()
        refund = f"urn:blvd:OrderRefund:{UUID(int=self.rng.getrandbits(128))}"
        self.post("ORDER_REFUND_CLOSED", refund, {"id": refund, "orderId": f"urn:blvd:Order:{id}"})

    def owns(self, key: str) -> bool:
        return bool(self.visits) and (key == self.urn or key.removeprefix("urn:blvd:Order:") in self.orders)

    def answer(self, key: str) -> Any:
        if key != self.urn:
            return {"data": {"order": self.record(key.removeprefix("urn:blvd:Order:"))}}
        starts = self.visit.scheduled
        assert starts
        return {"data": {"appointment": {"id": key, "startAt": format_time(starts), "client": self.client()}}}

    # -- webhooks --

    def client(self) -> dict[str, Any]:
        who = self.visit.who
        assert who
        return {"firstName": who.first, "lastName": who.last, "email": who.email, "mobilePhone": None}

    def order(self, kind: str, id: str) -> None:
        self.count()
        self.post(kind, f"urn:blvd:Order:{id}", self.record(id))

    def count(self) -> None:
        self.visit.paid = sum(self.orders.values(), Decimal()) or None

    def record(self, id: str) -> dict[str, Any]:
        group = {"__typename": "OrderAppointmentLineGroup", "id": self.rng.choice((self.visit.id, self.urn))}
        return {
            "id": f"urn:blvd:Order:{id}", "summary": {"currentTotal": int(self.orders[id] * 100), "refundAmount": 5},
            "lineGroups": [group, {"__typename": "OrderRetailLineGroup", "id": "r1"}],
        }  # fmt: skip

    def send(self, kind: str, is_whole: bool = False) -> None:
        """Send an event. is_whole: the event's name does not show the status, so the event must."""
        starts, node = self.visit.scheduled, None
        assert starts
        if is_whole or self.maybe(0.7):
            node = {"id": self.urn, "state": self.state, "cancelled": self.state == "CANCELLED"}
            node |= {"cancellation": self.cancellation}
            node |= {"startAt": starts.isoformat()} if self.maybe(0.7) else {}
            node |= {"client": self.client()} if self.maybe(0.7) else {"clientId": "urn:blvd:Client:1"}
        self.post(kind, self.urn, node)

    def post(self, kind: str, id: str, node: dict[str, Any] | None) -> None:
        dotted = kind.lower().replace("_", ".", 1)
        event, event_type = self.rng.choice(((dotted, kind), (kind, dotted), (dotted, kind.partition("_")[0].lower())))
        body = {"idempotencyKey": self.new_id("key{}"), "businessId": "urn:blvd:Business:1", "event": event}
        body |= {"eventType": event_type, "resource": {"id": id}, "data": {"node": node}}
        stamp = self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        salt = {"x-blvd-hmac-salt": "blvd-webhook-v1:efa1a1fd-80b2-41c8-8b13-850f36f9a303:1600717631"}
        self.emit({**body, "timestamp": stamp}, f"{kind} {node and node.get('startAt', 'no start')}", **salt)
