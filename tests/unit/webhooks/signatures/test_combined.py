"""HMAC over fields of the body, and combined schemes."""

from dataclasses import replace

import orjson

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.combined import AllOf, FieldsHmac
from app.webhooks.signatures.scheme import VerificationContext
from app.webhooks.signatures.token import PathToken
from tests.support.cases import each
from tests.support.signatures import delivery, reason

# -- HMAC over fields: https://support.gingrapp.com, its rule; the digest was computed separately --

FIELDS = FieldsHmac("signature", (("webhook_type",), ("entity_id",), ("entity_type",)))

FIELDS_CONTEXT = VerificationContext(["gingr-signature-key-for-tests"], 0)

OF_FIELDS = "86701964b4e6490b2f29a3caebf1d810ecbcd17caecf863f7522b9b363c84b2d"


def fields(**changes: object) -> Delivery:
    body = {"webhook_type": "check_out", "entity_id": "12345", "entity_type": "reservation", "signature": OF_FIELDS}
    return delivery(orjson.dumps(body | changes))


@each("changes", [{}, {"entity_id": 12345}, {"entity_data": {"email": "somebody@example.com"}}])
def test_a_signature_over_fields_does_not_cover_the_others(changes: dict[str, object]) -> None:
    assert 0 == FIELDS.verify(fields(**changes), FIELDS_CONTEXT)
    assert "fields" == FIELDS.coverage


@each(
    ("changes", "expected"),
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
def test_a_changed_field_is_rejected(changes: dict[str, object], expected: str) -> None:
    assert expected == reason(FIELDS, fields(**changes), FIELDS_CONTEXT)


@each("raw", [b"", b"[]", b"1", b"{", b"\xff", b"null"])
def test_a_body_that_is_not_an_object_has_no_signed_fields(raw: bytes) -> None:
    assert "malformed" == reason(FIELDS, delivery(raw), FIELDS_CONTEXT)


def test_of_both_the_second_is_not_looked_at_before_the_first_holds() -> None:
    both, context = AllOf(PathToken(), FIELDS), FIELDS_CONTEXT._replace(keys=["key"])
    token = PathToken().path_token("hook", context)

    assert "missing" == reason(both, delivery(b"{"), context)
    assert 0 == both.verify(replace(fields(), token=token), context)
    assert "mismatch" == reason(both, replace(fields(entity_id="1"), token=token), context)
