"""A model of Workiz.

Every event of a job has its whole state, though some automations omit the client or the time; the time is in the account's
zone. The amount paid is in the job, as total and due, and in its one or two invoices, as payments.
"""

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from tests.histories import ToolModel, Visit, format_time

DENVER = ZoneInfo("America/Denver")


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.status, self.sub = "Submitted", ""
        self.cents, self.payments = 0, list[int]()
        self.has_two_invoices = self.maybe(0.3)

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.open]
        if self.status == "Deleted":
            return []
        actions = [self.again, self.pay, self.move, self.swap]
        if self.status in ("Done", "Canceled"):
            return [*actions, self.reopen, self.miss] if self.sub else [*actions, self.reopen]
        return [*actions, self.move, self.complete, self.cancel, self.miss, self.delete]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def open(self) -> None:
        """Create a job without a time."""
        self.visits = [Visit(self.name, ids=[self.name], who=self.person())]
        self.cents = int(self.money() * 100)
        self.send("job_created", whole=True)

    def book(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name], who=self.person(), scheduled=self.future_time())]
        self.cents = int(self.money() * 100)
        self.send("job_created", whole=True)

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send(self.rng.choice(("job_rescheduled", "job_updated")), whole=True)

    def swap(self) -> None:
        self.visit.who = self.person()
        self.send("job_updated", whole=True)

    def again(self) -> None:
        """Trigger another automation, or change a note."""
        self.send("job_updated")

    def complete(self) -> None:
        self.status, self.visit.completed = "Done", self.now
        self.send("job_status_changed")

    def reopen(self) -> None:
        self.status, self.sub = self.rng.choice(("Pending", "In Progress", "Submitted", "new")), ""
        self.visit.completed = self.visit.cancelled = self.visit.missed = None
        self.send("job_status_changed")

    def cancel(self) -> None:
        self.status, self.visit.cancelled = "Canceled", self.now
        self.send("job_status_changed")

    def miss(self) -> None:
        self.visit.missed = self.visit.missed or self.now
        self.status, self.sub = "Canceled", self.rng.choice(("No Show", "no-show"))
        self.send("job_status_changed")

    def delete(self) -> None:
        self.status, self.visit.cancelled = "Deleted", self.now
        self.deliver("job_deleted", {"uuid": self.name, "status": "Pending"})

    def pay(self) -> None:
        paid = self.money()
        self.payments.append(int(paid * 100))
        self.cents = max(self.cents, sum(self.payments))
        self.visit.paid = sum((paid * 0 + cents for cents in self.payments), paid * 0) / 100
        rings = [self.again, self.bill]
        # An invoice has only its own payments.
        alone = (rings[:1],) if self.has_two_invoices else (rings[:1], rings[1:])
        for emit in self.rng.choice((rings, rings[::-1], *alone)):
            emit()

    # -- webhooks --

    def bill(self) -> None:
        """Send the invoice that was paid last, of one or two alternating invoices."""
        invoices = 2 if self.has_two_invoices else 1
        number = (len(self.payments) - 1) % invoices
        on_it = self.payments[number::invoices]
        paid = [{"id": f"PAY-{n}", "amount": cents / 100, "tipAmount": 1} for n, cents in enumerate(on_it)]
        failed = {"id": "PAY-x", "amount": 7, "status": "Declined"}
        self.deliver("invoice_paid", {"id": f"IV-{self.name}-{number}", "uuid": self.name, "payments": [*paid, failed]})

    def send(self, kind: str, whole: bool = False) -> None:
        who, starts = self.visit.who, self.visit.scheduled
        assert who
        job: dict[str, Any] = {"uuid": self.name, "status": self.status, "subStatus": self.sub}
        job |= {"totalPrice": self.cents / 100, "amountDue": (self.cents - sum(self.payments)) / 100}
        if whole or self.maybe():
            job["clientInfo"] = {"firstName": who.first, "lastName": who.last, "email": who.email, "primaryPhone": ""}
        if whole or self.maybe():
            job["date"] = starts.astimezone(DENVER).strftime("%Y-%m-%d %H:%M:%S") if starts else ""
        self.deliver(kind, job)

    def deliver(self, kind: str, data: dict[str, Any]) -> None:
        trigger = {"type": kind, "timestamp": format_time(self.now)}
        body = {"trigger": trigger, "data": data, "metadata": {"automationId": f"auto_{self.rng.randrange(3)}"}}
        self.emit(body, f"{kind} {data.get('status', '')} {data.get('date', '')}")
