"""The fakes of the tools that `doorbell demo --all` connects, each with a calendar."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import httpx

from app.demo import valkey
from app.demo.processes import process, wait_until
from app.vendors.api import load_vendor

#: The hook of each tool. Those of Calendly and Cal.com are in the environment; the others are stored.
HOOKS = {
    "calendly": "calendly",
    "calcom": "calcom",
    "acuity": "acuity-east",
    "square": "square",
    "jobber": "jobber",
    "mindbody": "mindbody",
    "savvycal": "savvycal",
}
IN_ENVIRONMENT = ("calendly", "calcom")
CHECK_S = 2


class Tools:
    """Starts the fakes in one process, and controls them over HTTP."""

    def __init__(self, stack: ExitStack, http: httpx.Client) -> None:
        self._http, port = http, valkey.free_port()
        self.url = f"http://127.0.0.1:{port}"
        stack.enter_context(process("vendors", *HOOKS, "--port", str(port)))
        wait_until(lambda: self._is_up())

    def _is_up(self) -> bool:
        try:
            return self._http.get(f"{self.url}/calendly/_vendor/faults").is_success
        except httpx.HTTPError:
            return False

    def settings(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that the hooks in the environment need to be connected."""
        yield "CONNECTION_CHECK_S", str(CHECK_S)
        for source in IN_ENVIRONMENT:
            prefix = f"HOOKS__{source.upper()}"
            yield f"{prefix}__API_URL", self._api_url(source)
            for name, value in load_vendor(source).credentials.items():
                yield f"{prefix}__CREDENTIALS__{name}", value

    def connect_all(self, env: Mapping[str, str]) -> str:
        """Run `doorbell connect` for all tools at once, and return what the commands print."""
        with ThreadPoolExecutor() as executor:
            return "".join(executor.map(lambda source: self._connect(source, env), HOOKS))

    def _connect(self, source: str, env: Mapping[str, str]) -> str:
        arguments = ["connect", source, "--hook", HOOKS[source], "--no-wait"]
        if source not in IN_ENVIRONMENT:
            arguments += ["--api-url", self._api_url(source), "--timezone", "America/New_York"]
        ran = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            env={**os.environ, **env},
            input="".join(f"{name}={value}\n" for name, value in load_vendor(source).values_to_enter.items()),
            capture_output=True,
            text=True,
        )
        return ran.stdout

    def _api_url(self, source: str) -> str:
        return f"{self.url}/{source}{load_vendor(source).api_path}"

    # -- what people and the tool do --

    def book(self, source: str, starts_at: datetime, email: str) -> int:
        number: int = self._act(source, "book", starts_at=starts_at.isoformat(), email=email)["number"]
        return number

    def move(self, source: str, number: int, starts_at: datetime) -> None:
        self._act(source, "move", number=number, starts_at=starts_at.isoformat())

    def disable(self, source: str) -> None:
        self._act(source, "disable")

    def _act(self, source: str, action: str, **arguments: Any) -> dict[str, Any]:
        response = self._http.post(f"{self.url}/{source}/_vendor/{action}", content=json.dumps(arguments))
        return dict(response.raise_for_status().json())

    def statuses(self, source: str) -> list[int]:
        """Return the statuses of the responses to the tool's webhooks."""
        response = self._http.get(f"{self.url}/{source}/_vendor/deliveries")
        return [delivery["status"] for delivery in response.json()]

    def is_subscribed(self, source: str) -> bool:
        response = self._http.get(f"{self.url}/{source}/_vendor/subscriptions")
        return any(subscription["is_active"] for subscription in response.json())
