"""ServiceM8: an event names a job, which is asked for with its contacts, appointments and payments. They change without an
event that we listen to, so the next fetch tells it; and the job does not say when it was given up."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, uuid5
from zoneinfo import ZoneInfo

from tests.histories import SOME_TIME, Life, Person, Visit

ZONE, NEVER = ZoneInfo("Australia/Sydney"), "0000-00-00 00:00:00"


class Tool(Life):
    tells_all = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.job, self.company = (str(uuid5(NAMESPACE_URL, f"{what} {self.name}")) for what in ("job", "company"))
        self.status, self.is_there, self.finished = "", True, NEVER
        self.named: Person | None = None
        self.customer = self.person()
        self.planned: list[datetime] = []
        self.payments: list[tuple[Decimal, bool]] = []

    def acts(self) -> list[Callable[[], None]]:
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
        self.named = self.person() if self.maybe() else None
        self.planned = [self.hour()] if self.maybe(0.8) else []
        self.become(status)

    def quote(self) -> None:
        self.book("Quote")

    def accept(self) -> None:
        self.become("Work Order")

    def plan(self) -> None:
        """One appointment more, or all anew."""
        self.planned = [*(self.planned if self.maybe() else []), self.hour()]
        self.become(self.status)

    def complete(self) -> None:
        """Sometimes without a date: then it is when it was first seen."""
        self.finished = self.stamp(self.now) if self.maybe(0.8) else NEVER
        self.become("Completed")

    def reopen(self) -> None:
        """When it was finished may go on standing there."""
        self.finished = self.dice.choice((self.finished, NEVER))
        self.become("Work Order")

    def give_up(self) -> None:
        self.become("Unsuccessful")

    def pay(self) -> None:
        self.payments.append((self.money(), True))
        self.become(self.status)

    def unpay(self) -> None:
        """Taken back, without a word."""
        self.payments = [(amount, False) for amount, _ in self.payments]
        self.stand()

    def unplan(self) -> None:
        self.planned = self.planned[1:]
        self.stand()

    def rename(self) -> None:
        """Somebody else is named for the job, or nobody."""
        self.named = self.person() if self.maybe(0.7) else None
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
        self.say()

    def stand(self) -> None:
        """As the records say it."""
        visit = self.visit
        visit.who, visit.scheduled = self.named or self.customer, min(self.planned, default=None)
        finished: Any = SOME_TIME if self.finished == NEVER else self.local(self.finished)
        visit.completed = finished if self.status == "Completed" else None
        visit.cancelled = SOME_TIME if not self.is_there or self.status in ("Quote", "Unsuccessful") else None
        visit.paid = sum((amount for amount, counts in self.payments if counts), Decimal()) or None

    # -- what is sent and answered --

    def say(self) -> None:
        entry = {"uuid": self.job, "changed_fields": ["status"], "time": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}
        body: dict[str, Any] = {"object": "job", "entry": [entry], "resource_url": "https://example.com/elsewhere"}
        wrapped = {"eventVersion": "1.0", "eventName": "webhook_subscription", "auth": {}, "eventArgs": body}
        self.ring(wrapped if self.maybe(0.3) else body, f"{self.status} {self.is_there} {self.planned}")

    def owns(self, key: str) -> bool:
        return ".json" in key and (self.job in key or self.company in key)

    def answer(self, key: str) -> Any:
        what = key.partition(".json")[0]
        active = self.dice.choice((1, "1"))
        match what:
            case "jobcontact":
                named = [self.contact(self.named, type="JOB")] if self.named else []
                return named and [self.contact(self.customer, type="BILLING"), *named]
            case "jobactivity":
                arrived = {"active": 1, "start_date": self.stamp(self.now), "activity_was_scheduled": 0}
                starts = [{"start_date": self.stamp(start), "activity_was_scheduled": active} for start in self.planned]
                return [arrived, *({"active": active, **start} for start in starts)]
            case "jobpayment":
                return [{"active": int(counts), "amount": f"{amount:.4f}"} for amount, counts in self.payments]
            case "companycontact":
                other = self.contact(Person("other@example.com", "Old", "Address"), is_primary_contact="0")
                return [other, self.contact(self.customer, is_primary_contact="1")]
        return {
            "uuid": self.job, "active": active if self.is_there else 0, "status": self.status,
            "company_uuid": self.company, "completion_date": self.finished, "edit_date": self.stamp(self.now),
        }  # fmt: skip

    def contact(self, who: Person, **more: Any) -> dict[str, Any]:
        return {"active": 1, "first": who.first, "last": who.last, "email": who.email, "mobile": "", **more}

    def stamp(self, moment: datetime) -> str:
        return f"{moment.astimezone(ZONE):%Y-%m-%d %H:%M:%S}"

    def local(self, stamp: str) -> datetime:
        return datetime.fromisoformat(stamp).replace(tzinfo=ZONE)
