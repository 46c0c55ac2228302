"""Zoom Scheduler: bookings and their cancellations.

From https://developers.zoom.us/docs/api/scheduler/events and https://developers.zoom.us/docs/api/webhooks: the
signature covers `v0:`, the time and the body. Zoom tests the URL with a signed token that the response must sign, and
tests it again every 72 hours; Doorbell answers only after it verified the signature. `event_ts` is when the event
happened, in milliseconds. There is no event for a completion, a no-show or a payment; the field `payment` that the
change log announces for 2026-11-16 is not documented, so it is not read.

There is no event for a move either. Since 2026-08-17 the cancelled half of a move may name the new event and the
created half the old one (`rescheduled_to_event_id`, `rescheduled_from_event_id`); the documentation does not show
whether these fields are next to the event or inside it, so both places are read. Second-hand: a move consists of these
two halves. Without a link the old visit is cancelled and the new one is created, which makes no difference to the
customer.

Invitees of a group event (`invitee_counters.limit` above 1) share its `event_id`. Each has a visit whose id is the
event's id and a digest of the e-mail address. `invitee_id` is not used: deliveries before 2026-08-17 do not have it,
and a cancellation must find the visit of an older delivery. A cancellation also cancels the visit that the invitee may
have from a time when the event had another limit. Two bookings with one e-mail address in an event are one visit. A
move between group events is always a cancellation and a new visit: an invitee may come back to an event, and circular
links have no first id.

Not documented: whether a host who cancels a whole group event causes a delivery for each invitee. So a delivery of such
a cancellation (`scheduled_event.status`, several in `invitee_counters.total`, not by an invitee) cancels its own visit,
and is parked.
"""

from dataclasses import replace

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    Event,
    Hmac,
    Ignored,
    PartlyTranslatable,
    Payload,
    SignField,
    Source,
    Untranslatable,
    phone_answer,
)

SETUP = """
1. In the Zoom App Marketplace, Develop, build an app for your account (general or server-to-server) with the scopes to
   read Scheduler's events, and open its Feature page. Set its Secret Token as HOOKS__ZOOM__SECRETS and restart.
2. Under Event Subscriptions, add a subscription, paste {url} as its endpoint, and press Validate: Zoom waits 3 s for a
   response.
3. Add the events of Zoom Scheduler: "Scheduled event created" and "Scheduled event canceled".
4. Activate the app. Zoom validates the URL again every 72 hours, and disables it after six failures.

Zoom sends no completions, no-shows or payments, so review requests are timed from the start. Each invitee of a group
event has a visit; guests whom an invitee brings have none. If you cancel a whole group event, the delivery needs an
operator, who checks that the visits of all its invitees are cancelled: Zoom does not document a delivery for each. Zoom
sends a phone number only if the invitee wants text reminders or the form asks for it.
"""

SOURCE = Source(
    title="Zoom Scheduler",
    docs="https://developers.zoom.us/docs/api/scheduler/events",
    evidence="second-hand",
    signature=Hmac(
        header="x-zm-signature",
        timestamp_header="x-zm-request-timestamp",
        signs="v0:{t}:{body}",
        prefix="v0=",
        tolerance_s=300,
    ),
    setup=SETUP,
    event_name_path=("event",),
    signed_handshake=SignField(
        ("payload", "plainToken"),
        match=(("event",), "endpoint.url_validation"),
        token_field="plainToken",
        signature_field="encryptedToken",
    ),
    tenant_of=lambda event: event.data.at("payload", "account_id").text(),
    sender_timeout_s=2.5,
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("event").required_text(), event.data.at("payload", "object")
    match kind:
        case "scheduler.scheduled_event_created":
            return [_created(event, booking)]
        case "scheduler.scheduled_event_canceled":
            return _cancelled(event, booking)
    return Ignored(kind)


def _created(event: Event, booking: Payload) -> VisitChange:
    start = booking.at("scheduled_event", "start_date_time").required_time()
    old = None if _is_group(booking) else _link(booking, "rescheduled_from_event_id")
    change = replace(_base_change(event, booking), time_scheduled=start, date_cancelled=None, no_show=None)
    return replace(change, action="create", previous_visit_id=old)


def _base_change(event: Event, booking: Payload) -> VisitChange:
    return VisitChange(
        action="update",
        visit_id=_visit_id(booking),
        version=unix_microseconds(event.data.at("event_ts").required_unix_ms()),
        contact=_contact(booking),
        time_scheduled=booking.at("scheduled_event", "start_date_time").time() or UNSET,
    )


def _cancelled(event: Event, booking: Payload) -> list[VisitChange]:
    """Return the changes for a cancelled event. After a move, the visit continues under the new event instead."""
    happened_at, old, new = event.data.at("event_ts").required_unix_ms(), _event_id(booking), _new_event_id(booking)
    if new and new != old and not _is_group(booking):
        return [
            VisitChange(action="update", visit_id=new, version=unix_microseconds(happened_at), previous_visit_id=old)
        ]
    cancelled_at = booking.at("cancellation", "cancel_at").time() or happened_at
    cancelled = replace(_base_change(event, booking), action="cancel", date_cancelled=cancelled_at)
    changes = [cancelled, *_other_ids(booking, cancelled)]
    if _is_group(booking) and _may_affect_all(booking):
        raise PartlyTranslatable(MAY_AFFECT_ALL, changes)
    return changes


MAY_AFFECT_ALL = "a group event was cancelled, perhaps for all of its invitees, but the delivery names only one"


def _may_affect_all(booking: Payload) -> bool:
    """Return whether the event itself is cancelled, has several invitees, and no invitee is named as the canceler."""
    scheduled, canceler = booking.at("scheduled_event"), booking.at("cancellation", "canceler_type").text()
    is_cancelled = (scheduled.at("status").text() or "").lower() in ("cancelled", "canceled")
    return is_cancelled and (scheduled.at("invitee_counters", "total").integer() or 0) > 1 and canceler != "invitee"


def _other_ids(booking: Payload, cancelled: VisitChange) -> list[VisitChange]:
    """Cancel the visit that the same invitee has if the event had another limit before, or has none in this delivery."""
    address = booking.at("invitee_email").text() or ""
    if _is_group(booking):
        return [replace(cancelled, visit_id=_event_id(booking), contact=Contact(email=address), only_for_contact=True)]
    if "@" not in address or _limit(booking):
        return []
    return [replace(cancelled, visit_id=attendee_visit_id(_event_id(booking), address))]


def _limit(booking: Payload) -> int | None:
    return booking.at("scheduled_event", "invitee_counters", "limit").integer()


def _is_group(booking: Payload) -> bool:
    counters, limit = booking.at("scheduled_event", "invitee_counters"), _limit(booking)
    if not limit and max(counters.at(name).integer() or 0 for name in ("active", "total")) > 1:
        raise Untranslatable("an event with several invitees and no limit: the invitee's visit is unknown")
    return (limit or 1) > 1


def _visit_id(booking: Payload) -> str:
    if not _is_group(booking):
        return _event_id(booking)
    address = booking.at("invitee_email").text() or ""
    if "@" not in address:
        raise Untranslatable("a group event's invitee without an e-mail address: the invitee's visit is unknown")
    return attendee_visit_id(_event_id(booking), address)


def _new_event_id(booking: Payload) -> str | None:
    return _link(booking, "rescheduled_to_event_id")


def _event_id(booking: Payload) -> str:
    return booking.at("scheduled_event", "event_id").required_text()


def _link(booking: Payload, name: str) -> str | None:
    return booking.at(name).text() or booking.at("scheduled_event", name).text()


def _contact(booking: Payload) -> Contact:
    return Contact(
        email=booking.at("invitee_email").text(),
        first_name=booking.at("invitee_first_name").text(),
        last_name=booking.at("invitee_last_name").text(),
        phone=booking.at("text_phone_number").text() or _phone(booking),
    )


def _phone(booking: Payload) -> str | None:
    """Find the answer to a question about a phone number on the booking form; Zoom sends each answer as a list."""
    for item in booking.at("questions_and_answers"):
        answers = item.at("answer")
        for answer in answers if isinstance(answers.value, list) else [answers]:
            if number := phone_answer(item.at("question").text(), answer.text()):
                return number
    return None
