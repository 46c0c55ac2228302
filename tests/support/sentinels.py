"""A primary with replicas, watched by Sentinels: Valkey's own programs on 127.0.0.1."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from app.demo.valkey import binary, free_port
from tests.support.harness import wait_until

PRIMARY = "doorbell"


class Replicated:
    """Three servers and three Sentinels. `primary` and `replicas` are ports."""

    def __init__(self, folder: Path, replicas: int = 2, sentinels: int = 3) -> None:
        self._folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.servers = [free_port() for _ in range(1 + replicas)]
        self.sentinels = [free_port() for _ in range(sentinels)]
        for port in self.servers:
            self.start_server(port)
        for port in self.servers[1:]:
            self.client(port).replicaof("127.0.0.1", str(self.servers[0]))
        wait_until(lambda: self.client(self.servers[0]).info("replication")["connected_slaves"] == replicas)
        for port in self.sentinels:
            self._start_sentinel(port)
        wait_until(lambda: all(self._sees_all(port) for port in self.sentinels))

    def start_server(self, port: int) -> None:
        data = self._folder / str(port)
        data.mkdir(exist_ok=True)
        options = (
            f"--port {port} --bind 127.0.0.1 --dir {data} --appendonly yes --appendfsync always --loglevel warning"
        )
        more = "--repl-diskless-sync-delay 0 --repl-timeout 5 --maxmemory-policy noeviction"
        command = [binary(), *options.split(), *more.split(), "--save", ""]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._is_up(port))

    def _start_sentinel(self, port: int) -> None:
        config = self._folder / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\nloglevel warning\n"
            f"sentinel monitor {PRIMARY} 127.0.0.1 {self.servers[0]} 2\n"
            f"sentinel down-after-milliseconds {PRIMARY} 400\n"
            f"sentinel failover-timeout {PRIMARY} 3000\n"
            f"sentinel parallel-syncs {PRIMARY} 2\n"
        )
        command = [binary(), str(config), "--sentinel"]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._is_up(port))

    def _is_up(self, port: int) -> bool:
        try:
            return bool(self.client(port).ping())
        except redis.RedisError:
            return False

    def _sees_all(self, port: int) -> bool:
        state = self.client(port).sentinel_master(PRIMARY)
        return (state["num-slaves"], state["num-other-sentinels"]) == (len(self.servers) - 1, len(self.sentinels) - 1)

    def client(self, port: int) -> "redis.Redis":
        return redis.Redis(port=port, socket_timeout=2)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/{PRIMARY}/0"

    @property
    def primary(self) -> int:
        """The port of the primary that most Sentinels name."""
        named = [self.client(port).sentinel_get_master_addr_by_name(PRIMARY)[1] for port in self.sentinels]
        return int(max(named, key=named.count))

    def kill_primary(self) -> int:
        """Kill the primary, wait until another one is promoted, and return the port of the old one."""
        old = self.primary
        self.processes[old].kill()
        self.processes[old].wait()
        wait_until(lambda: self.primary != old, 30)
        wait_until(lambda: self.client(self.primary).role()[0] == b"master", 30)
        return old

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def replicated(replicas: int = 2) -> Iterator[Replicated]:
    with TemporaryDirectory(prefix="doorbell-sentinel-") as folder:
        servers = Replicated(Path(folder), replicas)
        try:
            yield servers
        finally:
            servers.stop()
            time.sleep(0.05)  # a killed server may still write to the folder
