"""Workiz: jobs, whose whole state is in every event, and the payments of their invoices.

https://help.workiz.com/hc/en-us/articles/39192462158993-Creating-webhooks-in-Workiz, which we know through integrators
who quote it and printed deliveries: an automation of one's own posts `trigger`, `data` and `metadata`; the auth key
comes as `Authorization: Bearer …`, as often with `Bearer` before it as people typed it. What happened is in
`data.status` and not in the trigger's name, since people wire their automations as they like: every trigger of a job is
taken for its state. `uuid` stays when a job moves and is in a job's invoices too. `trigger.timestamp` (UTC) orders;
`data.date` is local time. Nothing names an event: what is told twice means the same twice.

All of it is second-hand. Recalled: `In Progress` and `Done Pending Approval`. Inferred: collected is `totalPrice` less
`amountDue`. There is no status for a no-show: a sub-status of that name counts as one. No status has a time of its own:
it counts from the first event that shows it. `new`, which one account's data has, is taken for a job before Submitted: it
is open. Any other status is parked, for nobody knows whether such a job takes place.

A job may have several invoices. Each tells what was paid on it, and the job what was paid in all: the greater of that and
the sum of the invoices counts, so no invoice replaces another.
"""

import re
from datetime import datetime
from decimal import Decimal

from app.visits.change import UNSET, Contact, Unset, VisitChange, unix_microseconds
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.signatures.scheme import MIN_CHOSEN_SECRET_BYTES
from app.webhooks.signatures.token import HeaderToken
from app.webhooks.source import Ignored, Source

SETUP = """
1. Set HOOKS__WORKIZ__SECRETS to 32 random characters of your own, and HOOKS__WORKIZ__TIMEZONE to the account's time
   zone.
2. In Workiz open the Automation center and make an automation for each of: job created, job rescheduled (or updated),
   job status changed, invoice paid. As its action choose "post webhook".
3. Paste {url}, and the characters of step 1, without "Bearer", as its Auth key.

Workiz signs nothing: the key alone proves who sends. A job is completed when its status is Done. For a no-show make a
sub-status that is called "No show". Some triggers leave the client out: one of a job's events must have it. Opt-outs
are not told.
"""

SOURCE = Source(
    title="Workiz",
    docs="https://help.workiz.com/hc/en-us/articles/39192462158993-Creating-webhooks-in-Workiz",
    evidence="recalled",
    signature=HeaderToken("Authorization", prefix="Bearer ", min_length=MIN_CHOSEN_SECRET_BYTES),
    setup=SETUP,
    event_name_path=("trigger", "type"),
    required_settings=("TIMEZONE",),
)

OPEN = {"new", "submitted", "pending", "in progress", "done pending approval"}
OFF = {"canceled", "cancelled", "deleted"}
#: Of a payment: it brought nothing.
FAILED = {"canceled", "cancelled", "declined", "deleted", "failed", "pending", "refunded", "void", "voided"}


def translate(event: Event) -> list[VisitChange] | Ignored:
    kind = event.data.at("trigger", "type").required_text()
    if kind.startswith("job"):
        return [_job(event, kind)]
    return _invoice(event, kind) if kind.startswith(("invoice", "payment")) else Ignored(kind)


def _job(event: Event, kind: str) -> VisitChange:
    job, said_at = event.data.at("data"), _said_at(event)
    status = "deleted" if kind.endswith("deleted") else _status(job)
    is_missed = bool(re.search("no[ _-]?show", job.at("subStatus").text() or "", re.IGNORECASE))
    is_off = status in OFF and not is_missed
    return VisitChange(
        action="cancel" if is_off else "create" if kind == "job_created" else "update",
        visit_id=job.at("uuid").required_text(),
        version=unix_microseconds(said_at),
        contact=_contact(job.at("clientInfo")),
        time_scheduled=job.at("date").time(event.zone) or UNSET,
        time_completed=said_at if status == "done" else None,
        amount_collected=_collected(job),
        date_cancelled=said_at if is_off else None,
        no_show=said_at if is_missed else None,
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
    visit_id, order = invoice.at("uuid").required_text(), unix_microseconds(_said_at(event))
    payment = invoice.at("id").text()
    return [VisitChange(action="update", visit_id=visit_id, version=order, payment_id=payment, amount_collected=paid)]


def _counts(payment: Payload) -> bool:
    return (payment.at("status").text() or "").lower() not in FAILED


def _said_at(event: Event) -> datetime:
    return event.data.at("trigger", "timestamp").required_time()


def _status(job: Payload) -> str:
    status = job.at("status")
    known = status.required_text().lower()
    if known not in OPEN | OFF | {"done"}:
        raise status.unexpected("a job's status that Workiz has")
    return known


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
