"""Square Bookings: the booking is in the event, its customer must be fetched.

From https://developer.squareup.com/docs/bookings-api/use-webhooks, the reference of `booking.updated`, and the types
and webhook helper of https://github.com/square/square-python-sdk: there are `booking.created` and `booking.updated`,
and `booking.status` says what happened; a cancel is an update. The booking's id does not change, and its `version` rises
with every change and orders the events, which are unordered and repeated; `data.id` is another id that includes the
version. Square signs the address exactly as it was pasted, then the body. `event_id` is the same on every retry.

PENDING is a request that the seller has not accepted: it is not an appointment yet. A new request is ignored until it is
ACCEPTED. If an accepted booking becomes PENDING again (the customer asks for another time), the visit is cancelled, and the
next ACCEPTED, with a higher version, restores it. It is not documented whether that happens.

A customer's details have no version: they get the version of the booking, and the time of their fetch orders them.
"""

import re
from datetime import datetime

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In Square's Developer Console, open your application, Production, and copy its access token into
   HOOKS__SQUARE__CREDENTIALS__TOKEN. With OAuth instead, the token needs APPOINTMENTS_READ and APPOINTMENTS_ALL_READ
   (all bookings, not only those that the application made) and CUSTOMERS_READ.
2. Set PUBLIC_URL, because Square signs the address. Then, in Webhooks, Subscriptions, add exactly {url}: with another slash
   at the end, every signature is invalid.
3. Select only booking.created and booking.updated. Copy the signature key into HOOKS__SQUARE__SECRETS. When Square renews
   that key, the old one becomes invalid at once.
4. For the sandbox, set HOOKS__SQUARE__API_URL to https://connect.squareupsandbox.com/v2/ and use its token and key.

Square does not send the end of an appointment, so a review request counts from its start. Nothing links a payment to a
booking, so visits have no amounts. Customers who unsubscribed from the seller's e-mails get no review request. The visit of
a booking without a customer (a walk-in) waits for one, and is parked after a day.
"""


def _event_id(event: Event) -> str | None:
    event_id = event.data.at("event_id").value
    return event_id if isinstance(event_id, str) and event_id else None


SOURCE = Source(
    title="Square Appointments",
    docs="https://developer.squareup.com/docs/bookings-api/use-webhooks",
    signature=Hmac(header="x-square-hmacsha256-signature", signs="{url}{body}", encoding="base64"),
    setup=SETUP,
    evidence="vendor",
    repeat_key=_event_id,
    api_url="https://connect.squareup.com/v2/",
    credentials=BearerAuth("TOKEN"),
    api_headers={"Square-Version": "2025-07-16"},
)

ACTIONS: dict[str, Action] = {"booking.created": "create", "booking.updated": "update"}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer of an accepted booking; a cancel does not depend on Square's API."""
    booking = _booking(event)
    if _kind(event) not in ACTIONS or booking.at("status").text() != "ACCEPTED":
        return []
    customer_id = booking.at("customer_id").text() or ""
    return [RecordRequest(f"customers/{customer_id}")] if re.fullmatch("[A-Za-z0-9_-]{1,191}", customer_id) else []


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = _kind(event)
    action = ACTIONS.get(kind)
    if action is None:
        return Ignored(kind)
    booking = _booking(event)
    visit_id, version = booking.at("id").required_text(), booking.at("version").required_integer()
    status = booking.at("status")
    # https://developer.squareup.com/reference/square/enums/BookingStatus
    match status.text():
        case "ACCEPTED":
            return [
                VisitChange(
                    action=action,
                    visit_id=visit_id,
                    version=version,
                    observed_at_us=unix_microseconds(event.fetched_at) if event.fetched_at else 0,
                    contact=_contact(event),
                    time_scheduled=booking.at("start_at").required_time(),
                    date_cancelled=None,
                    no_show=None,
                    opted_out=_opted_out(event),
                )
            ]
        case "NO_SHOW":
            missed = _updated_at(booking)
            return [VisitChange(action=action, visit_id=visit_id, version=version, date_cancelled=None, no_show=missed)]
        case "PENDING" if kind == "booking.created":
            return Ignored("not accepted yet")
        case "PENDING" | "CANCELLED_BY_CUSTOMER" | "CANCELLED_BY_SELLER" | "DECLINED":
            ended = _updated_at(booking)
            return [VisitChange(action="cancel", visit_id=visit_id, version=version, date_cancelled=ended)]
    raise status.unexpected("a booking's status that Square documents")


def _kind(event: Event) -> str:
    return event.data.at("type").required_text()


def _booking(event: Event) -> Payload:
    return event.data.at("data", "object", "booking")


def _updated_at(booking: Payload) -> datetime:
    """Return the time of a cancel or a no-show: Square has no other time for it."""
    return booking.at("updated_at").required_time()


def _contact(event: Event) -> Contact | None:
    if event.record is None:
        return None
    customer = event.record.at("customer")
    return Contact(
        email=customer.at("email_address").text(),
        first_name=customer.at("given_name").text(),
        last_name=customer.at("family_name").text(),
        phone=customer.at("phone_number").text(),
    )


def _opted_out(event: Event) -> bool | Unset:
    """Return `email_unsubscribed`: the customer opted out of e-mail marketing of this seller, or of all sellers."""
    unsubscribed = event.record.at("customer", "preferences", "email_unsubscribed").boolean() if event.record else None
    return UNSET if unsubscribed is None else unsubscribed
