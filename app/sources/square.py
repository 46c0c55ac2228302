"""Square Bookings: the booking is in the event, its customer has to be fetched.

From https://developer.squareup.com/docs/bookings-api/use-webhooks, the reference of `booking.updated`, and the types
and webhook helper of https://github.com/square/square-python-sdk: there are `booking.created` and `booking.updated`,
and what happened is in `booking.status`; a cancel is an update. The booking's id stays, its `version` rises with every
change and orders the events, which come in any order and more than once; `data.id` is another id, with the version in
it. Square signs the address exactly as it was pasted, then the body. `event_id` is the same on every retry.

PENDING is a request that the seller has not accepted, so there is no appointment and nobody to ask for a review. A new
one means nothing to us until it is ACCEPTED. A later one takes back what may have been agreed before (the customer asks
for another time): the visit is held back like a cancelled one, and the next ACCEPTED, being a higher version, restores
it. Whether Square turns an accepted booking into PENDING again is not documented; if it does not, this cancels nothing.

A customer's details have no version of their own: they are told as of the booking's, and of that as of their fetch.
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
2. Set PUBLIC_URL, for Square signs the address. Then, in Webhooks, Subscriptions, add {url}, exactly so: one slash more
   at its end and every signature is refused.
3. Tick booking.created and booking.updated, nothing else. Copy the signature key into HOOKS__SQUARE__SECRETS. When
   Square renews that key, the old one stops at once.
4. For the sandbox, set HOOKS__SQUARE__API_URL to https://connect.squareupsandbox.com/v2/ and use its token and key.

Square does not tell when an appointment is over, so a review request counts from its start; and nothing links a payment
to a booking, so no money is reported. Customers who unsubscribed from the seller's e-mails are not asked for a review.
A booking without a customer (a walk-in) waits for one, and is parked after a day.
"""


def _event_id(event: Event) -> str | None:
    found = event.data.at("event_id").value
    return found if isinstance(found, str) and found else None


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
    """The customer, where the booking stands: what ends a booking gets through without Square's API."""
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
    """Square writes no other time of a cancel or a no-show."""
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
    """`email_unsubscribed`: the customer opted out of this seller's e-mail marketing, or of all sellers'."""
    said = event.record.at("customer", "preferences", "email_unsubscribed").boolean() if event.record else None
    return UNSET if said is None else said
