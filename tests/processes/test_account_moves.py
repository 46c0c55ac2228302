"""An account moves between two cells while its deliveries arrive: nothing is lost, doubled or wrong, whenever it is killed.

Senders behave as tools behind a router: they send a delivery to the first cell, and after a 503 to either of them.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.demo.valkey import valkey
from app.ledger.redis import Redis, RedisAddress
from tests.crash import scenarios
from tests.crash.checker import compare, contacts_of, duplicated_visits, open_tasks, unfinished_tasks, visits_of
from tests.crash.scenarios import ACUITY_KEY, Scenario, Webhook
from tests.crash.supervisor import tool_api
from tests.support.harness import Harness, Server, memory_folder, wait_until
from tests.support.processes import start_process

#: The steps of a move, by a word of the line that announces each.
STEPS = ("running tasks", "copy;", "changed meanwhile", "start in", "remove")
FILL = "for i = 1, ARGV[1] do redis.call('SET', 'bell:dedup:standard:old' .. i, 'd0000000000000000000', 'EX', 6e5) end"
VISITS_PER_SECOND, SETTLE_S = 8.0, 60.0


@dataclass
class Cells:
    """Two cells with web and worker, one Visits API, and one tool that is asked for records."""

    east: Harness
    west: Harness
    records: dict[str, dict[str, Any]]
    visits_file: Path

    def move(self, killed_at: str = "") -> str:
        """Start or continue the move in a process, and return its messages. killed_at: the step that it announces last."""
        log = self.visits_file.with_suffix(".log")
        log.unlink(missing_ok=True)
        arguments = [sys.executable, "-m", "app", "move", "standard", "--to", self.west.redis_url, "--yes"]
        move = start_process(arguments, self.east.env, log)
        while move.poll() is None and not (killed_at and killed_at in log.read_text()):
            time.sleep(0.005)
        move.kill()
        move.wait()
        if killed_at:
            self.end_locks()
        return log.read_text()

    def end_waits(self) -> None:
        """Let waiting tasks run now: the event of a repeat would wait for a minute."""
        for task in self.west.redis_command("ZRANGE", "bell:state:waiting", 0, -1):
            self.west.redis_command("ZADD", "bell:state:waiting", "XX", 1, task)

    def end_locks(self) -> None:
        """Remove the locks of a killed move, which would expire after half a minute."""
        for lock in self.east.redis_command("KEYS", "bell:*:lock"):
            self.east.redis_command("DEL", lock)


@pytest.fixture
def cells() -> Iterator[Cells]:
    records: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory_folder())))
        sandbox = stack.enter_context(Server.sandbox("--file", str(folder / "visits.db")))
        tool = stack.enter_context(tool_api(records))
        harnesses = []
        for _ in range(2):
            harness = stack.enter_context(Harness(stack.enter_context(valkey(parent=memory_folder())), sandbox))
            harness.env |= {
                "LOG_LEVEL": "WARNING",
                "RETRY_FIRST_S": "0.5",
                "RETRY_CAP_S": "2",
                "HOOKS__ACUITY__SECRETS": ACUITY_KEY,
                "HOOKS__ACUITY__API_URL": tool,
                "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
                "HOOKS__ACUITY__CREDENTIALS__API_KEY": ACUITY_KEY,
            }
            harness.start_web()
            harness.start_worker()
            harnesses.append(harness)
        # Enough data that deliveries arrive while it is copied.
        harnesses[0].redis_command("EVAL", FILL, 0, 20_000)
        wait_until(lambda: harnesses[1].doorbell("workers").returncode == 0)
        yield Cells(*harnesses, records, folder / "visits.db")


@dataclass
class Load:
    """Sends the webhooks of ever new scenarios until it is stopped."""

    cells: Cells
    seed: int
    scenarios: list[Scenario] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self.running = asyncio.create_task(self.run())

    async def stop(self) -> None:
        """Wait until every webhook was accepted, also each that is sent twice."""
        self.stopped.set()
        await self.running

    async def run(self) -> None:
        rng = random.Random(self.seed)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self.http,
            asyncio.TaskGroup() as group,
        ):
            for number, scenario in enumerate(self._new_scenarios(rng), 1):
                if self.stopped.is_set():
                    return
                self.scenarios.append(scenario)
                for webhook in scenario.webhooks:
                    group.create_task(self._send(webhook, repeats=rng.random() < 0.3))
                await asyncio.sleep(rng.expovariate(VISITS_PER_SECOND))
                assert number < 10_000

    def _new_scenarios(self, rng: random.Random) -> Iterator[Scenario]:
        for number in range(1, 10_000):
            match rng.choices(["standard", "calendly", "acuity"], [4, 3, 3])[0]:
                case "standard":
                    yield scenarios.standard(rng, number)
                case "calendly":
                    yield scenarios.calendly(rng, number)
                case _:
                    yield scenarios.acuity(rng, number, self.cells.records)

    async def _send(self, webhook: Webhook, repeats: bool) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), webhook.after_s)
        webhook.before()
        for _ in range(2 if repeats else 1):
            cell = self.cells.east
            while not await self._is_accepted(cell, webhook):
                await asyncio.sleep(random.uniform(0.1, 0.5))
                cell = random.choice([self.cells.east, self.cells.west])

    async def _is_accepted(self, cell: Harness, webhook: Webhook) -> bool:
        url = f"{cell.web_server.url}/hooks/{webhook.hook}"
        async with self.http.post(url, data=webhook.raw, headers=webhook.sign(webhook.raw)) as response:
            body = await response.json()
        self.statuses.add(response.status)
        if response.ok:
            webhook.delivery = body["delivery"]
        return response.ok


@pytest.fixture
async def load(cells: Cells) -> AsyncIterator[Load]:
    load = Load(cells, seed=7)
    load.start()
    await asyncio.sleep(3)
    yield load
    load.running.cancel()


async def finish(load: Load) -> None:
    """Stop the load, and wait until no task of either cell is unfinished."""
    await asyncio.wait_for(load.stop(), SETTLE_S)
    calm = 0
    for _ in range(int(SETTLE_S / 0.3)):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(load.cells.end_waits)
        tasks = {url: await open_tasks(url) for url in (load.cells.east.redis_url, load.cells.west.redis_url)}
        calm = 0 if any(tasks.values()) else calm + 1
        if calm == 3:
            return
    raise AssertionError(f"not done: {tasks}")


async def keys_of_visits(url: str) -> list[str]:
    redis = Redis(RedisAddress(url))
    try:
        patterns = ("bell:visit:main/*", "bell:delivery:*", "bell:dedup:*", "bell:event:*", "bell:visit-day:*")
        return [key.decode() for pattern in patterns for key in await redis.command("KEYS", pattern)]
    finally:
        await redis.close()


async def not_repeats(load: Load) -> list[Webhook]:
    """Send every webhook again, and return those that the other cell does not recognize."""
    webhooks = [webhook for scenario in load.scenarios for webhook in scenario.webhooks]
    west = load.cells.west.web_server.url
    async with aiohttp.ClientSession() as http:
        unknown = []
        for webhook in webhooks:
            url = f"{west}/hooks/{webhook.hook}"
            async with http.post(url, data=webhook.raw, headers=webhook.sign(webhook.raw)) as response:
                if await response.json() != {"delivery": webhook.delivery, "repeat": True}:
                    unknown.append(webhook)
    return unknown


async def check(load: Load) -> None:
    cells = load.cells
    deliveries = sorted({webhook.delivery for scenario in load.scenarios for webhook in scenario.webhooks})
    duplicates, wrong = compare(load.scenarios, visits_of(cells.visits_file), frozenset())

    assert [] == duplicates + duplicated_visits(cells.east.journal())
    assert [] == wrong
    assert [] == await unfinished_tasks(cells.west.redis_url, deliveries)
    assert {} == {email: count for email, count in contacts_of(cells.visits_file).items() if count > 1}
    assert [] == await keys_of_visits(cells.east.redis_url)
    assert [] == await not_repeats(load)
    assert len(deliveries) > 30


async def test_an_account_moves_while_deliveries_arrive(cells: Cells, load: Load) -> None:
    cells.east.inject_faults(slow_share=0.3, slow_s=0.3)

    messages = await asyncio.to_thread(cells.move)
    await asyncio.sleep(2)
    await finish(load)

    assert "has moved" in messages, messages
    assert {202, 503} <= load.statuses <= {200, 202, 503}
    await check(load)


async def test_a_killed_move_continues_at_every_step(cells: Cells, load: Load) -> None:
    cells.east.inject_faults(slow_share=0.3, slow_s=0.3)

    for step in STEPS:
        messages = await asyncio.to_thread(cells.move, killed_at=step)
        assert step in messages, messages
        assert "has moved" not in messages
        await asyncio.sleep(0.5)
    messages = await asyncio.to_thread(cells.move)
    await asyncio.sleep(2)
    await finish(load)

    assert "has moved" in messages, messages
    await check(load)
