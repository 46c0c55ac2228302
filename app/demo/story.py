"""Runs the steps of `doorbell demo`: each sends signed webhooks over HTTP and checks the visits in the Visits API."""

import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx

from app.demo import valkey
from app.demo.system import NotStarted, System, wait_until
from app.webhooks.specimens import find_specimen, specimen_body

APPOINTMENT_ID = b"123456789"
#: Ids in the specimens. Each run replaces them: with the ids of an earlier run, deliveries would be repeats.
SPECIMEN_IDS = (b"INV-OLD-1", b"INV-NEW-2", b"bookUidOld1")
#: How long a step waits to confirm that nothing calls the Visits API.
NO_EFFECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """The request, the response, the result in the Visits API, and whether all are as expected."""

    sent: str
    response: str
    result: str
    passed: bool


def run(once: bool) -> int:
    """Run the demo. Return the exit status: 0 if every step passed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have started this process with SIGINT ignored
    try:
        with ExitStack() as stack:
            click.echo(f"{'doorbell demo':14} Ctrl-C stops everything; all files are in one temporary folder")
            try:
                system = System(stack)
            except valkey.NoServer as error:
                click.echo(str(error), err=True)
                return 4
            except NotStarted as error:
                click.echo(f"The demo did not start:\n{error}", err=True)
                return 3
            steps = DemoSteps(system)
            passed = steps.run_all()
            if not once:
                steps.wait()
    except KeyboardInterrupt:
        click.echo("\nEverything is stopped, and all files are deleted.")
        return 0
    return 0 if passed else 1


class DemoSteps:
    def __init__(self, system: System) -> None:
        self.system = system
        self.run_id = secrets.token_hex(4)
        #: Acuity's ids are numbers.
        self.appointment_id = str(int(self.run_id, 16) + 1)

    def run_all(self) -> bool:
        """Run and print every step. Return True if all passed."""
        steps: list[Callable[[], Step]] = [
            self.booked,
            self.sent_again,
            self.rescheduled,
            self.forged,
            self.api_down,
            self.id_only,
            self.no_email,
        ]
        click.echo()
        passed = 0
        for number, run_step in enumerate(steps, 1):
            step = run_step()
            passed += step.passed
            mark = click.style("✔", fg="green") if step.passed else click.style("✘", fg="red")
            click.echo(f"  {number}  {step.sent}\n       → {step.response}\n       → {step.result}  {mark}")
        click.echo(f"\n{passed} of {len(steps)} steps passed.")
        return passed == len(steps)

    def booked(self) -> Step:
        response = self._ring("calendly", "an invitee books")
        visit = self._wait_for_visit(f"calendly-INV-OLD-1-{self.run_id}", time_scheduled="2026-10-01T15:00:00Z")
        passed = response.status_code == 202 and bool(visit)
        return Step("Calendly: an invitee books", _summary(response), _visit_line(visit), passed)

    def sent_again(self) -> Step:
        calls_before = len(self.system.api_calls())
        response = self._ring("calendly", "an invitee books")
        time.sleep(NO_EFFECT_S)
        visits = self.system.visits()
        calls = len(self.system.api_calls()) - calls_before - 1  # the list of visits is a call too
        is_repeat = response.status_code == 200 and response.json().get("repeat") is True
        result = f"{len(visits)} visit, as before; {calls or 'no'} calls to the API"
        passed = is_repeat and len(visits) == 1 and calls == 0
        return Step("Calendly: the same delivery is sent again", _summary(response), result, passed)

    def rescheduled(self) -> Step:
        created, cancelled = self._ring("calendly", "the new half"), self._ring("calendly", "the old half")
        moved = {"time_scheduled": "2026-10-02T16:00:00Z", "event_date": "2026-10-02T16:00:00Z"}
        visit = self._wait_for_visit(f"calendly-INV-OLD-1-{self.run_id}", **moved)
        is_only_visit = len(self.system.visits()) == 1
        sent = 'Calendly: rescheduled; the "created" webhook arrives before the "cancelled" one'
        result = f"{_visit_line(visit)}, {'the only visit' if is_only_visit else 'not the only visit'}"
        passed = created.status_code == cancelled.status_code == 202 and bool(visit) and is_only_visit
        return Step(sent, f"{_summary(created)}, {_summary(cancelled)}", result, passed)

    def forged(self) -> Step:
        body, headers = self._specimen("calendly", "she cancels")
        response = self.system.send("calendly", body.replace(b"Ada", b"Eve"), headers, signed_body=body)
        time.sleep(NO_EFFECT_S)
        visits = self.system.visits()
        passed = response.status_code == 401 and len(visits) == 1 and "date_cancelled" not in visits[0]
        sent = "Calendly: a cancellation whose body was changed after it was signed"
        return Step(sent, _summary(response), "the visit is unchanged" if passed else "the visit was changed", passed)

    def api_down(self) -> Step:
        with self.system.visits_api_down():
            started = time.monotonic()
            response = self._ring("calcom", "an attendee books")
            failed_calls = wait_until(lambda: [c for c in self.system.api_calls() if c["response"] == 503][1:])
        visit = self._wait_for_visit(f"calcom-bookUidOld1-{self.run_id}", time_scheduled="2026-10-01T15:00:00Z")
        result = f"the API answered 503 at first; after {time.monotonic() - started:.1f} s: {_visit_line(visit)}"
        passed = response.status_code == 202 and bool(failed_calls) and bool(visit)
        return Step("Cal.com: booked while the Visits API is down", _summary(response), result, passed)

    def id_only(self) -> Step:
        response = self._ring("acuity", "a client books and pays")
        visit = self._wait_for_visit(f"acuity-{self.appointment_id}", amount_collected="75.50")
        sent = "Acuity: the webhook contains only an id; the worker fetches the appointment"
        return Step(sent, _summary(response), _visit_line(visit), response.status_code == 202 and bool(visit))

    def no_email(self) -> Step:
        visit_id = f"walk-in-{self.run_id}"
        data = {"visit_id": visit_id, "contact": {"first_name": "Grace"}, "time_scheduled": "2026-10-05T09:00:00Z"}
        body = json.dumps({"type": "visit.created", "timestamp": "2026-10-01T09:00:00Z", "data": data}).encode()
        headers = {"Content-Type": "application/json", "webhook-id": f"msg_{self.run_id}"}
        response = self.system.send("standard", body, headers)
        external_id = f"standard-{visit_id}"
        parked = wait_until(lambda: [row for row in self.system.failures() if row["id"] == external_id]) or []
        has_visit = any(visit["external_id"] == external_id for visit in self.system.visits())
        result = f"no visit; parked for an operator: {parked[0]['reason'] if parked else 'missing'}"
        passed = response.status_code == 202 and bool(parked) and not has_visit
        return Step("Standard: a booking without an e-mail address", _summary(response), result, passed)

    def wait(self) -> None:
        """Print commands to try, and wait for Ctrl-C."""
        system = self.system
        settings = system.folder / "env"
        settings.write_text("".join(f"{name}='{value}'\n" for name, value in system.env.items()))
        doorbell = Path(sys.executable).with_name("doorbell")
        click.echo(f"""
Everything keeps running. Open the console and repair the last booking (Failures, select it, enter a contact):

  {system.web_url.replace("127.0.0.1", "localhost")}/console    password: {system.password}

Or in another terminal:

  set -a; . {settings}; set +a
  {doorbell} failures
  {doorbell} visit standard-walk-in-{self.run_id}
  {doorbell} replay standard-walk-in-{self.run_id} --contact cont_KYdl3lftgZXGRbxqoj --yes
  {doorbell} ring calendly "an invitee books" --to {system.web_url}
  {doorbell} doctor
  curl -H 'Authorization: Bearer any' {system.sandbox_url}/api/v1/visits
""")
        while True:
            time.sleep(3600)

    def _ring(self, source: str, specimen: str) -> httpx.Response:
        body, headers = self._specimen(source, specimen)
        return self.system.send(source, body, headers)

    def _specimen(self, source: str, name: str) -> tuple[bytes, dict[str, str]]:
        """Return the body and headers, with the ids of this run."""
        specimen = find_specimen(source, name)
        body = specimen_body(specimen)
        for id in SPECIMEN_IDS:
            body = body.replace(id, id + b"-" + self.run_id.encode())
        return body.replace(APPOINTMENT_ID, self.appointment_id.encode()), dict(specimen["headers"])

    def _wait_for_visit(self, external_id: str, **fields: str) -> dict[str, Any] | None:
        """Return the only visit with that external_id once it has these values; None if it does not."""

        def matching() -> dict[str, Any] | None:
            visits = [visit for visit in self.system.visits() if visit["external_id"] == external_id]
            return visits[0] if len(visits) == 1 and fields.items() <= visits[0].items() else None

        return wait_until(matching)


def _summary(response: httpx.Response) -> str:
    body = response.json()
    word = body.get("error") or body.get("ignored") or ("repeat" if body.get("repeat") else "accepted")
    return f"{response.status_code} {word}"


def _visit_line(visit: Mapping[str, Any] | None) -> str:
    if visit is None:
        return "the visit is missing, or its values are wrong"
    fields = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled")
    values = ", ".join(f"{name} {visit[name]}" for name in fields if visit.get(name))
    return f"visit {visit['id']}, {visit['external_id']}: {values}"
