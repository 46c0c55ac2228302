"""Load on 127.0.0.1: signed deliveries over keep-alive connections, each request sent when the one before is answered.

`python -m tests.bench.load PORT PATH CONNECTIONS REQUESTS [SEED]` prints one JSON object: seconds, statuses, latencies (ms).
Plain sockets: what the load costs is taken from the servers on the same machine.
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
PATIENCE_S = 60.0


def request(path: str, number: int, seed: int) -> bytes:
    """A delivery of 2 KB for a visit of its own."""
    dice = random.Random(seed * 1_000_003 + number)
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
    left = SIZE - len(json.dumps(body))
    data["notes"] = " ".join(f"{dice.choice(words)} {dice.getrandbits(32):x}" for _ in range(left // 12))[:left]
    raw = json.dumps(body).encode()
    id, stamp = f"msg_{seed}_{number}", str(int(time.time()))
    signature = base64.b64encode(hmac.digest(KEY, f"{id}.{stamp}.".encode() + raw, hashlib.sha256)).decode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n"
        f"webhook-id: {id}\r\nwebhook-timestamp: {stamp}\r\nwebhook-signature: v1,{signature}\r\n\r\n"
    )
    return head.encode() + raw


class Caller:
    """One connection: its requests, one after the other."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.requests = requests
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> bool:
        """False: there is nothing more to send."""
        if not self.requests:
            return False
        self.buffer, self.sent_at = b"", time.perf_counter()
        self.socket.sendall(self.requests.pop())
        return True

    def is_answered(self) -> bool:
        """Read what is there: is it the whole answer?"""
        self.buffer += self.socket.recv(65_536)
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return False
        self.latencies.append((time.perf_counter() - self.sent_at) * 1000)
        self.statuses[int(head[9:12])] += 1
        return True


_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


def main(port: int, path: str, connections: int, requests: int, seed: int) -> None:
    made = [request(path, number, seed) for number in range(requests)]
    callers = [Caller(port, made[number::connections]) for number in range(connections)]
    by_file, ready = {caller.socket.fileno(): caller for caller in callers}, select.epoll()
    started = time.perf_counter()
    for file, caller in by_file.items():
        caller.send()
        ready.register(file, select.EPOLLIN)
    left = len(callers)
    while left and time.perf_counter() - started < PATIENCE_S:
        for file, _ in ready.poll(1):
            if by_file[file].is_answered() and not by_file[file].send():
                ready.unregister(file)
                left -= 1
    seconds = time.perf_counter() - started
    latencies = sorted(latency for caller in callers for latency in caller.latencies)
    statuses = sum((caller.statuses for caller in callers), Counter())
    cut = {f"p{share}": round(latencies[int(len(latencies) * share / 100)], 3) for share in (50, 99)}
    print(json.dumps({"seconds": seconds, "statuses": statuses, "rate": requests / seconds, **cut}))


if __name__ == "__main__":
    port, path, connections, requests = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    main(port, path, connections, requests, int(sys.argv[5]) if len(sys.argv) > 5 else time.time_ns() % 10**9)
