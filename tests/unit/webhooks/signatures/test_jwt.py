"""Public keys and JSON Web Tokens."""

import base64
import os
import shutil
import subprocess

import orjson
import pytest

from app.settings.model import HookSettings
from app.webhooks.delivery import parse_body
from app.webhooks.registry import load_specimens
from app.webhooks.signatures.jwt import Jwt
from app.webhooks.signatures.scheme import VerificationContext
from tests.support.cases import each
from tests.support.harness import hmac_sha256
from tests.support.signatures import NOW, declared, delivery, reason

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


# -- public keys and JSON Web Tokens --


#: Keys and signatures that openssl made for these tests.
_BY_RSA = next(recorded for recorded in load_specimens("gohighlevel")["deliveries"] if "signing_key" in recorded)

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


RS256, JWT_CONTEXT = Jwt("RS256"), VerificationContext([RSA_PUBLIC], NOW)

CLAIMS = {"data": "x", "iat": NOW, "exp": NOW + 3600}


@needs_openssl
def test_a_token_that_names_the_algorithm_of_its_tool_is_verified() -> None:
    token = jwt(CLAIMS)

    assert 0 == RS256.verify(delivery(token), JWT_CONTEXT)
    assert 0 == RS256.verify(delivery(b" " + token + b"\n"), JWT_CONTEXT)
    assert {"data": "x"}.items() <= parse_body(delivery(token), "jwt").value.items()


@needs_openssl
@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"alg": "RS512"}, {}])
def test_a_token_that_names_another_algorithm_is_refused_also_where_ours_signed_it(header: object) -> None:
    assert "mismatch" == reason(RS256, delivery(jwt(CLAIMS, header)), JWT_CONTEXT)


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused() -> None:
    """The known attack: a verifier that trusts HS256 in the token would use the public key as its secret."""
    message = url64(b'{"alg":"HS256","typ":"JWT"}') + b"." + url64(orjson.dumps(CLAIMS))
    keys = [RSA_PUBLIC.encode(), base64.b64decode(RSA_PUBLIC), b""]

    for key in keys:
        token = message + b"." + url64(hmac_sha256(key, message))
        assert "mismatch" == reason(RS256, delivery(token), JWT_CONTEXT)


@each(
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
    assert expected == reason(RS256, delivery(raw), JWT_CONTEXT)


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
    assert expected == reason(RS256, delivery(jwt(claims)), JWT_CONTEXT)


def test_the_newer_header_alone_counts_where_it_is_there() -> None:
    scheme = declared("gohighlevel")
    new, old = load_specimens("gohighlevel")["deliveries"][0], _BY_RSA
    raw = orjson.dumps(old["body"])
    context = VerificationContext([ED25519_PUBLIC, RSA_PUBLIC], 0)
    older = ("X-WH-Signature", old["headers"]["X-WH-Signature"])

    assert 1 == scheme.verify(delivery(raw, older), context)
    assert 1 == scheme.verify(delivery(raw, older, ("X-GHL-Signature", "N/A")), context)
    wrong = ("X-GHL-Signature", new["headers"]["X-GHL-Signature"])
    assert "mismatch" == reason(scheme, delivery(raw, older, wrong), context)


@each(
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
    assert is_right == (declared("gohighlevel").secret_problem(secret) is None)


def test_a_key_in_pem_is_one_secret_of_a_hook() -> None:
    pem = f"-----BEGIN PUBLIC KEY-----\n{RSA_PUBLIC[:64]}\n{RSA_PUBLIC[64:]}\n-----END PUBLIC KEY-----"
    for written in (f"{pem}\n{ED25519_PUBLIC}", f"{pem} {ED25519_PUBLIC}".replace("\n", "\\n")):
        assert (RSA_PUBLIC, ED25519_PUBLIC) == HookSettings.model_validate({"secrets": written}).secrets
