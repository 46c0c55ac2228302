"""Work that is left lying is told: by its age, and by nothing coming to an end."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from app.ledger.ledger import Ledger
from app.ledger.records import CircuitSignal
from app.ledger.redis import Redis
from app.telemetry.health import load_backlog
from tests.support.harness import Harness
from tests.support.ledger import accept, backdate, change, complete_run, done, parked, start_run, visit_task, waiting

DAY_S = 86_400


async def quiet_for(redis: Redis, seconds: int) -> None:
    """Nothing came to an end for so long."""
    now, _ = await redis.command("TIME")
    await redis.command("SET", "bell:last-done", (int(now) - seconds) * 1000)


@pytest.mark.parametrize("state", ["queued", "running", "waiting"])
async def test_the_age_of_what_is_overdue_is_told_for_each_state(ledger: Ledger, redis: Redis, state: str) -> None:
    await accept(ledger, change("A"))
    if state != "queued":
        hold = await start_run(ledger, "A")
        if state == "waiting":
            await ledger.complete(hold, waiting(retry_in_s=60))
    assert 0 == round((await load_backlog(redis, ["main"])).oldest_s)

    await backdate(redis, state)

    told = await load_backlog(redis, ["main"])
    assert DAY_S - 90 < told.ages_s[state] < DAY_S + 5
    assert DAY_S - 90 < told.no_progress_s
    assert told.is_stalled


@pytest.mark.parametrize("at", [None, datetime(2020, 3, 14, tzinfo=UTC), datetime(2090, 3, 14, tzinfo=UTC)])
async def test_what_is_held_is_the_apis_turn_until_its_gate_is_open(
    ledger: Ledger, redis: Redis, at: datetime | None
) -> None:
    await accept(ledger, change("A", time_scheduled=at))
    verdict = CircuitSignal(kind="unauthorized", pause_s=60)
    await ledger.complete(await start_run(ledger, "A", "main"), waiting(circuit_signal=verdict), account="main")
    await accept(ledger, change("B", time_scheduled=at))
    await ledger.lease(visit_task("B"), "main")
    now, _ = await redis.command("TIME")
    day_ago = (int(now) - DAY_S) * 1000
    await redis.command("HSET", "bell:circuit:main", "since", day_ago)
    await redis.command("HSET", f"bell:{visit_task('B')}", "pending_since", day_ago)
    await redis.command("DEL", "bell:last-done")

    shut = await load_backlog(redis, ["main"])
    await redis.command("DEL", "bell:circuit:main")
    opened = await load_backlog(redis, ["main"])

    assert DAY_S == round(shut.ages_s["held"], -2)
    assert not shut.is_stalled
    assert DAY_S == round(opened.no_progress_s, -2)
    assert opened.is_stalled


async def test_what_an_operator_lets_out_is_not_stuck_yet(ledger: Ledger, redis: Redis) -> None:
    await ledger.pause("main")
    await accept(ledger, change("A"))
    await ledger.lease(visit_task("A"), "main")
    now, _ = await redis.command("TIME")
    await redis.command("HSET", f"bell:{visit_task('A')}", "pending_since", (int(now) - DAY_S) * 1000)
    await quiet_for(redis, DAY_S)

    await ledger.pause("main", False)

    assert not (await load_backlog(redis, ["main"])).is_stalled


async def test_settling_and_parking_are_progress_and_waiting_is_none(ledger: Ledger, redis: Redis) -> None:
    for outcome, is_progress in ((done(), True), (parked(), True), (waiting(), False)):
        await accept(ledger, change("A"))
        await quiet_for(redis, 1_000)
        before = await redis.command("GET", "bell:last-done")

        await ledger.complete(await start_run(ledger, "A"), outcome)

        assert is_progress is (before != await redis.command("GET", "bell:last-done"))


async def test_after_a_quiet_night_the_first_visit_is_no_alarm(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await complete_run(ledger, "A")
    await quiet_for(redis, DAY_S)
    await accept(ledger, change("B"))

    assert not (await load_backlog(redis, ["main"])).is_stalled


async def test_work_that_comes_to_an_end_is_no_alarm_however_old_the_backlog(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A"))
    await accept(ledger, change("B"))
    await backdate(redis, "queued")
    await complete_run(ledger, "A")

    told = await load_backlog(redis, ["main"])
    assert DAY_S - 5 < told.oldest_s
    assert not told.is_stalled


async def test_doctor_and_metrics_tell_it(harness: Harness, redis: Redis) -> None:
    door = harness.start_web(METRICS_TOKEN="t")
    harness.send("visit.created", "A", time_scheduled="2026-03-14T16:00:00Z")
    await backdate(redis, "queued")
    await quiet_for(redis, 1_000)

    ran = harness.doorbell("doctor", "--json")
    told = harness.http.get(f"{door.url}/metrics", headers={"authorization": "Bearer t"}).text

    checks = {row["check"]: row for row in map(json.loads, ran.stdout.splitlines())}
    assert 3 == ran.returncode
    assert ("fail", "fail") == (checks["progress"]["result"], checks["queue"]["result"])
    assert "Start a worker" in checks["progress"]["fix"]
    metrics = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
    assert DAY_S - 5 < float(metrics['doorbell_queue_oldest_age_seconds{state="queued"}'])
    assert {0.0} == {float(metrics[f'doorbell_queue_oldest_age_seconds{{state="{s}"}}']) for s in ("running", "held")}
    assert {"queued", "running", "waiting", "held"} == states_of("doorbell_queue_oldest_age_seconds", metrics)
    assert {"parked", "discarded"} == (
        states_of("doorbell_tasks", metrics) - states_of("doorbell_queue_oldest_age_seconds", metrics)
    )
    assert 1_000 <= float(metrics["doorbell_queue_no_progress_seconds"]) < 1_100


def states_of(metric: str, metrics: Iterable[str]) -> set[str]:
    return {name.split('"')[1] for name in metrics if name.startswith(metric + "{")}
