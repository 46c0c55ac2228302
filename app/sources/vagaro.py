"""Vagaro: appointments of salons and studios, and their payments. The customer must be fetched.

https://docs.vagaro.com/public/docs/webhook-events and the other pages of that site: `id` is the same on every retry,
`createdDate` (in one example `createdAt`) is when it happened; events may be repeated, and are unordered.
`X-Vagaro-Signature` is not a signature but the webhook's token. Vagaro does not retry after 400, 401, 403, 404 and 406;
it retries five times in 15 minutes after other failures. `bookingStatus` shows what happened, and the id does not
change when an appointment is moved. A transaction is one item of a sale, with the amount of each payment method;
redeemed packages and gift cards were paid for earlier.

`Need Acceptance` is a request that the business has not accepted: a new request is ignored; a later one cancels the
visit until it is accepted. A status has no time, so it gets the time of the first event that shows it.

Second-hand, from integrators: the API (POST `customers`, the header `accessToken`, `data` in its responses) and its
tokens of an hour; ids in base64. Not documented: whether `ccAmount` includes the tip (an example suggests so), and the
sign of a refund.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Contact, VisitChange, unix_microseconds
from app.webhooks import ApiKeyAuth, Event, HeaderToken, Ignored, Payload, RecordRequest, Source, TokenExchange

SETUP = """
1. In Vagaro, open Settings, Developers, APIs & Webhooks (an add-on that Vagaro must approve), Webhooks, Create Webhook.
2. Paste {url}, select Appointments and Transactions, and choose the locations. Copy the verification token into
   HOOKS__VAGARO__SECRETS.
3. Under APIs, create credentials that may read customers, and set them as HOOKS__VAGARO__CREDENTIALS__CLIENT_ID and
   …__CLIENT_SECRET.
4. Set HOOKS__VAGARO__API_URL to https://api.vagaro.com/us02/api/v2 with your own region instead of us02. For another
   region, set HOOKS__VAGARO__TOKEN_URL to the same URL followed by /merchants/generate-access-token.
5. If several businesses use this URL, set HOOKS__VAGARO__TENANTS to the businessId of yours.

Vagaro's token proves the sender, but does not protect the body. An appointment is completed when its status is Service
Complete. The visit of a walk-in without a customer waits for one, and needs attention after a day. Vagaro does not send
opt-outs.
"""

SOURCE = Source(
    title="Vagaro",
    is_common=True,
    docs="https://docs.vagaro.com/public/docs/webhook-events",
    credential_help={
        "CLIENT_ID": (
            "Client ID",
            "In Vagaro: Settings, Developers, APIs & Webhooks, APIs. The credentials must be allowed to read customers.",
        ),
        "CLIENT_SECRET": ("Client secret", "In the same place."),
    },
    evidence="second-hand",
    retries="yes",
    signature=HeaderToken("X-Vagaro-Signature"),
    setup=SETUP,
    repeat_key=lambda event: event.data.at("id").text(),
    tenant_of=lambda event: event.data.at("payload", "businessId").text(),
    required_settings=("API_URL",),
    api_url="",
    credentials=ApiKeyAuth(headers={"accessToken": "TOKEN"}),
    token_exchange=TokenExchange(
        "https://api.vagaro.com/us02/api/v2/merchants/generate-access-token",
        ("CLIENT_ID", "CLIENT_SECRET"),
        json={"clientId": "{CLIENT_ID}", "clientSecretKey": "{CLIENT_SECRET}", "scope": "read access"},
        token_path=("data", "access_token"),
    ),
)

OPEN = {"accepted", "awaiting confirmation", "confirmed", "ready to start", "service in progress", "show"}
CANCELLED = {"cancel", "canceled", "cancelled", "deleted", "denied"}
REQUESTED, MISSED, DONE = "need acceptance", "no show", "service complete"
PAID = (
    *("ccAmount", "cashAmount", "checkAmount", "achAmount"),
    *("bankAccountAmount", "vagaroPayLaterAmount", "otherAmount"),
)


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer unless the appointment is cancelled or missed."""
    if _kind(event) != "appointment" or _status(event) not in OPEN | {DONE}:
        return []
    payload = event.data.at("payload")
    customer, business = (_id(payload.at(name)) for name in ("customerId", "businessId"))
    if not customer:
        return []
    body = {"businessId": business, "customerId": customer} if business else {"customerId": customer}
    return [RecordRequest(f"customers/{customer.replace('/', '~')}", endpoint="customers", json=body)]


def translate(event: Event) -> list[VisitChange] | Ignored:
    match _kind(event):
        case "appointment":
            return _appointment(event)
        case "transaction":
            return _transaction(event)
    return Ignored(_kind(event))


def _appointment(event: Event) -> list[VisitChange] | Ignored:
    payload, status, happened_at = event.data.at("payload"), _status(event), _happened_at(event)
    is_new = event.data.at("action").required_text() == "created"
    if status == "personaloff":
        return Ignored("PersonalOff")
    if status == REQUESTED and is_new:
        return Ignored("not accepted yet")
    is_cancelled, start = status in CANCELLED | {REQUESTED}, payload.at("startTime")
    return [
        VisitChange(
            action="cancel" if is_cancelled else "create" if is_new else "update",
            visit_id=payload.at("appointmentId").required_text(),
            version=unix_microseconds(happened_at),
            contact=_contact(event),
            time_scheduled=start.required_time() if status in OPEN else start.time() or UNSET,
            time_completed=happened_at if status == DONE else None,
            date_cancelled=happened_at if is_cancelled else None,
            no_show=happened_at if status == MISSED else None,
            times_are_observed=True,
        )
    ]


def _transaction(event: Event) -> list[VisitChange] | Ignored:
    payload = event.data.at("payload")
    appointment, item = payload.at("appointmentId").text(), payload.at("userPaymentId")
    if appointment is None:
        return Ignored("a sale without an appointment")
    amounts = [amount for amount in _amounts(payload) if amount is not None]
    is_deleted = event.data.at("action").text() == "deleted"
    if not amounts and not is_deleted:
        raise payload.at("ccAmount").unexpected("an amount")
    paid, is_refund = sum(amounts, Decimal()), (payload.at("purchaseType").text() or "").lower() == "refund"
    return [
        VisitChange(
            action="update",
            visit_id=appointment,
            version=unix_microseconds(_happened_at(event)),
            payment_id=item.text() or payload.at("transactionId").required_text(),
            amount_collected=None if is_deleted else -abs(paid) if is_refund else paid,
        )
    ]


def _kind(event: Event) -> str:
    return event.data.at("type").required_text()


def _happened_at(event: Event) -> datetime:
    return event.data.at("createdAt").time() or event.data.at("createdDate").required_time()


def _status(event: Event) -> str:
    """Return the status in lower case. One list of the vendor has `Service Completed`."""
    if event.data.at("action").required_text() == "deleted":
        return "deleted"
    field = event.data.at("payload", "bookingStatus")
    status = field.required_text().lower()
    if status.startswith(DONE):
        return DONE
    if status not in OPEN | CANCELLED | {REQUESTED, MISSED, "personaloff"}:
        raise field.unexpected("an appointment's status that Vagaro documents")
    return status


def _id(field: Payload) -> str | None:
    """Return an id, which is usually base64."""
    id = field.text()
    if id and not re.fullmatch("[A-Za-z0-9+/=_-]{1,191}", id):
        raise field.unexpected("an id")
    return id


def _amounts(payload: Payload) -> Iterator[Decimal | None]:
    return (payload.at(name).amount() for name in PAID)


def _contact(event: Event) -> Contact | None:
    if event.record is None:
        return None
    customer = event.record.at("data") or event.record
    return Contact(
        email=customer.at("email").text(),
        first_name=customer.at("customerFirstName").text(),
        last_name=customer.at("customerLastName").text(),
        phone=customer.at("mobilePhone").text() or customer.at("dayPhone").text() or customer.at("nightPhone").text(),
    )
