"""Stripe: money for visits that other tools made. https://docs.stripe.com/webhooks

Stripe knows no visits. What names one is a field of ours, `visit_external_id` in the metadata of a Checkout session, a
PaymentIntent, a charge or an invoice, or a session's `client_reference_id`; without it an event is ignored. From the
vendor's libraries (https://github.com/stripe/stripe-python, stripe-dotnet): the signature, whose key is the secret as it
is written, `whsec_` included, with a second `v1` while secrets rotate; and the events.

One payment rings several times: the session, the PaymentIntent and the charge each tell it. All of them name the
PaymentIntent, so it counts once, and a refund lowers it. `created` has whole seconds; of two refunds in one, the larger
sum is the later. A session is not money yet while it is `unpaid`, nor is a charge that is authorized and not captured.
Who paid may be somebody else than who came, so the visit's contact is left alone.

An invoice has not named its PaymentIntent since 2025-03-31 (https://docs.stripe.com/changelog/basil/2025-03-31), nor does
a charge name its invoice since then. So an invoice's money yields to that of a payment which names the invoice.
Second-hand, from recorded events: that a PaymentIntent does so as its `payment_details.order_reference`. Recordings of
2025-11 (`2025-11-17.clover`) cut it to 25 characters, those of 2026 do not: so an invoice is known by its first 25.

Before API version 2025-03-31 a capture of a part also counts what was never captured as refunded (`amount_refunded`) and
rings `charge.refunded`. Events name their version; there only what goes beyond that is a refund. An event without a version
is taken for a newer one.

Recalled: which currencies have no cents, and that two of those are written as if they had (ISK, UGX); that retries are
signed again; that a charge copies its PaymentIntent's metadata, while a PaymentIntent gets none from its session.
"""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from app.visits.change import VisitChange, is_external_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, minor_units
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In Stripe's Workbench (or under Developers), open Webhooks and add an endpoint with the address {url}.
2. Choose checkout.session.completed, checkout.session.async_payment_succeeded, payment_intent.succeeded, charge.succeeded,
   charge.captured, charge.refunded and invoice.paid, for events on your account.
3. Set the endpoint's signing secret, with its `whsec_`, as HOOKS__STRIPE__SECRETS. Test mode has one of its own.
4. Where you make a payment, name its visit: set metadata[visit_external_id] to its external_id, like acuity-123456789. For
   Checkout set it in payment_intent_data[metadata] too, or refunds do not name it. Behind a payment link's address,
   ?client_reference_id= does the same. Named on an invoice alone, its payment counts, and refunds are not told. Named on
   both, it counts once, for which payment_intent.succeeded is needed: newer charges do not name their invoice.

Stripe tells of money only. A payment that is refunded in whole leaves the visit without an amount; disputes are not counted.
A platform (Connect) sets HOOKS__STRIPE__TENANTS to the accounts whose payments count.
"""

SOURCE = Source(
    title="Stripe",
    docs="https://docs.stripe.com/webhooks",
    evidence="recalled",
    signature=Hmac(header="Stripe-Signature", fields=("t", "v1"), signs="{t}.{body}", tolerance_s=300),
    setup=SETUP,
    repeat_key=lambda event: event.data.at("id").text(),
    tenant_of=lambda event: event.data.at("account").text(),
)


SESSIONS = {"checkout.session.completed", "checkout.session.async_payment_succeeded"}
CHARGES = {"charge.succeeded", "charge.captured", "charge.refunded", "charge.updated"}
INVOICES = {"invoice.paid", "invoice.payment_succeeded"}
COLLECTED = {
    **dict.fromkeys(SESSIONS, "amount_total"),
    **dict.fromkeys(CHARGES, "amount_captured"),
    **dict.fromkeys(INVOICES, "amount_paid"),
    "payment_intent.succeeded": "amount_received",
}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, paid = event.data.at("type").required_text(), event.data.at("data", "object")
    if kind not in COLLECTED:
        return Ignored(kind)
    if not paid:
        raise paid.unexpected("what was paid")
    named = _visit(paid)
    if named is None:
        return Ignored(f"{kind}: no visit")
    if why := _not_yet(kind, paid):
        return Ignored(f"{kind}: {why}")
    units = minor_units(paid.at("currency").required_text(), two_decimals=("ISK", "UGX"))
    collected, refunded = paid.at(COLLECTED[kind]), _refunded(event, units)
    if kind in CHARGES:
        collected = collected or paid.at("amount")  # before 2020 a charge told nothing else
    amount = collected.amount(units)
    if amount is None:
        raise collected.unexpected("an amount")
    change = VisitChange(
        action="update",
        external_id_override=named,
        version=unix_microseconds(event.data.at("created").required_unix_seconds()),
        observed_at_us=int(refunded * units),
        payment_id=_payment(kind, paid),
        amount_collected=amount - refunded if amount > refunded else None,
    )
    invoice = change.payment_id if kind in INVOICES else _invoice(paid)
    if invoice == change.payment_id:
        return [replace(change, version=YIELDS)]
    return [change, replace(change, payment_id=invoice, amount_collected=None)] if invoice else [change]


#: When an invoice's money is told: before there was Stripe, so that whatever a payment says of that invoice is later.
YIELDS = unix_microseconds(datetime(2000, 1, 1, tzinfo=UTC))


def _not_yet(kind: str, paid: Payload) -> str | None:
    """Why nothing was collected, where it is so."""
    status = paid.at("payment_status" if kind in SESSIONS else "status")
    if kind in SESSIONS and status.text() not in ("paid", "unpaid", "no_payment_required"):
        raise status.unexpected("a payment_status that Stripe documents")
    if kind in SESSIONS:
        return None if status.text() == "paid" else status.text()
    if kind in CHARGES and (paid.at("captured").boolean() is False or status.text() in ("pending", "failed")):
        return "not captured"
    return None


def _refunded(event: Event, units: int) -> Decimal:
    """What was paid back, without what was authorized and never captured."""
    charge, version = event.data.at("data", "object"), event.data.at("api_version").text()
    refunded = charge.at("amount_refunded").amount(units) or Decimal()
    authorized, captured = charge.at("amount").amount(units), charge.at("amount_captured").amount(units)
    if not version or version >= BASIL or authorized is None or captured is None:
        return refunded
    return max(refunded - (authorized - captured), Decimal())


#: The first version in which `amount_refunded` is refunds alone.
BASIL = "2025-03-31"


def _visit(paid: Payload) -> str | None:
    """Ours, or what somebody else's reference happens to be."""
    references = (paid.at("metadata", "visit_external_id").value, paid.at("client_reference_id").value)
    texts = (reference.strip() for reference in references if isinstance(reference, str))
    return next((text for text in texts if is_external_id(text)), None)


def _payment(kind: str, paid: Payload) -> str:
    """The PaymentIntent that it is about; subscriptions have an invoice instead."""
    if kind in INVOICES:
        return paid.at("id").required_text()[:LONGEST_REFERENCE]
    if kind == "payment_intent.succeeded":
        return paid.at("id").required_text()
    return _id(paid.at("payment_intent")) or _cut(_id(paid.at("invoice"))) or paid.at("id").required_text()


def _invoice(paid: Payload) -> str | None:
    """The invoice that it paid for. An order's reference may be anything else, too."""
    reference = paid.at("payment_details", "order_reference").value
    is_invoice = isinstance(reference, str) and reference.startswith("in_")
    return _cut(_id(paid.at("invoice")) or (reference if is_invoice else None))


LONGEST_REFERENCE = 25


def _cut(invoice: str | None) -> str | None:
    """An invoice's id, as far as every reference to it has it."""
    return invoice and invoice[:LONGEST_REFERENCE]


def _id(found: Payload) -> str | None:
    """Expanded, an id is the object itself."""
    return found.at("id").text() if isinstance(found.value, dict) else found.text()
