"""Shopmonkey: appointments of repair shops, and the orders (work orders, then invoices) that they lead to.

https://shopmonkey.dev/webhooks: each event is the current row, with `table`, `operation` and, for an update, `diff`: the
columns that changed. https://shopmonkey.dev/resources/appointment: `orderId`, `updatedDate`, `confirmationStatus`, and a
`cancellationNote` if it was cancelled. `webhook-id` identifies an attempt, so repeats are recognized by their body.

A visit has the order's id, if there is an order: an appointment that gets its order later continues under the order's id.
The appointment has the planned time, the order has the completion and the total amount paid. `updatedDate` orders the rows;
a deleted row has no time of its deletion, so the signed time is used, which is in whole seconds.

Inferred from their names: the headers are those of Standard Webhooks. The vendor does not say how the secret becomes a
key: a secret with `whsec_` is read as base64, any other as text. Second-hand: `completedDate`, `invoiced`, `invoicedDate`
and `paidCostCents` of an order, and the `emails` and `phoneNumbers` of a customer, with `primary` in them. Recalled:
`marketingOptIn`, the flags `deleted`, `cancelled` and `canceled`, and that a Declined appointment is cancelled. The
columns of a payment are not documented; its order has the sum.
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
1. In Shopmonkey open Settings, Integration, API Keys, create a key, and set it as HOOKS__SHOPMONKEY__CREDENTIALS__TOKEN.
2. Make up a secret of 24 characters or more, set it as HOOKS__SHOPMONKEY__SECRETS, and restart.
3. In Settings, Integration, Webhooks add {url} with that secret and the triggers Appointment and Order, for one location or
   for all. Or POST the same to https://api.shopmonkey.cloud/v3/webhook: name, url, secret, triggers, enabled.
4. If every delivery is rejected, Shopmonkey derives another key from the secret: try a secret that begins with `whsec_`,
   followed by base64. To accept only some locations, set HOOKS__SHOPMONKEY__TENANTS to their `locationId`s.

A visit is completed when its order is invoiced or completed. Orders in progress are ignored until then, or until there is a
payment. There are no no-shows; cancel or delete the appointment instead. Customers who opted out of marketing get no review
request. Two appointments of one order are one visit.
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
#: Columns of an order whose change may undo a completion or a payment.
REVERSIBLE_COLUMNS = {"invoiced", "invoicedDate", "completedDate", "paid", "paidCostCents"}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer unless the visit is cancelled."""
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
    order_id, is_off, happened_at = row.at("orderId").text(), _is_off(event), _happened_at(event)
    got_order = _operation(event) == "UPDATE" and "orderId" in _diff(event, {"orderId"})
    starts_at = row.at("startDate")
    return VisitChange(
        action="cancel" if is_off else "create" if _operation(event) == "INSERT" else "update",
        visit_id=order_id or visit_id,
        previous_visit_id=visit_id if order_id and got_order else None,
        version=unix_microseconds(happened_at),
        observed_at_us=_observed_at(event),
        contact=_contact(event),
        time_scheduled=(starts_at.time(event.zone) or UNSET) if is_off else starts_at.required_time(event.zone),
        date_cancelled=happened_at if is_off else None,
        opted_out=_opted_out(event),
        times_are_observed=True,
    )


def _order(event: Event) -> list[VisitChange] | Ignored:
    row, happened_at, is_off = _row(event), _happened_at(event), _is_gone(event)
    (is_done, done_at), paid = _done(row), _paid(row)
    if not (is_off or is_done or isinstance(paid, Decimal) or REVERSIBLE_COLUMNS & _diff(event, set())):
        return Ignored("order in progress")
    return [
        VisitChange(
            action="cancel" if is_off else "update",
            visit_id=row.at("id").required_text(),
            version=unix_microseconds(happened_at),
            observed_at_us=_observed_at(event),
            contact=_contact(event),
            time_completed=(done_at or happened_at) if is_done else UNSET if is_done is None else None,
            amount_collected=paid,
            date_cancelled=happened_at if is_off else None if is_done else UNSET,
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


def _diff(event: Event, default: set[str]) -> set[str]:
    """Return the columns that changed. default: for events without `diff`."""
    diff = event.data.at("diff")
    return {column.required_text() for column in diff} if diff else default


def _happened_at(event: Event) -> datetime:
    """Return the row's time; for a deletion the end of the signed second, and never a time before the row's."""
    updated_at, signed_time = _row(event).at("updatedDate").time(), event.headers.get("webhook-timestamp", "")
    if updated_at and _operation(event) != "DELETE":
        return updated_at
    second = Payload(int(signed_time)).required_unix_seconds() if signed_time.isdecimal() else event.received_at
    end_of_second = second.replace(microsecond=0) + timedelta(microseconds=999_999)
    return max(end_of_second, updated_at or end_of_second)


def _is_gone(event: Event) -> bool:
    return _operation(event) == "DELETE" or _row(event).at("deleted").boolean() is True


def _is_off(event: Event) -> bool:
    row = _row(event)
    confirmation = row.at("confirmationStatus").text()
    is_cancelled = any(row.at(name).boolean() for name in ("cancelled", "canceled")) or confirmation == "Declined"
    return _is_gone(event) or is_cancelled or bool(row.at("cancellationNote").text() and confirmation != "Confirmed")


def _done(row: Payload) -> tuple[bool | None, datetime | None]:
    """Return whether the work is done (None if the row does not show it), and when."""
    completed_at, is_invoiced = row.at("completedDate").time(), row.at("invoiced").boolean()
    return (True if completed_at else is_invoiced), completed_at or row.at("invoicedDate").time()


def _paid(row: Payload) -> Decimal | None | Unset:
    """Convert the amount paid from cents."""
    cents = row.at("paidCostCents") or row.at("totalCostCents" if row.at("paid").boolean() else "paidCostCents")
    return (cents.amount(100) or None) if cents else UNSET


def _observed_at(event: Event) -> int:
    return unix_microseconds(event.fetched_at) if event.fetched_at else 0


def _customer(event: Event) -> Payload:
    """Return the fetched customer, which may be inside `data`."""
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


def _primary(items: Payload, name: str) -> str | None:
    candidates = [item for item in items if item.at(name).text()]
    preferred = next(
        (item for item in candidates if item.at("primary").boolean()), candidates[0] if candidates else None
    )
    return preferred.at(name).text() if preferred else None


def _opted_out(event: Event) -> bool | Unset:
    wants_mail = _customer(event).at("marketingOptIn").boolean()
    return UNSET if wants_mail is None else not wants_mail
