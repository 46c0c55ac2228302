"""The steps of `doorbell demo`: each sends signed webhooks over HTTP, and checks the visits in the Visits API."""

import json
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
import httpx

from app.demo import valkey
from app.demo.processes import wait_until
from app.demo.system import CONTACT_FOR_S, NotStarted, System
from app.demo.tools import HOOKS, Tools
from app.visits.change import external_id
from app.webhooks.fresh_specimens import refresh
from app.webhooks.registry import source_title, specimen_body
from app.webhooks.specimens import find_specimen

#: The specimens that `demo --all` sends for tools that are not connected through their API: a booking and its move.
MORE_BOOKINGS = {
    "zoom": ("an invitee books", "moved: the created half"),
    "housecallpro": ("a job is scheduled", "it is moved by an hour"),
}
#: How long a step waits, to check that nothing calls the Visits API.
NO_EFFECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """The request, the response, the result in the Visits API, and whether all are as expected."""

    sent: str
    response: str
    result: str
    passed: bool


def run(once: bool, with_more_sources: bool = False) -> int:
    """Run the demo. Return the exit status: 0 if every step passed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have started this process with SIGINT ignored
    try:
        with ExitStack() as stack:
            click.echo(f"{'doorbell demo':14} Ctrl-C stops everything; all files are in one temporary folder")
            try:
                system = System(stack, with_more_sources)
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
        # Each run needs new ids: with the ids of an earlier run, deliveries would be repeats.
        self.run_id = secrets.token_hex(4)
        #: The external_id of the first visit.
        self.booking = ""

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
            *(partial(self.moved, source) for source in MORE_BOOKINGS if source in self.system.sources),
            *(self.steps_of_tools(self.system.tools) if self.system.tools else ()),
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
        response, expected = self._ring("calendly", "an invitee books")
        self.booking = expected.pop("external_id")
        visit = self._wait_for_visit(self.booking, **expected)
        passed = response.status_code == 202 and bool(visit)
        return Step("Calendly: an invitee books", _summary(response), _visit_line(visit), passed)

    def sent_again(self) -> Step:
        calls_before = len(self.system.api_calls())
        response, _ = self._ring("calendly", "an invitee books")
        time.sleep(NO_EFFECT_S)
        visits = self.system.visits()
        calls = len(self.system.api_calls()) - calls_before - 1  # the list of visits is a call too
        is_repeat = response.status_code == 200 and response.json().get("repeat") is True
        result = f"{len(visits)} visit, as before; {calls or 'no'} calls to the API"
        passed = is_repeat and len(visits) == 1 and calls == 0
        return Step("Calendly: the same delivery is sent again", _summary(response), result, passed)

    def rescheduled(self) -> Step:
        created, expected = self._ring("calendly", "the new half")
        cancelled, _ = self._ring("calendly", "the old half")
        start = expected["time_scheduled"]
        visit = self._wait_for_visit(self.booking, time_scheduled=start, event_date=start)
        is_only_visit = len(self.system.visits()) == 1
        sent = 'Calendly: rescheduled; the "created" webhook arrives before the "cancelled" one'
        result = f"{_visit_line(visit)}, {'the only visit' if is_only_visit else 'not the only visit'}"
        passed = created.status_code == cancelled.status_code == 202 and bool(visit) and is_only_visit
        return Step(sent, f"{_summary(created)}, {_summary(cancelled)}", result, passed)

    def forged(self) -> Step:
        recorded = self._specimen("calendly", "she cancels")
        body, headers = specimen_body(recorded), recorded["headers"]
        response = self.system.send("calendly", body.replace(b"Ada", b"Eve"), headers, signed_body=body)
        time.sleep(NO_EFFECT_S)
        visits = self.system.visits()
        passed = response.status_code == 401 and len(visits) == 1 and "date_cancelled" not in visits[0]
        sent = "Calendly: a cancellation whose body was changed after it was signed"
        return Step(sent, _summary(response), "the visit is unchanged" if passed else "the visit was changed", passed)

    def api_down(self) -> Step:
        with self.system.visits_api_down():
            started = time.monotonic()
            response, expected = self._ring("calcom", "an attendee books")
            failed_calls = wait_until(lambda: [c for c in self.system.api_calls() if c["response"] == 503][1:])
        visit = self._wait_for_visit(**expected)
        result = f"the API answered 503 at first; after {time.monotonic() - started:.1f} s: {_visit_line(visit)}"
        passed = response.status_code == 202 and bool(failed_calls) and bool(visit)
        return Step("Cal.com: booked while the Visits API is down", _summary(response), result, passed)

    def id_only(self) -> Step:
        response, expected = self._ring("acuity", "a client books and pays")
        visit = self._wait_for_visit(**expected)
        sent = "Acuity: the webhook contains only an id; the worker fetches the appointment"
        return Step(sent, _summary(response), _visit_line(visit), response.status_code == 202 and bool(visit))

    def no_email(self) -> Step:
        visit_id = f"walk-in-{self.run_id}"
        now = datetime.now(UTC)
        start = (now + timedelta(days=6)).replace(hour=9, minute=0, second=0)
        data = {"visit_id": visit_id, "contact": {"first_name": "Grace"}, "time_scheduled": f"{start:%FT%TZ}"}
        body = json.dumps({"type": "visit.created", "timestamp": f"{now:%FT%TZ}", "data": data}).encode()
        headers = {"Content-Type": "application/json", "webhook-id": f"msg_{self.run_id}"}
        response = self.system.send("standard", body, headers)
        external_id = f"standard-{visit_id}"
        time.sleep(CONTACT_FOR_S)  # it is not parked before, and to look takes a process
        parked = wait_until(lambda: [row for row in self.system.failures() if row["id"] == external_id]) or []
        has_visit = any(visit["external_id"] == external_id for visit in self.system.visits())
        result = f"no visit; parked for an operator: {parked[0]['reason'] if parked else 'missing'}"
        passed = response.status_code == 202 and bool(parked) and not has_visit
        return Step("Standard: a booking without an e-mail address", _summary(response), result, passed)

    def moved(self, source: str) -> Step:
        """Send a booking and its move, as `doorbell ring --fresh` does."""
        booking, move = MORE_BOOKINGS[source]
        first, booked = self._ring(source, booking)
        self._wait_for_visit(**booked)
        second, moved = self._ring(source, move)
        visit = self._wait_for_visit(booked["external_id"], time_scheduled=moved["time_scheduled"])
        passed = first.status_code == second.status_code == 202 and bool(visit)
        sent = f"{source_title(source)}: {booking}, and it is moved"
        return Step(sent, f"{_summary(first)}, {_summary(second)}", _visit_line(visit), passed)

    # -- connected tools --

    def steps_of_tools(self, tools: Tools) -> list[Callable[[], Step]]:
        booked = [partial(self.booked_at_tool, tools, source) for source in HOOKS]
        return [partial(self.connected, tools), *booked, partial(self.disabled, tools)]

    def connected(self, tools: Tools) -> Step:
        """Connect all tools. Each tool already has an appointment."""
        for source in HOOKS:
            tools.book(source, _on_day(7), f"early.{source}@example.com")
        printed = tools.connect_all(self.system.env)
        imported = [source for source in HOOKS if self._wait_for_start(f"early.{source}@example.com", _on_day(7))]
        response = f"subscriptions created: {printed.count('created subscription')}"
        result = f"upcoming appointments imported: {len(imported)}"
        sent = f"doorbell connect: {', '.join(map(source_title, HOOKS))}"
        return Step(sent, response, result, len(imported) == len(HOOKS))

    def booked_at_tool(self, tools: Tools, source: str) -> Step:
        email = f"ada.{source}@example.com"
        number = tools.book(source, _on_day(8), email)
        self._wait_for_start(email, _on_day(8))
        tools.move(source, number, _on_day(9))
        visit = self._wait_for_start(email, _on_day(9))
        statuses = Counter(tools.statuses(source))
        answers = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
        sent = f"{source_title(source)}: a customer books there, and moves the appointment"
        return Step(sent, f"its webhooks are answered {answers}", _visit_line(visit), bool(visit))

    def disabled(self, tools: Tools) -> Step:
        """Change appointments while Calendly has disabled the subscription, so that no webhook reports the changes."""
        number = tools.book("calendly", _on_day(8), "ben@example.com")
        self._wait_for_start("ben@example.com", _on_day(8))
        started = time.monotonic()
        tools.disable("calendly")
        tools.move("calendly", number, _on_day(10))
        tools.book("calendly", _on_day(11), "cleo@example.com")
        visit = self._wait_for_start("ben@example.com", _on_day(10))
        is_complete = bool(visit and self._wait_for_start("cleo@example.com", _on_day(11)))
        sent = "Calendly: the tool disables the subscription; then one appointment is moved, and another one booked"
        response = f"the worker subscribes again and catches up, after {time.monotonic() - started:.1f} s"
        return Step(sent, response, _visit_line(visit), is_complete and tools.is_subscribed("calendly"))

    def _wait_for_start(self, email: str, start: datetime) -> dict[str, Any] | None:
        """Wait until the customer's only visit has this start, and return it; None after the timeout."""

        def matching() -> dict[str, Any] | None:
            visits = self.system.visits_of(email)
            return visits[0] if len(visits) == 1 and visits[0]["time_scheduled"] == f"{start:%FT%TZ}" else None

        return wait_until(matching)

    def wait(self) -> None:
        """Print commands to try, and wait for Ctrl-C."""
        system = self.system
        settings = system.folder / "env"
        settings.write_text("".join(f"{name}='{value}'\n" for name, value in system.env.items()))
        doorbell = Path(sys.executable).with_name("doorbell")
        click.echo(f"""
Everything keeps running. Open the console and repair the booking without an address (Failures, enter an e-mail address):

  {system.web_url.replace("127.0.0.1", "localhost")}/console    password: {system.password}

Or in another terminal:

  set -a; . {settings}; set +a
  {doorbell} failures
  {doorbell} visit standard-walk-in-{self.run_id}
  {doorbell} replay standard-walk-in-{self.run_id} --contact grace@example.com --yes
  {doorbell} visits
  {doorbell} ring calendly "an invitee books" --fresh --wait --to {system.web_url}
  {doorbell} doctor
  curl -H 'Authorization: Bearer any' {system.sandbox_url}/api/v1/visits
""")
        while True:
            time.sleep(3600)

    def _ring(self, source: str, name: str) -> tuple[httpx.Response, dict[str, str]]:
        """Send a specimen. Return the response, and the fields that its visit should have."""
        recorded = self._specimen(source, name)
        self.system.records |= recorded.get("records", {})
        response = self.system.send(source, specimen_body(recorded), recorded["headers"])
        [change, *_] = recorded["expect"]
        expected = {name: change[name] for name in ("time_scheduled", "amount_collected") if change.get(name)}
        return response, {"external_id": external_id(source, change["visit_id"]), **expected}

    def _specimen(self, source: str, name: str) -> dict[str, Any]:
        return refresh(source, find_specimen(source, name), self.run_id, datetime.now(UTC))

    def _wait_for_visit(self, external_id: str, **fields: str) -> dict[str, Any] | None:
        """Wait until the only visit with that external_id has these values, and return it; None after the timeout."""

        def matching() -> dict[str, Any] | None:
            visits = [visit for visit in self.system.visits() if visit["external_id"] == external_id]
            return visits[0] if len(visits) == 1 and fields.items() <= visits[0].items() else None

        return wait_until(matching)


def _on_day(days: int) -> datetime:
    """Return 15:00 UTC on the day that is this many days from now."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(hour=15, minute=0, second=0, microsecond=0)


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
