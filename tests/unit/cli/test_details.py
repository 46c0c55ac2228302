"""One visit or delivery for people."""

from datetime import UTC, datetime, timedelta

from app.cli.details import _due, _task_row


def test_the_next_attempt_is_never_in_the_past() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    passed, coming = ((now + timedelta(hours=hours)).isoformat().replace("+00:00", "Z") for hours in (-1, 2))

    assert (None, "now") == (_due(None), _due(passed))
    assert (_due(coming) or "").endswith(("in 2 h", "in 120 min"))
    assert "now" == _task_row({"state": "waiting", "next_attempt": passed})["next_attempt"]
