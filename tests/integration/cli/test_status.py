"""The state of the system: `doorbell overview`, `doctor`, `settings`, `pause`, `resume` and `activity`."""

import json
import re
import socket
from datetime import UTC, datetime

from argon2 import PasswordHasher

from app.settings.environment import read_environment
from tests.support.command_line import ADA, activity_of, rows
from tests.support.harness import SECRET, Harness, wait_until
from tests.support.ledger_client import LedgerClient


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
    for title in ("states", "failures", "hooks, with the requests of the last 24 hours", "workers"):
        assert f"\n{title}\n" in output


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


def test_settings_are_shown_without_secrets(harness: Harness) -> None:
    values = {row["name"]: row["value"] for row in rows(harness, "settings", "--json")}

    assert ("set", "not set") == (values["VISITS_API_TOKEN"], values["CONSOLE_PASSWORD_HASH"])
    assert (harness.env["VISITS_API_URL"], "30", "standard, calendly") == tuple(
        values[name] for name in ("VISITS_API_URL", "RETENTION_DAYS", "HOOKS__…")
    )
    assert SECRET not in str(values)


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


def test_a_change_of_a_paused_account_is_applied_after_resume(busy: Harness) -> None:
    unknown, paused, repeated = (busy.doorbell("pause", hook) for hook in ("nobody", "calendly", "standard"))
    response = busy.send("visit.created", "A-3", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")
    before = len(busy.calls())
    held = wait_until(lambda: rows(busy, "deliveries", "--state", "held", "--json"))
    check = next(row for row in rows(busy, "doctor", "--json") if row["check"] == "visits_api.circuit")
    overview = busy.doorbell("overview").stdout

    assert [5, 0, 5] == [result.returncode for result in (unknown, paused, repeated)]
    assert "calendly, standard: calls for the account main are paused" in paused.stderr
    assert (202, ["standard-A-3"]) == (response.status_code, held[0]["visits"])
    assert ("warn", "`doorbell resume calendly`") == (check["result"], check["fix"])
    assert "1 change waits for the account main. Nothing is lost.\n    doorbell resume calendly\n" in overview
    assert re.search(r"\nmain +Paused by an operator +\S.* +1\n", overview)
    assert before == len(busy.calls())

    resumed, twice = busy.doorbell("resume", "standard"), busy.doorbell("resume", "standard")

    assert [0, 5] == [result.returncode for result in (resumed, twice)]
    wait_until(lambda: busy.visit("standard-A-3"))
    assert [(b"paused", b"main"), (b"resumed", b"main")] == activity_of(busy)


def test_an_account_without_hooks_is_resumed_by_its_name(harness: Harness) -> None:
    """Its hooks were removed from the settings while it was paused. Its tasks would be on hold forever."""
    client = LedgerClient(harness.redis_url)
    client.run(lambda ledger: ledger.pause("east"))

    [problem] = [each for each in rows(harness, "overview", "--json")[0]["problems"] if each["kind"] == "paused"]
    results = [harness.doorbell(command, "east") for command in ("pause", "resume", "resume")]

    assert "east" == problem["hook"]
    assert [5, 0, 5] == [result.returncode for result in results]
    assert "east: calls for the account east are resumed\n" == results[1].stderr
    assert not client.run(lambda ledger: ledger.is_paused("east"))
    assert [(b"resumed", b"east")] == activity_of(harness)


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
