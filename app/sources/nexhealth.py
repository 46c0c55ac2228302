"""NexHealth: appointments of dental and medical practices, for any practice system.

https://docs.nexhealth.com/docs/webhooks: `signature` covers the `timestamp` header and the body in base64. Retries
continue for 48 hours, and it is not documented whether they have a new time; so a signed time is accepted for three
days, and repeats are recognized by their content. https://docs.nexhealth.com/docs/webhook-subscriptions: the events.
`appointment_updated` reports all later changes: cancelled, missed and checked out are flags of the appointment, and
`updated_at` orders the changes. Blocks of a schedule are appointments that are `unavailable`. An id is unique only
inside one institution; one endpoint may get events of several institutions.

NexHealth itself cannot move an appointment; a practice system may. If the system cancels and books again instead, the
new appointment has no link to the old one.

The stable version of the API is v20240412, also called v3.0.0; its name is sent in a header
(https://docs.nexhealth.com/docs/api-v2-to-v20240412-migration-guide). The patient must be fetched, unless the event has
the e-mail address: v3.1 has a `patient` in `appointment_created`. A phone number may be in several places:
`bio.cell_phone_number` and `bio.phone_number`, and since v3.1 the patient's `cell_phone_number` and
`preferred_phone_number`.

`GET patients/{id}` requires the practice's `subdomain`. The printed example of an event does not show one; an
integrator's receiver reads it in the envelope. If it is missing, the parameter `?subdomain=` of the webhook's URL is
used, and an event with neither is parked. That parameter is not signed, but it only narrows a query that needs the
hook's own token.

A test event (v3.1, https://docs.nexhealth.com/reference/postwebhookendpointsidtestbeta) is signed like any other, with
example data and `"test": true` in its body: it is ignored.

Second-hand, from integrators: the signature is in hexadecimal, `appointment_created` has a list `appointments` where
the others have an `appointment`, and a deletion is an update, too. The API key is exchanged for a token that lasts one
hour.

From the vendor's OpenAPI document of v20240412: an endpoint is a URL of the API user, with a key that NexHealth
generates; a separate request subscribes it to each event of each practice. In that document, the list of endpoints has
the key; a third party writes that the key cannot be read later, so an endpoint without a key is replaced unless
Doorbell created it. Appointments are listed for one location and a period, without blocks of the schedule, and by the
time of their last change. Implied, not stated: a list without the parameter `cancelled` has cancelled appointments,
too; to be sure, they are also requested separately.

Guessed: a start without an offset is local time in the `timezone` of the appointment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
    ISO_8601,
    ApiResponse,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Refused,
    RequestAuth,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    TokenExchange,
    Untranslatable,
    Window,
    read_records,
)

SETUP = """
1. In the NexHealth Developer Portal, create an API key. Set it as HOOKS__NEXHEALTH__CREDENTIALS__API_KEY, and
   SECRET_KEY to 32 random characters or more. Doorbell exchanges the key for tokens.
2. Get a token for the next steps: it is `data.token` in the response.
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
5. If NexHealth disables an endpoint (after 48 hours of failures), PATCH it with "active": true.
6. `doorbell connect nexhealth` does steps 2 to 5 with the API key. If the key reaches several practices, it also needs
   HOOKS__NEXHEALTH__CREDENTIALS__SUBDOMAIN, the subdomain of yours.

The deliveries contain health data: protect logs and Redis accordingly, and sign the agreements that the law requires.
Not every practice system reports that a patient was checked out; without such a report, the review request is timed
from the start of the appointment. NexHealth sends no payments and no opt-outs.
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


SUBDOMAIN_PARAMETER = "?subdomain"


def _practice(event: Event) -> str | None:
    """Return the practice's subdomain. Raise Untranslatable if an appointment's event does not name it."""
    practice = event.data.at("subdomain").text() or event.headers.get(SUBDOMAIN_PARAMETER)
    if not practice and event.data.at("event_name").text() in ACTIONS and not _is_test(event):
        raise Untranslatable("the event does not name its practice: add ?subdomain= to the webhook's URL")
    return practice


LOCATIONS = "locations"


@dataclass(frozen=True, slots=True)
class PracticeKey:
    """The token of the API key. SUBDOMAIN selects one of the practices that the key reaches."""

    names: tuple[str, ...] = ("TOKEN",)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        practice = credentials.get("SUBDOMAIN", "")
        params = {"subdomain": practice} if practice and request.path == LOCATIONS else {}
        return RequestAuth({"authorization": f"Bearer {credentials['TOKEN']}"}, params)


SOURCE = Source(
    title="NexHealth",
    docs="https://docs.nexhealth.com/docs/webhooks",
    credential_help={
        "API_KEY": ("API key", "In the NexHealth Developer Portal."),
        "SUBDOMAIN": ("Subdomain of the practice", "Needed only if the API key reaches several practices."),
    },
    evidence="second-hand",
    retries="yes",
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
    stored_headers=(SUBDOMAIN_PARAMETER,),
    api_url="https://nexhealth.info/",
    credentials=PracticeKey(),
    optional_credentials=("SUBDOMAIN",),
    token_exchange=TokenExchange(
        "authenticates",
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
    """Return the changes of one patient; with the first patient, also those of appointments that need no fetch."""
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
    is_cancelled, may_be_done = _is_cancelled(appointment), appointment.at("checked_out").boolean() is not False
    cancelled_at, done_at = appointment.at("cancelled_at").time(), appointment.at("checked_out_at").time()
    start, zone = appointment.at("start_time"), _zone(appointment) or event.zone
    return VisitChange(
        action="cancel" if is_cancelled else action,
        visit_id=_visit_id(event, appointment),
        version=unix_microseconds(changed_at),
        observed_at_us=unix_microseconds(event.fetched_at) if event.fetched_at else 0,
        contact=_contact(event, appointment),
        time_scheduled=(start.time(zone) or UNSET) if is_cancelled else start.required_time(zone),
        time_completed=_completed(appointment, changed_at),
        date_cancelled=(cancelled_at or changed_at) if is_cancelled else None,
        no_show=changed_at if appointment.at("patient_missed").boolean() else None,
        times_are_observed=not (is_cancelled and cancelled_at) and not (may_be_done and done_at),
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
        raise event.data.at("data").unexpected(f"at most {MAX_APPOINTMENTS} appointments")
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
    needs_no_contact = (
        _is_cancelled(appointment)
        or appointment.at("patient_missed").boolean()
        or appointment.at("unavailable").boolean()
    )
    patient_id = appointment.at("patient_id")
    if needs_no_contact or not patient_id.text() or appointment.at("patient", "email").text():
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


# -- the API: https://docs.nexhealth.com/v20240412/reference --

SUBSCRIBED = ("appointment_created", "appointment_updated", "appointment_insertion")


def _practice_of(account: Payload) -> Payload:
    """Return the practice with its locations."""
    practices = list(account.at("data"))
    if len(practices) > 1:
        names = ", ".join(practice.at("subdomain").required_text() for practice in practices[:5])
        raise Refused(f"This API key reaches several practices ({names}): add the credential SUBDOMAIN of yours.")
    if not practices:
        raise Refused("This API key reaches no practice: NexHealth must connect one to it.")
    return practices[0]


def _check_account(account: Payload) -> None:
    _practice_params(account)


def _practice_params(account: Payload) -> dict[str, str]:
    return {"subdomain": _practice_of(account).at("subdomain").required_id()}


def _subscribe(target: Target, account: Payload, _: Sequence[str]) -> RecordRequest:
    url = f"{target.url}{SUBDOMAIN_PARAMETER}={_practice_params(account)['subdomain']}"
    return RecordRequest("webhook_endpoints", json={"target_url": url, "active": True})


def _read_endpoints(_: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    return SubscriptionPage([_read_endpoint(endpoint) for endpoint in response.at("data")])


def _read_endpoint(endpoint: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=endpoint.at("id").required_id(),
        url=endpoint.at("target_url").required_text().partition(SUBDOMAIN_PARAMETER)[0],
        is_active=endpoint.at("active").boolean() is not False,
        secret=endpoint.at("secret_key").text() or "",
    )


def _read_events(response: ApiResponse, account: Payload) -> frozenset[str] | None:
    """Return the active events of an endpoint; None if it has only events of other practices."""
    own_id, subscriptions = _practice_of(account).at("id").required_text(), list(response.at("data"))
    own = [each for each in subscriptions if each.at("institution_id").text() == own_id]
    if subscriptions and len(own) < len(subscriptions):
        return None
    return frozenset(each.at("event").required_text() for each in own if each.at("active").boolean() is not False)


def _add_event(id: str, event: str, account: Payload) -> RecordRequest:
    body = {"resource_type": "Appointment", "event": event, "active": True}
    return RecordRequest(f"webhook_endpoints/{id}/webhook_subscriptions", params=_practice_params(account), json=body)


def _refusal(status: int, _: Payload) -> str | None:
    if status != 403:
        return None
    return "The API key has no access to this practice: check the subdomain, and the permissions of the key."


SUBSCRIPTION = Subscription(
    docs="https://docs.nexhealth.com/docs/webhook-subscriptions",
    evidence="vendor",
    groups=(SUBSCRIBED,),
    account=RecordRequest(LOCATIONS),
    account_name=lambda account: next((practice.at("name").text() for practice in account.at("data")), None) or "",
    check_account=_check_account,
    create=_subscribe,
    read_created=lambda response: _read_endpoint(response.at("data")),
    list=lambda _: RecordRequest("webhook_endpoints"),
    read_list=_read_endpoints,
    list_events=lambda id, _: RecordRequest(f"webhook_endpoints/{id}/webhook_subscriptions"),
    read_events=_read_events,
    add_event=_add_event,
    delete=lambda id, _: RecordRequest(f"webhook_endpoints/{id}", method="DELETE"),
    reactivate=lambda id, _: RecordRequest(f"webhook_endpoints/{id}", method="PATCH", json={"active": True}),
    secret_from="tool",
    refusal=_refusal,
)

#: An appointment that began this long before the window may still change: a patient checks out, or did not come.
CHANGES_LOOK_BACK = timedelta(days=30)


def _list_appointments(window: Window, account: Payload) -> Iterator[ListRequest]:
    """Yield the lists of each location: appointments in the window, and those that changed."""
    practice, params = _practice_of(account), _practice_params(account)
    for location in practice.at("locations"):
        common = {**params, "location_id": location.at("id").required_id(), "unavailable": "false", "per_page": "200"}
        for filters in ({}, {"cancelled": "true"}):
            yield _list({**common, **filters}, window.since, window.until)
            if window.changed_since:
                since = min(window.since, window.changed_since) - CHANGES_LOOK_BACK
                changed = {"updated_since": _utc(window.changed_since)}
                yield _list({**common, **filters, **changed}, since, window.until)


def _list(filters: Mapping[str, str], since: datetime, until: datetime) -> ListRequest:
    return ListRequest(RecordRequest("appointments", params={**filters, "start": _utc(since), "end": _utc(until)}))


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of appointments, or the patient of some of them."""
    if "appointments" in request.context:
        path, context = request.request.path, request.context
        bodies = [Payload(each, "appointment") for each in context["appointments"]]
        requested_at = datetime.fromisoformat(context["requested_at"])
        subdomain = context["subdomain"]
        return ListedPage(
            read_records(bodies, lambda each: [_listed(each, subdomain, requested_at, response.value, path)])
        )
    subdomain, patients = request.request.params["subdomain"], dict[str, ListRequest]()

    def read(appointment: Payload) -> list[ListedRecord]:
        """Return the record if it is complete; else add it to the request for its patient."""
        event = Event(SOURCE.title, Payload(_body(appointment, subdomain)), response.requested_at)
        patient = _patient(event, appointment)
        if patient is None:
            return [_listed(appointment, subdomain, response.requested_at)]
        context = {"subdomain": subdomain, "requested_at": response.requested_at.isoformat(), "appointments": []}
        of_patient = patients.setdefault(patient.key, ListRequest(patient, context, can_be_missing=True))
        of_patient.context["appointments"].append(appointment.value)
        return []

    records = read_records(response.at("data"), read)
    return ListedPage(records, [*patients.values(), *_next_page(request, response)])


def _next_page(request: ListRequest, response: ApiResponse) -> Iterator[ListRequest]:
    page = response.at("page_info")
    if page.at("has_next_page").boolean():
        params = {**request.request.params, "end_cursor": page.at("end_cursor").required_text()}
        yield replace(request, request=replace(request.request, params=params))


def _listed(
    appointment: Payload, subdomain: str, requested_at: datetime, patient: Any = None, path: str = ""
) -> ListedRecord:
    id = appointment.at("id").required_text()
    return ListedRecord(id, _body(appointment, subdomain), patient, path=path, requested_at=requested_at)


def _body(appointment: Payload, subdomain: str) -> dict[str, Any]:
    return {
        "resource_type": "Appointment",
        "event_name": "appointment_updated",
        "event_time": appointment.at("updated_at").text(),
        "subdomain": subdomain,
        "institution_id": appointment.at("institution_id").value,
        "data": {"appointment": appointment.value},
    }


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


LISTING = Listing(
    docs="https://docs.nexhealth.com/reference/getappointments",
    evidence="vendor",
    start=lambda window, account: list(_list_appointments(window, account)),
    read_page=_read_listed,
    lists_changed=True,
    calls_per_s=5.0,
)
