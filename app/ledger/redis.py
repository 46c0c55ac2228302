"""One connection to Redis that all concurrent requests share: what is asked in one turn of the loop leaves in one write.

Why our own: with the same script and 32 requests in flight, redis-py (also batched), coredis and valkey-glide reached 1.5
to 2.0 times arq's `enqueue_job`, this 3.8. hiredis does the protocol, redis-py reads the address; here are only the queue
of waiting replies, the deadline, and the way back after trouble.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from app.ledger import scripts
from app.ledger.scripts import Call

#: Answers that mean "not now" rather than "you asked wrongly".
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
)
_MAX_PENDING = 10_000
_RECONNECT_INTERVAL_S = 0.1
#: A restarted server may have lost its last writes, and with them leases that are still in use. For this time no lease is
#: granted, and every holder restores its own.
RESTART_GRACE_S = 2
#: A server's clock that moves by so much more or less than our own has jumped; then a busy process gets more time.
CLOCK_JUMP_S, CLOCK_JUMP_GRACE_S = 2.0, 5


class RedisUnavailable(Exception):
    """Redis is unreachable, too slow, read-only or full. The sentence says which."""


class RedisFull(RedisUnavailable):
    """Redis has reached `maxmemory`, and this command may take more memory."""


class RedisReadOnly(RedisUnavailable):
    """Redis rejects writes: it is a replica, cannot save to its disk, or lacks `min-replicas-to-write`."""


class CertificateError(RedisUnavailable):
    """Its certificate cannot be verified: to wait does not help."""


#: By the first word of an error reply. Other retryable errors are RedisUnavailable.
_ERROR_CLASSES = {
    "OOM": RedisFull,
    "READONLY": RedisReadOnly,
    "MISCONF": RedisReadOnly,
    "NOREPLICAS": RedisReadOnly,
}


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to get in."""

    url: str
    verify: bool = True

    @classmethod
    def from_url(cls, url: str | None, tls_verify: str) -> "RedisAddress":
        """tls_verify: `required`, or `none`."""
        assert url
        return cls(url, tls_verify == "required")

    @cached_property
    def parts(self) -> dict[str, Any]:
        return dict(parse_url(self.url))

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("rediss://")

    def __str__(self) -> str:
        """Without the password."""
        parts = self.parts
        return str(parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}")

    def handshake_commands(self) -> list[tuple[str | int, ...]]:
        """What a new connection says first."""
        parts, commands = self.parts, list[tuple[str | int, ...]]()
        if parts.get("password"):
            commands.append(("AUTH", *filter(None, (parts.get("username"), parts["password"]))))
        if parts.get("db"):
            commands.append(("SELECT", parts["db"]))
        return commands

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """Made once: loading the certificates of a context costs 20 ms."""
        if not self.is_tls:
            return None
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease or lock of this process until a time (monotonic). Both scripts take the ms that are left: one restores it on a
    server that lost its newest writes, the other renews it after the clock of the server jumped."""

    until: float
    restore: Callable[[int], Call]
    renew: Callable[[int], Call]

    @property
    def left_ms(self) -> int:
        return int((self.until - time.monotonic()) * 1000) + 1


class _Connection(asyncio.Protocol):
    """A TCP or unix connection: commands out, replies in, in the same order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop, self._timeout_s = loop, timeout_s
        self._reader = hiredis.Reader()
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._fsync: asyncio.Future[Any] | None = None
        self._on_message: Callable[[Any], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost, self.usable_at = False, 0.0
        self.clock_offset_s: float | None = None  # the server's clock, from our monotonic one

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._on_message and not self._pending:
                self._on_message(reply)
                continue
            future, _ = self._pending.popleft()
            if future.done():
                continue
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail_pending("Redis closed the connection before it answered")

    def _fail_pending(self, why: str) -> None:
        """Nobody waits for an answer that cannot come any more."""
        self.is_lost = True
        if self._on_message:
            self._on_message(None)
        if self._timer:
            self._timer.cancel()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable(why))

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
        """What is said there from now on; None at the end. Nothing else is asked on this connection any more."""
        self._on_message = on_message
        await self.send(("SUBSCRIBE", channel))

    def fsynced(self) -> asyncio.Future[Any]:
        """Everything that leaves in this turn of the loop is on the disk: one WAITAOF for all who ask."""
        if self._fsync is None:
            self._fsync = self._loop.create_future()
        return self._fsync

    def _flush(self) -> None:
        if self._fsync is not None:
            waiting, self._fsync = self._fsync, None
            self._pending.append((waiting, self._loop.time() + self._timeout_s))
            self._out.append(_encode(("WAITAOF", 1, 0, int(self._timeout_s * 1000))))
        if self._transport and not self.is_lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _check_deadline(self) -> None:
        """One timer for all commands: the first in the queue waits longest. A late reply ends the connection; otherwise it
        would be taken for the reply to the next command."""
        self._timer = None
        if self._pending:
            overdue = self._pending[0][1] - self._loop.time()
            if overdue <= 0:
                self.abort()
                self._fail_pending("Redis does not answer in time")
            else:
                self._timer = self._loop.call_later(overdue, self._check_deadline)

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()


def _encode(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


class Redis:
    """Commands and the ledger's script. Connects when first asked, and again after trouble."""

    def __init__(self, address: RedisAddress, timeout_s: float = 3.0, fsync: bool = False) -> None:
        """timeout_s: how long a command may take. fsync: `write` waits until the server has it on its disk."""
        self.address, self._timeout_s, self._fsync = address, timeout_s, fsync
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
        self._failed_at = float("-inf")
        self._run_id = b""
        self._clock_offset_s: float | None = None
        self.held_leases: dict[str, HeldLease] = {}

    async def command(self, *command: Any) -> Any:
        """One command's reply: bytes, int, list or None.

        Raises RedisUnavailable; hiredis.ReplyError for a wrong question."""
        return await self._send(await self._connected(), *command)

    async def _send(self, wire: _Connection, *command: Any) -> Any:
        try:
            return await wire.send(command)
        except hiredis.ReplyError as error:
            raise self._classify(wire, error) from None

    async def script(self, call: Call) -> Any:
        """Raises RedisUnavailable."""
        wire = self._connection
        if wire is None or wire.is_lost:
            wire = await self._connected()
        return await self._run_script(wire, call)

    async def commands(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies of commands that are executed together, also by a server that is full: for what a worker or an
        operator writes. Raises RedisUnavailable."""
        arguments = [part for command in commands for part in (len(command), *command)]
        replies: list[Any] = await self.script(scripts.run_commands(arguments=arguments))
        return replies

    async def script_after_grace(self, call: Callable[[int], Call]) -> Any:
        """Run a script that grants a lease or lock, once every holder could renew its own: after a restart of the server, or
        a jump of its clock. call: takes the time (ms) that we expect there; the script refuses if the clock jumped."""
        while True:
            wire = await self._connected()
            wait_s = wire.usable_at - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif wire.clock_offset_s is None:
                await self._compare_clocks(wire)
            else:
                expected_ms = int((wire.clock_offset_s + time.monotonic()) * 1000)
                try:
                    return await self._run_script(wire, call(expected_ms))
                except hiredis.ReplyError as error:
                    if not str(error).startswith("CLOCK"):
                        raise
                await self._compare_clocks(wire)
            # There may be a new connection by now, to a server with a grace period of its own.

    async def compare_clocks(self) -> None:
        """Follow the server's clock; where it jumped, renew at once what is held here."""
        await self._compare_clocks(await self._connected())

    async def _compare_clocks(self, wire: _Connection) -> None:
        asked_at = time.monotonic()
        seconds, micros = await self._send(wire, "TIME")
        now = time.monotonic()
        if now - asked_at > CLOCK_JUMP_S / 2 and wire.clock_offset_s is not None:
            return  # too slow an answer to compare by
        wire.clock_offset_s = int(seconds) + int(micros) / 1_000_000 - now
        before_s, self._clock_offset_s = self._clock_offset_s, wire.clock_offset_s
        if before_s is not None and abs(wire.clock_offset_s - before_s) > CLOCK_JUMP_S:
            wire.usable_at = max(wire.usable_at, now + CLOCK_JUMP_GRACE_S)
            renewals = (lease.renew(lease.left_ms) for lease in self._current_leases())
            await asyncio.gather(*(self._run_script(wire, call) for call in renewals))

    async def _run_script(self, wire: _Connection, call: Call) -> Any:
        """Run a script on this connection and no other."""
        try:
            return await self._evaluate(wire, call, wire.send)
        except hiredis.ReplyError as error:
            raise self._classify(wire, error) from None

    @staticmethod
    async def _evaluate(wire: _Connection, call: Call, send: Callable[[tuple[Any, ...]], Awaitable[Any]]) -> Any:
        """The reply to a script, which is loaded first if the server does not know it."""
        command = ("EVALSHA", call.script.sha, 0, *call.arguments)
        try:
            return await send(command)
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await wire.send(("SCRIPT", "LOAD", call.script.source))
        return await send(command)

    def durable_script(self, call: Call) -> Coroutine[Any, Any, Any]:
        """Run a script that an answer to the outside depends on: with ACK=fsync it is on the disk when this returns."""
        return self._script_and_fsync(call) if self._fsync else self.script(call)

    async def _script_and_fsync(self, call: Call) -> Any:
        wire = await self._connected()
        try:
            return await self._evaluate(wire, call, partial(self._send_and_fsync, wire))
        except hiredis.ReplyError as error:
            raise self._classify(wire, error) from None

    @staticmethod
    async def _send_and_fsync(wire: _Connection, command: tuple[Any, ...]) -> Any:
        """Both leave in one write."""
        reply: Any
        on_disk: Any
        reply, on_disk = await asyncio.gather(wire.send(command), wire.fsynced(), return_exceptions=True)
        if isinstance(reply, BaseException):
            raise reply
        # A server that cannot say (older than 7.2, or without an append-only file) has at least written it.
        if isinstance(on_disk, BaseException) and not isinstance(on_disk, hiredis.ReplyError):
            raise on_disk
        if isinstance(on_disk, list) and not on_disk[0]:
            raise RedisUnavailable("Redis did not write to its disk in time")
        return reply

    async def subscribe(self, channel: str) -> AsyncIterator[bytes]:
        """What is said there from now on; this connection asks nothing else any more. Whoever reads too slowly misses some.
        Raises RedisUnavailable."""
        heard = asyncio.Queue[Any]()

        def told(message: Any) -> None:
            if message is None or heard.qsize() < _MAX_PENDING:
                heard.put_nowait(message)

        wire = await self._connected()
        await wire.subscribe(channel, told)
        while (message := await heard.get()) is not None:
            yield message[2]
        raise RedisUnavailable("Redis closed the connection")

    async def close(self) -> None:
        if self._connection:
            self._connection.abort()
            self._connection = None

    def _classify(self, wire: _Connection, error: BaseException) -> BaseException:
        """An answer that means "not now" is trouble; any other is our own mistake."""
        word = str(error).partition(" ")[0]
        if not isinstance(error, hiredis.ReplyError) or word not in _RETRYABLE_ERRORS:
            return error
        if word in ("READONLY", "LOADING"):
            wire.abort()  # behind the same address there may already be another server
        return _ERROR_CLASSES.get(word, RedisUnavailable)(f"Redis answers {word}")

    async def _connected(self) -> _Connection:
        if self._connection is not None and not self._connection.is_lost:
            return self._connection
        loop = asyncio.get_running_loop()
        if self._connecting is None:
            if loop.time() - self._failed_at < _RECONNECT_INTERVAL_S:
                raise RedisUnavailable(f"Redis at {self.address} cannot be reached")
            self._connecting = loop.create_task(self._connect(loop))
            self._connecting.add_done_callback(self._connection_tried)
        return await asyncio.shield(self._connecting)

    def _connection_tried(self, task: "asyncio.Task[_Connection]") -> None:
        self._connecting = None
        if task.cancelled() or task.exception():
            self._failed_at = task.get_loop().time()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        wire: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                wire = await self._open_connection(loop)
                for command in self.address.handshake_commands():
                    await wire.send(command)
                await self._restore_leases(wire)
        except BaseException as error:
            if wire:
                wire.abort()
            raise self._as_redis_error(error) from None
        self._connection = wire
        return wire

    async def _restore_leases(self, wire: _Connection) -> None:
        """Whether this is the server that it was, and what is held here, should it have forgotten."""
        lines = (await wire.send(("INFO", "server"))).split()
        told = dict(line.split(b":", 1) for line in lines if b":" in line)
        run_id, now = told.get(b"run_id", b""), time.monotonic()
        is_known = self._run_id in (b"", run_id)
        uptime_s = max(0, int(told.get(b"uptime_in_seconds", 0)))  # below 0 where its clock went back since it started
        wire.usable_at = now + RESTART_GRACE_S - (uptime_s if is_known else 0)
        self._run_id = run_id
        for lease in self._current_leases():
            await self._run_script(wire, lease.restore(lease.left_ms))

    def _current_leases(self) -> list[HeldLease]:
        now = time.monotonic()
        self.held_leases = {name: right for name, right in self.held_leases.items() if right.until > now}
        return list(self.held_leases.values())

    def _as_redis_error(self, error: BaseException) -> BaseException:
        if isinstance(error, hiredis.ReplyError):
            return RedisUnavailable(f"Redis at {self.address} refuses: {str(error)[:200]}")
        if isinstance(error, TimeoutError):
            return RedisUnavailable(f"Redis at {self.address} does not answer")
        if isinstance(error, ssl.SSLCertVerificationError):
            why = "has a certificate that cannot be verified; REDIS_TLS_VERIFY=none lets it pass"
            return CertificateError(f"Redis at {self.address} {why}")
        if isinstance(error, OSError):
            return RedisUnavailable(f"Redis at {self.address} cannot be reached ({type(error).__name__})")
        return error

    async def _open_connection(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        parts = self.address.parts

        def wire() -> _Connection:
            return _Connection(loop, self._timeout_s)

        if path := parts.get("path"):
            return (await loop.create_unix_connection(wire, path))[1]
        host, port = parts.get("host", "localhost"), parts.get("port", 6379)
        return (await loop.create_connection(wire, host, port, ssl=self.address.tls))[1]
