"""Generates webhooks of three tools and the visits that they should become, without the code under test."""

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
CUSTOMER_COUNT = 400
FIELDS = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled", "event_date")
SOME_TIME = "some time"  # a time of Doorbell's clock, which cannot be predicted

Fields = dict[str, str | None]


@dataclass
class Webhook:
    """A webhook that is sent `after_s` after the start of its scenario, and again until the response is 2xx.

    before: the change in the tool just before. delivery, status: from the response.
    """

    hook: str
    raw: bytes
    sign: Callable[[bytes], dict[str, str]]
    after_s: float
    before: Callable[[], None] = lambda: None
    delivery: str = ""
    status: int = 0
    send_count: int = 0
    answered_at: float = 0

    def stored_at(self) -> float:
        """Return the time when it was stored, in seconds since 1970.

        The id of a delivery begins with its time in ms. A repeat has no id, so the time of its response is used.
        """
        return int(self.delivery[1:12], 16) / 1000 if self.status == 202 else self.answered_at - 1


@dataclass
class Scenario:
    """The events of one visit.

    aliases: its later ids, under which no visit may exist. facts: the fields of each event, in order; the last value of a
    field is the expected one.
    """

    external_id: str
    aliases: list[str] = field(default_factory=list)
    webhooks: list[Webhook] = field(default_factory=list)
    facts: list[Fields] = field(default_factory=list)

    def expected_fields(self) -> Fields:
        """Return the last value of every field. event_date is the completion, else the appointment."""
        fields: Fields = {}
        for fact in self.facts:
            fields |= fact
        return fields | {"event_date": fields.get("time_completed") or fields.get("time_scheduled")}

    def possible_values(self, name: str) -> set[str | None]:
        """Return every value that the field may have had, and None."""
        names = ("time_completed", "time_scheduled") if name == "event_date" else (name,)
        return {None} | {fact[name] for fact in self.facts for name in names if name in fact}


def random_email(rng: random.Random) -> str:
    return f"someone.{rng.randrange(CUSTOMER_COUNT)}@example.com"


def iso_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def random_time(rng: random.Random) -> datetime:
    return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * rng.randrange(17_000))


def random_amount(rng: random.Random) -> str:
    return f"{rng.randrange(1, 500)}.{rng.randrange(100):02}"


# Tools


def standard(rng: random.Random, number: int) -> Scenario:
    """Generate events with a timestamp, which are sent in any order."""
    scenario = Scenario(f"standard-S{number}")
    clock = datetime(2029, 1, 1, tzinfo=UTC)
    kinds = [
        "created",
        *rng.choices(["moved", "paid", "completed", "cancelled", "created", "customer"], k=rng.randint(1, 5)),
    ]
    for kind in kinds:
        clock += timedelta(minutes=rng.randint(1, 500))
        now, start, money, email = iso_time(clock), iso_time(random_time(rng)), random_amount(rng), random_email(rng)
        contact = {"email": email, "first_name": "Some", "last_name": "One"}
        event, data, fact = {
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
        scenario.facts.append(fact)
        raw = json.dumps({"type": event, "timestamp": now, "data": {"visit_id": f"S{number}", **data}}).encode()
        id = f"msg_{rng.randbytes(12).hex()}"
        scenario.webhooks.append(
            Webhook("standard", raw, lambda raw, id=id: sign_standard(raw, id=id), rng.uniform(0, 8))
        )  # type: ignore[misc]
    return scenario


def calendly(rng: random.Random, number: int) -> Scenario:
    """Generate moves, each to a new id: a cancel with the new id and a booking with the old id, in any order."""
    scenario, clock, email = Scenario(f"calendly-C{number}x0"), datetime(2029, 1, 1, tzinfo=UTC), random_email(rng)
    moves = rng.choices([0, 1, 2, 4], [3, 4, 2, 1])[0]

    def add_webhook(event: str, place: int, **fields: Any) -> None:
        payload = {
            "uri": _invitee(number, place),
            "email": email,
            "name": "Some One",
            "scheduled_event": {"start_time": starts[place]},
            "rescheduled": False,
            **fields,
        }
        raw = json.dumps({"event": event, "created_at": iso_time(clock), "payload": payload}).encode()
        scenario.webhooks.append(Webhook("calendly", raw, sign_calendly, rng.uniform(0, 8)))

    starts = [iso_time(random_time(rng)) for _ in range(moves + 1)]
    for place in range(moves + 1):
        clock += timedelta(hours=1)
        if place:
            scenario.aliases.append(f"calendly-C{number}x{place}")
            add_webhook("invitee.canceled", place - 1, rescheduled=True, new_invitee=_invitee(number, place))
        add_webhook("invitee.created", place, old_invitee=_invitee(number, place - 1) if place else None)
        scenario.facts.append({"time_scheduled": starts[place], "email": email, "date_cancelled": None})
    if rng.random() < 0.2:
        clock += timedelta(hours=1)
        add_webhook("invitee.canceled", moves, cancellation={"canceled_by": "Some One"})
        scenario.facts.append({"date_cancelled": iso_time(clock)})
    return scenario


def _invitee(number: int, place: int) -> str:
    return f"https://api.calendly.com/scheduled_events/E{number}/invitees/C{number}x{place}"


def acuity(rng: random.Random, number: int, records: dict[str, dict[str, Any]]) -> Scenario:
    """Generate webhooks with only an id. records: the records of the tool's API, which change before each webhook."""
    scenario, id = Scenario(f"acuity-{number}"), str(number)

    def update_record(change: dict[str, Any], fact: Fields) -> Callable[[], None]:
        def update() -> None:
            records[id] = records.get(id, {}) | change
            scenario.facts.append(fact)

        return update

    after_s = 0.0
    for action in ["scheduled", *rng.choices(["rescheduled", "changed", "changed"], k=rng.randint(0, 3)), "canceled"]:
        after_s += rng.uniform(0.2, 3)
        start, money, email = random_time(rng), random_amount(rng), random_email(rng)
        local = (start - timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S-0500")
        change: dict[str, Any] = {"datetime": local}
        fact: Fields = {"time_scheduled": iso_time(start)}
        if action == "scheduled":
            booked = {"id": number, "email": email, "firstName": "Some", "lastName": "One"}
            change |= booked | {"amountPaid": "0.00", "canceled": False, "noShow": False}
            fact |= {"email": email}
        elif action == "changed":
            change, fact = {"amountPaid": money}, {"amount_collected": money}
        elif action == "canceled":
            if rng.random() < 0.8:
                continue
            change, fact = {"canceled": True}, {"date_cancelled": SOME_TIME}
        raw = urllib.parse.urlencode({"action": action, "id": id, "calendarID": "1", "appointmentTypeID": "2"}).encode()
        scenario.webhooks.append(Webhook("acuity", raw, _sign_acuity, after_s, update_record(change, fact)))
    return scenario


def _sign_acuity(raw: bytes) -> dict[str, str]:
    signature = b64encode(hmac_sha256(ACUITY_KEY.encode(), raw)).decode()
    return {"content-type": "application/x-www-form-urlencoded", "x-acuity-signature": signature}
