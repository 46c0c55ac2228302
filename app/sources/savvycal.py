"""SavvyCal: events, their approval, and the payment at their checkout. https://savvycal.com/docs/api/webhooks

From that page, "Webhook Payloads" and "Event" beside it, and https://developers.savvycal.com/api/schemas/event: every
payload of an event is the whole event; its id stays when it moves, and `occurred_at` orders. What an event has come to
is in `state`, and that is what is read, since the page's own example of `event.approved` calls itself
`event.requested`; only what ends an event does so whatever its state. The signature is hexadecimal in capitals.

What waits for the organizer's approval or for the checkout is no appointment yet. Where one that was agreed on waits
again (it was moved, and the new time wants approval), it is held back like a cancelled one until it is confirmed.

`event.changed` has the event in `payload.event`, beside what changed; all others have it as `payload`.

`amount_total` is in cents; no currency is told, and should one come (`payment.currency`) it is heeded. Second-hand: the
state `awaiting_reschedule`, and that `event.attendee.…` carries the attendee alone, without the event.

Group sessions (`is_group_session`): each attendee who is no organizer is a visit, named by the event's id and a digest of
the address, so the same person twice is one visit. Whoever left is not taken back by an event that merely lists them. What
`event.attendee.…` looks like is not published: where it has both the event and the attendee it is read, also for guests of
other events, who are no visits; else it is parked. So is a move to another session, since one of the two is not told, and
a payment in a session with several attendees.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable, minor_units
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, PartlyTranslatable, Source

SETUP = """
1. In SavvyCal, open Settings, Integrations, and press + beside Webhooks. Paste {url}. If you are asked which events, tick
   all that begin with `event.`; whatever else comes is ignored here.
2. Copy the signing secret that is shown beside the webhook and set it as HOOKS__SAVVYCAL__SECRETS.

SavvyCal tells neither completions nor no-shows, so a review request counts from the start; of money it tells what is
paid at the checkout. In a group session every attendee is a visit. If SavvyCal does not say which session somebody joined
or left, or between which two they moved, the delivery needs an operator, and so does a payment in a group session.
"""


def _payload_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="SavvyCal",
    docs="https://savvycal.com/docs/api/webhooks",
    evidence="second-hand",
    signature=Hmac(header="x-savvycal-signature", lenient=True),
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
    kind, payload = event.data.at("type").required_text(), event.data.at("payload")
    booking = payload.at("event") if isinstance(payload.at("event").value, dict) else payload
    if kind in ATTENDS:
        return _attended(event, kind, payload, booking)
    if kind not in KINDS:
        return Ignored(kind)
    state = _state(kind, booking)
    if state in WAITING and kind in FIRST and not booking.at("rescheduled_at"):
        return Ignored(f"{kind}: {state}")
    known = _booked(event, kind, state, booking)
    if booking.at("is_group_session").boolean():
        return _group(event, kind, booking, known)
    amount = _collected(kind, booking.at("payment"))
    return [replace(known, contact=_contact(booking), amount_collected=amount)]


def _booked(event: Event, kind: str, state: str, booking: Payload) -> VisitChange:
    """The change of a calendar event, for every attendee."""
    happened_at = _happened_at(event)
    known = VisitChange(
        action="update", visit_id=booking.at("id").required_text(), version=unix_microseconds(happened_at)
    )
    if state in STANDS:
        action: Action = "create" if kind == "event.created" else "update"
        start = booking.at("start_at").required_time()
        return replace(known, action=action, time_scheduled=start, date_cancelled=None)
    return replace(
        known,
        action="cancel",
        time_scheduled=booking.at("start_at").time() or UNSET,
        date_cancelled=_ended_at(state, booking) or happened_at,
    )


def _happened_at(event: Event) -> datetime:
    return event.data.at("occurred_at").required_time()


def _state(kind: str, booking: Payload) -> str:
    usual = KINDS.get(kind, "confirmed")
    if usual in OFF:
        return usual
    state = (booking.at("state").text() or usual).lower()
    if state not in OFF | WAITING | STANDS:
        raise booking.at("state").unexpected("an event's state that SavvyCal documents")
    return state


def _ended_at(state: str, booking: Payload) -> datetime | None:
    return booking.at("canceled_at").time() if state in ("canceled", "cancelled") else None


def _collected(kind: str, payment: Payload) -> Decimal | Unset:
    if kind != "event.checkout.completed" and payment.at("state").text() != "paid":
        return UNSET
    return payment.at("amount_total").amount(minor_units(payment.at("currency").text())) or UNSET


# -- group sessions --

#: What rings for one attendee.
LEAVES = {"event.attendee.canceled", "event.attendee.cancelled"}
ATTENDS = {"event.attendee.added", "event.attendee.rescheduled"} | LEAVES
NOT_COMING = {"declined", "canceled", "cancelled"}
WHO = "an attendee of a group session, and who it is is not told"
WHICH = "an attendee, and which event it is about is not told"
FROM_WHERE = "an attendee of a group session moved, and the session that they left is not told"
WHO_PAID = "a payment in a group session, and by whom is not told"
UNTOLD = "an attendee has neither an e-mail address nor an id"


def _group(event: Event, kind: str, booking: Payload, known: VisitChange) -> list[VisitChange]:
    """known: the change for every attendee."""
    happened_at = _happened_at(event)
    people = [one for one in booking.at("attendees") if not one.at("is_organizer").boolean()]
    told_apart = {key: one for one in people if (key := _key(one))}
    booker = _key(booking.at("scheduler")) if kind == "event.created" else None
    amount = _collected(kind, booking.at("payment")) if len(people) == 1 else UNSET
    changes = [
        replace(
            known,
            visit_id=attendee_visit_id(known.visit_id, key),
            contact=_person(one),
            amount_collected=amount,
            date_left=happened_at if _is_not_coming(one) else None if key == booker else UNSET,
        )
        for key, one in told_apart.items()
    ]
    if not people:
        raise booking.at("attendees").unexpected("the attendees of a group session")
    if not all(map(_key, people)):
        raise PartlyTranslatable(UNTOLD, changes)
    if kind == "event.checkout.completed" and len(people) > 1:
        raise PartlyTranslatable(WHO_PAID, changes)
    return changes


def _attended(event: Event, kind: str, payload: Payload, booking: Payload) -> list[VisitChange] | Ignored:
    """One attendee, with the event beside them, or at least its id."""
    attendee = payload.at("attendee") if isinstance(payload.at("attendee").value, dict) else payload
    is_group, joins = booking.at("is_group_session").boolean(), kind == "event.attendee.added"
    if is_group is False or attendee.at("is_organizer").boolean():
        return Ignored(kind)
    if attendee is booking and booking.at("start_at"):  # the whole event, and nobody in particular
        if joins and is_group:
            return _group(event, kind, booking, _booked(event, kind, _state(kind, booking), booking))
        raise Untranslatable(WHO)
    named = (booking.at("id") if booking is not payload else None, payload.at("event_id"), attendee.at("event_id"))
    event_id, key = next((id for one in named if one and (id := one.text())), None), _key(attendee)
    if not event_id or not key or (joins and is_group is None):
        raise Untranslatable(WHICH)
    happened_at, leaves = _happened_at(event), kind in LEAVES
    change = VisitChange(
        action="cancel" if leaves else "update",
        visit_id=attendee_visit_id(event_id, key),
        version=unix_microseconds(happened_at),
        contact=_person(attendee),
        time_scheduled=booking.at("start_at").time() or UNSET,
        date_left=happened_at if leaves else None,
    )
    if not (joins or leaves):
        raise PartlyTranslatable(FROM_WHERE, [change])
    return [change]


def _is_not_coming(attendee: Payload) -> bool:
    return (attendee.at("response_status").text() or "").lower() in NOT_COMING


def _key(attendee: Payload) -> str | None:
    """What an attendee of one event is told by."""
    email = (attendee.at("email").text() or "").lower()
    return email if "@" in email else attendee.at("id").text()


# -- people --


def _contact(booking: Payload) -> Contact | None:
    """Whoever booked; where nobody did (a poll, or the organizer), the first attendee who is not the organizer."""
    people = [booking.at("scheduler"), *booking.at("attendees")]
    guests = [one for one in people if one.at("email").text() and not one.at("is_organizer").boolean()]
    return _person(guests[0]) if guests else None


def _person(guest: Payload) -> Contact:
    first, last = guest.at("first_name").text(), guest.at("last_name").text()
    if not (first or last):
        first, last = [*(guest.at("display_name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(
        email=guest.at("email").text(), first_name=first, last_name=last, phone=guest.at("phone_number").text()
    )
