"""One run: ring steadily, kill, let it come to rest, compare."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from app.ledger.jobs_contract import QUEUE
from app.ledger.redis import Address, Redis, RedisDown
from tests.crash import stories
from tests.crash.house import House
from tests.crash.judge import Breaches, compare, contacts_of, doubled_in, open_work, unknown, unsettled, visits_of
from tests.crash.stories import Ring, Story

#: Of a hundred kills.
SHARES = {"redis": 35, "worker": 40, "web": 25}
#: After the last kill: a dead worker's leases last 35 s, then what they held is done once more.
REST_S = 180.0
#: With `everysec` Redis answers before it writes while the disk is busy, for so long at the most; what it answered then is
#: lost with a kill. The bytes that a torn file loses are those of some more seconds when little is rung.
EVERYSEC_S, TORN_S = 2.5, 15.0
SLOW_S = 0.3


@dataclass(frozen=True)
class Plan:
    """kills: how many, one in every_s. visits_a_second: how many stories begin. torn: whether Redis's file loses its end.
    fast: instead of waiting for the leases of the dead, all workers die and time passes at once."""

    kills: int
    seed: int
    fsync: str = "everysec"
    every_s: float = 1.0
    visits_a_second: float = 4.0
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
    ended_by_itself: int = 0
    silence_s: float = 0
    redis_s: float = 0
    rest_s: float = 0
    took_s: float = 0
    breaches: Breaches = field(default_factory=Breaches)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        answers = ", ".join(f"{count} × {answer}" for answer, count in sorted(self.answers.items()))
        breaches = self.breaches
        lines = [
            f"seed          {self.plan.seed}, appendfsync {self.plan.fsync}{', torn files' if self.plan.torn else ''}",
            f"kills         {self.kills.total()}: {kills}; ended by themselves: {self.ended_by_itself}",
            f"deliveries    {self.deliveries}, {self.retried} of them sent again; answers: {answers}",
            f"in the API    {self.visits} visits, {self.contacts} contacts, after {self.calls} calls",
            f"lost          {len(breaches.lost)}, and {self.excused} that Redis had answered but not yet written",
            f"doubled       {len(breaches.doubled)}",
            f"wrong         {len(breaches.wrong)}",
            f"slowest       Redis back after {self.redis_s:.2f} s, no door took anything for {self.silence_s:.2f} s,",
            f"              at rest {self.rest_s:.1f} s after the last kill; {self.took_s:.0f} s in all",
        ]
        return "\n".join([*lines, *(f"BREACH        {breach}" for breach in breaches.all()[:40])])


async def run(plan: Plan) -> Report:
    with ExitStack() as stack:
        return await Run(plan, House(stack, plan.fsync)).report()


class Run:
    def __init__(self, plan: Plan, house: House) -> None:
        self.plan, self.house, self.report_ = plan, house, Report(plan)
        self.dice = random.Random(plan.seed)
        self.stories: list[Story] = []
        self.journal: list[dict[str, Any]] = []
        self.tears: list[float] = []
        self.may_lose = plan.torn or plan.fsync != "always"
        self.lost: set[str] = set()
        self.loose: list[Story] = []
        self.calm, self.nobody_lives = asyncio.Event(), False
        self._answered_at = time.monotonic()

    async def report(self) -> Report:
        started, report = time.monotonic(), self.report_
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self.http:
            await self._until_up()
            switches = {"slow_share": 0.3, "slow_s": SLOW_S, "seed": self.plan.seed}
            await self.http.put(f"{self.house.sandbox.url}/_sandbox/faults", json=switches)
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(self._read_journal()), group.create_task(self._keep())]
                ringing = group.create_task(self._ring_all())
                await self._kill_all()
                calm_at = time.monotonic()
                self.calm.set()
                await asyncio.wait_for(ringing, 60)
                self.loose = await self._find_loose()
                if self.plan.fast:
                    await self._let_time_pass()
                await self._rest()
                report.rest_s = time.monotonic() - calm_at
                for task in watching:
                    task.cancel()
            await self._read_on()
        await self._judge()
        report.ended_by_itself = sum(kept.ended_by_itself for kept in (*self.house.webs, *self.house.workers))
        report.took_s = time.monotonic() - started
        return report

    async def _until_up(self) -> None:
        for door in self.house.doors:
            for _ in range(400):
                try:
                    async with self.http.get(f"{door}/readyz") as answer:
                        if answer.ok:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        self._answered_at = time.monotonic()

    # -- ringing --

    async def _ring_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, story in enumerate(self._new_stories(), 1):
                if self.calm.is_set():
                    break
                self.stories.append(story)
                for ring in story.rings:
                    group.create_task(self._ring(ring))
                await asyncio.sleep(self.dice.expovariate(self.plan.visits_a_second))
                assert number < 100_000
        self.report_.deliveries = sum(len(story.rings) for story in self.stories)

    def _new_stories(self) -> Iterator[Story]:
        dice = random.Random(f"stories {self.plan.seed}")
        number = 0
        while True:
            number += 1
            tool = dice.choices(["standard", "calendly", "acuity"], [5, 3, 2])[0]
            if tool == "acuity":
                yield stories.acuity(dice, number, self.house.records)
            else:
                yield {"standard": stories.standard, "calendly": stories.calendly}[tool](dice, number)

    async def _ring(self, ring: Ring) -> None:
        """As a tool does: again and again, until it is answered with 2xx."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.calm.wait(), ring.after_s)
        ring.before()
        while not ring.delivery:
            ring.tries += 1
            self.report_.retried += ring.tries == 2
            said = await self._sent(ring)
            self.report_.answers[said] += 1
            if not ring.delivery:
                await asyncio.sleep(self.dice.uniform(0.2, 0.8))

    async def _sent(self, ring: Ring) -> str:
        url = f"{self.dice.choice(self.house.doors)}/hooks/{ring.hook}"
        try:
            async with self.http.post(url, data=ring.raw, headers=ring.sign(ring.raw)) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return "none"
        if answer.ok:
            now = time.monotonic()
            self.report_.silence_s = max(self.report_.silence_s, now - self._answered_at)
            self._answered_at, ring.answered_at = now, time.time()
            ring.delivery, ring.status = body["delivery"], answer.status
            return f"{answer.status} {'repeat' if body.get('repeat') else 'accepted'}"
        return str(answer.status)

    # -- killing --

    async def _kill_all(self) -> None:
        # Dice of its own: what is killed follows from the seed, whatever rings meanwhile.
        dice = random.Random(f"kills {self.plan.seed}")
        for _ in range(self.plan.kills):
            await asyncio.sleep(min(5 * self.plan.every_s, dice.expovariate(1 / self.plan.every_s)))
            kind = dice.choices([*SHARES], [*SHARES.values()])[0]
            self.report_.kills[kind] += 1
            if kind == "redis":
                await self._kill_redis()
            else:
                self.house.restart(self.dice.choice(self.house.webs if kind == "web" else self.house.workers))

    async def _kill_redis(self) -> None:
        torn = self.dice.randint(1, 4_000) if self.plan.torn else 0
        started = time.monotonic()
        if self.may_lose:
            self.tears.append(time.time())
        await self.house.kill_redis(torn)
        self.report_.redis_s = max(self.report_.redis_s, time.monotonic() - started)

    async def _keep(self) -> None:
        while True:
            if not self.nobody_lives:
                self.house.keep()
            await asyncio.sleep(0.3)

    # -- the end --

    async def _let_time_pass(self) -> None:
        """Nobody is alive who holds anything, and no call is under way: nothing but time passes until all leases end."""
        self.nobody_lives = True
        for worker in self.house.workers:
            worker.kill()
        await asyncio.sleep(2 * SLOW_S)
        redis = Redis(Address(self.house.redis_url))
        for key in ("db:running", "db:waiting", QUEUE):
            for name in await redis.command("ZRANGE", key, 0, -1):
                await redis.command("ZINCRBY", key, -60_000, name)
        for lock in await redis.command("KEYS", "db:contact:*:lock"):
            await redis.command("DEL", lock)
        await redis.close()
        for worker in self.house.workers:
            worker.start()
        self.nobody_lives = False

    async def _rest(self) -> None:
        until, quiet = time.monotonic() + REST_S, 0
        while quiet < 3 and time.monotonic() < until:
            await asyncio.sleep(0.3)
            try:
                quiet = 0 if await self._left() else quiet + 1
            except RedisDown:
                quiet = 0

    async def _read_journal(self) -> None:
        while True:
            await asyncio.sleep(2)
            await self._read_on()

    async def _read_on(self) -> None:
        since = self.journal[-1]["number"] if self.journal else 0
        async with self.http.get(f"{self.house.sandbox.url}/_sandbox/journal?since={since}") as answer:
            self.journal += (await answer.json())["journal"]

    async def _judge(self) -> None:
        report, breaches, file = self.report_, self.report_.breaches, self.house.visits_file
        left = await self._left()
        excused = {delivery for delivery in self.lost if not self._is_breach(delivery)}
        for each in await unsettled(self.house.redis_url, self._deliveries()):
            if each.delivery not in excused and not (each.work in self._excused_work() and each.work not in left):
                breaches.lost.append(str(each))
        report.excused = len(excused)
        breaches.lost += [f"{work} is not at rest in {state}" for work, state in left.items()]
        visits, contacts = visits_of(file), contacts_of(file)
        loose = frozenset(story.external_id for story in self.loose)
        doubled, breaches.wrong = compare(self.stories, visits, loose)
        breaches.doubled = doubled + doubled_in(self.journal)
        breaches.doubled += [f"{count} contacts of one address" for count in contacts.values() if count > 1]
        report.visits, report.contacts, report.calls = len(visits), contacts.total(), len(self.journal)

    def _deliveries(self) -> list[str]:
        return sorted({ring.delivery for story in self.stories for ring in story.rings})

    async def _find_loose(self) -> list[Story]:
        """The stories of which something was lost with the end of Redis's file: what it may lose and no more."""
        self.lost = await unknown(self.house.redis_url, self._deliveries())
        return [
            story
            for story in self.stories
            # A repeat leaves no delivery of its own that could be missed.
            if any(
                self._may_be_lost(ring) and (ring.delivery in self.lost or ring.status == 200) for ring in story.rings
            )
        ]

    def _may_be_lost(self, ring: Ring) -> bool:
        lose_s = TORN_S if self.plan.torn else EVERYSEC_S
        return any(ring.written_at() < tear < ring.written_at() + lose_s for tear in self.tears)

    def _is_breach(self, delivery: str) -> bool:
        return not any(
            self._may_be_lost(ring) for story in self.loose for ring in story.rings if ring.delivery == delivery
        )

    def _excused_work(self) -> set[str]:
        names = {name for story in self.loose for name in (story.external_id, *story.later)}
        return {f"visit:main/{name}" for name in names}

    async def _left(self) -> dict[str, str]:
        """What is not at rest; but what waits for facts that are lost may wait."""
        work, excused = await open_work(self.house.redis_url), self._excused_work()
        return {name: state for name, state in work.items() if not (state == "db:waiting" and name in excused)}
