"""Cal.com: bookings, their seats, payments and no-shows, and the end of a meeting.

From https://cal.com/docs/developing/guides/automation/webhooks and Cal.com's own code (packages/features: webhooks,
bookings, ee/payments, handleMarkNoShow). `uid` names a booking; a reschedule is one event with a new `uid` and the old
one in `rescheduleUid`. `createdAt` is when the event happened, except in MEETING_ENDED. The body of MEETING_ENDED is
the booking as it was saved when the meeting was booked, without a `payload` around it: its `createdAt`, attendees,
`noShow`, `paid` and `status` are from that time. It is sent at `endTime`, even if nobody came to the meeting.

If the host confirms bookings, BOOKING_REQUESTED comes first and BOOKING_CREATED after the confirmation: a request is
not a visit yet. But a request to move a confirmed booking cancels that booking at once, without a BOOKING_CANCELLED. So
the visit continues under the new `uid` as cancelled, because nobody will come at the old time; BOOKING_CREATED of the
new `uid` restores it. "Request reschedule" by the host is a cancellation, too: no new time is known.

Since Cal.com builds its webhooks from the database (WebhookTaskConsumer), neither BOOKING_REQUESTED nor the
BOOKING_CREATED after it has `rescheduleUid`. A move is recognized by `iCalSequence`, which is 0 for a new booking and
increases with each move, or by the reason on the form (`responses.rescheduleReason`). `iCalUID` does not change in a
move and is `<first uid>@Cal.com`, unless a connected calendar replaced it. If it does not identify the old booking, the
delivery is parked, because the visit at the old time must be cancelled by hand.

If a whole series is cancelled, one BOOKING_CANCELLED is sent, with the `uid` of one booking and `recurringEvent`. The
event does not name the other bookings, so the delivery is parked; the named booking is cancelled nevertheless.
WebhookTaskConsumer sends `recurringEvent` with every cancellation in a series, so the cancellation of a single booking
is parked, too. Bookings with seats are cancelled one by one
(https://cal.com/docs/api-reference/v2/bookings/cancel-a-booking).

Seats (`seatsPerTimeSlot` above 1): several people share one `uid`, and each has a visit. Its id is the `uid` and a
digest of the e-mail address, because no other id is in every kind of event. The cancellation of a seat lists its
holder; a cancellation by the host lists everybody. In a move, all listed people move, unless `rescheduledBy` is one of
them: then only that person moves. A move to another booking cancels one visit and creates another, without a link: the
holder may come back to the first booking, and circular links have no first visit. The amount paid for the seat stays
with the cancelled visit. An event type may get seats after a booking was made: then every event of a holder also
cancels the holder's visit of the whole booking. An event that only lists people restores nobody's visit. MEETING_ENDED
and BOOKING_NO_SHOW_UPDATED need not show that a booking has seats. So the other events cancel the visit of the booking
itself, and a no-show counts for the visit (of the booking or of the seat) that belongs to the named address. A guest's
no-show has no effect.

The API, from its reference and its code (https://cal.com/docs/api-reference/v2, apps/api/v2): a user can have one
webhook per URL, and Cal.com does not disable it by itself. The list of bookings has no amounts, and no seats that were
given up. Only bookings that the user hosts are read from it, because it also has those that the user made elsewhere;
the webhooks of a team or an organization are connected by hand. `updatedAt` changes with every change of the booking
itself; from memory: it does not change with a no-show mark, which belongs to the attendee. Second-hand, from a copy of
the documentation: the rate limit, and the scopes of webhooks.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from app.visits.change import UNSET, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    MIN_CHOSEN_SECRET_BYTES,
    THREE_DECIMAL_CURRENCIES,
    ApiResponse,
    BearerAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    PartlyTranslatable,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    iso_milliseconds,
    minor_units,
    read_records,
    split_name,
)

SETUP = """
1. Make up a secret (32 random characters or more) and set it as HOOKS__CALCOM__SECRETS.
2. In Cal.com, open Settings, Developer, Webhooks, New. Paste {url} as the subscriber URL and the same secret. Without a
   secret Cal.com signs nothing, and Doorbell rejects every delivery.
3. Select Booking created, rescheduled, cancelled, rejected, requested, paid and no-show updated, and Meeting ended. Do
   not enable the custom payload template: it replaces the body that Doorbell reads.
4. You may send the ping test: Doorbell answers 200, and ignores it.
5. With an API key (Settings, Developer, API keys), `doorbell connect calcom` does steps 1 to 3, and lists the bookings
   once a day.

Cal.com rarely retries: deliveries that fail while Doorbell is down are lost, unless Doorbell lists the bookings. A
meeting counts as completed at its planned end, unless the attendee is marked as a no-show. A hold on a card does not
count as money collected, and Cal.com does not report refunds. In an event type with seats, every attendee has a visit;
an attendee without an e-mail address gets no review request.

Some deliveries need an operator, because they do not contain enough: a move that the host must confirm, if it does not
name the old booking (cancel the old visit by hand); a cancelled booking of a series, because all later bookings may
have been cancelled with it (then cancel their visits, too); and a payment for one of several seats. A request to move
without a reason and without `iCalSequence` looks like a new booking.
"""

SOURCE = Source(
    title="Cal.com",
    is_common=True,
    docs="https://cal.com/docs/developing/guides/automation/webhooks",
    credential_help={
        "TOKEN": ("API key", "In Cal.com: Settings, Developer, API keys."),
    },
    signature=Hmac(header="X-Cal-Signature-256", min_key_bytes=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    evidence="vendor",
    retries="no",
    event_name_path=("triggerEvent",),
    api_url="https://api.cal.com/v2",
    credentials=BearerAuth(),
    rate_limit_reset_header="X-RateLimit-Reset-Default",
)

NO_OLD_BOOKING = (
    "a booking was moved, and the event does not name the old one: cancel the visit at the old time by hand"
)
SERIES_CANCELLED = "a booking of a series was cancelled; all later ones may be, too, but the event does not name them"
SEAT_PAID = "a payment for one of several seats, and the event does not name the seat"
NO_CONTACT = "an attendee has neither an e-mail address nor a phone number"


def translate(event: Event) -> list[VisitChange] | Ignored:
    event_type = event.data.at("triggerEvent").required_text()
    booking = event.data if event_type == "MEETING_ENDED" and not event.data.at("payload") else event.data.at("payload")
    translate_kind = _seat_changes if _has_seats(booking) else _booking_changes
    translated = translate_kind(event, event_type, booking)
    if isinstance(translated, Ignored):
        return translated
    missing_information = _missing_information(event_type, booking)
    if missing_information:
        raise PartlyTranslatable(missing_information, translated)
    return translated


def _missing_information(event_type: str, booking: Payload) -> str | None:
    """Return what the event does not contain, so that an operator must act; None if it is complete."""
    # When somebody takes a seat, other people's moves may have left the signs of a move in the booking.
    may_be_moved = event_type == "BOOKING_REQUESTED" or (event_type == "BOOKING_CREATED" and not _has_seats(booking))
    if event_type == "BOOKING_RESCHEDULED" or (may_be_moved and _is_moved(booking)):
        return None if _old_uid(booking) else NO_OLD_BOOKING
    if event_type == "BOOKING_CANCELLED" and _may_cancel_series(booking):
        return SERIES_CANCELLED
    needs_address = event_type == "BOOKING_NO_SHOW_UPDATED" or _has_seats(booking)
    return NO_CONTACT if needs_address and _has_unidentified_attendee(booking) else None


def _booking_changes(event: Event, event_type: str, booking: Payload) -> list[VisitChange] | Ignored:
    match event_type:
        case "BOOKING_CREATED":
            return [replace(_current_booking(event), action="create", date_cancelled=None, no_show=None)]
        case "BOOKING_RESCHEDULED":
            # A meeting that "ended" although nobody came can still be moved: then it is not completed.
            return [
                replace(
                    _current_booking(event), action="create", time_completed=None, date_cancelled=None, no_show=None
                )
            ]
        case "BOOKING_CANCELLED" | "BOOKING_REJECTED":
            return [replace(_current_booking(event), action="cancel", date_cancelled=_happened_at(event))]
        case "BOOKING_REQUESTED" if _is_moved(booking):
            requested_at = _happened_at(event)
            return [replace(_base_change(event), action="cancel", time_completed=None, date_cancelled=requested_at)]
        case "BOOKING_PAID":
            # Paid but not confirmed: the amount is recorded. Without a contact, it creates no visit.
            change = _base_change(event) if booking.at("status").text() == "PENDING" else _current_booking(event)
            return [_with_payment(change, booking)]
        case "BOOKING_NO_SHOW_UPDATED":
            return _no_show_marks(event, booking)
        case "MEETING_ENDED":
            return _ended_changes(booking)
    return Ignored(event_type)


def _base_change(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return VisitChange(
        action="update",
        visit_id=booking.at("uid").required_text(),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_previous_uid(booking),
    )


def _current_booking(event: Event) -> VisitChange:
    booking = event.data.at("payload")
    return replace(
        _base_change(event), contact=_contact(booking), time_scheduled=booking.at("startTime").required_time()
    )


def _ended_changes(booking: Payload) -> list[VisitChange]:
    """Return two changes with two times: the booking, and its end."""
    visit_id, ended_at = booking.at("uid").required_text(), booking.at("endTime").required_time()
    payments = list(booking.at("payment")) if booking.at("paid").boolean() else []
    missed = _customer(booking).at("noShow").boolean()  # `false` means nothing: it is the state at the time of booking
    booked = VisitChange(
        action="update",
        visit_id=visit_id,
        version=unix_microseconds(booking.at("createdAt").time() or ended_at),
        previous_visit_id=_previous_uid(booking),
        contact=_contact(booking),
        time_scheduled=booking.at("startTime").time() or UNSET,
        amount_collected=_collected(payments),
        currency=_currency(*payments, booking),
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


def _previous_uid(booking: Payload) -> str | None:
    """Return the uid before the move; None if it is the same: with seats, a booking may be moved to itself."""
    previous_uid = _old_uid(booking)
    return None if previous_uid == booking.at("uid").text() else previous_uid


def _old_uid(booking: Payload) -> str | None:
    """Return the uid of the booking before the move, or of an earlier one. MEETING_ENDED calls it `fromReschedule`."""
    uids = (booking.at(name).text() for name in ("rescheduleUid", "fromReschedule", "rootBookingUid"))
    return next(filter(None, uids), None) or _first_uid(booking)


def _first_uid(booking: Payload) -> str | None:
    """Return the `uid` before the first move, if `iCalUID` contains it."""
    match = _CALCOM_ICAL_UID.fullmatch(str(booking.at("iCalUID").value or ""))
    if not match or not _was_moved_before(booking):
        return None
    return None if match[1] == booking.at("uid").text() else match[1]


_CALCOM_ICAL_UID = re.compile(r"([A-Za-z0-9-]+)@cal\.com", re.IGNORECASE)


def _is_moved(booking: Payload) -> bool:
    return bool(_previous_uid(booking) or _response(booking, "rescheduleReason") or _was_moved_before(booking))


def _was_moved_before(booking: Payload) -> bool:
    """Return whether `iCalSequence` shows a move. With seats it does not: they share a calendar event."""
    if _has_seats(booking):
        return False
    sequence = booking.at("iCalSequence").value
    return isinstance(sequence, int) and sequence > 0


def _may_cancel_series(booking: Payload) -> bool:
    """Return whether later bookings may be cancelled, too. With seats, only if the event says so."""
    together = [booking.at(name).boolean() for name in ("allRemainingBookings", "cancelSubsequentBookings")]
    may_be = booking.at("recurringEvent").value and not _has_seats(booking)
    return True in together or bool(may_be and False not in together)


# -- seats --


def _has_seats(booking: Payload) -> bool:
    """Return whether `seatsPerTimeSlot` is above 1; without it, whether there are fields that only seats have."""
    for place in (booking, booking.at("eventType")):
        if (seats := place.at("seatsPerTimeSlot").integer()) is not None:
            return seats > 1
    seat_fields = [booking.at("attendeeSeatId").value, booking.at("seatsReferences").value]
    return any(seat_fields) or any(attendee.at("bookingSeat").value for attendee in booking.at("attendees"))


def _seat_changes(event: Event, event_type: str, booking: Payload) -> list[VisitChange] | Ignored:
    match event_type:
        case "BOOKING_CREATED":
            return [*_created_seat_changes(event, booking), _cancel_booking_visit(event, booking)]
        case "BOOKING_RESCHEDULED":
            return [*_moved_seat_changes(event, booking), _cancel_booking_visit(event, booking)]
        case "BOOKING_CANCELLED" | "BOOKING_REJECTED":
            seats, uid, happened_at = _holders(booking), booking.at("uid").required_text(), _happened_at(event)
            return [
                change
                for seat in seats
                for change in (
                    replace(seat.change(event), action="cancel", date_cancelled=happened_at),
                    *seat.cancel_booking_visit(uid, happened_at),
                )
            ]
        case "BOOKING_REQUESTED" if _is_moved(booking):
            seats, uids = _holders(booking), (booking.at("uid").text(), _previous_uid(booking))
            return [change for seat in seats for uid in uids if uid for change in seat.cancel_visit(event, uid)]
        case "BOOKING_PAID":
            return _seat_paid(event, booking)
        case "BOOKING_NO_SHOW_UPDATED":
            return _no_show_marks(event, booking, has_seats=True)
        case "MEETING_ENDED":
            return [change for seat in _holders(booking) for change in seat.ended()]
    return Ignored(event_type)


def _created_seat_changes(event: Event, booking: Payload) -> Iterator[VisitChange]:
    """Return a create for the new holder of a seat, and an update for the others."""
    seats = _holders(booking)
    seat_id, booker = booking.at("attendeeSeatId").text(), _lower(_response(booking, "email"))
    for seat in seats:
        # In older versions, the seat's id and the booker are those of the first booker: the new holder is last in the
        # list.
        is_new = seat is seats[-1] or seat.address == booker or (seat_id and seat.id == seat_id)
        change = seat.change(event)
        yield replace(change, action="create", date_cancelled=None, no_show=None) if is_new else change


def _moved_seat_changes(event: Event, booking: Payload) -> Iterator[VisitChange]:
    previous_uid, seats = _previous_uid(booking), _holders(booking)
    mover = _lower(booking.at("rescheduledBy").text())
    moved_by_holder = mover in [seat.address for seat in seats]
    for seat in seats:
        change = seat.change(event)
        if not previous_uid and _old_uid(booking):  # the host moved all seats at once, and the uid did not change
            yield replace(change, time_completed=None, no_show=None)
        elif moved_by_holder and seat.address != mover:
            yield change
        else:
            yield replace(change, action="create", time_completed=None, date_cancelled=None, no_show=None)
            if previous_uid:
                yield from seat.cancel_visit(event, previous_uid)


def _cancel_booking_visit(event: Event, booking: Payload) -> VisitChange:
    """Cancel the visit of the booking itself, which events that do not show the seats may update."""
    happened_at = _happened_at(event)
    uid = booking.at("uid").required_text()
    return VisitChange(
        action="cancel", visit_id=uid, version=unix_microseconds(happened_at), date_cancelled=happened_at
    )


def _seat_paid(event: Event, booking: Payload) -> list[VisitChange]:
    seats = _holders(booking)
    if len(seats) > 1:
        raise Untranslatable(SEAT_PAID)
    is_pending = booking.at("status").text() == "PENDING"
    change = seats[0].base_change(event) if is_pending else seats[0].change(event)
    booking_cancelled = seats[0].cancel_booking_visit(booking.at("uid").required_text(), _happened_at(event))
    return [_with_payment(change, booking), *booking_cancelled]


@dataclass(frozen=True, slots=True)
class Seat:
    """A person's seat in a booking.

    address: an e-mail address in lower case; Cal.com generates one from a phone number.
    """

    booking: Payload
    attendee: Payload
    address: str

    @property
    def id(self) -> str | None:
        return self.attendee.at("bookingSeat", "referenceUid").text()

    @property
    def visit_id(self) -> str:
        return attendee_visit_id(self.booking.at("uid").required_text(), self.address)

    def base_change(self, event: Event) -> VisitChange:
        return VisitChange(action="update", visit_id=self.visit_id, version=unix_microseconds(_happened_at(event)))

    def change(self, event: Event) -> VisitChange:
        start = self.booking.at("startTime").required_time()
        return replace(self.base_change(event), contact=self.contact(), time_scheduled=start)

    def cancel_visit(self, event: Event, uid: str) -> list[VisitChange]:
        """Cancel the holder's visit in the booking `uid`."""
        visit_id, left_at = attendee_visit_id(uid, self.address), _happened_at(event)
        end = VisitChange(
            action="cancel", visit_id=visit_id, version=unix_microseconds(left_at), date_cancelled=left_at
        )
        return [end, *self.cancel_booking_visit(uid, left_at)]

    def cancel_booking_visit(self, uid: str, at: datetime) -> list[VisitChange]:
        """Cancel the holder's visit of the whole booking, which exists if the booking had no seats when it was made."""
        if self.address.endswith(GENERATED_DOMAIN):
            return []
        cancel = VisitChange(action="cancel", visit_id=uid, version=unix_microseconds(at), date_cancelled=at)
        return [replace(cancel, **_only_for(self.address))]

    def contact(self) -> Contact:
        is_booker = self.address == _lower(_response(self.booking, "email"))
        phone = _response(self.booking, "attendeePhoneNumber") if is_booker else None
        return _person(self.attendee, self.attendee.at("email").text(), phone)

    def ended(self) -> list[VisitChange]:
        """Return the changes at the end of the booking. A host among the attendees has no seat, so no visit is created."""
        ended_at = self.booking.at("endTime").required_time()
        missed = self.attendee.at("noShow").boolean()
        ended = VisitChange(
            action="update",
            visit_id=self.visit_id,
            version=unix_microseconds(ended_at),
            time_completed=UNSET if missed else ended_at,
            no_show=ended_at if missed else UNSET,
            **_only_for(self.address),
        )
        if not self._is_known_holder:
            return [ended]
        booked = VisitChange(
            action="update",
            visit_id=self.visit_id,
            version=unix_microseconds(self.booking.at("createdAt").time() or ended_at),
            contact=self.contact(),
            time_scheduled=self.booking.at("startTime").time() or UNSET,
        )
        return [booked, ended, *self.cancel_booking_visit(self.booking.at("uid").required_text(), ended_at)]

    @property
    def _is_known_holder(self) -> bool:
        event_type = self.booking.at("eventType")
        return bool(self.attendee.at("bookingSeat").value or (event_type.value and not event_type.at("team").value))


def _holders(booking: Payload) -> list[Seat]:
    """Return the seats, one for each address. Raise Untranslatable if there are none."""
    attendees = {address: attendee for attendee in _guests(booking) if (address := _address(attendee))}
    if not attendees:
        raise booking.at("attendees").unexpected("somebody who holds a seat")
    return [Seat(booking, attendee, address) for address, attendee in attendees.items()]


def _guests(booking: Payload) -> list[Payload]:
    """Return the attendees without the hosts of a team, who are attendees, too."""
    attendees = list(booking.at("attendees"))
    if seated := [attendee for attendee in attendees if attendee.at("bookingSeat").value]:
        return seated
    hosts = [booking.at("organizer", "email"), booking.at("user", "email"), booking.at("userPrimaryEmail")]
    hosts += [member.at("email") for member in booking.at("team", "members")]
    host_emails = {_lower(host.text()) for host in hosts} - {""}
    return [attendee for attendee in attendees if _lower(attendee.at("email").text()) not in host_emails]


def _address(attendee: Payload) -> str | None:
    email, phone = _lower(attendee.at("email").text()), attendee.at("phoneNumber").text() or ""
    digits = "".join(filter(str.isdecimal, phone))
    return email if "@" in email else f"{digits}{GENERATED_DOMAIN}" if digits else None


#: Cal.com generates `15550100001@sms.cal.com` for people who have only a phone number (contructEmailFromPhoneNumber).
GENERATED_DOMAIN = "@sms.cal.com"


# -- no-shows --


def _no_show_marks(event: Event, booking: Payload, has_seats: bool = False) -> list[VisitChange] | Ignored:
    """Return a change for each attendee in the event: customer, guest, or holder of a seat whose mark changed."""
    uid, missed_at = booking.at("bookingUid").required_text(), _happened_at(event)
    changes = []
    for attendee in booking.at("attendees"):
        is_no_show, address = attendee.at("noShow").boolean(), _address(attendee)
        if is_no_show is None or not address:
            continue
        mark = VisitChange(
            action="update",
            visit_id=attendee_visit_id(uid, address),
            version=unix_microseconds(missed_at),
            no_show=missed_at if is_no_show else None,
            **_only_for(address),
        )
        changes += [mark] if has_seats else [replace(mark, visit_id=uid), mark]
    if not changes and not _has_unidentified_attendee(booking):
        return Ignored("BOOKING_NO_SHOW_UPDATED: no attendee")
    return changes


def _only_for(address: str) -> dict[str, Any]:
    """Restrict a change to the visit of this address.

    A generated address needs no restriction, and no contact has it.
    """
    return {} if address.endswith(GENERATED_DOMAIN) else {"contact": Contact(email=address), "only_for_contact": True}


def _has_unidentified_attendee(booking: Payload) -> bool:
    return any(not _address(attendee) for attendee in _guests(booking))


# -- money --


def _with_payment(change: VisitChange, booking: Payload) -> VisitChange:
    currency = _currency(booking.at("paymentData"), booking)
    return replace(change, amount_collected=_paid(booking), currency=currency)


def _paid(booking: Payload) -> Decimal | Unset:
    """Return the amount of the payment if the event has it, else the event type's price.

    BOOKING_PAID is also sent when a card is only held against a no-show; then the payment in `metadata` has no
    `externalId`, because none succeeded.
    """
    payment = booking.at("paymentData")
    if payment.at("success").boolean() is not None:
        return _collected([payment])
    if booking.at("metadata", "identifier") and not booking.at("metadata", "externalId"):
        return UNSET
    return _money(booking.at("price"), booking) or UNSET


def _collected(payments: Iterable[Payload]) -> Decimal | Unset:
    collected = [paid for paid in payments if paid.at("success").boolean() and not paid.at("refunded").boolean()]
    return sum((_money(paid.at("amount"), paid) for paid in collected), Decimal()) or UNSET


def _money(amount: Payload, priced: Payload) -> Decimal:
    # Cal.com's own list (packages/lib/currencyConversions.ts) has no currencies with thousandths.
    return amount.amount(minor_units(priced.at("currency").text(), two_decimals=THREE_DECIMAL_CURRENCIES)) or Decimal()


def _currency(*places: Payload) -> str | None:
    return next((code for place in places if (code := place.at("currency").currency())), None)


# -- people --


def _customer(booking: Payload) -> Payload:
    """Return the attendee who booked: guests are attendees, too, and in MEETING_ENDED the hosts of a team."""
    attendees, booker = list(booking.at("attendees")), _response(booking, "email")
    for attendee in attendees:
        if booker and _lower(attendee.at("email").text()) == _lower(booker):
            return attendee
    return attendees[0] if attendees else booking.at("attendees", "0")


def _lower(text: str | None) -> str:
    return (text or "").strip().lower()


def _response(booking: Payload, name: str) -> str | None:
    """Return an answer on the booking form: `{"label": …, "value": …}`, or in old MEETING_ENDED the value itself."""
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
    """Return the contact of an attendee. phone: the fallback if the attendee has none."""
    first, last = attendee.at("firstName").text(), attendee.at("lastName").text()
    if not (first or last):
        first, last = split_name(attendee.at("name").text())
    return Contact(
        email=None if _lower(email).endswith(GENERATED_DOMAIN) else email,
        first_name=first,
        last_name=last,
        phone=attendee.at("phoneNumber").text() or phone,
    )


# -- the API: https://cal.com/docs/api-reference/v2 --


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    body = {"subscriberUrl": target.url, "active": True, "triggers": list(events), "secret": target.secret}
    return RecordRequest("webhooks", json=body)


def _list_subscriptions(_: Payload) -> RecordRequest:
    return RecordRequest("webhooks", params={"take": "250", "skip": "0"})


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    subscriptions = [_read_subscription(webhook) for webhook in response.at("data")]
    return SubscriptionPage(subscriptions, _skip(request, len(subscriptions)) if subscriptions else None)


def _read_subscription(webhook: Payload) -> SubscriptionState:
    """Read a webhook. A webhook with its own template sends other bodies, so it counts as having none of our events."""
    has_template = bool(webhook.at("payloadTemplate").text())
    triggers = ("a payload template",) if has_template else (each.required_text() for each in webhook.at("triggers"))
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("subscriberUrl").required_text(),
        events=frozenset(triggers),
        is_active=webhook.at("active").boolean() is not False,
    )


def _skip(request: RecordRequest, count: int) -> RecordRequest:
    """Return the request for the next items. A page may be shorter than `take`."""
    return replace(request, params={**request.params, "skip": str(int(request.params["skip"]) + count)})


def _refusal(status: int, response: Payload) -> str | None:
    message = response.at("error", "message").value
    if status == 403 and "insufficient_scope" in str(message):
        return f"The access token needs the scopes {', '.join(SCOPES)}."
    if status == 403:
        return "Cal.com does not let this API key manage webhooks: create a key in the account that has the bookings."
    if status == 400 and "URL is not allowed" in str(message):
        return "Cal.com accepts only public URLs with https: set PUBLIC_URL to one."
    return None


SCOPES = ("PROFILE_READ", "BOOKING_READ", "WEBHOOK_READ", "WEBHOOK_WRITE")

SUBSCRIPTION = Subscription(
    docs="https://cal.com/docs/api-reference/v2/webhooks/create-a-webhook",
    evidence="vendor",
    groups=(
        (
            "BOOKING_CREATED",
            "BOOKING_RESCHEDULED",
            "BOOKING_CANCELLED",
            "BOOKING_REJECTED",
            "BOOKING_REQUESTED",
            "BOOKING_PAID",
            "BOOKING_NO_SHOW_UPDATED",
            "MEETING_ENDED",
        ),
    ),
    account=RecordRequest("me"),
    account_name=lambda account: account.at("data", "name").text() or account.at("data", "username").text() or "",
    create=_subscribe,
    read_created=lambda response: _read_subscription(response.at("data")),
    list=_list_subscriptions,
    read_list=_read_subscriptions,
    delete=lambda id, _: RecordRequest(f"webhooks/{id}", method="DELETE"),
    reactivate=lambda id, _: RecordRequest(f"webhooks/{id}", method="PATCH", json={"active": True}),
    is_url_unique=True,
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://cal.com/docs/api-reference/v2/oauth",
    evidence="second-hand",
    authorize_url="https://app.cal.com/auth/oauth2/authorize",
    token_url="https://api.cal.com/v2/auth/oauth2/token",
    scopes=SCOPES,
    uses_pkce=False,  # Cal.com supports PKCE for apps without a secret
    account_id=lambda account: account.at("data", "id").text() or "",
)


LONGEST_MEETING = timedelta(hours=12)


def _list_bookings(window: Window, account: Payload) -> Sequence[ListRequest]:
    """List the bookings of the window, and others that changed.

    They are sorted by the time of creation, so that a booking that changes meanwhile does not move to another page.
    """
    since = window.since - LONGEST_MEETING  # a booking that began earlier may have ended since
    listed = {"since": iso_milliseconds(since), "until": iso_milliseconds(window.until)}
    host = account.at("data", "id").text()
    in_window = {"afterStart": listed["since"], "beforeEnd": listed["until"]}
    lists = [(in_window, {"host": host})]
    if window.changed_since:
        lists.append(({"afterUpdatedAt": iso_milliseconds(window.changed_since)}, {"host": host, **listed}))
    paging, headers = {"sortCreated": "asc", "take": "100", "skip": "0"}, {"cal-api-version": "2024-08-13"}
    return [
        ListRequest(RecordRequest("bookings", params={**filters, **paging}, headers=headers), context)
        for filters, context in lists
    ]


def _read_bookings(request: ListRequest, response: ApiResponse) -> ListedPage:
    bookings = list(response.at("data"))
    context, now = request.context, response.requested_at
    records = read_records(bookings, lambda booking: _listed(booking, now) if _is_wanted(booking, context) else ())
    # The total ignores some filters, so an empty page is the last one, too.
    has_more = bookings and response.at("pagination", "hasNextPage").boolean()
    next_page = [replace(request, request=_skip(request.request, len(bookings)))] if has_more else []
    return ListedPage(records, next_page)


def _is_wanted(booking: Payload, context: Mapping[str, Any]) -> bool:
    """Return whether the user hosts the booking. A changed booking in the window is skipped: the other list has it."""
    if not any(host.at("id").text() == context["host"] for host in booking.at("hosts")):
        return False
    if "since" not in context:
        return True
    since, until = (datetime.fromisoformat(context[name]) for name in ("since", "until"))
    return booking.at("start").required_time() < since or booking.at("end").required_time() > until


def _listed(booking: Payload, now: datetime) -> Iterator[ListedRecord]:
    """Yield the events that lead to the present state of a booking, or of each of its seats. All seats may be gone."""
    attendees = list(booking.at("attendees"))
    seats = [attendee for attendee in attendees if attendee.at("seatUid")]
    for people in [[seat] for seat in seats] or ([attendees] if attendees else []):
        yield from _listed_events(booking, people, now)


def _listed_events(booking: Payload, attendees: Sequence[Payload], now: datetime) -> Iterator[ListedRecord]:
    payload, is_moved = _listed_payload(booking, attendees), booking.at("rescheduledFromUid")
    has_seats = any("bookingSeat" in attendee for attendee in payload["attendees"])
    created_at = booking.at("createdAt").required_text()
    updated_at = booking.at("updatedAt").text() or created_at

    def event(trigger: str, at: str, payload: Mapping[str, Any] = payload) -> ListedRecord:
        return ListedRecord(payload["uid"], {"triggerEvent": trigger, "createdAt": at, "payload": payload})

    match booking.at("status").required_text():
        case "accepted":
            if is_moved:
                yield event("BOOKING_RESCHEDULED", created_at)
            if not is_moved or updated_at != created_at:
                yield event("BOOKING_CREATED", updated_at)
            if booking.at("end").required_time() <= now:
                yield ListedRecord(
                    payload["uid"], {**payload, "triggerEvent": "MEETING_ENDED", "createdAt": created_at}
                )
            if any(attendee["noShow"] for attendee in payload["attendees"]):
                yield event(
                    "BOOKING_NO_SHOW_UPDATED", _marked_at(booking, now) or updated_at, _no_show_payload(payload)
                )
        case "cancelled" if has_seats or not booking.at("rescheduledToUid"):
            yield event("BOOKING_CANCELLED", updated_at)
        case "rejected":
            yield event("BOOKING_REJECTED", updated_at)
        case "pending" if is_moved:
            yield event("BOOKING_REQUESTED", created_at)


def _marked_at(booking: Payload, now: datetime) -> str | None:
    """Return the start if the booking did not change after it: a mark has no time, and is not set before the start."""
    start, updated_at = booking.at("start"), booking.at("updatedAt").time()
    is_later = start.required_time() > (updated_at or booking.at("createdAt").required_time())
    return start.required_text() if is_later and start.required_time() <= now else None


def _listed_payload(booking: Payload, attendees: Sequence[Payload]) -> dict[str, Any]:
    """Return the `payload` of a webhook about a listed booking.

    It leaves out the reason for a move, which would be read as another move, and the series, which would park the
    event.
    """
    answers = booking.at("bookingFieldsResponses")
    responses = {
        name: {"value": answers.at(name).value}
        for name in ("email", "attendeePhoneNumber", "smsReminderNumber")
        if answers.at(name)
    }
    return {
        "uid": booking.at("uid").required_text(),
        "bookingId": booking.at("id").value,
        "rescheduleUid": booking.at("rescheduledFromUid").text(),
        "startTime": booking.at("start").required_text(),
        "endTime": booking.at("end").required_text(),
        "organizer": {"email": next((host.at("email").text() for host in booking.at("hosts")), None)},
        "attendees": [_listed_attendee(attendee) for attendee in attendees],
        "responses": responses,
    }


def _listed_attendee(attendee: Payload) -> dict[str, Any]:
    seat = attendee.at("seatUid").text()
    return {
        **{name: attendee.at(name).value for name in ("name", "email", "phoneNumber", "timeZone")},
        "noShow": attendee.at("absent").boolean() is True,
        **({"bookingSeat": {"referenceUid": seat}} if seat else {}),
    }


def _no_show_payload(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    no_shows = [attendee for attendee in payload["attendees"] if attendee["noShow"]]
    return {"uid": payload["uid"], "bookingUid": payload["uid"], "attendees": no_shows}


LISTING = Listing(
    docs="https://cal.com/docs/api-reference/v2/bookings/get-all-bookings",
    evidence="vendor",
    start=_list_bookings,
    read_page=_read_bookings,
    lists_changed=True,
    is_daily=True,
    calls_per_s=1.0,
)
