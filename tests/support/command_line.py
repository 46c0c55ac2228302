"""What the tests of the command line share."""

import json
from datetime import UTC, datetime
from typing import Any

from tests.support.harness import Harness

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
