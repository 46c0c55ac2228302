"""A model of Shopmonkey.

Events are rows of appointments and of their orders; the customer is fetched, and may change without an event that Doorbell
subscribes to. A deleted row has the time of its delivery, so a deletion is the last action here, and all others are in
the past.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.histories import SOME_TIME, Person, ToolModel, Visit


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)
    announces_all = False
    #: Events with a link to the order wait for the fetch of the customer; a cancel of the order does not.
    records_show_cancel = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now -= timedelta(days=2_000)
        self.has_dates = self.maybe()
        self.appointment, self.order = "", ""
        self.is_off = self.is_over = self.is_deleted = False
        self.customers: dict[str, Person] = {}
        self.customer = ""
        self.opted_out: set[str] = set()

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.book_with_order, self.walk_in]
        if self.is_deleted:
            return []
        planned = [self.move, self.move, self.swap, self.unsubscribe] if not self.is_off else []
        if self.appointment and not (self.is_over or self.visit.completed):
            planned += [self.restore if self.is_off else self.cancel]
        else:
            planned = []
        ordered = [self.start, self.pay, self.invoice] if self.order else [self.attach]
        if self.visit.completed:
            ordered = [self.pay, self.pay, self.start] + ([self.take_back] if self.appointment else [])
        return planned + ordered + [self.correct, self.delete]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    # -- the appointment --

    def book(self) -> None:
        self.appointment = f"apt-{self.name}"
        self.visits = [Visit(self.appointment, ids=[self.appointment], scheduled=self.future_time())]
        self.new_customer()
        self.say_appointment("INSERT")

    def book_with_order(self) -> None:
        self.appointment, self.order = f"apt-{self.name}", f"ord-{self.name}"
        self.visits = [Visit(self.order, ids=[self.order], scheduled=self.future_time())]
        self.new_customer()
        self.say_appointment("INSERT")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.say_appointment("UPDATE", "startDate", "endDate")

    def cancel(self) -> None:
        self.visit.cancelled, self.is_off = self.now, True
        self.say_appointment("UPDATE", "confirmationStatus")

    def restore(self) -> None:
        self.visit.cancelled, self.is_off = None, False
        self.say_appointment("UPDATE", "confirmationStatus")

    def attach(self) -> None:
        """Create the order from the appointment."""
        self.order = f"ord-{self.name}"
        self.visit.ids.append(self.order)
        self.say_appointment("UPDATE", "orderId")

    def swap(self) -> None:
        self.new_customer()
        self.say_appointment("UPDATE", "customerId")

    # -- the order --

    def walk_in(self) -> None:
        self.order, self.is_over = f"ord-{self.name}", True
        self.visits = [Visit(self.order, ids=[self.order])]
        self.new_customer()
        self.visit.completed = self.now
        self.say_order("INSERT")

    def start(self) -> None:
        self.say_order("UPDATE", "note")

    def invoice(self) -> None:
        """Invoice the order. It is not cancelled then, and its appointment does not change any more."""
        self.visit.completed, self.visit.cancelled = self.now, None
        self.is_over = self.is_over or self.is_off
        self.say_order("UPDATE", "status", "invoiced", "invoicedDate")

    def take_back(self) -> None:
        self.visit.completed = None
        self.say_order("UPDATE", "status", "invoiced", "invoicedDate")

    def pay(self) -> None:
        self.visit.paid = self.money() if self.maybe(0.8) else None
        self.say_order("UPDATE", "paid", "paidCostCents")

    # -- both --

    def delete(self) -> None:
        self.visit.cancelled, self.is_deleted = SOME_TIME, True
        if self.appointment and not (self.order and self.maybe()):
            self.say_appointment("DELETE")
        else:
            self.say_order("DELETE")

    def correct(self) -> None:
        self.customers[self.customer] = self.person()
        self.know()

    def unsubscribe(self) -> None:
        self.opted_out ^= {self.customer}
        self.know()

    def new_customer(self) -> None:
        self.customer = self.new_id("cus-{}")
        self.customers[self.customer] = self.person()
        self.know()

    def know(self) -> None:
        self.visit.who, self.visit.opted_out = self.customers[self.customer], self.customer in self.opted_out

    def owns(self, key: str) -> bool:
        return key in self.customers

    def answer(self, key: str) -> Any:
        who = self.customers[key]
        emails = [{"email": "old@example.com", "primary": False}, {"email": who.email, "primary": True}]
        return {"success": True, "data": {
            "id": key, "firstName": who.first, "lastName": who.last, "emails": emails, "phoneNumbers": [],
            "marketingOptIn": key not in self.opted_out,
        }}  # fmt: skip

    # -- webhooks --

    def stamp(self, moment: datetime | str | None) -> str | None:
        if not isinstance(moment, datetime):
            return None
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def say_appointment(self, operation: str, *diff: str) -> None:
        assert self.visit.scheduled
        self.send("appointment", operation, diff, {
            "id": self.appointment, "orderId": self.order or None, "startDate": self.stamp(self.visit.scheduled),
            "endDate": self.stamp(self.visit.scheduled + timedelta(hours=1)),
            "confirmationStatus": "Declined" if self.is_off else "Confirmed", "cancellationNote": None,
        })  # fmt: skip

    def say_order(self, operation: str, *diff: str) -> None:
        at, cents = self.visit.completed, int((self.visit.paid or Decimal()) * 100)
        dated = {"invoicedDate": self.stamp(at), "completedDate": None} if self.has_dates else {}
        self.send("order", operation, diff, {
            "id": self.order, "status": "Invoice" if at else "RepairOrder", "invoiced": at is not None,
            "paid": cents > 0, "paidCostCents": cents, "totalCostCents": 99_999, **dated,
        })  # fmt: skip

    def send(self, table: str, operation: str, diff: tuple[str, ...], row: dict[str, Any]) -> None:
        row = {**row, "customerId": self.customer, "locationId": "loc-1", "updatedDate": self.stamp(self.now)}
        changed = {"diff": [*diff, "updatedDate"]} if operation == "UPDATE" else {}
        body = {"apiVersion": "3", "operation": operation, "table": table, "data": row, **changed}
        self.emit(body, f"{operation} {row}", **{"webhook-id": self.new_id("wh-{}")})
