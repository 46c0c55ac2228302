"""OnceHub (ScheduleOnce): bookings, their end, and no-shows.

From https://developers.oncehub.com/docs, the vendor's https://github.com/scheduleonce/developer-center (docs/webhooks,
openapi) and its help center: the header's signature is called `s` and covers the time, a dot and the body; `creation_time`
next to the booking is when the event happened, in milliseconds, and orders. `amount_charged` is in the currency's smallest
unit. Nothing is sent for a request until the host approves it.

A move on the same page does not change the booking's id. A move to another page, or after the host asked for it, is a new
booking with the old id in `rescheduled_booking_id` (empty if there is none). The cancelled half of such a move,
`canceled_then_rescheduled`, is not a cancel, and has nothing that the new booking does not have. The reference does not say
whether that half may describe the new booking, with the link, so a link is used in every event. When the host asks for
another time, the old time is cancelled and no new time is known: the visit is cancelled until the new booking restores it.
It is inferred that webhooks follow these rules: the vendor documented them for Zapier, with the same names.

`owner`, `booking_calendar` and `conversation` are sometimes ids and sometimes objects; none of them is read.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, minor_units
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In OnceHub, open the gear menu, Account integrations, "API and webhooks", and add a webhook with the address {url} and
   all booking events (the event `booking` of the API means all of them). Do not select conversations.
2. Press "View secret" next to it and set the secret as HOOKS__ONCEHUB__SECRETS. A webhook without that button was created
   by version 1 of the API and is not signed: create it again.
3. After about three days of failures OnceHub disables a webhook: then enable it again there.

A booking counts as completed at its planned end, when OnceHub sends an event, unless the host sets it to No-show. OnceHub
sends payments only for booking calendars with Stripe, and no refunds. If a booking form does not ask for the e-mail
address, its visits wait for one, and are parked after a day.
"""


def _event_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="OnceHub",
    docs="https://developers.oncehub.com/docs/webhooks/webhook-signatures",
    evidence="second-hand",
    signature=Hmac(header="Oncehub-Signature", fields=("t", "s"), signs="{t}.{body}"),
    setup=SETUP,
    repeat_key=_event_id,
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("type").required_text(), event.data.at("data")
    match kind:
        case "booking.scheduled" | "booking.rescheduled":
            return [_booked(event, booking)]
        case "booking.canceled_then_rescheduled" if _previous_id(booking):
            return [_booked(event, booking)]
        case "booking.canceled_reschedule_requested" | "booking.canceled" | "booking.cancelled":
            return [replace(_base_change(event, booking), action="cancel", date_cancelled=_happened_at(event))]
        case "booking.completed":
            ended_at = _ended_at(booking) or _happened_at(event)
            return [replace(_base_change(event, booking), time_completed=ended_at, date_cancelled=None, no_show=None)]
        case "booking.no_show":
            return [replace(_base_change(event, booking), date_cancelled=None, no_show=_happened_at(event))]
        case "booking.reassigned":
            return [_base_change(event, booking)]
    return Ignored(kind)


def _base_change(event: Event, booking: Payload) -> VisitChange:
    return VisitChange(
        action="update",
        visit_id=booking.at("id").required_text(),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_previous_id(booking),
        contact=_contact(booking.at("form_submission")),
        time_scheduled=booking.at("starting_time").time() or UNSET,
        amount_collected=_charged(booking.at("payment_information")),
        currency=booking.at("payment_information", "currency").currency(),
    )


def _booked(event: Event, booking: Payload) -> VisitChange:
    return replace(
        _base_change(event, booking),
        action="create",
        time_scheduled=booking.at("starting_time").required_time(),
        time_completed=None,
        date_cancelled=None,
        no_show=None,
    )


def _happened_at(event: Event) -> datetime:
    return event.data.at("creation_time").required_time()


def _previous_id(booking: Payload) -> str | None:
    previous_id = booking.at("rescheduled_booking_id").text()
    return None if previous_id == booking.at("id").text() else previous_id


def _ended_at(booking: Payload) -> datetime | None:
    """Return the end of the booking, from its start and its duration."""
    start, minutes = booking.at("starting_time").time(), booking.at("duration_minutes")
    if start is None or minutes.integer() is None:
        return None
    try:
        return start + timedelta(minutes=minutes.integer() or 0)
    except OverflowError:
        raise minutes.unexpected("the minutes that a meeting takes") from None


def _charged(payment: Payload) -> Decimal | Unset:
    return payment.at("amount_charged").amount(minor_units(payment.at("currency").text())) or UNSET


def _contact(form: Payload) -> Contact | None:
    """Return None if the form is null: `attendees` has addresses, but does not show which one is the customer's."""
    first, last = [*(form.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    phone = form.at("mobile_phone").text() or form.at("phone").text()
    return Contact(email=form.at("email").text(), first_name=first, last_name=last, phone=phone) if form else None
