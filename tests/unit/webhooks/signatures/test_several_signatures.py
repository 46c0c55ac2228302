"""Tests of several signatures in one header, and of the two header prefixes of Standard Webhooks."""

import pytest

from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.registry import load_sources
from app.webhooks.signatures.hmac import Hmac
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from tests.support.cases import each
from tests.support.signatures import (
    APART,
    BODY,
    LISTED,
    NOW,
    SECRET,
    SPEC_BODY,
    SPEC_ID,
    SPEC_SECRET,
    SPEC_SIGNATURE,
    SPEC_TIME,
    STANDARD,
    _text,
    delivery,
    reason,
    standard,
)

# -- several signatures --


def resigned(value: str | bytes) -> Delivery:
    """Return the published delivery with another signature header."""
    return delivery(
        SPEC_BODY,
        ("webhook-id", SPEC_ID),
        ("webhook-timestamp", str(SPEC_TIME)),
        ("webhook-signature", value),
    )


SPEC_CONTEXT = VerificationContext([SPEC_SECRET], SPEC_TIME)

WRONG_SIGNATURE = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="  # of the specification's page, for another body

ED25519_SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


@each(
    "value",
    [
        f"{WRONG_SIGNATURE} {SPEC_SIGNATURE}",
        f"{SPEC_SIGNATURE} {WRONG_SIGNATURE}",
        f"{ED25519_SIGNATURE} {SPEC_SIGNATURE}",
        f"v2,later garbage v1 {SPEC_SIGNATURE}",
        f" {SPEC_SIGNATURE} ",
        f"{WRONG_SIGNATURE} {WRONG_SIGNATURE} {WRONG_SIGNATURE}  {SPEC_SIGNATURE}",
    ],
)
def test_one_right_signature_among_others_is_enough(value: str) -> None:
    assert 0 == STANDARD.verify(resigned(value), SPEC_CONTEXT)


@each(
    ("value", "expected"),
    [
        ("", "missing"),
        (" ", "missing"),
        (b"\t", "missing"),
        ("garbage", "malformed"),
        ("v1", "malformed"),
        ("v1a," + SPEC_SIGNATURE[3:], "malformed"),
        ("V1," + SPEC_SIGNATURE[3:], "malformed"),
        ("v2," + SPEC_SIGNATURE[3:], "malformed"),
        (SPEC_SIGNATURE[3:], "malformed"),
        ("v1=" + SPEC_SIGNATURE[3:], "malformed"),
        (b"\xff\xfe\xfd", "malformed"),
        (b"\x00", "malformed"),
        ("v1,", "mismatch"),
        ("v1,a", "mismatch"),
        (WRONG_SIGNATURE, "mismatch"),
        (SPEC_SIGNATURE[:-1], "mismatch"),
        (SPEC_SIGNATURE.rstrip("="), "mismatch"),
        (SPEC_SIGNATURE + "=", "mismatch"),
        (SPEC_SIGNATURE + "\x00", "mismatch"),
        (SPEC_SIGNATURE.replace("+", "-").replace("/", "_"), "mismatch"),
        (SPEC_SIGNATURE.lower(), "mismatch"),
        (SPEC_SIGNATURE + "," + SPEC_SIGNATURE, "mismatch"),
        (SPEC_SIGNATURE.replace("v1,", "v1,v1,"), "mismatch"),
        (SPEC_SIGNATURE.encode() + b"\xe9", "mismatch"),
        ("v1," + "é" * 44, "mismatch"),
        ("v1," + "A" * 1_000_000, "mismatch"),
        # The same 32 bytes in hexadecimal:
        ("v1,83484cf52b04f8e4cf2531adfed9882ad4b2665137b8524425594d20e2c9d4e1", "mismatch"),
    ],
)
def test_an_invalid_signature_is_rejected_with_a_reason(value: str | bytes, expected: str) -> None:
    assert expected == reason(STANDARD, resigned(value), SPEC_CONTEXT)


def test_ten_thousand_wrong_signatures_are_rejected() -> None:
    assert "mismatch" == reason(STANDARD, resigned(" ".join([WRONG_SIGNATURE] * 10_000)), SPEC_CONTEXT)
    assert "malformed" == reason(STANDARD, resigned(" ".join([ED25519_SIGNATURE] * 10_000)), SPEC_CONTEXT)
    assert "malformed" == reason(STANDARD, resigned(" " * 100_000 + "x"), SPEC_CONTEXT)


def test_only_a_few_of_ten_thousand_signatures_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    monkeypatch.setattr("app.webhooks.signatures.hmac.hmac.compare_digest", lambda *pair: compared.append(pair))

    assert "mismatch" == reason(STANDARD, resigned(" ".join([WRONG_SIGNATURE] * 10_000)), SPEC_CONTEXT)
    assert 1 <= len(compared) <= 100


def test_signatures_are_compared_as_bytes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    monkeypatch.setattr("app.webhooks.signatures.hmac.hmac.compare_digest", lambda *pair: compared.append(pair) or True)

    assert 0 == STANDARD.verify(resigned("v1,é"), SPEC_CONTEXT)
    assert [(b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "é".encode())] == compared


LISTED_SIGNATURE = "v1=6ba22405a2fe67d0029c7173c13abb02d043e788f00563a5eecad54a992ef439"  # as of Calendly, above

OTHER_SIGNATURE = "v1=0000000000000000000000000000000000000000000000000000000000000000"


@each(
    "value",
    [
        f"t=1790000000,{OTHER_SIGNATURE},{LISTED_SIGNATURE}",
        f"{LISTED_SIGNATURE},t=1790000000",
        f"t=1790000000, {LISTED_SIGNATURE}",
        f"t=1790000000,v0=abc,{LISTED_SIGNATURE},v2=x,",
    ],
)
def test_a_list_may_have_unknown_fields_in_any_order(value: str) -> None:
    assert 0 == LISTED.verify(delivery(BODY, ("Listed-Signature", value)), VerificationContext([SECRET], NOW))


@each(
    ("value", "expected"),
    [
        ("t=1790000000", "malformed"),
        ("t=1790000000,", "malformed"),
        (f"t=1790000000,{LISTED_SIGNATURE.replace('v1', 'v0')}", "malformed"),
        (f"t=1790000000;{LISTED_SIGNATURE}", "malformed"),
        (f"t=1790000000 {LISTED_SIGNATURE}", "malformed"),
        (",,,,", "malformed"),
        ("=", "malformed"),
        (b"\xff", "malformed"),
        ("t=1790000000,v1=", "mismatch"),
        ("t=1790000000,v1", "mismatch"),
        (f"t=1790000000,{LISTED_SIGNATURE.upper().replace('V1', 'v1')}", "mismatch"),
        (f"t=1790000000,{LISTED_SIGNATURE[:-1]}", "mismatch"),
        (f"t=1790000000,{LISTED_SIGNATURE}=", "mismatch"),
        (f"t=1790000000,{LISTED_SIGNATURE} ", "mismatch"),
        (f"t=1790000001,{LISTED_SIGNATURE}", "mismatch"),
        (f"t=01790000000,{LISTED_SIGNATURE}", "mismatch"),
        (b"t=1790000000,v1=\xe9", "mismatch"),
    ],
)
def test_an_invalid_list_is_rejected_with_a_reason(value: str | bytes, expected: str) -> None:
    assert expected == reason(LISTED, delivery(BODY, ("Listed-Signature", value)), VerificationContext([SECRET], NOW))


@each("spelt", ["{0}", "sha256={0}", "sha256={1}", "{1}"])
def test_only_a_lenient_scheme_accepts_other_spellings_of_a_digest(spelt: str) -> None:
    digest = LISTED_SIGNATURE.removeprefix("v1=")
    spelling = spelt.format(digest, digest.upper())
    sent = delivery(BODY, ("Apart-Timestamp", "1790000000"), ("Apart-Signature", spelling))
    strict = Hmac(header="Apart-Signature", timestamp_header="Apart-Timestamp", signs="{t}.{body}")

    assert 0 == APART.verify(sent, VerificationContext([SECRET], NOW))
    if spelling != digest:
        assert "mismatch" == reason(strict, sent, VerificationContext([SECRET], NOW))


# -- the two header prefixes of Standard Webhooks --


def test_the_svix_header_names_are_equivalent() -> None:
    assert 0 == STANDARD.verify(standard(prefix="svix"), VerificationContext([SPEC_SECRET], NOW))


@each("signature", ["svix", "webhook"])
@each("lacking", ["id", "timestamp"])
def test_a_missing_header_is_not_taken_from_the_other_prefix(signature: str, lacking: str) -> None:
    unsigned = "webhook" if signature == "svix" else "svix"
    complete = _text(standard(prefix=signature))
    mixed = [(name.replace(signature, unsigned) if name.endswith(lacking) else name, value) for name, value in complete]

    assert "missing" == reason(STANDARD, delivery(BODY, *mixed), VerificationContext([SPEC_SECRET], NOW))


def test_a_wrong_signature_is_not_replaced_by_the_other_prefix() -> None:
    right, wrong = _text(standard(prefix="webhook")), _text(standard(prefix="svix", secret="whsec_d3Jvbmc="))

    assert "mismatch" == reason(STANDARD, delivery(BODY, *right, *wrong), VerificationContext([SPEC_SECRET], NOW))


@each("prefix", ["webhook", "svix"])
@each("added", ["webhook-id", "svix-id"])
def test_an_unsigned_id_must_equal_the_signed_id(prefix: str, added: str) -> None:
    """Otherwise anyone could repeat a recorded delivery as new, or use the id of a future event."""
    source = load_sources()["standard"].definition
    key_of, signed = source.repeat_key, standard(prefix=prefix)
    assert key_of is not None
    if added.startswith(prefix):
        return

    sent = delivery(BODY, (added, "msg_2"), *_text(signed))

    try:
        source.signature.verify(sent, VerificationContext([SPEC_SECRET], NOW))
    except SignatureError:
        return
    assert "msg_1" == key_of(_event(sent))


@each("prefix", ["webhook", "svix"])
def test_an_unsigned_time_must_equal_the_signed_time(prefix: str) -> None:
    """Sources read the time under both prefixes: an unsigned one could date a change to the year 2100."""
    unsigned = "webhook" if prefix == "svix" else "svix"
    signed = _text(standard(prefix=prefix))

    assert 0 == STANDARD.verify(
        delivery(BODY, (f"{unsigned}-timestamp", str(NOW)), *signed), VerificationContext([SPEC_SECRET], NOW)
    )
    forged = delivery(BODY, (f"{unsigned}-timestamp", "4102444800"), *signed)
    assert "malformed" == reason(STANDARD, forged, VerificationContext([SPEC_SECRET], NOW))


def _event(sent: Delivery) -> Event:
    headers = {
        name: value
        for name in load_sources()["standard"].definition.stored_headers
        if (value := sent.header(name)) is not None
    }
    return Event("standard", parse_body(sent, "json"), sent.received_at, headers)
