"""A model of Zoom Scheduler.

There are events only for a created and a cancelled booking. A move is both, with a new id; newer deliveries name the other
half in one of the two or in both, older ones in none: then the old visit ends and a new one begins.

Some histories have a few group events with several invitees each: they book, cancel, book again, and move to another event
and back. Each delivery has an invitee id or, as before August 2026, none.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.visits.change import attendee_visit_id
from tests.histories import Person, ToolModel, Visit, format_time


class Tool(ToolModel):
    tick = timedelta(milliseconds=1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_older = self.maybe(0.2)
        self.is_group = self.maybe(0.6)
        self.slots = {self.new_id("grp-{}"): self.future_time() for _ in range(2)}
        self.people = [self.person() for _ in range(self.rng.choice((2, 3)))]
        self.places: dict[str, Visit] = {}

    def actions(self) -> list[Callable[[], None]]:
        if self.is_group:
            visits_held = any(not visit.cancelled for visit in self.visits)
            return [self.join, self.join, *([self.leave, self.change] if visits_held else [])]
        if not self.visits or self.visits[-1].cancelled:
            return [self.book] if len(self.visits) < 3 else []
        return [self.move, self.move, self.move, self.cancel]

    def book(self) -> None:
        id = self.new_id("evt-{}")
        self.visits.append(Visit(id, ids=[id], scheduled=self.future_time(), who=self.person()))
        self.announce("created")

    def cancel(self) -> None:
        self.visits[-1].cancelled = self.now
        self.announce("canceled")

    def move(self) -> None:
        old, new = self.visits[-1], self.new_id("evt-{}")
        names_new, names_old = self.rng.choice(((True, True), (True, False), (False, True)))
        if self.is_older:
            old.cancelled = self.now
            self.announce("canceled", rescheduled=True)
            self.visits.append(Visit(new, ids=[new], scheduled=self.future_time(), who=old.who))
            self.announce("created", rescheduled=True)
            return
        self.announce("canceled", {"rescheduled_to_event_id": new} if names_new else {}, rescheduled=True)
        before = old.ids[-1]
        old.ids.append(new)
        old.scheduled = self.future_time()
        if self.maybe(0.2):
            old.who = self.person()
        self.announce("created", {"rescheduled_from_event_id": before} if names_old else {}, rescheduled=True)

    # -- a group event --

    def join(self) -> None:
        self.take(self.rng.choice(list(self.slots)), self.rng.choice(self.people))

    def take(self, slot: str, who: Person, link: dict[str, str] | None = None) -> None:
        id = attendee_visit_id(slot, who.email or "")
        visit = self.places.get(id)
        if visit and not visit.cancelled:
            return
        if not visit:
            visit = self.places[id] = Visit(id, ids=[id], scheduled=self.slots[slot])
            self.visits.append(visit)
        visit.who, visit.cancelled = who, None
        self.announce_group_event("created", slot, visit, link)

    def leave(self) -> None:
        self.free(*self.rng.choice(self.visits_held()))

    def free(self, slot: str, visit: Visit, link: dict[str, str] | None = None) -> None:
        visit.cancelled = self.now
        self.announce_group_event("canceled", slot, visit, link)

    def change(self) -> None:
        """Move an invitee to another event, perhaps one that they left before."""
        old, visit = self.rng.choice(self.visits_held())
        new = self.rng.choice([slot for slot in self.slots if slot != old])
        assert visit.who
        self.free(old, visit, {"rescheduled_to_event_id": new, "rescheduled_to_invitee_id": self.new_id("inv-{}")})
        self.take(
            new, visit.who, {"rescheduled_from_event_id": old, "rescheduled_from_invitee_id": self.new_id("inv-{}")}
        )

    def visits_held(self) -> list[tuple[str, Visit]]:
        return [(visit.id.partition(".")[0], visit) for visit in self.visits if not visit.cancelled]

    def announce_group_event(self, kind: str, slot: str, visit: Visit, link: dict[str, str] | None) -> None:
        """Send an event. The case of the address varies; the canceler may be missing."""
        who = visit.who
        assert who
        assert who.email
        assert visit.scheduled
        active = sum(place.id.startswith(slot) and not place.cancelled for place in self.visits)
        event = {
            "event_id": slot, "start_date_time": format_time(visit.scheduled), "status": "confirmed",
            "invitee_counters": {"total": len(self.visits), "active": active, "limit": 5},
        }  # fmt: skip
        booking = {
            "invitee_email": self.rng.choice((who.email, who.email.upper())), "rescheduled": bool(link),
            "invitee_first_name": who.first, "invitee_last_name": who.last, "scheduled_event": event,
            **({} if self.is_older else link or {}), **({"invitee_id": self.new_id("inv-{}")} if self.maybe() else {}),
        }  # fmt: skip
        if kind == "canceled" and self.maybe():
            booking["cancellation"] = {"cancel_at": format_time(self.now), "canceler_type": "invitee"}
        self.send(kind, booking, f"{visit.id} {link or ''}")

    # -- webhooks --

    def announce(self, kind: str, link: dict[str, str] | None = None, rescheduled: bool = False) -> None:
        """Send an event. It is not documented whether a link is next to the event or inside it, so its place varies."""
        visit, is_inside = self.visits[-1], self.maybe()
        assert visit.scheduled
        assert visit.who
        link = link or {}
        event = {
            "event_id": visit.ids[-1], "start_date_time": format_time(visit.scheduled),
            "end_date_time": format_time(visit.scheduled + timedelta(minutes=30)), **(link if is_inside else {}),
        }  # fmt: skip
        booking = {
            "invitee_id": f"inv-{visit.ids[-1]}", "invitee_email": visit.who.email,
            "invitee_first_name": visit.who.first, "invitee_last_name": visit.who.last, "rescheduled": rescheduled,
            "questions_and_answers": [], "scheduled_event": event, **({} if is_inside else link),
        }  # fmt: skip
        self.send(kind, booking, f"{visit.ids[-1]} {link}")

    def send(self, kind: str, booking: dict[str, Any], summary: str) -> None:
        kind, happened = f"scheduler.scheduled_event_{kind}", round(self.now.timestamp() * 1000)
        body = {"event": kind, "event_ts": happened, "payload": {"account_id": "ACC", "object": booking}}
        self.emit(body, f"{kind} {summary}")
