"""Mindbody: appointments of studios and spas. All is in the event but in a cancel, which has two ids and nothing else.

https://developers.mindbodyonline.com/WebhooksDocumentation: the signature, `messageId` (the same on every retry),
`eventInstanceOriginationDateTime` (UTC, when it happened; deliveries come doubled and in any order), times in UTC, and
a HEAD request without a signature that tries the address. The key of the signature is the text that was shown, though
it looks like base64. An appointment's id is unique inside its site only. `appointmentBooking.cancelled` cancels what
was told before or comes later; an update after it brings the appointment back.

The documentation knows the statuses Scheduled and Cancelled, and no event for a completion, a no-show or the payment of
an appointment. Second-hand, from integrators: Completed may be seen in an update. Recalled: the other statuses of the
Public API, which mean here what they mean there. No status has a time of its own: it counts from the first event that
shows it.
"""

from datetime import UTC

from app.delivery import Event
from app.reading import Json
from app.signatures import Hmac
from app.sources import Ignored, Source
from app.visits.words import UNSAID, Contact, VisitChange, microseconds

SETUP = """
1. In Mindbody's developer portal go live, have the business activate the link to your account, and make an API key.
2. POST to https://mb-api.mindbodyonline.com/push/api/v1/subscriptions, with the header API-Key: `eventIds` with
   appointmentBooking.created, appointmentBooking.updated and appointmentBooking.cancelled, `eventSchemaVersion` 1, a
   `referenceId` of your own, and as `webhookUrl` {url}, which Mindbody tries with HEAD.
3. The answer shows `messageSignatureKey` once: set it as it is, with its `=`, as HOOKS__MINDBODY__SECRETS and restart.
4. PATCH …/subscriptions/ID with {"status": "Active"}. A subscription that failed for hours is deactivated: PATCH it
   again.
5. Of several sites on one address, name yours in HOOKS__MINDBODY__TENANTS (its siteId).

Mindbody does not reliably tell when an appointment is over, so a review request counts from its start; no-shows have to
be cancelled. Sales name no appointment, so no money is told. Classes and opt-outs are not told.
"""

SOURCE = Source(
    title="Mindbody",
    docs="https://developers.mindbodyonline.com/WebhooksDocumentation",
    evidence="recalled",
    signature=Hmac(header="X-Mindbody-Signature", encoding="base64", prefix="sha256="),
    setup=SETUP,
    event=("eventId",),
    repeat_key=lambda event: event.data.at("messageId").text(),
    tenant=lambda event: event.data.at("eventData", "siteId").text(),
    probes=("HEAD",),
)

OPEN = {"scheduled", "booked", "confirmed", "arrived", "started"}
OFF = {"cancelled", "canceled", "latecancelled", "latecanceled", "earlycancelled", "earlycanceled"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("eventId").needed_text(), event.data.at("eventData")
    match kind:
        case "appointmentBooking.created" | "appointmentBooking.updated":
            status = _status(booking)
        case "appointmentBooking.cancelled":
            status = "cancelled"
        case _:
            return Ignored(kind)
    said_at = event.data.at("eventInstanceOriginationDateTime").needed_moment(UTC)
    is_off, starts = status in OFF, booking.at("startDateTime")
    return [
        VisitChange(
            action="cancel" if is_off else "create" if kind.endswith("created") else "update",
            visit_id=_id(booking),
            order=microseconds(said_at),
            contact=_contact(booking),
            time_scheduled=starts.moment(UTC) or UNSAID if is_off else starts.needed_moment(UTC),
            time_completed=said_at if status == "completed" else None,
            date_cancelled=said_at if is_off else None,
            no_show=said_at if status == "noshow" else None,
            is_sighting=True,
        )
    ]


def _id(booking: Json) -> str:
    return f"{booking.at('siteId').needed_text()}:{booking.at('appointmentId').needed_text()}"


def _status(booking: Json) -> str:
    """Where it is left out, the appointment stands."""
    found = booking.at("status")
    status = (found.text() or "scheduled").lower().replace(" ", "").replace("-", "")
    if status not in OPEN | OFF | {"completed", "noshow"}:
        raise found.surprise("an appointment's status that Mindbody has")
    return status


def _contact(booking: Json) -> Contact:
    return Contact(
        email=booking.at("clientEmail").text(),
        first_name=booking.at("clientFirstName").text(),
        last_name=booking.at("clientLastName").text(),
        phone=booking.at("clientPhone").text(),
    )
