"""Cal.com: bookings, their payments and no-shows, and the end of a meeting.

From https://cal.com/docs/developing/guides/automation/webhooks and Cal.com's own code (packages/features: webhooks,
bookings, ee/payments, handleMarkNoShow). `uid` names a booking; a reschedule is one event with a new `uid` and the old
one in `rescheduleUid`. `createdAt` is when the event happened, except in MEETING_ENDED: that is the booking as it was
saved when the meeting was booked, without a `payload` around it, so its `createdAt` is the booking's, and its attendees,
`noShow`, `paid` and `status` are as old. It comes at `endTime`, also when nobody came to the meeting.

Where the host confirms bookings, BOOKING_REQUESTED comes first and BOOKING_CREATED once it is confirmed: a request is
no visit yet. But a request to move an agreed booking (`rescheduleUid`) ends that one at once: Cal.com cancels it there,
without a BOOKING_CANCELLED. So the visit goes on under the new `uid`, held back like a cancelled one, since nobody
will come at the old time; BOOKING_CREATED of the new `uid`, which has no link of its own, restores it. "Request
reschedule" by the host is a cancel as well: no new time is known.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.delivery import Event
from app.reading import THOUSANDTHS, Json, smallest_units
from app.signatures import CHOSEN_KEY, Hmac
from app.sources import Ignored, Source
from app.visits.words import UNSAID, Contact, Unsaid, VisitChange, microseconds

SETUP = """
1. Make up a secret (32 random characters or more) and set it as HOOKS__CALCOM__SECRETS.
2. In Cal.com, open Settings, Developer, Webhooks, New. Paste {url} as the subscriber URL and the same secret. Without a
   secret Cal.com signs nothing, and we refuse everything.
3. Tick Booking created, rescheduled, cancelled, rejected, requested, paid and no-show updated, and Meeting ended. Leave
   the custom payload template off: it replaces the body that we read.
4. The ping test is answered 200 and otherwise ignored.

Cal.com hardly ever sends a delivery again: what is missed while we are away is lost. A meeting counts as completed at
its planned end, unless the attendee is marked as a no-show. A card that is only held is no money collected, and refunds
are not reported. An event type with seats has one booking for everybody in it, of whom we see one, and who cancels
cancels for all: give such event types no webhook.
"""

SOURCE = Source(
    title="Cal.com",
    docs="https://cal.com/docs/developing/guides/automation/webhooks",
    signature=Hmac(header="X-Cal-Signature-256", shortest_key=CHOSEN_KEY),
    setup=SETUP,
    evidence="vendor",
    event=("triggerEvent",),
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("triggerEvent").needed_text(), event.data.at("payload")
    match kind:
        case "BOOKING_CREATED":
            return [replace(_known(event), action="create", date_cancelled=None, no_show=None)]
        case "BOOKING_RESCHEDULED":
            # A meeting that "ended" although nobody came can still be moved: then it is not completed.
            return [replace(_known(event), action="create", time_completed=None, date_cancelled=None, no_show=None)]
        case "BOOKING_CANCELLED" | "BOOKING_REJECTED":
            return [replace(_known(event), action="cancel", date_cancelled=_happened_at(event))]
        case "BOOKING_REQUESTED" if _continues(booking):
            asked_at = _happened_at(event)
            return [replace(_bare(event), action="cancel", time_completed=None, date_cancelled=asked_at)]
        case "BOOKING_PAID":
            # Paid but not confirmed: the money is kept, and without a contact no visit is made of it.
            change = _bare(event) if booking.at("status").text() == "PENDING" else _known(event)
            return [replace(change, amount_collected=_paid(booking))]
        case "BOOKING_NO_SHOW_UPDATED":
            return _no_show(event, booking)
        case "MEETING_ENDED":
            return _ended(booking or event.data)
    return Ignored(kind)


def _bare(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return VisitChange(
        action="update",
        visit_id=booking.at("uid").needed_text(),
        order=microseconds(_happened_at(event)),
        continues=_continues(booking),
    )


def _known(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return replace(_bare(event), contact=_contact(booking), time_scheduled=booking.at("startTime").needed_moment())


def _ended(booking: Json) -> list[VisitChange]:
    """Two facts of two times: what was booked, and that its time is over."""
    visit_id, ended_at = booking.at("uid").needed_text(), booking.at("endTime").needed_moment()
    missed = _customer(booking).at("noShow").flag()  # `false` says nothing: it is from the time of booking.
    booked = VisitChange(
        action="update",
        visit_id=visit_id,
        order=microseconds(booking.at("createdAt").moment() or ended_at),
        continues=_continues(booking),
        contact=_contact(booking),
        time_scheduled=booking.at("startTime").moment() or UNSAID,
        amount_collected=_collected(booking.at("payment")) if booking.at("paid").flag() else UNSAID,
    )
    ended = VisitChange(
        action="update",
        visit_id=visit_id,
        order=microseconds(ended_at),
        time_completed=UNSAID if missed else ended_at,
        no_show=ended_at if missed else UNSAID,
    )
    return [booked, ended]


def _no_show(event: Event, booking: Json) -> list[VisitChange] | Ignored:
    """Only the attendees whose mark changed are named. Guests look like the customer there, so any of them counts."""
    marks = [attendee.at("noShow").flag() for attendee in booking.at("attendees")]
    if True not in marks and False not in marks:
        return Ignored("BOOKING_NO_SHOW_UPDATED: no attendee")
    missed_at = _happened_at(event)
    return [
        VisitChange(
            action="update",
            visit_id=booking.at("bookingUid").needed_text(),
            order=microseconds(missed_at),
            no_show=missed_at if True in marks else None,
        )
    ]


def _happened_at(event: Event) -> datetime:
    return event.data.at("createdAt").needed_moment()


def _continues(booking: Json) -> str | None:
    """MEETING_ENDED calls it `fromReschedule`. With seats, a booking may come from itself."""
    old = booking.at("rescheduleUid").text() or booking.at("fromReschedule").text()
    return None if old == booking.at("uid").text() else old


def _paid(booking: Json) -> Decimal | Unsaid:
    """The payment where it is there, else the event type's price.

    BOOKING_PAID also comes when a card is only held against a no-show; then the payment that `metadata` describes has
    no `externalId`, because none succeeded.
    """
    payment = booking.at("paymentData")
    if payment.at("success").flag() is not None:
        return _collected([payment])
    if booking.at("metadata", "identifier") and not booking.at("metadata", "externalId"):
        return UNSAID
    return _money(booking.at("price"), booking) or UNSAID


def _collected(payments: Iterable[Json]) -> Decimal | Unsaid:
    kept = [paid for paid in payments if paid.at("success").flag() and not paid.at("refunded").flag()]
    return sum((_money(paid.at("amount"), paid) for paid in kept), Decimal()) or UNSAID


def _money(amount: Json, beside: Json) -> Decimal:
    # Cal.com's own list (packages/lib/currencyConversions.ts) has no currencies with thousandths.
    return amount.amount(smallest_units(beside.at("currency").text(), but=THOUSANDTHS)) or Decimal()


def _customer(booking: Json) -> Json:
    """The attendee who booked: guests are attendees too, and in MEETING_ENDED the hosts of a team."""
    attendees, booker = list(booking.at("attendees")), _response(booking, "email")
    for attendee in attendees:
        if booker and _lower(attendee.at("email").text()) == _lower(booker):
            return attendee
    return attendees[0] if attendees else booking.at("attendees", "0")


def _lower(text: str | None) -> str:
    return (text or "").lower()


def _response(booking: Json, name: str) -> str | None:
    """An answer on the booking form; `{"label": …, "value": …}`, or in old MEETING_ENDED the value itself."""
    answer = booking.at("responses", name)
    return (answer.at("value") if isinstance(answer.value, dict) else answer).text()


def _contact(booking: Json) -> Contact:
    customer = _customer(booking)
    email = customer.at("email").text() or _response(booking, "email")
    first, last = customer.at("firstName").text(), customer.at("lastName").text()
    if not (first or last):
        first, last = [*(customer.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        # `15550100001@sms.cal.com` is made up for somebody who left a phone number only (contructEmailFromPhoneNumber).
        email=None if _lower(email).endswith("@sms.cal.com") else email,
        first_name=first,
        last_name=last,
        phone=customer.at("phoneNumber").text()
        or _response(booking, "attendeePhoneNumber")
        or booking.at("smsReminderNumber").text()
        or _response(booking, "smsReminderNumber"),
    )
