"""What is quoted to operators: enough to see what is wrong, and nobody's name."""

import pytest

from app.explain import redacted


@pytest.mark.parametrize(
    ("shown", "answered"),
    [
        ('{"name": "•••"}', '{"name": "Ada Lovelace"}'),
        ('{"first_name":"•••","last_name":"•••"}', '{"first_name":"Ada","last_name":"Love\\"lace"}'),
        ('{"contact": {"fullName": "•••", "id": 7}}', '{"contact": {"fullName": "Ada Lovelace", "id": 7}}'),
        ('{"company" : "•••"}', '{"company" : "Lovelace & Sons"}'),
        ('{"address": {"line1": "•••", "city": "•••"}}', '{"address": {"line1": "5 Example St", "city": "Exeter"}}'),
        ('{"names": "•••", "ok": true}', '{"names": ["Ada", "Bob"], "ok": true}'),
        ('{"name": "•••"', '{"name": "Ada Lov'),  # cut off at 500 characters
        ("email=•••&first_name=•••&external_id=a-1", "email=ada%40example.com&first_name=Ada&external_id=a-1"),
        ("contact[last_name]=•••", "contact[last_name]=Lovelace"),
        ("•••@••• is taken", "ada@example.com is taken"),
        ("call •••", "call +1 555 010 0001"),
    ],
)
def test_what_is_personal_is_masked(shown: str, answered: str) -> None:
    assert shown == redacted(answered)


@pytest.mark.parametrize(
    "answered",
    [
        '{"error": "unprocessable", "field": "amount_collected", "detail": "must be a decimal"}',
        '{"time_scheduled": "is missing", "external_id": "calendly-I1"}',
        "<html><body>Something went wrong</body></html>",
    ],
)
def test_what_says_what_is_wrong_stays(answered: str) -> None:
    assert answered == redacted(answered)
