"""arq's own connections to Redis."""

from collections.abc import Mapping
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.ledger import keys
from app.ledger.redis import RedisAddress
from app.settings.model import Settings


def redis_pool(settings: Settings) -> ArqRedis:
    """Return a pool with timeouts, and with retries that outlast a restart of Redis; arq's settings have neither."""
    address = RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify)
    tls: Mapping[str, Any] = {"ssl_cert_reqs": "required" if address.verify else "none"} if address.is_tls else {}
    options: dict[str, Any] = {
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, OSError],
        "max_connections": 4,
        **tls,
    }
    pool = _sentinel_pool(address, options) if address.sentinel else ConnectionPool.from_url(address.url, **options)
    return ArqRedis(pool, default_queue_name=keys.VISITS_QUEUE)


def _sentinel_pool(address: RedisAddress, options: Mapping[str, Any]) -> ConnectionPool:
    """Return a pool that asks the Sentinels for the primary at each connect."""
    assert address.sentinel
    login = {"username": address.sentinel.username or None, "password": address.sentinel.password or None}
    tls = {name: value for name, value in options.items() if name.startswith("ssl")} | {"ssl": address.is_tls}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(address.sentinel.sentinels), sentinel_kwargs={**login, **tls, "socket_timeout": 2}
    )
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.sentinel.primary, sentinel, ssl=address.is_tls, **{**address.parts, **options}, check_connection=True
    )


def redis_settings(settings: Settings) -> RedisSettings:
    """Return the settings for `arq --check`, which accepts no pool."""
    address = RedisAddress.from_url(settings.redis_url, settings.redis_tls_verify)
    parts = address.parts
    return RedisSettings(
        host=list(address.sentinel.sentinels) if address.sentinel else parts.get("host", "localhost"),
        port=parts.get("port", 6379),
        unix_socket_path=parts.get("path"),
        database=parts.get("db", 0),
        username=parts.get("username"),
        password=parts.get("password"),
        ssl=address.is_tls,
        ssl_cert_reqs="required" if address.verify else "none",
        sentinel=address.sentinel is not None,
        sentinel_master=address.sentinel.primary if address.sentinel else "",
    )
