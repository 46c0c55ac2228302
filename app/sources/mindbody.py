"""Mindbody: appointments and classes of studios and spas. Events are complete, except cancels, which have only ids.

https://developers.mindbodyonline.com/WebhooksDocumentation: the signature, `messageId` (the same on every retry),
`eventInstanceOriginationDateTime` (UTC, when it happened; deliveries are repeated and unordered), times in UTC, and a
HEAD request without a signature, which tests the URL. The key of the signature is the displayed text itself, although
it looks like base64. An appointment's id is unique only inside its site. `appointmentBooking.cancelled` may arrive
before or after the other events; a later update restores the appointment.

The documentation has the statuses Scheduled and Cancelled, and no event for a completion, a no-show or the payment of
an appointment. Second-hand, from integrators: an update may have the status Completed. From memory: the other statuses
of the Public API, with the same meaning. Requested is not confirmed: the visit counts as cancelled until an update has
another status. The status None does not change the visit's status. Scheduled in a webhook restores a cancelled
appointment, but does not undo a completion or a no-show that the list has: the webhook may have no other status for
such an appointment, and it may be about another field, such as the trainer. Only the list undoes a completion or a
no-show; without the list, a wrong one in a webhook stays. A status has no time, so it gets the time of the first event
that shows it.

A class has many clients, each with a booking. Each client of a class has a visit (`classId`, `clientId`), so a client
who cancels and books the class again has one visit. Second-hand, from integrators: the fields of these events, and the
sign-in statuses SignedIn and LateCancelled. From memory: Absent and the other statuses. SignedIn is not a completion,
since clients sign in before a class begins. Absent counts as a no-show only if the status changed to it. The event of a
class that is cancelled as a whole names no client, so it is parked.

There are two APIs: subscriptions belong to the developer's account, and need only its API key; appointments belong to a
site, and need a staff log-in, too. A new subscription must be activated; a deleted one stays in the list as
DeactivatedByUser. Only the response to its creation has its key. There is no test event, and the list does not show
failing deliveries (`metrics` does). OAUTH is not needed.

Appointments are listed by day, without the time of their last change, so the time of the list is the version. The list
has the statuses that no webhook has: Completed and NoShow. It has only the client's id, so clients are fetched, 20 at a
time. Second-hand, from integrators: the names of the parameters, log-ins, and that cancelled appointments are listed.
From memory: times without an offset are those of the site, although webhooks are in UTC; its zone has a name of the
IANA database. An appointment that is missing in the list may be cancelled or not, so it is not changed. Classes are not
listed, because each needs a separate call, and Mindbody bills calls above 1,000 a day.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.visits.change import UNSET, Contact, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    Api,
    ApiKeyAuth,
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
1. In Mindbody's developer portal, go live and create an API key. There, under Account, Site activation, enter the site's
   id: Mindbody shows an activation link. An owner of the business opens it, and logs in to Mindbody as the owner.
2. Create a subscription for {url}. Mindbody tests the URL with a HEAD request. The last four events are those of
   classes.
   $ curl https://mb-api.mindbodyonline.com/push/api/v1/subscriptions -H "API-Key: KEY" \\
       -H "Content-Type: application/json" -d '{"webhookUrl": "{url}", "eventSchemaVersion": 1,
       "referenceId": "doorbell", "eventIds": ["appointmentBooking.created", "appointmentBooking.updated",
       "appointmentBooking.cancelled", "classRosterBooking.created", "classRosterBookingStatus.updated",
       "classRosterBooking.cancelled", "class.updated"]}'
3. The response shows `messageSignatureKey` once: set it unchanged, with its `=`, as HOOKS__MINDBODY__SECRETS. Restart.
4. Activate the subscription, with its ID from the response. If Mindbody deactivates it (after hours of failures),
   activate it again.
   $ curl -X PATCH https://mb-api.mindbodyonline.com/push/api/v1/subscriptions/ID -H "API-Key: KEY" \\
       -H "Content-Type: application/json" -d '{"status": "Active"}'
5. If several sites use this URL, set HOOKS__MINDBODY__TENANTS to the siteId of yours.
6. `doorbell connect mindbody` does steps 2 to 4 with the API key. With the site's id and a log-in that may see appointments
   and clients (a staff user's, or your source's, _SourceName) it also lists the appointments once a day.

Mindbody does not reliably send the end of an appointment or a no-show: only the daily list has them. Without that list,
review requests are timed from the start of the appointment, so cancel the appointment of a customer who did not come.
If a customer of a class did not come, mark them as absent. A class that you cancel as a whole needs your attention in
the console. Sales name no appointment, so visits have no amounts. Mindbody does not send opt-outs.

A no-show or a completion that the list had, and that you undo, is undone when the appointment is listed next.
"""

SITES = "site/sites"


@dataclass(frozen=True, slots=True)
class StaffLogin:
    """The API key, the site, and the token of a staff user.

    The API describes the site only if the request has its id.
    """

    names: tuple[str, ...] = ("API_KEY", "SITE_ID", "TOKEN")

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        site = credentials["SITE_ID"]
        headers = {"API-Key": credentials["API_KEY"], "SiteId": site, "Authorization": credentials["TOKEN"]}
        return RequestAuth(headers, {"request.siteIds": site} if request.path == SITES else {})


SOURCE = Source(
    title="Mindbody",
    is_common=True,
    docs="https://developers.mindbodyonline.com/WebhooksDocumentation",
    credential_help={
        "API_KEY": ("API key", "In Mindbody's developer portal, after going live."),
        "SITE_ID": ("Site ID", "The number of the business in Mindbody."),
        "USERNAME": (
            "User name",
            "The name of a staff user who may see appointments and clients, or of your source (_SourceName).",
        ),
        "PASSWORD": ("Password", "The password of that user or source."),
    },
    evidence="none",
    retries="yes",
    signature=Hmac(header="X-Mindbody-Signature", encoding="base64", prefix="sha256="),
    setup=SETUP,
    event_name_path=("eventId",),
    repeat_key=lambda event: event.data.at("messageId").text(),
    tenant_of=lambda event: event.data.at("eventData", "siteId").text(),
    probe_methods=("HEAD",),
    api_url="https://api.mindbodyonline.com/public/v6",
    credentials=StaffLogin(),
    token_exchange=TokenExchange(
        "usertoken/issue",
        ("API_KEY", "SITE_ID", "USERNAME", "PASSWORD"),
        json={"Username": "{USERNAME}", "Password": "{PASSWORD}"},
        headers={"API-Key": "{API_KEY}", "SiteId": "{SITE_ID}"},
        token_path=("AccessToken",),
        default_ttl_s=12 * 3_600,
    ),
)

OPEN = {"scheduled", "booked", "confirmed", "arrived", "started"}
CANCELLED = {"cancelled", "canceled", "latecancelled", "latecanceled", "earlycancelled", "earlycanceled", "requested"}
MISSED = {"noshow", "absent"}
#: Marks the event of a listed appointment: only the list has every status.
IS_LISTED = "isListed"


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("eventId").required_text(), event.data.at("eventData")
    match kind:
        case "appointmentBooking.created" | "appointmentBooking.updated":
            return [
                _appointment(
                    event, booking, _status(booking.at("status"), OPEN | CANCELLED | {"completed", "noshow", "none"})
                )
            ]
        case "appointmentBooking.cancelled":
            return [_appointment(event, booking, "cancelled")]
        case "classRosterBooking.created":
            return [_class_booking(event, booking, "booked")]
        case "classRosterBookingStatus.updated":
            status = _status(booking.at("signedInStatus"), CANCELLED | MISSED | {"signedin", "none"})
            return [_class_booking(event, booking, status)]
        case "classRosterBooking.cancelled":
            return [_class_booking(event, booking, "cancelled")]
        case "class.updated" if booking.at("isCancelled").boolean():
            raise Untranslatable("a class was cancelled, and the event does not name its clients")
    return Ignored(kind)


def _appointment(event: Event, booking: Payload, status: str) -> VisitChange:
    site, start = booking.at("siteId").required_text(), booking.at("startDateTime")
    change = _base_change(event, booking, f"{site}:{booking.at('appointmentId').required_text()}", start)
    if status not in CANCELLED:
        start.required_time(UTC)
    change = _with_status(change, status, _happened_at(event))
    if change.action == "update" and status in OPEN and not event.data.at(IS_LISTED).boolean():
        return replace(change, time_completed=UNSET, no_show=UNSET)
    return change


def _class_booking(event: Event, booking: Payload, status: str) -> VisitChange:
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
        action="cancel" if status in CANCELLED else change.action,
        time_completed=happened_at if status == "completed" else None,
        date_cancelled=happened_at if status in CANCELLED else None,
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


# -- subscriptions: https://developers.mindbodyonline.com/WebhooksDocumentation --

PUSH = Api("https://mb-api.mindbodyonline.com/push/api/v1", ApiKeyAuth(headers={"API-Key": "API_KEY"}))


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    body = {
        "webhookUrl": target.url,
        "eventIds": list(events),
        "eventSchemaVersion": 1,
        "referenceId": f"doorbell-{target.hook}",
    }
    return RecordRequest("subscriptions", json=body, api=PUSH)


def _read_subscriptions(_: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    """Read all subscriptions. One that was deleted stays in the list."""
    subscriptions = [each for each in response.at("items") if each.at("status").text() != "DeactivatedByUser"]
    return SubscriptionPage([_read_subscription(each) for each in subscriptions])


def _read_subscription(subscription: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=subscription.at("subscriptionId").required_id(),
        url=subscription.at("webhookUrl").required_text(),
        events=frozenset(event.required_text() for event in subscription.at("eventIds")),
        is_active=subscription.at("status").text() == "Active",
        secret=subscription.at("messageSignatureKey").text() or "",
    )


def _refusal(status: int, response: Payload) -> str | None:
    if status != 403:
        return None
    if response.at("Error"):
        return (
            "The business must activate the link to your account, and the log-in must have the right to see appointments"
            " and clients."
        )
    return "This API key cannot have webhooks yet: go live in Mindbody's developer portal, and connect it again."


SUBSCRIPTION = Subscription(
    docs="https://developers.mindbodyonline.com/WebhooksDocumentation",
    evidence="vendor",
    groups=(
        (
            "appointmentBooking.created",
            "appointmentBooking.updated",
            "appointmentBooking.cancelled",
            "classRosterBooking.created",
            "classRosterBookingStatus.updated",
            "classRosterBooking.cancelled",
            "class.updated",
        ),
    ),
    create=_subscribe,
    read_created=_read_subscription,
    list=lambda _: RecordRequest("subscriptions", api=PUSH),
    read_list=_read_subscriptions,
    delete=lambda id, _: RecordRequest(f"subscriptions/{id}", method="DELETE", api=PUSH),
    reactivate=lambda id, _: RecordRequest(f"subscriptions/{id}", method="PATCH", json={"status": "Active"}, api=PUSH),
    credentials=PUSH.credentials.names,
    secret_from="tool",
    refusal=_refusal,
)

# -- appointments: https://developers.mindbodyonline.com/PublicDocumentation/V6 --

MAX_CLIENTS = 20
#: The fields of a listed appointment that its translation needs, besides the client.
LISTED_FIELDS = ("Id", "Status", "StartDateTime", "EndDateTime")


LOOK_BACK = timedelta(days=1)


def _list_site(window: Window, _: Payload) -> Sequence[ListRequest]:
    """Ask for the site's time zone first. An appointment that began earlier may have ended since."""
    since = min(window.since, window.changed_since or window.since) - LOOK_BACK
    return [ListRequest(RecordRequest(SITES), {"since": since.isoformat(), "until": window.until.isoformat()})]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read the site, a page of its appointments, or the clients of appointments."""
    if "since" in request.context:
        return ListedPage([], [_first_page(request.context, response)])
    if "appointments" in request.context:
        return ListedPage(_listed(request.context, response))
    by_client: dict[str, list[dict[str, Any]]] = {}

    def read(appointment: Payload) -> Sequence[ListedRecord]:
        if client := appointment.at("ClientId").text():
            by_client.setdefault(client, []).append({name: appointment.at(name).value for name in LISTED_FIELDS})
        return ()

    unreadable = read_records(response.at("Appointments"), read)
    context = {**request.context, "listed_at": response.requested_at.isoformat()}
    return ListedPage(unreadable, [*_client_requests(by_client, context), *_next_page(request, response)])


def _first_page(context: Mapping[str, Any], response: ApiResponse) -> ListRequest:
    site = next(iter(response.at("Sites")), Payload(None, "response", "Sites", "[0]"))
    zone = _zone(site.at("TimeZone"))
    since, until = (datetime.fromisoformat(context[name]).astimezone(zone) for name in ("since", "until"))
    params = {
        "request.startDate": f"{since:%Y-%m-%d}T00:00:00",
        "request.endDate": f"{until:%Y-%m-%d}T23:59:59",
        "request.limit": "200",
        "request.offset": "0",
    }
    site_context = {"site": site.at("Id").required_text(), "zone": str(zone)}
    return ListRequest(RecordRequest("appointment/staffappointments", params=params), site_context)


def _zone(name: Payload) -> ZoneInfo:
    try:
        return ZoneInfo(name.required_text())
    except (ZoneInfoNotFoundError, ValueError):
        raise name.unexpected("a time zone of the IANA database") from None


def _next_page(request: ListRequest, response: ApiResponse) -> Iterator[ListRequest]:
    params, count = request.request.params, len(list(response.at("Appointments")))
    offset = int(params["request.offset"]) + count
    if count and offset < (response.at("PaginationResponse", "TotalResults").integer() or 0):
        yield replace(request, request=replace(request.request, params={**params, "request.offset": str(offset)}))


def _client_requests(
    by_client: Mapping[str, Sequence[Mapping[str, Any]]], context: Mapping[str, Any]
) -> Iterator[ListRequest]:
    """Yield a request for every 20 clients, with their listed appointments."""
    clients = sorted(by_client)
    for first in range(0, len(clients), MAX_CLIENTS):
        batch = clients[first : first + MAX_CLIENTS]
        params = {f"request.clientIDs[{number}]": client for number, client in enumerate(batch)}
        of_clients = {client: by_client[client] for client in batch}
        yield ListRequest(RecordRequest("client/clients", params=params), {**context, "appointments": of_clients})


def _listed(context: Mapping[str, Any], response: ApiResponse) -> list[ListedRecord]:
    clients, records = {client.at("Id").text(): client for client in response.at("Clients")}, list[ListedRecord]()
    for client_id, appointments in context["appointments"].items():
        client = clients.get(client_id, Payload({}))
        read = partial(_listed_events, client_id=client_id, client=client, context=context)
        records += read_records(Payload(appointments, "Appointments"), read)
    return records


def _listed_events(
    appointment: Payload, *, client_id: str, client: Payload, context: Mapping[str, Any]
) -> Iterator[ListedRecord]:
    """Yield the event of the present state.

    A completed appointment has a second event at its end, when it was completed.
    """
    zone, listed_at = ZoneInfo(context["zone"]), context["listed_at"]
    start, end = (appointment.at(name).time(zone) for name in ("StartDateTime", "EndDateTime"))
    booking = {
        "siteId": context["site"],
        "appointmentId": appointment.at("Id").value,
        "status": appointment.at("Status").text(),
        "startDateTime": start.isoformat() if start else None,
        "endDateTime": end.isoformat() if end else None,
        "clientId": client_id,
        "clientFirstName": client.at("FirstName").text(),
        "clientLastName": client.at("LastName").text(),
        "clientEmail": client.at("Email").text(),
        "clientPhone": client.at("MobilePhone").text() or client.at("HomePhone").text(),
    }
    id = appointment.at("Id").required_text()
    times = [listed_at]
    if end and booking["status"] == "Completed" and end < datetime.fromisoformat(listed_at):
        times.insert(0, end.isoformat())
    for time in times:
        body = {
            "eventId": "appointmentBooking.updated",
            "eventInstanceOriginationDateTime": time,
            "eventData": booking,
            IS_LISTED: True,
        }
        yield ListedRecord(id, body)


LISTING = Listing(
    docs="https://developers.mindbodyonline.com/PublicDocumentation/V6",
    evidence="none",
    start=_list_site,
    read_page=_read_listed,
    look_back=LOOK_BACK,
    is_daily=True,
    calls_per_s=1.0,
)
