"""Repeat keys of every source."""

from dataclasses import replace
from datetime import timedelta

from tests.support.specimens import Specimen, _is_refused, _repeat_key, each_tool, events, mismatches


@each_tool
def test_a_retry_has_the_repeat_key_of_the_first_attempt(name: str) -> None:
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

    assert {} == {
        key: headers_with_effect for key, headers_with_effect in bodies.items() if len(headers_with_effect) > 1
    }


@each_tool
def test_an_unsigned_header_does_not_change_the_repeat_key(name: str) -> None:
    """Otherwise anyone who recorded a delivery could repeat it, or use the key of a future event."""

    def headers_that_change_the_key(specimen: Specimen) -> list[str]:
        headers_with_effect = []
        for header in (
            header for header in specimen.tool.definition.stored_headers if not specimen.delivery.header_values(header)
        ):
            headers = ((header.encode(), b"the name of another event"), *specimen.delivery.headers)
            altered = replace(specimen, delivery=specimen.changed(headers=headers))
            if not _is_refused(specimen, altered.delivery):
                headers_with_effect += [header] * (
                    _repeat_key(altered.tool, altered.event()) != _repeat_key(altered.tool, specimen.event())
                )
        return headers_with_effect

    assert {} == mismatches([], events(name), headers_that_change_the_key)
