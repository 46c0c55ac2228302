"""Any bytes in any header are rejected with SignatureError and nothing else."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from tests.support.signatures import BODY, NOW, SCHEMES, apart, delivery, listed, reason, standard

VALID = [listed(b"1790000000"), apart(b"1790000000"), standard(), standard(prefix="svix")]


HEADER_NAMES = sorted(
    {name.decode() for sent in VALID for name, _ in sent.headers}
    | {
        name.lower()
        for tool in load_sources()
        for sent in load_specimens(tool)["deliveries"]
        for name in sent["headers"]
    }
)

PIECES = st.sampled_from([b"t=", b"v1=", b"v1,", b",", b" ", b"=", b"1790000000", b"nan", b"\xff", b"sha256=", b"\0"])

VALUES = st.binary(max_size=40) | st.lists(PIECES | st.binary(max_size=3), max_size=8).map(b"".join)


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(HEADER_NAMES), VALUES), max_size=6), st.binary(max_size=20))
@example([], b"")
def test_any_bytes_in_a_header_are_rejected_with_a_signature_error(lines: list[tuple[str, bytes]], raw: bytes) -> None:
    sent = delivery(raw, *lines)

    for scheme, secret in SCHEMES:
        assert reason(scheme, sent, VerificationContext([secret, secret], NOW)) in {"missing", "malformed", "mismatch"}


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(VALID), st.data())
def test_an_altered_header_is_rejected(valid: Delivery, data: st.DataObject) -> None:
    lines = list(valid.headers)
    position = data.draw(st.integers(0, len(lines) - 1))
    name, value = lines[position]
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, len(value)))
    lines[position] = (name, value[:start] + data.draw(VALUES) + value[end:])
    sent = Delivery("hook", "source", tuple(lines), BODY, valid.received_at)

    for scheme, secret in SCHEMES[:3]:
        try:
            scheme.verify(sent, VerificationContext([secret], NOW))
        except SignatureError as error:
            assert error.reason in {"missing", "malformed", "mismatch"}  # noqa: PT017
        else:
            assert value in lines[position][1] or _is_equivalent(value, lines[position][1])


def _is_equivalent(value: bytes, changed: bytes) -> bool:
    """Return whether the signature is still there: a list may have several, and a lenient scheme accepts capitals."""
    return value.lower().split(b",")[-1].split(b"=")[-1] in changed.lower()
