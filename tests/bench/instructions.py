"""Instructions that Redis runs for a new delivery and for its visit's run, which no other load affects. Needs valgrind.

callgrind counts the instructions of a Valkey with an append-only file, without those of the kernel. Each delivery is one
change of a new visit, in a body of 0.5 KB. HELD="0 1000000" measures with other numbers of visits held.
"""

import asyncio
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from app.demo import valkey
from app.ledger.ids import TaskId
from app.ledger.ledger import Ledger
from app.ledger.records import DeliveryInfo, Lease, NewDelivery, Outcome
from app.ledger.redis import Redis, RedisAddress
from app.visits.change import Contact, VisitChange
from app.webhooks.delivery import Delivery
from tests.bench import visits

DELIVERIES, RUNS = 2_000, 200
HELD = [int(count) for count in os.environ.get("HELD", "0 100000").split()]


async def accept(ledger: Ledger, number: int) -> None:
    contact = Contact(email=f"{number}@example.com")
    start = datetime(2026, 3, 14, tzinfo=UTC)
    change = VisitChange(action="create", visit_id=str(number), version=1, contact=contact, time_scheduled=start)
    info = DeliveryInfo("standard", "standard", 1_790_000_000_000 + number, event_name="visit.created")
    delivery = Delivery("standard", "standard", (), b"%0500d" % number, datetime.now(UTC))
    await ledger.accept(NewDelivery(delivery, info, [change], "main", dedup_id=f"msg_{number}"))


async def apply(ledger: Ledger, number: int) -> None:
    lease = await ledger.lease(TaskId.visit("main", f"standard-{number}"), "main")
    assert isinstance(lease, Lease)
    await ledger.complete(lease, Outcome(state="done", attempt=None), "main")


def control(option: str, server: "subprocess.Popen[bytes]") -> None:
    """Reset the count (-z), or write it to the next file (-d)."""
    subprocess.run(["callgrind_control", option, str(server.pid)], check=True, capture_output=True)


def counted(output: Path, part: int) -> int:
    totals = re.search(r"^totals: (\d+)", output.with_name(f"{output.name}.{part}").read_text(), re.MULTILINE)
    assert totals
    return int(totals[1])


def hold_visits(folder: Path, count: int) -> None:
    """Leave a file with applied visits in the folder, for the next server."""
    port = valkey.free_port()
    server = valkey.start(port, folder)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        asyncio.run(visits.queue(url, count, "held", apply=True))
    finally:
        valkey.stop(server)


async def measure(held: int, port: int, server: "subprocess.Popen[bytes]", output: Path) -> None:
    redis = Redis(RedisAddress(f"redis://127.0.0.1:{port}/0"))
    ledger = Ledger(redis, 30)
    for number in range(300):  # loads the script, and lets the tables grow
        await accept(ledger, -number)
    control("-z", server)
    for first in range(1, DELIVERIES, 32):
        await asyncio.gather(*(accept(ledger, number) for number in range(first, min(first + 32, DELIVERIES + 1))))
    control("-d", server)
    for number in range(1, RUNS + 1):
        await apply(ledger, number)
    control("-d", server)
    await redis.close()
    print(f"  {held:13,}{counted(output, 1) // DELIVERIES:13,}{counted(output, 2) // RUNS:15,}", flush=True)


def main() -> None:
    print("\nInstructions of Redis, for a new delivery of a new visit, and for the lease and the end of its run")
    print(f"  {'visits held':>13}{'a delivery':>13}{'a run':>15}")
    for held in HELD:
        count_instructions(held)


def count_instructions(held: int) -> None:
    port = valkey.free_port()
    with TemporaryDirectory() as folder:
        hold_visits(Path(folder), held)
        output = Path(folder) / "callgrind"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}"]
        command += valkey._command(port, Path(folder), appendfsync="everysec")
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            valkey._wait_until_ready(server, port)
            asyncio.run(measure(held, port, server, output))
        finally:
            valkey.stop(server)


if __name__ == "__main__":
    main()
