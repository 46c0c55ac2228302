"""OnceHub (ScheduleOnce): bookings, their end, and no-shows.

From https://developers.oncehub.com/docs, the vendor's https://github.com/scheduleonce/developer-center (docs/webhooks,
openapi) and its help center: in the header, the signature is called `s`, and it covers the time, a dot and the body;
`creation_time` next to the booking is when the event happened, with milliseconds, and orders the events.
`amount_charged` is in the currency's smallest unit. Nothing is sent for a request until the host approves it.

A move on the same page does not change the booking's id. A move to another page, or after the host asked for it, is a
new booking with the old id in `rescheduled_booking_id` (empty if there is none). The cancelled half of such a move,
`canceled_then_rescheduled`, is not a cancellation, and has nothing that the new booking does not have. The reference
does not say whether that half may describe the new booking, with the link, so a link is used in every event. When the
host asks for another time, the old time is cancelled and no new time is known: the visit is cancelled until the new
booking restores it. It is an inference that webhooks follow these rules: the vendor documented them for Zapier, with
the same names.

`owner`, `booking_calendar` and `conversation` are sometimes ids and sometimes objects; none of them is read.

OnceHub disables a webhook after about three days of failures, and its API describes no field for that. If such a field
exists, it is read; otherwise the webhook counts as active while it is listed. The schema of a listed webhook has its
secret; without it, only a webhook that Doorbell created itself is adopted. A listed booking has a status and the time
of its last change, but not when it was cancelled or missed, nor whether a cancelled one was moved; if it was, the new
booking has the link, and its changes count. OnceHub has no OAuth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import (
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
    Source,
    Subscription,
    SubscriptionPage,
    SubscriptionState,
    Target,
    Window,
    iso_milliseconds,
    minor_units,
    read_records,
    split_name,
)

SETUP = """
1. In OnceHub, open the gear menu, Account integrations, "API and webhooks", create an API key (it is shown once), and set it
   as HOOKS__ONCEHUB__CREDENTIALS__API_KEY. `doorbell connect oncehub` does the rest with it; the API needs a plan that
   includes it (Enterprise).
2. By hand, without a key: add a webhook there with the URL {url} and all booking events (the event `booking` of the API
   means all of them). Do not select conversations.
3. Press "View secret" next to it and set the secret as HOOKS__ONCEHUB__SECRETS. A webhook without that button was created
   by version 1 of the API and is not signed: create it again.
4. If OnceHub disables the webhook (after about three days of failures), delete it, and do steps 2 and 3 again.

A booking counts as completed at its planned end, when OnceHub sends an event, unless the host sets it to No-show.
OnceHub sends payments only for booking calendars with Stripe, and it sends no refunds. If a booking form does not ask
for the e-mail address, its visits wait for one, and need attention after a day.
"""


def _event_id(event: Event) -> str | None:
    return event.data.at("id").text()


SOURCE = Source(
    title="OnceHub",
    docs="https://developers.oncehub.com/docs/webhooks/webhook-signatures",
    credential_help={
        "API_KEY": (
            "API key",
            "In OnceHub: the gear menu, Account integrations, “API and webhooks”. It is shown once. The API "
            "needs a plan that includes it (Enterprise).",
        ),
    },
    evidence="second-hand",
    signature=Hmac(header="Oncehub-Signature", fields=("t", "s"), signs="{t}.{body}"),
    setup=SETUP,
    repeat_key=_event_id,
    api_url="https://api.oncehub.com/v2/",
    credentials=ApiKeyAuth(headers={"API-Key": "API_KEY"}),
)


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind, booking = event.data.at("type").required_text(), event.data.at("data")
    match kind:
        case "booking.scheduled" | "booking.rescheduled":
            return [_booked(event, booking)]
        case "booking.canceled_then_rescheduled" if _previous_id(booking):
            return [_booked(event, booking)]
        case "booking.canceled_reschedule_requested" | "booking.canceled" | "booking.cancelled":
            return [replace(_base_change(event, booking), action="cancel", date_cancelled=_happened_at(event))]
        case "booking.completed":
            ended_at = _ended_at(booking) or _happened_at(event)
            return [replace(_base_change(event, booking), time_completed=ended_at, date_cancelled=None, no_show=None)]
        case "booking.no_show":
            return [replace(_base_change(event, booking), date_cancelled=None, no_show=_happened_at(event))]
        case "booking.reassigned":
            return [_base_change(event, booking)]
    return Ignored(kind)


def _base_change(event: Event, booking: Payload) -> VisitChange:
    return VisitChange(
        action="update",
        visit_id=booking.at("id").required_text(),
        version=unix_microseconds(_happened_at(event)),
        previous_visit_id=_previous_id(booking),
        contact=_contact(booking.at("form_submission")),
        time_scheduled=booking.at("starting_time").time() or UNSET,
        amount_collected=_charged(booking.at("payment_information")),
        currency=booking.at("payment_information", "currency").currency(),
    )


def _booked(event: Event, booking: Payload) -> VisitChange:
    return replace(
        _base_change(event, booking),
        action="create",
        time_scheduled=booking.at("starting_time").required_time(),
        time_completed=None,
        date_cancelled=None,
        no_show=None,
    )


def _happened_at(event: Event) -> datetime:
    return event.data.at("creation_time").required_time()


def _previous_id(booking: Payload) -> str | None:
    previous_id = booking.at("rescheduled_booking_id").text()
    return None if previous_id == booking.at("id").text() else previous_id


def _ended_at(booking: Payload) -> datetime | None:
    """Return the end of the booking, from its start and its duration."""
    start, minutes = booking.at("starting_time").time(), booking.at("duration_minutes")
    if start is None or minutes.integer() is None:
        return None
    try:
        return start + timedelta(minutes=minutes.integer() or 0)
    except OverflowError:
        raise minutes.unexpected("the minutes that a meeting takes") from None


def _charged(payment: Payload) -> Decimal | Unset:
    return payment.at("amount_charged").amount(minor_units(payment.at("currency").text())) or UNSET


def _contact(form: Payload) -> Contact | None:
    """Return None if the form is null: `attendees` has addresses, but does not show which one is the customer's."""
    first, last = split_name(form.at("name").text())
    phone = form.at("mobile_phone").text() or form.at("phone").text()
    return Contact(email=form.at("email").text(), first_name=first, last_name=last, phone=phone) if form else None


# -- the API: https://developers.oncehub.com --

#: The events that `booking` means. A subscription may name them one by one.
EVENTS = (
    "booking.scheduled",
    "booking.rescheduled",
    "booking.reassigned",
    "booking.canceled_then_rescheduled",
    "booking.canceled_reschedule_requested",
    "booking.canceled",
    "booking.completed",
    "booking.no_show",
)


def _subscribe(target: Target, account: Payload, events: Sequence[str]) -> RecordRequest:
    # OnceHub refuses a second webhook with the same name, and an old one is deleted after its replacement is created.
    name = f"Doorbell {target.hook} {target.token}"
    return RecordRequest("webhooks", json={"url": target.url, "name": name, "events": list(events)})


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    return SubscriptionPage([_read_subscription(each) for each in response.at("data")], _next_page(request, response))


def _next_page(request: RecordRequest, response: Payload) -> RecordRequest | None:
    ids = [item.at("id").required_id() for item in response.at("data")]
    if not ids or not response.at("has_more").boolean():
        return None
    return replace(request, params={**request.params, "after": ids[-1]})


def _read_subscription(webhook: Payload) -> SubscriptionState:
    """Read a webhook. A webhook of version 1 is not signed, so it counts as disabled."""
    events = {event.required_text() for event in webhook.at("events")}
    return SubscriptionState(
        id=webhook.at("id").required_id(),
        url=webhook.at("url").required_text(),
        events=frozenset(events | set(EVENTS) if "booking" in events else events),
        is_active=webhook.at("api_version").text() in ("v2", None) and not _is_disabled(webhook),
        secret=webhook.at("secret").text() or "",
    )


def _is_disabled(webhook: Payload) -> bool:
    states = {webhook.at(name).value for name in ("active", "enabled", "is_active", "is_enabled")}
    return False in states or webhook.at("disabled").value is True or webhook.at("status").value == "disabled"


def _account_name(account: Payload) -> str:
    return (account.at("message").text() or "").rpartition("account: ")[2]


def _refusal(status: int, response: Payload) -> str | None:
    if status == 402:
        return "OnceHub expects a payment for this account: pay it, and connect it again."
    if status == 403:
        return (
            "OnceHub's API needs a plan that includes it (Enterprise): upgrade the account and connect it again, or add the"
            " webhook by hand."
        )
    return None


SUBSCRIPTION = Subscription(
    docs="https://developers.oncehub.com/docs/webhooks/using-webhooks",
    evidence="vendor",
    groups=(EVENTS,),
    account=RecordRequest("test"),
    account_name=_account_name,
    create=_subscribe,
    read_created=_read_subscription,
    list=lambda account: RecordRequest("webhooks", params={"limit": "100"}),
    read_list=_read_subscriptions,
    delete=lambda id, account: RecordRequest(f"webhooks/{id}", method="DELETE"),
    secret_from="tool",
    refusal=_refusal,
)


def _list_bookings(window: Window, account: Payload) -> Sequence[ListRequest]:
    """Request the bookings in the window, and all bookings that changed. `gt` excludes the given time."""
    just_before = timedelta(milliseconds=1)
    in_window = {
        "starting_time.gt": iso_milliseconds(window.since - just_before),
        "starting_time.lt": iso_milliseconds(window.until),
    }
    filters = [in_window]
    if window.changed_since:
        filters.append({"last_updated_time.gt": iso_milliseconds(window.changed_since - just_before)})
    return [ListRequest(RecordRequest("bookings", params={**each, "limit": "100"})) for each in filters]


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    page = _next_page(request.request, response)

    def read(booking: Payload) -> Iterator[ListedRecord]:
        if booking.at("status").text() != "requested" and booking.at("deleted").value is not True:
            yield _listed(booking)

    return ListedPage(read_records(response.at("data"), read), [replace(request, request=page)] if page else [])


def _listed(booking: Payload) -> ListedRecord:
    """Return the booking as its last event. The time of its last change may be older than its completion."""
    status, changed_at = booking.at("status").required_text(), booking.at("last_updated_time").required_time()
    if status == "completed":
        changed_at = max(changed_at, _ended_at(booking) or changed_at)
    body = {
        "object": "event",
        "type": f"booking.{status}",
        "creation_time": iso_milliseconds(changed_at),
        "api_version": "v2",
        "data": booking.value,
    }
    return ListedRecord(booking.at("id").required_text(), body)


LISTING = Listing(
    docs="https://github.com/scheduleonce/developer-center",
    evidence="vendor",
    start=_list_bookings,
    read_page=_read_listed,
    lists_changed=True,
    calls_per_s=0.6,  # 200 requests in 5 minutes for each IP address
)
