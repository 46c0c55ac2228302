"""Jobber: visits, and the payments of their invoices. Thin: an event names a record, GraphQL has it.

https://developer.getjobber.com/docs/using_jobbers_api/setting_up_webhooks: envelope, signature, patience of one second,
`occuredAt` in apps made before 2023-12-08, forms for apps made before 2022-04-11. How such a form looks is not
published: `data[webHookEvent][topic]=…` and `data` with JSON in it are guesses. Second-hand, from printouts of the
GraphQL schema and integrators' queries: every field that is asked for, `invoice.visits`, `job.visits`,
`paymentRecord.invoice` and `paymentRecord.allocations` among them. Observed or told there:

- `itemId` is opaque (base64 of `gid://Jobber/Visit/…`), and is the record's `id`; a visit keeps it when it moves.
- A visit has no `updatedAt`: what is fetched is the truth of that moment, so our own clock orders, also for a destroyed
  visit, which is gone from the API and never comes back. There is no cancel and no no-show: it is destroyed.
- VISIT_CREATE: "when multiple visits are created in a recurring schedule, only the first visit will notify" (the
  schema). So the job's other visits are asked for with it: those that are not complete and begin after the event; what
  came before may be older than this connection, and nobody is asked about it now. The answer has the last 100, and 100
  before them where those are still to come: by our count less than 1,000 of the 10,000 points that a query may cost.
  VISIT_UPDATE and VISIT_DESTROY have no such exception in the schema; not proven for a job that is deleted or closed.
  Where the first visit is deleted before it is fetched, the others are only known once they change.
- `paymentsTotal` is what an invoice collected. On an invoice for several visits no amount is told: which part is whose
  is not known, and the whole on each of them would count it several times. A visit without an invoice may be paid
  through its job, or by a deposit: that says nothing. A query takes 40 visits of an invoice.
- `receivesReviewRequests` is the client's own setting, and `false` is an opt-out here, although some integrations clear
  it for every client that they make: a client who declined must not be asked. `allowReviewRequest` of a job or an invoice
  only switches Jobber's own message, so it is not asked for.
- A visit that takes a whole day (`allDay`) starts at midnight: it counts from its end.
- Apps made for many accounts get all of their events on one address; the token opens one account, whose `accountId` the
  setting TENANTS names.
- A wrong token and a missing scope may be answered with status 200 and `errors` or `message`.
"""

import re
from dataclasses import replace
from datetime import datetime
from functools import partial

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.fetching import BearerAuth, RecordRequest, refresh_token_exchange
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import RECORD_GONE, Ignored, Source, graphql_record

SETUP = """
1. In Jobber's Developer Center make an app with read access to clients, jobs, scheduled items, invoices and Jobber
   Payments; connect it to your account. One app for one account: the token opens only its own.
2. Set the app's OAuth client secret here as HOOKS__JOBBER__SECRETS. Its access tokens live for an hour and are renewed
   with HOOKS__JOBBER__CREDENTIALS__CLIENT_ID, …__CLIENT_SECRET and …__REFRESH_TOKEN (the one that connecting the app
   gave); SECRET_KEY must be set too, for a refresh token that Jobber replaces is kept under it.
3. In the app, under Webhooks, add {url} for each of VISIT_CREATE, VISIT_UPDATE, VISIT_COMPLETE and VISIT_DESTROY.
4. For the money add INVOICE_CREATE, INVOICE_UPDATE, PAYMENT_CREATE and PAYMENT_UPDATE in the same way: it is usually
   paid after the visit. A deleted payment is seen through INVOICE_UPDATE. The money of an invoice for several visits is
   not told, for it is not known which visit collected how much.

Of a recurring job Jobber only announces the first visit; the others are fetched with it, up to 200. Of a longer series the
first visits may be missing until they are changed or completed. Each visit that is deleted should be announced: try it once
with a recurring job that you delete, and see that all of its visits are cancelled here.
Clients who take no review requests get none: that is "review requests" in a client's communication settings, which some
integrations switch off for each client that they make. Jobber does not tell no-shows; a visit that will not happen must
be deleted.
"""

SOURCE = Source(
    title="Jobber",
    docs="https://developer.getjobber.com/docs/using_jobbers_api/setting_up_webhooks",
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
    tenant_of=lambda event: _told(event.data).at("accountId").text(),
    api_headers={"X-JOBBER-GRAPHQL-VERSION": "2026-04-16"},
)

#: What a topic makes us fetch, and what it means to the visits in there.
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
CREATED = "query ($id: EncodedId!) { visit(id: $id) { ...Fields job { id " + SERIES % "" + " } } }" + VISIT
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
    told = _told(event.data)
    name, _ = FETCHED.get(told.at("topic").required_text(), (None, None))
    if name is None:
        return []
    item, is_new = told.at("itemId"), told.at("topic").text() == "VISIT_CREATE"
    path, variables = f"{name}/{_safe(item)}", {"id": item.required_text()}
    if is_new:
        return [RecordRequest(path, CREATED, variables, follow_up=partial(_earlier, _since(event)))]
    return [RecordRequest(path, QUERIES[name], variables)]


def _earlier(since: datetime, answer: Payload) -> dict[str, RecordRequest]:
    """The page before the last one, where that does not reach back to the event."""
    job = answer.at("data", "visit", "job")
    page, cursor = list(job.at("visits", "nodes")), job.at("visits", "pageInfo", "startCursor")
    if not page or not cursor.text() or job.at("visits", "pageInfo", "hasPreviousPage").value is not True:
        return {}
    starts_at = page[0].at("startAt").time()
    if starts_at and starts_at <= since:
        return {}
    variables = {"id": job.at("id").required_text(), "before": cursor.required_text()}
    return {"earlier": RecordRequest(f"job/{_safe(job.at('id'))}", EARLIER, variables)}


def translate(event: Event) -> list[VisitChange] | Ignored:
    told = _told(event.data)
    topic = told.at("topic").required_text()
    if topic == "VISIT_DESTROY":
        return [_destroyed(event, told)]
    if topic not in FETCHED:
        return Ignored(topic)
    if event.fetched_at is None:
        raise Untranslatable("the record that this event points at was not fetched")
    name, action = FETCHED[topic]
    found, order = graphql_record(event.record, name, SOURCE.title), unix_microseconds(event.fetched_at)
    if found is None:
        return RECORD_GONE
    if name == "visit":
        visit = _visit(found, action, _safe(told.at("itemId")), order)
        return [visit, *_others(event, visit)] if action == "create" else [visit]
    billed = [list(invoice.at("visits", "nodes")) for invoice in _invoices(found, name)]
    visits = {_safe(visit.at("id")): (visit, len(visits) > 1) for visits in billed for visit in visits}
    return [_visit(visit, action, id, order, is_shared) for id, (visit, is_shared) in visits.items()] or Ignored(topic)


def _told(data: Payload) -> Payload:
    """The event inside the body, which is JSON, or a form in one of two shapes."""
    inside = data.at("data")
    if isinstance(inside.value, str):
        inside = inside.parse_embedded_json()
        inside = inside.at("data") or inside
    if isinstance(data.value, dict) and not inside:
        names = ("topic", "itemId", "occurredAt", "occuredAt")
        return Payload({name: data.at(f"data[webHookEvent][{name}]").value for name in names}, "data.webHookEvent")
    return inside.at("webHookEvent")


def _safe(item: Payload) -> str:
    """An id as part of an external_id: base64 in the spelling for URLs."""
    if not _BASE64.fullmatch(item.required_text()):
        raise item.unexpected("base64")
    return item.required_text().rstrip("=").replace("+", "-").replace("/", "_")


_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def _destroyed(event: Event, told: Payload) -> VisitChange:
    return VisitChange(
        action="cancel",
        visit_id=_safe(told.at("itemId")),
        version=unix_microseconds(event.received_at),
        date_cancelled=told.at("occurredAt").time() or told.at("occuredAt").required_time(),
    )


def _invoices(found: Payload, name: str) -> list[Payload]:
    if name == "invoice":
        return [found]
    return [found.at("invoice"), *(part.at("invoice") for part in found.at("allocations", "nodes"))]


def _since(event: Event) -> datetime:
    """What begins later was still to come when the event occurred."""
    told = _told(event.data)
    return told.at("occurredAt").time() or told.at("occuredAt").time() or event.received_at


def _others(event: Event, first: VisitChange) -> list[VisitChange]:
    """The visits of the same job that are still to come: Jobber announces only the first of a recurring schedule."""
    job, earlier = (
        event.record.at("data", "visit", "job") if event.record else Payload(None),
        event.related.get("earlier"),
    )
    pages = [job, graphql_record(earlier, "job", SOURCE.title) or Payload(None)]
    visits = {_safe(visit.at("id")): visit for page in pages for visit in page.at("visits", "nodes")}
    return [
        replace(
            first,
            visit_id=visit_id,
            time_scheduled=_scheduled(visit),
            time_completed=None,
            amount_collected=UNSET,
        )
        for visit_id, visit in visits.items()
        if visit_id != first.visit_id and _is_to_come(visit, _since(event))
    ]


def _is_to_come(visit: Payload, since: datetime) -> bool:
    starts_at = visit.at("startAt").time()
    return bool(starts_at and starts_at > since) and visit.at("isComplete").boolean() is not True


def _scheduled(visit: Payload) -> datetime | None:
    ends_at = visit.at("endAt").time() if visit.at("allDay").boolean() else None
    return ends_at or visit.at("startAt").time()


def _visit(visit: Payload, action: Action, visit_id: str, order: int, is_shared: bool = False) -> VisitChange:
    """is_shared: it is on an invoice with others."""
    if not isinstance(visit.value, dict):
        raise visit.unexpected("a visit")
    client, invoice = visit.at("client"), visit.at("invoice")
    complete, paid = visit.at("isComplete").boolean(), invoice.at("amounts", "paymentsTotal").amount()
    is_shared = is_shared or len(list(invoice.at("visits", "nodes"))) > 1
    return VisitChange(
        action=action,
        visit_id=visit_id,
        version=order,
        contact=_contact(client),
        time_scheduled=_scheduled(visit),
        time_completed=visit.at("completedAt").time() or UNSET if complete is not False else None,
        amount_collected=UNSET if paid is None or paid < 0 else None if is_shared else paid or None,
        opted_out=_opted_out(client),
    )


def _opted_out(client: Payload) -> bool | Unset:
    asked = client.at("receivesReviewRequests").boolean()
    return UNSET if asked is None else not asked


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
    """The primary one, else the first."""
    known = [item for item in items if item.at(name).text()]
    best = [item for item in known if item.at("primary").value is True] or known
    return best[0].at(name).text() if best else None
