"""The pages agree with the code: examples work, tables are complete, and every file, command and link exists."""

import importlib.util
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click import Context
from click.testing import CliRunner

from app.cli import main
from app.cli.docs import update
from app.connections.docs import API_COLUMNS, update_page, update_readme
from app.connections.docs import update_glossary as update_states
from app.ledger.docs import page as redis_page
from app.ledger.docs import update_glossary
from app.ledger.docs import update_runbook as update_reasons
from app.ledger.reasons import REASONS
from app.operators.filter import TASK_STATES
from app.operators.setup_steps import capabilities
from app.settings.environment import COMMON_VARIABLES
from app.settings.model import HookSettings, OAuthApp, Settings
from app.telemetry.alert_rules import rules_file, update_runbook
from app.telemetry.metric_names import METRICS
from app.webhooks.delivery import Delivery, Event, parse_body
from app.webhooks.evidence import VERIFIED_BY, Evidence
from app.webhooks.registry import load_sources, load_specimens
from app.webhooks.signatures.scheme import SignatureError, VerificationContext
from tests.architecture.test_layers import LEVELS
from tests.support.cases import each

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
PATHS = {path.name: path for path in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]} | {
    f"{path.parent.name}/{path.name}": path for path in [*sorted(DOCS.glob("adr/*.md")), ROOT / "deploy" / "README.md"]
}
PAGES = {name: path.read_text() for name, path in PATHS.items()}
TEXT = "\n".join(PAGES.values())
BLOCKS = {
    kind: re.findall(rf"```{kind}\n(.*?)```", PAGES["adding-a-source.md"], re.DOTALL) for kind in ("python", "json")
}
#: The commands at the start of a line, an example or a code span, on any page.
COMMANDS = set(re.findall(r"(?:^|\$ |`)doorbell ([a-z-]+)", TEXT, re.MULTILINE))


@pytest.fixture
def tidybook(tmp_path: Path) -> Any:
    """Import the example source of docs/adding-a-source.md."""
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

    tidybook.SOURCE.signature.verify(delivery, VerificationContext([specimens["secret"]], now=0))
    event = Event("tidybook", parse_body(delivery, "json"), delivery.received_at)
    [change] = tidybook.translate(event)

    expected = recorded["expect"][0]
    assert expected["action"] == change.action
    assert expected["visit_id"] == change.visit_id
    assert expected["contact"] == change.contact.to_dict()
    assert {"time_scheduled": "2026-03-09T13:00:00Z", "date_cancelled": None} == change.facts()


def test_the_example_source_passes_the_linter() -> None:
    check = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "app/sources/tidybook.py", "-"]

    result = subprocess.run(check, input=BLOCKS["python"][0], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "All checks passed!\n" == result.stdout


def test_the_example_source_rejects_another_body(tidybook: Any) -> None:
    specimens = json.loads(BLOCKS["json"][0])
    recorded = specimens["deliveries"][0]
    forged = delivery_of(recorded | {"body": recorded["body"].replace("4711", "4712")})

    with pytest.raises(SignatureError):
        tidybook.SOURCE.signature.verify(forged, VerificationContext([specimens["secret"]], now=0))


@each("name", [*(name.upper() for name in Settings.variables()), *COMMON_VARIABLES])
def test_every_setting_is_in_the_table_of_settings(name: str) -> None:
    assert f"`{name}`" in PAGES["settings.md"]


@each("name", [name.upper() for name in HookSettings.variables()])
def test_every_setting_of_a_hook_is_in_the_table_of_settings(name: str) -> None:
    assert re.search(rf"`(HOOKS__<NAME>|…)__{name}", PAGES["settings.md"])


@each("name", [name.upper() for name in OAuthApp.model_fields])
def test_every_setting_of_an_app_is_in_the_table_of_settings(name: str) -> None:
    assert re.search(rf"`(OAUTH__<SOURCE>|…)__{name}", PAGES["settings.md"])


@each("command", sorted(COMMANDS))
def test_every_command_that_a_page_shows_exists(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])

    assert 0 == result.exit_code


def test_the_reference_of_the_commands_is_current() -> None:
    assert PAGES["cli.md"] == update(PAGES["cli.md"]), "run `make docs`"


def test_every_command_is_in_the_table_of_commands() -> None:
    table = "\n".join(row for row in PAGES["cli.md"].splitlines() if row.startswith("| `"))

    assert [] == [name for name in main.list_commands(Context(main)) if f"`doorbell {name}" not in table]


def test_commands_are_found_on_the_pages() -> None:
    assert {"demo", "doctor", "failures", "replay", "ring"} <= COMMANDS


#: The columns of the README's table of tools, and the field of a change that shows it.
COLUMNS = {
    "cancelled": "date_cancelled",
    "completed": "time_completed",
    "no-show": "no_show",
    "money": "amount_collected",
}


def table_of_tools() -> dict[str, dict[str, str]]:
    section = README.partition("## The tools")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| ")]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def fields_in_specimens(name: str) -> set[str]:
    """Return the fields with a value in an expected change; a separate payment is `amount_collected`."""
    expected = [delivery["expect"] for delivery in load_specimens(name)["deliveries"]]
    changes = [change for result in expected if isinstance(result, list) for change in result]
    return {field.partition(" of ")[0] for change in changes for field, value in change.items() if value is not None}


def test_the_table_of_tools_has_every_source() -> None:
    assert table_of_tools().keys() == {tool.definition.title for tool in load_sources().values()}


@each("name", sorted(load_sources()))
def test_the_table_of_tools_agrees_with_the_sources(name: str) -> None:
    source = load_sources()[name].definition
    row = table_of_tools()[source.title]

    assert (source.signature.coverage, source.evidence) == (row["signed"], row["evidence"])


@each("name", sorted(load_sources()))
def test_the_table_of_tools_agrees_with_the_specimens(name: str) -> None:
    row, fields = table_of_tools()[load_sources()[name].definition.title], fields_in_specimens(name)

    assert ("time_scheduled" in fields) == (row["booked"] != "–")
    assert {column for column, field in COLUMNS.items() if field in fields} == {
        column for column in COLUMNS if row[column] != "–"
    }


WORDS = {
    "booked": "bookings",
    "cancelled": "cancellations",
    "completed": "completions",
    "no-show": "no-shows",
    "money": "amounts",
}


@each("name", sorted(load_sources()))
def test_console_and_command_line_say_the_same_about_a_tool_as_the_table(name: str) -> None:
    row = table_of_tools()[load_sources()[name].definition.title]

    assert [word for column, word in WORDS.items() if row[column] != "–"] == capabilities(name)


@each("name", sorted(load_sources()))
def test_the_table_of_tools_says_what_works_through_the_api(name: str) -> None:
    source = load_sources()[name]
    row = table_of_tools()[source.definition.title]

    declared = (source.subscription, source.subscription and source.subscription.list, source.listing)
    assert ["✓" if each else "–" for each in declared] == [row[column] for column in API_COLUMNS], "run `make docs`"


def test_the_tables_of_connections_are_generated() -> None:
    assert update_page(PAGES["connections.md"]) == PAGES["connections.md"], "run `make docs`"
    assert update_states(PAGES["glossary.md"]) == PAGES["glossary.md"], "run `make docs`"
    assert update_readme(README) == README, "run `make docs`"


@each("evidence", VERIFIED_BY)
def test_the_readme_explains_each_kind_of_evidence(evidence: Evidence) -> None:
    assert f"`{evidence}`: {VERIFIED_BY[evidence]}" in README


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


LINKS = [
    (name, link) for name, text in PAGES.items() for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link
]


@each(("name", "link"), LINKS)
def test_every_link_leads_to_a_page_and_its_heading(name: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    page = PATHS[name].parent / path if path else PATHS[name]

    assert page.is_file()
    assert not anchor or anchor in anchors(page.read_text())


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


FILES = sorted(set(re.findall(r"[` ]/?((?:app|jobs|tests|deploy)/[\w./-]*\w/?)[`:) ]", TEXT)))
MODULES = sorted(set(re.findall(r"python -m ((?:app|jobs|tests)[\w.]*\w)", TEXT)))
TARGETS = sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.MULTILINE)))


def test_redis_md_is_generated_from_the_keys_and_scripts() -> None:
    assert redis_page() == PAGES["redis.md"], "run `make docs`"


def test_alerts_yaml_and_the_runbook_are_generated_from_the_alert_rules() -> None:
    assert rules_file() == (ROOT / "deploy" / "alerts.yaml").read_text(), "run `make docs`"
    assert update_runbook(PAGES["runbook.md"]) == PAGES["runbook.md"], "run `make docs`"


@each("path", [path for path in FILES if "tidybook" not in path])
def test_every_file_that_a_page_names_exists(path: str) -> None:
    assert (ROOT / path).exists()


@each("module", MODULES)
def test_every_module_that_a_page_runs_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


@each("target", TARGETS)
def test_every_make_target_that_a_page_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_metric_that_a_page_names_exists() -> None:
    assert set(re.findall(r"`(doorbell_[a-z_]+)`", TEXT)) <= METRICS.keys()


def test_every_event_of_the_log_that_the_runbook_names_is_logged() -> None:
    code = "".join(path.read_text() for folder in ("app", "jobs") for path in (ROOT / folder).rglob("*.py"))
    events = re.findall(r"`([a-z]+_[a-z_]+(?:handled|finished|exception))`", PAGES["runbook.md"])

    assert events
    assert [] == [event for event in events if f'"{event}"' not in code]


def test_the_architecture_has_the_levels_of_the_packages() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGES["architecture.md"], re.MULTILINE))

    assert LEVELS == [
        set(re.findall(r"`((?:app\.|jobs)[a-z_]*)`", rows[str(level)])) for level in range(1, len(LEVELS) + 1)
    ]


def test_the_page_on_deployment_has_the_commands_of_the_procfile() -> None:
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, command = line.split(": ", 1)
        assert re.search(rf"^{name} +{re.escape(command.partition(' --')[0])}", PAGES["deploy.md"], re.MULTILINE)


def test_the_architecture_has_every_state_of_a_task() -> None:
    section = PAGES["architecture.md"].partition("## States of a task")[2].partition("\n## ")[0]

    assert [] == [state for state in TASK_STATES if f"`{state}`" not in section]


def test_the_tables_of_reasons_are_generated() -> None:
    assert update_glossary(PAGES["glossary.md"]) == PAGES["glossary.md"], "run `make docs`"
    assert update_reasons(PAGES["runbook.md"]) == PAGES["runbook.md"], "run `make docs`"
    assert [] == [name for name in REASONS if f"| `{name}` " not in PAGES["runbook.md"]]
