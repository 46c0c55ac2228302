"""Housecall Pro: every event of a job carries the whole job; invoices and appointments have events of their own. All times
are whole seconds. A job may have two invoices. The customer may be changed, or want no messages; who has rated already is
not asked again."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from tests.histories import Life, Visit, written

NAMES = {"scheduled": "job.scheduled", "needs scheduling": "job.created"}


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.status, self.totals, self.owed = "scheduled", [0], [0]

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.open]
        if self.status in ("user canceled", "pro canceled"):
            return [self.schedule]
        acts = [self.schedule, self.move, self.move, self.cancel, self.change, self.mute, self.pay, self.refund]
        acts += [self.discard] if self.visit.scheduled else []
        return acts + ([self.reopen, self.rate] if self.status.startswith("complete") else [self.start, self.complete])

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def open(self) -> None:
        """A job without a time."""
        id = f"job_{self.name}"
        self.visits = [Visit(id, ids=[id], who=self.person())]
        self.status = "needs scheduling"
        self.totals = [int(self.money() * 100) for _ in range(self.dice.choice((1, 1, 2)))]
        self.owed = [*self.totals]
        self.say("job.created")

    def book(self) -> None:
        self.open()
        self.visit.scheduled, self.status = self.hour(), "scheduled"
        self.rung.clear()
        self.say("job.created")
        if self.maybe():
            self.say("job.scheduled")

    def schedule(self) -> None:
        """Also anew, after a cancel: nothing of the old appointment stands."""
        self.visit.scheduled, self.visit.cancelled, self.visit.completed = self.hour(), None, None
        self.status, self.visit.opted_out = "scheduled", not self.notified
        self.say("job.scheduled")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        if self.status == "needs scheduling":
            self.status = "scheduled"
        appointment = {"id": "appt_1", "job_id": self.visit.id, "start_time": written(self.visit.scheduled)}
        rings = [
            lambda: self.say("job.updated"),
            lambda: self.tell("job.appointment.rescheduled", appointment=appointment),
        ]
        for ring in self.dice.choice((rings, rings[::-1], rings[:1], rings[1:])):
            ring()

    def discard(self) -> None:
        """Its only appointment is removed; a job that is done stays done. The job may say so, too."""
        self.visit.scheduled = None
        if self.status == "scheduled":
            self.status = "needs scheduling"
        self.tell("job.appointment.appointment_discarded", appointment={"id": "appt_1", "job_id": self.visit.id})
        if self.maybe(0.3):
            self.say("job.updated")

    def start(self) -> None:
        self.status = "in progress"
        self.say("job.started")

    def complete(self) -> None:
        self.status, self.visit.completed = "complete unrated", self.now
        self.say("job.completed")

    def reopen(self) -> None:
        self.status, self.visit.completed, self.visit.opted_out = "in progress", None, not self.notified
        self.say("job.updated")

    def rate(self) -> None:
        self.status, self.visit.opted_out = "complete rated", True
        self.say("job.updated")

    def cancel(self) -> None:
        self.status = self.dice.choice(("user canceled", "pro canceled"))
        self.visit.cancelled, self.visit.completed = self.now, None
        self.visit.opted_out = not self.notified
        self.say(self.dice.choice(("job.canceled", "job.updated", "job.deleted")))

    def change(self) -> None:
        self.visit.who = self.person()
        self.say("job.updated")

    def mute(self) -> None:
        self.notified = not self.notified
        self.visit.opted_out = not self.notified or self.status == "complete rated"
        self.say("job.updated")

    def pay(self) -> None:
        """Of two invoices each has to be heard of: neither says anything of the other."""
        which = self.dice.randrange(len(self.owed))
        self.owed[which] = 0 if self.maybe(0.7) else self.owed[which] // 2
        self.collected()
        rings = [lambda: self.say("job.paid"), lambda: self.invoice("invoice.paid", which)]
        told = (rings, rings[::-1], rings[1:], rings[:1])
        for ring in self.dice.choice(told if len(self.owed) == 1 else told[:3]):
            ring()

    def refund(self) -> None:
        """The job tells it some time later, if at all."""
        which = self.dice.randrange(len(self.owed))
        if self.owed[which] < self.totals[which]:
            self.owed[which] = self.totals[which]
            self.collected()
            self.invoice("invoice.refund.succeeded", which)

    def collected(self) -> None:
        cents = sum(self.totals) - sum(self.owed)
        self.visit.paid = Decimal(cents) / 100 if cents else None

    # -- what is sent --

    notified = True

    def invoice(self, kind: str, which: int) -> None:
        total, owed = self.totals[which], self.owed[which]
        self.tell(kind, invoice={
            "id": f"invoice_{which}", "job_id": self.visit.id, "amount": total, "due_amount": owed,
            "payments": [{"status": "succeeded", "amount": total - owed}, {"status": "failed", "amount": 7}],
        })  # fmt: skip

    def say(self, kind: str) -> None:
        visit, who = self.visit, self.visit.who
        assert who
        start = visit.scheduled
        is_off = visit.cancelled is not None
        self.tell(kind, job={
            "id": visit.id, "work_status": self.status, "total_amount": sum(self.totals),
            "outstanding_balance": sum(self.owed),
            "customer": {
                "id": "cus_1", "first_name": who.first, "last_name": who.last, "email": who.email,
                "mobile_number": None, "home_number": None, "work_number": None, "notifications_enabled": self.notified,
            },
            "work_timestamps": {
                "on_my_way_at": None, "started_at": None,
                "completed_at": written(visit.completed) if visit.completed else None,
            },
            "schedule": {
                "scheduled_start": written(start) if start else None,
                "scheduled_end": written(start + timedelta(hours=2)) if start else None,
            },
            "canceled_at": written(self.now_cancelled) if is_off and self.status == "user canceled" else None,
            "deleted_at": written(self.now_cancelled) if is_off and self.status == "pro canceled" else None,
            "updated_at": written(self.now),
        })  # fmt: skip

    @property
    def now_cancelled(self) -> Any:
        return self.visit.cancelled

    def tell(self, kind: str, **record: Any) -> None:
        body = {"event": kind, "event_occurred_at": written(self.now), "company_id": "c1", **record}
        self.ring(body, f"{kind} {record.get('job', {}).get('work_status', '')}")
