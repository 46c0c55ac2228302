"""Formats times and durations."""

from datetime import UTC, datetime
from typing import Literal


def iso_timestamp(ms: float | None, precision: Literal["seconds", "milliseconds"] = "seconds") -> str | None:
    """Format a time in ms since 1970 as ISO 8601. Return None for 0 and None."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec=precision).replace("+00:00", "Z") if ms else None


def humanize(seconds: float) -> str:
    """Format a duration: `45 s`, `2 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * (2 if unit != "min" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
