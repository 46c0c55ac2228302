"""`doorbell demo`: the whole of it on one machine. Embedded Valkey, sandbox, web and worker are the processes that they are
in production; every delivery is really signed and sent over HTTP; a tick means that it was read back from the Visits API."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import httpx

from app.console.auth import hash_password
from app.demo import valkey
from app.webhooks.registry import specimens
from app.webhooks.specimens import body_of, find, signed

PATIENCE_S = 30.0
APPOINTMENT = "123456789"
WEB_READY_S = 30.0
Look = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Line:
    """What was sent, what was answered, what stands in the Visits API now, and whether that is as it should be."""

    sent: str
    answered: str
    stands: str
    good: bool


def run(once: bool) -> int:
    """The exit status: 0 if every line was as it should be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    try:
        with ExitStack() as stack:
            try:
                demo = Demo(stack)
            except valkey.NoServer as error:
                click.echo(str(error), err=True)
                return 4
            except NotStarted as error:
                click.echo(f"It did not start:\n{error}", err=True)
                return 3
            good = demo.show()
            if not once:
                demo.stay()
    except KeyboardInterrupt:
        click.echo("\nEverything is stopped; nothing is left behind.")
        return 0
    return 0 if good else 1


class NotStarted(Exception):
    """The web process ended, or never was ready: what the log says."""


class Demo:
    """Everything running, on free ports, with secrets made for this run."""

    def __init__(self, stack: ExitStack) -> None:
        self.run = secrets.token_hex(4)
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="doorbell-demo-")))
        self.secrets = {name: secrets.token_hex(16) for name in ("calendly", "calcom", "acuity")}
        self.password = secrets.token_urlsafe(12)
        self.secrets["standard"] = "whsec_" + secrets.token_hex(24)
        self._http = stack.enter_context(httpx.Client(timeout=10, trust_env=False))
        say("doorbell demo", "Ctrl-C stops everything; all files are in one temporary folder")
        self.redis_url = self._redis(stack)
        self.sandbox = self._sandbox(stack)
        tool = stack.enter_context(a_tools_api())
        self.env = self._environment(tool)
        self.web = self._processes(stack)

    def _redis(self, stack: ExitStack) -> str:
        if given := os.environ.get("REDIS_URL"):
            say("redis", "the one of REDIS_URL; what the demo writes stays there")
            return given
        port = valkey.free_port()
        data = self.folder / "valkey"
        data.mkdir()
        stack.callback(valkey.stop, valkey.start(port, data))
        say("redis", f"embedded Valkey with an append-only file, 127.0.0.1:{port}")
        return f"redis://127.0.0.1:{port}/0"

    def _sandbox(self, stack: ExitStack) -> str:
        port = valkey.free_port()
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(process("sandbox", "--port", str(port)))
        wait_until(lambda: self._answers(f"{url}/_sandbox/calls"))
        say("visits api", f"our sandbox, {url}/api/v1")
        return url

    def _environment(self, tool: str) -> dict[str, str]:
        return {
            "REDIS_URL": self.redis_url,
            "VISITS_API_URL": f"{self.sandbox}/api/v1",
            "VISITS_API_TOKEN": secrets.token_hex(16),
            **{f"HOOKS__{name.upper()}__SECRETS": secret for name, secret in self.secrets.items()},
            "HOOKS__ACUITY__CREDENTIALS__USER_ID": "1",
            "HOOKS__ACUITY__CREDENTIALS__API_KEY": self.secrets["acuity"],
            "HOOKS__ACUITY__API_URL": tool,
            "SECRET_KEY": secrets.token_hex(32),
            "CONSOLE_PASSWORD_HASH": hash_password(self.password),
            "RETRY_FIRST_S": "1",
            "CONTACT_FOR_S": "2",
        }

    def _processes(self, stack: ExitStack) -> str:
        started, port = time.monotonic(), valkey.free_port()
        log = stack.enter_context((self.folder / "log").open("wb"))
        stack.enter_context(process("worker", env=self.env, log=log))
        web = stack.enter_context(process("web", "--port", str(port), env=self.env, log=log))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: web.poll() is not None or self._answers(f"{url}/readyz"), WEB_READY_S)
        if not self._answers(f"{url}/readyz"):
            raise NotStarted((self.folder / "log").read_text("utf-8", "replace").strip())
        say("web + worker", f"{url}, ready in {time.monotonic() - started:.1f} s")
        return url

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(url).is_success
        except httpx.HTTPError:
            return False

    # -- the story --

    def show(self) -> bool:
        """Every step, as a line each; True if all were as they should be."""
        click.echo()
        lines = []
        for number, step in enumerate(self._steps(), 1):
            line = step()
            lines.append(line)
            mark = click.style("✔", fg="green") if line.good else click.style("✘", fg="red")
            click.echo(f"  {number}  {line.sent}\n       → {line.answered}\n       → {line.stands}  {mark}")
        good = sum(line.good for line in lines)
        click.echo(f"\n{good} of {len(lines)} as they should be.")
        return good == len(lines)

    def _steps(self) -> list[Callable[[], Line]]:
        return [self.booked, self.again, self.moved, self.forged, self.outage, self.thin, self.no_email]

    def booked(self) -> Line:
        answer = self.ring("calendly", "an invitee books")
        visit = self.visit_like(f"calendly-INV-OLD-1-{self.run}", time_scheduled="2026-10-01T15:00:00Z")
        return Line("Calendly: an invitee books", told(answer), shown(visit), answer.status_code == 202 and bool(visit))

    def again(self) -> Line:
        before = self.journal()
        answer = self.ring("calendly", "an invitee books")
        time.sleep(0.5)
        visits, calls = self.visits(), len(self.journal()) - len(before)
        good = answer.status_code == 200 and answer.json().get("repeat") is True and len(visits) == 1 and calls == 1
        return Line(
            "Calendly: the same delivery again", told(answer), f"still {len(visits)} visit, no call was made", good
        )

    def moved(self) -> Line:
        late, early = self.ring("calendly", "the new half"), self.ring("calendly", "the old half")
        visit = self.visit_like(
            f"calendly-INV-OLD-1-{self.run}", time_scheduled="2026-10-02T16:00:00Z", event_date="2026-10-02T16:00:00Z"
        )
        alone = len(self.visits()) == 1
        stands = f"{shown(visit)}, {'the only one' if alone else 'not the only one'}"
        good = late.status_code == early.status_code == 202 and bool(visit) and alone
        return Line(
            "Calendly: rescheduled; the new half rings before the old one", f"{told(late)}, {told(early)}", stands, good
        )

    def forged(self) -> Line:
        raw, headers = self.delivery("calendly", "she cancels")
        answer = self.post("calendly", raw.replace(b"Ada", b"Eve"), headers, signed_as=raw)
        time.sleep(0.5)
        visits = self.visits()
        good = answer.status_code == 401 and len(visits) == 1 and "date_cancelled" not in visits[0]
        return Line(
            "Calendly: a cancel whose body was changed on the way", told(answer), "the visit is as it was", good
        )

    def outage(self) -> Line:
        self._http.put(f"{self.sandbox}/_sandbox/faults", json={"down": True})
        started = time.monotonic()
        answer = self.ring("calcom", "an attendee books")
        refused = wait_until(lambda: [call for call in self.journal() if call["response"] == 503][1:])
        self._http.delete(f"{self.sandbox}/_sandbox/faults")
        visit = self.visit_like(f"calcom-bookUidOld1-{self.run}", time_scheduled="2026-10-01T15:00:00Z")
        outage = f"the API answered 503 at first; after {time.monotonic() - started:.1f} s: {shown(visit)}"
        good = answer.status_code == 202 and bool(refused) and bool(visit)
        return Line("Cal.com: booked while the Visits API is down", told(answer), outage, good)

    def thin(self) -> Line:
        answer = self.ring("acuity", "a client books and pays")
        visit = self.visit_like(f"acuity-{self.appointment}", amount_collected="75.50")
        sent = "Acuity: only an id rings; the appointment is fetched from the tool"
        return Line(sent, told(answer), shown(visit), answer.status_code == 202 and bool(visit))

    def no_email(self) -> Line:
        said = {
            "visit_id": f"walk-in-{self.run}",
            "contact": {"first_name": "Grace"},
            "time_scheduled": "2026-10-05T09:00:00Z",
        }
        raw = json.dumps({"type": "visit.created", "timestamp": "2026-10-01T09:00:00Z", "data": said}).encode()
        headers = {"Content-Type": "application/json", "webhook-id": f"msg_{self.run}"}
        answer = self.post("standard", raw, headers)
        parked = wait_until(
            lambda: [row for row in self.failures() if row["id"] == f"standard-walk-in-{self.run}"], else_=[]
        )
        absent = not [visit for visit in self.visits() if visit["external_id"] == f"standard-walk-in-{self.run}"]
        stands = f"no visit; parked for an operator: {parked[0]['reason'] if parked else 'it is not'}"
        good = answer.status_code == 202 and bool(parked) and absent
        return Line("Standard: a booking without an e-mail address", told(answer), stands, good)

    # -- afterwards --

    def stay(self) -> None:
        """Until Ctrl-C."""
        settings = self.folder / "env"
        settings.write_text("".join(f"{name}='{value}'\n" for name, value in self.env.items()))
        doorbell = Path(sys.executable).with_name("doorbell")
        click.echo(f"""
It stays up. Look at it, and mend the last one there (Failures, tick it, name a contact):

  {self.web.replace("127.0.0.1", "localhost")}/console    password: {self.password}

Or in another terminal:

  set -a; . {settings}; set +a
  {doorbell} failures
  {doorbell} visit standard-walk-in-{self.run}
  {doorbell} replay standard-walk-in-{self.run} --contact cont_KYdl3lftgZXGRbxqoj --yes
  {doorbell} ring calendly "an invitee books" --to {self.web}
  {doorbell} doctor
  curl -H 'Authorization: Bearer any' {self.sandbox}/api/v1/visits
""")
        while True:
            time.sleep(3600)

    # -- what the steps use --

    def delivery(self, source: str, specimen: str) -> tuple[bytes, dict[str, str]]:
        recorded = find(source, specimen)
        return self._renamed(body_of(recorded)), dict(recorded["headers"])

    def _renamed(self, raw: bytes) -> bytes:
        """With ids of this run: in a Redis that stays, those of the last one would be repeats."""
        for id in (b"INV-OLD-1", b"INV-NEW-2", b"bookUidOld1"):
            raw = raw.replace(id, id + b"-" + self.run.encode())
        return raw.replace(APPOINTMENT.encode(), self.appointment.encode())

    @property
    def appointment(self) -> str:
        """Acuity's ids are numbers."""
        return str(int(self.run, 16) + 1)

    def ring(self, source: str, specimen: str) -> httpx.Response:
        raw, headers = self.delivery(source, specimen)
        return self.post(source, raw, headers)

    def post(self, source: str, raw: bytes, headers: Mapping[str, str], signed_as: bytes = b"") -> httpx.Response:
        """signed_as: what the signature covers, where that is not what is sent."""
        url = f"{self.web}/hooks/{source}"
        headers = signed(source, signed_as or raw, headers, [self.secrets[source]], url)
        return self._http.post(url, content=raw, headers=headers)

    def visits(self) -> list[dict[str, Any]]:
        answer = self._http.get(f"{self.sandbox}/api/v1/visits?limit=100", headers={"Authorization": "Bearer demo"})
        return list(answer.json()["visits"])

    def visit_like(self, external_id: str, **fields: str) -> dict[str, Any] | None:
        """The one visit of that name, once it has these values; None if it never does."""

        def look() -> dict[str, Any] | None:
            found = [visit for visit in self.visits() if visit["external_id"] == external_id]
            return found[0] if len(found) == 1 and fields.items() <= found[0].items() else None

        found: dict[str, Any] | None = wait_until(look, else_=None)
        return found

    def journal(self) -> list[dict[str, Any]]:
        return list(self._http.get(f"{self.sandbox}/_sandbox/journal").json()["journal"])

    def failures(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "app", "failures", "--json"]
        ran = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)
        return [json.loads(line) for line in ran.stdout.splitlines()]


@contextmanager
def process(
    *arguments: str, env: Mapping[str, str] | None = None, log: Any = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours as a process of its own, away from the terminal's Ctrl-C; it ends with the block."""
    running = subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        env={**os.environ, **(env or {})},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def a_tools_api() -> Iterator[str]:
    """What Acuity's own API would answer: the record of the specimen."""
    [record] = specimens("acuity")["deliveries"][0]["records"].values()

    class Records(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(record).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Records)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def wait_until(look: Look, within_s: float = PATIENCE_S, else_: Any = False) -> Any:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if seen := look():
            return seen
        time.sleep(0.05)
    return else_


def say(what: str, how: str) -> None:
    click.echo(f"{what:14} {how}")


def told(answer: httpx.Response) -> str:
    said = answer.json()
    word = said.get("error") or said.get("ignored") or ("repeat" if said.get("repeat") else "accepted")
    return f"{answer.status_code} {word}"


def shown(visit: Mapping[str, Any] | None) -> str:
    if visit is None:
        return "the visit is not as it should be"
    fields = ("time_scheduled", "time_completed", "amount_collected", "date_cancelled")
    values = ", ".join(f"{name} {visit[name]}" for name in fields if visit.get(name))
    return f"visit {visit['id']}, {visit['external_id']}: {values}"
