"""The circuit of an account, and probes."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from app.ledger.ledger import Ledger
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
    start_run,
    state_of,
    visit_task,
    waiting,
)


async def held(ledger: Ledger, visit: str, verdict: CircuitSignal) -> None:
    await accept(ledger, change(visit))
    hold = await start_run(ledger, visit, account="main")
    await ledger.complete(hold, Outcome(state="held", attempt=attempt(), circuit_signal=verdict), account="main")


async def test_behind_a_shut_gate_work_is_held_until_one_probe_is_let_out(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit in "BC":
        await accept(ledger, change(visit))
    answers = [await ledger.lease(visit_task(visit), account="main") for visit in "BC"]
    early = await ledger.release_circuit("main")

    await end_circuit_pause(redis)
    probes = await ledger.release_circuit("main")
    more_probes = await ledger.release_circuit("main")

    assert (["held", "held"], 0, 1, 0) == (answers, early, probes, more_probes)
    assert [visit_task("A")] == await ledger.task_ids("queued")
    probe = await start_run(ledger, "A", account="main")
    await ledger.complete(probe, done(circuit_signal=CircuitSignal(kind="ok")), account="main")
    assert 2 == await ledger.release_circuit("main")
    assert {visit_task("B"), visit_task("C")} == set(await ledger.task_ids("queued"))


@pytest.mark.parametrize("why", ["ok", "down", "unauthorized", "rate_limited"])
async def test_what_an_operator_paused_no_answer_opens(ledger: Ledger, redis: Redis, why: str) -> None:
    for visit in "ABC":
        await accept(ledger, change(visit))
    in_hand = await start_run(ledger, "A", account="main")

    assert [True, False] == [await ledger.pause("main"), await ledger.pause("main")]
    await ledger.complete(in_hand, done(circuit_signal=CircuitSignal(kind=why)), account="main")
    assert ["held", "held"] == [await ledger.lease(visit_task(visit), account="main") for visit in "BC"]
    assert 0 == await ledger.release_circuit("main")
    assert b"paused" == await redis.command("HGET", "bell:circuit:main", "kind")

    assert [True, False] == [await ledger.pause("main", False), await ledger.pause("main", False)]
    assert 2 == await ledger.release_circuit("main")
    assert [0, 0] == [(await ledger.load_task(visit_task(visit))).failed_attempts for visit in "BC"]


async def test_a_gate_that_trouble_shut_is_not_what_an_operator_resumes(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="down", pause_s=60))

    assert not await ledger.pause("main", False)
    assert b"down" == await redis.command("HGET", "bell:circuit:main", "kind")


async def test_a_probe_that_fails_shuts_the_gate_again(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    assert "held" == await ledger.lease(visit_task("B"), account="main")
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_circuit("main")

    probe = await start_run(ledger, "A", account="main")
    again = Outcome(state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30))
    await ledger.complete(probe, again, account="main")

    assert 0 == await ledger.release_circuit("main")
    assert {visit_task("A"), visit_task("B")} == set(await ledger.task_ids("held:main"))  # type: ignore[arg-type]


async def test_a_probe_that_dies_is_replaced(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))
    assert "held" == await ledger.lease(visit_task("B"), account="main")
    await end_circuit_pause(redis)
    assert 1 == await ledger.release_circuit("main")
    await start_run(ledger, "A", account="main")  # the probe, and it is never heard of again

    await end_circuit_pause(redis)

    assert 1 == await ledger.release_circuit("main")
    assert [visit_task("B")] == await ledger.task_ids("queued")


async def test_a_gate_of_one_account_holds_no_other(ledger: Ledger) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("B"))

    assert isinstance(await ledger.lease(visit_task("B"), account="shop"), Lease)


async def test_trouble_of_one_visit_shuts_no_gate_but_that_of_three_does(ledger: Ledger) -> None:
    down = CircuitSignal(kind="down", pause_s=30, threshold=3)
    seen = []
    for visit in "ABC":
        await accept(ledger, change(visit))
        hold = await start_run(ledger, visit, account="main")
        await ledger.complete(hold, waiting(circuit_signal=down), account="main")
        await ledger.complete(await _replayed(ledger, visit), waiting(circuit_signal=down), account="main")
        await accept(ledger, change(f"{visit}2"))
        seen.append(await ledger.lease(visit_task(f"{visit}2"), account="main"))

    assert ["yours", "yours", "held"] == ["yours" if isinstance(one, Lease) else one for one in seen]


DOWN = CircuitSignal(kind="down", pause_s=30, threshold=3)


async def fails(ledger: Ledger, visit: str, took_ms: int = 1) -> bool:
    """A run over a new visit ends in trouble. Whether the account's calls are held now."""
    await accept(ledger, change(visit))
    trouble = Attempt(started_at_ms=1, took_ms=took_ms, outcome="broken")
    outcome = Outcome(
        state="waiting", attempt=trouble, reason="500", retry_in_s=60, failed_attempts=1, circuit_signal=DOWN
    )
    await ledger.complete(await start_run(ledger, visit), outcome, account="main")
    return bool(await ledger.redis.command("EXISTS", "bell:circuit:main"))


async def answers_of_late(redis: Redis, *seconds_ago: float) -> None:
    """So long ago some calls of other visits succeeded."""
    now_ms = int(time.time() * 1000)
    await redis.command("RPUSH", "bell:outcomes:main", *(f"+{now_ms - int(ago * 1000)}" for ago in seconds_ago))


async def test_a_visit_that_failed_before_shuts_no_gate(ledger: Ledger, redis: Redis) -> None:
    for visit in "ABCDE":
        await accept(ledger, change(visit))
        await ledger.complete(await start_run(ledger, visit), waiting(failed_attempts=3))  # seen by nobody
    await backdate(redis, "waiting")
    await ledger.requeue_due()

    for visit in "ABCDE":
        again = waiting(failed_attempts=4, circuit_signal=DOWN)
        await ledger.complete(await start_run(ledger, visit), again, account="main")

    assert not await redis.command("EXISTS", "bell:circuit:main")


@pytest.mark.parametrize(("succeeded", "failures_until_shut"), [(0, 3), (1, 4), (2, 8), (20, 16)])
async def test_the_share_of_failures_among_the_newest_answers_shuts_the_gate(
    ledger: Ledger, redis: Redis, succeeded: int, failures_until_shut: int
) -> None:
    if succeeded:
        await answers_of_late(redis, *(5 for _ in range(succeeded)))

    shut = [await fails(ledger, f"V{number}") for number in range(20)]

    assert failures_until_shut == shut.index(True) + 1


@pytest.mark.parametrize(("took_ms", "ago_s", "shuts"), [(10, 5, True), (10_000, 5, False), (10, 0.2, False)])
async def test_while_others_succeed_a_failure_is_a_visits_own(
    ledger: Ledger, redis: Redis, took_ms: int, ago_s: float, shuts: bool
) -> None:
    """Two hundred look-ups that hang for ten seconds end at the same time, and others went through meanwhile."""
    await answers_of_late(redis, ago_s)

    shut = [await fails(ledger, f"V{number}", took_ms) for number in range(10)]

    assert shuts == shut[-1]


async def test_while_the_gate_is_shut_only_a_probe_says_anything_new(ledger: Ledger, redis: Redis) -> None:
    for visit in "DE":
        await accept(ledger, change(visit))
    under_way = [await start_run(ledger, visit, account="main") for visit in "DE"]
    assert [False, False, True] == [await fails(ledger, visit) for visit in "ABC"]
    before = await redis.command("HGETALL", "bell:circuit:main")

    for hold in under_way:
        await ledger.complete(hold, waiting(circuit_signal=DOWN), account="main")

    assert before == await redis.command("HGETALL", "bell:circuit:main")


async def test_the_pauses_between_probes_double_up_to_the_longest(ledger: Ledger, redis: Redis) -> None:
    pauses = []
    for visit in ("A", "B", "C", "D", "E", "F", "G", "H", "I"):
        is_shut = await redis.command("EXISTS", "bell:circuit:main")
        if is_shut:  # this one is the probe
            await redis.command("HSET", "bell:circuit:main", "probe", visit_task(visit))
        await accept(ledger, change(visit))
        hold = await ledger.lease(visit_task(visit), account="main")
        assert isinstance(hold, Lease)
        before_ms = (await ledger.server_time()).timestamp() * 1000
        await ledger.complete(hold, waiting(circuit_signal=DOWN), account="main")
        if until := await redis.command("HGET", "bell:circuit:main", "until"):
            pauses.append(round((float(until) - before_ms) / 1000))

    assert [1, 2, 4, 8, 16, 30, 30] == pauses


async def test_what_never_failed_probes_and_comes_out_first(ledger: Ledger, redis: Redis) -> None:
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

    await ledger.release_circuit("main")
    [probe] = await ledger.task_ids("queued")
    await ledger.complete(
        await start_run(ledger, probe[-1], account="main"),
        done(circuit_signal=CircuitSignal(kind="ok")),
        account="main",
    )
    await ledger.release_circuit("main")

    assert visit_task("C") == probe
    assert [visit_task("D"), visit_task("A"), visit_task("B")] == (await jobs(redis, "visits"))[-3:]


async def test_at_a_rate_no_visit_is_overtaken_for_ever(ledger: Ledger, redis: Redis) -> None:
    """Visits of yesterday keep coming, and have been at work for less long than one of next month."""
    await accept(ledger, change("patient", time_scheduled=on_day(28)))
    first = await ledger.lease(visit_task("patient"), "main", is_rate_limited=True)
    assert isinstance(first, Lease)
    await redis.command("HINCRBY", f"bell:{visit_task('patient')}", "pending_since", -60_000)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    out = set[str]()
    for number in range(100):
        for half in "ab":
            await accept(ledger, change(f"past-{number}{half}", time_scheduled=on_day(1)))
            await ledger.lease(visit_task(f"past-{number}{half}"), "main", is_rate_limited=True)
        await ledger.release_circuit("main", limit=1, calls_per_second=1_000)
        out |= set(await ledger.task_ids("queued"))
        if visit_task("patient") in out:
            break

    assert visit_task("patient") in out
    assert 0 == await redis.command("ZCARD", "bell:held-by-age:main") - await redis.command("ZCARD", "bell:held:main")


async def _replayed(ledger: Ledger, visit: str) -> Lease:
    await ledger.replay(visit_task(visit))
    return await start_run(ledger, visit)


async def test_a_success_does_not_open_what_the_api_shut_for_a_time(ledger: Ledger, redis: Redis) -> None:
    await accept(ledger, change("B"))
    before = await start_run(ledger, "B", account="main")
    await held(ledger, "A", CircuitSignal(kind="rate_limited", pause_s=30))

    await ledger.complete(before, done(circuit_signal=CircuitSignal(kind="ok")), account="main")
    early = await ledger.release_circuit("main")
    await end_circuit_pause(redis)
    late = await ledger.release_circuit("main")

    assert (0, 1) == (early, late)
    assert isinstance(await ledger.lease(visit_task("A"), account="main"), Lease)


def on_day(day: int) -> datetime:
    return datetime(2026, 10, day, 9, tzinfo=UTC)


async def test_of_what_was_held_the_visit_that_starts_soonest_goes_first(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    await accept(ledger, change("A", version=2, time_scheduled=on_day(3)))
    for visit, day in (("B", 9), ("C", 2), ("D", 5)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    await accept(ledger, change("B", version=2, time_scheduled=on_day(1)))  # moved to the front
    await accept(ledger, change("D", version=2, time_completed=on_day(4)))
    for visit in "BCD":
        assert "held" == await ledger.lease(visit_task(visit), account="main")
    await redis.command("DEL", "bell:circuit:main")

    out = [await ledger.release_circuit("main", limit=3)]
    await asyncio.sleep(0.002)
    out.append(await ledger.release_circuit("main", limit=3))

    assert [3, 1] == out
    # A was held before it was known when it is: it may be a cancel, and goes before all others.
    assert [visit_task("A"), visit_task("B"), visit_task("C"), visit_task("D")] == (await jobs(redis))[-4:]


async def test_a_visit_that_always_fails_is_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    await held(ledger, "A", CircuitSignal(kind="unauthorized", pause_s=30))
    for visit, day in (("B", 2), ("C", 3)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
        assert "held" == await ledger.lease(visit_task(visit), account="main")

    probes = []
    for _ in range(4):
        await end_circuit_pause(redis)
        assert 1 == await ledger.release_circuit("main")
        [probe] = await ledger.task_ids("queued")
        probes.append(probe)
        hold = await ledger.lease(probe, account="main")
        assert isinstance(hold, Lease)
        refused = Outcome(
            state="held", attempt=attempt(), circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30)
        )
        await ledger.complete(hold, refused, account="main")

    assert [visit_task("A"), visit_task("B"), visit_task("C"), visit_task("A")] == probes


async def test_visits_of_one_tool_that_all_fail_are_not_every_probe(ledger: Ledger, redis: Redis) -> None:
    """There are more of them than are looked at, they start first, and new ones keep coming."""
    for visit in "ABC":
        await fails(ledger, visit)
    for number in range(60):
        await accept(ledger, change(f"bad-{number}", time_scheduled=on_day(1)))
        assert "held" == await ledger.lease(visit_task(f"bad-{number}"), account="main")
    good = VisitChange(
        action="update", visit_id="good", version=1, external_id_override="calcom-good", time_scheduled=on_day(20)
    )
    await accept(ledger, good)
    assert "held" == await ledger.lease("visit:main/calcom-good", account="main")

    async def probe(number: int) -> str:
        await end_circuit_pause(redis)
        assert 1 == await ledger.release_circuit("main")
        [probe] = await ledger.task_ids("queued")
        hold = await ledger.lease(probe, account="main")
        assert isinstance(hold, Lease)
        trouble = Attempt(started_at_ms=1, took_ms=1, outcome="broken")
        outcome = Outcome(state="held", attempt=trouble, reason="500", failed_attempts=number, circuit_signal=DOWN)
        await ledger.complete(hold, outcome, account="main")
        return probe

    probes = [await probe(number) for number in range(1, 10)]

    assert probes[0].startswith(visit_task("bad-"))
    assert "visit:main/calcom-good" in probes


async def test_a_visit_that_is_refused_alone_is_parked_before_it_stops_everybody_for_ever(ledger: Ledger) -> None:
    refused = Outcome(
        state="held", attempt=attempt(), reason="403", circuit_signal=CircuitSignal(kind="unauthorized", pause_s=30)
    )
    ok = done(circuit_signal=CircuitSignal(kind="ok"))
    await accept(ledger, change("A"))

    for times in range(10):
        assert "queued" == await state_of(ledger, visit_task("A")), times
        await ledger.complete(await start_run(ledger, "A", account="main"), refused, account="main")
        if times < 9:
            await accept(ledger, change("B", version=times))
            await end_circuit_pause(ledger.redis)
            await ledger.redis.command(
                "HSET", "bell:circuit:main", "probe", visit_task("B")
            )  # another one is sent to see
            await ledger.complete(await start_run(ledger, "B", account="main"), ok, account="main")
            await ledger.release_circuit("main")

    assert ("parked", "403") == (
        (await ledger.load_task(visit_task("A"))).state,
        (await ledger.load_task(visit_task("A"))).reason,
    )
    assert not await ledger.redis.command("EXISTS", "bell:circuit:main")


async def test_where_calls_are_paced_whoever_comes_later_waits_for_its_turn(ledger: Ledger, redis: Redis) -> None:
    for visit, day in (("A", 8), ("B", 6), ("C", 7)):
        await accept(ledger, change(visit, time_scheduled=on_day(day)))
    first = await ledger.lease(visit_task("A"), "main", is_rate_limited=True)
    assert isinstance(first, Lease)
    await ledger.complete(first, Outcome(state="held", attempt=None, reason="rate_limited_locally"), account="main")

    later = [await ledger.lease(visit_task(visit), "main", is_rate_limited=True) for visit in "CB"]
    elsewhere = await ledger.lease(visit_task("C"), "main")
    await redis.command("SET", "bell:rate:main", str(int(time.time() * 1000) + 10_000))
    while_the_line_is_long = await ledger.release_circuit("main", calls_per_second=4)
    await redis.command("DEL", "bell:rate:main")
    let_out = await ledger.release_circuit("main", calls_per_second=4)

    assert (["held", "held"], "nothing", 0, 2) == (later, elsewhere, while_the_line_is_long, let_out)
    assert [visit_task("B"), visit_task("C")] == await ledger.task_ids("queued")
    assert isinstance(await ledger.lease(visit_task("B"), "main", is_rate_limited=True), Lease)
    assert [] == (await ledger.load_task(visit_task("A"))).attempts
