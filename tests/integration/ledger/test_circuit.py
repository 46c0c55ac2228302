"""The circuit of an account, and its probes."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.ledger.ledger import Ledger
from app.ledger.reasons import CIRCUIT_REASONS, REASONS
from app.ledger.records import (
    Attempt,
    CircuitSignal,
    Lease,
    Outcome,
)
from app.ledger.redis import Redis
from app.visits.change import VisitChange
from tests.support.ledger import (
    accept,
    attempt,
    backdate,
    change,
    done,
    end_circuit_pause,
    jobs,
    parked,
    start_run,
    state_of,
    visit_task,
    waiting,
)


async def hold(ledger: Ledger, visit: str, signal: CircuitSignal) -> None:
    await accept(ledger, change(visit))
    lease = await start_run(ledger, visit, account="main")
    await ledger.complete(lease, Outcome(state="held", attempt=attempt(), circuit_signal=signal), account="main")
    await ledger.ack(f"{visit_task(visit)}#1", "visits")


async def test_an_open_circuit_holds_tasks_until_one_probe_is_released(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit in "BC":
        await accept(ledger, change(visit))
    states = [await state_of(ledger, visit_task(visit)) for visit in "BC"]
    early = await ledger.release_held("main")

    await end_circuit_pause(redis)
    first_release = await ledger.release_held("main")
    second_release = await ledger.release_held("main")

    assert (["held", "held"], 0, 1, 0) == (states, early, first_release, second_release)
    assert [visit_task("A")] == await ledger.task_ids("queued")
    probe = await start_run(ledger, "A", account="main")
    await ledger.complete(probe, done(circuit_signal=CircuitSignal(kind="ok")), account="main")
    assert 2 == await ledger.release_held("main")
    assert {visit_task("B"), visit_task("C")} == set(await ledger.task_ids("queued"))


async def test_claims_hold_the_visits_of_an_open_circuit_without_a_run(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B", time_scheduled="2026-09-03T10:00:00Z"))
    await accept(ledger, change("C", time_scheduled="2026-09-02T10:00:00Z"))
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))

    claimed = await ledger.claim({"visits": 5}, lease_s=30)

    assert ([], False) == claimed
    assert [] == await jobs(redis)
    held = [await ledger.load_task(visit_task(visit)) for visit in "BC"]
    assert [("held", "api_down", 0)] * 2 == [(task.state, task.reason, task.failed_attempts) for task in held]
    assert all(task.pending_since_ms for task in held)
    await redis.command("DEL", "bell:circuit:main")
    assert 3 == await ledger.release_held("main")
    await asyncio.sleep(0.002)  # until all of them are due
    released = (await ledger.claim({"visits": 5}, lease_s=30)).jobs
    assert [visit_task(visit) for visit in "ACB"] == [job.rpartition("#")[0] for _, job, _ in released]


async def test_an_open_circuit_holds_no_visit_of_another_account(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))
    await accept(ledger, change("B"))
    await accept(ledger, change("B"), account="shop")

    claimed = await ledger.claim({"visits": 1}, lease_s=30)

    assert ["visit:shop/standard-B#1"] == [job for _, job, _ in claimed.jobs]


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"time_scheduled": datetime(2026, 9, 2, 10, tzinfo=UTC)},
        {
            "time_scheduled": datetime(2026, 9, 20, 10, tzinfo=UTC),
            "time_completed": datetime(2026, 9, 2, 10, 0, 30, tzinfo=UTC),
        },
    ],
)
async def test_a_new_visit_of_an_open_circuit_is_held_as_a_claim_holds_it(
    ledger: Ledger, redis: Redis, start: dict[str, datetime]
) -> None:
    await accept(ledger, change("claimed", **start))
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))
    await ledger.claim({"visits": 5}, lease_s=30)
    claimed = await stored_of(redis, "claimed")

    await accept(ledger, change("new", **start))

    assert [] == await jobs(redis)
    assert claimed == await stored_of(redis, "new")


async def stored_of(redis: Redis, visit: str) -> tuple[dict[str, str], dict[str, str], bytes]:
    """Return the fields of a visit's hash, times of arrival and deliveries left out, and its rank among the held ones."""
    task = visit_task(visit)
    values = [value.decode() for value in await redis.command("HGETALL", f"bell:{task}")]
    fields = dict(zip(values[::2], values[1::2], strict=True))
    since = fields.pop("pending_since")
    assert since == (await redis.command("ZSCORE", "bell:held-by-age:main", task)).decode()
    changes = {name.partition("+")[2]: fields.pop(name) for name in sorted(fields) if name.startswith("change:")}
    return fields, changes, await redis.command("ZSCORE", "bell:state:held:main", task)


async def test_a_new_visit_of_an_open_circuit_is_released_as_any_other(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=30))
    await accept(ledger, change("B"))
    await accept(ledger, change("B", version=2))
    await redis.command("DEL", "bell:circuit:main")

    assert 2 == await ledger.release_held("main")

    lease = await start_run(ledger, "B", account="main")
    assert 2 == len(lease.primary.changes)


async def test_a_new_visit_of_an_account_that_moves_is_queued(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))
    await redis.command("HSET", "bell:move:main", "phase", "copying")

    await accept(ledger, change("B"))

    assert "queued" == await state_of(ledger, visit_task("B"))


async def test_claims_hold_a_large_backlog_in_parts(ledger: Ledger, redis: Redis) -> None:
    for number in range(250):
        await accept(ledger, change(f"v{number}"))
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))

    claims = [await ledger.claim({"visits": 5}, lease_s=30) for _ in range(3)]

    assert [([], True), ([], True), ([], False)] == claims
    assert 251 == await redis.command("ZCARD", "bell:state:held:main")


async def test_claims_give_the_probe_and_visits_with_several_ids_to_a_worker(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B"))
    await accept(ledger, change("C", previous_visit_id="B"))
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=30))
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_held("main")
    await asyncio.sleep(0.002)  # until the probe is due

    claimed = await ledger.claim({"visits": 5}, lease_s=30)

    assert {visit_task("A"), visit_task("B")} == {job.rpartition("#")[0] for _, job, _ in claimed.jobs}
    assert "held" == await ledger.lease(visit_task("B"), account="main")
    assert isinstance(await ledger.lease(visit_task("A"), account="main"), Lease)


@pytest.mark.parametrize("kind", ["ok", "down", "unauthorized", "rate_limited"])
async def test_no_response_resumes_a_paused_account(ledger: Ledger, redis: Redis, kind: str) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    running = await start_run(ledger, "A", account="main")

    assert [True, False] == [await ledger.pause("main"), await ledger.pause("main")]
    await ledger.complete(running, done(circuit_signal=CircuitSignal(kind=kind)), account="main")
    assert ["held", "held"] == [await ledger.lease(visit_task(visit), account="main") for visit in "BC"]
    assert 0 == await ledger.release_held("main")
    assert b"paused" == await redis.command("HGET", "bell:circuit:main", "kind")

    assert [True, False] == [await ledger.pause("main", False), await ledger.pause("main", False)]
    assert 2 == await ledger.release_held("main")
    assert [0, 0] == [(await ledger.load_task(visit_task(visit))).failed_attempts for visit in "BC"]


@pytest.mark.parametrize("limited_first", [True, False])
async def test_calls_wait_for_retry_after_although_an_operator_resumes_the_account(
    ledger: Ledger, redis: Redis, limited_first: bool
) -> None:
    """The 429 comes before the pause, or from a call that was in progress when it began."""
    await accept(ledger, change("A"))
    running = await start_run(ledger, "A", account="main")
    if limited_first:
        await ledger.complete(running, limited(600), account="main")
        assert await ledger.pause("main")
    else:
        assert await ledger.pause("main")
        await ledger.complete(running, limited(600), account="main")
    assert b"paused" == await redis.command("HGET", "bell:circuit:main", "kind")

    assert await ledger.pause("main", False)

    kind, until = await redis.command("HMGET", "bell:circuit:main", "kind", "until")
    assert (b"rate_limited", 600) == (kind, round(float(until) / 1000 - (await ledger.server_time()).timestamp()))
    assert 0 == await ledger.release_held("main")
    assert not await ledger.pause("main", False)
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_held("main")


async def test_resume_closes_the_circuit_when_the_time_of_retry_after_has_passed(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=600))
    await ledger.pause("main")
    await redis.command("HSET", "bell:circuit:main", "limited_until", 1)

    assert await ledger.pause("main", False)

    assert not await redis.command("EXISTS", "bell:circuit:main")
    assert 1 == await ledger.release_held("main")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("down", "api_down"),
        ("unauthorized", "token_rejected"),
        ("rate_limited", "api_rate_limited"),
        ("paused", "account_paused"),
    ],
)
async def test_a_task_that_an_open_circuit_holds_says_why(ledger: Ledger, redis: Redis, kind: str, reason: str) -> None:
    await accept(ledger, change("A"))
    failed = await start_run(ledger, "A", account="main")
    await ledger.complete(failed, waiting(), account="main")
    await redis.command("HSET", "bell:circuit:main", "kind", kind)
    await backdate(redis, "waiting", visit_task("A"))
    await ledger.requeue_due()

    assert "held" == await ledger.lease(visit_task("A"), account="main")
    stored = await redis.command("HMGET", f"bell:{visit_task('A')}", "reason", "retry_at")
    assert [reason.encode(), None] == stored
    assert reason in REASONS
    assert reason == CIRCUIT_REASONS[kind]


async def reason_of(ledger: Ledger, visit: str) -> str:
    [from_aliases] = await ledger.load_aliases(visit_task(visit))
    task = await ledger.load_task(visit_task(visit))
    assert (from_aliases.state, from_aliases.reason) == (task.state, task.reason)
    return task.reason


async def test_the_reason_of_a_held_visit_is_that_of_the_circuit_now(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("limited"))
    run = await start_run(ledger, "limited", account="main")
    refused = replace(limited(60), reason="GET /visits/:id: 429")
    await ledger.complete(run, refused, account="main")
    await accept(ledger, change("new"))

    async def reasons() -> tuple[str, str]:
        return await reason_of(ledger, "limited"), await reason_of(ledger, "new")

    assert ("GET /visits/:id: 429", "api_rate_limited") == await reasons()  # the first names the call
    await ledger.pause("main")
    assert ("account_paused", "account_paused") == await reasons()
    await redis.command("HSET", "bell:move:main", "phase", "copying")
    assert ("account_moves", "account_moves") == await reasons()
    await redis.command("DEL", "bell:move:main")
    await redis.command("HSET", "bell:circuit:main", "kind", "down")
    assert ("api_down", "api_down") == await reasons()
    await redis.command("DEL", "bell:circuit:main")  # a worker is about to release them
    assert ("GET /visits/:id: 429", "api_rate_limited") == await reasons()


async def test_only_held_visits_have_the_reason_of_their_circuit(ledger: Ledger) -> None:
    await accept(ledger, change("A"))
    await ledger.complete(await start_run(ledger, "A", account="main"), parked("contact_unknown"), account="main")

    await ledger.pause("main")

    assert "contact_unknown" == await reason_of(ledger, "A")


async def test_resume_does_not_close_a_circuit_that_failures_opened(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="down", pause_s=60))

    assert not await ledger.pause("main", False)
    assert b"down" == await redis.command("HGET", "bell:circuit:main", "kind")


async def test_a_failed_probe_opens_the_circuit_again(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_held("main")

    probe = await start_run(ledger, "A", account="main")
    again = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30))
    await ledger.complete(probe, again, account="main")

    assert 0 == await ledger.release_held("main")
    assert {visit_task("A"), visit_task("B")} == set(await ledger.task_ids("held:main"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "unused_s"), [("unauthorized", 0), ("rate_limited", 0), ("down", 3_600)])
async def test_a_circuit_that_nothing_can_probe_any_more_is_closed(
    ledger: Ledger, redis: Redis, kind: str, unused_s: int
) -> None:
    """Otherwise the alert about stopped calls would last until the next delivery of the account."""
    await hold(ledger, "A", CircuitSignal(kind=kind, pause_s=30))  # type: ignore[arg-type]
    await ledger.discard(visit_task("A"))
    await ledger.release_held("main")
    before = await redis.command("EXISTS", "bell:circuit:main")

    now_ms = time.time() * 1000
    await redis.command("HSET", "bell:circuit:main", "until", int(now_ms - unused_s * 1000))
    await ledger.release_held("main")

    assert (1, 0) == (before, await redis.command("EXISTS", "bell:circuit:main"))


async def test_a_probe_that_dies_is_replaced(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_held("main")
    await start_run(ledger, "A", account="main")  # the probe, which never completes

    await end_circuit_pause(redis)

    assert 1 == await ledger.release_held("main")
    assert [visit_task("B")] == await ledger.task_ids("queued")


@pytest.mark.parametrize("succeeds", [True, False])
async def test_a_probe_that_gets_an_earlier_id_decides(ledger: Ledger, redis: Redis, succeeds: bool) -> None:
    await accept(ledger, change("A"))
    failing = await start_run(ledger, "A", account="main")
    down = CircuitSignal(kind="down", pause_s=60)
    await ledger.complete(failing, waiting(circuit_signal=down), account="main")
    await accept(ledger, change("C"))
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_held("main")
    await accept(ledger, change("C", previous_visit_id="B"))

    probe = await start_run(ledger, "C", account="main")
    signal = CircuitSignal(kind="ok") if succeeds else down
    await ledger.complete(probe, done(circuit_signal=signal), account="main")

    circuit = await redis.command("HMGET", "bell:circuit:main", "failures", "probe")
    assert ([None, None] if succeeds else [b"2", None]) == circuit


async def test_a_visit_is_held_under_its_first_id(ledger: Ledger) -> None:
    await accept(ledger, change("B"))
    await accept(ledger, change("B", previous_visit_id="A"))
    await hold(ledger, "X", CircuitSignal(kind="unauthorized", pause_s=30))

    assert "held" == await ledger.lease(visit_task("B"), account="main")

    assert {visit_task("A"), visit_task("X")} == set(await ledger.task_ids("held:main"))  # type: ignore[arg-type]
    assert "done" == await state_of(ledger, visit_task("B"))


async def test_the_circuit_of_one_account_holds_no_task_of_another(ledger: Ledger) -> None:
    await accept(ledger, change("B"))
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))

    assert isinstance(await ledger.lease(visit_task("B"), account="shop"), Lease)


async def test_failures_of_three_visits_open_the_circuit(ledger: Ledger) -> None:
    down = CircuitSignal(kind="down", pause_s=30, threshold=3)
    states = []
    for visit in "ABC":
        await accept(ledger, change(visit))
        lease = await start_run(ledger, visit, account="main")
        await ledger.complete(lease, waiting(circuit_signal=down), account="main")
        await ledger.complete(await _replayed(ledger, visit), waiting(circuit_signal=down), account="main")
        await accept(ledger, change(f"{visit}2"))
        states.append(await state_of(ledger, visit_task(f"{visit}2")))

    assert ["queued", "queued", "held"] == states


DOWN = CircuitSignal(kind="down", pause_s=30, threshold=3)


async def fail_run(ledger: Ledger, visit: str, took_ms: int = 1) -> bool:
    """Fail the run of a new visit, and return whether the circuit is open."""
    await accept(ledger, change(visit))
    failure = Attempt(started_at_ms=1, took_ms=took_ms, outcome="broken")
    outcome = Outcome(
        state="waiting", attempt=failure, reason="500", retry_in_s=60, failed_attempts=1, circuit_signal=DOWN
    )
    await ledger.complete(await start_run(ledger, visit), outcome, account="main")
    return bool(await ledger.redis.command("EXISTS", "bell:circuit:main"))


async def count_failures_until_open(ledger: Ledger, limit: int, took_ms: int = 1) -> int | None:
    """Fail runs of new visits until the circuit opens. Return how many, or None if `limit` failures do not open it."""
    for number in range(1, limit + 1):
        if await fail_run(ledger, f"V{number}", took_ms):
            return number
    return None


async def store_successes(redis: Redis, *seconds_ago: float) -> None:
    """Store successful calls of other visits at these times."""
    now_ms = int(time.time() * 1000)
    await redis.command("RPUSH", "bell:outcomes:main", *(f"+{now_ms - int(ago * 1000)}" for ago in seconds_ago))


async def test_repeated_failures_of_a_visit_do_not_open_the_circuit(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABCDE":
        await accept(ledger, change(visit))
        await ledger.complete(await start_run(ledger, visit), waiting(failed_attempts=3))  # without a circuit signal
    await backdate(redis, "waiting")
    await ledger.requeue_due()

    for visit in "ABCDE":
        again = waiting(failed_attempts=4, circuit_signal=DOWN)
        await ledger.complete(await start_run(ledger, visit), again, account="main")

    assert not await redis.command("EXISTS", "bell:circuit:main")


@pytest.mark.parametrize(("succeeded", "failures_until_open"), [(0, 3), (1, 4), (2, 8), (20, 16)])
async def test_the_share_of_failures_among_the_newest_outcomes_opens_the_circuit(
    ledger: Ledger, redis: Redis, succeeded: int, failures_until_open: int
) -> None:
    if succeeded:
        await store_successes(redis, *(5 for _ in range(succeeded)))

    assert failures_until_open == await count_failures_until_open(ledger, limit=20)


@pytest.mark.parametrize(("took_ms", "ago_s", "opens"), [(10, 5, True), (10_000, 5, False), (10, 0.2, False)])
async def test_failures_do_not_open_the_circuit_while_other_calls_succeed(
    ledger: Ledger, redis: Redis, took_ms: int, ago_s: float, opens: bool
) -> None:
    """Many calls may time out at the same time although others succeeded in between."""
    await store_successes(redis, ago_s)

    failures_until_open = await count_failures_until_open(ledger, limit=10, took_ms=took_ms)

    assert opens == (failures_until_open is not None)


async def test_only_a_probe_changes_an_open_circuit(ledger: Ledger, redis: Redis) -> None:
    for visit in "DE":
        await accept(ledger, change(visit))
    running = [await start_run(ledger, visit, account="main") for visit in "DE"]
    assert [False, False, True] == [await fail_run(ledger, visit) for visit in "ABC"]
    before = await redis.command("HGETALL", "bell:circuit:main")

    for lease in running:
        await ledger.complete(lease, waiting(circuit_signal=DOWN), account="main")

    assert before == await redis.command("HGETALL", "bell:circuit:main")


async def test_the_pauses_between_probes_double_up_to_the_longest(ledger: Ledger, redis: Redis) -> None:
    pauses = []
    for visit in "ABCDEFGHI":
        await accept(ledger, change(visit))
    for visit in "ABCDEFGHI":
        is_open = await redis.command("EXISTS", "bell:circuit:main")
        if is_open:  # this one is the probe
            await redis.command("HSET", "bell:circuit:main", "probe", visit_task(visit))
        lease = await ledger.lease(visit_task(visit), account="main")
        assert isinstance(lease, Lease)
        before_ms = (await ledger.server_time()).timestamp() * 1000
        await ledger.complete(lease, waiting(circuit_signal=DOWN), account="main")
        if until := await redis.command("HGET", "bell:circuit:main", "until"):
            pauses.append(round((float(until) - before_ms) / 1000))

    assert [1, 2, 4, 8, 16, 30, 30] == pauses


async def test_tasks_that_never_failed_are_probed_and_released_first(ledger: Ledger, redis: Redis) -> None:
    for visit in "AB":
        await accept(ledger, change(visit, time_scheduled=on_day(1)))
        await ledger.complete(await start_run(ledger, visit), waiting(failed_attempts=1))
    await backdate(redis, "waiting")
    await ledger.requeue_due()
    for visit in "CD":
        await accept(ledger, change(visit, time_scheduled=on_day(9)))
    await ledger.pause("main")
    for visit in "ABCD":
        assert "held" == await ledger.lease(visit_task(visit), account="main")
    await redis.command("HSET", "bell:circuit:main", "kind", "down", "until", 1)

    await ledger.release_held("main")
    [probe] = await ledger.task_ids("queued")
    await ledger.complete(
        await start_run(ledger, probe[-1], account="main"),
        done(circuit_signal=CircuitSignal(kind="ok")),
        account="main",
    )
    await ledger.release_held("main")

    assert visit_task("C") == probe
    assert [visit_task("D"), visit_task("A"), visit_task("B")] == (await jobs(redis, "visits"))[-3:]


async def test_a_rate_limited_visit_is_not_overtaken_forever(ledger: Ledger, redis: Redis) -> None:
    """Visits of yesterday keep arriving, but have waited for less time than one of next month."""
    await accept(ledger, change("patient", time_scheduled=on_day(28)))
    first = await ledger.lease(visit_task("patient"), "main", is_paced=True)
    assert isinstance(first, Lease)
    await redis.command("HINCRBY", f"bell:{visit_task('patient')}", "pending_since", -60_000)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    released = set[str]()
    for number in range(100):
        for suffix in "ab":
            await accept(ledger, change(f"past-{number}{suffix}", time_scheduled=on_day(1)))
            await ledger.lease(visit_task(f"past-{number}{suffix}"), "main", is_paced=True)
        await ledger.release_held("main", limit=1, calls_per_second=1_000)
        released |= set(await ledger.task_ids("queued"))
        if visit_task("patient") in released:
            break

    assert visit_task("patient") in released
    assert 0 == await redis.command("ZCARD", "bell:held-by-age:main") - await redis.command(
        "ZCARD", "bell:state:held:main"
    )


async def _replayed(ledger: Ledger, visit: str) -> Lease:
    await ledger.replay(visit_task(visit))
    return await start_run(ledger, visit)


async def test_a_later_answer_does_not_shorten_a_rate_limit_pause(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B"))
    running = await start_run(ledger, "B", account="main")
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=600))
    first = await redis.command("HGET", "bell:circuit:main", "until")

    limited = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="rate_limited", pause_s=10))
    await ledger.complete(running, limited, account="main")

    assert first == await redis.command("HGET", "bell:circuit:main", "until")


async def test_the_pause_of_an_unknown_account_stays(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await ledger.pause("shop")

    for account in ("main", "shop"):
        await ledger.delete_circuit(account)

    kinds = [await redis.command("HGET", f"bell:circuit:{account}", "kind") for account in ("main", "shop")]
    assert [None, b"paused"] == kinds


async def test_a_success_does_not_end_a_rate_limit_pause(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B"))
    running = await start_run(ledger, "B", account="main")
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=30))

    await ledger.complete(running, done(circuit_signal=CircuitSignal(kind="ok")), account="main")
    early = await ledger.release_held("main")
    await end_circuit_pause(redis)
    late = await ledger.release_held("main")

    assert (0, 1) == (early, late)
    assert isinstance(await ledger.lease(visit_task("A"), account="main"), Lease)


async def run_probe(ledger: Ledger, outcome: Outcome) -> float:
    """Run the probe of the circuit, once it is due. Return until when the circuit is then open, in seconds from now."""
    await end_circuit_pause(ledger.redis)
    assert 1 == await ledger.release_held("main")
    [probe] = await ledger.task_ids("queued")
    lease = await ledger.lease(probe, account="main")
    assert isinstance(lease, Lease)
    await ledger.complete(lease, outcome, account="main")
    until = await ledger.redis.command("HGET", "bell:circuit:main", "until")
    return float(until or 0) / 1000 - (await ledger.server_time()).timestamp()


def limited(pause_s: float) -> Outcome:
    signal = CircuitSignal(kind="rate_limited", pause_s=pause_s)
    return Outcome(state="held", attempt=attempt("429"), circuit_signal=signal)


async def test_after_a_rate_limit_pause_one_visit_runs_until_a_call_succeeds(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=15))
    for visit in "BC":
        await accept(ledger, change(visit))

    await run_probe(ledger, done(circuit_signal=CircuitSignal(kind="ok")))

    assert not await redis.command("EXISTS", "bell:circuit:main")
    assert 2 == await ledger.release_held("main")


async def test_a_rate_limit_that_does_not_end_is_one_circuit(ledger: Ledger, redis: Redis) -> None:
    """Otherwise the alert about stopped calls would never start: each 429 stops them for some seconds."""
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=15))
    await accept(ledger, change("B"))
    await redis.command("HSET", "bell:circuit:main", "since", 1_000)

    pauses = [round(await run_probe(ledger, limited(pause_s))) for pause_s in (15, 7, 40)]
    pauses.append(round(await run_probe(ledger, waiting(circuit_signal=DOWN))))
    pauses.append(round(await run_probe(ledger, limited(15))))

    # After a failure of another kind the pauses double from 1 s again, however many calls were answered 429 before.
    assert [15, 7, 40, 1, 15] == pauses
    assert b"1000" == await redis.command("HGET", "bell:circuit:main", "since")


async def test_a_rejected_token_does_not_shorten_a_rate_limit_pause(ledger: Ledger, redis: Redis) -> None:
    for visit in "BC":
        await accept(ledger, change(visit))
    running = [await start_run(ledger, visit, account="main") for visit in "BC"]
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=600))
    first = await redis.command("HGET", "bell:circuit:main", "until")

    refused = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30))
    await ledger.complete(running[0], refused, account="main")
    await ledger.complete(running[1], done(circuit_signal=CircuitSignal(kind="ok")), account="main")

    assert [b"unauthorized", first] == await redis.command("HMGET", "bell:circuit:main", "kind", "until")


async def test_a_rate_limit_pause_follows_the_clock_of_the_server(ledger: Ledger, redis: Redis) -> None:
    """A worker's heartbeat of an hour later shows that the clock went back."""
    await hold(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=3_601))
    in_an_hour = int((await ledger.server_time()).timestamp() * 1000) + 3_600_000
    await redis.command("ZADD", "bell:workers", in_an_hour, "w")

    await ledger.requeue_due()

    times = await redis.command("HMGET", "bell:circuit:main", "until", "limited_until")
    now_s = (await ledger.server_time()).timestamp()
    assert [True, True] == [float(until) / 1000 - now_s < 2 for until in times]


def on_day(day: int) -> datetime:
    return datetime(2026, 10, day, 9, tzinfo=UTC)


async def test_held_visits_are_released_in_the_order_of_their_start(ledger: Ledger, redis: Redis) -> None:
    for visit, day in (("B", 9), ("C", 2), ("D", 5)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    await accept(ledger, change("B", version=2, time_scheduled=on_day(1)))  # moved to the front
    await accept(ledger, change("D", version=2, time_completed=on_day(4)))
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("A", version=2, time_scheduled=on_day(3)))
    for visit in "BCD":
        assert "held" == await ledger.lease(visit_task(visit), account="main")
    await accept(ledger, change("E", time_scheduled=on_day(3)))
    await redis.command("DEL", "bell:circuit:main")

    released = [await ledger.release_held("main", limit=4)]
    await asyncio.sleep(0.002)
    released.append(await ledger.release_held("main", limit=4))

    assert [4, 1] == released
    # A was held before its time was known. It may be a cancellation, so it is released first.
    assert [visit_task(visit) for visit in "ABCED"] == (await jobs(redis))[-5:]


async def test_a_held_visit_with_several_ids_is_ordered_by_the_newest_time(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("A", time_scheduled=on_day(1)), change("C", time_scheduled=on_day(4)))
    await accept(ledger, change("B", time_scheduled=on_day(8), previous_visit_id="A"))
    await hold(ledger, "X", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit in "BC":
        assert "held" == await ledger.lease(visit_task(visit), account="main")

    held = await redis.command("ZRANGE", "bell:state:held:main", 0, -1)

    assert [visit_task("X"), visit_task("C"), visit_task("A")] == [name.decode() for name in held]


async def test_a_visit_that_always_fails_is_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    await hold(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit, day in (("B", 2), ("C", 3)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))

    probes = []
    for _ in range(4):
        await end_circuit_pause(redis)
        assert 1 == await ledger.release_held("main")
        [probe] = await ledger.task_ids("queued")
        probes.append(probe)
        lease = await ledger.lease(probe, account="main")
        assert isinstance(lease, Lease)
        refused = Outcome(
            state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30)
        )
        await ledger.complete(lease, refused, account="main")

    assert [visit_task("A"), visit_task("B"), visit_task("C"), visit_task("A")] == probes


async def test_visits_of_one_tool_that_all_fail_are_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    """There are more of them than a release considers, and they start first."""
    for visit in "ABC":
        await fail_run(ledger, visit)
    for number in range(60):
        await accept(ledger, change(f"bad-{number}", time_scheduled=on_day(1)))
    good = VisitChange(
        action="update", visit_id="good", version=1, external_id_override="calcom-good", time_scheduled=on_day(20)
    )
    await accept(ledger, good)

    async def probe(number: int) -> str:
        await end_circuit_pause(redis)
        assert 1 == await ledger.release_held("main")
        [probe] = await ledger.task_ids("queued")
        lease = await ledger.lease(probe, account="main")
        assert isinstance(lease, Lease)
        failed = Attempt(started_at_ms=1, took_ms=1, outcome="broken")
        outcome = Outcome(state="held", attempt=failed, reason="500", failed_attempts=number, circuit_signal=DOWN)
        await ledger.complete(lease, outcome, account="main")
        return probe

    probes = [await probe(number) for number in range(1, 10)]

    assert probes[0].startswith(visit_task("bad-"))
    assert "visit:main/calcom-good" in probes


async def test_a_visit_that_alone_fails_is_parked_after_ten_attempts(ledger: Ledger) -> None:
    refused = Outcome(
        state="held",
        attempt=attempt("unauthorized"),
        reason="GET /visits/:id: 403",
        circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30),
    )
    success = done(circuit_signal=CircuitSignal(kind="ok"))
    await accept(ledger, change("A"))
    stored = []

    for number in range(10):
        assert "queued" == await state_of(ledger, visit_task("A")), number
        await accept(ledger, change("B", version=number))
        stored.append(await ledger.complete(await start_run(ledger, "A", account="main"), refused, account="main"))
        if number < 9:
            await end_circuit_pause(ledger.redis)
            await ledger.redis.command("HSET", "bell:circuit:main", "probe", visit_task("B"))  # B is the next probe
            await ledger.complete(await start_run(ledger, "B", account="main"), success, account="main")
            await ledger.release_held("main")

    task = await ledger.load_task(visit_task("A"))
    assert ("parked", "GET /visits/:id: 403") == (task.state, task.reason)
    assert "parked: GET /visits/:id: 403" == task.attempts[-1].outcome
    assert ["held"] * 9 + ["parked"] == stored
    assert not await ledger.redis.command("EXISTS", "bell:circuit:main")


async def test_with_a_rate_limit_later_tasks_wait_for_their_turn(ledger: Ledger, redis: Redis) -> None:
    for visit, day in (("A", 8), ("B", 6), ("C", 7)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    first = await ledger.lease(visit_task("A"), "main", is_paced=True)
    assert isinstance(first, Lease)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    later = [await ledger.lease(visit_task(visit), "main", is_paced=True) for visit in "CB"]
    unlimited = await ledger.lease(visit_task("C"), "main")
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 10_000))
    while_slots_are_taken = await ledger.release_held("main", calls_per_second=4)
    await redis.command("DEL", "bell:rate:main")
    released = await ledger.release_held("main", calls_per_second=4)

    assert "rate_limited_locally" == (await ledger.load_task(visit_task("C"))).reason
    assert (["held", "held"], "nothing", 0, 2) == (later, unlimited, while_slots_are_taken, released)
    assert [visit_task("B"), visit_task("C")] == await ledger.task_ids("queued")
    assert isinstance(await ledger.lease(visit_task("B"), "main", is_paced=True), Lease)
    assert [] == (await ledger.load_task(visit_task("A"))).attempts
