"""A model of Jane.

An event names an appointment, which is fetched with its patient. There is no event for a no-show, an archived appointment
and a changed patient: the next fetch shows them.
"""

from collections.abc import Callable
from typing import Any

from tests.histories import ToolModel, Visit, format_time

CLINIC = "11111111-2222-4333-8444-555555555555"


class Tool(ToolModel):
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_archived = False

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.is_archived:
            return []
        if self.visit.cancelled:
            return [self.restore, self.restore, self.correct, self.archive]
        if self.visit.missed:
            return [self.unmark, self.move, self.cancel]
        return [self.move, self.move, self.cancel, self.miss, self.correct, self.decline, self.archive]

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def book(self) -> None:
        id = f"{CLINIC}-{self.name}"
        self.visits = [Visit(id, ids=[id], scheduled=self.future_time(), who=self.person())]
        self.send("APPOINTMENT_BOOKED")

    def move(self) -> None:
        self.visit.scheduled, self.visit.missed = self.future_time(), None
        self.send("APPOINTMENT_RESCHEDULED")

    def cancel(self) -> None:
        self.visit.cancelled, self.visit.missed = self.now, None
        self.send("APPOINTMENT_CANCELLED")

    def restore(self) -> None:
        self.visit.cancelled = None
        self.send("APPOINTMENT_UNCANCELLED")

    def miss(self) -> None:
        self.visit.missed = self.now

    def unmark(self) -> None:
        self.visit.missed = None

    def archive(self) -> None:
        self.visit.cancelled, self.is_archived = self.visit.cancelled or self.now, True

    def correct(self) -> None:
        self.visit.who = self.person()

    def decline(self) -> None:
        self.visit.opted_out = not self.visit.opted_out

    def owns(self, key: str) -> bool:
        return key in (self.name, f"patient-{self.name}")

    def answer(self, key: str) -> Any:
        visit, who = self.visit, self.visit.who
        assert visit.scheduled
        assert who
        if key != self.name:
            no_mail = self.rng.choice(("do_not_email", "send_marketing_emails"))
            wishes = {"do_not_email": False, "send_marketing_emails": True}
            wishes[no_mail] = wishes[no_mail] is not visit.opted_out
            return {"id": key, "first_name": who.first, "last_name": who.last, "email": who.email, **wishes}
        state = "cancelled" if visit.cancelled else "no_show" if visit.missed else "booked"
        ended = "archived_at" if self.is_archived else "cancelled_at"
        return {
            "id": key, "start_at": format_time(visit.scheduled), "patient_id": f"patient-{self.name}",
            "no_show_at": visit.missed and format_time(visit.missed), "cancelled_at": None, "archived_at": None,
            "state": "archived" if self.is_archived else state, ended: visit.cancelled and format_time(visit.cancelled),
        }  # fmt: skip

    def send(self, topic: str) -> None:
        self.emit({
            "event_id": self.new_id("evt-{}"), "event_topic": topic, "event_timestamp": format_time(self.now),
            "appointment_id": self.name, "clinic_guid": CLINIC, "version": "2026-01-01",
        }, topic)  # fmt: skip
