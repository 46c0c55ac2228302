"""What the README shows is true: its source works, its table of settings is whole, its commands exist."""

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

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("python", "json")}


@pytest.fixture
def tidybook(tmp_path: Path) -> Any:
    """The README's own source, imported."""
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


def test_the_readmes_source_turns_its_specimen_into_what_it_expects(tidybook: Any) -> None:
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


def test_the_readmes_source_refuses_another_body(tidybook: Any) -> None:
    specimens = json.loads(BLOCKS["json"][0])
    recorded = specimens["deliveries"][0]
    forged = delivery_of(recorded | {"body": recorded["body"].replace("4711", "4712")})

    with pytest.raises(SignatureError):
        tidybook.SOURCE.signature.verify(forged, Terms([specimens["secret"]], now=0))


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields if name != "hooks"])
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", [name.upper() for name in Hook.model_fields])
def test_every_setting_of_a_hook_is_in_the_readme(name: str) -> None:
    assert re.search(rf"`(HOOKS__<NAME>|…)__{name}", README)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`?doorbell ([a-z-]+)", README))))
def test_every_command_in_the_readme_exists(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])

    assert 0 == result.exit_code


def test_every_command_is_in_the_readme() -> None:
    table = README.partition("## The commands")[2].partition("\n## ")[0]

    assert [] == [name for name in main.list_commands(Context(main)) if f"`doorbell {name}" not in table]


def test_the_readme_says_who_verified_each_source() -> None:
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", README, re.MULTILINE))

    for tool in load().values():
        assert tool.source.title in rows[VERIFIED_BY[tool.source.evidence]].split(", ")
