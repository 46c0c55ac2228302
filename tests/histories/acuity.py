"""A model of Acuity Scheduling.

A form names the appointment, whose record is fetched. Two deliveries may be identical to the byte. `changed` is sent in
addition to other events; cancellations have no time.
"""

from collections.abc import Callable
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

from tests.histories import SOME_TIME, ToolModel, Visit


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.id = str(self.rng.randrange(10**14, 10**15))
        self.says_cancelled = self.records_show_cancel = self.maybe(0.8)

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.cancelled:
            return ([self.restore] if self.says_cancelled else []) + [self.unmark if self.visit.missed else self.miss]
        return [self.move, self.move, self.change, self.pay, self.cancel]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        self.visits = [Visit(self.id, ids=[self.id], scheduled=self.future_time(), who=self.person())]
        self.visit.paid = self.money() if self.maybe(0.3) else None
        self.send("scheduled")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("rescheduled")

    def change(self) -> None:
        self.visit.who = self.person()
        self.send("changed")

    def pay(self) -> None:
        self.visit.paid = self.money() if self.maybe(0.8) else None
        self.send("changed")

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.send("canceled")

    def restore(self) -> None:
        self.visit.cancelled = self.visit.missed = None
        self.send("changed")

    def miss(self) -> None:
        self.visit.missed = SOME_TIME
        self.send("changed")

    def unmark(self) -> None:
        self.visit.missed = None
        self.send("changed")

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

    def send(self, action: str) -> None:
        prefix = "appointment." if self.maybe(0.2) else ""
        actions = [action, "changed"] if self.maybe(0.3) else [action]
        for each in actions:
            body = f"action={prefix}{each}&id={self.id}&calendarID=1&appointmentTypeID=2".encode()
            self.emit(body, each, **{"content-type": "application/x-www-form-urlencoded"})
