"""Alerts are posted to a real server, once when they start and once when they end."""

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
from app.ledger.connection_states import ConnectionState, ConnectionStates, Health
from app.ledger.ledger import Ledger
from app.ledger.records import CircuitSignal, Outcome
from app.ledger.redis import Redis
from app.settings.environment import read_environment
from app.settings.model import Settings
from app.telemetry.alerts import AlertMonitor
from app.telemetry.metrics import snapshot
from app.telemetry.rejections import Rejections
from tests.support.harness import SECRET, Harness, wait_until
from tests.support.ledger import (
    accept,
    attempt,
    backdate,
    change,
    complete_run,
    done,
    end_circuit_pause,
    parked,
    start_run,
    visit_task,
)


class Channel(ThreadingHTTPServer):
    """The server to which alerts are posted.

    statuses: of the responses in order, the last one for all further ones. length: of a body that is never sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.texts: list[str] = []
        self.statuses = [200]
        self.length = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/secret"


class Post(BaseHTTPRequestHandler):
    server: Channel

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.texts.append(json.loads(body)["text"])
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if statuses[1:] else statuses[0])
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


def settings(url: str, **environ: str) -> Settings:
    environ |= {"HOOKS__STANDARD__SECRETS": SECRET, "ALERT_WEBHOOK_URL": url}
    return read_environment({"REDIS_URL": "redis://127.0.0.1/0", **environ})


class Scene:
    """A ledger and an alert monitor, which a test controls."""

    def __init__(self, redis: Redis, channel: Channel) -> None:
        self.redis, self.channel, self.ledger = redis, channel, Ledger(redis, retention_days=30)
        self.monitor = AlertMonitor(redis, settings(channel.url))

    async def check(self) -> list[str]:
        """Check, as if the last check was some time ago. Return the posted messages."""
        await self.redis.command("DEL", keys.ALERTS_LOCK)
        posted = len(self.channel.texts)
        await self.monitor.check()
        return self.channel.texts[posted:]

    async def beat(self) -> None:
        await self.ledger.heartbeat("bell:worker:w", b"{}", 30_000)

    async def minutes_later(self, minutes: int) -> None:
        state = orjson.loads(await self.redis.command("GET", keys.ALERTS))
        for sample in state["samples"]:
            sample["at"] -= minutes * 60
        await self.redis.command("SET", keys.ALERTS, orjson.dumps(state))


Step = Callable[[Scene], Awaitable[object]]


async def stop_worker(scene: Scene) -> None:
    await scene.redis.command("DEL", "bell:workers")


async def fill(scene: Scene) -> None:
    info = (await scene.redis.command("INFO", "memory")).decode()
    [used] = [int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("used_memory:")]
    await scene.redis.command("CONFIG", "SET", "maxmemory", int(used / 0.9))


async def remove_limit(scene: Scene) -> None:
    await scene.redis.command("CONFIG", "SET", "maxmemory", 0)


async def queue_old_task(scene: Scene) -> None:
    await accept(scene.ledger, change("A"))
    await backdate(scene.redis, "queued")


async def hold_task_without_open_circuit(scene: Scene) -> None:
    """Hold a task an hour ago, as VISITS_API_RATE does, and let no worker release it."""
    await accept(scene.ledger, change("A"))
    await scene.ledger.pause("main")
    await scene.ledger.lease(visit_task("A"), "main")
    await scene.ledger.pause("main", False)
    an_hour_ago = int((time.time() - 3_600) * 1000)
    await scene.redis.command("HSET", f"bell:{visit_task('A')}", "pending_since", an_hour_ago)
    await scene.redis.command("DEL", keys.LAST_DONE)


async def release_task(scene: Scene) -> None:
    await scene.ledger.release_held("main")
    await complete_run(scene.ledger, "A")


async def stop_calls(scene: Scene) -> None:
    await scene.ledger.pause("main")
    await scene.redis.command("HSET", "bell:circuit:main", "since", int((time.time() - 700) * 1000))


async def run_limited(scene: Scene) -> None:
    limited = CircuitSignal(kind="rate_limited", pause_s=15)
    outcome = Outcome(state="held", attempt=attempt("429"), circuit_signal=limited)
    await scene.ledger.complete(await start_run(scene.ledger, "A", "main"), outcome, "main")


async def limit_rate(scene: Scene) -> None:
    """Have the API answer 429 again and again for twelve minutes. Each pause is short."""
    await accept(scene.ledger, change("A"))
    await run_limited(scene)
    await scene.redis.command("HINCRBY", "bell:circuit:main", "since", -720_000)
    await end_circuit_pause(scene.redis)
    assert 1 == await scene.ledger.release_held("main")
    await run_limited(scene)


async def end_rate_limit(scene: Scene) -> None:
    await end_circuit_pause(scene.redis)
    await scene.ledger.release_held("main")
    run = await start_run(scene.ledger, "A", "main")
    await scene.ledger.complete(run, done(circuit_signal=CircuitSignal(kind="ok")), "main")


async def park(scene: Scene) -> None:
    await accept(scene.ledger, change("A"))
    await scene.ledger.complete(await start_run(scene.ledger, "A"), parked())


async def add_deliveries(scene: Scene, *minutes_ago: float) -> None:
    for minutes in minutes_ago:
        await scene.redis.command(
            "ZADD", "bell:deliveries:standard", (time.time() - minutes * 60) * 1000, f"d{minutes}"
        )


async def reject(scene: Scene, reason: str, count: int = 3, hook: str = "standard") -> None:
    rejections = Rejections(scene.redis)
    for _ in range(count):
        rejections.record(hook, f"signature_{reason}", "a detail")
    await rejections.flush()


async def change_secret(scene: Scene) -> None:
    """Add verified deliveries every five minutes, none in the last ten minutes, and wrong signatures."""
    await add_deliveries(scene, 10, 15, 20, 25)
    await reject(scene, "mismatch")


async def reject_strangers(scene: Scene, reason: str, *minutes_ago: float) -> None:
    await add_deliveries(scene, *minutes_ago)
    await reject(scene, reason, 40)


async def add_silence(scene: Scene) -> None:
    """Add deliveries every hour for twelve hours, and none in the last four."""
    for hours in range(4, 16):
        at = (time.time() - hours * 3_600) * 1000
        await scene.redis.command("ZADD", "bell:deliveries:standard", at, f"d{hours}")


async def add_delivery(scene: Scene) -> None:
    await scene.redis.command("ZADD", "bell:deliveries:standard", time.time() * 1000, "d1")


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        pytest.param(stop_worker, Scene.beat, "No worker is running", id="no-worker"),
        pytest.param(fill, remove_limit, "Redis is more than 80% full", id="memory"),
        pytest.param(
            queue_old_task, lambda scene: complete_run(scene.ledger, "A"), "has waited for more than 120", id="oldest"
        ),
        pytest.param(hold_task_without_open_circuit, release_task, "no task has finished for 300", id="progress"),
        pytest.param(
            stop_calls, lambda scene: scene.ledger.pause("main", False), "Calls for the account main have", id="circuit"
        ),
        pytest.param(limit_rate, end_rate_limit, "Calls for the account main have", id="rate-limit"),
        pytest.param(
            park, lambda scene: scene.minutes_later(12), "New failures in the last ten minutes: 1", id="parked"
        ),
        pytest.param(change_secret, lambda scene: add_deliveries(scene, 0), "3 requests had a wrong", id="signatures"),
        pytest.param(add_silence, add_delivery, "standard has been silent", id="silent"),
    ],
)
async def test_an_alert_is_posted_when_it_starts_and_when_it_ends(
    redis: Redis, channel: Channel, start: Step, end: Step, text: str
) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    assert [] == await scene.check()
    try:
        await start(scene)
        [started] = await scene.check()
        assert text in started
        assert "Resolved" not in started
        assert [] == await scene.check()

        await end(scene)
        [resolved] = await scene.check()
        assert text in resolved.partition("Resolved: ")[2]
        assert [] == await scene.check()
    finally:
        await remove_limit(scene)


async def degrade(scene: Scene, state: Health) -> None:
    await ConnectionStates(scene.redis).save(
        ConnectionState("calendly", state, checked_at_ms=int(time.time() * 1000), detail="as the tool says")
    )


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("degraded", "The webhooks of calendly fail. as the tool says"),
        ("disabled", "calendly is no longer connected to its tool: disabled. as the tool says"),
    ],
)
async def test_an_alert_distinguishes_failing_deliveries_from_a_lost_connection(
    redis: Redis, channel: Channel, state: Health, text: str
) -> None:
    scene = Scene(redis, channel)
    scene.monitor = AlertMonitor(redis, settings(channel.url, HOOKS__CALENDLY__SECRETS="a-secret-of-tests"))
    await scene.beat()
    await degrade(scene, state)

    [message] = await scene.check()

    assert text in message


async def test_wrong_signatures_of_one_hook_are_not_hidden_by_another_hook_of_its_source(
    redis: Redis, channel: Channel
) -> None:
    environment = settings(channel.url, HOOKS__EAST__SOURCE="standard", HOOKS__EAST__SECRETS=SECRET)
    scene = Scene(redis, channel)
    scene.monitor = AlertMonitor(redis, environment)
    await scene.beat()
    await change_secret(scene)
    for minutes in (0, 5, 10):
        at = (time.time() - minutes * 60) * 1000
        await redis.command("ZADD", "bell:deliveries:east", at, f"d{minutes}")
    await reject(scene, "mismatch", hook="east")

    [message] = await scene.check()
    metrics = (await snapshot(scene.ledger, environment)).encode()[0].decode()

    assert ("standard: 3 requests had a wrong" in message, "east" in message) == (True, False)
    assert 'doorbell_hook_bad_signatures{hook="standard"} 3.0' in metrics
    assert 'doorbell_hook_bad_signatures{hook="east"} 0.0' in metrics


@pytest.mark.parametrize(
    "normal",
    [
        pytest.param(lambda scene: reject_strangers(scene, "missing", 10, 15, 20), id="unsigned"),
        pytest.param(lambda scene: reject_strangers(scene, "malformed", 10, 15, 20), id="malformed"),
        pytest.param(lambda scene: reject_strangers(scene, "mismatch", 10, 500, 900), id="quiet-hook"),
        pytest.param(lambda scene: reject_strangers(scene, "mismatch"), id="hook-without-deliveries"),
        pytest.param(lambda scene: reject_strangers(scene, "mismatch", 0, 5, 10), id="between-verified-deliveries"),
        pytest.param(lambda scene: accept(scene.ledger, change("A")), id="new-task"),
        pytest.param(lambda scene: scene.ledger.pause("main"), id="new-pause"),
        pytest.param(add_delivery, id="first-delivery"),
    ],
)
async def test_normal_conditions_cause_no_alert(redis: Redis, channel: Channel, normal: Step) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await scene.check()

    await normal(scene)

    assert [] == await scene.check()


async def test_only_new_failures_cause_an_alert(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await park(scene)
    assert [] == await scene.check()
    await scene.minutes_later(12)
    await scene.check()

    await accept(scene.ledger, change("B"))
    await scene.ledger.complete(await start_run(scene.ledger, "B"), parked())

    [message] = await scene.check()
    assert "New failures in the last ten minutes: 1. Total: 2." in message


async def test_an_alert_about_failures_says_which_and_what_helps(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await scene.check()
    for name, reason in (("A", "time_unknown"), ("B", "contact_unknown"), ("C", "contact_unknown")):
        await accept(scene.ledger, change(name))
        await scene.ledger.complete(await start_run(scene.ledger, name), parked(reason))

    [message] = await scene.check()

    assert [
        "• No e-mail address: 2. Enter the customer's e-mail address or contact id, and replay.",
        "• No time: 1. Make the tool send the event again.",
    ] == [line for line in message.splitlines() if line.startswith("•")]
    await scene.minutes_later(12)
    [resolved] = await scene.check()
    assert "•" not in resolved


async def test_the_state_of_an_older_version_is_read(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    sample = {"at": time.time() - 60, "parked": 0, "requests": {"standard": [5, 0]}}
    await redis.command("SET", keys.ALERTS, orjson.dumps({"active": {}, "samples": [sample]}))

    await park(scene)

    assert "New failures in the last ten minutes: 1" in (await scene.check())[0]


async def test_a_rejected_message_is_sent_again(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    channel.statuses = [500, 200]

    first, second, third = [await scene.check() for _ in range(3)]

    assert (first, []) == (second, third)
    assert "No worker" in first[0]


async def test_a_channel_that_fails_gets_a_message_less_and_less_often(redis: Redis, channel: Channel) -> None:
    """It may be slow, and show each of them."""
    scene = Scene(redis, channel)
    channel.statuses = [500]
    for pause_s in (10, 20, 40, 80, 160, 300, 300):
        await scene.check()
        assert pause_s * 700 < await redis.command("PTTL", keys.ALERTS_LOCK) <= pause_s * 1000

    channel.statuses = [200]
    await scene.check()
    assert await redis.command("PTTL", keys.ALERTS_LOCK) < 10_000


async def test_new_failures_are_reported_after_an_outage_of_the_channel(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    await scene.beat()
    await scene.check()
    channel.statuses = [500, 500, 200]
    await park(scene)

    first = await scene.check()
    await scene.minutes_later(12)
    second, third = [await scene.check() for _ in range(2)]

    assert (first, first) == (second, third)
    assert "New failures in the last ten minutes: 1" in first[0]


async def test_the_body_of_a_response_is_not_read(redis: Redis, channel: Channel) -> None:
    scene = Scene(redis, channel)
    channel.length = 1_000_000_000

    first, second = [await scene.check() for _ in range(2)]

    assert "No worker" in first[0]
    assert [] == second


async def test_concurrent_checks_post_one_message(redis: Redis, channel: Channel) -> None:
    monitors = [AlertMonitor(redis, settings(channel.url)) for _ in range(5)]

    await asyncio.gather(*(monitor.check() for monitor in monitors))

    assert 1 == len(channel.texts)


async def test_an_unreachable_url_is_logged_without_the_url(redis: Redis, logged: list[Any]) -> None:
    await AlertMonitor(redis, settings(f"http://127.0.0.1:{free_port()}/services/secret")).check()

    assert ["alert_not_delivered"] == [line["event"] for line in logged]
    assert "secret" not in repr(logged)


def test_web_reports_a_missing_worker_and_the_worker_the_end_of_the_alert(harness: Harness, channel: Channel) -> None:
    web = harness.start_web(ALERT_WEBHOOK_URL=channel.url, PUBLIC_URL="https://doorbell.example.com")
    wait_until(lambda: channel.texts)
    worker = harness.start_worker(ALERT_WEBHOOK_URL=channel.url)
    wait_until(lambda: channel.texts[1:])

    started, resolved = channel.texts
    assert "No worker is running" in started
    assert "https://doorbell.example.com/console" in started
    assert "Resolved: No worker is running" in resolved
    assert 200 == httpx.get(f"{web.url}/healthz").status_code
    assert "services/secret" not in web.log.read_text() + worker.log.read_text()
