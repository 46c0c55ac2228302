"""What a delivery takes of Redis: bytes by kind of key, and commands, as the mean of all specimens.

Each specimen arrives COPIES (15) times, each time with new ids and another person, so that every delivery has its own visit.
INDEXES=0 leaves out the optional indexes, of X-Request-ID and, with SECRET_KEY, of contacts.

The deliveries are translated and stored as by the web process, and applied as by a worker, against the sandbox; the records
of tools come from the specimens. Redis is an empty database in REDIS_URL, or the embedded Valkey.
"""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from app.demo import valkey
from app.intake.acceptance import _event_name
from app.ledger import keys
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import DEDUP_TTL_S, LONG_DEDUP_TTL_S, Attempt, DeliveryInfo, Lease, NewDelivery
from app.ledger.redis import Redis, RedisAddress
from app.sandbox.api import create_sandbox
from app.settings.environment import read_environment
from app.telemetry import logs
from app.telemetry.counters import Counters
from app.visits.change import VisitChange
from app.webhooks.delivery import Delivery, Event
from app.webhooks.fetching import RecordRequest
from app.webhooks.fresh_specimens import refresh
from app.webhooks.payload import Payload, Untranslatable
from app.webhooks.registry import load_sources, load_specimens, specimen_body
from app.webhooks.source import Ignored, LoadedSource, PartlyTranslatable
from app.webhooks.translation import parse_event, translate_event
from jobs.apply_visit import run_visit
from jobs.context import Context

COPIES = int(os.environ.get("COPIES", "15"))
HAS_INDEXES = os.environ.get("INDEXES") != "0"
SECRET_KEY = "0123456789abcdef" * 4
CONTACT_FIELDS = ("email", "first_name", "last_name", "phone")


@dataclass(frozen=True, slots=True)
class Sent:
    """A specimen with new ids and another person."""

    source: LoadedSource
    recorded: Mapping[str, Any]
    delivery: Delivery
    zone: ZoneInfo | None

    def with_record(self, request: RecordRequest, event: Event) -> Event:
        """Return the event with a record of the specimen, and with the records that follow from it."""
        records, fetched_at = self.recorded["records"], datetime.fromisoformat(self.recorded["fetched_at"])
        record = records.get(request.key)
        follow_ups = request.follow_up(Payload(record, "record")) if record is not None else {}
        related = {name: records.get(follow_up.key) for name, follow_up in follow_ups.items()}
        return event.with_record(record, fetched_at, related, request.path)


def send_specimens(copies: int) -> Iterator[Sent]:
    rng, now = random.Random(7), datetime.now(UTC)
    for name, source in load_sources().items():
        file = load_specimens(name)
        for number, recorded in enumerate(file["deliveries"]):
            zone_name = recorded.get("timezone", file.get("timezone"))
            if not isinstance(recorded["expect"], list):
                continue  # a handshake, or an event that changes no visit
            for copy in range(copies):
                fresh = with_other_people(refresh(name, recorded, f"{number}.{copy}.{rng.random()}", now), rng)
                headers = tuple((key.lower().encode(), value.encode()) for key, value in fresh["headers"].items())
                request_id = f"{rng.getrandbits(128):032x}" if HAS_INDEXES else ""
                zone = ZoneInfo(zone_name) if zone_name else None
                yield Sent(source, fresh, Delivery(name, name, headers, specimen_body(fresh), now, request_id), zone)


def with_other_people(recorded: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Replace the values of the expected contacts everywhere."""
    text = json.dumps(recorded, ensure_ascii=False)
    contacts = [change.get("contact", {}) for change in recorded["expect"]]
    values = {(name, contact[name]) for contact in contacts for name in CONTACT_FIELDS if contact.get(name)}
    for name, value in sorted(values, key=lambda item: -len(item[1])):
        text = text.replace(value, other_value(name, value, rng))
    replaced: dict[str, Any] = json.loads(text)
    return replaced


def other_value(name: str, value: str, rng: random.Random) -> str:
    if name == "phone":
        return value[:-7] + f"{rng.randrange(10**7):07}"
    if name == "email":
        return f"{word(rng)}.{word(rng)}{rng.randrange(100)}@{word(rng)}.example".lower()
    return word(rng)


def word(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(3)).title()


SYLLABLES = ("an", "be", "cor", "da", "el", "fi", "lo", "mar", "ni", "ro", "so", "ta")


class Run:
    """Stores and applies deliveries, as the web process and a worker do."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.ledger = redis, Ledger(redis, retention_days=30)
        transport = httpx.ASGITransport(create_sandbox())
        env = {
            "REDIS_URL": "redis://unused",
            "VISITS_API_URL": "http://sandbox/api/v1",
            "VISITS_API_TOKEN": "bench",
            "SECRET_KEY": SECRET_KEY if HAS_INDEXES else "",
            "LOG_LEVEL": "ERROR",
        }
        settings = read_environment(env)
        logs.configure(settings)
        self.context = Context(
            settings, self.ledger, httpx.AsyncClient(transport=transport), Counters(30, [SECRET_KEY])
        )
        self.events: dict[str, tuple[Sent, Event]] = {}

    async def accept(self, sent: Sent) -> None:
        source, delivery = sent.source.definition, sent.delivery
        event = parse_event(sent.source, delivery, sent.zone)
        translation = translate_event(sent.source, event)
        info = DeliveryInfo(
            hook=sent.source.name,
            source=sent.source.name,
            received_at_ms=int(event.received_at.timestamp() * 1000),
            event_name=_event_name(event, source),
            request_id=delivery.request_id,
            ignored=translation.ignored,
            headers=event.headers,
        )
        accepted = await self.ledger.accept(
            NewDelivery(
                delivery,
                info,
                translation.changes,
                "main",
                dedup_id=translation.repeat_key,
                event_state=translation.state,
                reason=translation.reason,
                refetch=source.events_may_collide,
                dedup_ttl_s=LONG_DEDUP_TTL_S if source.ordered_by_arrival else DEDUP_TTL_S,
            )
        )
        self.context.counters.record_delivery(
            info.hook, "accepted", "secret", info.received_at_ms, info.request_id, accepted.delivery_id
        )
        if translation.state == "queued":
            self.events[accepted.delivery_id] = sent, event

    async def translate_events(self) -> None:
        """Translate the events whose records a worker would fetch."""
        for delivery_id, (sent, event) in self.events.items():
            changes, parked = list[VisitChange](), ""
            assert sent.source.fetch
            requests = sent.source.fetch(event)
            for request in requests:
                try:
                    translated = sent.source.translate(sent.with_record(request, event))
                except PartlyTranslatable as partly:
                    translated, parked = partly.changes, f"untranslatable: {partly}"
                except Untranslatable as error:
                    translated, parked = [], f"untranslatable: {error}"
                changes += [] if isinstance(translated, Ignored) else translated
            lease = await self.ledger.lease(TaskId.event(delivery_id))
            assert isinstance(lease, Lease)
            calls: list[list[object]] = [[request.label, 200] for request in requests]
            attempt = Attempt(1_790_000_000_000, 120, "translated", calls)
            await self.ledger.record_changes(lease, event.source, "main", changes, attempt, parked)
        for queue, job, _ in (await self.ledger.claim({"events": len(self.events)}, lease_s=35)).jobs:
            await self.ledger.ack(job, queue)

    async def apply_visits(self) -> None:
        while jobs := (await self.ledger.claim({"visits": 50}, lease_s=35)).jobs:
            for queue, job, _ in jobs:
                task_id = TaskId.of_job(job)
                await run_visit(self.context, task_id.account, task_id.external_id)
                await self.ledger.ack(job, queue)


@dataclass(frozen=True, slots=True)
class Usage:
    """What Redis contains. sizes, counts: bytes and number of the keys of each kind. commands: how often each was called."""

    sizes: Counter[str]
    counts: Counter[str]
    used_memory: int
    commands: Counter[str]


async def usage(redis: Redis) -> Usage:
    commands = {
        name.removeprefix("cmdstat_"): int(values.partition("=")[2].partition(",")[0])
        for name, values in (await info(redis, "commandstats")).items()
    }
    used_memory = int((await info(redis, "memory"))["used_memory"])
    sizes, counts, cursor = Counter[str](), Counter[str](), b""
    while cursor != b"0":
        cursor, page = await redis.command("SCAN", cursor or b"0", "COUNT", 1_000)
        for key, size in zip(
            page, await redis.pipeline([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in page]), strict=True
        ):
            kind = keys.kind_of(key.decode())
            pattern = kind.pattern if kind else key.decode()
            sizes[pattern] += size
            counts[pattern] += 1
    return Usage(sizes, counts, used_memory, Counter(commands))


async def info(redis: Redis, section: str) -> dict[str, str]:
    lines = (await redis.command("INFO", section)).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def store_and_apply(redis: Redis, sent: list[Sent]) -> tuple[Usage, Usage, Usage]:
    """Return the usage of the empty database, and after the deliveries were stored and applied."""
    run = Run(redis)
    empty = await usage(redis)
    for each in sent:
        await run.accept(each)
    await run.context.counters.flush(redis)
    queued = await usage(redis)
    await run.translate_events()
    await run.apply_visits()
    return empty, queued, await usage(redis)


async def measure(url: str) -> None:
    redis = Redis(RedisAddress(url))
    if await redis.command("DBSIZE"):
        sys.exit("the database in REDIS_URL is not empty")
    try:
        await store_and_apply(redis, list(send_specimens(1)))  # the server loads the scripts
        await redis.command("FLUSHDB")
        sent = list(send_specimens(COPIES))
        show(sent, (await info(redis, "server")), *await store_and_apply(redis, sent))
    finally:
        await redis.command("FLUSHDB")
        await redis.close()


def show(sent: list[Sent], server: Mapping[str, str], empty: Usage, queued: Usage, applied: Usage) -> None:
    count = len(sent)
    body_bytes = sum(len(each.delivery.body) for each in sent) / count
    version = server.get("valkey_version") or server["redis_version"]
    print(
        f"\n{count} deliveries of {len(load_sources())} sources, bodies of {body_bytes:.0f} bytes on average, {version}"
    )
    print(f"\n{'bytes and keys per delivery':32}{'queued':>9}{'keys':>7}{'applied':>9}{'keys':>7}")
    for pattern, size in applied.sizes.most_common():
        if size + queued.sizes[pattern] >= count:
            show_row(pattern, count, *((each.sizes[pattern], each.counts[pattern]) for each in (queued, applied)))
    totals = [each.used_memory - empty.used_memory for each in (queued, applied)]
    tables = [total - sum(each.sizes.values()) for total, each in zip(totals, (queued, applied), strict=True)]
    show_row("tables of keys and of expiries", count, *((size, None) for size in tables))
    show_row("all", count, *((size, None) for size in totals))
    free = 25 * 2**20 - empty.used_memory
    print(f"\n25 MB hold {free * count // totals[0]} queued or {free * count // totals[1]} applied deliveries")
    for title, before, after in (("stored", empty, queued), ("applied", queued, applied)):
        calls = after.commands - before.commands
        names = [name for name in calls if name not in MEASURING]
        each = ", ".join(
            f"{name} {calls[name] / count:.2f}" for name in sorted(names, key=lambda name: -calls[name])[:12]
        )
        print(
            f"\nCommands per delivery until it is {title}: {sum(calls[name] for name in names) / count:.1f}\n  {each}"
        )


def show_row(title: str, count: int, *columns: tuple[int, int | None]) -> None:
    cells = (f"{size / count:9.0f}" + (" " * 7 if keys is None else f"{keys / count:7.2f}") for size, keys in columns)
    print(f"{title:32}{''.join(cells)}")


#: The commands of this benchmark.
MEASURING = ("memory|usage", "scan", "info", "flushdb")


def main() -> None:
    with ExitStack() as stack:
        asyncio.run(measure(os.environ.get("REDIS_URL") or stack.enter_context(valkey.valkey())))


if __name__ == "__main__":
    main()
