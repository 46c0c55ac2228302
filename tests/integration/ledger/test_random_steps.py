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


class LedgerMachine(RuleBasedStateMachine):
    """Runs the steps of tools, workers, operators and time in random order, and checks the invariants after each."""

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
        self.aliases = {visit_task(visit): {visit_task(visit)} for visit in self.VISITS}

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def teardown(self) -> None:
        try:
            self.run(self.complete_everything())
        finally:
            self.run(self.redis.close())
            self.runner.close()

    # -- steps --

    @initialize()
    def first_delivery(self) -> None:
        self.accept_change("A", None)

    @rule(visit=visits, is_rescheduled=st.booleans())
    def tool_sends(self, visit: str, is_rescheduled: bool) -> None:
        # Every id has at most one previous id, as the tools do it: A for B and D, B for C.
        self.accept_change(visit, {"B": "A", "C": "B", "D": "A"}.get(visit) if is_rescheduled else None)

    def accept_change(self, visit: str, previous: str | None) -> None:
        key = f"key-{len(self.deliveries)}"
        written = self.run(accept(self.ledger, change(visit, previous), key=key))
        assert not written.is_repeat
        self.deliveries.append((key, visit))
        self.accepted.add((visit_task(visit), f"{written.delivery_id}.0"))
        if previous:
            linked_ids = self.aliases[visit_task(visit)] | self.aliases[visit_task(previous)]
            self.aliases |= dict.fromkeys(linked_ids, linked_ids)

    @rule(data=st.data())
    def tool_repeats(self, data: st.DataObject) -> None:
        key, visit = data.draw(st.sampled_from(self.deliveries))
        assert self.run(accept(self.ledger, change(visit), key=key)).is_repeat

    @rule(account=st.sampled_from(["", "main"]))
    def worker_claims_a_job(self, account: str) -> None:
        for queue_name, job, _ in self.run(self.ledger.claim({"visits": 1, "replays": 1}, lease_s=30)).jobs:
            lease = self.run(self.ledger.lease(job.rpartition("#")[0], account))
            if isinstance(lease, str):
                self.run(self.ledger.ack(job, queue_name))
            else:
                self.running[queue_name, job] = lease

    @rule(
        data=st.data(),
        state=st.sampled_from(["done", "done", "waiting", "waiting for facts", "held", "parked"]),
        kind=st.sampled_from([None, "ok", "down", "unauthorized", "rate_limited"]),
    )
    def worker_completes(self, data: st.DataObject, state: str, kind: str | None) -> None:
        if not self.running:
            return
        queue_name, job = data.draw(st.sampled_from(sorted(self.running)))
        outcome = Outcome(
            state=state.partition(" ")[0],  # type: ignore[arg-type]
            attempt=attempt(state),
            retry_in_s=60,
            failed_attempts=1 if state in ("waiting", "parked") else None,
            circuit_signal=CircuitSignal(kind=kind, pause_s=30, threshold=2 if kind == "down" else 1) if kind else None,
        )
        with suppress(LeaseLost):
            self.run(self.ledger.complete(self.running.pop((queue_name, job)), outcome, account="main"))
        self.run(self.ledger.ack(job, queue_name))

    @rule(data=st.data(), completes_late=st.booleans())
    def worker_dies(self, data: st.DataObject, completes_late: bool) -> None:
        """Expire the lease. completes_late: the worker reports its result later."""
        if not self.running:
            return
        queue_name, job = data.draw(st.sampled_from(sorted(self.running)))
        self.run(self.expire_lease(self.running[queue_name, job]))
        if not completes_late:
            del self.running[queue_name, job]
            self.run(self.redis.command("ZADD", QUEUE_KEYS[queue_name], "XX", 1, job))

    async def expire_lease(self, lease: Lease) -> None:
        for alias in lease.tasks:
            if lease.token.encode() == await self.redis.command("HGET", f"bell:{alias.task_id}", "lease"):
                await self.redis.command("ZADD", "bell:state:running", "XX", 1, alias.task_id)

    @rule()
    def time_passes(self) -> None:
        self.run(backdate(self.redis, "waiting"))
        if self.run(self.redis.command("EXISTS", "bell:circuit:main")):
            self.run(end_circuit_pause(self.redis))

    @rule()
    def worker_requeues_due_tasks(self) -> None:
        self.run(self.ledger.requeue_due())

    @rule()
    def worker_releases_the_circuit(self) -> None:
        self.run(self.ledger.release_held("main"))

    @rule(data=st.data())
    def redis_loses_a_job(self, data: st.DataObject) -> None:
        queue_name = data.draw(st.sampled_from(sorted(QUEUE_KEYS)))
        queue = self.run(self.redis.command("ZRANGE", QUEUE_KEYS[queue_name], 0, -1))
        if queue:
            self.run(self.redis.command("ZREM", QUEUE_KEYS[queue_name], data.draw(st.sampled_from(queue))))
            self.run(self.requeue_orphans())

    async def requeue_orphans(self) -> None:
        await backdate(self.redis, "queued")
        await self.ledger.requeue_orphans()

    @rule(visit=visits, recheck=st.booleans(), queue_name=st.sampled_from(["", "replays"]))
    def operator_replays(self, visit: str, recheck: bool, queue_name: Any) -> None:
        try:
            assert self.run(self.ledger.replay(visit_task(visit), recheck, queue=queue_name)) in ("queued", "running")
        except NotFound:
            assert not any(task_id == visit_task(visit) for task_id, _ in self.accepted)

    @rule(visit=visits)
    def operator_discards(self, visit: str) -> None:
        self.run(self.ledger.discard(visit_task(visit)))

    @rule(visit=visits)
    def operator_assigns_a_contact(self, visit: str) -> None:
        if any(task_id == visit_task(visit) for task_id, _ in self.accepted):
            self.run(self.ledger.assign_contact(visit_task(visit), change(visit, contact=Contact(id="cont_1"))))

    # -- invariants --

    async def take_snapshot(self) -> "Snapshot":
        command, task_ids = self.redis.command, [visit_task(visit) for visit in self.VISITS]
        replies = await asyncio.gather(*(command("HGETALL", f"bell:{task_id}") for task_id in task_ids))
        expiry = await asyncio.gather(*(command("PTTL", f"bell:{task_id}") for task_id in task_ids))
        sets = await asyncio.gather(*(command("ZRANGE", f"bell:state:{state}", 0, -1) for state in STATES))
        hashes = {}
        for task_id, reply in zip(task_ids, replies, strict=True):
            if texts := [part.decode() for part in reply]:
                hashes[task_id] = dict(zip(texts[::2], texts[1::2], strict=True))
        listed = [
            (state.partition(":")[0], member.decode())
            for state, members in zip(STATES, sets, strict=True)
            for member in members
        ]
        return Snapshot(hashes, sorted(listed), dict(zip(task_ids, expiry, strict=True)), set(await jobs(self.redis)))

    @invariant()
    def all_invariants_hold(self) -> None:
        snapshot = self.run(self.take_snapshot())
        snapshot.assert_each_task_is_in_the_set_of_its_state()
        snapshot.assert_applied_changes_exist()
        snapshot.assert_accepted_changes_are_stored(self.accepted, self.aliases)
        snapshot.assert_queued_tasks_will_run(self.aliases)
        snapshot.assert_unfinished_tasks_do_not_expire(self.aliases)

    async def complete_everything(self) -> None:
        """Complete every task within 30 rounds without failures."""
        await self.redis.command("DEL", "bell:circuit:main")
        for _ in range(30):
            for state in ("running", "waiting"):
                await backdate(self.redis, state)
            await self.ledger.requeue_due()
            await self.ledger.release_held("main")
            await self.requeue_orphans()
            for task_id in await self.ledger.task_ids("parked"):
                await self.ledger.replay(task_id)
            limits = dict.fromkeys(QUEUE_KEYS, 1000)
            for queue_name, job, _ in (await self.ledger.claim(limits, lease_s=0)).jobs:
                lease = await self.ledger.lease(job.rpartition("#")[0])
                if isinstance(lease, Lease):
                    await self.ledger.complete(lease, done())
                await self.ledger.ack(job, queue_name)
            if not await self.redis.command("ZCARD", "bell:state:queued"):
                break
        (await self.take_snapshot()).assert_all_is_done(self.accepted)


@dataclass
class Snapshot:
    """The ledger between two steps. listed: state and task id. expiry: ms, -1 for never."""

    hashes: dict[str, dict[str, str]]
    listed: list[tuple[str, str]]
    expiry: dict[str, int]
    jobs: set[str]

    def state(self, task_id: str) -> str | None:
        return self.hashes.get(task_id, {}).get("state")

    def assert_each_task_is_in_the_set_of_its_state(self) -> None:
        assert (
            sorted((hash["state"], task_id) for task_id, hash in self.hashes.items() if "state" in hash) == self.listed
        )

    def assert_applied_changes_exist(self) -> None:
        assert [] == [
            task_id for task_id, hash in self.hashes.items() if int(hash["changes"]) < int(hash.get("applied", 0))
        ]

    def assert_accepted_changes_are_stored(self, accepted: set[tuple[str, str]], aliases: dict[str, set[str]]) -> None:
        for task_id, origin in accepted:
            hash = self.hashes[task_id]
            assert f"change:{origin}" in hash or f"discarded:{origin}" in hash
            if self.is_open(task_id, origin):
                states = {self.state(alias) for alias in aliases[task_id]}
                assert states & {"queued", "running", "waiting", "held", "parked"}, (task_id, origin, states)

    def is_open(self, task_id: str, origin: str) -> bool:
        """Return whether the change is neither applied nor discarded."""
        hash = self.hashes[task_id]
        stored = hash.get(f"change:{origin}")
        return stored is not None and int(stored.partition(" ")[0]) > int(hash.get("applied", 0))

    def assert_queued_tasks_will_run(self, aliases: dict[str, set[str]]) -> None:
        """Check that each queued task has a job, or an alias whose run will apply it."""
        for task_id in (task_id for state, task_id in self.listed if state == "queued"):
            states = {self.state(alias) for alias in aliases[task_id]}
            assert self.jobs & aliases[task_id] or states & {"running", "waiting", "held"}, (task_id, states)

    def assert_unfinished_tasks_do_not_expire(self, aliases: dict[str, set[str]]) -> None:
        for state, task_id in self.listed:
            if state != "discarded":
                open_ids = {alias for alias in aliases[task_id] if self.state(alias) != "discarded"}
                assert [] == [(task_id, alias) for alias in open_ids if self.expiry[alias] > 0]

    def assert_all_is_done(self, accepted: set[tuple[str, str]]) -> None:
        assert {"discarded"} >= {state for state, _ in self.listed}
        assert [] == [(task_id, origin) for task_id, origin in accepted if self.is_open(task_id, origin)]


def test_random_steps_never_lose_an_accepted_change(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(redis_url),
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
