"""The commands with which an engineer connects a tool: `ring`, `sources`, `secrets` and `verify`."""

import hashlib
import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import main
from app.webhooks import registry
from app.webhooks.source import InvalidSource
from tests.support.command_line import TIME, rows
from tests.support.harness import SECRET, Harness, sign_standard, standard_body, wait_until


def test_ring_sends_a_signed_specimen_and_shows_a_rejection(service: Harness) -> None:
    to = f"{service.web_server.url}/hooks/calendly"

    accepted = service.doorbell("ring", "calendly", "an invitee books", "--to", to)
    rejected = service.doorbell("ring", "calendly", "1", "--to", to, HOOKS__CALENDLY__SECRETS="another-secret-of-tests")

    assert (0, 1) == (accepted.returncode, json.loads(accepted.stdout)["changes"])
    assert (3, "signature_mismatch") == (rejected.returncode, json.loads(rejected.stdout)["error"])
    assert "an invitee books" in service.doorbell("ring", "calendly").stdout


def test_ring_shows_what_became_of_a_delivery(service: Harness) -> None:
    to = service.web_server.url

    first = service.doorbell("ring", "calendly", "an invitee books", "--to", to, "--wait")
    repeat = service.doorbell("ring", "calendly", "an invitee books", "--to", to)

    delivery = json.loads(repeat.stdout)["delivery"]
    assert (0, 0) == (first.returncode, repeat.returncode)
    assert f"✔ {delivery}  Calendly\n  Applied: " in first.stdout
    assert "calendly-INV-OLD-1  Applied" in first.stdout
    assert "it was sent before, and a repeat has no effect: --fresh sends it with new ids" in repeat.stderr
    assert f"`doorbell show {delivery}`" in repeat.stderr


def test_ring_sends_new_ids_and_the_same_ones_for_the_same_name(service: Harness) -> None:
    def visits(*options: str) -> set[str]:
        result = service.doorbell("ring", "calendly", *options, "--to", service.web_server.url)
        [row] = rows(service, "deliveries", "--search", json.loads(result.stdout)["delivery"], "--json")
        return set(row["visits"])

    booked, other = visits("an invitee books", "--fresh=lee"), visits("an invitee books", "--fresh")
    visits("the new half", "--fresh=lee")

    wait_until(lambda: service.visit(*booked)["time_scheduled"].endswith("T16:00:00Z"))
    assert datetime.now(UTC) < datetime.fromisoformat(service.visit(*booked)["time_scheduled"])
    assert booked.isdisjoint(other)
    assert {"calendly-INV-OLD-1"}.isdisjoint(booked | other)


EAST = {"HOOKS__EAST__SOURCE": "calendly", "HOOKS__EAST__SECRETS": "a-signing-key-of-the-hook-east"}


def test_ring_signs_for_the_hook_in_the_url(harness: Harness) -> None:
    url = f"{harness.start_web(**EAST).url}/hooks/east"

    assert 0 == harness.doorbell("ring", "calendly", "1", "--to", url, **EAST).returncode
    assert 3 == harness.doorbell("ring", "calendly", "1", "--to", url).returncode  # without the secret of the hook


def test_secrets_and_steps_of_a_hook_name_its_own_variables(harness: Harness) -> None:
    generated = harness.doorbell("secrets", "generate", "east", **EAST)
    steps = harness.doorbell("sources", "east", **EAST)

    assert (0, 0) == (generated.returncode, steps.returncode)
    assert "HOOKS__EAST__SECRETS" in generated.stderr
    assert [True, True, False] == [
        text in steps.stdout for text in ("HOOKS__EAST__SECRETS", "/hooks/east", "HOOKS__CALENDLY")
    ]


def test_secrets_are_listed_with_fingerprints_and_last_matches(harness: Harness) -> None:
    secrets = {"HOOKS__STANDARD__SECRETS": f"whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ= {SECRET}"}
    harness.start_web(**secrets)
    assert 202 == harness.send("visit.created", "A-1", time_scheduled=TIME).status_code
    harness.web_server.kill(signal.SIGTERM)

    result = harness.doorbell("secrets", "--json", **secrets)

    listed = {(row["hook"], row["secret"]): row for row in map(json.loads, result.stdout.splitlines())}
    assert {("standard", 1), ("standard", 2), ("calendly", 1)} == listed.keys()
    printed = harness.doorbell("secrets", "fingerprint", stdin=f"{SECRET}\n".encode(), **secrets).stdout.strip()
    assert printed == listed["standard", 2]["fingerprint"]
    assert not hashlib.sha256(SECRET.encode()).hexdigest().startswith(printed), "a plain hash could be looked up"
    assert listed["standard", 2]["last_matched"]
    assert None is listed["standard", 1]["last_matched"]
    assert SECRET not in result.stdout + result.stderr


def test_a_generated_secret_is_accepted_in_the_settings(harness: Harness) -> None:
    for source in ("standard", "calendly"):
        secret, second = [harness.doorbell("secrets", "generate", source).stdout.strip() for _ in range(2)]
        assert secret != second
        assert 0 == harness.doorbell("secrets", **{f"HOOKS__{source.upper()}__SECRETS": secret}).returncode
        assert len(secret) > 40
    for source in ("gohighlevel", "square"):  # the tool has a key pair; the tool shows its key
        refused = harness.doorbell("secrets", "generate", source)
        assert (3, "") == (refused.returncode, refused.stdout)
        assert "generates its secrets itself" in refused.stderr


def test_verify_explains_an_invalid_signature(harness: Harness, tmp_path: Path) -> None:
    raw = standard_body("visit.created", "A-1")
    file = tmp_path / "headers.txt"
    lines = [f"{name}: {value}" for name, value in sign_standard(raw).items()]
    file.write_text("\r\n".join(["POST /hooks/standard HTTP/1.1", "Host: bell.example.com", *lines, ""]))
    command = ["verify", "standard", "--headers", str(file)]

    valid = harness.doorbell_process(*command, stdin=raw)
    with_newline = harness.doorbell(*command, "--json", stdin=raw + b"\n")
    early = harness.doorbell(*command, "--at", "2020-01-01", stdin=raw)

    assert (0, "valid: secret 1 of 1") == (valid.returncode, valid.stdout[:20])
    diagnosis = json.loads(with_newline.stdout)
    assert (3, False, "body") == (with_newline.returncode, diagnosis["is_valid"], diagnosis["findings"][0]["kind"])
    assert (3, True) == (early.returncode, "\nclock: " in early.stdout)
    assert SECRET not in valid.stdout + with_newline.stdout + early.stdout
    assert 5 == harness.doorbell("verify", "square", stdin=raw).returncode
    assert 2 == harness.doorbell("verify", "standard", "--header", "no colon", stdin=raw).returncode


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(None, "app/sources/calendly.json is missing"), ("{", "app/sources/calendly.json is not valid JSON")],
    ids=["missing", "broken"],
)
def test_a_source_without_readable_specimens_is_reported_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "calendly.json").write_text(text)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)

    result = CliRunner().invoke(main, ["ring", "calendly"])

    assert 3 == result.exit_code
    assert result.output.startswith(sentence)


def test_a_module_that_cannot_be_imported_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise NameError("name 'Hmac' is not defined")

    monkeypatch.setattr(registry.importlib, "import_module", fail)

    with pytest.raises(
        InvalidSource, match=r"^app/sources/calcom\.py cannot be imported: NameError: name 'Hmac' is not"
    ):
        registry._load_source("calcom")


def test_a_module_that_is_no_source_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise InvalidSource("app/sources/fresha.py declares no SOURCE = Source(…)")

    monkeypatch.setattr("app.cli.sources.load_sources", fail)

    result = CliRunner().invoke(main, ["ring", "calendly"])

    assert (3, "app/sources/fresha.py declares no SOURCE = Source(…)\n") == (result.exit_code, result.output)
