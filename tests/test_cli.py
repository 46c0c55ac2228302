"""The command line: what an operator types, and what a script gets."""

import json
import subprocess
import sys
from typing import Any

import pytest
from argon2 import PasswordHasher
from rig import CALENDLY_SECRET, ROOT, SECRET, Rig, wait_until

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
PERSONAL = ("ada@example.com", "Lovelace", "+15550100001")


@pytest.fixture
def busy(rig: Rig) -> Rig:
    """One visit applied, one without an e-mail, whose wait is over."""
    rig.web()
    rig.worker(CONTACT_FOR_S="0.2")
    rig.ring("visit.created", "A-1", "2026-03-01T09:00:00Z", contact=ADA, time_scheduled="2026-03-14T16:00:00Z")
    rig.ring("visit.created", "A-2", "2026-03-01T09:00:00Z", time_scheduled="2026-03-15T16:00:00Z")
    wait_until(lambda: rig.visit("standard-A-1"))
    wait_until(lambda: rows(rig, "failures", "--json"))
    return rig


def rows(rig: Rig, *command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rig.doorbell(*command).stdout.splitlines()]


def test_what_happened_can_be_asked_in_every_way(busy: Rig) -> None:
    first, second = sorted(rows(busy, "deliveries", "--json"), key=lambda row: row["visits"])

    assert (["standard-A-1"], "applied", "visit.created") == (first["visits"], first["state"], first["event"])
    assert (["standard-A-2"], "parked") == (second["visits"], second["state"])
    told = json.loads(busy.doorbell("show", first["delivery"]).stdout)
    assert [{"visit": "standard-A-1", "state": "applied"}] == told["changes"]
    story = json.loads(busy.doorbell("visit", "standard-A-1").stdout)
    assert "2026-03-14T16:00:00Z" == story["facts"]["time_scheduled"]["value"]
    assert first["delivery"] == story["facts"]["time_scheduled"]["said_by"]
    calls = ["GET /visits/:id 404", "GET /contacts 200", "POST /contacts 201", "POST /visits 201"]
    assert [calls] == [attempt["calls"] for attempt in story["attempts"]]


def test_nothing_personal_is_shown_unless_it_is_asked_for(busy: Rig) -> None:
    delivery = next(row["delivery"] for row in rows(busy, "deliveries", "--json") if row["visits"] == ["standard-A-1"])
    commands = [["deliveries"], ["deliveries", "--json"], ["show", delivery], ["visit", "standard-A-1"], ["failures"]]

    shown = "".join(ran.stdout + ran.stderr for ran in (busy.doorbell(*command) for command in commands))

    assert [] == [word for word in PERSONAL if word in shown]
    assert "ada@example.com" in busy.doorbell("visit", "standard-A-1", "--reveal").stdout


def test_a_failure_is_replayed_with_a_contact_that_an_operator_names(busy: Rig) -> None:
    [failure] = rows(busy, "failures", "--json")

    replayed = busy.doorbell("replay", failure["id"], "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    assert ("standard-A-2", "contact_unknown") == (failure["id"], failure["reason"])
    assert 0 == replayed.returncode
    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    assert 5 == busy.doorbell("failures").returncode


def test_a_failure_is_discarded_and_a_newer_change_still_counts(busy: Rig) -> None:
    assert 0 == busy.doorbell("discard", "standard-A-2", "--yes").returncode
    assert 5 == busy.doorbell("failures").returncode

    busy.ring("visit.updated", "A-2", "2026-03-02T09:00:00Z", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")

    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "2026-03-16T16:00:00Z" == visit["time_scheduled"]


def test_a_replay_of_what_stands_changes_nothing(busy: Rig) -> None:
    before = busy.visit("standard-A-1")
    calls = len(busy.calls())

    busy.doorbell("replay", "standard-A-1", "--fresh", "--yes")

    wait_until(lambda: len(busy.calls()) == calls + 1)
    assert "GET /visits/:id" == busy.calls()[-1]
    assert before == busy.visit("standard-A-1")


def test_ring_sends_a_signed_specimen_and_a_wrong_secret_is_told(rig: Rig) -> None:
    door = rig.web()
    to = f"{door.url}/hooks/calendly"
    ours = {"HOOKS__CALENDLY__SECRETS": CALENDLY_SECRET}

    rung = rig.doorbell("ring", "calendly", "an invitee books", "--to", to, **ours)
    refused = rig.doorbell("ring", "calendly", "1", "--to", to, HOOKS__CALENDLY__SECRETS="another")

    assert (0, 1) == (rung.returncode, json.loads(rung.stdout)["changes"])
    assert (3, "signature_mismatch") == (refused.returncode, json.loads(refused.stdout)["error"])
    assert "an invitee books" in rig.doorbell("ring", "calendly").stdout


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
    rig: Rig, status: int, command: list[str], env: dict[str, str]
) -> None:
    ran = rig.doorbell(*command, **env)

    assert status == ran.returncode, ran.stderr
    assert "Traceback" not in ran.stderr


def test_doctor_names_each_trouble_with_its_fix(rig: Rig) -> None:
    def doctor(**env: str) -> tuple[int, dict[str, dict[str, str]]]:
        ran = rig.doorbell("doctor", "--json", **env)
        return ran.returncode, {row["check"]: row for row in map(json.loads, ran.stdout.splitlines())}

    status, checks = doctor(HOOKS__ACUITY__SECRETS="s", HOOKS__SQUARE__SECRETS="")

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


def test_a_healthy_doorbell_has_a_healthy_doctor(rig: Rig) -> None:
    rig.worker()

    ran = wait_until(lambda: (told := rig.doorbell("doctor")).returncode == 0 and told)

    assert "at work" in ran.stdout


# -- replay --


def test_a_replay_shows_its_plan_and_waits_for_a_yes(busy: Rig) -> None:
    planned = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--plan")
    unasked = busy.doorbell("replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj")

    assert 0 == planned.returncode
    assert "1 selected: 1 would be put back to work, 0 skipped" in planned.stdout
    assert "time_scheduled=2026-03-15T16:00:00Z" in planned.stdout
    assert (2, planned.stdout) == (unasked.returncode, unasked.stdout)
    assert "--yes" in unasked.stderr
    assert ["standard-A-2"] == [row["id"] for row in rows(busy, "failures", "--json")]


def test_a_replay_tells_each_as_json_and_an_unknown_id_does_not_stop_the_others(busy: Rig) -> None:
    ids = ("standard-A-2", "standard-nobody", "standard-A-1")

    ran = busy.doorbell("replay", *ids, "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes", "--json")

    told = {row["id"]: row["state"] for row in map(json.loads, ran.stdout.splitlines())}
    assert 6 == ran.returncode
    assert ("queued", "unknown") == (told["standard-A-2"], told["standard-nobody"])
    assert wait_until(lambda: busy.visit("standard-A-2"))


def test_nobodys_name_is_in_a_plan(busy: Rig) -> None:
    shown = [busy.doorbell("replay", "--source", "standard", "--plan", *more) for more in ([], ["--json"], ["--fresh"])]

    text = "".join(ran.stdout + ran.stderr for ran in shown)
    assert "standard-A-1" in text
    assert [] == [word for word in PERSONAL if word in text]


def test_a_password_is_read_from_stdin_and_only_its_hash_is_written() -> None:
    def ran(given: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "app", "hash-password"]
        return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True)

    made = ran("a long enough one\n")

    assert 0 == made.returncode
    assert PasswordHasher().verify(made.stdout.strip(), "a long enough one")
    assert (2, "") == (ran("short\n").returncode, ran("short\n").stdout)
