"""A model of SimplyBook.me.

A callback names the booking, whose details are fetched by JSON-RPC. They do not show a cancel, and two callbacks may be
identical to the byte. Clients are corrected without a callback, so the next fetch shows the correction.
"""

import hashlib
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from tests.histories import SOME_TIME, ToolModel, Visit

COMPANY, ZONE = "demo", ZoneInfo("Europe/Berlin")


class Tool(ToolModel):
    announces_all = records_show_cancel = False

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.cancelled:
            return [self.remind]
        return [self.move, self.move, self.correct, self.cancel, self.remind]

    def book(self) -> None:
        id = f"{COMPANY}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.future_time(), who=self.person())]
        self.send("create")

    def move(self) -> None:
        self.visit.scheduled = self.future_time()
        self.send("change")

    def correct(self) -> None:
        self.visit.who = self.person()

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.send("cancel")

    def remind(self) -> None:
        self.send("notify")

    def owns(self, key: str) -> bool:
        return key == self.name and bool(self.visits)

    def answer(self, key: str) -> Any:
        visit, who = self.visit, self.visit.who
        assert visit.scheduled
        assert who
        booking = {
            "id": self.name, "client_name": f"{who.first} {who.last}", "client_email": who.email, "client_phone": None,
            "start_date_time": f"{visit.scheduled.astimezone(ZONE):%Y-%m-%d %H:%M:%S}",
        }  # fmt: skip
        return {"result": booking, "id": 1, "jsonrpc": "2.0"}

    def send(self, kind: str) -> None:
        hash = hashlib.md5(self.name.encode()).hexdigest()
        body = {"booking_id": self.name, "booking_hash": hash, "company": COMPANY, "notification_type": kind}
        self.emit(body, kind)
