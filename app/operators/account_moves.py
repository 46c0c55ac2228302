"""The move of an account, with all its hooks, from this cell to another: a plan, and steps that continue after a kill.

    begin       the other cell refuses the account's deliveries; here its tasks no longer start, deliveries are accepted
    wait        until the running tasks end
    copy        everything
    close       both cells refuse deliveries with 503, for the time of the next two steps
    copy again  what changed meanwhile; compare
    switch      this cell refuses deliveries from now on: their senders retry at the other one
    start       the other cell accepts deliveries, and runs the tasks
    remove      the data here

Each step can be repeated. The mark in both cells records the progress of a move.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import hiredis

from app.ledger import keys
from app.ledger.connection_states import ConnectionStates
from app.ledger.encryption import Keyring
from app.ledger.ids import new_token
from app.ledger.ledger import Ledger
from app.ledger.locks import LockContended, exclusive
from app.ledger.moves import (
    AccountCopy,
    AccountData,
    AccountSize,
    Mark,
    MoveRefused,
    Phase,
    Scope,
    load_mark,
    save_mark,
)
from app.operators.actions import Actions
from app.settings.model import Settings
from app.telemetry.health import live_workers

#: Longer than a lease, an exchange of a token, and a step of a catch-up.
WAIT_S, POLL_S = 60.0, 0.2
#: The free memory that the other cell needs, as a multiple of the account's.
MEMORY_RESERVE = 1.1

#: Shorter than the timeout of a command.
CONFIRM_MS, CONFIRM_TRIES = 2_000, 3

OnStep = Callable[[str], object]
OnProgress = Callable[[int], object]


def configuration_of(settings: Settings) -> dict[str, Any]:
    """Return what a worker with these settings can do, without secrets.

    A move compares it with this cell's settings, `doorbell doctor` the URL and the alerts with those of this process.
    """
    return {
        "public_url": settings.public_url or "",
        "alerts": settings.alert_webhook_url is not None,
        "secret_key": _key_ids(settings.secret_key),
        "body_keys": _key_ids(settings.body_keys),
        "tokens": {account: _key_ids([token])[0] for account, token in settings.tokens.items()},
        "hooks": {name: [settings.hooks[name].source or name, account] for name, account in settings.accounts.items()},
    }


def _key_ids(secrets: Sequence[str]) -> list[str]:
    return Keyring(secrets, "doorbell.move").key_ids


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a move would do.

    connections: the hooks with a known connection. phase: how far it is; empty if it has not begun. problems: why it cannot
    begin, as sentences.
    """

    account: str
    hooks: tuple[str, ...]
    stored_hooks: tuple[str, ...]
    connections: tuple[str, ...]
    source: str
    target: str
    phase: Phase
    size: AccountSize
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Move:
    """The move of one account. Methods may raise RedisUnavailable, those that change something also MoveRefused."""

    source: Ledger
    target: Ledger
    settings: Settings
    account: str
    _mark: Mark = field(default_factory=Mark)

    @property
    def hooks(self) -> tuple[str, ...]:
        return tuple(self.settings.hooks_for(self.account))

    @property
    def _source_data(self) -> AccountData:
        return AccountData(self.source, self._scope)

    @property
    def _target_data(self) -> AccountData:
        return AccountData(self.target, self._scope)

    @property
    def _copy(self) -> AccountCopy:
        return AccountCopy(self._source_data, self.target)

    @property
    def _scope(self) -> Scope:
        others = tuple(name for name in self.settings.hooks if name not in self.hooks)
        return Scope(self.account, self.hooks, others)

    # -- plan --

    async def plan(self, on_progress: OnProgress = lambda _: None) -> MovePlan:
        mark = await load_mark(self.source.redis, self.account)
        size = await self._source_data.size(on_progress)
        connections = await ConnectionStates(self.source.redis).all()
        problems = [] if mark.phase in ("copying", "closed", "moved") else [each async for each in self._problems(size)]
        return MovePlan(
            self.account,
            self.hooks,
            tuple(filter(self.settings.is_stored, self.hooks)),
            tuple(hook for hook in self.hooks if hook in connections),
            _describe(self.source),
            _describe(self.target),
            mark.phase,
            size,
            tuple(problems),
        )

    async def _problems(self, size: AccountSize) -> AsyncIterator[str]:
        """Yield why the move cannot begin."""
        source, target = self.source.redis, self.target.redis
        if await _identity(self.source) == await _identity(self.target):
            yield "both URLs lead to the same database"
            return
        there = await load_mark(target, self.account)
        # A move that was killed before it marked this cell, or whose mark a failover lost, begins again.
        begins_again = there.phase == "arriving" and there.cell == _describe(self.source)
        if there.phase in ("copying", "closed", "arriving") and not begins_again:
            yield f"another move of the account {self.account} is under way in the other cell"
        elif not begins_again and await self._has_data():
            yield f"the other cell already has visits or deliveries of the account {self.account}"
        info = await target.info("memory")
        limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
        if limit and size.bytes * MEMORY_RESERVE > limit - used:
            yield f"the other cell has {limit - used:,} bytes left, and the account has {size.bytes:,}"
        workers = await live_workers(target)
        if not workers:
            yield "no worker runs in the other cell: start one, because its settings are compared"
        for problem in sorted({each for worker in workers for each in self._differences(worker.configuration)}):
            yield problem
        if (await load_mark(source, self.account)).phase == "arriving":
            yield f"the account {self.account} is still arriving in this cell: finish that move first"

    async def _has_data(self) -> bool:
        """Return whether the other cell has visits or deliveries of the account."""
        listed = [await self.target.redis.command("ZCARD", f"{keys.DELIVERIES}{hook}") for hook in self.hooks]
        return any(listed) or await self._target_data.has_visits()

    def _differences(self, other: Mapping[str, Any]) -> Iterator[str]:
        """Yield what a worker of the other cell lacks. other: its configuration_of."""
        own, stored = configuration_of(self.settings), [hook for hook in self.hooks if self.settings.is_stored(hook)]
        for name in ("secret_key", "body_keys"):
            if not set(own[name]) <= set(other.get(name, [])):
                yield f"the other cell needs all keys of {name.upper()} of this cell"
        for hook in self.hooks:
            if hook not in stored and other.get("hooks", {}).get(hook) != own["hooks"][hook]:
                source, account = own["hooks"][hook]
                yield f"the other cell needs the hook {hook} of {source} in its environment, with the account {account}"
        token = own["tokens"].get(self.account)
        brings_token = any(self.settings.hooks[hook].visits_api_token for hook in stored)
        other_token = other.get("tokens", {}).get(self.account)
        if token != other_token and not (brings_token and other_token is None):
            yield f"the other cell needs the same Visits API token for the account {self.account}"

    # -- steps --

    async def execute(self, actions: Actions, on_step: OnStep, on_progress: OnProgress = lambda _: None) -> None:
        """Move the account, or continue its move. on_step: called with a sentence before each step."""
        on_step("wait for other moves of the account")
        async with self._alone():
            self._mark = await load_mark(self.source.redis, self.account)
            if self._mark.phase == "arriving":
                raise MoveRefused(f"the account {self.account} is still arriving in this cell: finish that move first")
            if self._mark.phase:
                await self._check_target()
            await actions.record("started move", f"{self.account} to {_describe(self.target)}")
            if not self._mark.phase:
                await self._begin()
            if self._mark.phase in ("copying", "closed"):
                async with AsyncExitStack() as locks:
                    on_step("wait until running tasks end")
                    await self._wait(locks)
                    if self._mark.phase == "copying":
                        on_step("copy; deliveries are accepted meanwhile")
                        await self._copy.copy_stored_hooks()
                        await self._copy.copy_all(on_progress)
                        await self._enter("closed")
                    on_step("copy what changed meanwhile; senders are told to retry")
                    await self._copy.copy_changes()
                    await self._compare()
                    await _confirm(self.target)
                    await self._enter("moved")
            await _confirm(self.source)
            await self._start(on_step)
            await _confirm(self.target)
            on_step("remove the data here")
            await self._source_data.remove(on_progress)

    def _alone(self) -> AbstractAsyncContextManager[None]:
        # Long enough for the lock of a process that was killed.
        return exclusive(self.source, f"{keys.MOVE}{self.account}:lock", WAIT_S)

    async def _begin(self) -> None:
        """Mark both cells, the other one first: it must not run a task that is only partly copied."""
        id, target = new_token(), self.target.redis
        there = await load_mark(target, self.account)
        if not await save_mark(target, self.account, self.hooks, there, Mark("arriving", id, _describe(self.source))):
            raise MoveRefused("another process began a move of this account")
        mark = Mark("copying", id, _describe(self.target))
        if not await save_mark(self.source.redis, self.account, self.hooks, self._mark, mark):
            raise MoveRefused("another process began a move of this account")
        self._mark = mark

    async def _check_target(self) -> None:
        """Raise MoveRefused if a move that has begun leads to another cell."""
        there = await load_mark(self.target.redis, self.account)
        has_arrived = self._mark.phase == "moved" and not there.phase and _describe(self.target) == self._mark.cell
        if there.id != self._mark.id and not has_arrived:
            raise MoveRefused(f"the account {self.account} moves to the cell at {self._mark.cell}, or has moved there")

    async def _enter(self, phase: Phase) -> None:
        mark = replace(self._mark, phase=phase)
        if not await save_mark(self.source.redis, self.account, self.hooks, self._mark, mark):
            raise MoveRefused("the mark of the move is lost, perhaps in a failover: run the command again")
        self._mark = mark

    async def _wait(self, locks: AsyncExitStack) -> None:
        """Wait until nothing writes the account's data but arriving deliveries. Raises MoveRefused after WAIT_S."""
        try:
            for name in self._locks():
                await locks.enter_async_context(exclusive(self.source, name, WAIT_S))
        except LockContended:
            raise MoveRefused("a check, a catch-up or a token renewal of a hook does not end: try again") from None
        for _ in range(round(WAIT_S / POLL_S)):
            if not await self._source_data.tasks("running"):
                return
            await self.source.requeue_due()  # the tasks of dead workers, if no worker lives
            await asyncio.sleep(POLL_S)
        raise MoveRefused("running tasks of the account do not end: run the command again")

    def _locks(self) -> Iterator[str]:
        for hook in self.hooks:
            yield f"{keys.CONNECTIONS}:{hook}:lock"
            yield f"{keys.CATCH_UP}{hook}:lock"
            yield f"{keys.TOKEN}{hook}:lock"

    async def _compare(self) -> None:
        """Raise MoveRefused if a visit or delivery is missing in the other cell after it was copied again."""
        if missing := await self._copy.missing():
            await self._copy.copy_keys(missing)
            if missing := await self._copy.missing():
                raise MoveRefused(f"{len(missing)} keys are missing in the other cell: run the command again")

    async def _start(self, on_step: OnStep) -> None:
        target = self.target.redis
        there = await load_mark(target, self.account)
        if there.id == self._mark.id:
            on_step("start in the other cell")
            await self._copy.list_tasks()
            await save_mark(target, self.account, self.hooks, there, Mark())

    async def cancel(self, actions: Actions) -> None:
        """End a move that has not switched yet: the account stays here."""
        async with self._alone():
            self._mark = await load_mark(self.source.redis, self.account)
            if self._mark.phase not in ("copying", "closed"):
                state = "has moved already" if self._mark.phase == "moved" else "does not move"
                raise MoveRefused(f"the account {self.account} {state}")
            await self._check_target()
            await actions.record("cancelled move", f"{self.account} to {_describe(self.target)}")
            there = await load_mark(self.target.redis, self.account)
            await self._target_data.remove(lambda _: None)
            # The other cell refuses deliveries of the account as if it had moved from there to here.
            await save_mark(self.target.redis, self.account, self.hooks, there, replace(there, phase="moved"))
            await save_mark(self.source.redis, self.account, self.hooks, self._mark, Mark())


async def _confirm(ledger: Ledger) -> None:
    """Wait until the writes of this process are on the disk of the server, and of a replica, as far as it has them.

    The data of one cell is removed, or started, only when the other cell cannot lose what was written there.
    """
    redis = ledger.redis
    replicas = min(1, int((await redis.info("replication")).get("connected_slaves", 0)))
    for _ in range(CONFIRM_TRIES):
        try:
            on_disk, on_replicas = await redis.command("WAITAOF", 1, replicas, CONFIRM_MS)
        except hiredis.ReplyError:  # an older server, or one without an append-only file
            on_disk, on_replicas = 1, await redis.command("WAIT", replicas, CONFIRM_MS) if replicas else 0
        if on_disk and on_replicas >= replicas:
            return
    raise MoveRefused(f"Redis at {redis.address} or its replica does not confirm the writes: run the command again")


def _describe(ledger: Ledger) -> str:
    """Return the address without the password, with the number of the database."""
    address = ledger.redis.address
    database = address.parts.get("db")
    return f"{address}/{database}" if database else str(address)


async def _identity(ledger: Ledger) -> tuple[str, int]:
    """Return what identifies a database: the run id of its server, and its number."""
    server = await ledger.redis.info("server")
    return server.get("run_id", ""), ledger.redis.address.parts.get("db") or 0
