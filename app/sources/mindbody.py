"""Mindbody: appointments and classes of studios and spas. All is in the event but in a cancel, which has ids only.

https://developers.mindbodyonline.com/WebhooksDocumentation: the signature, `messageId` (the same on every retry),
`eventInstanceOriginationDateTime` (UTC, when it happened; deliveries come doubled and in any order), times in UTC, and
a HEAD request without a signature that tries the address. The key of the signature is the text that was shown, though
it looks like base64. An appointment's id is unique inside its site only. `appointmentBooking.cancelled` cancels what
was told before or comes later; an update after it brings the appointment back.

The documentation knows the statuses Scheduled and Cancelled, and no event for a completion, a no-show or the payment of
an appointment. Second-hand, from integrators: Completed may be seen in an update. Recalled: the other statuses of the
Public API, which mean here what they mean there. Requested is not agreed yet: it holds the visit back as a cancel does,
until an update says another status. None tells no status: the visit keeps the one that it has. No status has a time of
its own: it counts from the first event that shows it.

A class has many clients, each with a booking: a visit for each client of a class (`classId`, `clientId`), so who cancels
and books the class again has one. Second-hand, from integrators: the fields of these events, and the sign-in statuses
SignedIn and LateCancelled. Recalled: Absent and the other words. SignedIn is no completion, for clients sign in before a
class begins. Absent counts as a no-show only where the status was changed to it. A class that is cancelled as a whole
names no client: that event is parked.
"""

from dataclasses import replace
from datetime import UTC, datetime

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. In Mindbody's developer portal go live, have the business activate the link to your account, and make an API key.
2. POST to https://mb-api.mindbodyonline.com/push/api/v1/subscriptions, with the header API-Key: `eventIds` with
   appointmentBooking.created, appointmentBooking.updated and appointmentBooking.cancelled, and for classes
   classRosterBooking.created, classRosterBookingStatus.updated, classRosterBooking.cancelled and class.updated,
   `eventSchemaVersion` 1, a `referenceId` of your own, and as `webhookUrl` {url}, which Mindbody tries with HEAD.
3. The answer shows `messageSignatureKey` once: set it as it is, with its `=`, as HOOKS__MINDBODY__SECRETS and restart.
4. PATCH …/subscriptions/ID with {"status": "Active"}. A subscription that failed for hours is deactivated: PATCH it
   again.
5. Of several sites on one address, name yours in HOOKS__MINDBODY__TENANTS (its siteId).

Mindbody does not reliably tell when an appointment is over, so a review request counts from its start; no-shows have to
be cancelled, or marked as absent in a class. A class that you cancel as a whole needs your attention in the console.
Sales name no appointment, so no money is told. Opt-outs are not told.
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
            raise Untranslatable("a class is cancelled, and its clients are not named")
    return Ignored(kind)


def _appointment(event: Event, booking: Payload, status: str) -> VisitChange:
    site, starts = booking.at("siteId").required_text(), booking.at("startDateTime")
    known = _known(event, booking, f"{site}:{booking.at('appointmentId').required_text()}", starts)
    if status not in OFF:
        starts.required_time(UTC)
    return _with_status(known, status, _said_at(event))


def _place(event: Event, booking: Payload, status: str) -> VisitChange:
    """Of one client in a class."""
    its_class = f"{booking.at('siteId').required_text()}:class:{booking.at('classId').required_text()}"
    visit_id = attendee_visit_id(its_class, booking.at("clientId").required_text())
    known = _known(event, booking, visit_id, booking.at("classStartDateTime"))
    return _with_status(known, status, _said_at(event))


def _known(event: Event, booking: Payload, visit_id: str, starts: Payload) -> VisitChange:
    return VisitChange(
        action="create" if event.data.at("eventId").required_text().endswith("created") else "update",
        visit_id=visit_id,
        version=unix_microseconds(_said_at(event)),
        contact=_contact(booking),
        time_scheduled=starts.time(UTC) or UNSET,
        times_are_observed=True,
    )


def _with_status(known: VisitChange, status: str, said_at: datetime) -> VisitChange:
    if status == "none":
        return known
    return replace(
        known,
        action="cancel" if status in OFF else known.action,
        time_completed=said_at if status == "completed" else None,
        date_cancelled=said_at if status in OFF else None,
        no_show=said_at if status in MISSED else None,
    )


def _said_at(event: Event) -> datetime:
    return event.data.at("eventInstanceOriginationDateTime").required_time(UTC)


def _status(found: Payload, known: set[str]) -> str:
    """Where it is left out, the booking stands."""
    status = (found.text() or "scheduled").lower().replace(" ", "").replace("-", "")
    if status not in known | {"scheduled"}:
        raise found.unexpected("a status that Mindbody has")
    return status


def _contact(booking: Payload) -> Contact:
    return Contact(
        email=booking.at("clientEmail").text(),
        first_name=booking.at("clientFirstName").text(),
        last_name=booking.at("clientLastName").text(),
        phone=booking.at("clientPhone").text(),
    )
