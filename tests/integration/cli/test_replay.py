"""`doorbell replay`, `discard`, `cancel` and `operations`."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from app.cli.session import open_ledger
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import Cause, Lease
from app.ledger.redis import Redis
from app.operators.filter import Filter
from app.operators.operations import OperationRequest, Operations
from app.settings.environment import read_environment
from tests.support.command_line import ADA, PERSONAL, TIME, activity_of, in_2026, rows
from tests.support.harness import Harness, wait_until
from tests.support.ledger import accept, change, parked, visit_task
from tests.support.processes import start_process


def test_a_failure_is_replayed_with_the_contact_of_an_operator(busy: Harness) -> None:
    [failure] = rows(busy, "failures", "--json")

    replayed = busy.doorbell("replay", failure["id"], "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes")

    assert ("standard-A-2", "contact_unknown") == (failure["id"], failure["reason"])
    assert 0 == replayed.returncode
    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "cont_KYdl3lftgZXGRbxqoj" == visit["contact_id"]
    assert 5 == busy.doorbell("failures").returncode


def test_a_replay_of_an_applied_visit_changes_nothing(busy: Harness) -> None:
    before = busy.visit("standard-A-1")
    calls = len(busy.calls())

    busy.doorbell("replay", "standard-A-1", "--recheck", "--yes")

    wait_until(lambda: len(busy.calls()) == calls + 1)
    assert "GET /visits/:id" == busy.calls()[-1]
    assert before == busy.visit("standard-A-1")


def test_a_replay_that_fails_again_says_so_and_exits_with_6(busy: Harness) -> None:
    replayed = busy.doorbell("replay", "--state", "parked", "--yes")
    [operation] = rows(busy, "operations", "--json")
    [of_id] = rows(busy, "operations", operation["operation"], "--json")

    assert 6 == replayed.returncode
    assert "standard-A-2  Failed again: No e-mail address" in replayed.stdout
    assert "succeeded: 0; failed again: 1; pending: 0" in replayed.stderr
    assert "1 × No e-mail address: `doorbell failures --reason 'contact_unknown'`" in replayed.stderr
    assert (0, {"contact_unknown": 1}, 0) == (operation["succeeded"], operation["failed"], operation["pending"])
    assert operation | {"tasks": [{"outcome": "failed:contact_unknown", "id": "standard-A-2"}]} == of_id
    text = busy.doorbell("operations").stdout
    assert ["1 failed again" in text, "until 20" in text] == [True, False]
    assert "Failed again: No e-mail address  standard-A-2" in busy.doorbell("operations", operation["operation"]).stdout
    assert 5 == busy.doorbell("operations", "d0").returncode


async def test_more_tasks_of_an_operation_than_the_limit_are_mentioned(
    redis: Redis, harness: Harness, ledger: Ledger
) -> None:
    request = OperationRequest(kind="replay", filter=Filter(), actor="ada", expected=2, planned_at_ms=0)
    id = await Operations(ledger, read_environment(harness.env)).create(request)
    for visit in "AB":
        await accept(ledger, change(visit))
        await ledger.replay(TaskId(visit_task(visit)), cause=Cause(operation=id))

    limited = [harness.doorbell("operations", id, "--limit", "1", *options) for options in ([], ["--json"])]
    whole = harness.doorbell("operations", id, "--limit", "2")

    assert ["there are more: use a larger --limit than 1\n"] * 2 == [result.stderr for result in limited]
    assert "" == whole.stderr


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


def test_a_visit_that_fails_after_the_plan_does_not_get_its_contact(
    busy: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confirm(question: str, yes: bool) -> None:
        busy.send("visit.created", "A-3", contact={"first_name": "Bob"}, time_scheduled=TIME)
        wait_until(lambda: len(rows(busy, "failures", "--json")) == 2)

    monkeypatch.setattr("app.cli.replay.confirm", confirm)

    busy.doorbell("replay", "--state", "parked", "--contact", "grace@example.com")

    assert wait_until(lambda: busy.visit("standard-A-2"))
    assert ["standard-A-3"] == [row["id"] for row in rows(busy, "failures", "--json")]
    assert busy.visit("standard-A-3") is None


async def test_a_contact_is_for_the_visit_of_one_account(redis: Redis, harness: Harness, ledger: Ledger) -> None:
    secret = harness.env["HOOKS__STANDARD__SECRETS"]
    env = {"HOOKS__EAST__SOURCE": "standard", "HOOKS__EAST__SECRETS": secret, "HOOKS__EAST__VISITS_API_TOKEN": "east"}
    for account in ("main", "east"):
        await accept(ledger, change("A-2"), account=account, hook="standard" if account == "main" else "east")
        lease = await ledger.lease(TaskId.visit(account, "standard-A-2"))
        assert isinstance(lease, Lease)
        await ledger.complete(lease, parked())
    contact = ("--contact", "standard-A-2=grace@example.com", "--dry-run")

    ambiguous = harness.doorbell("replay", *contact, **env)
    of_hook = harness.doorbell("replay", "--visit", "standard-A-2", "--hook", "east", *contact, **env)

    assert (2, 0) == (ambiguous.returncode, of_hook.returncode)
    assert "several accounts have standard-A-2: select one with --visit and --hook" in ambiguous.stderr
    assert "1 selected" in of_hook.stdout


def test_a_contact_that_is_neither_an_address_nor_an_id_is_a_usage_error(harness: Harness) -> None:
    result = harness.doorbell("replay", "standard-1", "--contact", "Ada Lovelace", "--yes")

    assert 2 == result.returncode
    assert "A contact is an e-mail address, or an id of Review Rover (cont_…)." in result.stderr


def test_a_replay_shows_its_plan_and_needs_a_confirmation(busy: Harness) -> None:
    command = ["replay", "--state", "parked", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--utc"]
    planned, unconfirmed = busy.doorbell(*command, "--dry-run"), busy.doorbell(*command)

    assert 0 == planned.returncode
    assert "1 selected: 1 would be requeued, 0 skipped" in planned.stdout
    assert "standard-A-2  Needs attention  No e-mail address  POST /visits" in planned.stdout
    assert f"Start {in_2026('Mar 15', '4:00 PM UTC')}" in planned.stdout
    assert (2, planned.stdout) == (unconfirmed.returncode, unconfirmed.stdout)
    assert "--yes" in unconfirmed.stderr
    assert ["standard-A-2"] == [row["id"] for row in rows(busy, "failures", "--json")]


def test_a_plan_says_how_to_assign_a_missing_address(busy: Harness) -> None:
    without, with_address = [
        busy.doorbell("replay", "standard-A-2", *options, "--dry-run")
        for options in ([], ["--contact", "ada@example.com"])
    ]

    assert "1 would fail the same way: No e-mail address" in without.stdout
    assert "`doorbell replay ID --contact EMAIL` assigns" in without.stderr
    assert "" == with_address.stderr


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


@pytest.mark.parametrize("command", ["replay", "discard", "deliveries", "failures", "export visits", "audit"])
def test_an_empty_option_is_rejected(harness: Harness, command: str) -> None:
    """An unset variable of a script must not widen the selection."""
    options = ["--account"] if command == "audit" else ["--visit", "--search", "--hook", "--source", "--reason"]

    results = [harness.doorbell(*command.split(), option, "") for option in options]

    assert [2] * len(options) == [result.returncode for result in results]
    assert all(f"{option} is empty" in result.stderr for option, result in zip(options, results, strict=True))


@pytest.mark.parametrize("mode", ["--retranslate", "--reconcile"])
@pytest.mark.parametrize("option", [("--contact", "ada@example.com"), ("--recheck",)])
def test_an_option_without_effect_is_rejected(harness: Harness, mode: str, option: tuple[str, ...]) -> None:
    result = harness.doorbell("replay", "standard-A-2", mode, *option)

    assert (2, True) == (result.returncode, f"{option[0]} and {mode} cannot be combined" in result.stderr)


@pytest.mark.parametrize("command", ["move standard --to redis://127.0.0.1:1/0", "catch-up standard"])
def test_a_dry_run_cancels_nothing(harness: Harness, command: str) -> None:
    result = harness.doorbell(*command.split(), "--cancel", "--dry-run")

    assert (2, True) == (result.returncode, "--cancel and --dry-run cannot be combined" in result.stderr)


def test_a_plan_that_skips_everything_starts_no_operation(busy: Harness) -> None:
    [row] = rows(busy, "discard", "standard-A-1", "--json")

    assert ("standard-A-1", "nothing_to_discard") == (row["id"], row["state"])
    assert [] == activity_of(busy)


def test_an_operation_stores_the_ids_of_a_search_instead_of_the_address(busy: Harness) -> None:
    assert 0 == busy.doorbell("replay", "--search", "ada@example.com", "--recheck", "--yes").returncode

    [operation] = rows(busy, "operations", "--json")
    assert "standard-A-1" == operation["filter"]
    assert [(b"started replay", b"1 delivery found by a search, after a check of Review Rover")] == activity_of(busy)


def test_a_newer_change_is_applied_after_a_discard(busy: Harness) -> None:
    assert 0 == busy.doorbell("discard", "standard-A-2", "--yes").returncode
    assert 5 == busy.doorbell("failures").returncode

    busy.send("visit.updated", "A-2", "2026-03-02T09:00:00Z", contact=ADA, time_scheduled="2026-03-16T16:00:00Z")

    visit = wait_until(lambda: busy.visit("standard-A-2"))
    assert "2026-03-16T16:00:00Z" == visit["time_scheduled"]


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
    assert {(b"started discard", b"1 failure found by a search")} == set(activity_of(busy))


def test_discard_continues_after_an_unknown_id(busy: Harness) -> None:
    result = busy.doorbell("discard", "standard-nobody", "standard-A-2", "--yes", "--json")

    states = {row["id"]: row["state"] for row in map(json.loads, result.stdout.splitlines())}
    assert (6, {"standard-nobody": "unknown", "standard-A-2": "discarded"}) == (result.returncode, states)
    assert 5 == busy.doorbell("discard", "standard-nobody", "--yes").returncode


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
    cancelled = [service.doorbell("cancel", name) for name in (id, id, "nobody")]

    assert (id, "ada", "discard", "queued", 7) == tuple(
        row[name] for name in ("operation", "actor", "kind", "state", "expected")
    )
    assert "7 failures with the reason 422" == row["filter"]
    assert [0, 5, 5] == [result.returncode for result in cancelled]
    assert f"the discard {id} is cancelled" in cancelled[0].stderr
    assert cancelled[0].stderr.endswith("the other tasks are not changed\n")
    assert "no task was processed" in service.doorbell("operations").stdout
    assert ["cancelled"] == [row["state"] for row in rows(service, "operations", "--json")]
    service.redis_command("DEL", "bell:operations:open", "bell:operation:locked:lock")


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


def test_an_interrupted_command_says_that_the_replay_continues(idle: Harness, tmp_path: Path) -> None:
    arguments, log = ["replay", "standard-A-2", "--contact", "cont_KYdl3lftgZXGRbxqoj", "--yes"], tmp_path / "log"
    process = start_process([sys.executable, "-m", "app", *arguments], idle.env, log)
    [operation] = wait_until(lambda: rows(idle, "operations", "--json"))

    process.send_signal(signal.SIGINT)
    status = process.wait(20)

    assert (130, True) == (status, f"doorbell cancel {operation['operation']}" in log.read_text())
    idle.start_worker()
    assert wait_until(lambda: idle.visit("standard-A-2"))


def test_operations_show_the_times_of_a_selection_in_the_local_zone(busy: Harness) -> None:
    busy.doorbell("discard", "--since", "2026-01-02T15:00:00Z", "--yes")

    table = busy.doorbell("operations", "--utc").stdout
    [operation] = rows(busy, "operations", "--json")

    assert f"1 failure since {in_2026('Jan 2', '3:00 PM UTC')}  Done  " in table
    assert "1 failure since 2026-01-02T15:00:00.000Z" == operation["filter"]
