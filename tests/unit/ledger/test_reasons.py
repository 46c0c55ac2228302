"""Reasons of tasks in plain words."""

import re
from pathlib import Path

import pytest

from app.ledger.reasons import REASONS, find_reason


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("contact_unknown", "No e-mail address"),
        ("untranslatable: payload.uri: expected text, found nothing", "The event cannot be understood"),
        ("POST /visits: 422", "The values are rejected"),
        ("POST /contacts: 404", "The API does not know the address"),
        ("GET /visits: 401", "The token is rejected"),
        ("GET /contacts: 429", "The API limits the rate"),
        ("POST /visits: 503", "The API does not answer"),
        ("POST /visits: 408", "The API does not answer"),
        ("POST /visits: outcome_unknown", "The API does not answer"),
    ],
)
def test_a_reason_has_a_title_for_people(text: str, title: str) -> None:
    assert title == find_reason(text).title


def test_only_the_reasons_that_the_runbook_lists_as_harmless_have_no_action() -> None:
    runbook = (Path(__file__).parents[3] / "docs" / "runbook.md").read_text()
    table = runbook.partition("These need no operator:")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)) == {
        name for name, reason in REASONS.items() if not reason.actions
    }


@pytest.mark.parametrize("name", REASONS)
def test_texts_are_sentences_without_the_code(name: str) -> None:
    reason = REASONS[name]

    assert reason.title[0].isupper()
    assert not reason.title.endswith(".")
    assert all(text.endswith(".") and name not in text for text in (reason.cause, *reason.actions))
