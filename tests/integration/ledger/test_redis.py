"""The connection to Redis: replies reach their commands, failures raise RedisUnavailable, and it reconnects."""

import asyncio
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import pytest
from redis.asyncio.connection import parse_url

from app.demo.valkey import binary, free_port
from app.ledger.ledger import Ledger
from app.ledger.records import AcceptResult, DeliveryInfo, NewDelivery
from app.ledger.redis import Acknowledge, Redis, RedisAddress, RedisUnavailable
from app.webhooks.delivery import Delivery
from jobs.arq_redis import redis_pool
from tests.support.cases import each
from tests.support.harness import Harness, wait_until
from tests.support.processes import run_process
from tests.support.tcp_server import Handler, listening


class OwnServer:
    """A Valkey for this module, which tests may pause, kill and lock."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.port, self.socket = free_port(), folder / "valkey.sock"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "loglevel": "warning",
            **options,
        }
        self._arguments = [part for name, value in options.items() for part in (f"--{name}", *value.split(" "))]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([binary(), *self._arguments], stdout=quiet, stderr=quiet)
        wait_until(lambda: self.socket.exists() and self.cli("PING") == "PONG")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def cli(self, *command: str) -> str:
        """Run a command over a separate connection."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(hiredis.pack_command(command))
                reader = hiredis.Reader(encoding="utf-8")
                while (reply := reader.gets()) is False:
                    received = connection.recv(65_536)
                    if not received:
                        raise ConnectionError("the server closed the connection")
                    reader.feed(received)
            except OSError as error:
                return repr(error)
        return str(reply)


@contextmanager
def run_own_server(folder: Path, **options: str) -> Iterator[OwnServer]:
    server = OwnServer(folder, **options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with run_own_server(tmp_path_factory.mktemp("own"), appendonly="yes", appendfsync="always") as server:
        yield server


@asynccontextmanager
async def connected(
    url: str, timeout_s: float = 3.0, *, verify: bool = True, acknowledge: Acknowledge = "write"
) -> AsyncIterator[Redis]:
    redis = Redis(RedisAddress(url, verify), timeout_s, acknowledge)
    try:
        yield redis
    finally:
        await redis.close()


class Commands:
    """Reads the commands of a connection one by one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._stream, self._reader = reader, hiredis.Reader()

    async def next(self) -> list[bytes]:
        while (command := self._reader.gets()) is False:
            data = await self._stream.read(65536)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            self._reader.feed(data)
        arguments: list[bytes] = command
        return arguments


async def retry_until_available(operation: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat the operation until Redis is available, for at most 30 s."""
    for _ in range(1_500):
        try:
            return await operation()
        except RedisUnavailable:
            await asyncio.sleep(0.02)
    return await operation()


async def accept(redis: Redis, raw: bytes) -> AcceptResult:
    """Accept one ignored delivery."""
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    meta = DeliveryInfo(hook="standard", source="standard", received_at_ms=int(time.time() * 1000), ignored="nothing")
    return await Ledger(redis, retention_days=30).accept(NewDelivery(delivery, meta, [], "main", dedup_id=None))


# -- replies --


async def test_ten_thousand_concurrent_commands_each_get_their_own_reply(redis: Redis) -> None:
    words = [str(n).encode() * random.Random(n).randint(1, 60) for n in range(10_000)]
    random.Random(1).shuffle(words)

    replies = await asyncio.gather(*(redis.command("ECHO", word) for word in words))

    assert words == replies


async def test_replies_of_every_type_reach_their_own_command(redis: Redis) -> None:
    await redis.command("SET", "text", "a text")
    kinds: list[tuple[tuple[str, ...], Any]] = [
        (("GET", "text"), b"a text"),
        (("GET", "nothing"), None),
        (("STRLEN", "text"), 6),
        (("MGET", "text", "{text}nothing"), [b"a text", None]),
        (("LPUSH", "text", "x"), "WRONGTYPE"),
        (("PING",), b"PONG"),
        (("NO-SUCH-COMMAND",), "ERR"),
    ]
    order = [kinds[n % len(kinds)] for n in range(700)]
    random.Random(2).shuffle(order)

    replies = await asyncio.gather(*(redis.command(*command) for command, _ in order), return_exceptions=True)

    values = [str(reply).partition(" ")[0] if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]
    assert [expected for _, expected in order] == values


async def test_the_reply_of_a_cancelled_command_reaches_no_other_command(redis: Redis) -> None:
    await redis.command("PING")
    commands = [asyncio.ensure_future(redis.command("ECHO", str(n))) for n in range(1_000)]
    await asyncio.sleep(0)  # all are sent, none has a reply
    for task in commands[::2]:
        task.cancel()

    replies = await asyncio.gather(*commands[1::2])
    later = await redis.command("ECHO", "later")

    assert [str(n).encode() for n in range(1, 1_000, 2)] == replies
    assert b"later" == later


async def test_all_concurrent_commands_share_one_connection(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url) as redis:
        replies = await asyncio.gather(*(redis.command("CLIENT", "ID") for _ in range(100)))

    assert 1 == len(set(replies))


async def test_commands_use_the_database_of_the_address(valkey_server: OwnServer) -> None:
    async with connected(f"redis://127.0.0.1:{valkey_server.port}/3") as redis:
        await redis.command("SET", "where", "three")

    assert "None" == valkey_server.cli("GET", "where")
    async with connected(f"redis://127.0.0.1:{valkey_server.port}?db=3") as redis:
        assert b"three" == await redis.command("GETDEL", "where")


async def test_commands_beyond_ten_thousand_fail_at_once_and_affect_no_other(redis: Redis) -> None:
    commands = [redis.command("ECHO", str(n)) for n in range(10_050)]

    replies = await asyncio.gather(*commands, return_exceptions=True)

    assert [str(n).encode() for n in range(10_000)] == replies[:10_000]
    assert [RedisUnavailable] * 50 == [type(reply) for reply in replies[10_000:]]
    assert b"PONG" == await redis.command("PING")


async def test_a_pipeline_of_any_length_returns_its_replies_in_order(redis: Redis) -> None:
    assert [] == await redis.pipeline([])
    numbers = [b"%d" % number for number in range(12_345)]
    assert numbers == await redis.pipeline([("ECHO", number) for number in numbers])


async def test_a_wrong_command_of_a_pipeline_is_an_error_and_affects_no_other(redis: Redis) -> None:
    with pytest.raises(hiredis.ReplyError, match="unknown command"):
        await redis.pipeline([("ECHO", "a"), ("WRONG",), ("ECHO", "b")])

    assert b"c" == await redis.command("ECHO", "c")


# -- deadlines --


async def test_a_late_reply_closes_its_connection_and_reaches_no_other_command(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url, timeout_s=0.15) as redis:
        for n in range(3):
            late, behind = await asyncio.gather(
                redis.command("BLPOP", "an empty list", 10), redis.command("ECHO", "behind"), return_exceptions=True
            )
            reply = await retry_until_available(lambda n=n: redis.command("ECHO", f"after {n}"))

            assert (RedisUnavailable, RedisUnavailable) == (type(late), type(behind))
            assert f"after {n}".encode() == reply


async def greet(commands: "Commands", writer: asyncio.StreamWriter) -> None:
    """Reply to the first commands of a connection, which ask for the server's run id, the schema and the last run id."""
    await commands.next()
    writer.write(b"$8\r\nrun_id:1\r\n")
    for _ in range(2):
        await commands.next()
        writer.write(b"$-1\r\n")


async def test_the_deadline_applies_to_every_command() -> None:
    async def mute_after_one_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Commands(reader)
        await greet(commands, writer)
        await commands.next()
        writer.write(b"+one\r\n")
        while True:
            await commands.next()

    async with listening(mute_after_one_reply) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=1.0) as redis:
        assert b"one" == await redis.command("PING")
        with pytest.raises(RedisUnavailable):
            await asyncio.wait_for(redis.command("PING"), 5)


async def test_a_server_that_never_replies_is_unavailable_after_the_deadline() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(mute) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.2) as redis:
        replies = await asyncio.wait_for(
            asyncio.gather(*(redis.command("PING") for _ in range(100)), return_exceptions=True), 5
        )

    assert [RedisUnavailable] * 100 == [type(reply) for reply in replies]


# -- reconnection --


async def test_a_killed_server_is_unavailable_until_it_restarts(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url) as redis:
        await redis.command("SET", "stored", "yes")
        valkey_server.kill()

        with pytest.raises(RedisUnavailable):
            await redis.command("PING")
        valkey_server.start()

        assert b"yes" == await retry_until_available(lambda: redis.command("GET", "stored"))
        assert 0 == await Ledger(redis, retention_days=30).requeue_due()


async def test_a_lock_waits_again_for_a_server_that_restarted_during_the_wait(valkey_server: OwnServer) -> None:
    """A new lock waits until holders of old locks could renew them; here another server starts during the wait."""
    valkey_server.kill()
    valkey_server.start()
    loop = asyncio.get_running_loop()
    async with connected(valkey_server.url) as redis:
        acquiring = asyncio.create_task(Ledger(redis, 30).acquire_lock("a-lock", "mine", 1))
        await asyncio.sleep(1)
        assert not acquiring.done()
        valkey_server.kill()
        valkey_server.start()
        await retry_until_available(lambda: redis.command("PING"))
        restarted_at = loop.time()

        await acquiring

        assert loop.time() - restarted_at > 1.5


async def test_a_closed_client_opens_no_connection(redis_url: str) -> None:
    client = Redis(RedisAddress(redis_url))
    await client.command("PING")
    await client.close()

    with pytest.raises(RedisUnavailable, match="closed by this process"):
        await client.command("PING")


async def test_a_server_that_becomes_a_replica_acknowledges_nothing_that_is_not_on_its_disk(tmp_path: Path) -> None:
    with run_own_server(tmp_path, appendonly="yes", appendfsync="no") as server:
        async with connected(server.url) as loading, connected(server.url, acknowledge="fsync") as redis:
            await accept(loading, b"loads the script")
            accepting = asyncio.ensure_future(accept(redis, b"not on disk"))
            await asyncio.to_thread(wait_until, lambda: "blocked_clients:1" in server.cli("INFO", "clients"))
            server.cli("REPLICAOF", "127.0.0.1", str(free_port()))

            with pytest.raises(RedisUnavailable, match="became a replica"):
                await accepting


async def test_arq_uses_a_unix_socket_too(valkey_server: OwnServer) -> None:
    async with connected(f"unix://{valkey_server.socket}") as redis:
        pool = redis_pool(redis)

        assert await pool.ping()
        await pool.aclose(close_connection_pool=True)  # type: ignore[attr-defined]


async def test_pending_commands_fail_when_the_connection_is_closed(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url) as redis:
        await redis.command("PING")
        waiting = [asyncio.ensure_future(redis.command("BLPOP", "an empty list", 10)) for _ in range(20)]
        await asyncio.sleep(0.05)
        valkey_server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        replies = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)

        assert [RedisUnavailable] * 20 == [type(reply) for reply in replies]
        assert b"PONG" == await retry_until_available(lambda: redis.command("PING"))


@each("when", ["after the greeting", "after a reply", "in the middle of a reply"])
async def test_no_command_waits_after_the_server_closes_the_connection(when: str) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Commands(reader)
        await greet(commands, writer)
        if when != "after the greeting":
            await commands.next()
            writer.write(b"+PONG\r\n" if when == "after a reply" else b"$4\r\nPO")
        await writer.drain()

    async with listening(hang_up) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.3) as redis:
        for _ in range(5):
            replies = await asyncio.wait_for(
                asyncio.gather(*(redis.command("PING") for _ in range(3)), return_exceptions=True), 2
            )
            assert all(reply == b"PONG" or isinstance(reply, RedisUnavailable) for reply in replies), replies


@each("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe", b"$99999999999999999999\r\n"], ids=repr)
async def test_a_server_that_does_not_speak_redis_is_unavailable(answer: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await reader.read()

    tracebacks = recorded_tracebacks()
    async with listening(respond) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.3) as redis:
        with pytest.raises(RedisUnavailable, match="does not speak the protocol of Redis"):
            await asyncio.wait_for(redis.command("PING"), 5)

    assert [] == tracebacks


def recorded_tracebacks() -> list[dict[str, Any]]:
    """Return the list to which the loop adds what it would print as a traceback."""
    tracebacks: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: tracebacks.append(context))
    return tracebacks


async def test_an_unrequested_reply_is_not_taken_for_the_next_one() -> None:
    async def reply_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Commands(reader)
        await greet(commands, writer)
        while command := await commands.next():
            writer.write(b"$%d\r\n%s\r\n" % (len(command[1]), command[1]) + b"+unrequested\r\n")

    tracebacks = recorded_tracebacks()
    async with listening(reply_twice) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.3) as redis:
        for n in range(5):
            reply = await retry_until_available(lambda n=n: asyncio.wait_for(redis.command("ECHO", str(n)), 5))
            assert str(n).encode() == reply

    assert [] == tracebacks


async def test_a_thousand_commands_try_an_unreachable_server_once() -> None:
    attempts = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1

    async with listening(count) as port, connected(f"redis://127.0.0.1:{port}") as redis:
        replies = await asyncio.gather(*(redis.command("PING") for _ in range(1_000)), return_exceptions=True)

    assert [RedisUnavailable] * 1_000 == [type(reply) for reply in replies]
    assert 1 == attempts


async def test_an_address_without_a_server_is_unavailable_at_once() -> None:
    async with connected(f"redis://127.0.0.1:{free_port()}") as redis:
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")
        with pytest.raises(RedisUnavailable):
            await Ledger(redis, retention_days=30).requeue_due()


async def test_a_read_only_server_is_unavailable_until_it_is_writable(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url) as redis:
        valkey_server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(RedisUnavailable, match="READONLY"):
            await accept(redis, b"while read-only")
        valkey_server.cli("REPLICAOF", "NO", "ONE")

        written = await retry_until_available(lambda: accept(redis, b"after it"))

    assert not written.is_repeat


async def test_a_full_server_is_unavailable_until_it_has_space(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url) as redis:
        await redis.command("PING")
        valkey_server.cli("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisUnavailable, match="OOM"):
            await accept(redis, b"while full")
        valkey_server.cli("CONFIG", "SET", "maxmemory", "0")

        written = await accept(redis, b"while full")

    assert not written.is_repeat


async def test_scripts_are_loaded_again_after_the_server_lost_them(redis: Redis) -> None:
    first = await accept(redis, b"first")
    await redis.command("SCRIPT", "FLUSH")

    second = await accept(redis, b"second")
    again = await accept(redis, b"second")

    assert (False, False, True) == (first.is_repeat, second.is_repeat, again.is_repeat)


# -- reports of changed keys --


async def test_reports_can_be_requested_again_after_a_script_blocked_their_end(tmp_path: Path) -> None:
    with run_own_server(tmp_path, **{"busy-reply-threshold": "1"}) as server:
        async with connected(server.url) as redis, connected(server.url) as other:
            await redis.track_keys("watched:", lambda _: None)
            script = asyncio.create_task(other.command("EVAL", "while true do end", 0))
            await asyncio.to_thread(wait_until, lambda: server.cli("PING").startswith("BUSY"))
            await redis.untrack_keys()
            server.cli("SCRIPT", "KILL")
            with pytest.raises(hiredis.ReplyError, match="killed by user"):
                await script

            reports = asyncio.Queue[Any]()
            await retry_until_available(lambda: redis.track_keys("watched:", reports.put_nowait))
            server.cli("SET", "watched:key", "1")

            assert [b"invalidate", [b"watched:key"]] == await reports.get()


# -- ACK=fsync --


async def test_with_fsync_a_first_delivery_is_no_repeat(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url, acknowledge="fsync") as redis:
        first = await accept(redis, b"one with fsync")
        second = await accept(redis, b"one with fsync")

    assert (False, True, first.delivery_id) == (first.is_repeat, second.is_repeat, second.delivery_id)


async def test_with_fsync_a_cancelled_caller_cancels_no_other(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url, acknowledge="fsync") as redis:
        await accept(redis, b"connected")
        accepting = [asyncio.create_task(accept(redis, b"caller %d" % number)) for number in range(3)]
        await asyncio.sleep(0)  # they wait for the disk together

        accepting[1].cancel()
        results = await asyncio.wait_for(asyncio.gather(*accepting, return_exceptions=True), 20)

    assert [AcceptResult, asyncio.CancelledError, AcceptResult] == [type(result) for result in results]


async def test_with_fsync_concurrent_deliveries_each_get_their_own_result(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url, acknowledge="fsync") as redis:
        results = await asyncio.gather(*(accept(redis, b"many %d" % (n % 50)) for n in range(100)))

    ids = [result.delivery_id for result in results]
    assert 50 == sum(not result.is_repeat for result in results)
    assert ids[:50] == ids[50:]
    assert 50 == len(set(ids))


@pytest.mark.parametrize(
    "options",
    [{"appendonly": "no"}, {"appendonly": "yes", "rename-command": "WAITAOF hidden"}],
    ids=["no append-only file", "an older server without WAITAOF"],
)
async def test_with_fsync_an_unsupported_server_still_accepts_a_first_delivery(
    tmp_path: Path, options: dict[str, str]
) -> None:
    with run_own_server(tmp_path, **options) as server:
        async with connected(server.url, acknowledge="fsync") as redis:
            written = await accept(redis, b"one")
            again = await accept(redis, b"one")

    assert (False, True) == (written.is_repeat, again.is_repeat)


async def test_with_fsync_no_delivery_waits_after_the_server_closes_the_connection(valkey_server: OwnServer) -> None:
    accepting = list[asyncio.Task[AcceptResult]]()
    async with connected(valkey_server.url, acknowledge="fsync") as redis:
        for _ in range(5):
            await retry_until_available(lambda: accept(redis, b"before"))
            closing = asyncio.to_thread(valkey_server.cli, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            closed = asyncio.create_task(closing)
            while not closed.done():
                accepting.append(asyncio.create_task(accept(redis, b"during")))
                await asyncio.sleep(0)
        results = await asyncio.wait_for(asyncio.gather(*accepting, return_exceptions=True), 20)

    assert all(isinstance(result, AcceptResult | RedisUnavailable) for result in results), results


async def test_with_fsync_the_disk_is_awaited_after_the_scripts_were_lost(valkey_server: OwnServer) -> None:
    async with connected(valkey_server.url, acknowledge="fsync") as redis, connected(valkey_server.url) as watching:
        await accept(redis, b"before the flush")
        await redis.command("SCRIPT", "FLUSH")
        watched = await _monitored(valkey_server, lambda: accept(redis, b"after the flush"))
        await watching.command("PING")

    assert ["EVALSHA", "SET", "WAITAOF"] * 2 == [name for name in watched if name in ("EVALSHA", "SET", "WAITAOF")]


async def test_with_fsync_a_repeat_of_a_delivery_that_is_not_on_the_disk_is_not_acknowledged(tmp_path: Path) -> None:
    with run_own_server(tmp_path, appendonly="yes", appendfsync="no") as server:
        async with connected(server.url) as first, connected(server.url, timeout_s=0.5, acknowledge="fsync") as second:
            await accept(first, b"one")

            with pytest.raises(RedisUnavailable, match="in time"):
                await accept(second, b"one")


async def test_with_fsync_a_user_who_may_not_wait_for_the_disk_gets_no_acknowledgement(tmp_path: Path) -> None:
    with run_own_server(tmp_path, appendonly="yes") as server:
        server.cli("ACL", "SETUSER", "default", "-waitaof")
        async with connected(server.url, acknowledge="fsync") as redis:
            with pytest.raises(RedisUnavailable, match="cannot wait for its disk: NOPERM"):
                await accept(redis, b"one")


async def _monitored(valkey_server: OwnServer, operation: Callable[[], Awaitable[Any]]) -> list[str]:
    """Return the names of the commands that clients send during the operation."""
    reader, writer = await asyncio.open_unix_connection(str(valkey_server.socket))
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    await operation()
    valkey_server.cli("ECHO", "that-was-it")
    names = []
    while b"that-was-it" not in (line := await reader.readline()):
        if b" lua]" not in line:
            names.append(line.split(b'"')[1].decode().upper())
    writer.close()
    return names


# -- authentication --

ODD = "p@ss:w/o r?d#[1]%25+&=\"'\\ é€😀"


async def test_a_password_of_odd_characters_is_accepted(valkey_server: OwnServer) -> None:
    valkey_server.cli("CONFIG", "SET", "requirepass", ODD)
    try:
        async with connected(f"redis://:{quote(ODD, safe='')}@127.0.0.1:{valkey_server.port}/0") as redis:
            assert b"PONG" == await redis.command("PING")
        async with connected(f"unix://:{quote(ODD, safe='')}@{valkey_server.socket}") as redis:
            assert b"PONG" == await redis.command("PING")
    finally:
        async with connected(f"redis://:{quote(ODD, safe='')}@127.0.0.1:{valkey_server.port}/0") as redis:
            await redis.command("CONFIG", "SET", "requirepass", "")


async def test_a_user_name_of_odd_characters_is_accepted(valkey_server: OwnServer) -> None:
    valkey_server.cli("ACL", "SETUSER", "us:er@x", "on", f">{ODD}", "+@all", "~*")

    async with connected(
        f"redis://{quote('us:er@x', safe='')}:{quote(ODD, safe='')}@127.0.0.1:{valkey_server.port}"
    ) as redis:
        assert b"us:er@x" == await redis.command("ACL", "WHOAMI")


@each(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6380/3",
        "redis://:p%40ss@localhost/0",
        "redis://us%3Aer:pass@LOCALHOST:1/",
        "rediss://[::1]:6380/1?ssl_cert_reqs=none",
        "redis://localhost/x?db=4",
        "unix:///tmp/redis.sock?db=2",
        "unix://user:pass@/tmp/redis%20.sock",
    ],
)
def test_an_address_has_the_parts_that_redis_py_reads(url: str) -> None:
    parts = dict(parse_url(url))
    parts.pop("connection_class", None)
    parts.pop("ssl_cert_reqs", None)

    assert parts == RedisAddress(url).parts


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}/0", "redis://someone:{}@127.0.0.1:{}/0"])
async def test_a_wrong_password_is_not_in_the_error(valkey_server: OwnServer, url: str) -> None:
    async with connected(url.format("sesame-canary", valkey_server.port)) as redis:
        with pytest.raises(RedisUnavailable) as error:
            await redis.command("PING")

    assert "canary" not in str(error.value)
    assert "canary" not in str(redis.address)


async def test_commands_that_follow_a_failed_connect_fail_for_the_same_reason(valkey_server: OwnServer) -> None:
    async with connected(f"redis://nobody:wrong@127.0.0.1:{valkey_server.port}") as redis:
        for _ in range(2):
            with pytest.raises(RedisUnavailable, match="WRONGPASS"):
                await redis.command("PING")


async def test_a_missing_password_is_reported_as_unavailable(valkey_server: OwnServer) -> None:
    valkey_server.cli("CONFIG", "SET", "requirepass", "secret")
    try:
        async with connected(valkey_server.url) as redis:
            with pytest.raises(RedisUnavailable):
                await redis.command("PING")
    finally:
        async with connected(f"redis://:secret@127.0.0.1:{valkey_server.port}") as redis:
            await redis.command("CONFIG", "SET", "requirepass", "")


async def test_a_unix_socket_works_with_its_database(valkey_server: OwnServer) -> None:
    async with connected(f"unix://{valkey_server.socket}?db=2") as redis:
        await redis.command("SET", "by", "socket")
        written = await accept(redis, b"by socket")

    assert not written.is_repeat
    async with connected(f"redis://127.0.0.1:{valkey_server.port}/2") as redis:
        assert b"socket" == await redis.command("GET", "by")


async def test_a_missing_unix_socket_is_reported_as_unavailable(tmp_path: Path) -> None:
    async with connected(f"unix://{tmp_path}/nobody.sock") as redis:
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")


# -- TLS, which a proxy in front of the same server terminates --


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Self-signed, like Heroku's."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def forward_to(port: int) -> Handler:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pump(reader, to_behind), pump(behind, writer))
        finally:
            to_behind.close()

    return handle


async def test_a_self_signed_certificate_is_rejected_by_default(
    valkey_server: OwnServer, certificate: ssl.SSLContext
) -> None:
    async with (
        listening(forward_to(valkey_server.port), certificate) as port,
        connected(f"rediss://127.0.0.1:{port}") as redis,
    ):
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")


async def test_a_self_signed_certificate_works_without_verification(
    valkey_server: OwnServer, certificate: ssl.SSLContext
) -> None:
    async with (
        listening(forward_to(valkey_server.port), certificate) as port,
        connected(f"rediss://127.0.0.1:{port}/1", verify=False) as redis,
    ):
        replies = await asyncio.gather(*(redis.command("ECHO", str(n)) for n in range(2_000)))
        written = await accept(redis, b"by tls")

    assert [str(n).encode() for n in range(2_000)] == replies
    assert not written.is_repeat


async def test_tls_to_a_server_without_tls_is_reported_as_unavailable(valkey_server: OwnServer) -> None:
    async with connected(f"rediss://127.0.0.1:{valkey_server.port}", timeout_s=0.5, verify=False) as redis:
        with pytest.raises(RedisUnavailable):
            await asyncio.wait_for(redis.command("PING"), 5)


async def test_web_and_worker_use_tls_without_verification(
    harness: Harness, valkey_server: OwnServer, certificate: ssl.SSLContext
) -> None:
    def create_visit() -> bool:
        harness.start_web(**env)
        harness.start_worker(**env)
        harness.send("visit.created", "1", contact={"email": "ada@example.com"}, time_scheduled="2026-03-14T16:00:00Z")
        visit = wait_until(lambda: harness.visit("standard-1"))
        # The visit was created over Doorbell's connection; arq writes its health check over its own.
        return visit["time_scheduled"] == "2026-03-14T16:00:00Z" and wait_until(
            lambda: valkey_server.cli("EXISTS", "bell:queue:visits:health-check") == "1"
        )

    async with listening(forward_to(valkey_server.port), certificate) as port:
        env = {"REDIS_URL": f"rediss://127.0.0.1:{port}/0", "REDIS_TLS_VERIFY": "none"}
        assert await asyncio.to_thread(create_visit)


@pytest.mark.parametrize("command", ["jobs", "arq jobs.worker.WorkerSettings", "app doctor --phase release"])
async def test_an_unverifiable_certificate_is_named_as_the_reason(
    harness: Harness, valkey_server: OwnServer, certificate: ssl.SSLContext, command: str
) -> None:
    def start() -> "subprocess.CompletedProcess[str]":
        arguments = [sys.executable, "-m", *command.split()]
        return run_process(arguments, env)

    async with listening(forward_to(valkey_server.port), certificate) as port:
        env = {**harness.env, "REDIS_URL": f"rediss://127.0.0.1:{port}/0"}
        ended = await asyncio.to_thread(start)

    output = ended.stdout + ended.stderr
    assert 4 == ended.returncode
    assert "a certificate that cannot be verified; REDIS_TLS_VERIFY=none" in output
    assert "Traceback" not in output
