"""Every specimen becomes the changes that it states."""

import copy
import re
from typing import Any

import pytest

from app.visits.change import VisitChange, encode_change
from app.visits.merge import RecordedChange
from app.webhooks.delivery import check_content_type
from app.webhooks.payload import Payload
from app.webhooks.source import Ignored
from tests.support.specimens import BY_TOOL, TOOLS, Specimen, _changes, _name, each_tool, events, mismatches, signed

each_event = pytest.mark.parametrize("specimen", [found for name in TOOLS for found in events(name)], ids=_name)


def as_told(change: VisitChange) -> dict[str, Any]:
    """A change in the words of the specimens."""
    contact = change.contact.to_dict() if change.contact else {}
    return {
        "action": change.action,
        **({"visit_id": change.visit_id} if change.visit_id else {}),
        **({"external_id_override": change.external_id_override} if change.external_id_override else {}),
        "version": change.version,
        **({"previous_visit_id": change.previous_visit_id} if change.previous_visit_id else {}),
        **({"contact": contact} if contact else {}),
        **change.facts(),
        **({"observed_at_us": change.observed_at_us} if change.observed_at_us else {}),
        **({"times_are_observed": True} if change.times_are_observed else {}),
        **({"only_for_contact": True} if change.only_for_contact else {}),
        **({"first_contact_stays": True} if change.first_contact_stays else {}),
    }


@each_tool
def test_the_hook_takes_the_content_type(name: str) -> None:
    for specimen in BY_TOOL[name]:
        check_content_type(specimen.delivery, specimen.tool.definition.body_format)


@each_tool
def test_a_delivery_is_believed(name: str) -> None:
    assert {} == mismatches(0, signed(name), lambda specimen: specimen.verify())


@each_tool
def test_an_event_points_at_its_records(name: str) -> None:
    def is_as_told(specimen: Specimen) -> bool:
        return specimen.recorded.get("requests", []) == [get.key for get in specimen.record_requests()]

    assert {} == mismatches(True, events(name), is_as_told)


@each_tool
def test_every_record_of_a_specimen_is_asked_for(name: str) -> None:
    def is_as_told(specimen: Specimen) -> bool:
        asked, records = set(), specimen.recorded.get("records", {})
        for get in specimen.record_requests():
            record = records[get.key]
            others = get.follow_up(Payload(record, "record")) if record is not None else {}
            asked |= {get.key, *(other.key for other in others.values())}
        return asked == records.keys()

    assert {} == mismatches(True, events(name), is_as_told)


@each_event
def test_an_event_becomes_what_it_means(specimen: Specimen) -> None:
    said = specimen.translate()

    if isinstance(said, Ignored):
        assert specimen.expect == {"ignored": said.reason}
        return
    for expected, change in zip(specimen.expect, said, strict=True):
        actual = as_told(change)
        if "version" not in expected:  # a specimen need not count microseconds
            del actual["version"]
        assert expected == actual


@each_tool
def test_to_translate_twice_says_the_same_and_leaves_the_event_as_it_was(name: str) -> None:
    for specimen in events(name):
        event = specimen.event()
        for get in specimen.record_requests():
            event = specimen.with_record(get, event)
        before = copy.deepcopy(event)

        first, second = specimen.tool.translate(event), specimen.tool.translate(event)

        assert first == second, specimen
        assert before == event, specimen


@each_tool
def test_a_visit_gets_a_name_that_the_api_takes(name: str) -> None:
    names = {change.external_id(name) for specimen in events(name) for change in _changes(specimen)}

    assert names, "no specimen makes a change"
    assert [] == [taken for taken in names if not re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", taken)]


@each_tool
def test_a_change_survives_the_ledger(name: str) -> None:
    for change in (change for specimen in events(name) for change in _changes(specimen)):
        contact = change.contact.to_dict() if change.contact else {}

        read = RecordedChange.decode("delivery", encode_change(change))

        assert (change.action, change.version) == (read.action, read.version)
        assert (change.facts(), contact) == (read.facts, read.contact)
