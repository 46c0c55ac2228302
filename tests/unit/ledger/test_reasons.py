"""Reasons of tasks in plain words."""

import shlex

from click import Context

from app.cli import main
from app.ledger.reasons import FAILED_CALLS, REASONS, Reason, find_reason
from tests.support.cases import each


@each(
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


def test_the_command_for_an_api_that_does_not_answer_names_the_task_whatever_its_call_was() -> None:
    assert ["doorbell replay standard-A-1 --yes"] == find_reason("GET /visits/:id: 500").commands_for("standard-A-1")


@each("reason", [*REASONS.values(), *FAILED_CALLS.values()], ids=[*REASONS, *FAILED_CALLS])
def test_a_command_that_helps_has_valid_arguments(reason: Reason) -> None:
    root = Context(main, info_name="doorbell")

    for line in reason.commands_for("standard-A-1"):
        program, name, *arguments = shlex.split(line)
        command = main.get_command(root, name)
        assert command
        command.make_context(name, arguments, parent=root)
        assert ("doorbell", False) == (program, "ID" in arguments)


@each("name", REASONS)
def test_texts_are_sentences_without_the_code(name: str) -> None:
    reason = REASONS[name]

    assert reason.title[0].isupper()
    assert not reason.title.endswith(".")
    assert all(text.endswith(".") and name not in text for text in (reason.cause, *reason.actions))
