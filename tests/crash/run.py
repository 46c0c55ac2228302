"""One run: send webhooks steadily, kill processes, wait until every task is done, compare."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp

from app.ledger.keys import QUEUE
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from jobs.apply_visit import MAX_RATE_WAIT_S
from tests.crash import scenarios
from tests.crash.checker import (
    Breaches,
    compare,
    contacts_of,
    duplicated_visits,
    missing_deliveries,
    open_tasks,
    unfinished_tasks,
    visits_of,
)
from tests.crash.scenarios import Scenario, Webhook
from tests.crash.supervisor import Supervisor

#: How many of a hundred kills hit each process.
SHARES = {"redis": 35, "worker": 40, "web": 25}
#: Before a failover that loses writes, the replica gets none for at most this time.
LOST_S = 1.0
#: After the last kill: a dead worker's leases last 35 s, then its tasks run again.
SETTLE_TIMEOUT_S = 180.0
#: The age up to which a write can be lost by a kill of Redis: with `everysec`, and with a truncated file. With little load
#: the truncated bytes are the writes of more seconds.
EVERYSEC_S, TRUNCATED_S = 2.5, 15.0
SLOW_S = 0.3
#: The rate limit is checked over this time.
WINDOW_S = 10.0


@dataclass(frozen=True)
class Plan:
    """The options of a run.

    kill_interval_s: the mean time between two kills. visits_per_second: how many scenarios start. truncate: whether Redis'
    file loses its end at each kill. fast: end the leases of dead workers at once instead of waiting for them.
    failovers: how many kills hit a primary whose replica is promoted; then no other kill hits Redis. ack: the setting ACK.
    lose_writes: the share of the failovers before which the replicas get no more writes. rate: the setting VISITS_API_RATE,
    in calls per second; 0 for none. minutes: after this time nothing more is killed.
    """

    kills: int
    seed: int
    fsync: str = "everysec"
    kill_interval_s: float = 1.0
    visits_per_second: float = 4.0
    truncate: bool = False
    fast: bool = False
    failovers: int = 0
    ack: str = "write"
    lose_writes: float = 0.0
    replicas: int = 1
    rate: int = 0
    minutes: float = 60 * 24

    @property
    def may_lose(self) -> bool:
        """Whether Redis may lose a delivery that was accepted."""
        if self.failovers:
            return self.ack != "replica"
        return self.truncate or self.fsync != "always"

    def victims(self, rng: random.Random) -> Iterator[str]:
        """Yield what each kill hits."""
        processes = {kind: share for kind, share in SHARES.items() if not self.failovers or kind != "redis"}
        failovers, kills = self.failovers, self.kills
        while failovers + kills:
            if failovers and rng.random() < failovers / (failovers + kills):
                failovers -= 1
                yield "failover"
            else:
                kills -= 1
                yield rng.choices([*processes], [*processes.values()])[0]


@dataclass
class Report:
    """The result of a run.

    excused: deliveries that Redis may lose, and lost; after failovers they were sent again. losing_failovers: how many lost
    one. longest_gap_s: the longest time without an accepted webhook. redis_restart_s: the longest restart of Redis, or
    failover. busiest_window: the most calls of the Visits API within WINDOW_S.
    """

    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    responses: Counter[str] = field(default_factory=Counter)
    deliveries: int = 0
    retried: int = 0
    visits: int = 0
    contacts: int = 0
    calls: int = 0
    excused: int = 0
    losing_failovers: int = 0
    unexpected_exits: int = 0
    longest_gap_s: float = 0
    redis_restart_s: float = 0
    busiest_window: int = 0
    settle_s: float = 0
    took_s: float = 0
    breaches: Breaches = field(default_factory=Breaches)

    @property
    def _losses(self) -> str:
        if self.plan.failovers:
            return f"failovers lost, in {self.losing_failovers} of them; they were sent again"
        return "Redis had accepted but not yet written"

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        responses = ", ".join(f"{count} × {response}" for response, count in sorted(self.responses.items()))
        breaches = self.breaches
        lines = [
            f"seed          {self.plan.seed}, appendfsync {self.plan.fsync}"
            + (", truncated files" if self.plan.truncate else "")
            + (
                f", ACK={self.plan.ack}, {self.plan.lose_writes:.0%} without the last writes"
                * bool(self.plan.failovers)
            ),
            f"kills         {self.kills.total()}: {kills}; unexpected exits: {self.unexpected_exits}",
            f"deliveries    {self.deliveries}, {self.retried} of them sent again; responses: {responses}",
            f"in the API    {self.visits} visits, {self.contacts} contacts, after {self.calls} calls",
            f"lost          {len(breaches.lost)}, and {self.excused} that {self._losses}",
            f"duplicated    {len(breaches.duplicated)}",
            f"wrong         {len(breaches.wrong)}",
            *(
                [f"busiest       {self.busiest_window} calls in {WINDOW_S:.0f} s, of {self.plan.rate} per second"]
                * bool(self.plan.rate)
            ),
            f"slowest       {'failover' if self.plan.failovers else 'restart of Redis'} {self.redis_restart_s:.2f} s,",
            f"              no webhook accepted for {self.longest_gap_s:.2f} s,",
            f"              done {self.settle_s:.1f} s after the last kill; {self.took_s:.0f} s in total",
        ]
        return "\n".join([*lines, *(f"BREACH        {breach}" for breach in breaches.all()[:40])])


async def run(plan: Plan) -> Report:
    with ExitStack() as stack:
        supervisor = Supervisor(stack, plan.fsync, plan.ack, plan.replicas if plan.failovers else 0, plan.rate)
        return await Run(plan, supervisor).report()


class Run:
    def __init__(self, plan: Plan, supervisor: Supervisor) -> None:
        self.plan, self.supervisor, self.report_ = plan, supervisor, Report(plan)
        self.rng = random.Random(plan.seed)
        self.scenarios: list[Scenario] = []
        self.journal: list[dict[str, Any]] = []
        #: When Redis was killed, and may have lost writes.
        self.redis_kill_times: list[float] = []
        self.failover_times: list[float] = []
        self.lost: set[str] = set()
        self.uncertain: list[Scenario] = []
        self.kills_done, self.workers_stopped = asyncio.Event(), False
        self._answered_at = time.monotonic()

    async def report(self) -> Report:
        started, report = time.monotonic(), self.report_
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self.http:
            await self._until_up()
            faults = {"slow_share": 0.3, "slow_s": SLOW_S, "seed": self.plan.seed}
            await self.http.put(f"{self.supervisor.sandbox.url}/_sandbox/faults", json=faults)
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(self._read_journal()), group.create_task(self._restart_ended())]
                sending = group.create_task(self._send_all())
                await self._kill_all()
                last_kill_at = time.monotonic()
                self.kills_done.set()
                if self.plan.failovers:
                    await self.supervisor.wait_until_in_sync()  # with ACK=replica nothing is accepted before that
                await asyncio.wait_for(sending, SETTLE_TIMEOUT_S)
                self.uncertain = await self._find_uncertain()
                if self.plan.failovers:
                    await self._send_lost_again()
                if self.plan.fast:
                    await self._end_leases()
                await self._wait_until_done()
                report.settle_s = time.monotonic() - last_kill_at
                for task in background:
                    task.cancel()
            await self._read_new_journal_lines()
        await self._check()
        report.unexpected_exits = sum(
            process.unexpected_exits for process in (*self.supervisor.webs, *self.supervisor.workers)
        )
        report.took_s = time.monotonic() - started
        return report

    async def _until_up(self) -> None:
        for url in self.supervisor.web_urls:
            for _ in range(400):
                try:
                    async with self.http.get(f"{url}/readyz") as response:
                        if response.ok:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        self._answered_at = time.monotonic()

    # Webhooks

    async def _send_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, scenario in enumerate(self._new_scenarios(), 1):
                if self.kills_done.is_set():
                    break
                self.scenarios.append(scenario)
                for webhook in scenario.webhooks:
                    group.create_task(self._send(webhook))
                await asyncio.sleep(self.rng.expovariate(self.plan.visits_per_second))
                assert number < 100_000
        self.report_.deliveries = sum(len(scenario.webhooks) for scenario in self.scenarios)

    def _new_scenarios(self) -> Iterator[Scenario]:
        rng = random.Random(f"scenarios {self.plan.seed}")
        number = 0
        while True:
            number += 1
            tool = rng.choices(["standard", "calendly", "acuity"], [5, 3, 2])[0]
            if tool == "acuity":
                yield scenarios.acuity(rng, number, self.supervisor.records)
            else:
                yield {"standard": scenarios.standard, "calendly": scenarios.calendly}[tool](rng, number)

    async def _send(self, webhook: Webhook) -> None:
        """Send a webhook repeatedly, until the response is 2xx, as a tool does."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.kills_done.wait(), webhook.after_s)
        webhook.before()
        await self._send_until_accepted(webhook)

    async def _send_until_accepted(self, webhook: Webhook) -> None:
        while not webhook.delivery:
            webhook.send_count += 1
            self.report_.retried += webhook.send_count == 2
            outcome = await self._send_once(webhook)
            self.report_.responses[outcome] += 1
            if not webhook.delivery:
                await asyncio.sleep(self.rng.uniform(0.2, 0.8))

    async def _send_once(self, webhook: Webhook) -> str:
        url = f"{self.rng.choice(self.supervisor.web_urls)}/hooks/{webhook.hook}"
        try:
            async with self.http.post(url, data=webhook.raw, headers=webhook.sign(webhook.raw)) as response:
                body = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            return "none"
        if response.ok:
            now = time.monotonic()
            self.report_.longest_gap_s = max(self.report_.longest_gap_s, now - self._answered_at)
            self._answered_at, webhook.answered_at = now, time.time()
            webhook.delivery, webhook.status = body["delivery"], response.status
            return f"{response.status} {'repeat' if body.get('repeat') else 'accepted'}"
        return str(response.status)

    async def _send_lost_again(self) -> None:
        """Send again what failovers lost, as an operator lets a tool do. Nothing is uncertain after that.

        A repeat, which has no delivery of its own, may have asked for another fetch of the record, and that may be lost.
        """
        may_be_lost = {webhook.delivery for scenario in self.uncertain for webhook in scenario.webhooks}
        lost = [
            webhook for scenario in self.scenarios for webhook in scenario.webhooks if webhook.delivery in self.lost
        ]
        report = self.report_
        report.excused = sum(webhook.delivery in may_be_lost for webhook in lost)
        report.breaches.lost += [
            f"{webhook.delivery} was lost, accepted {self._next_kill(webhook) - webhook.stored_at():.1f} s before a failover"
            for webhook in lost
            if webhook.delivery not in may_be_lost
        ]
        report.losing_failovers = len({self._next_kill(webhook) for webhook in lost})
        repeats = [webhook for scenario in self.uncertain for webhook in scenario.webhooks if webhook.status == 200]
        for webhook in (*lost, *repeats):
            webhook.delivery = ""
        await asyncio.gather(*map(self._send_until_accepted, (*lost, *repeats)))
        self.lost, self.uncertain = set(), []

    def _next_kill(self, webhook: Webhook) -> float:
        """Return the time of the first kill of Redis after it was stored."""
        return min((kill for kill in self.redis_kill_times if kill > webhook.stored_at()), default=0.0)

    # Kills

    async def _kill_all(self) -> None:
        # A separate generator, so that the kills depend only on the seed and not on the webhooks.
        rng, until = random.Random(f"kills {self.plan.seed}"), time.monotonic() + 60 * self.plan.minutes
        victims = self.plan.victims(rng)
        while time.monotonic() < until:
            await asyncio.sleep(min(5 * self.plan.kill_interval_s, rng.expovariate(1 / self.plan.kill_interval_s)))
            kind = next(victims, "")
            if not kind:
                return
            self.report_.kills[kind] += 1
            if kind == "redis":
                await self._kill_redis()
            elif kind == "failover":
                await self._fail_over()
            else:
                self.supervisor.restart(
                    self.rng.choice(self.supervisor.webs if kind == "web" else self.supervisor.workers)
                )

    async def _kill_redis(self) -> None:
        lost_bytes = self.rng.randint(1, 4_000) if self.plan.truncate else 0
        started = time.monotonic()
        if self.plan.may_lose:
            self.redis_kill_times.append(time.time())
        await self.supervisor.kill_redis(lost_bytes)
        self.report_.redis_restart_s = max(self.report_.redis_restart_s, time.monotonic() - started)

    async def _fail_over(self) -> None:
        await self.supervisor.wait_until_in_sync()
        lost_s = self.rng.uniform(0.2, LOST_S) if self.rng.random() < self.plan.lose_writes else 0.0
        started = time.monotonic()
        killed_at = await self.supervisor.fail_over(lost_s)
        self.failover_times.append(killed_at)
        if self.plan.may_lose:
            self.redis_kill_times.append(killed_at)
        self.report_.redis_restart_s = max(self.report_.redis_restart_s, time.monotonic() - started - lost_s)

    async def _restart_ended(self) -> None:
        while True:
            if not self.workers_stopped:
                self.supervisor.restart_ended()
            await asyncio.sleep(0.3)

    # End

    async def _end_leases(self) -> None:
        """Kill all workers, end all leases and locks, and start the workers again."""
        self.workers_stopped = True
        for worker in self.supervisor.workers:
            worker.kill()
        await asyncio.sleep(2 * SLOW_S)
        redis = Redis(RedisAddress(self.supervisor.redis_url))
        for key in ("bell:state:running", "bell:state:waiting", f"{QUEUE}visits", f"{QUEUE}events"):
            for name in await redis.command("ZRANGE", key, 0, -1):
                await redis.command("ZINCRBY", key, -60_000, name)
        for lock in await redis.command("KEYS", "bell:contact:*:lock"):
            await redis.command("DEL", lock)
        await redis.close()
        for worker in self.supervisor.workers:
            worker.start()
        self.workers_stopped = False

    async def _wait_until_done(self) -> None:
        deadline, checks_done = time.monotonic() + SETTLE_TIMEOUT_S, 0
        while checks_done < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.3)
            try:
                checks_done = 0 if await self._open_tasks() else checks_done + 1
            except RedisUnavailable:
                checks_done = 0

    async def _read_journal(self) -> None:
        while True:
            await asyncio.sleep(2)
            with suppress(TimeoutError):  # a busy machine
                await self._read_new_journal_lines()

    async def _read_new_journal_lines(self) -> None:
        since = self.journal[-1]["number"] if self.journal else 0
        async with self.http.get(f"{self.supervisor.sandbox.url}/_sandbox/journal?since={since}") as response:
            self.journal += (await response.json())["journal"]

    async def _check(self) -> None:
        report, breaches, file = self.report_, self.report_.breaches, self.supervisor.visits_file
        pending = await self._open_tasks()
        excused = {delivery for delivery in self.lost if not self._is_breach(delivery)}
        for unfinished in await unfinished_tasks(self.supervisor.redis_url, self._deliveries()):
            is_excused = unfinished.task in self._excused_tasks() and unfinished.task not in pending
            if unfinished.delivery not in excused and not is_excused:
                breaches.lost.append(str(unfinished))
        report.excused += len(excused)
        breaches.lost += [f"{task} is not done: it is in {key}" for task, key in pending.items()]
        visits, contacts = visits_of(file), contacts_of(file)
        uncertain = frozenset(scenario.external_id for scenario in self.uncertain)
        duplicates, breaches.wrong = compare(self.scenarios, visits, uncertain)
        breaches.duplicated = duplicates + duplicated_visits(self.journal)
        breaches.duplicated += [f"{count} contacts of one address" for count in contacts.values() if count > 1]
        if self.plan.rate:
            breaches.wrong += self._exceeded_rates()
        report.visits, report.contacts, report.calls = len(visits), contacts.total(), len(self.journal)

    def _exceeded_rates(self) -> list[str]:
        """Return a sentence for each window with too many calls. A failover can lose the slots of calls that still wait."""
        times = sorted(datetime.fromisoformat(call["at"]).timestamp() for call in self.journal)
        first, sentences = 0, []
        for last, end in enumerate(times):
            while times[first] <= end - WINDOW_S:
                first += 1
            count = last + 1 - first
            self.report_.busiest_window = max(self.report_.busiest_window, count)
            failovers = sum(end - WINDOW_S - MAX_RATE_WAIT_S < each <= end for each in self.failover_times)
            if count > self.plan.rate * (WINDOW_S + 1 + failovers * MAX_RATE_WAIT_S):
                sentences.append(f"{count} calls in {WINDOW_S:.0f} s, with {failovers} failovers")
        return sentences[:1]

    def _deliveries(self) -> list[str]:
        return sorted({webhook.delivery for scenario in self.scenarios for webhook in scenario.webhooks})

    async def _find_uncertain(self) -> list[Scenario]:
        """Return the scenarios with a delivery that Redis may lose at a kill, and may have lost."""
        self.lost = await missing_deliveries(self.supervisor.redis_url, self._deliveries())
        return [
            scenario
            for scenario in self.scenarios
            # A repeat has no delivery that could be missing.
            if any(
                self._may_be_lost(webhook) and (webhook.delivery in self.lost or webhook.status == 200)
                for webhook in scenario.webhooks
            )
        ]

    def _may_be_lost(self, webhook: Webhook) -> bool:
        if self.plan.failovers:
            return self.plan.may_lose
        window_s = TRUNCATED_S if self.plan.truncate else EVERYSEC_S
        return any(webhook.stored_at() < kill < webhook.stored_at() + window_s for kill in self.redis_kill_times)

    def _is_breach(self, delivery: str) -> bool:
        return not any(
            self._may_be_lost(webhook)
            for scenario in self.uncertain
            for webhook in scenario.webhooks
            if webhook.delivery == delivery
        )

    def _excused_tasks(self) -> set[str]:
        names = {name for scenario in self.uncertain for name in (scenario.external_id, *scenario.aliases)}
        return {f"visit:main/{name}" for name in names}

    async def _open_tasks(self) -> dict[str, str]:
        """Return the tasks that are not done, without those that may wait for lost changes."""
        tasks, excused = await open_tasks(self.supervisor.redis_url), self._excused_tasks()
        return {task: key for task, key in tasks.items() if not (key == "bell:state:waiting" and task in excused)}
