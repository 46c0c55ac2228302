"""Square Bookings: the booking is in the event, but its customer must be fetched.

From https://developer.squareup.com/docs/bookings-api/use-webhooks, the reference of `booking.updated`, and the types
and webhook helper of https://github.com/square/square-python-sdk: there are `booking.created` and `booking.updated`,
and `booking.status` shows what happened; a cancellation is an update. The booking's id does not change. Its `version`
increases with every change, and orders the events, which arrive unordered and repeated; `data.id` is another id that
includes the version. Square signs the URL exactly as it was pasted, then the body. `event_id` is the same on every
retry.

PENDING is a request that the seller has not accepted: it is not an appointment yet. A new request is ignored until it is
ACCEPTED. If an accepted booking becomes PENDING again (the customer asks for another time), the visit is cancelled, and the
next ACCEPTED, with a higher version, restores it. It is not documented whether that happens.

A customer's details have no version: they get the version of the booking, and the time of their fetch orders them.

Subscriptions belong to an application: only the application's own access token can manage them; Square refuses a token
from OAuth, which expires after 30 days. So there is no OAUTH here. A subscription gets the events of all sellers who
connected the application; `merchant_id` names the seller. A listed booking does not name it: it belongs to the owner of
the token. Square's test sends a signed event about a booking that does not exist, so it is
not used. Square never disables a subscription, and does not report failing ones. Bookings are listed by their start, 31
days at a time. Second-hand, from a recorded list: cancelled bookings are listed. From memory: Square refuses a longer
period.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, format_time, unix_microseconds
from app.webhooks import (
    ApiResponse,
    BearerAuth,
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
    read_records,
)

SETUP = """
1. In Square's Developer Console, open your application, Production, and copy its access token into
   HOOKS__SQUARE__CREDENTIALS__TOKEN. A token from OAuth is not enough: it expires after 30 days, and cannot manage
   webhooks.
2. Set PUBLIC_URL, because Square signs the URL. Then, in Webhooks, Subscriptions, add exactly {url}: with an additional
   slash at the end, every signature is invalid.
3. Select only booking.created and booking.updated. Copy the signature key into HOOKS__SQUARE__SECRETS. When Square renews
   that key, the old one becomes invalid at once.
4. If other sellers connected the application, Square sends their events, too: set HOOKS__SQUARE__TENANTS to the
   `merchant_id` of yours, which is in every event.
5. For the sandbox, set HOOKS__SQUARE__API_URL to https://connect.squareupsandbox.com/v2/ and use its token and key.
6. With the access token, `doorbell connect square` does steps 2 and 3, and lists the bookings.

Square does not send the end of an appointment, so review requests are timed from its start. Nothing links a payment to
a booking, so visits have no amounts. Customers who unsubscribed from the seller's e-mails get no review request. The
visit of a booking without a customer (a walk-in) waits for one, and needs attention after a day.
"""


def _event_id(event: Event) -> str | None:
    event_id = event.data.at("event_id").value
    return event_id if isinstance(event_id, str) and event_id else None


def _seller(event: Event) -> str | None:
    return event.data.at("merchant_id").text()


API_VERSION = "2025-07-16"

SOURCE = Source(
    title="Square Appointments",
    is_common=True,
    docs="https://developer.squareup.com/docs/bookings-api/use-webhooks",
    credential_help={
        "TOKEN": ("Access token", "In Square's Developer Console: your application, Production."),
    },
    signature=Hmac(header="x-square-hmacsha256-signature", signs="{url}{body}", encoding="base64"),
    setup=SETUP,
    evidence="vendor",
    retries="yes",
    repeat_key=_event_id,
    tenant_of=_seller,
    api_url="https://connect.squareup.com/v2/",
    credentials=BearerAuth("TOKEN"),
    api_headers={"Square-Version": API_VERSION},
)

ACTIONS: dict[str, Action] = {"booking.created": "create", "booking.updated": "update"}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch the customer of an accepted booking; a cancellation does not depend on Square's API."""
    booking = _booking(event)
    if _kind(event) not in ACTIONS or booking.at("status").text() != "ACCEPTED":
        return []
    customer_id = _customer_id(booking)
    return [RecordRequest(f"customers/{customer_id}")] if customer_id else []


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = _kind(event)
    action = ACTIONS.get(kind)
    if action is None:
        return Ignored(kind)
    booking = _booking(event)
    visit_id, version = booking.at("id").required_text(), booking.at("version").required_integer()
    status = booking.at("status")
    # https://developer.squareup.com/reference/square/enums/BookingStatus
    match status.text():
        case "ACCEPTED":
            return [
                VisitChange(
                    action=action,
                    visit_id=visit_id,
                    version=version,
                    observed_at_us=unix_microseconds(event.fetched_at) if event.fetched_at else 0,
                    contact=_contact(event),
                    time_scheduled=booking.at("start_at").required_time(),
                    date_cancelled=None,
                    no_show=None,
                    opted_out=_opted_out(event),
                )
            ]
        case "NO_SHOW":
            missed_at = _updated_at(booking)
            return [
                VisitChange(action=action, visit_id=visit_id, version=version, date_cancelled=None, no_show=missed_at)
            ]
        case "PENDING" if kind == "booking.created":
            return Ignored("not accepted yet")
        case "PENDING" | "CANCELLED_BY_CUSTOMER" | "CANCELLED_BY_SELLER" | "DECLINED":
            cancelled_at = _updated_at(booking)
            return [VisitChange(action="cancel", visit_id=visit_id, version=version, date_cancelled=cancelled_at)]
    raise status.unexpected("a booking's status that Square documents")


def _kind(event: Event) -> str:
    return event.data.at("type").required_text()


def _booking(event: Event) -> Payload:
    return event.data.at("data", "object", "booking")


def _customer_id(booking: Payload) -> str | None:
    customer_id = booking.at("customer_id").text() or ""
    return customer_id if re.fullmatch("[A-Za-z0-9_-]{1,191}", customer_id) else None


def _updated_at(booking: Payload) -> datetime:
    """Return the time of a cancellation or a no-show: Square has no other time for it."""
    return booking.at("updated_at").required_time()


def _contact(event: Event) -> Contact | None:
    if event.record is None:
        return None
    customer = event.record.at("customer")
    return Contact(
        email=customer.at("email_address").text(),
        first_name=customer.at("given_name").text(),
        last_name=customer.at("family_name").text(),
        phone=customer.at("phone_number").text(),
    )


def _opted_out(event: Event) -> bool | Unset:
    """Return `email_unsubscribed`: the customer opted out of e-mail marketing of this seller, or of all sellers."""
    unsubscribed = event.record.at("customer", "preferences", "email_unsubscribed").boolean() if event.record else None
    return UNSET if unsubscribed is None else unsubscribed


# -- the API: https://developer.squareup.com/reference/square --


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    """Create a subscription.

    With an idempotency key, Square could return an earlier subscription that was deleted since.
    """
    subscription = {
        "name": f"Doorbell {target.hook}",
        "enabled": True,
        "event_types": list(events),
        "notification_url": target.url,
        "api_version": API_VERSION,
    }
    return RecordRequest(SUBSCRIPTIONS, json={"subscription": subscription})


def _read_subscriptions(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    subscriptions = [_read_subscription(subscription) for subscription in response.at("subscriptions")]
    return SubscriptionPage(subscriptions, _next_page(request, response))


def _next_page(request: RecordRequest, response: Payload) -> RecordRequest | None:
    cursor = response.at("cursor").text()
    return replace(request, params={**request.params, "cursor": cursor}) if cursor else None


def _read_subscription(subscription: Payload) -> SubscriptionState:
    return SubscriptionState(
        id=subscription.at("id").required_id(),
        url=subscription.at("notification_url").required_text(),
        events=frozenset(event.required_text() for event in subscription.at("event_types")),
        is_active=subscription.at("enabled").boolean() is not False,
        secret=subscription.at("signature_key").text() or "",
    )


def _refusal(status: int, response: Payload) -> str | None:
    codes = [error.at("code").value for error in response.at("errors")]
    if status == 403 and "INSUFFICIENT_SCOPES" in codes:
        return (
            "Square lets only the application itself manage webhooks: use the access token on the application's page in the "
            "Developer Console, not one from OAuth."
        )
    return None


SUBSCRIPTIONS = "webhooks/subscriptions"

SUBSCRIPTION = Subscription(
    docs="https://developer.squareup.com/docs/webhooks/webhook-subscriptions-api",
    evidence="vendor",
    groups=(("booking.created", "booking.updated"),),
    account=RecordRequest("merchants/me"),
    account_name=lambda account: account.at("merchant", "business_name").text() or "",
    create=_subscribe,
    read_created=lambda response: _read_subscription(response.at("subscription")),
    # Without the parameter, disabled subscriptions are not listed.
    list=lambda _: RecordRequest(SUBSCRIPTIONS, params={"include_disabled": "true"}),
    read_list=_read_subscriptions,
    delete=lambda id, _: RecordRequest(f"{SUBSCRIPTIONS}/{id}", method="DELETE"),
    reactivate=lambda id, _: RecordRequest(
        f"{SUBSCRIPTIONS}/{id}", method="PUT", json={"subscription": {"enabled": True}}
    ),
    secret_from="tool",
    refusal=_refusal,
)

#: The longest period of a list, and the maximum number of customers in a request.
LONGEST_PERIOD, MAX_CUSTOMERS = timedelta(days=31), 100


def _list_bookings(window: Window, _: Payload) -> Sequence[ListRequest]:
    """List the window in periods. Earlier bookings may have changed since, too: one period of them is read."""
    context = {"since": window.since.isoformat(), "changed_since": (window.changed_since or window.since).isoformat()}
    start = window.since if window.changed_since is None else min(window.since, window.changed_since) - LONGEST_PERIOD
    requests = []
    while start < window.until:
        end = min(start + LONGEST_PERIOD, window.until)
        params = {"start_at_min": format_time(start), "start_at_max": format_time(end), "limit": "100"}
        requests.append(ListRequest(RecordRequest("bookings", params=params), context))
        start = end
    return requests


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of bookings and request their customers, or read the customers of bookings."""
    if "bookings" in request.context:
        return ListedPage(read_records(Payload(request.context["bookings"]), lambda each: [_listed(each, response)]))
    since, changed_since = (datetime.fromisoformat(request.context[name]) for name in ("since", "changed_since"))
    with_customers = list[Payload]()

    def read(booking: Payload) -> Iterator[ListedRecord]:
        if booking.at("start_at").required_time() < since and _updated_at(booking) < changed_since:
            return
        if _needs_customer(booking):
            with_customers.append(booking)
        else:
            yield _listed(booking, response)

    records, page = read_records(response.at("bookings"), read), _next_page(request.request, response)
    next_page = [replace(request, request=page)] if page else []
    return ListedPage(records, [*_customer_requests(with_customers), *next_page])


def _needs_customer(booking: Payload) -> bool:
    return booking.at("status").text() == "ACCEPTED" and _customer_id(booking) is not None


def _customer_requests(bookings: Sequence[Payload]) -> Iterator[ListRequest]:
    for first in range(0, len(bookings), MAX_CUSTOMERS):
        batch = bookings[first : first + MAX_CUSTOMERS]
        ids = sorted({_customer_id(booking) or "" for booking in batch})
        request = RecordRequest("customers/bulk-retrieve", json={"customer_ids": ids})
        yield ListRequest(request, {"bookings": [_translated_fields(booking) for booking in batch]})


def _translated_fields(booking: Payload) -> dict[str, object]:
    names = ("id", "version", "status", "start_at", "updated_at", "customer_id")
    return {name: booking.at(name).value for name in names}


def _listed(booking: Payload, response: ApiResponse) -> ListedRecord:
    """Return the event about a booking.

    An accepted one may create a visit; a request that never changed creates none.
    """
    id, status = booking.at("id").required_text(), booking.at("status").text()
    is_new = status == "ACCEPTED" or booking.at("version").value == 0
    body = {
        "type": "booking.created" if is_new else "booking.updated",
        "data": {"type": "booking", "id": id, "object": {"booking": booking.value}},
    }
    customer_id = _customer_id(booking)
    if not customer_id or not _needs_customer(booking):
        return ListedRecord(id, body)
    customer = response.at("responses", customer_id)
    record = customer.value if customer.at("customer") else None
    return ListedRecord(id, body, record, path=f"customers/{customer_id}")


LISTING = Listing(
    docs="https://developer.squareup.com/reference/square/bookings-api/list-bookings",
    evidence="second-hand",
    start=_list_bookings,
    read_page=_read_listed,
    look_back=LONGEST_PERIOD,
)
