"""The time zone of the command line."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from app.cli.output import TimeType, print_rows, sentence_for_people, utc_option, with_age
from tests.support.cases import each


@pytest.fixture(autouse=True)
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as environment:
        environment.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@click.command()
@click.option("--since", type=TimeType())
@click.option("--json", "as_json", is_flag=True)
@utc_option
def command(since: datetime | None, as_json: bool) -> None:
    print_rows([{"at": "2019-01-15T19:00:05Z", "since": since and since.astimezone(UTC).isoformat()}], as_json)


def output(*arguments: str) -> str:
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


@each(
    ("expected", "arguments"),
    [
        ("Jan 15, 2019, 2:00 PM EST", []),
        ("Jan 15, 2019, 7:00 PM UTC", ["--utc"]),
        ('"2019-01-15T19:00:05Z"', ["--json"]),
    ],
)
def test_times_are_in_the_zone_of_the_computer_but_not_in_json(expected: str, arguments: list[str]) -> None:
    assert expected in output(*arguments)


@each(
    ("expected", "arguments"),
    [
        ("2019-07-04T16:30:00+00:00", ["--since", "2019-07-04T12:30"]),
        ("2019-07-04T12:30:00+00:00", ["--since", "2019-07-04T12:30", "--utc"]),
        ("2019-07-04T12:30:00+00:00", ["--utc", "--since", "2019-07-04T12:30"]),
        ("2019-07-04T12:30:00+00:00", ["--since", "2019-07-04T12:30Z"]),
        ("2019-07-04T04:00:00+00:00", ["--since", "2019-07-04"]),
    ],
)
def test_a_time_without_an_offset_is_read_in_the_same_zone(expected: str, arguments: list[str]) -> None:
    assert f'"since": "{expected}"' in output("--json", *arguments)


def test_a_time_that_no_zone_has_is_an_error() -> None:
    assert "is neither a time" in output("--since", "0001-01-01")


@each(
    ("expected", "minutes"),
    [(r"\d{1,2}:\d\d [AP]M E[SD]T, 5 min ago", 5), (r"[A-Z][a-z]{2} \d{1,2}, .* E[SD]T", 5_000)],
)
def test_a_recent_time_has_its_age_in_a_terminal(expected: str, minutes: int) -> None:
    moment = datetime.now(UTC) - timedelta(minutes=minutes, seconds=5)

    assert re.fullmatch(expected, with_age(f"{moment:%Y-%m-%dT%H:%M:%SZ}"))


@each("text", ["the time 2026-02-30T00:00:00Z does not exist", "0000-01-01T00:00:00Z"])
def test_a_time_that_does_not_exist_is_shown_as_it_is(text: str) -> None:
    """An API may quote it."""
    assert text == sentence_for_people(text) == with_age(text)
