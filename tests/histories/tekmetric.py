"""Tekmetric: a repair order is in its events; its customer has to be asked for, once there is an appointment or the order is
done. A payment, a void and a refund have events of their own, and the order's total may be told by nothing else."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.histories import Life, Person, Visit, written

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


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.status, self.customer, self.dated = "open", "", self.maybe()
        self.customers: dict[str, Person] = {}
        self.muted: set[str] = set()
        self.payments: dict[str, int] = {}
        self.updated = self.now

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.open]
        money = [self.pay, self.void, self.refund] if self.payments else [self.pay]
        acts = [self.swap, self.again, *money, *([self.mute] if self.is_asked_about else [])]
        match self.status:
            case "deleted":
                return [self.reopen, self.again]
            case "complete":
                return [*acts, self.post, self.reopen]
            case "posted":
                return [*acts, self.reopen]
        return [*acts, self.move, self.complete, self.post, self.delete]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def open(self) -> None:
        id = f"77:{self.name}"
        self.visits = [Visit(id, ids=[id])]
        self.new_customer()
        if self.dated:
            self.visit.scheduled = self.hour()
        self.say("created")

    def new_customer(self) -> None:
        self.customer = self.mint("cst{}")
        self.customers[self.customer] = self.person()

    def move(self) -> None:
        self.dated, self.visit.scheduled = True, self.hour()
        self.say("status updated")

    @property
    def is_asked_about(self) -> bool:
        """Does the customer count? What becomes of them at other times may be seen or not, by when somebody asks."""
        return self.status in ("complete", "posted") or (self.dated and self.status != "deleted")

    def swap(self) -> None:
        if self.maybe() or not self.is_asked_about:
            self.new_customer()
        else:
            self.customers[self.customer] = self.person()
        self.say("status updated")

    def mute(self) -> None:
        self.muted ^= {self.customer}
        self.say("status updated")

    def again(self) -> None:
        self.say("status updated")

    def complete(self) -> None:
        self.status, self.visit.completed = "complete", self.now
        self.say("completed")

    def post(self) -> None:
        self.status, self.visit.completed = "posted", self.visit.completed or self.now
        self.say(self.dice.choice(("posted", "sent to A/R")))

    def reopen(self) -> None:
        self.status, self.visit.completed, self.visit.cancelled = "open", None, None
        self.say("unposted")

    def delete(self) -> None:
        self.status, self.visit.cancelled = "deleted", self.now
        self.say("deleted")

    def pay(self) -> None:
        id = self.mint("pay{}")
        self.payments[id] = int(self.money() * 100)
        self.settle()
        self.money_event("Payment made by", id, self.payments[id])

    def void(self) -> None:
        id = self.dice.choice(list(self.payments))
        cents = self.payments.pop(id)
        self.settle()
        self.money_event("Payment voided for", id, cents, voided=True)

    def refund(self) -> None:
        """Of a payment, whole, with an id of its own."""
        id = self.dice.choice(list(self.payments))
        cents = self.payments.pop(id)
        self.settle()
        self.money_event("Refund issued to", self.mint("ref{}"), cents, refund=True)

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

    # -- what is sent --

    def order(self) -> dict[str, Any]:
        visit = self.visit
        done, gone = visit.completed, visit.cancelled
        return {
            "id": self.name, "repairOrderNumber": 1042, "shopId": 77, "customerId": self.customer,
            "repairOrderStatus": self.dice.choice(STATUSES[self.status]),
            "appointmentStartTime": written(visit.scheduled) if visit.scheduled else None,
            "completedDate": written(done) if done and self.maybe() else None,
            "deletedDate": written(gone) if gone else None,
            "amountPaid": sum(self.payments.values()), "updatedDate": written(self.updated),
        }  # fmt: skip

    def say(self, what: str) -> None:
        self.updated = self.now
        if self.is_asked_about:
            self.visit.who, self.visit.opted_out = self.customers[self.customer], self.customer in self.muted
        order = self.order()
        body = {"event": f"Repair Order #1042 {what} by Grace Hopper", "data": order}
        self.ring(
            body, f"{what} {order['repairOrderStatus']} {order['appointmentStartTime']} paid {order['amountPaid']}"
        )

    def money_event(self, what: str, id: str, cents: int, **flags: bool) -> None:
        paid = {"id": id, "repairOrderId": self.name, "shopId": 77, "amount": cents, "payerName": "Ada"}
        paid |= {"paymentDate": written(self.now).rstrip("Z"), "voided": False, "refund": False, **flags}
        self.ring({"event": f"{what} Ada", "data": paid}, f"{what} {id} {cents}")
