"""Housecall Pro: jobs, and the payments of their invoices.

https://docs.housecallpro.com/docs/housecall-public-api/46e9e1be07621-webhooks and the vendor's OpenAPI file
(`housecall.v1.yaml`: statuses, types, cents, `canceled_at` and `deleted_at`). Second-hand, from integrators' code and
recorded traffic: the signature, the test of the URL, the envelope, and the names of the events. Observed or documented
there:

- The record is under a key named after the first part of the event's name. A visit is a job; a job may have several
  appointments, and their own events have `job_id` and no customer.
- Every `job.*` event has the whole job, so each of them has the whole state. Events recorded in 2023 have no
  `event_occurred_at`, no `canceled_at` and an empty `work_status`; all events recorded in 2026 have
  `event_occurred_at`.
- If `event_occurred_at` is missing, the signed `Api-Timestamp` orders the events. It is the time of sending. If a retry
  gets a new one, an old event may seem newer than it is, so an event without `event_occurred_at` never undoes a
  cancellation.
- A discarded appointment (`job.appointment.appointment_discarded`) names its job, but no time. The job may have other
  appointments, so only the time of the visit is cleared. The completion of a job does not change; if there is one, the
  review request is timed from it. Otherwise no request is sent until the next `job.*` event, which has the time of the
  next appointment.
- All amounts are in cents. The amount of a job is its total without its balance; an invoice lists its payments, with
  negative amounts for refunds. A job may have several invoices: its amount is their sum, or the amount in the job if that
  is greater. A job's balance may be older than a refund, so a refund also sets the job's amount, until its next event.
  A voided or canceled invoice collects nothing, whatever amounts it has, and counts as a refund of all of it.
- `complete rated`: the customer has rated this job, and gets no second request.
- No event reports a no-show. Whether a retry has a new `Api-Timestamp` is not known.

The API, from the OpenAPI file: `POST webhooks/subscription` has no parameters and its response no documented body. It
turns on the webhooks of one company, with the URL that Housecall Pro registered for an application; no request lists or
describes this subscription. So only the keys of registered applications can use it; with a company's own key, a person
sets up the webhooks by hand. Jobs of all statuses are listed unless the request selects a status. Jobs cannot be listed
from a given time of change on: they are read in the order of their last change, newest first, until older ones follow.
A listed job has the same fields as the job in a `job.…` event.

Second-hand, from integrators: changes through the API send webhooks, too; a page may have 200 jobs; invoices are listed
by the time of their payment. From memory: 401 and 403 for keys without rights, and the rotation of refresh tokens,
which only partners get.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, format_time, unix_microseconds
from app.webhooks import (
    ApiResponse,
    Event,
    FixedBody,
    Hmac,
    Ignored,
    ListedPage,
    ListedRecord,
    Listing,
    ListRequest,
    OAuth,
    Payload,
    RecordRequest,
    RequestAuth,
    Source,
    Subscription,
    SubscriptionState,
    Target,
    Untranslatable,
    Window,
    read_records,
    refresh_token_exchange,
)

SETUP = """
1. Webhooks need Housecall Pro's MAX plan. Open My Apps → App Store → Webhooks. Set the signing secret that the page
   shows as HOOKS__HOUSECALLPRO__SECRETS before the next step.
2. Paste {url} as the webhook's URL and save. Housecall Pro tests the URL at once, without a signature, and rejects a
   URL that does not answer. An account probably has only one URL: a service that used it before must forward its
   requests to Doorbell.
3. Select every `job.` event, and of the events of appointments `job.appointment.scheduled`,
   `job.appointment.rescheduled` and `job.appointment.appointment_discarded`: without the last one, a customer whose
   appointment was removed may get a review request. Select `invoice.paid`, `invoice.updated`, `invoice.amount_updated`,
   `invoice.payment.succeeded`, `invoice.refund.succeeded`, `invoice.voided` and `invoice.canceled`, if your list has
   them. Doorbell ignores the other events.
4. If retries are rejected because their time is too old, increase HOOKS__HOUSECALLPRO__TOLERANCE (seconds, default 300).
5. With an API key (My Apps → App Store → API keys), `doorbell connect housecallpro` also lists jobs: it imports
   upcoming jobs, and finds the changes that no webhook reported; with the key of a registered application it does steps
   2 and 3, too.

Customers with disabled notifications, and jobs that are already rated, get no review request. Housecall Pro sends no
no-shows; cancel the job instead. The visit of a job without a schedule waits for one, and needs attention after a day.
"""

SENT_AT = "Api-Timestamp"


@dataclass(frozen=True, slots=True)
class ApiKeyOrPartnerToken:
    """The key of a company or an application. The token of a partner's OAuth app needs another scheme."""

    names: tuple[str, ...] = ("TOKEN",)

    def authenticate(self, credentials: Mapping[str, str], now: float, request: RecordRequest) -> RequestAuth:
        scheme = "Bearer" if "CLIENT_ID" in credentials else "Token"
        return RequestAuth({"authorization": f"{scheme} {credentials['TOKEN']}"})


SOURCE = Source(
    title="Housecall Pro",
    is_common=True,
    docs="https://docs.housecallpro.com/docs/housecall-public-api/46e9e1be07621-webhooks",
    signature=Hmac(header="Api-Signature", timestamp_header=SENT_AT, signs="{t}.{body}", tolerance_s=300, lenient=True),
    setup=SETUP,
    evidence="second-hand",
    retries="yes",
    event_name_path=("event",),
    stored_headers=(SENT_AT,),
    handshake=FixedBody(b'{"foo":"bar"}', absent_header="Api-Signature"),
    api_url="https://api.housecallpro.com",
    credentials=ApiKeyOrPartnerToken(),
    credential_help={
        "TOKEN": (
            "API key",
            "In Housecall Pro: My Apps, App Store, API keys. "
            "With it, you need no client ID, client secret or refresh token.",
        ),
        "CLIENT_ID": ("Client ID", "The client ID of an OAuth app, which Housecall Pro gives to partners."),
        "CLIENT_SECRET": ("Client secret", "In the same place, next to the client ID."),
        "REFRESH_TOKEN": ("Refresh token", "You get it when you connect the app to your account."),
    },
    token_exchange=refresh_token_exchange("https://api.housecallpro.com/oauth/token"),
)

JOBS: dict[str, Action] = {
    "job.created": "create",
    "job.scheduled": "create",
    "job.updated": "update",
    "job.on_my_way": "update",
    "job.started": "update",
    "job.completed": "update",
    "job.paid": "update",
    "job.canceled": "cancel",
    "job.deleted": "cancel",
}
DISCARDED = "job.appointment.appointment_discarded"
APPOINTMENTS = {"job.appointment.scheduled", "job.appointment.rescheduled", DISCARDED}
REFUND = "invoice.refund.succeeded"
VOID_EVENTS = {"invoice.voided", "invoice.canceled"}
# `created`, `sent` and `payment.failed` collect nothing, and take nothing back.
INVOICES = {
    "invoice.paid",
    "invoice.updated",
    "invoice.amount_updated",
    "invoice.payment.succeeded",
    REFUND,
    *VOID_EVENTS,
}
VOID_STATUSES = {"voided", "canceled"}

OPEN = {"needs scheduling", "scheduled", "in progress"}
RATED = "complete rated"
DONE = {RATED, "complete unrated"}
CANCELLED = {"user canceled", "pro canceled"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("event").value
    if not isinstance(kind, str) or not kind:
        return Ignored("no event")  # the test of the URL, if it has a signature
    if kind in INVOICES:
        return _invoice(kind, event)
    if kind in APPOINTMENTS:
        return [_appointment(kind, event)]
    if kind not in JOBS and not (_is_about_job(kind) and event.data.at("job")):
        return Ignored(kind)
    return [_job(kind, event)]


def _is_about_job(kind: str) -> bool:
    return kind.startswith("job.") and not kind.startswith("job.appointment.")


def _occurred_at(event: Event) -> datetime:
    occurred_at, sent_at = event.data.at("event_occurred_at"), event.headers.get(SENT_AT, "")
    if occurred_at or not (sent_at.isascii() and sent_at.isdecimal()):
        return occurred_at.required_time()
    return Payload(int(sent_at), SENT_AT).required_unix_seconds()


def _job(kind: str, event: Event) -> VisitChange:
    job, happened_at = event.data.at("job"), _occurred_at(event)
    status = job.at("work_status").text()
    cancelled = _cancelled(kind, job, status, happened_at)
    if cancelled is None and not event.data.at("event_occurred_at"):
        cancelled = UNSET  # only the time of sending is known, and this may be a late retry
    return VisitChange(
        action="cancel" if isinstance(cancelled, datetime) else JOBS.get(kind, "update"),
        visit_id=job.at("id").required_text(),
        version=unix_microseconds(happened_at),
        contact=_contact(job.at("customer")),
        time_scheduled=job.at("schedule", "scheduled_start").time() if job.at("schedule") else UNSET,
        time_completed=_completed(kind, job, status, happened_at),
        amount_collected=_collected(job),
        date_cancelled=cancelled,
        opted_out=_opted_out(job, status),
    )


def _cancelled(kind: str, job: Payload, status: str | None, happened_at: datetime) -> datetime | None | Unset:
    cancelled_at = job.at("canceled_at").time() or job.at("deleted_at").time()
    if cancelled_at or JOBS.get(kind) == "cancel" or status in CANCELLED:
        return cancelled_at or happened_at
    return None if status else UNSET


def _completed(kind: str, job: Payload, status: str | None, happened_at: datetime) -> datetime | None | Unset:
    completed = job.at("work_timestamps", "completed_at").time()
    if kind == "job.completed":
        return completed or happened_at
    if status in OPEN:  # even if there is a time: a completion may be undone without removing its time
        return None
    unknown = status in DONE or not job.at("work_timestamps")
    return completed or (UNSET if unknown else None)


def _collected(job: Payload) -> Decimal | None | Unset:
    total, balance = job.at("total_amount"), job.at("outstanding_balance")
    total_cents, balance_cents = total.integer(), balance.integer()
    if total_cents is None or balance_cents is None or balance_cents > total_cents:
        return UNSET
    return _money(total_cents - balance_cents, total)


def _money(cents: int, source_field: Payload) -> Decimal | None:
    return Payload(cents, *source_field.path).amount(100) if cents else None


def _opted_out(job: Payload, status: str | None) -> bool | Unset:
    if status == RATED:
        return True
    notified = job.at("customer", "notifications_enabled").boolean()
    return UNSET if notified is None else not notified


def _contact(customer: Payload) -> Contact:
    phones = (customer.at(name).text() for name in ("mobile_number", "home_number", "work_number"))
    return Contact(
        email=customer.at("email").text(),
        first_name=customer.at("first_name").text(),
        last_name=customer.at("last_name").text(),
        phone=next(filter(None, phones), None),
    )


def _appointment(kind: str, event: Event) -> VisitChange:
    appointment = event.data.at("appointment")
    return VisitChange(
        action="update",
        visit_id=appointment.at("job_id").required_text(),
        version=unix_microseconds(_occurred_at(event)),
        time_scheduled=None if kind == DISCARDED else appointment.at("start_time").required_time(),
    )


def _invoice(kind: str, event: Event) -> list[VisitChange] | Ignored:
    """Return the amount paid on the invoice, also if it is none: it may have been paid before."""
    invoice = event.data.at("invoice")
    is_void = kind in VOID_EVENTS or invoice.at("status").text() in VOID_STATUSES
    job_id, cents = invoice.at("job_id").text(), 0 if is_void else _paid(invoice)
    if job_id is None or cents is None:
        return Ignored(kind)
    change = VisitChange(
        action="update",
        visit_id=job_id,
        version=unix_microseconds(_occurred_at(event)),
        payment_id=invoice.at("id").required_text(),
        amount_collected=_money(max(cents, 0), invoice),
    )
    is_returned = kind == REFUND or (is_void and _paid(invoice) != 0)
    return [change, replace(change, payment_id=None)] if is_returned else [change]


def _paid(invoice: Payload) -> int | None:
    """Return the amount paid in cents; None if the invoice does not have it."""
    payments = list(invoice.at("payments"))
    if payments:
        return sum(
            payment.at("amount").required_integer() for payment in payments if payment.at("status").value == "succeeded"
        )
    amount, due = invoice.at("amount").integer(), invoice.at("due_amount").integer()
    return None if amount is None or due is None else amount - due


# -- the API: https://docs.housecallpro.com/docs/housecall-public-api --


def _subscribe(_: Target, __: Payload, ___: Sequence[str]) -> RecordRequest:
    return RecordRequest("webhooks/subscription", json={})


def _refusal(status: int, _: Payload) -> str | None:
    if status != 403:
        return None
    return "Only applications that Housecall Pro registered can turn on webhooks, for companies on the MAX plan."


SUBSCRIPTION = Subscription(
    docs="https://docs.housecallpro.com/docs/housecall-public-api/46e9e1be07621-webhooks",
    evidence="second-hand",
    groups=((*JOBS, *sorted(APPOINTMENTS), *sorted(INVOICES)),),
    account=RecordRequest("company"),
    account_name=lambda account: account.at("name").text() or "",
    create=_subscribe,
    read_created=lambda _: SubscriptionState("company", ""),
    delete=lambda *_: RecordRequest("webhooks/subscription", method="DELETE"),
    secret_from="person",
    is_by_hand_if_refused=True,
    refusal=_refusal,
)

OAUTH = OAuth(
    docs="https://docs.housecallpro.com/docs/housecall-public-api",
    evidence="second-hand",
    authorize_url="https://api.housecallpro.com/oauth/authorize",
    token_url="https://api.housecallpro.com/oauth/token",
    uses_pkce=False,
    signs_with="app",
    account_id=lambda account: account.at("id").text() or "",
)

PAGE_SIZE = "100"


def _list_jobs(window: Window, _: Payload) -> Sequence[ListRequest]:
    """Request the jobs in the window, the jobs that changed last, and the paid invoices."""
    limits = {"scheduled_start_min": format_time(window.since), "scheduled_start_max": format_time(window.until)}
    requests = [_list("jobs", {**limits, "sort_by": "created_at", "sort_direction": "asc"})]
    if window.changed_since:
        since = format_time(window.changed_since)
        requests.append(_list("jobs", {"sort_by": "updated_at", "sort_direction": "desc"}, {"changed_since": since}))
        paid = {"status[]": "paid", "paid_at_min": since, "sort_by": "paid_at", "sort_direction": "asc"}
        requests.append(_list("invoices", paid))
    return requests


def _list(name: str, params: Mapping[str, str], context: Mapping[str, str] | None = None) -> ListRequest:
    return ListRequest(RecordRequest(name, params={**params, "page": "1", "page_size": PAGE_SIZE}), context or {})


def _read_listed(request: ListRequest, response: ApiResponse) -> ListedPage:
    """Read a page of jobs or invoices.

    Jobs in the order of their last change are read until a page has older changes.
    """
    name, since = request.request.path, request.context.get("changed_since", "")
    items, read = list(response.at(name)), _listed_invoice if name == "invoices" else _listed_job
    is_last = bool(since) and any(_changed_before(item, datetime.fromisoformat(since)) for item in items)
    records = read_records(items, lambda item: [read(item)])
    page = response.at("page").integer() or 1
    if is_last or page >= (response.at("total_pages").integer() or 1):
        return ListedPage(records)
    params = {**request.request.params, "page": str(page + 1)}
    return ListedPage(records, [replace(request, request=replace(request.request, params=params))])


def _changed_before(job: Payload, since: datetime) -> bool:
    try:
        changed_at = job.at("updated_at").time()
    except Untranslatable:
        return False
    return changed_at is not None and changed_at < since


def _listed_job(job: Payload) -> ListedRecord:
    """Return the event of the job's present state. Its version is the time of the job's last change."""
    status = job.at("work_status").text()
    if job.at("canceled_at") or job.at("deleted_at") or status in CANCELLED:
        kind = "job.canceled"
    elif status in DONE and job.at("work_timestamps", "completed_at"):
        kind = "job.completed"
    else:
        kind = "job.scheduled" if job.at("schedule", "scheduled_start") else "job.updated"
    body = {"event": kind, "event_occurred_at": job.at("updated_at").required_text(), "job": job.value}
    return ListedRecord(job.at("id").required_text(), body)


def _listed_invoice(invoice: Payload) -> ListedRecord:
    body = {"event": "invoice.paid", "event_occurred_at": invoice.at("paid_at").text(), "invoice": invoice.value}
    return ListedRecord(invoice.at("id").required_text(), body)


LISTING = Listing(
    docs="https://docs.housecallpro.com/docs/housecall-public-api",
    evidence="second-hand",
    start=_list_jobs,
    read_page=_read_listed,
    lists_changed=True,
)
