"""Sends signed deliveries over keep-alive connections on 127.0.0.1, each request after the response to the last one.

`python -m tests.bench.load PORT PATH CONNECTIONS REQUESTS [SEED]` prints one JSON object: seconds, statuses, latencies (ms).
It uses plain sockets, because its CPU time is not available to the servers on the same machine.
"""

import base64
import hashlib
import hmac
import json
import random
import re
import select
import socket
import sys
import time
from collections import Counter

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
SIZE = 2048
TIMEOUT_S = 60.0


def request(path: str, number: int, seed: int) -> bytes:
    """Return a request with a body of 2 KB for a new visit."""
    rng = random.Random(seed * 1_000_003 + number)
    visit = f"B-{seed}-{number}"
    data = {
        "visit_id": visit,
        "contact": {"email": f"person{number}@example.com", "first_name": "Ada", "last_name": "Lovelace"},
        "time_scheduled": f"2026-03-{1 + number % 28:02}T{number % 24:02}:00:00Z",
        "amount_collected": "245.00",
        "date_cancelled": None,
        "notes": "",
    }
    body = {"type": "visit.created", "timestamp": "2026-03-01T09:00:00Z", "data": data}
    words = ["water", "heater", "kitchen", "sink", "annual", "check", "boiler", "garden", "call before", "ring twice"]
    length = SIZE - len(json.dumps(body))
    data["notes"] = " ".join(f"{rng.choice(words)} {rng.getrandbits(32):x}" for _ in range(length // 12))[:length]
    raw = json.dumps(body).encode()
    id, stamp = f"msg_{seed}_{number}", str(int(time.time()))
    signature = base64.b64encode(hmac.digest(KEY, f"{id}.{stamp}.".encode() + raw, hashlib.sha256)).decode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n"
        f"webhook-id: {id}\r\nwebhook-timestamp: {stamp}\r\nwebhook-signature: v1,{signature}\r\n\r\n"
    )
    return head.encode() + raw


class Connection:
    """A connection that sends requests one after another."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.requests = requests
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> bool:
        """Send the next request. Return False if there is none."""
        if not self.requests:
            return False
        self.buffer, self.sent_at = b"", time.perf_counter()
        self.socket.sendall(self.requests.pop())
        return True

    def receive(self) -> bool:
        """Read the available bytes. Return whether the response is complete."""
        self.buffer += self.socket.recv(65_536)
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return False
        self.latencies.append((time.perf_counter() - self.sent_at) * 1000)
        self.statuses[int(head[9:12])] += 1
        return True


_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


def main(port: int, path: str, connections: int, requests: int, seed: int) -> None:
    prepared = [request(path, number, seed) for number in range(requests)]
    open_connections = [Connection(port, prepared[number::connections]) for number in range(connections)]
    by_file, epoll = {connection.socket.fileno(): connection for connection in open_connections}, select.epoll()
    started = time.perf_counter()
    for file, connection in by_file.items():
        connection.send()
        epoll.register(file, select.EPOLLIN)
    active = len(open_connections)
    while active and time.perf_counter() - started < TIMEOUT_S:
        for file, _ in epoll.poll(1):
            if by_file[file].receive() and not by_file[file].send():
                epoll.unregister(file)
                active -= 1
    seconds = time.perf_counter() - started
    latencies = sorted(latency for connection in open_connections for latency in connection.latencies)
    statuses = sum((connection.statuses for connection in open_connections), Counter())
    percentiles = {f"p{share}": round(latencies[int(len(latencies) * share / 100)], 3) for share in (50, 99)}
    print(json.dumps({"seconds": seconds, "statuses": statuses, "rate": requests / seconds, **percentiles}))


if __name__ == "__main__":
    port, path, connections, requests = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    main(port, path, connections, requests, int(sys.argv[5]) if len(sys.argv) > 5 else time.time_ns() % 10**9)
