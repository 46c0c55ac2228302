"""Workiz: jobs, whose whole state is in every event, and the payments of their invoices.

https://help.workiz.com/hc/en-us/articles/39192462158993-Creating-webhooks-in-Workiz, known from integrators who quote
it, and printed deliveries: an automation of the customer posts `trigger`, `data` and `metadata`; the auth key is sent
as `Authorization: Bearer …`, with another `Bearer` for each one that people typed. The state is read from `data.status`
and not from the trigger's name, because people configure their automations freely. `uuid` does not change when a job is
moved, and is in a job's invoices, too. `trigger.timestamp` (UTC) orders the events; `data.date` is local time. Events
have no id; a repeat has the same meaning. It is not known whether a `uuid`, of six characters, is unique beyond one
account.

All of it is second-hand. From memory: `In Progress` and `Done Pending Approval`. Inferred: the amount collected is
`totalPrice` less `amountDue`. There is no status for a no-show: a sub-status of that name counts as one. A status has
no time, so it gets the time of the first event that shows it. `new`, which is in the data of one account, counts as a
state before Submitted, so it is open. Any other status is parked, because it is unknown whether such a job takes place.

A job may have several invoices. Each has the amount paid on it, and the job has the total: the greater of the total and the
sum of the invoices counts, so no invoice replaces another.
"""

import re
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks import MIN_CHOSEN_SECRET_BYTES, Event, HeaderToken, Ignored, Payload, Source

SETUP = """
1. Make up a key of 32 random characters and set it as HOOKS__WORKIZ__SECRETS. Set HOOKS__WORKIZ__TIMEZONE to the
   account's time zone. The ids of jobs may not be unique beyond one Workiz account: if you have several, give each a
   Review Rover account of its own.
2. In Workiz, open the Automation center and create an automation for each of: job created, job rescheduled (or
   updated), job status changed, invoice paid. As its action, choose "post webhook".
3. Paste {url}, and the key of step 1, without "Bearer", as its Auth key.

Workiz signs nothing: only the key authenticates the sender. A job is completed when its status is Done. For no-shows,
create a sub-status with the name "No show". Some triggers do not include the client: at least one event of a job must
have it. The visit of a job without a date waits for one, and needs attention after a day. Workiz does not send
opt-outs.
"""

SOURCE = Source(
    title="Workiz",
    docs="https://help.workiz.com/hc/en-us/articles/39192462158993-Creating-webhooks-in-Workiz",
    evidence="none",
    signature=HeaderToken("Authorization", prefix="Bearer ", min_length=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    ids_are_global=False,
    event_name_path=("trigger", "type"),
    required_settings=("TIMEZONE",),
)

OPEN = {"new", "submitted", "pending", "in progress", "done pending approval"}
CANCELLED = {"canceled", "cancelled", "deleted"}
#: The statuses of payments that do not count.
FAILED = {"canceled", "cancelled", "declined", "deleted", "failed", "pending", "refunded", "void", "voided"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("trigger", "type").required_text()
    if kind.startswith("job"):
        return [_job(event, kind)]
    return _invoice(event, kind) if kind.startswith(("invoice", "payment")) else Ignored(kind)


def _job(event: Event, kind: str) -> VisitChange:
    job, happened_at = event.data.at("data"), _happened_at(event)
    status = "deleted" if kind.endswith("deleted") else _status(job)
    is_missed = bool(re.search("no[ _-]?show", job.at("subStatus").text() or "", re.IGNORECASE))
    is_cancelled = status in CANCELLED and not is_missed
    return VisitChange(
        action="cancel" if is_cancelled else "create" if kind == "job_created" else "update",
        visit_id=job.at("uuid").required_text(),
        version=unix_microseconds(happened_at),
        contact=_contact(job.at("clientInfo")),
        time_scheduled=job.at("date").time(event.zone) or UNSET,
        time_completed=happened_at if status == "done" else None,
        amount_collected=_collected(job),
        date_cancelled=happened_at if is_cancelled else None,
        no_show=happened_at if is_missed else None,
        times_are_observed=True,
    )


def _invoice(event: Event, kind: str) -> list[VisitChange] | Ignored:
    invoice = event.data.at("data")
    payments = [payment.at("amount").amount() or Decimal() for payment in invoice.at("payments") if _counts(payment)]
    paid = sum(payments, Decimal()) or None if invoice.at("payments").value else _collected(invoice)
    if paid is UNSET:
        return Ignored(kind)
    if not invoice.at("uuid"):
        return Ignored("an invoice without a job")
    visit_id, version = invoice.at("uuid").required_text(), unix_microseconds(_happened_at(event))
    payment = invoice.at("id").text()
    return [VisitChange(action="update", visit_id=visit_id, version=version, payment_id=payment, amount_collected=paid)]


def _counts(payment: Payload) -> bool:
    return (payment.at("status").text() or "").lower() not in FAILED


def _happened_at(event: Event) -> datetime:
    return event.data.at("trigger", "timestamp").required_time()


def _status(job: Payload) -> str:
    status = job.at("status")
    name = status.required_text().lower()
    if name not in OPEN | CANCELLED | {"done"}:
        raise status.unexpected("a job's status that Workiz has")
    return name


def _collected(job: Payload) -> Decimal | None | Unset:
    total, due = job.at("totalPrice").amount(), job.at("amountDue").amount()
    if total is None or due is None:
        return UNSET
    return total - due if total > due else None


def _contact(client: Payload) -> Contact | None:
    if not client:
        return None
    return Contact(
        email=client.at("email").text(),
        first_name=client.at("firstName").text(),
        last_name=client.at("lastName").text(),
        phone=client.at("primaryPhone").text(),
    )
