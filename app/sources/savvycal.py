"""SavvyCal: events, their approval, and the payment at their checkout.

From https://savvycal.com/docs/api/webhooks, "Webhook Payloads" and "Event" on the same site, and
https://developers.savvycal.com/api/schemas/event: every payload of an event is the whole event; its id does not change
when it is moved, and `occurred_at` orders the changes. The status is read from `state`, not from the event's name,
because the page's own example of `event.approved` is called `event.requested`; only a webhook that reports the end of
an event (canceled, declined, checkout expired) counts whatever the state is. The signature is in upper-case
hexadecimal.

An event that waits for the organizer's approval or for the checkout is not an appointment yet. If a confirmed event waits
again (it was moved, and the new time needs approval), its visit is cancelled until it is confirmed.

`event.changed` has the event in `payload.event`, next to the changes; all others have it as `payload`.

`amount_total` is in cents. "Payment" on the same site lists every property, and none is a currency, so amounts have no
currency here, and no specimen has one. Second-hand: the state `awaiting_reschedule`, and that `event.attendee.…` has
only the attendee, without the event.

Group sessions (`is_group_session`): each attendee except the organizer has a visit. Its id is the event's id and a
digest of the e-mail address, so a person who is listed twice has one visit. An event that only lists an attendee who
left does not restore the visit. The format of `event.attendee.…` is not published: it is read if it has both the event
and the attendee, even for guests of other events, who have no visits; otherwise it is parked. A move to another session
is parked, too, because one of the two sessions is unknown, and so is a payment in a session with several attendees.

A webhook that is created through the API gets all events, cannot be changed, and has a `state`; it is not documented
why SavvyCal disables a webhook. A listed event has no time of its last change, so the time of the request orders it. A
cancellation without `canceled_at` gets the time of the first webhook or list that shows it. The order of the list is
not documented, so the past events are read to the end, unless a page is in descending order. Attendees who left a group
session are not in the list. Second-hand: the fields of `/me`, and the app's credentials in the form at the token
endpoint. From memory: `state=all` includes events that wait for approval or the checkout; two webhooks may have the
same URL.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, attendee_visit_id, unix_microseconds
from app.webhooks import (
    NO_ATTENDEE_ID,
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
    PartlyTranslatable,
    Payload,
    RecordRequest,
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Untranslatable,
    Window,
    attendee_key,
    read_records,
    refresh_token_exchange,
    split_name,
)

SETUP = """
1. In SavvyCal, open Settings, Developer, create a personal token, and set its private key as
   HOOKS__SAVVYCAL__CREDENTIALS__TOKEN. `doorbell connect savvycal` does the rest with it. If you do the next steps by
   hand, you need no token.
2. In Settings, Integrations, press + next to Webhooks. Paste {url}. If you can choose events, select all that begin with
   `event.`; other events are ignored.
3. Copy the signing secret that is shown next to the webhook and set it as HOOKS__SAVVYCAL__SECRETS.

SavvyCal sends no completions or no-shows, so review requests are timed from the start. The only payments that it sends
are those at the checkout. In a group session every attendee has a visit. If SavvyCal does not name the session that
somebody joined or left, or the two sessions of a move, the delivery needs an operator, and so does a payment in a group
session.
"""


def _payload_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="SavvyCal",
    docs="https://savvycal.com/docs/api/webhooks",
    credential_help={
        "TOKEN": (
            "Personal token",
            "In SavvyCal: Settings, Developer. Create a personal token, and copy its private key.",
        ),
        "CLIENT_ID": ("Client ID", "The client ID of an app with OAuth, if you have no personal token."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you connect the app to your account."),
    },
    evidence="second-hand",
    signature=Hmac(header="x-savvycal-signature", lenient=True),
    setup=SETUP,
    repeat_key=_payload_id,
    api_url="https://api.savvycal.com/v1/",
    credentials=BearerAuth("TOKEN"),
    token_exchange=refresh_token_exchange("https://savvycal.com/oauth/token"),
)

#: The webhooks whose payload is a calendar event, and the state of that event if the payload has none.
KINDS = {
    "event.created": "confirmed",
    "event.requested": "awaiting_approval",
    "event.approved": "confirmed",
    "event.declined": "declined",
    "event.rescheduled": "confirmed",
    "event.changed": "confirmed",
    "event.canceled": "canceled",
    "event.checkout.pending": "awaiting_checkout",
    "event.checkout.expired": "checkout_expired",
    "event.checkout.completed": "confirmed",
}
INITIAL = {"event.created", "event.requested", "event.checkout.pending"}
CANCELLED = {"canceled", "cancelled", "declined", "checkout_expired", "awaiting_reschedule"}
WAITING = {"awaiting_approval", "awaiting_checkout"}
CONFIRMED = {"confirmed", "tentative"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, payload = event.data.at("type").required_text(), event.data.at("payload")
    booking = payload.at("event") if isinstance(payload.at("event").value, dict) else payload
    if kind in ATTENDEE_EVENTS:
        return _attendee_changes(event, kind, payload, booking)
    if kind not in KINDS:
        return Ignored(kind)
    state = _state(kind, booking)
    if state in WAITING and kind in INITIAL and not booking.at("rescheduled_at"):
        return Ignored(f"{kind}: {state}")
    base = _base_change(event, kind, state, booking)
    if booking.at("is_group_session").boolean():
        return _group(event, kind, booking, base)
    amount = _collected(kind, booking.at("payment"))
    return [replace(base, contact=_contact(booking), amount_collected=amount)]


def _base_change(event: Event, kind: str, state: str, booking: Payload) -> VisitChange:
    """Return the change of a calendar event for all of its attendees."""
    happened_at, cancelled_at = _happened_at(event), _cancelled_at(state, booking)
    base = VisitChange(
        action="update",
        visit_id=booking.at("id").required_text(),
        version=unix_microseconds(happened_at),
        times_are_observed=cancelled_at is None,
    )
    if state in CONFIRMED:
        action: Action = "create" if kind == "event.created" else "update"
        start = booking.at("start_at").required_time()
        return replace(base, action=action, time_scheduled=start, date_cancelled=None)
    return replace(
        base,
        action="cancel",
        time_scheduled=booking.at("start_at").time() or UNSET,
        date_cancelled=cancelled_at or happened_at,
    )


def _happened_at(event: Event) -> datetime:
    return event.data.at("occurred_at").required_time()


def _state(kind: str, booking: Payload) -> str:
    default = KINDS.get(kind, "confirmed")
    if default in CANCELLED:
        return default
    state = (booking.at("state").text() or default).lower()
    if state not in CANCELLED | WAITING | CONFIRMED:
        raise booking.at("state").unexpected("an event's state that SavvyCal documents")
    return state


def _cancelled_at(state: str, booking: Payload) -> datetime | None:
    return booking.at("canceled_at").time() if state in ("canceled", "cancelled") else None


def _collected(kind: str, payment: Payload) -> Decimal | Unset:
    if kind != "event.checkout.completed" and payment.at("state").text() != "paid":
        return UNSET
    return payment.at("amount_total").amount(minor_units=100) or UNSET


# -- group sessions --

#: The webhooks about one attendee.
LEFT_EVENTS = {"event.attendee.canceled", "event.attendee.cancelled"}
ATTENDEE_EVENTS = {"event.attendee.added", "event.attendee.rescheduled"} | LEFT_EVENTS
NOT_COMING = {"declined", "canceled", "cancelled"}
NO_ATTENDEE = "the event is about an attendee of a group session, but does not name the attendee"
NO_EVENT_ID = "the event is about an attendee, but does not name the calendar event"
NO_PREVIOUS_SESSION = "an attendee of a group session moved, and the event does not name the session that they left"
NO_PAYER = "a payment in a group session, and the event does not name the attendee who paid"


def _group(event: Event, kind: str, booking: Payload, base: VisitChange) -> list[VisitChange]:
    """Return a change for each attendee. base: the change for all of them."""
    happened_at = _happened_at(event)
    people = [attendee for attendee in booking.at("attendees") if not attendee.at("is_organizer").boolean()]
    by_key = {key: attendee for attendee in people if (key := attendee_key(attendee))}
    booker = attendee_key(booking.at("scheduler")) if kind == "event.created" else None
    amount = _collected(kind, booking.at("payment")) if len(people) == 1 else UNSET
    changes = [
        replace(
            base,
            visit_id=attendee_visit_id(base.visit_id, key),
            contact=_person(attendee),
            amount_collected=amount,
            date_left=happened_at if _is_not_coming(attendee) else None if key == booker else UNSET,
        )
        for key, attendee in by_key.items()
    ]
    if not people:
        raise booking.at("attendees").unexpected("the attendees of a group session")
    if not all(map(attendee_key, people)):
        raise PartlyTranslatable(NO_ATTENDEE_ID, changes)
    if kind == "event.checkout.completed" and len(people) > 1:
        raise PartlyTranslatable(NO_PAYER, changes)
    return changes


def _attendee_changes(event: Event, kind: str, payload: Payload, booking: Payload) -> list[VisitChange] | Ignored:
    """Translate an event about one attendee, which has the calendar event, or at least its id."""
    attendee = payload.at("attendee") if isinstance(payload.at("attendee").value, dict) else payload
    is_group, has_joined = booking.at("is_group_session").boolean(), kind == "event.attendee.added"
    if is_group is False or attendee.at("is_organizer").boolean():
        return Ignored(kind)
    if attendee is booking and booking.at("start_at"):  # the whole calendar event, without an attendee
        if has_joined and is_group:
            return _group(event, kind, booking, _base_change(event, kind, _state(kind, booking), booking))
        raise Untranslatable(NO_ATTENDEE)
    ids = (booking.at("id") if booking is not payload else None, payload.at("event_id"), attendee.at("event_id"))
    event_id, key = next((text for id in ids if id and (text := id.text())), None), attendee_key(attendee)
    if not event_id or not key or (has_joined and is_group is None):
        raise Untranslatable(NO_EVENT_ID)
    happened_at, has_left = _happened_at(event), kind in LEFT_EVENTS
    change = VisitChange(
        action="cancel" if has_left else "update",
        visit_id=attendee_visit_id(event_id, key),
        version=unix_microseconds(happened_at),
        contact=_person(attendee),
        time_scheduled=booking.at("start_at").time() or UNSET,
        date_left=happened_at if has_left else None,
    )
    if not (has_joined or has_left):
        raise PartlyTranslatable(NO_PREVIOUS_SESSION, [change])
    return [change]


def _is_not_coming(attendee: Payload) -> bool:
    return (attendee.at("response_status").text() or "").lower() in NOT_COMING


# -- people --


def _contact(booking: Payload) -> Contact | None:
    """Return the person who booked; for a poll or a booking by the organizer, the first other attendee."""
    people = [booking.at("scheduler"), *booking.at("attendees")]
    guests = [
        attendee for attendee in people if attendee.at("email").text() and not attendee.at("is_organizer").boolean()
    ]
    return _person(guests[0]) if guests else None


def _person(guest: Payload) -> Contact:
    first, last = guest.at("first_name").text(), guest.at("last_name").text()
    if not (first or last):
        first, last = split_name(guest.at("display_name").text())
    return Contact(
        email=guest.at("email").text(), first_name=first, last_name=last, phone=guest.at("phone_number").text()
    )


# -- the API: https://savvycal.com/docs/api --


def _read_subscription(webhook: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("url").required_text(),
        is_active=webhook.at("state").text() == "active",
        secret=webhook.at("secret").required_text(),
    )


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    webhooks = [each for each in response.at("entries") if each.at("state").text() != "deleted"]
    return SubscriptionPage([_read_subscription(each) for each in webhooks], _next_page(request, response))


def _next_page(request: RecordRequest, response: Payload) -> RecordRequest | None:
    cursor = response.at("metadata", "after").text()
    return replace(request, params={**request.params, "after": cursor}) if cursor else None


def _account_name(account: Payload) -> str:
    return account.at("display_name").text() or account.at("email").text() or ""


def _refusal(status: int, response: Payload) -> str | None:
    if status == 403:
        return (
            "SavvyCal does not allow this token to do that: the account's plan or the user's rights do not include it."
        )
    if status == 422:
        problems = [problem.at("message").text() for problem in response.at("errors", "url")]
        return f"SavvyCal refuses the URL of the hook: it {', '.join(filter(None, problems))}." if problems else None
    return None


SUBSCRIPTION = Subscription(
    docs="https://savvycal.com/docs/api/endpoints/webhooks",
    evidence="none",
    groups=((*KINDS, "event.attendee.added", "event.attendee.rescheduled", "event.attendee.canceled"),),
    account=RecordRequest("me"),
    account_name=_account_name,
    create=lambda target, account, events: RecordRequest("webhooks", json={"url": target.url}),
    read_created=_read_subscription,
    list=lambda account: RecordRequest("webhooks", params={"limit": "100"}),
    read_list=_read_subscriptions,
    delete=lambda id, account: RecordRequest(f"webhooks/{id}", method="DELETE"),
    secret_from="tool",
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://developers.savvycal.com/authentication",
    evidence="second-hand",
    authorize_url="https://savvycal.com/oauth/authorize",
    token_url="https://savvycal.com/oauth/token",
    uses_pkce=False,
    account_id=lambda account: account.at("id").text() or "",
)

#: The default length of a page. A shorter page may be in descending order by accident.
DEFAULT_PAGE_SIZE = 20


def _list_events(window: Window, account: Payload) -> Sequence[ListRequest]:
    """Request the upcoming and the past events. An event that begins between the two requests is in both lists."""
    context = {"since": window.since.isoformat(), "until": window.until.isoformat()}
    return [
        ListRequest(RecordRequest("events", params={"state": "all", "period": period, "limit": "100"}), context)
        for period in ("upcoming", "past")
    ]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    since, until = (datetime.fromisoformat(request.context[name]) for name in ("since", "until"))
    starts = list[datetime]()

    def read(booking: Payload) -> Iterator[ListedRecord]:
        starts.append(booking.at("start_at").required_time())
        if since <= starts[-1] < until:
            yield _listed(booking, response.requested_at)

    records, page = read_records(response.at("entries"), read), _next_page(request.request, response)
    if page is None or _are_later_pages_before(starts, since):
        return ListedPage(records)
    return ListedPage(records, [replace(request, request=page)])


def _are_later_pages_before(starts: Sequence[datetime], since: datetime) -> bool:
    is_full = len(starts) >= DEFAULT_PAGE_SIZE
    is_descending = is_full and starts[0] > starts[-1] and list(starts) == sorted(starts, reverse=True)
    return is_descending and starts[-1] < since


def _listed(booking: Payload, listed_at: datetime) -> ListedRecord:
    """Return the listed event as a change, or, if it waits, as the webhook that would have reported the wait."""
    waiting = {"awaiting_approval": "event.requested", "awaiting_checkout": "event.checkout.pending"}
    kind = waiting.get((booking.at("state").text() or "").lower(), "event.changed")
    payload = {"event": booking.value} if kind == "event.changed" else booking.value
    body = {"type": kind, "occurred_at": listed_at.isoformat(), "payload": payload}
    return ListedRecord(booking.at("id").required_text(), body)


LISTING = Listing(
    docs="https://savvycal.com/docs/api/endpoints/events",
    evidence="none",
    start=_list_events,
    read_page=_read_listed,
)
