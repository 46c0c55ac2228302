"""HubSpot: a body lists what happened to meetings, whose records are asked for, each with its contact. A deleted meeting is
not there, and may come back. Contacts change without any event, so the next fetch tells it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.histories import SOME_TIME, Life, Person, Visit, written

PORTAL = 62515
#: Two changes in so short a time are one.
ONE_ACTION = timedelta(seconds=5)


class Tool(Life):
    tells_all = False

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.outcome, self.deletions = "SCHEDULED", 0
        self.history: list[dict[str, str]] = []
        self.starts: list[dict[str, str]] = []
        self.made_at = self.moved_at = self.now
        self.contacts: dict[str, Person] = {}
        self.unsubscribed: set[str] = set()
        self.contact = ""
        self.batch: list[dict[str, Any]] = []

    @property
    def visit(self) -> Visit:
        return self.visits[-1]

    def acts(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.visit.is_gone:
            return [self.restore]
        return [self.move, self.move, self.decide, self.decide, self.swap, self.correct, self.unsubscribe, self.delete]

    def book(self) -> None:
        id = f"{PORTAL}-{self.name}"
        self.visits = [Visit(id, ids=[id])]
        self.made_at = self.now
        self.start()
        self.new_contact()
        self.become("SCHEDULED")
        self.tell("object.creation", changeFlag="CREATED")
        self.send()

    def move(self) -> None:
        """A guest's new time may leave RESCHEDULED behind."""
        self.start()
        self.tell("object.propertyChange", propertyName="hs_meeting_start_time")
        if self.maybe(0.3):
            self.decide("RESCHEDULED")
        else:
            self.stand()
            self.send()

    def start(self) -> None:
        self.visit.scheduled, self.moved_at = self.hour(), self.now
        self.starts.insert(0, {"value": written(self.visit.scheduled), "timestamp": written(self.now)})

    def decide(self, outcome: str = "") -> None:
        others = {"SCHEDULED", "COMPLETED", "CANCELED", "NO_SHOW", "RESCHEDULED"} - {self.outcome}
        self.become(outcome or self.dice.choice(sorted(others)))
        self.tell("object.propertyChange", propertyName="hs_meeting_outcome", propertyValue=self.outcome)
        self.send()

    def become(self, outcome: str) -> None:
        self.outcome = outcome
        self.history.insert(0, {"value": outcome, "timestamp": written(self.now)})
        self.stand()

    def stand(self) -> None:
        """As the record says it."""
        since = {entry["value"]: entry["timestamp"] for entry in reversed(self.history)}
        when = datetime.fromisoformat(since[self.outcome])
        # With the start that it had before, RESCHEDULED means that another meeting takes its place.
        was_moved = self.moved_at > self.made_at + ONE_ACTION and self.moved_at >= when - ONE_ACTION
        is_replaced = self.outcome == "RESCHEDULED" and not was_moved
        self.visit.cancelled = when if self.outcome == "CANCELED" or is_replaced else None
        self.visit.missed = when if self.outcome == "NO_SHOW" else None
        self.visit.completed = when if self.outcome == "COMPLETED" else None

    def delete(self) -> None:
        """Of two deletions the record that is not there cannot tell which one is meant."""
        self.deletions += 1
        self.visit.is_gone, self.visit.cancelled = True, self.now if self.deletions == 1 else SOME_TIME
        self.tell("object.deletion")
        self.send()

    def restore(self) -> None:
        self.visit.is_gone = False
        self.stand()
        self.tell("object.restore")
        self.send()

    def new_contact(self) -> None:
        self.contact = self.mint("con-{}")
        self.contacts[self.contact] = self.person()
        self.know()

    def swap(self) -> None:
        self.new_contact()
        ends = {"fromObjectId": self.name, "fromObjectTypeId": "0-47", "toObjectId": 7, "toObjectTypeId": "0-1"}
        self.batch.append(self.item("object.associationChange", **ends))
        self.send()

    def correct(self) -> None:
        """Nothing rings that is listened to."""
        self.contacts[self.contact] = self.person()
        self.know()
        self.batch.append(self.item("contact.propertyChange", objectId=7, objectTypeId="0-1", propertyName="email"))
        self.send()

    def unsubscribe(self) -> None:
        self.unsubscribed ^= {self.contact}
        self.know()

    def know(self) -> None:
        self.visit.who, self.visit.opted_out = self.contacts[self.contact], self.contact in self.unsubscribed

    def owns(self, key: str) -> bool:
        return key == self.name or key in self.contacts

    def answer(self, key: str) -> Any:
        if who := self.contacts.get(key):
            optout = "true" if key in self.unsubscribed else self.dice.choice((None, "false", ""))
            properties = {"email": who.email, "firstname": who.first, "lastname": who.last, "hs_email_optout": optout}
            return {"id": key, "properties": properties}
        if self.visit.is_gone:
            return None
        assert self.visit.scheduled
        results = [{"id": self.contact, "type": "meeting_event_to_contact"}]
        return {
            "id": key, "updatedAt": written(self.now), "archived": False,
            "properties": {"hs_meeting_start_time": written(self.visit.scheduled), "hs_meeting_outcome": self.outcome},
            "propertiesWithHistory": {
                "hs_meeting_outcome": list(self.history), "hs_meeting_start_time": list(self.starts),
            }, "createdAt": written(self.made_at),
            "associations": {"contacts": {"results": results}},
        }  # fmt: skip

    def item(self, kind: str, **more: Any) -> dict[str, Any]:
        happened = int(self.now.timestamp() * 1000)
        ids = {"eventId": len(self.rung) * 10 + len(self.batch), "subscriptionId": 1, "portalId": PORTAL}
        return {**ids, "occurredAt": happened, "subscriptionType": kind, "attemptNumber": 0, **more}

    def tell(self, kind: str, **more: Any) -> None:
        self.batch.append(self.item(kind, objectId=self.name, objectTypeId="0-47", **more))

    def send(self) -> None:
        """Several at once, or each alone."""
        batches = [self.batch] if self.maybe() else [[item] for item in self.batch]
        self.batch = []
        for batch in batches:
            self.ring(batch, " ".join(item["subscriptionType"] for item in batch) + f" {self.outcome}")
