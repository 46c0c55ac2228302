"""Tests of the declarations and specimens of every source."""

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from app.operators.setup_steps import setup_steps, with_field_names
from app.webhooks.registry import load_specimens
from tests.support.cases import each
from tests.support.specimens import BY_TOOL, TOOLS, UNREADABLE, _changes, each_tool

every_source = each("name", TOOLS)


def expected_changes(name: str) -> list[dict[str, Any]]:
    return [change for specimen in BY_TOOL[name] if isinstance(specimen.expect, list) for change in specimen.expect]


@every_source
def test_a_source_has_specimens(name: str) -> None:
    assert name not in UNREADABLE, UNREADABLE[name]
    recorded = load_specimens(name)

    signature = TOOLS[name].definition.signature
    required = {"secret", "signed_with", "deliveries"}
    required |= {"public_url"} if signature.needs_url else set()
    required |= {"secret_key"} if signature.needs_secret_key else set()
    missing = required - recorded.keys()
    assert not missing, f"app/sources/{name}.json lacks {sorted(missing)}"
    assert len(recorded["deliveries"]) >= 5, (
        "fewer than five specimens: add a booking, a move, a cancel, an ignored event, …"
    )


@every_source
def test_a_source_has_a_title_docs_and_setup_steps(name: str) -> None:
    source = TOOLS[name].definition

    assert source.title.strip()
    assert source.docs.startswith("https://")
    assert source.setup.strip().startswith("1. "), "the setup is a list of steps"
    assert "{url}" in source.setup, "the setup says where to paste {url}"
    assert f"HOOKS__{name.upper()}__SECRETS" in source.setup, "the setup says what the secret is"
    for setting in source.required_settings:
        assert f"HOOKS__{name.upper()}__{setting}" in source.setup, f"the setup does not say how to set {setting}"
    [step, *_] = [step for step in re.split(r"(?m)^\d\. ", source.setup) if f"HOOKS__{name.upper()}__SECRETS" in step]
    is_made_up = "make up" in step.lower() or "that you choose" in step
    assert is_made_up == source.is_secret_user_chosen, "the setup says who makes up the secret"
    assert "SECRET_KEY" in source.setup or not source.signature.needs_secret_key
    assert "PUBLIC_URL" in source.setup or not source.signature.needs_url


@every_source
def test_the_help_for_credentials_names_credentials_and_is_made_of_sentences(name: str) -> None:
    source = TOOLS[name].definition

    assert set(source.credential_help) <= set(source.credential_names)
    for title, place in source.credential_help.values():
        assert title.strip(".") == title != ""
        assert place.endswith((".", ":"))


@each("name", [name for name, source in TOOLS.items() if source.subscription is None])
def test_the_steps_in_the_console_name_fields_and_no_variables(name: str) -> None:
    url = "https://doorbell.example.com/hooks/east"
    steps = with_field_names(setup_steps(TOOLS[name], "east", url), TOOLS[name], "east", url)

    text = " ".join(step.text for step in steps)
    assert url in text
    assert not re.search(r"HOOKS__|…__|SECRET_KEY|PUBLIC_URL|doorbell connect|[Rr]estart\b", text)


@every_source
def test_the_steps_of_another_hook_name_it_in_commands_and_its_own_variables(name: str) -> None:
    steps = TOOLS[name].setup_for("east_2", "https://doorbell.example.com/hooks/east_2")

    connects = re.findall(r"`doorbell connect ([^`]+)`", steps)
    assert [] == [command for command in connects if not command.startswith(f"{name} --hook east_2")]
    assert f"HOOKS__{name.upper()}__" not in steps
    assert "{hook}" not in steps


def test_subscriptions_of_two_servicem8_hooks_do_not_replace_each_other() -> None:
    first, second = (TOOLS["servicem8"].setup_for(hook, "https://doorbell.example.com") for hook in ("east", "west"))

    assert ("unique_id=doorbell-east-$event" in first, "unique_id=doorbell-west-$event" in second) == (True, True)


@every_source
def test_every_credential_that_connects_a_tool_has_help(name: str) -> None:
    source = TOOLS[name].definition

    assert [] == [each for each in source.missing_credentials({}) if each not in source.credential_help]


@each("name", [name for name, tool in TOOLS.items() if tool.oauth])
def test_a_log_in_uses_https_and_the_token_endpoint_of_the_source(name: str) -> None:
    oauth, definition = TOOLS[name].oauth, TOOLS[name].definition

    assert oauth
    assert all(url.startswith("https://") for url in (oauth.docs, oauth.authorize_url, oauth.token_url))
    assert definition.token_exchange is None or oauth.token_url == definition.token_exchange.url
    assert definition.credentials
    assert "TOKEN" in definition.credentials.names


@every_source
def test_the_steps_are_numbered_and_their_commands_are_valid(name: str) -> None:
    steps = setup_steps(TOOLS[name], "east", "https://doorbell.example.com/hooks/east")

    numbers = [step.number for step in steps if step.number]
    assert list(range(1, len(numbers) + 1)) == numbers
    assert [] == [step.text for step in steps if "$ " in step.text or "{url}" in step.text or "\n" in step.text]
    for command in (command for step in steps for command in step.commands):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        for body in re.findall(r"-d '(\{.*\})'", command, re.DOTALL):
            assert json.loads(body.replace("'$event'", "an event"))


@every_source
def test_the_name_of_a_source_is_a_valid_prefix_of_external_ids(name: str) -> None:
    assert re.fullmatch("[a-z][a-z0-9_]{1,30}", name)


@each_tool
def test_the_names_of_specimens_are_unique(name: str) -> None:
    names = [specimen.recorded["name"] for specimen in BY_TOOL[name]]

    assert sorted(set(names)) == sorted(names)


@each_tool
def test_a_source_has_an_ignored_specimen(name: str) -> None:
    ignored = [
        specimen for specimen in BY_TOOL[name] if isinstance(specimen.expect, dict) and "ignored" in specimen.expect
    ]

    assert ignored, 'no specimen expects {"ignored": …}: add an event that is irrelevant to visits'


@each_tool
def test_a_cancelled_visit_is_a_booked_visit(name: str) -> None:
    changes = expected_changes(name)
    cancelled_ids = {_visit(change) for change in changes if _is_cancelled(change)}
    booked_ids = {_visit(change) for change in changes if change["action"] != "cancel" and _is_dated(change)}

    assert booked_ids or all("external_id_override" in change for change in changes), "no specimen books a visit"
    assert cancelled_ids & booked_ids or not cancelled_ids, "no specimen cancels a visit that another one books"


def _is_dated(change: Mapping[str, Any]) -> bool:
    return bool(change.get("time_scheduled") or change.get("time_completed"))


def _visit(change: Mapping[str, Any]) -> str:
    return str(change.get("visit_id") or change.get("external_id_override"))


@each_tool
def test_a_cancel_has_a_time(name: str) -> None:
    without_time = [
        change for change in expected_changes(name) if change["action"] == "cancel" and not _is_cancelled(change)
    ]

    assert [] == without_time


def _is_cancelled(change: Mapping[str, Any]) -> bool:
    return bool(change.get("date_cancelled") or change.get("no_show") or change.get("date_left"))


@each_tool
def test_the_changes_of_a_source_have_either_times_or_versions(name: str) -> None:
    one_year_us = 31_536_000_000_000  # in microseconds; version numbers are smaller

    versions = [change.version for specimen in BY_TOOL[name] for change in _changes(specimen)]

    assert 1 == len({version > one_year_us for version in versions}), (
        f"versions that are not microseconds: {sorted(versions)[:5]}"
    )
