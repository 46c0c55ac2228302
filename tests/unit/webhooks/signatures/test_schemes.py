"""Tests of signature schemes beyond `verify`: signing, when they apply, their coverage, and their error messages."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from app.webhooks.delivery import Delivery, decode_base64url
from app.webhooks.registry import load_specimens
from app.webhooks.signatures.combined import AllOf, FieldsHmac, FirstPresent
from app.webhooks.signatures.hmac import Hmac, StandardWebhooks, base64_key, text_key
from app.webhooks.signatures.jwt import Jwt
from app.webhooks.signatures.public_key import PublicKey
from app.webhooks.signatures.scheme import (
    ISO_8601,
    MIN_CHOSEN_SECRET_BYTES,
    SECONDS_AFTER_LAST_COLON,
    UNIX_MILLISECONDS,
    Reason,
    Scheme,
    SignatureError,
    VerificationContext,
    fingerprint,
)
from app.webhooks.signatures.token import HeaderToken, PathToken
from tests.support.cases import each
from tests.support.harness import hmac_sha256

NOW, SECRET, BODY = 1_790_000_000, "secret-for-tests", b'{"event":"demo"}'
CONTEXT = VerificationContext([SECRET], NOW)

PLAIN = Hmac("Plain-Signature", encoding="base64", prefix="sha256=")
LISTED = Hmac("Listed-Signature", fields=("t", "v1"), signs="{t}.{body}")
APART = Hmac("Apart-Signature", timestamp_header="Apart-Timestamp", signs="{t}.{body}")
ADDRESSED = Hmac("Addressed-Signature", signs="{url}{body}")
HUBSPOT = Hmac(
    "X-HubSpot-Signature-v3",
    timestamp_header="X-HubSpot-Request-Timestamp",
    timestamp_format=UNIX_MILLISECONDS,
    signs="POST{url}{body}{t}",
    encoding="base64",
)
NEXHEALTH = Hmac("signature", timestamp_header="timestamp", timestamp_format=ISO_8601, signs="{t}.{body:base64}")
BOULEVARD = Hmac(
    "x-blvd-hmac-sha256",
    timestamp_header="x-blvd-hmac-salt",
    timestamp_format=SECONDS_AFTER_LAST_COLON,
    signs="{t}:{body}",
    encoding="base64",
    key=base64_key,
)
STANDARD = StandardWebhooks()
BEARER = HeaderToken("Authorization", prefix="Bearer ")
ADDRESS = PathToken()
FIELDS = FieldsHmac("signature", (("kind",), ("item", "id")))

# RFC 8032, section 7.1, test 2, behind the prefixes that make DER of a key of Ed25519 (RFC 8410, section 7)
ED25519_PRIVATE = base64.b64encode(
    bytes.fromhex("302e020100300506032b6570042204204ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
).decode()
ED25519_PUBLIC = base64.b64encode(
    bytes.fromhex("302a300506032b65700321003d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
).decode()
ED25519_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
ED25519 = PublicKey("X-Key-Signature", "ed25519")
#: Signed by openssl.
BY_RSA: dict[str, Any] = next(
    recorded for recorded in load_specimens("gohighlevel")["deliveries"] if "signing_key" in recorded
)
RSA_PRIVATE, RSA_PUBLIC = BY_RSA["signing_key"], BY_RSA["secret"]
RSA_BODY, RSA_SIGNATURE = orjson.dumps(BY_RSA["body"]), BY_RSA["headers"]["X-WH-Signature"]
RSA = PublicKey("X-WH-Signature", "rsa-sha256")
#: 1,024 bits, made by openssl.
SMALL_RSA_PUBLIC = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDSVrYBU4nNXeGNxzTGntbHn8JxD5S65jbZrm4IqeUZ9RFUfRDaKbUj/vj6Cu+VtJVZue0Cgstm"
    "WnBN9Cmbvd5BUuZ8dzUAqNTXY/F8FEZVa4F3rJbUOlGbrKm/33uQnCV1XduwBAcE1a1RTAG9ummt6IuyTvo+a0P+PBts2/iI6QIDAQAB"
)

# The example of https://jwt.io for HS256.
JWT_SECRET = "a-string-secret-at-least-256-bits-long"
JWT_CLAIMS = {"sub": "1234567890", "name": "John Doe", "admin": True, "iat": 1516239022}
JWT_TOKEN = (
    b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    b".eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiYWRtaW4iOnRydWUsImlhdCI6MTUxNjIzOTAyMn0"
    b".KMUFsIDTnFmyG3nMiGM6H9FNFUROf3wh7SmqJp-QV30"
)
JWT_CONTEXT = VerificationContext([JWT_SECRET], NOW)
# Its older example: its secret has 18 bytes, fewer than HS256 needs.
SHORT_JWT_SECRET = "your-256-bit-secret"
SHORT_JWT_TOKEN = (
    b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ"
    b".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
)
HS256, RS256 = Jwt("HS256", expires=False), Jwt("RS256")


def delivery(raw: bytes = BODY, token: str = "", **headers: str) -> Delivery:
    """Headers by their names, with `_` for `-`."""
    lines = tuple((name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items())
    return Delivery("hook", "source", lines, raw, datetime(2026, 9, 21, tzinfo=UTC), token=token)


def digest(message: bytes, secret: str = SECRET) -> bytes:
    return hmac_sha256(secret.encode(), message)


def base64_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# -- signing --

SALT = "blvd-webhook-v1:efa1a1fd-80b2-41c8-8b13-850f36f9a303"
STANDARD_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
STANDARD_DIGEST = f"v1,{base64_of(digest(b'msg_1.1790000000.' + BODY, '0123456789abcdef0123456789abcdef'))}"


@each(
    ("scheme", "context", "sent", "headers"),
    [
        pytest.param(PLAIN, CONTEXT, delivery(), {"Plain-Signature": f"sha256={base64_of(digest(BODY))}"}, id="plain"),
        pytest.param(
            LISTED,
            CONTEXT,
            delivery(),
            {"Listed-Signature": f"t=1790000000,v1={digest(b'1790000000.' + BODY).hex()}"},
            id="listed",
        ),
        pytest.param(
            APART,
            CONTEXT,
            delivery(Apart_Timestamp="1"),
            {"Apart-Timestamp": "1790000000", "Apart-Signature": digest(b"1790000000." + BODY).hex()},
            id="apart, again",
        ),
        pytest.param(
            HUBSPOT,
            VerificationContext(
                ["yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"], 1693657560, "https://www.example.com/webhook_uri"
            ),
            delivery(b"{'example_field':'example_value'}"),
            {
                "X-HubSpot-Request-Timestamp": "1693657560000",
                "X-HubSpot-Signature-v3": "K36dawei4A+QBNolUOqo7s91KQDWQ5MXZ/QufNYuk/Y=",
            },
            id="hubspot-api-python, tests/spec/utils/test_signature.py @a2a528a",
        ),
        pytest.param(
            NEXHEALTH,
            VerificationContext(["nexhealth-secret-key-for-tests"], 1773509525.123),
            delivery(b'{"resource_type":"Appointment","event_name":"appointment_updated"}'),
            {
                "timestamp": "2026-03-14T17:32:05.123Z",
                "signature": "e6d667be84b8116aff7e1668453a040e69ec44f42c22c202ed9b88285a1b4bc3",
            },
            id="nexhealth, its ISO time",
        ),
        pytest.param(
            BOULEVARD,
            VerificationContext(["Ymx2ZC1hcHAtc2VjcmV0LWJ5dGVz"], 1600717631.9),
            delivery(b'{"type":"appointment.created"}', x_blvd_hmac_salt=f"{SALT}:1"),
            {
                "x-blvd-hmac-salt": f"{SALT}:1600717631",
                "x-blvd-hmac-sha256": "LT9bk9TYt1a+wQbPjtIp9dUEh6aQi7AEIzhKe+f+Fbk=",
            },
            id="boulevard, the salt with another time",
        ),
        pytest.param(
            STANDARD,
            VerificationContext([STANDARD_SECRET], NOW),
            delivery(webhook_id="msg_1"),
            {"webhook-timestamp": "1790000000", "webhook-signature": STANDARD_DIGEST},
            id="standard webhooks",
        ),
        pytest.param(
            STANDARD,
            VerificationContext([STANDARD_SECRET], NOW),
            delivery(svix_id="msg_1"),
            {"svix-timestamp": "1790000000", "svix-signature": STANDARD_DIGEST},
            id="standard webhooks as svix",
        ),
        pytest.param(BEARER, CONTEXT, delivery(), {"Authorization": f"Bearer {SECRET}"}, id="bearer"),
        pytest.param(
            ED25519,
            VerificationContext([ED25519_PRIVATE], 0),
            delivery(b"r"),
            {"X-Key-Signature": base64_of(ED25519_SIGNATURE)},
            id="RFC 8032, section 7.1, test 2",
        ),
        pytest.param(
            RSA, VerificationContext([RSA_PRIVATE], 0), delivery(RSA_BODY), {"X-WH-Signature": RSA_SIGNATURE}, id="RSA"
        ),
        pytest.param(ADDRESS, VerificationContext([SECRET], NOW, keys=["key"]), delivery(), {}, id="the address"),
        pytest.param(FIELDS, CONTEXT, delivery(), {}, id="in the body"),
        pytest.param(HS256, CONTEXT, delivery(JWT_TOKEN), {}, id="the body"),
        pytest.param(
            AllOf(LISTED, APART),
            CONTEXT,
            delivery(),
            {
                "Listed-Signature": f"t=1790000000,v1={digest(b'1790000000.' + BODY).hex()}",
                "Apart-Timestamp": "1790000000",
                "Apart-Signature": digest(b"1790000000." + BODY).hex(),
            },
            id="both",
        ),
        pytest.param(
            FirstPresent(STANDARD, BEARER),
            VerificationContext([SECRET, STANDARD_SECRET], NOW),
            delivery(webhook_id="msg_1", webhook_signature="v1,replaced"),
            {"webhook-timestamp": "1790000000", "webhook-signature": STANDARD_DIGEST},
            id="either: the secret that the first one takes",
        ),
        pytest.param(
            FirstPresent(STANDARD, BEARER),
            VerificationContext(["short", SECRET], NOW),
            delivery(),
            {"Authorization": f"Bearer {SECRET}"},
            id="either: the secret that the other one takes",
        ),
        pytest.param(
            FirstPresent(ED25519, RSA),
            VerificationContext([RSA_PRIVATE], 0),
            delivery(RSA_BODY),
            {"X-WH-Signature": RSA_SIGNATURE},
            id="either: a private key is no secret to verify with, and signs",
        ),
    ],
)
def test_a_scheme_signs_as_its_tool_does(
    scheme: Scheme, context: VerificationContext, sent: Delivery, headers: dict[str, str]
) -> None:
    assert headers == scheme.sign(sent, context)


def test_without_a_salt_only_the_time_is_written() -> None:
    signed = BOULEVARD.sign(delivery(), VerificationContext(["Ymx2ZC1hcHAtc2VjcmV0LWJ5dGVz"], NOW))

    assert ":1790000000" == signed["x-blvd-hmac-salt"]


# -- signatures in the body --


def test_a_signature_over_fields_is_written_into_the_body() -> None:
    body = {"kind": "visit", "item": {"id": 7}, "signature": "old", "more": None}
    context = VerificationContext([SECRET, "another"], NOW)

    wrapped = FIELDS.encode_body(orjson.dumps(body), context)

    assert body | {"signature": digest(b"visit7").hex()} == orjson.loads(wrapped)
    assert 0 == FIELDS.verify(delivery(wrapped), context)
    assert (
        wrapped
        == AllOf(ADDRESS, FIELDS).encode_body(orjson.dumps(body), context)
        == AllOf(FIELDS, ADDRESS).encode_body(wrapped, context)
    )


def parts(token: bytes) -> tuple[Any, Any]:
    head, claims, _ = token.split(b".")
    return orjson.loads(decode_base64url(head) or b""), orjson.loads(decode_base64url(claims) or b"")


@each("raw", [orjson.dumps(JWT_CLAIMS), JWT_TOKEN, b" " + JWT_TOKEN + b"\n"])
@each(
    ("scheme", "private", "public", "algorithm"),
    [(HS256, JWT_SECRET, JWT_SECRET, "HS256"), (RS256, RSA_PRIVATE, RSA_PUBLIC, "RS256")],
)
def test_a_body_becomes_a_token_of_an_hour(scheme: Jwt, private: str, public: str, algorithm: str, raw: bytes) -> None:
    wrapped = scheme.encode_body(raw, VerificationContext([private, "another"], NOW + 0.9))

    assert ({"alg": algorithm, "typ": "JWT"}, JWT_CLAIMS | {"iat": NOW, "exp": NOW + 3600}) == parts(wrapped)
    assert b"=" not in wrapped
    assert 0 == scheme.verify(delivery(wrapped), VerificationContext([public], NOW))


def test_of_either_the_scheme_that_the_body_has_writes_it_anew() -> None:
    either, context = FirstPresent(HS256, FIELDS), VerificationContext([SECRET, "s" * 32], NOW)
    body = orjson.dumps({"kind": "visit", "item": {"id": 7}})

    # The token is made with the secret that HS256 takes, the field with the first.
    assert 0 == HS256.verify(delivery(either.encode_body(JWT_TOKEN, context)), VerificationContext(["s" * 32], NOW))
    assert FIELDS.encode_body(body, context) == either.encode_body(body, context)


def test_what_signs_in_a_header_leaves_the_body_alone() -> None:
    for scheme in (PLAIN, STANDARD, BEARER, ADDRESS, ED25519, FirstPresent(PLAIN, BEARER), AllOf(PLAIN, BEARER)):
        assert scheme.encode_body(BODY, CONTEXT) == BODY


# -- tokens in the address --


def test_only_a_scheme_with_an_address_token_has_one() -> None:
    context = VerificationContext([SECRET, "another"], NOW, keys=["key", "old key"])
    token = ADDRESS.path_token("hook", context)

    assert len(token) >= 43  # 32 bytes in base64
    assert 0 == ADDRESS.verify(delivery(token=token), context)
    for scheme in (
        FirstPresent(PLAIN, ADDRESS),
        FirstPresent(ADDRESS, PLAIN),
        AllOf(PLAIN, ADDRESS),
        AllOf(ADDRESS, FIELDS),
    ):
        assert token == scheme.path_token("hook", context)
    for scheme in (PLAIN, STANDARD, BEARER, FIELDS, ED25519, HS256, FirstPresent(PLAIN, BEARER), AllOf(PLAIN, BEARER)):
        assert scheme.path_token("hook", context) == ""


# -- when a scheme applies, and its coverage --


@each(
    ("scheme", "applying", "not_applying"),
    [
        (PLAIN, [delivery(Plain_Signature="wrong")], [delivery(), delivery(Plain_Signature=" ")]),
        (
            STANDARD,
            [delivery(webhook_signature="wrong"), delivery(svix_signature="wrong")],
            [delivery(), delivery(webhook_id="msg_1", svix_timestamp="1"), delivery(svix_signature="")],
        ),
        (BEARER, [delivery(authorization="wrong")], [delivery(), delivery(authorization="\t")]),
        (
            ED25519,
            [delivery(X_Key_Signature="wrong"), delivery(X_Key_Signature="n/a")],
            [delivery(), delivery(X_Key_Signature=""), delivery(X_Key_Signature=" N/A ")],
        ),
        (HS256, [delivery(JWT_TOKEN), delivery(b" a.b.c\n")], [delivery(), delivery(b"a.b"), delivery(b"")]),
        (ADDRESS, [delivery(), delivery(token="wrong")], []),
        (FIELDS, [delivery(), delivery(b"")], []),
    ],
)
def test_a_scheme_applies_to_a_valid_or_invalid_signature(
    scheme: Scheme, applying: list[Delivery], not_applying: list[Delivery]
) -> None:
    assert [True] * len(applying) == [scheme.applies_to(sent) for sent in applying]
    assert [False] * len(not_applying) == [scheme.applies_to(sent) for sent in not_applying]


@each(
    ("scheme", "covers", "needs_url", "needs_key"),
    [
        (PLAIN, "body", False, False),
        (ADDRESSED, "body", True, False),
        (STANDARD, "body", False, False),
        (HS256, "body", False, False),
        (ED25519, "body", False, False),
        (BEARER, "nothing", False, False),
        (ADDRESS, "nothing", False, True),
        (FIELDS, "fields", False, False),
        (FirstPresent(PLAIN, BEARER), "nothing", False, False),
        (FirstPresent(FIELDS, ADDRESSED), "fields", True, False),
        (FirstPresent(ADDRESSED, ADDRESS), "nothing", True, True),
        (AllOf(ADDRESS, FIELDS), "fields", False, True),
        (AllOf(PLAIN, FIELDS), "body", False, False),
        (AllOf(BEARER, ADDRESSED), "body", True, False),
    ],
)
def test_a_scheme_has_a_coverage_and_requirements(
    scheme: Scheme, covers: str, needs_url: bool, needs_key: bool
) -> None:
    assert (covers, needs_url, needs_key) == (scheme.coverage, scheme.needs_url, scheme.needs_secret_key)


def test_both_schemes_must_match() -> None:
    both = AllOf(BEARER, LISTED)
    signed = LISTED.sign(delivery(), CONTEXT)["Listed-Signature"]
    right, wrong = f"Bearer {SECRET}", "Bearer another-secret"

    assert 0 == both.verify(delivery(authorization=right, Listed_Signature=signed), CONTEXT)
    for headers in ({"authorization": wrong, "Listed_Signature": signed}, {"Listed_Signature": signed}):
        with pytest.raises(SignatureError, match=r"^Authorization "):
            both.verify(delivery(**headers), CONTEXT)
    with pytest.raises(SignatureError, match=r"^Listed-Signature "):
        both.verify(delivery(authorization=right, Listed_Signature=signed[:-1]), CONTEXT)


# -- error messages --


def stale(scheme: Hmac, now: float, **context: Any) -> tuple[Scheme, Delivery, VerificationContext]:
    """Return a delivery that was signed at NOW."""
    return scheme, delivery(**scheme.sign(delivery(), CONTEXT)), VerificationContext([SECRET], now, **context)


def token_of(claims: object, **head: object) -> Delivery:
    parts = ({"alg": "HS256"} | head, claims)
    message = b".".join(base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=") for part in parts)
    return delivery(message + b"." + base64.urlsafe_b64encode(digest(message, JWT_SECRET)).rstrip(b"="))


STANDARD_HEADERS = {"webhook_id": "msg_1", "webhook_timestamp": "1790000000", "webhook_signature": STANDARD_DIGEST}
STANDARD_CONTEXT = VerificationContext([STANDARD_SECRET], NOW)
SVIX_HEADERS = {name.replace("webhook", "svix"): value for name, value in STANDARD_HEADERS.items()}
TWICE = replace(delivery(), headers=((b"plain-signature", b"a"), (b"plain-signature", b"a")))
FIRST_EMPTY = replace(delivery(), headers=((b"plain-signature", b" "), (b"plain-signature", b"a")))
EXPIRING = Jwt("HS256", tolerance_s=300)
CRITICAL = "the token requires extensions that are not supported (`crit`)"

REFUSED: list[tuple[Reason, str, Scheme, Delivery, VerificationContext]] = [
    ("missing", "Plain-Signature is missing", PLAIN, delivery(), CONTEXT),
    ("missing", "Plain-Signature is missing", PLAIN, delivery(Plain_Signature=" "), CONTEXT),
    ("malformed", "Plain-Signature was sent 2 times", PLAIN, TWICE, CONTEXT),
    ("missing", "Plain-Signature is missing", PLAIN, FIRST_EMPTY, CONTEXT),
    (
        "malformed",
        "Plain-Signature has no signature in the format of this tool",
        PLAIN,
        delivery(Plain_Signature="ab"),
        CONTEXT,
    ),
    (
        "mismatch",
        "Plain-Signature matches none of 2 secrets",
        PLAIN,
        delivery(Plain_Signature="sha256=ab"),
        VerificationContext(["a", "b"], 0),
    ),
    (
        "malformed",
        "Listed-Signature does not contain exactly one time `t=`",
        LISTED,
        delivery(Listed_Signature="v1=ab"),
        CONTEXT,
    ),
    ("missing", "Apart-Timestamp is missing", APART, delivery(Apart_Signature="ab"), CONTEXT),
    (
        "malformed",
        "the signed time cannot be parsed",
        APART,
        delivery(Apart_Timestamp="soon", Apart_Signature=digest(b"soon." + BODY).hex()),
        CONTEXT,
    ),
    ("stale", "the signed time is 301 s old; 300 s are allowed", *stale(APART, NOW + 301)),
    ("stale", "the signed time is 301 s ahead of our clock; 300 s are allowed", *stale(APART, NOW - 301)),
    ("stale", "the signed time is 1 s old; 0 s are allowed", *stale(APART, NOW + 1, tolerance_s=0)),
    ("stale", "the signed time is 1 s ahead of our clock; 0 s are allowed", *stale(APART, NOW - 1, tolerance_s=0)),
    ("missing", "webhook-signature is missing", STANDARD, delivery(), STANDARD_CONTEXT),
    ("missing", "svix-id is missing", STANDARD, delivery(svix_timestamp="1", svix_signature="v1,"), STANDARD_CONTEXT),
    (
        "malformed",
        "svix-id is not the id that was signed",
        STANDARD,
        delivery(**STANDARD_HEADERS, svix_id="msg_2"),
        STANDARD_CONTEXT,
    ),
    (
        "malformed",
        "webhook-timestamp is not the timestamp that was signed",
        STANDARD,
        delivery(**SVIX_HEADERS, webhook_timestamp="1"),
        STANDARD_CONTEXT,
    ),
    ("missing", "Authorization is missing", BEARER, delivery(), CONTEXT),
    (
        "malformed",
        "Authorization has more than 2048 bytes",
        BEARER,
        delivery(authorization="Bearer " + "x" * 2_042),
        CONTEXT,
    ),
    (
        "mismatch",
        "Authorization does not match the secret",
        BEARER,
        delivery(authorization="Bearer " + "x" * 2_041),
        CONTEXT,
    ),
    ("malformed", "Authorization does not begin with `Bearer`", BEARER, delivery(authorization=SECRET), CONTEXT),
    ("missing", "the URL has no token; `doorbell hook-url` prints the right URL", ADDRESS, delivery(), CONTEXT),
    (
        "mismatch",
        "the token in the URL matches none of 2 secrets",
        ADDRESS,
        delivery(token="wrong"),
        VerificationContext([SECRET], 0, keys=["new", "old"]),
    ),
    ("malformed", "the body is not JSON in UTF-8", FIELDS, delivery(b"{"), CONTEXT),
    ("malformed", "the body is empty", FIELDS, delivery(b""), CONTEXT),
    ("malformed", "the body is not an object", FIELDS, delivery(b"[]"), CONTEXT),
    ("missing", "the body has no `signature`", FIELDS, delivery(b'{"signature":" "}'), CONTEXT),
    ("malformed", "a signed field is missing", FIELDS, delivery(b'{"signature":"a","kind":"k"}'), CONTEXT),
    (
        "mismatch",
        "`signature` does not match the secret",
        FIELDS,
        delivery(b'{"signature":"a","kind":"k","item":{"id":1}}'),
        CONTEXT,
    ),
    ("missing", "X-Key-Signature is missing", ED25519, delivery(), VerificationContext([ED25519_PUBLIC], 0)),
    (
        "missing",
        "X-Key-Signature is missing",
        ED25519,
        delivery(X_Key_Signature="N/A"),
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "malformed",
        "X-Key-Signature is not base64",
        ED25519,
        delivery(X_Key_Signature="?"),
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "malformed",
        "X-Key-Signature is not base64",
        ED25519,
        delivery(X_Key_Signature="AA=?="),
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "malformed",
        "X-Key-Signature is not canonical base64",
        ED25519,
        delivery(X_Key_Signature="AB=="),  # four bits of the B are lost
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "mismatch",
        "X-Key-Signature does not match the key",
        ED25519,
        delivery(X_Key_Signature="AA=="),
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "mismatch",
        "X-Key-Signature does not match the key",  # a key of the other kind
        ED25519,
        delivery(b"r", X_Key_Signature=base64_of(ED25519_SIGNATURE)),
        VerificationContext([RSA_PUBLIC], 0),
    ),
    (
        "mismatch",
        "X-WH-Signature does not match the key",  # right, by a key of the other kind
        RSA,
        delivery(b"r", X_WH_Signature=base64_of(ED25519_SIGNATURE)),
        VerificationContext([ED25519_PUBLIC], 0),
    ),
    (
        "mismatch",
        "X-WH-Signature does not match the key",
        RSA,
        delivery(X_WH_Signature="AA=="),
        VerificationContext(["no key"], 0),
    ),
    ("missing", "the body is empty, so it has no signature", HS256, delivery(b" \n"), CONTEXT),
    ("malformed", "the body is not a JSON Web Token", HS256, delivery(b"{}"), CONTEXT),
    (
        "mismatch",
        "the token in the body does not match the key",
        HS256,
        delivery(JWT_TOKEN),
        VerificationContext(["x" * 32], NOW),
    ),
    ("mismatch", "the token in the body does not match the key", HS256, token_of({}, alg="none"), JWT_CONTEXT),
    ("mismatch", "the token in the body does not match the key", HS256, token_of({}, alg="HS512"), JWT_CONTEXT),
    ("malformed", "the body is a JSON Web Token that cannot be decoded", HS256, delivery(b"a.b.c"), JWT_CONTEXT),
    (
        "malformed",
        "the body is a JSON Web Token that cannot be decoded",
        HS256,
        token_of({}, crit=["x"], x=1),
        JWT_CONTEXT,
    ),
    ("malformed", "the body is a JSON Web Token that cannot be decoded", HS256, token_of({}, crit=[]), JWT_CONTEXT),
    ("malformed", "the body is a JSON Web Token that cannot be decoded", HS256, token_of({}, b64=False), JWT_CONTEXT),
    ("malformed", CRITICAL, HS256, token_of({}, crit=["b64"], b64=True), JWT_CONTEXT),
    ("malformed", "the token's claims are not an object", HS256, token_of([1]), JWT_CONTEXT),
    ("malformed", "the token has no expiration time (`exp`)", EXPIRING, token_of({"iat": NOW}), JWT_CONTEXT),
    ("malformed", "the token's `exp` is not a time", EXPIRING, token_of({"exp": "soon"}), JWT_CONTEXT),
    ("malformed", "the token's `nbf` is not a time", HS256, token_of({"nbf": True}), JWT_CONTEXT),
    ("stale", "the token's `exp` is 301 s in the past", EXPIRING, token_of({"exp": NOW - 301}), JWT_CONTEXT),
    ("stale", "the token's `iat` is 301 s ahead of our clock", HS256, token_of({"iat": NOW + 301}), JWT_CONTEXT),
    ("stale", "the token's `nbf` is 301 s ahead of our clock", HS256, token_of({"nbf": NOW + 301}), JWT_CONTEXT),
    (
        "stale",
        "the token's `nbf` is 6 s ahead of our clock",
        HS256,
        token_of({"nbf": NOW + 6}),
        JWT_CONTEXT._replace(tolerance_s=5),
    ),
]


@each(("reason", "sentence", "scheme", "sent", "context"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_signature_error_has_a_reason_and_a_message(
    reason: Reason, sentence: str, scheme: Scheme, sent: Delivery, context: VerificationContext
) -> None:
    with pytest.raises(SignatureError) as refused:
        scheme.verify(sent, context)

    assert (reason, sentence) == (refused.value.reason, str(refused.value))


@each("claims", [{"exp": NOW - 300}, {"iat": NOW + 300, "nbf": NOW + 300, "exp": NOW + 1.5}, {"nbf": 0}])
def test_a_token_within_the_tolerance_is_accepted(claims: dict[str, float]) -> None:
    assert 0 == HS256.verify(token_of(claims), JWT_CONTEXT)


def test_a_token_matches_the_second_secret() -> None:
    """Some tools (ServiceM8) send tokens without `exp`, which do not expire."""
    assert 1 == HS256.verify(delivery(JWT_TOKEN), VerificationContext([SECRET, JWT_SECRET], NOW))


def test_a_key_too_short_for_hs256_verifies_no_token() -> None:
    for secrets in ([SHORT_JWT_SECRET], [SHORT_JWT_SECRET, JWT_SECRET]):
        with pytest.raises(SignatureError) as refused:
            HS256.verify(delivery(SHORT_JWT_TOKEN), VerificationContext(secrets, NOW))
        assert "mismatch" == refused.value.reason


@each("secret", ["", "é", SECRET, ED25519_PUBLIC, SMALL_RSA_PUBLIC])
def test_a_secret_that_is_not_an_rsa_key_is_skipped(secret: str) -> None:
    token = RS256.encode_body(orjson.dumps(JWT_CLAIMS), VerificationContext([RSA_PRIVATE], NOW))

    assert 1 == RS256.verify(delivery(token), VerificationContext([secret, RSA_PUBLIC], NOW))
    with pytest.raises(SignatureError) as refused:
        RS256.verify(delivery(token), VerificationContext([secret], NOW))
    assert "mismatch" == refused.value.reason


PEM = f"-----BEGIN PUBLIC KEY-----\n{ED25519_PUBLIC}\n-----END PUBLIC KEY-----"
JWK = '{"kty":"oct","k":"c2VjcmV0LW9mLXRoZS1vdGhlcg"}'
TOOLS_TEXT, CHOSEN_TEXT = Hmac("Signature"), Hmac("Signature", min_key_bytes=MIN_CHOSEN_SECRET_BYTES)
TEXT_OF_ANOTHER_KIND = Hmac("Signature", key=lambda secret: text_key(secret) if secret != "odd" else base64_key("?"))


@each(
    ("scheme", "secret", "rule"),
    [
        (TOOLS_TEXT, "1234567", "must have 8 characters or more"),
        (TOOLS_TEXT, "12345678", None),
        (TOOLS_TEXT, "caf\udce9-and-more", "must be text in UTF-8"),
        (CHOSEN_TEXT, "12345678901", "must have 12 characters or more"),
        (CHOSEN_TEXT, "123456789012", None),
        (BOULEVARD, "no base64", "must be base64"),
        (BOULEVARD, "MTIzNDU2Nzg=", None),
        (TEXT_OF_ANOTHER_KIND, "odd", "must be base64, with or without `whsec_` before it"),
        (STANDARD, "whsec_?", "must be base64, with or without `whsec_` before it"),
        (STANDARD, "whsec_MTIzNDU2Nzg5MDE=", "must have 12 characters or more"),
        (STANDARD, "whsec_MTIzNDU2Nzg5MDEy", None),
        (StandardWebhooks(key=text_key), "not base64 !", None),
        (BEARER, "1234567", "must have 8 characters or more"),
        (BEARER, "12345678", None),
        (BEARER, "x" * 1_024, None),
        (BEARER, "x" * 1_025, "must have 1024 bytes at most"),
        (HeaderToken("Key", min_length=3), "12", "must have 3 characters or more"),
        (ADDRESS, "", "must not be empty"),
        (ADDRESS, "x", None),
        (FIELDS, "", "must not be empty"),
        (FIELDS, "x", None),
        (ED25519, RSA_PUBLIC, "must be an Ed25519 public key, as PEM or its base64"),
        (ED25519, ED25519_PUBLIC, None),
        (RSA, ED25519_PUBLIC, "must be an RSA public key of 2048 bits or more, as PEM or its base64"),
        (RSA, SMALL_RSA_PUBLIC, "must be an RSA public key of 2048 bits or more, as PEM or its base64"),
        (RSA, RSA_PUBLIC, None),
        (RS256, SECRET, "must be an RSA public key of 2048 bits or more, as PEM or its base64"),
        (RS256, RSA_PUBLIC, None),
        (HS256, "é" * 15 + "x", "must have 32 characters or more"),
        (HS256, "é" * 16, None),
        (HS256, PEM, "must be a shared secret, not a public key or a JSON Web Key"),
        (HS256, JWK, "must be a shared secret, not a public key or a JSON Web Key"),
        (FirstPresent(STANDARD, BEARER), "1234567", "must have 8 characters or more"),
        (FirstPresent(STANDARD, BEARER), "12345678", None),
        (FirstPresent(STANDARD, BEARER), "x" * 1_028, None),
        (AllOf(BEARER, HS256), "1234567", "must have 8 characters or more"),
        (AllOf(BEARER, HS256), "12345678", "must have 32 characters or more"),
        (AllOf(BEARER, HS256), "x" * 32, None),
    ],
)
def test_an_unusable_secret_breaks_a_rule(scheme: Scheme, secret: str, rule: str | None) -> None:
    assert rule == scheme.secret_problem(secret)


@each(("keys", "key"), [((), b""), (("new", "old"), b"new")])
def test_a_fingerprint_is_eight_digits_made_with_the_newest_key(keys: tuple[str, ...], key: bytes) -> None:
    assert hmac_sha256(key, b"doorbell.fingerprint secret").hex()[:8] == fingerprint("secret", keys)
