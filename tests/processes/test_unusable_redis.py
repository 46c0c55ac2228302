"""A server that is too old, and a database of another version of Doorbell: every process says so and ends."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import redis

from app.demo.valkey import free_port
from tests.processes.test_worker_start import python
from tests.support.clusters import cluster
from tests.support.harness import SECRET, Harness, wait_until

TOO_OLD = "is version 6.2.4; Doorbell needs Redis 7.0 or newer, or any Valkey"
TOO_MANY_SHARDS = "is a cluster of 2 shards; Doorbell needs one shard with all slots"
TOO_NEW = "contains data of a newer Doorbell (schema 99, this version reads 6)"
PROCESSES = {
    "web": ("-m", "app", "web", "--port", str(free_port())),
    "uvicorn": ("-m", "uvicorn", "app.main:app", "--port", str(free_port())),
    "worker": ("-m", "jobs"),
    "arq": ("-m", "arq", "jobs.worker.WorkerSettings"),
}


@contextmanager
def older_server(url: str) -> Iterator[str]:
    """Yield the URL of a proxy in front of a Redis whose INFO reports version 6.2.4."""
    target = urlsplit(url)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data.replace(b"redis_version:7.2.4", b"redis_version:6.2.4"))
            sink.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((target.hostname or "", target.port or 0)) as server:
            requests = threading.Thread(target=copy, args=(client, server))
            requests.start()
            copy(server, client)
            requests.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield target._replace(netloc=f"127.0.0.1:{listener.getsockname()[1]}").geturl()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


@contextmanager
def stored_schema(harness: Harness, number: int) -> Iterator[str]:
    """Yield the URL of a database in which another version of Doorbell has written. Our own client cannot empty it."""
    with redis.Redis.from_url(harness.redis_url) as client:
        client.set("bell:schema", number)
        yield harness.redis_url
        client.delete("bell:schema")


@pytest.fixture
def newer_schema(harness: Harness) -> Iterator[str]:
    with stored_schema(harness, 99) as url:
        yield url


@pytest.fixture(scope="module")
def two_shards() -> Iterator[str]:
    with cluster(shards=2) as servers:
        yield servers.url


def environment(harness: Harness, url: str) -> dict[str, str]:
    # With SECRET_KEY every process looks for stored hooks first.
    return {**harness.env, "REDIS_URL": url, "HOOKS__STANDARD__SECRETS": SECRET, "SECRET_KEY": "a-key-of-tests-1234"}


@pytest.mark.parametrize("process", PROCESSES)
def test_an_older_server_ends_each_process_with_a_sentence(harness: Harness, process: str) -> None:
    with older_server(harness.redis_url) as url:
        ended = python(*PROCESSES[process], **environment(harness, url))

    assert ended.returncode in (3, 4)
    assert TOO_OLD in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("process", PROCESSES)
def test_a_newer_schema_ends_each_process_with_a_sentence(harness: Harness, newer_schema: str, process: str) -> None:
    ended = python(*PROCESSES[process], **environment(harness, newer_schema))

    assert ended.returncode in (3, 4)
    assert TOO_NEW in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("process", ["web", "worker"])
def test_several_shards_end_each_process_with_a_sentence(harness: Harness, two_shards: str, process: str) -> None:
    ended = python(*PROCESSES[process], **environment(harness, two_shards))

    assert ended.returncode in (3, 4)
    assert TOO_MANY_SHARDS in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("phase", [(), ("--phase", "release")])
def test_doctor_fails_for_several_shards(harness: Harness, two_shards: str, phase: tuple[str, ...]) -> None:
    ended = harness.doorbell("doctor", *phase, **environment(harness, two_shards))

    assert 3 == ended.returncode
    assert TOO_MANY_SHARDS in ended.stdout


@pytest.mark.parametrize("phase", [(), ("--phase", "release")])
def test_doctor_fails_for_an_older_server(harness: Harness, phase: tuple[str, ...]) -> None:
    with older_server(harness.redis_url) as url:
        ended = python("-m", "app", "doctor", *phase, **environment(harness, url))

    assert 3 == ended.returncode
    assert TOO_OLD in ended.stdout


@pytest.mark.parametrize("phase", [(), ("--phase", "release")])
def test_doctor_fails_for_a_newer_schema(harness: Harness, newer_schema: str, phase: tuple[str, ...]) -> None:
    ended = python("-m", "app", "doctor", *phase, **environment(harness, newer_schema))

    assert 3 == ended.returncode
    assert TOO_NEW in ended.stdout


def test_a_command_is_rejected_by_a_newer_schema(harness: Harness, newer_schema: str) -> None:
    ended = python("-m", "app", "failures", **environment(harness, newer_schema))

    assert 4 == ended.returncode
    assert TOO_NEW in ended.stderr


def test_a_command_is_rejected_by_an_older_schema(harness: Harness) -> None:
    with stored_schema(harness, 5) as url:
        ended = python("-m", "app", "failures", **environment(harness, url))

    assert 4 == ended.returncode
    assert "contains data of an older Doorbell (schema 5, this version reads 6)" in ended.stderr


def test_a_worker_records_the_schema(harness: Harness) -> None:
    harness.start_worker()

    assert b"6" == wait_until(lambda: harness.redis_command("GET", "bell:schema"))
