"""Acuity: a form names the appointment, whose record is asked for. Two deliveries may be the same to the byte. `changed`
comes beside the others; nothing tells when something was cancelled."""

from collections.abc import Callable
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

from tests.histories import SOME_TIME, Life, Visit


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.id = str(self.dice.randrange(10**14, 10**15))
        self.says_cancelled = self.records_end = self.maybe(0.8)

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.cancelled:
            return ([self.restore] if self.says_cancelled else []) + [self.unmark if self.visit.missed else self.miss]
        return [self.move, self.move, self.change, self.pay, self.cancel]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.visits = [Visit(self.id, ids=[self.id], scheduled=self.hour(), who=self.person())]
        self.visit.paid = self.money() if self.maybe(0.3) else None
        self.say("scheduled")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("rescheduled")

    def change(self) -> None:
        self.visit.who = self.person()
        self.say("changed")

    def pay(self) -> None:
        self.visit.paid = self.money() if self.maybe(0.8) else None
        self.say("changed")

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.say("canceled")

    def restore(self) -> None:
        self.visit.cancelled = self.visit.missed = None
        self.say("changed")

    def miss(self) -> None:
        self.visit.missed = SOME_TIME
        self.say("changed")

    def unmark(self) -> None:
        self.visit.missed = None
        self.say("changed")

    def owns(self, key: str) -> bool:
        return key == self.id and bool(self.visits)

    def answer(self, key: str) -> Any:
        visit, who = self.visit, self.visit.who
        assert visit.scheduled
        assert who
        local = visit.scheduled.astimezone(timezone(timedelta(hours=-4)))
        paid = visit.paid or Decimal()
        record = {
            "id": int(self.id), "firstName": who.first, "lastName": who.last, "email": who.email, "phone": "",
            "datetime": local.strftime("%Y-%m-%dT%H:%M:%S%z"), "price": "75.50", "paid": "yes" if paid else "no",
            "amountPaid": f"{paid:.2f}", "noShow": visit.missed is not None,
        }  # fmt: skip
        return record | ({"canceled": visit.cancelled is not None} if self.says_cancelled else {})

    def say(self, action: str) -> None:
        prefix = "appointment." if self.maybe(0.2) else ""
        actions = [action, "changed"] if self.maybe(0.3) else [action]
        for each in actions:
            body = f"action={prefix}{each}&id={self.id}&calendarID=1&appointmentTypeID=2".encode()
            self.ring(body, each, **{"content-type": "application/x-www-form-urlencoded"})
