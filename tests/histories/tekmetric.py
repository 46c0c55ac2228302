"""A model of Tekmetric.

An event has the repair order; its customer is fetched when there is an appointment or a completion. A payment, a void and a
refund have separate events, and there may be no other event with the order's total.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.histories import Person, ToolModel, Visit, format_time

STATUSES = {
    "open": ({"id": 2, "code": "WORKINPROGRESS", "name": "Work-in-Progress"}, {"id": 2}, {"code": "WIP"}),
    "complete": ({"id": 3, "code": "COMPLETE", "name": "Complete"}, {"name": "Complete"}),
    "posted": (
        {"id": 5, "code": "POSTED_PAID", "name": "Posted - Paid"},
        {"id": 6, "code": "POSTED_AR", "name": "Posted - A/R"},
        {"name": "Accounts Receivable"},
    ),
    "deleted": ({"id": 7, "code": "DELETED", "name": "Deleted"}, {"id": 7}),
}


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status, self.customer, self.dated = "open", "", self.maybe()
        self.customers: dict[str, Person] = {}
        self.muted: set[str] = set()
        self.payments: dict[str, int] = {}
        self.updated = self.now

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.open]
        money = [self.pay, self.void, self.refund] if self.payments else [self.pay]
        actions = [self.swap, self.again, *money, *([self.mute] if self.is_customer_fetched else [])]
        match self.status:
            case "deleted":
                return [self.reopen, self.again]
            case "complete":
                return [*actions, self.post, self.reopen]
            case "posted":
                return [*actions, self.reopen]
        return [*actions, self.move, self.complete, self.post, self.delete]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def open(self) -> None:
        id = f"77:{self.name}"
        self.visits = [Visit(id, ids=[id])]
        self.new_customer()
        if self.dated:
            self.visit.scheduled = self.future_time()
        self.send("created")

    def new_customer(self) -> None:
        self.customer = self.new_id("cst{}")
        self.customers[self.customer] = self.person()

    def move(self) -> None:
        self.dated, self.visit.scheduled = True, self.future_time()
        self.send("status updated")

    @property
    def is_customer_fetched(self) -> bool:
        """Whether the customer is fetched. At other times, changes of the customer may be missed."""
        return self.status in ("complete", "posted") or (self.dated and self.status != "deleted")

    def swap(self) -> None:
        if self.maybe() or not self.is_customer_fetched:
            self.new_customer()
        else:
            self.customers[self.customer] = self.person()
        self.send("status updated")

    def mute(self) -> None:
        self.muted ^= {self.customer}
        self.send("status updated")

    def again(self) -> None:
        self.send("status updated")

    def complete(self) -> None:
        self.status, self.visit.completed = "complete", self.now
        self.send("completed")

    def post(self) -> None:
        self.status, self.visit.completed = "posted", self.visit.completed or self.now
        self.send(self.rng.choice(("posted", "sent to A/R")))

    def reopen(self) -> None:
        self.status, self.visit.completed, self.visit.cancelled = "open", None, None
        self.send("unposted")

    def delete(self) -> None:
        self.status, self.visit.cancelled = "deleted", self.now
        self.send("deleted")

    def pay(self) -> None:
        id = self.new_id("pay{}")
        self.payments[id] = int(self.money() * 100)
        self.settle()
        self.money_event("Payment made by", id, self.payments[id])

    def void(self) -> None:
        id = self.rng.choice(list(self.payments))
        cents = self.payments.pop(id)
        self.settle()
        self.money_event("Payment voided for", id, cents, voided=True)

    def refund(self) -> None:
        """Refund a whole payment, with a new id."""
        id = self.rng.choice(list(self.payments))
        cents = self.payments.pop(id)
        self.settle()
        self.money_event("Refund issued to", self.new_id("ref{}"), cents, refund=True)

    def settle(self) -> None:
        cents = sum(self.payments.values())
        self.visit.paid = Decimal(cents) / 100 if cents else None

    def owns(self, key: str) -> bool:
        return key in self.customers or key == self.name

    def answer(self, key: str) -> Any:
        if key == self.name:
            return self.order()
        who = self.customers[key]
        phones = [{"number": "+15550100001", "primary": True}]
        return {"id": key, "firstName": who.first, "lastName": who.last, "email": who.email, "phone": phones,
                "okForMarketing": key not in self.muted}  # fmt: skip

    # -- webhooks --

    def order(self) -> dict[str, Any]:
        visit = self.visit
        completed_at, deleted_at = visit.completed, visit.cancelled
        return {
            "id": self.name, "repairOrderNumber": 1042, "shopId": 77, "customerId": self.customer,
            "repairOrderStatus": self.rng.choice(STATUSES[self.status]),
            "appointmentStartTime": format_time(visit.scheduled) if visit.scheduled else None,
            "completedDate": format_time(completed_at) if completed_at and self.maybe() else None,
            "deletedDate": format_time(deleted_at) if deleted_at else None,
            "amountPaid": sum(self.payments.values()), "updatedDate": format_time(self.updated),
        }  # fmt: skip

    def send(self, verb: str) -> None:
        self.updated = self.now
        if self.is_customer_fetched:
            self.visit.who, self.visit.opted_out = self.customers[self.customer], self.customer in self.muted
        order = self.order()
        body = {"event": f"Repair Order #1042 {verb} by Grace Hopper", "data": order}
        self.emit(
            body, f"{verb} {order['repairOrderStatus']} {order['appointmentStartTime']} paid {order['amountPaid']}"
        )

    def money_event(self, verb: str, id: str, cents: int, **flags: bool) -> None:
        paid = {"id": id, "repairOrderId": self.name, "shopId": 77, "amount": cents, "payerName": "Ada"}
        paid |= {"paymentDate": format_time(self.now).rstrip("Z"), "voided": False, "refund": False, **flags}
        self.emit({"event": f"{verb} Ada", "data": paid}, f"{verb} {id} {cents}")
