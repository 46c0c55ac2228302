"""Cal.com: bookings, their seats, payments and no-shows, and the end of a meeting.

From https://cal.com/docs/developing/guides/automation/webhooks and Cal.com's own code (packages/features: webhooks,
bookings, ee/payments, handleMarkNoShow). `uid` names a booking; a reschedule is one event with a new `uid` and the old
one in `rescheduleUid`. `createdAt` is when the event happened, except in MEETING_ENDED: that is the booking as it was
saved when the meeting was booked, without a `payload` around it, so its `createdAt` is the booking's, and its attendees,
`noShow`, `paid` and `status` are as old. It comes at `endTime`, also when nobody came to the meeting.

Where the host confirms bookings, BOOKING_REQUESTED comes first and BOOKING_CREATED once it is confirmed: a request is
no visit yet. But a request to move an agreed booking ends that one at once: Cal.com cancels it there, without a
BOOKING_CANCELLED. So the visit goes on under the new `uid`, held back like a cancelled one, since nobody will come at
the old time; BOOKING_CREATED of the new `uid` restores it. "Request reschedule" by the host is a cancel as well: no new
time is known.

Since Cal.com builds its webhooks from the database (WebhookTaskConsumer), neither BOOKING_REQUESTED nor the
BOOKING_CREATED after it has `rescheduleUid`. That it is a move shows in `iCalSequence`, which is 0 for a new booking and
rises with a move, or in the reason on the form (`responses.rescheduleReason`). `iCalUID` stays the same through moves and
is `<first uid>@Cal.com`, unless a connected calendar replaced it. Where the old booking cannot be told that way, the
delivery is parked, because the visit at the old time must be cancelled by hand.

A series that is cancelled at once is one BOOKING_CANCELLED, with the `uid` of one booking and `recurringEvent`. The others
are not named, so the delivery is parked; its own booking is cancelled all the same. WebhookTaskConsumer sends
`recurringEvent` with every cancel in a series, so a single one is parked too. Bookings with seats are cancelled one by one
(https://cal.com/docs/api-reference/v2/bookings/cancel-a-booking).

Seats (`seatsPerTimeSlot` above 1): several people share one `uid`, and each is a visit, named by the `uid` and a digest of
the address, which alone is in every kind of event. A seat's cancel lists its holder, a cancel by the host everybody. In a
move everybody who is listed moves, unless `rescheduledBy` is one of them. A move to another booking ends one visit and
begins another, without a link: its holder may come back to the first booking, and links that go round have no first visit.
What was paid for the seat stays with the visit that ended. An event type may get seats after a booking was made: then what
is told of a holder also ends their visit of the whole booking. Nobody's cancel is taken back by an event that merely lists
them. MEETING_ENDED and BOOKING_NO_SHOW_UPDATED need not say that a booking has seats: so the booking itself is kept from
being a visit by the events that do, and a no-show counts for the visit, of the booking or of the seat, that belongs to the
named address. That also leaves a guest's no-show without effect.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from app.visits.change import UNSET, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import THREE_DECIMAL_CURRENCIES, Payload, Untranslatable, minor_units
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.signatures.scheme import MIN_CHOSEN_SECRET_BYTES
from app.webhooks.source import Ignored, PartlyTranslatable, Source

SETUP = """
1. Make up a secret (32 random characters or more) and set it as HOOKS__CALCOM__SECRETS.
2. In Cal.com, open Settings, Developer, Webhooks, New. Paste {url} as the subscriber URL and the same secret. Without a
   secret Cal.com signs nothing, and we refuse everything.
3. Tick Booking created, rescheduled, cancelled, rejected, requested, paid and no-show updated, and Meeting ended. Leave
   the custom payload template off: it replaces the body that we read.
4. The ping test is answered 200 and otherwise ignored.

Cal.com hardly ever sends a delivery again: what is missed while we are away is lost. A meeting counts as completed at
its planned end, unless the attendee is marked as a no-show. A card that is only held is no money collected, and refunds
are not reported. Of an event type with seats every attendee is a visit; one without an e-mail address gets no request.

Some deliveries need an operator, since Cal.com does not tell enough: a move that the host has to confirm, where the old
booking is not named (cancel the old visit by hand); a cancelled booking of a series, because all that remain may have been
cancelled with it (cancel their visits too, if so); and a payment for one of several seats. A request to move that gives no
reason and no `iCalSequence` cannot be told from a new one.
"""

SOURCE = Source(
    title="Cal.com",
    docs="https://cal.com/docs/developing/guides/automation/webhooks",
    signature=Hmac(header="X-Cal-Signature-256", min_key_bytes=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    evidence="vendor",
    event_name_path=("triggerEvent",),
)

NO_OLD_BOOKING = (
    "a booking was moved, and the old one is not named: the visit at the old time must be cancelled by hand"
)
A_SERIES = "a booking of a series was cancelled, and all that remain may be too: they are not named"
A_SEAT_PAID = "a payment for one of several seats, and for which is not told"
NOBODY = "an attendee has neither an e-mail address nor a phone number to be told by"


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("triggerEvent").required_text()
    booking = event.data if kind == "MEETING_ENDED" and not event.data.at("payload") else event.data.at("payload")
    meaning = _seats(event, kind, booking) if _has_seats(booking) else _booking(event, kind, booking)
    if isinstance(meaning, Ignored):
        return meaning
    missing = _missing(kind, booking)
    if missing:
        raise PartlyTranslatable(missing, meaning)
    return meaning


def _missing(kind: str, booking: Payload) -> str | None:
    """What an operator has to see to, beside what the event says."""
    # A seat is taken in a booking that others may have moved: what says so is theirs.
    may_be_moved = kind == "BOOKING_REQUESTED" or (kind == "BOOKING_CREATED" and not _has_seats(booking))
    if kind == "BOOKING_RESCHEDULED" or (may_be_moved and _is_moved(booking)):
        return None if _old_uid(booking) else NO_OLD_BOOKING
    if kind == "BOOKING_CANCELLED" and _is_of_series(booking):
        return A_SERIES
    tells_apart = kind == "BOOKING_NO_SHOW_UPDATED" or _has_seats(booking)
    return NOBODY if tells_apart and _is_nameless(booking) else None


def _booking(event: Event, kind: str, booking: Payload) -> list[VisitChange] | Ignored:
    match kind:
        case "BOOKING_CREATED":
            return [replace(_known(event), action="create", date_cancelled=None, no_show=None)]
        case "BOOKING_RESCHEDULED":
            # A meeting that "ended" although nobody came can still be moved: then it is not completed.
            return [replace(_known(event), action="create", time_completed=None, date_cancelled=None, no_show=None)]
        case "BOOKING_CANCELLED" | "BOOKING_REJECTED":
            return [replace(_known(event), action="cancel", date_cancelled=_happened_at(event))]
        case "BOOKING_REQUESTED" if _is_moved(booking):
            asked_at = _happened_at(event)
            return [replace(_bare(event), action="cancel", time_completed=None, date_cancelled=asked_at)]
        case "BOOKING_PAID":
            # Paid but not confirmed: the money is kept, and without a contact no visit is made of it.
            change = _bare(event) if booking.at("status").text() == "PENDING" else _known(event)
            return [replace(change, amount_collected=_paid(booking))]
        case "BOOKING_NO_SHOW_UPDATED":
            return _marks(event, booking)
        case "MEETING_ENDED":
            return _ended(booking)
    return Ignored(kind)


def _bare(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return VisitChange(
        action="update",
        visit_id=booking.at("uid").required_text(),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_continues(booking),
    )


def _known(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return replace(_bare(event), contact=_contact(booking), time_scheduled=booking.at("startTime").required_time())


def _ended(booking: Payload) -> list[VisitChange]:
    """Two facts of two times: what was booked, and that its time is over."""
    visit_id, ended_at = booking.at("uid").required_text(), booking.at("endTime").required_time()
    missed = _customer(booking).at("noShow").boolean()  # `false` says nothing: it is from the time of booking.
    booked = VisitChange(
        action="update",
        visit_id=visit_id,
        version=unix_microseconds(booking.at("createdAt").time() or ended_at),
        previous_visit_id=_continues(booking),
        contact=_contact(booking),
        time_scheduled=booking.at("startTime").time() or UNSET,
        amount_collected=_collected(booking.at("payment")) if booking.at("paid").boolean() else UNSET,
    )
    ended = VisitChange(
        action="update",
        visit_id=visit_id,
        version=unix_microseconds(ended_at),
        time_completed=UNSET if missed else ended_at,
        no_show=ended_at if missed else UNSET,
    )
    return [booked, ended]


def _happened_at(event: Event) -> datetime:
    return event.data.at("createdAt").required_time()


# -- moves and series --


def _continues(booking: Payload) -> str | None:
    """With seats, a booking may come from itself."""
    old = _old_uid(booking)
    return None if old == booking.at("uid").text() else old


def _old_uid(booking: Payload) -> str | None:
    """The booking that this one was moved from, or one that came before that. MEETING_ENDED calls it `fromReschedule`."""
    named = (booking.at(name).text() for name in ("rescheduleUid", "fromReschedule", "rootBookingUid"))
    return next(filter(None, named), None) or _first_uid(booking)


def _first_uid(booking: Payload) -> str | None:
    """The `uid` before any move, where `iCalUID` still tells it."""
    found = _OF_CALCOM.fullmatch(str(booking.at("iCalUID").value or ""))
    if not found or not _was_moved_before(booking):
        return None
    return None if found[1] == booking.at("uid").text() else found[1]


_OF_CALCOM = re.compile(r"([A-Za-z0-9-]+)@cal\.com", re.IGNORECASE)


def _is_moved(booking: Payload) -> bool:
    return bool(_continues(booking) or _response(booking, "rescheduleReason") or _was_moved_before(booking))


def _was_moved_before(booking: Payload) -> bool:
    """Of seats it tells nothing: they share a calendar event."""
    if _has_seats(booking):
        return False
    sequence = booking.at("iCalSequence").value
    return isinstance(sequence, int) and sequence > 0


def _is_of_series(booking: Payload) -> bool:
    """May others have been cancelled with it? Not where they have seats, unless that is said."""
    together = [booking.at(name).boolean() for name in ("allRemainingBookings", "cancelSubsequentBookings")]
    may_be = booking.at("recurringEvent").value and not _has_seats(booking)
    return True in together or bool(may_be and False not in together)


# -- seats --


def _has_seats(booking: Payload) -> bool:
    """`seatsPerTimeSlot`, or else what only a booking with seats has."""
    for place in (booking, booking.at("eventType")):
        if (seats := place.at("seatsPerTimeSlot").integer()) is not None:
            return seats > 1
    held = [booking.at("attendeeSeatId").value, booking.at("seatsReferences").value]
    return any(held) or any(attendee.at("bookingSeat").value for attendee in booking.at("attendees"))


def _seats(event: Event, kind: str, booking: Payload) -> list[VisitChange] | Ignored:
    match kind:
        case "BOOKING_CREATED":
            return [*_taken(event, booking), _no_visit(event, booking)]
        case "BOOKING_RESCHEDULED":
            return [*_moved(event, booking), _no_visit(event, booking)]
        case "BOOKING_CANCELLED" | "BOOKING_REJECTED":
            seats, uid, happened_at = _holders(booking), booking.at("uid").required_text(), _happened_at(event)
            return [
                change
                for seat in seats
                for change in (
                    replace(seat.said(event), action="cancel", date_cancelled=happened_at),
                    *seat.from_before(uid, happened_at),
                )
            ]
        case "BOOKING_REQUESTED" if _is_moved(booking):
            seats, uids = _holders(booking), (booking.at("uid").text(), _continues(booking))
            return [change for seat in seats for uid in uids if uid for change in seat.given_up(event, uid)]
        case "BOOKING_PAID":
            return _seat_paid(event, booking)
        case "BOOKING_NO_SHOW_UPDATED":
            return _marks(event, booking, has_seats=True)
        case "MEETING_ENDED":
            return [change for seat in _holders(booking) for change in seat.ended()]
    return Ignored(kind)


def _taken(event: Event, booking: Payload) -> Iterator[VisitChange]:
    """Whoever took a seat, and who holds one already."""
    seats = _holders(booking)
    seat_id, booker = booking.at("attendeeSeatId").text(), _lower(_response(booking, "email"))
    for seat in seats:
        # Older versions name the seat, and the booker, of the first booker: the new one is the last in the list.
        is_new = seat is seats[-1] or seat.address == booker or (seat_id and seat.id == seat_id)
        said = seat.said(event)
        yield replace(said, action="create", date_cancelled=None, no_show=None) if is_new else said


def _moved(event: Event, booking: Payload) -> Iterator[VisitChange]:
    old, seats = _continues(booking), _holders(booking)
    mover = _lower(booking.at("rescheduledBy").text())
    by_one = mover in [seat.address for seat in seats]
    for seat in seats:
        said = seat.said(event)
        if not old and _old_uid(booking):  # by the host, all at once, and the booking keeps its uid
            yield replace(said, time_completed=None, no_show=None)
        elif by_one and seat.address != mover:
            yield said
        else:
            yield replace(said, action="create", time_completed=None, date_cancelled=None, no_show=None)
            if old:
                yield from seat.given_up(event, old)


def _no_visit(event: Event, booking: Payload) -> VisitChange:
    """The booking itself, which some events do not tell from one without seats."""
    happened_at = _happened_at(event)
    uid = booking.at("uid").required_text()
    return VisitChange(
        action="cancel", visit_id=uid, version=unix_microseconds(happened_at), date_cancelled=happened_at
    )


def _seat_paid(event: Event, booking: Payload) -> list[VisitChange]:
    seats = _holders(booking)
    if len(seats) > 1:
        raise Untranslatable(A_SEAT_PAID)
    is_pending = booking.at("status").text() == "PENDING"
    said = seats[0].bare(event) if is_pending else seats[0].said(event)
    before = seats[0].from_before(booking.at("uid").required_text(), _happened_at(event))
    return [replace(said, amount_collected=_paid(booking)), *before]


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody's place in a booking. address: in small letters; Cal.com makes one up for a phone number."""

    booking: Payload
    attendee: Payload
    address: str

    @property
    def id(self) -> str | None:
        return self.attendee.at("bookingSeat", "referenceUid").text()

    @property
    def visit_id(self) -> str:
        return attendee_visit_id(self.booking.at("uid").required_text(), self.address)

    def bare(self, event: Event) -> VisitChange:
        return VisitChange(action="update", visit_id=self.visit_id, version=unix_microseconds(_happened_at(event)))

    def said(self, event: Event) -> VisitChange:
        start = self.booking.at("startTime").required_time()
        return replace(self.bare(event), contact=self.contact(), time_scheduled=start)

    def given_up(self, event: Event, uid: str) -> list[VisitChange]:
        """That its holder has none in that booking."""
        visit_id, left_at = attendee_visit_id(uid, self.address), _happened_at(event)
        left = VisitChange(
            action="cancel", visit_id=visit_id, version=unix_microseconds(left_at), date_cancelled=left_at
        )
        return [left, *self.from_before(uid, left_at)]

    def from_before(self, uid: str, at: datetime) -> list[VisitChange]:
        """That no visit of the whole booking is its holder's: there is one if the booking had no seats when it was made."""
        if self.address.endswith(MADE_UP):
            return []
        off = VisitChange(action="cancel", visit_id=uid, version=unix_microseconds(at), date_cancelled=at)
        return [replace(off, **_only_for(self.address))]

    def contact(self) -> Contact:
        is_booker = self.address == _lower(_response(self.booking, "email"))
        phone = _response(self.booking, "attendeePhoneNumber") if is_booker else None
        return _person(self.attendee, self.attendee.at("email").text(), phone)

    def ended(self) -> list[VisitChange]:
        """That its time is over, and who held it. A host among the attendees holds no seat: it belongs to nobody then."""
        ended_at = self.booking.at("endTime").required_time()
        missed = self.attendee.at("noShow").boolean()
        over = VisitChange(
            action="update",
            visit_id=self.visit_id,
            version=unix_microseconds(ended_at),
            time_completed=UNSET if missed else ended_at,
            no_show=ended_at if missed else UNSET,
            **_only_for(self.address),
        )
        if not self._is_surely_held:
            return [over]
        booked = VisitChange(
            action="update",
            visit_id=self.visit_id,
            version=unix_microseconds(self.booking.at("createdAt").time() or ended_at),
            contact=self.contact(),
            time_scheduled=self.booking.at("startTime").time() or UNSET,
        )
        return [booked, over, *self.from_before(self.booking.at("uid").required_text(), ended_at)]

    @property
    def _is_surely_held(self) -> bool:
        kind = self.booking.at("eventType")
        return bool(self.attendee.at("bookingSeat").value or (kind.value and not kind.at("team").value))


def _holders(booking: Payload) -> list[Seat]:
    """Each address once. Raises Untranslatable if there is nobody."""
    attendees = {address: attendee for attendee in _guests(booking) if (address := _address(attendee))}
    if not attendees:
        raise booking.at("attendees").unexpected("somebody who holds a seat")
    return [Seat(booking, attendee, address) for address, attendee in attendees.items()]


def _guests(booking: Payload) -> list[Payload]:
    """Without the hosts of a team, who are attendees too."""
    attendees = list(booking.at("attendees"))
    if seated := [attendee for attendee in attendees if attendee.at("bookingSeat").value]:
        return seated
    hosts = [booking.at("organizer", "email"), booking.at("user", "email"), booking.at("userPrimaryEmail")]
    hosts += [member.at("email") for member in booking.at("team", "members")]
    theirs = {_lower(host.text()) for host in hosts} - {""}
    return [attendee for attendee in attendees if _lower(attendee.at("email").text()) not in theirs]


def _address(attendee: Payload) -> str | None:
    email, phone = _lower(attendee.at("email").text()), attendee.at("phoneNumber").text() or ""
    digits = "".join(filter(str.isdecimal, phone))
    return email if "@" in email else f"{digits}{MADE_UP}" if digits else None


#: `15550100001@sms.cal.com` is made up for somebody who left a phone number only (contructEmailFromPhoneNumber).
MADE_UP = "@sms.cal.com"


# -- no-shows --


def _marks(event: Event, booking: Payload, has_seats: bool = False) -> list[VisitChange] | Ignored:
    """Only the attendees whose mark changed are named: the customer, guests, or holders of seats."""
    uid, missed_at = booking.at("bookingUid").required_text(), _happened_at(event)
    changes = []
    for attendee in booking.at("attendees"):
        is_missing, address = attendee.at("noShow").boolean(), _address(attendee)
        if is_missing is None or not address:
            continue
        mark = VisitChange(
            action="update",
            visit_id=attendee_visit_id(uid, address),
            version=unix_microseconds(missed_at),
            no_show=missed_at if is_missing else None,
            **_only_for(address),
        )
        changes += [mark] if has_seats else [replace(mark, visit_id=uid), mark]
    if not changes and not _is_nameless(booking):
        return Ignored("BOOKING_NO_SHOW_UPDATED: no attendee")
    return changes


def _only_for(address: str) -> dict[str, Any]:
    """For the visit of the person with this address. One that is made up is no guest's, and in no contact."""
    return {} if address.endswith(MADE_UP) else {"contact": Contact(email=address), "only_for_contact": True}


def _is_nameless(booking: Payload) -> bool:
    return any(not _address(attendee) for attendee in _guests(booking))


# -- money --


def _paid(booking: Payload) -> Decimal | Unset:
    """The payment where it is there, else the event type's price.

    BOOKING_PAID also comes when a card is only held against a no-show; then the payment that `metadata` describes has
    no `externalId`, because none succeeded.
    """
    payment = booking.at("paymentData")
    if payment.at("success").boolean() is not None:
        return _collected([payment])
    if booking.at("metadata", "identifier") and not booking.at("metadata", "externalId"):
        return UNSET
    return _money(booking.at("price"), booking) or UNSET


def _collected(payments: Iterable[Payload]) -> Decimal | Unset:
    kept = [paid for paid in payments if paid.at("success").boolean() and not paid.at("refunded").boolean()]
    return sum((_money(paid.at("amount"), paid) for paid in kept), Decimal()) or UNSET


def _money(amount: Payload, beside: Payload) -> Decimal:
    # Cal.com's own list (packages/lib/currencyConversions.ts) has no currencies with thousandths.
    return amount.amount(minor_units(beside.at("currency").text(), two_decimals=THREE_DECIMAL_CURRENCIES)) or Decimal()


# -- people --


def _customer(booking: Payload) -> Payload:
    """The attendee who booked: guests are attendees too, and in MEETING_ENDED the hosts of a team."""
    attendees, booker = list(booking.at("attendees")), _response(booking, "email")
    for attendee in attendees:
        if booker and _lower(attendee.at("email").text()) == _lower(booker):
            return attendee
    return attendees[0] if attendees else booking.at("attendees", "0")


def _lower(text: str | None) -> str:
    return (text or "").strip().lower()


def _response(booking: Payload, name: str) -> str | None:
    """An answer on the booking form; `{"label": …, "value": …}`, or in old MEETING_ENDED the value itself."""
    answer = booking.at("responses", name)
    return (answer.at("value") if isinstance(answer.value, dict) else answer).text()


def _contact(booking: Payload) -> Contact:
    customer = _customer(booking)
    phone = (
        _response(booking, "attendeePhoneNumber")
        or booking.at("smsReminderNumber").text()
        or _response(booking, "smsReminderNumber")
    )
    return _person(customer, customer.at("email").text() or _response(booking, "email"), phone)


def _person(attendee: Payload, email: str | None, phone: str | None) -> Contact:
    """phone: where the attendee has none."""
    first, last = attendee.at("firstName").text(), attendee.at("lastName").text()
    if not (first or last):
        first, last = [*(attendee.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        email=None if _lower(email).endswith(MADE_UP) else email,
        first_name=first,
        last_name=last,
        phone=attendee.at("phoneNumber").text() or phone,
    )
