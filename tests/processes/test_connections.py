"""Connections as in production: real processes and fake tools, which lose webhooks and switch subscriptions off."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.demo.valkey import free_port, valkey
from app.vendors.api import create_vendors, load_vendor, vendor_names
from app.vendors.vendor import Vendor
from app.webhooks.registry import load_sources
from tests.support.harness import Harness, Server, serving, wait_until

#: Tools with a list of appointments. Where there are no subscriptions, a person sets up the webhooks.
EVERY_TOOL = [name for name in vendor_names() if load_sources()[name].listing and load_vendor(name).has_appointments]
#: Of each kind one: records that are fetched, a list each day, whole webhooks, subscriptions that cannot be listed, a secret
#: that the tool chooses, a signed URL. `make connections` tries every tool.
TOOLS = EVERY_TOOL if os.environ.get("EVERY_TOOL") else ["acuity", "calcom", "calendly", "jobber", "savvycal", "square"]
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
SECRET_KEY = "a-key-of-32-characters-for-tests-0"


def hours_ahead(hours: int) -> datetime:
    return NOW + timedelta(hours=hours)


@dataclass
class Tool:
    """A fake tool, and the hook that is connected to it."""

    name: str
    harness: Harness
    url: str
    #: The names in the addresses of customers, by contact id.
    names: dict[str, str] = field(default_factory=dict)

    def control(self, action: str, **arguments: Any) -> Any:
        response = self.harness.http.post(f"{self.url}/{self.name}/_vendor/{action}", json=arguments)
        return response.raise_for_status().json()

    def faults(self, **faults: Any) -> None:
        self.harness.http.put(f"{self.url}/{self.name}/_vendor/faults", json=faults).raise_for_status()

    def book(self, hours: int, email: str) -> int:
        number: int = self.control("book", starts_at=hours_ahead(hours).isoformat(), email=self.email(email))["number"]
        return number

    def email(self, name: str) -> str:
        return f"{name}@{self.name}.example.com"

    def move(self, number: int, hours: int) -> None:
        self.control("move", number=number, starts_at=hours_ahead(hours).isoformat())

    def connect(self, *options: str) -> Any:
        vendor = load_vendor(self.name)
        self.control("register", url=f"{self.harness.env['PUBLIC_URL']}/hooks/{self.name}")
        stdin = "".join(f"{name}={value}\n" for name, value in vendor.values_to_enter.items()).encode()
        api_url = f"{self.url}/{self.name}{vendor.api_path}"
        options = ("--api-url", api_url, "--timezone", "America/New_York", "--no-wait", *options)
        return self.harness.doorbell("connect", self.name, *options, stdin=stdin)

    def state(self) -> dict[str, Any]:
        lines = self.harness.doorbell("connections", "--json").stdout.splitlines()
        return next(row for row in map(json.loads, lines) if row["hook"] == self.name)

    def visits(self) -> dict[str, tuple[str, bool]]:
        """Return the start of each visit, and whether it is cancelled, by the name in its e-mail address."""
        visits: dict[str, tuple[str, bool]] = {}
        for visit in self.harness.visits():
            if visit["external_id"].startswith(f"{self.name}-"):
                if visit["contact_id"] not in self.names:
                    self._load_names()
                name = self.names[visit["contact_id"]]
                assert name not in visits, f"{name} is doubled"
                visits[name] = (visit.get("time_scheduled") or "", bool(visit.get("date_cancelled")))
        return visits

    def _load_names(self) -> None:
        appointments = self.harness.http.get(f"{self.url}/{self.name}/_vendor/appointments").json()
        emails = [appointment["email"] for appointment in appointments]
        contacts = [(email, self.harness.get_from_api(f"/contacts?email={email}")["data"]) for email in emails]
        self.names = {each["id"]: email.partition("@")[0] for email, data in contacts for each in data}

    def wait_for(self, expected: dict[str, tuple[int, bool]], within_s: float = 25) -> None:
        """Wait until the visits are these: by name, hours from now and whether it is cancelled."""
        wanted = {
            name: (f"{hours_ahead(hours):%Y-%m-%dT%H:%M:%SZ}", cancelled)
            for name, (hours, cancelled) in expected.items()
        }
        try:
            wait_until(lambda: self.visits() == wanted, within_s)
        except AssertionError:
            failures = self.harness.doorbell("failures", "--json").stdout
            assert wanted == self.visits(), f"{self.state()}\n{failures}"


@pytest.fixture(scope="module")
def doorbell(redis_url: str, sandbox: Server) -> Iterator[tuple[Harness, str]]:
    """Yield web, worker and fakes of all tools. No hook is in the environment."""
    port = free_port()
    vendors = create_vendors([load_vendor(name) for name in TOOLS])
    with Harness(redis_url, sandbox) as harness, serving(vendors, lifespan="on") as url:
        for name in ("HOOKS__STANDARD__SECRETS", "HOOKS__CALENDLY__SECRETS"):
            del harness.env[name]
        harness.env |= {
            "SECRET_KEY": SECRET_KEY,
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "CONNECTION_CHECK_S": "1",
        }
        harness.start_web(port)
        harness.start_worker()
        yield harness, url


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, doorbell: tuple[Harness, str]) -> Tool:
    harness, url = doorbell
    return Tool(request.param, harness, url)


def test_a_connection_that_the_tool_breaks_loses_nothing(tool: Tool) -> None:
    subscription = load_sources()[tool.name].subscription
    can_ask = subscription is not None and subscription.can_ask
    tool.book(-24 * 40, "past")
    first = tool.book(30, "before")

    assert 0 == tool.connect().returncode
    tool.wait_for({"before": (30, False)})

    second = tool.book(31, "booked")
    tool.wait_for({"before": (30, False), "booked": (31, False)})

    tool.control("disable" if can_ask else "delete")
    tool.move(first, 40)
    tool.control("cancel", number=second)
    tool.book(32, "lost")
    if not can_ask:
        tool.connect()
        assert 0 == tool.harness.doorbell("catch-up", tool.name, "--yes").returncode
    tool.wait_for({"before": (40, False), "booked": (31, True), "lost": (32, False)})
    if can_ask:
        wait_until(lambda: tool.state()["state"] == "healthy")  # the webhooks may have come before the check ends

    tool.faults(drop_every=2)
    for number in range(4):
        tool.book(50 + number, f"dropped{number}")
    tool.faults(drop_every=0)
    assert tool.harness.doorbell("catch-up", tool.name, "--yes").returncode in (0, 5)
    tool.wait_for(
        {"before": (40, False), "booked": (31, True), "lost": (32, False)}
        | {f"dropped{number}": (50 + number, False) for number in range(4)}
    )
    assert "" == tool.harness.doorbell("rejections", "--json", "--hook", tool.name).stdout


def test_a_worker_may_be_killed_between_any_two_calls() -> None:
    """Kill a worker at each request of a repair and its catch-up, in turn: nothing is lost, and nothing is doubled."""
    vendor, port, kills = load_vendor("calendly"), free_port(), 9
    with ExitStack() as stack:
        redis_url, sandbox = stack.enter_context(valkey()), stack.enter_context(Server.sandbox())
        harness = stack.enter_context(Harness(redis_url, sandbox))
        url = stack.enter_context(serving(create_vendors([vendor]), lifespan="on"))
        harness.env |= {"SECRET_KEY": SECRET_KEY, "PUBLIC_URL": f"http://127.0.0.1:{port}", "CONNECTION_CHECK_S": "1"}
        del harness.env["HOOKS__CALENDLY__SECRETS"]
        harness.start_web(port)
        tool = Tool("calendly", harness, url)
        assert 0 == tool.connect().returncode
        for number in range(1, kills + 1):
            tool.control("disable")
            tool.book(30 + number, f"lost{number}")
            assert kill_worker_at(harness, vendor, number)
            harness.redis_command(
                "DEL", "bell:connections:calendly:lock", "bell:catch-up:calendly:lock"
            )  # they expired

        harness.start_worker()
        tool.wait_for({f"lost{number}": (30 + number, False) for number in range(1, kills + 1)}, 60)

    active = [stored for stored in vendor.subscriptions.values() if stored.is_active]
    assert 1 == len(active) == len(vendor.subscriptions)


def kill_worker_at(harness: Harness, vendor: Vendor, number: int) -> bool:
    """Start a worker, and kill it when the tool has executed this request but not answered it. Return whether it came."""
    worker, count = harness.start_worker(), 0

    def kill() -> None:
        nonlocal count
        count += 1
        if count == number:
            worker.kill()

    vendor.before_response = kill
    wait_until(lambda: worker.process.poll() is not None, 20)
    vendor.before_response = lambda: None
    return count >= number
