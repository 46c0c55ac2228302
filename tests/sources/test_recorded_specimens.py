"""Deliveries that are turned into specimens: they mean the same, without personal data of the original."""

import asyncio
import copy
import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from app.cli.specimen_files import SpecimenEntry
from app.cli.specimen_recorder import RecordedSpecimen, Recorder
from app.visits.change import VisitChange
from app.webhooks import registry
from app.webhooks.fetching import RecordRequest
from app.webhooks.source import Ignored
from app.webhooks.specimens import describe_change
from tests.support.cases import each
from tests.support.specimens import BY_TOOL, Specimen, _read, each_tool, events

#: Fields of a change whose values come from ids.
IDS = ("visit_id", "previous_visit_id", "external_id_override")


def record(specimen: Specimen) -> RecordedSpecimen:
    async def find(request: RecordRequest) -> Any:
        return specimen.recorded["records"][request.key]

    recorder = Recorder(specimen.tool, "seed", specimen.setting("timezone"))
    return asyncio.run(recorder.record(specimen.delivery, dict(specimen.event().headers), "recorded", find))


@cache
def recorded_entries(name: str) -> list[dict[str, Any]]:
    return [record(specimen).entry for specimen in events(name)]


def changes_of(specimen: Specimen) -> list[VisitChange]:
    translated = specimen.translate()
    return [] if isinstance(translated, Ignored) else translated


def personal_values(specimen: Specimen) -> Iterator[str]:
    for change in changes_of(specimen):
        values = change.contact.to_dict() if change.contact else {}
        yield from (value for name, value in values.items() if name != "id" and len(value) > 2)


def facts(change: VisitChange) -> dict[str, Any]:
    """Return what a change says, without the values of ids and people."""
    described = describe_change(change)
    contact = {name for name, value in described.pop("contact", {}).items() if value}
    ids = {name for name in IDS if described.pop(name, None)}
    # The name of an amount has the id of its payment.
    fields = {name.partition(" of ")[0] for name, value in described.items() if value is not None}
    return {"contact": contact, "ids": ids, "fields": fields}


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that records and completes all events of a source, and reads the result as specimens."""

    def complete(name: str) -> list[tuple[Specimen, Specimen]]:
        originals, file = events(name), dict(BY_TOOL[name][0].file)
        entries = copy.deepcopy(recorded_entries(name))
        for entry in entries:
            list(SpecimenEntry(originals[0].tool, file, entry).complete())
        (tmp_path / f"{name}.json").write_text(json.dumps(file | {"deliveries": entries}))
        with monkeypatch.context() as reading:
            reading.setattr(registry, "FOLDER", tmp_path)
            return list(zip(originals, _read(originals[0].tool), strict=True))

    # test_specimen_files.py compares the signatures with those of openssl.
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return complete


@each_tool
def test_a_recorded_specimen_is_signed_and_means_the_same(completed: Any, name: str) -> None:
    for original, specimen in completed(name):
        specimen.verify()
        assert [facts(change) for change in changes_of(original)] == [facts(change) for change in changes_of(specimen)]
        assert specimen.recorded.get("requests", []) == [request.key for request in specimen.record_requests()]
        if changes := changes_of(specimen):
            assert specimen.expect == list(map(describe_change, changes))
        else:
            assert specimen.expect.keys() == {"ignored"}


@pytest.mark.skipif(not shutil.which("openssl"), reason="a fresh machine may lack the openssl command")
@each_tool
def test_the_command_of_the_file_makes_the_same_signature(name: str) -> None:
    original, file = events(name)[0], dict(BY_TOOL[name][0].file)
    entry = copy.deepcopy(recorded_entries(name)[0])

    additions = list(SpecimenEntry(original.tool, file, entry).complete())

    assert additions[-1].startswith("expect is ")


@each_tool
def test_a_recorded_specimen_has_no_personal_data_of_the_original(completed: Any, name: str) -> None:
    for original, specimen in completed(name):
        text = json.dumps(specimen.recorded, ensure_ascii=False)
        if specimen.recorded["headers"]["Content-Type"] == "text/plain":
            text += str(specimen.event().data.value)
        remaining = [
            value
            for value in personal_values(original)
            if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE)
        ]
        assert [] == remaining, specimen.recorded


def test_the_same_value_gets_the_same_replacement_everywhere() -> None:
    original = next(each for each in events("calendly") if "books and pays" in each.recorded["name"])
    contact = original.expect[0]["contact"]
    invitee = original.recorded["body"]["payload"]["uri"].rpartition("/")[2]

    body = record(original).entry["body"]

    payload = body["payload"]
    assert f"{payload['first_name']} {payload['last_name']}" == payload["name"]
    assert payload["email"].endswith("@example.com")
    assert payload["uri"].startswith("https://api.calendly.com/scheduled_events/")
    assert payload["uri"].rpartition("/")[2] == payload["cancel_url"].rpartition("/")[2]
    text = json.dumps(body)
    assert [] == [value for value in (*contact.values(), invitee) if value in text]
    assert ("invitee.created", "active") == (body["event"], payload["status"])


def test_a_new_status_stays() -> None:
    original = next(each for each in events("calendly") if "books and pays" in each.recorded["name"])
    body = json.loads(original.delivery.body)
    body["payload"]["status"] = "tentative"

    recorded = record(
        Specimen(
            original.tool,
            original.file,
            original.url,
            original.changed(body=json.dumps(body).encode()),
            original.recorded,
        )
    )

    assert "tentative" == recorded.entry["body"]["payload"]["status"]


def test_a_text_that_the_translation_needs_is_reported() -> None:
    original = next(each for each in events("calendly") if "phone in an answer" in each.recorded["name"])

    recorded = record(original)

    assert ["Mobile phone"] == recorded.exceptions
    [answer] = [
        each
        for each in recorded.entry["body"]["payload"]["questions_and_answers"]
        if each["question"] == "Mobile phone"
    ]
    assert answer["answer"].startswith(("+1555", "555"))


def test_personal_data_is_replaced_wherever_it_is() -> None:
    original = next(each for each in events("calendly") if "books and pays" in each.recorded["name"])
    body = json.loads(original.delivery.body)
    body["payload"] |= {
        "first_name": "Xanthippe",
        "last_name": "Müller-Ångström",
        "name": "Xanthippe Müller-Ångström",
        "email": "Xanthippe.M@private.example",
        "text_reminder_number": "+44 20 7946 0999",
        "questions_and_answers": [
            {
                "question": "Who else comes?",
                "answer": "My son Leopold, x.mueller@work.example, 020 7946 0999",
                "position": 0,
            },
            {"question": "Street", "answer": "12 Acacia Avenue", "position": 1},
        ],
        "cancel_url": "https://acme-dental.calendly.com/c/9f8e7d6c?token=s3cr3tT0ken99&email=xanthippe.m%40private.example",
        "tracking": {"utm_source": "newsletter-leopold", "salesforce_uuid": "003Xanthippe000001"},
        "custom": json.dumps(
            {"guest": {"nickname": "Xanthi", "Xanthippe Müller-Ångström": "vip"}, "birthday": "1987-06-05"}
        ),
        "home": {"address": "12 Acacia Avenue", "city": "Wolverhampton", "zip": "WV1 1AA", "lat": 52.58, "lng": -2.12},
        "customer_id": 48151623,
    }
    raw = json.dumps(body, ensure_ascii=False).encode()
    changed = Specimen(original.tool, original.file, original.url, original.changed(body=raw), original.recorded)

    recorded = record(changed)

    text = json.dumps(recorded.entry, ensure_ascii=False).casefold()
    secrets = (
        *(
            "xanthi",
            "müller",
            "ångström",
            "leopold",
            "private.example",
            "work.example",
            "7946",
            "acacia",
            "wolverhampton",
        ),
        *("wv1", "s3cr3tt0ken99", "9f8e7d6c", "acme-dental", "1987", "48151623", "52.58", "003x"),
    )
    assert [] == [secret for secret in secrets if secret in text]
    assert "https://example.com/" in text


@each("text", ["2026-03-14T16:00:00Z", "14:30", "75.50", "30", "America/New_York", "+02:00", "yes"])
def test_values_that_describe_no_person_stay(text: str) -> None:
    original = next(each for each in events("calendly") if "books and pays" in each.recorded["name"])
    body = json.loads(original.delivery.body)
    body["payload"]["extra_value"] = text
    changed = Specimen(
        original.tool, original.file, original.url, original.changed(body=json.dumps(body).encode()), original.recorded
    )

    assert text == record(changed).entry["body"]["payload"]["extra_value"]
