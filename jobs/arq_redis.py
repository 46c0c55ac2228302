"""arq's own connections to Redis: to the server that Doorbell's client has found."""

from typing import Any

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.ledger import keys
from app.ledger.cluster import is_moved
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.settings.model import Settings


def redis_pool(redis: Redis) -> ArqRedis:
    """Return a pool with timeouts, and with retries that outlast a restart of Redis; arq's settings have neither."""
    address, parts = redis.address, redis.address.parts
    options: dict[str, Any] = {
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError, OSError],
        "max_connections": 4,
    }
    if "path" in parts:
        pool = ConnectionPool.from_url(address.url, **options)
    else:
        login = {name: parts.get(name) for name in ("username", "password")} | {"db": parts.get("db", 0)}
        options |= login | {"redis": redis, "socket_keepalive": True}
        if address.is_tls:
            options["ssl_cert_reqs"] = "required" if address.verify else "none"
        pool = ConnectionPool(_PrimarySSLConnection if address.is_tls else _PrimaryConnection, **options)
    return ArqRedis(pool, default_queue_name=keys.VISITS_QUEUE)


class _PrimaryConnection(Connection):
    """Asks Doorbell's client for the primary at each connect, and connects again when the server is no longer it."""

    def __init__(self, *, redis: Redis, **options: Any) -> None:
        super().__init__(**options)
        self._redis = redis

    async def _connect(self) -> None:
        try:
            self.host, self.port = await self._redis.endpoint()
        except RedisUnavailable as error:
            raise RedisConnectionError(str(error)) from None
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ResponseError as error:
            if not (isinstance(error, ReadOnlyError) or is_moved(str(error))):
                raise
            await self.disconnect()
            raise RedisConnectionError("the server is no longer the primary") from None


class _PrimarySSLConnection(_PrimaryConnection, SSLConnection):
    pass


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
