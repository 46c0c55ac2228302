"""Shopmonkey: appointments of repair shops, and the orders (work orders, then invoices) that they lead to.

https://shopmonkey.dev/webhooks: each event is a row as it now is, with `table`, `operation` and, for an update, `diff`: the
columns that changed. https://shopmonkey.dev/resources/appointment: `orderId`, `updatedDate`, `confirmationStatus`, and a
`cancellationNote` where it was cancelled. `webhook-id` names an attempt, so repeats are told by their body.

A visit is an order, once there is one: an appointment that gets its order later goes on under the order's id. The
appointment says when it is planned, the order when the work was done and all that was paid for it. `updatedDate` orders the
rows; a deleted row has none of its deletion, so that is the signed time, which is whole seconds.

Inferred from their names: that the headers are those of Standard Webhooks. The vendor does not say how the secret becomes a
key: one with `whsec_` is read as base64, any other as text. Second-hand: `completedDate`, `invoiced`, `invoicedDate` and
`paidCostCents` of an order, and the `emails` and `phoneNumbers` of a customer, with `primary` in them. Recalled:
`marketingOptIn`, the flags `deleted`, `cancelled` and `canceled`, and that a Declined appointment is a cancelled one. The
columns of a payment are not documented; its order tells the sum.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import StandardWebhooks, standard_webhooks_key, text_key
from app.webhooks.source import Ignored, Source

SETUP = """
1. In Shopmonkey open Settings, Integration, API Keys, make a key, and set it as HOOKS__SHOPMONKEY__CREDENTIALS__TOKEN.
2. Think of a secret of 24 characters or more, set it as HOOKS__SHOPMONKEY__SECRETS, and restart.
3. In Settings, Integration, Webhooks add {url} with that secret and the triggers Appointment and Order, for one location or
   for all. Or POST the same to https://api.shopmonkey.cloud/v3/webhook: name, url, secret, triggers, enabled.
4. If every delivery is refused, the secret is not read as Shopmonkey reads it: try another that begins with `whsec_` and
   goes on in base64. HOOKS__SHOPMONKEY__TENANTS can name the locations (`locationId`) that may ring here.

A visit is completed when its order is invoiced or completed. Orders in progress are left alone until then, or until
something is paid. There are no no-shows; cancel or delete the appointment instead. Customers who opted out of marketing are
not asked. Two appointments of one order are one visit.
"""


def _key(secret: str) -> bytes:
    return standard_webhooks_key(secret) if secret.startswith("whsec_") else text_key(secret)


def _location(event: Event) -> str | None:
    return event.data.at("data", "locationId").text()


SOURCE = Source(
    title="Shopmonkey",
    docs="https://shopmonkey.dev/webhooks",
    evidence="recalled",
    signature=StandardWebhooks(key=_key),
    setup=SETUP,
    event_name_path=("table",),
    tenant_of=_location,
    stored_headers=("webhook-timestamp",),
    api_url="https://api.shopmonkey.cloud/v3/",
    credentials=BearerAuth("TOKEN"),
)

OPERATIONS = {"INSERT", "UPDATE", "DELETE"}
#: Columns of an order that may take back what it told before.
TURNS = {"invoiced", "invoicedDate", "completedDate", "paid", "paidCostCents"}


def fetch(event: Event) -> list[RecordRequest]:
    """The customer, where the visit stands."""
    customer_id = _row(event).at("customerId")
    if isinstance(change := translate(event), Ignored) or change[0].action == "cancel" or not customer_id.text():
        return []
    return [RecordRequest(f"customer/{customer_id.required_id()}")]


def translate(event: Event) -> list[VisitChange] | Ignored:
    match table := event.data.at("table").required_text().lower():
        case "appointment":
            return [_appointment(event)]
        case "order":
            return _order(event)
    return Ignored(table)


def _appointment(event: Event) -> VisitChange:
    row, visit_id = _row(event), _row(event).at("id").required_text()
    order_id, is_off, said_at = row.at("orderId").text(), _is_off(event), _said_at(event)
    became_an_order = _operation(event) == "UPDATE" and "orderId" in _diff(event, {"orderId"})
    starts_at = row.at("startDate")
    return VisitChange(
        action="cancel" if is_off else "create" if _operation(event) == "INSERT" else "update",
        visit_id=order_id or visit_id,
        previous_visit_id=visit_id if order_id and became_an_order else None,
        version=unix_microseconds(said_at),
        observed_at_us=_as_of(event),
        contact=_contact(event),
        time_scheduled=(starts_at.time(event.zone) or UNSET) if is_off else starts_at.required_time(event.zone),
        date_cancelled=said_at if is_off else None,
        opted_out=_opted_out(event),
        times_are_observed=True,
    )


def _order(event: Event) -> list[VisitChange] | Ignored:
    row, said_at, is_off = _row(event), _said_at(event), _is_gone(event)
    (is_done, done_at), paid = _done(row), _paid(row)
    if not (is_off or is_done or isinstance(paid, Decimal) or TURNS & _diff(event, set())):
        return Ignored("order in progress")
    return [
        VisitChange(
            action="cancel" if is_off else "update",
            visit_id=row.at("id").required_text(),
            version=unix_microseconds(said_at),
            observed_at_us=_as_of(event),
            contact=_contact(event),
            time_completed=(done_at or said_at) if is_done else UNSET if is_done is None else None,
            amount_collected=paid,
            date_cancelled=said_at if is_off else None if is_done else UNSET,
            opted_out=_opted_out(event),
            times_are_observed=not (is_done and done_at),
        )
    ]


def _row(event: Event) -> Payload:
    return event.data.at("data")


def _operation(event: Event) -> str:
    operation = event.data.at("operation")
    if operation.required_text() not in OPERATIONS:
        raise operation.unexpected("INSERT, UPDATE or DELETE")
    return operation.required_text()


def _diff(event: Event, otherwise: set[str]) -> set[str]:
    """The columns that changed; otherwise: where it is not told."""
    diff = event.data.at("diff")
    return {column.required_text() for column in diff} if diff else otherwise


def _said_at(event: Event) -> datetime:
    """A row's own time; for its deletion the last moment of the second that was signed, and never before the row's own."""
    updated_at, written = _row(event).at("updatedDate").time(), event.headers.get("webhook-timestamp", "")
    if updated_at and _operation(event) != "DELETE":
        return updated_at
    second = Payload(int(written)).required_unix_seconds() if written.isdecimal() else event.received_at
    last_moment = second.replace(microsecond=0) + timedelta(microseconds=999_999)
    return max(last_moment, updated_at or last_moment)


def _is_gone(event: Event) -> bool:
    return _operation(event) == "DELETE" or _row(event).at("deleted").boolean() is True


def _is_off(event: Event) -> bool:
    row = _row(event)
    answered = row.at("confirmationStatus").text()
    is_cancelled = any(row.at(name).boolean() for name in ("cancelled", "canceled")) or answered == "Declined"
    return _is_gone(event) or is_cancelled or bool(row.at("cancellationNote").text() and answered != "Confirmed")


def _done(row: Payload) -> tuple[bool | None, datetime | None]:
    """Is the work done, as far as the row tells, and when?"""
    completed_at, is_invoiced = row.at("completedDate").time(), row.at("invoiced").boolean()
    return (True if completed_at else is_invoiced), completed_at or row.at("invoicedDate").time()


def _paid(row: Payload) -> Decimal | None | Unset:
    """In cents."""
    cents = row.at("paidCostCents") or row.at("totalCostCents" if row.at("paid").boolean() else "paidCostCents")
    return (cents.amount(100) or None) if cents else UNSET


def _as_of(event: Event) -> int:
    return unix_microseconds(event.fetched_at) if event.fetched_at else 0


def _customer(event: Event) -> Payload:
    """As it is, or in `data`."""
    record = event.record or Payload(None)
    return record.at("data") or record


def _contact(event: Event) -> Contact | None:
    customer = _customer(event)
    if not customer:
        return None
    return Contact(
        email=_primary(customer.at("emails"), "email") or customer.at("email").text(),
        first_name=customer.at("firstName").text() or customer.at("companyName").text(),
        last_name=customer.at("lastName").text(),
        phone=_primary(customer.at("phoneNumbers"), "number"),
    )


def _primary(several: Payload, name: str) -> str | None:
    found = [one for one in several if one.at(name).text()]
    best = next((one for one in found if one.at("primary").boolean()), found[0] if found else None)
    return best.at(name).text() if best else None


def _opted_out(event: Event) -> bool | Unset:
    wants_mail = _customer(event).at("marketingOptIn").boolean()
    return UNSET if wants_mail is None else not wants_mail
