"""`doorbell tail`."""

import itertools
import json
import signal
import sys
from typing import Any

from app.cli.tail import _line
from app.demo.valkey import free_port
from tests.support.cases import each
from tests.support.command_line import ADA, PERSONAL, TIME
from tests.support.harness import Harness, Server, wait_until


def test_tail_shows_deliveries_attempts_and_rejections_until_sigint(service: Harness) -> None:
    command = [sys.executable, "-m", "app", "tail", "--json", "--source", "standard"]
    with Server(command, free_port(), "", service.env) as tail:

        def shown(visit: str = "") -> list[dict[str, Any]]:
            lines = tail.log.read_text().splitlines(keepends=True)
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
            return [row for row in rows if not visit or row["visits"] == [visit]]

        # The command prints nothing when it is ready, so send deliveries until it shows one.
        numbers = itertools.count()
        wait_until(
            lambda: service.send("visit.created", f"A-{next(numbers)}", contact=ADA, time_scheduled=TIME) and shown()
        )
        service.send("visit.created", "B-1", contact=ADA, time_scheduled=TIME)
        wait_until(lambda: {"delivery", "attempt"} == {row["kind"] for row in shown("standard-B-1")}, 30)
        service.post(b"{}", {})
        wait_until(lambda: "rejection" in {row["kind"] for row in shown()}, 30)
        assert 130 == tail.kill(signal.SIGINT)
        rows = shown()

    [attempt] = [row for row in rows if row["visits"] == ["standard-B-1"] and row["kind"] == "attempt"]
    assert "POST /visits 201" in attempt["calls"]
    [rejection] = [row for row in rows if row["kind"] == "rejection"]
    assert ("standard", "signature_missing") == (rejection["hook"], rejection["reason"])
    assert [] == [word for word in PERSONAL if word in str(rows)]


@each(
    ("expected", "row"),
    [
        (
            " → standard  visit.created  d1a2  standard-A-1",
            {"kind": "delivery", "event": "visit.created", "ignored": None},
        ),
        (
            " → standard  a b  d1a2  ignored: b c",
            {"kind": "delivery", "event": "a\tb", "ignored": "b\nc", "visits": []},
        ),
        (" × standard  No signature  no header", {"kind": "rejection", "detail": "no header", "cause": ""}),
        (
            " ← standard-A-1  created in Review Rover  POST /visits 201  12 ms",
            {
                "kind": "attempt",
                "outcome": "created",
                "text": "created in Review Rover",
                "calls": ["POST /visits 201"],
                "took_ms": 12,
                "response": None,
            },
        ),
    ],
)
def test_tail_shows_one_line_for_people(expected: str, row: dict[str, Any]) -> None:
    base = {"hook": "standard", "delivery": "d1a2", "visits": ["standard-A-1"], "reason": "signature_missing"}

    line = _line(base | {"at": "2026-03-14T16:00:00.250Z"} | row)

    assert (".250", expected) == (line[8:12], line[12:])
