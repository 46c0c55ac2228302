"""A model of Housecall Pro.

Every event of a job has the whole job; invoices and appointments have separate events. All times are in whole seconds. A
job may have two invoices. The customer may change or disable notifications; a customer who rated the job gets no
review request.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from tests.histories import ToolModel, Visit, format_time

NAMES = {"scheduled": "job.scheduled", "needs scheduling": "job.created"}


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status, self.totals, self.owed = "scheduled", [0], [0]

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.open]
        if self.status in ("user canceled", "pro canceled"):
            return [self.schedule]
        actions = [self.schedule, self.move, self.move, self.cancel, self.change, self.mute, self.pay, self.refund]
        actions += [self.void, self.unpay]
        actions += [self.discard] if self.visit.scheduled else []
        return actions + (
            [self.reopen, self.rate] if self.status.startswith("complete") else [self.start, self.complete]
        )

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def open(self) -> None:
        """Create a job without a time."""
        id = f"job_{self.name}"
        self.visits = [Visit(id, ids=[id], who=self.person())]
        self.status = "needs scheduling"
        self.totals = [int(self.money() * 100) for _ in range(self.rng.choice((1, 1, 2)))]
        self.owed = [*self.totals]
        self.send("job.created")

    def book(self) -> None:
        self.open()
        self.visit.scheduled, self.status = self.future_time(), "scheduled"
        self.emitted.clear()
        self.send("job.created")
        if self.maybe():
            self.send("job.scheduled")

    def schedule(self) -> None:
        """Schedule the job, also after a cancel: the old appointment is gone."""
        self.visit.scheduled, self.visit.cancelled, self.visit.completed = self.future_time(), None, None
        self.status, self.visit.opted_out = "scheduled", not self.notified
        self.send("job.scheduled")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        if self.status == "needs scheduling":
            self.status = "scheduled"
        appointment = {"id": "appt_1", "job_id": self.visit.id, "start_time": format_time(self.visit.scheduled)}
        rings = [
            lambda: self.send("job.updated"),
            lambda: self.post("job.appointment.rescheduled", appointment=appointment),
        ]
        for emit in self.rng.choice((rings, rings[::-1], rings[:1], rings[1:])):
            emit()

    def discard(self) -> None:
        """Remove the only appointment; a completed job stays completed. The job may send an event, too."""
        self.visit.scheduled = None
        if self.status == "scheduled":
            self.status = "needs scheduling"
        self.post("job.appointment.appointment_discarded", appointment={"id": "appt_1", "job_id": self.visit.id})
        if self.maybe(0.3):
            self.send("job.updated")

    def start(self) -> None:
        self.status = "in progress"
        self.send("job.started")

    def complete(self) -> None:
        self.status, self.visit.completed = "complete unrated", self.now
        self.send("job.completed")

    def reopen(self) -> None:
        self.status, self.visit.completed, self.visit.opted_out = "in progress", None, not self.notified
        self.send("job.updated")

    def rate(self) -> None:
        self.status, self.visit.opted_out = "complete rated", True
        self.send("job.updated")

    def cancel(self) -> None:
        self.status = self.rng.choice(("user canceled", "pro canceled"))
        self.visit.cancelled, self.visit.completed = self.now, None
        self.visit.opted_out = not self.notified
        self.send(self.rng.choice(("job.canceled", "job.updated", "job.deleted")))

    def change(self) -> None:
        self.visit.who = self.person()
        self.send("job.updated")

    def mute(self) -> None:
        self.notified = not self.notified
        self.visit.opted_out = not self.notified or self.status == "complete rated"
        self.send("job.updated")

    def pay(self) -> None:
        """Pay an invoice. Of two invoices, neither event mentions the other."""
        invoice_number = self.rng.randrange(len(self.owed))
        self.owed[invoice_number] = 0 if self.maybe(0.7) else self.owed[invoice_number] // 2
        self.collected()
        rings = [lambda: self.send("job.paid"), lambda: self.invoice("invoice.paid", invoice_number)]
        events = (rings, rings[::-1], rings[1:], rings[:1])
        for emit in self.rng.choice(events if len(self.owed) == 1 else events[:3]):
            emit()

    def refund(self) -> None:
        """Refund an invoice. The job reports it later, or never."""
        invoice_number = self.rng.randrange(len(self.owed))
        if self.owed[invoice_number] < self.totals[invoice_number]:
            self.owed[invoice_number] = self.totals[invoice_number]
            self.collected()
            self.invoice("invoice.refund.succeeded", invoice_number)

    def void(self) -> None:
        """Void an invoice, paid or not; it keeps its amounts. The job reports it later, or never."""
        invoice_number = self.rng.randrange(len(self.owed))
        body = self.invoice_body(invoice_number)
        self.owed[invoice_number] = self.totals[invoice_number]
        self.collected()
        kind, status = self.rng.choice((("voided", "voided"), ("canceled", "canceled"), ("updated", "voided")))
        self.post(f"invoice.{kind}", invoice={**body, "status": status})

    def unpay(self) -> None:
        """Remove the payments of an invoice."""
        invoice_number = self.rng.randrange(len(self.owed))
        self.owed[invoice_number] = self.totals[invoice_number]
        self.collected()
        rings = [lambda: self.send("job.updated"), lambda: self.invoice("invoice.updated", invoice_number)]
        for emit in self.rng.choice((rings, rings[::-1])):
            emit()

    def collected(self) -> None:
        cents = sum(self.totals) - sum(self.owed)
        self.visit.paid = Decimal(cents) / 100 if cents else None

    # -- webhooks --

    notified = True

    def invoice(self, kind: str, invoice_number: int) -> None:
        self.post(kind, invoice=self.invoice_body(invoice_number))

    def invoice_body(self, invoice_number: int) -> dict[str, Any]:
        total, owed = self.totals[invoice_number], self.owed[invoice_number]
        return {
            "id": f"invoice_{invoice_number}", "job_id": self.visit.id, "amount": total, "due_amount": owed,
            "payments": [{"status": "succeeded", "amount": total - owed}, {"status": "failed", "amount": 7}],
        }  # fmt: skip

    def send(self, kind: str) -> None:
        visit, who = self.visit, self.visit.who
        assert who
        start = visit.scheduled
        is_off = visit.cancelled is not None
        self.post(kind, job={
            "id": visit.id, "work_status": self.status, "total_amount": sum(self.totals),
            "outstanding_balance": sum(self.owed),
            "customer": {
                "id": "cus_1", "first_name": who.first, "last_name": who.last, "email": who.email,
                "mobile_number": None, "home_number": None, "work_number": None, "notifications_enabled": self.notified,
            },
            "work_timestamps": {
                "on_my_way_at": None, "started_at": None,
                "completed_at": format_time(visit.completed) if visit.completed else None,
            },
            "schedule": {
                "scheduled_start": format_time(start) if start else None,
                "scheduled_end": format_time(start + timedelta(hours=2)) if start else None,
            },
            "canceled_at": format_time(self.now_cancelled) if is_off and self.status == "user canceled" else None,
            "deleted_at": format_time(self.now_cancelled) if is_off and self.status == "pro canceled" else None,
            "updated_at": format_time(self.now),
        })  # fmt: skip

    @property
    def now_cancelled(self) -> Any:
        return self.visit.cancelled

    def post(self, kind: str, **record: Any) -> None:
        body = {"event": kind, "event_occurred_at": format_time(self.now), "company_id": "c1", **record}
        self.emit(body, f"{kind} {record.get('job', {}).get('work_status', '')}")
