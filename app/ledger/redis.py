"""A Redis client: all concurrent requests share one connection, and the commands of one loop iteration share one write.

docs/adr/0003-redis-client.md has the measurements behind it. hiredis encodes and parses the protocol. This module has the
queue of pending replies, the timeouts, and reconnecting.
"""

import asyncio
import ipaddress
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from app.ledger import keys, scripts
from app.ledger.cluster import is_moved, moved_to, shards_of
from app.ledger.scripts import Call
from app.ledger.sentinel import SCHEMES, Endpoint, NoPrimary, SentinelAddress, find_primary

#: Error replies about the state of the server. All others are bugs in the command.
_RETRYABLE_ERRORS = (
    "OOM",
    "READONLY",
    "LOADING",
    "MISCONF",
    "BUSY",
    "MASTERDOWN",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
)
#: After these, the address may lead to another server, or another node may be the primary.
_RECONNECT_ERRORS = ("READONLY", "LOADING", "CLUSTERDOWN", "MOVED")
#: `#!lua flags=…` in scripts, and multi-part AOF. Every Valkey reports a redis_version of 7.2 or newer.
MIN_SERVER_VERSION = (7, 0)
_MAX_PENDING = 10_000
#: The number of commands that a pipeline sends at once, so that several fit into _MAX_PENDING.
_PIPELINE_SIZE = 1_000
_RECONNECT_INTERVAL_S = 0.1
#: How often one attempt to connect follows MOVED: once in a stable cluster, more often during a failover.
_MAX_REDIRECTS = 3
#: How often the Sentinels are asked while a connection lives.
WATCH_EVERY_S = 1.0
#: What a durable script waits for: nothing more, the disk, or the disk and that of a replica.
Acknowledge = Literal["write", "fsync", "replica"]
#: A restarted server may have lost its newest writes, and with them leases that are still in use. During this time no lease
#: is granted, and every holder restores its leases.
RESTART_GRACE_S = 2
#: The answers of the Visits API that a process remembers, since another server may lack them.
MAX_ANSWERS, ANSWERS_FOR_S = 1_000, 300.0
#: The server's clock has jumped if it advanced by CLOCK_JUMP_S more or less than ours. Then no lease is granted for
#: CLOCK_JUMP_GRACE_S: a busy process may need that long to renew its leases.
CLOCK_JUMP_S, CLOCK_JUMP_GRACE_S = 2.0, 5


class RedisUnavailable(Exception):
    """Redis is unreachable, too slow, read-only or full. The message has the cause."""


class RedisFull(RedisUnavailable):
    """Redis has reached `maxmemory`, and this command may take more memory."""


class RedisReadOnly(RedisUnavailable):
    """Redis rejects writes: it is a replica, cannot save to its disk, or lacks `min-replicas-to-write`."""


class CertificateError(RedisUnavailable):
    """The certificate of the server cannot be verified. Retrying does not help."""


class ServerUnusable(RedisUnavailable):
    """The server is too old, has several shards or no such database, or another version of Doorbell has written to it.

    Retrying does not help.
    """


#: By the first word of an error reply. Other retryable errors are RedisUnavailable.
_ERROR_CLASSES = {
    "OOM": RedisFull,
    "READONLY": RedisReadOnly,
    "MISCONF": RedisReadOnly,
    "NOREPLICAS": RedisReadOnly,
}


@dataclass(frozen=True)
class RedisAddress:
    """The URL of Redis, and whether its TLS certificate is verified."""

    url: str
    verify: bool = True

    @classmethod
    def from_url(cls, url: str | None, tls_verify: Literal["required", "none"]) -> "RedisAddress":
        assert url
        return cls(url, tls_verify == "required")

    @cached_property
    def parts(self) -> dict[str, Any]:
        """The username, password, db, and host and port or path, as redis-py reads them; only those in the URL.

        Importing redis-py for this would take every command 40 ms.
        """
        url = urlsplit(self.url)
        # A Sentinel URL has the name of the primary before the database.
        database = "" if url.scheme == "unix" else url.path.strip("/").partition("/")[2 if self.sentinel else 0]
        database = parse_qs(url.query).get("db", [database])[0]
        place: dict[str, Any] = {"path": unquote(url.path)} if url.scheme == "unix" else {}
        if not place and not self.sentinel:
            place = {"host": url.hostname, "port": url.port}
        parts = {
            "username": unquote(url.username or ""),
            "password": unquote(url.password or ""),
            "db": int(database) if database.isdecimal() else None,
            **place,
        }
        return {name: value for name, value in parts.items() if value or value == 0}

    @cached_property
    def sentinel(self) -> SentinelAddress | None:
        """The Sentinels that know the primary; None if the URL names the server itself."""
        return SentinelAddress.parse(self.url) if urlsplit(self.url).scheme in SCHEMES else None

    @cached_property
    def endpoint(self) -> Endpoint | None:
        """Host and port of the server; None for a Unix socket, and if the Sentinels know it."""
        if "path" in self.parts or self.sentinel:
            return None
        return self.parts.get("host", "localhost"), self.parts.get("port", 6379)

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("rediss")

    def __str__(self) -> str:
        """Return the address without the password."""
        parts = self.parts
        if self.sentinel:
            return f"{self.sentinel.primary} (found by {len(self.sentinel.sentinels)} Sentinels)"
        return str(parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}")

    def handshake_commands(self) -> list[tuple[str | int, ...]]:
        parts, commands = self.parts, list[tuple[str | int, ...]]()
        if parts.get("password"):
            commands.append(("AUTH", *filter(None, (parts.get("username"), parts["password"]))))
        if parts.get("db"):
            commands.append(("SELECT", parts["db"]))
        return commands

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        # Cached: loading the certificates takes 20 ms.
        if not self.is_tls:
            return None
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _nothing_to_restore() -> Iterable[Call]:
    return ()


class HeldLease(NamedTuple):
    """A lease or lock that this process holds.

    until: by time.monotonic(). restore, renew: take the remaining ms and return a script. `restore` is for a server that
    lost its newest writes, `renew` for one whose clock jumped. restore_changes: run before `restore`.
    """

    until: float
    restore: Callable[[int], Call]
    renew: Callable[[int], Call]
    restore_changes: Callable[[], Iterable[Call]] = _nothing_to_restore

    @property
    def remaining_ms(self) -> int:
        return int((self.until - time.monotonic()) * 1000) + 1


class _Connection(asyncio.Protocol):
    """A TCP or Unix connection. Replies arrive in the order of the commands."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop, self._timeout_s = loop, timeout_s
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._on_disk: asyncio.Future[Any] | None = None
        self._replicas = 0
        self._on_message: Callable[[Any], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False
        self.clock_offset_s: float | None = None  # the server's clock minus time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if self._on_message and (not self._pending or isinstance(reply, hiredis.PushNotification)):
                    self._on_message(reply)
                    continue
                future, _ = self._pending.popleft()
                if future.done():
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except hiredis.ProtocolError:
            self._break_off("the server does not speak the protocol of Redis: check the address and its port")
        except IndexError:  # no command is pending
            self._break_off("Redis sent a reply without a command")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail_pending("Redis closed the connection before it answered")

    def _break_off(self, message: str) -> None:
        self.abort()
        self._fail_pending(message)

    def _fail_pending(self, message: str) -> None:
        self.is_lost = True
        if self._on_message:
            self._on_message(None)
        if self._timer:
            self._timer.cancel()
        if self._on_disk is not None:  # _flush comes too late to make it pending
            self._pending.append((self._on_disk, 0.0))
            self._on_disk = None
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable(message))

    def send(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        if self.is_lost:
            raise RedisUnavailable("the connection to Redis was lost")
        if len(self._pending) >= _MAX_PENDING:
            raise RedisUnavailable("too many commands wait for Redis")
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_encode(command))
        future = self._loop.create_future()
        self._pending.append((future, self._loop.time() + self._timeout_s))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_deadline)
        return future

    async def subscribe(self, channel: str, on_message: Callable[[Any], None]) -> None:
        """Pass each message of the channel to on_message, and None at the end. The connection accepts no commands then."""
        self._on_message = on_message
        await self.send(("SUBSCRIBE", channel))

    async def track_keys(self, prefix: str, on_message: Callable[[Any], None]) -> None:
        """Pass a message to on_message after each turn of the server in which keys with this prefix changed."""
        if self._on_message is None:
            await self.send(("HELLO", 3))
        self._on_message = on_message
        await self.send(("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix))

    async def send_and_wait(self, command: tuple[Any, ...], replicas: int) -> Any:
        """Return the reply once the effect is on the server's disk. replicas: how many of them must have it on disk, too.

        One WAITAOF serves all callers of a loop iteration.
        """
        if self._on_disk is None:
            self._on_disk, self._replicas = self._new_ignorable_future(), replicas
        on_disk = self._on_disk
        reply = await self.send(command)
        try:
            on_primary, on_replicas = await asyncio.shield(on_disk)
        except hiredis.ReplyError as error:
            if str(error).startswith("UNBLOCKED"):
                raise RedisUnavailable("Redis became a replica before it wrote to its disk") from None
            if replicas:
                raise RedisUnavailable(f"Redis cannot wait for a replica: {str(error)[:100]}") from None
            # A server without WAITAOF (older than 7.2) or without an append-only file. The script ran.
            if "unknown command" in str(error) or "appendonly is disabled" in str(error):
                return reply
            raise RedisUnavailable(f"Redis cannot wait for its disk: {str(error)[:100]}") from None
        if not on_primary:
            raise RedisUnavailable("Redis did not write to its disk in time")
        if on_replicas < replicas:
            raise RedisUnavailable("no replica of Redis wrote to its disk in time")
        return reply

    def _new_ignorable_future(self) -> asyncio.Future[Any]:
        """Return a future whose exception asyncio does not report if nobody reads it."""
        future = self._loop.create_future()
        future.add_done_callback(lambda future: future.cancelled() or future.exception())
        return future

    def _flush(self) -> None:
        if self._on_disk is not None:
            future, self._on_disk = self._on_disk, None
            # WAITAOF waits for the last write of this connection. A repeat writes nothing, and the delivery that it repeats
            # may have come over another connection and not be on the disk yet.
            self._out.append(_encode(("SET", keys.WRITE_MARK, "")))
            self._pending.append((self._new_ignorable_future(), self._loop.time() + self._timeout_s))
            # Shorter than the timeout of the command, so that its answer says what is missing.
            self._out.append(_encode(("WAITAOF", 1, self._replicas, int(self._timeout_s * 800))))
            self._pending.append((future, self._loop.time() + self._timeout_s))
        if self._transport and not self.is_lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _check_deadline(self) -> None:
        """Abort the connection if its oldest command timed out, since a late reply would be assigned to the next command.

        One timer is enough: the first command in the queue has the earliest deadline.
        """
        self._timer = None
        if self._pending:
            remaining_s = self._pending[0][1] - self._loop.time()
            if remaining_s <= 0:
                self._break_off("Redis does not answer in time")
            else:
                self._timer = self._loop.call_later(remaining_s, self._check_deadline)

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()


def _parse_info(reply: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


_encode: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


class Redis:
    """Runs commands and the scripts of the ledger. Connects at the first command, and again when the connection was lost."""

    def __init__(self, address: RedisAddress, timeout_s: float = 3.0, acknowledge: Acknowledge = "write") -> None:
        """timeout_s: per command. acknowledge: what a durable script waits for, as ACK in the settings."""
        self.address, self._timeout_s, self._acknowledge = address, timeout_s, acknowledge
        self._watching: asyncio.Task[None] | None = None
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._failed_at = float("-inf")
        self._failure: BaseException = RedisUnavailable()  # why the last attempt to connect failed
        self._is_closed = False
        self._run_id = ""
        self._usable_at = 0.0  # when the grace period ends, by time.monotonic(); also for a later connection
        self._endpoint: Endpoint | None = None
        self._nodes: list[Endpoint] = []  # of the shard, if the server is in cluster mode
        self._clock_offset_s: float | None = None
        self.held_leases: dict[str, HeldLease] = {}
        self._answers: dict[str, tuple[float, bytes]] = {}

    @property
    def run_id(self) -> str:
        """Return the run id of the server: another one after a restart or failover. Empty before the first command."""
        return self._run_id

    async def command(self, *command: Any) -> Any:
        """Return the reply: bytes, int, list or None.

        Raises RedisUnavailable; hiredis.ReplyError for a wrong command.
        """
        return await self._send(await self._connected(), *command)

    @property
    def _replicas_needed(self) -> int:
        """How many replicas must have an acknowledged effect on disk."""
        return int(self._acknowledge == "replica")

    async def endpoint(self) -> Endpoint:
        """Return host and port of the server that is in use, which is the primary. Raises RedisUnavailable."""
        await self._connected()
        assert self._endpoint, "a Unix socket has no endpoint"
        return self._endpoint

    async def info(self, section: str = "default") -> dict[str, str]:
        return _parse_info(await self.command("INFO", section))

    async def _send(self, connection: _Connection, *command: Any) -> Any:
        try:
            return await connection.send(command)
        except hiredis.ReplyError as error:
            raise self._classify(connection, error) from None

    async def script(self, call: Call, *, durable: bool = False, connection: _Connection | None = None) -> Any:
        """Run a script by its digest. Load it first if the server does not have it.

        Raise RedisUnavailable if the script did not run, or its reply was lost. durable: a sender gets an acknowledgement
        of the effect. With ACK=fsync or replica, wait until it is on disk.
        """
        if connection is None:
            connection = self._connection
            if connection is None or connection.is_lost:
                connection = await self._connected()
        send: Callable[[tuple[Any, ...]], Awaitable[Any]] = connection.send
        if durable and self._acknowledge != "write":
            send = partial(connection.send_and_wait, replicas=self._replicas_needed)
        try:
            try:
                return await send(call.command)
            except hiredis.ReplyError as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            await connection.send(("SCRIPT", "LOAD", call.script.source))
            return await send(call.command)
        except hiredis.ReplyError as error:
            raise self._classify(connection, error) from None

    def send_script(self, call: Call) -> "asyncio.Future[Any] | None":
        """Send a durable script, and return the future of its reply; None without a connection.

        The future raises RedisUnavailable, and hiredis.ReplyError, also if the server does not have the script.
        """
        connection = self._connection
        if connection is None or connection.is_lost:
            return None
        if self._acknowledge == "write":
            return connection.send(call.command)
        return asyncio.ensure_future(connection.send_and_wait(call.command, self._replicas_needed))

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run many commands and return their replies, in less time than `command` takes for each. Raises as it does."""
        replies: list[Any] = []
        for start in range(0, len(commands), _PIPELINE_SIZE):
            connection = await self._connected()
            try:
                replies += await asyncio.gather(*map(connection.send, commands[start : start + _PIPELINE_SIZE]))
            except hiredis.ReplyError as error:
                raise self._classify(connection, error) from None
        return replies

    async def commands(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Run commands as one atomic script and return their replies.

        A full server runs them too, so that workers and operators can continue. Raises RedisUnavailable.
        """
        arguments = [part for command in commands for part in (len(command), *command)]
        replies: list[Any] = await self.script(scripts.run_commands(arguments=arguments))
        return replies

    async def script_after_grace(self, call: Callable[[int], Call]) -> Any:
        """Run a script that grants a lease or lock, after the grace period of a server that restarted or whose clock jumped.

        In this period every holder renews its leases. call: takes the server time in ms that this process expects; the
        script returns an error if the clock jumped.
        """
        while True:
            # A retry may have a new connection, to a server with a grace period.
            connection = await self._connected()
            wait_s = self._usable_at - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif connection.clock_offset_s is None:
                await self._compare_clocks(connection)
            else:
                expected_ms = int((connection.clock_offset_s + time.monotonic()) * 1000)
                try:
                    return await self.script(call(expected_ms), connection=connection)
                except hiredis.ReplyError as error:
                    if not str(error).startswith("CLOCK"):
                        raise
                await self._compare_clocks(connection)

    def now_ms(self) -> float:
        """Return the server's time, as last compared; that of this process before the first time.

        Processes compare times with this clock, since theirs may differ.
        """
        offset_s = self._clock_offset_s
        return (time.time() if offset_s is None else time.monotonic() + offset_s) * 1000

    async def compare_clocks(self) -> None:
        """Measure the offset of the server's clock, and renew the leases of this process if the clock jumped."""
        await self._compare_clocks(await self._connected())

    async def _compare_clocks(self, connection: _Connection) -> None:
        sent_at = time.monotonic()
        seconds, micros = await self._send(connection, "TIME")
        now = time.monotonic()
        if now - sent_at > CLOCK_JUMP_S / 2 and connection.clock_offset_s is not None:
            return  # the reply was too slow to measure the offset
        offset_s = int(seconds) + int(micros) / 1_000_000 - now
        previous_s, self._clock_offset_s = self._clock_offset_s, offset_s
        connection.clock_offset_s = offset_s
        if previous_s is not None and abs(offset_s - previous_s) > CLOCK_JUMP_S:
            self._usable_at = max(self._usable_at, now + CLOCK_JUMP_GRACE_S)
            renewals = (lease.renew(lease.remaining_ms) for lease in self._current_leases())
            await asyncio.gather(*(self.script(call, connection=connection) for call in renewals))

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        """Yield the messages of a channel. The connection accepts no further commands, and a slow reader loses messages.

        Raises RedisUnavailable.
        """
        messages = asyncio.Queue[Any]()

        def enqueue(message: Any) -> None:
            if message is None or messages.qsize() < _MAX_PENDING:
                messages.put_nowait(message)

        connection = await self._connected()
        await connection.subscribe(channel, enqueue)
        while (message := await messages.get()) is not None:
            yield message[2]
        raise RedisUnavailable("Redis closed the connection")

    async def track_keys(self, prefix: str, on_change: Callable[[Any], None]) -> None:
        """Call on_change when keys with this prefix have changed, until untrack_keys; with None when the connection is lost.

        Use a separate Redis object for it. Raises RedisUnavailable; hiredis.ReplyError if the server has no such reports.
        """
        connection = await self._connected()
        try:
            await connection.track_keys(prefix, on_change)
        except hiredis.ReplyError as error:
            raise self._classify(connection, error) from None

    async def untrack_keys(self) -> None:
        """End the calls of track_keys, with the connection if the server refuses. Raises RedisUnavailable."""
        connection = await self._connected()
        try:
            await connection.send(("CLIENT", "TRACKING", "OFF"))
        except hiredis.ReplyError:
            connection.abort()

    async def close(self) -> None:
        """Close the connection for good: commands raise RedisUnavailable from now on."""
        self._is_closed = True
        if self._watching:
            self._watching.cancel()
        if self._connecting:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection:
            self._connection.abort()
            self._connection = None

    def _classify(self, connection: _Connection, error: hiredis.ReplyError) -> Exception:
        word = "MOVED" if is_moved(str(error)) else str(error).partition(" ")[0]
        if word not in _RETRYABLE_ERRORS:
            return error
        if word in _RECONNECT_ERRORS:
            connection.abort()
        return _ERROR_CLASSES.get(word, RedisUnavailable)(f"Redis answers {word}")

    async def _connected(self) -> _Connection:
        if self._connection is not None and not self._connection.is_lost:
            return self._connection
        if self._is_closed:
            raise RedisUnavailable("the connection to Redis was closed by this process")
        loop = asyncio.get_running_loop()
        if self._connecting is None:
            if loop.time() - self._failed_at < _RECONNECT_INTERVAL_S:
                raise self._failure.with_traceback(None)
            self._connecting = loop.create_task(self._connect(loop))
            self._connecting.add_done_callback(self._connection_tried)
        return await asyncio.shield(self._connecting)

    def _connection_tried(self, task: "asyncio.Task[_Connection]") -> None:
        self._connecting = None
        if not task.cancelled() and (failure := task.exception()):
            self._failed_at, self._failure = task.get_loop().time(), failure

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect_to_primary(loop)
        except BaseException as error:
            raise self._as_redis_error(error) from None
        self._connection = connection
        if self.address.sentinel and self._endpoint:
            self._watch(connection, self._endpoint)
        return connection

    async def _connect_to_primary(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        """Connect to the primary that the Sentinels name; else to the address, or to another node that the cluster had."""
        primary = await self._find_primary()
        places = [primary] if primary else list(dict.fromkeys([self.address.endpoint, *self._nodes]))
        while True:
            place = places.pop(0)
            try:
                async with asyncio.timeout(self._timeout_s / (1 + len(places))):
                    return await self._open_usable(loop, place)
            except (OSError, TimeoutError, RedisUnavailable, hiredis.ReplyError) as error:
                if not places or isinstance(error, (ServerUnusable, ssl.SSLError)):
                    raise

    async def _open_usable(
        self, loop: asyncio.AbstractEventLoop, place: Endpoint | None, redirects: int = _MAX_REDIRECTS
    ) -> _Connection:
        """Return a connection to this server, or to the node that it names. Raises ServerUnusable."""
        connection = await self._open_connection(loop, place)
        try:
            await self._log_in(connection)
            if self.address.sentinel and place:
                await self._check_role(connection, place)
            commands = ("INFO", "server"), ("GET", keys.SCHEMA), ("GET", keys.SERVER)
            replies: Any = await asyncio.gather(*map(connection.send, commands), return_exceptions=True)
            info, schema, last_server = replies
            server = _parse_info(_value_of(info))
            if place and "cluster" in (server.get("server_mode"), server.get("redis_mode")):
                self._check_shards(shards_of(await connection.send(("CLUSTER", "SLOTS")), place))
                if redirects and (target := moved_to(str(schema), place)):
                    connection.abort()
                    return await self._open_usable(loop, target, redirects - 1)
            self._check_server(server, int(_value_of(schema) or 0))
            await self._restore_leases(connection, server, (_value_of(last_server) or b"").decode())
        except BaseException:
            connection.abort()
            raise
        self._endpoint = place
        return connection

    async def _log_in(self, connection: _Connection) -> None:
        for command in self.address.handshake_commands():
            try:
                await connection.send(command)
            except hiredis.ReplyError as error:
                if command[0] != "SELECT" or not str(error).startswith("ERR"):
                    raise
                raise ServerUnusable(
                    f"Redis at {self.address} has no database {command[1]} ({str(error)[:100]}): in cluster mode "
                    "there is usually only 0, so end REDIS_URL with /0"
                ) from None

    def _check_shards(self, shards: Sequence[list[Endpoint]]) -> None:
        """Raise ServerUnusable for several shards. Remember the nodes: one of them is the primary after a failover."""
        if len(shards) > 1:
            raise ServerUnusable(
                f"Redis at {self.address} is a cluster of {len(shards)} shards; Doorbell needs one shard with all "
                "slots, because its scripts use keys of several slots"
            )
        self._nodes = shards[0] if shards else []

    async def _find_primary(self) -> Endpoint | None:
        """Ask the Sentinels; return None if the address names the server itself."""
        if self.address.sentinel is None:
            return None
        try:
            return await find_primary(self.address.sentinel, self.address.tls)
        except NoPrimary as error:
            raise RedisUnavailable(str(error)) from None

    async def _check_role(self, connection: _Connection, primary: Endpoint) -> None:
        role = (await connection.send(("ROLE",)))[0]
        if role != b"master":
            raise RedisUnavailable(f"{primary[0]}:{primary[1]} is not the primary (yet): a failover is under way")

    def _watch(self, connection: _Connection, primary: Endpoint) -> None:
        """Leave the connection when the Sentinels name another primary: the old one may not know yet."""

        async def watch() -> None:
            while not connection.is_lost:
                await asyncio.sleep(WATCH_EVERY_S)
                with suppress(RedisUnavailable):
                    if await self._find_primary() != primary:
                        connection.abort()

        if self._watching:
            self._watching.cancel()
        self._watching = asyncio.get_running_loop().create_task(watch())

    def _check_server(self, server: Mapping[str, str], schema: int) -> None:
        """Raise ServerUnusable. schema: what the database contains, 0 if it is unknown."""
        version = server.get("redis_version", "")
        if version and tuple(map(int, re.findall(r"\d+", version)[:2])) < MIN_SERVER_VERSION:
            raise ServerUnusable(
                f"Redis at {self.address} is version {version}; Doorbell needs Redis 7.0 or newer, or any Valkey"
            )
        if schema not in (0, keys.SCHEMA_VERSION):
            other = "a newer" if schema > keys.SCHEMA_VERSION else "an older"
            raise ServerUnusable(
                f"Redis at {self.address} contains data of {other} Doorbell (schema {schema}, this version reads "
                f"{keys.SCHEMA_VERSION}): deploy that version, or use another database"
            )

    async def _restore_leases(self, connection: _Connection, server: Mapping[str, str], last_run_id: str) -> None:
        """Start the grace period if the server restarted or is another one, and restore what it lost of our runs.

        last_run_id: of the server that the workers knew. A new process compares with it: others may still hold leases.
        """
        run_id, now = server.get("run_id", ""), time.monotonic()
        is_other_server = (self._run_id or last_run_id) not in ("", run_id)
        # Redis reports a negative uptime if its clock went back since its start.
        uptime_s = max(0, int(server.get("uptime_in_seconds", 0)))
        self._usable_at = max(self._usable_at, now + RESTART_GRACE_S - (0 if is_other_server else uptime_s))

        async def restore(lease: HeldLease) -> None:
            for call in lease.restore_changes():
                await self.script(call, connection=connection)
            await self.script(lease.restore(lease.remaining_ms), connection=connection)

        await asyncio.gather(*map(restore, self._current_leases()))
        if is_other_server and (answers := self._recent_answers(now)):
            await self.script(scripts.recheck_outdated(visits=answers), connection=connection)
        self._run_id = run_id  # only now: after a failure the next connection restores again, with a new grace period

    def remember_answer(self, task: str, remote: bytes) -> None:
        """Remember the last answer of the Visits API for a visit, in case the server loses it."""
        self._answers.pop(task, None)
        self._answers[task] = time.monotonic(), remote
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _recent_answers(self, now: float) -> list[tuple[str, bytes]]:
        return [(task, remote) for task, (at, remote) in self._answers.items() if now - at < ANSWERS_FOR_S]

    def _current_leases(self) -> list[HeldLease]:
        now = time.monotonic()
        self.held_leases = {token: lease for token, lease in self.held_leases.items() if lease.until > now}
        return list(self.held_leases.values())

    def _as_redis_error(self, error: BaseException) -> BaseException:
        if isinstance(error, hiredis.ReplyError):
            return RedisUnavailable(f"Redis at {self.address} refuses: {str(error)[:200]}")
        if isinstance(error, TimeoutError):
            return RedisUnavailable(f"Redis at {self.address} does not answer")
        if isinstance(error, ssl.SSLCertVerificationError):
            return CertificateError(
                f"Redis at {self.address} has a certificate that cannot be verified; REDIS_TLS_VERIFY=none accepts it"
            )
        if isinstance(error, OSError):
            return RedisUnavailable(f"Redis at {self.address} cannot be reached ({type(error).__name__})")
        return error

    async def _open_connection(self, loop: asyncio.AbstractEventLoop, place: Endpoint | None) -> _Connection:
        """place: None for the Unix socket of the address."""

        def protocol() -> _Connection:
            return _Connection(loop, self._timeout_s)

        if place is None:
            return (await loop.create_unix_connection(protocol, self.address.parts["path"]))[1]
        tls = self.address.tls
        name = self._certificate_name(place[0]) if tls else None
        return (await loop.create_connection(protocol, *place, ssl=tls, server_hostname=name))[1]

    def _certificate_name(self, host: str) -> str:
        """Return the name in the certificate: a cluster may name its nodes by IP addresses, which are rarely in it."""
        configured = self.address.endpoint
        return configured[0] if configured and _is_ip_address(host) else host


def _value_of(reply: Any) -> Any:
    if isinstance(reply, BaseException):
        raise reply
    return reply


def _is_ip_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False
