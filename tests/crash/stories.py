"""What is rung, and what it should come to: three tools, each by its documented rules, and none of the code under test."""

import json
import random
import urllib.parse
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.harness import hmac_sha256, sign_calendly, sign_standard

ACUITY_KEY = "acuity-key-for-tests"
PEOPLE = 400
FIELDS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "event_date")
SOME = "some time"  # of a value that only our clock decides: that it is there is all that can be expected

Said = dict[str, str | None]


@dataclass
class Ring:
    """One delivery: sent at `after_s` from its story's begin, again until somebody answers 2xx.

    before: what happens in the tool just before. delivery: the id that was answered, status: with what. tries: how often
    it was sent.
    """

    hook: str
    raw: bytes
    sign: Callable[[bytes], dict[str, str]]
    after_s: float
    before: Callable[[], None] = lambda: None
    delivery: str = ""
    status: int = 0
    tries: int = 0
    answered_at: float = 0

    def written_at(self) -> float:
        """When the door wrote it down: its id begins with the milliseconds. A repeat has no id of its own, and no harm is
        done if its answer was read late."""
        return int(self.delivery[1:12], 16) / 1000 if self.status == 202 else self.answered_at - 1


@dataclass
class Story:
    """One visit's life. said: the values that its events named one after the other, the last of which should stand.
    later: the names that the tool gave it afterwards, under which nothing should stand."""

    external_id: str
    later: list[str] = field(default_factory=list)
    rings: list[Ring] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def stands(self) -> Said:
        """The last word on every field; the campaign starts at the completion, else at the appointment."""
        last: Said = {}
        for each in self.said:
            last |= each
        return last | {"event_date": last.get("time_completed") or last.get("time_scheduled")}

    def ever(self, name: str) -> set[str | None]:
        """Whatever a field may have been at some time; nothing, at the beginning."""
        names = ("time_completed", "time_scheduled") if name == "event_date" else (name,)
        return {None} | {said[name] for said in self.said for name in names if name in said}


def someone(dice: random.Random) -> str:
    return f"someone.{dice.randrange(PEOPLE)}@example.com"


def spelled(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def some_day(dice: random.Random) -> datetime:
    return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * dice.randrange(17_000))


def some_money(dice: random.Random) -> str:
    return f"{dice.randrange(1, 500)}.{dice.randrange(100):02}"


# The tools ----------------------------------------------------------------------------------------------------------


def standard(dice: random.Random, number: int) -> Story:
    """Every event is dated; they leave in any order."""
    story = Story(f"standard-S{number}")
    clock = datetime(2029, 1, 1, tzinfo=UTC)
    kinds = [
        "created",
        *dice.choices(["moved", "paid", "completed", "cancelled", "created", "customer"], k=dice.randint(1, 5)),
    ]
    for kind in kinds:
        clock += timedelta(minutes=dice.randint(1, 500))
        now, start, money, email = spelled(clock), spelled(some_day(dice)), some_money(dice), someone(dice)
        contact = {"email": email, "first_name": "Some", "last_name": "One"}
        event, data, said = {
            "created": (
                "visit.created",
                {"time_scheduled": start, "contact": contact},
                {"time_scheduled": start, "email": email, "date_cancelled": None},
            ),
            "moved": ("visit.updated", {"time_scheduled": start}, {"time_scheduled": start}),
            "paid": ("visit.updated", {"amount_collected": money}, {"amount_collected": money}),
            "completed": ("visit.completed", {}, {"time_completed": now}),
            "cancelled": ("visit.cancelled", {}, {"date_cancelled": now}),
            "customer": ("visit.updated", {"contact": contact}, {"email": email}),
        }[kind]
        story.said.append(said)
        raw = json.dumps({"type": event, "timestamp": now, "data": {"visit_id": f"S{number}", **data}}).encode()
        id = f"msg_{dice.randbytes(12).hex()}"
        story.rings.append(Ring("standard", raw, lambda raw, id=id: sign_standard(raw, id=id), dice.uniform(0, 8)))  # type: ignore[misc]
    return story


def calendly(dice: random.Random, number: int) -> Story:
    """Every move is a new id: a cancel that names the new one and a booking that names the old one, in any order."""
    story, clock, email = Story(f"calendly-C{number}x0"), datetime(2029, 1, 1, tzinfo=UTC), someone(dice)
    moves = dice.choices([0, 1, 2, 4], [3, 4, 2, 1])[0]

    def ring(event: str, place: int, **more: Any) -> None:
        payload = {
            "uri": _invitee(number, place),
            "email": email,
            "name": "Some One",
            "scheduled_event": {"start_time": starts[place]},
            "rescheduled": False,
            **more,
        }
        raw = json.dumps({"event": event, "created_at": spelled(clock), "payload": payload}).encode()
        story.rings.append(Ring("calendly", raw, sign_calendly, dice.uniform(0, 8)))

    starts = [spelled(some_day(dice)) for _ in range(moves + 1)]
    for place in range(moves + 1):
        clock += timedelta(hours=1)
        if place:
            story.later.append(f"calendly-C{number}x{place}")
            ring("invitee.canceled", place - 1, rescheduled=True, new_invitee=_invitee(number, place))
        ring("invitee.created", place, old_invitee=_invitee(number, place - 1) if place else None)
        story.said.append({"time_scheduled": starts[place], "email": email, "date_cancelled": None})
    if dice.random() < 0.2:
        clock += timedelta(hours=1)
        ring("invitee.canceled", moves, cancellation={"canceled_by": "Some One"})
        story.said.append({"date_cancelled": spelled(clock)})
    return story


def _invitee(number: int, place: int) -> str:
    return f"https://api.calendly.com/scheduled_events/E{number}/invitees/C{number}x{place}"


def acuity(dice: random.Random, number: int, records: dict[str, dict[str, Any]]) -> Story:
    """Thin: an id rings, and the record is what stands in the tool at that moment. records: what its API serves."""
    story, id = Story(f"acuity-{number}"), str(number)

    def happen(change: dict[str, Any], said: Said) -> Callable[[], None]:
        def do() -> None:
            records[id] = records.get(id, {}) | change
            story.said.append(said)

        return do

    after_s = 0.0
    for action in ["scheduled", *dice.choices(["rescheduled", "changed", "changed"], k=dice.randint(0, 3)), "canceled"]:
        after_s += dice.uniform(0.2, 3)
        start, money, email = some_day(dice), some_money(dice), someone(dice)
        local = (start - timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S-0500")
        change: dict[str, Any] = {"datetime": local}
        said: Said = {"time_scheduled": spelled(start)}
        if action == "scheduled":
            booked = {"id": number, "email": email, "firstName": "Some", "lastName": "One"}
            change |= booked | {"amountPaid": "0.00", "canceled": False, "noShow": False}
            said |= {"email": email}
        elif action == "changed":
            change, said = {"amountPaid": money}, {"amount_collected": money}
        elif action == "canceled":
            if dice.random() < 0.8:
                continue
            change, said = {"canceled": True}, {"date_cancelled": SOME}
        raw = urllib.parse.urlencode({"action": action, "id": id, "calendarID": "1", "appointmentTypeID": "2"}).encode()
        story.rings.append(Ring("acuity", raw, _sign_acuity, after_s, happen(change, said)))
    return story


def _sign_acuity(raw: bytes) -> dict[str, str]:
    signature = b64encode(hmac_sha256(ACUITY_KEY.encode(), raw)).decode()
    return {"content-type": "application/x-www-form-urlencoded", "x-acuity-signature": signature}
