"""A model of Jobber.

An event names a visit, an invoice or a payment, whose record is in GraphQL. An invoice is for one visit or two; the amounts
of two visits are unknown. Only the first visit of a recurring job is announced. A visit is cancelled by destroying it,
and never comes back. Times are in whole seconds, so two deliveries may be identical to the byte.
"""

from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.histories import ToolModel, Visit, format_time


def safe(item: str) -> str:
    return item.rstrip("=").replace("+", "-").replace("/", "_")


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invoice, self.payment = self.item("Invoice"), self.item("PaymentRecord")
        self.items: dict[str, Visit] = {}
        self.billed: list[Visit] = []
        self.paid: Decimal | None = None
        self.is_series = False
        self.announced: set[str] = set()

    def actions(self) -> list[Callable[[], None]]:
        standing = [item for item, visit in self.items.items() if not visit.is_gone]
        book = [self.book] if len(self.items) < 2 else []
        book += [] if self.items else [self.book_series]
        if not standing:
            return book
        self.at = self.rng.choice(standing)
        actions = [
            self.move,
            self.move,
            self.change,
            self.toggle_review_requests,
            self.reopen if self.visit.completed else self.complete,
        ]
        destroy = [self.destroy] if self.maybe(0.3) and self.all_announced else []
        return actions + book + [self.pay if self.billed else self.bill] + destroy

    @property
    def all_announced(self) -> bool:
        """Whether all visits were announced. If the first visit of a series is destroyed early, the second stays unknown."""
        return not self.is_series or self.items.keys() <= self.announced

    @property
    def visit(self) -> Visit:
        """The visit of the current action."""
        return self.items[self.at]

    def book(self) -> None:
        self.at = self.item("Visit")
        id = safe(self.at)
        scheduled = self.future_time() if self.maybe(0.8) else None
        self.items[self.at] = Visit(id, ids=[id], scheduled=scheduled, who=self.person())
        self.visits = list(self.items.values())
        self.send("VISIT_CREATE", self.at)

    def book_series(self) -> None:
        """Book two visits of one job for the same client, of which the second is not announced."""
        self.book()
        self.emitted.clear()
        first, self.at = self.at, self.item("Visit")
        who, scheduled = self.items[first].who, self.future_time()
        self.items[self.at] = Visit(safe(self.at), ids=[safe(self.at)], scheduled=scheduled, who=who)
        self.visits = list(self.items.values())
        self.is_series = True
        self.send("VISIT_CREATE", first)

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("VISIT_UPDATE", self.at)

    def change(self) -> None:
        who = self.person()
        for item in self.with_one_client():
            self.items[item].who = who
            self.send("VISIT_UPDATE", item)

    def toggle_review_requests(self) -> None:
        """Toggle whether the client receives review requests."""
        opted_out = not self.visit.opted_out
        for item in self.with_one_client():
            self.items[item].opted_out = opted_out
            self.send("VISIT_UPDATE", item)

    def with_one_client(self) -> list[str]:
        return [item for item, visit in self.items.items() if self.is_series or visit is self.visit]

    def complete(self) -> None:
        self.visit.completed = self.now
        self.send("VISIT_COMPLETE", self.at)
        if self.maybe():
            self.send("VISIT_UPDATE", self.at)

    def reopen(self) -> None:
        self.visit.completed = None
        self.send("VISIT_UPDATE", self.at)

    def bill(self) -> None:
        self.billed = [visit for visit in self.visits if not visit.is_gone]
        self.send("INVOICE_CREATE", self.invoice)

    def pay(self) -> None:
        paid = None if self.paid and self.maybe(0.3) else self.money()
        self.paid = paid
        self.share()
        if paid is None or self.maybe():
            self.send("INVOICE_UPDATE", self.invoice)
        else:
            self.send("PAYMENT_CREATE", self.payment)

    def share(self) -> None:
        visits = [self.items[key] for key in self.on_invoice()]
        for visit in visits:
            visit.paid = self.paid if len(visits) == 1 else None

    def destroy(self) -> None:
        self.visit.cancelled, self.visit.is_gone = self.now, True
        self.send("VISIT_DESTROY", self.at)
        if self.visit in self.billed:
            self.share()
            self.send("INVOICE_UPDATE", self.invoice)

    # -- records --

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
            "startAt": format_time(visit.scheduled) if visit.scheduled else None,
            "completedAt": format_time(visit.completed) if visit.completed else None,
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
                "startAt": format_time(visit.scheduled) if visit.scheduled else None,
                "allDay": False,
                "isComplete": visit.completed is not None,
            }
            for key, visit in standing
        ]

    def item(self, kind: str) -> str:
        return b64encode(f"gid://Jobber/{kind}/{self.new_id()}".encode()).decode()

    def send(self, topic: str, item: str) -> None:
        self.announced.add(item)
        message = {"topic": topic, "accountId": "MTIzNDU=", "itemId": item, "occurredAt": format_time(self.now)}
        self.emit({"data": {"webHookEvent": message}}, f"{topic} {item}")
