"""Housecall Pro: jobs, and the payments of their invoices.

https://docs.housecallpro.com/docs/housecall-public-api/46e9e1be07621-webhooks and the vendor's OpenAPI file
(`housecall.v1.yaml`: statuses, types, cents, `canceled_at` and `deleted_at`). Second-hand, from integrators' code and
captures of live traffic: signature, probe, envelope, the names of the events. Observed or told there:

- The record is under a key named after the first part of the event's name. A visit is a job; a job may have several
  appointments, and their own events carry `job_id` and no customer.
- `job.*` carries the whole job whatever the event's name, so each of them says the whole state. Captures of 2023 have
  no `event_occurred_at`, no `canceled_at` and an empty `work_status`; all of 2026 have the first.
- Without `event_occurred_at` the signed `Api-Timestamp` orders. It is the time of sending: if a retry gets a new one, an
  old event may follow a newer one, so what it orders never takes a cancellation back.
- A discarded appointment (`job.appointment.appointment_discarded`) names its job and no time. The job may have others,
  so the visit only loses its time; a job that is done keeps its completion, from which a request counts. The next `job.*`
  event has the time that remains. Until then nobody is asked, for the time that is known is of no appointment.
- Cents everywhere. What a job collected is its total without its balance; an invoice lists its payments, with refunds
  below zero. A job may have several invoices: it collected their sum, or more if the job says so. Its balance may not have
  heard of a refund yet, so a refund also says that no more than this is left, until the job's next event.
- `complete rated`: the customer already rated this job, and is not asked again.
- Nothing tells a no-show. Whether a retry carries a new `Api-Timestamp` is not known.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Action, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.handshakes import FixedBody
from app.webhooks.payload import Payload
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.source import Ignored, Source

SETUP = """
1. Webhooks need Housecall Pro's MAX plan. Open My Apps → App Store → Webhooks; that page shows the signing secret: set
   it here as HOOKS__HOUSECALLPRO__SECRETS before the next step.
2. Paste {url} as the webhook's address and save. Housecall Pro tries it at once, unsigned, and refuses an address that
   does not answer. As far as we know an account has one address: a service that used it before must forward to us.
3. Tick every `job.` event, and of the appointments' `job.appointment.scheduled`, `job.appointment.rescheduled` and
   `job.appointment.appointment_discarded`: without the last, a customer whose appointment was removed may be asked. Tick
   `invoice.paid`, `invoice.updated`, `invoice.amount_updated`, `invoice.payment.succeeded` and
   `invoice.refund.succeeded`, as far as your list has them. The others do no harm.
4. If retries are refused because their time is too old, widen HOOKS__HOUSECALLPRO__TOLERANCE (seconds, normally 300).
Customers whose notifications are switched off, and jobs that are rated already, get no review request. Housecall Pro
does not tell no-shows; cancel the job instead.
"""

SENT_AT = "Api-Timestamp"

SOURCE = Source(
    title="Housecall Pro",
    docs="https://docs.housecallpro.com/docs/housecall-public-api/46e9e1be07621-webhooks",
    signature=Hmac(header="Api-Signature", timestamp_header=SENT_AT, signs="{t}.{body}", tolerance_s=300, lenient=True),
    setup=SETUP,
    evidence="second-hand",
    event_name_path=("event",),
    stored_headers=(SENT_AT,),
    handshake=FixedBody(b'{"foo":"bar"}', absent_header="Api-Signature"),
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
# `created`, `sent`, `voided`, `canceled` and `payment.failed` collect nothing.
INVOICES = {"invoice.paid", "invoice.updated", "invoice.amount_updated", "invoice.payment.succeeded", REFUND}

OPEN = {"needs scheduling", "scheduled", "in progress"}
RATED = "complete rated"
DONE = {RATED, "complete unrated"}
CANCELLED = {"user canceled", "pro canceled"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("event").value
    if not isinstance(kind, str) or not kind:
        return Ignored("no event")  # the probe of the address, should it ever be signed
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
    job, said_at = event.data.at("job"), _occurred_at(event)
    status = job.at("work_status").text()
    cancelled = _cancelled(kind, job, status, said_at)
    if cancelled is None and not event.data.at("event_occurred_at"):
        cancelled = UNSET  # only the time of sending is known: it may be a late retry
    return VisitChange(
        action="cancel" if isinstance(cancelled, datetime) else JOBS.get(kind, "update"),
        visit_id=job.at("id").required_text(),
        version=unix_microseconds(said_at),
        contact=_contact(job.at("customer")),
        time_scheduled=job.at("schedule", "scheduled_start").time() if job.at("schedule") else UNSET,
        time_completed=_completed(kind, job, status, said_at),
        amount_collected=_collected(job),
        date_cancelled=cancelled,
        opted_out=_opted_out(job, status),
    )


def _cancelled(kind: str, job: Payload, status: str | None, said_at: datetime) -> datetime | None | Unset:
    marked = job.at("canceled_at").time() or job.at("deleted_at").time()
    if marked or JOBS.get(kind) == "cancel" or status in CANCELLED:
        return marked or said_at
    return None if status else UNSET


def _completed(kind: str, job: Payload, status: str | None, said_at: datetime) -> datetime | None | Unset:
    completed = job.at("work_timestamps", "completed_at").time()
    if kind == "job.completed":
        return completed or said_at
    if status in OPEN:  # also where the completion was taken back and its time is still there
        return None
    unknown = status in DONE or not job.at("work_timestamps")
    return completed or (UNSET if unknown else None)


def _collected(job: Payload) -> Decimal | None | Unset:
    total, balance = job.at("total_amount"), job.at("outstanding_balance")
    owed, still_owed = total.integer(), balance.integer()
    if owed is None or still_owed is None or still_owed > owed:
        return UNSET
    return _money(owed - still_owed, total)


def _money(cents: int, read_from: Payload) -> Decimal | None:
    return Payload(cents, *read_from.path).amount(100) if cents else None


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
    invoice = event.data.at("invoice")
    job_id, cents = invoice.at("job_id").text(), _paid(invoice)
    if job_id is None or cents is None or (cents <= 0 and kind != REFUND):
        return Ignored(kind)
    change = VisitChange(
        action="update",
        visit_id=job_id,
        version=unix_microseconds(_occurred_at(event)),
        payment_id=invoice.at("id").required_text(),
        amount_collected=_money(max(cents, 0), invoice),
    )
    return [change, replace(change, payment_id=None)] if kind == REFUND else [change]


def _paid(invoice: Payload) -> int | None:
    """Cents; None where the invoice does not tell."""
    payments = list(invoice.at("payments"))
    if payments:
        return sum(paid.at("amount").required_integer() for paid in payments if paid.at("status").value == "succeeded")
    amount, due = invoice.at("amount").integer(), invoice.at("due_amount").integer()
    return None if amount is None or due is None else amount - due
