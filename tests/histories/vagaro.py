"""A model of Vagaro.

An event has the appointment with a status and the time of the event, and its customer is fetched; each item of a sale is a
transaction. A request is not an appointment until the business accepts it. Completed and cancelled appointments send
events again without a change.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.histories import Person, ToolModel, Visit, format_time

STANDING = ("Accepted", "Confirmed", "Ready to Start", "Service In Progress", "Show", "Awaiting Confirmation")
OFF = ("Cancel", "Denied")


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status, self.customer, self.wish = "", "", self.now
        self.customers: dict[str, Person] = {}
        self.sold = Decimal()

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.request]
        money = [self.sell, self.refund] if self.sold else [self.sell]
        match self.status:
            case "Deleted":
                return []
            case "Need Acceptance":
                return [self.accept, self.accept, self.cancel]
            case "Service Complete" | "Service Completed":
                return [self.again, self.accept, self.cancel, *money]
            case "No Show":
                return [self.again, self.accept, self.cancel]
            case "Cancel" | "Denied":
                return [self.again, self.accept, self.miss]
        return [
            self.move,
            self.move,
            self.swap,
            self.request_move,
            self.cancel,
            self.delete,
            self.miss,
            self.complete,
            *money,
        ]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def new_customer(self) -> None:
        self.customer = self.new_id("cst{}==")
        self.customers[self.customer] = self.person()

    def book(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.future_time())]
        self.wish = self.visit.scheduled or self.now
        self.new_customer()
        self.stand("created")

    def request(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name])]
        self.wish = self.future_time()
        self.new_customer()
        self.send("created", "Need Acceptance")

    def stand(self, action: str = "updated") -> None:
        visit = self.visit
        visit.scheduled, visit.who = self.wish, self.customers[self.customer]
        visit.completed = visit.cancelled = visit.missed = None
        self.send(action, self.rng.choice(STANDING))

    def accept(self) -> None:
        self.stand()

    def move(self) -> None:
        self.wish = self.future_time()
        self.stand()

    def swap(self) -> None:
        """Change the customer, or the customer's address."""
        if self.maybe():
            self.new_customer()
        else:
            self.customers[self.customer] = self.person()
        self.stand()

    def request_move(self) -> None:
        """Request another time, which is not accepted yet."""
        self.wish = self.visit.scheduled = self.future_time()
        self.visit.cancelled = self.now
        self.send("updated", "Need Acceptance")

    def complete(self) -> None:
        self.visit.completed = self.now
        self.send("updated", self.rng.choice(("Service Complete", "Service Completed")))

    def miss(self) -> None:
        self.visit.missed, self.visit.cancelled = self.now, None
        self.send("updated", "No Show")

    def cancel(self) -> None:
        visit = self.visit
        visit.scheduled, visit.completed, visit.missed = self.wish, None, None
        if self.status != "Need Acceptance" or not visit.cancelled:
            visit.cancelled = self.now
        self.send("updated", self.rng.choice(OFF))

    def delete(self) -> None:
        self.visit.cancelled = self.now
        self.send("deleted", "Deleted")

    def again(self) -> None:
        """Change the price or a note. The status does not change."""
        self.send("updated", self.status)

    def sell(self) -> None:
        paid = self.money()
        self.sold += paid
        self.visit.paid = self.sold
        card = paid if self.maybe() else paid / 2
        self.transaction("Service", ccAmount=float(card), cashAmount=float(paid - card))

    def refund(self) -> None:
        back = min(self.sold, self.money())
        self.sold -= back
        self.visit.paid = self.sold or None
        self.transaction("Refund", ccAmount=float(back) * self.rng.choice((1, -1)), cashAmount=0)

    def owns(self, key: str) -> bool:
        return key in self.customers

    def answer(self, key: str) -> Any:
        who = self.customers[key]
        return {"status": 200, "data": {
            "customerId": key, "customerFirstName": who.first, "customerLastName": who.last, "email": who.email,
            "mobilePhone": None, "dayPhone": "", "nightPhone": None,
        }}  # fmt: skip

    def transaction(self, kind: str, **amounts: Any) -> None:
        self.deliver("transaction", "created", {
            "transactionDate": format_time(self.now), "businessId": "biz_1", "transactionId": None,
            "userPaymentId": self.new_id("up{}"), "purchaseType": kind, "checkAmount": 0, "packageRedemption": 30.0,
            "tip": 1, "appointmentId": self.name, "customerId": self.customer, **amounts,
        })  # fmt: skip

    def send(self, action: str, status: str) -> None:
        self.status = status
        payload = {"appointmentId": self.name, "bookingStatus": status, "businessId": "biz_1", "amount": 65.0}
        if action != "deleted":
            payload |= {"startTime": format_time(self.wish), "customerId": self.customer, "eventType": "Appointment"}
        self.deliver("appointment", action, payload)

    def deliver(self, kind: str, action: str, payload: dict[str, Any]) -> None:
        clock = self.rng.choice(("createdDate", "createdDate", "createdAt"))
        body = {
            "id": self.new_id("evt{}"),
            clock: format_time(self.now),
            "type": kind,
            "action": action,
            "payload": payload,
        }
        self.emit(body, f"{kind} {action} {payload.get('bookingStatus', '')} {payload.get('startTime', '')}")
