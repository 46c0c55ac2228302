"""Tests of contacts, attendees, and facts about one person."""

import hmac
from datetime import datetime
from typing import Any

from app.visits.change import (
    Contact,
    attendee_visit_id,
    encode_change,
)
from app.visits.merge import (
    RecordedChange,
    count_people,
    desired_visit,
    merge_changes,
    required_origins,
)
from app.webhooks.delivery import Event
from app.webhooks.payload import Payload
from app.webhooks.registry import load_sources
from app.webhooks.source import Ignored
from tests.support.cases import each
from tests.support.changes import ELEVEN, NINE, TEN, desired_of, recorded

# -- the contact of a visit --

ADA = Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace", phone="+15550100001")


def test_the_contact_is_combined_from_all_changes() -> None:
    visit = desired_of(
        recorded("create", 1, contact=Contact(email="ada@example.com", first_name="Ada")),
        recorded("update", 2, contact=Contact(email="ADA@example.com", last_name="Lovelace")),
        recorded("update", 3, contact=Contact(phone="+15550100001")),
    )

    assert visit.contact == ADA


def test_a_name_without_an_address_belongs_to_a_later_address() -> None:
    visit = desired_of(
        recorded("create", 1, contact=Contact(first_name="Ada", last_name="Lovelace")),
        recorded("update", 2, contact=Contact(email="ada@example.com")),
    )

    assert visit.contact == Contact(email="ada@example.com", first_name="Ada", last_name="Lovelace")


def test_names_are_dropped_with_their_address_when_the_customer_changes() -> None:
    visit = desired_of(
        recorded("create", 1, contact=ADA),
        recorded("update", 2, contact=Contact(email="zoe@example.com", first_name="Zoë")),
    )

    assert visit.contact == Contact(email="zoe@example.com", first_name="Zoë")


def test_names_return_with_their_address() -> None:
    zoe = Contact(email="zoe@example.com", first_name="Zoë", phone="+15550100002")

    visit = desired_of(
        recorded("create", 1, contact=ADA),
        recorded("update", 2, contact=zoe),
        recorded("update", 3, contact=Contact(email="ada@example.com")),
    )

    assert visit.contact == ADA


def test_addresses_that_differ_in_capitals_are_one_customer() -> None:
    visit = desired_of(recorded("create", 1, contact=Contact(email=" Ada@Example.COM ", first_name=" Ada ", phone=" ")))

    assert visit.contact == Contact(email="ada@example.com", first_name="Ada")


def test_a_contact_named_by_an_operator_stays_when_an_address_arrives() -> None:
    visit = desired_of(
        recorded("update", 1, contact=Contact(id="cont_1")),
        recorded("update", 2, contact=Contact(email="ada@example.com")),
    )

    assert "cont_1" == visit.contact.id


def test_an_id_is_dropped_with_its_address_when_the_customer_changes() -> None:
    visit = desired_of(
        recorded("create", 1, contact=Contact(id="cont_ada", email="ada@example.com")),
        recorded("update", 2, contact=Contact(email="zoe@example.com")),
    )

    assert visit.contact == Contact(email="zoe@example.com")


def test_a_null_in_a_standard_body_clears_the_contact_id() -> None:
    """Design: "A field left out says nothing; `null` clears it", with `"id": null` in its own sample."""
    first = _standard("2026-03-14T09:00:00Z", id="cont_ada", email="ada@example.com")
    second = _standard("2026-03-14T10:00:00Z", id=None, email="zoe@example.com")

    assert desired_of(first).contact.id == "cont_ada"
    assert desired_of(first, second).contact.id is None


def test_a_null_clears_an_id_without_an_address_or_with_the_same_address() -> None:
    named = _standard("2026-03-14T09:00:00Z", id="cont_ada")
    both = _standard("2026-03-14T10:00:00Z", id="cont_zoe", email="ada@example.com", phone="+15550100001")
    cleared = _standard("2026-03-14T11:00:00Z", id=None, email="ada@example.com", phone=None)

    assert desired_of(named, cleared).contact == Contact(email="ada@example.com")
    assert desired_of(named, both, cleared).contact == Contact(email="ada@example.com")
    assert "cont_zoe" == desired_of(named, both).contact.id


def test_a_contact_with_a_cleared_address_is_empty() -> None:
    visit = desired_of(
        _standard("2026-03-14T09:00:00Z", email="ada@example.com"), _standard("2026-03-14T10:00:00Z", email=None)
    )

    assert visit.contact.email is None


def _standard(stamp: str, **contact: str | None) -> RecordedChange:
    body = {"type": "visit.updated", "timestamp": stamp, "data": {"visit_id": "A-1", "contact": contact}}
    changes = load_sources()["standard"].translate(Event("standard", Payload(body), NINE))
    assert not isinstance(changes, Ignored)
    return RecordedChange.decode(stamp, encode_change(changes[0]))


# -- contacts --


@each("label", ["doorbell.hook", "doorbell.token", "doorbell.fingerprint"])
def test_the_digest_of_an_address_differs_from_other_digests_with_the_key(label: str) -> None:
    """Anyone can choose an address, and other digests are HMACs of a label with the same key."""
    digest = Contact(email=label).cache_key(b"key")

    assert hmac.digest(b"key", label.encode(), "sha256").hex()[:32] != digest


# -- one visit per person --


def test_each_attendee_of_a_booking_has_another_visit_id() -> None:
    ada, bob = (attendee_visit_id("uid-1", email) for email in ("ada@example.com", "bob@example.com"))
    assert ada != bob
    assert attendee_visit_id("uid-1", " Ada@Example.com") == ada


def test_the_visit_id_of_an_attendee_contains_no_address_and_links_no_two_bookings() -> None:
    first, second = (attendee_visit_id(booking, "ada@example.com") for booking in ("uid-1", "uid-2"))
    assert "ada" not in first
    assert first.removeprefix("uid-1") != second.removeprefix("uid-2")


def test_the_tools_id_of_an_attendee_is_used_unchanged() -> None:
    assert attendee_visit_id("uid-1", "seat-7") == "uid-1.seat-7"


# -- facts that are bound to a person --


def mark(order: int, email: str, missed: datetime | None) -> RecordedChange:
    return recorded("update", order, no_show=missed, contact=Contact(email=email), only_for_contact=True)


def test_a_no_show_of_the_customer_always_counts_and_one_of_a_guest_never_does() -> None:
    booked = recorded("create", 1, time_scheduled=NINE, contact=Contact(email="Ada@example.com"))

    assert "2026-03-14T10:00:00Z" == desired_of(booked, mark(2, "ADA@example.com", TEN)).fields["date_cancelled"]
    assert not desired_of(booked, mark(2, "guest@example.com", TEN)).is_cancelled
    assert not desired_of(booked, mark(2, "ada@example.com", TEN), mark(3, "ada@example.com", None)).is_cancelled
    assert desired_of(booked, mark(2, "ada@example.com", TEN), mark(3, "guest@example.com", None)).is_cancelled


def test_a_no_show_of_a_person_and_one_of_the_visit_are_joined() -> None:
    booked = recorded("create", 1, time_scheduled=NINE, contact=Contact(email="ada@example.com"))
    moved = recorded("update", 3, no_show=None)

    assert not desired_of(booked, mark(2, "ada@example.com", TEN), moved).is_cancelled
    assert desired_of(booked, moved, mark(4, "ada@example.com", TEN)).is_cancelled


def test_a_no_show_alone_creates_no_visit_and_names_no_contact() -> None:
    alone = desired_of(mark(2, "ada@example.com", TEN))

    assert (Contact(), {}, True) == (alone.contact, alone.fields, alone.is_empty)
    assert {} == merge_changes(
        [recorded("update", 2, no_show=TEN, contact=Contact(first_name="Ada"), only_for_contact=True)]
    )


def test_an_attendee_who_left_stays_cancelled_when_the_booking_is_restored() -> None:
    booked = recorded("create", 1, time_scheduled=NINE, date_cancelled=None)
    departed, cancelled, back = (
        recorded("cancel", 2, date_left=TEN),
        recorded("cancel", 3, date_cancelled=TEN),
        recorded("update", 4, date_cancelled=None),
    )

    assert desired_of(booked, departed, cancelled, back).is_cancelled
    assert not desired_of(booked, cancelled, back).is_cancelled
    assert not desired_of(booked, departed, cancelled, back, recorded("update", 5, date_left=None)).is_cancelled


# -- one id for several people --


def shared(order: int, email: str, **fields: Any) -> RecordedChange:
    contact = Contact(email=email, first_name=email.partition("@")[0])
    return recorded("create", order, contact=contact, first_contact_stays=True, **fields)


def test_a_shared_id_belongs_to_the_person_that_was_named_first() -> None:
    ada = shared(1, "ada@example.com", time_scheduled=NINE)
    zoe = shared(2, "zoe@example.com", time_scheduled=TEN, date_cancelled=TEN)

    visit = desired_of(ada, zoe)

    assert ("ada@example.com", "ada") == (visit.contact.email, visit.contact.first_name)
    assert {"time_scheduled": "2026-03-14T09:00:00Z", "event_date": "2026-03-14T09:00:00Z"} == visit.fields
    assert (
        "2026-03-14T11:00:00Z"
        == desired_of(ada, zoe, shared(3, "ada@example.com", time_scheduled=ELEVEN)).fields["event_date"]
    )


def test_the_people_of_a_shared_id_are_counted_once_each() -> None:
    ada, zoe = shared(1, "ada@example.com"), shared(2, "zoe@example.com")
    alone = recorded("create", 3, contact=Contact(email="ada@example.com"), time_scheduled=NINE)

    assert [0, 1, 1, 2, 2] == [
        count_people(merge_changes(changes))
        for changes in ([alone], [ada], [ada, ada, alone], [ada, zoe], [zoe, ada, zoe])
    ]


def test_the_person_that_was_named_first_is_required() -> None:
    changes = [shared(order, f"{order}@example.com") for order in range(1, 6)]

    assert changes[0].origin in required_origins(changes)
    assert (
        "1@example.com"
        == desired_visit(
            merge_changes(change for change in changes if change.origin in required_origins(changes))
        ).contact.email
    )
