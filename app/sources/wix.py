"""Wix Bookings: bookings of a site. https://dev.wix.com/docs/rest/business-solutions/bookings/bookings/bookings-writer-v2

The whole body is a JSON Web Token ("About the Structure of Webhooks" there), signed with the app's key; what it holds is
wrapped twice more, as JSON in a text. A booking keeps its id; `status` says what it is, the `slug` what happened.
`eventTime` orders its events, and of one millisecond `entityEventSequence`, which rises with each but is optional, and not
on every event's page; else the booking's `revision` does. The event's own `id` is the same on every retry.
CREATED is a cart, not a booking. PENDING and the waiting list are requests: a new one means nothing yet, a later one takes
back what was agreed. A booking was cancelled when the first of the events that say so happened, since later ones say it
again. Wix waits 1,250 ms for its answer.

Second-hand: RS256, and that the layers are texts (objects are read too); `entity` beside `entityAsJson`; the names in
`contactDetails`; `firstSessionStart` of a course; `cancelled` with two l; how "marked as pending" is spelled. Recalled:
`bodyAsJson`.
"""

import re

from app.visits.change import UNSET, Contact, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.signatures.jwt import Jwt
from app.webhooks.source import Ignored, Source

SETUP = """
1. In the Wix app dashboard (dev.wix.com) make an app with the permission "Read Bookings - Including Participants", and
   install it on your site.
2. Under Webhooks copy the public key and set it as HOOKS__WIX__SECRETS, with or without its lines BEGIN and END.
3. There add a webhook for each of Bookings V2's events, all with the address {url}: Booking Created, Confirmed,
   Declined, Canceled, Rescheduled, Updated, Marked As Pending.
4. An app that several sites install rings for all of them: set HOOKS__WIX__TENANTS to your site's instance id.

Wix tells neither completions nor no-shows, so a review request counts from the start; a course's is that of its first
session. It tells that a booking is paid, but not how much.
"""


def _instance(event: Event) -> str | None:
    return _envelope(event).at("instanceId").text()


def _event_id(event: Event) -> str | None:
    return _inner(event).at("id").text()


SOURCE = Source(
    title="Wix Bookings",
    docs="https://dev.wix.com/docs/rest/business-solutions/bookings/bookings/bookings-writer-v2",
    evidence="recalled",
    signature=Jwt("RS256"),
    setup=SETUP,
    body_format="jwt",
    event_name_path=("eventType",),
    repeat_key=_event_id,
    tenant_of=_instance,
    sender_timeout_s=1.0,
)

BOOKING = "wix.bookings.v2.booking"
ENDS = {"canceled", "cancelled", "declined"}
SLUGS = {"created", "confirmed", "rescheduled", "updated", "numberofparticipantsupdated", "markedaspending", "pending"}
STANDS, REQUESTED, OFF = {"CONFIRMED", "UPDATED"}, {"PENDING", "WAITING_LIST"}, {"CANCELED", "CANCELLED", "DECLINED"}
#: After these nothing was agreed that a request could take back.
FIRST = {"created", "markedaspending", "pending"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    inner = _inner(event)
    entity, slug = _what(event, inner)
    kind = slug.replace("_", "").lower()
    if entity != BOOKING or kind not in SLUGS | ENDS:
        return Ignored(f"{entity}_{slug}".rstrip("_"))
    if inner.at("triggeredByAnonymizeRequest").boolean():
        return Ignored("anonymized")
    booking = _booking(inner)
    status = booking.at("status")
    known = "CANCELED" if kind in ENDS else status.text() or ("CONFIRMED" if kind == "confirmed" else "")
    if known == "CREATED" or (known in REQUESTED and kind in FIRST):
        return Ignored(f"not booked yet: {known}")
    if known not in STANDS | REQUESTED | OFF:
        raise status.unexpected("a booking's status that Wix documents")
    happened_at, start = inner.at("eventTime").required_time(), _start(booking)
    return [
        VisitChange(
            action="update" if known in STANDS else "cancel",
            visit_id=inner.at("entityId").text() or booking.at("id").required_text(),
            version=unix_microseconds(happened_at),
            observed_at_us=_sequence(inner, booking),
            contact=_contact(booking.at("contactDetails")),
            time_scheduled=start.required_time(event.zone) if known in STANDS else start.time(event.zone) or UNSET,
            date_cancelled=None if known in STANDS else happened_at,
            times_are_observed=True,
        )
    ]


def _envelope(event: Event) -> Payload:
    """Who is told what: the claim `data`, or the claims themselves."""
    return event.data if event.data.at("eventType") else event.data.at("data").parse_embedded_json()


def _inner(event: Event) -> Payload:
    return _envelope(event).at("data").parse_embedded_json()


def _what(event: Event, inner: Payload) -> tuple[str, str]:
    """Of which kind of thing it is told, and what."""
    entity, slug, whole = inner.at("entityFqdn").text(), inner.at("slug").text(), _envelope(event).at("eventType")
    if entity and slug:
        return entity, slug
    entity, _, slug = whole.required_text().partition("_")
    return entity, slug


def _booking(inner: Payload) -> Payload:
    """The booking as it was then, wherever this event has it."""
    created, updated, action = (inner.at(name) for name in ("createdEvent", "updatedEvent", "actionEvent"))
    body = action.at("body").parse_embedded_json() or action.at("bodyAsJson").parse_embedded_json()
    places = (
        *(created.at("entity"), created.at("entityAsJson")),
        *(updated.at("currentEntity"), updated.at("currentEntityAsJson")),
        body.at("booking"),
    )
    for place in places:
        if place:
            return place.parse_embedded_json()
    raise inner.unexpected("an event with its booking")


def _sequence(inner: Payload, booking: Payload) -> int:
    """A number of 64 bits, written as a text."""
    found = inner.at("entityEventSequence") or booking.at("revision")
    written = found.text() or "0"
    if not re.fullmatch("[0-9]{1,18}", written):
        raise found.unexpected("a number in digits")
    return int(written)


def _start(booking: Payload) -> Payload:
    slot, course = booking.at("bookedEntity", "slot", "startDate"), booking.at("bookedEntity", "schedule")
    return slot or course.at("firstSessionStart") or booking.at("startDate")


def _contact(details: Payload) -> Contact:
    return Contact(
        email=details.at("email").text(),
        first_name=details.at("firstName").text(),
        last_name=details.at("lastName").text(),
        phone=details.at("phone").text(),
    )
