"""The command line: output, exit statuses and effects of the commands."""

import asyncio
import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from click.testing import CliRunner

from app import __version__
from app.cli import COMMANDS, main
from app.cli.output import printable, to_json
from app.cli.session import open_ledger
from app.cli.tail import _line
from app.demo.valkey import free_port, valkey
from app.operators.filter import Filter
from app.operators.operations import OperationRequest, Operations
from app.settings.environment import read_environment
from app.webhooks import registry
from app.webhooks.source import InvalidSource
from tests.support.harness import ROOT, SECRET, Harness, Server, sign_standard, standard_body, wait_until
from tests.support.ledger_client import LedgerClient

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
PERSONAL = ("ada@example.com", "Lovelace", "+15550100001")


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[Harness]:
    """Start a web process, and a worker that waits 0.2 s for an e-mail address."""
    with valkey() as url, Harness(url, sandbox) as harness:
        harness.env |= {"SECRET_KEY": "key-of-the-tests", "CONTACT_FOR_S": "0.2"}
        harness.start_web()
        harness.start_worker()
        yield harness


@pytest.fixture
def service(shared_service: Harness) -> Iterator[Harness]:
    """Yield an empty service; unfinished tasks of a test end before the next test."""
    shared_service.reset()
    yield shared_service
    wait_until(LedgerClient(shared_service.redis_url).is_done)


@pytest.fixture
def busy(service: Harness) -> Harness:
    """Return a service with one applied visit, and one that is parked without an e-mail address."""
    service.send("visit.created", "A-1", "2026-03-01T09:00:00Z", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    service.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(service, "deliveries", "--state", "applied", "--json"))
    wait_until(lambda: rows(service, "failures", "--json"))
    return service


def activity_of(harness: Harness) -> list[tuple[bytes, bytes]]:
    """Return actions and targets in the activity log."""
    return [(fields[5], fields[7]) for _, fields in harness.redis_command("XRANGE", "bell:activity", "-", "+")]


def rows(harness: Harness, *command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in harness.doorbell(*command).stdout.splitlines()]


def test_deliveries_and_visits_are_shown_with_changes_values_and_attempts(busy: Harness) -> None:
    first, second = sorted(rows(busy, "deliveries", "--json"), key=lambda row: row["visits"])

    assert (["standard-A-1"], "applied", "visit.created") == (first["visits"], first["state"], first["event"])
    assert (["standard-A-2"], "parked") == (second["visits"], second["state"])
    [delivery] = rows(busy, "show", first["delivery"], "--json")
    assert [{"visit": "standard-A-1", "state": "applied"}] == delivery["changes"]
    [visit] = rows(busy, "visit", "standard-A-1", "--json")
    assert "Applied: Review Rover has the values of this delivery." == delivery["summary"]
    assert "2026-03-14T16:00:00Z" == visit["facts"]["time_scheduled"]["value"]
    assert first["delivery"] == visit["facts"]["time_scheduled"]["delivery"]
    calls = ["GET /visits/:id 404", "GET /contacts 200", "POST /contacts 201", "POST /visits 201"]
    assert [calls] == [attempt["calls"] for attempt in visit["attempts"]]
    assert delivery["attempts"] == visit["attempts"]


def test_visits_are_listed_by_their_start(busy: Harness) -> None:
    first, second = rows(busy, "visits", "--since", "2026-03-14", "--until", "2026-03-16", "--json")

    assert ("standard-A-1", "done", "2026-03-14T16:00:00Z") == (first["visit"], first["state"], first["start"])
    assert ("standard-A-2", "parked", "contact_unknown") == (second["visit"], second["state"], second["reason"])
    assert [second] == rows(busy, "visits", "--when", "any", "--state", "parked", "--json")
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


def test_a_search_finds_names_and_beginnings_and_says_what_it_searched(busy: Harness) -> None:
    by_name, by_beginning = rows(busy, "search", "lovelace", "--json"), rows(busy, "search", "standard-A", "--json")
    nothing = busy.doorbell("search", "nobody")

    assert ["standard-A-1"] == [row["id"] for row in by_name]
    assert ["standard-A-1", "standard-A-2"] == sorted(row["id"] for row in by_beginning)
    assert "Visit #" in busy.doorbell("search", "lovelace").stdout
    assert (5, "") == (nothing.returncode, nothing.stdout)
    assert "nothing matched; searched:\n- ids of visits" in nothing.stderr


def test_a_visit_and_a_delivery_show_their_history(busy: Harness) -> None:
    busy.doorbell("visit", "standard-A-1", "--show-personal-data")
    [delivery, *_] = rows(busy, "deliveries", "--search", "standard-A-1", "--json")

    visit = busy.doorbell("visit", "standard-A-1", "--utc").stdout.partition("What happened")[2].partition("\n\n")[0]
    shown = busy.doorbell("show", delivery["delivery"], "--utc").stdout

    sentences = ["booked for Mar 14", "created in Review Rover", "(command line): revealed personal data"]
    assert [True] * 3 == [sentence in visit for sentence in sentences]
    assert [True, True, False] == [sentence in shown for sentence in sentences]


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


def test_personal_data_is_hidden_by_default(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    commands = [["deliveries"], ["deliveries", "--json"], ["show", delivery], ["visit", "standard-A-1"], ["failures"]]

    output = "".join(result.stdout + result.stderr for result in (busy.doorbell(*command) for command in commands))

    assert [] == [word for word in PERSONAL if word in output]


def test_revealed_personal_data_is_recorded_in_the_activity_log(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    shown = [
        busy.doorbell(*command, "--show-personal-data", "--json")
        for command in (["visit", "standard-A-1"], ["show", delivery])
    ]
    unknown = busy.doorbell("show", "d0", "--show-personal-data")

    assert [True, True] == ["ada@example.com" in result.stdout for result in shown]
    [visit] = json.loads("[" + shown[0].stdout + "]")
    assert "ada@example.com" == visit["changes"][0]["fields"]["contact.email"]
    assert 5 == unknown.returncode
    assert [
        (b"revealed visit", b"standard-A-1: everything"),
        (b"revealed delivery", f"{delivery}: everything".encode()),
    ] == activity_of(busy)


def test_a_change_of_a_paused_account_is_applied_after_resume(busy: Harness) -> None:
    unknown, paused, repeated = (busy.doorbell("pause", hook) for hook in ("nobody", "calendly", "standard"))
    response = busy.send("visit.created", "A-3", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")
    before = len(busy.calls())
    held = wait_until(lambda: rows(busy, "deliveries", "--state", "held", "--json"))
    check = next(row for row in rows(busy, "doctor", "--json") if row["check"] == "visits_api.circuit")

    assert [5, 0, 5] == [result.returncode for result in (unknown, paused, repeated)]
    assert "calendly, standard: calls for the account main are paused" in paused.stderr
    assert (202, ["standard-A-3"]) == (response.status_code, held[0]["visits"])
    assert ("warn", "`doorbell resume calendly`") == (check["result"], check["fix"])
    assert before == len(busy.calls())

    resumed, twice = busy.doorbell("resume", "standard"), busy.doorbell("resume", "standard")

    assert [0, 5] == [result.returncode for result in (resumed, twice)]
    wait_until(lambda: busy.visit("standard-A-3"))
    assert {(b"paused", b"main"), (b"resumed", b"main")} == set(activity_of(busy))


def test_a_failure_is_replayed_with_the_contact_of_an_operator(busy: Harness) -> None:
    [failure] = rows(busy, "failures", "--json")

    replayed = busy.doorbell("replay", failure["id"], "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    assert ("standard-A-2", "contact_unknown") == (failure["id"], failure["reason"])
    assert 0 == replayed.returncode
    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    assert 5 == busy.doorbell("failures").returncode


def test_a_newer_change_is_applied_after_a_discard(busy: Harness) -> None:
    assert 0 == busy.doorbell("discard", "standard-A-2", "--yes").returncode
    assert 5 == busy.doorbell("failures").returncode

    busy.send("visit.updated", "A-2", "2026-03-02T09:00:00Z", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")

    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "2026-03-16T16:00:00Z" == visit["time_scheduled"]


def test_a_replay_of_an_applied_visit_changes_nothing(busy: Harness) -> None:
    before = busy.visit("standard-A-1")
    calls = len(busy.calls())

    busy.doorbell("replay", "standard-A-1", "--recheck", "--yes")

    wait_until(lambda: len(busy.calls()) == calls + 1)
    assert "GET /visits/:id" == busy.calls()[-1]
    assert before == busy.visit("standard-A-1")


def test_ring_sends_a_signed_specimen_and_shows_a_rejection(service: Harness) -> None:
    to = f"{service.web_server.url}/hooks/calendly"

    accepted = service.doorbell("ring", "calendly", "an invitee books", "--to", to)
    rejected = service.doorbell("ring", "calendly", "1", "--to", to, HOOKS__CALENDLY__SECRETS="another-secret-of-tests")

    assert (0, 1) == (accepted.returncode, json.loads(accepted.stdout)["changes"])
    assert (3, "signature_mismatch") == (rejected.returncode, json.loads(rejected.stdout)["error"])
    assert "an invitee books" in service.doorbell("ring", "calendly").stdout


def test_ring_shows_what_became_of_a_delivery(service: Harness) -> None:
    to = service.web_server.url

    first = service.doorbell("ring", "calendly", "an invitee books", "--to", to, "--wait")
    repeat = service.doorbell("ring", "calendly", "an invitee books", "--to", to)

    delivery = json.loads(repeat.stdout)["delivery"]
    assert (0, 0) == (first.returncode, repeat.returncode)
    assert f"✔ {delivery}  Calendly\n  Applied: " in first.stdout
    assert "calendly-INV-OLD-1  applied" in first.stdout
    assert "it was sent before, and a repeat has no effect: --fresh sends it with new ids" in repeat.stderr
    assert f"`doorbell show {delivery}`" in repeat.stderr


def test_ring_sends_new_ids_and_the_same_ones_for_the_same_name(service: Harness) -> None:
    def visits(*options: str) -> set[str]:
        result = service.doorbell("ring", "calendly", *options, "--to", service.web_server.url)
        [row] = rows(service, "deliveries", "--search", json.loads(result.stdout)["delivery"], "--json")
        return set(row["visits"])

    booked, other = visits("an invitee books", "--fresh=lee"), visits("an invitee books", "--fresh")
    visits("the new half", "--fresh=lee")

    wait_until(lambda: service.visit(*booked)["time_scheduled"].endswith("T16:00:00Z"))
    assert datetime.now(UTC) < datetime.fromisoformat(service.visit(*booked)["time_scheduled"])
    assert booked.isdisjoint(other)
    assert {"calendly-INV-OLD-1"}.isdisjoint(booked | other)


@pytest.mark.parametrize(
    ("status", "command", "env"),
    [
        (2, ["failures", "--nonsense"], {}),
        (3, ["failures"], {"RETRY_CAP_S": "soon"}),
        (4, ["failures"], {"REDIS_URL": "redis://127.0.0.1:1/0"}),
        (4, ["ring", "calendly", "1", "--to", "http://127.0.0.1:1/hooks/calendly"], {}),
        (5, ["failures"], {}),
        (5, ["show", "d000"], {}),
        (5, ["visit", "standard-nobody"], {}),
        (5, ["replay", "standard-nobody"], {}),
        (5, ["replay", "--state", "parked", "--yes"], {}),
        (2, ["replay"], {}),
        (2, ["replay", "standard-A-1", "--state", "parked"], {}),
        (2, ["replay", "--state", "broken"], {}),
        (2, ["replay", "--since", "yesterday"], {}),
        (5, ["sources", "nosuch"], {}),
        (0, ["sources"], {}),
        (0, ["sources", "jobber"], {}),
    ],
)
def test_the_exit_status_tells_errors_apart(
    harness: Harness, status: int, command: list[str], env: dict[str, str]
) -> None:
    result = harness.doorbell(*command, **env)

    assert status == result.returncode, result.stderr


@pytest.mark.parametrize(
    ("status", "command", "url"),
    [(0, "sources", ""), (3, "failures", ""), (4, "failures", "redis://127.0.0.1:1/0")],
)
def test_a_process_ends_with_the_status_of_its_command(harness: Harness, status: int, command: str, url: str) -> None:
    result = harness.doorbell_process(command, REDIS_URL=url)

    assert status == result.returncode, result.stderr
    assert (status == 0) == bool(result.stdout)
    assert "Traceback" not in result.stderr


def test_doctor_shows_each_problem_with_its_fix(harness: Harness) -> None:
    def doctor(**env: str) -> tuple[int, dict[str, dict[str, str]]]:
        result = harness.doorbell("doctor", "--json", **env)
        return result.returncode, {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}

    status, checks = doctor(HOOKS__ACUITY__SECRETS="a-secret-of-tests", HOOKS__SQUARE__SECRETS="")

    assert 3 == status
    assert "fail" == checks["worker"]["result"]
    assert "HOOKS__ACUITY__CREDENTIALS__API_KEY" in checks["hook acuity"]["fix"]
    assert "appendonly" not in checks["redis.persistence"]["detail"]
    assert "ok" == checks["redis.eviction"]["result"]
    assert "ok" == checks["clock"]["result"]
    assert "ok" == checks["visits_api main"]["result"]
    assert SECRET not in str(checks)

    status, checks = doctor(VISITS_API_URL="http://127.0.0.1:1/api/v1")
    assert "down" == checks["visits_api main"]["result"]
    assert 4 == doctor(REDIS_URL="redis://127.0.0.1:1/0")[0]


def test_doctor_reports_no_problem_of_a_healthy_system(harness: Harness) -> None:
    harness.start_worker()

    result = wait_until(lambda: (doctor := harness.doorbell("doctor")).returncode == 0 and doctor)

    assert "1 running" in result.stdout


# Replay


def test_a_replay_that_fails_again_says_so_and_exits_with_6(busy: Harness) -> None:
    replayed = busy.doorbell("replay", "--state", "parked", "--yes")
    [operation] = rows(busy, "operations", "--json")
    [of_id] = rows(busy, "operations", operation["operation"], "--json")

    assert 6 == replayed.returncode
    assert "failed again: no e-mail address" in replayed.stdout
    assert "succeeded: 0; failed again: 1; pending: 0" in replayed.stderr
    assert "1 × No e-mail address: `doorbell failures --reason 'contact_unknown'`" in replayed.stderr
    assert (0, {"contact_unknown": 1}, 0) == (operation["succeeded"], operation["failed"], operation["pending"])
    assert operation | {"tasks": [{"outcome": "failed:contact_unknown", "id": "standard-A-2"}]} == of_id
    text = busy.doorbell("operations").stdout
    assert ["1 failed again" in text, "until 20" in text] == [True, False]
    assert "Failed again: No e-mail address  standard-A-2" in busy.doorbell("operations", operation["operation"]).stdout
    assert 5 == busy.doorbell("operations", "d0").returncode


def test_each_contact_names_its_visit(busy: Harness) -> None:
    busy.send("visit.created", "A-3", contact={"first_name": "Bob"}, time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: len(rows(busy, "failures", "--json")) == 2)
    pairs = ["standard-A-2=grace@example.com", "standard-A-3=Bob@Example.com"]

    ambiguous = busy.doorbell("replay", "--state", "parked", "--contact", "ada@example.com", "--yes")
    unselected = busy.doorbell("replay", "standard-A-2", "--contact", pairs[1], "--yes")
    twice = busy.doorbell("replay", "--contact", pairs[0], "--contact", pairs[0], "--yes")
    replayed = busy.doorbell("replay", *(word for pair in pairs for word in ("--contact", pair)), "--yes")

    assert [2, 2, 2, 0] == [result.returncode for result in (ambiguous, unselected, twice, replayed)]
    assert "2 are selected: name the visit of each contact" in ambiguous.stderr
    assert "--contact names visits that are not selected: standard-A-3" in unselected.stderr
    assert "succeeded: 2; failed again: 0; pending: 0" in replayed.stderr
    [operation] = busy.redis_command("ZRANGE", "bell:operations", 0, -1)
    assert b"example.com" not in busy.redis_command("HGET", b"bell:operation:" + operation, "request")


def test_a_replay_shows_its_plan_and_needs_a_confirmation(busy: Harness) -> None:
    planned = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--dry-run")
    unconfirmed = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj")

    assert 0 == planned.returncode
    assert "1 selected: 1 would be requeued, 0 skipped" in planned.stdout
    assert "time_scheduled=2026-03-15T16:00:00Z" in planned.stdout
    assert (2, planned.stdout) == (unconfirmed.returncode, unconfirmed.stdout)
    assert "--yes" in unconfirmed.stderr
    assert ["standard-A-2"] == [row["id"] for row in rows(busy, "failures", "--json")]


def test_a_replay_prints_each_result_as_json_and_continues_after_an_unknown_id(busy: Harness) -> None:
    ids = ("standard-A-2", "standard-nobody", "standard-A-1")

    result = busy.doorbell("replay", *ids, "--contact", "standard-A-2=cont_KYdl3lftgZXGRbxqoj", "--yes", "--json")

    states = {row["id"]: row["state"] for row in map(json.loads, result.stdout.splitlines())}
    assert 6 == result.returncode
    assert ("queued", "unknown") == (states["standard-A-2"], states["standard-nobody"])
    assert wait_until(lambda: busy.visit("standard-A-2"))


def test_a_plan_contains_no_personal_data(busy: Harness) -> None:
    results = [
        busy.doorbell("replay", "--source", "standard", "--dry-run", *options)
        for options in ([], ["--json"], ["--recheck"])
    ]

    output = "".join(result.stdout + result.stderr for result in results)
    assert "standard-A-1" in output
    assert [] == [word for word in PERSONAL if word in output]


def test_hash_password_reads_stdin_and_prints_only_the_hash(harness: Harness) -> None:
    hashed = harness.doorbell_process("hash-password", stdin=b"a long enough one\n")
    named = harness.doorbell("hash-password", "ada", stdin=b"a long enough one\n")
    short = harness.doorbell("hash-password", stdin=b"short\n")

    assert 0 == hashed.returncode
    environ = {"REDIS_URL": "redis://127.0.0.1:1", "SECRET_KEY": "0123456789abcdef"}
    settings = read_environment(environ | {"CONSOLE_PASSWORD_HASH": hashed.stdout.strip()})
    assert PasswordHasher().verify(settings.console_password_hash or "", "a long enough one")
    assert "$" not in hashed.stdout  # compose and shells expand it
    assert named.stdout.startswith("ada:argon2id.")
    assert (2, "") == (short.returncode, short.stdout)


# Lists and filters


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


def test_show_and_visit_print_one_line_of_json(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "A-1", "--json")]

    assert [delivery] == [row["delivery"] for row in rows(busy, "show", delivery, "--json")]
    assert ["standard-A-1"] == [row["visit"] for row in rows(busy, "visit", "standard-A-1", "--json")]


def test_a_failure_shows_its_delivery_also_after_a_replay_with_a_contact(busy: Harness) -> None:
    [before] = rows(busy, "failures", "--json")

    busy.doorbell("replay", "standard-A-2", "--contact", "cont_bogus", "--yes")

    after = wait_until(lambda: [row for row in rows(busy, "failures", "--json") if "422" in row["reason"]])
    assert (before["delivery"], "standard") == (after[0]["delivery"], after[0]["hook"])


#: Control characters that set the title, ring the bell, clear the screen and change the text direction.
CONTROL_CHARACTERS = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\u200f\x9b31m\x7f\U000e0001"


@pytest.mark.parametrize("command", [["deliveries"], ["failures"], ["show"], ["visit"], ["overview"]], ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_text_of_a_sender_does_not_control_the_terminal(service: Harness, command: list[str], form: list[str]) -> None:
    response = service.send(
        f"visit.created{CONTROL_CHARACTERS}",
        f"A{CONTROL_CHARACTERS}",
        contact={"email": "ada@example.com", "last_name": CONTROL_CHARACTERS},
    )
    service.send(
        "visit.created",
        f"B{CONTROL_CHARACTERS}",
        contact={"first_name": CONTROL_CHARACTERS},
        time_scheduled="2026-03-15T16:00:00Z",
    )
    wait_until(lambda: rows(service, "failures", "--json"))
    [failure] = rows(service, "failures", "--json")
    subject = {
        "show": [response.json()["delivery"], "--show-personal-data"],
        "visit": [failure["id"], "--show-personal-data"],
    }

    result = service.doorbell(*command, *subject.get(command[0], []), *form)

    assert result.stdout
    assert [] == [char for char in result.stdout + result.stderr if not char.isprintable() and char != "\n"]


def test_json_escapes_unprintable_characters_and_tables_replace_them() -> None:
    assert {"a": CONTROL_CHARACTERS, "é": "日本"} == json.loads(to_json({"a": CONTROL_CHARACTERS, "é": "日本"}))
    assert "é 日本" in to_json("é 日本")
    assert "a\N{REPLACEMENT CHARACTER}b c é" == printable("a\u202eb\tc\xa0é")


@pytest.mark.parametrize("command", ["replay", "discard"])
@pytest.mark.parametrize("option", ["--visit", "--search", "--hook", "--source", "--reason"])
def test_an_empty_option_is_rejected(busy: Harness, command: str, option: str) -> None:
    """An unset variable of a script must not widen the selection."""
    result = busy.doorbell(command, option, "", "--since", "7d", "--yes")

    assert 2 == result.returncode
    assert f"{option} is empty" in result.stderr


def test_a_discard_by_filter_shows_its_plan_and_needs_a_confirmation(busy: Harness) -> None:
    planned = busy.doorbell("discard", "--reason", "contact", "--dry-run")
    unconfirmed = busy.doorbell("discard", "--source", "standard")
    without_match = [
        busy.doorbell("discard", *options, "--yes").returncode for options in (["--hook", "other"], ["--state", "held"])
    ]

    assert "1 selected: 1 would be discarded, 0 skipped" in planned.stdout
    assert 1 == planned.stdout.count("would be discarded")
    assert "standard-A-2" in planned.stdout
    assert (2, planned.stdout) == (unconfirmed.returncode, unconfirmed.stdout)
    assert [5, 5] == without_match
    assert 1 == len(rows(busy, "failures", "--json"))

    assert 0 == busy.doorbell("discard", "--search", "A-2", "--yes").returncode

    assert 5 == busy.doorbell("failures").returncode
    assert {(b"started discard", "state parked, search … (1)".encode())} == set(activity_of(busy))


def test_a_plan_that_skips_everything_starts_no_operation(busy: Harness) -> None:
    [row] = rows(busy, "discard", "standard-A-1", "--json")

    assert ("standard-A-1", "nothing_to_discard") == (row["id"], row["state"])
    assert [] == activity_of(busy)


@pytest.fixture
def idle(harness: Harness) -> Harness:
    """Return a service with one parked visit and without a worker."""
    harness.env |= {"CONTACT_FOR_S": "0.2"}
    harness.start_web()
    worker = harness.start_worker()
    harness.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(harness, "failures", "--json"))
    worker.kill()
    harness.redis_command("DEL", "bell:workers")
    return harness


def test_a_replay_without_a_worker_stays_queued_until_a_worker_starts(
    idle: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.replay.NO_WORKER_AFTER_S", 0.1)

    result = idle.doorbell("replay", "standard-A-2", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    [operation] = rows(idle, "operations", "--json")
    assert (4, "queued") == (result.returncode, operation["state"])
    assert "no worker is running" in result.stderr
    assert f"doorbell cancel {operation['operation']}" in result.stderr
    idle.start_worker()
    assert wait_until(lambda: idle.visit("standard-A-2"))


def test_a_contact_that_is_neither_an_address_nor_an_id_is_a_usage_error(harness: Harness) -> None:
    result = harness.doorbell("replay", "standard-1", "--contact", "Ada Lovelace", "--yes")

    assert 2 == result.returncode
    assert "A contact is an e-mail address, or an id of Review Rover (cont_…)." in result.stderr


def test_an_interrupted_command_says_that_the_replay_continues(idle: Harness) -> None:
    arguments = ["replay", "standard-A-2", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes"]
    with subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=idle.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        [operation] = wait_until(lambda: rows(idle, "operations", "--json"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert (130, True) == (process.returncode, f"doorbell cancel {operation['operation']}" in errors.decode())
    idle.start_worker()
    assert wait_until(lambda: idle.visit("standard-A-2"))


def test_an_operation_stores_the_ids_of_a_search_instead_of_the_address(busy: Harness) -> None:
    assert 0 == busy.doorbell("replay", "--search", "ada@example.com", "--recheck", "--yes").returncode

    [operation] = rows(busy, "operations", "--json")
    assert "ids standard-A-1" == operation["filter"]
    assert [(b"started replay", "search … (1), recheck".encode())] == activity_of(busy)


def test_discard_continues_after_an_unknown_id(busy: Harness) -> None:
    result = busy.doorbell("discard", "standard-nobody", "standard-A-2", "--yes", "--json")

    states = {row["id"]: row["state"] for row in map(json.loads, result.stdout.splitlines())}
    assert (6, {"standard-nobody": "unknown", "standard-A-2": "discarded"}) == (result.returncode, states)
    assert 5 == busy.doorbell("discard", "standard-nobody", "--yes").returncode


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
    assert 5 == harness.doorbell("rejections", "--hook", "calendly").returncode
    assert [("standard", 1), ("standard", 1)] == [
        (row["hook"], row["count"]) for row in rows(harness, "rejections", "--by-cause", "--json")
    ]
    [cause] = rows(harness, "rejections", "--by-cause", "--reason", "mismatch", "--json")
    assert "The signature does not match" == cause["cause"]
    assert 5 == harness.doorbell("rejections", "--by-cause", "--reason", "foreign").returncode


# Export


def test_export_writes_csv_or_ndjson(busy: Harness) -> None:
    table = list(csv.DictReader(busy.doorbell("export", "deliveries").stdout.splitlines()))
    assert {"standard-A-1": "applied", "standard-A-2": "parked"} == {row["visits"]: row["state"] for row in table}

    visits = rows(busy, "export", "visits", "--format", "ndjson")
    assert {"standard-A-1": "2026-03-14T16:00:00Z", "standard-A-2": "2026-03-15T16:00:00Z"} == {
        row["visit"]: row["event_date"] for row in visits
    }
    [parked] = csv.DictReader(busy.doorbell("export", "visits", "--state", "parked").stdout.splitlines())
    assert ("standard-A-2", "contact_unknown", "") == (parked["visit"], parked["reason"], parked["email"])
    assert 5 == busy.doorbell("export", "visits", "--hook", "calendly").returncode


def test_an_export_of_visits_has_the_filter_options_of_the_lists(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "standard-A-1", "--json")]

    def matches(*options: str) -> list[str]:
        return [row["visit"] for row in rows(busy, "export", "visits", *options, "--format", "ndjson")]

    for query in ("A-1", delivery):
        assert ["standard-A-1"] == matches("--search", query), query
    assert ["standard-A-2"] == matches("--visit", "A-2")
    assert ["standard-A-1"] == matches("--search", "A-1", "--state", "done", "--hook", "standard", "--since", "1h")
    for options in (("--state", "parked"), ("--until", "2020-01-01"), ("--visit", "A-2")):
        assert [] == matches("--search", "A-1", *options), options
    assert 5 == busy.doorbell("export", "visits", "--search", "A-3").returncode


LISTS = ("deliveries", "visits")


def test_an_export_with_personal_data_needs_a_confirmation_and_is_recorded(busy: Harness) -> None:
    hidden = [busy.doorbell("export", name, "--format", format) for name in LISTS for format in ("csv", "ndjson")]
    unconfirmed = busy.doorbell("export", "visits", "--show-personal-data")
    revealed = [busy.doorbell("export", name, "--show-personal-data", "--yes", "--format", "ndjson") for name in LISTS]

    assert [] == [word for word in PERSONAL for result in hidden if word in result.stdout + result.stderr]
    assert (2, "") == (unconfirmed.returncode, unconfirmed.stdout)
    assert [] == [word for word in PERSONAL for result in revealed if word not in result.stdout]
    assert [b"exported deliveries", b"exported visits"] == [action for action, _ in activity_of(busy)]


def test_csv_contains_no_formulas(service: Harness) -> None:
    evil = {
        "email": "eve@example.com",
        "first_name": '=HYPERLINK("https://x.example.com","a")',
        "last_name": 'a "b", c\nd',
    }
    service.send(
        "visit.created", "A-1", contact=evil | {"phone": "+15550100001"}, time_scheduled="2026-03-14T16:00:00Z"
    )
    wait_until(lambda: service.visit("standard-A-1"))

    result = service.doorbell("export", "visits", "--show-personal-data", "--yes")

    [row] = csv.DictReader(io.StringIO(result.stdout, newline=""))
    assert "'" + evil["first_name"] == row["first_name"]
    assert ("'+15550100001", evil["last_name"]) == (row["phone"], row["last_name"])


# Tail


def test_tail_shows_deliveries_attempts_and_rejections_until_sigint(service: Harness) -> None:
    command = [sys.executable, "-m", "app", "tail", "--json", "--source", "standard"]
    with Server(command, free_port(), "", service.env) as tail:

        def shown(visit: str = "") -> list[dict[str, Any]]:
            lines = tail.log.read_text().splitlines(keepends=True)
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
            return [row for row in rows if not visit or row["visits"] == [visit]]

        # The command prints nothing when it is ready, so send deliveries until it shows one.
        numbers = itertools.count()
        wait_until(
            lambda: service.send("visit.created", f"A-{next(numbers)}", contact=ADA, time_scheduled=TIME) and shown()
        )
        service.send("visit.created", "B-1", contact=ADA, time_scheduled=TIME)
        wait_until(lambda: {"delivery", "attempt"} == {row["kind"] for row in shown("standard-B-1")}, 30)
        service.post(b"{}", {})
        wait_until(lambda: "rejection" in {row["kind"] for row in shown()}, 30)
        assert 130 == tail.kill(signal.SIGINT)
        rows = shown()

    [attempt] = [row for row in rows if row["visits"] == ["standard-B-1"] and row["kind"] == "attempt"]
    assert "POST /visits 201" in attempt["calls"]
    [rejection] = [row for row in rows if row["kind"] == "rejection"]
    assert ("standard", "signature_missing") == (rejection["hook"], rejection["reason"])
    assert [] == [word for word in PERSONAL if word in str(rows)]


@pytest.mark.parametrize(
    ("expected", "row"),
    [
        (
            " → standard  visit.created  d1a2  standard-A-1",
            {"kind": "delivery", "event": "visit.created", "ignored": None},
        ),
        (
            " → standard  a b  d1a2  ignored: b c",
            {"kind": "delivery", "event": "a\tb", "ignored": "b\nc", "visits": []},
        ),
        (" × standard  signature_missing  no header", {"kind": "rejection", "detail": "no header", "cause": ""}),
        (
            " ← standard-A-1  created  POST /visits 201  12 ms",
            {"kind": "attempt", "outcome": "created", "calls": ["POST /visits 201"], "took_ms": 12, "response": None},
        ),
    ],
)
def test_tail_shows_one_line_for_people(expected: str, row: dict[str, Any]) -> None:
    base = {"hook": "standard", "delivery": "d1a2", "visits": ["standard-A-1"], "reason": "signature_missing"}

    line = _line(base | {"at": "2026-03-14T16:00:00.250Z"} | row)

    assert (".250", expected) == (line[8:12], line[12:])


TIME = "2026-03-14T16:00:00Z"


def test_a_closed_pipe_causes_no_error(busy: Harness) -> None:
    for number in range(30):
        busy.send("visit.created", f"C-{number}", contact=ADA, time_scheduled=TIME)
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m app deliveries --json | head -n 1 >/dev/null"],
        cwd=ROOT,
        env=busy.env,
        capture_output=True,
        text=True,
    )

    assert (0, "") == (result.returncode, result.stderr)


# Secrets, verify, completion


def test_secrets_are_listed_with_fingerprints_and_last_matches(harness: Harness) -> None:
    secrets = {"HOOKS__STANDARD__SECRETS": f"whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ= {SECRET}"}
    harness.start_web(**secrets)
    assert 202 == harness.send("visit.created", "A-1", time_scheduled=TIME).status_code
    harness.web_server.kill(signal.SIGTERM)

    result = harness.doorbell("secrets", "--json", **secrets)

    listed = {(row["hook"], row["secret"]): row for row in map(json.loads, result.stdout.splitlines())}
    assert {("standard", 1), ("standard", 2), ("calendly", 1)} == listed.keys()
    printed = harness.doorbell("secrets", "fingerprint", stdin=f"{SECRET}\n".encode(), **secrets).stdout.strip()
    assert printed == listed["standard", 2]["fingerprint"]
    assert not hashlib.sha256(SECRET.encode()).hexdigest().startswith(printed), "a plain hash could be looked up"
    assert listed["standard", 2]["last_matched"]
    assert None is listed["standard", 1]["last_matched"]
    assert SECRET not in result.stdout + result.stderr


def test_a_generated_secret_is_accepted_in_the_settings(harness: Harness) -> None:
    for source in ("standard", "calendly"):
        secret, second = [harness.doorbell("secrets", "generate", source).stdout.strip() for _ in range(2)]
        assert secret != second
        assert 0 == harness.doorbell("secrets", **{f"HOOKS__{source.upper()}__SECRETS": secret}).returncode
        assert len(secret) > 40
    for source in ("gohighlevel", "square"):  # the tool has a key pair; the tool shows its key
        refused = harness.doorbell("secrets", "generate", source)
        assert (3, "") == (refused.returncode, refused.stdout)
        assert "generates its secrets itself" in refused.stderr


EAST = {"HOOKS__EAST__SOURCE": "calendly", "HOOKS__EAST__SECRETS": "a-signing-key-of-the-hook-east"}


def test_secrets_and_steps_of_a_hook_name_its_own_variables(harness: Harness) -> None:
    generated = harness.doorbell("secrets", "generate", "east", **EAST)
    steps = harness.doorbell("sources", "east", **EAST)

    assert (0, 0) == (generated.returncode, steps.returncode)
    assert "HOOKS__EAST__SECRETS" in generated.stderr
    assert [True, True, False] == [
        text in steps.stdout for text in ("HOOKS__EAST__SECRETS", "/hooks/east", "HOOKS__CALENDLY")
    ]


def test_ring_signs_for_the_hook_in_the_url(harness: Harness) -> None:
    url = f"{harness.start_web(**EAST).url}/hooks/east"

    assert 0 == harness.doorbell("ring", "calendly", "1", "--to", url, **EAST).returncode
    assert 3 == harness.doorbell("ring", "calendly", "1", "--to", url).returncode  # without the secret of the hook


def test_verify_explains_an_invalid_signature(harness: Harness, tmp_path: Path) -> None:
    raw = standard_body("visit.created", "A-1")
    file = tmp_path / "headers.txt"
    lines = [f"{name}: {value}" for name, value in sign_standard(raw).items()]
    file.write_text("\r\n".join(["POST /hooks/standard HTTP/1.1", "Host: bell.example.com", *lines, ""]))
    command = ["verify", "standard", "--headers", str(file)]

    valid = harness.doorbell_process(*command, stdin=raw)
    with_newline = harness.doorbell(*command, "--json", stdin=raw + b"\n")
    early = harness.doorbell(*command, "--at", "2020-01-01", stdin=raw)

    assert (0, "valid: secret 1 of 1") == (valid.returncode, valid.stdout[:20])
    diagnosis = json.loads(with_newline.stdout)
    assert (3, False, "body") == (with_newline.returncode, diagnosis["is_valid"], diagnosis["findings"][0]["kind"])
    assert (3, True) == (early.returncode, "\nclock: " in early.stdout)
    assert SECRET not in valid.stdout + with_newline.stdout + early.stdout
    assert 5 == harness.doorbell("verify", "square", stdin=raw).returncode
    assert 2 == harness.doorbell("verify", "standard", "--header", "no colon", stdin=raw).returncode


def completed(harness: Harness, *words: str) -> list[str]:
    env = {"_DOORBELL_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(["doorbell", *words])}
    result = harness.doorbell(**env, COMP_CWORD=str(len(words)))
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


def test_names_are_completed(harness: Harness) -> None:
    assert ["deliveries", "demo", "discard", "doctor"] == sorted(completed(harness, "d"))
    assert ["calcom", "calendly"] == completed(harness, "ring", "cal")
    assert ["calendly"] == completed(harness, "failures", "--hook", "cal")
    assert ["an\\ invitee\\ books\\ and\\ pays"] == completed(harness, "ring", "calendly", "an\\ invitee\\ b")
    for shell in ("bash", "zsh", "fish"):
        assert "_DOORBELL_COMPLETE" in harness.doorbell(_DOORBELL_COMPLETE=f"{shell}_source").stdout


def test_ids_and_reasons_are_completed_from_redis(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "A-1", "--json")]

    assert delivery in completed(busy, "show", "")
    assert {"standard-A-1", "standard-A-2"} == set(completed(busy, "visit", "standard-A-"))
    assert ["standard-A-2"] == completed(busy, "replay", "")
    assert ["contact_unknown"] == completed(busy, "failures", "--reason", "")
    assert [] == completed(busy, "cancel", "")


def test_nothing_is_completed_without_redis(harness: Harness) -> None:
    harness.env["REDIS_URL"] = "redis://127.0.0.1:1/0"

    assert [] == completed(harness, "show", "")
    assert "time_unknown" in completed(harness, "failures", "--reason", "ti")


def test_bash_inserts_a_name_with_blanks_as_one_word(harness: Harness, tmp_path: Path) -> None:
    program = tmp_path / "doorbell"
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'from app.cli import main; main(prog_name=\"doorbell\")' \"$@\"\n"
    )
    program.chmod(0o755)
    script = r"""
    eval "$(_DOORBELL_COMPLETE=bash_source doorbell)"
    COMP_WORDS=(doorbell ring calendly 'an\ inv') COMP_CWORD=3
    _doorbell_completion doorbell
    printf '%s\n' "${COMPREPLY[@]}"
    """
    env = harness.env | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)

    assert [r"an\ invitee\ books\ and\ pays"] == result.stdout.splitlines(), result.stderr


@pytest.mark.parametrize(
    ("command", "question"),
    [
        (["failurs"], "there is no command failurs; did you mean failures?"),
        (["retry"], "there is no command retry; did you mean replay?"),
        (["failures", "--source", "calendy"], "there is no source calendy; did you mean calendly?"),
        (["sources", "calendy"], "there is no source calendy; did you mean calendly?"),
        (["pause", "calendy"], "there is no hook calendy; did you mean calendly?"),
        (["verify", "calendy"], "there is no hook calendy, or it has no secret; did you mean calendly?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_most_similar_one(
    harness: Harness, command: list[str], question: str
) -> None:
    result = harness.doorbell(*command)

    assert result.returncode in (2, 5)
    assert question in result.stderr


# Status


def test_the_overview_has_a_sentence_and_numbers(harness: Harness) -> None:
    harness.env["CONTACT_FOR_S"] = "0.2"
    harness.start_web()
    process = harness.start_worker().process
    harness.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(harness, "failures", "--json"))
    [worker] = wait_until(lambda: rows(harness, "workers", "--json"))

    [report] = rows(harness, "overview", "--json")
    output = harness.doorbell("overview").stdout

    assert process
    assert (socket.gethostname(), process.pid) == (worker["host"], worker["pid"])
    assert worker["since"] <= worker["seen"]
    assert "warn" == report["status"]
    assert output.startswith("One failure needs attention: No e-mail address (")
    assert "\n    doorbell failures\n" in output
    assert "NEEDS ATTENTION" in output
    assert (1, 0) == (report["states"]["parked"], report["states"]["queued"])
    [failures] = report["failures"]
    assert ("contact_unknown", "standard", 1) == (failures["reason"], failures["source"], failures["count"])
    [hook] = [hook for hook in report["hooks"] if hook["last"]]
    assert ("standard", 1) == (hook["name"], len(report["workers"]))
    assert datetime.fromisoformat(hook["last"]) <= datetime.now(UTC)
    assert 24 == len(report["hours"])
    assert [title for title in ("states", "failures", "hooks", "workers") if f"\n{title}\n" in output] == [
        "states", "failures", "hooks", "workers",
    ]  # fmt: skip


def test_visit_shows_the_visit_in_the_api(busy: Harness) -> None:
    url = f"{busy.env['VISITS_API_URL']}/visits/standard-A-1"
    busy.http.put(url, data={"amount_collected": "7.00"}, headers={"authorization": "Bearer t"}).raise_for_status()

    [existing] = rows(busy, "visit", "standard-A-1", "--remote", "--json")
    [missing] = rows(busy, "visit", "standard-A-2", "--remote", "--json")

    assert (None, "7.00") == (existing["remote"].get("amount_collected"), existing["remote_now"]["amount_collected"])
    assert missing["remote_now"] is None
    assert [(b"fetched remote visit", b"standard-A-1"), (b"fetched remote visit", b"standard-A-2")] == activity_of(busy)


def test_operations_of_the_console_are_listed_and_cancelled(service: Harness) -> None:
    request = OperationRequest(
        kind="discard",
        filter=Filter(state="parked", reason="422"),
        actor="ada",
        expected=7,
        planned_at_ms=1_795_600_000_000,
    )

    async def create(request: OperationRequest) -> str:
        settings = read_environment(service.env)
        async with open_ledger(settings) as ledger:
            operations = Operations(ledger, settings)
            # While an operation is locked, no worker starts the next one.
            await ledger.redis.command("SET", "bell:operation:locked:lock", 1, "EX", 60)
            await ledger.redis.command("ZADD", "bell:operations:open", 0, "locked")
            return await operations.create(request)

    assert 5 == service.doorbell("operations").returncode
    id = asyncio.run(create(request))

    [row] = rows(service, "operations", "--json")
    statuses = [service.doorbell("cancel", name).returncode for name in (id, id, "nobody")]

    assert (id, "ada", "discard", "queued", 7) == tuple(
        row[name] for name in ("operation", "actor", "kind", "state", "expected")
    )
    assert "state parked, reason 422" == row["filter"]
    assert [0, 5, 5] == statuses
    assert ["cancelled"] == [row["state"] for row in rows(service, "operations", "--json")]
    service.redis_command("DEL", "bell:operations:open", "bell:operation:locked:lock")


def test_activity_lists_actions_newest_first(busy: Harness) -> None:
    for command in ("pause", "resume"):
        busy.doorbell(command, "standard")

    first = busy.doorbell("activity", "--limit", "1", "--json")
    [newest] = map(json.loads, first.stdout.splitlines())
    [older] = rows(busy, "activity", "--cursor", newest["id"], "--json")

    assert [("resumed", "main"), ("paused", "main")] == [(line["action"], line["target"]) for line in (newest, older)]
    assert newest["actor"].endswith("(command line)")
    assert f"--cursor {newest['id']}" in first.stderr


def test_activity_names_the_user_of_the_computer(busy: Harness) -> None:
    busy.doorbell("pause", "standard", LOGNAME="ada", SUDO_USER="")
    busy.doorbell("resume", "standard", LOGNAME="root", SUDO_USER="grace")

    names = [row["actor"] for row in rows(busy, "activity", "--json")]

    assert ["grace (command line)", "ada (command line)"] == names


def test_activity_is_filtered(busy: Harness) -> None:
    busy.doorbell("pause", "standard")
    busy.doorbell("visit", "standard-A-1", "--show-personal-data")

    def actions_of(*options: str) -> list[str]:
        result = busy.doorbell("activity", "--json", *options)
        return [json.loads(line)["action"] for line in result.stdout.splitlines()]

    assert ["revealed visit", "paused"] == actions_of("--user", "command line", "--since", "1h")
    assert ["revealed visit"] == actions_of("standard-A-1")
    assert ["paused"] == actions_of("--action", "pause")
    assert [] == actions_of("--until", "1h")
    assert [] == actions_of("--user", "nobody")


def test_settings_are_shown_without_secrets(harness: Harness) -> None:
    values = {row["name"]: row["value"] for row in rows(harness, "settings", "--json")}

    assert ("set", "not set") == (values["VISITS_API_TOKEN"], values["CONSOLE_PASSWORD_HASH"])
    assert (harness.env["VISITS_API_URL"], "30", "standard, calendly") == tuple(
        values[name] for name in ("VISITS_API_URL", "RETENTION_DAYS", "HOOKS__…")
    )
    assert SECRET not in str(values)


# Help


def test_help_imports_no_command() -> None:
    code = """
import sys
from app.cli import main
main(["--help"], standalone_mode=False)
heavy = {"asyncio", "pydantic", "redis", "httpx", "aiohttp", "cryptography", "starlette", "uvicorn", "jinja2"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == result.stderr.strip()
    assert "deliveries" in result.stdout


def test_a_command_imports_only_what_it_needs(harness: Harness) -> None:
    """HTTP clients, the libraries of the worker and most sources would double the time until the command starts."""
    code = """
import atexit, sys
from app.cli import main
atexit.register(lambda: print(*sys.modules))
main(["failures"])
"""
    env = harness.env | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)

    imported = set(result.stdout.split())
    assert 5 == result.returncode, result.stderr
    assert "app.ledger.ledger" in imported
    assert set() == imported & {
        "httpx",
        "redis",
        "arq",
        "jwt",
        "starlette",
        "app.operators.erasure",
        "app.sources.zoom",
    }


@pytest.mark.parametrize("name", [name for section in COMMANDS.values() for name in section])
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert 0 == result.exit_code
    assert f"    doorbell {name}" in result.output


def test_version_prints_the_version_of_the_package() -> None:
    result = CliRunner().invoke(main, ["--version"], prog_name="doorbell")

    assert (0, f"doorbell {__version__}\n") == (result.exit_code, result.stdout)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(None, "app/sources/calendly.json is missing"), ("{", "app/sources/calendly.json is not valid JSON")],
    ids=["missing", "broken"],
)
def test_a_source_without_readable_specimens_is_reported_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "calendly.json").write_text(text)
    monkeypatch.setattr(registry, "files", lambda _: tmp_path)

    result = CliRunner().invoke(main, ["ring", "calendly"])

    assert 3 == result.exit_code
    assert result.output.startswith(sentence)


def test_a_module_that_cannot_be_imported_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise NameError("name 'Hmac' is not defined")

    monkeypatch.setattr(registry.importlib, "import_module", fail)

    with pytest.raises(
        InvalidSource, match=r"^app/sources/calcom\.py cannot be imported: NameError: name 'Hmac' is not"
    ):
        registry._load_source("calcom")


def test_a_module_that_is_no_source_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise InvalidSource("app/sources/fresha.py declares no SOURCE = Source(…)")

    monkeypatch.setattr("app.cli.sources.load_sources", fail)

    result = CliRunner().invoke(main, ["ring", "calendly"])

    assert (3, "app/sources/fresha.py declares no SOURCE = Source(…)\n") == (result.exit_code, result.output)


def test_a_list_has_the_same_columns_whatever_its_rows_have(busy: Harness) -> None:
    def columns(*command: str) -> list[str]:
        return re.split(r" {2,}", busy.doorbell(*command).stdout.splitlines()[0])

    before = columns("failures")
    busy.redis_command("HSET", "bell:visit:main/standard-A-2", "failed_attempts", "2")

    assert before == columns("failures")
    assert ["ID", "PROBLEM", "REASON", "SINCE", "ATTEMPTS", "HOOK", "DELIVERY"] == before
    assert columns("deliveries") == columns("deliveries", "--state", "parked")


# For people


def test_show_accepts_every_id_that_failures_lists(service: Harness) -> None:
    raw = b'{"type":"visit.created","data":{}}'
    service.post(raw, sign_standard(raw))
    service.send("visit.created", "A-2", time_scheduled="2026-03-15T16:00:00Z")
    failures = wait_until(lambda: (listed := rows(service, "failures", "--json"))[1:] and listed)

    shown = {row["id"]: service.doorbell("show", row["id"]) for row in failures}

    assert {"standard-A-2"} < shown.keys()
    assert [0, 0] == [result.returncode for result in shown.values()]
    assert [] == [id for id, result in shown.items() if f"    doorbell discard {id} --yes" not in result.stdout]
    assert "`doorbell show ID` says what helps" in service.doorbell("failures").stderr


def test_a_visit_that_needs_attention_says_why_and_what_helps(busy: Harness) -> None:
    text = busy.doorbell("visit", "standard-A-2", "--utc").stdout

    assert [
        "✘ standard-A-2  Standard Webhooks",
        "  Needs attention: No e-mail address (contact_unknown).",
        "  The booking came without an e-mail address, so Review Rover cannot tell whose visit this is.",
        "  → Enter the customer's e-mail address or contact id, and replay.",
        "  → Add the address at the tool, which sends the booking again.",
        "  → Discard the failure: no review request will be sent.",
        "    doorbell replay standard-A-2 --contact EMAIL --yes",
        "    doorbell discard standard-A-2 --yes",
    ] == text.splitlines()[:8]
    assert "Mar 15, 4:00 PM UTC, " in text


def test_a_visit_shows_its_changes_and_which_values_count(service: Harness) -> None:
    for number, at in enumerate(("2026-03-02T09:00:00Z", "2026-03-01T09:00:00Z"), 1):
        service.send("visit.updated", "A-1", at, contact=ADA, time_scheduled=f"2026-03-1{number}T16:00:00Z")
    wait_until(lambda: service.visit("standard-A-1"))

    text = service.doorbell("visit", "standard-A-1", "--utc").stdout

    first, second = [line for line in text.splitlines() if "  update  " in line]
    assert "starts Mar 11, 4:00 PM UTC, contact •••" in first
    assert "contact, starts" in first
    assert "starts Mar 12, 4:00 PM UTC, contact •••" in second
    assert "nothing: newer values count" in second
    assert "in Review Rover  visit " in text


def test_a_delivery_quotes_what_the_api_says(busy: Harness) -> None:
    busy.doorbell("replay", "standard-A-2", "--contact", "cont_bogus", "--yes")
    [failure] = wait_until(lambda: [row for row in rows(busy, "failures", "--json") if "422" in row["reason"]])

    shown, listed = busy.doorbell("show", failure["delivery"]).stdout, busy.doorbell("failures").stdout

    assert "contact_id" in failure["detail"]
    assert f"  It says: “{failure['detail']}”\n" in shown
    assert f"The values are rejected: {failure['detail']}" in listed
    assert "    doorbell discard standard-A-2 --yes\n" in shown


def in_terminal(harness: Harness, width: int, *command: str, **env: str) -> str:
    """Run a command in a terminal of this width. Return what it prints."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "app", *command],
        cwd=ROOT,
        env={**harness.env, "TERM": "xterm", "COLUMNS": "", **env},
        stdout=terminal,
        stderr=subprocess.PIPE,
    ):
        os.close(terminal)
        printed = b""
        with suppress(OSError):  # the end of a terminal is an error
            while chunk := os.read(reader, 65_536):
                printed += chunk
    os.close(reader)
    return printed.decode().replace("\r\n", "\n")


def test_a_terminal_of_80_columns_gets_lines_that_fit_with_symbols(busy: Harness) -> None:
    busy.post(b"{}", {})
    delivery = rows(busy, "failures", "--json")[0]["delivery"]
    commands = [["deliveries"], ["failures"], ["overview"], ["doctor"], ["visit", "standard-A-2"], ["show", delivery]]

    printed = {command[0]: in_terminal(busy, 80, *command, NO_COLOR="1") for command in commands}

    assert {} == {
        name: long for name, text in printed.items() if (long := [line for line in text.splitlines() if len(line) > 80])
    }
    assert "\x1b" not in "".join(printed.values())
    assert f"✘ {delivery}  parked\n  at: " in printed["deliveries"]
    assert "\n✔ redis " in printed["doctor"]
    assert "standard-A-2\n  problem: No e-mail address · reason: contact_unknown\n" in printed["failures"]


def test_states_have_colours_on_a_terminal_only(busy: Harness) -> None:
    assert "\x1b[31m✘\x1b[0m parked" in in_terminal(busy, 160, "deliveries")
    assert "\x1b" not in in_terminal(busy, 160, "deliveries", TERM="dumb")
    assert "✘" not in busy.doorbell("deliveries").stdout
