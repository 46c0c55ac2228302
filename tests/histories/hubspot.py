"""A model of HubSpot.

A body lists events of meetings, whose records are fetched, each with its contacts. A deleted meeting is missing, and may be
restored. Contacts change without an event, so the next fetch shows the change.

Each contact has a visit: the contact that was listed first has the meeting's id. Which contact was listed first depends on
the time of the fetch, so the visits begin when the record is served.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from app.visits.change import attendee_visit_id
from tests.histories import SOME_TIME, Person, ToolModel, Visit, format_time

PORTAL = 62515
#: Two changes within this time count as one action.
ONE_ACTION = timedelta(seconds=5)


class Tool(ToolModel):
    announces_all = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcome = "SCHEDULED"
        self.history: list[dict[str, str]] = []
        self.starts: list[dict[str, str]] = []
        self.made_at = self.moved_at = self.now
        self.contacts: dict[str, Person] = {}
        self.unsubscribed: set[str] = set()
        self.members: list[str] = []
        self.listed: dict[str, Visit] = {}
        self.scheduled = self.now
        self.is_deleted = False
        self.batch: list[dict[str, Any]] = []

    def actions(self) -> list[Callable[[], None]]:
        if not self.visits:
            return [self.book]
        if self.is_deleted:
            return [self.restore]
        actions = [
            self.move,
            self.move,
            self.decide,
            self.decide,
            self.swap,
            self.correct,
            self.unsubscribe,
            self.delete,
        ]
        return (
            actions + ([self.add] if len(self.members) < 3 else []) + ([self.remove] if len(self.members) > 1 else [])
        )

    def book(self) -> None:
        id = f"{PORTAL}-{self.name}"
        self.visits = [Visit(id, ids=[id])]
        self.made_at = self.now
        self.start()
        self.members = [self.new_contact() for _ in range(self.rng.choice((1, 1, 2, 3)))]
        self.become("SCHEDULED")
        self.post("object.creation", changeFlag="CREATED")
        self.send()

    def move(self) -> None:
        """Move the meeting. A move by the guest may leave the outcome RESCHEDULED."""
        self.start()
        self.post("object.propertyChange", propertyName="hs_meeting_start_time")
        if self.maybe(0.3):
            self.decide("RESCHEDULED")
        else:
            self.stand()
            self.send()

    def start(self) -> None:
        self.scheduled, self.moved_at = self.future_time(), self.now
        self.starts.insert(0, {"value": format_time(self.scheduled), "timestamp": format_time(self.now)})

    def decide(self, outcome: str = "") -> None:
        candidates = {"SCHEDULED", "COMPLETED", "CANCELED", "NO_SHOW", "RESCHEDULED"} - {self.outcome}
        self.become(outcome or self.rng.choice(sorted(candidates)))
        self.post("object.propertyChange", propertyName="hs_meeting_outcome", propertyValue=self.outcome)
        self.send()

    def become(self, outcome: str) -> None:
        self.outcome = outcome
        self.history.insert(0, {"value": outcome, "timestamp": format_time(self.now)})
        self.stand()

    def stand(self) -> None:
        since = {entry["value"]: entry["timestamp"] for entry in reversed(self.history)}
        when = datetime.fromisoformat(since[self.outcome])
        # Without a new start, RESCHEDULED means that another meeting replaces this one.
        was_moved = self.moved_at > self.made_at + ONE_ACTION and self.moved_at >= when - ONE_ACTION
        is_replaced = self.outcome == "RESCHEDULED" and not was_moved
        if not self.listed:
            self.visits[0].is_gone = self.is_deleted
        for contact, visit in self.listed.items():
            if contact not in self.members or self.is_deleted:
                visit.is_gone, visit.cancelled = True, SOME_TIME
                continue
            visit.is_gone, visit.scheduled = False, self.scheduled
            visit.who, visit.opted_out = self.contacts[contact], contact in self.unsubscribed
            visit.cancelled = when if self.outcome == "CANCELED" or is_replaced else None
            visit.missed = when if self.outcome == "NO_SHOW" else None
            visit.completed = when if self.outcome == "COMPLETED" else None

    def delete(self) -> None:
        self.is_deleted = True
        self.stand()
        self.post("object.deletion")
        self.send()

    def restore(self) -> None:
        self.is_deleted = False
        self.stand()
        self.post("object.restore")
        self.send()

    def new_contact(self) -> str:
        contact = self.new_id("con-{}")
        self.contacts[contact] = self.person()
        return contact

    def add(self) -> None:
        """Add a new contact, or one that was removed."""
        removed = [contact for contact in self.contacts if contact not in self.members]
        contact = self.rng.choice(removed) if removed and self.maybe() else self.new_contact()
        self.members.insert(self.rng.randint(0, len(self.members)), contact)
        self.associate(contact)
        self.send()

    def remove(self) -> None:
        contact = self.rng.choice(self.members)
        self.members.remove(contact)
        self.associate(contact, associationRemoved=True)
        self.send()

    def swap(self) -> None:
        old = self.rng.choice(self.members)
        self.members[self.members.index(old)] = self.new_contact()
        self.associate(old, associationRemoved=True)
        self.associate(self.members[-1])
        self.send()

    def associate(self, contact: str, **kwargs: Any) -> None:
        self.stand()
        ends = {"fromObjectId": self.name, "fromObjectTypeId": "0-47", "toObjectId": contact, "toObjectTypeId": "0-1"}
        self.batch.append(self.item("object.associationChange", **ends, **kwargs))

    def correct(self) -> None:
        """Correct a contact, for which there is no event."""
        self.contacts[self.rng.choice(self.members)] = self.person()
        self.stand()
        self.batch.append(self.item("contact.propertyChange", objectId=7, objectTypeId="0-1", propertyName="email"))
        self.send()

    def unsubscribe(self) -> None:
        self.unsubscribed ^= {self.rng.choice(self.members)}
        self.stand()

    def list_all(self) -> None:
        """Serve the record. A contact that is served for the first time has a visit from now on."""
        for contact in self.members:
            if contact not in self.listed:
                id = f"{PORTAL}-{self.name}"
                if self.listed:
                    id = attendee_visit_id(id, contact)
                    self.visits.append(Visit(id, ids=[id]))
                self.listed[contact] = self.visits[-1]
        self.stand()

    def owns(self, key: str) -> bool:
        return key == self.name or key in self.contacts

    def answer(self, key: str) -> Any:
        if who := self.contacts.get(key):
            optout = "true" if key in self.unsubscribed else self.rng.choice((None, "false", ""))
            properties = {"email": who.email, "firstname": who.first, "lastname": who.last, "hs_email_optout": optout}
            return {"id": key, "properties": properties}
        if self.is_deleted:
            return None
        self.list_all()
        results = [{"id": contact, "type": "meeting_event_to_contact"} for contact in self.members]
        return {
            "id": key, "updatedAt": format_time(self.now), "archived": False,
            "properties": {"hs_meeting_start_time": format_time(self.scheduled), "hs_meeting_outcome": self.outcome},
            "propertiesWithHistory": {
                "hs_meeting_outcome": list(self.history), "hs_meeting_start_time": list(self.starts),
            }, "createdAt": format_time(self.made_at),
            "associations": {"contacts": {"results": results}},
        }  # fmt: skip

    def item(self, kind: str, **kwargs: Any) -> dict[str, Any]:
        happened = int(self.now.timestamp() * 1000)
        ids = {"eventId": len(self.emitted) * 10 + len(self.batch), "subscriptionId": 1, "portalId": PORTAL}
        return {**ids, "occurredAt": happened, "subscriptionType": kind, "attemptNumber": 0, **kwargs}

    def post(self, kind: str, **kwargs: Any) -> None:
        self.batch.append(self.item(kind, objectId=self.name, objectTypeId="0-47", **kwargs))

    def send(self) -> None:
        """Send the events in one body, or each in its own."""
        batches = [self.batch] if self.maybe() else [[item] for item in self.batch]
        self.batch = []
        for batch in batches:
            self.emit(batch, " ".join(item["subscriptionType"] for item in batch) + f" {self.outcome}")
