"""Load on 127.0.0.1: signed deliveries over keep-alive connections, each request sent when the one before is answered.

`python -m tests.bench.load PORT PATH CONNECTIONS REQUESTS` prints one JSON object: seconds, statuses, latencies in ms.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import sys
import time
from collections import Counter

import uvloop

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
SIZE = 2048


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


class Caller(asyncio.Protocol):
    def __init__(self, requests: list[bytes], done: asyncio.Future[None]) -> None:
        self.requests, self.done = requests, done
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        if not self.requests:
            self.transport.close()
            return
        self.sent_at = time.perf_counter()
        self.transport.write(self.requests.pop())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self.buffer = b""
        self.latencies.append((time.perf_counter() - self.sent_at) * 1000)
        self.statuses[int(head[9:12])] += 1
        self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def main(port: int, path: str, connections: int, requests: int, seed: int) -> None:
    loop = asyncio.get_running_loop()
    made = [request(path, number, seed) for number in range(requests)]
    callers, started = [], time.perf_counter()
    waiting = []
    for number in range(connections):
        done = loop.create_future()
        _, caller = await loop.create_connection(
            lambda n=number, d=done: Caller(made[n::connections], d), "127.0.0.1", port
        )
        callers.append(caller)
        waiting.append(done)
    await asyncio.gather(*waiting)
    seconds = time.perf_counter() - started
    latencies = sorted(latency for caller in callers for latency in caller.latencies)
    statuses = sum((caller.statuses for caller in callers), Counter())
    cut = {f"p{share}": round(latencies[int(len(latencies) * share / 100)], 3) for share in (50, 99)}
    print(json.dumps({"seconds": seconds, "statuses": statuses, "rate": requests / seconds, **cut}))


if __name__ == "__main__":
    port, path, connections, requests = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    uvloop.run(
        main(port, path, connections, requests, int(sys.argv[5]) if len(sys.argv) > 5 else time.time_ns() % 10**9)
    )
