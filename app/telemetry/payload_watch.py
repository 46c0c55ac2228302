"""Notices when a tool changes its payloads: a new field, a new word of a fixed list, a field that stops to come.

Workers compare a sample of the newest deliveries, and of the records that they fetch, with what the specimens of the source
document and with what came before. `payload_shape.py` decides what is recorded: paths and words, no values of people.
A change is reported once: in the log, on the console, and as an alert until an operator acknowledges it.
When the module or its specimens change, the watch of the source begins again.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import orjson

from app.ledger import keys
from app.ledger.ids import is_listed, new_token
from app.ledger.ledger import Ledger
from app.ledger.records import BodyUnavailable, NotFound
from app.ledger.redis import Redis
from app.settings.model import Settings
from app.telemetry.logs import log
from app.webhooks.delivery import Delivery, UnreadableBody, parse_body
from app.webhooks.payload import Payload
from app.webhooks.payload_shape import ANY, Shape, Vocabulary, parent_of, shape_of, vocabulary_of
from app.webhooks.registry import load_sources, load_specimens, specimen_body
from app.webhooks.source_words import constants_of, source_version

#: One worker at a time looks at most at MAX_SAMPLES of the newest deliveries of each hook.
WATCH_EVERY_S, MAX_SAMPLES = 20.0, 20
LOCK_S = 20.0
#: The first payloads of each kind only teach which fields come: real ones have more than the documented.
LEARNING = 20
#: A field stops if it came in the last ALWAYS payloads that could have it, and then not in MISSED.
ALWAYS, MISSED = 50, 5
#: Limits for what is stored of one source, and for all changes.
MAX_KINDS, MAX_LEARNED, MAX_STREAKS, MAX_CHANGES, MAX_NEW = 60, 1_000, 600, 200, 40
STATE_TTL_S = 90 * 86_400

#: An object with more undocumented fields is a map, whose names are values.
MAX_SIBLINGS = 30
#: More new fields of one object are reported without their names.
MAX_NAMED = 5

Change = Literal["new_field", "new_word", "field_stopped"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The shape of one payload. kind: the name of the event, or the request of a record."""

    source: str
    kind: str
    shape: Shape
    delivery: str


@dataclass(frozen=True, slots=True)
class PayloadChange:
    """A change of the payloads of a source. acknowledged_by: the operator who knows it; empty until then."""

    source: str
    change: Change
    kind: str
    path: str
    word: str
    delivery: str
    at: int
    version: str
    acknowledged_by: str = ""

    @property
    def id(self) -> str:
        parts = (
            self.source,
            self.version,
            self.change,
            self.path,
            self.word,
            self.kind if self.change == "field_stopped" else "",
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def sentence(self) -> str:
        place = self.path.removeprefix(".")
        match self.change:
            case "new_word":
                return f"`{place}` has the new word `{self.word}`"
            case "new_field" if self.path.endswith(f".{ANY}"):
                parent = parent_of(self.path).removeprefix(".")
                return f"new fields in `{parent}` came" if parent else "new fields came"
            case "new_field":
                return f"the new field `{place}` came"
        return f"the field `{place}`, which always came, stopped"


class Samples:
    """The shapes of records that this worker fetched, until the next look. Bounded; further records are not sampled."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def add_record(self, source: str, kind: str, record: Any, delivery: str) -> None:
        if len(self._samples) < MAX_SAMPLES and isinstance(record, dict | list):
            self._samples.append(Sample(source, kind, shape_of(record, documented(source)), delivery))

    def take(self) -> list[Sample]:
        samples, self._samples = self._samples, []
        return samples


@cache
def documented(source: str) -> Vocabulary:
    """Return the vocabulary of the specimens of a source: of their bodies and of their records."""
    definition = load_sources()[source].definition
    payloads: list[Any] = []
    for recorded in load_specimens(source)["deliveries"]:
        payloads += [_specimen_body(source, recorded), *recorded.get("records", {}).values()]
    event_name_path = f".{'.'.join(definition.event_name_path)}" if definition.event_name_path else ""
    return vocabulary_of(payloads, constants_of(source), event_name_path)


def _specimen_body(source: str, recorded: Mapping[str, Any]) -> Any:
    delivery = Delivery(source, source, (), specimen_body(recorded), datetime.min.replace(tzinfo=UTC))
    try:
        return parse_body(delivery, load_sources()[source].definition.body_format).value
    except UnreadableBody:  # a handshake
        return None


class PayloadWatch:
    """The watch of one worker. step() may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, settings: Settings, samples: Samples) -> None:
        self._ledger, self._redis, self._settings, self._samples = ledger, ledger.redis, settings, samples

    async def step(self) -> None:
        """Look at the newest deliveries, unless another worker does."""
        # Reading the specimens takes a moment.
        await asyncio.to_thread(lambda: [documented(hook.source.name) for hook in self._settings.active_hooks.values()])
        token = new_token()
        if not await self._ledger.acquire_lock(keys.PAYLOAD_LOCK, token, LOCK_S):
            return
        try:
            samples = [sample for hook in self._settings.active_hooks for sample in await self._sample(hook)]
            by_source: dict[str, list[Sample]] = {}
            for sample in (*samples, *self._samples.take()):
                by_source.setdefault(sample.source, []).append(sample)
            for source, of_source in by_source.items():
                await self._compare(source, of_source)
        finally:
            await self._ledger.release_lock(keys.PAYLOAD_LOCK, token)

    async def _sample(self, hook: str) -> list[Sample]:
        """Return the shapes of the newest deliveries since the last look."""
        cursor = float(await self._redis.command("HGET", keys.PAYLOAD_CURSORS, hook) or 0)
        newest = await self._redis.command(
            "ZREVRANGEBYSCORE",
            f"{keys.DELIVERIES}{hook}",
            "+inf",
            f"({cursor:.0f}",
            "WITHSCORES",
            "LIMIT",
            0,
            MAX_SAMPLES,
        )
        if not newest:
            return []
        ids = [id.decode() for id in reversed(newest[::2])]
        samples = [await self._shape(id) for id in ids if not is_listed(id)]  # lists have words and fields of their own
        await self._redis.commands(("HSET", keys.PAYLOAD_CURSORS, hook, f"{float(newest[1]):.0f}"))
        return [sample for sample in samples if sample]

    async def _shape(self, id: str) -> Sample | None:
        try:
            info, raw = await self._ledger.load_delivery(id)
            tool = load_sources()[info.source]
            body = parse_body(info.to_delivery(raw), tool.definition.body_format)
        except (NotFound, BodyUnavailable, UnreadableBody, KeyError):
            return None
        return Sample(info.source, _event_kind(info.source, body), shape_of(body.value, documented(info.source)), id)

    async def _compare(self, source: str, samples: Iterable[Sample]) -> None:
        """Compare the samples of a source with what is known, and report what changed."""
        version = source_version(source)
        key = f"{keys.PAYLOAD}{source}:{version}"
        memory = _Memory.decode(source, await self._redis.command("HGETALL", key))
        now_ms = int((await self._ledger.server_time()).timestamp() * 1000)
        changes = [
            PayloadChange(source, change, sample.kind, path, word, sample.delivery, now_ms, version)
            for sample in samples
            for change, path, word in memory.compare(sample)
        ]
        for change in changes[:MAX_NEW]:
            await self._report(change)
        await self._redis.commands(("HSET", key, *memory.encode()), ("EXPIRE", key, STATE_TTL_S))

    async def _report(self, change: PayloadChange) -> None:
        if not await self._redis.command("HSETNX", keys.PAYLOAD_CHANGES, change.id, _encode_change(change)):
            return
        log.warning(
            "payload_changed",
            source=change.source,
            change=change.change,
            event_type=change.kind,
            path=change.path.removeprefix("."),
            word=change.word,
            delivery=change.delivery,
        )
        await _remove_oldest(self._redis)


def _event_kind(source: str, body: Payload) -> str:
    path = load_sources()[source].definition.event_name_path
    name = body.at(*path).value if path else ""
    known = documented(source)
    # Another name is a new word without separate counts.
    return name if isinstance(name, str) and name in known.words.get(known.event_name_path, ()) else ""


@dataclass(slots=True)
class _Memory:
    """What came before, beyond what the specimens document.

    counts: payloads by kind. streaks: by kind and path, in how many payloads in a row a field came, and in how many it
    has been missing since.
    """

    source: str
    paths: set[str] = field(default_factory=set)
    words: dict[str, set[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    streaks: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @classmethod
    def decode(cls, source: str, flat: list[bytes]) -> "_Memory":
        memory = cls(source)
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            kind, stored = name.decode(), orjson.loads(value)
            if kind == LEARNED:
                memory.paths = set(stored["paths"])
                memory.words = {path: set(words) for path, words in stored["words"].items()}
            else:
                kind = kind.removeprefix(KIND)
                memory.counts[kind], memory.streaks[kind] = stored["count"], stored["streaks"]
        return memory

    def encode(self) -> list[Any]:
        """Return names and values of the fields of the hash."""
        learned = {"paths": sorted(self.paths), "words": {path: sorted(words) for path, words in self.words.items()}}
        flat: list[Any] = [LEARNED, orjson.dumps(learned)]
        for kind, count in self.counts.items():
            flat += [f"{KIND}{kind}", orjson.dumps({"count": count, "streaks": self.streaks[kind]})]
        return flat

    def compare(self, sample: Sample) -> list[tuple[Change, str, str]]:
        """Return the changes that a payload shows, and remember it."""
        if sample.kind not in self.counts and len(self.counts) >= MAX_KINDS:
            return []
        count = self.counts.get(sample.kind, 0)
        self.counts[sample.kind] = count + 1
        stopped = list(self._stopped(sample))
        return [*self._new_fields(sample, is_learning=count < LEARNING), *self._new_words(sample), *stopped]

    def _new_fields(self, sample: Sample, *, is_learning: bool) -> Iterator[tuple[Change, str, str]]:
        siblings = Counter(map(parent_of, self.paths))
        new = {
            path
            for path in sample.shape.paths - documented(self.source).paths - self.paths
            if siblings[parent_of(path)] < MAX_SIBLINGS
        }
        if len(self.paths) + len(new) > MAX_LEARNED:
            return
        self.paths |= new
        if is_learning:
            return
        # A new object is one change, not one for each of its fields; nor is a map one for each of its names.
        by_parent: dict[str, list[str]] = {}
        for path in sorted(new):
            if parent_of(path).removesuffix("[]") not in new and not path.endswith("[]"):
                by_parent.setdefault(parent_of(path), []).append(path)
        for parent, paths in by_parent.items():
            yield from (("new_field", path, "") for path in (paths if len(paths) <= MAX_NAMED else [f"{parent}.{ANY}"]))

    def _new_words(self, sample: Sample) -> Iterator[tuple[Change, str, str]]:
        for path, words in sorted(sample.shape.words.items()):
            known = documented(self.source).words[path] | self.words.get(path, set())
            for word in sorted(words - known):
                if len(known) < documented(self.source).max_words(path):
                    self.words.setdefault(path, set()).add(word)
                    known |= {word}
                    yield "new_word", path, word

    def _stopped(self, sample: Sample) -> Iterator[tuple[Change, str, str]]:
        streaks = self.streaks.setdefault(sample.kind, {})
        if not sample.kind:  # events of several kinds have different fields
            return
        missing = sample.shape.missing(streaks)
        came_now = sample.shape.paths if len(streaks) < MAX_STREAKS else sample.shape.paths & streaks.keys()
        for path in (path for path in came_now if not path.endswith("[]")):  # a list may be empty
            came, missed = streaks.get(path, (0, 0))
            streaks[path] = [min(ALWAYS, came + 1) if not missed else 1, 0]
        for path in sorted(missing):
            came, missed = streaks[path]
            if came < ALWAYS:
                del streaks[path]
                continue
            streaks[path] = [came, missed + 1]
            if missed + 1 == MISSED:
                del streaks[path]
                yield "field_stopped", path, ""


#: Fields of the hash of a source.
LEARNED, KIND = "learned", "kind:"


def _encode_change(change: PayloadChange) -> bytes:
    return orjson.dumps(asdict(change))


async def payload_changes(redis: Redis, source: str = "", *, is_open: bool = False) -> list[PayloadChange]:
    """Return the changes of the present version of each source, newest first. Raises RedisUnavailable.

    is_open: only those that nobody has acknowledged.
    """
    stored = await redis.command("HVALS", keys.PAYLOAD_CHANGES)
    changes = [PayloadChange(**orjson.loads(value)) for value in stored]
    return sorted(
        (
            change
            for change in changes
            if source in ("", change.source)
            and change.source in load_sources()
            and change.version == source_version(change.source)
            and not (is_open and change.acknowledged_by)
        ),
        key=lambda change: -change.at,
    )


async def acknowledge(redis: Redis, changes: Iterable[PayloadChange], actor: str) -> None:
    """Mark changes as known. Raises RedisUnavailable."""
    await asyncio.gather(
        *(
            redis.commands(
                (
                    "HSET",
                    keys.PAYLOAD_CHANGES,
                    change.id,
                    orjson.dumps(asdict(change) | {"acknowledged_by": actor[:80]}),
                )
            )
            for change in changes
        )
    )


async def undocumented_fields(redis: Redis, source: str) -> list[str]:
    """Return the fields that came and that no specimen has. Raises RedisUnavailable."""
    stored = await redis.command("HGET", f"{keys.PAYLOAD}{source}:{source_version(source)}", LEARNED)
    return [path.removeprefix(".") for path in orjson.loads(stored)["paths"]] if stored else []


async def _remove_oldest(redis: Redis) -> None:
    flat = await redis.command("HGETALL", keys.PAYLOAD_CHANGES)
    at = {id: orjson.loads(value)["at"] for id, value in zip(flat[::2], flat[1::2], strict=True)}
    if surplus := sorted(at, key=lambda id: at[id])[: max(0, len(at) - MAX_CHANGES)]:
        await redis.command("HDEL", keys.PAYLOAD_CHANGES, *surplus)
