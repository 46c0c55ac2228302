"""Mindbody: appointments and classes of studios and spas. Events are complete, except cancels, which have only ids.

https://developers.mindbodyonline.com/WebhooksDocumentation: the signature, `messageId` (the same on every retry),
`eventInstanceOriginationDateTime` (UTC, when it happened; deliveries are repeated and unordered), times in UTC, and
a HEAD request without a signature that probes the address. The key of the signature is the displayed text itself,
although it looks like base64. An appointment's id is unique only inside its site. `appointmentBooking.cancelled` may
arrive before or after the other events; a later update restores the appointment.

The documentation has the statuses Scheduled and Cancelled, and no event for a completion, a no-show or the payment of an
appointment. Second-hand, from integrators: an update may have the status Completed. Recalled: the other statuses of the
Public API, with the same meaning. Requested is not confirmed: the visit counts as cancelled until an update has another
status. None is no status: it does not change the visit's status. No status has a time: it counts from the first event
that shows it.

A class has many clients, each with a booking. Each client of a class has a visit (`classId`, `clientId`), so a client who
cancels and books the class again has one visit. Second-hand, from integrators: the fields of these events, and the
sign-in statuses SignedIn and LateCancelled. Recalled: Absent and the other statuses. SignedIn is not a completion, since
clients sign in before a class begins. Absent counts as a no-show only if the status changed to it. The cancel of a whole
class names no client: that event is parked.
"""

from dataclasses import replace
from datetime import UTC, datetime

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In Mindbody's developer portal go live, have the business activate the link to your account, and create an API key.
2. Create a subscription for {url}, which Mindbody probes with HEAD. The last four events are those of classes.
   $ curl https://mb-api.mindbodyonline.com/push/api/v1/subscriptions -H "API-Key: KEY" \\
       -H "Content-Type: application/json" -d '{"webhookUrl": "{url}", "eventSchemaVersion": 1,
       "referenceId": "doorbell", "eventIds": ["appointmentBooking.created", "appointmentBooking.updated",
       "appointmentBooking.cancelled", "classRosterBooking.created", "classRosterBookingStatus.updated",
       "classRosterBooking.cancelled", "class.updated"]}'
3. The response shows `messageSignatureKey` once: set it unchanged, with its `=`, as HOOKS__MINDBODY__SECRETS. Restart.
4. Activate the subscription, with its ID from the response. Mindbody deactivates one that failed for hours:
   then activate it again.
   $ curl -X PATCH https://mb-api.mindbodyonline.com/push/api/v1/subscriptions/ID -H "API-Key: KEY" \\
       -H "Content-Type: application/json" -d '{"status": "Active"}'
5. If several sites use this address, set HOOKS__MINDBODY__TENANTS to the siteId of yours.

Mindbody does not reliably send the end of an appointment, so a review request counts from its start. Cancel no-shows, or
mark them as absent in a class. A class that you cancel as a whole needs your attention in the console. Sales name no
appointment, so visits have no amounts. Mindbody does not send opt-outs.
"""

SOURCE = Source(
    title="Mindbody",
    docs="https://developers.mindbodyonline.com/WebhooksDocumentation",
    evidence="recalled",
    signature=Hmac(header="X-Mindbody-Signature", encoding="base64", prefix="sha256="),
    setup=SETUP,
    event_name_path=("eventId",),
    repeat_key=lambda event: event.data.at("messageId").text(),
    tenant_of=lambda event: event.data.at("eventData", "siteId").text(),
    probe_methods=("HEAD",),
)

OPEN = {"scheduled", "booked", "confirmed", "arrived", "started"}
OFF = {"cancelled", "canceled", "latecancelled", "latecanceled", "earlycancelled", "earlycanceled", "requested"}
MISSED = {"noshow", "absent"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("eventId").required_text(), event.data.at("eventData")
    match kind:
        case "appointmentBooking.created" | "appointmentBooking.updated":
            return [
                _appointment(
                    event, booking, _status(booking.at("status"), OPEN | OFF | {"completed", "noshow", "none"})
                )
            ]
        case "appointmentBooking.cancelled":
            return [_appointment(event, booking, "cancelled")]
        case "classRosterBooking.created":
            return [_place(event, booking, "booked")]
        case "classRosterBookingStatus.updated":
            return [_place(event, booking, _status(booking.at("signedInStatus"), OFF | MISSED | {"signedin", "none"}))]
        case "classRosterBooking.cancelled":
            return [_place(event, booking, "cancelled")]
        case "class.updated" if booking.at("isCancelled").boolean():
            raise Untranslatable("a class was cancelled, and the event does not name its clients")
    return Ignored(kind)


def _appointment(event: Event, booking: Payload, status: str) -> VisitChange:
    site, start = booking.at("siteId").required_text(), booking.at("startDateTime")
    change = _base_change(event, booking, f"{site}:{booking.at('appointmentId').required_text()}", start)
    if status not in OFF:
        start.required_time(UTC)
    return _with_status(change, status, _happened_at(event))


def _place(event: Event, booking: Payload, status: str) -> VisitChange:
    """Return the change for one client of a class."""
    class_id = f"{booking.at('siteId').required_text()}:class:{booking.at('classId').required_text()}"
    visit_id = attendee_visit_id(class_id, booking.at("clientId").required_text())
    change = _base_change(event, booking, visit_id, booking.at("classStartDateTime"))
    return _with_status(change, status, _happened_at(event))


def _base_change(event: Event, booking: Payload, visit_id: str, start: Payload) -> VisitChange:
    return VisitChange(
        action="create" if event.data.at("eventId").required_text().endswith("created") else "update",
        visit_id=visit_id,
        version=unix_microseconds(_happened_at(event)),
        contact=_contact(booking),
        time_scheduled=start.time(UTC) or UNSET,
        times_are_observed=True,
    )


def _with_status(change: VisitChange, status: str, happened_at: datetime) -> VisitChange:
    if status == "none":
        return change
    return replace(
        change,
        action="cancel" if status in OFF else change.action,
        time_completed=happened_at if status == "completed" else None,
        date_cancelled=happened_at if status in OFF else None,
        no_show=happened_at if status in MISSED else None,
    )


def _happened_at(event: Event) -> datetime:
    return event.data.at("eventInstanceOriginationDateTime").required_time(UTC)


def _status(field: Payload, supported: set[str]) -> str:
    """Return the status in lower case; "scheduled" if it is missing."""
    status = (field.text() or "scheduled").lower().replace(" ", "").replace("-", "")
    if status not in supported | {"scheduled"}:
        raise field.unexpected("a status that Mindbody has")
    return status


def _contact(booking: Payload) -> Contact:
    return Contact(
        email=booking.at("clientEmail").text(),
        first_name=booking.at("clientFirstName").text(),
        last_name=booking.at("clientLastName").text(),
        phone=booking.at("clientPhone").text(),
    )
