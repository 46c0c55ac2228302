"""Stripe: some payments for one visit, each told by its session, its PaymentIntent and its charge. Less may be captured
than was authorized; older versions call the rest refunded. Refunds lower a payment; the visit collected what is left of all
of them. A payment of an invoice is told by that too, and may name it by a part of its id; the invoice names the visit, and
the payment may. Whose visit it is and when, some other tool would say."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.histories import Life, Visit


@dataclass(slots=True)
class Payment:
    id: str
    amount: int
    refunded: int = 0
    released: int = 0
    is_captured: bool = False
    invoice: str | None = None
    names_visit: bool = True


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.currency, self.units = self.dice.choice((("usd", 100), ("jpy", 1), ("kwd", 1_000), ("isk", 100)))
        self.payments: list[Payment] = []
        self.is_older = self.maybe()

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            self.visits = [Visit(self.name, ids=[self.name])]
        acts = [self.authorize, self.authorize, self.bill, self.disturb]
        for payment in self.payments:
            if not payment.is_captured:
                acts.append(lambda payment=payment: self.capture(payment))  # type: ignore[misc]
            elif payment.refunded < payment.amount and payment.names_visit:
                acts.append(lambda payment=payment: self.refund(payment))  # type: ignore[misc]
        return acts

    def authorize(self) -> None:
        """It is paid at once, or the money is still to come."""
        payment = Payment(self.mint("pi_{}"), self.dice.choice((1_000, 24_500, 99_990)))
        self.payments.append(payment)
        self.say_session("completed", payment, "unpaid") if self.maybe(0.3) else self.capture(payment)

    def capture(self, payment: Payment) -> None:
        is_late = payment.is_captured = True
        payment.released = self.dice.choice((0, 0, 375))
        self.count()
        if self.maybe():
            event = "async_payment_succeeded" if is_late else "completed"
            self.say_session(event, payment, "paid")
        if self.maybe():
            self.say("payment_intent.succeeded", "payment_intent", payment.id, {"amount_received": payment.amount})
        self.say_charge("charge.succeeded", payment)
        if payment.released and self.is_older:
            self.say_charge("charge.refunded", payment)

    def bill(self) -> None:
        """An invoice is paid. Older versions of the API name the one in the other; of a refund it does not tell."""
        invoice = (self.mint("in_{}") + "x" * 27)[:27]
        payment = Payment(self.mint("pi_{}"), 7_000, is_captured=True, invoice=invoice, names_visit=self.maybe())
        self.payments.append(payment)
        self.count()
        told = {"amount_paid": payment.amount, **({"payment_intent": payment.id} if self.is_older else {})}
        self.say("invoice.paid", "invoice", invoice, told)
        told_of = self.dice.choice((invoice, invoice[:25]))
        reference = {"invoice": invoice} if self.is_older else {"payment_details": {"order_reference": told_of}}
        told = {"amount_received": payment.amount, **reference, **({} if payment.names_visit else {"metadata": {}})}
        self.say("payment_intent.succeeded", "payment_intent", payment.id, told)
        self.say_charge("charge.succeeded", payment)

    def refund(self, payment: Payment) -> None:
        left = payment.amount - payment.refunded
        payment.refunded += self.dice.choice((left, min(left, 500)))
        self.count()
        self.say_charge("charge.refunded", payment)

    def disturb(self) -> None:
        """A payment for something else, and one that names nobody."""
        other = {"amount_received": 77, "metadata": self.dice.choice(({}, {"visit_external_id": "nobody"}))}
        self.say("payment_intent.succeeded", "payment_intent", self.mint("pi_{}"), other)

    def count(self) -> None:
        left = sum(payment.amount - payment.refunded for payment in self.payments if payment.is_captured)
        self.visits[0].paid = Decimal(left) / self.units or None

    def say_session(self, what: str, payment: Payment, status: str) -> None:
        named = {"client_reference_id": self.visit_name, "metadata": {}} if self.maybe() else {}
        told = {"amount_total": payment.amount, "payment_status": status, "payment_intent": payment.id, **named}
        self.say(f"checkout.session.{what}", "checkout.session", self.mint("cs_{}"), told)

    def say_charge(self, what: str, payment: Payment) -> None:
        refunded = payment.refunded + (payment.released if self.is_older else 0)
        amounts = {"amount": payment.amount + payment.released, "amount_captured": payment.amount}
        amounts |= {"amount_refunded": refunded}
        told = {**amounts, "captured": True, "status": "succeeded", "payment_intent": payment.id}
        told |= {"invoice": payment.invoice} if self.is_older else {}
        told |= {} if payment.names_visit else {"metadata": {}}
        self.say(what, "charge", f"ch_{payment.id}", told)

    @property
    def visit_name(self) -> str:
        return f"stripe-{self.name}"

    def say(self, kind: str, what: str, id: str, told: dict[str, Any]) -> None:
        named = {"metadata": {"visit_external_id": self.visit_name}}
        paid = {"id": id, "object": what, "currency": self.currency, **named, **told}
        body = {"id": self.mint("evt_{}"), "object": "event", "created": int(self.now.timestamp())}
        body |= {"api_version": "2024-06-20" if self.is_older else "2025-11-17.clover"}
        self.ring({**body, "type": kind, "data": {"object": paid}}, f"{kind} {told}")
