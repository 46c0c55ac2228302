"""Jane App: appointments of clinics. Thin: an event refers to an appointment, which is fetched with its patient.

From https://developers.jane.app/docs/webhooks, second-hand: there are four topics; the body has nothing about the
patient; `event_id` is the same on every retry; `X-Jane-Signature` is `sha256=` and an HMAC over the body. Not
confirmed: the HMAC is in hexadecimal, and `X-Jane-Timestamp` is not signed. In some recorded examples `appointment_id`
is a number and `clinic_guid` a uuid, in others it is the reverse: both are accepted.

From the OpenAPI document of the same site, also second-hand: `appointments/{id}` and `patients/{id}` below the clinic's
own URL, their fields, and 429 with `Retry-After`. The fetched appointment is the current state, and the time of the
fetch orders the changes. A cancellation and a no-show have times. There is no completion: `arrived` is set before the
treatment. An archived appointment was removed; it is assumed that it did not take place. A time that is `reserved` is
no visit, even with a patient: it is ignored when it is booked and in a list, and cancels the visit otherwise. Access
tokens last five minutes, and refresh tokens half an hour, unless they were requested with the scope `offline_access`.

From the same document: each subscription has one topic, and Jane generates a secret for each, which only the response
to its creation has. An app can have one subscription to a topic at a clinic: Jane refuses another one (409), so the old
one is deleted before its replacement is created. Appointments are listed by start or by their last change, and a listed
appointment is the whole record; classes and group appointments are not listed. The list of webhooks gives
`clinic_guid`, which identifies the clinic in events. Implied, not stated: cancelled and archived appointments are
listed, too, and `public_id` of a patient is its `id`. It is not known why a subscription becomes inactive; it is
replaced.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, format_time, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    ApiResponse,
    BearerAuth,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    Payload,
    RecordRequest,
    Refused,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    read_records,
    refresh_token_exchange,
)

SETUP = """
1. As an approved partner of Jane's Developer Platform, connect the clinic with the scopes appointments:read, patients:read,
   webhooks:create, webhooks:read, webhooks:delete and offline_access (other refresh tokens expire after half an hour). Set
   HOOKS__JANE__CREDENTIALS__CLIENT_ID, …__CLIENT_SECRET and …__REFRESH_TOKEN, and SECRET_KEY to 32 random characters or
   more.
2. Set HOOKS__JANE__API_URL to https://CLINIC.janeapp.com/api/2026-01-01/ with the clinic's name. In the sandbox, set
   HOOKS__JANE__TOKEN_URL, too: …/realms/jane_partner_sandbox/protocol/openid-connect/token.
3. As an owner, or as staff with full permissions, subscribe {url} to four events, with an access token of the app.
   $ for event in APPOINTMENT_BOOKED APPOINTMENT_RESCHEDULED APPOINTMENT_CANCELLED APPOINTMENT_UNCANCELLED; do
       curl https://CLINIC.janeapp.com/api/2026-01-01/webhooks -H "Authorization: Bearer TOKEN" \\
       -H "Content-Type: application/json" -d '{"event_topic": "'$event'", "target_url": "{url}"}'; done
4. Each response shows a signing secret, once. Set all of them as HOOKS__JANE__SECRETS, separated by spaces, and restart.
5. `doorbell connect jane --api-url https://CLINIC.janeapp.com/api/2026-01-01/` does steps 3 and 4 with the credentials of
   step 1, and lists appointments.

Jane does not send the end of an appointment, so review requests are timed from its start. It sends no payments. It
sends no webhook for a no-show: Doorbell sees a no-show with the next event of the appointment, or in a list. Patients
who want no e-mail, or no marketing e-mail, get no review request.
"""


def _event_id(event: Event) -> str | None:
    return event.data.at("event_id").text()


def _clinic(event: Event) -> str | None:
    return event.data.at("clinic_guid").text()


SOURCE = Source(
    title="Jane App",
    docs="https://developers.jane.app/docs/webhooks",
    credential_help={
        "CLIENT_ID": ("Client ID", "You get it from Jane's Developer Platform as an approved partner."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you connect the clinic with the scope offline_access."),
    },
    evidence="none",
    retries="yes",
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
    return [RecordRequest(f"appointments/{event.data.at('appointment_id').required_id()}", follow_up=_patient_request)]


def _patient_request(appointment: Payload) -> dict[str, RecordRequest]:
    patient_id = appointment.at("patient_id")
    return {"patient": RecordRequest(f"patients/{patient_id.required_id()}")} if patient_id.text() else {}


def translate(event: Event) -> list[VisitChange] | Ignored:
    topic, event_time = _topic(event), event.data.at("event_timestamp").time() or event.received_at
    if topic not in ACTIONS:
        return Ignored(topic)
    visit_id = f"{event.data.at('clinic_guid').required_text()}-{event.data.at('appointment_id').required_id()}"
    if event.fetched_at is None:
        raise Untranslatable("the appointment that this event refers to was not fetched")
    version, appointment = unix_microseconds(event.fetched_at), event.record
    if appointment is None and ACTIONS[topic] != "cancel":
        return RECORD_GONE
    if appointment is not None and _is_reserved(appointment) and ACTIONS[topic] == "create":
        return Ignored("only reserved")
    if appointment is None or _is_reserved(appointment):
        return [
            VisitChange(
                action="cancel", visit_id=visit_id, version=version, date_cancelled=event_time, times_are_observed=True
            )
        ]
    cancelled_at, missed_at = _cancelled(appointment, topic, event_time), _missed(appointment, event_time)
    recorded_at = _cancelled_at(appointment) if cancelled_at else appointment.at("no_show_at").time()
    starts_at = appointment.at("start_at")
    return [
        VisitChange(
            action="cancel" if cancelled_at else "create" if ACTIONS[topic] == "create" else "update",
            visit_id=visit_id,
            version=version,
            contact=_contact(event.related.get("patient", Payload(None))),
            time_scheduled=(starts_at.time() or UNSET) if cancelled_at else starts_at.required_time(),
            date_cancelled=cancelled_at,
            no_show=missed_at,
            opted_out=_opted_out(event.related.get("patient", Payload(None))),
            times_are_observed=recorded_at is None,
        )
    ]


def _is_reserved(appointment: Payload) -> bool:
    return appointment.at("state").text() == "reserved"


def _topic(event: Event) -> str:
    return event.data.at("event_topic").required_text()


def _cancelled(appointment: Payload, topic: str, event_time: datetime) -> datetime | None:
    """Return the time of the cancellation from the record; from the event if the record has none."""
    has_no_status = isinstance(appointment.value, dict) and not appointment.value.keys() & {"state", "cancelled_at"}
    is_cancelled = appointment.at("state").text() in ("cancelled", "archived") or (
        has_no_status and ACTIONS[topic] == "cancel"
    )
    return _cancelled_at(appointment) or (event_time if is_cancelled else None)


def _cancelled_at(appointment: Payload) -> datetime | None:
    return appointment.at("cancelled_at").time() or appointment.at("archived_at").time()


def _missed(appointment: Payload, event_time: datetime) -> datetime | None:
    return appointment.at("no_show_at").time() or (event_time if appointment.at("state").text() == "no_show" else None)


def _contact(patient: Payload) -> Contact | None:
    if not patient:
        return None
    numbers = [number for number in patient.at("phone_numbers") if number.at("type").text() != "fax"]
    ranked = [
        *(number for number in numbers if number.at("is_primary").boolean()),
        *(number for number in numbers if number.at("type").text() == "mobile"),
        *numbers,
    ]
    return Contact(
        email=patient.at("email").text(),
        first_name=patient.at("first_name").text(),
        last_name=patient.at("last_name").text(),
        phone=ranked[0].at("number").text() if ranked else patient.at("mobile_phone_number").text(),
    )


def _opted_out(patient: Payload) -> bool | Unset:
    """Return whether the patient opted out of all e-mail (`do_not_email`), or of marketing e-mail."""
    if patient.at("status").text() == "deceased":
        return True
    no_mail, marketing = patient.at("do_not_email").boolean(), patient.at("send_marketing_emails").boolean()
    return UNSET if no_mail is None and marketing is None else bool(no_mail or marketing is False)


# -- the API: https://developers.jane.app --


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    return RecordRequest("webhooks", json={"event_topic": events[0], "target_url": target.url})


def _read_subscription(webhook: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("target_url").required_text(),
        events=frozenset((webhook.at("event_topic").required_text(),)),
        is_active=webhook.at("status").text() != "inactive",
        secret=webhook.at("secret").text() or "",
    )


def _refusal(status: int, _: Payload) -> str | None:
    if status == 409:
        return "Another URL already gets these events of Jane for this app and clinic: delete that webhook first."
    if status == 403:
        return (
            "The app may not manage webhooks of this clinic: an owner, or staff with full permissions, must connect it with"
            " the scopes webhooks:create, webhooks:read and webhooks:delete."
        )
    return None


SUBSCRIPTION = Subscription(
    docs="https://developers.jane.app/docs/webhooks",
    evidence="second-hand",
    groups=tuple((topic,) for topic in ACTIONS),
    account=RecordRequest("webhooks"),
    create=_subscribe,
    read_created=_read_subscription,
    list=lambda _: RecordRequest("webhooks"),
    read_list=lambda _, response: SubscriptionPage([_read_subscription(webhook) for webhook in response]),
    delete=lambda id, _: RecordRequest(f"webhooks/{id}", method="DELETE"),
    secret_from="tool",
    is_url_unique=True,
    is_event_unique=True,
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://developers.jane.app",
    evidence="second-hand",
    authorize_url="https://login.id.janeapp.com/realms/jane/protocol/openid-connect/auth",
    token_url="https://login.id.janeapp.com/realms/jane/protocol/openid-connect/token",
    scopes=(
        "appointments:read",
        "patients:read",
        "webhooks:create",
        "webhooks:read",
        "webhooks:delete",
        "offline_access",
    ),
    extra={"resource": "{API_ORIGIN}", "prompt": "consent"},
    account_id=lambda account: next((webhook.at("clinic_guid").text() for webhook in account), None) or "",
)

PAGE_SIZE = "50"


def _list_appointments(window: Window, webhooks: Payload) -> Sequence[ListRequest]:
    context = {"clinic": _clinic_guid(webhooks)}
    starts = {"start_at[gte]": format_time(window.since), "start_at[lt]": format_time(window.until), "sort": "start_at"}
    lists = [starts]
    if window.changed_since:
        lists.append({"updated_at[gte]": format_time(window.changed_since), "sort": "updated_at"})
    return [
        ListRequest(RecordRequest("appointments", params={**params, "page[limit]": PAGE_SIZE}), context)
        for params in lists
    ]


def _clinic_guid(webhooks: Payload) -> Any:
    """Return the clinic's id in events, which only the webhooks have."""
    webhook = next(iter(webhooks), None)
    if webhook is None:
        raise Refused("Jane has no webhook of this app at the clinic, and only those name it: connect the hook again.")
    webhook.at("clinic_guid").required_text()
    return webhook.at("clinic_guid").value


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of appointments, or their patients."""
    if "appointments" in request.context:
        return ListedPage(_listed(request.context, response))
    appointments, ids = list[Any](), dict[str, None]()

    def read(appointment: Payload) -> list[ListedRecord]:
        """Keep the appointment until its patient is fetched, unless it is only reserved."""
        if not _is_reserved(appointment):
            if appointment.at("patient_id").text():
                ids[appointment.at("patient_id").required_id()] = None
            appointments.append(appointment.value)
        return []

    problems = read_records(response.at("items"), read)
    context = {**request.context, "requested_at": response.requested_at.isoformat(), "appointments": appointments}
    if not ids:
        records = _listed(context, ApiResponse({"items": []}))
        return ListedPage([*problems, *records], list(_next_page(request, response)))
    params = {"public_id[eq]": ",".join(ids), "page[limit]": "100"}
    patients = ListRequest(RecordRequest("patients", params=params), context)
    return ListedPage(problems, [patients, *_next_page(request, response)])


def _next_page(request: ListRequest, response: ApiResponse) -> Iterator[ListRequest]:
    if response.at("hasNextPage").boolean():
        params = {**request.request.params, "page[cursor]": response.at("cursor").required_text()}
        yield replace(request, request=replace(request.request, params=params))


def _listed(context: Mapping[str, Any], response: ApiResponse) -> list[ListedRecord]:
    patients = {patient.at("id").text(): patient.value for patient in response.at("items")}
    requested_at = datetime.fromisoformat(context["requested_at"])

    def read(appointment: Payload) -> list[ListedRecord]:
        id, patient = appointment.at("id").required_id(), patients.get(appointment.at("patient_id").text())
        body = {
            "event_topic": "APPOINTMENT_BOOKED",
            "event_timestamp": context["requested_at"],
            "appointment_id": id,
            "clinic_guid": context["clinic"],
        }
        related = {"patient": patient} if patient else {}
        return [ListedRecord(id, body, appointment.value, related, f"appointments/{id}", requested_at)]

    return read_records((Payload(each, "appointment") for each in context["appointments"]), read)


LISTING = Listing(
    docs="https://developers.jane.app",
    evidence="second-hand",
    start=_list_appointments,
    read_page=_read_listed,
    lists_changed=True,
    calls_per_s=1.5,
)
