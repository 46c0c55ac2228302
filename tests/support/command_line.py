"""What the tests of the command line share."""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.harness import Harness
from tests.support.processes import start_process

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace", "phone": "+15550100001"}
PERSONAL = ("ada@example.com", "Lovelace", "+15550100001")
TIME = "2026-03-14T16:00:00Z"


def rows(harness: Harness, *command: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in harness.doorbell(*command).stdout.splitlines()]


def activity_of(harness: Harness) -> list[tuple[bytes, bytes]]:
    """Return actions and targets in the activity log."""
    return [(fields[5], fields[7]) for _, fields in harness.redis_command("XRANGE", "bell:activity", "-", "+")]


def in_2026(day: str, clock: str) -> str:
    """Return a time of 2026 as people see it: without the year while it is the current one."""
    return f"{day},{'' if datetime.now(UTC).year == 2026 else ' 2026,'} {clock}"


def run_in_terminal(
    command: Sequence[str], env: Mapping[str, str], width: int = 80, answers: Sequence[str] = ()
) -> tuple[str, int]:
    """Run a command in a terminal of this width, and type an answer at each prompt.

    Return what the terminal shows, and the exit status.
    """
    terminal, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    device = Path(os.ttyname(other))
    process = start_process([sys.executable, "-m", "app", *command], env, device, stdin=device)
    to_type, shown, answered = list(answers), b"", 0
    with suppress(OSError):  # the end of a terminal is an error
        while select.select([terminal], [], [], 20)[0] and (chunk := os.read(terminal, 65_536)):
            if not shown:
                os.close(other)  # the process has opened it
            shown += chunk
            if to_type and shown[answered:].endswith(b": "):
                answered = len(shown)
                os.write(terminal, f"{to_type.pop(0)}\n".encode())
    os.close(terminal)
    try:
        return shown.decode().replace("\r\n", "\n"), process.wait(20)
    finally:
        process.kill()
