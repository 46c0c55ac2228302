"""The README and docs/ are true: the example source works, the tables of settings and commands are complete."""

import importlib.util
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click import Context
from click.testing import CliRunner

from app.cli import main
from app.settings.model import Hook, Settings
from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.registry import load
from app.webhooks.signatures.scheme import SignatureError, Terms
from app.webhooks.source import VERIFIED_BY

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = {
    kind: re.findall(rf"```{kind}\n(.*?)```", PAGES["adding-a-source.md"], re.DOTALL) for kind in ("python", "json")
}
#: A command at the start of a line, of an example or of a code span, on any page.
COMMANDS = set(re.findall(r"(?:^|\$ |`)doorbell ([a-z-]+)", "\n".join(PAGES.values()), re.MULTILINE))


@pytest.fixture
def tidybook(tmp_path: Path) -> Any:
    """The example source of docs/adding-a-source.md, imported."""
    (tmp_path / "tidybook.py").write_text(BLOCKS["python"][0])
    spec = importlib.util.spec_from_file_location("tidybook", tmp_path / "tidybook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def delivery_of(recorded: dict[str, Any]) -> Delivery:
    headers = tuple((name.lower().encode(), value.encode()) for name, value in recorded["headers"].items())
    return Delivery("tidybook", "tidybook", headers, recorded["body"].encode(), datetime.now(UTC))


def test_the_example_source_translates_its_specimen_into_the_expected_change(tidybook: Any) -> None:
    specimens = json.loads(BLOCKS["json"][0])
    recorded = specimens["deliveries"][0]
    delivery = delivery_of(recorded)

    tidybook.SOURCE.signature.verify(delivery, Terms([specimens["secret"]], now=0))
    event = Event("tidybook", parse_body(delivery, "json"), delivery.received_at)
    [change] = tidybook.translate(event)

    expected = recorded["expect"][0]
    assert expected["action"] == change.action
    assert expected["visit_id"] == change.visit_id
    assert expected["contact"] == change.contact.details()
    assert {"time_scheduled": "2026-03-09T13:00:00Z", "date_cancelled": None} == change.facts()


def test_the_example_source_refuses_another_body(tidybook: Any) -> None:
    specimens = json.loads(BLOCKS["json"][0])
    recorded = specimens["deliveries"][0]
    forged = delivery_of(recorded | {"body": recorded["body"].replace("4711", "4712")})

    with pytest.raises(SignatureError):
        tidybook.SOURCE.signature.verify(forged, Terms([specimens["secret"]], now=0))


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields if name != "hooks"])
def test_every_setting_is_in_the_table_of_settings(name: str) -> None:
    assert f"`{name}`" in PAGES["settings.md"]


@pytest.mark.parametrize("name", [name.upper() for name in Hook.model_fields])
def test_every_setting_of_a_hook_is_in_the_table_of_settings(name: str) -> None:
    assert re.search(rf"`(HOOKS__<NAME>|…)__{name}", PAGES["settings.md"])


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_that_a_page_shows_exists(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])

    assert 0 == result.exit_code


def test_every_command_is_in_the_table_of_commands() -> None:
    table = "\n".join(row for row in PAGES["cli.md"].splitlines() if row.startswith("| `"))

    assert [] == [name for name in main.list_commands(Context(main)) if f"`doorbell {name}" not in table]


def test_there_are_commands_to_check() -> None:
    assert {"demo", "doctor", "failures", "replay", "ring"} <= COMMANDS


def test_the_readme_says_who_verified_each_source() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", README, re.MULTILINE))

    for tool in load().values():
        assert tool.source.title in rows[VERIFIED_BY[tool.source.evidence]].split(", ")
