"""Repeat keys of every source."""

from dataclasses import replace
from datetime import timedelta

from tests.support.specimens import Specimen, _is_refused, _repeat_key, each_tool, events, mismatches


@each_tool
def test_a_retry_has_the_repeat_key_of_the_first_try(name: str) -> None:
    for specimen in events(name):
        event = specimen.event()
        later = replace(event, received_at=event.received_at + timedelta(hours=3))

        first, again = _repeat_key(specimen.tool, event), _repeat_key(specimen.tool, later)

        assert first == again, specimen


@each_tool
def test_different_events_have_different_repeat_keys(name: str) -> None:
    bodies: dict[str, set[bytes]] = {}
    for specimen in events(name):
        key = _repeat_key(specimen.tool, specimen.event())
        bodies.setdefault(key or repr(specimen.delivery.body), set()).add(specimen.delivery.body)

    assert {} == {key: found for key, found in bodies.items() if len(found) > 1}


@each_tool
def test_a_header_that_nobody_signed_does_not_rename_an_event(name: str) -> None:
    """Else whoever recorded one delivery rings it again and again, or takes the name of one that is still to come."""

    def renamed(specimen: Specimen) -> list[str]:
        found = []
        for header in (
            header for header in specimen.tool.definition.stored_headers if not specimen.delivery.header_values(header)
        ):
            headers = ((header.encode(), b"the name of another event"), *specimen.delivery.headers)
            other = replace(specimen, delivery=specimen.changed(headers=headers))
            if not _is_refused(specimen, other.delivery):
                found += [header] * (
                    _repeat_key(other.tool, other.event()) != _repeat_key(other.tool, specimen.event())
                )
        return found

    assert {} == mismatches([], events(name), renamed)
