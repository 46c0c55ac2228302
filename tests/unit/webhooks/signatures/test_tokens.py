"""Tokens in a header or in the path."""

from dataclasses import replace

import pytest

from app.webhooks.delivery import Delivery
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from app.webhooks.signatures.token import HeaderToken, PathToken
from tests.support.cases import each
from tests.support.signatures import BODY, delivery, reason

# -- tokens instead of signatures --

BEARER = HeaderToken("Authorization", prefix="Bearer ")


@each("prefix", ["Bearer ", "bearer ", "BEARER ", "Bearer Bearer ", "Bearer bearer "])
def test_a_token_in_a_header_is_the_secret_itself(prefix: str) -> None:
    sent = delivery(BODY, ("Authorization", f"{prefix}token-for-tests"))

    assert 1 == BEARER.verify(sent, VerificationContext(["another-one", "token-for-tests"], 0))


@each(
    ("sent", "expected"),
    [
        ("token-for-tests", "malformed"),
        ("Bearer token-for-test", "mismatch"),
        ("Bearer Token-for-tests", "mismatch"),
        ("Bearer ", "mismatch"),
        ("Bearer é", "mismatch"),
        ("", "missing"),
    ],
)
def test_another_token_is_rejected(sent: str, expected: str) -> None:
    assert expected == reason(
        BEARER, delivery(BODY, ("Authorization", sent)), VerificationContext(["token-for-tests"], 0)
    )


def test_a_header_of_thousands_of_prefixes_is_rejected_by_its_length() -> None:
    sent = delivery(BODY, ("Authorization", "Bearer " * 9_000 + "token-for-tests"))

    with pytest.raises(SignatureError, match="more than 2048 bytes"):
        BEARER.verify(sent, VerificationContext(["token-for-tests"], 0))


def test_the_longest_secret_fits_into_its_header() -> None:
    secret = "s" * 1_024
    sent = delivery(BODY, ("Authorization", "Bearer " * 100 + secret))

    assert BEARER.secret_problem(secret) is None
    assert 0 == BEARER.verify(sent, VerificationContext([secret], 0))


@each("secret", ["s" * 1_025, "é" * 513])
def test_a_secret_that_does_not_fit_into_a_header_is_unusable(secret: str) -> None:
    assert "must have 1024 bytes at most" == BEARER.secret_problem(secret)


def test_a_token_must_have_a_minimum_length() -> None:
    assert "must have 8 characters or more" == BEARER.secret_problem("1234567")


def addressed(token: str, hook: str = "hook") -> Delivery:
    return replace(delivery(BODY), token=token, hook=hook)


def test_the_token_of_an_address_depends_on_hook_secret_and_key() -> None:
    scheme, context = PathToken(), VerificationContext(["first", "second"], 0, keys=["new key", "old key"])
    tokens = {
        (hook, secret, key): scheme.path_token(hook, VerificationContext([secret], 0, keys=[key]))
        for hook in ("hook", "other")
        for secret in ("first", "second", "third")
        for key in ("new key", "old key", "gone")
    }

    assert len(tokens) == len(set(tokens.values()))
    for (hook, secret, key), token in tokens.items():
        if hook == "hook" and secret != "third" and key != "gone":
            assert ["first", "second"].index(secret) == scheme.verify(addressed(token), context)
        else:
            assert "mismatch" == reason(scheme, addressed(token), context)


def test_no_address_is_accepted_without_a_secret_key() -> None:
    assert "mismatch" == reason(PathToken(), addressed("anything"), VerificationContext(["first"], 0))
    assert "missing" == reason(PathToken(), addressed(""), VerificationContext(["first"], 0, keys=["key"]))
