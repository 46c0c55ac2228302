"""Zoom Scheduler: a booking is created or cancelled, and nothing else rings. A move is both, under a new id; newer
deliveries name the other half on one of the two or on both, older ones on none: then an old visit ends and a new one
begins.

Or a few group events with several invitees each: they book, cancel, book again and move to another event and back. Each
delivery has an invitee id or, as before August 2026, none."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.visits.change import attendee_visit_id
from tests.histories import Life, Person, Visit, written


class Tool(Life):
    tick = timedelta(milliseconds=1)

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.is_older = self.maybe(0.2)
        self.is_group = self.maybe(0.6)
        self.slots = {self.mint("grp-{}"): self.hour() for _ in range(2)}
        self.people = [self.person() for _ in range(self.dice.choice((2, 3)))]
        self.places: dict[str, Visit] = {}

    def acts(self) -> list[Callable[[], None]]:
        if self.is_group:
            taken = any(not visit.cancelled for visit in self.visits)
            return [self.join, self.join, *([self.leave, self.change] if taken else [])]
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

    # -- a group event --

    def join(self) -> None:
        self.take(self.dice.choice(list(self.slots)), self.dice.choice(self.people))

    def take(self, slot: str, who: Person, link: dict[str, str] | None = None) -> None:
        id = attendee_visit_id(slot, who.email or "")
        visit = self.places.get(id)
        if visit and not visit.cancelled:
            return
        if not visit:
            visit = self.places[id] = Visit(id, ids=[id], scheduled=self.slots[slot])
            self.visits.append(visit)
        visit.who, visit.cancelled = who, None
        self.say_of("created", slot, visit, link)

    def leave(self) -> None:
        self.free(*self.dice.choice(self.taken()))

    def free(self, slot: str, visit: Visit, link: dict[str, str] | None = None) -> None:
        visit.cancelled = self.now
        self.say_of("canceled", slot, visit, link)

    def change(self) -> None:
        """To another event, perhaps one that the invitee left before."""
        old, visit = self.dice.choice(self.taken())
        new = self.dice.choice([slot for slot in self.slots if slot != old])
        assert visit.who
        self.free(old, visit, {"rescheduled_to_event_id": new, "rescheduled_to_invitee_id": self.mint("inv-{}")})
        self.take(
            new, visit.who, {"rescheduled_from_event_id": old, "rescheduled_from_invitee_id": self.mint("inv-{}")}
        )

    def taken(self) -> list[tuple[str, Visit]]:
        return [(visit.id.partition(".")[0], visit) for visit in self.visits if not visit.cancelled]

    def say_of(self, what: str, slot: str, visit: Visit, link: dict[str, str] | None) -> None:
        """An address comes in any letters; who cancelled when is told, or not."""
        who = visit.who
        assert who
        assert who.email
        assert visit.scheduled
        active = sum(place.id.startswith(slot) and not place.cancelled for place in self.visits)
        event = {
            "event_id": slot, "start_date_time": written(visit.scheduled), "status": "confirmed",
            "invitee_counters": {"total": len(self.visits), "active": active, "limit": 5},
        }  # fmt: skip
        booking = {
            "invitee_email": self.dice.choice((who.email, who.email.upper())), "rescheduled": bool(link),
            "invitee_first_name": who.first, "invitee_last_name": who.last, "scheduled_event": event,
            **({} if self.is_older else link or {}), **({"invitee_id": self.mint("inv-{}")} if self.maybe() else {}),
        }  # fmt: skip
        if what == "canceled" and self.maybe():
            booking["cancellation"] = {"cancel_at": written(self.now), "canceler_type": "invitee"}
        self.send(what, booking, f"{visit.id} {link or ''}")

    # -- what is sent --

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
        self.send(what, booking, f"{visit.ids[-1]} {link}")

    def send(self, what: str, booking: dict[str, Any], said: str) -> None:
        kind, happened = f"scheduler.scheduled_event_{what}", round(self.now.timestamp() * 1000)
        body = {"event": kind, "event_ts": happened, "payload": {"account_id": "ACC", "object": booking}}
        self.ring(body, f"{kind} {said}")
