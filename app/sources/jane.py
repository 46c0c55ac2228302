"""Jane App: appointments of clinics. An event names one, and it is fetched with its patient.

https://developers.jane.app/docs/webhooks, read second-hand: four topics, nothing about the patient in the body, `event_id`,
which is the same on every retry; `X-Jane-Signature` is `sha256=` and an HMAC over the body. Not confirmed: that it is in
hexadecimal, and that `X-Jane-Timestamp` is not part of what is signed. Harvests differ in whether `appointment_id` is a
number or a uuid, and `clinic_guid` the other: both are taken.

From the OpenAPI document of the same site, also second-hand: `appointments/{id}` and `patients/{id}` below the clinic's own
address, 429 with `Retry-After`, and their fields. An appointment is told as it stands when it is fetched, and our own clock
orders. Its cancel and its no-show have their times. It is never told to be completed; `arrived` is before the treatment. An
archived appointment was removed; that it was not held is our reading. Access tokens live five minutes and refresh tokens
half an hour, unless they were asked for with the scope `offline_access`.
"""

from datetime import datetime

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest, refresh_token_exchange
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import RECORD_GONE, Ignored, Source

SETUP = """
1. As an approved partner of Jane's Developer Platform, connect the clinic with the scopes appointments:read, patients:read,
   webhooks:create and offline_access; the last one, since other refresh tokens end after half an hour. Set
   HOOKS__JANE__CREDENTIALS__CLIENT_ID, …__CLIENT_SECRET and …__REFRESH_TOKEN, and SECRET_KEY to 32 random characters or
   more.
2. Set HOOKS__JANE__API_URL to https://CLINIC.janeapp.com/api/2026-01-01/ with the clinic's name. In the sandbox set
   HOOKS__JANE__TOKEN_URL too: …/realms/jane_partner_sandbox/protocol/openid-connect/token.
3. As an owner or with full permissions, POST {"event_topic": "…", "target_url": "{url}"} to that address and `webhooks`, for
   each of APPOINTMENT_BOOKED, APPOINTMENT_RESCHEDULED, APPOINTMENT_CANCELLED and APPOINTMENT_UNCANCELLED.
4. The answer shows a signing secret, once. Set all of them as HOOKS__JANE__SECRETS, separated by spaces, and restart.

Jane does not tell when an appointment is over, so a review request counts from its start; nor money. A no-show does not
ring: it is seen only if something else about the appointment does. Patients who want no e-mail, or no marketing e-mail, are
not asked.
"""


def _event_id(event: Event) -> str | None:
    return event.data.at("event_id").text()


def _clinic(event: Event) -> str | None:
    return event.data.at("clinic_guid").text()


SOURCE = Source(
    title="Jane App",
    docs="https://developers.jane.app/docs/webhooks",
    evidence="recalled",
    signature=Hmac("X-Jane-Signature", prefix="sha256="),
    setup=SETUP,
    event_name_path=("event_topic",),
    repeat_key=_event_id,
    tenant_of=_clinic,
    required_settings=("API_URL",),
    api_url="",
    credentials=BearerAuth("TOKEN"),
    token_exchange=refresh_token_exchange("https://login.id.janeapp.com/realms/jane/protocol/openid-connect/token"),
)

ACTIONS: dict[str, Action] = {
    "APPOINTMENT_BOOKED": "create",
    "APPOINTMENT_RESCHEDULED": "update",
    "APPOINTMENT_CANCELLED": "cancel",
    "APPOINTMENT_UNCANCELLED": "update",
}


def fetch(event: Event) -> list[RecordRequest]:
    if _topic(event) not in ACTIONS:
        return []
    return [RecordRequest(f"appointments/{event.data.at('appointment_id').required_id()}", follow_up=_beside)]


def _beside(appointment: Payload) -> dict[str, RecordRequest]:
    patient_id = appointment.at("patient_id")
    return {"patient": RecordRequest(f"patients/{patient_id.required_id()}")} if patient_id.text() else {}


def translate(event: Event) -> list[VisitChange] | Ignored:
    topic, told_at = _topic(event), event.data.at("event_timestamp").time() or event.received_at
    if topic not in ACTIONS:
        return Ignored(topic)
    visit_id = f"{event.data.at('clinic_guid').required_text()}-{event.data.at('appointment_id').required_id()}"
    if event.fetched_at is None:
        raise Untranslatable("the appointment that this event points at was not fetched")
    order, appointment = unix_microseconds(event.fetched_at), event.record
    if appointment is None:
        if ACTIONS[topic] != "cancel":
            return RECORD_GONE
        return [
            VisitChange(
                action="cancel", visit_id=visit_id, version=order, date_cancelled=told_at, times_are_observed=True
            )
        ]
    ended_at, missed_at = _cancelled(appointment, topic, told_at), _missed(appointment, told_at)
    starts_at = appointment.at("start_at")
    return [
        VisitChange(
            action="cancel" if ended_at else "create" if ACTIONS[topic] == "create" else "update",
            visit_id=visit_id,
            version=order,
            contact=_contact(event.related.get("patient", Payload(None))),
            time_scheduled=(starts_at.time() or UNSET) if ended_at else starts_at.required_time(),
            date_cancelled=ended_at,
            no_show=missed_at,
            opted_out=_opted_out(event.related.get("patient", Payload(None))),
            times_are_observed=not (_dated(appointment) if ended_at else appointment.at("no_show_at").time()),
        )
    ]


def _topic(event: Event) -> str:
    return event.data.at("event_topic").required_text()


def _cancelled(appointment: Payload, topic: str, told_at: datetime) -> datetime | None:
    """As the record says; only of one that does not tell, the event is believed."""
    is_silent = isinstance(appointment.value, dict) and not appointment.value.keys() & {"state", "cancelled_at"}
    is_off = appointment.at("state").text() in ("cancelled", "archived") or (is_silent and ACTIONS[topic] == "cancel")
    return _dated(appointment) or (told_at if is_off else None)


def _dated(appointment: Payload) -> datetime | None:
    return appointment.at("cancelled_at").time() or appointment.at("archived_at").time()


def _missed(appointment: Payload, told_at: datetime) -> datetime | None:
    return appointment.at("no_show_at").time() or (told_at if appointment.at("state").text() == "no_show" else None)


def _contact(patient: Payload) -> Contact | None:
    if not patient:
        return None
    numbers = [one for one in patient.at("phone_numbers") if one.at("type").text() != "fax"]
    ranked = [
        *(one for one in numbers if one.at("is_primary").boolean()),
        *(one for one in numbers if one.at("type").text() == "mobile"),
        *numbers,
    ]
    return Contact(
        email=patient.at("email").text(),
        first_name=patient.at("first_name").text(),
        last_name=patient.at("last_name").text(),
        phone=ranked[0].at("number").text() if ranked else patient.at("mobile_phone_number").text(),
    )


def _opted_out(patient: Payload) -> bool | Unset:
    """`do_not_email` is about all e-mail, `send_marketing_emails` about what a review request may count as."""
    if patient.at("status").text() == "deceased":
        return True
    no_mail, marketing = patient.at("do_not_email").boolean(), patient.at("send_marketing_emails").boolean()
    return UNSET if no_mail is None and marketing is None else bool(no_mail or marketing is False)
