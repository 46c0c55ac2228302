"""`doorbell specimen sign`: signatures and expected changes for the specimens of a source."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.cli import main
from app.webhooks import registry
from app.webhooks.registry import load_specimens
from tests.support.specimens import Specimen, each_tool, signed

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="a fresh machine may lack the openssl command")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder from which the specimens are read, and to which they are written."""
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    return tmp_path


def write(folder: Path, name: str, specimens: dict[str, Any]) -> Path:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(specimens, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def without_signature(specimen: Specimen) -> dict[str, Any]:
    """Return the recorded delivery without the header of its signature, and without `expect`."""
    header = next(iter(specimen.tool.definition.signature.sign(specimen.delivery, specimen.sender_context())), "")
    headers = {name: value for name, value in specimen.recorded["headers"].items() if name.lower() != header.lower()}
    recorded = {**specimen.recorded, "headers": headers}
    if not specimen.is_answered:
        del recorded["expect"]
    return recorded


@each_tool
def test_signatures_and_expected_changes_are_made_anew(folder: Path, name: str) -> None:
    specimens = signed(name)[:4]
    if not specimens:
        pytest.skip("no specimen has a signature that the module accepts: test_signatures.py says so")
    file = write(folder, name, {**specimens[0].file, "deliveries": [without_signature(each) for each in specimens]})

    result = CliRunner().invoke(main, ["specimen", "sign", name])

    assert 0 == result.exit_code, result.output
    completed = json.loads(file.read_text("utf-8"))["deliveries"]
    for made, specimen in zip(completed, specimens, strict=True):
        assert specimen.recorded["expect"] == _without_version(made, specimen.recorded)
    assert load_specimens(name)["deliveries"] == completed


def _without_version(completed: dict[str, Any], recorded: dict[str, Any]) -> Any:
    """Return the proposal, without versions that the recorded changes leave out."""
    if not isinstance(completed["expect"], list):
        return completed["expect"]
    return [
        {key: value for key, value in change.items() if key != "version" or "version" in expected}
        for change, expected in zip(completed["expect"], recorded["expect"], strict=True)
    ]


def test_signatures_that_are_valid_stay_and_nothing_is_written(folder: Path) -> None:
    [first, *_] = signed("calendly")
    file = write(folder, "calendly", {**first.file, "deliveries": [dict(first.recorded)]})
    before = file.stat().st_mtime_ns

    result = CliRunner().invoke(main, ["specimen", "sign", "calendly"])

    assert (0, "nothing is missing\n", before) == (result.exit_code, result.output, file.stat().st_mtime_ns)


def test_a_wrong_signature_is_replaced(folder: Path) -> None:
    [first, *_] = signed("calendly")
    headers = {**first.recorded["headers"], "Calendly-Webhook-Signature": "t=1,v1=abc"}
    file = write(folder, "calendly", {**first.file, "deliveries": [{**first.recorded, "headers": headers}]})

    shown = CliRunner().invoke(main, ["specimen", "sign", "calendly", "--dry-run"])
    assert "t=1,v1=abc" in file.read_text()
    CliRunner().invoke(main, ["specimen", "sign", "calendly"])

    # made by `printf '%s' "1790000005.$BODY" | openssl dgst -sha256 -hmac calendly-test-signing-key-0001`
    assert "1 an invitee books and pays: Calendly-Webhook-Signature is t=1790000005,v1=" in shown.output
    assert "t=1790000005,v1=" in file.read_text()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"signed_with": "echo deadbeef"}, "signed_with gives deadbeef, and the scheme of the module t=1790000005,v1="),
        ({"signed_with": "exit 1"}, "signed_with fails: it prints nothing"),
        ({"signed_with": ""}, "the file has no signed_with, the shell command that makes the signature"),
        ({"secret": ""}, "the file has no secret"),
    ],
)
def test_what_only_the_author_can_add_is_a_sentence(folder: Path, change: dict[str, Any], sentence: str) -> None:
    [first, *_] = signed("calendly")
    file = write(folder, "calendly", {**first.file, **change, "deliveries": [without_signature(first)]})
    before = file.read_text()

    result = CliRunner().invoke(main, ["specimen", "sign", "calendly"])

    assert (3, before) == (result.exit_code, file.read_text())
    assert result.output.startswith(f"1 an invitee books and pays: {sentence}")
    assert result.output.endswith("; the file was not changed\n")


def test_a_source_that_fetches_says_which_records_are_missing(folder: Path) -> None:
    [first, *_] = signed("acuity")
    recorded = {name: value for name, value in without_signature(first).items() if name != "records"}
    write(folder, "acuity", {**first.file, "deliveries": [recorded]})

    result = CliRunner().invoke(main, ["specimen", "sign", "acuity"])

    assert 3 == result.exit_code
    assert "add the responses of the tool to `records`: appointments/123456789" in result.output
