"""A model of Gingr.

Only check-ins and check-outs cause webhooks, each for a reservation that is found through its owner. The unsigned data in
the event is wrong on purpose. The same event is identical to the byte.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.histories import ToolModel, Visit


class Tool(ToolModel):
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = f"owner-{self.name}"

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.arrive]
        if self.visit.cancelled:
            return [self.restore, self.correct]
        if self.visit.completed:
            return [self.undo, self.correct, self.leave]
        return [self.move, self.cancel, self.correct, self.come, self.leave, self.leave]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def arrive(self) -> None:
        self.visits = [Visit(self.name, ids=[self.name], scheduled=self.future_time(), who=self.person())]
        self.come()

    def come(self) -> None:
        self.send(self.rng.choice(("checking_in", "check_in", "checking_out")))

    def leave(self) -> None:
        self.visit.completed = self.visit.completed or self.now
        self.send("check_out")

    # -- actions without a webhook --

    def undo(self) -> None:
        self.visit.completed = None

    def move(self) -> None:
        self.visit.scheduled = self.future_time()

    def cancel(self) -> None:
        self.visit.cancelled = self.now

    def restore(self) -> None:
        self.visit.cancelled = None

    def correct(self) -> None:
        self.visit.who = self.person()

    # -- records and webhooks --

    def owns(self, key: str) -> bool:
        return bool(self.visits) and key in (self.name, self.owner)

    def answer(self, key: str) -> Any:
        visit, who = self.visit, self.visit.who
        assert who
        if key == self.name:
            owner = {"id": self.owner, "first_name": who.first, "last_name": who.last, "email": who.email}
            return {"success": True, "error": False, "data": owner}
        row = {
            "r_id": self.name, "start_date": self.seconds(visit.scheduled), "cancel_stamp": self.seconds(visit.cancelled),
            "check_out_stamp": self.seconds(visit.completed),
        }  # fmt: skip
        earlier_row = {**row, "r_id": f"before-{self.name}", "check_out_stamp": "1500000000"}
        rows: Any = [earlier_row, row] if self.maybe() else {f"before-{self.name}": earlier_row, self.name: row}
        return {"success": True, "error": False, "data": rows}

    def seconds(self, moment: datetime | str | None) -> str | None:
        return str(int(moment.timestamp())) if isinstance(moment, datetime) else None

    def send(self, kind: str) -> None:
        lie = {"r_id": self.name, "start_date": "1", "email": "mallory@example.com", "check_out_stamp": "2"}
        body = {"webhook_type": kind, "entity_id": self.name, "entity_type": "reservation", "entity_data": lie}
        self.emit(body, kind)
