"""Random sequences of all steps keep every invariant."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.ledger.ledger import Ledger
from app.ledger.records import (
    CircuitSignal,
    Lease,
    LeaseLost,
    NotFound,
    Outcome,
    Queue,
)
from app.ledger.redis import Redis, RedisAddress
from app.visits.change import Contact
from tests.support.ledger import (
    QUEUE_KEYS,
    accept,
    attempt,
    backdate,
    change,
    done,
    end_circuit_pause,
    jobs,
    visit_task,
)

T = TypeVar("T")

STATES = ("queued", "running", "waiting", "held:main", "parked", "discarded")


class Walk(RuleBasedStateMachine):
    """Tools, workers, deaths, operators and time, in any order; what must hold, holds after every step."""

    VISITS = ("A", "B", "C", "D")
    visits = st.sampled_from(VISITS)

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.redis = Redis(RedisAddress(url))
        self.ledger = Ledger(self.redis, retention_days=30)
        self.run(self.redis.command("FLUSHDB"))
        self.accepted: set[tuple[str, str]] = set()
        self.deliveries: list[tuple[str, str]] = []
        self.running: dict[tuple[Queue, str], Lease] = {}
        self.families = {visit_task(visit): {visit_task(visit)} for visit in self.VISITS}

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def teardown(self) -> None:
        try:
            self.run(self.work_everything_off())
        finally:
            self.run(self.redis.close())
            self.runner.close()

    # -- steps --

    @initialize()
    def something_rings(self) -> None:
        self.ring("A", None)

    @rule(visit=visits, is_moved=st.booleans())
    def a_tool_rings(self, visit: str, is_moved: bool) -> None:
        # Every id comes after at most one other, as the tools do it: B and D after A, C after B.
        self.ring(visit, {"B": "A", "C": "B", "D": "A"}.get(visit) if is_moved else None)

    def ring(self, visit: str, before: str | None) -> None:
        key = f"key-{len(self.deliveries)}"
        written = self.run(accept(self.ledger, change(visit, before), key=key))
        assert not written.is_repeat
        self.deliveries.append((key, visit))
        self.accepted.add((visit_task(visit), f"{written.delivery_id}.0"))
        if before:
            joined = self.families[visit_task(visit)] | self.families[visit_task(before)]
            self.families |= dict.fromkeys(joined, joined)

    @rule(data=st.data())
    def a_tool_repeats(self, data: st.DataObject) -> None:
        key, visit = data.draw(st.sampled_from(self.deliveries))
        assert self.run(accept(self.ledger, change(visit), key=key)).is_repeat

    @rule(gate=st.sampled_from(["", "main"]))
    def a_worker_takes_a_job(self, gate: str) -> None:
        for lane, job, _ in self.run(self.ledger.claim({"visits": 1, "replays": 1}, lease_s=30)):
            hold = self.run(self.ledger.lease(job.rpartition("#")[0], gate))
            if isinstance(hold, str):
                self.run(self.ledger.ack(job, lane))
            else:
                self.running[lane, job] = hold

    @rule(
        data=st.data(),
        state=st.sampled_from(["done", "done", "waiting", "waiting for facts", "held", "parked"]),
        why=st.sampled_from([None, "ok", "down", "unauthorized", "rate_limited"]),
    )
    def a_worker_is_done(self, data: st.DataObject, state: str, why: str | None) -> None:
        if not self.running:
            return
        lane, job = data.draw(st.sampled_from(sorted(self.running)))
        outcome = Outcome(
            state=state.partition(" ")[0],  # type: ignore[arg-type]
            attempt=attempt(state),
            retry_in_s=60,
            failed_attempts=1 if state in ("waiting", "parked") else None,
            circuit_signal=CircuitSignal(kind=why, pause_s=30, threshold=2 if why == "down" else 1) if why else None,
        )
        with suppress(LeaseLost):
            self.run(self.ledger.complete(self.running.pop((lane, job)), outcome, account="main"))
        self.run(self.ledger.ack(job, lane))

    @rule(data=st.data(), is_back_later=st.booleans())
    def a_worker_dies(self, data: st.DataObject, is_back_later: bool) -> None:
        """Its lease ends, and its job's turn comes again."""
        if not self.running:
            return
        lane, job = data.draw(st.sampled_from(sorted(self.running)))
        self.run(self.let_the_lease_end(self.running[lane, job]))
        if not is_back_later:
            del self.running[lane, job]
            self.run(self.redis.command("ZADD", QUEUE_KEYS[lane], "XX", 1, job))

    async def let_the_lease_end(self, hold: Lease) -> None:
        for member in hold.tasks:
            if hold.token.encode() == await self.redis.command("HGET", f"bell:{member.task_id}", "lease"):
                await self.redis.command("ZADD", "bell:running", "XX", 1, member.task_id)

    @rule()
    def time_passes(self) -> None:
        self.run(backdate(self.redis, "waiting"))
        if self.run(self.redis.command("EXISTS", "bell:circuit:main")):
            self.run(end_circuit_pause(self.redis))

    @rule()
    def a_worker_sweeps(self) -> None:
        self.run(self.ledger.requeue_due())

    @rule()
    def a_worker_looks_at_the_gate(self) -> None:
        self.run(self.ledger.release_circuit("main"))

    @rule(data=st.data())
    def redis_loses_a_job_and_a_minute_passes(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(QUEUE_KEYS)))
        queue = self.run(self.redis.command("ZRANGE", QUEUE_KEYS[lane], 0, -1))
        if queue:
            self.run(self.ledger.ack(data.draw(st.sampled_from(queue)).decode(), lane))
            self.run(self.adopt())

    async def adopt(self) -> None:
        await backdate(self.redis, "queued")
        await self.ledger.requeue_orphans()

    @rule(visit=visits, fresh=st.booleans(), lane=st.sampled_from(["", "replays"]))
    def an_operator_replays(self, visit: str, fresh: bool, lane: Any) -> None:
        try:
            assert self.run(self.ledger.replay(visit_task(visit), fresh, queue=lane)) in ("queued", "running")
        except NotFound:
            assert not any(name == visit_task(visit) for name, _ in self.accepted)

    @rule(visit=visits)
    def an_operator_discards(self, visit: str) -> None:
        self.run(self.ledger.discard(visit_task(visit)))

    @rule(visit=visits)
    def an_operator_names_the_contact(self, visit: str) -> None:
        if any(name == visit_task(visit) for name, _ in self.accepted):
            self.run(self.ledger.assign_contact(visit_task(visit), change(visit, contact=Contact(id="cont_1"))))

    # -- what holds after each --

    async def look(self) -> "Snapshot":
        ask, names = self.redis.command, [visit_task(visit) for visit in self.VISITS]
        flat = await asyncio.gather(*(ask("HGETALL", f"bell:{name}") for name in names))
        expiry = await asyncio.gather(*(ask("PTTL", f"bell:{name}") for name in names))
        listed = await asyncio.gather(*(ask("ZRANGE", f"bell:{state}", 0, -1) for state in STATES))
        texts = [[part.decode() for part in one] for one in flat]
        hashes = {
            name: dict(zip(one[::2], one[1::2], strict=True)) for name, one in zip(names, texts, strict=True) if one
        }
        sets = [
            (state.partition(":")[0], one.decode()) for state, each in zip(STATES, listed, strict=True) for one in each
        ]
        return Snapshot(hashes, sorted(sets), dict(zip(names, expiry, strict=True)), set(await jobs(self.redis)))

    @invariant()
    def all_is_well(self) -> None:
        now = self.run(self.look())
        now.every_unfinished_work_is_in_exactly_the_set_of_its_state()
        now.nobody_has_done_more_than_there_is()
        now.nothing_accepted_disappears(self.accepted, self.families)
        now.queued_work_has_a_job_or_its_visit_is_in_good_hands(self.families)
        now.what_is_unfinished_never_expires(self.families)

    async def work_everything_off(self) -> None:
        """Without further trouble all of it is done, in bounded time."""
        await self.redis.command("DEL", "bell:circuit:main")
        for _ in range(30):
            for state in ("running", "waiting"):
                await backdate(self.redis, state)
            await self.ledger.requeue_due()
            await self.ledger.release_circuit("main")
            await self.adopt()
            for name in await self.ledger.task_ids("parked"):
                await self.ledger.replay(name)
            everything = dict.fromkeys(QUEUE_KEYS, 1000)
            for lane, job, _ in await self.ledger.claim(everything, lease_s=0):
                hold = await self.ledger.lease(job.rpartition("#")[0])
                if isinstance(hold, Lease):
                    await self.ledger.complete(hold, done())
                await self.ledger.ack(job, lane)
            if not await self.redis.command("ZCARD", "bell:queued"):
                break
        (await self.look()).all_is_done(self.accepted)


@dataclass
class Snapshot:
    """The ledger between two steps. listed: state and work. expiry: ms, -1 for never."""

    hashes: dict[str, dict[str, str]]
    listed: list[tuple[str, str]]
    expiry: dict[str, int]
    jobs: set[str]

    def state(self, name: str) -> str | None:
        return self.hashes.get(name, {}).get("state")

    def every_unfinished_work_is_in_exactly_the_set_of_its_state(self) -> None:
        assert sorted((hash["state"], name) for name, hash in self.hashes.items() if "state" in hash) == self.listed

    def nobody_has_done_more_than_there_is(self) -> None:
        assert [] == [name for name, hash in self.hashes.items() if int(hash["changes"]) < int(hash.get("applied", 0))]

    def nothing_accepted_disappears(self, accepted: set[tuple[str, str]], families: dict[str, set[str]]) -> None:
        for name, origin in accepted:
            hash = self.hashes[name]
            assert f"change:{origin}" in hash or f"discarded:{origin}" in hash
            if self.is_open(name, origin):
                states = {self.state(member) for member in families[name]}
                assert states & {"queued", "running", "waiting", "held", "parked"}, (name, origin, states)

    def is_open(self, name: str, origin: str) -> bool:
        """Neither seen by a finished run nor discarded."""
        hash = self.hashes[name]
        said = hash.get(f"change:{origin}")
        return said is not None and int(said.partition(" ")[0]) > int(hash.get("applied", 0))

    def queued_work_has_a_job_or_its_visit_is_in_good_hands(self, families: dict[str, set[str]]) -> None:
        """Somebody who works on another of its ids, or is going to, takes it along."""
        for name in (name for state, name in self.listed if state == "queued"):
            states = {self.state(member) for member in families[name]}
            assert self.jobs & families[name] or states & {"running", "waiting", "held"}, (name, states)

    def what_is_unfinished_never_expires(self, families: dict[str, set[str]]) -> None:
        for state, name in self.listed:
            if state != "discarded":
                kept = {member for member in families[name] if self.state(member) != "discarded"}
                assert [] == [(name, member) for member in kept if self.expiry[member] > 0]

    def all_is_done(self, accepted: set[tuple[str, str]]) -> None:
        assert {"discarded"} >= {state for state, _ in self.listed}
        assert [] == [(name, origin) for name, origin in accepted if self.is_open(name, origin)]


def test_whatever_happens_in_whatever_order_nothing_accepted_disappears(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: Walk(redis_url),
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
