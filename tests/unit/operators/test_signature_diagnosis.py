"""Diagnoses of invalid signatures. openssl signs every case, so that the expected values have another origin."""

import base64
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner

from app.cli import main
from app.operators.signature_diagnosis import Diagnosis, diagnose
from app.settings.environment import read_environment
from app.webhooks.delivery import Delivery
from tests.support.cases import each

NOW = 1_772_442_000
BODY = (
    '{"triggerEvent":"BOOKING_CREATED","payload":{"title":"Zoë\'s cut","price":4500,"url":"https://x.example.com/a"}}'
)
SECRETS = {
    "HOOKS__CALCOM__SECRETS": "older-secret newer-secret",
    "HOOKS__EAST__SOURCE": "calcom",
    "HOOKS__EAST__SECRETS": "secret-of-the-east",
    "HOOKS__CALENDLY__SECRETS": "calendly-signing-key",
    "HOOKS__SQUARE__SECRETS": "square-signature-key",
    "HOOKS__STANDARD__SECRETS": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "PUBLIC_URL": "https://bell.example.com",
}
PLAIN = [secret for name, line in SECRETS.items() if name.endswith("SECRETS") for secret in line.split()]


def openssl(key: bytes, message: bytes) -> bytes:
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    return subprocess.run(command, input=message, capture_output=True, check=True).stdout


def diagnose_delivery(hook: str, raw: bytes, headers: dict[str, str], query: bytes = b"", **env: str) -> Diagnosis:
    settings = read_environment({**SECRETS, **env}, redis_needed=False)
    lines = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
    configured = settings.active_hooks[hook]
    delivery = Delivery(hook, configured.source.name, lines, raw, datetime.fromtimestamp(NOW, UTC), query=query)
    return diagnose(settings, configured, delivery, NOW)


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [finding.kind for finding in diagnosis.findings]


def summaries(diagnosis: Diagnosis) -> str:
    return " ".join(finding.summary for finding in diagnosis.findings)


def calcom(raw: bytes, key: bytes = b"newer-secret") -> dict[str, str]:
    return {"X-Cal-Signature-256": openssl(key, raw).hex()}


def calendly(raw: bytes, signed_at: float) -> dict[str, str]:
    signature = openssl(b"calendly-signing-key", f"{signed_at:.0f}.".encode() + raw).hex()
    return {"Calendly-Webhook-Signature": f"t={signed_at:.0f},v1={signature}"}


def square(raw: bytes, url: str) -> dict[str, str]:
    signature = base64.b64encode(openssl(b"square-signature-key", url.encode() + raw)).decode()
    return {"x-square-hmacsha256-signature": signature}


def test_a_valid_signature_has_the_number_of_its_secret() -> None:
    diagnosis = diagnose_delivery("calcom", BODY.encode(), calcom(BODY.encode()))

    assert (True, 2, ()) == (diagnosis.is_valid, diagnosis.secret_number, diagnosis.findings)


@each(
    ("expected", "body"),
    [
        ("without the trailing newline", BODY + "\n"),
        ("without the trailing newline", BODY + "\r\n"),
        ("compacted", json.dumps(json.loads(BODY), ensure_ascii=False)),
        ("compacted", json.dumps(json.loads(BODY), indent=2)),
        ("compacted", json.dumps(json.loads(BODY), separators=(",", ":"))),  # \u00eb for ë
        ("BOM", "\ufeff" + BODY),
    ],
)
def test_a_reformatted_body_is_diagnosed(expected: str, body: str) -> None:
    diagnosis = diagnose_delivery("calcom", body.encode(), calcom(BODY.encode()))

    assert (False, ["body"], 2) == (diagnosis.is_valid, kinds(diagnosis), diagnosis.secret_number)
    assert expected in summaries(diagnosis)


@each(
    ("expected", "signed_body"),
    [
        ("with spaces after", json.dumps(json.loads(BODY), ensure_ascii=False)),
        ("indented by two spaces", json.dumps(json.loads(BODY), ensure_ascii=False, indent=2)),
        ("with \\u…", json.dumps(json.loads(BODY), separators=(",", ":"))),
        ("with `/` as `\\/`", BODY.replace("/", "\\/")),
        ("with a trailing newline", BODY + "\n"),
    ],
)
def test_a_compacted_body_is_diagnosed(expected: str, signed_body: str) -> None:
    diagnosis = diagnose_delivery("calcom", BODY.encode(), calcom(signed_body.encode()))

    assert (False, ["body"]) == (diagnosis.is_valid, kinds(diagnosis))
    assert expected in summaries(diagnosis)


def test_the_secret_of_another_hook_is_diagnosed_with_the_hook() -> None:
    diagnosis = diagnose_delivery("calcom", BODY.encode(), calcom(BODY.encode(), b"secret-of-the-east"))

    assert (False, ["secret"], None) == (diagnosis.is_valid, kinds(diagnosis), diagnosis.secret_number)
    assert "hook east" in summaries(diagnosis)


@each("secret", ["'newer-secret' older-secret", 'older-secret "newer-secret"', "whsec_newer-secret"])
def test_a_secret_with_extra_characters_is_diagnosed(secret: str) -> None:
    diagnosis = diagnose_delivery("calcom", BODY.encode(), calcom(BODY.encode()), HOOKS__CALCOM__SECRETS=secret)

    assert (False, ["secret"]) == (diagnosis.is_valid, kinds(diagnosis))


def test_a_wrong_encoding_of_the_signature_is_diagnosed() -> None:
    raw, url = BODY.encode(), "https://bell.example.com/hooks/square"
    in_hex = openssl(b"square-signature-key", url.encode() + raw).hex()
    in_base64 = base64.b64encode(openssl(b"newer-secret", raw)).decode()

    for hook, header, value in (
        ("square", "x-square-hmacsha256-signature", in_hex),
        ("calcom", "x-cal-signature-256", in_base64),
        ("calcom", "x-cal-signature-256", openssl(b"newer-secret", raw).hex().upper()),
        ("calcom", "x-cal-signature-256", f"sha256={openssl(b'newer-secret', raw).hex()}"),
    ):
        diagnosis = diagnose_delivery(hook, raw, {header: value})
        assert (False, ["encoding"]) == (diagnosis.is_valid, kinds(diagnosis)), value
        assert header in summaries(diagnosis)


@each(
    ("expected", "signed"),
    [
        ("http:", "http://bell.example.com/hooks/square"),
        ("a trailing /", "https://bell.example.com/hooks/square/"),
        ("the port 443", "https://bell.example.com:443/hooks/square"),
        ("at www.example.com", "https://www.example.com/hooks/square"),
    ],
)
def test_another_spelling_of_the_url_is_diagnosed(expected: str, signed: str) -> None:
    diagnosis = diagnose_delivery("square", BODY.encode(), square(BODY.encode(), signed) | {"Host": "www.example.com"})

    assert (False, ["url"]) == (diagnosis.is_valid, kinds(diagnosis))
    assert expected in summaries(diagnosis)


def test_a_query_that_the_tool_did_not_sign_is_diagnosed() -> None:
    headers = square(BODY.encode(), "https://bell.example.com/hooks/square")

    diagnosis = diagnose_delivery("square", BODY.encode(), headers, query=b"via=proxy")

    assert (False, ["url"]) == (diagnosis.is_valid, kinds(diagnosis))
    assert "without the query" in summaries(diagnosis)


def test_verify_reads_the_query_from_the_request_line(tmp_path: Path) -> None:
    [(name, signature)] = square(b"{}", "https://bell.example.com/hooks/square?shop=1").items()
    file = tmp_path / "headers.txt"

    codes = []
    for query in ("?shop=1", "?shop=2", ""):
        file.write_text(f"POST /hooks/square{query} HTTP/1.1\n{name}: {signature}\n")
        result = CliRunner().invoke(main, ["verify", "square", "--headers", str(file)], input=b"{}", env=SECRETS)
        codes.append(result.exit_code)

    assert [0, 3, 3] == codes


@each(
    ("expected", "offset_s"),
    [("12 min off", -720), ("12 min off", 720), ("used as UTC", -7_200), ("our clock is slow", 1_000)],
)
def test_a_wrong_clock_is_diagnosed_with_the_difference(expected: str, offset_s: int) -> None:
    diagnosis = diagnose_delivery("calendly", BODY.encode(), calendly(BODY.encode(), NOW + offset_s))

    assert (False, "stale", ["clock"], 1) == (
        diagnosis.is_valid,
        diagnosis.rejection[0],
        kinds(diagnosis),
        diagnosis.secret_number,
    )
    assert expected in summaries(diagnosis)


def test_two_causes_at_once_are_both_diagnosed() -> None:
    late_and_newline = diagnose_delivery("calendly", BODY.encode() + b"\n", calendly(BODY.encode(), NOW - 900))
    in_hex = openssl(b"square-signature-key", b"http://bell.example.com/hooks/square" + BODY.encode()).hex()
    url_and_hex = diagnose_delivery("square", BODY.encode(), {"x-square-hmacsha256-signature": in_hex})

    assert ["clock", "body"] == kinds(late_and_newline)
    assert {"url", "encoding"} == set(kinds(url_and_hex))


def test_a_hexadecimal_standard_webhooks_signature_is_diagnosed() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = openssl(key, f"msg_1.{NOW}.".encode() + BODY.encode())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW)}

    valid = diagnose_delivery(
        "standard", BODY.encode(), headers | {"webhook-signature": f"v1,{base64.b64encode(signature).decode()}"}
    )
    diagnosis = diagnose_delivery("standard", BODY.encode(), headers | {"webhook-signature": f"v1,{signature.hex()}"})

    assert valid.is_valid
    assert (False, ["encoding"]) == (diagnosis.is_valid, kinds(diagnosis))


@each(
    ("kind", "headers"),
    [
        ("header", {}),
        ("header", {"X-Other-Signature": "ab"}),
        ("unknown", {"X-Cal-Signature-256": "0" * 64}),
        ("unknown", {"X-Cal-Signature-256": openssl(b"unknown-secret", BODY.encode()).hex()}),
    ],
)
def test_an_unexplained_mismatch_is_diagnosed_as_unknown(kind: str, headers: dict[str, str]) -> None:
    diagnosis = diagnose_delivery("calcom", BODY.encode(), headers)

    assert (False, [kind]) == (diagnosis.is_valid, kinds(diagnosis))


def test_a_forged_body_is_diagnosed_as_unknown() -> None:
    forged = BODY.replace("4500", "1")

    assert ["unknown"] == kinds(diagnose_delivery("calcom", forged.encode(), calcom(BODY.encode())))


def test_no_diagnosis_shows_a_secret() -> None:
    raw = BODY.encode()
    diagnoses = [
        diagnose_delivery("calcom", raw, calcom(raw)),
        diagnose_delivery("calcom", raw, calcom(raw, b"secret-of-the-east")),
        diagnose_delivery("calcom", raw, calcom(raw), HOOKS__CALCOM__SECRETS="'newer-secret'"),
        diagnose_delivery("calcom", raw, {"X-Cal-Signature-256": "0" * 64}),
        diagnose_delivery("square", raw, square(raw, "http://bell.example.com/hooks/square")),
    ]

    assert [] == [secret for secret in PLAIN if secret in repr(diagnoses)]
