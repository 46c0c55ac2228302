"""Specimens with new ids and dates still mean the same to their source."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.webhooks.fresh_specimens import refresh
from app.webhooks.registry import load_specimens, specimen_body
from app.webhooks.source import Ignored
from app.webhooks.specimens import find_specimen
from tests.support.cases import each
from tests.support.specimens import Specimen, each_tool, events

NOW = datetime(2031, 5, 20, 12, 0, tzinfo=UTC)
#: The tools whose specimens the demo sends, and others that people try first.
each_familiar_tool = each("source", ["acuity", "calcom", "calendly", "housecallpro", "mindbody", "square", "zoom"])


def refreshed(specimen: Specimen, name: str = "lee") -> Specimen:
    recorded = refresh(specimen.tool.name, specimen.recorded, name, NOW)
    headers = tuple((header.lower().encode(), value.encode()) for header, value in recorded["headers"].items())
    delivery = replace(
        specimen.delivery,
        body=specimen_body(recorded),
        headers=headers,
        received_at=datetime.fromisoformat(recorded["now"]),
    )
    return replace(specimen, recorded=recorded, delivery=delivery)


def meaning(specimen: Specimen) -> Any:
    translated = specimen.translate()
    return translated.reason if isinstance(translated, Ignored) else [change.action for change in translated]


@each_tool
def test_a_fresh_specimen_means_the_same(name: str) -> None:
    assert {} == {
        specimen.recorded["name"]: meaning(fresh)
        for specimen in events(name)
        if meaning(fresh := refreshed(specimen)) != meaning(specimen)
    }


@each_familiar_tool
def test_a_fresh_specimen_has_other_ids_than_the_recorded_one_and_than_one_with_another_name(source: str) -> None:
    for specimen in events(source):
        if isinstance(specimen.expect, list):
            variants = (specimen, refreshed(specimen), refreshed(specimen, "kim"))
            visits = [{change["visit_id"] for change in variant.expect} for variant in variants]
            assert sum(map(len, visits)) == len(set.union(*visits)), specimen.recorded["name"]


def changes(source: str, specimen: str) -> dict[str, Any]:
    [change] = refresh(source, find_specimen(source, specimen), "lee", NOW)["expect"]
    return dict(change)


def test_specimens_with_the_same_name_are_about_the_same_visit() -> None:
    moved, cancelled = changes("calendly", "the new half"), changes("calendly", "she cancels")

    assert moved["visit_id"] == cancelled["visit_id"]
    assert changes("calendly", "an invitee books")["visit_id"] == moved["previous_visit_id"]


@each_familiar_tool
def test_the_first_visit_lies_ahead_and_keeps_its_time_of_day(source: str) -> None:
    recorded = next(each for each in load_specimens(source)["deliveries"] if _starts(each["expect"]))

    [before, after] = [_starts(each["expect"]) for each in (recorded, refresh(source, recorded, "lee", NOW))]

    assert NOW < datetime.fromisoformat(after)
    assert before[10:] == after[10:]


def _starts(expect: Any) -> str:
    return (
        next((change["time_scheduled"] for change in expect if change.get("time_scheduled")), "")
        if isinstance(expect, list)
        else ""
    )
