"""Jobber: visits, and the payments of their invoices. Thin: an event refers to a record, which is fetched with GraphQL.

From https://developer.getjobber.com/docs/using_jobbers_api/setting_up_webhooks: the envelope; the signature; Jobber
waits one second for a response; apps created before 2023-12-08 send `occuredAt`, and apps created before 2022-04-11
send forms. The format of such a form is not published: `data[webHookEvent][topic]=…`, or `data` with JSON in it, are
guesses. Second-hand, from printed GraphQL schemas and integrators' queries: every queried field, including
`invoice.visits`, `job.visits`, `paymentRecord.invoice` and `paymentRecord.allocations`. Observed or documented there:

- `itemId` is opaque (base64 of `gid://Jobber/Visit/…`), and is the record's `id`; it does not change when a visit moves.
- A visit has no `updatedAt`: the fetched visit is the current state, so the time of the fetch orders the changes. A
  destroyed visit is no longer in the API, and never comes back. There are no cancellations and no no-shows: users
  destroy the visit.
- VISIT_CREATE: "when multiple visits are created in a recurring schedule, only the first visit will notify" (the
  schema). So the job's other visits are fetched with it: those that are not complete and begin after the event. Earlier
  visits may be older than this connection, and get no review request. The response has the last 100 visits, and a
  second query fetches the 100 before them if those are in the future, too. By our estimate, this costs less than 1,000
  of the 10,000 points that a query may cost. VISIT_UPDATE and VISIT_DESTROY have no such exception in the schema; this
  is not confirmed for a job that is deleted or closed. If the first visit is deleted before it is fetched, the others
  are unknown until they change.
- `paymentsTotal` is the amount that an invoice collected. Visits that share an invoice have no amount: the share of
  each visit is unknown, and the total would count once for each visit. A visit without an invoice may be paid through
  its job, or by a deposit, so its amount is not changed. A query fetches 40 visits of an invoice.
- `receivesReviewRequests` is the client's own setting, and `false` is an opt-out here, although some integrations clear
  it for every client that they create: a client who declined must not get a request. `allowReviewRequest` of a job or an
  invoice only controls Jobber's own message, so it is not queried.
- A visit that takes a whole day (`allDay`) starts at midnight, so its scheduled time is its end.
- Apps for many accounts get all of their events at one URL; the token gives access to one account, whose `accountId`
  must be in the setting TENANTS.
- A wrong token and a missing scope may be answered with status 200 and `errors` or `message`.

Subscriptions, second-hand from the schema and an integrator's code: an endpoint has one topic and one URL, cannot be
changed, and is signed with the app's client secret. The API does not list endpoints, and none of their fields says that
one is disabled, so Doorbell stores their ids. Jobber seems to refuse a second endpoint with the same topic and URL.
After such a refusal, an endpoint exists, but its id is unknown, and it cannot be deleted.

Lists: a visit has no `updatedAt`, so visits are listed by their start, by their completion, and through the invoices
that changed. It is possible that a payment does not change its invoice. A destroyed visit is in no list, so the
upcoming visits that Doorbell has are requested by their ids, and a missing one was destroyed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
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
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    graphql_record,
    read_records,
    refresh_token_exchange,
)

SETUP = """
1. In Jobber's Developer Center, create an app with read access to clients, jobs, scheduled items, invoices and Jobber
   Payments; connect it to your account. Each account needs its own app: a token gives access to one account.
2. Set the app's OAuth client secret as HOOKS__JOBBER__SECRETS. The app's access tokens last one hour; Doorbell renews
   them with HOOKS__JOBBER__CREDENTIALS__CLIENT_ID, …__CLIENT_SECRET and …__REFRESH_TOKEN (from connecting the app). Set
   SECRET_KEY, too: it encrypts the refresh tokens that replace the first one.
3. In the app, under Webhooks, add {url} for each of VISIT_CREATE, VISIT_UPDATE, VISIT_COMPLETE and VISIT_DESTROY.
4. For payments, add INVOICE_CREATE, INVOICE_UPDATE, PAYMENT_CREATE and PAYMENT_UPDATE in the same way: customers
   usually pay after the visit. INVOICE_UPDATE reports deleted payments. Visits that share an invoice have no amounts,
   because the invoice does not show the amount of each visit.
5. Instead of steps 3 and 4, `doorbell connect jobber` creates these webhooks with the credentials of step 2.

Jobber reports only the first visit of a recurring job; Doorbell fetches the others with it, up to 200. In a longer
series, the first visits may be missing until they are changed or completed. Jobber should report each deleted visit:
test this once with a recurring job that you delete, and check that all of its visits are cancelled here. Clients who
declined review requests get none: see "review requests" in a client's communication settings, which some integrations
turn off for each client that they create. Jobber sends no no-shows; delete a visit that will not happen. A visit without
a schedule waits for one, and needs attention after a day.
"""

SOURCE = Source(
    title="Jobber",
    is_common=True,
    docs="https://developer.getjobber.com/docs/using_jobbers_api/setting_up_webhooks",
    credential_help={
        "CLIENT_ID": ("Client ID", "In Jobber's Developer Center: your app."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you connect the app to your account."),
    },
    signature=Hmac(header="X-Jobber-Hmac-SHA256", encoding="base64"),
    setup=SETUP,
    evidence="second-hand",
    body_format="json or form",
    event_name_path=("data", "webHookEvent", "topic"),
    events_may_collide=True,  # times are whole seconds, and the body has nothing else that changes
    sender_timeout_s=0.8,
    api_url="https://api.getjobber.com/api/graphql",
    credentials=BearerAuth("TOKEN"),
    token_exchange=refresh_token_exchange("https://api.getjobber.com/api/oauth/token"),
    tenant_of=lambda event: _message(event.data).at("accountId").text(),
    api_headers={"X-JOBBER-GRAPHQL-VERSION": "2026-04-16"},
)

#: The record to fetch for a topic, and the action for its visits.
FETCHED: dict[str, tuple[str, Action]] = {
    "VISIT_CREATE": ("visit", "create"),
    "VISIT_UPDATE": ("visit", "update"),
    "VISIT_COMPLETE": ("visit", "update"),
    "INVOICE_CREATE": ("invoice", "update"),
    "INVOICE_UPDATE": ("invoice", "update"),
    "PAYMENT_CREATE": ("paymentRecord", "update"),
    "PAYMENT_UPDATE": ("paymentRecord", "update"),
}

TIMES = " fragment Times on Visit { id startAt endAt allDay completedAt isComplete }"
VISIT = (
    """
fragment Fields on Visit {
  ...Times
  client {
    name firstName lastName isCompany receivesReviewRequests
    emails { address primary } phones { number primary }
  }
  invoice { amounts { paymentsTotal } visits(first: 2) { nodes { id } } }
}"""
    + TIMES
)
SERIES = "visits(last: 100%s) { nodes { ...Times } pageInfo { hasPreviousPage startCursor } }"
NEW_VISIT = "query ($id: EncodedId!) { visit(id: $id) { ...Fields job { id " + SERIES % "" + " } } }" + VISIT
EARLIER = "query ($id: EncodedId!, $before: String!) { job(id: $id) { " + SERIES % ", before: $before" + " } }" + TIMES
QUERIES = {
    "visit": "query ($id: EncodedId!) { visit(id: $id) { ...Fields } }" + VISIT,
    "invoice": "query ($id: EncodedId!) { invoice(id: $id) { visits(first: 40) { nodes { ...Fields } } } }" + VISIT,
    "paymentRecord": """
query ($id: EncodedId!) {
  paymentRecord(id: $id) {
    invoice { ...Billed }
    allocations(first: 3) { nodes { ... on InvoicePaymentRecordAllocation { invoice { ...Billed } } } }
  }
}
fragment Billed on Invoice { visits(first: 40) { nodes { ...Fields } } }"""
    + VISIT,
}


def fetch(event: Event) -> list[RecordRequest]:
    message = _message(event.data)
    name, _ = FETCHED.get(message.at("topic").required_text(), (None, None))
    if name is None:
        return []
    item, is_new = message.at("itemId"), message.at("topic").text() == "VISIT_CREATE"
    path, variables = f"{name}/{_url_safe_id(item)}", {"id": item.required_text()}
    if is_new:
        return [RecordRequest(path, NEW_VISIT, variables, follow_up=partial(_earlier_page, _since(event)))]
    return [RecordRequest(path, QUERIES[name], variables)]


def _earlier_page(since: datetime, response: Payload) -> dict[str, RecordRequest]:
    """Fetch the page before the last one, unless the last page begins at the time of the event or earlier."""
    job = response.at("data", "visit", "job")
    page, cursor = list(job.at("visits", "nodes")), job.at("visits", "pageInfo", "startCursor")
    if not page or not cursor.text() or job.at("visits", "pageInfo", "hasPreviousPage").value is not True:
        return {}
    starts_at = page[0].at("startAt").time()
    if starts_at and starts_at <= since:
        return {}
    variables = {"id": job.at("id").required_text(), "before": cursor.required_text()}
    return {"earlier": RecordRequest(f"job/{_url_safe_id(job.at('id'))}", EARLIER, variables)}


def translate(event: Event) -> list[VisitChange] | Ignored:
    message = _message(event.data)
    topic = message.at("topic").required_text()
    if topic == "VISIT_DESTROY":
        return [_destroyed(event, message)]
    if topic not in FETCHED:
        return Ignored(topic)
    if event.fetched_at is None:
        raise Untranslatable("the record that this event refers to was not fetched")
    name, action = FETCHED[topic]
    record, version = graphql_record(event.record, name, SOURCE.title), unix_microseconds(event.fetched_at)
    if record is None:
        return RECORD_GONE
    if name == "visit":
        visit = _visit(record, action, _url_safe_id(message.at("itemId")), version)
        return [visit, *_later_visits(event, visit)] if action == "create" else [visit]
    visit_lists = [list(invoice.at("visits", "nodes")) for invoice in _invoices(record, name)]
    visits = {_url_safe_id(visit.at("id")): (visit, len(visits) > 1) for visits in visit_lists for visit in visits}
    changes = [_visit(visit, action, id, version, is_shared) for id, (visit, is_shared) in visits.items()]
    return changes or Ignored(topic)


def _message(data: Payload) -> Payload:
    """Return the event inside the body, which is JSON, or a form in one of two formats."""
    wrapper = data.at("data")
    if isinstance(wrapper.value, str):
        wrapper = wrapper.parse_embedded_json()
        wrapper = wrapper.at("data") or wrapper
    if isinstance(data.value, dict) and not wrapper:
        names = ("topic", "itemId", "occurredAt", "occuredAt")
        return Payload({name: data.at(f"data[webHookEvent][{name}]").value for name in names}, "data.webHookEvent")
    return wrapper.at("webHookEvent")


def _url_safe_id(item: Payload) -> str:
    """Return the id in URL-safe base64, as part of an external_id."""
    if not _BASE64.fullmatch(item.required_text()):
        raise item.unexpected("base64")
    return item.required_text().rstrip("=").replace("+", "-").replace("/", "_")


_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def _destroyed(event: Event, message: Payload) -> VisitChange:
    return VisitChange(
        action="cancel",
        visit_id=_url_safe_id(message.at("itemId")),
        version=unix_microseconds(event.received_at),
        date_cancelled=message.at("occurredAt").time() or message.at("occuredAt").required_time(),
    )


def _invoices(record: Payload, name: str) -> list[Payload]:
    if name == "invoice":
        return [record]
    return [record.at("invoice"), *(part.at("invoice") for part in record.at("allocations", "nodes"))]


def _since(event: Event) -> datetime:
    """Return the time of the event: visits that begin later were in the future at that time."""
    message = _message(event.data)
    return message.at("occurredAt").time() or message.at("occuredAt").time() or event.received_at


def _later_visits(event: Event, first: VisitChange) -> list[VisitChange]:
    """Return changes for the job's later visits: Jobber reports only the first visit of a recurring schedule."""
    job, earlier = (
        event.record.at("data", "visit", "job") if event.record else Payload(None),
        event.related.get("earlier"),
    )
    pages = [job, graphql_record(earlier, "job", SOURCE.title) or Payload(None)]
    visits = {_url_safe_id(visit.at("id")): visit for page in pages for visit in page.at("visits", "nodes")}
    return [
        replace(
            first,
            visit_id=visit_id,
            time_scheduled=_scheduled(visit),
            time_completed=None,
            amount_collected=UNSET,
        )
        for visit_id, visit in visits.items()
        if visit_id != first.visit_id and _is_later(visit, _since(event))
    ]


def _is_later(visit: Payload, since: datetime) -> bool:
    starts_at = visit.at("startAt").time()
    return bool(starts_at and starts_at > since) and visit.at("isComplete").boolean() is not True


def _scheduled(visit: Payload) -> datetime | None:
    ends_at = visit.at("endAt").time() if visit.at("allDay").boolean() else None
    return ends_at or visit.at("startAt").time()


def _visit(visit: Payload, action: Action, visit_id: str, version: int, is_shared: bool = False) -> VisitChange:
    """Return the change for a visit. is_shared: its invoice is for several visits."""
    if not isinstance(visit.value, dict):
        raise visit.unexpected("a visit")
    client, invoice = visit.at("client"), visit.at("invoice")
    is_complete, paid = visit.at("isComplete").boolean(), invoice.at("amounts", "paymentsTotal").amount()
    is_shared = is_shared or len(list(invoice.at("visits", "nodes"))) > 1
    return VisitChange(
        action=action,
        visit_id=visit_id,
        version=version,
        contact=_contact(client),
        time_scheduled=_scheduled(visit),
        time_completed=visit.at("completedAt").time() or UNSET if is_complete is not False else None,
        amount_collected=UNSET if paid is None or paid < 0 else None if is_shared else paid or None,
        opted_out=_opted_out(client),
    )


def _opted_out(client: Payload) -> bool | Unset:
    flag = client.at("receivesReviewRequests").boolean()
    return UNSET if flag is None else not flag


def _contact(client: Payload) -> Contact:
    first_name, last_name = client.at("firstName").text(), client.at("lastName").text()
    if not (first_name or last_name or client.at("isCompany").boolean()):
        before, _, after = (client.at("name").text() or "").rpartition(" ")
        first_name, last_name = before or after, after if before else None
    return Contact(
        email=_primary(client.at("emails"), "address"),
        first_name=first_name,
        last_name=last_name,
        phone=_primary(client.at("phones"), "number"),
    )


def _primary(items: Payload, name: str) -> str | None:
    """Return this field of the primary item, else of the first item."""
    candidates = [item for item in items if item.at(name).text()]
    preferred = [item for item in candidates if item.at("primary").value is True] or candidates
    return preferred[0].at(name).text() if preferred else None


# -- the API: https://developer.getjobber.com/docs --

CREATE_WEBHOOK = """
mutation ($topic: WebHookTopicEnum!, $url: String!) {
  webhookEndpointCreate(input: { topic: $topic, url: $url }) {
    webhookEndpoint { id topic url } userErrors { message path }
  }
}"""
DELETE_WEBHOOK = """
mutation ($ids: [EncodedId!]!) {
  webhookEndpointDelete(webhookEndpointsIds: $ids) { deletedWebhookEndpoints { id } userErrors { message path } }
}"""
#: Stands for the id of an endpoint that exists, but whose id Jobber does not return.
UNKNOWN_ID = "unknown"


def _subscribe(target: Target, _: Payload, events: Sequence[str]) -> RecordRequest:
    return RecordRequest("webhookEndpointCreate", CREATE_WEBHOOK, {"topic": events[0], "url": target.url})


def _read_created(response: Payload) -> SubscriptionState:
    created = response.at("data", "webhookEndpointCreate")
    if endpoint := created.at("webhookEndpoint"):
        events = frozenset((endpoint.at("topic").required_text(),))
        return SubscriptionState(endpoint.at("id").required_text(), endpoint.at("url").required_text(), events)
    messages = [error.at("message").text() or "" for error in created.at("userErrors")]
    if any(re.search(r"already|taken|exist|unique|duplicate", message, re.IGNORECASE) for message in messages):
        return SubscriptionState(UNKNOWN_ID, "")
    if messages:
        raise Refused(f"Jobber refuses the webhook: {messages[0].rstrip('.')}.")
    raise _refused(response)


def _unsubscribe(id: str, _: Payload) -> RecordRequest | None:
    return None if id == UNKNOWN_ID else RecordRequest("webhookEndpointDelete", DELETE_WEBHOOK, {"ids": [id]})


def _check_account(account: Payload) -> None:
    if not account.at("data", "account", "id"):
        raise _refused(account)


def _refused(response: Payload) -> Refused | Untranslatable:
    """Return the refusal in a response with status 200, which has three forms; or that Jobber is unavailable."""
    errors = response.at("errors").value
    first = Payload(errors[0]) if isinstance(errors, list) and errors else response
    message = first.at("message").value or response.at("error", "message").value
    if not isinstance(message, str) or not message:
        return Refused("Jobber answered without data and without an error.")
    if "temporarily unavailable" in message:
        return Untranslatable("Jobber is temporarily unavailable")
    if "hidden due to permissions" in message:
        return Refused(
            "Jobber hides this data: the app needs the scopes to read clients, jobs, scheduled items, invoices and Jobber"
            " Payments, and the user who connected it needs the same rights."
        )
    return Refused(f"Jobber refuses the app: {message.rstrip('.')}.")


SUBSCRIPTION = Subscription(
    docs="https://developer.getjobber.com/docs/using_jobbers_api/setting_up_webhooks",
    evidence="second-hand",
    groups=tuple((topic,) for topic in (*FETCHED, "VISIT_DESTROY")),
    account=RecordRequest("account", "query { account { id name } }"),
    account_name=lambda account: account.at("data", "account", "name").text() or "",
    check_account=_check_account,
    create=_subscribe,
    read_created=_read_created,
    delete=_unsubscribe,
    secret_from="person",
    secret_credential="CLIENT_SECRET",
)

OAUTH = OAuth(
    docs="https://developer.getjobber.com/docs/building_your_app/app_authorization",
    evidence="vendor",
    authorize_url="https://api.getjobber.com/api/oauth/authorize",
    token_url="https://api.getjobber.com/api/oauth/token",
    uses_pkce=False,
    signs_with="client_secret",
    account_id=lambda account: account.at("data", "account", "id").text() or "",
)

#: A page of visits costs about 800 points. An account has 10,000 points, and regains 500 of them per second.
PAGE_SIZE, MAX_IDS = 30, 100
VISITS = (
    """
query ($first: Int!, $after: String, $filter: VisitFilterAttributes) {
  visits(first: $first, after: $after, filter: $filter, sort: [{ key: START_AT, direction: ASCENDING }]) {
    nodes { ...Fields } pageInfo { hasNextPage endCursor }
  }
}"""
    + VISIT
)
EXISTS = "query ($id: EncodedId!) { visit(id: $id) { id } }"
IDS = "query ($first: Int!, $filter: VisitFilterAttributes) { visits(first: $first, filter: $filter) { nodes { id } } }"
INVOICES = """
query ($first: Int!, $after: String) {
  invoices(first: $first, after: $after, filter: { updatedAt: { after: "%s" } }) {
    nodes { id } pageInfo { hasNextPage endCursor }
  }
}"""


def _list_visits(window: Window, account: Payload) -> Sequence[ListRequest]:
    context = {"account": account.at("data", "account", "id").text()}
    in_window = {"after": format_time(window.since), "before": format_time(window.until)}
    filters: list[dict[str, Any]] = [{"startAt": in_window}]
    requests = []
    if window.changed_since:
        filters.append({"completedAt": {"after": format_time(window.changed_since)}})
        invoices = RecordRequest(
            "invoices", INVOICES % format_time(window.changed_since), {"first": MAX_IDS, "after": None}
        )
        requests.append(ListRequest(invoices, context))
    lists = [RecordRequest("visits", VISITS, {"first": PAGE_SIZE, "after": None, "filter": each}) for each in filters]
    return [*(ListRequest(each, context) for each in lists), *requests]


def _check_visits(visit_ids: Sequence[str], account: Payload) -> Iterator[ListRequest]:
    """Yield requests for the ids of visits. Visits that are missing in the response are then requested one by one."""
    account_id = account.at("data", "account", "id").text()
    for first in range(0, len(visit_ids), MAX_IDS):
        ids = [_encoded_id(id) for id in visit_ids[first : first + MAX_IDS]]
        request = RecordRequest("visits", IDS, {"first": MAX_IDS, "filter": {"ids": ids}})
        yield ListRequest(request, {"account": account_id, "ids": ids})


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of visits or invoices, the visits of an invoice, or whether visits were destroyed."""
    name = request.request.path
    if "id" in request.context:
        exists = graphql_record(response, "visit", SOURCE.title) is not None
        return ListedPage([] if exists else [_destroyed_record(request.context["id"], request, response)])
    if name.startswith("invoice/"):
        invoice = graphql_record(response, "invoice", SOURCE.title)
        visits = invoice.at("visits", "nodes") if invoice else ()
        return ListedPage(read_records(visits, lambda visit: [_listed(visit, request, response)]))
    page = response.at("data", name)
    if not page or response.at("errors"):
        raise _refused(response)
    if "ids" in request.context:
        existing = {visit.at("id").required_text() for visit in page.at("nodes")}
        return ListedPage([], [_visit_request(id, request) for id in request.context["ids"] if id not in existing])
    following = []
    if page.at("pageInfo", "hasNextPage").boolean():
        variables = {**request.request.variables, "after": page.at("pageInfo", "endCursor").required_text()}
        following.append(replace(request, request=replace(request.request, variables=variables)))
    if name == "visits":
        return ListedPage(read_records(page.at("nodes"), lambda visit: [_listed(visit, request, response)]), following)
    return ListedPage([], [*(_invoice_request(invoice.at("id"), request) for invoice in page.at("nodes")), *following])


def _invoice_request(id: Payload, request: ListRequest) -> ListRequest:
    path = f"invoice/{_url_safe_id(id)}"
    return ListRequest(RecordRequest(path, QUERIES["invoice"], {"id": id.required_text()}), request.context)


def _listed(visit: Payload, request: ListRequest, response: ApiResponse) -> ListedRecord:
    id = _url_safe_id(visit.at("id"))
    body = _body("VISIT_UPDATE", visit.at("id").required_text(), request, response)
    return ListedRecord(id, body, {"data": {"visit": visit.value}}, path=f"visit/{id}")


def _visit_request(id: str, request: ListRequest) -> ListRequest:
    path = f"visit/{_url_safe_id(Payload(id, 'id'))}"
    return ListRequest(RecordRequest(path, EXISTS, {"id": id}), {"account": request.context["account"], "id": id})


def _destroyed_record(id: str, request: ListRequest, response: ApiResponse) -> ListedRecord:
    return ListedRecord(_url_safe_id(Payload(id, "id")), _body("VISIT_DESTROY", id, request, response))


def _body(topic: str, id: str, request: ListRequest, response: ApiResponse) -> dict[str, Any]:
    account, now = request.context["account"], format_time(response.requested_at)
    return {"data": {"webHookEvent": {"topic": topic, "accountId": account, "itemId": id, "occurredAt": now}}}


def _encoded_id(visit_id: str) -> str:
    """Return the id as Jobber writes it."""
    return visit_id.replace("-", "+").replace("_", "/") + "=" * (-len(visit_id) % 4)


LISTING = Listing(
    docs="https://developer.getjobber.com/docs/using_jobbers_api/api_queries_and_mutations",
    evidence="second-hand",
    start=_list_visits,
    check=_check_visits,
    read_page=_read_listed,
    calls_per_s=0.7,
)
