"""The backlog: the age of overdue tasks, and the time without progress."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import CircuitSignal, Lease
from app.ledger.redis import Redis
from app.telemetry.health import load_backlog
from tests.support.harness import Harness
from tests.support.ledger import (
    accept,
    backdate,
    change,
    complete_run,
    done,
    end_circuit_pause,
    parked,
    start_run,
    visit_task,
    waiting,
)

DAY_S = 86_400


async def set_last_done(redis: Redis, seconds: int) -> None:
    """Set the time of the last finished task, in seconds before now."""
    now, _ = await redis.command("TIME")
    await redis.command("SET", "bell:last-done", (int(now) - seconds) * 1000)


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
async def test_the_age_of_overdue_tasks_is_reported_by_state(ledger: Ledger, redis: Redis, state: str) -> None:
    await accept(ledger, change("A"))
    if state != "queued":
        lease = await start_run(ledger, "A")
        if state == "waiting":
            await ledger.complete(lease, waiting(retry_in_s=60))
    assert 0 == round((await load_backlog(redis, ["main"])).oldest_s)

    await backdate(redis, state)

    backlog = await load_backlog(redis, ["main"])
    assert DAY_S - 90 < backlog.ages_s[state] < DAY_S + 5
    assert DAY_S - 90 < backlog.no_progress_s
    assert backlog.is_stalled


@pytest.mark.parametrize("at", [None, datetime(2020, 3, 14, tzinfo=UTC), datetime(2090, 3, 14, tzinfo=UTC)])
async def test_held_tasks_count_as_stalled_only_after_the_circuit_has_closed(
    ledger: Ledger, redis: Redis, at: datetime | None
) -> None:
    await accept(ledger, change("A", time_scheduled=at))
    signal = CircuitSignal(kind="unauthorized", pause_s=60)
    await ledger.complete(await start_run(ledger, "A", "main"), waiting(circuit_signal=signal), account="main")
    await accept(ledger, change("B", time_scheduled=at))
    await ledger.lease(visit_task("B"), "main")
    now, _ = await redis.command("TIME")
    day_ago = (int(now) - DAY_S) * 1000
    await redis.command("HSET", "bell:circuit:main", "since", day_ago)
    await redis.command("HSET", f"bell:{visit_task('B')}", "pending_since", day_ago)
    await redis.command("DEL", "bell:last-done")

    circuit_open = await load_backlog(redis, ["main"])
    await redis.command("HSET", "bell:circuit:main", "until", day_ago)
    probe_overdue = await load_backlog(redis, ["main"])
    await redis.command("HSET", "bell:move:main", "begun_at", day_ago)
    moving = await load_backlog(redis, ["main"])
    await redis.command("DEL", "bell:move:main")
    await redis.command("DEL", "bell:circuit:main")
    circuit_closed = await load_backlog(redis, ["main"])

    assert DAY_S == round(circuit_open.ages_s["held"], -2)
    assert not circuit_open.is_stalled
    assert probe_overdue.is_stalled  # no worker probes
    assert not moving.is_stalled  # nothing probes for an account that moves
    assert DAY_S == round(circuit_closed.no_progress_s, -2)
    assert circuit_closed.is_stalled


async def test_tasks_are_not_stalled_right_after_a_resume(ledger: Ledger, redis: Redis) -> None:
    await ledger.pause("main")
    await accept(ledger, change("A"))
    await ledger.lease(visit_task("A"), "main")
    now, _ = await redis.command("TIME")
    await redis.command("HSET", f"bell:{visit_task('A')}", "pending_since", (int(now) - DAY_S) * 1000)
    await set_last_done(redis, DAY_S)

    await ledger.pause("main", False)

    assert not (await load_backlog(redis, ["main"])).is_stalled


@pytest.mark.parametrize("ending", ["applied", "waits", "account-removed"])
async def test_tasks_are_not_stalled_right_after_a_circuit_closes(ledger: Ledger, redis: Redis, ending: str) -> None:
    """One release queues 200 of the held tasks, which are all older than the limit of a stall."""
    count = 210
    for number in range(count):
        await accept(ledger, change(f"v{number}"))
    limited = CircuitSignal(kind="rate_limited", pause_s=3_600)
    run = await start_run(ledger, "v0", "main")
    await ledger.complete(run, waiting(retry_in_s=60, circuit_signal=limited), account="main")
    for number in range(1, count):
        assert "held" == await ledger.lease(visit_task(f"v{number}"), "main")
        await redis.command("HINCRBY", f"bell:{visit_task(f'v{number}')}", "pending_since", -DAY_S * 1000)
    await set_last_done(redis, DAY_S)

    backlogs = [await load_backlog(redis, ["main"])]
    if ending == "account-removed":
        await ledger.delete_circuit("main")
    else:
        await end_circuit_pause(redis)
        assert 1 == await ledger.release_held("main")
        backlogs.append(await load_backlog(redis, ["main"]))
        [probe] = await ledger.task_ids("queued")
        success = CircuitSignal(kind="ok")
        outcome = done(circuit_signal=success) if ending == "applied" else waiting(circuit_signal=success)
        lease = await ledger.lease(probe, "main")
        assert isinstance(lease, Lease)
        await ledger.complete(lease, outcome, account="main")
    backlogs.append(await load_backlog(redis, ["main"]))
    assert 200 == await ledger.release_held("main")
    backlogs.append(await load_backlog(redis, ["main"]))

    assert not any(backlog.is_stalled for backlog in backlogs)


async def test_an_account_without_a_circuit_is_no_progress(ledger: Ledger, redis: Redis) -> None:
    await set_last_done(redis, 1_000)
    before = await redis.command("GET", "bell:last-done")

    await ledger.delete_circuit("main")

    assert before == await redis.command("GET", "bell:last-done")


async def test_done_and_parked_tasks_are_progress_and_waiting_tasks_are_not(ledger: Ledger, redis: Redis) -> None:
    for outcome, is_progress in ((done(), True), (parked(), True), (waiting(), False)):
        await accept(ledger, change("A"))
        await set_last_done(redis, 1_000)
        before = await redis.command("GET", "bell:last-done")

        await ledger.complete(await start_run(ledger, "A"), outcome)

        assert is_progress is (before != await redis.command("GET", "bell:last-done"))


async def test_the_first_task_after_a_quiet_night_is_not_stalled(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    await set_last_done(redis, DAY_S)
    await accept(ledger, change("B"))

    assert not (await load_backlog(redis, ["main"])).is_stalled


async def test_an_old_backlog_with_progress_is_not_stalled(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await backdate(redis, "queued")
    await complete_run(ledger, "A")

    backlog = await load_backlog(redis, ["main"])
    assert DAY_S - 5 < backlog.oldest_s
    assert not backlog.is_stalled


async def test_doctor_and_metrics_report_the_backlog(harness: Harness, redis: Redis) -> None:
    web = harness.start_web(METRICS_TOKEN="t")
    harness.send("visit.created", "A", time_scheduled="2026-03-14T16:00:00Z")
    await backdate(redis, "queued")
    await set_last_done(redis, 1_000)

    doctor = harness.doorbell("doctor", "--json")
    text = harness.http.get(f"{web.url}/metrics", headers={"authorization": "Bearer t"}).text

    checks = {row["check"]: row for row in map(json.loads, doctor.stdout.splitlines())}
    assert 3 == doctor.returncode
    assert ("fail", "fail") == (checks["progress"]["result"], checks["queue"]["result"])
    assert "Start a worker" in checks["progress"]["fix"]
    metrics = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert DAY_S - 5 < float(metrics['doorbell_queue_oldest_age_seconds{state="queued"}'])
    assert {0.0} == {float(metrics[f'doorbell_queue_oldest_age_seconds{{state="{s}"}}']) for s in ("running", "held")}
    assert {"queued", "running", "waiting", "held"} == states_of("doorbell_queue_oldest_age_seconds", metrics)
    assert {"parked", "discarded"} == (
        states_of("doorbell_tasks", metrics) - states_of("doorbell_queue_oldest_age_seconds", metrics)
    )
    assert 1_000 <= float(metrics["doorbell_queue_no_progress_seconds"]) < 1_100


def states_of(metric: str, metrics: Iterable[str]) -> set[str]:
    return {name.split('"')[1] for name in metrics if name.startswith(metric + "{")}
