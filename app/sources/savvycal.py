"""SavvyCal: events, their approval, and the payment at their checkout. https://savvycal.com/docs/api/webhooks

From that page, "Webhook Payloads" and "Event" beside it, and https://developers.savvycal.com/api/schemas/event: every
payload of an event is the whole event; its id stays when it moves, and `occurred_at` orders. What an event has come to
is in `state`, and that is what is read, since the page's own example of `event.approved` calls itself
`event.requested`; only what ends an event does so whatever its state. The signature is hexadecimal in capitals.

What waits for the organizer's approval or for the checkout is no appointment yet. Where one that was agreed on waits
again (it was moved, and the new time wants approval), it is held back like a cancelled one until it is confirmed.

`amount_total` is in cents; no currency is told, and should one come (`payment.currency`) it is heeded. Second-hand: the
state `awaiting_reschedule`, and that `event.attendee.…` carries the attendee alone, without the event.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.delivery import Event
from app.reading import Json, smallest_units
from app.signatures import Hmac
from app.sources import Ignored, Source
from app.visits.words import UNSAID, Action, Contact, Unsaid, VisitChange, microseconds

SETUP = """
1. In SavvyCal, open Settings, Integrations, and press + beside Webhooks. Paste {url}. If you are asked which events, tick
   all that begin with `event.`; whatever else comes is ignored here.
2. Copy the signing secret that is shown beside the webhook and set it as HOOKS__SAVVYCAL__SECRETS.

SavvyCal tells neither completions nor no-shows, so a review request counts from the start; of money it tells what is
paid at the checkout. A group session is one visit, of whoever booked it: attendees who join or leave are not told apart.
"""


def _payload_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="SavvyCal",
    docs="https://savvycal.com/docs/api/webhooks",
    evidence="second-hand",
    signature=Hmac(header="x-savvycal-signature", forgiving=True),
    setup=SETUP,
    repeat_key=_payload_id,
)

#: The events whose payload is an event of the calendar, and the state that each leaves it in, where it says none.
KINDS = {
    "event.created": "confirmed",
    "event.requested": "awaiting_approval",
    "event.approved": "confirmed",
    "event.declined": "declined",
    "event.rescheduled": "confirmed",
    "event.changed": "confirmed",
    "event.canceled": "canceled",
    "event.checkout.pending": "awaiting_checkout",
    "event.checkout.expired": "checkout_expired",
    "event.checkout.completed": "confirmed",
}
FIRST = {"event.created", "event.requested", "event.checkout.pending"}
OFF = {"canceled", "cancelled", "declined", "checkout_expired", "awaiting_reschedule"}
WAITING = {"awaiting_approval", "awaiting_checkout"}
STANDS = {"confirmed", "tentative"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("type").needed_text(), event.data.at("payload")
    if kind not in KINDS:
        return Ignored(kind)
    state, happened_at = _state(kind, booking), event.data.at("occurred_at").needed_moment()
    if state in WAITING and kind in FIRST and not booking.at("rescheduled_at"):
        return Ignored(f"{kind}: {state}")
    known = VisitChange(
        action="update",
        visit_id=booking.at("id").needed_text(),
        order=microseconds(happened_at),
        contact=_contact(booking),
        amount_collected=_collected(kind, booking.at("payment")),
    )
    if state in STANDS:
        action: Action = "create" if kind == "event.created" else "update"
        start = booking.at("start_at").needed_moment()
        return [replace(known, action=action, time_scheduled=start, date_cancelled=None)]
    return [
        replace(
            known,
            action="cancel",
            time_scheduled=booking.at("start_at").moment() or UNSAID,
            date_cancelled=_ended_at(state, booking) or happened_at,
        )
    ]


def _state(kind: str, booking: Json) -> str:
    if KINDS[kind] in OFF:
        return KINDS[kind]
    state = (booking.at("state").text() or KINDS[kind]).lower()
    if state not in OFF | WAITING | STANDS:
        raise booking.at("state").surprise("an event's state that SavvyCal documents")
    return state


def _ended_at(state: str, booking: Json) -> datetime | None:
    return booking.at("canceled_at").moment() if state in ("canceled", "cancelled") else None


def _collected(kind: str, payment: Json) -> Decimal | Unsaid:
    if kind != "event.checkout.completed" and payment.at("state").text() != "paid":
        return UNSAID
    return payment.at("amount_total").amount(smallest_units(payment.at("currency").text())) or UNSAID


def _contact(booking: Json) -> Contact | None:
    """Whoever booked; where nobody did (a poll, or the organizer), the first attendee who is not the organizer."""
    people = [booking.at("scheduler"), *booking.at("attendees")]
    guests = [one for one in people if one.at("email").text() and not one.at("is_organizer").flag()]
    if not guests:
        return None
    guest = guests[0]
    first, last = guest.at("first_name").text(), guest.at("last_name").text()
    if not (first or last):
        first, last = [*(guest.at("display_name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        email=guest.at("email").text(), first_name=first, last_name=last, phone=guest.at("phone_number").text()
    )
