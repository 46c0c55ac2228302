"""Stripe: payments for visits of other sources.

Stripe has no visits. A field names the visit: `visit_external_id` in the metadata of a Checkout session, a PaymentIntent, a
charge or an invoice, or a session's `client_reference_id`; without it an event is ignored. From
https://docs.stripe.com/webhooks and the vendor's libraries (https://github.com/stripe/stripe-python, stripe-dotnet): the
signature, whose key is the whole secret, `whsec_` included, with a second `v1` while secrets rotate; and the events.

One payment causes several events: the session, the PaymentIntent and the charge each report it. All of them name the
PaymentIntent, so it counts once, and a refund reduces it. `created` has whole seconds; of two refunds in one second,
the one with the larger sum is the later one. An `unpaid` session does not count, nor does a charge that is authorized
but not captured. The payer may be a different person from the customer, so the visit's contact is not changed.

Since 2025-03-31 (https://docs.stripe.com/changelog/basil/2025-03-31) an invoice does not name its PaymentIntent, and a
charge does not name its invoice. So a payment that names the invoice replaces the amount of the invoice. Second-hand,
from recorded events: a PaymentIntent names it in `payment_details.order_reference`. In recordings of 2025-11
(`2025-11-17.clover`) the name is cut to 25 characters, in those of 2026 it is not, so the first 25 characters identify
an invoice.

Before API version 2025-03-31, a partial capture also counts the amount that was never captured as refunded
(`amount_refunded`) and sends `charge.refunded`. Events name their version; in those versions only the difference is a
refund. An event without a version counts as newer.

From memory: which currencies have no cents, and that two of them (ISK, UGX) are written as if they had cents; that
retries are signed again; that a charge copies its PaymentIntent's metadata, while a PaymentIntent gets none from its
session.

The API (https://docs.stripe.com/api/webhook_endpoints, /events, and the vendor's library): Stripe generates the secret
of an endpoint, and shows it once. The list of events has what the webhooks sent, for 30 days, so a missed event is
found unchanged; older payments are not listed. An endpoint is created without an API version, so that it has the
account's version, as the list does. From memory: events are listed newest first; a failing endpoint is disabled after
days; the texts of refusals. There is no test event, and no OAUTH: a restricted key is enough for a single account, and
a platform needs one endpoint for all accounts, which it creates by hand.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from app.visits.change import VisitChange, is_external_id, unix_microseconds
from app.webhooks import (
    ApiResponse,
    BearerAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Window,
    minor_units,
    read_records,
)

SETUP = """
1. In Stripe's Workbench (or under Developers), open Webhooks and add an endpoint with the URL {url}.
2. Choose checkout.session.completed, checkout.session.async_payment_succeeded, payment_intent.succeeded, charge.succeeded,
   charge.captured, charge.refunded and invoice.paid, for events on your account.
3. Set the endpoint's signing secret, with its `whsec_`, as HOOKS__STRIPE__SECRETS. Test mode has another secret.
4. When you create a payment, name its visit: set metadata[visit_external_id] to its external_id, such as
   acuity-123456789. For Checkout, set it in payment_intent_data[metadata], too, or refunds do not name the visit. For a
   payment link, append ?client_reference_id= to its URL. If only an invoice names the visit, its payment counts, but
   refunds do not. If both name it, the payment counts once; this needs payment_intent.succeeded, because newer charges
   do not name their invoice.
5. With a restricted key (Developers, API keys) that may write Webhook Endpoints and read Events, Charges,
   PaymentIntents, Checkout Sessions and Invoices, `doorbell connect stripe` does steps 1 to 3, and finds missed events
   of the last 30 days.

Stripe sends only payments. After a full refund the visit has no amount; disputes are not counted. On a platform
(Connect), set HOOKS__STRIPE__TENANTS to the accounts whose payments count.
"""

SOURCE = Source(
    title="Stripe",
    is_common=True,
    docs="https://docs.stripe.com/webhooks",
    credential_help={
        "TOKEN": (
            "Restricted key",
            "In Stripe: Developers, API keys. It must be allowed to write Webhook Endpoints, and to read Events, "
            "Charges, PaymentIntents, Checkout Sessions and Invoices.",
        ),
    },
    evidence="none",
    retries="yes",
    signature=Hmac(header="Stripe-Signature", fields=("t", "v1"), signs="{t}.{body}", tolerance_s=300),
    setup=SETUP,
    repeat_key=lambda event: event.data.at("id").text(),
    tenant_of=lambda event: event.data.at("account").text(),
    api_url="https://api.stripe.com/v1",
    credentials=BearerAuth(),
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
        raise paid.unexpected("a session, a PaymentIntent, a charge or an invoice")
    external_id = _visit(paid)
    if external_id is None:
        return Ignored(f"{kind}: no visit")
    if reason := _not_collected(kind, paid):
        return Ignored(f"{kind}: {reason}")
    units = minor_units(paid.at("currency").required_text(), two_decimals=("ISK", "UGX"))
    collected, refunded = paid.at(COLLECTED[kind]), _refunded(event, units)
    if kind in CHARGES:
        collected = collected or paid.at("amount")  # before 2020 a charge had no other amount
    amount = collected.amount(units)
    if amount is None:
        raise collected.unexpected("an amount")
    change = VisitChange(
        action="update",
        external_id_override=external_id,
        version=unix_microseconds(event.data.at("created").required_unix_seconds()),
        observed_at_us=int(refunded * units),
        payment_id=_payment(kind, paid),
        amount_collected=amount - refunded if amount > refunded else None,
        currency=paid.at("currency").currency(),
    )
    invoice = change.payment_id if kind in INVOICES else _invoice(paid)
    if invoice == change.payment_id:
        return [replace(change, version=INVOICE_VERSION)]
    return [change, replace(change, payment_id=invoice, amount_collected=None)] if invoice else [change]


#: The version of an invoice's amount: before Stripe existed, so that every payment for the invoice is newer.
INVOICE_VERSION = unix_microseconds(datetime(2000, 1, 1, tzinfo=UTC))


def _not_collected(kind: str, paid: Payload) -> str | None:
    """Return why nothing was collected; None if something was."""
    status = paid.at("payment_status" if kind in SESSIONS else "status")
    if kind in SESSIONS and status.text() not in ("paid", "unpaid", "no_payment_required"):
        raise status.unexpected("a payment_status that Stripe documents")
    if kind in SESSIONS:
        return None if status.text() == "paid" else status.text()
    if kind in CHARGES and (paid.at("captured").boolean() is False or status.text() in ("pending", "failed")):
        return "not captured"
    return None


def _refunded(event: Event, units: int) -> Decimal:
    """Return the amount refunded, without the amount that was authorized and never captured."""
    charge, version = event.data.at("data", "object"), event.data.at("api_version").text()
    refunded = charge.at("amount_refunded").amount(units) or Decimal()
    authorized, captured = charge.at("amount").amount(units), charge.at("amount_captured").amount(units)
    if not version or version >= BASIL or authorized is None or captured is None:
        return refunded
    return max(refunded - (authorized - captured), Decimal())


#: The first version in which `amount_refunded` contains only refunds.
BASIL = "2025-03-31"


def _visit(paid: Payload) -> str | None:
    """Return the external_id of the visit; None if the references belong to something else."""
    references = (paid.at("metadata", "visit_external_id").value, paid.at("client_reference_id").value)
    texts = (reference.strip() for reference in references if isinstance(reference, str))
    return next((text for text in texts if is_external_id(text)), None)


def _payment(kind: str, paid: Payload) -> str:
    """Return the id of the PaymentIntent; subscriptions have an invoice instead."""
    if kind in INVOICES:
        return paid.at("id").required_text()[:MAX_REFERENCE_CHARS]
    if kind == "payment_intent.succeeded":
        return paid.at("id").required_text()
    return _id(paid.at("payment_intent")) or _shorten(_id(paid.at("invoice"))) or paid.at("id").required_text()


def _invoice(paid: Payload) -> str | None:
    """Return the id of the paid invoice. An order's reference may be something else."""
    reference = paid.at("payment_details", "order_reference").value
    is_invoice = isinstance(reference, str) and reference.startswith("in_")
    return _shorten(_id(paid.at("invoice")) or (reference if is_invoice else None))


MAX_REFERENCE_CHARS = 25


def _shorten(invoice: str | None) -> str | None:
    """Cut an invoice's id to the length that every reference to it has."""
    return invoice and invoice[:MAX_REFERENCE_CHARS]


def _id(reference: Payload) -> str | None:
    """Return the id of a reference, which is an object if it is expanded."""
    return reference.at("id").text() if isinstance(reference.value, dict) else reference.text()


# -- the API: https://docs.stripe.com/api --

EVENTS = (
    *sorted(SESSIONS),
    "payment_intent.succeeded",
    "charge.succeeded",
    "charge.captured",
    "charge.refunded",
    "invoice.paid",
)


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    """Create an endpoint. With an idempotency key, Stripe could return an earlier endpoint that was deleted since."""
    form = {
        "url": target.url,
        "description": "Doorbell",
        "metadata[doorbell_hook]": target.hook,
        **_items("enabled_events", events),
    }
    return RecordRequest(ENDPOINTS, form=form)


def _items(name: str, values: Sequence[str]) -> dict[str, str]:
    return {f"{name}[{number}]": value for number, value in enumerate(values)}


def _read_endpoints(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    endpoints = [_read_endpoint(endpoint) for endpoint in response.at("data")]
    return SubscriptionPage(endpoints, _next_page(request, response))


def _next_page(request: RecordRequest, response: Payload) -> RecordRequest | None:
    items = list(response.at("data"))
    if not items or not response.at("has_more").boolean():
        return None
    return replace(request, params={**request.params, "starting_after": items[-1].at("id").required_id()})


def _read_endpoint(endpoint: Payload) -> SubscriptionState:
    events = frozenset(event.required_text() for event in endpoint.at("enabled_events"))
    return SubscriptionState(
        id=endpoint.at("id").required_id(),
        url=endpoint.at("url").required_text(),
        events=frozenset() if "*" in events else events,
        is_active=endpoint.at("status").text() != "disabled",
        secret=endpoint.at("secret").text() or "",
    )


def _mode(events: Payload) -> str:
    """Return the mode of the key, as the newest event shows it."""
    return next(("live mode" if event.at("livemode").boolean() else "test mode" for event in events.at("data")), "")


def _refusal(status: int, response: Payload) -> str | None:
    if status != 403:
        return None
    return (
        "The key needs the permissions to write Webhook Endpoints and to read Events, Charges, PaymentIntents, Checkout "
        "Sessions and Invoices."
    )


ENDPOINTS = "webhook_endpoints"

SUBSCRIPTION = Subscription(
    docs="https://docs.stripe.com/api/webhook_endpoints",
    evidence="none",
    groups=(EVENTS,),
    # A restricted key may lack the right to read the account, but it needs the right to read events.
    account=RecordRequest("events", params={"limit": "1"}),
    account_name=_mode,
    create=_subscribe,
    read_created=_read_endpoint,
    list=lambda _: RecordRequest(ENDPOINTS, params={"limit": "100"}),
    read_list=_read_endpoints,
    delete=lambda id, _: RecordRequest(f"{ENDPOINTS}/{id}", method="DELETE"),
    reactivate=lambda id, _: RecordRequest(f"{ENDPOINTS}/{id}", form={"disabled": "false"}),
    secret_from="tool",
    refusal=_refusal,
)


def _list_events(window: Window, _: Payload) -> Sequence[ListRequest]:
    """List the events from the start of the window on. A payment has no appointment time, and changes only amounts."""
    since = min(window.since, window.changed_since or window.since)
    params = {"created[gte]": str(int(since.timestamp())), "limit": "100", **_items("types", EVENTS)}
    return [ListRequest(RecordRequest("events", params=params))]


def _read_events(request: ListRequest, response: ApiResponse) -> ListedPage:
    page = _next_page(request.request, response)
    records = read_records(response.at("data"), lambda event: [ListedRecord(event.at("id").required_id(), event.value)])
    return ListedPage(records, [replace(request, request=page)] if page else [])


LISTING = Listing(
    docs="https://docs.stripe.com/api/events/list",
    evidence="vendor",
    start=_list_events,
    read_page=_read_events,
    lists_changed=True,
    records="payments",
)
