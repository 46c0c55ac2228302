"""SimplyBook.me: a callback names the booking, whose details are asked for by JSON-RPC. They do not say that it was
cancelled, and two callbacks may be the same to the byte. Clients are corrected without a callback, so the next fetch tells
it."""

import hashlib
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from tests.histories import SOME_TIME, Life, Visit

COMPANY, ZONE = "demo", ZoneInfo("Europe/Berlin")


class Tool(Life):
    tells_all = records_end = False

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.cancelled:
            return [self.remind]
        return [self.move, self.move, self.correct, self.cancel, self.remind]

    def book(self) -> None:
        id = f"{COMPANY}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.hour(), who=self.person())]
        self.say("create")

    def move(self) -> None:
        self.visit.scheduled = self.hour()
        self.say("change")

    def correct(self) -> None:
        self.visit.who = self.person()

    def cancel(self) -> None:
        self.visit.cancelled = SOME_TIME
        self.say("cancel")

    def remind(self) -> None:
        self.say("notify")

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

    def say(self, kind: str) -> None:
        hash = hashlib.md5(self.name.encode()).hexdigest()
        body = {"booking_id": self.name, "booking_hash": hash, "company": COMPANY, "notification_type": kind}
        self.ring(body, kind)
