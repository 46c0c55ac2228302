"""The command line: what an operator types, and what a script gets."""

import asyncio
import csv
import hashlib
import io
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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
from app.demo.valkey import free_port, valkey
from app.operators.filter import Filter
from app.operators.operations import OperationRequest, Operations
from app.settings.environment import read_environment
from tests.processes.test_worker import LedgerClient
from tests.support.harness import ROOT, SECRET, Harness, Server, sign_standard, standard_body, wait_until

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
PERSONAL = ("ada@example.com", "Lovelace", "+15550100001")


@pytest.fixture(scope="module")
def shared_service(sandbox: Server) -> Iterator[Harness]:
    """A door and a worker that does not wait long for an e-mail."""
    with valkey() as url, Harness(url, sandbox) as harness:
        harness.env |= {"SECRET_KEY": "key-of-the-tests", "CONTACT_FOR_S": "0.2"}
        harness.start_web()
        harness.start_worker()
        yield harness


@pytest.fixture
def service(shared_service: Harness) -> Iterator[Harness]:
    """Empty; what a test leaves undone is done before the next one."""
    shared_service.reset()
    yield shared_service
    wait_until(LedgerClient(shared_service.redis_url).is_done)


@pytest.fixture
def busy(service: Harness) -> Harness:
    """One visit applied, one without an e-mail, whose wait is over."""
    service.send("visit.created", "A-1", "2026-03-01T09:00:00Z", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    service.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(service, "deliveries", "--state", "applied", "--json"))
    wait_until(lambda: rows(service, "failures", "--json"))
    return service


def noted(harness: Harness) -> list[tuple[bytes, bytes]]:
    """What the audit log says was done, and of what."""
    return [(fields[5], fields[7]) for _, fields in harness.redis_command("XRANGE", "bell:activity", "-", "+")]


def rows(harness: Harness, *command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in harness.doorbell(*command).stdout.splitlines()]


def test_what_happened_can_be_asked_in_every_way(busy: Harness) -> None:
    first, second = sorted(rows(busy, "deliveries", "--json"), key=lambda row: row["visits"])

    assert (["standard-A-1"], "applied", "visit.created") == (first["visits"], first["state"], first["event"])
    assert (["standard-A-2"], "parked") == (second["visits"], second["state"])
    told = json.loads(busy.doorbell("show", first["delivery"]).stdout)
    assert [{"visit": "standard-A-1", "state": "applied"}] == told["changes"]
    assert "Applied: the Visits API has its values." == told["summary"]
    story = json.loads(busy.doorbell("visit", "standard-A-1").stdout)
    assert "2026-03-14T16:00:00Z" == story["facts"]["time_scheduled"]["value"]
    assert first["delivery"] == story["facts"]["time_scheduled"]["delivery"]
    calls = ["GET /visits/:id 404", "GET /contacts 200", "POST /contacts 201", "POST /visits 201"]
    assert [calls] == [attempt["calls"] for attempt in story["attempts"]]
    assert told["attempts"] == story["attempts"]


def test_nothing_personal_is_shown_unless_it_is_asked_for(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    commands = [["deliveries"], ["deliveries", "--json"], ["show", delivery], ["visit", "standard-A-1"], ["failures"]]

    shown = "".join(ran.stdout + ran.stderr for ran in (busy.doorbell(*command) for command in commands))

    assert [] == [word for word in PERSONAL if word in shown]


def test_what_is_revealed_is_in_the_audit_log(busy: Harness) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    shown = [
        busy.doorbell(*command, "--show-personal-data") for command in (["visit", "standard-A-1"], ["show", delivery])
    ]
    unknown = busy.doorbell("show", "d0", "--show-personal-data")

    assert [True, True] == ["ada@example.com" in ran.stdout for ran in shown]
    [visit] = json.loads("[" + shown[0].stdout + "]")
    assert "ada@example.com" == visit["changes"][0]["fields"]["contact.email"]
    assert 5 == unknown.returncode
    assert [
        (b"revealed visit", b"standard-A-1: everything"),
        (b"revealed delivery", f"{delivery}: everything".encode()),
    ] == noted(busy)


def test_what_is_paused_waits_and_goes_out_when_it_is_resumed(busy: Harness) -> None:
    unknown, paused, again = (busy.doorbell("pause", hook) for hook in ("nobody", "calendly", "standard"))
    rang = busy.send("visit.created", "A-3", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")
    before = len(busy.calls())
    held = wait_until(lambda: rows(busy, "deliveries", "--state", "held", "--json"))
    told = next(row for row in rows(busy, "doctor", "--json") if row["check"] == "visits_api.circuit")

    assert [5, 0, 5] == [ran.returncode for ran in (unknown, paused, again)]
    assert "calendly, standard: calls for the account main are paused" in paused.stderr
    assert (202, ["standard-A-3"]) == (rang.status_code, held[0]["visits"])
    assert ("warn", "`doorbell resume calendly`") == (told["result"], told["fix"])
    assert before == len(busy.calls())

    resumed, twice = busy.doorbell("resume", "standard"), busy.doorbell("resume", "standard")

    assert [0, 5] == [ran.returncode for ran in (resumed, twice)]
    wait_until(lambda: busy.visit("standard-A-3"))
    assert {(b"paused", b"main"), (b"resumed", b"main")} == set(noted(busy))


def test_a_failure_is_replayed_with_a_contact_that_an_operator_names(busy: Harness) -> None:
    [failure] = rows(busy, "failures", "--json")

    replayed = busy.doorbell("replay", failure["id"], "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    assert ("standard-A-2", "contact_unknown") == (failure["id"], failure["reason"])
    assert 0 == replayed.returncode
    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    assert 5 == busy.doorbell("failures").returncode


def test_a_failure_is_discarded_and_a_newer_change_still_counts(busy: Harness) -> None:
    assert 0 == busy.doorbell("discard", "standard-A-2", "--yes").returncode
    assert 5 == busy.doorbell("failures").returncode

    busy.send("visit.updated", "A-2", "2026-03-02T09:00:00Z", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")

    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "2026-03-16T16:00:00Z" == visit["time_scheduled"]


def test_a_replay_of_what_stands_changes_nothing(busy: Harness) -> None:
    before = busy.visit("standard-A-1")
    calls = len(busy.calls())

    busy.doorbell("replay", "standard-A-1", "--recheck", "--yes")

    wait_until(lambda: len(busy.calls()) == calls + 1)
    assert "GET /visits/:id" == busy.calls()[-1]
    assert before == busy.visit("standard-A-1")


def test_ring_sends_a_signed_specimen_and_a_wrong_secret_is_told(service: Harness) -> None:
    to = f"{service.web_server.url}/hooks/calendly"

    rung = service.doorbell("ring", "calendly", "an invitee books", "--to", to)
    refused = service.doorbell("ring", "calendly", "1", "--to", to, HOOKS__CALENDLY__SECRETS="another-secret-of-tests")

    assert (0, 1) == (rung.returncode, json.loads(rung.stdout)["changes"])
    assert (3, "signature_mismatch") == (refused.returncode, json.loads(refused.stdout)["error"])
    assert "an invitee books" in service.doorbell("ring", "calendly").stdout


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
def test_the_exit_status_says_what_kind_of_end_it_was(
    harness: Harness, status: int, command: list[str], env: dict[str, str]
) -> None:
    ran = harness.doorbell(*command, **env)

    assert status == ran.returncode, ran.stderr


@pytest.mark.parametrize(
    ("status", "command", "at"),
    [(0, "sources", ""), (3, "failures", ""), (4, "failures", "redis://127.0.0.1:1/0")],
)
def test_a_process_ends_with_the_status_of_its_command(harness: Harness, status: int, command: str, at: str) -> None:
    ran = harness.doorbell_process(command, REDIS_URL=at)

    assert status == ran.returncode, ran.stderr
    assert (status == 0) == bool(ran.stdout)
    assert "Traceback" not in ran.stderr


def test_doctor_names_each_trouble_with_its_fix(harness: Harness) -> None:
    def doctor(**env: str) -> tuple[int, dict[str, dict[str, str]]]:
        ran = harness.doorbell("doctor", "--json", **env)
        return ran.returncode, {row["check"]: row for row in map(json.loads, ran.stdout.splitlines())}

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


def test_a_healthy_doorbell_has_a_healthy_doctor(harness: Harness) -> None:
    harness.start_worker()

    ran = wait_until(lambda: (told := harness.doorbell("doctor")).returncode == 0 and told)

    assert "1 running" in ran.stdout


# -- replay --


def test_a_replay_shows_its_plan_and_waits_for_a_yes(busy: Harness) -> None:
    planned = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--dry-run")
    unasked = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj")

    assert 0 == planned.returncode
    assert "1 selected: 1 would be requeued, 0 skipped" in planned.stdout
    assert "time_scheduled=2026-03-15T16:00:00Z" in planned.stdout
    assert (2, planned.stdout) == (unasked.returncode, unasked.stdout)
    assert "--yes" in unasked.stderr
    assert ["standard-A-2"] == [row["id"] for row in rows(busy, "failures", "--json")]


def test_a_replay_tells_each_as_json_and_an_unknown_id_does_not_stop_the_others(busy: Harness) -> None:
    ids = ("standard-A-2", "standard-nobody", "standard-A-1")

    ran = busy.doorbell("replay", *ids, "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes", "--json")

    told = {row["id"]: row["state"] for row in map(json.loads, ran.stdout.splitlines())}
    assert 6 == ran.returncode
    assert ("queued", "unknown") == (told["standard-A-2"], told["standard-nobody"])
    assert wait_until(lambda: busy.visit("standard-A-2"))


def test_nobodys_name_is_in_a_plan(busy: Harness) -> None:
    shown = [
        busy.doorbell("replay", "--source", "standard", "--dry-run", *more) for more in ([], ["--json"], ["--recheck"])
    ]

    text = "".join(ran.stdout + ran.stderr for ran in shown)
    assert "standard-A-1" in text
    assert [] == [word for word in PERSONAL if word in text]


def test_a_password_is_read_from_stdin_and_only_its_hash_is_written(harness: Harness) -> None:
    made = harness.doorbell_process("hash-password", stdin=b"a long enough one\n")
    short = harness.doorbell("hash-password", stdin=b"short\n")

    assert 0 == made.returncode
    assert PasswordHasher().verify(made.stdout.strip(), "a long enough one")
    assert (2, "") == (short.returncode, short.stdout)


# -- lists and their words --


def ids(harness: Harness, *command: str) -> list[str]:
    return [visit for row in rows(harness, *command, "--json") for visit in row["visits"]]


def test_deliveries_are_found_by_whatever_one_has(service: Harness) -> None:
    raw = standard_body("visit.created", "A-1", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    delivery = service.post(raw, sign_standard(raw) | {"x-request-id": "req-7f3a"}).json()["delivery"]
    service.send("visit.created", "A-2", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: service.visit("standard-A-1"))
    wait_until(lambda: rows(service, "failures", "--json"))
    wait_until(lambda: rows(service, "deliveries", "--search", "req-7f3a", "--json"))

    def found(*words: str) -> list[str]:
        return ids(service, "deliveries", *words)

    for had in ("A-1", "standard-A-1", delivery, "req-7f3a", " ADA@example.com", "+1 (555) 010-0001"):
        assert ["standard-A-1"] == found("--search", had), had
    assert ["standard-A-1"] == found("--visit", "A-1")
    exported = service.doorbell("export", "visits", "--search", "ada@example.com", "--format", "ndjson")
    assert ["standard-A-1"] == [json.loads(line)["visit"] for line in exported.stdout.splitlines()]
    assert [] == found("--search", "ada@example.com", "--state", "superseded")
    assert [] == found("--visit", "A-1", "--search", "A-2")
    assert [] == found("--search", "A-1", "--hook", "calendly")


def test_lists_take_the_words_of_replay(busy: Harness) -> None:
    assert ["standard-A-1"] == ids(busy, "deliveries", "--state", "applied")
    assert ["standard-A-2"] == ids(busy, "deliveries", "--state", "parked")
    assert ["standard-A-2"] == ids(busy, "deliveries", "--reason", "contact")
    assert {"standard-A-1", "standard-A-2"} == set(ids(busy, "deliveries", "--source", "standard", "--since", "1h"))
    assert [] == ids(busy, "deliveries", "--until", "1h")
    assert [] == ids(busy, "deliveries", "--hook", "calendly")
    for words, count in (
        (["--reason", "contact_unknown"], 1),
        (["--search", "A-2"], 1),
        (["--visit", "standard-A-2", "--since", "1h"], 1),
        (["--search", "A-1"], 0),
        (["--reason", "422"], 0),
        (["--until", "1h"], 0),
        (["--hook", "calendly"], 0),
    ):
        assert count == len(rows(busy, "failures", *words, "--json")), words


def test_a_list_says_where_it_goes_on(busy: Harness) -> None:
    first = busy.doorbell("deliveries", "--limit", "1", "--json")
    mark = re.search(r"--cursor (\S+),", first.stderr)
    assert mark

    rest = busy.doorbell("deliveries", "--cursor", mark[1], "--json")

    seen = [json.loads(ran.stdout)["visits"] for ran in (first, rest)]
    assert [["standard-A-2"], ["standard-A-1"]] == seen
    assert "" == rest.stderr


def test_a_story_is_one_line_as_json(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "A-1", "--json")]

    assert [delivery] == [row["delivery"] for row in rows(busy, "show", delivery, "--json")]
    assert ["standard-A-1"] == [row["visit"] for row in rows(busy, "visit", "standard-A-1", "--json")]


def test_a_failure_names_the_delivery_that_it_came_of_also_after_an_operators_word(busy: Harness) -> None:
    [before] = rows(busy, "failures", "--json")

    busy.doorbell("replay", "standard-A-2", "--contact", "cont_bogus", "--yes")

    after = wait_until(lambda: [row for row in rows(busy, "failures", "--json") if "422" in row["reason"]])
    assert (before["delivery"], "standard") == (after[0]["delivery"], after[0]["hook"])


#: A title is set, the screen cleared, the direction turned, twice as C1 and once behind the basic plane; and a bell.
STEERING = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\u200f\x9b31m\x7f\U000e0001"


@pytest.mark.parametrize("command", [["deliveries"], ["failures"], ["show"], ["visit"], ["overview"]], ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_what_a_sender_writes_does_not_steer_the_terminal(
    service: Harness, command: list[str], form: list[str]
) -> None:
    rang = service.send(
        f"visit.created{STEERING}", f"A{STEERING}", contact={"email": "ada@example.com", "last_name": STEERING}
    )
    service.send(
        "visit.created", f"B{STEERING}", contact={"first_name": STEERING}, time_scheduled="2026-03-15T16:00:00Z"
    )
    wait_until(lambda: rows(service, "failures", "--json"))
    [failure] = rows(service, "failures", "--json")
    subject = {
        "show": [rang.json()["delivery"], "--show-personal-data"],
        "visit": [failure["id"], "--show-personal-data"],
    }

    told = service.doorbell(*command, *subject.get(command[0], []), *form)

    assert told.stdout
    assert [] == [one for one in told.stdout + told.stderr if not one.isprintable() and one != "\n"]


def test_a_line_of_json_says_what_was_written_and_a_cell_shows_where_something_was() -> None:
    assert {"a": STEERING, "é": "日本"} == json.loads(to_json({"a": STEERING, "é": "日本"}))
    assert "é 日本" in to_json("é 日本")
    assert "a\N{REPLACEMENT CHARACTER}b c é" == printable("a\u202eb\tc\xa0é")


@pytest.mark.parametrize("command", ["replay", "discard"])
@pytest.mark.parametrize("option", ["--visit", "--search", "--hook", "--source", "--reason"])
def test_a_value_that_a_script_left_empty_does_not_widen_what_is_meant(
    busy: Harness, command: str, option: str
) -> None:
    told = busy.doorbell(command, option, "", "--since", "7d", "--yes")

    assert 2 == told.returncode
    assert f"{option} is empty" in told.stderr


def test_what_fits_a_filter_is_discarded_after_a_plan(busy: Harness) -> None:
    planned = busy.doorbell("discard", "--reason", "contact", "--dry-run")
    unasked = busy.doorbell("discard", "--source", "standard")
    none = [
        busy.doorbell("discard", *words, "--yes").returncode for words in (["--hook", "other"], ["--state", "held"])
    ]

    assert "1 selected: 1 would be discarded, 0 skipped" in planned.stdout
    assert "standard-A-2" in planned.stdout
    assert (2, planned.stdout) == (unasked.returncode, unasked.stdout)
    assert [5, 5] == none
    assert 1 == len(rows(busy, "failures", "--json"))

    assert 0 == busy.doorbell("discard", "--search", "A-2", "--yes").returncode

    assert 5 == busy.doorbell("failures").returncode
    assert {(b"started discard", "state parked, search … (1)".encode())} == set(noted(busy))


def test_a_plan_with_nothing_to_do_does_nothing(busy: Harness) -> None:
    [told] = rows(busy, "discard", "standard-A-1", "--json")

    assert ("standard-A-1", "nothing_to_discard") == (told["id"], told["state"])
    assert [] == noted(busy)


@pytest.fixture
def idle(harness: Harness) -> Harness:
    """One parked visit, and no worker that is alive."""
    harness.env |= {"CONTACT_FOR_S": "0.2"}
    harness.start_web()
    worker = harness.start_worker()
    harness.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(harness, "failures", "--json"))
    worker.kill()
    harness.redis_command("DEL", "bell:workers")
    return harness


def test_a_replay_without_a_worker_stays_queued_until_one_runs_it(
    idle: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.replay.NO_WORKER_AFTER_S", 0.1)

    ran = idle.doorbell("replay", "standard-A-2", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    [operation] = rows(idle, "operations", "--json")
    assert (4, "queued") == (ran.returncode, operation["state"])
    assert "no worker is running" in ran.stderr
    assert f"doorbell cancel {operation['operation']}" in ran.stderr
    idle.start_worker()
    assert wait_until(lambda: idle.visit("standard-A-2"))


def test_an_interrupted_replay_continues_and_the_command_says_so(idle: Harness) -> None:
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


def test_a_search_is_stored_as_ids_not_as_an_address(busy: Harness) -> None:
    assert 0 == busy.doorbell("replay", "--search", "ada@example.com", "--recheck", "--yes").returncode

    [operation] = rows(busy, "operations", "--json")
    assert "ids standard-A-1" == operation["filter"]
    assert [(b"started replay", "search … (1)".encode())] == noted(busy)


def test_discard_goes_on_past_an_unknown_id(busy: Harness) -> None:
    ran = busy.doorbell("discard", "standard-nobody", "standard-A-2", "--yes", "--json")

    told = {row["id"]: row["state"] for row in map(json.loads, ran.stdout.splitlines())}
    assert (6, {"standard-nobody": "unknown", "standard-A-2": "discarded"}) == (ran.returncode, told)
    assert 5 == busy.doorbell("discard", "standard-nobody", "--yes").returncode


def test_what_was_not_let_in_is_told_with_its_likely_cause(harness: Harness) -> None:
    harness.start_web()
    raw = standard_body("visit.created", "A-1")
    harness.post(raw, sign_standard(raw, at=time.time() - 720))
    harness.post(raw, sign_standard(raw, secret="whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="))
    harness.web_server.kill(signal.SIGTERM)

    told = {row["reason"]: row for row in rows(harness, "rejections", "--json")}

    assert {"signature_stale", "signature_mismatch"} == told.keys()
    assert "12 min" in told["signature_stale"]["cause"]
    assert "secret" in told["signature_mismatch"]["cause"]
    assert ["signature_stale"] == [row["reason"] for row in rows(harness, "rejections", "--reason", "stale", "--json")]
    assert 5 == harness.doorbell("rejections", "--hook", "calendly").returncode


# -- export --


def test_an_export_is_csv_or_a_line_of_json_each(busy: Harness) -> None:
    table = list(csv.DictReader(busy.doorbell("export", "deliveries").stdout.splitlines()))
    assert {"standard-A-1": "applied", "standard-A-2": "parked"} == {row["visits"]: row["state"] for row in table}

    visits = rows(busy, "export", "visits", "--format", "ndjson")
    assert {"standard-A-1": "2026-03-14T16:00:00Z", "standard-A-2": "2026-03-15T16:00:00Z"} == {
        row["visit"]: row["event_date"] for row in visits
    }
    [parked] = csv.DictReader(busy.doorbell("export", "visits", "--state", "parked").stdout.splitlines())
    assert ("standard-A-2", "contact_unknown", "") == (parked["visit"], parked["reason"], parked["email"])
    assert 5 == busy.doorbell("export", "visits", "--hook", "calendly").returncode


def test_an_export_of_visits_takes_the_filters_of_the_lists(busy: Harness) -> None:
    [delivery] = [row["delivery"] for row in rows(busy, "deliveries", "--visit", "standard-A-1", "--json")]

    def found(*filter: str) -> list[str]:
        return [row["visit"] for row in rows(busy, "export", "visits", *filter, "--format", "ndjson")]

    for name in ("A-1", delivery):
        assert ["standard-A-1"] == found("--search", name), name
    assert ["standard-A-2"] == found("--visit", "A-2")
    assert ["standard-A-1"] == found("--search", "A-1", "--state", "done", "--hook", "standard", "--since", "1h")
    for other in (("--state", "parked"), ("--until", "2020-01-01"), ("--visit", "A-2")):
        assert [] == found("--search", "A-1", *other), other
    assert 5 == busy.doorbell("export", "visits", "--search", "A-3").returncode


WHAT = ("deliveries", "visits")


def test_an_export_reveals_nothing_personal_unless_that_is_confirmed_and_it_is_in_the_audit_log(busy: Harness) -> None:
    hidden = [busy.doorbell("export", what, "--format", kind) for what in WHAT for kind in ("csv", "ndjson")]
    unsaid = busy.doorbell("export", "visits", "--show-personal-data")
    revealed = [busy.doorbell("export", what, "--show-personal-data", "--yes", "--format", "ndjson") for what in WHAT]

    assert [] == [word for word in PERSONAL for ran in hidden if word in ran.stdout + ran.stderr]
    assert (2, "") == (unsaid.returncode, unsaid.stdout)
    assert [] == [word for word in PERSONAL for ran in revealed if word not in ran.stdout]
    assert [b"exported deliveries", b"exported visits"] == [did for did, _ in noted(busy)]


WHAT = ("deliveries", "visits")


def test_no_cell_of_a_spreadsheet_is_a_formula(service: Harness) -> None:
    evil = {
        "email": "eve@example.com",
        "first_name": '=HYPERLINK("https://x.example.com","a")',
        "last_name": 'a "b", c\nd',
    }
    service.send(
        "visit.created", "A-1", contact=evil | {"phone": "+15550100001"}, time_scheduled="2026-03-14T16:00:00Z"
    )
    wait_until(lambda: service.visit("standard-A-1"))

    ran = service.doorbell("export", "visits", "--show-personal-data", "--yes")

    [row] = csv.DictReader(io.StringIO(ran.stdout, newline=""))
    assert "'" + evil["first_name"] == row["first_name"]
    assert ("'+15550100001", evil["last_name"]) == (row["phone"], row["last_name"])


# -- tail --


def test_tail_tells_what_arrives_and_what_is_done_until_it_is_interrupted(service: Harness) -> None:
    command = [sys.executable, "-m", "app", "tail", "--json", "--source", "standard"]
    with Server(command, free_port(), "", service.env) as watching:

        def told(visit: str = "") -> list[dict[str, Any]]:
            lines = watching.log.read_text().splitlines(keepends=True)
            said = [json.loads(line) for line in lines if line.endswith("\n")]
            return [row for row in said if not visit or row["visits"] == [visit]]

        # It says nothing when it begins: ring until it hears.
        numbers = itertools.count()
        wait_until(
            lambda: service.send("visit.created", f"A-{next(numbers)}", contact=ADA, time_scheduled=TIME) and told()
        )
        service.send("visit.created", "B-1", contact=ADA, time_scheduled=TIME)
        wait_until(lambda: {"delivery", "attempt"} == {row["kind"] for row in told("standard-B-1")}, 30)
        service.post(b"{}", {})
        wait_until(lambda: "rejection" in {row["kind"] for row in told()}, 30)
        assert 130 == watching.kill(signal.SIGINT)
        rows = told()

    [attempt] = [row for row in rows if row["visits"] == ["standard-B-1"] and row["kind"] == "attempt"]
    assert "POST /visits 201" in attempt["calls"]
    [refusal] = [row for row in rows if row["kind"] == "rejection"]
    assert ("standard", "signature_missing") == (refusal["hook"], refusal["reason"])
    assert [] == [word for word in PERSONAL if word in str(rows)]


TIME = "2026-03-14T16:00:00Z"


def test_nothing_is_said_of_a_reader_who_reads_no_further(busy: Harness) -> None:
    for number in range(30):
        busy.send("visit.created", f"C-{number}", contact=ADA, time_scheduled=TIME)
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m app deliveries --json | head -n 1 >/dev/null"],
        cwd=ROOT,
        env=busy.env,
        capture_output=True,
        text=True,
    )

    assert (0, "") == (ran.returncode, ran.stderr)


# -- secrets, verify, completion --


def test_secrets_are_told_by_their_fingerprints_and_when_they_last_matched(harness: Harness) -> None:
    secrets = {"HOOKS__STANDARD__SECRETS": f"whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ= {SECRET}"}
    harness.start_web(**secrets)
    assert 202 == harness.send("visit.created", "A-1", time_scheduled=TIME).status_code
    harness.web_server.kill(signal.SIGTERM)

    ran = harness.doorbell("secrets", "--json", **secrets)

    told = {(row["hook"], row["secret"]): row for row in map(json.loads, ran.stdout.splitlines())}
    assert {("standard", 1), ("standard", 2), ("calendly", 1)} == told.keys()
    printed = harness.doorbell("secrets", "fingerprint", stdin=f"{SECRET}\n".encode(), **secrets).stdout.strip()
    assert printed == told["standard", 2]["fingerprint"]
    assert not hashlib.sha256(SECRET.encode()).hexdigest().startswith(printed), "a dictionary must not find it"
    assert told["standard", 2]["last_matched"]
    assert None is told["standard", 1]["last_matched"]
    assert SECRET not in ran.stdout + ran.stderr


def test_a_generated_secret_is_one_that_the_hook_takes(harness: Harness) -> None:
    for source in ("standard", "calendly"):
        made = [harness.doorbell("secrets", "generate", source).stdout.strip() for _ in range(2)]
        assert made[0] != made[1]
        assert 0 == harness.doorbell("secrets", **{f"HOOKS__{source.upper()}__SECRETS": made[0]}).returncode
        assert len(made[0]) > 40
    assert 3 == harness.doorbell("secrets", "generate", "gohighlevel").returncode


def test_verify_says_why_a_signature_does_not_hold(harness: Harness, tmp_path: Path) -> None:
    raw = standard_body("visit.created", "A-1")
    file = tmp_path / "headers.txt"
    lines = [f"{name}: {value}" for name, value in sign_standard(raw).items()]
    file.write_text("\r\n".join(["POST /hooks/standard HTTP/1.1", "Host: bell.example.com", *lines, ""]))
    command = ["verify", "standard", "--headers", str(file)]

    right = harness.doorbell_process(*command, stdin=raw)
    newline = harness.doorbell(*command, "--json", stdin=raw + b"\n")
    late = harness.doorbell(*command, "--at", "2020-01-01", stdin=raw)

    assert (0, "valid: secret 1 of 1") == (right.returncode, right.stdout[:20])
    told = json.loads(newline.stdout)
    assert (3, False, "body") == (newline.returncode, told["is_valid"], told["findings"][0]["kind"])
    assert (3, True) == (late.returncode, "\nclock: " in late.stdout)
    assert SECRET not in right.stdout + newline.stdout + late.stdout
    assert 5 == harness.doorbell("verify", "square", stdin=raw).returncode
    assert 2 == harness.doorbell("verify", "standard", "--header", "no colon", stdin=raw).returncode


def test_names_are_completed(harness: Harness) -> None:
    def completed(*words: str) -> list[str]:
        env = {"_DOORBELL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["doorbell", *words])}
        ran = harness.doorbell(**env, COMP_CWORD=str(len(words)))
        return [line.partition(",")[2] for line in ran.stdout.splitlines()]

    assert ["deliveries", "demo", "discard", "doctor"] == sorted(completed("d"))
    assert ["calcom", "calendly"] == completed("ring", "cal")
    assert ["calendly"] == completed("failures", "--hook", "cal")
    assert ["an invitee books and pays"] == completed("ring", "calendly", "an\\ invitee\\ b")
    for shell in ("bash", "zsh", "fish"):
        assert "_DOORBELL_COMPLETE" in harness.doorbell(_DOORBELL_COMPLETE=f"{shell}_source").stdout


# -- how it stands, and who did what --


def test_the_overview_is_a_sentence_and_the_numbers_behind_it(harness: Harness) -> None:
    harness.env["CONTACT_FOR_S"] = "0.2"
    harness.start_web()
    process = harness.start_worker().process
    harness.send("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rows(harness, "failures", "--json"))
    [worker] = wait_until(lambda: rows(harness, "workers", "--json"))

    [told] = rows(harness, "overview", "--json")
    shown = harness.doorbell("overview").stdout

    assert process
    assert (socket.gethostname(), process.pid) == (worker["host"], worker["pid"])
    assert worker["since"] <= worker["seen"]
    assert "warn" == told["status"]
    assert shown.startswith("One failure needs you: contact_unknown, from")
    assert (1, 0) == (told["states"]["parked"], told["states"]["queued"])
    [failures] = told["failures"]
    assert ("contact_unknown", "standard", 1) == (failures["reason"], failures["source"], failures["count"])
    [ringing] = [hook for hook in told["hooks"] if hook["last"]]
    assert ("standard", 1) == (ringing["name"], len(told["workers"]))
    assert datetime.fromisoformat(ringing["last"]) <= datetime.now(UTC)
    assert 24 == len(told["hours"])
    assert [title for title in ("states", "failures", "hooks", "workers") if f"\n{title}\n" in shown] == [
        "states", "failures", "hooks", "workers",
    ]  # fmt: skip


def test_what_the_api_has_now_can_be_asked(busy: Harness) -> None:
    url = f"{busy.env['VISITS_API_URL']}/visits/standard-A-1"
    busy.http.put(url, data={"amount_collected": "7.00"}, headers={"authorization": "Bearer t"}).raise_for_status()

    [there] = rows(busy, "visit", "standard-A-1", "--remote", "--json")
    [absent] = rows(busy, "visit", "standard-A-2", "--remote", "--json")

    assert (None, "7.00") == (there["remote"].get("amount_collected"), there["remote_now"]["amount_collected"])
    assert absent["remote_now"] is None
    assert [(b"fetched remote visit", b"standard-A-1"), (b"fetched remote visit", b"standard-A-2")] == noted(busy)


def test_operations_of_the_console_are_listed_and_cancelled(service: Harness) -> None:
    order = OperationRequest(
        kind="discard",
        filter=Filter(state="parked", reason="422"),
        actor="ada",
        expected=7,
        planned_at_ms=1_795_600_000_000,
    )

    async def started(*orders: OperationRequest) -> list[str]:
        settings = read_environment(service.env)
        async with open_ledger(settings) as ledger:
            operations = Operations(ledger, settings)
            # No worker takes up the second while this one is in hand.
            await ledger.redis.command("SET", "bell:operation:in-hand:lock", 1, "EX", 60)
            await ledger.redis.command("ZADD", "bell:operations:open", 0, "in-hand")
            return [await operations.create(order) for order in orders]

    assert 5 == service.doorbell("operations").returncode
    [id] = asyncio.run(started(order))

    [told] = rows(service, "operations", "--json")
    ended = [service.doorbell("cancel", name).returncode for name in (id, id, "nobody")]

    assert (id, "ada", "discard", "queued", 7) == tuple(
        told[n] for n in ("operation", "actor", "kind", "state", "expected")
    )
    assert "state parked, reason 422" == told["filter"]
    assert [0, 5, 5] == ended
    assert ["cancelled"] == [row["state"] for row in rows(service, "operations", "--json")]
    service.redis_command("DEL", "bell:operations:open", "bell:operation:in-hand:lock")


def test_who_did_what_is_told_newest_first(busy: Harness) -> None:
    for command in ("pause", "resume"):
        busy.doorbell(command, "standard")

    first = busy.doorbell("activity", "--limit", "1", "--json")
    [newest] = map(json.loads, first.stdout.splitlines())
    [older] = rows(busy, "activity", "--cursor", newest["id"], "--json")

    assert [("resumed", "main"), ("paused", "main")] == [(line["action"], line["target"]) for line in (newest, older)]
    assert newest["actor"].endswith("(command line)")
    assert f"--cursor {newest['id']}" in first.stderr


def test_settings_are_told_without_their_secrets(harness: Harness) -> None:
    told = {row["name"]: row["value"] for row in rows(harness, "settings", "--json")}

    assert ("set", "not set") == (told["VISITS_API_TOKEN"], told["CONSOLE_PASSWORD_HASH"])
    assert (harness.env["VISITS_API_URL"], "30", "standard, calendly") == tuple(
        told[name] for name in ("VISITS_API_URL", "RETENTION_DAYS", "HOOKS__…")
    )
    assert SECRET not in str(told)


# -- help --


def test_help_imports_no_command() -> None:
    look = """
import sys
from app.cli import main
main(["--help"], standalone_mode=False)
heavy = {"asyncio", "pydantic", "redis", "httpx", "aiohttp", "cryptography", "starlette", "uvicorn", "jinja2"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == ran.stderr.strip()
    assert "deliveries" in ran.stdout


@pytest.mark.parametrize("name", [name for section in COMMANDS.values() for name in section])
def test_every_command_helps_with_an_example_of_its_own(name: str) -> None:
    ran = CliRunner().invoke(main, [name, "--help"])

    assert 0 == ran.exit_code
    assert f"    doorbell {name}" in ran.output


def test_the_version_is_the_one_of_the_package() -> None:
    ran = CliRunner().invoke(main, ["--version"], prog_name="doorbell")

    assert (0, f"doorbell {__version__}\n") == (ran.exit_code, ran.stdout)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")
