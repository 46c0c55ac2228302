"""GoHighLevel (LeadConnector): appointments. The appointment is in the event, but its contact must be fetched.

From https://github.com/GoHighLevel/highlevel-api-docs (docs/oauth/WebhookAuthentication.md, docs/webhook events, apps/)
and the webhook manager of the vendor's SDK: if there is an Ed25519 header, only that header counts; otherwise the older
RSA header counts. Both keys are the vendor's and the same for every app, so a signature proves that GoHighLevel sent
the delivery, but not for which account: the location (`locationId`, in invoices `altId`) shows that, and TENANTS must
contain it.

`appointmentStatus` shows what happened, not `type`, which is wrong in the examples; `showed` means completed. The id
does not change when an appointment is moved. `dateUpdated` orders the changes, because it belongs to the record; a
retry may have a new `timestamp`. GoHighLevel retries only after 429, six times in about 70 minutes. An invoice names no
appointment, so visits have no amounts. A status has no time, so it gets the time of the first event that shows it.

If a calendar does not confirm by itself (`autoConfirm` in apps/calendars.json), an appointment is `new` until somebody
confirms it: a request is not a visit yet. It is ignored if it is still as it was added; otherwise the visit is
cancelled, until the status shows that the appointment was confirmed or took place. An appointment without a contact is
blocked time, or its contact was removed: it is treated in the same way.

An opt-out is the contact's `dnd` (all channels) or `dndSettings.Email.status` (apps/contacts.json: `active`,
`inactive`, `permanent`), which changes when the contact unsubscribes from e-mail, while `dnd` stays false. Other
channels, such as `Call`, do not count. An e-mail status that the vendor does not document is parked: it may be an
opt-out. ContactDndUpdate names no appointment, so an opt-out is only read with the appointment's next event.

There is no SUBSCRIPTION: webhooks belong to an app, and are set up on its page. Lists, from apps/calendars.json of the
documents: the calendars of a location, and the events of each calendar in a period, without pages; no list is by the
time of the last change. Each contact is fetched. Instances of a recurring appointment are skipped: the documents do not
say whether their webhooks have their own ids or that of the series, and the customer could be asked twice. Deleted
appointments are in no list, so the upcoming appointments that Doorbell has are read by their ids.

Second-hand: the Ed25519 key itself, and `N/A` in a header without a signature. From memory: the URL that renews tokens;
cancelled appointments are listed; a request for a deleted appointment is answered 404, or the appointment is `deleted`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
    ApiResponse,
    BearerAuth,
    Event,
    FirstPresent,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    PublicKey,
    RecordRequest,
    Refused,
    Source,
    Window,
    read_records,
    refresh_token_exchange,
)

ED25519 = "MCowBQYDK2VwAyEAi2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg="
RSA = (
    "MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAokvo/r9tVgcfZ5DysOSCFrm602qYV0MaAiNnX9O8KxMbiyRKWeL9JpCpVpt4XHIcBOK4u3cLSqJG"
    "OLaPuXw6dO0t6Q/ZVdAV5Phz+ZtzPL16iCGeK9po6D6JHBpbi989mmzMryUnQJezlYJ3DVfBcsedpinheNnyYeFXolrJvcsjDtfAeRx5ByHQmTnSdFUzuAnC"
    "9/GepgLT9SM4nCpvuxmZMxrJt5Rw+VUaQ9B8JSvbMPpez4peKaJPZHBbU3OdeCVx5klVXXZQGNHOs8gF3kvoV5rTnXV0IknLBXlcKKAQLZcY/Q9rG6Ifi9c+"
    "5vqlvHPCUJFT5XUGG5RKgOKUJ062fRtN+rLYZUV+BjafxQauvC8wSWeYja63VSUruvmNj8xkx2zE/Juc+yjLjTXpIocmaiFeAO6fUtNjDeFVkhf5LNb59vEC"
    "yrHD2SQIrhgXpO4Q3dVNA5rw576PwTzNh/AMfHKIjE4xQA1SZuYJmNnmVZLIZBlQAF9Ntd03rfadZ+yDiOXCCs9FkHibELhCHULgCsnuDJHcrGNd5/Ddm5hx"
    "GQ0ASitgHeMZ0kcIOwKDOzOU53lDza6/Y09T7sYJPQe7z0cvj7aE4B+Ax1ZoZGPzpJlZtGXCsu9aTEGEnKzmsFqwcSsnw3JB31IGKAykT1hhTiaCeIY/Owww"
    "NUY2yvcCAwEAAQ=="
)

SETUP = f"""
1. In the GoHighLevel Marketplace, create an app with the scopes contacts.readonly, calendars.readonly and
   calendars/events.readonly, and install it in your location.
2. Under Webhooks, paste {{url}} and select AppointmentCreate, AppointmentUpdate and AppointmentDelete.
3. Set HOOKS__GOHIGHLEVEL__TENANTS to your location's id: every app's deliveries are signed with the same keys.
4. Set HOOKS__GOHIGHLEVEL__SECRETS to the vendor's public keys, separated by a space, without the lines BEGIN and END.
   Compare them with the "Webhook Integration Guide", which announces new keys. The published keys are Ed25519 and, for
   deliveries without it, RSA:
   {ED25519}
   {RSA}
5. Set HOOKS__GOHIGHLEVEL__CREDENTIALS__CLIENT_ID, …__CLIENT_SECRET and …__REFRESH_TOKEN from the app and its
   installation, and SECRET_KEY; or, with a private integration, …__TOKEN alone.

If a calendar does not confirm appointments by itself, an appointment is a visit as soon as somebody confirms it, or sets
its status to Showed. It is completed when its status is Showed; otherwise the review request is timed from its start.
Recurring appointments come only by webhooks: lists skip them. Visits have no amounts, because invoices name no
appointment. The workflow action "Webhook" does not sign its deliveries, so Doorbell rejects them.

Contacts with "do not disturb" for all channels or for e-mail get no review request. Doorbell reads this setting with
every event of the appointment. A customer who opts out later gets a review request, unless the appointment changes
again (for example to Showed).
"""


def _location(event: Event) -> str | None:
    return event.data.at("locationId").text() or event.data.at("altId").text()


def _webhook_id(event: Event) -> str | None:
    return event.data.at("webhookId").text()


SOURCE = Source(
    title="GoHighLevel",
    docs="https://github.com/GoHighLevel/highlevel-api-docs",
    credential_help={
        "TOKEN": (
            "Token of a private integration",
            "With it, you need no client ID, client secret or refresh token.",
        ),
        "CLIENT_ID": ("Client ID", "In the GoHighLevel Marketplace: your app."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you install the app in your location."),
    },
    evidence="none",
    retries="yes",
    signature=FirstPresent(PublicKey("X-GHL-Signature", "ed25519"), PublicKey("X-WH-Signature", "rsa-sha256")),
    setup=SETUP,
    repeat_key=_webhook_id,
    tenant_of=_location,
    required_settings=("TENANTS",),
    unavailable_status=429,
    api_url="https://services.leadconnectorhq.com/",
    credentials=BearerAuth("TOKEN"),
    token_exchange=refresh_token_exchange("https://services.leadconnectorhq.com/oauth/token"),
    api_headers={"Version": "2021-07-28"},
)

KINDS = {"AppointmentCreate", "AppointmentUpdate", "AppointmentDelete"}
#: Statuses of what is no visit (anymore), with the reason.
NO_VISIT = {"blocked": "blocked time", "new": "not confirmed yet", "pending": "not confirmed yet"}
CANCELLED = {"cancelled", "invalid", "deleted"}
MISSED = {"noshow"}
DONE = {"showed", "completed"}
OPEN = {"confirmed", "active", "booked"}
NO_EMAIL = {"active", "permanent"}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the contact, unless the appointment is no visit, cancelled or missed."""
    if _kind(event) not in KINDS or _status(event) in NO_VISIT.keys() | CANCELLED | MISSED:
        return []
    return [RecordRequest(f"contacts/{event.data.at('appointment', 'contactId').required_id()}")]


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, appointment = _kind(event), event.data.at("appointment")
    if kind not in KINDS:
        return Ignored(kind)
    happened_at, status = event.data.at("timestamp").required_time(), _status(event)
    if status in NO_VISIT and _is_as_added(appointment):
        return Ignored(NO_VISIT[status])
    is_cancelled = status in NO_VISIT or status in CANCELLED
    return [
        VisitChange(
            action="cancel" if is_cancelled else "create" if kind == "AppointmentCreate" else "update",
            visit_id=appointment.at("id").required_text(),
            version=unix_microseconds(appointment.at("dateUpdated").time() or happened_at),
            contact=_contact(event.record.at("contact")) if event.record else None,
            time_scheduled=appointment.at("startTime").time(event.zone) or UNSET,
            time_completed=happened_at if status in DONE else None,
            date_cancelled=happened_at if is_cancelled else None,
            no_show=happened_at if status in MISSED else None,
            opted_out=_opted_out(event),
            times_are_observed=True,
        )
    ]


def _kind(event: Event) -> str:
    """Return the event's type, which the vendor's example of a paid invoice does not have."""
    kind = event.data.at("type")
    return kind.required_text() if event.data.at("appointment") else kind.text() or "no type, no appointment"


def _status(event: Event) -> str:
    """Return the status in lower case: `deleted` or `blocked`, whatever status a deleted or blocked time has."""
    if event.data.at("type").text() == "AppointmentDelete":
        return "deleted"
    if not event.data.at("appointment", "contactId").text():
        return "blocked"
    status = event.data.at("appointment", "appointmentStatus")
    value = (status.text() or "").lower()
    if value not in NO_VISIT.keys() | CANCELLED | MISSED | DONE | OPEN:
        raise status.unexpected("an appointment's status that GoHighLevel documents")
    return value


def _is_as_added(appointment: Payload) -> bool:
    """Return whether the appointment never changed, so it never was a visit. `type` is no evidence of that."""
    added_at = appointment.at("dateAdded").time()
    return added_at is not None and added_at == appointment.at("dateUpdated").time()


def _contact(contact: Payload) -> Contact:
    return Contact(
        email=contact.at("email").text(),
        first_name=contact.at("firstName").text(),
        last_name=contact.at("lastName").text(),
        phone=contact.at("phone").text(),
    )


def _opted_out(event: Event) -> bool | Unset:
    contact = event.record.at("contact") if event.record else Payload(None)
    flags = [contact.at("dnd").boolean(), _no_email(contact.at("dndSettings", "Email", "status"))]
    flags = [flag for flag in flags if flag is not None]
    return any(flags) if flags else UNSET


def _no_email(status: Payload) -> bool | None:
    value = (status.text() or "").lower()
    if value not in ("", "inactive", *NO_EMAIL):
        raise status.unexpected("a status of do not disturb")
    return value in NO_EMAIL if value else None


# -- the list --

CALENDARS, APPOINTMENTS = "calendars/", "calendars/events/appointments/"
#: The documents of the calendars have another version than those of the contacts.
VERSION = {"Version": "2021-04-15"}


def _list_calendars(window: Window, _: Payload) -> Iterator[ListRequest]:
    if not window.tenants:
        raise Refused("GoHighLevel lists the appointments of a location: set TENANTS to its id.")
    period = {"startTime": _ms(window.since), "endTime": _ms(window.until)}
    for location in window.tenants:
        request = RecordRequest(CALENDARS, params={"locationId": location}, headers=VERSION)
        yield ListRequest(request, {"location": location, "period": period})


def _check_appointments(visit_ids: Sequence[str], _: Payload) -> Iterator[ListRequest]:
    for id in visit_ids:
        if re.fullmatch("[A-Za-z0-9_-]+", id):
            request = RecordRequest(f"{APPOINTMENTS}{id}", headers=VERSION)
            yield ListRequest(request, {"id": id}, can_be_missing=True)


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read the calendars of a location, the appointments of a calendar, a contact, or an appointment that may be deleted."""
    context = request.context
    if "id" in context:
        event = response.at("event")
        is_deleted = response.value is None or event.at("deleted").boolean()
        return ListedPage([_deleted(context["id"], response.requested_at)] if is_deleted else [])
    if "period" in context:
        ids = [calendar.at("id").required_id() for calendar in response.at("calendars")]
        return ListedPage([], [_events_request(id, context["location"], context["period"]) for id in ids])
    if "appointment" in context:
        requested_at = datetime.fromisoformat(context["requested_at"])
        return ListedPage([_listed(context["appointment"], context["location"], response, requested_at)])
    return _read_appointments(context["location"], response)


def _events_request(calendar: str, location: str, period: Mapping[str, str]) -> ListRequest:
    params = {"locationId": location, "calendarId": calendar, **period}
    return ListRequest(RecordRequest("calendars/events", params=params, headers=VERSION), {"location": location})


def _read_appointments(location: str, response: ApiResponse) -> ListedPage:
    """Return the appointments whose contact is not needed, and requests for the contacts of the others."""
    requests: list[ListRequest] = []

    def read(appointment: Payload) -> list[ListedRecord]:
        id = appointment.at("id").required_text()
        if appointment.at("masterEventId").text():
            return []  # an instance of a series
        if appointment.at("deleted").boolean():
            return [_deleted(id, response.requested_at)]
        listed = _listed(appointment.value, location, None, response.requested_at)
        contacts = fetch(Event("gohighlevel", Payload(listed.body), response.requested_at))
        following = {"location": location, "appointment": appointment.value}
        following["requested_at"] = response.requested_at.isoformat()
        requests.extend(ListRequest(each, following, can_be_missing=True) for each in contacts)
        return [] if contacts else [listed]

    return ListedPage(read_records(response.at("events"), read), requests)


def _listed(
    appointment: Mapping[str, Any], location: str, contact: Payload | None, requested_at: datetime
) -> ListedRecord:
    changed_at = Payload(appointment).at("dateUpdated").time() or requested_at
    body = {
        "type": "AppointmentUpdate",
        "locationId": location,
        "appointment": appointment,
        "timestamp": changed_at.isoformat(),
    }
    record = ListedRecord(appointment["id"], body, requested_at=requested_at)
    if contact is None or contact.value is None:
        return record
    return replace(record, record=contact.value, path=f"contacts/{appointment['contactId']}")


def _deleted(id: str, requested_at: datetime) -> ListedRecord:
    body = {"type": "AppointmentDelete", "appointment": {"id": id}, "timestamp": requested_at.isoformat()}
    return ListedRecord(id, body, requested_at=requested_at)


def _ms(time: datetime) -> str:
    return str(int(time.timestamp() * 1000))


LISTING = Listing(
    docs="https://marketplace.gohighlevel.com/docs/ghl/calendars/get-calendar-events",
    evidence="none",
    start=_list_calendars,
    check=_check_appointments,
    read_page=_read_listed,
    is_daily=True,
    calls_per_s=4.0,
)
