"""Jobber: an event names a visit, an invoice or a payment, and GraphQL has the record. An invoice bills one visit or two;
of two it is not known which collected how much. Of a recurring job only the first visit is announced. A visit is cancelled
by destroying it, for good; then it is gone. Times are whole seconds, so two deliveries may be the same to the byte."""

from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.histories import Life, Visit, written


def safe(item: str) -> str:
    return item.rstrip("=").replace("+", "-").replace("/", "_")


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.invoice, self.payment = self.item("Invoice"), self.item("PaymentRecord")
        self.items: dict[str, Visit] = {}
        self.billed: list[Visit] = []
        self.paid: Decimal | None = None
        self.is_series = False
        self.told: set[str] = set()

    def acts(self) -> list[Callable[[], None]]:
        standing = [item for item, visit in self.items.items() if not visit.is_gone]
        book = [self.book] if len(self.items) < 2 else []
        book += [] if self.items else [self.book_series]
        if not standing:
            return book
        self.at = self.dice.choice(standing)
        acts = [self.move, self.move, self.change, self.ask, self.reopen if self.visit.completed else self.complete]
        destroy = [self.destroy] if self.maybe(0.3) and self.are_all_told else []
        return acts + book + [self.pay if self.billed else self.bill] + destroy

    @property
    def are_all_told(self) -> bool:
        """Of a series whose first visit is destroyed before somebody looks, nobody could know the second."""
        return not self.is_series or self.items.keys() <= self.told

    @property
    def visit(self) -> Visit:
        """The one that something happens to."""
        return self.items[self.at]

    def book(self) -> None:
        self.at = self.item("Visit")
        id = safe(self.at)
        scheduled = self.hour() if self.maybe(0.8) else None
        self.items[self.at] = Visit(id, ids=[id], scheduled=scheduled, who=self.person())
        self.visits = list(self.items.values())
        self.say("VISIT_CREATE", self.at)

    def book_series(self) -> None:
        """Two visits of one job, for the same client: the second is announced by nothing."""
        self.book()
        self.rung.clear()
        first, self.at = self.at, self.item("Visit")
        who, scheduled = self.items[first].who, self.hour()
        self.items[self.at] = Visit(safe(self.at), ids=[safe(self.at)], scheduled=scheduled, who=who)
        self.visits = list(self.items.values())
        self.is_series = True
        self.say("VISIT_CREATE", first)

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("VISIT_UPDATE", self.at)

    def change(self) -> None:
        who = self.person()
        for item in self.with_one_client():
            self.items[item].who = who
            self.say("VISIT_UPDATE", item)

    def ask(self) -> None:
        """The client takes no more review requests, or takes them again."""
        opted_out = not self.visit.opted_out
        for item in self.with_one_client():
            self.items[item].opted_out = opted_out
            self.say("VISIT_UPDATE", item)

    def with_one_client(self) -> list[str]:
        return [item for item, visit in self.items.items() if self.is_series or visit is self.visit]

    def complete(self) -> None:
        self.visit.completed = self.now
        self.say("VISIT_COMPLETE", self.at)
        if self.maybe():
            self.say("VISIT_UPDATE", self.at)

    def reopen(self) -> None:
        self.visit.completed = None
        self.say("VISIT_UPDATE", self.at)

    def bill(self) -> None:
        self.billed = [visit for visit in self.visits if not visit.is_gone]
        self.say("INVOICE_CREATE", self.invoice)

    def pay(self) -> None:
        paid = None if self.paid and self.maybe(0.3) else self.money()
        self.paid = paid
        self.share()
        if paid is None or self.maybe():
            self.say("INVOICE_UPDATE", self.invoice)
        else:
            self.say("PAYMENT_CREATE", self.payment)

    def share(self) -> None:
        visits = [self.items[key] for key in self.on_invoice()]
        for visit in visits:
            visit.paid = self.paid if len(visits) == 1 else None

    def destroy(self) -> None:
        self.visit.cancelled, self.visit.is_gone = self.now, True
        self.say("VISIT_DESTROY", self.at)
        if self.visit in self.billed:
            self.share()
            self.say("INVOICE_UPDATE", self.invoice)

    # -- what is asked --

    def owns(self, key: str) -> bool:
        return key in (self.invoice, self.payment) or key in self.items

    def answer(self, key: str) -> Any:
        if key in self.items:
            return {"data": {"visit": None if self.items[key].is_gone else self.record(key)}}
        billed = self.on_invoice()
        invoice = {"visits": {"nodes": [self.record(key) for key in billed]}}
        if key == self.invoice:
            return {"data": {"invoice": invoice}}
        return {"data": {"paymentRecord": {"invoice": invoice, "allocations": {"nodes": [{"invoice": invoice}]}}}}

    def on_invoice(self) -> list[str]:
        return [key for key, visit in self.items.items() if visit in self.billed and not visit.is_gone]

    def record(self, key: str) -> dict[str, Any]:
        visit = self.items[key]
        assert visit.who
        return {
            "id": key,
            "startAt": written(visit.scheduled) if visit.scheduled else None,
            "completedAt": written(visit.completed) if visit.completed else None,
            "isComplete": visit.completed is not None,
            "client": {
                "name": f"{visit.who.first} {visit.who.last}",
                "firstName": visit.who.first,
                "lastName": visit.who.last,
                "isCompany": False,
                "receivesReviewRequests": not visit.opted_out,
                "emails": [{"address": visit.who.email, "primary": True}],
                "phones": [],
            },
            "invoice": self.invoice_of(visit),
            "job": {"id": self.item("Job"), "visits": {"nodes": self.series(), "pageInfo": {"hasPreviousPage": False}}},
        }

    def invoice_of(self, visit: Visit) -> dict[str, Any] | None:
        if visit not in self.billed:
            return None
        visits = {"nodes": [{"id": key} for key in self.on_invoice()]}
        return {"amounts": {"paymentsTotal": float(self.paid or 0)}, "visits": visits}

    def series(self) -> list[dict[str, Any]]:
        standing = [(key, visit) for key, visit in self.items.items() if self.is_series and not visit.is_gone]
        return [
            {
                "id": key,
                "startAt": written(visit.scheduled) if visit.scheduled else None,
                "allDay": False,
                "isComplete": visit.completed is not None,
            }
            for key, visit in standing
        ]

    def item(self, kind: str) -> str:
        return b64encode(f"gid://Jobber/{kind}/{self.mint()}".encode()).decode()

    def say(self, topic: str, item: str) -> None:
        self.told.add(item)
        told = {"topic": topic, "accountId": "MTIzNDU=", "itemId": item, "occurredAt": written(self.now)}
        self.ring({"data": {"webHookEvent": told}}, f"{topic} {item}")
