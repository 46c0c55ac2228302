"""Nylas Scheduler (v3): bookings, moved and cancelled.

From https://developer.nylas.com/docs/reference/notifications/scheduler, the pages of each event, and
https://developer.nylas.com/docs/v3/notifications: Nylas tests the URL with an unsigned challenge in the query, which
the response must repeat; every event has a signature in hexadecimal over the body as it is sent, which is the
compressed body if delivery is compressed. `time` next to `data` is when the event happened, and orders the events;
times are seconds since 1970, `id` is the same on every retry. `booking.pending` is a request that the host has not
confirmed: it is not a visit yet.

A participant has an e-mail address and a name, and nothing distinguishes a guest from a host or a host's colleague. The
participant who is marked as the organizer, or has the address of the organizer's calendar, is skipped; the remaining
one is the guest. Several remaining participants may be guests, or hosts of a collective meeting: such a booking is
parked, because a colleague must not get a review request; its move and its cancellation apply to the visit, if there is one.
Each guest of a group event has a booking, and so a visit. With a null list the guest is unknown.

Second-hand: the mark `is_organizer` (Scheduler's configurations have it). Implied, not stated: `booking_id` does not change
when a booking moves.

Webhooks belong to the application, for all of its grants (the vendor's OpenAPI document). Nylas tests the URL when a
webhook is created, so the hook must exist before its secret is known: only the response to the creation has the secret.

The API has no list of bookings. Lists are read from the organizers' calendars instead, where Scheduler marks its events
with `metadata.source`, and with the configuration in `metadata.key5`. A booking's id is in its reference, which the
links for rescheduling and cancelling have (https://developer.nylas.com/docs/v3/scheduler/retrieve-booking-ids). From
memory: these links are in the description of the event. An event without these links is counted as unclear, and so is
an event with several guests. Whether a calendar still shows cancelled events depends on its provider.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from app.visits.change import UNSET, Contact, VisitChange, unix_microseconds
from app.webhooks import (
    ApiResponse,
    BearerAuth,
    EchoQuery,
    Event,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    phone_answer,
    read_records,
    split_name,
)

SETUP = """
1. In the Nylas Dashboard, open Notifications and add a webhook with the URL {url} and the triggers booking.created,
   booking.rescheduled and booking.cancelled. Before that, set HOOKS__NYLAS__SECRETS to any value: Nylas tests the URL
   at once, and a hook without a secret does not exist.
2. Compressed delivery may be on or off: Doorbell accepts both.
3. Set HOOKS__NYLAS__SECRETS to the webhook's secret, which is shown once, and restart.
4. An application sends the events of all of its grants. If some are not yours, set HOOKS__NYLAS__TENANTS to your grants.
5. `doorbell connect nylas` does steps 1 to 3 with an API key of the application. For the European data center add
   --api-url https://api.eu.nylas.com.

Nylas tries three times within 20 minutes: deliveries are lost if Doorbell is down for longer. It sends no completions,
no-shows or payments, so review requests are timed from the start. Doorbell gets the phone number only if an additional
field asks for it. Each booking of a group event is a visit. A booking with several participants besides the organizer
needs your attention in the console, because guests and hosts cannot be distinguished.
"""


def _notification_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="Nylas Scheduler",
    docs="https://developer.nylas.com/docs/reference/notifications/scheduler",
    evidence="second-hand",
    retries="yes",
    signature=Hmac(header="X-Nylas-Signature"),
    content_encodings=("gzip",),
    setup=SETUP,
    repeat_key=_notification_id,
    tenant_of=lambda event: event.data.at("data", "grant_id").text(),
    handshake=EchoQuery("challenge"),
    api_url="https://api.us.nylas.com",
    credentials=BearerAuth(),
    credential_help={"TOKEN": ("API key", "In the Nylas Dashboard: the application, API Keys.")},
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("type").required_text(), event.data.at("data", "object")
    match kind:
        case "booking.created":
            if len(_possible_guests(booking.at("booking_info"))) > 1:
                raise Untranslatable(
                    "several participants besides the organizer: guests and hosts cannot be distinguished"
                )
            return [replace(_booked(event, booking), action="create")]
        case "booking.rescheduled":
            return [_booked(event, booking)]
        case "booking.cancelled" | "booking.canceled":
            cancelled_at = event.data.at("time").required_unix_seconds()
            return [replace(_base_change(event, booking), action="cancel", date_cancelled=cancelled_at)]
    return Ignored(kind)


def _booked(event: Event, booking: Payload) -> VisitChange:
    start = booking.at("booking_info", "start_time").required_unix_seconds()
    return replace(_base_change(event, booking), time_scheduled=start, date_cancelled=None)


def _base_change(event: Event, booking: Payload) -> VisitChange:
    info = booking.at("booking_info")
    guests = _possible_guests(info)
    return VisitChange(
        action="update",
        visit_id=booking.at("booking_id").required_text(),
        version=unix_microseconds(event.data.at("time").required_unix_seconds()),
        contact=_contact(guests[0], info) if len(guests) == 1 else None,
        time_scheduled=info.at("start_time").unix_seconds() or UNSET,
    )


def _possible_guests(info: Payload) -> list[Payload]:
    """Return the participants who may be guests, each address once."""
    host_email, guests = (info.at("organizer_calendar_id").text() or "").lower(), dict[str, Payload]()
    for participant in info.at("participants"):
        email = (participant.at("email").text() or "").lower()
        if email and email != host_email and not participant.at("is_organizer").boolean():
            guests.setdefault(email, participant)
    return list(guests.values())


def _contact(guest: Payload, info: Payload) -> Contact:
    first, last = split_name(guest.at("name").text())
    phone = _phone(info.at("additional_fields"))
    return Contact(email=guest.at("email").text(), first_name=first, last_name=last, phone=phone)


def _phone(fields: Payload) -> str | None:
    """Find an answer on the booking form that looks like a phone number, in a field whose name asks for one."""
    for name, answer in fields.value.items() if isinstance(fields.value, dict) else ():
        if isinstance(answer, str) and (number := phone_answer(name, answer)):
            return number
    return None


# -- webhooks: https://developer.nylas.com/docs/reference/api/webhook-notifications --


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    body = {
        "trigger_types": list(events),
        "webhook_url": target.url,
        "description": f"Doorbell: {target.hook}",
        "compressed_delivery": False,
    }
    return RecordRequest("v3/webhooks", json=body)


def _read_subscription(webhook: Payload) -> SubscriptionState:
    status = webhook.at("status").text()
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("webhook_url").required_text(),
        events=frozenset(trigger.required_text() for trigger in webhook.at("trigger_types")),
        is_active=status in ("active", "failing", None),
        failing_since=webhook.at("status_updated_at").unix_seconds() if status == "failing" else None,
        secret=webhook.at("webhook_secret").text() or "",
    )


def _refusal(status: int, response: Payload) -> str | None:
    message = response.at("error", "message").value
    if status == 400 and isinstance(message, str) and re.search("not created|challenge", message, re.IGNORECASE):
        return "Nylas tested the URL of the webhook and got no answer: PUBLIC_URL must be reachable from the internet."
    if status == 403:
        return "This key may not manage webhooks: use an API key of the Nylas application."
    return None


SUBSCRIPTION = Subscription(
    docs="https://developer.nylas.com/docs/reference/api/webhook-notifications",
    evidence="vendor",
    groups=(("booking.created", "booking.rescheduled", "booking.cancelled"),),
    account=RecordRequest("v3/applications"),
    account_name=lambda account: account.at("data", "branding", "name").text() or "",
    create=_subscribe,
    read_created=lambda response: _read_subscription(response.at("data")),
    list=lambda _: RecordRequest("v3/webhooks"),
    read_list=lambda _, response: SubscriptionPage([_read_subscription(each) for each in response.at("data")]),
    delete=lambda id, _: RecordRequest(f"v3/webhooks/{id}", method="DELETE"),
    reactivate=lambda id, _: RecordRequest(f"v3/webhooks/{id}", method="PUT", json={"status": "active"}),
    secret_from="tool",
    refusal=_refusal,
)

# -- the events of Scheduler in calendars --

PAGE_SIZE, UUID_BYTES = 100, 16


def _list_grants(window: Window, _: Payload) -> Sequence[ListRequest]:
    context = {"list": "grants", "start": str(int(window.since.timestamp())), "end": str(int(window.until.timestamp()))}
    params = {"limit": str(PAGE_SIZE), "offset": "0", "grant_status": "valid"}
    return [ListRequest(RecordRequest("v3/grants", params=params), context)]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of grants, of the configurations of a grant, or of the events of a calendar."""
    items, context = list(response.at("data")), request.context
    match context["list"]:
        case "grants":
            requests = [_configurations(each.at("id").required_id(), context) for each in items]
            return ListedPage([], [*requests, *_next_grants(request, len(items))])
        case "configurations":
            calendars = dict.fromkeys(id for each in items for id in _calendars(each))
            return ListedPage([], [*(_events(id, context) for id in calendars), *_next_page(request, response)])
    records = read_records(items, lambda each: [_listed(each, context["grant"])] if _is_booking(each) else [])
    return ListedPage(records, list(_next_page(request, response)))


def _next_grants(request: ListRequest, count: int) -> Iterator[ListRequest]:
    if count >= PAGE_SIZE:
        params = {**request.request.params, "offset": str(int(request.request.params["offset"]) + count)}
        yield replace(request, request=replace(request.request, params=params))


def _next_page(request: ListRequest, response: ApiResponse) -> Iterator[ListRequest]:
    if cursor := response.at("next_cursor").text():
        params = {**request.request.params, "page_token": cursor}
        yield replace(request, request=replace(request.request, params=params))


def _configurations(grant: str, context: Any) -> ListRequest:
    path = f"v3/grants/{grant}/scheduling/configurations"
    following = {**context, "list": "configurations", "grant": grant}
    return ListRequest(RecordRequest(path, params={"limit": "50"}), following, can_be_missing=True)


def _calendars(configuration: Payload) -> list[str]:
    """Return the calendars that have the bookings of a configuration."""
    organizers = [each for each in configuration.at("participants") if each.at("is_organizer").boolean()]
    ids = (each.at("booking", "calendar_id").text() for each in organizers)
    return [id for id in ids if id]


def _events(calendar: str, context: Any) -> ListRequest:
    params = {
        "calendar_id": calendar,
        "start": context["start"],
        "end": context["end"],
        "show_cancelled": "true",
        "limit": "200",
    }
    path = f"v3/grants/{context['grant']}/events"
    # A configuration may name a calendar that was deleted.
    return ListRequest(RecordRequest(path, params=params), {**context, "list": "events"}, can_be_missing=True)


def _is_booking(event: Payload) -> bool:
    """Return whether Scheduler made the event, and it is not a request that the organizer has yet to confirm."""
    is_pending = re.match(r"\W*pending\b", event.at("title").text() or "", re.IGNORECASE)
    is_tentative = event.at("status").text() in ("maybe", "tentative")
    return event.at("metadata", "source").text() == "scheduler" and not is_pending and not is_tentative


def _listed(event: Payload, grant: str) -> ListedRecord:
    """Return the webhook of the booking's present state, with the time of the event's last change."""
    kind = "booking.cancelled" if event.at("status").text() == "cancelled" else "booking.created"
    info = {
        "event_id": event.at("id").value,
        "start_time": event.at("when", "start_time").value,
        "end_time": event.at("when", "end_time").value,
        "participants": event.at("participants").value,
        "organizer_calendar_id": event.at("organizer", "email").text(),
    }
    booking = {"object": "booking", "booking_id": _booking_id(event), "booking_info": info}
    data = {"grant_id": grant, "object": booking}
    return ListedRecord(
        event.at("id").required_text(), {"type": kind, "time": event.at("updated_at").value, "data": data}
    )


def _booking_id(event: Payload) -> str | None:
    """Find the booking's reference in the links: the bytes of the configuration's id, of the booking's id, and a salt."""
    try:
        configuration = bytes.fromhex((event.at("metadata", "key5").text() or "").replace("-", ""))
    except ValueError:
        return None
    if len(configuration) != UUID_BYTES:
        return None
    prefix = base64.b64encode(configuration).decode()[:21]
    text = unquote(event.at("description").text() or "").replace("-", "+").replace("_", "/")
    reference = re.search(re.escape(prefix) + "[A-Za-z0-9+/]{22}", text)
    if not reference:
        return None
    id = base64.b64decode(f"{reference[0]}=")[UUID_BYTES : 2 * UUID_BYTES].hex()
    return "-".join((id[:8], id[8:12], id[12:16], id[16:20], id[20:]))


LISTING = Listing(
    docs="https://developer.nylas.com/docs/reference/api/events/get-all-events",
    evidence="none",
    start=_list_grants,
    read_page=_read_listed,
)
