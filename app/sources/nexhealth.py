"""NexHealth: appointments of dental and medical practices, whichever practice system they use.

https://docs.nexhealth.com/docs/webhooks: `signature` covers the `timestamp` header and the body in base64. Retries continue
for 48 hours, and it is not documented whether they have a new time; so a signed time is accepted for three days, and repeats
are recognized by their content. https://docs.nexhealth.com/docs/webhook-subscriptions: the events. `appointment_updated`
reports all later changes: cancelled, missed and checked out are flags of the appointment, `updated_at` orders. Blocks of a
schedule are appointments that are `unavailable`. An id is only unique inside one institution; one endpoint may get events
of several.

NexHealth itself cannot move an appointment; a practice system may. If the system cancels and books again instead, that is
another appointment without a link.

The stable version of the API is v20240412, also called v3.0.0; its name is sent in a header
(https://docs.nexhealth.com/docs/api-v2-to-v20240412-migration-guide). The patient must be fetched, unless the event has the
address: v3.1 has a `patient` in `appointment_created`. A phone may be in several places: `bio.cell_phone_number` and
`bio.phone_number`, and since v3.1 the patient's `cell_phone_number` and `preferred_phone_number`.

`GET patients/{id}` requires the practice's `subdomain`. The printed example of an event does not show one; an integrator's
receiver reads it in the envelope. If it is missing, `?subdomain=` of the webhook's address counts, and an event with neither
is parked. That parameter is not signed: it only narrows a query that needs the hook's own token.

A test event (v3.1, https://docs.nexhealth.com/reference/postwebhookendpointsidtestbeta) is signed like any other, with
example data and `"test": true` in its body: it is ignored.

Second-hand, from integrators: the signature is in hexadecimal, `appointment_created` has a list `appointments` where the
others have an `appointment`, and a deletion is an update, too. The API key is exchanged for a token that lives an hour.

Guessed: a start without an offset is local time in the `timezone` of the appointment.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest, TokenExchange
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.signatures.scheme import ISO_8601
from app.webhooks.source import Ignored, Source

SETUP = """
1. In the NexHealth Developer Portal create an API key and set it as HOOKS__NEXHEALTH__CREDENTIALS__API_KEY. It is
   exchanged for tokens, which needs SECRET_KEY, 32 random characters or more.
2. Get a token for the next steps: the `data.token` of the response.
   $ curl -X POST https://nexhealth.info/authenticates -H "Authorization: API_KEY" -H "Nex-Api-Version: v20240412"
3. Create an endpoint, with the subdomain of the practice. Set the `secret_key` of the response as HOOKS__NEXHEALTH__SECRETS
   and restart. Each practice has its own endpoint; set the keys of all of them.
   $ curl https://nexhealth.info/webhook_endpoints -H "Authorization: Bearer TOKEN" -H "Nex-Api-Version: v20240412" \\
       -H "Content-Type: application/json" -d '{"target_url": "{url}?subdomain=SUBDOMAIN"}'
4. Subscribe that endpoint to the events of appointments, with its ID.
   $ for event in appointment_created appointment_updated appointment_insertion; do
       curl "https://nexhealth.info/webhook_endpoints/ID/webhook_subscriptions?subdomain=SUBDOMAIN" \\
       -H "Authorization: Bearer TOKEN" -H "Nex-Api-Version: v20240412" -H "Content-Type: application/json" \\
       -d '{"resource_type": "Appointment", "event": "'$event'"}'; done
5. After 48 hours of failures NexHealth disables an endpoint: PATCH it with "active": true.

The deliveries contain health data: protect logs and Redis accordingly, and sign the agreements that the law requires. Not
every practice system reports that a patient was checked out; without that, a review request counts from the appointment's
start. NexHealth sends no payments and no opt-outs.
"""

#: https://docs.nexhealth.com/v20240412/reference/versioning
VERSION = {"nex-api-version": "v20240412"}
ACTIONS: dict[str, Action] = {
    "appointment_created": "create",
    "appointment_insertion.complete": "create",
    "appointment_updated": "update",
}
MAX_APPOINTMENTS = 50


def _repeat_key(event: Event) -> str | None:
    """Identify the event without its `delivery_errors`, which may differ between retries."""
    kind, event_time = event.data.at("event_name").text(), event.data.at("event_time").text()
    if kind not in ACTIONS or not event_time:
        return None
    versions = [
        f"{_visit_id(event, appointment)} {appointment.at('updated_at').text()}" for appointment in _appointments(event)
    ]
    return " ".join([f"{kind} {event_time}", *versions])


ADDRESS_PARAMETER = "?subdomain"


def _practice(event: Event) -> str | None:
    """Return the practice's subdomain. Raise Untranslatable if an appointment's event does not name it."""
    practice = event.data.at("subdomain").text() or event.headers.get(ADDRESS_PARAMETER)
    if not practice and event.data.at("event_name").text() in ACTIONS and not _is_test(event):
        raise Untranslatable("the event does not name its practice: add ?subdomain= to the webhook's address")
    return practice


SOURCE = Source(
    title="NexHealth",
    docs="https://docs.nexhealth.com/docs/webhooks",
    credential_help={
        "API_KEY": ("API key", "In the NexHealth Developer Portal."),
    },
    evidence="second-hand",
    signature=Hmac(
        "signature",
        timestamp_header="timestamp",
        timestamp_format=ISO_8601,
        signs="{t}.{body:base64}",
        tolerance_s=3 * 86_400,
    ),
    setup=SETUP,
    event_name_path=("event_name",),
    repeat_key=_repeat_key,
    tenant_of=_practice,
    stored_headers=(ADDRESS_PARAMETER,),
    api_url="https://nexhealth.info/",
    credentials=BearerAuth("TOKEN"),
    token_exchange=TokenExchange(
        "https://nexhealth.info/authenticates",
        ("API_KEY",),
        headers={"authorization": "{API_KEY}", **VERSION},
        token_path=("data", "token"),
    ),
    api_headers=VERSION,
)


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the patients of appointments that are not cancelled or missed, unless the event has their addresses."""
    if _kind(event) not in ACTIONS or _is_test(event):
        return []
    requests = [_patient(event, appointment) for appointment in _appointments(event)]
    return list({request.path: request for request in requests if request}.values())


def translate(event: Event) -> list[VisitChange] | Ignored:
    """Return the changes of one patient; with the first patient, also those of appointments without a fetch."""
    kind = _kind(event)
    if kind not in ACTIONS:
        return Ignored(kind)
    if _is_test(event):
        return Ignored("a test event")
    first_path, appointments = next((request.path for request in fetch(event)), ""), list(_appointments(event))
    if not appointments:
        raise event.data.at("data", "appointment").unexpected("an appointment")
    visits = [appointment for appointment in appointments if not appointment.at("unavailable").boolean()]
    paths = [
        (appointment, request.path if (request := _patient(event, appointment)) else first_path)
        for appointment in visits
    ]
    changes = [
        _change(event, ACTIONS[kind], appointment)
        for appointment, path in paths
        if path == event.record_path or not event.record_path
    ]
    return changes if visits else Ignored("a block of the schedule")


def _change(event: Event, action: Action, appointment: Payload) -> VisitChange:
    changed_at = appointment.at("updated_at").time() or event.data.at("event_time").required_time()
    is_off, is_done = _is_cancelled(appointment), appointment.at("checked_out").boolean() is not False
    cancelled_at, done_at = appointment.at("cancelled_at").time(), appointment.at("checked_out_at").time()
    start, zone = appointment.at("start_time"), _zone(appointment) or event.zone
    return VisitChange(
        action="cancel" if is_off else action,
        visit_id=_visit_id(event, appointment),
        version=unix_microseconds(changed_at),
        observed_at_us=unix_microseconds(event.fetched_at) if event.fetched_at else 0,
        contact=_contact(event, appointment),
        time_scheduled=(start.time(zone) or UNSET) if is_off else start.required_time(zone),
        time_completed=_completed(appointment, changed_at),
        date_cancelled=(cancelled_at or changed_at) if is_off else None,
        no_show=changed_at if appointment.at("patient_missed").boolean() else None,
        times_are_observed=not (is_off and cancelled_at) and not (is_done and done_at),
    )


def _is_test(event: Event) -> bool:
    return event.data.at("test").boolean() is True


def _kind(event: Event) -> str:
    return event.data.at("event_name").required_text()


def _appointments(event: Event) -> list[Payload]:
    """Return the appointments: one, or a list of them, under either name."""
    values = [value for name in ("appointment", "appointments") if (value := event.data.at("data", name))]
    appointments = [
        appointment for value in values for appointment in (value if isinstance(value.value, list) else [value])
    ]
    if len(appointments) > MAX_APPOINTMENTS:
        raise event.data.at("data").unexpected("a few appointments")
    return appointments


def _visit_id(event: Event, appointment: Payload) -> str:
    institution = event.data.at("institution_id").text() or appointment.at("institution_id").required_text()
    return f"{institution}-{appointment.at('id').required_text()}"


def _zone(appointment: Payload) -> ZoneInfo | None:
    name = appointment.at("timezone").value
    try:
        return ZoneInfo(name) if isinstance(name, str) else None
    except (KeyError, OSError, ValueError):
        return None


def _is_cancelled(appointment: Payload) -> bool:
    return any(appointment.at(name).boolean() for name in ("cancelled", "canceled", "deleted"))


def _completed(appointment: Payload, changed_at: datetime) -> datetime | None | Unset:
    checked_out, at = appointment.at("checked_out").boolean(), appointment.at("checked_out_at").time()
    if checked_out is False:
        return None
    return at or (changed_at if checked_out else UNSET)


def _patient(event: Event, appointment: Payload) -> RecordRequest | None:
    is_off = (
        _is_cancelled(appointment)
        or appointment.at("patient_missed").boolean()
        or appointment.at("unavailable").boolean()
    )
    patient_id = appointment.at("patient_id")
    if is_off or not patient_id.text() or appointment.at("patient", "email").text():
        return None
    params = {"subdomain": Payload(_practice(event), "subdomain").required_id()}
    if appointment.at("location_id").text():
        params["location_id"] = appointment.at("location_id").required_id()
    return RecordRequest(f"patients/{patient_id.required_id()}", params=params)


def _contact(event: Event, appointment: Payload) -> Contact | None:
    patient = appointment.at("patient")
    if event.record and _patient(event, appointment):
        data = event.record.at("data")
        patient = data.at("user") or data.at("patient") or data or event.record
    if not patient:
        return None
    return Contact(
        email=patient.at("email").text(),
        first_name=patient.at("first_name").text(),
        last_name=patient.at("last_name").text(),
        phone=next(filter(None, (patient.at(*path).text() for path in PHONES)), None),
    )


#: The paths of phone numbers, the preferred first.
PHONES = (
    ("bio", "cell_phone_number"),
    ("cell_phone_number",),
    ("preferred_phone_number",),
    ("bio", "phone_number"),
    ("phone_number",),
)
