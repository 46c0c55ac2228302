"""Jobber: an event names a visit, its invoice or a payment, and GraphQL has the record. A visit is cancelled by destroying
it, for good; then it is gone. Times are whole seconds, so two deliveries may be the same to the byte."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

from tests.histories import Life, Visit, written


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.ids = {kind: encoded(f"gid://Jobber/{kind}/{self.name}") for kind in ("Visit", "Invoice", "PaymentRecord")}
        self.is_billed = False
        self.reviews = True

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.is_gone:
            return []
        acts = [self.move, self.move, self.change, self.ask, self.reopen if self.visit.completed else self.complete]
        return acts + [self.pay if self.is_billed else self.bill] + ([self.destroy] if self.maybe(0.3) else [])

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = self.ids["Visit"].rstrip("=").replace("+", "-").replace("/", "_")
        self.visits = [Visit(id, ids=[id], scheduled=self.hour() if self.maybe(0.8) else None, who=self.person())]
        self.say("VISIT_CREATE", "Visit")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("VISIT_UPDATE", "Visit")

    def change(self) -> None:
        self.visit.who = self.person()
        self.say("VISIT_UPDATE", "Visit")

    def ask(self) -> None:
        """The client takes no more review requests, or takes them again."""
        self.visit.opted_out = not self.visit.opted_out
        self.say("VISIT_UPDATE", "Visit")

    def complete(self) -> None:
        self.visit.completed = self.now
        self.say("VISIT_COMPLETE", "Visit")
        if self.maybe():
            self.say("VISIT_UPDATE", "Visit")

    def reopen(self) -> None:
        self.visit.completed = None
        self.say("VISIT_UPDATE", "Visit")

    def bill(self) -> None:
        self.is_billed = True
        self.say("INVOICE_CREATE", "Invoice")

    def pay(self) -> None:
        self.visit.paid = None if self.visit.paid and self.maybe(0.3) else self.money()
        if self.visit.paid is None or self.maybe():
            self.say("INVOICE_UPDATE", "Invoice")
        else:
            self.say("PAYMENT_CREATE", "PaymentRecord")

    def destroy(self) -> None:
        self.visit.cancelled, self.visit.is_gone = self.now, True
        self.say("VISIT_DESTROY", "Visit")

    def owns(self, key: str) -> bool:
        return bool(self.visits) and key in self.ids.values()

    def answer(self, key: str) -> Any:
        if key == self.ids["Visit"]:
            return {"data": {"visit": None if self.visit.is_gone else self.record()}}
        billed = {"visits": {"nodes": [] if self.visit.is_gone else [self.record()]}}
        if key == self.ids["Invoice"]:
            return {"data": {"invoice": billed}}
        return {"data": {"paymentRecord": {"invoice": billed, "allocations": {"nodes": [{"invoice": billed}]}}}}

    def record(self) -> dict[str, Any]:
        visit, who = self.visit, self.visit.who
        assert who
        paid = float(visit.paid) if visit.paid else 0.0
        return {
            "id": self.ids["Visit"], "startAt": written(visit.scheduled) if visit.scheduled else None,
            "completedAt": written(visit.completed) if visit.completed else None,
            "isComplete": visit.completed is not None,
            "client": {
                "name": f"{who.first} {who.last}", "firstName": who.first, "lastName": who.last, "isCompany": False,
                "receivesReviewRequests": not visit.opted_out, "emails": [{"address": who.email, "primary": True}],
                "phones": [],
            },
            "invoice": {"amounts": {"paymentsTotal": paid}} if self.is_billed else None,
        }  # fmt: skip

    def say(self, topic: str, kind: str) -> None:
        told = {
            "topic": topic,
            "appId": "a",
            "accountId": "MTIzNDU=",
            "itemId": self.ids[kind],
            "occurredAt": written(self.now),
        }
        self.ring({"data": {"webHookEvent": told}}, topic)


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
