"""Tests of unsigned handshakes."""

from app.webhooks.handshakes import FixedBody
from tests.support.cases import each
from tests.support.signatures import delivery

# -- unsigned handshakes --

PROBE = FixedBody(b'{"foo":"bar"}', absent_header="Api-Signature")


@each("raw", [b'{"foo":"bar"}', b'{"foo": "bar"}', b'{\n  "foo": "bar"\n}\n'])
def test_a_known_probe_is_answered(raw: bytes) -> None:
    reply = PROBE.answer(delivery(raw))

    assert reply is not None
    assert (b"{}", "application/json") == (reply.body, reply.content_type)


@each(
    "raw",
    [b"", b"{}", b'{"foo":"baz"}', b'{"foo":"bar","event":"x"}', b'{"foo":"bar"}{}', b'{"foo":"bar"' + b" " * 99 + b"}",
     b'{"event":"job.canceled"}', b"\xff"],
)  # fmt: skip
def test_another_body_without_a_signature_is_not_a_probe(raw: bytes) -> None:
    assert PROBE.answer(delivery(raw)) is None


def test_a_probe_with_a_signature_is_verified() -> None:
    for value in ("", "x", "sha256=00"):
        assert PROBE.answer(delivery(b'{"foo":"bar"}', ("Api-Signature", value))) is None
