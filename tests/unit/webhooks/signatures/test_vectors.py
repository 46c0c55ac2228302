"""Test vectors that vendors publish, and vectors computed from their rules by other programs."""

import base64
from dataclasses import replace

import pytest

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.hmac import Hmac, base64_key
from app.webhooks.signatures.public_key import PublicKey
from app.webhooks.signatures.scheme import (
    ISO_8601,
    SECONDS_AFTER_LAST_COLON,
    UNIX_MILLISECONDS,
    Scheme,
    VerificationContext,
)
from tests.support.cases import each
from tests.support.harness import hmac_sha256
from tests.support.signatures import (
    BODY,
    NOW,
    SECRET,
    SPEC_BODY,
    SPEC_ID,
    SPEC_SECRET,
    SPEC_SIGNATURE,
    SPEC_TIME,
    STANDARD,
    _text,
    declared,
    delivery,
    reason,
)

# -- published vectors: key, body and signature are the vendor's --


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


STRIPE_SIGNATURES = (
    "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
    "v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"  # to be ignored, as by Stripe's own library
)

SQUARE_HEADER = "x-square-hmacsha256-signature"


@each(
    ("scheme", "context", "sent"),
    [
        pytest.param(
            STANDARD,
            VerificationContext([SPEC_SECRET], SPEC_TIME),
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
            VerificationContext(["Ibxx_5AKakO-3qeNVR61Dw"], 0, HOOK_SITE),
            delivery(PUBLISHED_SQUARE, (SQUARE_HEADER, "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4=")),
            id="square-python-sdk, a test notification @24302ba",
        ),
        pytest.param(
            declared("square"),
            VerificationContext(["signature-key"], 0, WEBSITE),
            delivery(
                b'{"data":{"type":"webhooks","id":">id<"}}',
                (SQUARE_HEADER, "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U="),
            ),
            id="square-python-sdk, signs of HTML in the body @24302ba",
        ),
        pytest.param(
            Hmac(header="Stripe-Signature", fields=("t", "v1"), signs="{t}.{body}"),
            VerificationContext(["webhook_secret"], 1533204620),
            delivery(PUBLISHED_STRIPE, ("Stripe-Signature", STRIPE_SIGNATURES)),
            id="stripe-dotnet, src/StripeTests/Resources/event_test_signature.json @d330362",
        ),
    ],
)
def test_a_signature_published_by_a_vendor_is_valid(
    scheme: Scheme, context: VerificationContext, sent: Delivery
) -> None:
    assert 0 == scheme.verify(sent, context)
    assert "mismatch" == reason(scheme, delivery(sent.body[:-1], *_text(sent)), context)


# -- computed separately from each vendor's rule, with Python's hmac: no proof that the vendor follows it --


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


@each(
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
def test_a_signature_by_a_vendors_rule_is_valid(
    name: str, secret: str, now: float, url: str, raw: bytes, headers: dict[str, str]
) -> None:
    context = VerificationContext([secret], now, url)
    unsigned = delivery(raw, *((name, value) for name, value in headers.items() if name == "webhook-id"))

    assert 0 == declared(name).verify(delivery(raw, *headers.items()), context)
    assert "mismatch" == reason(declared(name), delivery(raw + b" ", *headers.items()), context)
    assert headers.items() >= declared(name).sign(unsigned, context).items()


def test_the_signature_in_the_jobber_documentation_has_another_secret() -> None:
    raw = (
        b'{"data":{"webHookEvent":{"topic":"APP_CONNECT","appId":"id","accountId":"id","itemId":"id",'
        b'"occurredAt":"ISO8601DateTime"}}}'
    )
    sent = delivery(raw, ("X-Jobber-Hmac-SHA256", "ks1dre6TCHsMO2GVWnDYmx3ZrxubXGbCNZ5gPiXvP9E="))

    assert "mismatch" == reason(declared("jobber"), sent, VerificationContext(["my app's OAuth client secret"], NOW))


def test_a_calcom_delivery_without_a_secret_is_rejected() -> None:
    sent = delivery(BODY, ("X-Cal-Signature-256", "no-secret-provided"))

    assert "mismatch" == reason(declared("calcom"), sent, VerificationContext([SECRET], NOW))


@each("url", ["https://hooks.example.com/in/square/", "http://hooks.example.com/in/square", ""])
def test_another_spelling_of_the_signed_address_is_rejected(url: str) -> None:
    sent = delivery(BODY, (SQUARE_HEADER, "abuoY9h+QFLO8mWxL/6rbcsbt93D9+AyPROZY7Y05+g="))

    assert "mismatch" == reason(declared("square"), sent, VerificationContext([SECRET], NOW, url))


@each(
    ("query", "signature"),
    [
        (
            b"from=a%20b&again",
            "YNOlI4mfO23kb/g5XhQgzdrK9oO2yD2MUcXWan7IbWE=",
        ),  # by openssl, of the address with ?from=…
        (b"", "abuoY9h+QFLO8mWxL/6rbcsbt93D9+AyPROZY7Y05+g="),
    ],
)
def test_the_query_of_a_signed_address_is_signed_unchanged(query: bytes, signature: str) -> None:
    sent, context = (
        delivery(BODY, (SQUARE_HEADER, signature)),
        VerificationContext([SECRET], NOW, "https://hooks.example.com/in/square"),
    )

    assert 0 == declared("square").verify(replace(sent, query=query), context)
    assert {SQUARE_HEADER: signature} == declared("square").sign(replace(sent, query=query), context)
    for another in (b"from=a+b&again", b"again", query + b"&"):
        assert "mismatch" == reason(declared("square"), replace(sent, query=another), context)


# -- other schemes: vectors from the vendors' documentation, or computed separately from it --


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
    timestamp_header="X-HubSpot-Request-Timestamp",
    timestamp_format=UNIX_MILLISECONDS,
    signs="POST{url}{body}{t}",
    encoding="base64",
)

NEXHEALTH = Hmac(header="signature", timestamp_header="timestamp", timestamp_format=ISO_8601, signs="{t}.{body:base64}")

SALT = "blvd-webhook-v1:efa1a1fd-80b2-41c8-8b13-850f36f9a303:1600717631"


BOULEVARD = Hmac(
    header="x-blvd-hmac-sha256",
    timestamp_header="x-blvd-hmac-salt",
    timestamp_format=SECONDS_AFTER_LAST_COLON,
    signs="{t}:{body}",
    encoding="base64",
    key=base64_key,
)

CRONOFY = Hmac(header="Cronofy-HMAC-SHA256", encoding="base64", separator=",")

MINDBODY = Hmac(header="X-Mindbody-Signature", encoding="base64", prefix="sha256=")

ONCEHUB = Hmac(header="Oncehub-Signature", fields=("t", "s"), signs="{t}.{body}")

SAVVYCAL = Hmac(header="x-savvycal-signature", lenient=True)


@each(
    ("scheme", "context", "raw", "headers"),
    [
        pytest.param(
            HUBSPOT,
            VerificationContext(
                ["yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"], 1693657560, "https://www.example.com/webhook_uri"
            ),
            b"{'example_field':'example_value'}",
            {
                "X-HubSpot-Request-Timestamp": "1693657560000",
                "X-HubSpot-Signature-v3": "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=",
            },
            id="hubspot-api-python, tests/spec/utils/test_signature.py @a2a528a",
        ),
        pytest.param(
            CRONOFY,
            VerificationContext(["pDY0Oi7TJSP2hfNmZNkm5"], 0),
            b'{"example":"well-known"}',
            {"Cronofy-HMAC-SHA256": "6r2/HjBkqymGegX0wOfifieeUXbbHwtV/LohHS+jv6c=,something-else"},
            id="cronofy-ruby, spec/lib/cronofy/client_spec.rb @b75d79f",
        ),
        pytest.param(
            NEXHEALTH,
            VerificationContext(["nexhealth-secret-key-for-tests"], 1773509525),
            b'{"resource_type":"Appointment","event_name":"appointment_updated"}',
            {
                "timestamp": "2026-03-14T17:32:05.123Z",
                "signature": "e6d667be84b8116aff7e1668453a040e69ec44f42c22c202ed9b88285a1b4bc3",
            },
            id="an ISO time, and the body in base64",
        ),
        pytest.param(
            BOULEVARD,
            VerificationContext(["Ymx2ZC1hcHAtc2VjcmV0LWJ5dGVz"], 1600717700),
            b'{"type":"appointment.created"}',
            {"x-blvd-hmac-salt": SALT, "x-blvd-hmac-sha256": "LT9bk9TYt1a+wQbPjtIp9dUEh6aQi7AEIzhKe+f+Fbk="},
            id="a time at the end of a salt",
        ),
        pytest.param(
            MINDBODY,
            VerificationContext(["mb-signature-key-for-tests="], 0),
            BODY_M,
            {"X-Mindbody-Signature": "sha256=2fUgvjwAvoO+LSThquUzjGmJI4YnUfke5iEuRfG7ZJk="},
            id="a prefix before base64",
        ),
        pytest.param(
            ONCEHUB,
            VerificationContext([SECRET], NOW),
            BODY,
            {"Oncehub-Signature": "t=1790000000,s=6ba22405a2fe67d0029c7173c13abb02d043e788f00563a5eecad54a992ef439"},
            id="fields with another name",
        ),
        pytest.param(
            SAVVYCAL,
            VerificationContext([SECRET], 0),
            BODY,
            {"x-savvycal-signature": "sha256=6DBB05F88423B4D12BFBC097FEB4DFABB0F60510E31F8A37D74C7318F851B4E6"},
            id="capitals",
        ),
        pytest.param(
            PublicKey("X-GHL-Signature", "ed25519"),
            VerificationContext(["MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="], 0),
            BODY_G,
            {
                "X-GHL-Signature": "ocmQh/BA43gw9XP8LKatQAxGlovNGIDu0henmnEqG34N8hP1x8VYt1WpMYlfVcrD"
                "jsj3rciS6T5IjUvPqdI2DQ=="
            },
            id="Ed25519, a test key",
        ),
    ],
)
def test_signatures_of_other_libraries_are_valid_and_changes_are_not(
    scheme: Scheme, context: VerificationContext, raw: bytes, headers: dict[str, str]
) -> None:
    assert 0 == scheme.verify(delivery(raw, *headers.items()), context)
    assert "mismatch" == reason(scheme, delivery(raw + b" ", *headers.items()), context)
    for name in headers:
        assert "missing" == reason(scheme, delivery(raw, *((n, v) for n, v in headers.items() if n != name)), context)


@each(
    ("scheme", "secret", "headers"),
    [
        (HUBSPOT, SECRET, {"X-HubSpot-Request-Timestamp": "{}", "X-HubSpot-Signature-v3": "AAAA"}),
        (NEXHEALTH, SECRET, {"timestamp": "{}", "signature": "00"}),
        (BOULEVARD, "YWJj", {"x-blvd-hmac-salt": "{}", "x-blvd-hmac-sha256": "AAAA"}),
    ],
)
@each("written", ["nan", "inf", "-1", "1e9", "2026-03-14T17:32:05", "٣", "9" * 30, ":", "é"])
def test_an_invalid_time_is_rejected_even_if_it_is_signed(
    scheme: Hmac, secret: str, headers: dict[str, str], written: str
) -> None:
    """A sender with the secret may sign an invalid time: it must be rejected with a SignatureError."""
    context = VerificationContext([secret], NOW, "https://hooks.example.com")
    sent = delivery(BODY, *((name, value.format(written)) for name, value in headers.items()))
    raw_time = sent.header_values(scheme.timestamp_header or "")[0]
    message = scheme._message(sent, context.url, raw_time)
    digest = hmac_sha256(scheme.key(secret), message)
    signature = digest.hex() if scheme.encoding == "hex" else base64.b64encode(digest).decode()
    signed = delivery(BODY, (scheme.timestamp_header or "", raw_time), (scheme.header, signature))

    assert reason(scheme, signed, context) in ("malformed", "stale")
