"""Boulevard: an event has the appointment in it, whole or in part, or only its id; the rest is in GraphQL. Orders have
totals that refunds lower."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from tests.histories import Life, Visit, written

STEPS = {"APPOINTMENT_CONFIRMED": "CONFIRMED", "APPOINTMENT_ARRIVED": "ARRIVED", "APPOINTMENT_ACTIVE": "ACTIVE"}


class Tool(Life):
    tick = timedelta(milliseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.state = ""
        self.cancellation: dict[str, Any] | None = None
        self.orders: dict[str, Decimal] = {}

    def acts(self) -> list[Callable[[], None]]:
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
        id = f"{UUID(int=self.dice.getrandbits(128))}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.hour(), who=self.person())]
        self.state = "BOOKED"
        self.say("APPOINTMENT_CREATED")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("APPOINTMENT_RESCHEDULED")

    def proceed(self) -> None:
        kind = self.dice.choice(list(STEPS))
        self.state = STEPS[kind]
        self.say(kind)

    def change(self) -> None:
        """Another client, or a note."""
        if self.state != "CANCELLED" and self.maybe():
            self.visit.who = self.person()
        self.say("APPOINTMENT_UPDATED", is_whole=True)

    def complete(self) -> None:
        self.state, self.visit.completed = "FINAL", self.now
        self.say("APPOINTMENT_COMPLETED")

    def reopen(self) -> None:
        self.state, self.visit.completed = "ACTIVE", None
        self.say("APPOINTMENT_UPDATED", is_whole=True)

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.off("CLIENT_CANCEL")

    def miss(self) -> None:
        self.visit.missed = self.now
        self.off("NO_SHOW")

    def off(self, reason: str) -> None:
        stamp = self.now.isoformat().replace("+00:00", "Z")
        self.state, self.cancellation = "CANCELLED", {"cancelledAt": stamp, "reason": reason, "notes": None}
        self.say("APPOINTMENT_CANCELLED", is_whole=True)

    def restore(self) -> None:
        self.state, self.cancellation = "BOOKED", None
        self.visit.cancelled = self.visit.missed = None
        self.say("APPOINTMENT_UPDATED", is_whole=True)

    def pay(self) -> None:
        id = str(UUID(int=self.dice.getrandbits(128)))
        self.orders[id] = self.money()
        self.order("ORDER_COMPLETED", id)

    def refund(self) -> None:
        id = self.dice.choice(list(self.orders))
        self.orders[id] = max(Decimal(), self.orders[id] - self.money())
        if self.maybe():
            self.order("ORDER_REFUND_CLOSED", id)
            return
        self.count()
        refund = f"urn:blvd:OrderRefund:{UUID(int=self.dice.getrandbits(128))}"
        self.tell("ORDER_REFUND_CLOSED", refund, {"id": refund, "orderId": f"urn:blvd:Order:{id}"})

    def owns(self, key: str) -> bool:
        return bool(self.visits) and (key == self.urn or key.removeprefix("urn:blvd:Order:") in self.orders)

    def answer(self, key: str) -> Any:
        if key != self.urn:
            return {"data": {"order": self.record(key.removeprefix("urn:blvd:Order:"))}}
        starts = self.visit.scheduled
        assert starts
        return {"data": {"appointment": {"id": key, "startAt": written(starts), "client": self.client()}}}

    # -- what is sent --

    def client(self) -> dict[str, Any]:
        who = self.visit.who
        assert who
        return {"firstName": who.first, "lastName": who.last, "email": who.email, "mobilePhone": None}

    def order(self, kind: str, id: str) -> None:
        self.count()
        self.tell(kind, f"urn:blvd:Order:{id}", self.record(id))

    def count(self) -> None:
        self.visit.paid = sum(self.orders.values(), Decimal()) or None

    def record(self, id: str) -> dict[str, Any]:
        group = {"__typename": "OrderAppointmentLineGroup", "id": self.dice.choice((self.visit.id, self.urn))}
        return {
            "id": f"urn:blvd:Order:{id}", "summary": {"currentTotal": int(self.orders[id] * 100), "refundAmount": 5},
            "lineGroups": [group, {"__typename": "OrderRetailLineGroup", "id": "r1"}],
        }  # fmt: skip

    def say(self, kind: str, is_whole: bool = False) -> None:
        """is_whole: nothing else says how it stands."""
        starts, node = self.visit.scheduled, None
        assert starts
        if is_whole or self.maybe(0.7):
            node = {"id": self.urn, "state": self.state, "cancelled": self.state == "CANCELLED"}
            node |= {"cancellation": self.cancellation}
            node |= {"startAt": starts.isoformat()} if self.maybe(0.7) else {}
            node |= {"client": self.client()} if self.maybe(0.7) else {"clientId": "urn:blvd:Client:1"}
        self.tell(kind, self.urn, node)

    def tell(self, kind: str, id: str, node: dict[str, Any] | None) -> None:
        dotted = kind.lower().replace("_", ".", 1)
        event, event_type = self.dice.choice(((dotted, kind), (kind, dotted), (dotted, kind.partition("_")[0].lower())))
        body = {"idempotencyKey": self.mint("key{}"), "businessId": "urn:blvd:Business:1", "event": event}
        body |= {"eventType": event_type, "resource": {"id": id}, "data": {"node": node}}
        stamp = self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        salt = {"x-blvd-hmac-salt": "blvd-webhook-v1:efa1a1fd-80b2-41c8-8b13-850f36f9a303:1600717631"}
        self.ring({**body, "timestamp": stamp}, f"{kind} {node and node.get('startAt', 'no start')}", **salt)
