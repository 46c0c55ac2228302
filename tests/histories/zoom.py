"""Zoom Scheduler: a booking is created or cancelled, and nothing else rings. A move is both, under a new id; newer
deliveries name the other half on one of the two or on both, older ones on none: then an old visit ends and a new one
begins."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.histories import Life, Visit, written


class Tool(Life):
    tick = timedelta(milliseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.is_older = self.maybe(0.2)

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits or self.visits[-1].cancelled:
            return [self.book] if len(self.visits) < 3 else []
        return [self.move, self.move, self.move, self.cancel]

    def book(self) -> None:
        id = self.mint("evt-{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.hour(), who=self.person()))
        self.say("created")

    def cancel(self) -> None:
        self.visits[-1].cancelled = self.now
        self.say("canceled")

    def move(self) -> None:
        old, new = self.visits[-1], self.mint("evt-{}")
        names_new, names_old = self.dice.choice(((True, True), (True, False), (False, True)))
        if self.is_older:
            old.cancelled = self.now
            self.say("canceled", rescheduled=True)
            self.visits.append(Visit(new, ids=[new], scheduled=self.hour(), who=old.who))
            self.say("created", rescheduled=True)
            return
        self.say("canceled", {"rescheduled_to_event_id": new} if names_new else {}, rescheduled=True)
        before = old.ids[-1]
        old.ids.append(new)
        old.scheduled = self.hour()
        if self.maybe(0.2):
            old.who = self.person()
        self.say("created", {"rescheduled_from_event_id": before} if names_old else {}, rescheduled=True)

    def say(self, what: str, link: dict[str, str] | None = None, rescheduled: bool = False) -> None:
        """Where the link stands is not shown: beside the event, or in it."""
        visit, is_inside = self.visits[-1], self.maybe()
        assert visit.scheduled
        assert visit.who
        link = link or {}
        event = {
            "event_id": visit.ids[-1], "start_date_time": written(visit.scheduled),
            "end_date_time": written(visit.scheduled + timedelta(minutes=30)), **(link if is_inside else {}),
        }  # fmt: skip
        booking = {
            "invitee_id": f"inv-{visit.ids[-1]}", "invitee_email": visit.who.email,
            "invitee_first_name": visit.who.first, "invitee_last_name": visit.who.last, "rescheduled": rescheduled,
            "questions_and_answers": [], "scheduled_event": event, **({} if is_inside else link),
        }  # fmt: skip
        kind, happened = f"scheduler.scheduled_event_{what}", round(self.now.timestamp() * 1000)
        body = {"event": kind, "event_ts": happened, "payload": {"account_id": "ACC", "object": booking}}
        self.ring(body, f"{kind} {visit.ids[-1]} {link}")
