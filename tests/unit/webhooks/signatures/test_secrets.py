"""Tests of the encoding and length of secrets."""

from app.webhooks.signatures.scheme import VerificationContext
from tests.support.cases import each
from tests.support.harness import label
from tests.support.signatures import LISTED, NOW, SPEC_SECRET, STANDARD, declared, listed, standard

# -- secrets --


@each(
    "secret",
    [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
        "whsec_c2l4dGVlbiBieXRlcyBvaw==",  # 16 bytes have two padding characters
        "whsec_c2l4dGVlbiBieXRlcyBvaw=",
        "whsec_c2l4dGVlbiBieXRlcyBvaw",
    ],
)
def test_a_standard_secret_may_lack_its_prefix_and_its_padding(secret: str) -> None:
    full = ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_c2l4dGVlbiBieXRlcyBvaw==", SPEC_SECRET)
    [written_out] = [whole for whole in full if secret.removeprefix("whsec_").rstrip("=") in whole]
    signed = standard(secret=written_out)

    assert STANDARD.secret_problem(secret) is None
    assert 0 == STANDARD.verify(signed, VerificationContext([secret], NOW))


@each(
    "secret",
    ["", "whsec_", "whsec_====", "whsec_a", "whsec_äöü", "whsec_ab cd", "whsec_ab-_", "my secret phrase",
     "whsec_whsec_",
     "whpk_dGVzdA==", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "\udcff"],
    ids=label,
)  # fmt: skip
def test_the_problem_of_a_secret_is_a_rule_without_the_secret(secret: str) -> None:
    rule = STANDARD.secret_problem(secret)

    assert rule is not None
    assert rule.startswith("must ")
    assert not secret.removeprefix("whsec_").strip("=") or secret not in rule


@each("name", ["calendly", "calcom", "acuity", "square", "jobber", "housecallpro"])
def test_a_text_secret_may_be_any_text_of_the_minimum_length(name: str) -> None:
    assert declared(name).secret_problem("Zoë's secret: 100 %") is None
    assert str(declared(name).secret_problem("x1")).startswith("must have ")


def test_a_text_secret_must_be_valid_unicode() -> None:
    """Python decodes an environment that is not UTF-8 into lone surrogates."""
    rule = declared("calendly").secret_problem("caf\udce9")

    assert rule is not None
    assert "base64" not in rule


def test_a_secret_beyond_ascii_signs_with_its_utf8() -> None:
    signed = listed(b"1790000000", secret="clé-secrète")

    assert 0 == LISTED.verify(signed, VerificationContext(["clé-secrète"], NOW))
