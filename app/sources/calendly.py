"""Calendly: an invitee books, moves, cancels, or is marked as a no-show.

From https://developer.calendly.com/api-docs/overview/webhooks and "Webhook Payloads for Rescheduled Events" there:
`created_at` at the top is when the event happened; times are UTC. Many invitees share a group event, so the visit is
the invitee, not the event. There is no event for a reschedule: the old invitee is canceled with `rescheduled` and
`new_invitee`, and the new invitee is created with `old_invitee`, in either order. There is no event for a completion or
a later payment either.

Second-hand (the Ruby gem `calendly` and integrations in public code): what `invitee_no_show.…` carries. Some show the
InviteeNoShow (`uri`, `invitee`, `created_at`), others the whole invitee with `no_show` in it; both are read. So is the
place of the number in `scheduled_event.location` of an `outbound_call`.
"""

import re
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.signatures.scheme import MIN_CHOSEN_SECRET_BYTES
from app.webhooks.source import Ignored, Source

SETUP = """
1. Webhooks of Calendly need a paid plan and are created through its API only. In Integrations, "API and webhooks",
   create a personal access token as an owner or admin of the organization.
2. Make up a signing key (32 random characters or more) and set it as HOOKS__CALENDLY__SECRETS. Without a signing key
   Calendly signs nothing, and Doorbell rejects every delivery.
3. Ask Calendly for your organization, with that token, and note `current_organization` in the response.
   $ curl https://api.calendly.com/users/me -H "Authorization: Bearer TOKEN"
4. Create a subscription for {url}, with the token from step 1, the signing key from step 2 and the organization from step 3.
   $ curl https://api.calendly.com/webhook_subscriptions -H "Authorization: Bearer TOKEN" \\
       -H "Content-Type: application/json" -d '{"url": "{url}", "organization": "ORGANIZATION",
       "scope": "organization", "signing_key": "SIGNING_KEY", "events": ["invitee.created", "invitee.canceled",
       "invitee_no_show.created", "invitee_no_show.deleted"]}'
5. After 24 hours of failures Calendly disables a subscription for good: then do step 4 again.

Calendly does not send the end of a meeting, so a review request counts from its start. It only sends payments that were
made while booking.
"""

SOURCE = Source(
    title="Calendly",
    docs="https://developer.calendly.com/api-docs/overview/webhooks/webhook-signatures",
    evidence="second-hand",
    signature=Hmac(
        header="Calendly-Webhook-Signature",
        fields=("t", "v1"),
        signs="{t}.{body}",
        tolerance_s=180,
        min_key_bytes=MIN_CHOSEN_SECRET_BYTES,
    ),
    setup=SETUP,
    event_name_path=("event",),
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, payload = event.data.at("event").required_text(), event.data.at("payload")
    match kind:
        case "invitee.created":
            return [_booked(event, payload)]
        case "invitee.canceled" if not payload.at("rescheduled").boolean():
            cancelled_at = payload.at("cancellation", "created_at").time() or _happened_at(event)
            return [replace(_update(event, payload), action="cancel", date_cancelled=cancelled_at)]
        case "invitee.canceled" if payload.at("new_invitee"):
            return [_reschedule_link(event, payload)]
        case "invitee.canceled":
            return Ignored("invitee.canceled: rescheduled")
        case "invitee_no_show.created":
            invitee = _no_show_invitee(payload)
            missed_at = invitee.at("no_show", "created_at").time() or _happened_at(event)
            return [replace(_update(event, invitee), no_show=missed_at)]
        case "invitee_no_show.deleted":
            return [replace(_update(event, _no_show_invitee(payload)), no_show=None)]
    return Ignored(kind)


def _update(event: Event, invitee: Payload) -> VisitChange:
    """Return an update with the fields of the invitee. The event may have no more than the invitee's URI."""
    return VisitChange(
        action="update",
        visit_id=_invitee_id(invitee.at("uri") if isinstance(invitee.value, dict) else invitee),
        version=unix_microseconds(_happened_at(event)),
        contact=_contact(invitee),
        time_scheduled=invitee.at("scheduled_event", "start_time").time() or UNSET,
    )


def _booked(event: Event, invitee: Payload) -> VisitChange:
    old_invitee = invitee.at("old_invitee")
    return replace(
        _update(event, invitee),
        action="create",
        previous_visit_id=_invitee_id(old_invitee) if old_invitee else None,
        time_scheduled=invitee.at("scheduled_event", "start_time").required_time(),
        amount_collected=_amount(invitee.at("payment")),
        currency=invitee.at("payment", "currency").currency(),
        date_cancelled=None,
        no_show=None,
    )


def _reschedule_link(event: Event, invitee: Payload) -> VisitChange:
    """Return the link of a reschedule: nothing is cancelled, the visit continues under the new invitee."""
    return VisitChange(
        action="update",
        visit_id=_invitee_id(invitee.at("new_invitee")),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_invitee_id(invitee.at("uri")),
    )


def _no_show_invitee(payload: Payload) -> Payload:
    """Return the invitee who did not come: an InviteeNoShow has the URI, or an object with the URI."""
    return payload.at("invitee") or payload


def _happened_at(event: Event) -> datetime:
    return event.data.at("created_at").required_time()


def _invitee_id(uri: Payload) -> str:
    """Extract the id from `https://api.calendly.com/scheduled_events/{event}/invitees/{invitee}`."""
    match = re.search(r"/invitees/([^/?#\s]+)/?$", uri.required_text())
    if not match:
        raise uri.unexpected("the URI of an invitee")
    return match[1]


def _amount(payment: Payload) -> Decimal | Unset:
    """Return `amount`, which is in whole currency units: 75.5 for 75.50."""
    amount = payment.at("amount").amount() if payment.at("successful").boolean() else None
    return UNSET if amount is None else amount


def _contact(invitee: Payload) -> Contact:
    first, last = invitee.at("first_name").text(), invitee.at("last_name").text()
    if not (first or last):
        # The form has one field for the name.
        first, last = [*(invitee.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    return Contact(email=invitee.at("email").text(), first_name=first, last_name=last, phone=_phone(invitee))


_PHONE_QUESTION = re.compile(r"phone|mobile|\bcell\b|tel[eé]fon|m[oó]vil|handynummer|whatsapp", re.IGNORECASE)
_PHONE_NUMBER = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def _phone(invitee: Payload) -> str | None:
    """Return the number for text reminders, else an answer on the booking form, else the number that the host calls."""
    reminder = invitee.at("text_reminder_number").text()
    if reminder:
        return reminder
    for answer_item in invitee.at("questions_and_answers"):
        answer = answer_item.at("answer").text() or ""
        if _PHONE_QUESTION.search(answer_item.at("question").text() or "") and _PHONE_NUMBER.fullmatch(answer):
            return answer
    location = invitee.at("scheduled_event", "location")
    return location.at("location").text() if location.at("type").text() == "outbound_call" else None
