"""Settings, ledger and actions for the commands."""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from app.cli.output import CHECK_FAILED, NOTHING_MATCHED, UNREACHABLE, USAGE, did_you_mean, exit_with
from app.ledger.ledger import Ledger
from app.ledger.records import NotFound
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.settings import environment as configuration
from app.settings.environment import SettingsError
from app.settings.model import Settings, redis_url

if TYPE_CHECKING:
    from app.operators.actions import Actions, Actor

T = TypeVar("T")
STORED_HOOKS_TIMEOUT_S = 1.0


def load_settings_or_none() -> Settings | None:
    try:
        return _with_stored_hooks(configuration.read_environment(redis_needed=False))
    except SettingsError:
        return None


def load_settings(*, redis_needed: bool = False) -> Settings:
    """Load the settings; exit if they are invalid."""
    try:
        return _with_stored_hooks(configuration.read_environment(redis_needed=redis_needed))
    except SettingsError as error:
        exit_with(CHECK_FAILED, str(error))


def _with_stored_hooks(settings: Settings) -> Settings:
    """Load the stored hooks too, if Redis answers soon: these commands do not need it."""

    async def load() -> None:
        async with asyncio.timeout(STORED_HOOKS_TIMEOUT_S), open_ledger(settings):
            pass

    if settings.redis_url and settings.secret_key:
        with suppress(RedisUnavailable, TimeoutError):
            asyncio.run(load())
    return settings


def run_with_ledger(step: Callable[[Ledger, Settings], Awaitable[T]]) -> T:
    """Run a step. Invalid settings, an unreachable Redis and NotFound end the command with status and message."""

    async def run() -> T:
        settings = configuration.read_environment()
        async with open_ledger(settings) as ledger:
            return await step(ledger, settings)

    try:
        return asyncio.run(run())
    except SettingsError as error:
        exit_with(CHECK_FAILED, str(error))
    except RedisUnavailable as error:
        exit_with(UNREACHABLE, f"{error}; `doorbell doctor` shows what to check")
    except NotFound as error:
        advice = "; it may have expired, and `doorbell search` finds beginnings of ids"
        exit_with(NOTHING_MATCHED, f"{error.sentence}{advice if error.kind == 'delivery or visit' else ''}")


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    redis = Redis(RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify))
    try:
        if settings.secret_key:
            # Imported late: without SECRET_KEY no hook is stored.
            from app.connections.stored_hooks import StoredHooks

            await StoredHooks(redis, settings).load()
        yield Ledger(redis, settings.retention_days, settings.body_keys)
    finally:
        await redis.close()


def cell_url(settings: Settings, cell: str) -> str:
    """Return the URL of a cell's Redis. cell: a name in CELLS, or the URL itself. Exit if it is neither."""
    if cell in settings.cells:
        return settings.cells[cell]
    if ":" not in cell:
        exit_with(USAGE, f"CELLS has no cell {cell}{did_you_mean(cell, settings.cells)}")
    try:
        return redis_url(cell)
    except ValueError as error:
        exit_with(USAGE, f"the URL of a cell {error}")


@asynccontextmanager
async def open_other_ledger(settings: Settings, url: str) -> AsyncIterator[Ledger]:
    """Open the ledger of another cell, with the keys of this one."""
    redis = Redis(RedisAddress.from_url(url, settings.redis_tls_verify))
    try:
        yield Ledger(redis, settings.retention_days, settings.body_keys)
    finally:
        await redis.close()


async def follow_stored_hooks(ledger: Ledger, settings: Settings) -> None:
    """Load changes of the stored hooks, forever: for commands that watch. Raises RedisUnavailable."""
    from app.connections.stored_hooks import FOLLOW_EVERY_S, StoredHooks

    stored = StoredHooks(ledger.redis, settings)
    while True:
        await asyncio.sleep(FOLLOW_EVERY_S)
        await stored.refresh()


def actor() -> "Actor":
    # Imported late, as in `actions`: the commands that only read need neither replays nor erasures.
    from app.operators.actions import Actor

    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown user"
    return Actor(f"{name} (command line)", "operator")


def actions(ledger: Ledger, settings: Settings) -> "Actions":
    from app.operators.actions import Actions

    return Actions(ledger, settings, actor())
