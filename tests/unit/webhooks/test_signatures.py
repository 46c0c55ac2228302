"""Signatures: the vectors that vendors publish, those that were worked out beside us, and what an attacker may send."""

import base64
import os
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.settings.model import Hook
from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.handshakes import FixedBody
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.combined import Both, FieldsHmac
from app.webhooks.signatures.hmac import Hmac, StandardWebhooks, base64_key
from app.webhooks.signatures.jwt import Jwt
from app.webhooks.signatures.public_key import PublicKey
from app.webhooks.signatures.scheme import ISO_TIME, LAST_SECONDS, MILLISECONDS, Scheme, SignatureError, Terms
from app.webhooks.signatures.token import PathToken, Token
from tests.support.harness import hmac_sha256, label

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here to make them with")

STANDARD = StandardWebhooks()
#: The shape `t=…,v1=…`, and a time in a header of its own.
LISTED = Hmac(header="Listed-Signature", fields=("t", "v1"), signs="{t}.{body}", tolerance_s=180)
APART = Hmac(header="Apart-Signature", timestamp="Apart-Timestamp", signs="{t}.{body}", tolerance_s=300, forgiving=True)

SECRET = "test-secret-for-vectors"
NOW = 1_790_000_000
BODY = '{"event":"demo","email":"ada@example.com","name":"Zoë"}'.encode()


def delivery(raw: bytes, *headers: tuple[str, str | bytes]) -> Delivery:
    lines = [(name.lower().encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    return Delivery("hook", "source", tuple(lines), raw, datetime(2026, 9, 21, tzinfo=UTC))


def reason(scheme: Scheme, given: Delivery, terms: Terms) -> str:
    with pytest.raises(SignatureError) as refused:
        scheme.verify(given, terms)

    assert not [secret for secret in terms.secrets if secret and secret in str(refused.value)]
    return refused.value.reason


def declared(name: str) -> Scheme:
    """The scheme that a source declares."""
    return load_sources()[name].definition.signature


# -- published: key, body and signature are all the vendor's --

PUBLISHED_SQUARE = (
    b'{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification",'
    b'"event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z",'
    b'"data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}'
)
PUBLISHED_STRIPE = b"""{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "cus_123",
      "object": "customer",
      "created": 123456789,
      "email": "test@stripe.com",
      "livemode": false,
      "metadata": {}
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "customer.created"
}
"""
WEBSITE, HOOK_SITE = "https://webhook.site/webhooks", "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9"
SPEC_SECRET, SPEC_ID, SPEC_TIME = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
SPEC_BODY, SPEC_SIGNATURE = b'{"test": 2432232314}', "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
STRIPE_SIGNATURES = (
    "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
    "v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"  # to be ignored, as by Stripe's own library
)
SQUARE_HEADER = "x-square-hmacsha256-signature"


@pytest.mark.parametrize(
    ("scheme", "terms", "given"),
    [
        pytest.param(
            STANDARD,
            Terms([SPEC_SECRET], SPEC_TIME),
            delivery(
                SPEC_BODY,
                ("webhook-id", SPEC_ID),
                ("webhook-timestamp", str(SPEC_TIME)),
                ("webhook-signature", SPEC_SIGNATURE),
            ),
            id="standard-webhooks, libraries/python/tests/test_webhooks.py @b2fa7b8",
        ),
        pytest.param(
            declared("square"),
            Terms(["Ibxx_5AKakO-3qeNVR61Dw"], 0, HOOK_SITE),
            delivery(PUBLISHED_SQUARE, (SQUARE_HEADER, "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4=")),
            id="square-python-sdk, a test notification @24302ba",
        ),
        pytest.param(
            declared("square"),
            Terms(["signature-key"], 0, WEBSITE),
            delivery(
                b'{"data":{"type":"webhooks","id":">id<"}}',
                (SQUARE_HEADER, "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U="),
            ),
            id="square-python-sdk, signs of HTML in the body @24302ba",
        ),
        pytest.param(
            Hmac(header="Stripe-Signature", fields=("t", "v1"), signs="{t}.{body}"),
            Terms(["webhook_secret"], 1533204620),
            delivery(PUBLISHED_STRIPE, ("Stripe-Signature", STRIPE_SIGNATURES)),
            id="stripe-dotnet, src/StripeTests/Resources/event_test_signature.json @d330362",
        ),
    ],
)
def test_what_a_vendor_published_is_believed(scheme: Scheme, terms: Terms, given: Delivery) -> None:
    assert 0 == scheme.verify(given, terms)
    assert "mismatch" == reason(scheme, delivery(given.body[:-1], *_text(given)), terms)


def _text(given: Delivery) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in given.headers]


# -- worked out beside us from each vendor's rule (the facts files, Python's hmac): no proof that the vendor does so --

JOBBER_BODY = (
    b'{"data":{"webHookEvent":{"topic":"VISIT_COMPLETE","appId":"6a8c7d0e-0000-4000-8000-000000000001",'
    b'"accountId":"MTIzNDU=","itemId":"Z2lkOi8vSm9iYmVyL1Zpc2l0LzIxNDk1MTMzOTU=",'
    b'"occurredAt":"2026-03-14T11:42:05-06:00"}}}'
)
HOUSECALL_BODY = (
    b'{"event":"job.completed","event_occurred_at":"2026-03-14T17:32:05Z",'
    b'"company_id":"11111111-2222-4333-8444-555555555555",'
    b'"job":{"id":"job_0a1b2c3d4e5f60718293a4b5c6d7e8f9","work_status":"complete unrated"}}'
)
ACUITY_BODY = b"action=scheduled&id=123456789&calendarID=1234567&appointmentTypeID=7654321"


@pytest.mark.parametrize(
    ("name", "secret", "now", "url", "raw", "headers"),
    [
        (
            "calendly", SECRET, NOW, "", BODY,
            {"Calendly-Webhook-Signature":
             "t=1790000000,v1=6ba22405a2fe67d0029c7173c13abb02d043e788f00563a5eecad54a992ef439"},
        ),
        (
            "calcom", SECRET, NOW, "", BODY,
            {"X-Cal-Signature-256": "6dbb05f88423b4d12bfbc097feb4dfabb0f60510e31f8a37d74c7318f851b4e6"},
        ),
        (
            "acuity", SECRET, NOW, "", ACUITY_BODY,
            {"X-Acuity-Signature": "RK/H2eARlTpSze7vM3Ae4GdGVH9a3iSptIdXImFok28="},
        ),
        (
            "square", SECRET, NOW, "https://hooks.example.com/in/square", BODY,
            {SQUARE_HEADER: "abuoY9h+QFLO8mWxL/6rbcsbt93D9+AyPROZY7Y05+g="},
        ),
        (
            "standard", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", NOW, "", BODY,
            {"webhook-id": "msg_demo1", "webhook-timestamp": "1790000000",
             "webhook-signature": "v1,tMH1aNsUUAXtlqnGiH1qJ6yZpFsgBnf1V9a7j5pBnVU="},
        ),
        (
            "standard", "whsec_c3RhbmRhcmQtd2ViaG9va3MtdGVzdC1rZXktMzJieXQ=", 1773509525, "",
            b'{"operation":"UPDATE","table":"order"}',
            {"webhook-id": "msg_2b1", "webhook-timestamp": "1773509525",
             "webhook-signature": "v1,UzR9v2LRhOdMghch+EPI38SQNjeVc3tbAUJfLCF8VPU="},
        ),
        (
            "jobber", "jobber-client-secret-for-tests", NOW, "", JOBBER_BODY,
            {"X-Jobber-Hmac-SHA256": "gsgShPASENNmS67fZXFGrWqcb/qIOmSH/W6FVRDd0iw="},
        ),
        (
            "zoom", SECRET, NOW, "", BODY,
            {"x-zm-request-timestamp": "1790000000",
             "x-zm-signature": "v0=98065f594db4279cb765aa0af60bfe7c4eb5124873886b3a0dba330c0d037d81"},
        ),
        (
            "housecallpro", "hcp-signing-secret-for-tests", 1773509525, "", HOUSECALL_BODY,
            {"Api-Timestamp": "1773509525",
             "Api-Signature": "5332db15fe29443b3dfa4f62cc3a56be813e7f7682dc7ae4e27f8d6d21d9be5c"},
        ),
    ],
    ids=["calendly", "calcom", "acuity", "square", "standard", "standard, another", "jobber", "zoom", "housecallpro"],
)  # fmt: skip
def test_what_follows_from_a_vendors_rule_is_believed(
    name: str, secret: str, now: float, url: str, raw: bytes, headers: dict[str, str]
) -> None:
    terms = Terms([secret], now, url)
    unsigned = delivery(raw, *((name, value) for name, value in headers.items() if name == "webhook-id"))

    assert 0 == declared(name).verify(delivery(raw, *headers.items()), terms)
    assert "mismatch" == reason(declared(name), delivery(raw + b" ", *headers.items()), terms)
    assert headers.items() >= declared(name).sign(unsigned, terms).items()


def test_the_values_of_the_jobber_documentation_are_of_another_secret_and_refused() -> None:
    raw = (
        b'{"data":{"webHookEvent":{"topic":"APP_CONNECT","appId":"id","accountId":"id","itemId":"id",'
        b'"occurredAt":"ISO8601DateTime"}}}'
    )
    given = delivery(raw, ("X-Jobber-Hmac-SHA256", "ks1dre6TCHsMO2GVWnDYmx3ZrxubXGbCNZ5gPiXvP9E="))

    assert "mismatch" == reason(declared("jobber"), given, Terms(["my app's OAuth client secret"], NOW))


def test_what_calcom_sends_when_it_has_no_secret_is_refused() -> None:
    given = delivery(BODY, ("X-Cal-Signature-256", "no-secret-provided"))

    assert "mismatch" == reason(declared("calcom"), given, Terms([SECRET], NOW))


@pytest.mark.parametrize("url", ["https://hooks.example.com/in/square/", "http://hooks.example.com/in/square", ""])
def test_another_spelling_of_the_signed_address_is_refused(url: str) -> None:
    given = delivery(BODY, (SQUARE_HEADER, "abuoY9h+QFLO8mWxL/6rbcsbt93D9+AyPROZY7Y05+g="))

    assert "mismatch" == reason(declared("square"), given, Terms([SECRET], NOW, url))


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        (
            b"from=a%20b&again",
            "YNOlI4mfO23kb/g5XhQgzdrK9oO2yD2MUcXWan7IbWE=",
        ),  # by openssl, of the address with ?from=…
        (b"", "abuoY9h+QFLO8mWxL/6rbcsbt93D9+AyPROZY7Y05+g="),
    ],
)
def test_what_stands_behind_the_signed_address_is_signed_as_it_arrived(query: bytes, signature: str) -> None:
    given, terms = (
        delivery(BODY, (SQUARE_HEADER, signature)),
        Terms([SECRET], NOW, "https://hooks.example.com/in/square"),
    )

    assert 0 == declared("square").verify(replace(given, query=query), terms)
    assert {SQUARE_HEADER: signature} == declared("square").sign(replace(given, query=query), terms)
    for another in (b"from=a+b&again", b"again", query + b"&"):
        assert "mismatch" == reason(declared("square"), replace(given, query=another), terms)


# -- really signed, and still not to be believed: the time --


def listed(time: bytes, *more: bytes, raw: bytes = BODY, secret: str = SECRET) -> Delivery:
    """`t=…,v1=…`, with a signature over exactly those bytes."""
    signature = hmac_sha256(secret.encode(), time + b"." + raw).hex().encode()
    return delivery(raw, ("Listed-Signature", b",".join([b"t=" + time, *more, b"v1=" + signature])))


def apart(time: bytes, raw: bytes = BODY) -> Delivery:
    signature = hmac_sha256(SECRET.encode(), time + b"." + raw).hex()
    return delivery(raw, ("Apart-Timestamp", time), ("Apart-Signature", signature))


def standard(
    time: bytes = b"1790000000", id: bytes = b"msg_1", family: str = "webhook", secret: str = SPEC_SECRET
) -> Delivery:
    signature = hmac_sha256(base64.b64decode(secret.removeprefix("whsec_")), id + b"." + time + b"." + BODY)
    given = b"v1," + base64.b64encode(signature)
    return delivery(BODY, (f"{family}-id", id), (f"{family}-timestamp", time), (f"{family}-signature", given))


NO_SECONDS = [
    b"nan", b"NaN", b"inf", b"-inf", b"infinity", b"-1", b"+1790000000", b"-1790000000", b"1e9",
    b"1.79e9", b"1790000000.0",
    b"1790000000.", b"1_790_000_000", b"0x6ab13b80", b"1,790", b"'1790000000'", b"1790000000Z", b"2026-09-21T14:13:20Z",
    b"1790000000000", b"9" * 400, b"\xff\xfe", b"\x00", b"1790000000\x00", b"t",
    b"1790000000 1", b"0b1", b"true", b"null",
    "١٧٩٠٠٠٠٠٠٠".encode(), "１７９０００００００".encode(), "²".encode(), b"1790000000\n",
]  # fmt: skip


@pytest.mark.parametrize("time", NO_SECONDS, ids=label)
def test_a_signed_time_that_is_no_number_of_seconds_is_refused(time: bytes) -> None:
    assert "malformed" == reason(APART, apart(time), Terms([SECRET], NOW))
    if b"," not in time:
        assert "malformed" == reason(LISTED, listed(time), Terms([SECRET], NOW))


@pytest.mark.parametrize("time", [b" 1790000000", b"1790000000 ", b"\t1790000000"], ids=label)
def test_a_signed_time_with_space_around_it_is_refused(time: bytes) -> None:
    assert reason(LISTED, listed(time), Terms([SECRET], NOW)) in ("malformed", "mismatch")
    assert reason(APART, apart(time), Terms([SECRET], NOW)) in ("malformed", "mismatch")


@pytest.mark.parametrize("time", [b"0", b"1", b"1789999819", b"1790000181", b"999999999999", b"000000000000"])
def test_a_signed_time_far_from_ours_is_refused(time: bytes) -> None:
    assert "stale" == reason(LISTED, listed(time), Terms([SECRET], NOW))


@pytest.mark.parametrize("time", [b"1789999820", b"1790000000", b"1790000180"])
def test_a_signed_time_as_far_from_ours_as_is_allowed_is_believed(time: bytes) -> None:
    assert 0 == LISTED.verify(listed(time), Terms([SECRET], NOW))


def test_without_a_time_a_list_of_signatures_is_refused() -> None:
    signature = hmac_sha256(SECRET.encode(), b"." + BODY).hex()

    for value in (f"v1={signature}", f"t=,v1={signature}", f"t,v1={signature}", f"T=1790000000,v1={signature}"):
        assert "malformed" == reason(LISTED, delivery(BODY, ("Listed-Signature", value)), Terms([SECRET], NOW))


def test_an_empty_header_for_the_time_is_a_missing_one() -> None:
    signature = hmac_sha256(SECRET.encode(), b"." + BODY).hex()

    for lines in ([], [("Apart-Timestamp", "")], [("Apart-Timestamp", " ")]):
        given = delivery(BODY, ("Apart-Signature", signature), *lines)
        assert "missing" == reason(APART, given, Terms([SECRET], NOW))


@pytest.mark.parametrize("second", [b"t=1790000000", b"t=1", b" t=1790000000"], ids=label)
def test_two_times_in_one_header_are_refused_even_where_they_agree(second: bytes) -> None:
    assert "malformed" == reason(LISTED, listed(b"1790000000", second), Terms([SECRET], NOW))


# -- tolerance --


@pytest.mark.parametrize(
    ("tolerance_s", "apart_s", "expected"),
    [
        (None, 180, 0), (None, 181, "stale"),
        (0, 0, 0), (0, 1, "stale"), (0.5, 1, "stale"), (1, 1, 0), (3_600, 3_600, 0), (3_600, 3_601, "stale"),
        (float("nan"), 0, "stale"), (-1, 0, "stale"),
    ],
)  # fmt: skip
def test_the_tolerance_of_the_hook_goes_before_that_of_the_source(
    tolerance_s: float | None, apart_s: int, expected: int | str
) -> None:
    for now in (NOW + apart_s, NOW - apart_s):
        terms = Terms([SECRET], now, tolerance_s=tolerance_s)
        if expected == 0:
            assert 0 == LISTED.verify(listed(b"1790000000"), terms)
        else:
            assert expected == reason(LISTED, listed(b"1790000000"), terms)


@pytest.mark.parametrize("apart_s", [300, -300])
def test_standard_webhooks_allows_five_minutes_in_both_directions(apart_s: int) -> None:
    beyond = apart_s + (1 if apart_s > 0 else -1)

    assert 0 == STANDARD.verify(standard(), Terms([SPEC_SECRET], NOW + apart_s))
    assert "stale" == reason(STANDARD, standard(), Terms([SPEC_SECRET], NOW + beyond))


# -- several signatures --


def resigned(value: str | bytes) -> Delivery:
    """The published delivery with another signature header."""
    return delivery(
        SPEC_BODY,
        ("webhook-id", SPEC_ID),
        ("webhook-timestamp", str(SPEC_TIME)),
        ("webhook-signature", value),
    )


SPEC_TERMS = Terms([SPEC_SECRET], SPEC_TIME)
WRONG_SIGNATURE = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="  # of the specification's page, for another body
ED25519_SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


@pytest.mark.parametrize(
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
    assert 0 == STANDARD.verify(resigned(value), SPEC_TERMS)


@pytest.mark.parametrize(
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
def test_a_strange_signature_is_refused_with_a_word_for_it(value: str | bytes, expected: str) -> None:
    assert expected == reason(STANDARD, resigned(value), SPEC_TERMS)


def test_ten_thousand_wrong_signatures_are_refused() -> None:
    assert "mismatch" == reason(STANDARD, resigned(" ".join([WRONG_SIGNATURE] * 10_000)), SPEC_TERMS)
    assert "malformed" == reason(STANDARD, resigned(" ".join([ED25519_SIGNATURE] * 10_000)), SPEC_TERMS)
    assert "malformed" == reason(STANDARD, resigned(" " * 100_000 + "x"), SPEC_TERMS)


def test_of_ten_thousand_signatures_no_more_than_a_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []
    monkeypatch.setattr("app.webhooks.signatures.hmac.hmac.compare_digest", lambda *pair: compared.append(pair))

    assert "mismatch" == reason(STANDARD, resigned(" ".join([WRONG_SIGNATURE] * 10_000)), SPEC_TERMS)
    assert 1 <= len(compared) <= 100


def test_what_is_compared_is_bytes_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    monkeypatch.setattr("app.webhooks.signatures.hmac.hmac.compare_digest", lambda *pair: compared.append(pair) or True)

    assert 0 == STANDARD.verify(resigned("v1,é"), SPEC_TERMS)
    assert [(b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "é".encode())] == compared


LISTED_SIGNATURE = "v1=6ba22405a2fe67d0029c7173c13abb02d043e788f00563a5eecad54a992ef439"  # as of Calendly, above
OTHER_SIGNATURE = "v1=0000000000000000000000000000000000000000000000000000000000000000"


@pytest.mark.parametrize(
    "value",
    [
        f"t=1790000000,{OTHER_SIGNATURE},{LISTED_SIGNATURE}",
        f"{LISTED_SIGNATURE},t=1790000000",
        f"t=1790000000, {LISTED_SIGNATURE}",
        f"t=1790000000,v0=abc,{LISTED_SIGNATURE},v2=x,",
    ],
)
def test_a_list_may_hold_more_than_we_know_in_any_order(value: str) -> None:
    assert 0 == LISTED.verify(delivery(BODY, ("Listed-Signature", value)), Terms([SECRET], NOW))


@pytest.mark.parametrize(
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
def test_a_strange_list_is_refused_with_a_word_for_it(value: str | bytes, expected: str) -> None:
    assert expected == reason(LISTED, delivery(BODY, ("Listed-Signature", value)), Terms([SECRET], NOW))


@pytest.mark.parametrize("spelt", ["{0}", "sha256={0}", "sha256={1}", "{1}"])
def test_only_where_a_scheme_is_forgiving_other_spellings_of_a_digest_are_believed(spelt: str) -> None:
    digest = LISTED_SIGNATURE.removeprefix("v1=")
    spelling = spelt.format(digest, digest.upper())
    given = delivery(BODY, ("Apart-Timestamp", "1790000000"), ("Apart-Signature", spelling))
    strict = Hmac(header="Apart-Signature", timestamp="Apart-Timestamp", signs="{t}.{body}")

    assert 0 == APART.verify(given, Terms([SECRET], NOW))
    if spelling != digest:
        assert "mismatch" == reason(strict, given, Terms([SECRET], NOW))


# -- the two families of Standard Webhooks --


def test_the_svix_names_of_the_headers_mean_the_same() -> None:
    assert 0 == STANDARD.verify(standard(family="svix"), Terms([SPEC_SECRET], NOW))


@pytest.mark.parametrize("signature", ["svix", "webhook"])
@pytest.mark.parametrize("lacking", ["id", "timestamp"])
def test_what_one_family_lacks_is_not_taken_from_the_other(signature: str, lacking: str) -> None:
    other = "webhook" if signature == "svix" else "svix"
    complete = _text(standard(family=signature))
    mixed = [(name.replace(signature, other) if name.endswith(lacking) else name, value) for name, value in complete]

    assert "missing" == reason(STANDARD, delivery(BODY, *mixed), Terms([SPEC_SECRET], NOW))


def test_a_wrong_signature_of_one_family_is_not_saved_by_the_other() -> None:
    right, wrong = _text(standard(family="webhook")), _text(standard(family="svix", secret="whsec_d3Jvbmc="))

    assert "mismatch" == reason(STANDARD, delivery(BODY, *right, *wrong), Terms([SPEC_SECRET], NOW))


@pytest.mark.parametrize("family", ["webhook", "svix"])
@pytest.mark.parametrize("added", ["webhook-id", "svix-id"])
def test_the_id_that_names_an_event_for_repeats_is_the_one_that_was_signed(family: str, added: str) -> None:
    """Else one recorded delivery is new as often as somebody likes, or takes the name of one that is still to come."""
    source = load_sources()["standard"].definition
    key_of, signed = source.repeat_key, standard(family=family)
    assert key_of is not None
    if added.startswith(family):
        return

    given = delivery(BODY, (added, "msg_2"), *_text(signed))

    try:
        source.signature.verify(given, Terms([SPEC_SECRET], NOW))
    except SignatureError:
        return
    assert "msg_1" == key_of(_event(given))


@pytest.mark.parametrize("family", ["webhook", "svix"])
def test_a_time_under_the_other_name_is_the_one_that_was_signed(family: str) -> None:
    """Sources read the time under either name: an unsigned one would order a change in the year 2100."""
    other = "webhook" if family == "svix" else "svix"
    signed = _text(standard(family=family))

    assert 0 == STANDARD.verify(delivery(BODY, (f"{other}-timestamp", str(NOW)), *signed), Terms([SPEC_SECRET], NOW))
    forged = delivery(BODY, (f"{other}-timestamp", "4102444800"), *signed)
    assert "malformed" == reason(STANDARD, forged, Terms([SPEC_SECRET], NOW))


def _event(given: Delivery) -> Event:
    headers = {
        name: value
        for name in load_sources()["standard"].definition.kept_headers
        if (value := given.header(name)) is not None
    }
    return Event("standard", parse_body(given, "json"), given.received_at, headers)


# -- the handshake that is not signed --

PROBE = FixedBody(b'{"foo":"bar"}', absent_header="Api-Signature")


@pytest.mark.parametrize("raw", [b'{"foo":"bar"}', b'{"foo": "bar"}', b'{\n  "foo": "bar"\n}\n'])
def test_a_known_probe_is_answered(raw: bytes) -> None:
    reply = PROBE.answer(delivery(raw))

    assert reply is not None
    assert (b"{}", "application/json") == (reply.body, reply.content_type)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b'{"foo":"baz"}', b'{"foo":"bar","event":"x"}', b'{"foo":"bar"}{}', b'{"foo":"bar"' + b" " * 99 + b"}",
     b'{"event":"job.canceled"}', b"\xff"],
)  # fmt: skip
def test_any_other_body_without_a_signature_is_no_probe(raw: bytes) -> None:
    assert PROBE.answer(delivery(raw)) is None


def test_a_probe_that_claims_to_be_signed_has_to_prove_it() -> None:
    for value in ("", "x", "sha256=00"):
        assert PROBE.answer(delivery(b'{"foo":"bar"}', ("Api-Signature", value))) is None


# -- secrets --


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "whsec_c2l4dGVlbiBieXRlcyBvaw==",  # 16 bytes have two signs of padding
        "whsec_c2l4dGVlbiBieXRlcyBvaw=",
        "whsec_c2l4dGVlbiBieXRlcyBvaw",
    ],
)
def test_a_standard_secret_may_lack_its_prefix_and_its_padding(secret: str) -> None:
    full = ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_c2l4dGVlbiBieXRlcyBvaw==", SPEC_SECRET)
    [written_out] = [whole for whole in full if secret.removeprefix("whsec_").rstrip("=") in whole]
    signed = standard(secret=written_out)

    assert STANDARD.check_secret(secret) is None
    assert 0 == STANDARD.verify(signed, Terms([secret], NOW))


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_====", "whsec_a", "whsec_äöü", "whsec_ab cd", "whsec_ab-_", "my secret phrase",
     "whsec_whsec_",
     "whpk_dGVzdA==", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "\udcff"],
    ids=label,
)  # fmt: skip
def test_a_secret_that_can_never_match_is_told_with_a_rule_and_without_the_secret(secret: str) -> None:
    rule = STANDARD.check_secret(secret)

    assert rule is not None
    assert rule.startswith("must ")
    assert not secret.removeprefix("whsec_").strip("=") or secret not in rule


@pytest.mark.parametrize("name", ["calendly", "calcom", "acuity", "square", "jobber", "housecallpro"])
def test_where_a_secret_is_text_any_text_of_some_length_will_do(name: str) -> None:
    assert declared(name).check_secret("Zoë's secret: 100 %") is None
    assert str(declared(name).check_secret("x1")).startswith("must have ")


def test_a_text_secret_that_is_no_unicode_is_told_by_a_rule_about_text() -> None:
    """An environment of other bytes than UTF-8 reaches Python with such halves of characters in it."""
    rule = declared("calendly").check_secret("caf\udce9")

    assert rule is not None
    assert "base64" not in rule


def test_a_secret_beyond_ascii_signs_with_its_utf8() -> None:
    signed = listed(b"1790000000", secret="clé-secrète")

    assert 0 == LISTED.verify(signed, Terms(["clé-secrète"], NOW))


# -- whatever bytes arrive --

SCHEMES = [(LISTED, SECRET), (APART, SECRET), (STANDARD, SPEC_SECRET)]
SCHEMES += [(declared(name), load_specimens(name)["secret"]) for name in load_sources()]
GOOD = [listed(b"1790000000"), apart(b"1790000000"), standard(), standard(family="svix")]
HEADER_NAMES = sorted(
    {name.decode() for given in GOOD for name, _ in given.headers}
    | {
        name.lower()
        for tool in load_sources()
        for given in load_specimens(tool)["deliveries"]
        for name in given["headers"]
    }
)
PIECES = st.sampled_from([b"t=", b"v1=", b"v1,", b",", b" ", b"=", b"1790000000", b"nan", b"\xff", b"sha256=", b"\0"])
VALUES = st.binary(max_size=40) | st.lists(PIECES | st.binary(max_size=3), max_size=8).map(b"".join)


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(HEADER_NAMES), VALUES), max_size=6), st.binary(max_size=20))
@example([], b"")
def test_whatever_bytes_arrive_they_are_refused_and_nothing_else_happens(
    lines: list[tuple[str, bytes]], raw: bytes
) -> None:
    given = delivery(raw, *lines)

    for scheme, secret in SCHEMES:
        assert reason(scheme, given, Terms([secret, secret], NOW)) in {"missing", "malformed", "mismatch"}


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(GOOD), st.data())
def test_whatever_happens_to_a_header_on_the_way_it_is_refused(given_before: Delivery, data: st.DataObject) -> None:
    lines = list(given_before.headers)
    which = data.draw(st.integers(0, len(lines) - 1))
    name, value = lines[which]
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, len(value)))
    lines[which] = (name, value[:start] + data.draw(VALUES) + value[end:])
    given = Delivery("hook", "source", tuple(lines), BODY, given_before.received_at)

    for scheme, secret in SCHEMES[:3]:
        try:
            scheme.verify(given, Terms([secret], NOW))
        except SignatureError as refused:
            assert refused.reason in {"missing", "malformed", "mismatch"}  # noqa: PT017
        else:
            assert value in lines[which][1] or _means_the_same(value, lines[which][1])


def _means_the_same(value: bytes, other: bytes) -> bool:
    """A list may hold more than one signature, and a forgiving scheme takes capitals."""
    return value.lower().split(b",")[-1].split(b"=")[-1] in other.lower()


# -- what tools sign otherwise: vectors from the vendors' documentation or worked out from it, beside us --

BODY_M = (
    b'{"messageId":"0b6e1f1e-6a56-4ac2-8d8f-000000000001","eventId":"appointmentBooking.cancelled","eventSchemaVersion":1,'
    b'"eventInstanceOriginationDateTime":"2026-03-13T20:05:10Z","eventData":{"siteId":-99,"appointmentId":121}}'
)
BODY_G = (
    b'{"type":"AppointmentUpdate","locationId":"loc_TEST","timestamp":"2026-03-14T17:32:05.000Z",'
    b'"webhookId":"0f8fad5b-d9cb-469f-a165-70867728950e"}'
)
HUBSPOT = Hmac(
    header="X-HubSpot-Signature-v3",
    timestamp="X-HubSpot-Request-Timestamp",
    clock=MILLISECONDS,
    signs="POST{url}{body}{t}",
    encoding="base64",
)
NEXHEALTH = Hmac(header="signature", timestamp="timestamp", clock=ISO_TIME, signs="{t}.{body:base64}")
SALT = "blvd-webhook-v1:efa1a1fd-80b2-41c8-8b13-850f36f9a303:1600717631"
BOULEVARD = Hmac(
    header="x-blvd-hmac-sha256",
    timestamp="x-blvd-hmac-salt",
    clock=LAST_SECONDS,
    signs="{t}:{body}",
    encoding="base64",
    key=base64_key,
)
CRONOFY = Hmac(header="Cronofy-HMAC-SHA256", encoding="base64", separator=",")
MINDBODY = Hmac(header="X-Mindbody-Signature", encoding="base64", prefix="sha256=")
ONCEHUB = Hmac(header="Oncehub-Signature", fields=("t", "s"), signs="{t}.{body}")
SAVVYCAL = Hmac(header="x-savvycal-signature", forgiving=True)


@pytest.mark.parametrize(
    ("scheme", "terms", "raw", "headers"),
    [
        pytest.param(
            HUBSPOT,
            Terms(["yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"], 1693657560, "https://www.example.com/webhook_uri"),
            b"{'example_field':'example_value'}",
            {
                "X-HubSpot-Request-Timestamp": "1693657560000",
                "X-HubSpot-Signature-v3": "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=",
            },
            id="hubspot-api-python, tests/spec/utils/test_signature.py @a2a528a",
        ),
        pytest.param(
            CRONOFY,
            Terms(["pDY0Oi7TJSP2hfNmZNkm5"], 0),
            b'{"example":"well-known"}',
            {"Cronofy-HMAC-SHA256": "6r2/HjBkqymGegX0wOfifieeUXbbHwtV/LohHS+jv6c=,something-else"},
            id="cronofy-ruby, spec/lib/cronofy/client_spec.rb @b75d79f",
        ),
        pytest.param(
            NEXHEALTH,
            Terms(["nexhealth-secret-key-for-tests"], 1773509525),
            b'{"resource_type":"Appointment","event_name":"appointment_updated"}',
            {
                "timestamp": "2026-03-14T17:32:05.123Z",
                "signature": "e6d667be84b8116aff7e1668453a040e69ec44f42c22c202ed9b88285a1b4bc3",
            },
            id="an ISO time, and the body in base64",
        ),
        pytest.param(
            BOULEVARD,
            Terms(["Ymx2ZC1hcHAtc2VjcmV0LWJ5dGVz"], 1600717700),
            b'{"type":"appointment.created"}',
            {"x-blvd-hmac-salt": SALT, "x-blvd-hmac-sha256": "LT9bk9TYt1a+wQbPjtIp9dUEh6aQi7AEIzhKe+f+Fbk="},
            id="a time at the end of a salt",
        ),
        pytest.param(
            MINDBODY,
            Terms(["mb-signature-key-for-tests="], 0),
            BODY_M,
            {"X-Mindbody-Signature": "sha256=2fUgvjwAvoO+LSThquUzjGmJI4YnUfke5iEuRfG7ZJk="},
            id="a prefix before base64",
        ),
        pytest.param(
            ONCEHUB,
            Terms([SECRET], NOW),
            BODY,
            {"Oncehub-Signature": "t=1790000000,s=6ba22405a2fe67d0029c7173c13abb02d043e788f00563a5eecad54a992ef439"},
            id="fields with another name",
        ),
        pytest.param(
            SAVVYCAL,
            Terms([SECRET], 0),
            BODY,
            {"x-savvycal-signature": "sha256=6DBB05F88423B4D12BFBC097FEB4DFABB0F60510E31F8A37D74C7318F851B4E6"},
            id="capitals",
        ),
        pytest.param(
            PublicKey("X-GHL-Signature", "ed25519"),
            Terms(["MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="], 0),
            BODY_G,
            {
                "X-GHL-Signature": "ocmQh/BA43gw9XP8LKatQAxGlovNGIDu0henmnEqG34N8hP1x8VYt1WpMYlfVcrD"
                "jsj3rciS6T5IjUvPqdI2DQ=="
            },
            id="Ed25519, a test key",
        ),
    ],
)
def test_what_other_tools_sign_is_believed_and_nothing_else(
    scheme: Scheme, terms: Terms, raw: bytes, headers: dict[str, str]
) -> None:
    assert 0 == scheme.verify(delivery(raw, *headers.items()), terms)
    assert "mismatch" == reason(scheme, delivery(raw + b" ", *headers.items()), terms)
    for name in headers:
        assert "missing" == reason(scheme, delivery(raw, *((n, v) for n, v in headers.items() if n != name)), terms)


@pytest.mark.parametrize(
    ("scheme", "secret", "headers"),
    [
        (HUBSPOT, SECRET, {"X-HubSpot-Request-Timestamp": "{}", "X-HubSpot-Signature-v3": "AAAA"}),
        (NEXHEALTH, SECRET, {"timestamp": "{}", "signature": "00"}),
        (BOULEVARD, "YWJj", {"x-blvd-hmac-salt": "{}", "x-blvd-hmac-sha256": "AAAA"}),
    ],
)
@pytest.mark.parametrize("written", ["nan", "inf", "-1", "1e9", "2026-03-14T17:32:05", "٣", "9" * 30, ":", "é"])
def test_a_time_that_is_none_is_refused_even_when_it_is_signed(
    scheme: Hmac, secret: str, headers: dict[str, str], written: str
) -> None:
    """Whoever has the secret may write nonsense; it must not become an error of ours, or pass."""
    terms = Terms([secret], NOW, "https://hooks.example.com")
    given = delivery(BODY, *((name, value.format(written)) for name, value in headers.items()))
    raw_time = given.header_values(scheme.timestamp or "")[0]
    message = scheme._message(given, terms.url, raw_time)
    digest = hmac_sha256(scheme.key(secret), message)
    signature = digest.hex() if scheme.encoding == "hex" else base64.b64encode(digest).decode()
    signed = delivery(BODY, (scheme.timestamp or "", raw_time), (scheme.header, signature))

    assert reason(scheme, signed, terms) in ("malformed", "stale")


# -- tokens instead of signatures --

BEARER = Token("Authorization", prefix="Bearer ")


@pytest.mark.parametrize("prefix", ["Bearer ", "bearer ", "BEARER ", "Bearer Bearer ", "Bearer bearer "])
def test_a_token_in_a_header_is_the_secret_itself(prefix: str) -> None:
    given = delivery(BODY, ("Authorization", f"{prefix}token-for-tests"))

    assert 1 == BEARER.verify(given, Terms(["another-one", "token-for-tests"], 0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("token-for-tests", "malformed"),
        ("Bearer token-for-test", "mismatch"),
        ("Bearer Token-for-tests", "mismatch"),
        ("Bearer ", "mismatch"),
        ("Bearer é", "mismatch"),
        ("", "missing"),
    ],
)
def test_another_token_is_refused(given: str, expected: str) -> None:
    assert expected == reason(BEARER, delivery(BODY, ("Authorization", given)), Terms(["token-for-tests"], 0))


def test_a_header_of_thousands_of_prefixes_is_refused_by_its_length() -> None:
    given = delivery(BODY, ("Authorization", "Bearer " * 9_000 + "token-for-tests"))

    with pytest.raises(SignatureError, match="more than 2048 bytes"):
        BEARER.verify(given, Terms(["token-for-tests"], 0))


def test_the_longest_secret_has_room_in_its_header() -> None:
    secret = "s" * 1_024
    given = delivery(BODY, ("Authorization", "Bearer " * 100 + secret))

    assert BEARER.check_secret(secret) is None
    assert 0 == BEARER.verify(given, Terms([secret], 0))


@pytest.mark.parametrize("secret", ["s" * 1_025, "é" * 513])
def test_a_secret_that_no_header_has_room_for_is_refused_at_start(secret: str) -> None:
    assert "must have 1024 bytes at most" == BEARER.check_secret(secret)


def test_a_token_that_is_the_only_proof_must_not_be_short() -> None:
    assert "must have 8 characters or more" == BEARER.check_secret("1234567")


def addressed(token: str, hook: str = "hook") -> Delivery:
    return replace(delivery(BODY), token=token, hook=hook)


def test_the_token_of_an_address_is_of_one_hook_one_secret_and_one_key() -> None:
    scheme, terms = PathToken(), Terms(["first", "second"], 0, keys=["new key", "old key"])
    tokens = {
        (hook, secret, key): scheme.token(hook, Terms([secret], 0, keys=[key]))
        for hook in ("hook", "other")
        for secret in ("first", "second", "third")
        for key in ("new key", "old key", "gone")
    }

    assert len(tokens) == len(set(tokens.values()))
    for (hook, secret, key), token in tokens.items():
        if hook == "hook" and secret != "third" and key != "gone":
            assert ["first", "second"].index(secret) == scheme.verify(addressed(token), terms)
        else:
            assert "mismatch" == reason(scheme, addressed(token), terms)


def test_without_a_key_of_ours_no_address_is_believed() -> None:
    assert "mismatch" == reason(PathToken(), addressed("anything"), Terms(["first"], 0))
    assert "missing" == reason(PathToken(), addressed(""), Terms(["first"], 0, keys=["key"]))


# -- HMAC over fields: https://support.gingrapp.com, its rule; the digest was worked out beside us --

FIELDS = FieldsHmac("signature", (("webhook_type",), ("entity_id",), ("entity_type",)))
FIELDS_TERMS = Terms(["gingr-signature-key-for-tests"], 0)
OF_FIELDS = "86701964b4e6490b2f29a3caebf1d810ecbcd17caecf863f7522b9b363c84b2d"


def fields(**other: object) -> Delivery:
    body = {"webhook_type": "check_out", "entity_id": "12345", "entity_type": "reservation", "signature": OF_FIELDS}
    return delivery(orjson.dumps(body | other))


@pytest.mark.parametrize("other", [{}, {"entity_id": 12345}, {"entity_data": {"email": "somebody@example.com"}}])
def test_a_signature_over_fields_says_nothing_of_the_others(other: dict[str, object]) -> None:
    assert 0 == FIELDS.verify(fields(**other), FIELDS_TERMS)
    assert "fields" == FIELDS.covers


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"entity_id": "12346"}, "mismatch"),
        ({"signature": OF_FIELDS.upper()}, "mismatch"),
        ({"signature": "é"}, "mismatch"),
        ({"signature": ""}, "missing"),
        ({"signature": 1}, "missing"),
        ({"entity_id": True}, "malformed"),
        ({"entity_id": None}, "malformed"),
        ({"entity_id": ["12345"]}, "malformed"),
    ],
)
def test_a_changed_field_is_refused(other: dict[str, object], expected: str) -> None:
    assert expected == reason(FIELDS, fields(**other), FIELDS_TERMS)


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"{", b"\xff", b"null"])
def test_a_body_that_is_no_object_has_no_fields_to_sign(raw: bytes) -> None:
    assert "malformed" == reason(FIELDS, delivery(raw), FIELDS_TERMS)


def test_of_both_the_second_is_not_looked_at_before_the_first_holds() -> None:
    both, terms = Both(PathToken(), FIELDS), FIELDS_TERMS._replace(keys=["key"])
    token = PathToken().token("hook", terms)

    assert "missing" == reason(both, delivery(b"{"), terms)
    assert 0 == both.verify(replace(fields(), token=token), terms)
    assert "mismatch" == reason(both, replace(fields(entity_id="1"), token=token), terms)


# -- public keys and JSON Web Tokens --

#: Made for these tests by openssl.
_BY_RSA = next(one for one in load_specimens("gohighlevel")["deliveries"] if "signing_key" in one)
RSA_PRIVATE, RSA_PUBLIC = _BY_RSA["signing_key"], _BY_RSA["secret"]
ED25519_PUBLIC = "MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="


def openssl(command: str, message: bytes) -> bytes:
    script = f'F=$(mktemp -d); printf %s "$RSA" | base64 -d > $F/k; {command}; rm -r $F'
    env = {"PATH": os.environ["PATH"], "RSA": RSA_PRIVATE}
    return subprocess.run(["bash", "-c", script], env=env, input=message, capture_output=True, check=True).stdout


def url64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def jwt(claims: object, header: object = None) -> bytes:
    """Signed by openssl with RS256, whatever its header says."""
    head = {"alg": "RS256", "typ": "JWT"} if header is None else header
    message = url64(orjson.dumps(head)) + b"." + url64(orjson.dumps(claims))
    return message + b"." + url64(openssl("openssl dgst -sha256 -sign $F/k -keyform DER", message))


RS256, JWT_TERMS = Jwt("RS256"), Terms([RSA_PUBLIC], NOW)
CLAIMS = {"data": "x", "iat": NOW, "exp": NOW + 3600}


@needs_openssl
def test_a_token_that_names_the_algorithm_of_its_tool_is_verified() -> None:
    token = jwt(CLAIMS)

    assert 0 == RS256.verify(delivery(token), JWT_TERMS)
    assert 0 == RS256.verify(delivery(b" " + token + b"\n"), JWT_TERMS)
    assert {"data": "x"}.items() <= parse_body(delivery(token), "jwt").value.items()


@needs_openssl
@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS512"}, {}])
def test_a_token_that_names_another_algorithm_is_refused_also_where_ours_signed_it(header: object) -> None:
    assert "mismatch" == reason(RS256, delivery(jwt(CLAIMS, header)), JWT_TERMS)


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused() -> None:
    """The classic: the verifier reads HS256 in the token and takes the public key, which everybody has, for its secret."""
    message = url64(b'{"alg":"HS256","typ":"JWT"}') + b"." + url64(orjson.dumps(CLAIMS))
    keys = [RSA_PUBLIC.encode(), base64.b64decode(RSA_PUBLIC), b""]

    for key in keys:
        token = message + b"." + url64(hmac_sha256(key, message))
        assert "mismatch" == reason(RS256, delivery(token), JWT_TERMS)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "missing"),
        (b"{}", "malformed"),
        (b"a.b", "malformed"),
        (b"a.b.", "malformed"),
        (b"a.b.c.d", "malformed"),
        (url64(b'{"alg":"none"}') + b"." + url64(b"{}") + b".", "malformed"),
        (b"a.b.A", "malformed"),
        (b"a.b.AA", "malformed"),
        (url64(b'{"alg":"RS256"}') + b".e30.AA", "mismatch"),
        (url64(b'{"alg":"none"}') + b".e30.AA", "mismatch"),
        (url64(b"[]") + b".e30.AA", "malformed"),
        (url64(b"[" * 100_000) + b".e30.AA", "malformed"),
    ],
)
def test_what_is_no_token_of_theirs_is_refused(raw: bytes, expected: str) -> None:
    assert expected == reason(RS256, delivery(raw), JWT_TERMS)


@needs_openssl
@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (CLAIMS | {"exp": NOW - 301}, "stale"),
        (CLAIMS | {"iat": NOW + 301}, "stale"),
        (CLAIMS | {"nbf": NOW + 301}, "stale"),
        ({"data": "x", "iat": NOW}, "malformed"),
        (CLAIMS | {"exp": "soon"}, "malformed"),
        (CLAIMS | {"exp": True}, "malformed"),
        ([1], "malformed"),
    ],
)
def test_a_token_whose_time_is_over_or_none_is_refused(claims: object, expected: str) -> None:
    assert expected == reason(RS256, delivery(jwt(claims)), JWT_TERMS)


def test_the_newer_header_alone_counts_where_it_is_there() -> None:
    scheme = declared("gohighlevel")
    new, old = load_specimens("gohighlevel")["deliveries"][0], _BY_RSA
    raw = orjson.dumps(old["body"])
    terms = Terms([ED25519_PUBLIC, RSA_PUBLIC], 0)
    older = ("X-WH-Signature", old["headers"]["X-WH-Signature"])

    assert 1 == scheme.verify(delivery(raw, older), terms)
    assert 1 == scheme.verify(delivery(raw, older, ("X-GHL-Signature", "N/A")), terms)
    wrong = ("X-GHL-Signature", new["headers"]["X-GHL-Signature"])
    assert "mismatch" == reason(scheme, delivery(raw, older, wrong), terms)


@pytest.mark.parametrize(
    ("secret", "is_right"),
    [
        (ED25519_PUBLIC, True),
        (RSA_PUBLIC, True),
        ("", False),
        ("hello", False),
        (ED25519_PUBLIC[:-4], False),
        ("é", False),
    ],
)
def test_a_key_is_known_by_its_shape(secret: str, is_right: bool) -> None:
    assert is_right == (declared("gohighlevel").check_secret(secret) is None)


def test_a_key_in_pem_is_one_secret_of_a_hook() -> None:
    pem = f"-----BEGIN PUBLIC KEY-----\n{RSA_PUBLIC[:64]}\n{RSA_PUBLIC[64:]}\n-----END PUBLIC KEY-----"
    for written in (f"{pem}\n{ED25519_PUBLIC}", f"{pem} {ED25519_PUBLIC}".replace("\n", "\\n")):
        assert (RSA_PUBLIC, ED25519_PUBLIC) == Hook.model_validate({"secrets": written}).secrets
