"""Signed timestamps and the tolerance."""

from app.webhooks.signatures.scheme import VerificationContext
from tests.support.cases import each
from tests.support.harness import hmac_sha256, label
from tests.support.signatures import (
    APART,
    BODY,
    LISTED,
    NOW,
    SECRET,
    SPEC_SECRET,
    STANDARD,
    apart,
    delivery,
    listed,
    reason,
    standard,
)

# -- signed times that are rejected --


NO_SECONDS = [
    b"nan", b"NaN", b"inf", b"-inf", b"infinity", b"-1", b"+1790000000", b"-1790000000", b"1e9",
    b"1.79e9", b"1790000000.0",
    b"1790000000.", b"1_790_000_000", b"0x6ab13b80", b"1,790", b"'1790000000'", b"1790000000Z", b"2026-09-21T14:13:20Z",
    b"1790000000000", b"9" * 400, b"\xff\xfe", b"\x00", b"1790000000\x00", b"t",
    b"1790000000 1", b"0b1", b"true", b"null",
    "١٧٩٠٠٠٠٠٠٠".encode(), "１７９０００００００".encode(), "²".encode(), b"1790000000\n",
]  # fmt: skip


@each("time", NO_SECONDS, ids=label)
def test_a_signed_time_that_is_not_a_number_of_seconds_is_rejected(time: bytes) -> None:
    assert "malformed" == reason(APART, apart(time), VerificationContext([SECRET], NOW))
    if b"," not in time:
        assert "malformed" == reason(LISTED, listed(time), VerificationContext([SECRET], NOW))


@each("time", [b" 1790000000", b"1790000000 ", b"\t1790000000"], ids=label)
def test_a_signed_time_with_space_around_it_is_rejected(time: bytes) -> None:
    assert reason(LISTED, listed(time), VerificationContext([SECRET], NOW)) in ("malformed", "mismatch")
    assert reason(APART, apart(time), VerificationContext([SECRET], NOW)) in ("malformed", "mismatch")


@each("time", [b"0", b"1", b"1789999819", b"1790000181", b"999999999999", b"000000000000"])
def test_a_signed_time_beyond_the_tolerance_is_rejected(time: bytes) -> None:
    assert "stale" == reason(LISTED, listed(time), VerificationContext([SECRET], NOW))


@each("time", [b"1789999820", b"1790000000", b"1790000180"])
def test_a_signed_time_within_the_tolerance_is_accepted(time: bytes) -> None:
    assert 0 == LISTED.verify(listed(time), VerificationContext([SECRET], NOW))


def test_a_list_of_signatures_without_a_time_is_rejected() -> None:
    signature = hmac_sha256(SECRET.encode(), b"." + BODY).hex()

    for value in (f"v1={signature}", f"t=,v1={signature}", f"t,v1={signature}", f"T=1790000000,v1={signature}"):
        assert "malformed" == reason(
            LISTED, delivery(BODY, ("Listed-Signature", value)), VerificationContext([SECRET], NOW)
        )


def test_an_empty_header_for_the_time_counts_as_missing() -> None:
    signature = hmac_sha256(SECRET.encode(), b"." + BODY).hex()

    for lines in ([], [("Apart-Timestamp", "")], [("Apart-Timestamp", " ")]):
        sent = delivery(BODY, ("Apart-Signature", signature), *lines)
        assert "missing" == reason(APART, sent, VerificationContext([SECRET], NOW))


@each("second", [b"t=1790000000", b"t=1", b" t=1790000000"], ids=label)
def test_two_times_in_one_header_are_rejected(second: bytes) -> None:
    assert "malformed" == reason(LISTED, listed(b"1790000000", second), VerificationContext([SECRET], NOW))


# -- tolerance --


@each(
    ("tolerance_s", "apart_s", "expected"),
    [
        (None, 180, 0), (None, 181, "stale"),
        (0, 0, 0), (0, 1, "stale"), (0.5, 1, "stale"), (1, 1, 0), (3_600, 3_600, 0), (3_600, 3_601, "stale"),
        (float("nan"), 0, "stale"), (-1, 0, "stale"),
    ],
)  # fmt: skip
def test_the_tolerance_of_the_hook_overrides_that_of_the_source(
    tolerance_s: float | None, apart_s: int, expected: int | str
) -> None:
    for now in (NOW + apart_s, NOW - apart_s):
        context = VerificationContext([SECRET], now, tolerance_s=tolerance_s)
        if expected == 0:
            assert 0 == LISTED.verify(listed(b"1790000000"), context)
        else:
            assert expected == reason(LISTED, listed(b"1790000000"), context)


@each("apart_s", [300, -300])
def test_standard_webhooks_allows_five_minutes_in_both_directions(apart_s: int) -> None:
    beyond = apart_s + (1 if apart_s > 0 else -1)

    assert 0 == STANDARD.verify(standard(), VerificationContext([SPEC_SECRET], NOW + apart_s))
    assert "stale" == reason(STANDARD, standard(), VerificationContext([SPEC_SECRET], NOW + beyond))
