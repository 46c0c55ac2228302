"""Checks before a worker starts: settings, the version of arq, Redis."""

import asyncio
import sys
import time
from typing import IO, Any

import click
from arq.version import VERSION

from app.ledger.ledger import check_one_shard
from app.ledger.redis import CertificateError, Redis, RedisAddress, RedisUnavailable, ServerUnusable
from app.settings.environment import SettingsError, read_environment
from app.settings.model import Settings

#: ClaimingWorker overrides private methods of this version.
ARQ_VERSION = "0.28.0"
#: A deploy or a restart may start the worker before Redis.
REDIS_WAIT_S = 30


class CannotStart(click.ClickException):
    """Ends `arq` and `python -m jobs` with a message and an exit status instead of a traceback: both are click commands."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"doorbell worker cannot start:\n{reason}")

    def show(self, file: IO[Any] | None = None) -> None:
        print(self.message, file=file or sys.stderr)


class WrongArq(CannotStart):
    exit_code = 1


class WrongSettings(CannotStart):
    exit_code = 3


class NoRedis(CannotStart):
    exit_code = 4


def check_arq_version() -> None:
    """Raise WrongArq if a version other than ARQ_VERSION is installed."""
    if VERSION != ARQ_VERSION:
        raise WrongArq(
            f"arq {VERSION} is installed, and the worker extends internals of arq {ARQ_VERSION}. "
            "Install the versions in requirements.txt."
        )


def read_settings() -> Settings:
    """Return the settings. Raises WrongSettings with every invalid setting."""
    try:
        return read_environment(token_needed=True, sources_needed=True)
    except SettingsError as error:
        raise WrongSettings(error) from error


async def connect_to_redis(settings: Settings) -> Redis:
    """Raise NoRedis when Redis has not answered within REDIS_WAIT_S."""
    redis = Redis(RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify))
    until = time.monotonic() + REDIS_WAIT_S
    try:
        while True:
            try:
                await check_one_shard(redis)
                return redis
            except RedisUnavailable as error:
                if isinstance(error, (CertificateError, ServerUnusable)) or time.monotonic() > until:
                    raise NoRedis(error) from error
            await asyncio.sleep(0.5)
    except BaseException:
        await redis.close()
        raise
