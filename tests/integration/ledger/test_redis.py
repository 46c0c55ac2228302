"""The one connection to Redis: a reply reaches who asked, trouble is told as RedisUnavailable, and the way back is found."""

import asyncio
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hiredis
import pytest

from app.demo.valkey import binary, free_port
from app.ledger.ledger import Ledger
from app.ledger.records import AcceptResult, DeliveryInfo
from app.ledger.redis import Redis, RedisAddress, RedisUnavailable
from app.webhooks.delivery import Delivery
from tests.support.harness import ROOT, Harness, wait_until

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OwnServer:
    """A Valkey of this module's own, to be paused, killed and locked."""

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
        """A command over a connection of its own."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(hiredis.pack_command(command))
                reader = hiredis.Reader(encoding="utf-8")
                while (reply := reader.gets()) is False:
                    reader.feed(connection.recv(65536))
            except OSError as error:
                return repr(error)
        return str(reply)


@contextmanager
def own_server(folder: Path, **options: str) -> Iterator[OwnServer]:
    server = OwnServer(folder, **options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with own_server(tmp_path_factory.mktemp("own"), appendonly="yes", appendfsync="always") as server:
        yield server


@asynccontextmanager
async def connected(
    url: str, timeout_s: float = 3.0, *, verify: bool = True, fsync: bool = False
) -> AsyncIterator[Redis]:
    redis = Redis(RedisAddress(url, verify), timeout_s, fsync)
    try:
        yield redis
    finally:
        await redis.close()


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that is not Redis, on a port of its own."""
    clients: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        clients.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            clients.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for client in list(clients):
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for _ in range(10):  # turns of the loop, in which it meets the end of connections that have no handler yet
            await asyncio.sleep(0)


class Commands:
    """What a connection was asked, one command after another."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._stream, self._reader = reader, hiredis.Reader()

    async def next(self) -> list[bytes]:
        while (command := self._reader.gets()) is False:
            data = await self._stream.read(65536)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            self._reader.feed(data)
        asked: list[bytes] = command
        return asked


async def soon(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, once the way back is found."""
    for _ in range(1_500):
        try:
            return await ask()
        except RedisUnavailable:
            await asyncio.sleep(0.02)
    return await ask()


async def accept(redis: Redis, raw: bytes) -> AcceptResult:
    """Write one delivery that means nothing to visits, as the door does it."""
    delivery = Delivery("standard", "standard", (), raw, datetime.now(UTC))
    meta = DeliveryInfo(hook="standard", source="standard", received_at_ms=0, ignored="nothing")
    return await Ledger(redis, retention_days=30).accept(delivery, meta, [], "main", dedup_id=None)


# -- to each their own reply --


async def test_each_of_ten_thousand_concurrent_commands_gets_its_own_reply(redis: Redis) -> None:
    asked = [str(n).encode() * random.Random(n).randint(1, 60) for n in range(10_000)]
    random.Random(1).shuffle(asked)

    replies = await asyncio.gather(*(redis.command("ECHO", word) for word in asked))

    assert asked == replies


async def test_replies_of_every_kind_reach_their_own_command(redis: Redis) -> None:
    await redis.command("SET", "text", "a text")
    kinds: list[tuple[tuple[str, ...], Any]] = [
        (("GET", "text"), b"a text"),
        (("GET", "nothing"), None),
        (("STRLEN", "text"), 6),
        (("MGET", "text", "nothing"), [b"a text", None]),
        (("LPUSH", "text", "x"), "WRONGTYPE"),
        (("PING",), b"PONG"),
        (("NO-SUCH-COMMAND",), "ERR"),
    ]
    order = [kinds[n % len(kinds)] for n in range(700)]
    random.Random(2).shuffle(order)

    replies = await asyncio.gather(*(redis.command(*command) for command, _ in order), return_exceptions=True)

    told = [str(reply).partition(" ")[0] if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]
    assert [expected for _, expected in order] == told


async def test_a_reply_that_nobody_waits_for_any_more_is_given_to_nobody_else(redis: Redis) -> None:
    await redis.command("PING")
    asked = [asyncio.ensure_future(redis.command("ECHO", str(n))) for n in range(1_000)]
    await asyncio.sleep(0)  # all are sent, none is answered
    for task in asked[::2]:
        task.cancel()

    replies = await asyncio.gather(*asked[1::2])
    later = await redis.command("ECHO", "later")

    assert [str(n).encode() for n in range(1, 1_000, 2)] == replies
    assert b"later" == later


async def test_all_concurrent_commands_share_one_connection(own: OwnServer) -> None:
    async with connected(own.url) as redis:
        replies = await asyncio.gather(*(redis.command("CLIENT", "ID") for _ in range(100)))

    assert 1 == len(set(replies))


async def test_the_database_of_the_address_is_the_one_that_is_written_to(own: OwnServer) -> None:
    async with connected(f"redis://127.0.0.1:{own.port}/3") as redis:
        await redis.command("SET", "where", "three")

    assert "None" == own.cli("GET", "where")
    async with connected(f"redis://127.0.0.1:{own.port}?db=3") as redis:
        assert b"three" == await redis.command("GETDEL", "where")


async def test_commands_beyond_ten_thousand_are_refused_at_once_and_harm_no_other(redis: Redis) -> None:
    asked = [redis.command("ECHO", str(n)) for n in range(10_050)]

    replies = await asyncio.gather(*asked, return_exceptions=True)

    assert [str(n).encode() for n in range(10_000)] == replies[:10_000]
    assert [RedisUnavailable] * 50 == [type(reply) for reply in replies[10_000:]]
    assert b"PONG" == await redis.command("PING")


# -- deadlines --


async def test_a_late_reply_ends_its_connection_and_reaches_no_other_command(own: OwnServer) -> None:
    async with connected(own.url, timeout_s=0.15) as redis:
        for n in range(3):
            late, behind = await asyncio.gather(
                redis.command("BLPOP", "an empty list", 10), redis.command("ECHO", "behind"), return_exceptions=True
            )
            reply = await soon(lambda n=n: redis.command("ECHO", f"after {n}"))

            assert (RedisUnavailable, RedisUnavailable) == (type(late), type(behind))
            assert f"after {n}".encode() == reply


async def greet(commands: "Commands", writer: asyncio.StreamWriter) -> None:
    """What a new connection asks first: who the server is."""
    await commands.next()
    writer.write(b"$8\r\nrun_id:1\r\n")


async def test_the_deadline_counts_for_every_command_and_not_for_the_first_only() -> None:
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


async def test_a_server_that_accepts_and_never_answers_is_down_after_the_deadline() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(mute) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.2) as redis:
        replies = await asyncio.wait_for(
            asyncio.gather(*(redis.command("PING") for _ in range(100)), return_exceptions=True), 5
        )

    assert [RedisUnavailable] * 100 == [type(reply) for reply in replies]


# -- the way back --


async def test_a_killed_server_is_told_as_down_and_found_again(own: OwnServer) -> None:
    async with connected(own.url) as redis:
        await redis.command("SET", "kept", "yes")
        own.kill()

        with pytest.raises(RedisUnavailable):
            await redis.command("PING")
        own.start()

        assert b"yes" == await soon(lambda: redis.command("GET", "kept"))
        assert 0 == await Ledger(redis, retention_days=30).requeue_due()


async def test_a_right_is_asked_of_the_server_that_was_waited_for(own: OwnServer) -> None:
    """While somebody waits until others could tell a server what they hold, another one takes its place."""
    own.kill()
    own.start()
    loop = asyncio.get_running_loop()
    async with connected(own.url) as redis:
        waits = asyncio.create_task(Ledger(redis, 30).acquire_lock("a-lock", "mine", 1))
        await asyncio.sleep(1)
        assert not waits.done()
        own.kill()
        own.start()
        await soon(lambda: redis.command("PING"))
        began = loop.time()

        await waits

        assert loop.time() - began > 1.5


async def test_commands_under_way_when_the_connection_is_cut_are_told_so(own: OwnServer) -> None:
    async with connected(own.url) as redis:
        await redis.command("PING")
        waiting = [asyncio.ensure_future(redis.command("BLPOP", "an empty list", 10)) for _ in range(20)]
        await asyncio.sleep(0.05)
        own.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        replies = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)

        assert [RedisUnavailable] * 20 == [type(reply) for reply in replies]
        assert b"PONG" == await soon(lambda: redis.command("PING"))


@pytest.mark.parametrize("when", ["after the greeting", "after a reply", "in the middle of a reply"])
async def test_a_server_that_hangs_up_leaves_nobody_waiting(when: str) -> None:
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


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe", b"$99999999999999999999\r\n"], ids=repr
)
async def test_a_server_that_does_not_speak_redis_is_down(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await reader.read()

    async with listening(other) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.3) as redis:
        with pytest.raises(RedisUnavailable):
            await asyncio.wait_for(redis.command("PING"), 5)


async def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_next_one() -> None:
    async def one_too_many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Commands(reader)
        await greet(commands, writer)
        while command := await commands.next():
            writer.write(b"$%d\r\n%s\r\n" % (len(command[1]), command[1]) + b"+nobody asked\r\n")

    async with listening(one_too_many) as port, connected(f"redis://127.0.0.1:{port}", timeout_s=0.3) as redis:
        for n in range(5):
            reply = await soon(lambda n=n: asyncio.wait_for(redis.command("ECHO", str(n)), 5))
            assert str(n).encode() == reply


async def test_a_crowd_tries_an_unreachable_server_once_and_not_a_thousand_times() -> None:
    tries = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1

    async with listening(count) as port, connected(f"redis://127.0.0.1:{port}") as redis:
        replies = await asyncio.gather(*(redis.command("PING") for _ in range(1_000)), return_exceptions=True)

    assert [RedisUnavailable] * 1_000 == [type(reply) for reply in replies]
    assert 1 == tries


async def test_an_address_where_nobody_listens_is_down_at_once() -> None:
    async with connected(f"redis://127.0.0.1:{free_port()}") as redis:
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")
        with pytest.raises(RedisUnavailable):
            await Ledger(redis, retention_days=30).requeue_due()


async def test_a_server_that_became_read_only_is_down_until_it_is_not(own: OwnServer) -> None:
    async with connected(own.url) as redis:
        own.cli("REPLICAOF", "127.0.0.1", str(free_port()))
        with pytest.raises(RedisUnavailable, match="READONLY"):
            await accept(redis, b"while read-only")
        own.cli("REPLICAOF", "NO", "ONE")

        written = await soon(lambda: accept(redis, b"after it"))

    assert not written.is_repeat


async def test_a_full_server_is_down_until_there_is_room(own: OwnServer) -> None:
    async with connected(own.url) as redis:
        await redis.command("PING")
        own.cli("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisUnavailable, match="OOM"):
            await accept(redis, b"while full")
        own.cli("CONFIG", "SET", "maxmemory", "0")

        written = await accept(redis, b"while full")

    assert not written.is_repeat


async def test_a_server_that_lost_its_scripts_is_given_them_again(redis: Redis) -> None:
    first = await accept(redis, b"first")
    await redis.command("SCRIPT", "FLUSH")

    second = await accept(redis, b"second")
    again = await accept(redis, b"second")

    assert (False, False, True) == (first.is_repeat, second.is_repeat, again.is_repeat)


# -- ACK=fsync --


async def test_with_fsync_a_first_delivery_is_no_repeat(own: OwnServer) -> None:
    async with connected(own.url, fsync=True) as redis:
        one = await accept(redis, b"one with fsync")
        two = await accept(redis, b"one with fsync")

    assert (False, True, one.delivery_id) == (one.is_repeat, two.is_repeat, two.delivery_id)


async def test_with_fsync_many_at_once_each_get_their_own_answer(own: OwnServer) -> None:
    async with connected(own.url, fsync=True) as redis:
        written = await asyncio.gather(*(accept(redis, b"many %d" % (n % 50)) for n in range(100)))

    ids = [one.delivery_id for one in written]
    assert 50 == sum(not one.is_repeat for one in written)
    assert ids[:50] == ids[50:]
    assert 50 == len(set(ids))


@pytest.mark.parametrize(
    "options",
    [{"appendonly": "no"}, {"appendonly": "yes", "rename-command": "WAITAOF hidden"}],
    ids=["nothing is kept on a disk", "an older server without WAITAOF"],
)
async def test_with_fsync_a_server_that_cannot_still_takes_a_first_delivery_as_a_first(
    tmp_path: Path, options: dict[str, str]
) -> None:
    with own_server(tmp_path, **options) as server:
        async with connected(server.url, fsync=True) as redis:
            written = await accept(redis, b"one")
            again = await accept(redis, b"one")

    assert (False, True) == (written.is_repeat, again.is_repeat)


async def test_with_fsync_the_disk_is_waited_for_also_after_the_scripts_were_lost(own: OwnServer) -> None:
    async with connected(own.url, fsync=True) as redis, connected(own.url) as watching:
        await accept(redis, b"before the flush")
        await redis.command("SCRIPT", "FLUSH")
        watched = await _monitored(own, lambda: accept(redis, b"after the flush"))
        await watching.command("PING")

    assert ["EVALSHA", "WAITAOF"] * 2 == [name for name in watched if name in ("EVALSHA", "WAITAOF")]


async def _monitored(own: OwnServer, act: Callable[[], Awaitable[Any]]) -> list[str]:
    """The names of the commands that clients sent meanwhile."""
    reader, writer = await asyncio.open_unix_connection(str(own.socket))
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    await act()
    own.cli("ECHO", "that-was-it")
    names = []
    while b"that-was-it" not in (line := await reader.readline()):
        if b" lua]" not in line:
            names.append(line.split(b'"')[1].decode().upper())
    writer.close()
    return names


# -- getting in --

ODD = "p@ss:w/o r?d#[1]%25+&=\"'\\ é€😀"


async def test_a_password_of_odd_characters_lets_in(own: OwnServer) -> None:
    own.cli("CONFIG", "SET", "requirepass", ODD)
    try:
        async with connected(f"redis://:{quote(ODD, safe='')}@127.0.0.1:{own.port}/0") as redis:
            assert b"PONG" == await redis.command("PING")
        async with connected(f"unix://:{quote(ODD, safe='')}@{own.socket}") as redis:
            assert b"PONG" == await redis.command("PING")
    finally:
        async with connected(f"redis://:{quote(ODD, safe='')}@127.0.0.1:{own.port}/0") as redis:
            await redis.command("CONFIG", "SET", "requirepass", "")


async def test_a_user_of_odd_characters_is_let_in_by_name_and_password(own: OwnServer) -> None:
    own.cli("ACL", "SETUSER", "us:er@x", "on", f">{ODD}", "+@all", "~*")

    async with connected(f"redis://{quote('us:er@x', safe='')}:{quote(ODD, safe='')}@127.0.0.1:{own.port}") as redis:
        assert b"us:er@x" == await redis.command("ACL", "WHOAMI")


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}/0", "redis://someone:{}@127.0.0.1:{}/0"])
async def test_a_wrong_password_is_told_without_a_letter_of_it(own: OwnServer, url: str) -> None:
    async with connected(url.format("sesame-canary", own.port)) as redis:
        with pytest.raises(RedisUnavailable) as told:
            await redis.command("PING")

    assert "canary" not in str(told.value)
    assert "canary" not in str(redis.address)


async def test_a_missing_password_is_told_as_down(own: OwnServer) -> None:
    own.cli("CONFIG", "SET", "requirepass", "secret")
    try:
        async with connected(own.url) as redis:
            with pytest.raises(RedisUnavailable):
                await redis.command("PING")
    finally:
        async with connected(f"redis://:secret@127.0.0.1:{own.port}") as redis:
            await redis.command("CONFIG", "SET", "requirepass", "")


async def test_a_unix_socket_works_with_its_database(own: OwnServer) -> None:
    async with connected(f"unix://{own.socket}?db=2") as redis:
        await redis.command("SET", "by", "socket")
        written = await accept(redis, b"by socket")

    assert not written.is_repeat
    async with connected(f"redis://127.0.0.1:{own.port}/2") as redis:
        assert b"socket" == await redis.command("GET", "by")


async def test_a_unix_socket_that_is_not_there_is_told_as_down(tmp_path: Path) -> None:
    async with connected(f"unix://{tmp_path}/nobody.sock") as redis:
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")


# -- TLS, by a proxy that ends it in front of the same server --


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Self-signed, like Heroku's."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def passing_on(port: int) -> Handler:
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


async def test_tls_with_a_self_signed_certificate_is_refused_by_default(
    own: OwnServer, certificate: ssl.SSLContext
) -> None:
    async with listening(passing_on(own.port), certificate) as port, connected(f"rediss://127.0.0.1:{port}") as redis:
        with pytest.raises(RedisUnavailable):
            await redis.command("PING")


async def test_tls_with_a_self_signed_certificate_works_when_it_need_not_be_verified(
    own: OwnServer, certificate: ssl.SSLContext
) -> None:
    async with (
        listening(passing_on(own.port), certificate) as port,
        connected(f"rediss://127.0.0.1:{port}/1", verify=False) as redis,
    ):
        replies = await asyncio.gather(*(redis.command("ECHO", str(n)) for n in range(2_000)))
        written = await accept(redis, b"by tls")

    assert [str(n).encode() for n in range(2_000)] == replies
    assert not written.is_repeat


async def test_tls_spoken_to_a_server_without_it_is_told_as_down(own: OwnServer) -> None:
    async with connected(f"rediss://127.0.0.1:{own.port}", timeout_s=0.5, verify=False) as redis:
        with pytest.raises(RedisUnavailable):
            await asyncio.wait_for(redis.command("PING"), 5)


async def test_web_and_worker_work_over_tls_with_a_certificate_that_need_not_be_verified(
    harness: Harness, own: OwnServer, certificate: ssl.SSLContext
) -> None:
    def work() -> bool:
        harness.start_web(**env)
        harness.start_worker(**env)
        harness.send("visit.created", "1", contact={"email": "ada@example.com"}, time_scheduled="2026-03-14T16:00:00Z")
        visit = wait_until(lambda: harness.visit("standard-1"))
        # The visit went over our connection; over arq's own comes what arq writes.
        return visit["time_scheduled"] == "2026-03-14T16:00:00Z" and wait_until(
            lambda: own.cli("EXISTS", "bell:queue:visits:health-check") == "1"
        )

    async with listening(passing_on(own.port), certificate) as port:
        env = {"REDIS_URL": f"rediss://127.0.0.1:{port}/0", "REDIS_TLS_VERIFY": "none"}
        assert await asyncio.to_thread(work)


@pytest.mark.parametrize("command", ["jobs", "arq jobs.worker.WorkerSettings", "app doctor --phase release"])
async def test_a_certificate_that_must_be_verified_and_cannot_be_is_said_to_be_the_reason(
    harness: Harness, own: OwnServer, certificate: ssl.SSLContext, command: str
) -> None:
    def start() -> "subprocess.CompletedProcess[str]":
        arguments = [sys.executable, "-m", *command.split()]
        return subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)

    async with listening(passing_on(own.port), certificate) as port:
        env = {**harness.env, "REDIS_URL": f"rediss://127.0.0.1:{port}/0"}
        ended = await asyncio.to_thread(start)

    told = ended.stdout + ended.stderr
    assert 4 == ended.returncode
    assert "a certificate that cannot be verified; REDIS_TLS_VERIFY=none" in told
    assert "Traceback" not in told
