"""A model of ServiceM8.

An event names a job, which is fetched with its contacts, appointments and payments. They change without an event that
Doorbell subscribes to, so the next fetch shows the change. The job has no time of its cancel.
"""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, uuid5
from zoneinfo import ZoneInfo

from tests.histories import SOME_TIME, Person, ToolModel, Visit

ZONE, NEVER = ZoneInfo("Australia/Sydney"), "0000-00-00 00:00:00"


class Tool(ToolModel):
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job, self.company = (str(uuid5(NAMESPACE_URL, f"{name} {self.name}")) for name in ("job", "company"))
        self.status, self.is_there, self.finished = "", True, NEVER
        self.job_contact: Person | None = None
        self.customer = self.person()
        self.planned: list[datetime] = []
        self.payments: list[tuple[Decimal, bool]] = []

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book, self.book, self.quote]
        if not self.is_there:
            return [self.restore]
        change = {
            "Quote": [self.accept, self.accept, self.give_up],
            "Work Order": [self.plan, self.plan, self.complete, self.complete, self.pay, self.give_up],
            "Completed": [self.pay, self.pay, self.reopen, self.give_up],
            "Unsuccessful": [self.reopen],
        }[self.status]
        return [*change, self.rename, self.correct, self.unpay, self.unplan, self.delete]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self, status: str = "Work Order") -> None:
        self.visits = [Visit(self.job, ids=[self.job])]
        self.job_contact = self.person() if self.maybe() else None
        self.planned = [self.future_time()] if self.maybe(0.8) else []
        self.become(status)

    def quote(self) -> None:
        self.book("Quote")

    def accept(self) -> None:
        self.become("Work Order")

    def plan(self) -> None:
        """Add an appointment, or replace all of them."""
        self.planned = [*(self.planned if self.maybe() else []), self.future_time()]
        self.become(self.status)

    def complete(self) -> None:
        """Complete the job. Without a date, it counts from the first observation."""
        self.finished = self.stamp(self.now) if self.maybe(0.8) else NEVER
        self.become("Completed")

    def reopen(self) -> None:
        """Reopen the job. Its completion date may remain."""
        self.finished = self.rng.choice((self.finished, NEVER))
        self.become("Work Order")

    def give_up(self) -> None:
        self.become("Unsuccessful")

    def pay(self) -> None:
        self.payments.append((self.money(), True))
        self.become(self.status)

    def unpay(self) -> None:
        """Delete a payment, without an event."""
        self.payments = [(amount, False) for amount, _ in self.payments]
        self.stand()

    def unplan(self) -> None:
        self.planned = self.planned[1:]
        self.stand()

    def rename(self) -> None:
        """Change the contact of the job, or remove it."""
        self.job_contact = self.person() if self.maybe(0.7) else None
        self.become(self.status)

    def correct(self) -> None:
        self.customer = self.person()
        self.stand()

    def delete(self) -> None:
        self.is_there = False
        self.become(self.status)

    def restore(self) -> None:
        self.is_there = True
        self.become(self.status)

    def become(self, status: str) -> None:
        self.status = status
        self.stand()
        self.send()

    def stand(self) -> None:
        visit = self.visit
        visit.who, visit.scheduled = self.job_contact or self.customer, min(self.planned, default=None)
        finished: Any = SOME_TIME if self.finished == NEVER else self.local(self.finished)
        visit.completed = finished if self.status == "Completed" else None
        visit.cancelled = SOME_TIME if not self.is_there or self.status in ("Quote", "Unsuccessful") else None
        visit.paid = sum((amount for amount, counts in self.payments if counts), Decimal()) or None

    # -- webhooks and records --

    def send(self) -> None:
        first_contact = {"uuid": self.job, "changed_fields": ["status"], "time": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}
        body: dict[str, Any] = {
            "object": "job",
            "entry": [first_contact],
            "resource_url": "https://example.com/elsewhere",
        }
        wrapped = {"eventVersion": "1.0", "eventName": "webhook_subscription", "auth": {}, "eventArgs": body}
        self.emit(wrapped if self.maybe(0.3) else body, f"{self.status} {self.is_there} {self.planned}")

    def owns(self, key: str) -> bool:
        return ".json" in key and (self.job in key or self.company in key)

    def answer(self, key: str) -> Any:
        collection = key.partition(".json")[0]
        active = self.rng.choice((1, "1"))
        match collection:
            case "jobcontact":
                contacts = [self.contact(self.job_contact, type="JOB")] if self.job_contact else []
                return contacts and [self.contact(self.customer, type="BILLING"), *contacts]
            case "jobactivity":
                arrived = {"active": 1, "start_date": self.stamp(self.now), "activity_was_scheduled": 0}
                starts = [{"start_date": self.stamp(start), "activity_was_scheduled": active} for start in self.planned]
                return [arrived, *({"active": active, **start} for start in starts)]
            case "jobpayment":
                return [{"active": int(counts), "amount": f"{amount:.4f}"} for amount, counts in self.payments]
            case "companycontact":
                first_contact = self.contact(Person("other@example.com", "Old", "Address"), is_primary_contact="0")
                return [first_contact, self.contact(self.customer, is_primary_contact="1")]
        return {
            "uuid": self.job, "active": active if self.is_there else 0, "status": self.status,
            "company_uuid": self.company, "completion_date": self.finished, "edit_date": self.stamp(self.now),
        }  # fmt: skip

    def contact(self, who: Person, **kwargs: Any) -> dict[str, Any]:
        return {"active": 1, "first": who.first, "last": who.last, "email": who.email, "mobile": "", **kwargs}

    def stamp(self, moment: datetime) -> str:
        return f"{moment.astimezone(ZONE):%Y-%m-%d %H:%M:%S}"

    def local(self, stamp: str) -> datetime:
        return datetime.fromisoformat(stamp).replace(tzinfo=ZONE)
