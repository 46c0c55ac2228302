"""Tekmetric: repair orders of auto shops, and their payments. The customer must be fetched.

There is no public page on its webhooks. Second-hand, from integrators who use it: a body is `event`, a sentence in
English with people's names in it, and `data`, the whole repair order or the payment; nothing is signed and no event has
an id. The sentence is read, but not displayed or stored as the event's name: the name is made of a fixed list of words,
such as `repair_order.posted`. `repairOrderStatus` is the status of an order; without it, the sentence shows the status
(posted, unposted, sent to A/R, deleted). `updatedDate` orders the changes, and a time without an offset is UTC. Money
is in cents: `amountPaid` is the amount that an order collected, and each payment, refund and void has its own event.
Every event has the id of the shop next to the other ids. `GET customers/ID` returns the customer.

From memory: the numbers and the full list of the statuses, `appointmentStartTime`, `completedDate`, `deletedDate`, and the
customer's `okForMarketing`, and that `GET repair-orders/ID` returns the order in the format of the events. Appointments
have events, too, but their format and their link to an order are unknown: a visit is an order. It counts as completed
when it is Complete or posted, at the date in the order, or else at the time of the first event that shows it. An
estimate without an appointment is not a visit yet.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import BearerAuth, Event, Ignored, PathToken, Payload, RecordRequest, Source

SETUP = """
1. Set HOOKS__TEKMETRIC__SECRETS to a word that you choose, and SECRET_KEY to 32 random characters or more. Restart.
2. In Tekmetric, open the shop's settings, Integrations, Webhooks, paste {url} and select the events of repair orders
   (status updated, posted, unposted, sent to A/R, completed, deleted, work approved) and payments (made, voided,
   refunded).
3. Ask Tekmetric for API credentials, and exchange them once: POST grant_type=client_credentials, with the client's id
   and secret as HTTP Basic, to https://shop.tekmetric.com/api/v1/oauth/token. That token does not expire: set it as
   HOOKS__TEKMETRIC__CREDENTIALS__TOKEN. For the sandbox, set HOOKS__TEKMETRIC__API_URL to
   https://sandbox.tekmetric.com/api/v1
4. If several shops use this URL, set HOOKS__TEKMETRIC__TENANTS to the shopId of yours.

Tekmetric signs nothing: anyone who knows the URL can send orders. Customers who are not OK for marketing get no review
request. An order without an appointment has no time before it is completed. If that takes more than a day, the visit
needs attention until then. There are no no-shows: delete the order.
"""

SOURCE = Source(
    title="Tekmetric",
    docs="https://www.tekmetric.com",
    credential_help={
        "TOKEN": ("API token", "Ask Tekmetric for API credentials, and exchange them once, as the steps describe."),
    },
    evidence="none",
    signature=PathToken(),
    setup=SETUP,
    event_name_path=(),  # a sentence with people's names in it
    event_name=lambda event: _name(event),
    tenant_of=lambda event: event.data.at("data", "shopId").text(),
    api_url="https://shop.tekmetric.com/api/v1",
    credentials=BearerAuth("TOKEN"),
)

#: By code or name (in upper case, without spaces and punctuation), or by number.
STATUSES = {
    **dict.fromkeys(("ESTIMATE", "SAVEDFORLATER", "1", "4"), "estimate"),
    **dict.fromkeys(("WORKINPROGRESS", "INPROGRESS", "WIP", "2"), "open"),
    **dict.fromkeys(("COMPLETE", "COMPLETED", "INVOICED", "ACCOUNTSRECEIVABLE", "3", "5", "6"), "done"),
    **dict.fromkeys(("DELETED", "7"), "deleted"),
}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer unless the visit is cancelled; after a refund or a void, fetch the order."""
    data = event.data.at("data")
    if _is_payment(event):
        order_id = data.at("repairOrderId")
        return [RecordRequest(f"repair-orders/{order_id.required_id()}")] if order_id and _reversal(event) else []
    if not _is_order(event) or not data.at("customerId"):
        return []
    status = _status(event)
    is_visit = status == "done" or (status != "deleted" and data.at("appointmentStartTime"))
    return [RecordRequest(f"customers/{data.at('customerId').required_id()}")] if is_visit else []


def translate(event: Event) -> list[VisitChange] | Ignored:
    if _is_payment(event):
        return _payment(event)
    return _order(event) if _is_order(event) else Ignored(_topic(event))


def _order(event: Event) -> list[VisitChange] | Ignored:
    order, status = event.data.at("data"), _status(event)
    start = order.at("appointmentStartTime").time(UTC)
    if status == "estimate" and not start:
        return Ignored("estimate")
    updated_at = order.at("updatedDate").time(UTC) or _posted(order) or order.at("updatedDate").required_time(UTC)
    is_deleted = status == "deleted"
    return [
        VisitChange(
            action="cancel" if is_deleted else "update",
            visit_id=f"{_shop(order)}:{order.at('id').required_text()}",
            version=unix_microseconds(updated_at),
            contact=_contact(event.record) if event.record else None,
            time_scheduled=start or UNSET,
            time_completed=(_posted(order) or updated_at) if status == "done" else None,
            amount_collected=_paid(order),
            date_cancelled=(order.at("deletedDate").time(UTC) or updated_at) if is_deleted else None,
            opted_out=_opted_out(event.record),
            times_are_observed=True,
        )
    ]


def _payment(event: Event) -> list[VisitChange] | Ignored:
    """Return the change for a payment. Refund and void get another id, since both may have the payment's id."""
    paid, reversal = event.data.at("data"), _reversal(event)
    if not paid.at("repairOrderId"):
        return Ignored("a payment without an order")
    amount = paid.at("amount").amount(100)
    if amount is None:
        raise paid.at("amount").unexpected("an amount in cents")
    dates = (paid.at(name).time(UTC) for name in ("updatedDate", "paymentDate", "createdDate"))
    change = VisitChange(
        action="update",
        visit_id=f"{_shop(paid)}:{paid.at('repairOrderId').required_text()}",
        version=unix_microseconds(next(filter(None, dates), event.received_at)),
        payment_id=f"{paid.at('id').required_text()} {reversal}".strip(),
        amount_collected=-abs(amount) if reversal else amount,
    )
    return [change, *_total(event, change)]


def _total(event: Event, payment: VisitChange) -> list[VisitChange]:
    """Return the order's total after a refund: without it, the old total would exceed the sum of the payments."""
    if not event.record or not event.fetched_at:
        return []
    updated_at, paid = event.record.at("updatedDate").time(UTC), _paid(event.record)
    version = unix_microseconds(updated_at) if updated_at else payment.version
    observed_at = unix_microseconds(event.fetched_at)
    return (
        [replace(payment, version=version, observed_at_us=observed_at, payment_id=None, amount_collected=paid)]
        if paid is not UNSET
        else []
    )


def _reversal(event: Event) -> str:
    paid, sentence = event.data.at("data"), _sentence(event)
    is_refund = paid.at("refund").boolean() or "refund" in sentence
    return "voided" if paid.at("voided").boolean() or " void" in sentence else "refunded" if is_refund else ""


def _sentence(event: Event) -> str:
    return event.data.at("event").required_text().lower()


def _is_payment(event: Event) -> bool:
    data = event.data.at("data")
    return bool(_sentence(event).startswith(("payment", "refund")) or data.at("payerName") or data.at("paymentDate"))


def _is_order(event: Event) -> bool:
    data = event.data.at("data")
    if _is_payment(event) or data.at("repairOrderId"):
        return False
    return bool(data.at("repairOrderStatus") or data.at("repairOrderNumber") or _topic(event) == "repair order")


def _topic(event: Event) -> str:
    """Return the subject of the sentence, from a fixed list: the sentence itself names people."""
    topics = ("inspection", "purchase order", "appointment", "estimate", "repair order", "customer", "vehicle")
    return next((topic for topic in topics if topic in _sentence(event)), "something else")


VERBS = (
    "status updated", "unposted", "posted", "sent to a/r", "approved", "declined", "marked complete", "completed", "deleted",
    "voided", "refunded", "issued", "made", "created", "updated",
)  # fmt: skip


def _name(event: Event) -> str:
    """Return a name such as `repair_order.posted`. It is made of words from fixed lists, so it names nobody."""
    sentence = _sentence(event)
    topic = "refund" if sentence.startswith("refund") else "payment" if _is_payment(event) else _topic(event)
    verb = next((words for words in VERBS if re.search(rf"\b{words}\b", sentence)), "")
    return re.sub("[^a-z.]", "_", f"{topic}.{verb}".strip("."))


def _status(event: Event) -> str:
    order, sentence = event.data.at("data"), _sentence(event)
    status = order.at("repairOrderStatus")
    if order.at("deletedDate") or re.match(r"repair order\b.* deleted\b", sentence):
        return "deleted"
    if not status:
        return _status_in_sentence(event, sentence)
    for name in ("code", "name", "id"):
        word = re.sub("[^A-Z0-9]", "", (status.at(name).text() or "").upper())
        if normalized := "done" if word.startswith("POSTED") else STATUSES.get(word):
            return normalized
    raise status.unexpected("a repair order's status that Tekmetric has")


def _status_in_sentence(event: Event, sentence: str) -> str:
    if re.search(r" unposted\b| approved\b", sentence):
        return "open"
    if re.search(r" (posted|invoiced|completed)\b| sent to a/r\b| marked complete\b", sentence):
        return "done"
    raise event.data.at("data", "repairOrderStatus").unexpected("a repair order's status")


def _posted(order: Payload) -> datetime | None:
    return order.at("completedDate").time(UTC) or order.at("postedDate").time(UTC)


def _paid(order: Payload) -> Decimal | None | Unset:
    paid = order.at("amountPaid").amount(100)
    return UNSET if paid is None else paid or None


def _shop(data: Payload) -> str:
    """Return the shop's id. Some events have shop 0, which is not a shop."""
    shop = data.at("shopId").required_text()
    if shop == "0":
        raise data.at("shopId").unexpected("a shop's id")
    return shop


def _contact(customer: Payload) -> Contact:
    emails = customer.at("email")
    email = next(iter(emails), Payload(None)) if isinstance(emails.value, list) else emails
    return Contact(
        email=email.text(),
        first_name=customer.at("firstName").text(),
        last_name=customer.at("lastName").text(),
        phone=_phone(customer.at("phone")),
    )


def _phone(phones: Payload) -> str | None:
    """Return the phone number: a text, or the primary one of a list."""
    if not isinstance(phones.value, list):
        return phones.text()
    ranked = sorted(phones, key=lambda phone: phone.at("primary").value is not True)
    return next((phone.at("number").text() for phone in ranked), None)


def _opted_out(customer: Payload | None) -> bool | Unset:
    accepts_marketing = customer.at("okForMarketing").boolean() if customer else None
    return UNSET if accepts_marketing is None else not accepts_marketing
