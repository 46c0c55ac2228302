"""Alarms are told once when they begin and once when they are over, to a real server, and harm nothing."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import orjson
import pytest

from app.demo.valkey import free_port
from app.ledger import keys
from app.ledger.ledger import Ledger
from app.ledger.redis import Redis
from app.settings.environment import read_environment
from app.settings.model import Settings
from app.telemetry.alerts import AlertMonitor
from app.telemetry.rejections import Rejections
from tests.support.harness import SECRET, Harness, wait_until
from tests.support.ledger import accept, backdate, change, complete_run, parked, start_run


class Channel(ThreadingHTTPServer):
    """Where alarms are posted. answers: with which statuses, the last one for ever. length: of a body that never comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.texts: list[str] = []
        self.answers = [200]
        self.length = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/secret"


class Post(BaseHTTPRequestHandler):
    server: Channel

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.texts.append(json.loads(body)["text"])
        answers = self.server.answers
        self.send_response(answers.pop(0) if answers[1:] else answers[0])
        self.send_header("content-length", str(self.server.length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def channel() -> Iterator[Channel]:
    with Channel() as channel:
        threading.Thread(target=channel.serve_forever, args=(0.01,), daemon=True).start()
        yield channel
        channel.shutdown()


def settings(url: str) -> Settings:
    return read_environment(
        {"REDIS_URL": "redis://127.0.0.1/0", "HOOKS__STANDARD__SECRETS": SECRET, "ALERT_WEBHOOK_URL": url}
    )


class Scene:
    """A worker lives; what is the matter is up to the test."""

    def __init__(self, redis: Redis, channel: Channel) -> None:
        self.redis, self.channel, self.ledger = redis, channel, Ledger(redis, retention_days=30)
        self.watch = AlertMonitor(redis, settings(channel.url))

    async def look(self) -> list[str]:
        """What is told by a look, some time after the last one."""
        await self.redis.command("DEL", keys.ALERTS_LOCK)
        known = len(self.channel.texts)
        await self.watch.check()
        return self.channel.texts[known:]

    async def beat(self) -> None:
        await self.ledger.heartbeat("bell:worker:w", b"{}", 30_000)

    async def minutes_later(self, minutes: int) -> None:
        state = orjson.loads(await self.redis.command("GET", keys.ALERTS))
        for sample in state["samples"]:
            sample["at"] -= minutes * 60
        await self.redis.command("SET", keys.ALERTS, orjson.dumps(state))


Step = Callable[[Scene], Awaitable[object]]


async def no_worker(scene: Scene) -> None:
    await scene.redis.command("DEL", "bell:workers")


async def full(scene: Scene) -> None:
    info = (await scene.redis.command("INFO", "memory")).decode()
    [used] = [int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("used_memory:")]
    await scene.redis.command("CONFIG", "SET", "maxmemory", int(used / 0.9))


async def roomy(scene: Scene) -> None:
    await scene.redis.command("CONFIG", "SET", "maxmemory", 0)


async def overdue(scene: Scene) -> None:
    await accept(scene.ledger, change("A"))
    await backdate(scene.redis, "queued")


async def park(scene: Scene) -> None:
    await accept(scene.ledger, change("A"))
    await scene.ledger.complete(await start_run(scene.ledger, "A"), parked())


async def deliveries(scene: Scene, *minutes_ago: float) -> None:
    for minutes in minutes_ago:
        await scene.redis.command(
            "ZADD", "bell:deliveries:standard", (time.time() - minutes * 60) * 1000, f"d{minutes}"
        )


async def refuse(scene: Scene, reason: str, count: int = 3) -> None:
    refusals = Rejections(scene.redis)
    for _ in range(count):
        refusals.record("standard", f"signature_{reason}", "why")
    await refusals.flush()


async def secret_changed(scene: Scene) -> None:
    """Genuine ones every five minutes, and none for ten."""
    await deliveries(scene, 10, 15, 20, 25)
    await refuse(scene, "mismatch")


async def beside(scene: Scene, reason: str, *minutes_ago: float) -> None:
    await deliveries(scene, *minutes_ago)
    await refuse(scene, reason, 40)


async def silence(scene: Scene) -> None:
    """Every hour for half a day, and then nothing for four."""
    for hours in range(4, 16):
        at = (time.time() - hours * 3_600) * 1000
        await scene.redis.command("ZADD", "bell:deliveries:standard", at, f"d{hours}")


async def ring_again(scene: Scene) -> None:
    await scene.redis.command("ZADD", "bell:deliveries:standard", time.time() * 1000, "d1")


@pytest.mark.parametrize(
    ("begins", "ends", "word"),
    [
        pytest.param(no_worker, Scene.beat, "No worker is running", id="no-worker"),
        pytest.param(full, roomy, "Redis is more than 80% full", id="memory"),
        pytest.param(
            overdue, lambda scene: complete_run(scene.ledger, "A"), "has waited for more than 120", id="oldest"
        ),
        pytest.param(park, lambda scene: scene.minutes_later(12), "Failures: 1 more than", id="parked"),
        pytest.param(secret_changed, lambda scene: deliveries(scene, 0), "3 requests had a wrong", id="signatures"),
        pytest.param(silence, ring_again, "standard has been silent", id="silent"),
    ],
)
async def test_an_alarm_is_told_when_it_begins_and_when_it_is_over(
    redis: Redis, channel: Channel, begins: Step, ends: Step, word: str
) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    assert [] == await scene.look()
    try:
        await begins(scene)
        [begun] = await scene.look()
        assert word in begun
        assert "Resolved" not in begun
        assert [] == await scene.look()

        await ends(scene)
        [over] = await scene.look()
        assert word in over.partition("Resolved: ")[2]
        assert [] == await scene.look()
    finally:
        await roomy(scene)


@pytest.mark.parametrize(
    "fine",
    [
        pytest.param(lambda scene: beside(scene, "missing", 10, 15, 20), id="strangers-without-a-signature"),
        pytest.param(lambda scene: beside(scene, "malformed", 10, 15, 20), id="strangers-with-nonsense"),
        pytest.param(lambda scene: beside(scene, "mismatch", 10, 500, 900), id="strangers-at-a-quiet-hook"),
        pytest.param(lambda scene: beside(scene, "mismatch"), id="strangers-where-nobody-ever-rang"),
        pytest.param(lambda scene: beside(scene, "mismatch", 0, 5, 10), id="strangers-while-genuine-ones-come"),
        pytest.param(lambda scene: accept(scene.ledger, change("A")), id="young-work"),
        pytest.param(ring_again, id="a-first-delivery"),
    ],
)
async def test_what_is_usual_is_no_alarm(redis: Redis, channel: Channel, fine: Step) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await scene.look()

    await fine(scene)

    assert [] == await scene.look()


async def test_failures_that_were_there_before_are_no_news_and_a_second_wave_is(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await park(scene)
    assert [] == await scene.look()
    await scene.minutes_later(12)
    await scene.look()

    await accept(scene.ledger, change("B"))
    await scene.ledger.complete(await start_run(scene.ledger, "B"), parked())

    [told] = await scene.look()
    assert "Failures: 1 more than ten minutes ago. In all: 2." in told


async def test_what_an_older_version_noted_is_read(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    sample = {"at": time.time() - 60, "parked": 0, "requests": {"standard": [5, 0]}}
    await redis.command("SET", keys.ALERTS, orjson.dumps({"active": {}, "samples": [sample]}))

    await park(scene)

    assert "Failures: 1 more than" in (await scene.look())[0]


async def test_what_was_not_taken_is_told_again(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    channel.answers = [500, 200]

    first, second, third = [await scene.look() for _ in range(3)]

    assert (first, []) == (second, third)
    assert "No worker" in first[0]


async def test_of_an_answer_only_the_status_is_read(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    channel.length = 1_000_000_000

    first, second = [await scene.look() for _ in range(2)]

    assert "No worker" in first[0]
    assert [] == second


async def test_of_many_that_look_at_once_one_tells(redis: Redis, channel: Channel) -> None:
    watches = [AlertMonitor(redis, settings(channel.url)) for _ in range(5)]

    await asyncio.gather(*(watch.check() for watch in watches))

    assert 1 == len(channel.texts)


async def test_a_channel_that_is_not_there_fails_nothing_and_its_address_is_not_logged(
    redis: Redis, logged: list[Any]
) -> None:
    await AlertMonitor(redis, settings(f"http://127.0.0.1:{free_port()}/services/secret")).check()

    assert ["alert_not_delivered"] == [line["event"] for line in logged]
    assert "secret" not in repr(logged)


def test_web_tells_that_no_worker_lives_and_the_worker_that_it_is_over(harness: Harness, channel: Channel) -> None:
    door = harness.start_web(ALERT_WEBHOOK_URL=channel.url, PUBLIC_URL="https://doorbell.example.com")
    wait_until(lambda: channel.texts)
    worker = harness.start_worker(ALERT_WEBHOOK_URL=channel.url)
    wait_until(lambda: channel.texts[1:])

    begun, over = channel.texts
    assert "No worker is running" in begun
    assert "https://doorbell.example.com/console" in begun
    assert "Resolved: No worker is running" in over
    assert 200 == httpx.get(f"{door.url}/healthz").status_code
    assert "services/secret" not in door.log.read_text() + worker.log.read_text()
