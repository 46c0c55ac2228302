"""The data of an account in Redis: what moves with it to another cell, and how it is read, copied and removed.

Keys are copied type by type, since DUMP of a newer server cannot be restored by an older one.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import hiredis

from app.ledger import buckets, keys, scripts
from app.ledger.batches import batched
from app.ledger.catch_ups import slots_of
from app.ledger.connections import MAX_STORED_HOOKS
from app.ledger.ids import TaskId, delivery_id_of, delivery_key, new_token
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo
from app.ledger.redis import Redis

#: Keys that are read at once, and the words of one command.
BATCH, MAX_WORDS = 1_000, 1_000
#: Of each kind of key, how many are measured for the size of an account.
MEASURED = 500
STATES = ("queued", "running", "waiting", "parked", "discarded")

#: account, hook: a key of its own, named by the account or by a hook. delivery: it belongs to one delivery. members: the
#: part of the account in a key of the whole cell. listed: written again from the tasks, where the account arrives.
#: stays: not part of the move.
Way = Literal["account", "hook", "delivery", "members", "listed", "stays"]


@dataclass(frozen=True, slots=True)
class MoveRule:
    """What happens to the keys of a kind when an account moves. note: for docs/redis.md, why they stay."""

    way: Way
    note: str = ""

    def __str__(self) -> str:
        return f"stays: {self.note}" if self.way == "stays" else _WORDS[self.way]


_WORDS: dict[Way, str] = {
    "account": "with the account",
    "hook": "with its hook",
    "delivery": "with the delivery",
    "members": "the account's part",
    "listed": "the account's part, after all else",
    "stays": "",
}
_CELL, _SHORT_LIVED, _LOCK = (
    MoveRule("stays", "it is about the cell"),
    MoveRule("stays", "it expires soon"),
    MoveRule("stays", "the move waits until it is free"),
)
_OPERATORS = MoveRule("stays", "it is about what operators did in this cell")
#: By the pattern of KEY_KINDS.
MOVE_RULES: dict[str, MoveRule] = {
    "bell:delivery:*": MoveRule("delivery"),
    "bell:visit:*": MoveRule("account"),
    "bell:event:*": MoveRule("delivery"),
    "bell:deliveries:*": MoveRule("members"),
    "bell:hooks": MoveRule("members"),
    "bell:visit-day:*": MoveRule("members"),
    "bell:stored-hooks:version": _CELL,
    "bell:stored-hooks": MoveRule("members"),
    "bell:visit-days": MoveRule("members"),
    "bell:dedup:*": MoveRule("hook"),
    "bell:people:*": MoveRule("account"),
    "bell:index:contacts:*": MoveRule("members"),
    "bell:contact:*:lock": _LOCK,
    "bell:contact:*": MoveRule("account"),
    "bell:record:*": _SHORT_LIVED,
    "bell:retry-after:*": MoveRule("hook"),
    "bell:token:*:lock": _LOCK,
    "bell:token:*:rejected": _SHORT_LIVED,
    "bell:token:*": MoveRule("hook"),
    "bell:oauth:*": _SHORT_LIVED,
    "bell:connections:*:lock": _LOCK,
    "bell:connections": MoveRule("members"),
    "bell:catch-up:*:lock": _LOCK,
    "bell:catch-up:*": MoveRule("hook"),
    "bell:catch-ups": MoveRule("members"),
    "bell:queue:visits:health-check": _CELL,
    "bell:queue:*": MoveRule("listed"),
    "bell:state:queued": MoveRule("listed"),
    "bell:state:running": MoveRule("stays", "the move waits until no task of the account runs"),
    "bell:state:waiting": MoveRule("listed"),
    "bell:state:held:*": MoveRule("listed"),
    "bell:state:parked": MoveRule("listed"),
    "bell:state:discarded": MoveRule("listed"),
    "bell:held-by-age:*": MoveRule("listed"),
    "bell:alone": _CELL,
    "bell:outcomes:*": _SHORT_LIVED,
    "bell:circuit:*": MoveRule("account"),
    "bell:accounts": MoveRule("members"),
    "bell:move:*:lock": _LOCK,
    "bell:move:*": MoveRule("stays", "it is about the move itself"),
    "bell:move-hook:*": MoveRule("stays", "it is about the move itself"),
    "bell:move-arrivals:*": MoveRule("stays", "it is about the move itself"),
    "bell:circuits": MoveRule("members"),
    "bell:rate:*": _SHORT_LIVED,
    "bell:last-done": _CELL,
    "bell:shard-probe:*": _CELL,
    "bell:schema": _CELL,
    "bell:write-mark": _CELL,
    "bell:cleanup": _CELL,
    "bell:worker:*": _CELL,
    "bell:workers": _CELL,
    "bell:hourly:*": _CELL,
    "bell:metrics": _CELL,
    "bell:counted:*": _CELL,
    "bell:alerts:lock": _CELL,
    "bell:alerts": _CELL,
    "bell:index:requests:*": MoveRule("members"),
    "bell:index-periods:*": MoveRule("members"),
    "bell:secret-used:*": MoveRule("hook"),
    "bell:rejections:*:*": MoveRule("hook"),
    "bell:rejections:*": MoveRule("hook"),
    "bell:rejections": _CELL,
    "bell:payload:lock": _CELL,
    "bell:payload:*": MoveRule("stays", "all hooks of a source share it"),
    "bell:payload-changes": MoveRule("stays", "all hooks of a source share it"),
    "bell:payload-cursors": MoveRule("members"),
    "bell:listening": _SHORT_LIVED,
    "bell:arrivals:*": _SHORT_LIVED,
    "bell:server": _CELL,
    "bell:loss:lock": _CELL,
    "bell:loss": _CELL,
    "bell:audit:*:lock": MoveRule("stays", "an audit ends when its account moves"),
    "bell:audit:*": MoveRule("stays", "an audit of the cell begins again"),
    "bell:activity:*": _OPERATORS,
    "bell:activity": _OPERATORS,
    "bell:operation:*:lock": _OPERATORS,
    "bell:operation:*:results": _OPERATORS,
    "bell:operation:*:tasks:*": _OPERATORS,
    "bell:operation:*": _OPERATORS,
    "bell:operations:open": _OPERATORS,
    "bell:operations": _OPERATORS,
    "bell:session:*": _CELL,
    "bell:sessions": _CELL,
    "bell:proxy-login:*": _CELL,
    "bell:login-attempts*": _CELL,
}


class MoveRefused(Exception):
    """The account cannot be moved as things are. The argument is a sentence for an operator."""


Phase = Literal["", "copying", "closed", "moved", "arriving"]


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of a move in one of its cells. id: the same in both. cell: the other one, without its password."""

    phase: Phase = ""
    id: str = ""
    cell: str = ""
    begun_at_ms: int = 0


async def load_mark(redis: Redis, account: str) -> Mark:
    fields = await redis.command("HMGET", f"{keys.MOVE}{account}", "phase", "id", "cell", "begun_at")
    phase, id, cell, begun_at = ((field or b"").decode() for field in fields)
    return Mark(phase, id, cell, int(begun_at or 0))  # type: ignore[arg-type]


async def is_moving(redis: Redis, account: str) -> bool:
    """Whether the account moves, or has moved to another cell."""
    return bool((await load_mark(redis, account)).phase)


async def load_marks(redis: Redis, accounts: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of the accounts that move, or have moved to another cell."""
    marks = await asyncio.gather(*(load_mark(redis, account) for account in accounts))
    return {account: mark for account, mark in zip(accounts, marks, strict=True) if mark.phase}


async def save_mark(redis: Redis, account: str, hooks: Iterable[str], expected: Mark, mark: Mark) -> bool:
    """Replace the mark of a move, unless another process was first. Return whether that worked. Raises RedisUnavailable."""
    call = scripts.mark_move(
        account=account, expected=expected.phase, phase=mark.phase, id=mark.id, cell=mark.cell, hooks=hooks
    )
    return bool(await redis.script(call))


async def moving_hooks(redis: Redis, hooks: Sequence[str]) -> set[str]:
    """Return those whose account moves, or has moved to another cell."""
    phases = await redis.pipeline([("GET", f"{keys.MOVE_HOOK}{hook}") for hook in hooks])
    return {hook for hook, phase in zip(hooks, phases, strict=True) if phase}


@dataclass(frozen=True, slots=True)
class Scope:
    """An account and its hooks.

    other_hooks: those of other accounts. A delivery of a hook that was removed belongs to the account of its visits.
    """

    account: str
    hooks: tuple[str, ...]
    other_hooks: tuple[str, ...] = ()

    def owns(self, key: str, way: Way) -> bool:
        """Whether a key of this kind is named by the account or one of its hooks."""
        name = key.partition(":")[2].partition(":")[2]
        if way == "account":
            return name.partition("/")[0].partition(":")[0] == self.account
        return way == "hook" and name.partition(":")[0] in self.hooks

    def owns_delivery(self, info: DeliveryInfo) -> bool:
        if info.hook in self.hooks:
            return True
        return info.hook not in self.other_hooks and any(task_id.account == self.account for task_id in info.task_ids)

    def owns_visit(self, task: str) -> bool:
        return task.startswith(f"visit:{self.account}/")


@dataclass(slots=True)
class AccountSize:
    """What an account has in a cell. tasks: by state. bytes: measured of some keys of each kind."""

    visits: int = 0
    deliveries: int = 0
    other_keys: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


@dataclass(slots=True)
class Page:
    """The keys of the account in a page of a scan. buckets: its entries in each list of an index."""

    owned: list[str] = field(default_factory=list)
    deliveries: dict[str, DeliveryInfo] = field(default_factory=dict)
    buckets: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def all_keys(self) -> Iterable[str]:
        return chain(self.owned, chain.from_iterable(map(delivery_keys, self.deliveries)))


def delivery_keys(id: str) -> tuple[str, str]:
    return delivery_key(id), f"{keys.TASK}{TaskId.event(id)}"


def request_entries(deliveries: Mapping[str, DeliveryInfo]) -> list[tuple[bytes, str]]:
    """Return the entries of the deliveries in the index of request ids."""
    return [(buckets.digest_of(info.request_id), id) for id, info in deliveries.items() if info.request_id]


class AccountData:
    """Reads and removes the data of an account in one cell. Every method may raise RedisUnavailable."""

    def __init__(self, ledger: Ledger, scope: Scope) -> None:
        self.ledger, self.redis, self.scope = ledger, ledger.redis, scope

    async def pages(self, pattern: str = "bell:*") -> AsyncIterator[tuple[int, Page]]:
        """Yield the account's keys page by page, each with the number of keys that were looked at."""
        async for names in self._scan(pattern):
            for some in batched(names, BATCH):
                yield len(some), await self._select(some)

    async def _scan(self, pattern: str) -> AsyncIterator[list[str]]:
        cursor = b"0"
        while True:
            cursor, names = await self.redis.command("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
            yield [name.decode() for name in names]
            if cursor == b"0":
                return

    async def _select(self, names: Sequence[str]) -> Page:
        page, deliveries, indexed = Page(), list[str](), list[str]()
        for name in names:
            kind = keys.kind_of(name)
            way = MOVE_RULES[kind.pattern].way if kind else "stays"
            if self.scope.owns(name, way):
                page.owned.append(name)
            elif name.startswith(keys.DELIVERY):
                deliveries.append(name)
            elif name.startswith(keys.INDEX):
                indexed.append(name)
        page.deliveries = await self._deliveries_of(deliveries)
        page.buckets = await self._own_entries(indexed)
        return page

    async def _deliveries_of(self, names: Sequence[str]) -> dict[str, DeliveryInfo]:
        """Return the account's deliveries with these keys."""
        infos = await self.ledger.load_delivery_infos_by_key(names)
        return {
            delivery_id_of(name, info.received_at_ms): info
            for name, info in zip(names, infos, strict=True)
            if info and self.scope.owns_delivery(info)
        }

    async def _own_entries(self, names: Sequence[str]) -> dict[str, list[bytes]]:
        """Return the account's entries in these lists of indexes."""
        stored = await self.redis.pipeline([("LRANGE", name, 0, -1) for name in names])
        ids = {buckets.id_of(entry) for entries in stored for entry in entries}
        visits = {id for id in ids if "/" in id}
        owned = {
            *await self.owned_deliveries(ids - visits),
            *(id for id in visits if self.scope.owns_visit(f"visit:{id}")),
        }
        own = [[entry for entry in entries if buckets.id_of(entry) in owned] for entries in stored]
        return {name: entries for name, entries in zip(names, own, strict=True) if entries}

    async def owned_deliveries(self, ids: Iterable[str]) -> dict[str, DeliveryInfo]:
        ids = sorted({id for id in ids if id})
        infos = zip(ids, await self.ledger.load_delivery_infos(ids), strict=True)
        return {id: info for id, info in infos if info and self.scope.owns_delivery(info)}

    async def tasks(self, *states: str) -> dict[str, str]:
        """Return the unfinished and discarded tasks of the account, each with its state."""
        tasks: dict[str, str] = {}
        for state in states or STATES:
            tasks |= dict.fromkeys(await self._members(f"{keys.STATE}{state}"), state)
        if not states or "held" in states:
            tasks |= dict.fromkeys(await self._members(f"{keys.HELD}{self.scope.account}"), "held")
        events = {TaskId(task).delivery_id for task in tasks} - {""}
        owned = await self.owned_deliveries(events)
        return {
            task: state
            for task, state in tasks.items()
            if self.scope.owns_visit(task) or TaskId(task).delivery_id in owned
        }

    async def _members(self, key: str) -> list[str]:
        return [member.decode() for member in await self.redis.command("ZRANGE", key, 0, -1)]

    async def has_visits(self) -> bool:
        async for _, page in self.pages(f"{keys.TASK}visit:{self.scope.account}/*"):
            if page.owned:
                return True
        return False

    async def size(self, on_progress: Callable[[int], object]) -> AccountSize:
        size, measured, total = AccountSize(), dict[str, list[int]](), Counter[str]()
        async for looked_at, page in self.pages():
            on_progress(looked_at)
            size.deliveries += len(page.deliveries)
            size.visits += sum(name.startswith(f"{keys.TASK}visit:") for name in page.owned)
            for name in page.all_keys:
                kind = keys.kind_of(name)
                assert kind
                total[kind.pattern] += 1
                if len(sample := measured.setdefault(kind.pattern, [])) < MEASURED:
                    with suppress(hiredis.ReplyError):  # an ACL may forbid it
                        sample.append(await self.redis.command("MEMORY", "USAGE", name) or 0)
        size.tasks = Counter((await self.tasks()).values())
        size.other_keys = total.total() - size.visits - 2 * size.deliveries
        size.bytes = sum(
            round(sum(sample) / len(sample) * total[pattern]) for pattern, sample in measured.items() if sample
        )
        return size

    # -- removal --

    async def remove(self, on_progress: Callable[[int], object]) -> None:
        """Remove the account's data, tasks first. Its hooks stay stored: senders that still come here are told to retry."""
        for some in batched([*await self.tasks()], BATCH):
            await self.redis.script(scripts.remove_moved_tasks(tasks=some))
        async for looked_at, page in self.pages():
            on_progress(looked_at)
            await self._remove_page(page)
        await self._remove_members()

    async def _remove_page(self, page: Page) -> None:
        visits = [name.removeprefix(keys.TASK) for name in page.owned if name.startswith(f"{keys.TASK}visit:")]
        events = [TaskId.event(id) for id in page.deliveries]
        for some in batched([*visits, *events], BATCH):
            await self.redis.script(scripts.remove_moved_tasks(tasks=some))
        commands: list[tuple[Any, ...]] = [("UNLINK", name) for name in page.all_keys]
        commands += [("ZREM", f"{keys.DELIVERIES}{info.hook}", id) for id, info in page.deliveries.items()]
        commands += [("LREM", name, 1, entry) for name, entries in page.buckets.items() for entry in entries]
        await self.redis.pipeline(commands)
        # The deliveries are removed, so it is no longer known whether a later page has such entries.
        await buckets.remove(self.redis, buckets.REQUESTS, request_entries(page.deliveries))

    async def _remove_members(self) -> None:
        scope, slots = self.scope, catch_up_slots(self.scope.hooks)
        commands: list[tuple[Any, ...]] = [
            ("SREM", keys.HOOKS, *scope.hooks),
            ("SREM", keys.ACCOUNTS, scope.account),
            ("SREM", keys.CIRCUITS, scope.account),
            ("HDEL", keys.CONNECTIONS, *scope.hooks),
            ("HDEL", keys.PAYLOAD_CURSORS, *scope.hooks),
            ("SREM", keys.OPEN_CATCH_UPS, *slots),
            *(("DEL", f"{keys.DELIVERIES}{hook}") for hook in scope.hooks),
        ]
        await self.redis.pipeline(commands)
        for day in await self.ledger.visit_days():
            await self.ledger.trim_visit_day(day)


def catch_up_slots(hooks: Iterable[str]) -> list[str]:
    return [slot for hook in hooks for slot in slots_of(hook)]


class AccountCopy:
    """Copies the data of an account to another cell. Each step can be repeated. Every method may raise RedisUnavailable."""

    def __init__(self, data: AccountData, target: Ledger) -> None:
        self._data, self._scope = data, data.scope
        self._source, self._target = data.redis, target.redis
        self._target_ledger = target

    async def copy_stored_hooks(self) -> list[str]:
        """Copy the stored hooks of the account as they are encrypted. Return their names."""
        stored = await self._source.command("HMGET", keys.STORED_HOOKS, *self._scope.hooks)
        copied = []
        for hook, value in zip(self._scope.hooks, stored, strict=True):
            if value:
                expected = await self._target.command("HGET", keys.STORED_HOOKS, hook) or b""
                call = scripts.store_hook(
                    name=hook, expected=expected, value=value, version=new_token(), limit=MAX_STORED_HOOKS
                )
                if await self._target.script(call) != b"stored":
                    raise MoveRefused(f"the hook {hook} cannot be stored in the other cell: it has {MAX_STORED_HOOKS}")
                copied.append(hook)
        return copied

    async def copy_all(self, on_progress: Callable[[int], object]) -> None:
        """Copy everything but the account's part in keys of the whole cell. Deliveries may arrive meanwhile."""
        async for looked_at, page in self._data.pages():
            await self.copy_keys([*page.all_keys])
            await self._copy_delivery_lists(page.deliveries)
            await self._copy_buckets(page.buckets)
            on_progress(looked_at)

    async def copy_changes(self) -> None:
        """Copy again what may have changed since copy_all, and the account's part in keys of the whole cell.

        Nothing may change meanwhile. Only unfinished tasks can have changed, and those of deliveries that arrived.
        """
        arrived = await self._arrivals()
        deliveries = await self._data.owned_deliveries(arrived)
        tasks = set(await self._data.tasks())
        tasks |= {TaskId.event(id) for id in arrived}
        tasks |= {task_id for info in deliveries.values() for task_id in info.task_ids}
        tasks |= await self._targets(tasks)
        tasks |= await self._aliases(tasks)
        events = [TaskId(task).delivery_id for task in tasks if TaskId(task).is_event]
        hook_keys = [f"{prefix}{slot}" for prefix, slot in self._hook_keys()]
        await self.copy_keys(
            [
                *(f"{keys.TASK}{task}" for task in tasks),
                *(delivery_key(id) for id in {*arrived, *events}),
                *{mark for marks in arrived.values() for mark in marks},
                *hook_keys,
                f"{keys.CIRCUIT}{self._scope.account}",
            ]
        )
        await self._copy_delivery_lists(deliveries)
        await self._index_requests(deliveries)
        await self._copy_members()
        await self._copy_visit_days()

    def _hook_keys(self) -> Iterable[tuple[str, str]]:
        for hook in self._scope.hooks:
            yield keys.TOKEN, hook
            yield keys.SECRET_USED, hook
            yield keys.RETRY_AFTER, hook
        for slot in catch_up_slots(self._scope.hooks):
            yield keys.CATCH_UP, slot

    async def _arrivals(self) -> dict[str, set[str]]:
        """Return the deliveries that arrived or were repeated since the move began, each with the key of its mark."""
        arrivals: dict[str, set[str]] = {}
        for hook in self._scope.hooks:
            for entry in await self._source.command("LRANGE", f"{keys.MOVE_ARRIVALS}{hook}", 0, -1):
                id, *marks = entry.decode().split()
                arrivals.setdefault(id, set()).update(marks)
        return arrivals

    async def _targets(self, tasks: Iterable[str]) -> set[str]:
        events = [task for task in tasks if TaskId(task).is_event]
        targets = await self._source.pipeline([("HGET", f"{keys.TASK}{task}", "targets") for task in events])
        return {target for each in targets if each for target in each.decode().split()}

    async def _aliases(self, tasks: Iterable[str]) -> set[str]:
        """Return all ids of the visits that have several."""
        visits = [task for task in tasks if TaskId(task).is_visit]
        linked = await self._source.pipeline([("HEXISTS", f"{keys.TASK}{task}", "linked") for task in visits])
        aliases: set[str] = set()
        for task, is_linked in zip(visits, linked, strict=True):
            if is_linked and task not in aliases:
                members = await self._source.script(scripts.load_visit(task=task))
                aliases |= {name.decode() for name, _, _ in members}
        return aliases

    async def copy_keys(self, names: Iterable[str]) -> None:
        """Copy whole keys with their times of expiry. A key that does not exist is removed from the target."""
        for some in batched([*names], BATCH):
            heads = await self._source.pipeline(
                [command for name in some for command in (("TYPE", name), ("PEXPIRETIME", name))]
            )
            types = [kind.decode() for kind in heads[::2]]
            stored = [(name, kind) for name, kind in zip(some, types, strict=True) if kind != "none"]
            values = await self._source.pipeline([(*READ[kind][0](name),) for name, kind in stored])
            commands: list[tuple[Any, ...]] = [("DEL", name) for name in some]
            expiries = dict(zip(some, heads[1::2], strict=True))
            for (name, kind), value in zip(stored, values, strict=True):
                if value:
                    commands += READ[kind][1](name, value)
                    if expiries[name] >= 0:
                        commands.append(("PEXPIREAT", name, expiries[name]))
            await self._target.pipeline(commands)

    async def _copy_delivery_lists(self, deliveries: Mapping[str, DeliveryInfo]) -> None:
        places = [(f"{keys.DELIVERIES}{info.hook}", id) for id, info in deliveries.items()]
        times = await self._source.pipeline([("ZSCORE", key, id) for key, id in places])
        commands: list[tuple[Any, ...]] = [
            ("ZADD", key, time, id) for (key, id), time in zip(places, times, strict=True) if time
        ]
        hooks = {info.hook for info in deliveries.values()}
        await self._target.pipeline([*commands, *(("SADD", keys.HOOKS, hook) for hook in hooks)])

    async def _copy_buckets(self, own: Mapping[str, Sequence[bytes]]) -> None:
        expiries = await self._source.pipeline([("PEXPIRETIME", name) for name in own])
        commands: list[tuple[Any, ...]] = []
        for (name, entries), expiry in zip(own.items(), expiries, strict=True):
            if expiry >= 0:
                commands += [("LREM", name, 1, entry) for entry in entries]  # a killed move copies again
                commands += [("RPUSH", name, *entries), ("PEXPIREAT", name, expiry)]
                index, period = buckets.index_and_period(name)
                commands.append(("SADD", f"{keys.INDEX_PERIODS}{index}", period))
        await self._target.pipeline(commands)

    async def _index_requests(self, deliveries: Mapping[str, DeliveryInfo]) -> None:
        keep_ms = int(self._target_ledger.retention.total_seconds() * 1_000)
        for some in batched(request_entries(deliveries), BATCH):
            await buckets.add(self._target, buckets.REQUESTS, some, keep_ms)

    async def _copy_members(self) -> None:
        """Copy what the sets and hashes of the whole cell have of the account."""
        scope = self._scope
        sets = [
            (keys.ACCOUNTS, scope.account),
            (keys.CIRCUITS, scope.account),
            *((keys.HOOKS, hook) for hook in scope.hooks),
            *((keys.OPEN_CATCH_UPS, slot) for slot in catch_up_slots(scope.hooks)),
        ]
        has = await self._source.pipeline([("SISMEMBER", *each) for each in sets])
        commands: list[tuple[Any, ...]] = [
            ("SADD", *each) for each, is_member in zip(sets, has, strict=True) if is_member
        ]
        fields = [(key, hook) for key in (keys.CONNECTIONS, keys.PAYLOAD_CURSORS) for hook in scope.hooks]
        values = await self._source.pipeline([("HGET", *each) for each in fields])
        commands += [("HSET", *each, value) for each, value in zip(fields, values, strict=True) if value]
        await self._target.pipeline(commands)

    async def _copy_visit_days(self) -> None:
        """Add the account's visits to the lists of days. Only the move writes them there until the account has arrived."""
        mark = f" {self._scope.account}/".encode()
        for day in await self._data.ledger.visit_days():
            key = f"{keys.VISIT_DAY}{day}"
            entries = await self._source.command("LRANGE", key, 0, -1)
            copied = Counter(await self._target.command("LRANGE", key, 0, -1))
            missing = Counter(entry for entry in entries if mark in entry) - copied
            commands: list[tuple[Any, ...]] = [
                ("RPUSH", key, *some) for some in batched([*missing.elements()], MAX_WORDS)
            ]
            if commands:
                commands.append(("ZADD", keys.VISIT_DAYS, day.replace("-", ""), day))
            await self._target.pipeline(commands)

    async def missing(self) -> list[str]:
        """Return the account's visits and deliveries that exist in this cell and not in the other."""
        missing: list[str] = []
        async for _, page in self._data.pages(f"{keys.TASK}visit:{self._scope.account}/*"):
            missing += await self._missing(page.owned)
        for hook in self._scope.hooks:
            ids = await self._source.command("ZRANGE", f"{keys.DELIVERIES}{hook}", 0, -1)
            missing += await self._missing([delivery_key(id.decode()) for id in ids])
        return missing

    async def _missing(self, names: Sequence[str]) -> list[str]:
        copied = await self._target.pipeline([("EXISTS", name) for name in names])
        absent = [name for name, exists in zip(names, copied, strict=True) if not exists]
        stored = await self._source.pipeline([("EXISTS", name) for name in absent])
        return [name for name, exists in zip(absent, stored, strict=True) if exists]

    async def list_tasks(self) -> None:
        """Let the target's workers see the unfinished tasks, with the times that they have in this cell."""
        tasks = await self._data.tasks()
        for some in batched([*tasks.items()], BATCH):
            places = [
                f"{keys.HELD}{self._scope.account}" if state == "held" else f"{keys.STATE}{state}" for _, state in some
            ]
            scores = await self._source.pipeline(
                [("ZSCORE", key, task) for key, (task, _) in zip(places, some, strict=True)]
            )
            by_age = f"{keys.HELD_BY_AGE}{self._scope.account}"
            ages = await self._source.pipeline([("ZSCORE", by_age, task) for task, _ in some])
            listed = [(task, score or "", age or "") for (task, _), score, age in zip(some, scores, ages, strict=True)]
            await self._target.script(scripts.list_moved_tasks(tasks=listed))


def _write_pairs(command: str, flip: bool) -> Callable[[str, list[bytes]], list[tuple[Any, ...]]]:
    def write(name: str, value: list[bytes]) -> list[tuple[Any, ...]]:
        if flip:  # ZRANGE names the member before its score, ZADD after it
            value = [part for pair in zip(value[1::2], value[::2], strict=True) for part in pair]
        return [(command, name, *some) for some in batched(value, MAX_WORDS)]

    return write


#: By type of key: the command that reads it, and those that write it.
READ: dict[str, tuple[Callable[[str], tuple[Any, ...]], Callable[[str, Any], list[tuple[Any, ...]]]]] = {
    "string": (lambda name: ("GET", name), lambda name, value: [("SET", name, value)]),
    "hash": (lambda name: ("HGETALL", name), _write_pairs("HSET", flip=False)),
    "list": (lambda name: ("LRANGE", name, 0, -1), _write_pairs("RPUSH", flip=False)),
    "set": (lambda name: ("SMEMBERS", name), _write_pairs("SADD", flip=False)),
    "zset": (lambda name: ("ZRANGE", name, 0, -1, "WITHSCORES"), _write_pairs("ZADD", flip=True)),
}
