"""Times of Redis (ms) as text."""

from datetime import UTC, datetime


def _iso(ms: float | None) -> str | None:
    return iso_timestamp(int(ms)) if ms else None


def iso_timestamp(ms: int | None) -> str | None:
    """A time of the ledger, as ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if ms else None
