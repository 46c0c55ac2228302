"""Jane: an event names an appointment, which is asked for with its patient. A no-show, an archived appointment and a changed
patient do not ring: the next fetch tells them."""

from collections.abc import Callable
from typing import Any

from tests.histories import Life, Visit, written

CLINIC = "11111111-2222-4333-8444-555555555555"


class Tool(Life):
    tells_all = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.is_archived = False

    def acts(self) -> list[Callable[[], None]]:
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
        self.visits = [Visit(id, ids=[id], scheduled=self.hour(), who=self.person())]
        self.say("APPOINTMENT_BOOKED")

    def move(self) -> None:
        self.visit.scheduled, self.visit.missed = self.hour(), None
        self.say("APPOINTMENT_RESCHEDULED")

    def cancel(self) -> None:
        self.visit.cancelled, self.visit.missed = self.now, None
        self.say("APPOINTMENT_CANCELLED")

    def restore(self) -> None:
        self.visit.cancelled = None
        self.say("APPOINTMENT_UNCANCELLED")

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
            no_mail = self.dice.choice(("do_not_email", "send_marketing_emails"))
            wishes = {"do_not_email": False, "send_marketing_emails": True}
            wishes[no_mail] = wishes[no_mail] is not visit.opted_out
            return {"id": key, "first_name": who.first, "last_name": who.last, "email": who.email, **wishes}
        state = "cancelled" if visit.cancelled else "no_show" if visit.missed else "booked"
        ended = "archived_at" if self.is_archived else "cancelled_at"
        return {
            "id": key, "start_at": written(visit.scheduled), "patient_id": f"patient-{self.name}",
            "no_show_at": visit.missed and written(visit.missed), "cancelled_at": None, "archived_at": None,
            "state": "archived" if self.is_archived else state, ended: visit.cancelled and written(visit.cancelled),
        }  # fmt: skip

    def say(self, topic: str) -> None:
        self.ring({
            "event_id": self.mint("evt-{}"), "event_topic": topic, "event_timestamp": written(self.now),
            "appointment_id": self.name, "clinic_guid": CLINIC, "version": "2026-01-01",
        }, topic)  # fmt: skip
