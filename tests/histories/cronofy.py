"""A model of Cronofy.

A visit is a request of the Scheduler, whose time is chosen repeatedly (its cancel is a guess), or an appointment with an
id of the caller: its time is chosen in Real-Time Scheduling, and its guest replies to a Smart Invite. The latter two have
no time, so each is sent once: only the order of arrival distinguishes two of them.

One to three recipients of a request may choose the time, and each of them has a visit.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from app.visits.change import attendee_visit_id
from tests.histories import SOME_TIME, Person, ToolModel, Visit, format_time


class Tool(ToolModel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_request = self.maybe(0.7)
        self.guests: list[Person] = [self.person() for _ in range(self.rng.choice((1, 1, 2, 3)))]
        self.guest = self.guests[0]
        self.has_slot = self.has_replied = False
        self.request_id = ""

    def actions(self) -> list[Callable[[], None]]:
        if self.is_request:
            return [self.choose, self.choose, self.call_off] if self.visits else [self.choose]
        actions = [] if self.has_slot else [self.choose_slot]
        actions += [] if self.has_replied else [self.accept, self.decline]
        return actions or [self.change]

    def choose(self) -> None:
        starts, people = self.future_time(), {guest.email or "": guest for guest in self.guests}
        if not self.visits:
            self.request_id = self.new_id("srq_{}")
            ids = (
                [attendee_visit_id(self.request_id, email) for email in people]
                if len(people) > 1
                else [self.request_id]
            )
            self.visits = [Visit(id, ids=[id], who=who) for id, who in zip(ids, people.values(), strict=True)]
        for visit in self.visits:
            visit.scheduled, visit.cancelled = starts, None
        self.request("scheduling_request_time_chosen", start=starts)

    def call_off(self) -> None:
        for visit in self.visits:
            visit.cancelled = self.now
        self.request(self.rng.choice(("scheduling_request_cancelled", "scheduling_request_declined")))

    def choose_slot(self) -> None:
        visit, self.has_slot = self.current_visit("own-"), True
        visit.scheduled = self.future_time()
        event = {"event_id": visit.id, "start": {"time": format_time(visit.scheduled), "tzid": "Europe/London"}}
        self.emit({"event": event, "participants": [{"sub": "acc_1"}], "user": {"tzid": "Europe/London"}}, "picked")

    def accept(self) -> None:
        self.answer_invite(self.rng.choice(("accepted", "tentative")))

    def decline(self) -> None:
        self.answer_invite("declined").cancelled = SOME_TIME

    def change(self) -> None:
        """Report a change of some calendar."""
        notification = {"type": "change", "changes_since": format_time(self.now - timedelta(seconds=5))}
        self.emit({"notification": notification, "channel": {"channel_id": "chn_1"}}, "change")

    # -- webhooks --

    def current_visit(self, kind: str) -> Visit:
        if not self.visits:
            id = self.new_id(f"{kind}{{}}")
            self.visits.append(Visit(id, ids=[id]))
        return self.visits[-1]

    def answer_invite(self, status: str) -> Visit:
        visit, self.has_replied = self.current_visit("own-"), True
        visit.who = self.guest
        reply = {"email": self.guest.email, "status": status}
        invite = {"smart_invite_id": visit.id, "recipient": reply, "reply": reply}
        self.emit({"notification": {"type": "smart_invite"}, "smart_invite": invite}, f"smart_invite {status}")
        return visit

    def request(self, kind: str, start: Any = None) -> None:
        event: dict[str, Any] = {"metadata": {"scheduler": {"captured_data.phone_number": "+15550100001"}}}
        if start:
            event["start"] = self.rng.choice(
                ({"time": format_time(start), "tzid": "Europe/London"}, format_time(start))
            )
        about = {
            "scheduling_request_id": self.request_id, "slot_selection": "complete", "event": event,
            "recipients": [
                {"email": "colleague@example.com", "display_name": "Colleague", "slot_selector": False},
                *(
                    {"email": who.email, "display_name": f"{who.first} {who.last}", "slot_selector": True}
                    for who in self.rng.sample(self.guests, len(self.guests))
                ),
            ],
        }  # fmt: skip
        note = {"type": kind, "triggered_at": format_time(self.now)}
        self.emit({"notification": note, "scheduling_request": about}, f"{kind} {start}")
