"""Why a signature does not hold: every case is signed by openssl, then spoilt in one way that happens."""

import base64
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from app.operators.signature_diagnosis import Diagnosis, diagnose
from app.settings.environment import read_environment
from app.webhooks.delivery import Delivery

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


def look(hook: str, raw: bytes, headers: dict[str, str], query: bytes = b"", **env: str) -> Diagnosis:
    settings = read_environment({**SECRETS, **env}, redis_needed=False)
    lines = tuple((name.lower().encode(), value.encode()) for name, value in headers.items())
    configured = settings.active_hooks[hook]
    delivery = Delivery(hook, configured.source.name, lines, raw, datetime.fromtimestamp(NOW, UTC), query=query)
    return diagnose(settings, configured, delivery, NOW)


def kinds(found: Diagnosis) -> list[str]:
    return [finding.kind for finding in found.findings]


def told(found: Diagnosis) -> str:
    return " ".join(finding.summary for finding in found.findings)


def calcom(raw: bytes, key: bytes = b"newer-secret") -> dict[str, str]:
    return {"X-Cal-Signature-256": openssl(key, raw).hex()}


def calendly(raw: bytes, at: float) -> dict[str, str]:
    signature = openssl(b"calendly-signing-key", f"{at:.0f}.".encode() + raw).hex()
    return {"Calendly-Webhook-Signature": f"t={at:.0f},v1={signature}"}


def square(raw: bytes, url: str) -> dict[str, str]:
    signature = base64.b64encode(openssl(b"square-signature-key", url.encode() + raw)).decode()
    return {"x-square-hmacsha256-signature": signature}


def test_what_holds_holds_and_the_secret_is_named_by_its_number() -> None:
    found = look("calcom", BODY.encode(), calcom(BODY.encode()))

    assert (True, 2, ()) == (found.is_valid, found.secret_number, found.findings)


@pytest.mark.parametrize(
    ("expected", "arrived"),
    [
        ("without the newline", BODY + "\n"),
        ("without the newline", BODY + "\r\n"),
        ("compacted", json.dumps(json.loads(BODY), ensure_ascii=False)),
        ("compacted", json.dumps(json.loads(BODY), indent=2)),
        ("compacted", json.dumps(json.loads(BODY), separators=(",", ":"))),  # \u00eb for ë
        ("BOM", "\ufeff" + BODY),
    ],
)
def test_a_body_that_was_written_anew_is_found(expected: str, arrived: str) -> None:
    found = look("calcom", arrived.encode(), calcom(BODY.encode()))

    assert (False, ["body"], 2) == (found.is_valid, kinds(found), found.secret_number)
    assert expected in told(found)


@pytest.mark.parametrize(
    ("expected", "sent"),
    [
        ("with spaces after", json.dumps(json.loads(BODY), ensure_ascii=False)),
        ("laid out by two spaces", json.dumps(json.loads(BODY), ensure_ascii=False, indent=2)),
        ("with \\u…", json.dumps(json.loads(BODY), separators=(",", ":"))),
        ("with `/` as `\\/`", BODY.replace("/", "\\/")),
        ("with a newline at its end", BODY + "\n"),
    ],
)
def test_a_body_that_was_compacted_on_the_way_is_found(expected: str, sent: str) -> None:
    found = look("calcom", BODY.encode(), calcom(sent.encode()))

    assert (False, ["body"]) == (found.is_valid, kinds(found))
    assert expected in told(found)


def test_the_secret_of_another_hook_is_found_and_named() -> None:
    found = look("calcom", BODY.encode(), calcom(BODY.encode(), b"secret-of-the-east"))

    assert (False, ["secret"], None) == (found.is_valid, kinds(found), found.secret_number)
    assert "hook east" in told(found)


@pytest.mark.parametrize("is_set", ["'newer-secret'", '"newer-secret"', "whsec_newer-secret"])
def test_a_secret_that_was_pasted_with_more_than_itself_is_found(is_set: str) -> None:
    found = look("calcom", BODY.encode(), calcom(BODY.encode()), HOOKS__CALCOM__SECRETS=is_set)

    assert (False, ["secret"]) == (found.is_valid, kinds(found))


def test_hexadecimal_in_the_place_of_base64_is_found_and_the_other_way_round() -> None:
    raw, url = BODY.encode(), "https://bell.example.com/hooks/square"
    in_hex = openssl(b"square-signature-key", url.encode() + raw).hex()
    in_base64 = base64.b64encode(openssl(b"newer-secret", raw)).decode()

    for hook, header, value in (
        ("square", "x-square-hmacsha256-signature", in_hex),
        ("calcom", "x-cal-signature-256", in_base64),
        ("calcom", "x-cal-signature-256", openssl(b"newer-secret", raw).hex().upper()),
        ("calcom", "x-cal-signature-256", f"sha256={openssl(b'newer-secret', raw).hex()}"),
    ):
        found = look(hook, raw, {header: value})
        assert (False, ["encoding"]) == (found.is_valid, kinds(found)), value
        assert header in told(found)


@pytest.mark.parametrize(
    ("expected", "signed"),
    [
        ("http:", "http://bell.example.com/hooks/square"),
        ("a / at its end", "https://bell.example.com/hooks/square/"),
        ("the port 443", "https://bell.example.com:443/hooks/square"),
        ("at www.example.com", "https://www.example.com/hooks/square"),
    ],
)
def test_another_spelling_of_our_address_is_found(expected: str, signed: str) -> None:
    found = look("square", BODY.encode(), square(BODY.encode(), signed) | {"Host": "www.example.com"})

    assert (False, ["url"]) == (found.is_valid, kinds(found))
    assert expected in told(found)


def test_a_query_that_the_tool_did_not_sign_is_found() -> None:
    headers = square(BODY.encode(), "https://bell.example.com/hooks/square")

    found = look("square", BODY.encode(), headers, query=b"via=proxy")

    assert (False, ["url"]) == (found.is_valid, kinds(found))
    assert "without what is behind its `?`" in told(found)


def test_what_is_behind_the_address_is_read_from_the_line_of_the_request(tmp_path: Path) -> None:
    [(name, signature)] = square(b"{}", "https://bell.example.com/hooks/square?shop=1").items()
    file = tmp_path / "headers.txt"

    codes = []
    for asked in ("?shop=1", "?shop=2", ""):
        file.write_text(f"POST /hooks/square{asked} HTTP/1.1\n{name}: {signature}\n")
        ran = CliRunner().invoke(main, ["verify", "square", "--headers", str(file)], input=b"{}", env=SECRETS)
        codes.append(ran.exit_code)

    assert [0, 3, 3] == codes


@pytest.mark.parametrize(
    ("expected", "off_s"),
    [("12 min off", -720), ("12 min off", 720), ("taken for UTC", -7_200), ("our clock is slow", 1_000)],
)
def test_a_clock_that_is_off_is_told_by_how_much(expected: str, off_s: int) -> None:
    found = look("calendly", BODY.encode(), calendly(BODY.encode(), NOW + off_s))

    assert (False, "stale", ["clock"], 1) == (found.is_valid, found.rejection[0], kinds(found), found.secret_number)
    assert expected in told(found)


def test_two_things_at_once_are_both_told() -> None:
    late_and_newline = look("calendly", BODY.encode() + b"\n", calendly(BODY.encode(), NOW - 900))
    in_hex = openssl(b"square-signature-key", b"http://bell.example.com/hooks/square" + BODY.encode()).hex()
    url_and_hex = look("square", BODY.encode(), {"x-square-hmacsha256-signature": in_hex})

    assert ["clock", "body"] == kinds(late_and_newline)
    assert {"url", "encoding"} == set(kinds(url_and_hex))


def test_standard_webhooks_in_hexadecimal_is_found() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = openssl(key, f"msg_1.{NOW}.".encode() + BODY.encode())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW)}

    right = look(
        "standard", BODY.encode(), headers | {"webhook-signature": f"v1,{base64.b64encode(signature).decode()}"}
    )
    found = look("standard", BODY.encode(), headers | {"webhook-signature": f"v1,{signature.hex()}"})

    assert right.is_valid
    assert (False, ["encoding"]) == (found.is_valid, kinds(found))


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("header", {}),
        ("header", {"X-Other-Signature": "ab"}),
        ("unknown", {"X-Cal-Signature-256": "0" * 64}),
        ("unknown", {"X-Cal-Signature-256": openssl(b"nobodys", BODY.encode()).hex()}),
    ],
)
def test_what_is_wrong_in_no_known_way_is_said_to_be_unknown(kind: str, headers: dict[str, str]) -> None:
    found = look("calcom", BODY.encode(), headers)

    assert (False, [kind]) == (found.is_valid, kinds(found))


def test_another_body_is_never_explained_away() -> None:
    forged = BODY.replace("4500", "1")

    assert ["unknown"] == kinds(look("calcom", forged.encode(), calcom(BODY.encode())))


def test_no_diagnosis_shows_a_secret() -> None:
    raw = BODY.encode()
    all_found = [
        look("calcom", raw, calcom(raw)),
        look("calcom", raw, calcom(raw, b"secret-of-the-east")),
        look("calcom", raw, calcom(raw), HOOKS__CALCOM__SECRETS="'newer-secret'"),
        look("calcom", raw, {"X-Cal-Signature-256": "0" * 64}),
        look("square", raw, square(raw, "http://bell.example.com/hooks/square")),
    ]

    assert [] == [secret for secret in PLAIN if secret in repr(all_found)]
