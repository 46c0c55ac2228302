"""Nylas Scheduler (v3): bookings, moved and cancelled. https://developer.nylas.com/docs/reference/notifications/scheduler

From that page, those of each event, and https://developer.nylas.com/docs/v3/notifications: Nylas tries the address with a
challenge in the query that wants to be heard back, unsigned; every event is signed, hexadecimal over the body as it is
sent, with compressed delivery over the compressed bytes. `time` beside `data` is when the event happened and orders; times
are seconds since 1970, `id` is the same on every retry. `booking.pending` is a request that the host has not confirmed: no
visit yet.

A participant has an address and a name, and nothing tells a guest from a host or a host's colleague. Who is marked as the
organizer, or has the address that the organizer's calendar is named by, is passed over; who is left is the guest. Several
who are left may be guests, or hosts of a collective meeting: such a booking is parked, for a review request to a colleague
is a wrong one; its move and its cancel hold for the visit, if there is one, whosever it is. Each guest of a group event
makes a booking of their own, which is a visit of their own. A null list is a booking of nobody that we know.

Second-hand: the mark `is_organizer` (it stands in Scheduler's configurations). Implied, not stated: that `booking_id`
stays when a booking moves.
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
   booking.rescheduled and booking.cancelled. Nylas tries the address at once: HOOKS__NYLAS__SECRETS must be set to
   something by then, or the hook does not exist.
2. Compressed delivery may be on or off.
3. Set HOOKS__NYLAS__SECRETS to the webhook's secret, which is shown once, and restart.
4. One application rings for all of its grants. Set HOOKS__NYLAS__TENANTS to the grants that are yours, if others are not.

Nylas tries three times, within 20 minutes: what is missed while we are away longer is lost. It tells neither completions
nor no-shows nor payments, so a review request counts from the start; the phone number is known only where an additional
field asks for it. Each booking of a group event is a visit. A booking with several participants beside the organizer needs
your attention in the console: guests and hosts look alike.
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
            if len(_guests(booking.at("booking_info"))) > 1:
                raise Untranslatable("several participants beside the organizer: guests and hosts cannot be told apart")
            return [replace(_moved(event, booking), action="create")]
        case "booking.rescheduled":
            return [_moved(event, booking)]
        case "booking.cancelled" | "booking.canceled":
            cancelled_at = event.data.at("time").required_unix_seconds()
            return [replace(_known(event, booking), action="cancel", date_cancelled=cancelled_at)]
    return Ignored(kind)


def _moved(event: Event, booking: Payload) -> VisitChange:
    start = booking.at("booking_info", "start_time").required_unix_seconds()
    return replace(_known(event, booking), time_scheduled=start, date_cancelled=None)


def _known(event: Event, booking: Payload) -> VisitChange:
    info = booking.at("booking_info")
    guests = _guests(info)
    return VisitChange(
        action="update",
        visit_id=booking.at("booking_id").required_text(),
        version=unix_microseconds(event.data.at("time").required_unix_seconds()),
        contact=_contact(guests[0], info) if len(guests) == 1 else None,
        time_scheduled=info.at("start_time").unix_seconds() or UNSET,
    )


def _guests(info: Payload) -> list[Payload]:
    """Who may be a guest, each address once."""
    host, found = (info.at("organizer_calendar_id").text() or "").lower(), dict[str, Payload]()
    for participant in info.at("participants"):
        email = (participant.at("email").text() or "").lower()
        if email and email != host and not participant.at("is_organizer").boolean():
            found.setdefault(email, participant)
    return list(found.values())


def _contact(guest: Payload, info: Payload) -> Contact:
    first, last = [*(guest.at("name").text() or "").rsplit(maxsplit=1), None, None][:2]
    phone = _phone(info.at("additional_fields"))
    return Contact(email=guest.at("email").text(), first_name=first, last_name=last, phone=phone)


_ASKS_FOR_A_PHONE = re.compile(r"phone|mobile|\bcell\b", re.IGNORECASE)
_LOOKS_LIKE_A_PHONE = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,24}")


def _phone(fields: Payload) -> str | None:
    """An answer on the booking form, under a name of the customer's own."""
    for name, answer in fields.value.items() if isinstance(fields.value, dict) else ():
        if isinstance(answer, str) and _ASKS_FOR_A_PHONE.search(name) and _LOOKS_LIKE_A_PHONE.fullmatch(answer.strip()):
            return answer.strip()
    return None
