"""Servers in cluster mode: Valkey's own program on 127.0.0.1. Hosts sell one shard of them as a plain Redis."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from app.demo.valkey import binary, free_port
from tests.support.harness import memory_folder, wait_until

OPTIONS = {
    "bind": "127.0.0.1",
    "cluster-enabled": "yes",
    "cluster-node-timeout": 2_000,
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": "",
    "repl-diskless-sync-delay": 0,
    "loglevel": "warning",
}


class Cluster:
    """`primaries` with an equal share of the slots each, and replicas of the first. All are ports."""

    def __init__(self, folder: Path, shards: int, replicas: int) -> None:
        self._folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._bus_ports: dict[int, int] = {}
        self.nodes = [self._start() for _ in range(shards + replicas)]
        self.primaries, self.replicas = self.nodes[:shards], self.nodes[shards:]
        for number, port in enumerate(self.primaries):
            first, end = (16_384 * place // shards for place in (number, number + 1))
            self.query(port, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for port in self.nodes[1:]:
            self.query(port, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0], self._bus_ports[self.nodes[0]])
        for port in self.replicas:
            primary = self.query(self.nodes[0], "CLUSTER", "MYID").decode()
            wait_until(lambda port=port, primary=primary: self._replicate(port, primary))  # type: ignore[misc]
        for port in self.nodes:
            wait_until(lambda port=port: self._is_complete(port))  # type: ignore[misc]

    def _start(self) -> int:
        port = free_port()
        self._bus_ports[port] = free_port()
        self.start(port)
        return port

    def start(self, port: int) -> None:
        data = self._folder / str(port)
        data.mkdir(exist_ok=True)
        options: dict[str, Any] = {"port": port, "cluster-port": self._bus_ports[port], "dir": data, **OPTIONS}
        command = [binary(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._is_up(port))

    def _is_up(self, port: int) -> bool:
        with suppress(redis.RedisError):
            return bool(self.query(port, "PING"))
        return False

    def _replicate(self, port: int, primary: str) -> bool:
        with suppress(redis.ResponseError):  # until this node has heard of the primary
            return bool(self.query(port, "CLUSTER", "REPLICATE", primary))
        return False

    def _is_complete(self, port: int) -> bool:
        info = self.query(port, "CLUSTER", "INFO").decode()
        links = self.query(port, "INFO", "replication")
        is_synchronized = port not in self.replicas or links["master_link_status"] == "up"
        return f"cluster_known_nodes:{len(self.nodes)}" in info and "cluster_state:ok" in info and is_synchronized

    def query(self, port: int, *command: Any) -> Any:
        with redis.Redis(port=port, socket_timeout=5) as client:
            return client.execute_command(*command)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.primaries[0]}/0"

    @property
    def primary(self) -> int:
        """The port of the primary of the first shard, after changes too."""
        return next(port for port in self._shard if self._role(port) == b"master")

    @property
    def replica(self) -> int:
        return next(port for port in self._shard if self._role(port) == b"slave")

    @property
    def _shard(self) -> list[int]:
        return [self.primaries[0], *self.replicas]

    def _role(self, port: int) -> bytes:
        with suppress(redis.RedisError):
            return bytes(self.query(port, "ROLE")[0])
        return b""

    def promote(self, port: int, how: str = "") -> None:
        """Make a replica the primary. how: TAKEOVER if the primary is dead: one shard has no majority that could decide."""
        self.query(port, *filter(None, ("CLUSTER", "FAILOVER", how)))
        wait_until(lambda: self._role(port) == b"master")

    def kill(self, port: int) -> None:
        self.processes[port].kill()
        self.processes[port].wait()

    def stop(self) -> None:
        for port in self.processes:
            self.kill(port)


@contextmanager
def cluster(*, shards: int = 1, replicas: int = 0, parent: str | None = None) -> Iterator[Cluster]:
    with TemporaryDirectory(prefix="doorbell-cluster-", dir=parent) as folder:
        servers = Cluster(Path(folder), shards, replicas)
        try:
            yield servers
        finally:
            servers.stop()
            time.sleep(0.05)  # a killed server may still write to the folder


@contextmanager
def redis_for_tests() -> Iterator[str]:
    """Yield REDIS_URL with a separate database for each pytest worker, or the URL of an embedded Valkey if it is not set.

    The embedded one is in cluster mode, which refuses commands with keys of several slots.
    """
    if url := os.environ.get("REDIS_URL"):
        # The tests empty their database, and several pytest workers may run at once.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        yield f"{url.rpartition('/')[0] if url.count('/') > 2 else url}/{worker + 1}"
    else:
        with cluster(parent=memory_folder()) as servers:
            yield servers.url
