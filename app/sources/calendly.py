"""Calendly: an invitee books, moves, cancels, or is marked as a no-show.

From https://developer.calendly.com/api-docs/overview/webhooks and "Webhook Payloads for Rescheduled Events" there:
`created_at` at the top level is when the event happened; times are UTC. Many invitees share a group event, so a visit
is an invitee, not an event. There is no event for a reschedule: the old invitee is canceled with `rescheduled` and
`new_invitee`, and the new invitee is created with `old_invitee`, in either order. There is no event for a completion or
a later payment either.

Second-hand (the Ruby gem `calendly` and integrations in public code): the payload of `invitee_no_show.…`. In some of
them it is the InviteeNoShow (`uri`, `invitee`, `created_at`), in others the whole invitee with `no_show` in it; both
are read. Also second-hand: an `outbound_call` has the phone number in `scheduled_event.location`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
    MIN_CHOSEN_SECRET_BYTES,
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
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Window,
    phone_answer,
    read_records,
    split_name,
)

SETUP = """
1. Calendly's webhooks need a paid plan, and are created only through its API. In Integrations, "API and webhooks",
   create a personal access token as an owner or admin of the organization.
2. Make up a signing key (32 random characters or more) and set it as HOOKS__CALENDLY__SECRETS. Without a signing key
   Calendly signs nothing, and Doorbell rejects every delivery.
3. Ask Calendly for your organization, with that token, and note `current_organization` in the response.
   $ curl https://api.calendly.com/users/me -H "Authorization: Bearer TOKEN"
4. Create a subscription for {url}, with the token from step 1, the signing key from step 2 and the organization from step 3.
   $ curl https://api.calendly.com/webhook_subscriptions -H "Authorization: Bearer TOKEN" \\
       -H "Content-Type: application/json" -d '{"url": "{url}", "organization": "ORGANIZATION",
       "scope": "organization", "signing_key": "SIGNING_KEY", "events": ["invitee.created", "invitee.canceled",
       "invitee_no_show.created", "invitee_no_show.deleted"]}'
5. If Calendly disables the subscription (permanently, after 24 hours of failures), do step 4 again.

Calendly does not send the end of a meeting, so review requests are timed from its start. It sends only payments that
were made while booking.
"""

SOURCE = Source(
    title="Calendly",
    is_common=True,
    docs="https://developer.calendly.com/api-docs/overview/webhooks/webhook-signatures",
    credential_help={
        "TOKEN": (
            "Personal access token",
            "In Calendly: Integrations, “API and webhooks”. Create it as an owner or admin of the organization. "
            "Webhooks need a paid plan of Calendly.",
        ),
    },
    evidence="second-hand",
    retries="yes",
    signature=Hmac(
        header="Calendly-Webhook-Signature",
        fields=("t", "v1"),
        signs="{t}.{body}",
        tolerance_s=180,
        min_key_bytes=MIN_CHOSEN_SECRET_BYTES,
    ),
    setup=SETUP,
    event_name_path=("event",),
    api_url="https://api.calendly.com",
    credentials=BearerAuth(),
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, payload = event.data.at("event").required_text(), event.data.at("payload")
    match kind:
        case "invitee.created":
            return [_booked(event, payload)]
        case "invitee.canceled" if not payload.at("rescheduled").boolean():
            cancelled_at = payload.at("cancellation", "created_at").time() or _happened_at(event)
            return [replace(_update(event, payload), action="cancel", date_cancelled=cancelled_at)]
        case "invitee.canceled" if payload.at("new_invitee"):
            return [_reschedule_link(event, payload)]
        case "invitee.canceled":
            return Ignored("invitee.canceled: rescheduled")
        case "invitee_no_show.created":
            invitee = _no_show_invitee(payload)
            missed_at = invitee.at("no_show", "created_at").time() or _happened_at(event)
            return [replace(_update(event, invitee), no_show=missed_at)]
        case "invitee_no_show.deleted":
            return [replace(_update(event, _no_show_invitee(payload)), no_show=None)]
    return Ignored(kind)


def _update(event: Event, invitee: Payload) -> VisitChange:
    """Return an update with the fields of the invitee. The event may have no more than the invitee's URI."""
    return VisitChange(
        action="update",
        visit_id=_invitee_id(invitee.at("uri") if isinstance(invitee.value, dict) else invitee),
        version=unix_microseconds(_happened_at(event)),
        contact=_contact(invitee),
        time_scheduled=invitee.at("scheduled_event", "start_time").time() or UNSET,
    )


def _booked(event: Event, invitee: Payload) -> VisitChange:
    old_invitee = invitee.at("old_invitee")
    return replace(
        _update(event, invitee),
        action="create",
        previous_visit_id=_invitee_id(old_invitee) if old_invitee else None,
        time_scheduled=invitee.at("scheduled_event", "start_time").required_time(),
        amount_collected=_amount(invitee.at("payment")),
        currency=invitee.at("payment", "currency").currency(),
        date_cancelled=None,
        no_show=None,
    )


def _reschedule_link(event: Event, invitee: Payload) -> VisitChange:
    """Return the link of a reschedule: nothing is cancelled, the visit continues with the new invitee."""
    return VisitChange(
        action="update",
        visit_id=_invitee_id(invitee.at("new_invitee")),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_invitee_id(invitee.at("uri")),
    )


def _no_show_invitee(payload: Payload) -> Payload:
    """Return the invitee who did not come: an InviteeNoShow has the URI, or an object with the URI."""
    return payload.at("invitee") or payload


def _happened_at(event: Event) -> datetime:
    return event.data.at("created_at").required_time()


def _invitee_id(uri: Payload) -> str:
    """Extract the id from `https://api.calendly.com/scheduled_events/{event}/invitees/{invitee}`."""
    match = re.search(r"/invitees/([^/?#\s]+)/?$", uri.required_text())
    if not match:
        raise uri.unexpected("the URI of an invitee")
    return match[1]


def _amount(payment: Payload) -> Decimal | Unset:
    """Return `amount`, which is in whole currency units: 75.5 for 75.50."""
    amount = payment.at("amount").amount() if payment.at("successful").boolean() else None
    return UNSET if amount is None else amount


def _contact(invitee: Payload) -> Contact:
    first, last = invitee.at("first_name").text(), invitee.at("last_name").text()
    if not (first or last):
        # The form has one field for the name.
        first, last = split_name(invitee.at("name").text())
    return Contact(email=invitee.at("email").text(), first_name=first, last_name=last, phone=_phone(invitee))


def _phone(invitee: Payload) -> str | None:
    """Return the number for text reminders, else an answer on the booking form, else the number that the host calls."""
    reminder = invitee.at("text_reminder_number").text()
    if reminder:
        return reminder
    for item in invitee.at("questions_and_answers"):
        if number := phone_answer(item.at("question").text(), item.at("answer").text()):
            return number
    location = invitee.at("scheduled_event", "location")
    return location.at("location").text() if location.at("type").text() == "outbound_call" else None


# -- the API: https://developer.calendly.com/api-docs --


def _subscribe(target: Target, account: Payload, events: Sequence[str]) -> RecordRequest:
    body = {
        "url": target.url,
        "events": list(events),
        "organization": _organization(account),
        "scope": "organization",
        "signing_key": target.secret,
    }
    return RecordRequest("webhook_subscriptions", json=body)


def _list_subscriptions(account: Payload) -> RecordRequest:
    params = {"organization": _organization(account), "scope": "organization", "count": "100"}
    return RecordRequest("webhook_subscriptions", params=params)


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    subscriptions = [_read_subscription(each) for each in response.at("collection")]
    return SubscriptionPage(subscriptions, _next_page(request, response))


def _next_page(request: RecordRequest, response: Payload) -> RecordRequest | None:
    token = response.at("pagination", "next_page_token").text()
    return replace(request, params={**request.params, "page_token": token}) if token else None


def _read_subscription(subscription: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=_last_part(subscription.at("uri")),
        url=subscription.at("callback_url").required_text(),
        events=frozenset(event.required_text() for event in subscription.at("events")),
        is_active=subscription.at("state").text() != "disabled",
        failing_since=subscription.at("retry_started_at").time(),
    )


def _organization(account: Payload) -> str:
    return account.at("resource", "current_organization").required_text()


def _last_part(uri: Payload) -> str:
    """Return the id at the end of a URI of Calendly."""
    match = re.search(r"/([A-Za-z0-9_-]+)/?$", uri.required_text())
    if not match:
        raise uri.unexpected("a URI")
    return match[1]


def _refusal(status: int, response: Payload) -> str | None:
    """Return the sentence for a 403, which has three causes. Second-hand: the texts that distinguish them."""
    if status != 403:
        return None
    if response.at("required_scopes"):
        return "The token needs the scopes users:read, organizations:read, scheduled_events:read and webhooks:write."
    if "upgrade" in str(response.at("message").value).lower():
        return "Webhooks need a paid plan of Calendly: upgrade the account, and connect it again."
    return "Only an owner or admin of the organization may create webhooks in Calendly: use the token of one."


SUBSCRIPTION = Subscription(
    docs="https://developer.calendly.com/api-docs/c1ddc06ce1f1a-create-webhook-subscription",
    evidence="vendor",
    groups=(("invitee.created", "invitee.canceled", "invitee_no_show.created", "invitee_no_show.deleted"),),
    account=RecordRequest("users/me"),
    account_name=lambda account: account.at("resource", "name").text() or "",
    create=_subscribe,
    read_created=lambda response: _read_subscription(response.at("resource")),
    list=_list_subscriptions,
    read_list=_read_subscriptions,
    delete=lambda id, _: RecordRequest(f"webhook_subscriptions/{id}", method="DELETE"),
    is_url_unique=True,
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://developer.calendly.com/creating-an-oauth-app",
    evidence="second-hand",
    authorize_url="https://auth.calendly.com/oauth/authorize",
    token_url="https://auth.calendly.com/oauth/token",
    scopes=("users:read", "organizations:read", "scheduled_events:read", "webhooks:write"),
    is_basic_auth=True,
    signs_with="app",
    account_id=lambda account: account.at("resource", "current_organization").text() or "",
)


def _list_events(window: Window, account: Payload) -> Sequence[ListRequest]:
    params = {
        "organization": _organization(account),
        "min_start_time": _utc(window.since),
        "max_start_time": _utc(window.until),
        "sort": "start_time:asc",
        "count": "100",
    }
    return [ListRequest(RecordRequest("scheduled_events", params=params))]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of events and request their invitees, or read a page of the invitees of an event."""
    page = _next_page(request.request, response)
    next_page = [replace(request, request=page)] if page else []
    if request.context:
        records = read_records(response.at("collection"), lambda invitee: _listed(invitee, request.context))
        return ListedPage(records, next_page)
    invitees = [
        ListRequest(
            RecordRequest(f"scheduled_events/{_last_part(event.at('uri'))}/invitees", params={"count": "100"}),
            {"scheduled_event": event.value},
            can_be_missing=True,  # the data of an event can be deleted
        )
        for event in response.at("collection")
    ]
    return ListedPage([], [*invitees, *next_page])


def _listed(invitee: Payload, context: Mapping[str, Any]) -> Iterator[ListedRecord]:
    """Yield the last events that the webhooks would have sent about this invitee, with the times of those events."""
    payload, id = {**invitee.required_object(), **context}, _invitee_id(invitee.at("uri"))
    if invitee.at("status").text() == "canceled":
        cancelled_at = invitee.at("cancellation", "created_at").text() or invitee.at("updated_at").required_text()
        yield ListedRecord(id, {"event": "invitee.canceled", "created_at": cancelled_at, "payload": payload})
    else:
        created_at = invitee.at("created_at").required_text()
        yield ListedRecord(id, {"event": "invitee.created", "created_at": created_at, "payload": payload})
    if invitee.at("no_show"):
        missed_at = invitee.at("no_show", "created_at").required_text()
        yield ListedRecord(id, {"event": "invitee_no_show.created", "created_at": missed_at, "payload": payload})


def _utc(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z")


LISTING = Listing(
    docs="https://developer.calendly.com/api-docs/2d5ed9bbd2952-list-events",
    evidence="vendor",
    start=_list_events,
    read_page=_read_listed,
)
