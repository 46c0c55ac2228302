"""What happened: deliveries, changes, and what came of them. Every step is one script (ledger.lua), hence atomic.

What is kept per piece of work stands at the top of ledger.lua.
"""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from app.ledger.bodies import Bodies, UnknownKey
from app.ledger.jobs_contract import event_work, visit_work
from app.ledger.records import (
    Aside,
    Attempt,
    Gone,
    Hold,
    Lane,
    Lost,
    Member,
    Meta,
    NoBody,
    Outcome,
    Outdated,
    State,
    TooMany,
    Trace,
    Written,
)
from app.ledger.redis import Redis, Right
from app.visits.change import VisitChange, encode_change, external_id, microseconds
from app.webhooks.delivery import Delivery

#: Whom the records of a booking listed. A booking may be made long ahead.
PEOPLE_KEPT_MS = 2 * 366 * 86_400_000
#: A tool's retry of the same event is known for so long.
REPEAT_S = 8 * 86_400
#: The same where changes are ordered by their arrival: a recorded delivery that is sent again would count as the newest.
LONG_REPEAT_S = 400 * 86_400
#: A worker that dies gives its work up after so long; a job never takes as long (jobs.worker).
LEASE_S = 35.0
#: A new delivery whose job is lost gets another after so long.
ORPHAN_S = 60.0
#: As long as the line for a call is no longer than this, more may join it.
SHORT_LINE_MS = 1_000


class Ledger:
    """The steps. Every method may raise RedisDown."""

    def __init__(self, redis: Redis, keep_days: int, body_keys: Sequence[str] = ()) -> None:
        self.redis, self._keep_ms, self._bodies = redis, keep_days * 86_400_000, Bodies(body_keys)

    # -- at the door --

    async def accept(
        self,
        delivery: Delivery,
        meta: Meta,
        changes: Sequence[VisitChange],
        account: str,
        *,
        repeat_key: str | None,
        event: Literal["", "queued", "parked"] = "",
        reason: str = "",
        again: bool = False,
        repeat_s: int = REPEAT_S,
    ) -> Written:
        """Write a delivery, its changes and its job, unless it is a repeat: all of it, or nothing.

        repeat_key: what the tool calls the event; None: the digest of the body. event: whether the delivery itself is work
        (to fetch and translate), or is parked for the reason. again: a repeat is fetched anew. repeat_s:
        how long a repeat is known.

        Where a visit takes no more, the delivery is parked and its changes do not land: an operator may have it translated
        again.
        """
        id = new_id()
        landing = _landing(meta.source, account, changes)
        meta.work.extend([event_work(id)] if event else landing[::3])
        record = orjson.dumps(meta) + b"\n" + self._bodies.keep(delivery.body, id)
        seen = _seen_key(delivery, repeat_key)
        first = await self.redis.write(
            "accept", id, meta.hook, seen, repeat_s, self._keep_ms, record, event, reason, int(again), *landing
        )
        if isinstance(first, list):
            bound, meta.work = first[0].decode(), []
            how: dict[str, Any] = {"repeat_key": repeat_key, "again": again, "repeat_s": repeat_s}
            written = await self.accept(delivery, meta, (), account, event="parked", reason=bound, **how)
            return written._replace(bound=bound)
        return Written(id, False) if first == 1 else Written(first.decode(), True)

    # -- for the worker --

    async def begin(self, work: str, gate: str = "", is_paced: bool = False) -> Hold | str:
        """The work and the lease on it, or why not: `busy`, `held`, `parked`, `nothing`. is_paced: while others of this
        account wait for their turn, so does this."""
        token, started = new_id(), time.monotonic()
        answer, *rest = await self.redis.grant(
            "begin", work, token, int(LEASE_S * 1000), gate and f"db:gate:{gate}", int(is_paced)
        )
        if answer != b"yours":
            return str(answer.decode())
        trace, members = rest
        known_as = Trace(*(name.decode() for name in trace))
        hold = Hold(token, started + LEASE_S, [_member(*member) for member in members], known_as)
        self.redis.rights[token] = Right(
            hold.until, "resume", "renew", (token, *(member.work for member in hold.members))
        )
        return hold

    async def release(self, hold: Hold, outcome: Outcome, gate: str = "") -> None:
        """Give the work back with what came of it. Raises Lost."""
        verdict = outcome.verdict
        members = [part for member in hold.members for part in (member.work, member.n, _api(member.work, outcome.api))]
        answer = await self.redis.script(
            "release",
            hold.token,
            outcome.state,
            int(outcome.due_s * 1000),
            outcome.reason,
            orjson.dumps(outcome.attempt) if outcome.attempt else "",
            self._keep_ms + future_ms(hold, outcome),
            gate and f"db:gate:{gate}",
            verdict.why if verdict else "",
            int(verdict.wait_s * 1000) if verdict else 0,
            verdict.enough if verdict else 1,
            "" if outcome.tries is None else outcome.tries,
            *members,
        )
        self.redis.rights.pop(hold.token, None)
        if answer == b"lost":
            raise Lost(hold.root.work)

    async def people(
        self, account: str, external_id: str, asked_at: datetime, people: Sequence[str]
    ) -> tuple[str, ...]:
        """Everybody whom any record of this booking listed, those first who were listed first. people: whom its record lists
        that was asked for at that time. Raises Outdated."""
        name, order = f"{account}/{external_id}", microseconds(asked_at)
        answer = await self.redis.script("people", name, order, PEOPLE_KEPT_MS, *people)
        if answer == b"outdated":
            raise Outdated
        return tuple(person.decode() for person in answer)

    async def compact(self, hold: Hold, member: Member, origins: Iterable[str]) -> None:
        """Forget what these said: it can never win again."""
        await self.redis.script("compact", member.work, hold.token, *origins)

    async def land(
        self, hold: Hold, source: str, account: str, changes: Sequence[VisitChange], attempt: Attempt, parked: str = ""
    ) -> None:
        """Write what an event turned out to mean, and settle it, or park it for this reason. Raises Lost; TooMany, and then
        nothing is written."""
        delivery = hold.root.work.partition(":")[2]
        landing = _landing(source, account, changes)
        answer = await self.redis.script(
            "landed", delivery, hold.token, hold.root.n, orjson.dumps(attempt), self._keep_ms, parked, *landing
        )
        if isinstance(answer, list):
            raise TooMany(answer[0].decode())
        self.redis.rights.pop(hold.token, None)
        if answer == b"lost":
            raise Lost(hold.root.work)

    async def sweep(self, most: int = 200) -> int:
        """Put to work what has become due and what a dead worker left; how many."""
        return int(await self.redis.grant("sweep", most, self._keep_ms))

    async def trim(self, key: str, keep_ms: int = 0, most: int = 1_000) -> int:
        """Take out of a set that is sorted by time what is older, by default than what is settled is kept; how many."""
        return int(await self.redis.script("trim", key, keep_ms or self._keep_ms, most))

    async def adopt(self, offset: int = 0, most: int = 200) -> tuple[int, int]:
        """Give queued work whose job is gone another one: how many, and where to go on (-1: at the end)."""
        woken, after = await self.redis.script("orphans", most, int(ORPHAN_S * 1000), offset)
        return woken, after

    async def open_gate(self, account: str, most: int = 200, calls_a_second: float | None = None) -> int:
        """Let out what waits behind an account's gate, or one probe, if its time has come; how many. calls_a_second: the
        rate at which it may drain."""
        return int(await self.redis.script("gate", account, most, calls_a_second or "", SHORT_LINE_MS))

    async def pace(self, account: str, calls_a_second: float, most_s: float) -> float:
        """Take a place in the line before a call; seconds to wait for it. Negative: longer than most_s, none taken."""
        return float(await self.redis.script("pace", f"db:pace:{account}", calls_a_second, int(most_s * 1000))) / 1000

    async def lock(self, name: str, token: str, lease_s: float) -> bool:
        """Take a lock that ends by itself, or keep it longer; False while somebody else has it."""
        until = time.monotonic() + lease_s
        if not await self.redis.grant("lock", int(lease_s * 1000), name, token):
            return False
        self.redis.rights[token] = Right(until, "lock", "lock", (name, token))
        return True

    async def unlock(self, name: str, token: str) -> None:
        self.redis.rights.pop(token, None)
        await self.redis.script("unlock", name, token)

    async def now(self) -> datetime:
        """The server's clock: one for all processes."""
        seconds, micros = await self.redis.command("TIME")
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(micros))

    async def claim(
        self, room: Mapping[Lane, int], lease_s: float, full: Sequence[str] = ()
    ) -> list[tuple[Lane, str, bytes]]:
        """arq's jobs that this worker has room for, those due longest first, with their payloads (empty: it expired).

        full: `<lane>:<account>` for which there is no room; others overtake them.
        """
        lanes = [part for lane, most in room.items() if most for part in (lane, most)]
        flat = await self.redis.grant("claim", int(lease_s * 1000), " ".join(full), *lanes) if lanes else []
        return [(flat[i].decode(), flat[i + 1].decode(), flat[i + 2]) for i in range(0, len(flat), 3)]

    async def ran(self, job: str, lane: Lane = "visit") -> None:
        """The job is done with, whatever came of it: what is still to be done stands in the ledger."""
        await self.redis.script("ran", job, lane)

    async def put(self, key: str, value: str | bytes, ms: int) -> None:
        """Write beside the ledger, for so long, also where Redis is full."""
        await self.redis.commands(("SET", key, value, "PX", ms))

    async def beat(self, key: str, value: bytes, ms: int) -> None:
        """A worker's sign of life, which counts for so long; also where Redis is full."""
        await self.redis.script("beat", key, value, ms)

    # -- for operators --

    async def replay(self, work: str, fresh: bool = False, *, beside: Iterable[int] = (), lane: Aside = "") -> str:
        """Put it back to work: `queued` or `running`. Raises Gone.

        fresh: ask the API what stands there first. beside: its own numbers of visits that stand beside the right one
        under the same external_id; they go. lane: `replay` lets live work go first.
        """
        answer = await self.redis.script("replay", work, int(fresh), " ".join(map(str, beside)), lane)
        if answer == b"gone":
            raise Gone(work)
        return str(answer.decode())

    async def rederive(self, delivery: str, lane: Aside = "") -> str:
        """Have a delivery translated anew; what comes of it takes the place of what it said. Raises Gone, also where its
        body was removed."""
        answer = b"moved"
        while answer == b"moved":
            head = await self._head(delivery)
            meta, event = Meta(**orjson.loads(head)), event_work(delivery)
            if meta.removed:
                raise Gone(delivery)
            told = (
                ("", "") if meta.work == [event] else (orjson.dumps(replace(meta, work=[event])), " ".join(meta.work))
            )
            answer = await self.redis.script("rederive", delivery, head, *told, lane)
        if answer == b"gone":
            raise Gone(delivery)
        return str(answer.decode())

    async def discard(self, work: str, delivery: str = "", landed: int | None = None) -> int:
        """Give up what has not been applied, of one delivery or of all: how many changes, of an event 1; -1 while a worker
        has it, -2 where something landed since. landed: how many changes its members had when somebody looked."""
        seen = "" if landed is None else landed
        return int(await self.redis.script("discard", work, self._keep_ms, delivery, seen))

    async def pause(self, account: str, is_paused: bool = True) -> bool:
        """Shut the account's gate until it is resumed: what is to be sent is held, and nothing is counted as a try. Whether
        that changed anything."""
        return bool(await self.redis.script("pause", account, int(is_paused)))

    async def hooks(self) -> list[str]:
        """Where anybody ever rang, also those that are not in the settings any more."""
        return sorted(hook.decode() for hook in await self.redis.command("SMEMBERS", "db:hooks"))

    async def forget_gate(self, account: str) -> None:
        """Nobody has a token for it any more: what it held comes out, and is parked for that."""
        await self.redis.command("DEL", f"db:gate:{account}")

    async def name_contact(self, work: str, change: VisitChange) -> None:
        """Land an operator's own change; it is a fact like any other."""
        id = new_id()
        await self.redis.script("operate", id, work, encode_change(change), "")

    async def forget(self, work: str, n: int | None, record: bytes, fields: Mapping[str, bytes]) -> str:
        """Overwrite what speaks of a person: `ok`, `busy` while a worker has it, `moved` where something landed since it was
        read. n: that was seen; None: there was no such work. record: of an event, its delivery as it is to stand."""
        flat = [part for pair in fields.items() for part in pair]
        return str((await self.redis.script("forget", work, "" if n is None else n, record, *flat)).decode())

    async def delivery(self, id: str) -> tuple[Meta, bytes]:
        """A delivery as it was kept, and its body. Raises Gone, NoBody."""
        record = await self.redis.command("GET", f"db:delivery:{id}")
        if record is None:
            raise Gone(id)
        return self.opened(id, record)

    def opened(self, id: str, record: bytes) -> tuple[Meta, bytes]:
        """Raises NoBody."""
        head, _, body = record.partition(b"\n")
        meta = Meta(**orjson.loads(head))
        if meta.removed:
            raise NoBody(meta, "body_erased", f"its body was removed at {meta.removed_at}")
        try:
            return meta, self._bodies.read(body, id)
        except UnknownKey as error:
            raise NoBody(meta, "body_key_unknown", str(error)) from None

    async def meta(self, id: str) -> Meta:
        """A delivery without its body. Raises Gone."""
        return Meta(**orjson.loads(await self._head(id)))

    async def _head(self, id: str) -> bytes:
        head, newline, _ = (await self.redis.command("GETRANGE", f"db:delivery:{id}", 0, 4_095)).partition(b"\n")
        if not newline:
            head, newline, _ = (await self.redis.command("GET", f"db:delivery:{id}") or b"").partition(b"\n")
        if not newline:
            raise Gone(id)
        return bytes(head)

    async def walk(self, name: str, since: float = float("-inf"), until: float = float("inf")) -> AsyncIterator[str]:
        """The names in `db:<name>`, a set that is sorted by time in ms, page by page, while others leave and join it."""
        known: set[bytes] = set()  # of the last time that was seen: several may share it
        while True:
            most = 500 + len(known)
            asked = ("ZRANGEBYSCORE", f"db:{name}", since, until, "WITHSCORES", "LIMIT", 0, most)
            flat = await self.redis.command(*asked)
            page = list(zip(flat[::2], map(float, flat[1::2]), strict=True))
            for found, _ in page:
                if found not in known:
                    yield found.decode()
            if len(page) < most:
                return
            last = page[-1][1]
            known = {found for found, at in page if at == last}
            since = last

    async def queued(self, works: Sequence[str]) -> int:
        """How many of these are still queued."""
        scores = await self.redis.command("ZMSCORE", "db:queued", *works) if works else []
        return sum(score is not None for score in scores)

    async def deliveries(self, hooks: Iterable[str], most: int) -> list[str]:
        """The newest ids over all these hooks, newest first."""
        found = [await self.redis.command("ZREVRANGE", f"db:deliveries:{hook}", 0, most - 1) for hook in hooks]
        return sorted((id.decode() for ids in found for id in ids), reverse=True)[:most]

    async def member(self, work: str, generation: int = 0) -> Member:
        """A piece of work as it stands. Raises Gone."""
        hash = await self.redis.command("HGETALL", f"db:{work}")
        if not hash:
            raise Gone(work)
        return _member(work.encode(), generation, hash)

    async def family(self, work: str) -> list[Member]:
        """All ids of a visit, the first one first. Raises Gone."""
        await self.member(work)
        return [_member(*member) for member in await self.redis.script("look", work)]

    async def works(self, state: State, most: int = 1_000) -> list[str]:
        """The names of the work in that state, oldest first."""
        names = await self.redis.command("ZRANGE", f"db:{state}", 0, most - 1)
        return [name.decode() for name in names]


async def every_account(redis: Redis, configured: Iterable[str]) -> list[str]:
    """The accounts of the settings, and those that had work held or parked, or whose way to the API was shut: an account may
    leave the settings before its work is done. Raises RedisDown."""
    left, gates = await asyncio.gather(redis.command("SMEMBERS", "db:accounts"), redis.command("SMEMBERS", "db:gates"))
    names = {name.decode().removeprefix("db:gate:") for name in (*left, *gates)}
    return sorted(names.union(configured))


def new_id() -> str:
    """A name that sorts by time: milliseconds, then 40 bits of chance."""
    return f"d{(time.time_ns() // 1_000_000 << 40) + random.getrandbits(40):021x}"


def rang_ms(id: str) -> int:
    """When a delivery was given its name."""
    return int(id[1:12], 16)


def _seen_key(delivery: Delivery, repeat_key: str | None) -> str:
    named = delivery.body if repeat_key is None else b"id:" + repeat_key.encode("utf-8", "surrogatepass")
    digest = base64.urlsafe_b64encode(hashlib.sha256(named).digest()[:16]).rstrip(b"=").decode()
    return f"db:seen:{delivery.hook}:{digest}"


def _landing(source: str, account: str, changes: Sequence[VisitChange]) -> list[Any]:
    """Changes as the script takes them, by threes: work, change, the work that it continues."""

    parts = []
    for change in changes:
        work = visit_work(account, change.external_id(source))
        before = visit_work(account, external_id(source, change.continues)) if change.continues else ""
        parts += [work, encode_change(change), before if before != work else ""]
    return parts


#: A visit further ahead than this is kept no longer for it: a wrong date must not keep a contact for ever.
MOST_AHEAD_MS = 2 * 366 * 86_400_000


def future_ms(hold: Hold, outcome: Outcome) -> int:
    """How far ahead the visit lies: what is known of it is kept so much longer, since it may still be moved or cancelled."""
    stands = outcome.api.get(hold.root.work) or hold.root.api or {}
    try:
        ahead = datetime.fromisoformat(str(stands.get("event_date"))) - datetime.now(UTC)
    except (ValueError, TypeError):
        return 0
    return min(max(0, int(ahead.total_seconds() * 1000)), MOST_AHEAD_MS)


def _api(work: str, api: dict[str, dict[str, Any] | None]) -> bytes:
    if work not in api:
        return b""
    answer = api[work]
    return b"-" if answer is None else orjson.dumps(answer)


def _member(work: bytes, generation: int, flat: list[bytes]) -> Member:
    stored = dict(zip(flat[::2], flat[1::2], strict=True))

    def below(prefix: bytes) -> dict[str, bytes]:
        return {name[len(prefix) :].decode(): value for name, value in stored.items() if name.startswith(prefix)}

    def number(name: bytes) -> int | None:
        return int(float(stored[name])) if name in stored else None

    attempts = sorted(below(b"a:").items(), key=lambda item: int(item[0]))
    return Member(
        work=work.decode(),
        generation=generation,
        n=number(b"n") or 0,
        done=number(b"done") or 0,
        state=stored.get(b"state", b"settled").decode(),  # type: ignore[arg-type]
        changes=below(b"c:"),
        discarded=below(b"x:"),
        numbered={number: Attempt(**orjson.loads(attempt)) for number, attempt in attempts},
        api=orjson.loads(stored[b"api"]) if b"api" in stored else None,
        tried=b"tried" in stored,
        ask=stored[b"ask"].decode().split() if b"ask" in stored else None,
        replaces=b"replaces" in stored,
        dropped=number(b"dropped") or 0,
        tries=number(b"tries") or 0,
        since=number(b"since"),
        failed_since=number(b"failed_since"),
        due=number(b"due"),
        reason=stored.get(b"reason", b"").decode(),
        landed=stored.get(b"landed", b"").decode().split(),
        rang=number(b"rang"),
        forgot=number(b"forgot"),
    )
