"""Square: the booking is in the event with a version that rises; its customer is asked for. The customer's record may change
without any event, so the next fetch tells it; in the end every event is rung once more, and the truth of that moment
must stand."""

from collections.abc import Callable
from typing import Any

from tests.histories import Life, Person, Visit, written


class Tool(Life):
    tells_all = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.version, self.status, self.begun = -1, "ACCEPTED", self.now
        self.customers: dict[str, Person] = {}
        self.unsubscribed: set[str] = set()
        self.customer: str = ""
        self.wish: Any = None

    def acts(self) -> list[Callable[[], None]]:
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
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.hour())]
        self.wish = self.visit.scheduled
        self.new_customer()
        self.say("booking.created", "ACCEPTED")

    def request(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name])]
        self.wish = self.hour()
        self.new_customer()
        self.say("booking.created", "PENDING")

    def accept(self) -> None:
        """Also what was cancelled or marked: taken back in."""
        self.visit.scheduled, self.visit.cancelled, self.visit.missed = self.wish, None, None
        self.known()
        self.say("booking.updated", "ACCEPTED")

    def move(self) -> None:
        self.wish = self.visit.scheduled = self.hour()
        self.say("booking.updated", "ACCEPTED")

    def again(self) -> None:
        """Another time is asked for, and not agreed yet."""
        self.wish = self.hour()
        self.visit.cancelled = self.now
        self.say("booking.updated", "PENDING")

    def decline(self) -> None:
        self.visit.cancelled = self.now
        self.say("booking.updated", "DECLINED")

    def cancel(self) -> None:
        self.visit.cancelled = self.now
        self.say("booking.updated", self.dice.choice(("CANCELLED_BY_CUSTOMER", "CANCELLED_BY_SELLER")))

    def miss(self) -> None:
        self.visit.missed = self.now
        self.say("booking.updated", "NO_SHOW")

    def swap(self) -> None:
        """Another customer takes the booking over."""
        self.new_customer()
        self.say("booking.updated", "ACCEPTED")

    def correct(self) -> None:
        """The customer's record has a new address. Nothing rings."""
        self.customers[self.customer] = self.person()
        self.known()

    def unsubscribe(self) -> None:
        self.unsubscribed ^= {self.customer}
        self.known()

    def new_customer(self) -> None:
        self.customer = self.mint("CUST{}")
        self.customers[self.customer] = self.person()
        self.known()

    def known(self) -> None:
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

    def say(self, kind: str, status: str) -> None:
        self.version, self.status = self.version + 1, status
        booking = {
            "id": self.name, "version": self.version, "status": status, "created_at": written(self.begun),
            "updated_at": written(self.now), "start_at": written(self.wish), "location_id": "L1",
            "customer_id": self.customer, "appointment_segments": [{"duration_minutes": 30}],
        }  # fmt: skip
        data = {"type": "booking", "id": f"{self.name}:{self.version}", "object": {"booking": booking}}
        body = {"merchant_id": "M1", "type": kind, "event_id": self.mint("evt{}"), "created_at": written(self.now)}
        self.ring({**body, "data": data}, f"{kind} v{self.version} {status} {booking['start_at']}")
