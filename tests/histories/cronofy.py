"""Cronofy, in the two ways that make a visit of it: a request of the Scheduler, where times are chosen again and again (its
cancel is a guess), or an appointment of one's own, whose time is picked in Real-Time Scheduling and whose guest answers a
Smart Invite. The latter two carry no clock, so here each rings once: nothing but their arrival could tell two apart.

Of a request one to three recipients may choose the time, and each of them comes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.visits.change import attendee_visit_id
from tests.histories import SOME_TIME, Life, Person, Visit, written


class Tool(Life):
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.is_request = self.maybe(0.7)
        self.guests: list[Person] = [self.person() for _ in range(self.dice.choice((1, 1, 2, 3)))]
        self.guest = self.guests[0]
        self.picked = self.answered = False
        self.asked = ""

    def acts(self) -> list[Callable[[], None]]:
        if self.is_request:
            return [self.choose, self.choose, self.call_off] if self.visits else [self.choose]
        acts = [] if self.picked else [self.pick]
        acts += [] if self.answered else [self.accept, self.decline]
        return acts or [self.change]

    def choose(self) -> None:
        starts, people = self.hour(), {guest.email or "": guest for guest in self.guests}
        if not self.visits:
            self.asked = self.mint("srq_{}")
            ids = [attendee_visit_id(self.asked, email) for email in people] if len(people) > 1 else [self.asked]
            self.visits = [Visit(id, ids=[id], who=who) for id, who in zip(ids, people.values(), strict=True)]
        for visit in self.visits:
            visit.scheduled, visit.cancelled = starts, None
        self.request("scheduling_request_time_chosen", start=starts)

    def call_off(self) -> None:
        for visit in self.visits:
            visit.cancelled = self.now
        self.request(self.dice.choice(("scheduling_request_cancelled", "scheduling_request_declined")))

    def pick(self) -> None:
        visit, self.picked = self.known("own-"), True
        visit.scheduled = self.hour()
        event = {"event_id": visit.id, "start": {"time": written(visit.scheduled), "tzid": "Europe/London"}}
        self.ring({"event": event, "participants": [{"sub": "acc_1"}], "user": {"tzid": "Europe/London"}}, "picked")

    def accept(self) -> None:
        self.answer_invite(self.dice.choice(("accepted", "tentative")))

    def decline(self) -> None:
        self.answer_invite("declined").cancelled = SOME_TIME

    def change(self) -> None:
        """Some calendar changed."""
        seen = {"type": "change", "changes_since": written(self.now - timedelta(seconds=5))}
        self.ring({"notification": seen, "channel": {"channel_id": "chn_1"}}, "change")

    # -- what is sent --

    def known(self, kind: str) -> Visit:
        if not self.visits:
            id = self.mint(f"{kind}{{}}")
            self.visits.append(Visit(id, ids=[id]))
        return self.visits[-1]

    def answer_invite(self, status: str) -> Visit:
        visit, self.answered = self.known("own-"), True
        visit.who = self.guest
        reply = {"email": self.guest.email, "status": status}
        invite = {"smart_invite_id": visit.id, "recipient": reply, "reply": reply}
        self.ring({"notification": {"type": "smart_invite"}, "smart_invite": invite}, f"smart_invite {status}")
        return visit

    def request(self, kind: str, start: Any = None) -> None:
        event: dict[str, Any] = {"metadata": {"scheduler": {"captured_data.phone_number": "+15550100001"}}}
        if start:
            event["start"] = self.dice.choice(({"time": written(start), "tzid": "Europe/London"}, written(start)))
        about = {
            "scheduling_request_id": self.asked, "slot_selection": "complete", "event": event,
            "recipients": [
                {"email": "colleague@example.com", "display_name": "Colleague", "slot_selector": False},
                *(
                    {"email": who.email, "display_name": f"{who.first} {who.last}", "slot_selector": True}
                    for who in self.dice.sample(self.guests, len(self.guests))
                ),
            ],
        }  # fmt: skip
        note = {"type": kind, "triggered_at": written(self.now)}
        self.ring({"notification": note, "scheduling_request": about}, f"{kind} {start}")
