"""Boulevard: appointments of salons and med-spas, and the orders that paid for them.

The vendor's documentation, https://developers.joinblvd.com, was not available. Second-hand, from integrators who agree:
the signature (the key is the bytes that the secret encodes; the salt ends in the signed time), the envelope,
`idempotencyKey`, the meaning of responses (429 does not count as a failure, and 410 ends the subscription permanently),
and how a request to the API is signed. They do not agree on which of `event` and `eventType` is the name, nor on its
spelling, so both are read; the headers that repeat it are not signed, so they are not read. `data.node` is the
appointment or the order. Missing fields are fetched: an appointment's start and its client, an order's lines and its
total. In an order, a group of lines for an appointment has that appointment's id, and `summary.currentTotal` is the
amount collected, in cents.

An order's summary also has `initialTotal` and `refundAmount`: these names imply that `currentTotal` is the amount after
refunds. The node of `order_refund.closed` may be the order, or an OrderRefund, as the schema suggests
(`order.refunds { id orderId }`): then the order of that `orderId` is fetched. A refund that names no order, or an order
that the API does not have, is parked, because otherwise the amount would stay too high, and nobody would notice.

The API answers errors with status 200 and their code in `errors[].code` (the vendor's own tests). Only NOT_FOUND, or a
response without errors, means that there is no such record. A rejected token and a rate limit are retried, and any
other error is parked. In a payload recorded in 2022, a client has a `name` and no `firstName`.

From memory: the states (FINAL is completion), and NO_SHOW as a cancellation's reason. A completion has no time, so it
gets the time of the first event that shows it. An appointment that is cancelled and booked again gets a new id, and
nothing links the two ids.

Subscriptions, second-hand from the code of integrators, one of which serves a real group of salons: `createWebhook`
with a name, a URL and the types of events; `webhooks` lists those of the application, with `enabled` for each type. Not
confirmed: whether a webhook must name a location (one integrator always does), and that all types here exist. If
Boulevard refuses the subscription, a person adds the webhook by hand. It is not known which flag shows that Boulevard
disabled a webhook; the flags of its types are read. Lists, second-hand: they contain the appointments of one location
by start or by creation, including cancelled ones, without the time of the last change. So a change of an appointment
outside the window is not found. A listed appointment has no time of its own, so it counts as newer than every earlier
event. An order counts only after it was closed.
"""

import base64
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from app.visits.change import UNSET, Action, Contact, VisitChange, format_time, unix_microseconds
from app.webhooks import (
    RECORD_GONE,
    SECONDS_AFTER_LAST_COLON,
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
    Untranslatable,
    Window,
    base64_key,
    graphql_record,
    read_records,
)

SETUP = """
1. In Boulevard (Enterprise plan), open Settings, Developers, and create an application for the Admin API. Set its
   secret as HOOKS__BOULEVARD__SECRETS and HOOKS__BOULEVARD__CREDENTIALS__API_SECRET, its key as …__API_KEY and your
   business's id (the part after `urn:blvd:Business:`) as …__BUSINESS_ID.
2. Under Webhooks, add {url}, and select all events of appointments, ORDER_COMPLETED and ORDER_REFUND_CLOSED. Boulevard
   tests the URL with a PING.
3. For the sandbox, set HOOKS__BOULEVARD__API_URL to https://sandbox.joinblvd.com/api/2020-01/admin.
4. If several businesses use this URL, set HOOKS__BOULEVARD__TENANTS to the full `businessId` of yours.
5. `doorbell connect boulevard` does step 2 with the credentials of step 1, and imports the upcoming appointments.

An order for several appointments gives none of their visits an amount. Boulevard does not send opt-outs. If Boulevard
disables the webhook (after eight hours of failures), do step 2 again.
"""


@dataclass(frozen=True, slots=True)
class SignedBasicAuth:
    """HTTP Basic. The password is a token that is signed separately for each request."""

    names: tuple[str, ...] = ("API_KEY", "API_SECRET", "BUSINESS_ID")

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        token_text = f"blvd-admin-v1{credentials['BUSINESS_ID']}{int(now)}"
        digest = hmac.digest(_key(credentials["API_SECRET"]), token_text.encode(), "sha256")
        pair = f"{credentials['API_KEY']}:{base64.b64encode(digest).decode()}{token_text}"
        return RequestAuth({"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})


def _key(secret: str) -> bytes:
    """Return the key of a secret. Boulevard rejects the signature if the secret is not base64."""
    try:
        return base64_key(secret)
    except ValueError:
        return secret.encode()


SOURCE = Source(
    title="Boulevard",
    docs="https://developers.joinblvd.com",
    credential_help={
        "API_KEY": ("API key", "In Boulevard: Settings, Developers. Create an application for the Admin API."),
        "API_SECRET": ("API secret", "In the same place, next to the key."),
        "BUSINESS_ID": ("Business ID", "The part of your business's id after urn:blvd:Business:"),
    },
    evidence="none",
    retries="yes",
    signature=Hmac(
        header="x-blvd-hmac-sha256",
        timestamp_header="x-blvd-hmac-salt",
        timestamp_format=SECONDS_AFTER_LAST_COLON,
        signs="{t}:{body}",
        encoding="base64",
        key=base64_key,
    ),
    setup=SETUP,
    event_name_path=("event",),
    repeat_key=lambda event: event.data.at("idempotencyKey").text(),
    tenant_of=lambda event: event.data.at("businessId").text(),
    unavailable_status=429,
    api_url="https://dashboard.boulevard.io/api/2020-01/admin",
    credentials=SignedBasicAuth(),
)

APPOINTMENT: dict[str, Action] = {
    "APPOINTMENT_CREATED": "create",
    "APPOINTMENT_UPDATED": "update",
    "APPOINTMENT_RESCHEDULED": "update",
    "APPOINTMENT_CONFIRMED": "update",
    "APPOINTMENT_ARRIVED": "update",
    "APPOINTMENT_ACTIVE": "update",
    "APPOINTMENT_COMPLETED": "update",
    "APPOINTMENT_CANCELLED": "cancel",
    "APPOINTMENT_CANCELED": "cancel",
}
REFUND = "ORDER_REFUND_CLOSED"
ORDER = {"ORDER_COMPLETED", REFUND}
OPEN, CANCELLED = {"BOOKED", "CONFIRMED", "ARRIVED", "ACTIVE"}, {"CANCELLED", "CANCELED", "NO_SHOW"}
QUERIES = {
    "appointment": """
query ($id: ID!) {
  appointment(id: $id) { id startAt client { id firstName lastName email mobilePhone } }
}""",
    "order": """
query ($id: ID!) {
  order(id: $id) { id summary { currentTotal } lineGroups { __typename ... on OrderAppointmentLineGroup { id } } }
}""",
}


def fetch(event: Event) -> list[RecordRequest]:
    """Fetch an appointment without start or customer unless it is cancelled. Fetch an order without lines or total."""
    kind, node = _kind(event), _node(event)
    if kind in ORDER:
        order = _order_in_event(event)
        is_complete = order.at("lineGroups") and order.at("summary", "currentTotal")
        return [] if is_complete else [_get("order", _order_urn(event))]
    if kind not in APPOINTMENT or _status(kind, node) in ("cancelled", "missed"):
        return []
    return [] if node.at("startAt") and node.at("client", "email").text() else [_get("appointment", _urn(event))]


def _get(name: str, urn: Payload) -> RecordRequest:
    id = _id(urn)
    return RecordRequest(f"{name}/{id}", QUERIES[name], {"id": f"urn:blvd:{name.title()}:{id}"})


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = _kind(event)
    if kind in ORDER:
        return _order(event)
    return _appointment(event, kind) if kind in APPOINTMENT else Ignored(kind)


def _appointment(event: Event, kind: str) -> list[VisitChange] | Ignored:
    node, happened_at, status = _node(event), _happened_at(event), _status(kind, _node(event))
    record = graphql_record(event.record, "appointment", SOURCE.title) or Payload(None)
    start, is_cancellation = node.at("startAt").time() or record.at("startAt").time(), status in ("cancelled", "missed")
    if start is None and kind in ("APPOINTMENT_CREATED", "APPOINTMENT_RESCHEDULED") and not is_cancellation:
        return RECORD_GONE
    ended_at = node.at("cancellation", "cancelledAt").time() or happened_at
    otherwise = UNSET if status is None else None
    return [
        VisitChange(
            action="cancel" if is_cancellation else APPOINTMENT[kind],
            visit_id=_id(_urn(event)),
            version=unix_microseconds(happened_at),
            contact=_contact(record.at("client") or node.at("client")),
            time_scheduled=start or UNSET,
            time_completed=happened_at if status == "done" else UNSET if status == "not_cancelled" else otherwise,
            date_cancelled=ended_at if status == "cancelled" else otherwise,
            no_show=ended_at if status == "missed" else otherwise,
            times_are_observed=True,
        )
    ]


def _order(event: Event) -> list[VisitChange] | Ignored:
    node = graphql_record(event.record, "order", SOURCE.title) if event.fetched_at else _order_in_event(event)
    if not node and _kind(event) == REFUND:
        raise Untranslatable("Boulevard has no order with the id that the refund names")
    if not node:
        return RECORD_GONE
    visits = list(dict.fromkeys(_id(group.at("id")) for group in node.at("lineGroups") if _is_appointment_group(group)))
    if len(visits) != 1:
        return Ignored(f"an order of {'several appointments' if visits else 'no appointment'}")
    total = node.at("summary", "currentTotal")
    if total.amount(100) is None:
        raise total.unexpected("an amount in cents")
    return [
        VisitChange(
            action="update",
            visit_id=visits[0],
            version=unix_microseconds(_happened_at(event)),
            observed_at_us=unix_microseconds(event.fetched_at) if event.fetched_at else 0,
            payment_id=_id(_order_urn(event)),
            amount_collected=total.amount(100),
        )
    ]


def _kind(event: Event) -> str:
    """Return the event's name: `APPOINTMENT_CREATED` for `appointment.created`.

    The other field may only have `appointment`.
    """
    event_names = [event.data.at(name).text() for name in ("eventType", "event")]
    names = [name.upper().replace(".", "_") for name in event_names if name]
    supported = next((name for name in names if name in APPOINTMENT or name in ORDER), None)
    return supported or (max(names, key=len) if names else event.data.at("event").required_text())


def _happened_at(event: Event) -> datetime:
    return event.data.at("timestamp").required_time()


def _node(event: Event) -> Payload:
    return event.data.at("data", "node")


def _urn(event: Event) -> Payload:
    return _node(event).at("id") or event.data.at("resource", "id") or event.data.at("resourceId")


def _order_in_event(event: Event) -> Payload:
    """Return the order in the event; an empty payload if the node is a refund."""
    node = _node(event)
    return Payload(None) if _kind(event) == REFUND and not _is_order(node.at("id")) else node


def _order_urn(event: Event) -> Payload:
    urn = _urn(event)
    if _kind(event) == REFUND and not _is_order(urn):
        urn = _node(event).at("orderId") or _node(event).at("order", "id")
        if not urn:
            raise Untranslatable("the refund does not name its order")
    return urn


def _is_order(urn: Payload) -> bool:
    return ":Order:" in (urn.text() or "")


def _id(urn: Payload) -> str:
    """Return the last part of `urn:blvd:Appointment:…`, because orders have only that part of an appointment's id."""
    id = urn.required_text().rpartition(":")[2]
    if not re.fullmatch("[A-Za-z0-9_-]{1,100}", id):
        raise urn.unexpected("an id")
    return id


def _status(kind: str, node: Payload) -> Literal["open", "not_cancelled", "done", "cancelled", "missed"] | None:
    """Return `not_cancelled` if the appointment may be open or done; None for an update without any status."""
    state, is_cancelled = (node.at("state").text() or "").upper(), node.at("cancelled").boolean()
    if state and state not in OPEN | CANCELLED | {"FINAL"}:
        raise node.at("state").unexpected("a state that appointments have")
    if APPOINTMENT[kind] == "cancel" or is_cancelled or state in CANCELLED:
        reason = (node.at("cancellation", "reason").text() or state).upper()
        return "missed" if reason.replace("_", "").replace(" ", "") == "NOSHOW" else "cancelled"
    if kind == "APPOINTMENT_COMPLETED" or state == "FINAL":
        return "done"
    if state or kind != "APPOINTMENT_UPDATED":
        return "open"
    return None if is_cancelled is None else "not_cancelled"


def _is_appointment_group(group: Payload) -> bool:
    urn = f"{group.at('__typename').value} {group.at('id').value}"
    return "OrderAppointmentLineGroup" in urn or "urn:blvd:Appointment:" in urn


def _contact(client: Payload) -> Contact | None:
    if not client:
        return None
    first_name, last_name = client.at("firstName").text(), client.at("lastName").text()
    if not (first_name or last_name):
        before, _, after = (client.at("name").text() or "").rpartition(" ")
        first_name, last_name = before or after or None, after if before else None
    return Contact(
        email=client.at("email").text(),
        first_name=first_name,
        last_name=last_name,
        phone=client.at("mobilePhone").text(),
    )


# -- the API --

EVENTS = (
    "APPOINTMENT_CREATED",
    "APPOINTMENT_UPDATED",
    "APPOINTMENT_RESCHEDULED",
    "APPOINTMENT_CONFIRMED",
    "APPOINTMENT_ARRIVED",
    "APPOINTMENT_ACTIVE",
    "APPOINTMENT_COMPLETED",
    "APPOINTMENT_CANCELLED",
    "ORDER_COMPLETED",
    REFUND,
)
ACCOUNT = "query { business { id name } locations(first: 100) { edges { node { id name } } } }"
WEBHOOK = "id name url subscriptions { id eventType enabled }"
CREATE = "mutation ($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { " + WEBHOOK + " } } }"
DELETE = "mutation ($input: DeleteWebhookInput!) { deleteWebhook(input: $input) { webhook { id } } }"
WEBHOOKS = (
    "query ($first: Int!, $after: String) { webhooks(first: $first, after: $after) { edges { node { "
    + WEBHOOK
    + " } } pageInfo { hasNextPage endCursor } } }"
)


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    subscriptions = [{"eventType": event} for event in events]
    webhook = {"name": f"Doorbell {target.hook}", "url": target.url, "subscriptions": subscriptions}
    return RecordRequest("createWebhook", CREATE, {"input": webhook})


def _read_created(response: Payload) -> SubscriptionState:
    webhook = response.at("data", "createWebhook", "webhook")
    if not webhook:
        raise _refused(response)
    return _read_webhook(webhook)


def _read_webhooks(request: RecordRequest, response: ApiResponse) -> SubscriptionPage:
    page = _connection(response, "webhooks")
    webhooks = [_read_webhook(edge.at("node")) for edge in page.at("edges")]
    return SubscriptionPage(webhooks, _next_request(request, page))


def _read_webhook(webhook: Payload) -> SubscriptionState:
    subscriptions = list(webhook.at("subscriptions"))
    return SubscriptionState(
        id=webhook.at("id").required_text(),
        url=webhook.at("url").required_text(),
        events=frozenset(each.at("eventType").required_text() for each in subscriptions),
        is_active=all(each.at("enabled").boolean() is not False for each in subscriptions),
    )


def _connection(response: Payload, name: str) -> Payload:
    page = response.at("data", name)
    if not page:
        raise _refused(response)
    return page


def _next_request(request: RecordRequest, page: Payload) -> RecordRequest | None:
    if not page.at("pageInfo", "hasNextPage").boolean():
        return None
    return replace(request, variables={**request.variables, "after": page.at("pageInfo", "endCursor").required_text()})


def _check_account(account: Payload) -> None:
    if not account.at("data", "business", "id") or not account.at("data", "locations"):
        raise _refused(account)


def _refused(response: Payload) -> Refused:
    errors = response.at("errors").value
    message = Payload(errors[0]).at("message").value if isinstance(errors, list) and errors else None
    if not isinstance(message, str) or not message:
        return Refused("Boulevard answered without data and without an error.")
    return Refused(f"Boulevard refuses the application: {message.rstrip('.')}.")


SUBSCRIPTION = Subscription(
    docs="https://developers.joinblvd.com",
    evidence="second-hand",
    groups=(EVENTS,),
    account=RecordRequest("business", ACCOUNT),
    account_name=lambda account: account.at("data", "business", "name").text() or "",
    check_account=_check_account,
    create=_subscribe,
    read_created=_read_created,
    list=lambda _: RecordRequest("webhooks", WEBHOOKS, {"first": 100, "after": None}),
    read_list=_read_webhooks,
    delete=lambda id, _: RecordRequest("deleteWebhook", DELETE, {"input": {"id": id}}),
    secret_from="credential",
    secret_credential="API_SECRET",
    is_by_hand_if_refused=True,
)

APPOINTMENTS = """
query ($location: ID!, $query: QueryString, $first: Int!, $after: String) {
  appointments(locationId: $location, query: $query, first: $first, after: $after) {
    edges {
      node {
        id startAt endAt state cancelled orderId cancellation { cancelledAt reason }
        client { id firstName lastName email mobilePhone }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}"""
LISTED_ORDER = """
query ($id: ID!) {
  order(id: $id) {
    id closedAt summary { currentTotal } lineGroups { __typename ... on OrderAppointmentLineGroup { id } }
  }
}"""


def _list_appointments(window: Window, account: Payload) -> Iterator[ListRequest]:
    """Yield the lists of each location: appointments in the window, and new ones after it."""
    context = {"business": account.at("data", "business", "id").text()}
    queries = [f"startAt >= '{format_time(window.since)}' AND startAt < '{format_time(window.until)}'"]
    if window.changed_since:
        created = f"createdAt >= '{format_time(window.changed_since)}'"
        queries.append(f"{created} AND startAt >= '{format_time(window.until)}'")
    for edge in account.at("data", "locations", "edges"):
        location = edge.at("node", "id").required_text()
        for query in queries:
            variables = {"location": location, "query": query, "first": 50, "after": None}
            yield ListRequest(RecordRequest("appointments", APPOINTMENTS, variables), context)


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of appointments, or the order of an appointment that has begun."""
    if request.request.path.startswith("order/"):
        order = graphql_record(response, "order", SOURCE.title)
        return ListedPage(read_records([order] if order else [], lambda each: _closed_order(each, request, response)))
    page = _connection(response, "appointments")
    orders: list[ListRequest] = []

    def read(edge: Payload) -> list[ListedRecord]:
        node = edge.at("node")
        if _may_be_paid(node, response):
            orders.append(ListRequest(_order_request(node), request.context))
        return [_listed(node, "APPOINTMENT_UPDATED", request, response)]

    records, following = read_records(page.at("edges"), read), _next_request(request.request, page)
    return ListedPage(records, [*orders, *([replace(request, request=following)] if following else [])])


def _closed_order(order: Payload, request: ListRequest, response: ApiResponse) -> list[ListedRecord]:
    return [_listed(order, "ORDER_COMPLETED", request, response)] if order.at("closedAt").time() else []


def _may_be_paid(node: Payload, response: ApiResponse) -> bool:
    start = node.at("startAt").time()
    has_begun = start is not None and start <= response.requested_at
    return has_begun and bool(node.at("orderId").text()) and not node.at("cancelled").boolean()


def _order_request(node: Payload) -> RecordRequest:
    id = _id(node.at("orderId"))
    return RecordRequest(f"order/{id}", LISTED_ORDER, {"id": f"urn:blvd:Order:{id}"})


def _listed(node: Payload, event: str, request: ListRequest, response: ApiResponse) -> ListedRecord:
    body: dict[str, Any] = {
        "businessId": request.context["business"],
        "eventType": event,
        "timestamp": response.requested_at.isoformat(),
        "data": {"node": node.value},
    }
    return ListedRecord(node.at("id").required_text(), body)


LISTING = Listing(
    docs="https://developers.joinblvd.com",
    evidence="second-hand",
    start=lambda window, account: list(_list_appointments(window, account)),
    read_page=_read_listed,
    calls_per_s=3.0,
)
