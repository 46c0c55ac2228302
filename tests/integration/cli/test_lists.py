"""`doorbell deliveries`, `failures`, `visits`, `search` and `rejections`."""

import json
import re
import signal
import time

import pytest

from tests.support.command_line import ADA, activity_of, rows
from tests.support.harness import Harness, sign_standard, standard_body, wait_until


def test_visits_are_listed_by_their_start(busy: Harness) -> None:
    first, second = rows(busy, "visits", "--since", "2026-03-14", "--until", "2026-03-16", "--json")

    assert ("standard-A-1", "done", "2026-03-14T16:00:00Z") == (first["visit"], first["state"], first["start"])
    assert ("standard-A-2", "parked", "contact_unknown") == (second["visit"], second["state"], second["reason"])
    assert [second] == rows(busy, "visits", "--when", "any", "--state", "parked", "--json")
    assert "Needs attention  No e-mail address" in busy.doorbell("visits", "--state", "parked", "--when", "any").stdout
    page = busy.doorbell("visits", "--when", "any", "--limit", "1", "--utc")
    assert "Mar 14" in page.stdout
    assert "standard-A-1" in page.stdout
    cursor = re.search("--cursor '([^']+)'", page.stderr)
    assert cursor
    assert [second] == rows(busy, "visits", "--when", "any", "--cursor", cursor[1], "--json")


def test_the_customers_of_visits_are_shown_on_request_and_recorded(busy: Harness) -> None:
    hidden = busy.doorbell("visits", "--when", "any").stdout
    first, second = rows(busy, "visits", "--when", "any", "--show-personal-data", "--json")

    assert "Lovelace" not in hidden
    assert ("Ada Lovelace", "") == (first["customer"], second["customer"])
    assert [(b"revealed visit", b"the customers of 2 visits")] == activity_of(busy)


def test_a_list_of_visits_refuses_what_it_does_not_understand(service: Harness) -> None:
    answers = [
        service.doorbell("visits", *options)
        for options in (
            ("--min-amount", "much"),
            ("--when", "someday"),
            ("--since", "soon"),
            ("--since", "9999-12-31T23:59-14:00"),
            ("--when", "today"),
        )
    ]

    assert [2, 2, 2, 5, 5] == [answer.returncode for answer in answers]
    assert "much is not an amount like 120 or 79.50" in answers[0].stderr
    assert "nothing matched\n" == answers[-1].stderr


def test_a_search_finds_names_and_beginnings_and_says_what_it_searched(busy: Harness) -> None:
    by_name, by_beginning = rows(busy, "search", "lovelace", "--json"), rows(busy, "search", "standard-A", "--json")
    nothing = busy.doorbell("search", "nobody")

    assert ["standard-A-1"] == [row["id"] for row in by_name]
    assert ["standard-A-1", "standard-A-2"] == sorted(row["id"] for row in by_beginning)
    assert "Visit #" in busy.doorbell("search", "lovelace").stdout
    assert (5, "") == (nothing.returncode, nothing.stdout)
    assert "nothing matched; searched:\n- ids of visits" in nothing.stderr


def ids(harness: Harness, *command: str) -> list[str]:
    return [visit for row in rows(harness, *command, "--json") for visit in row["visits"]]


def test_search_accepts_every_kind_of_id_and_contact_details(service: Harness) -> None:
    raw = standard_body("visit.created", "A-1", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    delivery = service.post(raw, sign_standard(raw) | {"x-request-id": "req-7f3a"}).json()["delivery"]
    service.send("visit.created", "A-2", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: service.visit("standard-A-1"))
    wait_until(lambda: rows(service, "failures", "--json"))
    wait_until(lambda: rows(service, "deliveries", "--search", "req-7f3a", "--json"))

    def matches(*options: str) -> list[str]:
        return ids(service, "deliveries", *options)

    for query in ("A-1", "standard-A-1", delivery, "req-7f3a", " ADA@example.com", "+1 (555) 010-0001"):
        assert ["standard-A-1"] == matches("--search", query), query
    assert ["standard-A-1"] == matches("--visit", "A-1")
    exported = service.doorbell("export", "visits", "--search", "ada@example.com", "--format", "ndjson")
    assert ["standard-A-1"] == [json.loads(line)["visit"] for line in exported.stdout.splitlines()]
    assert [] == matches("--search", "ada@example.com", "--state", "superseded")
    assert [] == matches("--visit", "A-1", "--search", "A-2")
    assert [] == matches("--search", "A-1", "--hook", "calendly")


def test_lists_have_the_filter_options_of_replay(busy: Harness) -> None:
    assert ["standard-A-1"] == ids(busy, "deliveries", "--state", "applied")
    assert ["standard-A-2"] == ids(busy, "deliveries", "--state", "parked")
    assert ["standard-A-2"] == ids(busy, "deliveries", "--reason", "contact")
    assert {"standard-A-1", "standard-A-2"} == set(ids(busy, "deliveries", "--source", "standard", "--since", "1h"))
    assert [] == ids(busy, "deliveries", "--until", "1h")
    assert [] == ids(busy, "deliveries", "--hook", "calendly")
    for options, count in (
        (["--reason", "contact_unknown"], 1),
        (["--search", "A-2"], 1),
        (["--visit", "standard-A-2", "--since", "1h"], 1),
        (["--search", "A-1"], 0),
        (["--reason", "422"], 0),
        (["--until", "1h"], 0),
        (["--hook", "calendly"], 0),
    ):
        assert count == len(rows(busy, "failures", *options, "--json")), options


def test_a_list_shows_the_cursor_of_the_next_page(busy: Harness) -> None:
    first = busy.doorbell("deliveries", "--limit", "1", "--json")
    cursor = re.search(r"--cursor (\S+),", first.stderr)
    assert cursor

    second = busy.doorbell("deliveries", "--cursor", cursor[1], "--json")

    visits = [json.loads(result.stdout)["visits"] for result in (first, second)]
    assert [["standard-A-2"], ["standard-A-1"]] == visits
    assert "" == second.stderr


@pytest.mark.parametrize("command", ["deliveries", "failures", "visits", "activity"])
def test_a_cursor_of_another_list_is_refused(harness: Harness, command: str) -> None:
    """A script that used it would read the first page again and again."""
    result = harness.doorbell(command, "--cursor", "99999999999999999999_d")

    assert (2, True) == (result.returncode, "use the cursor that this list printed" in result.stderr)


def test_a_list_has_the_same_columns_whatever_its_rows_have(busy: Harness) -> None:
    def columns(*command: str) -> list[str]:
        return re.split(r" {2,}", busy.doorbell(*command).stdout.splitlines()[0])

    before = columns("failures")
    busy.redis_command("HSET", "bell:visit:main/standard-A-2", "failed_attempts", "2")

    assert before == columns("failures")
    assert ["ID", "PROBLEM", "REASON", "SINCE", "ATTEMPTS", "HOOK", "DELIVERY"] == before
    assert columns("deliveries") == columns("deliveries", "--state", "parked")


def test_a_failure_shows_its_delivery_also_after_a_replay_with_a_contact(busy: Harness) -> None:
    [before] = rows(busy, "failures", "--json")

    busy.doorbell("replay", "standard-A-2", "--contact", "cont_bogus", "--yes")

    after = wait_until(lambda: [row for row in rows(busy, "failures", "--json") if "422" in row["reason"]])
    assert (before["delivery"], "standard") == (after[0]["delivery"], after[0]["hook"])


def test_rejections_have_a_likely_cause(harness: Harness) -> None:
    harness.start_web()
    raw = standard_body("visit.created", "A-1")
    harness.post(raw, sign_standard(raw, at=time.time() - 720))
    harness.post(raw, sign_standard(raw, secret="whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="))
    harness.web_server.kill(signal.SIGTERM)

    by_reason = {row["reason"]: row for row in rows(harness, "rejections", "--json")}

    assert {"signature_stale", "signature_mismatch"} == by_reason.keys()
    assert "12 min" in by_reason["signature_stale"]["cause"]
    assert "secret" in by_reason["signature_mismatch"]["cause"]
    assert ["signature_stale"] == [row["reason"] for row in rows(harness, "rejections", "--reason", "stale", "--json")]
    assert "The signature does not match" in harness.doorbell("rejections").stdout
    assert 5 == harness.doorbell("rejections", "--hook", "calendly").returncode
    assert [("standard", 1), ("standard", 1)] == [
        (row["hook"], row["count"]) for row in rows(harness, "rejections", "--by-cause", "--json")
    ]
    [cause] = rows(harness, "rejections", "--by-cause", "--reason", "mismatch", "--json")
    assert "The signature does not match" == cause["cause"]
    assert 5 == harness.doorbell("rejections", "--by-cause", "--reason", "foreign").returncode


def test_lists_have_states_and_problems_in_words_and_codes_in_json(busy: Harness) -> None:
    table = busy.doorbell("deliveries").stdout
    needs_attention, applied = rows(busy, "deliveries", "--json")

    assert ("parked", "contact_unknown", "applied") == (
        needs_attention["state"],
        needs_attention["reason"],
        applied["state"],
    )
    assert "  Needs attention  No e-mail address  standard-A-2\n" in table
    assert re.search("  Applied +–  +standard-A-1\n", table)
    assert "Up to date" in busy.doorbell("visits", "--when", "any").stdout
    assert "Needs attention" in busy.doorbell("search", "standard-A-2").stdout


def test_an_empty_list_says_what_is_so_and_a_filter_without_matches_says_that(service: Harness) -> None:
    messages = {
        command: service.doorbell(*command.split()).stderr
        for command in ("failures", "deliveries", "visits", "operations", "activity", "failures --hook standard")
    }

    assert {
        "failures": "no failures: nothing needs attention",
        "deliveries": "no delivery yet: `doorbell sources NAME` says how to connect a tool",
        "visits": "no visits from today on: `doorbell visits --when any` lists all",
        "operations": "no replay or discard yet",
        "activity": "no activity yet",
        "failures --hook standard": "nothing matched",
    } == {command: message.splitlines()[0] for command, message in messages.items()}
