"""What every source declares."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from app.webhooks.registry import load_specimens
from tests.support.specimens import BY_TOOL, TOOLS, _changes, each_tool

every_source = pytest.mark.parametrize("name", TOOLS)


def told_changes(name: str) -> list[dict[str, Any]]:
    return [change for found in BY_TOOL[name] if isinstance(found.expect, list) for change in found.expect]


@every_source
def test_every_source_comes_with_its_specimens(name: str) -> None:
    recorded = load_specimens(name)

    signature = TOOLS[name].definition.signature
    needed = {"secret", "signed_with", "deliveries"}
    needed |= {"public_url"} if signature.needs_url else set()
    needed |= {"secret_key"} if signature.needs_secret_key else set()
    missing = needed - recorded.keys()
    assert not missing, f"app/sources/{name}.json lacks {sorted(missing)}, beside its deliveries"
    assert len(recorded["deliveries"]) >= 5, (
        "fewer than five specimens: book, move, cancel, ignore, whatever the tool can say"
    )


@every_source
def test_every_source_says_what_it_is_and_how_to_connect_it(name: str) -> None:
    source = TOOLS[name].definition

    assert source.title.strip()
    assert source.docs.startswith("https://")
    assert source.setup.strip().startswith("1. "), "the setup is a list of steps"
    assert "{url}" in source.setup, "the setup says where {url} is to be pasted"
    assert f"HOOKS__{name.upper()}__SECRETS" in source.setup, "the setup says what the secret is"
    for need in source.required_settings:
        assert f"HOOKS__{name.upper()}__{need}" in source.setup, f"the setup does not say how to set {need}"
    assert "SECRET_KEY" in source.setup or not source.signature.needs_secret_key
    assert "PUBLIC_URL" in source.setup or not source.signature.needs_url


@every_source
def test_the_name_of_a_source_begins_with_a_letter_as_every_external_id_must(name: str) -> None:
    assert re.fullmatch("[a-z][a-z0-9_]{1,30}", name)


@each_tool
def test_the_names_of_specimens_are_told_apart(name: str) -> None:
    names = [specimen.recorded["name"] for specimen in BY_TOOL[name]]

    assert sorted(set(names)) == sorted(names)


@each_tool
def test_some_specimen_is_ignored_because_tools_ring_about_other_things_too(name: str) -> None:
    ignored = [found for found in BY_TOOL[name] if isinstance(found.expect, dict) and "ignored" in found.expect]

    assert ignored, 'no specimen expects {"ignored": …}: what does the tool ring about that is no visit?'


@each_tool
def test_a_booking_and_its_end_are_about_the_same_visit(name: str) -> None:
    said = told_changes(name)
    ended = {_visit(change) for change in said if _is_over(change)}
    booked = {_visit(change) for change in said if change["action"] != "cancel" and _is_dated(change)}

    assert booked or all("external_id_override" in change for change in said), "no specimen books a visit"
    assert ended & booked or not ended, "none of the visits that are cancelled here is one that is booked here"


def _is_dated(change: Mapping[str, Any]) -> bool:
    return bool(change.get("time_scheduled") or change.get("time_completed"))


def _visit(change: Mapping[str, Any]) -> str:
    return str(change.get("visit_id") or change.get("external_id_override"))


@each_tool
def test_a_cancel_says_when(name: str) -> None:
    silent = [change for change in told_changes(name) if change["action"] == "cancel" and not _is_over(change)]

    assert [] == silent


def _is_over(change: Mapping[str, Any]) -> bool:
    return bool(change.get("date_cancelled") or change.get("no_show") or change.get("date_left"))


@each_tool
def test_changes_of_one_source_are_ordered_by_times_or_by_versions_and_never_by_both(name: str) -> None:
    a_day_of_1971 = 31_536_000_000_000  # microseconds; no tool counts its versions so far

    orders = [change.version for found in BY_TOOL[name] for change in _changes(found)]

    assert 1 == len({order > a_day_of_1971 for order in orders}), (
        f"orders that are no microseconds: {sorted(orders)[:5]}"
    )
