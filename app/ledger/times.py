"""Formats times and durations."""

from datetime import UTC, datetime, tzinfo
from typing import Literal

#: The maximum difference between the clocks of two machines.
MAX_CLOCK_SKEW_MS = 1_000


def iso_timestamp(ms: float | None, precision: Literal["seconds", "milliseconds"] = "seconds") -> str | None:
    """Format a time in ms since 1970 as ISO 8601. Return None for 0 and None."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec=precision).replace("+00:00", "Z") if ms else None


def local_time(time: datetime, zone: tzinfo | None, precision: Literal["minutes", "seconds"] = "minutes") -> str:
    """Format a time for people: `Nov 29, 2:00 PM EST`, with the year unless it is the current one.

    zone: None for the zone of this computer.
    """
    try:
        local = time.astimezone(zone)
    except OverflowError:  # in the years 1 and 9999 some zones have no such time
        local = time
    year = "" if local.year == datetime.now(zone).year else f" {local.year},"
    clock = (
        f"{local.hour % 12 or 12}:{local:%M:%S}" if precision == "seconds" else f"{local.hour % 12 or 12}:{local:%M}"
    )
    return f"{local:%b} {local.day},{year} {clock} {'AM' if local.hour < 12 else 'PM'} {zone_name(local)}"


def zone_name(time: datetime) -> str:
    """Return the zone of a time: `EST`, or `UTC+05:45` for a zone without an abbreviation."""
    name = time.strftime("%Z")
    if name[:1] in ("+", "-"):
        return f"UTC{name[:3]}:{name[3:] or '00'}"
    return name or "UTC"


def humanize(seconds: float) -> str:
    """Format a duration: `45 s`, `2 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size * (2 if unit != "min" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
