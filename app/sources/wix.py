"""Wix Bookings: bookings of a site.

From https://dev.wix.com/docs/rest/business-solutions/bookings/bookings/bookings-writer-v2 and "About the Structure of
Webhooks" there: the whole body is a JSON Web Token, signed with the app's key; inside it, the content is nested twice
as JSON in a string. The id of a booking does not change; `status` is its state, and the `slug` shows what happened.
`eventTime` orders the events. Within a millisecond, `entityEventSequence` orders them: it increases with each event,
but it is optional, and the pages of some events do not have it; without it, the booking's `revision` is used. The
event's own `id` is the same on every retry. CREATED is a cart, not a booking. PENDING and the waiting list are
requests: a new request is ignored; a later one cancels the visit. A cancellation gets the time of the first event with
a cancelled status, because later events repeat the status. Wix waits 1,250 ms for a response.

Second-hand: RS256, and that the layers are strings (objects are read, too); `entity` besides `entityAsJson`; the names in
`contactDetails`; `firstSessionStart` of a course; `cancelled` with two l; the spelling of "marked as pending". From memory:
`bodyAsJson`.
"""

import re

from app.visits.change import UNSET, Contact, VisitChange, unix_microseconds
from app.webhooks import Event, Ignored, Jwt, Payload, Source

SETUP = """
1. In the Wix app dashboard (dev.wix.com), create an app with the permission "Read Bookings - Including Participants",
   and install it on your site.
2. Under Webhooks, copy the public key and set it as HOOKS__WIX__SECRETS, with or without its lines BEGIN and END.
3. On the same page, add a webhook for each of Bookings V2's events, all with the URL {url}: Booking Created, Confirmed,
   Declined, Canceled, Rescheduled, Updated, Marked As Pending.
4. If several sites install the app, it sends the events of all of them: set HOOKS__WIX__TENANTS to your site's instance id.

Wix sends no completions or no-shows, so review requests are timed from the start; for a course, from the start of its
first session. Wix reports whether a booking is paid, but not the amount.
"""


def _instance(event: Event) -> str | None:
    return _envelope(event).at("instanceId").text()


def _event_id(event: Event) -> str | None:
    return _inner(event).at("id").text()


SOURCE = Source(
    title="Wix Bookings",
    docs="https://dev.wix.com/docs/rest/business-solutions/bookings/bookings/bookings-writer-v2",
    evidence="none",
    retries="yes",
    signature=Jwt("RS256"),
    setup=SETUP,
    body_format="jwt",
    event_name_path=("eventType",),
    repeat_key=_event_id,
    tenant_of=_instance,
    sender_timeout_s=1.0,
)

BOOKING = "wix.bookings.v2.booking"
CANCELLING_SLUGS = {"canceled", "cancelled", "declined"}
SLUGS = {"created", "confirmed", "rescheduled", "updated", "numberofparticipantsupdated", "markedaspending", "pending"}
CONFIRMED, REQUESTED = {"CONFIRMED", "UPDATED"}, {"PENDING", "WAITING_LIST"}
CANCELLED = {"CANCELED", "CANCELLED", "DECLINED"}
#: After these events there is no confirmed booking that a request could cancel.
INITIAL_SLUGS = {"created", "markedaspending", "pending"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    inner = _inner(event)
    entity, slug = _entity_and_slug(event, inner)
    kind = slug.replace("_", "").lower()
    if entity != BOOKING or kind not in SLUGS | CANCELLING_SLUGS:
        return Ignored(f"{entity}_{slug}".rstrip("_"))
    if inner.at("triggeredByAnonymizeRequest").boolean():
        return Ignored("anonymized")
    booking = _booking(inner)
    status = booking.at("status")
    state = "CANCELED" if kind in CANCELLING_SLUGS else status.text() or ("CONFIRMED" if kind == "confirmed" else "")
    if state == "CREATED" or (state in REQUESTED and kind in INITIAL_SLUGS):
        return Ignored(f"not booked yet: {state}")
    if state not in CONFIRMED | REQUESTED | CANCELLED:
        raise status.unexpected("a booking's status that Wix documents")
    happened_at, start = inner.at("eventTime").required_time(), _start(booking)
    return [
        VisitChange(
            action="update" if state in CONFIRMED else "cancel",
            visit_id=inner.at("entityId").text() or booking.at("id").required_text(),
            version=unix_microseconds(happened_at),
            observed_at_us=_sequence(inner, booking),
            contact=_contact(booking.at("contactDetails")),
            time_scheduled=start.required_time(event.zone) if state in CONFIRMED else start.time(event.zone) or UNSET,
            date_cancelled=None if state in CONFIRMED else happened_at,
            times_are_observed=True,
        )
    ]


def _envelope(event: Event) -> Payload:
    """Return the envelope: the claim `data`, or the claims themselves."""
    return event.data if event.data.at("eventType") else event.data.at("data").parse_embedded_json()


def _inner(event: Event) -> Payload:
    return _envelope(event).at("data").parse_embedded_json()


def _entity_and_slug(event: Event, inner: Payload) -> tuple[str, str]:
    """Return the type of the entity, and what happened to it."""
    entity, slug, whole = inner.at("entityFqdn").text(), inner.at("slug").text(), _envelope(event).at("eventType")
    if entity and slug:
        return entity, slug
    entity, _, slug = whole.required_text().partition("_")
    return entity, slug


def _booking(inner: Payload) -> Payload:
    """Return the booking at the time of the event; its place depends on the kind of event."""
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
    """Parse the sequence number, which is a 64-bit number as text."""
    field = inner.at("entityEventSequence") or booking.at("revision")
    digits = field.text() or "0"
    if not re.fullmatch("[0-9]{1,18}", digits):
        raise field.unexpected("a number in digits")
    return int(digits)


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
