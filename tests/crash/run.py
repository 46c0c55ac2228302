"""One run: send webhooks steadily, kill processes, wait until every task is done, compare."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from app.ledger.keys import VISITS_QUEUE
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
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

#: Of a hundred kills.
SHARES = {"redis": 35, "worker": 40, "web": 25}
#: After the last kill: a dead worker's leases last 35 s, then what they held is done once more.
SETTLE_TIMEOUT_S = 180.0
#: With `everysec` Redis answers before it writes while the disk is busy, for so long at the most; what it answered then is
#: lost with a kill. The bytes that a torn file loses are those of some more seconds when little is rung.
EVERYSEC_S, TORN_S = 2.5, 15.0
SLOW_S = 0.3


@dataclass(frozen=True)
class Plan:
    """kills: how many, one in every_s. visits_a_second: how many scenarios begin. torn: whether Redis's file loses its end.
    fast: instead of waiting for the leases of the dead, all workers die and time passes at once."""

    kills: int
    seed: int
    fsync: str = "everysec"
    kill_interval_s: float = 1.0
    visits_per_second: float = 4.0
    torn: bool = False
    fast: bool = False


@dataclass
class Report:
    """What happened. silence_s: the longest time in which no door took anything. redis_s: Redis's slowest way back."""

    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    deliveries: int = 0
    retried: int = 0
    visits: int = 0
    contacts: int = 0
    calls: int = 0
    excused: int = 0
    unexpected_exits: int = 0
    longest_gap_s: float = 0
    redis_restart_s: float = 0
    settle_s: float = 0
    took_s: float = 0
    breaches: Breaches = field(default_factory=Breaches)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        answers = ", ".join(f"{count} × {answer}" for answer, count in sorted(self.answers.items()))
        breaches = self.breaches
        lines = [
            f"seed          {self.plan.seed}, appendfsync {self.plan.fsync}{', torn files' if self.plan.torn else ''}",
            f"kills         {self.kills.total()}: {kills}; ended by themselves: {self.unexpected_exits}",
            f"deliveries    {self.deliveries}, {self.retried} of them sent again; answers: {answers}",
            f"in the API    {self.visits} visits, {self.contacts} contacts, after {self.calls} calls",
            f"lost          {len(breaches.lost)}, and {self.excused} that Redis had answered but not yet written",
            f"doubled       {len(breaches.duplicated)}",
            f"wrong         {len(breaches.wrong)}",
            f"slowest       Redis back after {self.redis_restart_s:.2f} s,",
            f"              no webhook accepted for {self.longest_gap_s:.2f} s,",
            f"              at rest {self.settle_s:.1f} s after the last kill; {self.took_s:.0f} s in all",
        ]
        return "\n".join([*lines, *(f"BREACH        {breach}" for breach in breaches.all()[:40])])


async def run(plan: Plan) -> Report:
    with ExitStack() as stack:
        return await Run(plan, Supervisor(stack, plan.fsync)).report()


class Run:
    def __init__(self, plan: Plan, supervisor: Supervisor) -> None:
        self.plan, self.supervisor, self.report_ = plan, supervisor, Report(plan)
        self.rng = random.Random(plan.seed)
        self.scenarios: list[Scenario] = []
        self.journal: list[dict[str, Any]] = []
        self.redis_kill_times: list[float] = []
        self.may_lose = plan.torn or plan.fsync != "always"
        self.lost: set[str] = set()
        self.uncertain: list[Scenario] = []
        self.kills_done, self.workers_stopped = asyncio.Event(), False
        self._answered_at = time.monotonic()

    async def report(self) -> Report:
        started, report = time.monotonic(), self.report_
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self.http:
            await self._until_up()
            switches = {"slow_share": 0.3, "slow_s": SLOW_S, "seed": self.plan.seed}
            await self.http.put(f"{self.supervisor.sandbox.url}/_sandbox/faults", json=switches)
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(self._read_journal()), group.create_task(self._restart_ended())]
                ringing = group.create_task(self._send_all())
                await self._kill_all()
                calm_at = time.monotonic()
                self.kills_done.set()
                await asyncio.wait_for(ringing, 60)
                self.uncertain = await self._find_uncertain()
                if self.plan.fast:
                    await self._let_time_pass()
                await self._wait_until_done()
                report.settle_s = time.monotonic() - calm_at
                for task in watching:
                    task.cancel()
            await self._read_new_journal_lines()
        await self._check()
        report.unexpected_exits = sum(
            kept.unexpected_exits for kept in (*self.supervisor.webs, *self.supervisor.workers)
        )
        report.took_s = time.monotonic() - started
        return report

    async def _until_up(self) -> None:
        for door in self.supervisor.web_urls:
            for _ in range(400):
                try:
                    async with self.http.get(f"{door}/readyz") as answer:
                        if answer.ok:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        self._answered_at = time.monotonic()

    # -- ringing --

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
        """As a tool does: again and again, until it is answered with 2xx."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.kills_done.wait(), webhook.after_s)
        webhook.before()
        while not webhook.delivery:
            webhook.send_count += 1
            self.report_.retried += webhook.send_count == 2
            said = await self._send_once(webhook)
            self.report_.answers[said] += 1
            if not webhook.delivery:
                await asyncio.sleep(self.rng.uniform(0.2, 0.8))

    async def _send_once(self, webhook: Webhook) -> str:
        url = f"{self.rng.choice(self.supervisor.web_urls)}/hooks/{webhook.hook}"
        try:
            async with self.http.post(url, data=webhook.raw, headers=webhook.sign(webhook.raw)) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return "none"
        if answer.ok:
            now = time.monotonic()
            self.report_.longest_gap_s = max(self.report_.longest_gap_s, now - self._answered_at)
            self._answered_at, webhook.answered_at = now, time.time()
            webhook.delivery, webhook.status = body["delivery"], answer.status
            return f"{answer.status} {'repeat' if body.get('repeat') else 'accepted'}"
        return str(answer.status)

    # -- killing --

    async def _kill_all(self) -> None:
        # Dice of its own: what is killed follows from the seed, whatever rings meanwhile.
        rng = random.Random(f"kills {self.plan.seed}")
        for _ in range(self.plan.kills):
            await asyncio.sleep(min(5 * self.plan.kill_interval_s, rng.expovariate(1 / self.plan.kill_interval_s)))
            kind = rng.choices([*SHARES], [*SHARES.values()])[0]
            self.report_.kills[kind] += 1
            if kind == "redis":
                await self._kill_redis()
            else:
                self.supervisor.restart(
                    self.rng.choice(self.supervisor.webs if kind == "web" else self.supervisor.workers)
                )

    async def _kill_redis(self) -> None:
        torn = self.rng.randint(1, 4_000) if self.plan.torn else 0
        started = time.monotonic()
        if self.may_lose:
            self.redis_kill_times.append(time.time())
        await self.supervisor.kill_redis(torn)
        self.report_.redis_restart_s = max(self.report_.redis_restart_s, time.monotonic() - started)

    async def _restart_ended(self) -> None:
        while True:
            if not self.workers_stopped:
                self.supervisor.restart_ended()
            await asyncio.sleep(0.3)

    # -- the end --

    async def _let_time_pass(self) -> None:
        """Nobody is alive who holds anything, and no call is under way: nothing but time passes until all leases end."""
        self.workers_stopped = True
        for worker in self.supervisor.workers:
            worker.kill()
        await asyncio.sleep(2 * SLOW_S)
        redis = Redis(RedisAddress(self.supervisor.redis_url))
        for key in ("bell:running", "bell:waiting", VISITS_QUEUE):
            for name in await redis.command("ZRANGE", key, 0, -1):
                await redis.command("ZINCRBY", key, -60_000, name)
        for lock in await redis.command("KEYS", "bell:contact:*:lock"):
            await redis.command("DEL", lock)
        await redis.close()
        for worker in self.supervisor.workers:
            worker.start()
        self.workers_stopped = False

    async def _wait_until_done(self) -> None:
        until, quiet = time.monotonic() + SETTLE_TIMEOUT_S, 0
        while quiet < 3 and time.monotonic() < until:
            await asyncio.sleep(0.3)
            try:
                quiet = 0 if await self._open_tasks() else quiet + 1
            except RedisUnavailable:
                quiet = 0

    async def _read_journal(self) -> None:
        while True:
            await asyncio.sleep(2)
            await self._read_new_journal_lines()

    async def _read_new_journal_lines(self) -> None:
        since = self.journal[-1]["number"] if self.journal else 0
        async with self.http.get(f"{self.supervisor.sandbox.url}/_sandbox/journal?since={since}") as answer:
            self.journal += (await answer.json())["journal"]

    async def _check(self) -> None:
        report, breaches, file = self.report_, self.report_.breaches, self.supervisor.visits_file
        left = await self._open_tasks()
        excused = {delivery for delivery in self.lost if not self._is_breach(delivery)}
        for each in await unfinished_tasks(self.supervisor.redis_url, self._deliveries()):
            if each.delivery not in excused and not (each.task in self._excused_tasks() and each.task not in left):
                breaches.lost.append(str(each))
        report.excused = len(excused)
        breaches.lost += [f"{work} is not at rest in {state}" for work, state in left.items()]
        visits, contacts = visits_of(file), contacts_of(file)
        uncertain = frozenset(scenario.external_id for scenario in self.uncertain)
        doubled, breaches.wrong = compare(self.scenarios, visits, uncertain)
        breaches.duplicated = doubled + duplicated_visits(self.journal)
        breaches.duplicated += [f"{count} contacts of one address" for count in contacts.values() if count > 1]
        report.visits, report.contacts, report.calls = len(visits), contacts.total(), len(self.journal)

    def _deliveries(self) -> list[str]:
        return sorted({webhook.delivery for scenario in self.scenarios for webhook in scenario.webhooks})

    async def _find_uncertain(self) -> list[Scenario]:
        """The scenarios of which something was lost with the end of Redis's file: what it may lose and no more."""
        self.lost = await missing_deliveries(self.supervisor.redis_url, self._deliveries())
        return [
            scenario
            for scenario in self.scenarios
            # A repeat leaves no delivery of its own that could be missed.
            if any(
                self._may_be_lost(webhook) and (webhook.delivery in self.lost or webhook.status == 200)
                for webhook in scenario.webhooks
            )
        ]

    def _may_be_lost(self, webhook: Webhook) -> bool:
        lose_s = TORN_S if self.plan.torn else EVERYSEC_S
        return any(webhook.stored_at() < tear < webhook.stored_at() + lose_s for tear in self.redis_kill_times)

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
        """What is not at rest; but what waits for facts that are lost may wait."""
        work, excused = await open_tasks(self.supervisor.redis_url), self._excused_tasks()
        return {name: state for name, state in work.items() if not (state == "bell:waiting" and name in excused)}
