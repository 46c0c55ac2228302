"""A model of Square.

An event has the booking with a rising version; its customer is fetched. The customer's record may change without an event,
so the next fetch shows the change. In the end every event is sent again, and the visit must have the current state.
"""

from collections.abc import Callable
from typing import Any

from tests.histories import Person, ToolModel, Visit, format_time


class Tool(ToolModel):
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.version, self.status, self.begun = -1, "ACCEPTED", self.now
        self.customers: dict[str, Person] = {}
        self.unsubscribed: set[str] = set()
        self.customer: str = ""
        self.wish: Any = None

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.request]
        match self.status:
            case "PENDING":
                return [self.accept, self.accept, self.decline]
            case "NO_SHOW":
                return [self.accept, self.cancel]
            case "ACCEPTED":
                return [
                    self.move,
                    self.move,
                    self.cancel,
                    self.miss,
                    self.swap,
                    self.correct,
                    self.unsubscribe,
                    self.again,
                ]
        return [self.accept]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.future_time())]
        self.wish = self.visit.scheduled
        self.new_customer()
        self.send("booking.created", "ACCEPTED")

    def request(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name])]
        self.wish = self.future_time()
        self.new_customer()
        self.send("booking.created", "PENDING")

    def accept(self) -> None:
        """Accept the booking, also after a cancel or a no-show."""
        self.visit.scheduled, self.visit.cancelled, self.visit.missed = self.wish, None, None
        self.fetch_customer()
        self.send("booking.updated", "ACCEPTED")

    def move(self) -> None:
        self.wish = self.visit.scheduled = self.future_time()
        self.send("booking.updated", "ACCEPTED")

    def again(self) -> None:
        """Request another time, which is not accepted yet."""
        self.wish = self.future_time()
        self.visit.cancelled = self.now
        self.send("booking.updated", "PENDING")

    def decline(self) -> None:
        self.visit.cancelled = self.now
        self.send("booking.updated", "DECLINED")

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.send("booking.updated", self.rng.choice(("CANCELLED_BY_CUSTOMER", "CANCELLED_BY_SELLER")))

    def miss(self) -> None:
        self.visit.missed = self.now
        self.send("booking.updated", "NO_SHOW")

    def swap(self) -> None:
        """Give the booking to another customer."""
        self.new_customer()
        self.send("booking.updated", "ACCEPTED")

    def correct(self) -> None:
        """Change the address of the customer, without an event."""
        self.customers[self.customer] = self.person()
        self.fetch_customer()

    def unsubscribe(self) -> None:
        self.unsubscribed ^= {self.customer}
        self.fetch_customer()

    def new_customer(self) -> None:
        self.customer = self.new_id("CUST{}")
        self.customers[self.customer] = self.person()
        self.fetch_customer()

    def fetch_customer(self) -> None:
        self.visit.who = self.customers[self.customer]
        self.visit.opted_out = self.customer in self.unsubscribed

    def owns(self, key: str) -> bool:
        return key in self.customers

    def answer(self, key: str) -> Any:
        who = self.customers[key]
        return {"customer": {
            "id": key, "given_name": who.first, "family_name": who.last, "email_address": who.email,
            "preferences": {"email_unsubscribed": key in self.unsubscribed},
        }}  # fmt: skip

    def send(self, kind: str, status: str) -> None:
        self.version, self.status = self.version + 1, status
        booking = {
            "id": self.name, "version": self.version, "status": status, "created_at": format_time(self.begun),
            "updated_at": format_time(self.now), "start_at": format_time(self.wish), "location_id": "L1",
            "customer_id": self.customer, "appointment_segments": [{"duration_minutes": 30}],
        }  # fmt: skip
        data = {"type": "booking", "id": f"{self.name}:{self.version}", "object": {"booking": booking}}
        body = {
            "merchant_id": "M1",
            "type": kind,
            "event_id": self.new_id("evt{}"),
            "created_at": format_time(self.now),
        }
        self.emit({**body, "data": data}, f"{kind} v{self.version} {status} {booking['start_at']}")
