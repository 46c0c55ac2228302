"""Tests that every specimen becomes its expected changes."""

import copy
import re

from app.visits.change import encode_change
from app.visits.merge import RecordedChange
from app.webhooks.delivery import check_content_type
from app.webhooks.payload import Payload
from app.webhooks.source import Ignored
from app.webhooks.specimens import describe_change
from tests.support.cases import each
from tests.support.specimens import BY_TOOL, TOOLS, Specimen, _changes, _name, each_tool, events, mismatches

each_event = each("specimen", [specimen for name in TOOLS for specimen in events(name)], ids=_name)


@each_tool
def test_the_hook_takes_the_content_type(name: str) -> None:
    for specimen in BY_TOOL[name]:
        check_content_type(specimen.delivery, specimen.tool.definition.body_format)


@each_tool
def test_an_event_requests_its_records(name: str) -> None:
    def matches(specimen: Specimen) -> bool:
        return specimen.recorded.get("requests", []) == [request.key for request in specimen.record_requests()]

    assert {} == mismatches(True, events(name), matches)


@each_tool
def test_every_record_of_a_specimen_is_requested(name: str) -> None:
    def matches(specimen: Specimen) -> bool:
        requested, records = set(), specimen.recorded.get("records", {})
        for request in specimen.record_requests():
            record = records[request.key]
            follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
            requested |= {request.key, *(follow_up.key for follow_up in follow_ups.values())}
        return requested == records.keys()

    assert {} == mismatches(True, events(name), matches)


@each_event
def test_an_event_becomes_its_expected_changes(specimen: Specimen) -> None:
    translated = specimen.translate()

    if isinstance(translated, Ignored):
        assert specimen.expect == {"ignored": translated.reason}
        return
    for expected, change in zip(specimen.expect, translated, strict=True):
        actual = describe_change(change)
        if "version" not in expected:  # a specimen need not count microseconds
            del actual["version"]
        assert expected == actual


@each_tool
def test_a_second_translation_is_equal_and_the_event_is_unchanged(name: str) -> None:
    for specimen in events(name):
        event = specimen.event()
        for request in specimen.record_requests():
            event = specimen.with_record(request, event)
        before = copy.deepcopy(event)

        first, second = specimen.tool.translate(event), specimen.tool.translate(event)

        assert first == second, specimen
        assert before == event, specimen


@each_tool
def test_an_external_id_is_valid_in_the_api(name: str) -> None:
    names = {change.external_id(name) for specimen in events(name) for change in _changes(specimen)}

    assert names, "no specimen has a change"
    assert [] == [external_id for external_id in names if not re.fullmatch(r"[a-z][A-Za-z0-9._-]{0,119}", external_id)]


@each_tool
def test_a_change_can_be_encoded_and_decoded(name: str) -> None:
    for change in (change for specimen in events(name) for change in _changes(specimen)):
        contact = change.contact.to_dict() if change.contact else {}

        decoded = RecordedChange.decode("delivery", encode_change(change))

        assert (change.action, change.version) == (decoded.action, decoded.version)
        assert (change.facts(), contact) == (decoded.facts, decoded.contact)
