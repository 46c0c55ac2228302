"""Group bookings: each person has a visit, in every order of arrival and with repeats.

Every case is a list of bodies as a tool sends them. All of their orders, each with a repeat, must give the same visits,
which are written out by hand.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.visits.change import VisitChange, encode_change, external_id
from app.visits.merge import RecordedChange, desired_visit, merge_changes
from app.webhooks.delivery import Delivery, Event
from app.webhooks.payload import Untranslatable
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored, PartlyTranslatable
from app.webhooks.translation import parse_event
from tests.histories.pure import HOOKS, with_people
from tests.support.cases import each

ARRIVAL = datetime(2026, 9, 21, 14, tzinfo=UTC)
#: The addresses of customers who would get a review request, with the times of their visits.
ReviewRequests = list[tuple[str, str]]


def event_of(source: str, body: Any, received_at: datetime = ARRIVAL) -> Event:
    lines = ((b"content-type", b"application/json"),)
    hook = HOOKS[source]
    return parse_event(
        hook.source, Delivery(source, source, lines, json.dumps(body).encode(), received_at), hook.settings.zone
    )


def changes_of(source: str, body: Any, received_at: datetime = ARRIVAL) -> list[VisitChange]:
    translated = load_sources()[source].translate(event_of(source, body, received_at))
    return [] if isinstance(translated, Ignored) else translated


def review_requests(source: str, changes: Iterable[VisitChange]) -> ReviewRequests:
    """Return the customers who would get a review request, with the time of the visit."""
    changes, recorded = list(changes), dict[str, list[RecordedChange]]()
    previous_ids = {
        change.external_id(source): external_id(source, change.previous_visit_id)
        for change in changes
        if change.previous_visit_id
    }

    def ancestors(name: str) -> Iterator[str]:
        yield name
        if name in previous_ids:
            yield from ancestors(previous_ids[name])

    for number, change in enumerate(changes):
        *later, first = ancestors(change.external_id(source))
        recorded.setdefault(first, []).append(RecordedChange.decode(f"d{number}", encode_change(change), len(later)))
    visits = [desired_visit(merge_changes(those)) for those in recorded.values()]
    return sorted(
        (want.contact.email or "", want.fields["event_date"] or "")
        for want in visits
        if want.has_date and not want.is_cancelled and want.contact.email
    )


def assert_review_requests(source: str, bodies: Sequence[Any], expected: ReviewRequests) -> None:
    """Check every order, each with a repeat of one body at the end."""
    changes_by_body = [changes_of(source, body) for body in bodies]
    orders = (
        [*itertools.permutations(changes_by_body)]
        if len(changes_by_body) < 6
        else [changes_by_body, changes_by_body[::-1]]
    )
    for order in orders:
        for again in order:
            assert sorted(expected) == review_requests(source, itertools.chain.from_iterable([*order, again]))


# -- Zoom Scheduler --

ADA, BOB, EVE = "ada@example.com", "bob@example.com", "eve@example.com"
START, LATER = "2026-10-01T15:00:00Z", "2026-10-08T15:00:00Z"
SLOTS = {"slot-1": START, "slot-2": LATER}
BOOKED, CANCELED = "scheduler.scheduled_event_created", "scheduler.scheduled_event_canceled"


def zoom(kind: str, minute: int, email: str | None, slot: str, invitee: str | None = None, **options: Any) -> Any:
    counters = options.pop("counters", {"total": 2, "active": 1, "limit": 3})
    booking = {
        "invitee_email": email, "scheduled_event": {
            "event_id": slot, "start_date_time": SLOTS[slot], "status": "confirmed", "invitee_counters": counters,
        }, **({"invitee_id": invitee} if invitee else {}), **options,
    }  # fmt: skip
    return {
        "event": kind,
        "event_ts": 1_790_000_000_000 + minute * 60_000,
        "payload": {"account_id": "ACC", "object": booking},
    }


ZOOM = {
    "three book": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"), zoom(BOOKED, 2, EVE, "slot-1")],
        [(ADA, START), (BOB, START), (EVE, START)],
    ),
    "the first invitee cancels": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"), zoom(CANCELED, 2, ADA, "slot-1", "i1")],
        [(BOB, START)],
    ),
    "the last invitee cancels": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"), zoom(CANCELED, 2, BOB, "slot-1", "i2")],
        [(ADA, START)],
    ),
    "all cancel": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"),
            zoom(CANCELED, 2, BOB, "slot-1", "i2"), zoom(CANCELED, 3, ADA, "slot-1", "i1"),
        ],
        [],
    ),
    "a cancel with an invitee id that the older booking did not have": (
        [zoom(BOOKED, 0, ADA, "slot-1"), zoom(BOOKED, 1, BOB, "slot-1"), zoom(CANCELED, 2, ADA, "slot-1", "i1")],
        [(BOB, START)],
    ),
    "a cancel without the invitee id that the booking had": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"), zoom(CANCELED, 2, ADA, "slot-1")],
        [(BOB, START)],
    ),
    "an address in another case is the same person": (
        [zoom(BOOKED, 0, "Ada@Example.COM", "slot-1"), zoom(BOOKED, 1, BOB, "slot-1"), zoom(CANCELED, 2, ADA, "slot-1")],
        [(BOB, START)],
    ),
    "the same person in two slots": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, ADA, "slot-2", "i2"), zoom(CANCELED, 2, ADA, "slot-1", "i1")],
        [(ADA, LATER)],
    ),
    "the same person twice in one slot": (
        [zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, ADA, "slot-1", "i2"), zoom(BOOKED, 2, BOB, "slot-1")],
        [(ADA, START), (BOB, START)],
    ),
    "one cancels and books again": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"),
            zoom(CANCELED, 2, ADA, "slot-1", "i1"), zoom(BOOKED, 3, ADA, "slot-1", "i3"),
        ],
        [(ADA, START), (BOB, START)],
    ),
    "one moves, with links": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", "i1"), zoom(BOOKED, 1, BOB, "slot-1", "i2"),
            zoom(CANCELED, 2, ADA, "slot-1", "i1", rescheduled_to_event_id="slot-2", rescheduled_to_invitee_id="i3"),
            zoom(BOOKED, 2, ADA, "slot-2", "i3", rescheduled_from_event_id="slot-1", rescheduled_from_invitee_id="i1"),
        ],
        [(ADA, LATER), (BOB, START)],
    ),
    "one moves, without links": (
        [
            zoom(BOOKED, 0, ADA, "slot-1"), zoom(BOOKED, 1, BOB, "slot-1"),
            zoom(CANCELED, 2, ADA, "slot-1", rescheduled=True), zoom(BOOKED, 2, ADA, "slot-2", rescheduled=True),
        ],
        [(ADA, LATER), (BOB, START)],
    ),
    "one moves and comes back": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", "i1"),
            zoom(CANCELED, 2, ADA, "slot-1", "i1", rescheduled_to_event_id="slot-2", rescheduled_to_invitee_id="i3"),
            zoom(BOOKED, 2, ADA, "slot-2", "i3", rescheduled_from_event_id="slot-1", rescheduled_from_invitee_id="i1"),
            zoom(CANCELED, 4, ADA, "slot-2", "i3", rescheduled_to_event_id="slot-1", rescheduled_to_invitee_id="i4"),
            zoom(BOOKED, 4, ADA, "slot-1", "i4", rescheduled_from_event_id="slot-2", rescheduled_from_invitee_id="i3"),
        ],
        [(ADA, START)],
    ),
    "the first invitee books while the limit is one, and cancels": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", counters={"total": 1, "active": 1, "limit": 1}), zoom(BOOKED, 1, BOB, "slot-1"),
            zoom(CANCELED, 2, ADA, "slot-1"),
        ],
        [(BOB, START)],
    ),
    "the second invitee cancels in a slot whose limit was one": (
        [
            zoom(BOOKED, 0, ADA, "slot-1", counters={"total": 1, "active": 1, "limit": 1}), zoom(BOOKED, 1, BOB, "slot-1"),
            zoom(CANCELED, 2, BOB, "slot-1"),
        ],
        [(ADA, START)],
    ),
    "one cancels in a delivery without a limit": (
        [
            zoom(BOOKED, 0, ADA, "slot-1"), zoom(BOOKED, 1, BOB, "slot-1"),
            zoom(CANCELED, 2, ADA, "slot-1", counters={"total": 1, "active": 1}),
        ],
        [(BOB, START)],
    ),
}  # fmt: skip


@each("case", ZOOM)
def test_zoom_has_a_visit_for_each_invitee_of_a_group_event(case: str) -> None:
    bodies, expected = ZOOM[case]

    assert_review_requests("zoom", bodies, expected)


def test_a_zoom_event_for_one_invitee_has_a_visit_with_the_id_of_the_event() -> None:
    alone = {"total": 1, "active": 1, "limit": 1}

    assert ["slot-1"] == [
        each.visit_id for each in changes_of("zoom", zoom(BOOKED, 0, ADA, "slot-1", "i1", counters=alone))
    ]
    assert ["slot-1"] == [each.visit_id for each in changes_of("zoom", zoom(BOOKED, 0, ADA, "slot-1", counters={}))]


@each("kind", [BOOKED, CANCELED])
@each(
    ("options", "reason"),
    [
        ({"email": None, "invitee": "i1"}, "without an e-mail address"),
        ({"email": " "}, "without an e-mail address"),
        ({"email": "Ada Lovelace"}, "without an e-mail address"),
        ({"email": ADA, "counters": {"active": 2}}, "no limit"),
        ({"email": ADA, "counters": {"active": 1, "total": 2}}, "no limit"),
    ],
)
def test_zoom_parks_a_delivery_without_the_invitee_or_the_limit(
    kind: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Untranslatable, match=reason) as parked:
        changes_of("zoom", zoom(kind, 0, slot="slot-1", **options))

    assert "Ada" not in str(parked.value)


@each(
    ("status", "total", "by", "is_parked"),
    [
        ("cancelled", 2, "host", True),
        ("cancelled", 2, None, True),
        ("cancelled", 2, "invitee", False),  # the last remaining invitee
        ("cancelled", 1, "host", False),
        ("confirmed", 2, "host", False),
    ],
)
def test_zoom_parks_a_group_event_that_may_be_cancelled_for_all(
    status: str, total: int, by: str | None, is_parked: bool
) -> None:
    body = zoom(CANCELED, 5, ADA, "slot-1", counters={"total": total, "active": 0, "limit": 3})
    booking = body["payload"]["object"]
    booking["scheduled_event"]["status"], booking["cancellation"] = status, {"canceler_type": by}

    if not is_parked:
        assert changes_of("zoom", body)
        return
    with pytest.raises(PartlyTranslatable, match="perhaps for all of its invitees") as parked:
        changes_of("zoom", body)
    assert ["cancel", "cancel"] == [change.action for change in parked.value.changes]


def test_zoom_prefers_the_phone_for_text_reminders_to_one_from_the_form() -> None:
    questions = [{"question": "Mobile phone", "answer": ["+15550100002"], "position": 0}]
    body = zoom(BOOKED, 0, ADA, "slot-1", text_phone_number="+1 83798773", questions_and_answers=questions)

    (change,) = changes_of("zoom", body)

    assert change.contact
    assert "+1 83798773" == change.contact.phone


def test_a_zoom_cancel_has_the_time_of_the_cancel_and_the_version_of_its_event() -> None:
    cancelled = {"canceled_by": "bob@example.org", "canceler_type": "host", "cancel_at": "2026-09-22T00:10:00+08:00"}

    (dated, _), (bare, _) = (
        changes_of("zoom", zoom(CANCELED, 5, ADA, "slot-1", **options)) for options in ({"cancellation": cancelled}, {})
    )

    assert datetime(2026, 9, 21, 16, 10, tzinfo=UTC) == dated.date_cancelled
    assert datetime(2026, 9, 21, 14, 18, 20, tzinfo=UTC) == bare.date_cancelled
    assert dated.version == bare.version == (1_790_000_000 + 300) * 1_000_000


# -- Nylas Scheduler --

HOST = {"email": "host@example.org", "name": "Host", "is_organizer": True}
GUEST, OTHER_GUEST = {"email": ADA, "name": "Ada Lovelace"}, {"email": BOB, "name": "Bob Boole"}


def nylas(kind: str, minute: int, booking: str, *participants: Any, start: str = START, **options: Any) -> Any:
    starts = int(datetime.fromisoformat(start).timestamp())
    info = {"event_id": "cal-1", "start_time": starts, "participants": list(participants) or None, **options}
    return {
        "specversion": "1.0", "type": f"booking.{kind}", "id": f"{kind}-{minute}", "time": 1_790_000_000 + minute * 60,
        "data": {"grant_id": "g-1", "object": {"booking_id": booking, "booking_info": info}},
    }  # fmt: skip


NYLAS = {
    "each guest of a group event has a booking": (
        [nylas("created", 0, "b1", GUEST), nylas("created", 1, "b2", OTHER_GUEST), nylas("cancelled", 2, "b1", GUEST)],
        [(BOB, START)],
    ),
    "one of them moves": (
        [
            nylas("created", 0, "b1", GUEST), nylas("created", 1, "b2", OTHER_GUEST),
            nylas("rescheduled", 2, "b2", OTHER_GUEST, start=LATER),
        ],
        [(ADA, START), (BOB, LATER)],
    ),
    "the same person listed twice, in another case": (
        [nylas("created", 0, "b1", HOST, GUEST, {"email": "ADA@example.com"})],
        [(ADA, START)],
    ),
    "a participant without an address": ([nylas("created", 0, "b1", {"name": "Room 3"}, GUEST)], [(ADA, START)]),
    "a move with several guests": (
        [nylas("created", 0, "b1", HOST, GUEST), nylas("rescheduled", 1, "b1", HOST, GUEST, OTHER_GUEST, start=LATER)],
        [(ADA, LATER)],
    ),
    "a cancel with several guests": (
        [nylas("created", 0, "b1", HOST, GUEST), nylas("cancelled", 1, "b1", HOST, GUEST, OTHER_GUEST)],
        [],
    ),
    "a cancel without guests": ([nylas("created", 0, "b1", HOST, GUEST), nylas("cancelled", 1, "b1")], []),
}  # fmt: skip


@each("case", NYLAS)
def test_nylas_has_a_visit_for_each_booking(case: str) -> None:
    bodies, expected = NYLAS[case]

    assert_review_requests("nylas", bodies, expected)


@each("participants", [(GUEST, OTHER_GUEST), (HOST, GUEST, OTHER_GUEST), ({**HOST, "is_organizer": False}, GUEST)])
def test_nylas_parks_a_booking_with_several_possible_guests(participants: Sequence[Any]) -> None:
    with pytest.raises(Untranslatable, match="cannot be distinguished") as parked:
        changes_of("nylas", nylas("created", 0, "b1", *participants))

    assert "@" not in str(parked.value)


# -- Mindbody --


def place(kind: str, minute: int, client: str, email: str | None = None, **options: Any) -> Any:
    data = {"siteId": -99, "classId": 7, "classRosterBookingId": minute + 100, "clientId": client, **options}
    if email:
        data |= {"classStartDateTime": START, "clientEmail": email, "clientFirstName": "A", "clientLastName": "B"}
    return {
        "messageId": f"m-{kind}-{minute}", "eventId": f"classRoster{kind}", "eventData": data,
        "eventInstanceOriginationDateTime": f"2026-09-21T14:{minute:02d}:00Z",
    }  # fmt: skip


def signed_in(minute: int, client: str, status: str) -> Any:
    return place("BookingStatus.updated", minute, client, signedInStatus=status)


MINDBODY = {
    "three book, and one cancels": (
        [
            place("Booking.created", 0, "1", ADA), place("Booking.created", 1, "2", BOB),
            place("Booking.created", 2, "3", EVE), place("Booking.cancelled", 3, "2"),
        ],
        [(ADA, START), (EVE, START)],
    ),
    "one cancels and books again": (
        [
            place("Booking.created", 0, "1", ADA), place("Booking.cancelled", 1, "1"),
            place("Booking.created", 2, "1", ADA.upper()), place("Booking.created", 3, "2", BOB),
        ],
        [(ADA, START), (BOB, START)],
    ),
    "one is absent, one late, one signs in": (
        [
            place("Booking.created", 0, "1", ADA), place("Booking.created", 1, "2", BOB),
            place("Booking.created", 2, "3", EVE), signed_in(3, "1", "Absent"), signed_in(4, "2", "Late Cancelled"),
        ],
        [(EVE, START)],
    ),
    "an absence is removed": (
        [place("Booking.created", 0, "1", ADA), signed_in(1, "1", "Absent"), signed_in(2, "1", "SignedIn")],
        [(ADA, START)],
    ),
    "a client without an address": (
        [place("Booking.created", 0, "1"), place("Booking.created", 1, "2", BOB), place("Booking.cancelled", 2, "1")],
        [(BOB, START)],
    ),
}  # fmt: skip


@each("case", MINDBODY)
def test_mindbody_has_a_visit_for_each_client_of_a_class(case: str) -> None:
    bodies, expected = MINDBODY[case]

    assert_review_requests("mindbody", bodies, expected)


def test_mindbody_parks_the_cancel_of_a_whole_class() -> None:
    body = {"eventId": "class.updated", "eventData": {"siteId": -99, "classId": 7, "isCancelled": True}}

    with pytest.raises(Untranslatable, match="does not name its clients"):
        changes_of("mindbody", body)


def test_the_name_of_a_mindbody_visit_contains_no_address() -> None:
    (change,) = changes_of("mindbody", place("Booking.created", 0, "ada@example.com", ADA))

    assert "ada" not in change.visit_id


# -- HubSpot --


class Meeting:
    """A meeting that changes, and its records. contacts: the ids of its contacts, with their addresses."""

    def __init__(self, **contacts: str | None) -> None:
        self.people, self.contacts, self.opted_out = dict(contacts), list(contacts), set[str]()
        self.start, self.outcome, self.minute = START, "SCHEDULED", 0
        self.is_deleted = False
        self.listed: dict[str, list[str]] = {}
        self.changes: list[list[VisitChange]] = []

    def now(self, kind: str = "object.propertyChange", **changed: Any) -> "Meeting":
        """Apply a change, fetch the meeting, and store the translated changes."""
        vars(self).update(changed)
        self.minute += 1
        ends = {"fromObjectId": 1, "fromObjectTypeId": "0-47", "toObjectId": 2, "toObjectTypeId": "0-1"}
        item = {"subscriptionType": kind, "propertyName": "hs_meeting_outcome", "portalId": 5, "objectId": 1}
        item |= {"objectTypeId": "0-47", "occurredAt": 1_790_000_000_000 + self.minute * 60_000, **ends}
        event, tool = event_of("hubspot", [item]), load_sources()["hubspot"]
        (request,) = tool.fetch(event) if tool.fetch else []
        fetched_at = ARRIVAL + timedelta(minutes=self.minute)
        beside = {contact: self.contact(contact) for contact in self.contacts}
        with_record = event.with_record(self.record(), fetched_at, beside, request.path)
        translated = tool.translate(with_people(HOOKS["hubspot"], with_record, self.listed))
        self.changes.append([] if isinstance(translated, Ignored) else translated)
        return self

    def record(self) -> Any:
        made = {"timestamp": "2026-09-01T10:00:00Z"}
        history = {"hs_meeting_outcome": [{"value": self.outcome, **made}], "hs_meeting_start_time": [made]}
        return None if self.is_deleted else {
            "id": "1", "propertiesWithHistory": history, "createdAt": "2026-09-01T10:00:00Z",
            "properties": {"hs_meeting_start_time": self.start, "hs_meeting_outcome": self.outcome},
            "associations": {"contacts": {"results": [{"id": contact} for contact in self.contacts]}},
        }  # fmt: skip

    def contact(self, id: str) -> Any:
        return {"properties": {"email": self.people[id], "hs_email_optout": str(id in self.opted_out).lower()}}


def three_contacts() -> Meeting:
    return Meeting(c1=ADA, c2=BOB, c3=EVE).now("object.creation")


BOTH = [(ADA, START), (BOB, START)]
HUBSPOT = {
    "all come": (three_contacts(), [*BOTH, (EVE, START)]),
    "it is moved": (
        three_contacts().now(start=LATER),
        [(ADA, LATER), (BOB, LATER), (EVE, LATER)],
    ),
    "it is cancelled": (three_contacts().now(outcome="CANCELED"), []),
    "it is cancelled and restored": (
        three_contacts().now(outcome="CANCELED").now(outcome="SCHEDULED"),
        [*BOTH, (EVE, START)],
    ),
    "nobody came": (three_contacts().now(outcome="NO_SHOW"), []),
    "another meeting replaces it": (three_contacts().now(outcome="RESCHEDULED"), []),
    "one is removed": (three_contacts().now("object.associationChange", contacts=["c1", "c2"]), BOTH),
    "the first is removed": (three_contacts().now("object.associationChange", contacts=["c2"]), [(BOB, START)]),
    "the first is removed without an event": (
        three_contacts().now(contacts=["c2"], start=LATER),
        [(BOB, LATER)],
    ),
    "the first returns after the others": (
        three_contacts().now(contacts=["c2"]).now(contacts=["c2", "c1"]),
        BOTH,
    ),
    "one is added before the first": (Meeting(c2=BOB, c1=ADA).now(contacts=["c2"]).now(contacts=["c1", "c2"]), BOTH),
    "all are removed": (three_contacts().now(contacts=[]), []),
    "it has no contact yet": (Meeting(c1=ADA).now(contacts=[]).now(contacts=["c1"]), [(ADA, START)]),
    "it is deleted": (three_contacts().now("object.deletion", is_deleted=True), []),
    "it is deleted after one was removed": (
        three_contacts().now(contacts=["c2"]).now("object.deletion", is_deleted=True),
        [],
    ),
    "it is deleted and restored": (
        three_contacts().now("object.deletion", is_deleted=True).now("object.restore", is_deleted=False),
        [*BOTH, (EVE, START)],
    ),
    "one wants no e-mail": (three_contacts().now(opted_out={"c2"}), [(ADA, START), (EVE, START)]),
    "one has no address": (Meeting(c1=ADA, c2=None, c3=EVE).now(), [(ADA, START), (EVE, START)]),
}


@each("case", HUBSPOT)
def test_hubspot_has_a_visit_for_each_contact_of_a_meeting(case: str) -> None:
    meeting, expected = HUBSPOT[case]
    orders = itertools.permutations(meeting.changes)

    for order in orders:
        assert sorted(expected) == review_requests("hubspot", itertools.chain(*order, order[0]))


def test_the_visits_of_hubspot_contacts_do_not_change_when_others_are_added_or_removed() -> None:
    meeting = Meeting(c1=ADA, c2=BOB, c3=EVE).now(contacts=["c2"]).now(contacts=["c1", "c2", "c3"]).now(contacts=["c3"])

    named = [{change.visit_id: change.action for change in changes} for changes in meeting.changes]

    assert {"5-1": "update"} == named[0]
    assert {"5-1": "update", "5-1.c1": "update", "5-1.c3": "update"} == named[1]
    assert {"5-1": "cancel", "5-1.c1": "cancel", "5-1.c3": "update"} == named[2]


def test_hubspot_parks_a_meeting_with_too_many_contacts() -> None:
    with pytest.raises(Untranslatable, match="more than 50 contacts"):
        Meeting(**{f"c{number}": ADA for number in range(51)}).now()


# -- Cronofy --


def request(minute: int, *people: tuple[str, bool], start: str = START, kind: str = "time_chosen") -> Any:
    recipients = [{"email": email, "display_name": "A B", "slot_selector": chooses} for email, chooses in people]
    booking = {"scheduling_request_id": "srq1", "recipients": recipients, "event": {"start": start}}
    note = {"type": f"scheduling_request_{kind}", "triggered_at": f"2026-09-21T14:{minute:02d}:00Z"}
    return {"notification": note, "scheduling_request": booking}


COLLEAGUE = ("host@example.org", False)
CRONOFY = {
    "two choose, with a colleague as recipient": (
        [request(0, (ADA, True), COLLEAGUE, (BOB, True))],
        [(ADA, START), (BOB, START)],
    ),
    "they choose again": (
        [request(0, (ADA, True), (BOB, True)), request(1, (BOB.upper(), True), (ADA, True), start=LATER)],
        [(ADA, LATER), (BOB, LATER)],
    ),
    "it is cancelled": (
        [request(0, (ADA, True), (BOB, True)), request(1, (ADA, True), (BOB, True), kind="cancelled")],
        [],
    ),
    "it is cancelled without a slot selector": (
        [request(0, (ADA, True), (BOB, True)), request(1, (ADA, False), (BOB, False), kind="cancelled")],
        [],
    ),
    "the same person twice": ([request(0, (ADA, True), (ADA.upper(), True), COLLEAGUE)], [(ADA, START)]),
    "one recipient": ([request(0, (ADA, False))], [(ADA, START)]),
    "one recipient, cancelled with another": (
        [request(0, (ADA, True)), request(1, (ADA, False), COLLEAGUE, kind="declined")],
        [],
    ),
}


@each("case", CRONOFY)
def test_cronofy_has_a_visit_for_each_recipient_who_chooses_the_time(case: str) -> None:
    bodies, expected = CRONOFY[case]

    assert_review_requests("cronofy", bodies, expected)


def test_a_cronofy_request_with_one_recipient_has_a_visit_with_its_id() -> None:
    assert ["srq1"] == [each.visit_id for each in changes_of("cronofy", request(0, (ADA, True), COLLEAGUE))]


def test_cronofy_parks_a_request_whose_customer_is_unknown() -> None:
    with pytest.raises(Untranslatable, match="none may choose"):
        changes_of("cronofy", request(0, (ADA, False), COLLEAGUE))


def invited(email: str, status: str) -> Any:
    reply = {"email": email, "status": status}
    invite = {"smart_invite_id": "own-1", "recipient": reply, "reply": reply}
    return {"notification": {"type": "smart_invite"}, "smart_invite": invite}


SLOT_CHOSEN = {"event": {"event_id": "own-1", "start": {"time": START, "tzid": "Europe/London"}}, "user": {}}


@each(
    ("replies", "expected"),
    [
        ([(ADA, "accepted")], [(ADA, START)]),
        ([(ADA, "accepted"), (BOB, "accepted")], [(ADA, START)]),
        ([(ADA, "accepted"), (BOB, "declined")], [(ADA, START)]),
        ([(ADA, "declined"), (BOB, "accepted")], []),
        ([(ADA, "accepted"), (BOB, "accepted"), (ADA, "declined")], []),
        ([(ADA, "declined"), (BOB, "declined"), (ADA.upper(), "accepted")], [(ADA, START)]),
    ],
)
def test_the_visit_of_a_cronofy_invite_belongs_to_its_first_recipient(
    replies: list[Any], expected: ReviewRequests
) -> None:
    changes_by_body = [changes_of("cronofy", SLOT_CHOSEN, ARRIVAL)]
    for minute, answer in enumerate(replies, 1):
        changes_by_body.append(changes_of("cronofy", invited(*answer), ARRIVAL + timedelta(minutes=minute)))

    for order in itertools.permutations(changes_by_body):
        assert expected == review_requests("cronofy", itertools.chain(*order, order[0]))


@each("name", ["recipients", "replies"])
def test_cronofy_parks_an_invite_with_several_recipients(name: str) -> None:
    body = invited(ADA, "accepted")
    body["smart_invite"][name] = [{"email": ADA, "status": "accepted"}, {"email": BOB, "status": "declined"}]

    with pytest.raises(Untranslatable, match="an invite with several recipients"):
        changes_of("cronofy", body)


# -- Cal.com --


def seated_calcom(kind: str, *people: str) -> Any:
    attendees = [{"email": email, "name": email.partition("@")[0], "timeZone": "UTC"} for email in people]
    payload = {"uid": "u1", "startTime": START, "endTime": LATER, "seatsPerTimeSlot": 10, "attendees": attendees}
    return {"triggerEvent": kind, "createdAt": "2026-09-21T14:00:00.000Z", "payload": payload}


def test_a_booking_whose_seats_nobody_holds_is_parked() -> None:
    assert [(ADA, START)] == review_requests("calcom", changes_of("calcom", seated_calcom("BOOKING_CREATED", ADA)))
    with pytest.raises(Untranslatable, match="somebody who holds a seat"):
        changes_of("calcom", seated_calcom("BOOKING_CREATED"))


def test_a_request_for_a_new_booking_with_seats_is_no_visit() -> None:
    assert [] == changes_of("calcom", seated_calcom("BOOKING_REQUESTED", ADA))
