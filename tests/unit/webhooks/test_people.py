"""Names in one field, and answers of booking forms."""

from app.webhooks import attendee_key, phone_answer, split_name
from app.webhooks.payload import Payload
from tests.support.cases import each


@each(
    ("name", "first", "last"),
    [
        ("Ada Lovelace", "Ada", "Lovelace"),
        (" Ada King  Lovelace ", "Ada King", "Lovelace"),
        ("Ada", "Ada", None),
        ("", None, None),
        (None, None, None),
        ("   ", None, None),
    ],
)
def test_the_last_word_of_a_name_is_the_last_name(name: str | None, first: str | None, last: str | None) -> None:
    assert (first, last) == split_name(name)


@each(
    "question",
    [
        "Your phone number?",
        "MOBILE",
        "Cell",
        "Teléfono",
        "telefono",
        "Móvil",
        "Handynummer",
        "Telefonnummer",
        "WhatsApp",
    ],
)
def test_an_answer_to_a_question_for_a_phone_number_is_one(question: str) -> None:
    assert "+1 555-010-0001" == phone_answer(question, " +1 555-010-0001 ")


@each(
    ("question", "answer"),
    [
        ("Which cellar?", "5550100001"),
        ("Order number", "5550100001"),
        ("Phone", "please do not call"),
        ("Phone", "12345"),
        ("Phone", "5550100001 after six"),
        (None, "5550100001"),
        ("Phone", None),
    ],
)
def test_other_answers_are_no_phone_numbers(question: str | None, answer: str | None) -> None:
    assert None is phone_answer(question, answer)


@each(
    ("attendee", "key"),
    [
        ({"email": "Ada@Example.com", "id": "a1"}, "ada@example.com"),
        ({"email": "", "id": "a1"}, "a1"),
        ({"email": "no address", "id": 7}, "7"),
        ({}, None),
    ],
)
def test_an_attendee_is_identified_by_the_address_else_by_the_id(attendee: dict[str, object], key: str | None) -> None:
    assert key == attendee_key(Payload(attendee))
