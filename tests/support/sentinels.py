"""A primary with replicas, watched by Sentinels: Valkey's own programs on 127.0.0.1."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from app.demo.valkey import binary, free_port
from tests.support.harness import memory_folder, wait_until

PRIMARY = "doorbell"


class Replicated:
    """Three servers and three Sentinels. `primary` and `replicas` are ports."""

    def __init__(self, folder: Path, replicas: int = 2, sentinels: int = 3, fsync: str = "always") -> None:
        self._folder, self._fsync, self.killed_at = folder, fsync, 0.0
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.servers = [free_port() for _ in range(1 + replicas)]
        self.sentinels = [free_port() for _ in range(sentinels)]
        for port in self.servers:
            self.start_server(port)
        for port in self.servers[1:]:
            self.client(port).replicaof("127.0.0.1", str(self.servers[0]))
        wait_until(lambda: self._writes_to_disk(self.servers[0]))
        for port in self.sentinels:
            self._start_sentinel(port)
        wait_until(lambda: all(self._sees_all(port) for port in self.sentinels))

    def start_server(self, port: int) -> None:
        data = self._folder / str(port)
        data.mkdir(exist_ok=True)
        options = f"--port {port} --bind 127.0.0.1 --dir {data} --appendonly yes --appendfsync {self._fsync}"
        more = "--repl-diskless-sync-delay 0 --repl-timeout 5 --maxmemory-policy noeviction --loglevel warning"
        command = [binary(), *options.split(), *more.split(), "--save", ""]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._is_up(port))

    def _writes_to_disk(self, primary: int) -> bool:
        """Whether every replica has a new write on its disk. After its first synchronization it rewrites its file."""
        connection = redis.Redis(port=primary, socket_timeout=2, single_connection_client=True)
        with connection:
            connection.set("written", "1", px=1)
            return bool(
                connection.execute_command("WAITAOF", 1, len(self.servers) - 1, 1_000)[1] == len(self.servers) - 1
            )

    def _start_sentinel(self, port: int) -> None:
        config = self._folder / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\nloglevel warning\n"
            f"sentinel monitor {PRIMARY} 127.0.0.1 {self.servers[0]} 2\n"
            f"sentinel down-after-milliseconds {PRIMARY} 800\n"
            f"sentinel failover-timeout {PRIMARY} 1000\n"
            f"sentinel parallel-syncs {PRIMARY} 2\n"
        )
        command = [binary(), str(config), "--sentinel"]
        self.processes[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._is_up(port))
        # A Sentinel looks at the servers every 10 s, and waits 8 s before it makes a replica of an old primary.
        self.client(port).execute_command("SENTINEL", "DEBUG", "info-period", 500, "publish-period", 250)

    def _is_up(self, port: int) -> bool:
        try:
            return bool(self.client(port).ping())
        except redis.RedisError:
            return False

    def _sees_all(self, port: int) -> bool:
        state = self.client(port).sentinel_master(PRIMARY)
        return (state["num-slaves"], state["num-other-sentinels"]) == (len(self.servers) - 1, len(self.sentinels) - 1)

    def priority(self, sentinel: int, replica: int) -> int:
        """Return the priority of a replica in a failover, as a Sentinel knows it. The lowest is promoted."""
        replicas = self.client(sentinel).sentinel_slaves(PRIMARY)
        return next(each["slave-priority"] for each in replicas if each["port"] == replica)

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
        self.killed_at = time.time()
        self.thaw_replicas()
        wait_until(lambda: self.primary != old, 30)
        wait_until(lambda: self.client(self.primary).role()[0] == b"master", 30)
        return old

    def cut_replicas(self) -> None:
        """Freeze the replicas and end their connections, so that they miss every later write."""
        primary = self.primary
        for port in self.servers:
            if port != primary:
                self.processes[port].send_signal(signal.SIGSTOP)
        self.client(primary).execute_command("CLIENT", "KILL", "TYPE", "replica")

    def thaw_replicas(self) -> None:
        for port in self.servers:
            self.processes[port].send_signal(signal.SIGCONT)

    def is_in_sync(self) -> bool:
        """Whether every other server is a replica that has all writes on its disk, and every Sentinel sees that."""
        try:
            return self._writes_to_disk(self.primary) and all(
                replica["master-link-status"] == "ok" and replica["flags"] == "slave"
                for port in self.sentinels
                for replica in self.client(port).sentinel_slaves(PRIMARY)
            )
        except redis.RedisError:
            return False

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextmanager
def replicated(replicas: int = 2, fsync: str = "always") -> Iterator[Replicated]:
    with TemporaryDirectory(prefix="doorbell-sentinel-", dir=memory_folder()) as folder:
        servers = Replicated(Path(folder), replicas, fsync=fsync)
        try:
            yield servers
        finally:
            servers.stop()
            time.sleep(0.05)  # a killed server may still write to the folder
