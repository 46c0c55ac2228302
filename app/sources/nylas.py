"""Nylas Scheduler (v3): bookings, moved and cancelled.

From https://developer.nylas.com/docs/reference/notifications/scheduler, the pages of each event, and
https://developer.nylas.com/docs/v3/notifications: Nylas probes the address with an unsigned challenge in the query, which
the response must repeat; every event is signed in hexadecimal over the body as it is sent, with compressed delivery over
the compressed bytes. `time` next to `data` is when the event happened and orders; times are seconds since 1970, `id` is the
same on every retry. `booking.pending` is a request that the host has not confirmed: it is not a visit yet.

A participant has an address and a name, and nothing distinguishes a guest from a host or a host's colleague. The participant
who is marked as the organizer, or has the address of the organizer's calendar, is skipped; the remaining one is the guest.
Several remaining participants may be guests, or hosts of a collective meeting: such a booking is parked, because a
colleague must not get a review request; its move and its cancel apply to the visit, if there is one. Each guest of a group
event has a booking, and so a visit. With a null list the guest is unknown.

Second-hand: the mark `is_organizer` (Scheduler's configurations have it). Implied, not stated: `booking_id` does not change
when a booking moves.
"""

import re
from dataclasses import replace

from app.visits.change import UNSET, Contact, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.handshakes import EchoQuery
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In the Nylas Dashboard, open Notifications and add a webhook with the address {url} and the triggers booking.created,
   booking.rescheduled and booking.cancelled. Nylas probes the address at once: set HOOKS__NYLAS__SECRETS to any value
   before, or the hook does not exist.
2. Compressed delivery may be on or off.
3. Set HOOKS__NYLAS__SECRETS to the webhook's secret, which is shown once, and restart.
4. An application sends the events of all of its grants. If some are not yours, set HOOKS__NYLAS__TENANTS to your grants.

Nylas tries three times within 20 minutes: deliveries are lost if Doorbell is down for longer. It sends no completions,
no-shows and payments, so a review request counts from the start. Doorbell only learns the phone number if an additional
field asks for it. Each booking of a group event is a visit. A booking with several participants besides the organizer
needs your attention in the console: guests and hosts look alike.
"""


def _notification_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="Nylas Scheduler",
    docs="https://developer.nylas.com/docs/reference/notifications/scheduler",
    evidence="second-hand",
    signature=Hmac(header="X-Nylas-Signature"),
    content_encodings=("gzip",),
    setup=SETUP,
    repeat_key=_notification_id,
    tenant_of=lambda event: event.data.at("data", "grant_id").text(),
    handshake=EchoQuery("challenge"),
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("type").required_text(), event.data.at("data", "object")
    match kind:
        case "booking.created":
            if len(_possible_guests(booking.at("booking_info"))) > 1:
                raise Untranslatable("several participants besides the organizer: guests and hosts look alike")
            return [replace(_booked(event, booking), action="create")]
        case "booking.rescheduled":
            return [_booked(event, booking)]
        case "booking.cancelled" | "booking.canceled":
            cancelled_at = event.data.at("time").required_unix_seconds()
            return [replace(_base_change(event, booking), action="cancel", date_cancelled=cancelled_at)]
    return Ignored(kind)


def _booked(event: Event, booking: Payload) -> VisitChange:
    start = booking.at("booking_info", "start_time").required_unix_seconds()
    return replace(_base_change(event, booking), time_scheduled=start, date_cancelled=None)


def _base_change(event: Event, booking: Payload) -> VisitChange:
    info = booking.at("booking_info")
    guests = _possible_guests(info)
    return VisitChange(
        action="update",
        visit_id=booking.at("booking_id").required_text(),
        version=unix_microseconds(event.data.at("time").required_unix_seconds()),
        contact=_contact(guests[0], info) if len(guests) == 1 else None,
        time_scheduled=info.at("start_time").unix_seconds() or UNSET,
    )


def _possible_guests(info: Payload) -> list[Payload]:
    """Return the participants who may be guests, each address once."""
    host_email, guests = (info.at("organizer_calendar_id").text() or "").lower(), dict[str, Payload]()
    for participant in info.at("participants"):
        email = (participant.at("email").text() or "").lower()
        if email and email != host_email and not participant.at("is_organizer").boolean():
            guests.setdefault(email, participant)
    return list(guests.values())


def _contact(guest: Payload, info: Payload) -> Contact:
    first, last = [*(guest.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    phone = _phone(info.at("additional_fields"))
    return Contact(email=guest.at("email").text(), first_name=first, last_name=last, phone=phone)


_PHONE_FIELD = re.compile(r"phone|mobile|\bcell\b", re.IGNORECASE)
_PHONE_NUMBER = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def _phone(fields: Payload) -> str | None:
    """Find an answer on the booking form that looks like a phone number, in a field whose name asks for one."""
    for name, answer in fields.value.items() if isinstance(fields.value, dict) else ():
        if isinstance(answer, str) and _PHONE_FIELD.search(name) and _PHONE_NUMBER.fullmatch(answer.strip()):
            return answer.strip()
    return None
