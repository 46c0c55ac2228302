"""Handshakes of every source."""

import re
from dataclasses import replace

from tests.support.cases import each
from tests.support.specimens import BY_TOOL, TOOLS, Specimen, _name, each_tool, events, mismatches, signed

SPECIMENS = [specimen for name in BY_TOOL for specimen in BY_TOOL[name]]

each_handshake = each("specimen", [specimen for specimen in SPECIMENS if specimen.is_handshake], ids=_name)

each_signed_handshake = each("specimen", [specimen for specimen in SPECIMENS if specimen.is_answered], ids=_name)


@each_handshake
def test_a_handshake_is_answered_only_without_a_signature(specimen: Specimen) -> None:
    unsigned, delivery = specimen.tool.definition.handshake, specimen.delivery
    assert unsigned is not None, "SOURCE has no `unsigned`, but a specimen expects a handshake"

    reply = unsigned.answer(delivery)

    assert reply is not None
    assert specimen.expect.get("answer", "{}") == reply.body.decode()
    if delivery.method == "POST":
        header = next(iter(specimen.tool.definition.signature.sign(delivery, specimen.context())))
        signed = specimen.changed(headers=(*delivery.headers, (header.lower().encode(), b"not a signature")))
        assert unsigned.answer(signed) is None


@each_handshake
def test_an_unsigned_handshake_echoes_only_harmless_values(specimen: Specimen) -> None:
    unsigned, delivery = specimen.tool.definition.handshake, specimen.delivery
    assert unsigned

    for harm in (b"%3Cscript%3E", b"a%0D%0AX-A%3A+b", b"v0%3A1790000000%3A%7B%7D", b"", b"%C3%A9", b"a" * 3_000):
        query = re.sub(rb"=[^&]*", b"=" + harm, delivery.query)
        assert query == delivery.query or unsigned.answer(specimen.changed(query=query)) is None


@each_signed_handshake
def test_a_signed_handshake_is_answered(specimen: Specimen) -> None:
    challenge = specimen.tool.definition.signed_handshake
    assert challenge is not None, "SOURCE has no `challenge`, but a specimen expects an answer"

    reply = challenge.answer(specimen.event(), specimen.secret)

    assert reply is not None
    assert specimen.expect["answer"] == reply.body.decode()


@each_tool
def test_an_event_is_not_a_handshake(name: str) -> None:
    challenge = TOOLS[name].definition.signed_handshake

    def is_answered(specimen: Specimen) -> bool:
        return challenge is not None and challenge.answer(specimen.event(), specimen.secret) is not None

    assert {} == mismatches(False, events(name), is_answered)


@each_tool
def test_a_delivery_without_its_signature_is_not_a_handshake(name: str) -> None:
    unsigned = TOOLS[name].definition.handshake
    probes = {specimen.delivery.body for specimen in BY_TOOL[name] if specimen.is_handshake}

    def is_answered(specimen: Specimen) -> bool:
        stripped = replace(specimen.without(*specimen.signing_headers), token="")
        return unsigned is not None and unsigned.answer(stripped) is not None

    assert {} == mismatches(
        False, [specimen for specimen in signed(name) if specimen.delivery.body not in probes], is_answered
    )
