"""Sends signed deliveries over keep-alive connections on 127.0.0.1. `Servers.load` runs it and reads its result.

Closed: each connection sends its next request after the response to the last one. Open, with a rate: requests are due at
fixed times, and a latency is counted from the time at which the request was due, also if no connection was free then. So
it contains the time that a sender would have waited, which a closed load hides.

It uses plain sockets, because its CPU time is not available to the servers on the same machine.
"""

import json
import re
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass

from tests.bench.deliveries import KINDS

TIMEOUT_S = 60.0
MAX_BYTES = 128 * 2**20
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What to send. rate: requests per second of an open load; 0 for a closed one. size: of a body, in bytes."""

    port: int
    path: str
    seed: int
    kind: str = "standard"
    size: int = 2048
    connections: int = 32
    requests: int = 8_000
    rate: float = 0

    def prepared(self) -> deque[bytes]:
        count = min(self.requests, MAX_BYTES // max(self.size, 1))
        return deque(KINDS[self.kind](self.path, number, self.seed, self.size) for number in range(count))


class Connection:
    """A connection that sends one request at a time. due_at: the time from which its latency counts."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes, due_at: float) -> None:
        self.buffer, self.due_at = b"", due_at
        self.socket.sendall(request)

    def receive(self) -> int:
        """Read the available bytes. Return the status if the response is complete, else 0."""
        part = self.socket.recv(65_536)
        if not part:
            raise ConnectionError("the server closed a connection")
        self.buffer += part
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        complete = separator and length is not None and len(body) >= int(length[1])
        return int(head[9:12]) if complete else 0


class Run:
    def __init__(self, load: Load) -> None:
        self.requests = load.prepared()
        self.total = len(self.requests)
        self.connections = [Connection(load.port) for _ in range(min(load.connections, self.total))]
        self.by_file = {connection.socket.fileno(): connection for connection in self.connections}
        self.epoll = select.epoll()
        for file in self.by_file:
            self.epoll.register(file, select.EPOLLIN)
        self.latencies_ms: list[float] = []
        self.statuses: Counter[int] = Counter()

    def close(self) -> None:
        self.epoll.close()
        for connection in self.connections:
            connection.socket.close()

    def receive(self, wait_s: float) -> list[Connection]:
        """Wait for responses, and read what has arrived. Return the connections that became free."""
        free = []
        for file, _ in self.epoll.poll(wait_s):
            connection = self.by_file[file]
            if status := connection.receive():
                self.latencies_ms.append((time.perf_counter() - connection.due_at) * 1000)
                self.statuses[status] += 1
                free.append(connection)
        return free

    def closed(self) -> None:
        for connection in self.connections:
            connection.send(self.requests.popleft(), time.perf_counter())
        stop_at = time.perf_counter() + TIMEOUT_S
        while len(self.latencies_ms) < self.total and time.perf_counter() < stop_at:
            for connection in self.receive(1):
                if self.requests:
                    connection.send(self.requests.popleft(), time.perf_counter())

    def open(self, rate: float) -> None:
        free, started, sent = deque(self.connections), time.perf_counter(), 0
        stop_at = started + self.total / rate + TIMEOUT_S
        while len(self.latencies_ms) < self.total and (now := time.perf_counter()) < stop_at:
            while free and self.requests and (due_at := started + sent / rate) <= now:
                free.popleft().send(self.requests.popleft(), due_at)
                sent += 1
            next_at = started + sent / rate if free and self.requests else now + 1
            # `epoll.poll` waits whole milliseconds, `select` shorter times.
            select.select([self.epoll], [], [], max(0.0, next_at - time.perf_counter()))
            free.extend(self.receive(0))


def main(load: Load) -> None:
    run = Run(load)
    started = time.perf_counter()
    run.open(load.rate) if load.rate else run.closed()
    seconds = time.perf_counter() - started
    latencies = sorted(run.latencies_ms)
    assert latencies, f"no response within {TIMEOUT_S} s"
    percentiles = {f"p{share}": latencies[int(len(latencies) * share / 100)] for share in (50, 99, 99.9)}
    result = {"seconds": seconds, "requests": run.total, "statuses": run.statuses, "rate": len(latencies) / seconds}
    print(json.dumps(result | percentiles))


if __name__ == "__main__":
    main(Load(**json.loads(sys.argv[1])))
