"""Locks, and single flight: processes that need the same value at the same time produce it once."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from weakref import WeakValueDictionary

from app.ledger.ids import new_token
from app.ledger.ledger import Ledger
from app.ledger.redis import RedisUnavailable

T = TypeVar("T")


#: How often a process looks for the value that another one produces.
FLIGHT_POLL_S = 0.05


class LockContended(Exception):
    """Another process has the lock and did not produce the value in time."""


async def single_flight(
    ledger: Ledger,
    key: str,
    *,
    ttl_s: float,
    wait_s: float,
    decode: Callable[[bytes | None], T | None],
    produce: Callable[[], Awaitable[T]],
    produce_s: float = 0.0,
    encode: Callable[[T], bytes | None] = lambda value: None,
    keep_ms: int = 0,
    keeps_lock: Callable[[BaseException], bool] = lambda error: False,
) -> T:
    """Take the lock of the key, and return the value that is stored under the key; if there is none, that of `produce`.

    decode: returns None if a stored value cannot be used. encode: what is stored for keep_ms after `produce`; None if
    `produce` stores the value itself, or if the value is not shared.
    produce_s: `produce` starts only if the lock lasts at least this long. keeps_lock: returns True for errors of `produce`
    that may take effect later; then the lock is not released, it expires. Raises LockContended.
    """
    lock, token, wait_until = f"{key}:lock", new_token(), time.monotonic() + wait_s
    while True:
        locked_until = time.monotonic() + ttl_s
        is_acquired, stored = await ledger.acquire_lock_and_read(lock, token, ttl_s, key)
        if is_acquired:
            break
        if (value := decode(stored)) is not None:
            return value
        if time.monotonic() > wait_until:
            raise LockContended
        await asyncio.sleep(FLIGHT_POLL_S)
    produced = None
    try:
        value = decode(stored)
        if value is None:
            if time.monotonic() + produce_s > locked_until:
                raise LockContended
            value = await produce()
            produced = encode(value)
    except BaseException as error:
        if not keeps_lock(error):
            await _release(ledger, lock, token)
        raise
    await _release(ledger, lock, token, key, produced, keep_ms)
    return value


async def _release(
    ledger: Ledger, lock: str, token: str, key: str = "", value: bytes | None = None, keep_ms: int = 0
) -> None:
    with suppress(RedisUnavailable):  # a value that cannot be stored is produced again when it is needed
        await ledger.release_lock(lock, token, key, value, keep_ms)


@asynccontextmanager
async def exclusive(ledger: Ledger, name: str, wait_s: float = 0.0) -> AsyncIterator[None]:
    """Hold a lock among all processes until the block ends, however long it takes. Raises LockContended after wait_s.

    The lock of a process that dies expires after EXCLUSIVE_TTL_S.
    """
    token, deadline = new_token(), time.monotonic() + wait_s
    while not await ledger.acquire_lock(name, token, EXCLUSIVE_TTL_S):
        if time.monotonic() > deadline:
            raise LockContended
        await asyncio.sleep(EXCLUSIVE_POLL_S)
    extending = asyncio.create_task(_extend(ledger, name, token))
    try:
        yield
    finally:
        extending.cancel()
        await _release(ledger, name, token)


EXCLUSIVE_TTL_S, EXCLUSIVE_POLL_S = 30.0, 0.2


async def _extend(ledger: Ledger, name: str, token: str) -> None:
    while True:
        await asyncio.sleep(EXCLUSIVE_TTL_S / 3)
        with suppress(RedisUnavailable):
            await ledger.acquire_lock(name, token, EXCLUSIVE_TTL_S)


class KeyedLocks:
    """Locks by name inside this process, so that jobs wait here instead of polling Redis."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, name: str, wait_s: float, error: type[Exception]) -> AsyncIterator[None]:
        """Hold until the block ends. Raises `error` if that is not possible within wait_s."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        await acquire(lock, wait_s, error)
        try:
            yield
        finally:
            lock.release()


async def acquire(lock: asyncio.Lock | asyncio.Semaphore, wait_s: float, error: type[Exception]) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await lock.acquire()
    except TimeoutError:
        raise error from None
