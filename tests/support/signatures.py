"""Deliveries, schemes and secrets for tests of signatures."""

import base64
from datetime import UTC, datetime

import pytest

from app.webhooks.delivery import Delivery
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.hmac import Hmac, StandardWebhooks
from app.webhooks.signatures.scheme import Scheme, SignatureError, VerificationContext
from tests.support.harness import hmac_sha256

STANDARD = StandardWebhooks()


#: One scheme with `t=…,v1=…` in one header, one with the time in a separate header.
LISTED = Hmac(header="Listed-Signature", fields=("t", "v1"), signs="{t}.{body}", tolerance_s=180)

APART = Hmac(
    header="Apart-Signature", timestamp_header="Apart-Timestamp", signs="{t}.{body}", tolerance_s=300, lenient=True
)

SECRET = "test-secret-for-vectors"

NOW = 1_790_000_000

BODY = '{"event":"demo","email":"ada@example.com","name":"Zoë"}'.encode()


def delivery(raw: bytes, *headers: tuple[str, str | bytes]) -> Delivery:
    lines = [(name.lower().encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    return Delivery("hook", "source", tuple(lines), raw, datetime(2026, 9, 21, tzinfo=UTC))


def reason(scheme: Scheme, signed: Delivery, context: VerificationContext) -> str:
    with pytest.raises(SignatureError) as error:
        scheme.verify(signed, context)

    assert not [secret for secret in context.secrets if secret and secret in str(error.value)]
    return error.value.reason


def declared(name: str) -> Scheme:
    """Return the scheme that a source declares."""
    return load_sources()[name].definition.signature


SPEC_SECRET, SPEC_ID, SPEC_TIME = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330

SPEC_BODY, SPEC_SIGNATURE = b'{"test": 2432232314}', "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def _text(signed: Delivery) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in signed.headers]


def listed(time: bytes, *more: bytes, raw: bytes = BODY, secret: str = SECRET) -> Delivery:
    """Return a delivery with `t=…,v1=…` and a signature over these bytes."""
    signature = hmac_sha256(secret.encode(), time + b"." + raw).hex().encode()
    return delivery(raw, ("Listed-Signature", b",".join([b"t=" + time, *more, b"v1=" + signature])))


def apart(time: bytes, raw: bytes = BODY) -> Delivery:
    signature = hmac_sha256(SECRET.encode(), time + b"." + raw).hex()
    return delivery(raw, ("Apart-Timestamp", time), ("Apart-Signature", signature))


def standard(
    time: bytes = b"1790000000", id: bytes = b"msg_1", prefix: str = "webhook", secret: str = SPEC_SECRET
) -> Delivery:
    signature = hmac_sha256(base64.b64decode(secret.removeprefix("whsec_")), id + b"." + time + b"." + BODY)
    header = b"v1," + base64.b64encode(signature)
    return delivery(BODY, (f"{prefix}-id", id), (f"{prefix}-timestamp", time), (f"{prefix}-signature", header))


#: Schemes with a secret: the forms that vendors use, and the scheme of every source.
SCHEMES = [
    (LISTED, SECRET),
    (APART, SECRET),
    (STANDARD, SPEC_SECRET),
    *((declared(name), load_specimens(name)["secret"]) for name in load_sources()),
]
