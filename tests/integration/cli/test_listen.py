"""`doorbell listen`."""

import itertools
import json
import re
import signal
import sys
from typing import Any

from app.demo.valkey import free_port
from tests.support.command_line import ADA, PERSONAL, TIME, activity_of
from tests.support.harness import Harness, Server, sign_standard, standard_body, wait_until


def test_listening_with_personal_data_is_recorded(service: Harness) -> None:
    """It comes first, because rejected requests of another test may still be shown to the next who listens."""
    command = [sys.executable, "-m", "app", "listen", "standard", "--count", "1", "--show-personal-data"]
    with Server(command, free_port(), "", service.env) as listening:
        wait_until(lambda: activity_of(service))
        numbers = itertools.count()
        wait_until(
            lambda: (
                service.send("visit.created", f"A-{next(numbers)}", contact=ADA, time_scheduled=TIME)
                and listening.process.poll() is not None
            )
        )
        text = listening.log.read_text()
        assert 0 == listening.process.returncode

    assert [(b"revealed delivery", b"everything that arrives at the hook standard")] == activity_of(service)
    assert "for Ada Lovelace: booked for " in text
    assert "E-mail address: ada@example.com" in text


def test_listen_shows_what_arrives_with_verdict_diagnosis_and_meaning(service: Harness) -> None:
    command = [sys.executable, "-m", "app", "listen", "standard", "--json"]
    with Server(command, free_port(), "", service.env) as listening:

        def shown(outcome: str) -> list[dict[str, Any]]:
            lines = [line for line in listening.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            return [row for row in map(json.loads, lines) if row["outcome"] == outcome]

        # The web process knows a moment later that an operator listens.
        body = standard_body("visit.created", "A-1", contact=ADA, time_scheduled=TIME)
        wait_until(lambda: service.post(body + b"\n", sign_standard(body)) and shown("rejected"))
        delivery = service.post(body, sign_standard(body)).json()["delivery"]
        [accepted] = wait_until(lambda: shown("accepted"))
        [rejected, *_] = shown("rejected")
        assert 130 == listening.kill(signal.SIGINT)

    assert (delivery, "visit.created") == (accepted["delivery"], accepted["event"])
    assert re.match(r"verified with secret 1 of 1 \([0-9a-f]+\)", accepted["verdict"])
    assert f"books standard-A-1 for •••: booked for {TIME}" == accepted["visits"][0]["meaning"]
    assert ("signature_mismatch", 401) == (rejected["reason"], rejected["status"])
    assert [rejected["findings"][0]] == [
        text for text in rejected["findings"] if "without the trailing newline" in text
    ]
    assert [] == [word for word in PERSONAL if word in str((accepted, rejected))]
