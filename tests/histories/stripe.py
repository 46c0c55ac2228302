"""A model of Stripe.

A visit has several payments, each reported by its session, its PaymentIntent and its charge. A capture may be less than the
authorization; older versions report the difference as refunded. Refunds reduce a payment; the visit's amount is the sum of
all payments. The payment of an invoice is reported by the invoice, too, and may have a shortened id of it; the invoice
names the visit, and the payment may. Another tool would send the customer and the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.histories import ToolModel, Visit


@dataclass(slots=True)
class Payment:
    id: str
    amount: int
    refunded: int = 0
    released: int = 0
    is_captured: bool = False
    invoice: str | None = None
    names_visit: bool = True


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency, self.units = self.rng.choice((("usd", 100), ("jpy", 1), ("kwd", 1_000), ("isk", 100)))
        self.payments: list[Payment] = []
        self.is_older = self.maybe()

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            self.visits = [Visit(self.name, ids=[self.name])]
        actions = [self.authorize, self.authorize, self.bill, self.disturb]
        for payment in self.payments:
            if not payment.is_captured:
                actions.append(lambda payment=payment: self.capture(payment))  # type: ignore[misc]
            elif payment.refunded < payment.amount and payment.names_visit:
                actions.append(lambda payment=payment: self.refund(payment))  # type: ignore[misc]
        return actions

    def authorize(self) -> None:
        """Pay at once, or authorize a payment that is captured later."""
        payment = Payment(self.new_id("pi_{}"), self.rng.choice((1_000, 24_500, 99_990)))
        self.payments.append(payment)
        self.send_session("completed", payment, "unpaid") if self.maybe(0.3) else self.capture(payment)

    def capture(self, payment: Payment) -> None:
        is_late = payment.is_captured = True
        payment.released = self.rng.choice((0, 0, 375))
        self.count()
        if self.maybe():
            fields = "async_payment_succeeded" if is_late else "completed"
            self.send_session(fields, payment, "paid")
        if self.maybe():
            self.send("payment_intent.succeeded", "payment_intent", payment.id, {"amount_received": payment.amount})
        self.send_charge("charge.succeeded", payment)
        if payment.released and self.is_older:
            self.send_charge("charge.refunded", payment)

    def bill(self) -> None:
        """Pay an invoice. In older versions, invoice and payment name each other; refunds do not change the invoice."""
        invoice = (self.new_id("in_{}") + "x" * 27)[:27]
        payment = Payment(self.new_id("pi_{}"), 7_000, is_captured=True, invoice=invoice, names_visit=self.maybe())
        self.payments.append(payment)
        self.count()
        fields = {"amount_paid": payment.amount, **({"payment_intent": payment.id} if self.is_older else {})}
        self.send("invoice.paid", "invoice", invoice, fields)
        invoice_id = self.rng.choice((invoice, invoice[:25]))
        reference = {"invoice": invoice} if self.is_older else {"payment_details": {"order_reference": invoice_id}}
        fields = {"amount_received": payment.amount, **reference, **({} if payment.names_visit else {"metadata": {}})}
        self.send("payment_intent.succeeded", "payment_intent", payment.id, fields)
        self.send_charge("charge.succeeded", payment)

    def refund(self, payment: Payment) -> None:
        remaining = payment.amount - payment.refunded
        payment.refunded += self.rng.choice((remaining, min(remaining, 500)))
        self.count()
        self.send_charge("charge.refunded", payment)

    def disturb(self) -> None:
        """Send a payment for something else, or one that names no visit."""
        fields = {"amount_received": 77, "metadata": self.rng.choice(({}, {"visit_external_id": "nobody"}))}
        self.send("payment_intent.succeeded", "payment_intent", self.new_id("pi_{}"), fields)

    def count(self) -> None:
        remaining = sum(payment.amount - payment.refunded for payment in self.payments if payment.is_captured)
        self.visits[0].paid = Decimal(remaining) / self.units or None

    def send_session(self, object_type: str, payment: Payment, status: str) -> None:
        visit_reference = {"client_reference_id": self.visit_name, "metadata": {}} if self.maybe() else {}
        fields = {
            "amount_total": payment.amount,
            "payment_status": status,
            "payment_intent": payment.id,
            **visit_reference,
        }
        self.send(f"checkout.session.{object_type}", "checkout.session", self.new_id("cs_{}"), fields)

    def send_charge(self, object_type: str, payment: Payment) -> None:
        refunded = payment.refunded + (payment.released if self.is_older else 0)
        amounts = {"amount": payment.amount + payment.released, "amount_captured": payment.amount}
        amounts |= {"amount_refunded": refunded}
        fields = {**amounts, "captured": True, "status": "succeeded", "payment_intent": payment.id}
        fields |= {"invoice": payment.invoice} if self.is_older else {}
        fields |= {} if payment.names_visit else {"metadata": {}}
        self.send(object_type, "charge", f"ch_{payment.id}", fields)

    @property
    def visit_name(self) -> str:
        return f"stripe-{self.name}"

    def send(self, kind: str, object_type: str, id: str, fields: dict[str, Any]) -> None:
        visit_reference = {"metadata": {"visit_external_id": self.visit_name}}
        paid = {"id": id, "object": object_type, "currency": self.currency, **visit_reference, **fields}
        body = {"id": self.new_id("evt_{}"), "object": "event", "created": int(self.now.timestamp())}
        body |= {"api_version": "2024-06-20" if self.is_older else "2025-11-17.clover"}
        self.emit({**body, "type": kind, "data": {"object": paid}}, f"{kind} {fields}")
